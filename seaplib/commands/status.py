"""``status``: which notebooks of a profile are fresh, stale or failed, and why."""

from ..runner import run as runner
from ..runner.manifest import Ledger
from ..runner.plan import Notebook
from .text import table


def add(subparsers) -> None:
    parser = subparsers.add_parser("status", help="show what is fresh, stale or failed")
    parser.add_argument("--profile", metavar="P")
    parser.set_defaults(command=run)


def run(options) -> int:
    ledger, chosen, _ = runner.prepare(options.profile, dry=True)
    show(ledger, chosen)
    return 0


def show(ledger: Ledger, chosen: list[Notebook], forced: set[str] = frozenset()) -> None:
    """Print the state of the chosen notebooks, and how many of them are to be executed."""
    states = ledger.forecast(chosen, forced)
    rows = []
    for notebook in chosen:
        entry = ledger.record.get(notebook.name, {})
        last = [f"{entry['seconds']:.0f}" if "seconds" in entry else "", entry.get("finished", "")[:16]]
        rows.append([notebook.name, *states[notebook.name], *last, ", ".join(notebook.files)])
    print(table(rows, ["notebook", "status", "why", "seconds", "last run (UTC)", "products"]))
    stale = sum(state != "fresh" for state, _ in states.values())
    print(f"\nprofile {ledger.plan.profile}: {stale} of {len(rows)} notebooks to execute")
