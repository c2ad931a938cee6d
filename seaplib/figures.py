"""Figures of the notebooks: a tidy data frame (or a mask) in, a matplotlib ``Figure`` out.

Nothing is computed here but what a picture needs (means over calibration seeds, the choice of
dimensions that fit on paper), so a figure can be restyled without running a model. Intervals are
drawn wherever the frame has them. Results of pruned models are drawn in ``figure_results``, those of
sparse inputs in ``figure_sparsity``, those of routing in ``figure_routing``, studies of calibration in
``figure_studies``, claims in ``figure_scorecard``; everything is reached through this module, ``save``
and ``style`` included.
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from . import labels
from .figure_pipeline import pipeline
from .figure_results import (
    accuracy_by_sparsity,
    confusion,
    differences_by_task,
    inference_speed,
    perplexity,
    sparsity_settings,
    zero_shot,
)
from .figure_routing import abstention, routing_worth
from .figure_scorecard import scorecard
from .figure_sparsity import activations_against_weights, layer_errors, sparsity_rules
from .figure_studies import calibration_size, effects, leave_one_out, logistic_grid, sensitivity, shares
from .figure_style import (
    DENSE,
    DIVERGING,
    DOUBLE,
    PALETTE,
    SEQUENTIAL,
    SINGLE,
    Z,
    layer_axis,
    matrix,
    note,
    save,
    shades,
    style,
    styled,
    task_styles,
    variant_styles,
)

__all__ = [
    "abstention", "accuracy_by_sparsity", "activations_against_weights", "allocation_curves", "calibration_size",
    "confusion", "corpus_lengths", "differences_by_task", "effects", "hidden_states", "inference_speed", "layer_errors",
    "leave_one_out", "logistic_grid", "mask_overlap", "masks", "norm_heatmaps", "perplexity", "pipeline", "remove_test",
    "routing_worth", "save", "scorecard", "sensitivity", "separability", "shares", "sparsity_rules",
    "sparsity_settings", "style", "vocabulary_overlap", "zero_shot",
]  # fmt: skip

MEASURES = {"silhouette": "silhouette", "knn_accuracy": "kNN accuracy"}
METRICS = {"acc": "accuracy", "acc_norm": "accuracy (normalised)", "exact_match": "exact match"}


@styled
def vocabulary_overlap(frame: pd.DataFrame) -> Figure:
    """Heat map of ``overlap`` (share of shared words) between the corpora ``task_a``, ``task_b``."""
    fig, ax = plt.subplots(figsize=(SINGLE, SINGLE))
    matrix(ax, frame, "overlap")
    ax.set_title("vocabulary overlap")
    return fig


@styled
def corpus_lengths(frame: pd.DataFrame) -> Figure:
    """Tokens per text of every ``task``: median, 10th to 90th percentile (line), longest (tick), log scale.

    Takes the frame of ``vocabulary.describe``.
    """
    order = labels.task_order(frame["task"])
    rows, looks = frame.set_index("task").loc[order], task_styles(order)
    fig, ax = plt.subplots(figsize=(SINGLE, 0.17 * len(order) + 0.8))
    for place, (task, row) in enumerate(rows.iterrows()):
        ax.plot(row["tokens_median"], place, linestyle="", **looks[task])
        ax.hlines(place, row["tokens_p10"], row["tokens_p90"], color=looks[task]["color"])
        ax.plot(row["tokens_max"], place, linestyle="", marker="|", color="0.5")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_yticks(range(len(order)), [labels.task(task) for task in order])
    ax.invert_yaxis()
    ax.set_xlabel("tokens per text\n(median, 10–90%, longest)")
    return fig


@styled
def hidden_states(frame: pd.DataFrame, columns: int | None = None) -> Figure:
    """Fig. 1: prompts in two dimensions (``x``, ``y``), one panel per ``layer``, one colour per ``task``.

    Axes of an embedding have no unit and differ from panel to panel, so they carry no ticks.
    """
    layers, styles = sorted(frame["layer"].unique()), task_styles(frame["task"].unique())
    columns = min(columns or (4 if len(layers) <= 8 else 5), len(layers))
    rows = -(-len(layers) // columns)
    side = DOUBLE / max(columns, 3)
    fig, axes = plt.subplots(rows, columns, figsize=(side * columns, side * rows + 0.45), squeeze=False)
    size = np.clip(3000 / len(frame) * len(layers), 4, 14)
    for ax, layer in zip(axes.flat, layers, strict=False):
        for task, look in styles.items():
            points = frame[(frame["layer"] == layer) & (frame["task"] == task)]
            kind = {"s": size, "linewidths": 0, "alpha": 0.8, "rasterized": True}
            ax.scatter(points["x"], points["y"], label=labels.task(task), **kind, **look)
        ax.set(xticks=[], yticks=[], title="embeddings (layer 0)" if layer == 0 else f"layer {layer}")
        ax.spines[["top", "right"]].set_visible(True)
    for ax in axes.flat[len(layers) :]:
        ax.set_visible(False)
    columns = -(-len(styles) // -(-len(styles) // 5))  # rows of equal length
    fig.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns, markerscale=1.5)
    return fig


@styled
def separability(frame: pd.DataFrame) -> Figure:
    """One panel per ``measure``: ``value`` and its interval ``low``-``high`` by ``layer``.

    A column ``chance`` is drawn as a dotted line.
    """
    measures = list(dict.fromkeys(frame["measure"]))
    fig, axes = plt.subplots(1, len(measures), figsize=(DOUBLE if len(measures) > 1 else SINGLE, 2.1), squeeze=False)
    for ax, measure in zip(axes.flat, measures, strict=True):
        rows = frame[frame["measure"] == measure].sort_values("layer")
        ax.fill_between(rows["layer"], rows["low"], rows["high"], alpha=0.25, linewidth=0)
        ax.plot(rows["layer"], rows["value"], marker="o")
        if "chance" in rows:
            ax.plot(rows["layer"], rows["chance"], ":", color="0.4")
            note(ax, "chance", rows["layer"].max(), rows["chance"].iloc[-1])
        layer_axis(ax)
        ax.set_ylabel(MEASURES.get(measure, measure))
    return fig


@styled
def norm_heatmaps(
    profiles: Mapping[tuple[str, int], np.ndarray], layers=None, dimensions: int = 64, relative: bool = False
) -> Figure:
    """Fig. 3: norms per dimension; columns of panels are layers, rows the two random halves.

    ``profiles[task, half]`` is [layers, dims] (Eq. 5). A panel's rows are tasks. Its columns are
    the dimensions whose norm varies most between tasks *in the first half*, ordered by the task
    that is largest there: a pattern in the second half is not an effect of that choice. With
    ``relative`` colours are log2 of the norm over its mean over tasks, else the norm itself, from
    0 to the panel column's 99th percentile.
    """
    tasks = labels.task_order(task for task, _ in profiles)
    halves = sorted({half for _, half in profiles})
    depth = next(iter(profiles.values())).shape[0]
    layers = np.linspace(0, depth - 1, min(depth, 4)).round().astype(int) if layers is None else list(layers)
    height = 0.13 * len(tasks) * len(halves) + 0.9
    ratios = np.log2(np.stack(list(profiles.values())) / np.mean(list(profiles.values()), axis=0)) if relative else 0
    span = np.percentile(np.abs(ratios), 99)
    fig, axes = plt.subplots(len(halves), len(layers), figsize=(DOUBLE, height), squeeze=False)
    for column, layer in enumerate(layers):
        norms = {half: np.stack([profiles[task, half][layer] for task in tasks]) for half in halves}
        first = norms[halves[0]]
        chosen = np.argsort(-first.var(0), kind="stable")[:dimensions]
        chosen = chosen[np.lexsort((-first[:, chosen].max(0), first[:, chosen].argmax(0)))]
        for row, half in enumerate(halves):
            ax, image = axes[row, column], norms[half][:, chosen]
            if relative:
                image = np.log2(image / image.mean(0, keepdims=True))
                look = {"cmap": DIVERGING, "vmin": -span, "vmax": span}
            else:
                look = {"cmap": SEQUENTIAL, "vmin": 0, "vmax": np.percentile(first[:, chosen], 99)}
            drawn = ax.imshow(image, aspect="auto", interpolation="nearest", **look)
            ax.set(xticks=[], yticks=range(len(tasks)))
            ax.set_yticklabels([labels.task(task) for task in tasks] if column == 0 else [], fontsize=6)
            ax.tick_params(length=0)
            if column == 0:
                ax.set_ylabel(f"half {row + 1}")
            if row == 0:
                ax.set_title(f"layer {layer}")
        axes[-1, column].set_xlabel(f"{len(chosen)} of {first.shape[1]} dimensions", fontsize=7)
    bar = fig.colorbar(drawn, ax=axes, fraction=0.02, pad=0.01)
    bar.set_label("log2 norm / mean over tasks" if relative else "norm, scaled per layer")
    if not relative:
        bar.set_ticks([])
    return fig


@styled
def remove_test(frame: pd.DataFrame) -> Figure:
    """Figs. 5, 6: ``value`` when one ``layer`` alone is pruned, a line per ``sparsity``.

    A panel per ``task`` and, where the frame has several, per ``metric``. ``stderr`` becomes a 95%
    band; columns ``dense`` and ``chance`` horizontal lines.
    """
    frame = frame if "metric" in frame else frame.assign(metric="accuracy")
    colours = shades(frame["sparsity"])
    metrics = {task: rows["metric"].unique() for task, rows in frame.groupby("task")}
    panels = [(task, metric) for task in labels.task_order(metrics) for metric in metrics[task]]
    width = SINGLE if len(panels) == 1 else DOUBLE
    fig, axes = plt.subplots(1, len(panels), figsize=(width, 2.6), squeeze=False, sharey=True)
    for ax, (task, metric) in zip(axes.flat, panels, strict=True):
        panel = frame[(frame["task"] == task) & (frame["metric"] == metric)].sort_values("layer")
        for (sparsity, colour), marker in zip(colours.items(), "osD^vPX<>ph" * 9, strict=False):
            line = panel[panel["sparsity"] == sparsity]
            if "stderr" in line:
                low, high = ((line["value"] + side * Z * line["stderr"]).clip(0, 1) for side in (-1, 1))
                ax.fill_between(line["layer"], low, high, color=colour, alpha=0.12, linewidth=0)
            ax.plot(line["layer"], line["value"], color=colour, marker=marker, label=labels.sparsity(sparsity))
        for name, dashes in (("dense", "--"), ("chance", ":")):
            if name in panel and panel[name].notna().any():
                ax.axhline(panel[name].iloc[0], color=DENSE, linestyle=dashes, linewidth=0.8, label=name, zorder=0)
        layer_axis(ax, "layer pruned")
        ax.set_title(labels.task(task) + ("" if metric == "accuracy" else f", {METRICS.get(metric, metric)}"))
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.flat[0].set_ylabel("right answers")
    handles = axes.flat[0].get_legend_handles_labels()
    fig.legend(*handles, loc="outside lower center", ncols=4 if len(panels) == 1 else 8)
    return fig


@styled
def allocation_curves(frame: pd.DataFrame) -> Figure:
    """Sparsity ``ratio`` given to every ``layer`` by each ``allocation``; a panel per global ``sparsity``.

    With a column ``module``, attention and MLP are separate line styles where they differ.
    """
    if "module" in frame and frame.groupby(["sparsity", "allocation", "layer"])["ratio"].nunique().max() == 1:
        frame = frame.drop_duplicates(["sparsity", "allocation", "layer"]).drop(columns="module")
    sparsities, names = sorted(frame["sparsity"].unique()), list(dict.fromkeys(frame["allocation"]))
    looks = variant_styles(names)
    dashes = ["-", "--", ":"]
    width = SINGLE if len(sparsities) == 1 else DOUBLE
    fig, axes = plt.subplots(1, len(sparsities), figsize=(width, 2.5), squeeze=False, sharey=True)
    modules = list(dict.fromkeys(frame["module"])) if "module" in frame else [None]
    for ax, sparsity in zip(axes.flat, sparsities, strict=True):
        ax.axhline(sparsity, color="0.7", linewidth=0.6, zorder=0)
        for name in names:
            lines = frame[(frame["sparsity"] == sparsity) & (frame["allocation"] == name)].sort_values("layer")
            for module, dash in zip(modules, dashes, strict=False):
                line = lines if module is None else lines[lines["module"] == module]
                text = name if module is None else f"{name}, {module}"
                ax.plot(line["layer"], line["ratio"], dash, label=text, **looks[name])
        layer_axis(ax)
        ax.set_title(f"G = {labels.sparsity(sparsity)}")
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.flat[0].set_ylabel("sparsity of the layer")
    handles = axes.flat[0].get_legend_handles_labels()
    columns = 2 if len(sparsities) == 1 else 5 if len(handles[1]) == 5 else 4
    fig.legend(*handles, loc="outside lower center", ncols=columns, handlelength=2.6)
    return fig


@styled
def masks(masks: Mapping[str, object], bins: int = 512) -> Figure:
    """Fig. 4 on real masks: kept units (dark) of every layer, heads left, MLP channels right.

    ``masks`` maps a title to anything with boolean ``heads`` [L, H] and ``channels`` [L, C], True =
    kept. More channels than ``bins`` are shown as the kept share of neighbouring ones.
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
    diagonal below 1 compares two masks of one task, calibrated on different texts.
    """
    modules = list(dict.fromkeys(frame["module"])) if "module" in frame else ["units"]
    width = SINGLE if len(modules) == 1 else DOUBLE
    fig, axes = plt.subplots(1, len(modules), figsize=(width, 0.98 * width / len(modules)), squeeze=False)
    for ax, module in zip(axes.flat, modules, strict=True):
        panel = frame[frame["module"] == module] if "module" in frame else frame
        matrix(ax, panel, "jaccard")
        pairs = panel[panel["task_a"] != panel["task_b"]]
        chance = f", chance {pairs['chance'].mean():.2f}" if "chance" in panel else ""
        ax.set_title(f"{module}: Jaccard index of kept units{chance}", fontsize=7)
    if (frame.loc[frame["task_a"] == frame["task_b"], "jaccard"] < 1).any():
        fig.supxlabel("diagonal: the same task, calibrated on other texts", fontsize=7)
    return fig
