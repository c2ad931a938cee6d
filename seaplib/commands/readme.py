"""``readme``: copy tables into the marked blocks of the README and the cards."""

from ..runner import readme
from ..runner.parameters import PlanError


def add(subparsers) -> None:
    parser = subparsers.add_parser("readme", help="copy tables into the README and the cards")
    parser.set_defaults(command=run)


def run(options) -> int:
    try:
        changed = readme.refresh()
    except (OSError, ValueError) as error:
        raise PlanError(str(error)) from error
    for name, new in changed.items():
        print(f"{name}: " + ("tables refreshed" if new else "already up to date"))
    return 0
