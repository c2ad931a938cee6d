"""Figures of texts and activations: the method (Fig. 2), corpora, hidden states, norms (notebooks 00, 01, 02)."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.ticker import LogLocator, NullFormatter

from .. import display_names
from .style import (
    CELLS,
    DIVERGING,
    DOUBLE,
    PALETTE,
    SEQUENTIAL,
    SINGLE,
    as_number,
    hide_spare,
    layer_axis,
    legend_below,
    matrix,
    note,
    styled,
    task_styles,
    unique,
)

LAYERS, UNITS = 6, 14  # of the little pictures


@styled
def pipeline() -> Figure:
    """Texts → statistics → scores → sparsity → mask → pruned model → results, with little pictures.

    The pictures are drawn from a toy example (made-up numbers), in which the mask really follows
    from the scores and the sparsities.
    """
    rng = np.random.default_rng(3)
    activity = rng.gamma(1.5, size=(LAYERS, UNITS)) * np.linspace(1.3, 0.7, LAYERS)[:, None]
    scores = activity * rng.gamma(3, size=(LAYERS, UNITS))
    ratios = 0.75 / (1 + np.exp(-5 * (np.linspace(0, 1, LAYERS) - 0.4)))
    ratios[-1] = 0
    ranks = scores.argsort(axis=1).argsort(axis=1)
    kept = ranks >= np.floor(ratios * UNITS)[:, None]
    stages = [
        ("task texts", "question + answer\nTable 5", _texts, rng),
        ("activation\nstatistics", "$\\mu$, $\\sigma^2$, $\\|h\\|_2^2$\nEqs. 3–5", _image, activity),
        ("importance\nscores", "$s_F$, $s_W$, heads\nEqs. 11–13", _bars, scores[2]),
        ("sparsity\nper layer", "logistic, mean $G$\nEqs. 16, 17", _curve, ratios),
        ("pruning\nmask", "lowest go, per layer\nEqs. 8–10", _mask, kept),
        ("pruned\nmodel", "smaller matrices\nEq. 10", _model, kept),
        ("results", "accuracy, speed,\nperplexity", _results, rng),
    ]
    fig = plt.figure(figsize=(DOUBLE, 1.6))
    fig.set_layout_engine("none")
    width, gap, left = 0.108, 0.0345, 0.0185
    for index, (title, rule, picture, data) in enumerate(stages):
        x = left + index * (width + gap)
        ax = fig.add_axes((x, 0.43, width, 0.34))
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(True)
        ax.spines[:].set_color("0.6")
        picture(ax, data)
        fig.text(x + width / 2, 0.80, title, ha="center", va="bottom", weight="bold", fontsize=7, linespacing=1.1)
        fig.text(x + width / 2, 0.385, rule, ha="center", va="top", fontsize=6)
        if index:
            start, end = (x - gap + 0.004, 0.6), (x - 0.004, 0.6)
            look = {"arrowstyle": "-|>", "mutation_scale": 7, "linewidth": 0.9, "color": "0.25"}
            fig.add_artist(FancyArrowPatch(start, end, transform=fig.transFigure, shrinkA=0, shrinkB=0, **look))
    note = "expert mask: one task's scores (Eq. 14)    ·    general mask: weighted sum over tasks (Eq. 15)"
    fig.text(0.5, 0.06, note, ha="center", fontsize=6.5, color="0.25")
    return fig


def _texts(ax, rng) -> None:
    for row in range(7):
        ax.barh(row, rng.uniform(0.55, 1), 0.45, color=PALETTE[row % 4], alpha=0.85)
    ax.set(xlim=(-0.1, 1.1), ylim=(6.8, -0.8))


def _image(ax, values) -> None:
    ax.imshow(values, aspect="auto", cmap=SEQUENTIAL, origin="lower")


def _bars(ax, scores) -> None:
    ax.bar(range(len(scores)), np.sort(scores)[::-1], 0.7, color=PALETTE[0])
    ax.set_xlim(-1, len(scores))


def _curve(ax, ratios) -> None:
    ax.plot(ratios, marker="o", markersize=2.5, color=PALETTE[3])
    ax.set(ylim=(-0.1, 0.9), xlim=(-0.5, len(ratios) - 0.5))


def _mask(ax, kept) -> None:
    ax.imshow(np.where(kept, 1.0, 0.0), aspect="auto", cmap=CELLS, vmin=0, vmax=1.25, origin="lower")


def _model(ax, kept) -> None:
    """Each layer as a bar as wide as what is left of it."""
    for layer, share in enumerate(kept.mean(1)):
        ax.add_patch(Rectangle((0.5 - share / 2, layer + 0.12), share, 0.76, color=PALETTE[0], alpha=0.85, linewidth=0))
        ax.add_patch(Rectangle((0, layer + 0.12), 1, 0.76, fill=False, edgecolor="0.75", linewidth=0.5))
    ax.set(xlim=(-0.08, 1.08), ylim=(0, len(kept)))


def _results(ax, rng) -> None:
    for row, colour in enumerate((0, 1, 2, 3)):
        ax.errorbar(0.9 - 0.17 * row, row, xerr=0.1, marker="o", markersize=3, color=PALETTE[colour], linewidth=0.9)
    ax.axvline(0.97, color="0.15", linestyle="--", linewidth=0.8)
    ax.set(xlim=(0.1, 1.1), ylim=(3.7, -0.7))


MEASURES = {"silhouette": "silhouette", "knn_accuracy": "kNN accuracy"}


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

    Takes the frame of ``texts.words.describe``.
    """
    order = display_names.task_order(frame["task"])
    rows, looks = frame.set_index("task").loc[order], task_styles(order)
    fig, ax = plt.subplots(figsize=(SINGLE, 0.17 * len(order) + 0.8))
    for place, (task, row) in enumerate(rows.iterrows()):
        ax.plot(row["tokens_median"], place, linestyle="", **looks[task])
        ax.hlines(place, row["tokens_p10"], row["tokens_p90"], color=looks[task]["color"])
        ax.plot(row["tokens_max"], place, linestyle="", marker="|", color="0.5")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(as_number)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_yticks(range(len(order)), [display_names.task(task) for task in order])
    ax.invert_yaxis()
    ax.set_xlabel("tokens per text\n(median, 10–90%, longest)")
    return fig


@styled
def hidden_states(frame: pd.DataFrame) -> Figure:
    """Fig. 1: prompts in two dimensions (``x``, ``y``), one panel per ``layer``, one colour per ``task``.

    Axes of an embedding have no unit and differ from panel to panel, so they carry no ticks.
    """
    layers, styles = sorted(frame["layer"].unique()), task_styles(frame["task"].unique())
    columns = min(4 if len(layers) <= 8 else 5, len(layers))
    rows = -(-len(layers) // columns)
    side = DOUBLE / max(columns, 3)
    fig, axes = plt.subplots(rows, columns, figsize=(side * columns, side * rows + 0.45), squeeze=False)
    size = np.clip(3000 / len(frame) * len(layers), 4, 14)
    for ax, layer in zip(axes.flat, layers, strict=False):
        for task, look in styles.items():
            points = frame[(frame["layer"] == layer) & (frame["task"] == task)]
            kind = {"s": size, "linewidths": 0, "alpha": 0.8, "rasterized": True}
            ax.scatter(points["x"], points["y"], label=display_names.task(task), **kind, **look)
        ax.set(xticks=[], yticks=[], title="embeddings (layer 0)" if layer == 0 else f"layer {layer}")
        ax.spines[["top", "right"]].set_visible(True)
    hide_spare(axes, len(layers))
    most = int(5 * fig.get_figwidth() / DOUBLE)
    columns = -(-len(styles) // -(-len(styles) // most))  # rows of equal length
    legend_below(fig, axes.flat[0], columns, markerscale=1.5)
    return fig


@styled
def separability(frame: pd.DataFrame) -> Figure:
    """One panel per ``measure``: ``value`` and its interval ``low``-``high`` by ``layer``.

    A column ``chance`` is drawn as a dotted line.
    """
    measures = unique(frame["measure"])
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
    profiles: Mapping[tuple[str, int], np.ndarray], dimensions: int = 64, relative: bool = False
) -> Figure:
    """Fig. 3: norms per dimension; columns of panels are layers, rows the two random halves.

    ``profiles[task, half]`` is [layers, dims] (Eq. 5). A panel's rows are tasks. Its columns are
    the dimensions whose norm varies most between tasks *in the first half*, ordered by the task
    that is largest there: a pattern in the second half is not an effect of that choice. With
    ``relative`` colours are log2 of the norm over its mean over tasks, else the norm itself, from
    0 to the panel column's 99th percentile.
    """
    tasks = display_names.task_order(task for task, _ in profiles)
    halves = sorted({half for _, half in profiles})
    depth = next(iter(profiles.values())).shape[0]
    layers = np.linspace(0, depth - 1, min(depth, 4)).round().astype(int)
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
            ax.set_yticklabels([display_names.task(task) for task in tasks] if column == 0 else [], fontsize=6)
            ax.tick_params(length=0)
            if column == 0:
                ax.set_ylabel(f"half {row + 1}")
            if row == 0:
                ax.set_title(f"layer {layer}")
        axes[-1, column].set_xlabel(f"{len(chosen)} of {first.shape[1]} dimensions", fontsize=7)
    bar = fig.colorbar(drawn, ax=axes, fraction=0.02, pad=0.01)
    bar.set_label("log$_2$ of norm / mean over tasks" if relative else "norm, scaled per layer")
    if not relative:
        bar.set_ticks([])
    return fig
