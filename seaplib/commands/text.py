"""How the commands print a table."""

import textwrap

from tabulate import tabulate

WIDTH = 48  # characters of a cell's line, but for the first column's


def table(rows: list, headers: list[str]) -> str:
    """Rows as text, long cells wrapped; numbers stay as they are written.

    The wrapping is not tabulate's, which takes a cell like "2,098" for an integer and cannot read it (0.10).
    """
    wrapped = [[first, *map(_wrapped, cells)] for first, *cells in rows]
    return tabulate(wrapped, headers, disable_numparse=True)


def _wrapped(cell) -> str:
    lines = (textwrap.wrap(line, WIDTH) or [""] for line in str(cell).split("\n"))
    return "\n".join(line for each in lines for line in each)
