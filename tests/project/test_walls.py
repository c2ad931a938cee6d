"""Who may import whom (``tool.importlinter`` in pyproject.toml), who names modules, how long a file may be."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import seaplib

pytestmark = pytest.mark.unit

PACKAGE = Path(seaplib.__file__).parent
ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(file for file in PACKAGE.rglob("*.py") if "workbench" not in file.parts)
LINES, MODULES_A_FOLDER = 400, 10

#: Contract → (module, an import that must not stand there).
FORBIDDEN = {
    "layers, upwards": ("layers", "activations/statistics.py", "from ..pruning import masks"),
    "layers, sideways": ("layers", "input_sparsity/rule.py", "from ..evaluation import bootstrap"),
    "layers, from the bottom": ("layers", "paths.py", "from . import store"),
    "layers, inside a function": ("layers", "texts/words.py", "def f():\n    from ..models import layers"),
    "lm-eval": ("lm-eval", "evaluation/accuracy.py", "import lm_eval.api.task"),
    "reports, torch": ("reports", "reports/tables.py", "import torch"),
    "reports, a model": ("reports", "reports/claims.py", "from ..models import layers"),
    "reports, by a detour": ("reports", "evaluation/bootstrap.py", "import torch"),
}


def lint(folder: Path, *options: str) -> subprocess.CompletedProcess:
    """import-linter on the package and the pyproject.toml in a folder."""
    code = "from importlinter.cli import lint_imports_command as run; run()"
    command = [sys.executable, "-c", code, "--no-cache", "--no-logo", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_all_walls_stand():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("walls")
    shutil.copytree(PACKAGE, folder / "seaplib", ignore=shutil.ignore_patterns("__pycache__", "workbench"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.mark.parametrize("what", FORBIDDEN)
def test_a_forbidden_import_breaks_its_contract(copy, what):
    contract, module, line = FORBIDDEN[what]
    file = copy / "seaplib" / module
    text = file.read_text("utf-8")
    try:
        file.write_text(f"{text}\n{line}\n", "utf-8")
        done = lint(copy, "--contract", contract)
    finally:
        file.write_text(text, "utf-8")
    name = "seaplib." + module.removesuffix(".py").replace("/", ".")
    assert done.returncode == 1 and "1 broken" in done.stdout and f"{name} ->" in done.stdout, done.stdout + done.stderr


def test_a_room_without_a_place_breaks_the_layers(copy):
    file = copy / "seaplib" / "attic.py"
    try:
        file.write_text("", "utf-8")
        done = lint(copy, "--contract", "layers")
    finally:
        file.unlink()
    assert done.returncode == 1 and "seaplib.attic" in done.stdout, done.stdout + done.stderr


def named_modules(text: str) -> list[str]:
    """Names of the modules of a transformer's layer, as an architecture's code spells them."""
    names = r"\b(?:self_attn|[qkvo]_proj|(?:gate|up|down|qkv|out|gate_up)_proj|c_attn|c_fc|embed_tokens|lm_head)\b"
    return re.findall(names, text)


def test_only_the_architectures_name_modules():
    named = {file.relative_to(PACKAGE).as_posix(): named_modules(file.read_text("utf-8")) for file in MODULES}
    assert [name for name, found in named.items() if found] == ["models/architectures.py"], named


PLANNING = (
    "settings",
    "models.files",
    "models.architectures",
    "models.shapes",
    "texts.tasks",
    "texts.rows",
    "pruning.allocation",
    "input_sparsity.rule",
    "runner.plan",
    "runner.checks",
    "runner.run",
    "commands",
)


def test_a_plan_imports_no_torch():
    """``-m`` is how Python starts the runner; other programs get the classes of pruned checkpoints registered."""
    code = "import importlib, sys; sys.argv, sys.orig_argv = ['-m'], ['-m', 'seaplib']\n"
    code += "for name in {}: importlib.import_module('seaplib.' + name)\n"
    code = code.format(PLANNING) + "print({'torch', 'transformers', 'lm_eval', 'datasets'} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


def test_files_and_folders_stay_short():
    lines = {file.relative_to(PACKAGE).as_posix(): len(file.read_text("utf-8").splitlines()) for file in MODULES}
    assert {name: count for name, count in lines.items() if count > LINES} == {}
    folders = {file.parent: 0 for file in MODULES}
    for file in MODULES:
        folders[file.parent] += file.name not in ("__init__.py", "__main__.py")
    assert {str(folder): count for folder, count in folders.items() if count > MODULES_A_FOLDER} == {}
