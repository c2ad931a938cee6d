"""Figures of pruned models' results: accuracy, perplexity, speed and the classifier (notebooks 05 to 09).

The frames of ``evaluate``, ``perplexity`` and ``compare_speed`` are drawn as they are; means over calibration seeds
and their standard errors come from ``summaries.summary``.
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter

from ...evaluation import bootstrap, comparison
from .. import display_names, summaries, tables
from .looks import allocation_legend, allocation_styles, variant_styles
from .style import (
    DENSE_LINE,
    DIVERGING,
    DOUBLE,
    PALE,
    SINGLE,
    as_number,
    as_percent,
    cells,
    hide_spare,
    label_rows,
    name_ticks,
    styled,
    unique,
)

SPEED_TITLES = {"decode": "decode, tokens/s", "prefill": "prefill, tokens/s"}


@styled
def confusion(matrices: pd.DataFrame | Mapping[str, pd.DataFrame]) -> Figure:
    """Counts of true (rows) and predicted (columns) tasks; colours are shares of the row.

    One matrix, or a mapping title → matrix, which are drawn side by side.
    """
    matrices = {"": matrices} if isinstance(matrices, pd.DataFrame) else matrices
    size = (SINGLE, 0.95 * SINGLE) if len(matrices) == 1 else (DOUBLE, 0.58 * DOUBLE)
    fig, axes = plt.subplots(1, len(matrices), figsize=size, squeeze=False)
    for ax, (title, matrix) in zip(axes.flat, matrices.items(), strict=True):
        order = display_names.task_order([*matrix.index, *matrix.columns])
        counts = matrix.reindex(index=order, columns=order, fill_value=0)
        shares = counts.div(counts.sum(axis=1).clip(lower=1), axis=0)
        cells(ax, shares, counts.astype(str), vmin=0, vmax=1)
        ax.set_aspect("equal")
        name_ticks(ax, order, order if ax is axes[0, 0] else [])
        ax.set(xlabel="predicted", ylabel="true" if ax is axes[0, 0] else "", title=title)
    return fig


@styled
def perplexity(frame: pd.DataFrame) -> Figure:
    """Fig. 7: ``perplexity`` (log scale) of every variant; a column of panels per sparsity.

    A row of panels per ``dataset`` and, where there are several, window ``preset``. Geometric mean
    over calibration seeds, written beside its dot; ``low`` and ``high`` are drawn where present.
    The dashed line is the dense model.
    """
    frame = frame.assign(label=display_names.variants(frame), panel=frame["dataset"].map(display_names.task))
    if "preset" in frame and frame["preset"].nunique() > 1:
        frame["panel"] += "\n" + frame["preset"]
    pruned = frame[frame["requested_sparsity"] > 0]
    order, panels = display_names.variant_order(pruned), unique(frame["panel"])
    looks, sparsities = variant_styles(order), sorted(pruned["requested_sparsity"].unique())
    size = (DOUBLE, len(panels) * (0.16 * len(order) + 0.55) + 0.1)
    fig, axes = plt.subplots(len(panels), len(sparsities), figsize=size, squeeze=False, sharey=True)
    for panel, row in zip(panels, axes, strict=True):
        rows = frame[frame["panel"] == panel].set_index(["requested_sparsity", "label"])
        values = np.log(rows[[c for c in ("perplexity", "low", "high") if c in rows]])
        means = np.exp(values.groupby(level=[0, 1]).mean())
        dense = means.loc[0.0, "perplexity"].iloc[0] if 0.0 in means.index else np.nan
        for ax, sparsity in zip(row, sparsities, strict=True):
            for label, cell in means.loc[sparsity].iterrows():
                place, end = order.index(label), cell.get("high", cell["perplexity"])
                ax.plot(cell["perplexity"], place, linestyle="", **looks[label])
                ax.hlines(place, cell.get("low", end), end, color=looks[label]["color"], linewidth=0.8)
                _beside(ax, f"{cell['perplexity']:#.3g}".rstrip("."), end, place)
            _rows(ax, order)
            ax.axvline(dense, **DENSE_LINE)
            _log_axis(ax)
            ax.set_title(f"{display_names.sparsity(sparsity)} sparsity" if panel == panels[0] else "")
            ax.set_xlabel("perplexity" if np.isnan(dense) else f"perplexity (dense {dense:.3g})")
        row[0].set_ylabel(panel if len(panels) > 1 else "")
    return fig


def _log_axis(ax) -> None:
    """A logarithmic x axis with room for text on the right and, however short, some labelled ticks."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ax.set_xlim(low, high * (high / low) ** 0.15)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7) if high / low < 8 else (1, 2, 5)))
    ax.xaxis.set_major_formatter(as_number)
    ax.xaxis.set_minor_formatter(NullFormatter())


@styled
def zero_shot(frame: pd.DataFrame) -> Figure:
    """Tables 1 and 4 as dots with 95% intervals: rows are variants, columns tasks and their average.

    One block per sparsity; the dashed line is the dense model, the dotted line guessing (a column
    ``chance``). Takes the frame of ``evaluate``.
    """
    means = summaries.summary(frame)
    dense = means[means["requested_sparsity"] == 0].set_index("task")["value"]
    guessed = frame.groupby("task")["chance"].mean().dropna() if "chance" in frame else {}
    pruned = means[means["requested_sparsity"] > 0]
    tasks = [
        *display_names.task_order(task for task in means["task"].unique() if task != tables.AVERAGE),
        tables.AVERAGE,
    ]
    blocks = {sparsity: block for sparsity, block in pruned.groupby("requested_sparsity")}
    order = display_names.variant_order(pruned)
    looks = variant_styles(order)
    height = len(blocks) * (0.15 * len(order) + 0.25) + 0.6
    fig, axes = plt.subplots(
        len(blocks), len(tasks), figsize=(DOUBLE, height), squeeze=False, sharex="col", sharey=True,
        width_ratios=[1] * (len(tasks) - 1) + [1.6],
    )  # fmt: skip
    for (sparsity, block), row in zip(blocks.items(), axes, strict=True):
        for ax, task in zip(row, tasks, strict=True):
            found = block[block["task"] == task].set_index("label")
            _dots(ax, [found.loc[[label]] if label in found.index else found[:0] for label in order], order, looks)
            if task in dense:
                ax.axvline(dense[task], **DENSE_LINE)
            if task in guessed:
                ax.axvline(guessed[task], color="0.4", linestyle=":", linewidth=0.8, zorder=0)
            ax.xaxis.set_major_formatter(lambda value, _: f"{round(100 * value)}")
        row[0].set_ylabel(f"{display_names.sparsity(sparsity)} sparsity")
    for ax, task in zip(axes[0], tasks, strict=True):
        # after all blocks are drawn: a limit that is set no longer grows; all zero is a result too
        ax.set_xlim(right=max(ax.get_xlim()[1], ax.get_xlim()[0] + 0.1))
        if task != tables.AVERAGE:
            ax.xaxis.set_major_locator(FixedLocator(_two_ticks(*ax.get_xlim())))
        name = "average" if task == tables.AVERAGE else display_names.task(task).replace("mini-", "mini-\n")
        ax.set_title(name, fontsize=6, fontweight="bold" if task == tables.AVERAGE else "normal")
    lines = ["dashed: dense model"] * bool(len(dense)) + ["dotted: guessing"] * bool(len(guessed))
    fig.supxlabel("accuracy, %" + (f" ({'; '.join(lines)})" if lines else ""), fontsize=8)
    return fig


def _dots(ax, rows, order, looks) -> None:
    """One dot with its 95% interval per label, the first label on top; a share lies between 0 and 1."""
    for place, (label, cell) in enumerate(zip(order, rows, strict=True)):
        error = bootstrap.Z * cell["stderr"]
        ends = [np.minimum(error, cell["value"]), np.minimum(error, 1 - cell["value"])]
        ax.errorbar(cell["value"], [place] * len(cell), xerr=ends, linestyle="", elinewidth=0.8, **looks[label])
    _rows(ax, order)


def _rows(ax, order) -> None:
    """Variant labels down the y axis, the first on top."""
    label_rows(ax, order)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", color=PALE, linewidth=0.5)
    ax.set_axisbelow(True)


def _beside(ax, text: str, x: float, y: float) -> None:
    """A number to the right of a dot."""
    ax.annotate(text, (x, y), (4, 0), textcoords="offset points", va="center", fontsize=6.5)


def _two_ticks(low: float, high: float) -> list[float]:
    """Two round numbers that span a narrow axis."""
    for step in (0.5, 0.25, 0.2, 0.1, 0.05, 0.02, 0.01):
        ticks = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
        if len(ticks) >= 2:
            return [ticks[0], ticks[-1]]
    return [low, high]


@styled
def sparsity_settings(frame: pd.DataFrame) -> Figure:
    """Table 3: average accuracy of every method under each ``allocation``, with 95% intervals.

    A panel per sparsity; the dashed line is the dense model. Takes the frame of ``evaluate``; open markers are
    allocations that protect the last layers.
    """
    means = summaries.by_allocation(frame)
    dense = means.loc[means["allocation"] == "none", "value"]
    means = means[means["allocation"] != "none"]
    allocations = unique(means["allocation"])
    order, looks = display_names.variant_order(means), allocation_styles(allocations)
    pairs = set(zip(means["label"], means["allocation"], strict=True))
    slots = [(label, name) for label in order for name in [*allocations, None]]
    lines = [slot for slot in slots if slot in pairs or slot[1] is None]
    place = {line: y for y, line in enumerate(lines)}  # a line each, and a free line behind every method
    middle = [np.mean([y for (label, name), y in place.items() if label == wanted and name]) for wanted in order]
    sparsities = sorted(means["requested_sparsity"].unique())
    fig, axes = plt.subplots(
        1, len(sparsities), figsize=(DOUBLE, 0.1 * len(lines) + 1.0), squeeze=False, sharex=True, sharey=True
    )
    for ax, sparsity in zip(axes.flat, sparsities, strict=True):
        for allocation in allocations:
            rows = means[(means["allocation"] == allocation) & (means["requested_sparsity"] == sparsity)]
            look = looks[allocation] | {"linestyle": "", "elinewidth": 0.8, "xerr": bootstrap.Z * rows["stderr"]}
            ax.errorbar(rows["value"], [place[label, allocation] for label in rows["label"]], **look)
        if len(dense):
            ax.axvline(dense.iloc[0], **DENSE_LINE)
        ax.grid(axis="x", color=PALE, linewidth=0.5)
        ax.set_axisbelow(True)
        ax.set_yticks(middle, order, fontsize=6.5)
        ax.set_ylim(len(lines) - 1, -1)
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_major_formatter(as_percent)
        ax.set(title=f"{display_names.sparsity(sparsity)} sparsity", xlabel="average accuracy, %")
    allocation_legend(fig, allocations, dense=len(dense) > 0)
    return fig


@styled
def accuracy_by_sparsity(frame: pd.DataFrame) -> Figure:
    """Average accuracy over sparsity: a panel per method, a line per ``allocation``, all from the dense model.

    Dashed lines with open markers protect the last layers, dotted ones leave the first alone. Takes the frame of
    ``evaluate``; the intervals of these averages are in ``sparsity_settings``.
    """
    means = summaries.by_allocation(frame)
    dense = means.loc[means["allocation"] == "none", "value"].mean()
    means = means[means["allocation"] != "none"]
    order, looks = display_names.variant_order(means), allocation_styles(unique(means["allocation"]))
    columns = len(order) if len(order) <= 4 else 3
    rows = -(-len(order) // columns)
    size = (DOUBLE, 1.45 * rows + 0.6)
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=True, sharey=True)
    for ax, label in zip(axes.flat, order, strict=False):
        for name, look in looks.items():
            line = means[(means["label"] == label) & (means["allocation"] == name)].sort_values("requested_sparsity")
            if len(line):
                ax.plot([0, *line["requested_sparsity"]], [dense, *line["value"]], label=name, **look)
        ax.set_title(label, fontsize=7)
        ax.grid(axis="y", color=PALE, linewidth=0.5)
        ax.xaxis.set_major_formatter(as_percent)
        ax.yaxis.set_major_formatter(as_percent)
    hide_spare(axes, len(order))
    for ax in axes.flat[max(0, len(order) - columns) : len(order)]:  # the lowest of each column
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("sparsity, %")
    fig.supylabel("average accuracy, %", fontsize=8)
    allocation_legend(fig, looks)
    return fig


@styled
def differences_by_task(frame: pd.DataFrame) -> Figure:
    """Paired differences in points: rows are pairs (a − b), columns tasks and their mean; a panel per sparsity.

    Takes a single metric of ``comparison.crossed``'s frame across tasks. Bold where the 95% interval excludes 0.
    """
    frame = frame.assign(pair=frame["a"] + " − " + frame["b"])
    pairs, sparsities = unique(frame["pair"]), sorted(frame["requested_sparsity"].unique())
    tasks = display_names.task_order(name for name in frame["task"] if name != comparison.POOLED)
    columns, top = [*tasks, comparison.POOLED], max(float(frame["difference"].abs().max()), 0.01)
    size = (DOUBLE, len(sparsities) * (0.16 * len(pairs) + 0.25) + 0.6)
    fig, axes = plt.subplots(len(sparsities), 1, figsize=size, squeeze=False, sharex=True)
    for ax, sparsity in zip(axes.flat, sparsities, strict=True):
        part = frame[frame["requested_sparsity"] == sparsity]
        square = part.pivot(index="pair", columns="task", values="difference").reindex(index=pairs, columns=columns)
        text = square.map(_signed_points)
        written = cells(ax, square, text, cmap=DIVERGING, vmin=-top, vmax=top)
        for row in part.itertuples():
            if row.low > 0 or row.high < 0:
                written[row.pair, row.task].set_fontweight("bold")
        ax.axvline(len(tasks), color="white", linewidth=3)
        ax.set_yticks(np.arange(len(pairs)) + 0.5, pairs, rotation=0, fontsize=6.5)
        ax.set_xticks(
            np.arange(len(columns)) + 0.5, [*(display_names.task(task) for task in tasks), "mean"], rotation=30,
            ha="right", rotation_mode="anchor",
        )  # fmt: skip
        ax.tick_params(length=0)
        ax.tick_params(axis="x", labelsize=6.5, labelbottom=ax is axes[-1, 0])
        ax.set(xlabel="", ylabel="", title=f"{display_names.sparsity(sparsity)} sparsity")
    fig.supxlabel("difference in points; bold: the 95% interval excludes 0", fontsize=7)
    return fig


def _signed_points(difference: float) -> str:
    """A difference in whole points; zero has no sign, a missing difference is empty."""
    if np.isnan(difference):
        return ""
    points = round(100 * difference)
    return f"{points:+d}".replace("-", "−") if points else "0"


@styled
def inference_speed(frame: pd.DataFrame) -> Figure:
    """Table 2: decode and prefill speed with their spread, and parameter bytes; a row of panels per ``model``.

    Takes the frame of ``compare_speed``: name, measure, tokens_per_second, low, high, ratio,
    parameter_bytes, and ``model`` if there are several; the ratio to the reference stands beside the dot.
    """
    frame = frame if "model" in frame else frame.assign(model="")
    subjects, names = unique(frame["model"]), unique(frame["name"])
    measures, looks = unique(frame["measure"]), variant_styles(names)
    size = (DOUBLE, len(subjects) * max(0.19 * len(names) + 0.45, 1.2) + 0.15)
    fig, panels = plt.subplots(len(subjects), len(measures) + 1, figsize=size, squeeze=False, sharey=True)
    for subject, axes in zip(subjects, panels, strict=True):
        part = frame[frame["model"] == subject]
        for ax, measure in zip(axes, measures, strict=False):
            rows = part[part["measure"] == measure]
            for row in rows.itertuples():
                place = names.index(row.name)
                spread = [[row.tokens_per_second - row.low], [row.high - row.tokens_per_second]]
                ax.errorbar(row.tokens_per_second, place, xerr=spread, elinewidth=0.8, **looks[row.name])
                _beside(ax, f"×{row.ratio:.2f}", row.high, place)
            ax.set_xlim(0, 1.2 * rows["high"].max())
            ax.set_title(SPEED_TITLES.get(measure, measure) if subject == subjects[0] else "")
        sizes = part.drop_duplicates("name")
        bytes_of = zip(sizes["name"], sizes["parameter_bytes"] / 2**20, strict=True)
        for name, mib in bytes_of:
            axes[-1].barh(names.index(name), mib, 0.6, color=looks[name]["color"])
        axes[-1].set_title("parameters, MiB" if subject == subjects[0] else "")
        for ax in axes:
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.grid(axis="x", color=PALE, linewidth=0.5)
            ax.set_axisbelow(True)
            ax.tick_params(axis="y", length=0)
        axes[0].set_yticks(range(len(names)), names, fontsize=6.5)
        axes[0].set_ylim(len(names) - 0.5, -0.5)
        axes[0].set_ylabel(subject.replace(" (", "\n("), fontsize=7)
    return fig
