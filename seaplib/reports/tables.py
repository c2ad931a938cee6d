"""Result frames as tables: csv with everything, LaTeX (booktabs) and Markdown for reading.

The csv is always the full tidy frame. LaTeX and Markdown show the frame itself or a ``display``
frame of text cells made from it, in which ``**x**`` marks the best entry and ``<ins>x</ins>``
(underlined) the second best. The papers' numbers come from ``data/published``.
"""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd

from .. import disk, paths

FLOATS = "%.6g"
AVERAGE = "average"
MISSING = "–"
WIDE = 40  # characters from which a LaTeX column is a paragraph
_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_TEX |= {char: "\\" + char for char in "{}$&#_%"}
_TEX |= {
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "→": r"$\to$",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "∞": r"$\infty$",
    "°": r"$^\circ$",
}
_TEX |= {"ρ": r"$\rho$", "σ": r"$\sigma$", "μ": r"$\mu$", "α": r"$\alpha$", "ℓ": r"$\ell$", "Δ": r"$\Delta$"}
#: mathematics as this package writes it: letters, digits and these commands. A cell may come from a data set or a
#: model, and TeX would run whatever else stands between dollars; ^^5c is a backslash to it.
_GREEK = "rho|sigma|mu|alpha|beta|theta|tau|lambda|Lambda|Delta|ell"
_COMMAND = rf"\\(?:{_GREEK}|to|pm|times|infty|leq|geq|cdot|lVert|rVert)(?![A-Za-z])"
_REST = rf"[A-Za-z0-9_^()+=<>.,/|-]|\{{\w*\}}|{_COMMAND}"
_MATH = re.compile(rf"(\$(?!\S*\^\^)(?:[A-Za-z]|{_COMMAND})(?:{_REST})*\$)")
#: what a spreadsheet would compute; a number may have a sign, and a unit behind it
_FORMULA = re.compile(r"[=@\t\r]|[+-](?!\d[\d.,]*(?:$|%|[ ×][^|!]*$))")


def save(
    frame: pd.DataFrame, name: str, profile: str, caption: str = "", display: pd.DataFrame | None = None
) -> list[Path]:
    """Write ``figures/<profile>/<name>.csv``, ``.tex`` and ``.md``, each atomically; their paths.

    ``frame`` is tidy and goes to the csv whole, floats with six significant digits; ``display``
    (default: ``frame``) is shown in the other two. An index with names counts as columns.
    """
    paths.name(name, "the table")
    frame = _flat(frame)
    shown = frame if display is None else _flat(display)
    folder = paths.figures_dir(profile)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "csv": frame.map(_no_formula).to_csv(index=False, float_format=FLOATS, lineterminator="\n"),
        "tex": latex(shown, name, caption),
        "md": (f"{caption}\n\n" if caption else "") + markdown(shown) + "\n",
    }
    written = []
    for suffix, text in texts.items():
        path = folder / f"{name}.{suffix}"
        with disk.replacing(path) as partial:
            partial.write_text(text, encoding="utf-8", newline="\n")
        written.append(path)
    return written


def points(frame: pd.DataFrame) -> pd.Series:
    """Differences with their intervals as text, in points: "+1.2 [+0.3, +2.0]", from difference, low and high."""
    rows = frame[["difference", "low", "high"]].itertuples(index=False)
    return pd.Series([f"{100 * d:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" for d, low, high in rows], frame.index)


def least(frame: pd.DataFrame) -> pd.Series:
    """The smallest differences that the items show, as text in points, from the column detectable."""
    return frame["detectable"].map(lambda value: MISSING if math.isnan(value) else f"{100 * value:.1f}")


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a GitHub-flavoured Markdown table."""
    cells = _cells(frame).map(_markdown)
    cells.columns = [_markdown(str(column)) for column in cells.columns]
    return cells.to_markdown(index=False, disable_numparse=True)


def _markdown(text: str) -> str:
    """Text of a Markdown cell: only our own marks are HTML, and nothing is a link or an image."""
    if match := re.fullmatch(r"<ins>(.*)</ins>", text):
        return f"<ins>{_markdown(match[1])}</ins>"
    text = text.strip().replace("&", "&amp;").replace("<", "&lt;").replace("](", r"]\(")
    return re.sub(r"\s*\n\s*", "<br>", text).replace("|", r"\|")


def _no_formula(value):
    """A text that a spreadsheet would take for a formula, behind an apostrophe."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def show(frame: pd.DataFrame):
    """A display frame as a notebook shows it, with its marks rendered."""
    from IPython.display import Markdown

    return Markdown(markdown(_flat(frame)))


def latex(frame: pd.DataFrame, name: str, caption: str = "") -> str:
    r"""A frame as a LaTeX ``table`` (package booktabs), labelled ``tab:<name>``.

    A first cell that repeats the cell above stays empty, and a new value starts a ``\midrule`` group,
    if the first column repeats at all. Long text becomes a paragraph column.
    """
    cells = _cells(frame)
    wide = [len(cells) > 0 and cells.iloc[:, place].str.len().max() > WIDE for place in range(cells.shape[1])]
    paragraph = f"p{{{0.8 / max(sum(wide), 1):.2g}\\linewidth}}"
    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes]
    layout = "".join(paragraph if w else "r" if n else "l" for w, n in zip(wide, numeric, strict=True))
    first = cells.iloc[:, 0]
    cells = cells.map(_tex)
    if first.duplicated().any():
        again = first.eq(first.shift())
        starts = cells.iloc[:, 0].where(cells.index == cells.index[0], "\\midrule\n" + cells.iloc[:, 0])
        cells.isetitem(0, starts.mask(again, ""))
    cells.columns = [_tex(str(column)) for column in cells.columns]
    caption = _tex(caption) if caption else None
    body = cells.to_latex(
        index=False, escape=False, column_format=layout, caption=caption, label=f"tab:{name}", position="t"
    )
    start = "\\begin{table}[t]\n"
    return "% needs \\usepackage{booktabs}\n" + body.replace(start, start + "\\centering\\small\n", 1)


def _flat(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.reset_index() if any(frame.index.names) else frame.reset_index(drop=True)


def _cells(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype(object).map(_cell)


def _cell(value) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA:
        return MISSING
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def _tex(text: str) -> str:
    """Text for LaTeX: marks become commands, ``$…$`` without spaces stays mathematics, the rest is escaped."""
    for pattern, command in ((r"\*\*(.*)\*\*", r"\textbf"), (r"<ins>(.*)</ins>", r"\underline")):
        if match := re.fullmatch(pattern, text):
            return f"{command}{{{_tex(match[1])}}}"
    parts = _MATH.split(re.sub(r"\s*\n\s*", " ", text))
    return "".join(part if i % 2 else "".join(_TEX.get(c, c) for c in part) for i, part in enumerate(parts))


RESULT_COLUMNS = {"method", "requested_sparsity"}


def load_results() -> pd.DataFrame:
    """The result tables of all profiles as a single data frame, with columns profile and table.

    A result table has a row per variant and measurement, with at least the columns method and
    requested_sparsity; columns that a table does not have are missing values.
    """
    frames = []
    for path in sorted(paths.figures_dir().glob("*/*.csv")):
        frame = pd.read_csv(path)
        if RESULT_COLUMNS <= set(frame.columns):
            origin = {"profile": path.parent.name, "table": path.stem}
            frames.append(frame.drop(columns=list(origin), errors="ignore").assign(**origin))
    if not frames:
        raise FileNotFoundError(f"no result tables below {paths.figures_dir()}; run: python -m seaplib reproduce")
    results = pd.concat(frames, ignore_index=True)
    return results[["profile", "table", *(c for c in results.columns if c not in ("profile", "table"))]]
