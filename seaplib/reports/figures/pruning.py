"""Figures of single layers and of masks: remove tests, sparsity by layer, kept units (notebooks 03, 04)."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ...evaluation import bootstrap
from .. import display_names
from .looks import allocation_legend, allocation_styles
from .style import (
    DENSE,
    DOUBLE,
    LINE_MARKERS,
    PALETTE,
    SINGLE,
    layer_axis,
    legend_below,
    matrix,
    shades,
    styled,
    unique,
)


@styled
def remove_test(frame: pd.DataFrame) -> Figure:
    """Figs. 5, 6: ``value`` when one ``layer`` alone is pruned, a line per ``sparsity``.

    A panel per ``task`` and, where the frame has several, per ``metric``. ``stderr`` becomes a 95%
    band; columns ``dense`` and ``chance`` horizontal lines.
    """
    frame = frame if "metric" in frame else frame.assign(metric="accuracy")
    colours = shades(frame["sparsity"])
    metrics = {task: rows["metric"].unique() for task, rows in frame.groupby("task")}
    panels = [(task, metric) for task in display_names.task_order(metrics) for metric in metrics[task]]
    width = SINGLE if len(panels) == 1 else DOUBLE
    fig, axes = plt.subplots(1, len(panels), figsize=(width, 2.6), squeeze=False, sharey=True)
    for ax, (task, metric) in zip(axes.flat, panels, strict=True):
        panel = frame[(frame["task"] == task) & (frame["metric"] == metric)].sort_values("layer")
        for (sparsity, colour), marker in zip(colours.items(), LINE_MARKERS * 9, strict=False):
            line = panel[panel["sparsity"] == sparsity]
            if "stderr" in line:
                low, high = ((line["value"] + side * bootstrap.Z * line["stderr"]).clip(0, 1) for side in (-1, 1))
                ax.fill_between(line["layer"], low, high, color=colour, alpha=0.12, linewidth=0)
            ax.plot(line["layer"], line["value"], color=colour, marker=marker, label=display_names.sparsity(sparsity))
        for name, dashes in (("dense", "--"), ("chance", ":")):
            if name in panel and panel[name].notna().any():
                ax.axhline(panel[name].iloc[0], color=DENSE, linestyle=dashes, linewidth=0.8, label=name, zorder=0)
        layer_axis(ax, "layer pruned")
        ax.set_title(display_names.task(task) + ("" if metric == "accuracy" else f", {display_names.metric(metric)}"))
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.flat[0].set_ylabel("right answers")
    title = {"title": "sparsity of the pruned layer", "title_fontsize": 7}
    legend_below(fig, axes.flat[0], 4 if len(panels) == 1 else 8, **title)
    return fig


@styled
def allocation_curves(frame: pd.DataFrame) -> Figure:
    """Sparsity ``ratio`` given to every ``layer`` by each ``allocation``; a panel per global ``sparsity``.

    Allocations are named as in results ("logistic, protect 0+0"). With a column ``module``, attention and MLP are
    separate lines where they differ, MLP's without markers.
    """
    if "module" in frame and frame.groupby(["sparsity", "allocation", "layer"])["ratio"].nunique().max() == 1:
        frame = frame.drop_duplicates(["sparsity", "allocation", "layer"]).drop(columns="module")
    sparsities, names = sorted(frame["sparsity"].unique()), unique(frame["allocation"])
    looks = allocation_styles(names)
    width = SINGLE if len(sparsities) == 1 else DOUBLE
    fig, axes = plt.subplots(1, len(sparsities), figsize=(width, 2.5), squeeze=False, sharey=True)
    modules = unique(frame["module"]) if "module" in frame else [None]
    for ax, sparsity in zip(axes.flat, sparsities, strict=True):
        ax.axhline(sparsity, color="0.7", linewidth=0.6, zorder=0)
        for name in names:
            lines = frame[(frame["sparsity"] == sparsity) & (frame["allocation"] == name)].sort_values("layer")
            for module in modules:
                line = lines if module is None else lines[lines["module"] == module]
                ax.plot(line["layer"], line["ratio"], **looks[name] | ({"marker": ""} if module == "mlp" else {}))
        layer_axis(ax, "layer" if modules == [None] else "layer (MLP without markers)")
        ax.set_title(f"{display_names.sparsity(sparsity)} sparsity")
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.flat[0].set_ylabel("sparsity of the layer")
    allocation_legend(fig, names)
    return fig


@styled
def masks(masks: Mapping[str, object], bins: int = 512) -> Figure:
    """Fig. 4 on real masks: kept units (dark) of every layer, heads left, MLP channels right.

    ``masks`` maps a title to anything with boolean ``heads`` [L, H] and ``channels`` [L, C], True =
    kept. More channels than ``bins`` are shown as the kept share of neighbouring channels.
    """
    depth, heads = np.asarray(next(iter(masks.values())).heads).shape
    row = np.clip(0.09 * depth, 0.5, 1.4)
    size = (DOUBLE, len(masks) * (row + 0.28) + 0.3)
    fig, axes = plt.subplots(len(masks), 2, figsize=size, squeeze=False, width_ratios=[1, 4], sharey=True)
    shade = ListedColormap(sns.blend_palette(["#f2f2f2", PALETTE[0]], 64))
    for (left, right), (title, mask) in zip(axes, masks.items(), strict=True):
        for ax, kept in ((left, np.asarray(mask.heads)), (right, np.asarray(mask.channels))):
            image = np.stack([part.mean(1) for part in np.array_split(kept, min(bins, kept.shape[1]), axis=1)], axis=1)
            ax.imshow(image, aspect="auto", cmap=shade, vmin=0, vmax=1, interpolation="nearest", origin="lower")
            ax.set_title(f"{100 * kept.mean():.0f}% kept", fontsize=7, loc="right")
            ax.set_xticks([])
            ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
        left.set_ylabel("layer")
        right.set_title(title, loc="left")
    axes[-1, 0].set_xlabel(f"{heads} heads")
    axes[-1, 1].set_xlabel(f"{np.asarray(mask.channels).shape[1]} MLP channels")
    return fig


@styled
def mask_overlap(frame: pd.DataFrame) -> Figure:
    """Jaccard index of the units two tasks keep (``task_a``, ``task_b``, ``jaccard``), a panel per ``module``.

    A column ``chance`` holds the index of two independent masks of those sizes; it is stated. A
    diagonal below 1 compares two masks of the same task, calibrated on different texts.
    """
    modules = unique(frame["module"]) if "module" in frame else ["units"]
    width = SINGLE if len(modules) == 1 else DOUBLE
    fig, axes = plt.subplots(1, len(modules), figsize=(width, 0.98 * width / len(modules)), squeeze=False)
    for ax, module in zip(axes.flat, modules, strict=True):
        panel = frame[frame["module"] == module] if "module" in frame else frame
        matrix(ax, panel, "jaccard")
        pairs = panel[panel["task_a"] != panel["task_b"]]
        chance = f" (chance {pairs['chance'].mean():.2f})" if "chance" in panel else ""
        ax.set_title(f"{module}: Jaccard index\nof the kept units{chance}", fontsize=7)
    if (frame.loc[frame["task_a"] == frame["task_b"], "jaccard"] < 1).any():
        fig.supxlabel("diagonal: the same task, calibrated on other texts", fontsize=7)
    return fig
