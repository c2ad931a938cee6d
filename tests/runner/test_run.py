"""The runner, on a temporary project of three small notebooks that need no torch."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import seaplib
from seaplib import paths
from seaplib.runner import checks, manifest, parameters, plan
from seaplib.runner.parameters import PlanError

pytestmark = pytest.mark.unit

WRITE = """import os
from pathlib import Path
directory = Path(os.environ.get('SEAP_FIGURES_DIR', 'figures'), profile)
directory.mkdir(parents=True, exist_ok=True)
def write(name, text, *suffixes):
    for suffix in suffixes:
        (directory / (name + suffix)).write_text(text)"""
TABLE = "write({name!r}, f'method,requested_sparsity,value\\nSEAP,0.5,{{{value}}}\\n', '.csv', '.tex', '.md')"

SURROUNDINGS = """import json, os, sys
Path(os.environ['SEAP_PROVENANCE_FILE']).write_text(json.dumps({'device': 'some device'}))
chosen = [os.environ[name] for name in ('OMP_WAIT_POLICY', 'HF_HUB_OFFLINE', 'HF_DATASETS_OFFLINE')]
chosen.append(str(sys.dont_write_bytecode))
write('table_c', ' '.join([sys.executable, os.getcwd(), *chosen]), '.csv', '.tex', '.md')"""

PROFILES = {
    "small": {"jobs": 2, "offline": True, "parameters": {"samples": 4}, "not_run": "Everything large."},
    "other": {"extends": "small", "notebooks": {"01": {"rounds": 3}}, "skip": ["02"]},
}
NOTEBOOKS = {
    "00_corpora": {"title": "Corpora", "tables": ["table_a"]},
    "01_scores": {"title": "Scores", "tables": ["table_b"], "figures": ["fig_b"], "needs": ["00_corpora"]},
    "02_other": {"title": "Independent", "tables": ["table_c"]},
}


def notebook(parameters: str, *code: str):
    cells = [new_markdown_cell("# A question"), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    for number, source in enumerate((WRITE, *code)):
        cells += [new_markdown_cell(f"## Step {number}"), new_code_cell(source)]
    return new_notebook(cells=cells)


class Project:
    """A project directory, and the command line run in it."""

    def __init__(self, root: Path):
        self.root = root
        (root / "notebooks").mkdir(parents=True)
        common = "profile = 'small'  # where products go\nsamples = 2  # texts"
        self.write("00_corpora", common, TABLE.format(name="table_a", value="samples"))
        read = "before = (directory / 'table_a.csv').read_text()"
        figure = "write('fig_b', before, '.pdf', '.png')"
        more = f"{common}\nrounds = 1  # factor\nmodel = None\ntasks = []\nsparsities = []"
        self.write("01_scores", more, read, TABLE.format(name="table_b", value="samples * rounds"), figure)
        self.write("02_other", "profile = 'small'  # where products go", SURROUNDINGS)
        self.declare(PROFILES, NOTEBOOKS)

    def write(self, name: str, *cells: str) -> None:
        nbformat.write(notebook(*cells), self.root / "notebooks" / f"{name}.ipynb")

    def declare(self, profiles: dict, notebooks: dict) -> None:
        text = yaml.safe_dump({"profiles": profiles, "notebooks": notebooks}, sort_keys=False)
        (self.root / "papermill_runs.yaml").write_text(text)

    @property
    def environment(self) -> dict:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SEAP_")}
        settings = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTHONDONTWRITEBYTECODE": "1"}
        return kept | settings | {"SEAP_ROOT": str(self.root)}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "seaplib", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        options = {"env": self.environment, "cwd": self.root, "capture_output": True, "text": True, "timeout": 120}
        return subprocess.run(self.command(*arguments), **options)

    def statuses(self, *arguments: str, code: int = 0) -> dict[str, str]:
        """Notebook → status, from the table that the run prints."""
        result = self.run("reproduce", *arguments)
        assert result.returncode == code, result.stdout + result.stderr
        lines = [line.split() for line in result.stdout.splitlines()]
        return {line[0]: line[1] for line in lines if line and line[0] in NOTEBOOKS and line[1] != "failed:"}

    def snapshot(self) -> dict[Path, tuple]:
        files = [path for place in ("figures", "data") for path in (self.root / place).rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    def manifest(self, profile: str = "small") -> dict:
        return json.loads((self.root / "figures" / profile / "manifest.json").read_text())["products"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A project that has been run once."""
    project = Project(tmp_path_factory.mktemp("finished") / "project")
    assert project.statuses() == dict.fromkeys(NOTEBOOKS, "done")
    return project.root


@pytest.fixture
def project(finished, tmp_path) -> Project:
    """A copy of it, files with their times, so that a test can change it."""
    shutil.copytree(finished, tmp_path / "project")
    copy = Project.__new__(Project)
    copy.root = tmp_path / "project"
    return copy


def test_products_and_manifest(project):
    products = project.manifest()
    assert set(products) == {"table_a", "table_b", "fig_b", "table_c"}
    for entry in products.values():
        for name, value in entry["files"].items():
            assert hashlib.sha256((project.root / "figures/small" / name).read_bytes()).hexdigest() == value
        assert entry["versions"]["torch"] and entry["source"]
    assert set(products["fig_b"]["files"]) == {"fig_b.pdf", "fig_b.png"}
    assert set(products["table_b"]["files"]) == {"table_b.csv", "table_b.tex", "table_b.md"}
    assert products["table_c"]["device"] == "some device"
    assert products["table_b"]["notebook"] == "01_scores"
    assert products["table_b"]["parameters"] == {
        **{"profile": "small", "samples": 4, "rounds": 1},
        **{"model": None, "tasks": [], "sparsities": []},
    }
    text = (project.root / "figures/small/manifest.json").read_text()
    assert "finished" not in text and str(project.root) not in text
    assert "samples * rounds" in (project.root / "data/runs/small/01_scores.ipynb").read_text()


def test_kernel_is_this_python_in_the_project(finished):
    assert (finished / "figures/small/table_c.csv").read_text() == f"{sys.executable} {finished} passive 1 1 False"


def test_second_run_executes_and_changes_nothing(project):
    before, started = project.snapshot(), time.monotonic()
    assert project.statuses() == dict.fromkeys(NOTEBOOKS, "fresh")
    assert time.monotonic() - started < 10
    after = project.snapshot()
    changed = {path.name for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed <= {".lock"}


def test_what_is_new_says_so_and_where_to_look(project):
    result = project.run("reproduce")
    for expected in ("figures/small/", "executed/small/", "data/runs/small/", "Everything large."):
        assert expected in result.stdout
    (project.root / "figures/small/fig_x.pdf").write_text("by hand")
    assert "fig_x.pdf" in project.run("reproduce").stdout


def test_executed_notebooks_lie_read_only_beside_the_notebooks(project):
    folder = project.root / "executed/small"
    assert {file.name for file in folder.iterdir()} == {f"{name}.ipynb" for name in NOTEBOOKS}
    assert all(file.stat().st_mode & 0o777 == 0o444 for file in folder.iterdir())
    before = (folder / "02_other.ipynb").read_bytes()
    assert before == (project.root / "data/runs/small/02_other.ipynb").read_bytes()
    project.write("02_other", "profile = 'small'", "raise ValueError('a bad number')")
    result = project.run("reproduce")
    assert "executed/small/02_other.ipynb" in result.stdout
    after = folder / "02_other.ipynb"
    assert b"a bad number" in after.read_bytes() and after.stat().st_mode & 0o777 == 0o444


def test_a_place_that_cannot_be_written_fails_no_run(project):
    shutil.rmtree(project.root / "executed")
    (project.root / "executed").write_text("a file")
    result = project.run("reproduce", "--only", "02", "--force")
    assert result.returncode == 0 and "stays in" in result.stderr


def test_a_run_ends_with_the_comparison(project):
    assert "Nothing to compare with" in project.run("reproduce").stdout
    git = ["git", "-C", str(project.root), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "--quiet"], ["add", "figures"], ["commit", "--quiet", "-m", "Tables"]):
        subprocess.run([*git, *arguments], check=True, capture_output=True)
    project.declare(PROFILES, NOTEBOOKS | {"01_scores": NOTEBOOKS["01_scores"] | {"parameters": {"rounds": 5}}})
    said = project.run("reproduce").stdout
    assert "value 4 → 20" in said and said.rstrip().splitlines()[-1].startswith("Of ")


def test_products_of_an_older_layout_are_named_with_the_new_ones(project):
    (project.root / "figures/small/claims_open_questions.csv").write_text("claim_id\n")
    (line,) = (line for line in project.run("reproduce").stdout.splitlines() if "older layout" in line)
    assert "claims_open_questions" in line and "claims_expert_transfer" in line


@pytest.mark.slow
def test_changed_parameter_runs_it_and_what_depends_on_it(project):
    project.declare(PROFILES, NOTEBOOKS | {"01_scores": NOTEBOOKS["01_scores"] | {"parameters": {"rounds": 5}}})
    expected = {"00_corpora": "fresh", "01_scores": "done", "02_other": "fresh"}
    assert "1 of 3 notebooks to execute" in project.run("status").stdout
    assert project.statuses() == expected
    assert ",20" in (project.root / "figures/small/table_b.csv").read_text()
    assert project.manifest()["table_b"]["parameters"]["rounds"] == 5
    project.declare(PROFILES | {"small": PROFILES["small"] | {"notebooks": {"00": {"samples": 9}}}}, NOTEBOOKS)
    assert project.statuses() == {"00_corpora": "done", "01_scores": "done", "02_other": "fresh"}


@pytest.mark.slow
def test_changed_notebook_and_lost_product_run_again(project):
    path = project.root / "notebooks/02_other.ipynb"
    path.write_text(path.read_text().replace("A question", "Another question"))
    (project.root / "figures/small/table_a.md").unlink()
    dry = project.run("reproduce", "--dry-run")
    assert dry.returncode == 0 and "table_a.md is missing" in dry.stdout and "changed: notebook" in dry.stdout
    assert not (project.root / "figures/small/table_a.md").exists()
    # its products come back as they were, so what depends on it need not run
    assert project.statuses() == {"00_corpora": "done", "01_scores": "fresh", "02_other": "done"}


@pytest.mark.slow
def test_only_and_force(project):
    assert project.statuses("--only", "01") == {"00_corpora": "fresh", "01_scores": "fresh"}
    assert project.statuses("--only", "02", "--force") == {"02_other": "done"}


@pytest.mark.slow
def test_profile_that_extends_and_skips(project):
    assert project.statuses("--profile", "other") == {"00_corpora": "done", "01_scores": "done"}
    assert set(project.manifest("other")) == {"table_a", "table_b", "fig_b"}
    assert ",12" in (project.root / "figures/other/table_b.csv").read_text()


@pytest.mark.slow
def test_manifest_keeps_the_seconds_of_the_run_that_made_the_products(project):
    path = project.root / "figures/small/manifest.json"
    first = json.loads(path.read_text())["seconds"]
    assert set(first) == set(NOTEBOOKS) and all(seconds > 0 for seconds in first.values())
    before = path.read_bytes()
    project.statuses("--force", "--only", "00", "01")
    assert path.read_bytes() == before, "the same products again: the manifest stays"
    content = json.loads(before)
    content["seconds"]["01_scores"] = -1.0  # no run takes that: two real ones may take equally long
    path.write_text(json.dumps(content))
    project.declare(PROFILES, NOTEBOOKS | {"01_scores": NOTEBOOKS["01_scores"] | {"parameters": {"rounds": 5}}})
    project.statuses()
    after = json.loads(path.read_text())["seconds"]
    assert after["01_scores"] > 0 and after["02_other"] == first["02_other"]
    project.declare(PROFILES | {"small": PROFILES["small"] | {"skip": ["02"]}}, NOTEBOOKS)
    project.statuses()
    assert set(json.loads(path.read_text())["seconds"]) == {"00_corpora", "01_scores"}


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["gone", "cut short", "a product lost"])
def test_a_damaged_manifest_is_made_whole_again(project, damage):
    """Products of notebooks that are fresh had vanished from it, and status said fresh."""
    path, whole = project.root / "figures" / "small" / "manifest.json", project.manifest()
    if damage == "gone":
        path.unlink()
    elif damage == "cut short":
        path.write_bytes(path.read_bytes()[:100])
    else:
        less = json.loads(path.read_text())
        del less["products"]["table_b"]
        path.write_text(json.dumps(less))
    assert set(project.statuses().values()) == {"fresh"}
    assert project.manifest() == whole


def test_two_runners_that_finish_at_once_lose_no_product(project, monkeypatch):
    """Eleven of twelve did: the manifest was read, changed and written without a lock."""
    monkeypatch.setenv("SEAP_ROOT", str(project.root))
    monkeypatch.delenv("SEAP_FIGURES_DIR")
    (project.root / "figures" / "small" / "manifest.json").unlink()
    read = manifest.read_json

    def slowly(path):
        found = read(path)
        time.sleep(0.3)
        return found

    monkeypatch.setattr(manifest, "read_json", slowly)
    threads = []
    for place in range(2):
        ledger = manifest.Ledger(plan.load("small"))
        ledger.record = {}  # its own runs folder, which knows of no other notebook
        threads.append(threading.Thread(target=ledger.write_manifest, args=(ledger.plan.notebooks[place],)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    owners = {entry["notebook"] for entry in project.manifest().values()}
    assert owners == {notebook.name for notebook in ledger.plan.notebooks[:2]}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["package", "notebook"])
def test_what_changes_while_a_notebook_runs_is_not_fresh(project, what):
    """Edited 14 s into a run, the new version was recorded as what ran."""
    edited = "02_other" if what == "notebook" else "00_corpora"
    file = project.root / "notebooks" / f"{edited}.ipynb"
    if what == "notebook":
        edit = "text.replace('A question', 'Another question')"
    else:
        package = project.root / "package"
        ours = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(seaplib.__file__).parent, package / "seaplib", ignore=ours)
        file, edit = package / "seaplib" / "hub.py", "text + '\\nX = 1\\n'"
    change = f"file = Path({str(file)!r})\ntext = file.read_text()\nfile.write_text({edit})"
    project.write("02_other", "profile = 'small'  # where products go", SURROUNDINGS, change)
    options = {"cwd": project.root, "capture_output": True, "text": True, "timeout": 120}
    environment = project.environment | ({"PYTHONPATH": str(package)} if what == "package" else {})
    done = subprocess.run(project.command("reproduce", "--only", "02"), env=environment, **options)
    assert done.returncode == 0, done.stderr
    assert f"{what} changed while it ran" in done.stderr
    status = subprocess.run(project.command("status"), env=environment, **options).stdout
    assert [line for line in status.splitlines() if "02_other" in line and f"changed: {what}" in line], status


@pytest.mark.parametrize("place", ["SEAP_FIGURES_DIR", "SEAP_STORE_DIR", "SEAP_RUNS_DIR"])
def test_a_place_that_takes_no_file_is_found_before_anything_runs(project, place):
    blocked = project.root / "blocked"
    blocked.write_text("a file where a folder should be")
    options = {"cwd": project.root, "capture_output": True, "text": True, "timeout": 120}
    environment = project.environment | {place: str(blocked / "inside")}
    done = subprocess.run(project.command("reproduce", "--force"), env=environment, **options)
    assert done.returncode == 2 and "cannot be written" in done.stderr and "Traceback" not in done.stderr


def test_a_relative_place_is_the_same_for_runner_and_notebook(project, tmp_path):
    """The runner was started elsewhere: products landed in the project, and the run failed."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = project.environment | {"SEAP_FIGURES_DIR": "mine"}
    options = {"cwd": elsewhere, "capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run(project.command("reproduce", "--force", "--only", "02"), env=environment, **options)
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "mine" / "small" / "table_c.csv").exists()


@pytest.mark.slow
def test_verify_finds_what_is_not_as_it_was_made(project):
    whole = project.run("verify", "--only", "00", "01")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert "4 products are declared; 0 products or files" in whole.stdout and "00_corpora, 01_scores" in whole.stdout
    assert "Of 2 numbers in 2 tables 2 equal" in whole.stdout
    folder = project.root / "figures" / "small"
    (folder / "table_c.md").unlink()
    (folder / "table_b.csv").write_text("method,requested_sparsity,value\nSEAP,0.5,5\n")
    (folder / "stranger.csv").write_text("")
    changed = project.run("verify", "--only", "01")
    assert changed.returncode == 1 and "4 products are declared; 3 products or files" in changed.stdout
    for said in ("table_c.md is missing", "table_b.csv is not what the manifest says", "stranger.csv"):
        assert said in changed.stdout
    assert "value 5 → 4" in changed.stdout
    (folder / "manifest.json").write_text("{")
    assert "the manifest does not know it" in project.run("verify", "--sample", "0").stdout


@pytest.mark.slow
def test_verify_of_notebooks_that_fail_says_so(project):
    project.write("00_corpora", "profile = 'small'\nsamples = 2", "raise ValueError('broken')")
    done = project.run("verify", "--only", "00")
    assert done.returncode == 2 and "broken" in done.stderr and "Traceback" not in done.stderr


def test_product_no_longer_declared_leaves_the_manifest(project):
    project.declare(PROFILES, NOTEBOOKS | {"01_scores": NOTEBOOKS["01_scores"] | {"figures": []}})
    project.statuses()
    assert set(project.manifest()) == {"table_a", "table_b", "table_c"}


def test_failures_stop_only_what_depends_on_them_and_the_next_call_resumes(project):
    path = project.root / "notebooks/00_corpora.ipynb"
    good = path.read_text()
    suicide = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    project.write("00_corpora", "profile = 'small'\nsamples = 2", suicide)
    independent = project.root / "notebooks/02_other.ipynb"
    independent.write_text(independent.read_text().replace("A question", "Another question"))
    result = project.run("reproduce")
    assert result.returncode == 1
    assert "00_corpora failed: the kernel died" in result.stdout and "Step 1" in result.stdout
    assert "01_scores skipped: needs 00_corpora" in result.stdout
    assert "02_other    done" in result.stdout
    status = project.run("status").stdout
    assert "failed" in status and "2 of 3" in status
    path.write_text(good)
    assert project.statuses() == {"00_corpora": "done", "01_scores": "fresh", "02_other": "fresh"}


def test_ways_to_fail(project):
    die = "lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
    late = f"import os, signal\nget_ipython().events.register('post_run_cell', {die})"
    project.write("00_corpora", "profile = 'small'\nsamples = 2", TABLE.format(name="table_a", value="samples"), late)
    project.write("02_other", "profile = 'small'", "write('table_c', 'half', '.csv')", "raise ValueError('too\\nbad')")
    result = project.run("reproduce", "--jobs", "2")
    assert result.returncode == 1
    assert "00_corpora failed: the kernel died" in result.stdout
    assert "02_other failed: ValueError: too bad (in: Step 2)" in result.stdout
    assert "table_c" not in project.manifest(), "the manifest must not list a file that is not what it was"
    project.write("02_other", "profile = 'small'", "write('table_c', 'half', '.csv')")
    assert "did not write table_c.tex, table_c.md" in project.run("reproduce", "--only", "02").stdout


def start_slowly(project: Project) -> tuple[subprocess.Popen, int]:
    """A run whose first notebook waits in its kernel; the runner's process and the kernel's id."""
    wait = "import os, time\nPath('kernel.pid').write_text(str(os.getpid()))\ntime.sleep(60)"
    project.write("00_corpora", "profile = 'small'\nsamples = 2", wait)
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    runner = subprocess.Popen(project.command("reproduce"), env=project.environment, cwd=project.root, **silent)
    note, deadline = project.root / "kernel.pid", time.monotonic() + 60
    while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return runner, int(note.read_text())


def assert_gone(pid: int) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("the kernel is still there")


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_runner_takes_its_kernels_along(project, ending):
    good = (project.root / "notebooks/00_corpora.ipynb").read_text()
    runner, kernel = start_slowly(project)
    busy = project.run("reproduce")
    assert busy.returncode == 2 and "another process" in busy.stderr
    runner.send_signal(ending)
    assert runner.wait(30) == (130 if ending == signal.SIGINT else -signal.SIGKILL)
    assert_gone(kernel)
    (project.root / "notebooks/00_corpora.ipynb").write_text(good)
    assert project.statuses() == dict.fromkeys(NOTEBOOKS, "fresh")


@pytest.mark.slow
def test_killed_kernel_from_outside(project):
    runner, kernel = start_slowly(project)
    os.kill(kernel, signal.SIGKILL)
    assert runner.wait(60) == 1
    assert "the kernel died" in project.run("status").stdout


def llama(directory: Path, **changes) -> str:
    config = {"model_type": "llama", "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
    directory.mkdir()
    config |= {"hidden_size": 64, "intermediate_size": 128} | changes
    (directory / "config.json").write_text(json.dumps(config))
    modules = [f"self_attn.{role}_proj" for role in "qkvo"] + [f"mlp.{role}_proj" for role in ("gate", "up", "down")]
    names = [f"model.layers.{layer}.{module}.weight" for layer in range(4) for module in modules]
    header = json.dumps({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in names}).encode()
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    (directory / "tokenizer.json").write_text("{}")
    return str(directory)


# the problem: (arguments, changes to the profile, changes to notebook 01, what the message names)
BAD_INPUT = {
    "profile": (["--profile", "smal"], {}, {}, "'small'"),
    "notebook": (["--only", "01_score"], {}, {}, "'01_scores'"),
    "notebook in profile": ([], {"skip": ["02_othre"]}, {}, "'02_other'"),
    "profile's parameter": ([], {"parameters": {"sample": 4}}, {}, "'samples'"),
    "notebook's parameter": ([], {}, {"parameters": {"round": 4}}, "'rounds'"),
    "kind of value": ([], {"parameters": {"samples": "many"}}, {}, "samples must be a whole number, got 'many'"),
    "impossible value": ([], {"parameters": {"samples": 0}}, {}, "samples must be at least 1, got 0"),
    "not whole": ([], {"parameters": {"samples": 2.5}}, {}, "samples must be a whole number, got 2.5"),
    "whole as 8.0": ([], {"parameters": {"samples": 8.0}}, {}, "samples must be a whole number, got 8.0"),
    "true as 1": ([], {"parameters": {"samples": True}}, {}, "samples must be a whole number, got True"),
    "null": ([], {"parameters": {"samples": None}}, {}, "samples must not be null"),
    "empty": ([], {"parameters": {"tasks": []}}, {}, "tasks must not be empty"),
    "list of texts": (
        [],
        {"parameters": {"sparsities": ["half"]}},
        {},
        "sparsities must be a number, got 'half'",
    ),
    "key": ([], {"job": 2}, {}, "'jobs'"),
    "jobs": (["--jobs", "0"], {}, {}, "jobs must be at least 1, got 0"),
    "profile's jobs": ([], {"jobs": 0}, {}, "jobs must be at least 1, got 0"),
    "need": ([], {}, {"needs": ["00_corpus"]}, "'00_corpora'"),
    "circle": ([], {}, {"needs": ["01_scores"]}, "01_scores → 01_scores"),
    "product": ([], {}, {"tables": ["table_a"]}, "'table_a'"),
    "extends": ([], {"extends": "othr"}, {}, "'other'"),
    "task": ([], {"parameters": {"tasks": ["mini_piqqa"]}}, {}, "'mini_piqa'"),
    "lm-eval's task": ([], {"parameters": {"tasks": ["sciqq"]}}, {}, "'sciq'"),
    "group of tasks": ([], {"parameters": {"tasks": ["blimp"]}}, {}, "blimp_adjunct_island"),
    "no data": ([], {"parameters": {"tasks": ["piqa"]}}, {}, "SEAP_DATA_DIR"),
    "corpus": ([], {"parameters": {"tasks": ["mine.parquet"]}}, {}, "mine.parquet"),
    "plain text": ([], {"parameters": {"tasks": ["mini_wikitext"]}}, {}, "mini_wikitext"),
    "sparsity": ([], {"parameters": {"sparsities": [0.2, 1.0]}}, {}, "sparsity must lie in [0, 1), got 1.0"),
    "reach": ([], {"parameters": {"model": "{tiny}", "sparsities": [0.2, 0.6]}}, {}, "0.6"),
    "model": ([], {"parameters": {"model": "{tiny}/nowhere"}}, {}, "/nowhere'"),
    "architecture": ([], {"parameters": {"model": "{gpt}"}}, {}, "'gpt_neo'"),
    "extends a list": ([], {"extends": ["other"]}, {}, "extends must be a text, got ['other']"),
    "twice": ([], {"parameters": {"sparsities": [0.2, 0.2]}}, {}, "sparsities names 0.2 twice"),
    "yes or no": ([], {"offline": "no"}, {}, "offline must be true or false, got 'no'"),
    "older notebook": (["--only", "13_open_questions"], {}, {}, "13_expert_transfer, 14_expert_or_general"),
    "older notebook, skipped": ([], {"skip": ["13_open_questions"]}, {}, "13_expert_transfer, 14_expert_or_general"),
    "older product": ([], {}, {"tables": ["claims_routing"]}, "claims_routing_experts"),
    "number as product": ([], {}, {"tables": [1]}, "each of tables must be a text, got 1"),
    "product elsewhere": ([], {}, {"tables": ["../x"]}, "'../x'"),
    "list as product": ([], {}, {"figures": [["a"]]}, "each of figures must be a text, got ['a']"),
    "text as list": ([], {"skip": "02"}, {}, "skip must be a list, got '02'"),
    "name that is no id": ([], {"parameters": {"model": "my model"}}, {}, "there is no model 'my model'"),
    "two lines": ([], {"parameters": {"model": "a\nb"}}, {}, "there is no model"),
    "home of nobody": ([], {"parameters": {"model": "~nobody-here/x"}}, {}, "there is no model '~nobody-here/x'"),
    "long name": ([], {"parameters": {"model": "m" * 300}}, {}, "there is no model"),
    "no name": ([], {"parameters": {"model": ""}}, {}, "there is no model ''"),
}


@pytest.fixture
def main(project, monkeypatch, capsys):
    """The command line in this process: arguments → (exit status, standard error)."""
    from seaplib import __main__

    for name in [name for name in os.environ if name.startswith("SEAP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SEAP_ROOT", str(project.root))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return lambda *arguments: (__main__.main(list(arguments)), capsys.readouterr().err)


BAD_MODEL = {
    "empty weights": ("model.safetensors", b"", "model.safetensors"),
    "pointer": ("model.safetensors", b"version https://git-lfs", "model.safetensors"),
    "truncated": ("model.safetensors", -1, "bytes instead of"),
    "no shard": ("model.safetensors.index.json", b'{"weight_map": {"w": "2.safetensors"}}', "2.safetensors"),
    "no tokenizer": ("tokenizer.json", None, "tokenizer.json"),
    "pruned": ({"model_type": "llama_pruned__import_seaplib_to_load"}, "already pruned"),
    "other weights": ({"num_hidden_layers": 5}, "layers.4.self_attn"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers must be a whole number from 1, got 0"),
    "heads": ({"num_attention_heads": None}, "num_attention_heads"),
    "groups": ({"num_key_value_heads": 3}, "num_key_value_heads"),
    "head size": ({"hidden_size": 66}, "hidden_size"),
    "width": ({"hidden_size": "64"}, "hidden_size must be a whole number from 1, got '64'"),
    "not text": ("config.json", b"\xff\xfe", "config.json"),
}


@pytest.mark.parametrize("what", BAD_MODEL)
def test_damaged_model_is_one_line(project, main, what):
    *damage, message = BAD_MODEL[what]
    model = llama(project.root / "tiny", **(damage[0] if isinstance(damage[0], dict) else {}))
    if len(damage) == 2:
        file, content = Path(model, damage[0]), damage[1]
        if what == "no shard":
            Path(model, "model.safetensors").unlink()  # which would be read, whatever an index says
        if content is None:
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:content] if isinstance(content, int) else content)
    project.declare(PROFILES | {"small": PROFILES["small"] | {"parameters": {"model": model}}}, NOTEBOOKS)
    status, error = main("reproduce", "--dry-run")
    assert status == 2 and message in error and error.count("\n") == 1


BAD_VALUES = [
    ("seeds", [-1], "seed must be at least 0, got -1"),
    ("items", 0, "items must be at least 1 .*, got 0"),
    ("prompts_per_class", 5, "prompts_per_class must be at least 10, got 5"),
    ("ratios", [0.5, 1.5], r"ratios must lie in \[0, 1\], got 1.5"),
    ("ratios", ["half"], "ratios must be a number, got 'half'"),
    ("remove_ratio", 1.5, "remove_ratio must lie .* 1.5"),
    ("test_share", 1.0, r"test_share must lie in \(0, 1\), got 1.0"),
    ("presets", ["flap12"], "presets: .*'flap128'"),
    ("published_table", "table1_zeroshot", "published_table: .*'table1_zero_shot'"),
    ("other_methods", ["2SSP", "ShortGTP"], "other_methods: .*'ShortGPT'"),
    ("part_texts", 0, "part_texts must be at least 1, got 0"),
    ("x0", float("nan"), "x0 .*nan"),
    ("x0_grid", [float("nan")], "x0 .*nan"),
    ("k", 1000.0, "k=1000.0"),
    ("unprotected_sparsities", [1.0], "unprotected_sparsities: .* 1.0"),
    ("tasks", ["piqa", "boolq", "piqa"], "tasks names 'piqa' twice"),
    ("tasks", [], "tasks must not be empty"),
    ("variations", 1, "variations must be true or false, got 1"),
    ("coverage", True, "coverage must be a number, got True"),
    ("coverage", 0, "coverage must lie in .*, got 0"),
    ("product_shapes", [[4096]], "product_shapes"),
    ("scale", 1, "'scale'"),
]


@pytest.mark.parametrize("name, value, message", BAD_VALUES)
def test_impossible_values_are_refused_in_one_line(name, value, message):
    with pytest.raises(PlanError, match=f"^here: .*{message}") as raised:
        parameters.check("here", {name: value})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "possible",
    [{"items": None}, {"window_tokens": None}, {"other_methods": []}, {"other_general": []}, {"other_models": []},
     {"x0": 1}, {"ratios": [0, 1]}, {"seeds": [0]}, {"layers": None}, {"unprotected_sparsities": []}],
)  # fmt: skip
def test_possible_values_pass(possible):
    parameters.check("here", possible)


@pytest.mark.parametrize(
    ("given", "found"), [({"sparsities": [0.2, 0.5]}, [0.2, 0.5]), ({"sparsity": 0.5}, [0.5]), ({"sparsities": []}, [])]
)
def test_a_notebook_has_several_sparsities_or_one(given, found):
    assert parameters.sparsities_of(given) == found


@pytest.mark.parametrize(
    ("together", "named"),
    [
        ({"presets": ["2048"], "claims_preset": "paper"}, "'paper'"),
        ({"compiled": True, "cache": "dynamic"}, "cache: static"),
        ({"overlap_needed": 0.9, "seeds": [0]}, "0"),
    ],
)
def test_values_that_are_possible_alone_but_not_beside_each_other(together, named):
    with pytest.raises(PlanError, match=named):
        parameters.check("here", together)


FIELDS = {field.name for group in parameters.GROUPS for field in dataclasses.fields(group)}


def test_every_parameter_of_every_notebook_is_declared_and_every_declaration_is_used():
    own = {file.stem: plan.read_parameters(file.stem) for file in sorted(paths.notebooks_dir().glob("*.ipynb"))}
    for name, values in own.items():
        parameters.check(name, values)
    declared, used = set(parameters.DECLARED) - FIELDS, {name for values in own.values() for name in values}
    assert declared <= used


def test_a_field_of_the_settings_is_a_parameter_and_checked_by_that_field():
    assert FIELDS >= {"samples", "seed", "score", "mode", "items", "x0", "k", "kv_unit", "protect_last", "coverage"}
    for name in FIELDS:
        with pytest.raises(PlanError, match=name):
            parameters.check("here", {name: {"of": "no kind"}})


def test_further_models_are_looked_for_before_anything_runs():
    with pytest.raises(PlanError, match="smoke, 08_perplexity: .*'./nowhere'"):
        checks.check(asking(other_models=["./nowhere"]))


def test_other_methods_are_those_of_the_package():
    from seaplib import models
    from seaplib.pruning import methods
    from seaplib.pruning.baselines import griffin

    names = {method.name for method in (*methods.DEPTH, methods.FUSED_F)}
    shape = models.Geometry(2, 8, 2, 2, 4, 16, model_parameters=1000)
    assert set(parameters.OTHER_METHODS) == names | {griffin.Griffin(shape, 0.2).label["method"]}


def test_the_kind_of_task_that_a_parameter_names():
    named = parameters.named_tasks({"tasks": ["a", "b"], "first_task": "c", "general": "d", "class_tasks": ["e"]})
    assert named == [("a", "scored"), ("b", "scored"), ("c", "scored"), ("d", "any"), ("e", "any")]
    read = {"presets": ["2048"], "general": "d"}
    assert parameters.named_tasks(read | {"text_task": None}) == [("d", "plain")]
    # then the general text may be C4, which has no test
    assert parameters.named_tasks(read | {"text_task": "e"}) == [("d", "any"), ("e", "plain")]


def asking(**values):
    """The smoke profile's notebook 08 alone, with other values."""
    smoke = plan.load("smoke")
    (notebook,) = (notebook for notebook in smoke.notebooks if notebook.name.startswith("08"))
    changed = dataclasses.replace(notebook, parameters=notebook.parameters | values)
    return dataclasses.replace(smoke, notebooks=(changed,))


def test_perplexity_needs_running_text(monkeypatch):
    monkeypatch.delenv("SEAP_DATA_DIR", raising=False)
    checks.check(asking())
    for text in ("c4", "mini_piqa"):
        with pytest.raises(PlanError, match=f"{text} .*mini_wikitext"):
            checks.check(asking(text_task=text))


@pytest.mark.parametrize("what", BAD_INPUT)
def test_bad_input_is_one_line_and_touches_nothing(project, main, what):
    arguments, profile, second, message = BAD_INPUT[what]
    made = {"{tiny}": llama(project.root / "tiny"), "{gpt}": llama(project.root / "gpt", model_type="gpt_neo")}
    text = json.dumps(PROFILES | {"small": PROFILES["small"] | profile})
    for name, path in made.items():
        text = text.replace(name, path)
    project.declare(json.loads(text), NOTEBOOKS | {"01_scores": NOTEBOOKS["01_scores"] | second})
    before = project.snapshot()
    status, error = main("reproduce", "--force", *arguments)
    assert status == 2
    assert message in error and error.startswith("seaplib: ") and error.count("\n") == 1
    assert project.snapshot() == before


def test_a_notebook_of_an_older_layout_is_refused_with_the_new_names(project, main):
    project.declare(PROFILES, NOTEBOOKS | {"13_open_questions": {}})
    status, error = main("reproduce")
    assert status == 2 and "13_expert_transfer" in error and error.count("\n") == 1


def test_missing_or_broken_files(project, main, monkeypatch):
    monkeypatch.setenv("SEAP_DATA_DIR", str(project.root / "nowhere"))
    assert main("reproduce") == (2, f"seaplib: the data directory {project.root / 'nowhere'} does not exist; "
                                    "correct or unset SEAP_DATA_DIR\n")  # fmt: skip
    monkeypatch.delenv("SEAP_DATA_DIR")
    path = project.root / "notebooks/02_other.ipynb"
    path.write_text(path.read_text().replace("'small'  #", "str(1)  #"))
    assert "only lines 'name = literal'" in main("reproduce")[1]
    path.write_text("{")
    assert "02_other.ipynb is not a notebook" in main("reproduce")[1]
    path.unlink()
    assert "there is no file notebooks/02_other.ipynb" in main("reproduce")[1]
    (project.root / "papermill_runs.yaml").write_text("profiles: [")
    assert "not valid YAML" in main("reproduce")[1]
    (project.root / "papermill_runs.yaml").write_text("profiles:\n  a: {jobs: 1}\n  a: {jobs: 2}\n")
    assert "the key 'a' stands twice" in main("reproduce")[1]
    for content in (
        b"profiles: {a: {jobs: 0x_}}",
        b"# caf\xe9",
        b"profiles: {a: {description: 2024-13-45}}",
        b"[" * 3000,
    ):
        (project.root / "papermill_runs.yaml").write_bytes(content)
        assert "not valid YAML" in main("reproduce")[1]
    (project.root / "papermill_runs.yaml").write_text("profiles: {../x: {jobs: 1}}\n")
    assert "'../x' is no name" in main("reproduce")[1]
    bomb = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    for name, before in zip("bcdefg", "abcdef", strict=True):
        bomb += f"{name}: &{name} [{', '.join(10 * ['*' + before])}]\n"
    (project.root / "papermill_runs.yaml").write_text(bomb + "profiles: {a: {parameters: {tasks: *g}}}\n")
    assert "through its aliases" in main("reproduce")[1]
    (project.root / "papermill_runs.yaml").write_text("profiles: {a: {parameters: &p {tasks: *p}}}\n")
    assert "recursive" in main("reproduce")[1]
    twice = PROFILES["small"] | {"notebooks": {"01": {"rounds": 3}, "01_scores": {"rounds": 4}}}
    project.declare({"small": twice}, NOTEBOOKS)
    assert "01_scores stands twice" in main("reproduce")[1]
    (project.root / "papermill_runs.yaml").write_text("profiles: {7: {jobs: 1}}\n")
    assert "put 7 in quotes" in main("reproduce")[1]


def test_reachable_sparsity_and_small_model_pass(project, main):
    parameters = {"model": llama(project.root / "tiny"), "sparsities": [0.2], "samples": 4}
    project.declare(PROFILES | {"small": PROFILES["small"] | {"parameters": parameters}}, NOTEBOOKS)
    assert main("status") == (0, "")


DAMAGE = {"columns": "goal", "rows": "no rows", "file": "train.parquet", "name": "train.parquet"}
DAMAGE |= {"shard": "1 of the 2 files"}
DAMAGE |= {"bytes": "train.parquet", "nothing": "train.parquet"}


@pytest.mark.parametrize("damage, message", DAMAGE.items())
def test_local_data_is_looked_at(project, main, monkeypatch, damage, message):
    folder = project.root / "local/piqa"
    folder.mkdir(parents=True)
    frame = pd.DataFrame({"goal": ["g"], "sol1": ["a"], "sol2": ["b"], "label": [0]})
    for split in ("train", "validation"):
        frame.to_parquet(folder / f"{split}.parquet")
    monkeypatch.setenv("SEAP_DATA_DIR", str(folder.parent))
    changed = PROFILES["small"] | {"parameters": {"tasks": ["piqa"]}}
    project.declare(PROFILES | {"small": changed}, NOTEBOOKS)
    assert main("status") == (0, "")
    if damage == "name":  # neither the split nor a shard of it
        (folder / "train.parquet").rename(folder / "train_old.parquet")
    elif damage == "shard":
        (folder / "train.parquet").rename(folder / "train-00000-of-00002.parquet")
    elif damage == "file":
        (folder / "train.parquet").unlink()
    elif damage in ("bytes", "nothing"):
        whole = (folder / "train.parquet").read_bytes()
        (folder / "train.parquet").write_bytes(whole[: len(whole) // 2] if damage == "bytes" else b"")
    else:
        (frame.drop(columns="goal") if damage == "columns" else frame[:0]).to_parquet(folder / "train.parquet")
    status, error = main("reproduce")
    assert status == 2 and message in error


LOOK_AT_IMPORTS = """
import sys
sys.argv, sys.orig_argv = ["-m"], ["-m", "seaplib"]  # what a package sees while python -m imports it
from seaplib.__main__ import main
status = main(["reproduce"])
heavy = {"torch", "transformers", "lm_eval", "papermill", "matplotlib", "scipy"}
print(status, sorted((heavy | {"seaplib.runner.run"}) & set(sys.modules)))
"""


def test_nothing_to_do_imports_no_torch(project):
    options = {"env": project.environment, "cwd": project.root, "capture_output": True, "text": True, "check": True}
    output = subprocess.run([sys.executable, "-c", LOOK_AT_IMPORTS], **options).stdout
    assert output.splitlines()[-1] == "0 ['seaplib.runner.run']"


def test_same_architectures_as_the_package():
    from seaplib import models

    assert set(models.PRUNED_TYPES) == {f"{kind}_pruned__import_seaplib_to_load" for kind in models.ARCHITECTURES}


def test_load_results_has_profile_and_table(project, monkeypatch):
    from seaplib.reports import tables

    monkeypatch.setenv("SEAP_ROOT", str(project.root))
    monkeypatch.delenv("SEAP_FIGURES_DIR")
    results = tables.load_results()
    assert list(results.columns[:2]) == ["profile", "table"]
    assert set(results["table"]) == {"table_a", "table_b"} and set(results["profile"]) == {"small"}
    assert results.loc[results["table"] == "table_b", "value"].tolist() == [4]


def test_provenance_names_versions_and_source():
    from seaplib.runner import manifest

    shown = manifest.provenance(profile="small", model="bundled", notebook="01_scores")
    assert "torch" in shown["libraries"] and manifest.source_hash()[:12] in shown["package"] and shown["device"]


def test_provenance_is_shown_whole():
    from IPython.core.formatters import format_display_data

    from seaplib.runner import manifest

    long = "a word " * 60
    shown = manifest.Provenance({"notebook": "01_scores", "libraries": f"{long}<1>"})
    data, _ = format_display_data(shown)
    assert f"{long}<1>" in data["text/plain"] and f"{long}&lt;1&gt;" in data["text/html"]
