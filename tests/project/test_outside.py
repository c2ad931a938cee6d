"""An install outside the clone: the wheel brings model, data and notebooks along, and writes where one works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from seaplib import __main__, paths
from seaplib.commands import init

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import seaplib
from seaplib import paths

model, tokenizer = seaplib.load("bundled")
stats = seaplib.collect(model, tokenizer, seaplib.corpus("mini_piqa", samples=8))
mask = seaplib.select(seaplib.score(stats, "s_F"), sparsity=seaplib.logistic(0.5))
pruned = seaplib.prune(model, mask, mode="remove")
results = seaplib.evaluate(pruned, tokenizer, tasks=["mini_piqa"], settings=seaplib.Evaluation(items=8))
seaplib.save_pretrained(pruned, tokenizer, "pruned-model")
print("SAID", seaplib.__file__, len(results), paths.root(), paths.published_dir().is_dir(), paths.store_dir())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> tuple[Path, dict]:
    """The folder that the wheel is installed in, and the environment of a Python that finds it before the clone."""
    place = tmp_path_factory.mktemp("outside")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(place), str(ROOT)]
    for command in (build, ["install", "--no-deps", "--no-index", "--target", str(place / "site")]):
        wheels = [str(wheel) for wheel in place.glob("*.whl")]
        done = subprocess.run([*pip, *command, *wheels], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SEAP_")}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return place / "site", kept | offline | {"PYTHONPATH": str(place / "site"), "PYTHONDONTWRITEBYTECODE": "1"}


def python(installed, folder: Path, *arguments: str) -> str:
    """The output of a Python that is started in a folder; the installed package is as it was."""
    site, environment = installed
    before = {file for file in site.rglob("*")}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {file for file in site.rglob("*")} == before, "something was written beside the installed package"
    return done.stdout


@pytest.mark.slow
def test_the_shortest_program_runs_on_what_the_wheel_brings(installed, tmp_path):
    here = tmp_path / "empty"
    here.mkdir()
    said = python(installed, here, "-c", PROGRAM).rsplit("SAID ", 1)[1].split()
    package = installed[0] / "seaplib"
    assert said == [str(package / "__init__.py"), said[1], str(here), "True", str(here / "data" / "store")]
    assert int(said[1]) > 0 and (here / "pruned-model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_workbench_of_ones_own_runs_a_notebook(installed, tmp_path):
    python(installed, tmp_path, "-m", "seaplib", "init", "mine")
    mine = tmp_path / "mine"
    output = python(installed, mine, "-m", "seaplib", "reproduce", "--profile", "smoke", "--only", "00")
    assert "done" in output
    assert (mine / "figures/smoke/corpus_statistics.csv").is_file() and (mine / "data/runs/smoke").is_dir()
    assert not (mine / "data/bundled").exists(), "the bundled data stay with the package"


# --- init in the checkout


@pytest.mark.unit
def test_init_unpacks_notebooks_and_profiles(tmp_path, capsys):
    folder = tmp_path / "a" / "b"
    assert __main__.main(["init", str(folder)]) == 0
    assert str(folder) in capsys.readouterr().out
    assert {file.name for file in folder.iterdir()} == {*init.PARTS, *init.FOLDERS, "README.md"}
    for file in (*paths.notebooks_dir().glob("*.ipynb"), paths.root() / "papermill_runs.yaml"):
        assert (folder / file.relative_to(paths.root())).read_bytes() == file.read_bytes()
    assert "embedded" in yaml.safe_load((folder / "papermill_runs.yaml").read_text("utf-8"))["profiles"]


@pytest.mark.unit
@pytest.mark.parametrize("name", [*init.PARTS, *init.FOLDERS, "README.md"])
def test_init_overwrites_nothing(tmp_path, capsys, name):
    (tmp_path / name).write_text("mine")
    assert __main__.main(["init", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path) in line and name in line
    assert [file.name for file in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "mine"


@pytest.mark.unit
def test_init_into_a_file_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        assert __main__.main(["init", str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(folder) in line
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.unit
def test_data_of_the_projects_own_come_before_those_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv("SEAP_ROOT", str(tmp_path))
    shipped = paths.shipped() / "data"
    assert paths.root() == tmp_path
    assert (paths.bundled_dir(), paths.published_dir()) == (shipped / "bundled", shipped / "published")
    (tmp_path / "data" / "published").mkdir(parents=True)
    assert (paths.bundled_dir(), paths.published_dir()) == (shipped / "bundled", tmp_path / "data" / "published")


@pytest.mark.unit
def test_the_project_is_the_nearest_folder_with_profiles(tmp_path, monkeypatch):
    monkeypatch.delenv("SEAP_ROOT", raising=False)
    checkout = paths.root()
    (tmp_path / "mine" / "notebooks").mkdir(parents=True)
    (tmp_path / "mine" / "papermill_runs.yaml").touch()
    for inside in (tmp_path / "mine", tmp_path / "mine" / "notebooks"):
        monkeypatch.chdir(inside)
        assert paths.root() == tmp_path / "mine"
    monkeypatch.chdir(tmp_path)
    assert paths.root() == checkout, "with nothing around, the package's own"
