"""``python -m seaplib reproduce | status | list | readme``: papermill_runs.yaml from the command line.

Exit status: 0 everything is up to date, 1 a notebook failed, 2 the request cannot be carried out,
130 interrupted.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from tabulate import tabulate

from .runner import plan, readme, run
from .runner.manifest import Ledger
from .runner.parameters import PlanError


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    # Also where the caller started us with SIGINT ignored, as shells do with background jobs.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)
    try:
        return options.command(options)
    except PlanError as error:
        print(f"seaplib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("seaplib: interrupted; the next call resumes here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m seaplib", description="Regenerate every figure and table of a profile.")
    commands = parser.add_subparsers(required=True, metavar="command")
    reproduce = commands.add_parser("reproduce", help="execute the notebooks that are not up to date")
    reproduce.add_argument("--profile", metavar="P", help="a profile of papermill_runs.yaml (default: its first)")
    reproduce.add_argument("--only", nargs="+", metavar="NN", help="these notebooks, and what they need")
    reproduce.add_argument("--force", action="store_true", help="execute them even if they are up to date")
    reproduce.add_argument("--jobs", type=int, metavar="N", help="notebooks at a time (default: the profile's)")
    reproduce.add_argument("--dry-run", action="store_true", help="say what would be executed, and why")
    reproduce.add_argument("--gpu", metavar="G", help="the device that the estimate is for (default: H100)")
    reproduce.set_defaults(command=_reproduce)
    status = commands.add_parser("status", help="show what is fresh, stale or failed")
    status.add_argument("--profile", metavar="P")
    status.set_defaults(command=_status, only=None, force=False)
    commands.add_parser("list", help="show profiles and notebooks").set_defaults(command=_list)
    commands.add_parser("readme", help="copy tables into the README and the cards").set_defaults(command=_readme)
    return parser


def _reproduce(options) -> int:
    if options.dry_run:
        return _status(options)
    ledger, outcomes = run.reproduce(options.profile, options.only, options.force, options.jobs, options.gpu)
    _report(ledger, outcomes)
    return int(any(outcome.status in ("failed", "skipped") for outcome in outcomes.values()))


def _report(ledger: Ledger, outcomes: dict[str, run.Outcome]) -> None:
    """The run table, what went wrong, and where to look."""
    rows = []
    for notebook in ledger.plan.notebooks:
        if notebook.name in outcomes:
            outcome = outcomes[notebook.name]
            seconds = f"{outcome.seconds:.0f}" if outcome.status in ("done", "failed") else ""
            rows.append([notebook.name, outcome.status, seconds, _products(notebook)])
    print(_table(rows, ["notebook", "status", "seconds", "products"]))
    for name, outcome in outcomes.items():
        if outcome.status == "failed":
            print(f"\n{name} failed: {outcome.why}\n  see {_place(ledger.runs / name)}.ipynb and .log")
        elif outcome.status == "skipped":
            print(f"\n{name} skipped: {outcome.why}")
    print(f"\nFigures, tables and their manifest: {_place(ledger.directory)}/")
    print(f"Executed notebooks: {_place(ledger.runs)}/")
    if ledger.undeclared():
        print(f"Not declared in papermill_runs.yaml: {', '.join(ledger.undeclared())}")
    if ledger.plan.not_run:
        print(f"Not run in profile {ledger.plan.profile}: {ledger.plan.not_run}")


def _status(options) -> int:
    ledger, chosen, asked = run.prepare(options.profile, options.only, getattr(options, "jobs", None), dry=True)
    forced = asked if options.force else set()
    states = ledger.forecast(chosen, forced)
    rows = []
    for notebook in chosen:
        entry = ledger.record.get(notebook.name, {})
        last = [f"{entry['seconds']:.0f}" if "seconds" in entry else "", entry.get("finished", "")[:16]]
        rows.append([notebook.name, *states[notebook.name], *last, _products(notebook)])
    print(_table(rows, ["notebook", "status", "why", "seconds", "last run (UTC)", "products"]))
    stale = sum(state != "fresh" for state, _ in states.values())
    print(f"\nprofile {ledger.plan.profile}: {stale} of {len(rows)} notebooks to execute")
    if hasattr(options, "gpu") and (text := run.estimate(ledger, chosen, forced, options.gpu)):
        print(f"\n{text}")
    return 0


def _list(_) -> int:
    plans = plan.load_all()
    print(_table([[p.profile, len(p.notebooks), p.jobs, p.description] for p in plans.values()],
                 ["profile", "notebooks", "jobs", "description"]))  # fmt: skip
    titles = {notebook.name: notebook.title for plan in plans.values() for notebook in plan.notebooks}
    print("\n" + _table([[name, titles[name]] for name in sorted(titles)], ["notebook", "title"]))
    return 0


def _readme(_) -> int:
    try:
        changed = readme.refresh()
    except (OSError, ValueError) as error:
        raise PlanError(str(error)) from error
    for name, new in changed.items():
        print(f"{name}: " + ("tables refreshed" if new else "already up to date"))
    return 0


def _products(notebook: plan.Notebook) -> str:
    return ", ".join(notebook.files)


def _table(rows: list, headers: list[str]) -> str:
    return tabulate(rows, headers, disable_numparse=True, maxcolwidths=[None] + [48] * (len(headers) - 1))


def _place(path: Path) -> str:
    """As short a name of a path as works from here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
