"""``list``: the profiles and notebooks of ``papermill_runs.yaml``."""

from ..runner import plan
from .text import table


def add(subparsers) -> None:
    subparsers.add_parser("list", help="show profiles and notebooks").set_defaults(command=run)


def run(options) -> int:
    plans = plan.load_all()
    rows = [[p.profile, len(p.notebooks), p.jobs, p.description] for p in plans.values()]
    print(table(rows, ["profile", "notebooks", "jobs", "description"]))
    titles = {notebook.name: notebook.title for plan in plans.values() for notebook in plan.notebooks}
    print("\n" + table([[name, titles[name]] for name in sorted(titles)], ["notebook", "title"]))
    return 0
