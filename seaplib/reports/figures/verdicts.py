"""The figure of the scorecard (notebook 99): every claim with its interval and verdict, a few in words, many by id."""

import itertools
import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from .style import DOUBLE, PALE, PALETTE, styled

VERDICTS = {"holds": (PALETTE[2], "o"), "undecided": ("0.5", "D"), "does not hold": (PALETTE[3], "X")}
FEW = 40  # claims that still fit on a page with their words
COLUMNS, PAGE = 5, 9.2  # of many claims; the height of a page in inches


@styled
def scorecard(frame: pd.DataFrame) -> Figure:
    """A forest plot of claims: ``measured`` with its interval ``low``-``high``, marked by ``verdict``.

    Every row has its own scale, so that its interval fills the panel: what counts is on which side
    of the line (no effect) it lies. Where the no-effect value is not 0, column ``null`` holds it.

    Up to ``FEW`` claims stand in words, with ``unit`` behind their numbers. More of them stand in
    columns on one page, by ``claim_id`` alone and under the notebook that it begins with; their
    words are in the table.
    """
    rows = frame.reset_index(drop=True)
    fig = _by_number(rows) if len(rows) > FEW and "claim_id" in rows else _in_words(rows)
    shown = [verdict for verdict in VERDICTS if verdict in set(rows["verdict"])]
    ax = fig.axes[0]
    handles = [ax.plot([], [], color=VERDICTS[v][0], marker=VERDICTS[v][1], label=v)[0] for v in shown]
    fig.legend(handles=handles, loc="outside upper left", ncols=3)
    return fig


def _in_words(rows: pd.DataFrame) -> Figure:
    fig, ax = plt.subplots(figsize=(DOUBLE, 0.2 * len(rows) + 0.6))
    _intervals(ax, rows, range(len(rows)))
    for place, row in rows.iterrows():
        unit = f" {row['unit']}" if "unit" in rows and isinstance(row["unit"], str) else ""
        text = f"{row['measured']:.3g} [{row['low']:.3g}, {row['high']:.3g}]{unit}" if row.notna()["measured"] else "–"
        ax.annotate(text, (1.04, place), xycoords=ax.get_yaxis_transform(), va="center", fontsize=5.8)
    texts = [textwrap.fill(claim, 72) for claim in rows["claim"]]
    ax.set_yticks(range(len(rows)), texts, fontsize=5.8, linespacing=0.95)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    return fig


def _by_number(rows: pd.DataFrame) -> Figure:
    notebooks = rows["claim_id"].astype(str).str.partition(".")[0].tolist()
    lengths = itertools.count(-(-len(rows) // COLUMNS))
    columns = next(made for made in (_columns(notebooks, n) for n in lengths) if len(made) <= COLUMNS)
    longest = max(map(len, columns))
    height = min(0.17 * longest + 0.6, PAGE)
    size = min(6.0, 72 * 0.75 * (height - 0.6) / longest)  # of the numbers, in points: three quarters of a line
    fig, axes = plt.subplots(1, len(columns), figsize=(DOUBLE, height), squeeze=False)
    for ax, lines in zip(axes.flat, columns, strict=True):
        claims = {place: line for line, place in enumerate(lines) if place is not None}
        _intervals(ax, rows.loc[list(claims)], claims.values())
        ax.set_yticks(list(claims.values()), rows.loc[list(claims), "claim_id"], fontsize=size)
        ax.grid(axis="y", color=PALE, linewidth=0.4)
        ax.set_axisbelow(True)
        for line in set(range(len(lines))) - set(claims.values()):
            ax.axhspan(line - 0.5, line + 0.5, color=PALE, zorder=2)
            title = f"notebook {notebooks[lines[line + 1]]}"
            ax.text(0, line, title, ha="center", va="center_baseline", fontsize=size, fontweight="bold", zorder=3)
        ax.set_ylim(longest - 0.5, -0.5)
    return fig


def _columns(notebooks: Sequence[str], length: int) -> list[list[int | None]]:
    """The places of claims in columns of ``length`` lines; None is the line of a notebook's title.

    A title stands before the first claim of a notebook and again on top of a column that goes on
    with a notebook, never alone at the end.
    """
    columns: list[list[int | None]] = [[]]
    for place, name in enumerate(notebooks):
        titled = place == 0 or notebooks[place - 1] != name
        if columns[-1] and len(columns[-1]) + 1 + titled > length:
            columns.append([])
        columns[-1] += [None, place] if titled or not columns[-1] else [place]
    return columns


def _intervals(ax, rows: pd.DataFrame, lines) -> None:
    """Interval and mark of every row on its line, each on a scale of its own around its null value."""
    null = rows["null"].fillna(0) if "null" in rows else 0.0
    centred = rows[["measured", "low", "high"]].sub(null, axis=0)
    centred = centred.div(centred.abs().max(axis=1).replace(0, 1), axis=0)
    ax.axvline(0, color="0.4", linewidth=0.8)
    for line, row, verdict in zip(lines, centred.itertuples(), rows["verdict"], strict=True):
        colour, marker = VERDICTS.get(verdict, ("0.5", "D"))
        ax.hlines(line, row.low, row.high, color=colour)
        ax.plot(row.measured, line, marker=marker, color=colour)
    ax.set(xlim=(-1.1, 1.1), xticks=[0], xticklabels=["no effect"])
    ax.tick_params(axis="y", length=0)
