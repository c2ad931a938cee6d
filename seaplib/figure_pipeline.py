"""The method drawn once (Fig. 2): what flows from texts to results, and which equation makes it."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from .figure_style import DOUBLE, PALETTE, SEQUENTIAL, styled

LAYERS, UNITS = 6, 14  # of the little pictures


@styled
def pipeline() -> Figure:
    """Texts → statistics → scores → sparsity → mask → pruned model → results, with little pictures.

    The pictures are drawn from one toy example (made-up numbers), in which the mask really is
    what the scores and the sparsities give.
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
    ax.imshow(np.where(kept, 1.0, 0.0), aspect="auto", cmap="Blues", vmin=0, vmax=1.25, origin="lower")


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
