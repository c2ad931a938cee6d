"""Results are filed under the code that ran: the maker's module and what it imports, as read at import."""

import ast
import shutil
import subprocess
import sys
import textwrap
from functools import partial

import pytest

from seaplib import paths, source
from seaplib.evaluation import accuracy
from seaplib.pruning.apply import Variant
from seaplib.reports import tables

pytestmark = pytest.mark.unit


def test_a_maker_brings_the_modules_it_imports_and_no_others():
    found = source.reached(frozenset(["seaplib.activations.statistics"]))
    assert {"seaplib.activations.capture", "seaplib.models.passes", "seaplib.texts.tasks"} <= set(found)
    rooms = {module.split(".")[1] for module in found}
    assert not rooms & {
        "reports",
        "runner",
        "studies",
        "pruning",
        "evaluation",
        "experts",
        "paths",
        "settings",
        "store",
    }
    code, libraries = source.described(["seaplib.activations.hidden_states"])
    assert {"umap-learn", "scikit-learn", "torch"} <= set(libraries)
    assert "umap-learn" not in source.described(["seaplib.activations.statistics"])[1]


def test_makers_are_found_behind_partials_methods_and_objects():
    variant = object.__new__(Variant)
    assert source.makers(partial(accuracy.evaluate_items, None)) == ["seaplib.evaluation.accuracy"]
    assert source.makers(variant.apply) == source.makers(variant) == source.makers(Variant) == ["seaplib.pruning.apply"]
    assert source.makers(None, 3) == []
    assert set(source.makers(lambda: None)) == set(source.FILES), "a notebook's own function may call anything"


def test_comments_and_docstrings_are_not_code():
    plain = source.code("def f(x):\n    return 2 * x  # doubled")
    assert source.code('"""Old."""\ndef f(x):\n    """Twice."""\n    return 2 * x') == plain
    assert source.code("def f(x):\n    return 3 * x") != plain


def test_every_import_of_the_package_is_followed():
    """A room's face stands for the whole room, a module for itself."""
    assert source._ours("seaplib.models", "layers") == {"seaplib.models.layers"}
    assert "seaplib.pruning.masks" in source._ours("seaplib.pruning", "PruningMask")
    for module in source.FILES:
        assert not {name for name in source.imports(module) if name.startswith("seaplib.")} - set(source.FILES)


KERNEL = """
import sys, warnings
sys.argv, sys.orig_argv = ["-m"], ["-m", "seaplib"]  # the package without its models
from pathlib import Path
sys.path.insert(0, {place!r})
import seaplib
from seaplib import source, store
from seaplib.texts import words
import pandas as pd
assert Path(seaplib.__file__).is_relative_to({place!r})
{before}
file = Path(words.__file__)
file.write_text(file.read_text("utf-8").replace({old!r}, {new!r}), "utf-8")
{after}
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for _ in range(2):
        found = store.fetch("frames", {{}}, words_of, pd.DataFrame)
print(len(list(store.paths.store_dir().rglob("spec.json"))), sum("restart" in str(w.message) for w in said))
print(" ".join(found["words"]))
"""
MAKER = """
def words_of():
    return pd.DataFrame({"words": words.words("Hang IT up")})
words_of.__module__ = "seaplib.texts.words"
"""
FIRST = "store.fetch('frames', {'first': 1}, words_of, pd.DataFrame)"
UPPER = ("word.lower() for", "word.upper() for")


@pytest.mark.parametrize(
    ("before", "edit", "after", "stored", "warned"),
    [
        ("", UPPER, "", 0, 1),  # edited before anything was stored: which version runs is not known
        (FIRST, UPPER, "", 2, 1),  # known to run as it was imported
        ("", ("in order, lower-cased", "in order"), "", 1, 0),  # a docstring
        (FIRST, UPPER, "import importlib; importlib.reload(words)", 1, 1),
        # judged while the edit stands, and the edit taken back: the module in memory is the same
        (
            "text = Path(words.__file__).read_text()",
            UPPER,
            "source.runs([words.__name__]); file.write_text(text)",
            0,
            0,
        ),
    ],
)
def test_a_result_is_never_filed_under_code_that_did_not_run(tmp_path, before, edit, after, stored, warned):
    shutil.copytree(source.PACKAGE, tmp_path / "here" / "seaplib", ignore=shutil.ignore_patterns("__pycache__"))
    place, (old, new) = str(tmp_path / "here"), edit
    assert old in (tmp_path / "here" / "seaplib" / "texts" / "words.py").read_text("utf-8")
    script = KERNEL.format(place=place, before=MAKER + before, old=old, new=new, after=after)
    places = {"SEAP_STORE_DIR": str(tmp_path / "store"), "SEAP_ROOT": str(paths.root()), "PATH": ""}
    run = subprocess.run(
        [sys.executable, "-B", "-c", textwrap.dedent(script)], env=places, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    counts, words = run.stdout.splitlines()[-2:]
    assert counts.split() == [str(stored), str(warned)]
    assert words == ("HANG IT UP" if "reload" in after else "hang it up")


def test_what_an_editor_keeps_beside_the_modules_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "PACKAGE", tmp_path)
    for name in ("models/layers.py", "models/.#layers.py", "models/.ipynb_checkpoints/layers-checkpoint.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\xff")
    (tmp_path / "models" / ".#shapes.py").symlink_to("user@host.123")  # Emacs' lock
    (tmp_path / "workbench").mkdir()
    (tmp_path / "workbench" / "generate.py").write_text("")
    assert source.files() == [tmp_path / "models" / "layers.py"]


def test_computing_modules_read_those_settings_alone_whose_values_specifications_hold():
    """``source.PRESENTING`` says why each is safe; a further name needs the same thought."""
    read = set()
    for module in source.reached(frozenset(source.FILES)):
        for node in ast.walk(ast.parse(source.FILES[module].read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = {alias.name for alias in node.names}
                assert "settings" not in names, f"{module} reads settings under no name that can be checked"
                read |= names if (node.module or "").split(".")[-1] == "settings" else set()
    specified = {"Calibration", "Evaluation", "Routing", "PRESETS", "ALLOCATIONS", "METRICS", "MATRIX_BYTES"}
    refusing = {"SCORES", "MODES", "COMPENSATIONS", "WORDINGS", "STEEPEST", "Settings", "check_types"}
    refusing |= {"BUDGETS", "KV_UNITS", "expect", "whole"}
    assert read == specified | refusing | {"suggestion", "nearest"}


def test_what_only_presents_does_not_count():
    assert not [module for module in source.reached(frozenset(source.makers(tables.save))) if "reports" in module]
