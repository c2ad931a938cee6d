"""Content-addressed artefacts: whatever is expensive is computed once.

An artefact's address is the SHA-256 of what it was computed from (its specification, which names
weights and texts by their fingerprints), of the code that makes it (:mod:`seaplib.source`), and of the
versions of the libraries beneath that code. A changed input is therefore a different address, and
nothing ever has to be invalidated by hand: deleting the store costs time, never correctness.

    <store>/<kind>/<key>/          what the noun's ``save`` wrote (a data frame: frame.parquet)
    <store>/<kind>/<key>/spec.json the specification, and a checksum of every file beside it
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import filelock

from . import disk, paths, source

T = TypeVar("T")
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
def versions(packages: tuple[str, ...]) -> dict[str, str | None]:
    """Installed versions, read without importing anything; None where a package is missing."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def key(spec: dict, modules: Iterable[str]) -> str:
    """The address of what ``modules`` make of ``spec``. Raises TypeError for a value that is not plain."""
    code, libraries = source.described(modules)
    return digest([spec, code, versions(tuple(libraries))])


def fetch(kind: str, spec: dict, make: Callable[[], T], noun: type[T], uses: Iterable = ()) -> T:
    """The artefact that ``spec`` describes: loaded where it exists, else made, saved and loaded.

    The code that counts is that of ``make``'s module and of all that module imports. ``uses`` are objects
    of this package that ``make`` gets from elsewhere (a variant, a model); the code of their classes counts too.
    Where the code has been edited since this process imported it, the artefact is made and not stored.

    ``noun`` is ``pandas.DataFrame``, or a class with ``save(directory)`` and ``load(directory)``.
    What is returned always comes from disk, so a first run and a resumed one see the same values.
    An entry appears whole or not at all, also after a power cut; processes that want the same one wait for whoever
    came first; a damaged entry is made again, with a warning.
    """
    modules = source.makers(make, *uses)
    name = key(spec, modules)
    if not source.runs(modules):
        with tempfile.TemporaryDirectory() as directory:
            _write(Path(directory), make(), noun)
            return _load(Path(directory), noun)
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
            except (MemoryError, ImportError, PermissionError):
                raise  # nothing is wrong with the entry: this process cannot read it
            except Exception as error:
                warnings.warn(f"damaged {kind} entry {entry} is computed again ({error})", stacklevel=2)
                _remove(entry)
        partial = shelf / f"{name}.partial"
        _remove(partial)  # left by a process that was killed
        made = make()
        partial.mkdir()
        _write(partial, made, noun)
        files = {file.relative_to(partial).as_posix(): file_hash(file) for file in partial.rglob("*") if file.is_file()}
        record = json.dumps({"kind": kind, "key": name, "spec": json.loads(canonical(spec)), "files": files}, indent=1)
        (partial / "spec.json").write_text(record + "\n", "utf-8")
        for written in filter(Path.is_file, partial.rglob("*")):  # not the folders: checksums notice a lost name
            disk.synced(written)
        os.replace(partial, entry)
        disk.synced(shelf)
        return _read(entry, noun)


def holds(kind: str, spec: dict, uses: Iterable) -> bool:
    """Whether there is an entry that :func:`fetch` would find; ``uses`` are ``make``, or another function of its
    module, and :func:`fetch`'s ``uses``.
    """
    return (paths.store_dir() / kind / key(spec, source.makers(*uses)) / "spec.json").is_file()


def _remove(path: Path) -> None:
    """A folder, or whatever else lies in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read(entry: Path, noun: type[T]) -> T:
    files = json.loads((entry / "spec.json").read_text("utf-8"))["files"]
    for name, expected in files.items():
        if file_hash(entry / name) != expected:
            raise ValueError(f"{name} does not have its recorded checksum")
    return _load(entry, noun)


def _load(directory: Path, noun: type[T]) -> T:
    import pandas  # here, because the runner, which reads no entry, should start at once

    return pandas.read_parquet(directory / "frame.parquet") if noun is pandas.DataFrame else noun.load(directory)


def _write(directory: Path, value, noun: type) -> None:
    if hasattr(value, "to_parquet"):
        value.to_parquet(directory / "frame.parquet")
    else:
        value.save(directory)
