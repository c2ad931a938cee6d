"""Numbers in the README come from files: its marked blocks are copies of exported tables.

    <!-- from figures/embedded/scorecard.md -->
    …the table…
    <!-- end -->
"""

import re
from pathlib import Path

from . import paths

BLOCK = re.compile(r"(<!-- from (?P<file>[^\s]+) -->\n).*?(\n<!-- end -->)", re.DOTALL)


def refreshed(text: str, root: Path | None = None) -> str:
    """``text`` with every marked block replaced by its file's content.

    Raises ``FileNotFoundError`` where a named file is missing.
    """
    root = root or paths.root()

    def block(match: re.Match) -> str:
        return match[1] + (root / match["file"]).read_text("utf-8").strip() + match[3]

    return BLOCK.sub(block, text)


def refresh(path: Path | None = None) -> bool:
    """Rewrite the README's blocks in place; returns whether anything changed."""
    path = path or paths.root() / "README.md"
    before = path.read_text("utf-8")
    after = refreshed(before)
    if after != before:
        path.write_text(after, "utf-8")
    return after != before
