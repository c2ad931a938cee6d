"""Public names: each room's face gives the same object every time, whatever was imported before."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import seaplib

pytestmark = pytest.mark.unit

ROOMS = ["seaplib"]
ROOMS += [module.name for module in pkgutil.walk_packages(seaplib.__path__, "seaplib.") if module.ispkg]
EVERYTHING = """
import functools, importlib, pkgutil, sys
import seaplib
modules = [module.name for module in pkgutil.walk_packages(seaplib.__path__, "seaplib.")]
shown = [name for name in modules if name.split(".")[1] in dir(seaplib)]
for name in shown:  # as README and tab completion write them, after nothing but import seaplib
    functools.reduce(getattr, name.split(".")[1:], seaplib)
rooms = [importlib.import_module(name) for name in sys.argv[1:]]
first = [(room, name, getattr(room, name)) for room in rooms for name in getattr(room, "__all__", [])]
for name in modules:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(first) > 100, len(shown) > 60, [name for room, name, value in first if getattr(room, name) is not value])
"""


@pytest.mark.parametrize("room", ROOMS)
def test_no_public_name_is_also_a_modules(room):
    """Importing a module puts it into its package under its own name, where it would hide a function's."""
    face = importlib.import_module(room)
    modules = {module.name for module in pkgutil.iter_modules(face.__path__)}
    names = getattr(face, "__all__", [])  # studies and baselines are called by module
    rooms = {name for name in names if name in modules}
    assert all(importlib.import_module(f"{room}.{name}") is getattr(face, name) for name in rooms)


@pytest.mark.slow
def test_a_public_name_is_the_same_object_after_every_module_was_imported():
    run = subprocess.run([sys.executable, "-c", EVERYTHING, *ROOMS], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "True True []"


def test_what_the_design_promises_is_public():
    promised = {"load", "collect", "corpus", "select", "score", "logistic", "prune", "evaluate", "save_pretrained"}
    assert promised | {"perplexity", "ExpertModel", "Variant", "capture"} <= set(seaplib.__all__)
    assert callable(seaplib.perplexity) and callable(seaplib.capture)
