"""One style for all figures, and their export.

Widths are a paper's columns in inches, fonts are 7-8 pt and embedded as TrueType (no Type 3),
colours are seaborn's colour-blind palette, and no line or point relies on colour alone. A user's
matplotlibrc has no influence. Files carry no dates and no versions: the same figure is the same
bytes.
"""

import itertools
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from ... import disk, paths
from .. import display_names

SINGLE, DOUBLE = 3.3, 6.9  # column widths in inches
PALETTE = [tuple(colour) for colour in sns.color_palette("colorblind", 10)]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "p"]
LINE_MARKERS = "osD^vPX<>ph"  # of lines coloured by shades(), in an order of their own
SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"
CELLS, LOSSES = "Blues", "rocket_r"  # heat maps with numbers written in: shares and results, points lost
PALE = "0.92"  # grid lines, and bands behind text
DENSE = "0.15"  # the unpruned model is always this grey
DENSE_LINE = {"color": DENSE, "linestyle": "--", "linewidth": 0.8, "zorder": 0}
RC = {
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "figure.constrained_layout.use": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "mathtext.fontset": "dejavusans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "axes.prop_cycle": plt.cycler(color=PALETTE),
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
}


def style():
    """Context manager under which all figures are drawn and saved: matplotlib's defaults and ``RC``."""
    return plt.style.context(["default", RC])


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """``draw`` under ``style()``; the figure comes back laid out for good, and closed for pyplot.

    So a notebook shows it once, as the cell's last expression, nothing piles up in memory, and
    saving it again, in whatever format, moves nothing.
    """

    @wraps(draw)
    def wrapper(*args, **kwargs) -> Figure:
        with style():
            fig = draw(*args, **kwargs)
            fig.draw_without_rendering()
            fig.set_layout_engine("none")
        plt.close(fig)
        return fig

    return wrapper


def save(fig: Figure, name: str, profile: str) -> list[Path]:
    """Write ``figures/<profile>/<name>.pdf`` and ``.png`` (300 dpi), each atomically; their paths."""
    paths.name(name, "the figure")
    folder = paths.figures_dir(profile)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {
        "pdf": {"Creator": "seaplib", "Producer": "matplotlib", "CreationDate": None},
        "png": {"Software": None},
    }
    written = []
    for suffix, entries in metadata.items():
        path = folder / f"{name}.{suffix}"
        with style(), disk.replacing(path) as partial:
            fig.savefig(partial, format=suffix, metadata=entries)
        written.append(path)
    return written


def mark(place: int) -> dict:
    """The colour and marker of a place in an order."""
    return {"color": PALETTE[place % 10], "marker": MARKERS[place % 10]}


def task_styles(names) -> dict[str, dict]:
    """Colour and marker of every task; a known task looks the same in every figure."""
    known = list(display_names.TASKS)
    order = display_names.task_order(names)
    place = {
        name: known.index(display_names.base_task(name)) for name in order if display_names.base_task(name) in known
    }
    spare = [index for index in range(len(PALETTE)) if index not in place.values()] or [0]
    unknown = [name for name in order if name not in place]
    place |= {name: spare[index % len(spare)] for index, name in enumerate(unknown)}
    return {name: mark(place[name]) for name in order}


def shades(values) -> dict:
    """A sequential colour per value, light to dark, all legible on white."""
    values = sorted(set(values))
    colours = sns.color_palette(f"{SEQUENTIAL}_r", len(values) + 1)[1:]
    return dict(zip(values, colours, strict=True))


def matrix(ax, frame, value: str) -> None:
    """An annotated square heat map on ``ax`` of ``value`` over the tasks ``task_a`` × ``task_b``."""
    order = display_names.task_order([*frame["task_a"], *frame["task_b"]])
    square = frame.pivot(index="task_a", columns="task_b", values=value).reindex(index=order, columns=order)
    square = square.combine_first(square.T)
    off = square.values[~np.eye(len(order), dtype=bool)]
    low, high = (np.nanmin(off), np.nanmax(off)) if off.size else (0, 1)
    text = square.map(lambda number: "" if np.isnan(number) else f"{number:.2f}".replace("0.", "."))
    cells(ax, square, text, fontsize=5.5, vmin=low - 0.1 * (high - low), vmax=high)
    ax.set_aspect("equal")
    name_ticks(ax, order, order)


def cells(ax, values: pd.DataFrame, text: pd.DataFrame, fontsize: float = 6.5, **look) -> dict[tuple, Text]:
    """A heat map of ``values`` with ``text`` written in, the first row on top; (row, column) → the text of the cell.

    ``look`` goes to ``pcolormesh``. seaborn's heat map would draw the whole figure to see whether its labels overlap.
    """
    numbers = np.ma.masked_invalid(values.to_numpy(float))
    mesh = ax.pcolormesh(numbers, **{"cmap": CELLS, "edgecolors": "white", "linewidth": 0.5} | look)
    ax.set(xlim=(0, values.shape[1]), ylim=(values.shape[0], 0))
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    light = mesh.to_rgba(numbers)[..., :3] @ (0.2126, 0.7152, 0.0722) > 0.6
    written = {}
    for (y, row), (x, column) in itertools.product(enumerate(values.index), enumerate(values.columns)):
        if text.iloc[y, x]:
            look = {"color": DENSE if light[y, x] else "white", "fontsize": fontsize, "ha": "center", "va": "center"}
            written[row, column] = ax.text(x + 0.5, y + 0.5, text.iloc[y, x], **look)
    return written


def unique(values) -> list:
    """Every value once, in the order of appearance."""
    return list(dict.fromkeys(values))


def as_percent(value: float, _=None) -> str:
    """A share on an axis whose label says %."""
    return f"{100 * value:.0f}"


def as_number(value: float, _=None) -> str:
    """A number on a logarithmic axis, without powers of ten."""
    return f"{value:g}"


def legend_below(fig: Figure, ax, columns: int, **options) -> None:
    """One legend for all panels, from the labels of ``ax``."""
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=columns, **options)


def label_rows(ax, labels) -> None:
    """Labels down the y axis, the first on top."""
    ax.set_yticks(range(len(labels)), labels, fontsize=6.5)
    ax.set_ylim(len(labels) - 0.5, -0.5)


def hide_spare(axes, used: int) -> None:
    """Hide the panels of a grid behind the first ``used``."""
    for ax in axes.flat[used:]:
        ax.set_visible(False)


def name_ticks(ax, columns, rows) -> None:
    """Task names on the ticks of a heat map."""
    shown = [display_names.task(name) for name in columns]
    ax.set_xticks(np.arange(len(columns)) + 0.5, shown, rotation=40, ha="right",
                  rotation_mode="anchor")  # fmt: skip
    ax.set_yticks(np.arange(len(rows)) + 0.5, [display_names.task(name) for name in rows], rotation=0)
    ax.tick_params(length=0)


def layer_axis(ax, label: str = "layer") -> None:
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))
    ax.set_xlabel(label)


def note(ax, text: str, x: float, y: float) -> None:
    """A small word above the right end of a line."""
    ax.annotate(text, (x, y), (0, 2), textcoords="offset points", ha="right", va="bottom", fontsize=6, color="0.4")
