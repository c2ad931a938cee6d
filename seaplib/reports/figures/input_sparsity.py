"""Figures of sparse inputs: errors by layer, rules side by side, activations against weights (notebook 11)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ...evaluation import bootstrap
from .. import display_names
from .looks import series_styles
from .style import (
    DENSE_LINE,
    DOUBLE,
    PALE,
    as_number,
    hide_spare,
    layer_axis,
    legend_below,
    styled,
    unique,
)

BEYOND = 2.0


@styled
def layer_errors(frame: pd.DataFrame) -> Figure:
    """Relative ``error`` over layers, a panel per ``role``, a line per ``plan`` (frame of ``output_errors``)."""
    roles, plans = unique(frame["role"]), unique(frame["plan"])
    columns, looks = min(4, len(roles)), series_styles(plans)
    rows = -(-len(roles) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(DOUBLE, 1.45 * rows + 0.5), squeeze=False, sharex=True)
    for ax, role in zip(axes.flat, roles, strict=False):
        for plan in plans:
            part = frame[(frame["role"] == role) & (frame["plan"] == plan)].sort_values("layer")
            ax.plot(part["layer"], part["error"], label=plan, markersize=2.5, **looks[plan])
        ax.set(title=role, ylim=(0, None))
        layer_axis(ax, "layer" if role in roles[-columns:] else "")
    hide_spare(axes, len(roles))
    fig.supylabel("relative error of the output", fontsize=8)
    legend_below(fig, axes.flat[0], min(4, len(plans)))
    return fig


@styled
def sparsity_rules(frame: pd.DataFrame) -> Figure:
    """Perplexity and average accuracy of every rule, in blocks.

    Columns: block, label, perplexity, low, high, accuracy, stderr; the row of block ``dense`` becomes the
    dashed lines. Intervals are 95%. A perplexity beyond ``BEYOND`` times the dense model's is written at the edge.
    """
    dense, rows = frame[frame["block"] == "dense"].iloc[0], frame[frame["block"] != "dense"]
    breaks = rows["block"].ne(rows["block"].shift()).cumsum() - 1
    rows = rows.assign(place=np.arange(len(rows)) + 0.6 * breaks)
    height, limit = rows["place"].max() + 1, BEYOND * dense["perplexity"]
    fig, axes = plt.subplots(1, 2, figsize=(DOUBLE, 0.145 * height + 0.75), sharey=True)
    looks = series_styles(rows["block"])
    for block, part in rows.groupby("block", sort=False):
        look = looks[block] | {"linestyle": "", "elinewidth": 0.8}
        near = part[part["perplexity"] <= limit]
        spread = [near["perplexity"] - near["low"], near["high"] - near["perplexity"]]
        axes[0].errorbar(near["perplexity"], near["place"], xerr=np.abs(spread), **look)
        for row in part[part["perplexity"] > limit].itertuples():
            axes[0].annotate(f"{row.perplexity:.3g} →", (1, row.place), xycoords=axes[0].get_yaxis_transform(),
                             ha="right", va="center", fontsize=6.5, color=look["color"])  # fmt: skip
        spread = [bootstrap.Z * part["stderr"], np.minimum(bootstrap.Z * part["stderr"], 1 - part["accuracy"])]
        axes[1].errorbar(100 * part["accuracy"], part["place"], xerr=100 * np.array(spread), **look)
        axes[1].annotate(block, (1.0, part["place"].iloc[0]), (2, 0), xycoords=axes[1].get_yaxis_transform(),
                         textcoords="offset points", fontsize=6.5, color="0.3", va="center")  # fmt: skip
    axes[0].axvline(dense["perplexity"], **DENSE_LINE)
    axes[1].axvline(100 * dense["accuracy"], **DENSE_LINE)
    axes[0].xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes[0].set_yticks(rows["place"], rows["label"], fontsize=6.5)
    axes[0].set_ylim(height - 0.3, -0.7)
    axes[0].set_xlabel(f"perplexity (dense {dense['perplexity']:.3g})")
    axes[1].set_xlabel(f"average accuracy, % (dense {100 * dense['accuracy']:.1f})")
    for ax in axes:
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", color=PALE, linewidth=0.5)
        ax.set_axisbelow(True)
    return fig


@styled
def activations_against_weights(frame: pd.DataFrame) -> Figure:
    """Perplexity and average accuracy over the ratio, activations against weights; a line per ``of``.

    Columns: of ("activations", "weights"), ratio, perplexity, low, high, accuracy, stderr; ``of`` = "dense" is
    the dashed line. Patterns N:M (column ``pattern``) are open markers, a shape for each.
    """
    dense, sparse = frame[frame["of"] == "dense"].iloc[0], frame[frame["of"] != "dense"]
    of_nm = sorted(sparse.loc[sparse["pattern"].str.contains(":"), "pattern"].unique(), key=len)
    fig, axes = plt.subplots(1, 2, figsize=(DOUBLE, 2.4))
    panels = ((axes[0], "perplexity", 1), (axes[1], "accuracy", 100))
    looks, shapes = series_styles(sparse["of"]), dict(zip(of_nm, "^Dvsph", strict=False))
    for place, (of, part) in enumerate(sparse.groupby("of", sort=True)):
        part = part.assign(ratio=part["ratio"] + 0.006 * (2 * place - 1))  # beside each other at equal shares
        colour = looks[of]["color"]
        for ax, value, scale in panels:
            plain = part[~part["pattern"].isin(of_nm)].sort_values("ratio")
            ax.plot(plain["ratio"], scale * plain[value], label=of, **looks[of])
            low, high = _interval(plain, value)
            ax.vlines(plain["ratio"], scale * low, scale * high, linewidth=0.8, color=colour)
            for step, (pattern, shape) in enumerate(shapes.items()):
                nm = part[part["pattern"] == pattern]
                look = {"marker": shape, "fillstyle": "none", "linestyle": "", "markersize": 4, "color": colour}
                ax.plot(nm["ratio"] + (0.03 + 0.025 * step) * (2 * place - 1), scale * nm[value], **look)
    for ax, value, scale in panels:
        ax.axhline(scale * dense[value], **DENSE_LINE, label="dense model")
        ax.xaxis.set_major_formatter(lambda ratio, _: display_names.sparsity(round(ratio, 4)))
        ax.set(xlabel="share that is zero" + (" (N:M: beside its share)" if of_nm else ""), xlim=(0, 1))
    axes[0].set(yscale="log", ylabel="perplexity")
    wide = np.ptp(np.log(frame["perplexity"])) > 2
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if wide else range(1, 10)))
    axes[0].yaxis.set_major_formatter(as_number)
    axes[0].yaxis.set_minor_formatter(NullFormatter())
    axes[1].set(ylabel="average accuracy, %")
    for pattern, shape in shapes.items():
        axes[0].plot([], [], marker=shape, fillstyle="none", linestyle="", markersize=4, color="0.4", label=pattern)
    axes[0].legend()
    return fig


def _interval(part: pd.DataFrame, value: str) -> tuple[pd.Series, pd.Series]:
    if value == "perplexity":
        return part["low"], part["high"]
    half = bootstrap.Z * part["stderr"]
    return part["accuracy"] - half, (part["accuracy"] + half).clip(upper=1)
