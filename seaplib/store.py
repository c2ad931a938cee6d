"""Content-addressed artefacts: whatever is expensive is computed once.

An artefact's address is the SHA-256 of what it was computed from (its specification, which names
weights and texts by their fingerprints), of the code that computes, and of the versions of the
libraries underneath. A changed input is therefore a different address, and nothing ever has to be
invalidated by hand: deleting the store costs time, never correctness.

    <store>/<kind>/<key>/          what the noun's ``save`` wrote (a data frame: frame.parquet)
    <store>/<kind>/<key>/spec.json the specification, and a checksum of every file beside it
"""

import ast
import hashlib
import importlib.metadata
import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import filelock

from . import paths

T = TypeVar("T")
# Modules that only present, locate or run: changing them cannot change a stored number.
NOT_COMPUTING = {"__init__.py", "__main__.py", "hub.py", "paths.py", "store.py", "reports", "runner"}
LIBRARIES = ("torch", "transformers", "lm-eval")
HASHED_BYTES = 256 * 2**20  # larger files are identified by path, size and time of change


def canonical(value) -> str:
    """``value`` as JSON in one way only: keys sorted, dataclasses as dictionaries, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)


def _plain(value):
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    raise TypeError(f"a specification holds plain values, not {type(value).__name__}: {value!r}")


def digest(value) -> str:
    """SHA-256 of a plain value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity(path: Path, hashed_bytes: int = HASHED_BYTES) -> str:
    """A string that changes when the file, or any file below the directory, changes.

    Files up to ``hashed_bytes`` count by their bytes; larger ones, such as the weights of a real
    model, by path, size and time of change. Hidden files and ``__pycache__`` do not count.
    """
    path = Path(path)
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
    parts = []
    for file in files:
        relative = file.relative_to(path)
        if any(part.startswith(".") or part == "__pycache__" for part in relative.parts):
            continue
        stat = file.stat()
        large = stat.st_size > hashed_bytes
        content = [str(file.resolve()), stat.st_size, stat.st_mtime_ns] if large else file_hash(file)
        parts.append([relative.as_posix(), content])
    return digest(parts)


@cache
def code_hash() -> str:
    """Hash of the modules that compute: their code, so that a reworded comment costs nothing."""
    parts = []
    package = Path(__file__).parent
    for file in sorted(package.rglob("*.py")):
        if (place := file.relative_to(package)).parts[0] not in NOT_COMPUTING:
            parts.append([place.as_posix(), ast.dump(_without_docstrings(ast.parse(file.read_text("utf-8"))))])
    return digest(parts)


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:]
    return tree


@cache
def versions(packages: tuple[str, ...] = LIBRARIES) -> dict[str, str | None]:
    """Installed versions, read without importing anything; None where a package is missing."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def key(spec: dict) -> str:
    """The address of what ``spec`` describes. Raises TypeError for a value that is not plain."""
    return digest([spec, code_hash(), versions()])


def fetch(kind: str, spec: dict, make: Callable[[], T], noun: type[T]) -> T:
    """The artefact that ``spec`` describes: loaded where it exists, else made, saved and loaded.

    ``noun`` is ``pandas.DataFrame``, or a class with ``save(directory)`` and ``load(directory)``.
    What is returned always comes from disk, so a first run and a resumed one see the same values.
    An entry appears whole or not at all; processes that want the same one wait for whoever came
    first; a damaged entry is made again, with a warning.
    """
    name = key(spec)
    shelf = paths.store_dir() / kind
    entry = shelf / name
    try:
        return _read(entry, noun)
    except Exception:  # absent, or damaged in whatever way a file can be: both are settled under the lock
        shelf.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(shelf / f"{name}.lock"):
        if entry.exists():
            try:
                return _read(entry, noun)
            except Exception as error:
                warnings.warn(f"damaged {kind} entry {entry} is computed again ({error})", stacklevel=2)
                shutil.rmtree(entry)
        partial = shelf / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
        made = make()
        partial.mkdir()
        _write(partial, made, noun)
        files = {file.relative_to(partial).as_posix(): file_hash(file) for file in partial.rglob("*") if file.is_file()}
        record = json.dumps({"kind": kind, "key": name, "spec": json.loads(canonical(spec)), "files": files}, indent=1)
        (partial / "spec.json").write_text(record + "\n", "utf-8")
        os.replace(partial, entry)
        return _read(entry, noun)


def _read(entry: Path, noun: type[T]) -> T:
    import pandas  # here, because the runner, which reads no entry, should start at once

    files = json.loads((entry / "spec.json").read_text("utf-8"))["files"]
    for name, expected in files.items():
        if file_hash(entry / name) != expected:
            raise ValueError(f"{name} does not have its recorded checksum")
    return pandas.read_parquet(entry / "frame.parquet") if noun is pandas.DataFrame else noun.load(entry)


def _write(directory: Path, value, noun: type) -> None:
    if hasattr(value, "to_parquet"):
        value.to_parquet(directory / "frame.parquet")
    else:
        value.save(directory)
