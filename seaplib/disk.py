"""Writing to a disk that may be full, shared, or gone in the middle: whole files or none."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """A place to write to, which takes ``path``'s place at the end of the block, or is gone after an error.

    ``durable``: on the disk before it counts, so that a power cut leaves the old content or the new. What a writer
    that was killed had left is swept.
    """
    for left in path.parent.glob(f".{path.name}.*"):
        owner = re.fullmatch(r"\d+", left.suffix[1:])
        if owner and not psutil.pid_exists(int(owner[0])):
            left.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        if durable:
            synced(partial)
        os.replace(partial, path)
        if durable:
            synced(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def synced(path: Path) -> None:
    """Wait until a file, or a directory's list of names, is on the disk."""
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def refusal(folder: Path, room: int = 0) -> str:
    """Why ``folder`` takes no file, or has fewer than ``room`` bytes left; "" where it does. It is made if missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"a file")
            file.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return error.strerror or str(error)
    return f"{free / 2**20:,.0f} MiB are free, {room / 2**20:,.0f} are needed" if free < room else ""
