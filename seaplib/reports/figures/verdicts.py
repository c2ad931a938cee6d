"""The figure of the scorecard (notebook 99): the paper's claims, each with interval, the paper's number and verdict."""

import re
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...evaluation.comparison import HOLDS, REVERSED, UNDECIDED
from .. import claims, tables
from .style import DOUBLE, PALE, PALETTE, styled

VERDICTS = {
    HOLDS: {"color": PALETTE[0], "marker": "o"},
    REVERSED: {"color": PALETTE[3], "marker": "X"},
    UNDECIDED: {"color": "0.45", "marker": "D"},
    claims.NOT_TESTED: {"color": "0.6", "marker": "o", "markerfacecolor": "white"},
}
HOLM = f"{claims.MARK.strip()} does not survive Holm's correction"
LINE, ABOVE, BELOW = 0.29, 0.5, 0.31  # inches: a claim, the legend and headings, the axis
CLAIM, PANEL, ESTIMATE, THEIRS, VERDICT, WORD = 0.04, 2.66, 3.65, 4.87, 5.93, 6.06  # where the columns begin, in inches
ACROSS = 0.92  # width of the interval panel in inches
WORDS, PAPER_WORDS = 47, 16  # characters in a line of a claim and of the paper's number


@styled
def scorecard(frame: pd.DataFrame) -> Figure:
    """A forest plot of the claims of ``claims.gather``, a row each; made for the paper's (part "paper"), at most 20.

    From left to right: the sentence; our estimate with its 95% interval around the null value, every row on a scale
    of its own, to the right what the claim says; the same in numbers; the paper's number; the verdict. A row without
    an estimate has a dash.
    """
    rows = frame.reset_index(drop=True)
    height = LINE * len(rows) + ABOVE + BELOW
    fig = plt.figure(figsize=(DOUBLE, height))
    fig.set_layout_engine("none")
    ax = fig.add_axes((PANEL / DOUBLE, BELOW / height, ACROSS / DOUBLE, LINE * len(rows) / height))
    for line in range(0, len(rows), 2):
        foot = 1 - (ABOVE + LINE * (line + 1)) / height
        fig.add_artist(plt.Rectangle((0, foot), 1, LINE / height, color=PALE, alpha=0.6, linewidth=0, zorder=-1))
    _intervals(ax, rows)
    cells = {
        CLAIM: [textwrap.fill(text, WORDS) for text in rows["claim"]],
        ESTIMATE: [_in_two_lines(claims.estimate(row)) for row in rows.itertuples()],
        THEIRS: [textwrap.fill(text, PAPER_WORDS) or tables.MISSING for text in rows["paper"].fillna("")],
        WORD: claims.marked(rows),
    }
    heads = {CLAIM: "the paper's claim", PANEL: "measured here, with 95% interval", THEIRS: "in the paper"}
    for x, text in (heads | {VERDICT: "verdict"}).items():
        fig.text(x / DOUBLE, (height - ABOVE + 0.06) / height, text, fontweight="bold", fontsize=7)
    for x, texts in cells.items():
        for line, text in enumerate(texts):
            y = 1 - (ABOVE + LINE * (line + 0.5)) / height
            fig.text(x / DOUBLE, y, text, va="center", fontsize=7, linespacing=1.0)
    at = (VERDICT - PANEL + 0.04) / ACROSS  # in widths of the panel
    for line, verdict in enumerate(rows["verdict"]):
        ax.plot(at, line, transform=ax.get_yaxis_transform(), clip_on=False, **VERDICTS[verdict])
    shown = [verdict for verdict in VERDICTS if verdict in set(rows["verdict"])]
    handles = [plt.Line2D([], [], label=verdict, **VERDICTS[verdict] | {"linestyle": ""}) for verdict in shown]
    if any(text.endswith(claims.MARK) for text in cells[WORD]):
        handles.append(plt.Line2D([], [], linestyle="", label=HOLM))
    fig.legend(handles=handles, loc="upper left", ncols=len(handles), borderaxespad=0.3, handlelength=1)
    return fig


def _intervals(ax, rows: pd.DataFrame) -> None:
    """Interval and mark of every row around its null value, what the claim says on the right."""
    signed = rows[["measured", "low", "high"]].sub(rows["null"], axis=0).mul(rows["direction"], axis=0)
    scaled = signed.div(signed.abs().max(axis=1).replace(0, 1), axis=0)
    ax.axvline(0, color="0.4", linewidth=0.8)
    for line, (row, verdict) in enumerate(zip(scaled.itertuples(), rows["verdict"], strict=True)):
        look = VERDICTS[verdict]
        if np.isfinite(row.measured):
            ax.hlines(line, row.low, row.high, color=look["color"])
            ax.plot(row.measured, line, **look)
    ax.set(xlim=(-1.1, 1.1), ylim=(len(rows) - 0.5, -0.5), yticks=[])
    ax.set_xticks([])
    for side, align, text in ((-0.1, "right", "against"), (0.1, "left", "as claimed")):
        below = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points", "va": "top", "fontsize": 6.5}
        ax.annotate(text, (side, 0), (0, -2), ha=align, **below)
    ax.set_xlabel("each row on a scale of its own", fontsize=6.5, labelpad=12)
    ax.spines[:].set_visible(False)
    ax.patch.set_visible(False)


def _in_two_lines(estimate: str) -> str:
    """An estimate and its unit, the interval below: "+1.2 [+0.3, +2.0] points" takes too much width."""
    number, interval, unit = re.fullmatch(r"(\S+)( \[.*\])?(.*)", estimate).groups()
    number = {" ×": f"×{number}", " %": f"{number}%"}.get(unit, number + unit)
    lines = f"{number}\n{(interval or '').strip()}".strip().replace("-", "−")
    return re.sub(r"\+0(?![.\d])", "0", lines)  # no sign before nothing
