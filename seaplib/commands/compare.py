"""``compare``: a profile's tables beside the committed ones; ``reproduce`` ends with it too."""

from ..runner import plan
from ..runner.parameters import PlanError
from .text import table

HEADERS = ["product", "equal", "within interval", "different", "texts", "where (committed → now)"]


def add(subparsers) -> None:
    parser = subparsers.add_parser("compare", help="compare a profile's tables with the committed ones")
    parser.add_argument("--profile", metavar="P", help="a profile of papermill_runs.yaml (default: its first)")
    parser.add_argument("--with", dest="revision", metavar="REV", default="HEAD", help="a git revision (default: HEAD)")
    parser.set_defaults(command=run)


def run(options) -> int:
    from ..runner import compare

    if options.revision != "HEAD" and not compare.knows(options.revision):
        raise PlanError(f"git knows no revision {options.revision!r} of this project")
    print(report(plan.profile_name(options.profile), options.revision))
    return 0


def report(profile: str, revision: str = "HEAD") -> str:
    """What differs, product by product, and one sentence about all of them."""
    from ..runner import compare  # with pandas beneath, which no other command needs

    found = compare.compare(profile, revision)
    if found is None:
        return f"Nothing to compare with: git's {revision} holds no tables of figures/{profile}."
    return told(found)


def told(found, known: str = "the committed ones") -> str:
    """A :class:`~seaplib.runner.compare.Comparison` for print; ``known`` names the tables compared with."""
    lines = [table(rows, HEADERS)] if (rows := found.listed()) else []
    lines += [f"Only among {known}: {', '.join(found.only_committed)}"] if found.only_committed else []
    lines += [f"Only here: {', '.join(found.only_here)}"] if found.only_here else []
    return "\n".join([*lines, found.summary(known)])
