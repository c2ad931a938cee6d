"""How the commands print a table."""

from tabulate import tabulate


def table(rows: list, headers: list[str]) -> str:
    """Rows as text, long cells wrapped; numbers stay as they are written."""
    return tabulate(rows, headers, disable_numparse=True, maxcolwidths=[None] + [48] * (len(headers) - 1))
