"""Which code makes a result: a module, everything of this package that it imports, and the libraries beneath.

The source is read once, when the package is imported, so that a result is filed under the code that
ran, even if somebody edits a file while a kernel is alive. Only code counts: comments and docstrings
may change freely.
"""

import ast
import hashlib
import sys
import warnings
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from types import FunctionType, MethodType

PACKAGE = Path(__file__).parent
NAME = PACKAGE.name
#: Rooms that present, plan or run, and modules that find or keep: no change there changes a stored number.
#: ``settings`` too, because every value of settings that an entry depends on stands in the entry's specification:
#: - Calibration, Evaluation and Routing: the values in use, field by field; for Evaluation's items and item_seed the
#:   drawn items. Evaluation's batch_tokens and workers count in no entry of items, however they are set.
#: - PRESETS: the window, the scored tokens and the starts that follow. ALLOCATIONS (ratio per layer, protected
#:   layers): the mask that follows, by its fingerprint.
#: - METRICS: their names and lm-eval's, of which an entry of items holds rows; the other fields only present.
#: - MATRIX_BYTES: in how many passes covariances are summed, whatever the number, to the same sums.
#: - SCORES, MODES, BUDGETS, KV_UNITS, COMPENSATIONS, WORDINGS, STEEPEST, the checks of the dataclasses, ``expect`` and
#:   ``whole`` only refuse; suggestions are messages.
PRESENTING = ("reports", "runner", "commands", "hub", "disk", "paths", "source", "store", "settings")
#: Libraries that compute, by the name they are imported under; whatever runs a model runs the first two.
LIBRARIES = {"torch": "torch", "transformers": "transformers"}
LIBRARIES |= {"lm_eval": "lm-eval", "numpy": "numpy", "scipy": "scipy", "sklearn": "scikit-learn", "umap": "umap-learn"}
LIBRARIES |= {"tokenizers": "tokenizers", "datasets": "datasets", "accelerate": "accelerate"}


def files() -> list[Path]:
    """The package's modules; not what an editor keeps beside them, nor the data and notebooks of an installation."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        if all(part.isidentifier() for part in parts) and parts[0] != "workbench":
            found.append(file)
    return found


def _module(file: Path) -> str:
    parts = (NAME, *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


#: module → its file, its time of change and size, and its text, at import
FILES = {_module(file): file for file in files()}
_STAMP = {module: _stamp(file) for module, file in FILES.items()}
_TEXT = {module: file.read_text("utf-8") for module, file in FILES.items()}
#: module → its import specification when its file was last seen unchanged; reloading makes a new one
_SEEN: dict[str, object] = {}
_SAID: set[str] = set()


def code(text: str) -> str:
    """SHA-256 of a module's syntax tree without its docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@cache
def _code(module: str) -> str:
    return code(_TEXT[module])


@cache
def imports(module: str) -> frozenset[str]:
    """What a module imports, in functions too: modules of this package, and other packages by their first name.

    A name taken from a room's face stands for all of that room's modules.
    """
    found: set[str] = set()
    is_package = FILES[module].name == "__init__.py"
    for node in ast.walk(ast.parse(_TEXT[module])):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.add(alias.name if alias.name in FILES else alias.name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            level = node.level - is_package
            base = module.split(".")[: -level or None] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            if source.partition(".")[0] != NAME:
                found.add(source.partition(".")[0])
                continue
            for alias in node.names:
                found.update(_ours(source, alias.name))
    return frozenset(found - {NAME, module})


def _ours(source: str, name: str) -> set[str]:
    """The modules of this package behind ``from source import name``."""
    if f"{source}.{name}" in FILES:
        return {f"{source}.{name}"}
    if source == NAME or FILES[source].name != "__init__.py":
        return {source}
    return {module for module in FILES if module.startswith(f"{source}.")}


@cache
def reached(modules: frozenset[str]) -> list[str]:
    """The computing modules that ``modules`` are, import, or import by way of others; in order of names."""
    found, waiting = set(), list(modules)
    while waiting:
        if (module := waiting.pop()) not in found:
            found.add(module)
            waiting += [other for other in imports(module) if other in FILES]
    return sorted(module for module in found if f"{module}.".split(".")[1] not in ("", *PRESENTING))


def makers(*things) -> list[str]:
    """The modules of this package in which functions, or the classes of objects, are defined.

    A function from elsewhere, such as a notebook's, may call anything: it stands for the whole package.
    """
    found = set()
    for thing in things:
        while isinstance(thing, partial | MethodType):
            thing = thing.func if isinstance(thing, partial) else thing.__func__
        if (module := getattr(thing, "__module__", None)) in FILES:
            found.add(module)
        elif isinstance(thing, FunctionType | type):
            found.update(FILES)
    return sorted(found)


def described(modules: Iterable[str]) -> tuple[list, list[str]]:
    """The code that ``modules`` reach, as [name, hash] pairs, and the distributions of the libraries it imports."""
    found = reached(frozenset(modules))
    used = {LIBRARIES[name] for module in found for name in imports(module) if name in LIBRARIES}
    return [[module, _code(module)] for module in found], sorted(used | {"torch", "transformers"})


def runs(modules: Iterable[str]) -> bool:
    """Whether the code that ``modules`` reach is, in this process, what was read at import.

    False where a file was edited, or a module reloaded, and it cannot be known which version runs. Says so
    once, as a warning; also where an edit is harmless, because the edited module had been loaded before.
    """
    known, edited = True, []
    for module in reached(frozenset(modules)):
        loaded = getattr(sys.modules.get(module), "__spec__", None)
        if _unchanged(module) and _SEEN.get(module) in (None, loaded):
            if loaded is not None:
                _SEEN[module] = loaded
        else:
            edited.append(module)
            if loaded is None or _SEEN.get(module) is not loaded:
                known = False
                if loaded is not None:
                    _SEEN[module] = False  # for ever: the edit may be taken back, which changes nothing here
    if new := set(edited) - _SAID:
        _SAID.update(edited)
        what = "results are stored under the code that was imported" if known else "results are not stored"
        warnings.warn(
            f"{', '.join(sorted(new))} changed since this process imported {NAME}: {what}; restart the kernel",
            stacklevel=3,
        )
    return known


def _unchanged(module: str) -> bool:
    stamp = _stamp(FILES[module])
    return stamp == _STAMP[module] or _same_code(module, stamp)


@cache
def _same_code(module: str, stamp: tuple[int, int] | None) -> bool:
    try:
        text = FILES[module].read_text("utf-8")
        return text == _TEXT[module] or code(text) == _code(module)
    except (OSError, SyntaxError, UnicodeDecodeError):
        return False
