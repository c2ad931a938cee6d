"""The store: computed once, whole or not at all, made again when damaged."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seaplib import settings, store

pytestmark = pytest.mark.unit


@dataclass
class Note:
    """The smallest noun: one file."""

    text: str

    def save(self, directory: Path) -> None:
        (directory / "note.txt").write_text(self.text)

    @classmethod
    def load(cls, directory: Path) -> "Note":
        return cls((directory / "note.txt").read_text())


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("SEAP_STORE_DIR", str(tmp_path / "store"))
    return tmp_path / "store"


def refuse():
    raise AssertionError("computed although it is in the store")


HERE = ("seaplib.texts.words",)  # the code of some module, which stands for the maker's


def entry_of(folder: Path, spec: dict) -> Path:
    """The one entry of ``folder`` that was made of ``spec``."""
    (found,) = (file.parent for file in folder.glob("*/spec.json") if json.loads(file.read_text())["spec"] == spec)
    return found


def test_key_depends_on_every_value_and_on_nothing_else():
    spec = {"model": "abc", "calibration": settings.Calibration(), "layers": (1, 2), "k": np.float64(0.5)}
    same = {"k": 0.5, "layers": [1, 2], "calibration": settings.Calibration().as_dict(), "model": "abc"}
    assert store.key(spec, HERE) == store.key(same, HERE)
    for name, value in {"model": "abd", "layers": (2, 1), "k": 0.25, "more": None}.items():
        assert store.key(spec | {name: value}, HERE) != store.key(spec, HERE)
    with pytest.raises(TypeError, match="plain values"):
        store.key({"model": object()}, HERE)


def test_second_fetch_loads(own_store):
    assert store.fetch("notes", {"a": 1}, lambda: Note("one"), Note) == Note("one")
    assert store.fetch("notes", {"a": 1}, refuse, Note) == Note("one")
    entry = entry_of(own_store / "notes", {"a": 1})
    assert json.loads((entry / "spec.json").read_text())["spec"] == {"a": 1}


def test_data_frame_comes_back_as_it_was():
    frame = pd.DataFrame({"task": ["piqa", None], "value": [0.1 + 0.2, np.nan], "n": [3, 4]}, index=[5, 7])
    made = store.fetch("frames", {}, lambda: frame, pd.DataFrame)
    pd.testing.assert_frame_equal(made, frame)
    pd.testing.assert_frame_equal(store.fetch("frames", {}, refuse, pd.DataFrame), made)


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing file", "no record"])
def test_damaged_entry_is_computed_again(own_store, damage):
    store.fetch("notes", {}, lambda: Note("one"), Note)
    entry = entry_of(own_store / "notes", {})
    if damage == "missing file":
        (entry / "note.txt").unlink()
    elif damage == "no record":
        (entry / "spec.json").unlink()
    else:
        (entry / "note.txt").write_text({"truncated": "on", "changed": "two"}[damage])
    with pytest.warns(UserWarning, match="damaged"):
        assert store.fetch("notes", {}, lambda: Note("one again"), Note) == Note("one again")
    assert store.fetch("notes", {}, refuse, Note) == Note("one again")


@pytest.mark.parametrize("error", [MemoryError, ImportError, PermissionError])
def test_an_entry_that_this_process_cannot_read_is_kept(own_store, monkeypatch, error):
    """Out of memory twice, or with a library missing, the entry was deleted and made again."""
    spec = {"a": 1}
    store.fetch("notes", spec, lambda: Note("whole"), Note)
    whole = Note.load

    def fail(directory):
        raise error("not here")

    monkeypatch.setattr(Note, "load", staticmethod(fail))
    with pytest.raises(error):
        store.fetch("notes", spec, refuse, Note)
    monkeypatch.setattr(Note, "load", whole)
    assert store.fetch("notes", spec, refuse, Note).text == "whole"


def test_a_file_in_place_of_an_entry_is_computed_again(own_store):
    store.fetch("notes", {}, lambda: Note("one"), Note)
    entry = entry_of(own_store / "notes", {})
    shutil.rmtree(entry)
    for place in (entry, entry.with_name(f"{entry.name}.partial")):
        place.write_text("in the way")
    with pytest.warns(UserWarning, match="damaged"):
        assert store.fetch("notes", {}, lambda: Note("one again"), Note) == Note("one again")


def test_failure_leaves_nothing_and_is_not_remembered():
    with pytest.raises(AssertionError):
        store.fetch("notes", {}, refuse, Note)
    assert store.fetch("notes", {}, lambda: Note("now"), Note) == Note("now")


def _fetch_slowly(log: Path) -> None:
    def make():
        with open(log, "a") as file:
            file.write("made\n")
        time.sleep(0.3)
        return Note("shared")

    assert store.fetch("notes", {"shared": True}, make, Note) == Note("shared")


def test_concurrent_processes_compute_once(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fetch_slowly, args=(tmp_path / "log",)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert (tmp_path / "log").read_text() == "made\n"


KILLED_WHILE_SAVING = """
import os, signal, sys
sys.argv, sys.orig_argv = ["-m"], ["-m", "seaplib"]  # the package without its models, as the runner sees it
from seaplib import store

class Note:
    def save(self, directory):
        (directory / "note.txt").write_text("hal")
        os.kill(os.getpid(), signal.SIGKILL)

store.fetch("notes", {}, Note, Note)
"""


def test_kill_while_saving_leaves_no_entry(own_store):
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_SAVING], env=os.environ, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not list(own_store.rglob("spec.json"))
    assert store.fetch("notes", {}, lambda: Note("whole"), Note) == Note("whole")
    assert not list(own_store.rglob("*.partial"))


def test_identity_of_files(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"x" * 100)
    before = store.identity(tmp_path)
    os.utime(tmp_path / "a.bin", (1, 1))
    assert store.identity(tmp_path) == before, "a small file counts by its bytes"
    large = store.identity(tmp_path, hashed_bytes=10)
    os.utime(tmp_path / "a.bin", (2, 2))
    assert store.identity(tmp_path, hashed_bytes=10) != large, "a large one by its time of change too"
    (tmp_path / ".hidden").write_text("no")
    assert store.identity(tmp_path) == before
    (tmp_path / "b.bin").write_bytes(b"")
    assert store.identity(tmp_path) != before
