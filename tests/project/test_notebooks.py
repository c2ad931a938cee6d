"""The notebooks as files, executed under the ``smoke`` profile in this process, some by the runner (``notebook``)."""

import ast
import copy
import os
import re
import subprocess
import sys
import time
import warnings
from dataclasses import fields
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from seaplib import paths, settings, store
from seaplib.runner import manifest, plan
from seaplib.runner import parameters as declared

NOTEBOOKS = sorted(paths.notebooks_dir().glob("*.ipynb"))
GROUPS = (settings.Calibration, settings.Pruning, settings.Evaluation)
LONGEST = 16  # lines of a code cell that is neither collapsed nor the parameters

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
unit = pytest.mark.unit


def cells(path: Path, kind: str | None = None) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if kind in (None, cell.cell_type)]


def parameters(path: Path):
    return [cell for cell in cells(path) if "parameters" in cell.metadata.get("tags", ())]


def calls(tree: ast.AST, *modules: str) -> list[ast.Call]:
    """Calls of ``<module>.save``."""
    wanted = {f"{module}.save" for module in modules}
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) in wanted]


def product_of(notebook: ast.expr) -> ast.expr:
    """The product that ``claims.save(rows, notebook, profile)`` writes."""
    if isinstance(notebook, ast.Constant):
        return ast.Constant(f"claims_{notebook.value.partition('_')[2]}")
    return notebook


def code(path: Path) -> ast.AST:
    return ast.parse("\n".join(cell.source for cell in cells(path, "code")))


@unit
def test_there_is_a_file_for_every_declared_notebook_and_the_other_way_round():
    assert [path.stem for path in NOTEBOOKS] == sorted(plan.read()[1])


@unit
@each
def test_notebook_is_valid_and_carries_no_results(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags", "jupyter"}, cell.source
        assert cell.metadata.get("jupyter", {}) in ({}, {"source_hidden": True}), cell.source
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, cell.source


@unit
@each
def test_notebook_opens_with_its_title_and_question(path):
    first = cells(path)[0]
    assert first.cell_type == "markdown" and first.source.startswith(f"# {path.stem[:2]} · ")
    assert "?" in first.source


@unit
@each
def test_parameters_are_literals_and_every_line_says_what_it_is(path):
    (cell,) = parameters(path)
    assert {"profile"} <= set(plan.read_parameters(path.stem))
    for line in cell.source.splitlines():
        assert re.fullmatch(r"\w+ = .+  # \S.*", line), f"no comment: {line}"


@unit
@each
def test_a_parameter_named_like_a_setting_is_a_possible_value_of_it(path):
    named = {field.name for group in GROUPS for field in fields(group)}
    own = {name: value for name, value in plan.read_parameters(path.stem).items() if name in named}
    declared.check(path.stem, own)  # by the check of a dataclass that has the field


@unit
@each
def test_text_stands_before_every_code_cell(path):
    previous = "none"
    for cell in cells(path):
        assert cell.cell_type != "code" or previous == "markdown", f"no text before:\n{cell.source}"
        previous = cell.cell_type


@unit
@each
def test_cells_are_short_and_define_nothing(path):
    for cell in cells(path, "code"):
        assert cell.metadata or len(cell.source.splitlines()) <= LONGEST, cell.source
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    assert not [node.name for node in ast.walk(code(path)) if isinstance(node, definitions)]


@unit
@each
def test_notebook_asserts_something_and_shows_provenance(path):
    nodes = list(ast.walk(code(path)))
    assert "provenance" in {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert any(isinstance(node, ast.Assert) for node in nodes)


@unit
@each
def test_products_are_those_declared(path):
    declared = plan.read()[1][path.stem]
    for kind in ("figures", "tables"):
        saved = [call.args[1] for call in calls(code(path), kind)]
        if kind == "tables":
            saved += [product_of(call.args[1]) for call in calls(code(path), "claims")]
        names = {argument.value for argument in saved if isinstance(argument, ast.Constant)}
        if kind == "tables" and calls(code(path), "claims"):
            names.add(f"claims_{path.stem.partition('_')[2]}")
        if all(isinstance(argument, ast.Constant) for argument in saved):
            assert names == set(getattr(declared, kind))
        else:  # some names are made by an expression; the runner checks that all products appear
            assert names <= set(getattr(declared, kind))


@unit
@each
def test_nothing_belongs_to_one_machine(path):
    for cell in cells(path):
        assert not re.search(r"(^|[\s'\"(])/(home|Users|tmp|work|root|mnt)/", cell.source), cell.source


@unit
@each
def test_no_variable_hides_an_import(path):
    """A parameter or variable of the name of an imported module: whichever is bound last breaks the other's uses."""
    nodes = list(ast.walk(code(path)))
    imported = [alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    names = {alias.asname or alias.name for alias in imported}
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert not names & stored


@unit
def test_notebook_16_says_that_it_needs_two_seeds_before_it_loads_a_model():
    (path,) = [path for path in NOTEBOOKS if path.stem.startswith("16")]
    (setup,) = [cell.source for cell in cells(path, "code") if "seaplib.load(" in cell.source]
    before = setup.partition("lm, tokenizer = ")[0]
    exec(before, {"seeds": [0, 1]})
    with pytest.raises(AssertionError, match=r"seeds must be at least two, .* got \[0\]"):
        exec(before, {"seeds": [0]})


# --- executed in this process, where shapes and types are checked ---------------------------------

QUIET = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)  # as outside of tests
SMOKE = plan.load("smoke").notebooks
SLOW = ("07", "11", "12", "13", "14", "15", "17", "18", "19")  # make ci runs them, make test does not


def cases() -> list:
    marks = {number: pytest.mark.slow for number in SLOW}
    return [pytest.param(one, id=one.name, marks=marks.get(one.name[:2], ())) for one in SMOKE]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Store, run records and figures of the notebooks that run in this process: later notebooks read earlier ones'."""
    base = tmp_path_factory.mktemp("in_process")
    return {f"SEAP_{place}_DIR": str(base / place.lower()) for place in ("STORE", "RUNS", "EXECUTED", "FIGURES")}


@pytest.fixture
def shell(places, monkeypatch):
    """An IPython without a kernel, in the project's directory."""
    for name, place in places.items():
        monkeypatch.setenv(name, place)
    monkeypatch.delenv("SEAP_DATA_DIR", raising=False)
    monkeypatch.chdir(paths.root())
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


@unit
@pytest.mark.parametrize("notebook", cases())
def test_a_notebook_runs_and_leaves_its_products(shell, notebook):
    """Every cell, with the smoke profile's parameters; no warning of its own."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for category in QUIET:
            warnings.simplefilter("ignore", category)
        for cell in cells(notebook.path, "code"):
            with capture_output() as said:
                shell.run_cell(cell.source).raise_error()
                if "parameters" in cell.metadata.get("tags", ()):
                    shell.user_ns.update(copy.deepcopy(notebook.parameters))
            plt.close("all")  # as in a kernel, after every cell
            assert "Warning" not in said.stdout + said.stderr, said.stderr
    assert not [str(warning.message) for warning in caught]
    for names in notebook.files.values():
        for name in names:
            content = (paths.figures_dir("smoke") / name).read_bytes()
            assert content and not (name.endswith(".pdf") and b"/Type3" in content), name


# --- executed by the runner, in kernels (make ci) -------------------------------------------------

IN_KERNELS = ("00", "04", "10")


def reproduce() -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "seaplib", "reproduce", "--profile", "smoke", "--only", *IN_KERNELS]
    return subprocess.run(command, cwd=paths.root(), env=dict(os.environ), capture_output=True, text=True, timeout=1800)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Some notebooks of the smoke profile executed once, in directories of their own; yields the ledger."""
    base = tmp_path_factory.mktemp("smoke")
    with pytest.MonkeyPatch.context() as patch:
        for place in ("STORE", "RUNS", "EXECUTED", "FIGURES"):
            patch.setenv(f"SEAP_{place}_DIR", str(base / place.lower()))
        patch.delenv("SEAP_DATA_DIR", raising=False)
        done = reproduce()
        assert done.returncode == 0, done.stdout + done.stderr
        yield manifest.Ledger(plan.load("smoke"))


@pytest.fixture
def here(smoke, monkeypatch):
    """The smoke run's directories, after each test's private ones were set."""
    monkeypatch.setenv("SEAP_STORE_DIR", str(smoke.runs.parents[1] / "store"))
    monkeypatch.setenv("SEAP_RUNS_DIR", str(smoke.runs.parent))
    monkeypatch.setenv("SEAP_FIGURES_DIR", str(smoke.directory.parent))
    monkeypatch.delenv("SEAP_DATA_DIR", raising=False)
    return smoke


def ran(ledger) -> list:
    return [notebook for notebook in ledger.plan.notebooks if notebook.name[:2] in IN_KERNELS]


@pytest.mark.slow
def test_the_manifest_lists_the_products_of_the_runners_notebooks(here):
    assert len(ran(here)) == len(IN_KERNELS) and len(here.plan.notebooks) == len(NOTEBOOKS)
    listed = manifest.read_json(here.directory / "manifest.json")["products"]
    for notebook in ran(here):
        for product, names in notebook.files.items():
            hashes = {name: store.file_hash(here.directory / name) for name in names}
            assert listed[product]["files"] == hashes
            assert listed[product]["notebook"] == notebook.name
    assert not here.undeclared()


@pytest.mark.slow
def test_executed_notebooks_hold_no_error_and_no_warning_of_their_own(here):
    for notebook in ran(here):
        for cell in cells(here.runs / f"{notebook.name}.ipynb", "code"):
            for output in cell.outputs:
                assert output.output_type != "error"
                text = output.get("text", "") if output.output_type == "stream" else ""
                assert "Warning" not in text, f"{notebook.name}: {text}"


@pytest.mark.slow
def test_a_second_call_executes_nothing_and_is_quick(here):
    kept = [here.directory / "manifest.json", here.runs / "record.json"]
    before = [file.read_bytes() for file in kept]
    started = time.monotonic()
    done = reproduce()
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stdout + done.stderr
    assert seconds < 10, done.stdout + done.stderr
    assert [file.read_bytes() for file in kept] == before
