"""``reproduce``: execute the notebooks of a profile that are not up to date."""

import os
from pathlib import Path

from .. import paths
from ..runner import plan
from ..runner import run as runner
from ..runner.manifest import Ledger
from . import compare, status
from .text import table


def add(subparsers) -> None:
    parser = subparsers.add_parser("reproduce", help="execute the notebooks that are not up to date")
    parser.add_argument("--profile", metavar="P", help="a profile of papermill_runs.yaml (default: its first)")
    parser.add_argument("--only", nargs="+", metavar="NN", help="these notebooks, and what they need")
    parser.add_argument("--force", action="store_true", help="execute them even if they are up to date")
    parser.add_argument("--jobs", type=int, metavar="N", help="notebooks at a time (default: the profile's)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be executed, and why")
    device = "the device that the estimate is for (default: H100 for 10⁹ parameters and more, else CPU)"
    parser.add_argument("--gpu", metavar="G", help=device)
    parser.set_defaults(command=run)


def run(options) -> int:
    if options.dry_run:
        ledger, chosen, asked = runner.prepare(options.profile, options.only, options.jobs, dry=True)
        forced = asked if options.force else set()
        text = runner.estimate(ledger, chosen, forced, options.gpu)  # first: it may find no such device
        status.show(ledger, chosen, forced)
        if text:
            print(f"\n{text}")
        return 0
    ledger, outcomes = runner.reproduce(options.profile, options.only, options.force, options.jobs, options.gpu)
    _report(ledger, outcomes)
    _compare(ledger.plan.profile)
    return int(any(outcome.status in ("failed", "skipped") for outcome in outcomes.values()))


def _report(ledger: Ledger, outcomes: dict[str, runner.Outcome]) -> None:
    """The run table, what went wrong, and where to look."""
    rows = []
    for notebook in ledger.plan.notebooks:
        if notebook.name in outcomes:
            outcome = outcomes[notebook.name]
            seconds = f"{outcome.seconds:.0f}" if outcome.status in ("done", "failed") else ""
            rows.append([notebook.name, outcome.status, seconds, ", ".join(notebook.files)])
    print(table(rows, ["notebook", "status", "seconds", "products"]))
    for name, outcome in outcomes.items():
        if outcome.status == "failed":
            shown = paths.executed_dir(ledger.plan.profile) / f"{name}.ipynb"
            print(f"\n{name} failed: {outcome.why}\n  see {_place(shown)} and {_place(ledger.runs / name)}.log")
        elif outcome.status == "skipped":
            print(f"\n{name} skipped: {outcome.why}")
    print(f"\nFigures, tables and their manifest: {_place(ledger.directory)}/")
    print(f"Executed notebooks: {_place(paths.executed_dir(ledger.plan.profile))}/")
    print(f"Logs and run record: {_place(ledger.runs)}/")
    if undeclared := ledger.undeclared():
        print(f"Not declared in papermill_runs.yaml: {', '.join(undeclared)}")
        for name in sorted({Path(file).stem for file in undeclared}):
            if older := plan.older_product(name):
                print(f"{older}; remove its files")
    if ledger.plan.not_run:
        print(f"Not run in profile {ledger.plan.profile}: {ledger.plan.not_run}")


def _compare(profile: str) -> None:
    """Print the tables beside the committed ones; whatever goes wrong in this is said, and the run stays as it was."""
    try:
        print(f"\n{compare.report(profile)}")
    except Exception as error:
        print(f"Not compared with the committed tables: {ascii(error)}")


def _place(path: Path) -> str:
    """As short a name of a path as works from here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
