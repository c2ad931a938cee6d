"""Numbers in the README and the cards come from files: their marked blocks are copies of tables.

A block begins with the line ``<!-- from figures/embedded/scorecard.md -->`` and ends with the line
``<!-- end -->``. Between the two lines stands the content of the named file, whose path starts at the
project's root: a text unchanged, a ``.csv`` as a Markdown table.
"""

import re
from pathlib import Path

from .. import paths

FILES = ("README.md", "data/bundled/DATA_CARD.md", "data/bundled/MODEL_CARD.md")
# A block holds no other marker, so that a block without an end cannot swallow the prose up to the next block's end.
BLOCK = re.compile(
    r"^(?P<begin><!-- from (?P<file>\S+) -->\n)(?:(?!<!--\s*(?:from|end)\b).)*?(?P<end>^<!-- end -->)$",
    re.DOTALL | re.MULTILINE,
)
# Any line that is meant as a marker, also a misspelt marker.
MARKER = re.compile(r"^[ \t]*<!--\s*(?:from|end)\b.*", re.MULTILINE | re.IGNORECASE)
INTEGER = r"-?(0|[1-9]\d*)"  # 06.51 is no number
NUMBER = INTEGER + r"(\.\d+)?(e[+-]?\d+)?"


def refreshed(text: str, root: Path | None = None, name: str = "text") -> str:
    """``text`` with every marked block replaced by the named file's content; errors give ``name`` and line.

    Raises ``FileNotFoundError`` where a named file is missing, ``ValueError`` for a marker that is not
    half of a block and for a file that is no table.
    """
    root = root or paths.root()

    def place(position: int) -> str:
        return f"{name}:{text.count(chr(10), 0, position) + 1}"

    ours = {at for match in BLOCK.finditer(text) for at in (match.start("begin"), match.start("end"))}
    for marker in MARKER.finditer(text):
        if marker.start() not in ours:
            line = marker[0].strip()
            raise ValueError(
                f"{place(marker.start())}: {line!r} does not begin or end a block; write the lines "
                "<!-- from FILE --> and <!-- end -->, with nothing before or after them, in turn"
            )

    def block(match: re.Match) -> str:
        if not (root / match["file"]).is_file():
            raise FileNotFoundError(
                f"{place(match.start())}: there is no {match['file']}; make it, or correct the marker"
            )
        return f"{match['begin']}{_content(root / match['file'])}\n{match['end']}"

    return BLOCK.sub(block, text)


def refresh() -> dict[str, bool]:
    """Rewrite the blocks of all ``FILES`` in place, or of none; returns file → whether it changed.

    Raises ``FileNotFoundError`` where one of the files is missing, and as :func:`refreshed` does.
    """
    root = paths.root()
    if missing := [name for name in FILES if not (root / name).is_file()]:
        raise FileNotFoundError(f"{root} has no {', '.join(missing)}; work in a checkout, or set SEAP_ROOT to it")
    before = {name: (root / name).read_text("utf-8") for name in FILES}
    after = {name: refreshed(text, root, name) for name, text in before.items()}
    changed = {name: after[name] != before[name] for name in FILES}
    for name in FILES:
        if changed[name]:
            (root / name).write_text(after[name], "utf-8")
    return changed


def _content(path: Path) -> str:
    if path.suffix != ".csv":
        return path.read_text("utf-8").strip()
    import pandas as pd

    from ..reports import tables

    # As text: pandas would read the claim 06.50 as 6.5, and whole numbers beside a missing one as floats.
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:  # empty, ragged, or no text
        raise ValueError(f"{path} is no table ({' '.join(str(error).split())}); make it again") from error
    return tables.markdown(pd.DataFrame({name: _column(name, frame[name]) for name in frame}))


def _column(name: str, cells) -> list[str]:
    """A column as shown: three decimals for numbers that are not all whole, other cells unchanged."""
    written = [cell for cell in cells if cell]
    if name.endswith("_id") or all(re.fullmatch(INTEGER, cell) for cell in written):
        return list(cells)
    if all(re.fullmatch(NUMBER, cell) for cell in written):
        return [f"{round(float(cell), 3) + 0.0:.3f}" if cell else "" for cell in cells]  # + 0.0: no -0.000
    return list(cells)
