"""``python -m seaplib COMMAND``: papermill_runs.yaml from the command line.

Exit status: 0 everything is up to date, 1 a notebook failed, 2 the request cannot be carried out,
130 interrupted.
"""

import argparse
import signal
import sys

from .commands import COMMANDS
from .runner.parameters import PlanError


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; ``options.command(options)`` runs the chosen command."""
    made = argparse.ArgumentParser("python -m seaplib", description="Regenerate every figure and table of a profile.")
    subparsers = made.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add(subparsers)
    return made


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
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


if __name__ == "__main__":
    sys.exit(main())
