"""Numbers in the README and the cards come from files: their marked blocks are copies of tables.

A block begins with the line ``<!-- from figures/embedded/scorecard.md -->`` and ends with the line
``<!-- end -->``; between them stands the named file, seen from the project's root: a text as it is, a
``.csv`` as a Markdown table.
"""

import re
from pathlib import Path

from . import paths

FILES = ("README.md", "data/bundled/DATA_CARD.md", "data/bundled/MODEL_CARD.md")
BLOCK = re.compile(r"(<!-- from (?P<file>[^\s]+) -->\n).*?(\n<!-- end -->)", re.DOTALL)
INTEGER = r"-?(0|[1-9]\d*)"  # 06.51 is no number
NUMBER = INTEGER + r"(\.\d+)?(e[+-]?\d+)?"


def refreshed(text: str, root: Path | None = None) -> str:
    """``text`` with every marked block replaced by its file's content.

    Raises ``FileNotFoundError`` where a named file is missing.
    """
    root = root or paths.root()

    def block(match: re.Match) -> str:
        return match[1] + _content(root / match["file"]) + match[3]

    return BLOCK.sub(block, text)


def refresh(path: Path) -> bool:
    """Rewrite a file's blocks in place; returns whether anything changed."""
    before = path.read_text("utf-8")
    after = refreshed(before)
    if after != before:
        path.write_text(after, "utf-8")
    return after != before


def _content(path: Path) -> str:
    if path.suffix != ".csv":
        return path.read_text("utf-8").strip()
    import pandas as pd

    from . import tables

    # As text: pandas would read the claim 06.50 as 6.5, and whole numbers beside a missing one as floats.
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    return tables.markdown(pd.DataFrame({name: _column(name, frame[name]) for name in frame}))


def _column(name: str, cells) -> list[str]:
    """A column as it is shown: three decimals where it has numbers and not whole ones alone, else as it is."""
    written = [cell for cell in cells if cell]
    if name.endswith("_id") or all(re.fullmatch(INTEGER, cell) for cell in written):
        return list(cells)
    if all(re.fullmatch(NUMBER, cell) for cell in written):
        return [f"{round(float(cell), 3) + 0.0:.3f}" if cell else "" for cell in cells]  # + 0.0: no -0.000
    return list(cells)
