"""Are a profile's products what its manifest says, and does a sample of them come out again from nothing?"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from .. import paths
from .compare import Comparison, beside, tables_of
from .manifest import Ledger, read_json
from .parameters import PlanError

PLACES = ("STORE_DIR", "RUNS_DIR", "EXECUTED_DIR", "FIGURES_DIR")


def against_manifest(ledger: Ledger) -> list[list[str]]:
    """[product, what is wrong] for every declared product that the manifest does not vouch for, and for other files."""
    known, wrong = read_json(ledger.directory / "manifest.json").get("products", {}), []
    for notebook in ledger.plan.notebooks:
        hashes = ledger.hashes(notebook)
        for product, names in notebook.files.items():
            entry = known.get(product)
            if missing := [name for name in names if hashes[name] is None]:
                wrong.append([product, f"{', '.join(missing)} is missing"])
            elif entry is None:
                wrong.append([product, "the manifest does not know it"])
            elif changed := [name for name in names if entry["files"].get(name) != hashes[name]]:
                wrong.append([product, f"{', '.join(changed)} is not what the manifest says"])
            elif entry["parameters"] != notebook.parameters:
                wrong.append([product, "it was made with other parameters"])
    return wrong + [[name, "no notebook declares it"] for name in ledger.undeclared()]


def sample(ledger: Ledger, size: int) -> list[str]:
    """The notebooks that took least time, of those that need no others and measure no times."""
    spent = read_json(ledger.directory / "manifest.json").get("seconds", {})
    able = [notebook.name for notebook in ledger.plan.notebooks if not (notebook.needs or notebook.alone)]
    return sorted(able, key=lambda name: spent.get(name) or float("inf"))[:size]


def recomputed(ledger: Ledger, names: list[str]) -> Comparison:
    """The tables of notebooks beside those that the same notebooks write now, with an empty store.

    :class:`~seaplib.runner.parameters.PlanError` where the notebooks do not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        places = {f"SEAP_{place}": str(Path(folder, place.lower())) for place in PLACES}
        command = [sys.executable, "-m", "seaplib", "reproduce", "--profile", ledger.plan.profile, "--only", *names]
        environment = os.environ | {"SEAP_ROOT": str(paths.root())} | places
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)  # its bar is ours
        if done.returncode:
            raise PlanError(f"the sample did not run to its end:\n{done.stdout}")
        now = tables_of(Path(places["SEAP_FIGURES_DIR"]) / ledger.plan.profile)
    owned = {product for notebook in ledger.plan.notebooks if notebook.name in names for product in notebook.tables}
    before = {name: text for name, text in tables_of(ledger.directory).items() if name in owned}
    return beside(before, now)
