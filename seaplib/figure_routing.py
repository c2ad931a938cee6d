"""Figures of routing: what abstaining costs and brings, and from how many tokens experts pay."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from .figure_style import DENSE, DOUBLE, MARKERS, PALETTE, styled

DASHES = ("-", "--", ":")


@styled
def abstention(curves: Mapping[str, pd.DataFrame], thresholds: Mapping[str, float]) -> Figure:
    """Accuracy of the prompts that are routed by how many are (95% band), and how many are by the threshold.

    A curve (``routing.abstention``) and its chosen threshold (dot) for every kind of prompt. The right
    panel's axis is 1 − θ on a logarithmic scale, because a router is rarely in doubt.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(DOUBLE, 2.4))
    for place, (name, curve) in enumerate(curves.items()):
        colour, routed = PALETTE[place], curve.dropna(subset="accuracy").sort_values("coverage")
        left.fill_between(routed["coverage"], routed["low"], routed["high"], color=colour, alpha=0.15, linewidth=0)
        left.plot(routed["coverage"], routed["accuracy"], color=colour, linestyle=DASHES[place % 3], label=name)
        doubt = (1 - curve["threshold"]).clip(lower=1e-6)
        right.plot(doubt, curve["coverage"], color=colour, linestyle=DASHES[place % 3])
        chosen = curve[curve["threshold"] <= thresholds[name]].iloc[-1]
        look = {"color": colour, "marker": MARKERS[place], "markersize": 5, "linestyle": ""}
        left.plot(chosen["coverage"], chosen["accuracy"], **look)
        right.plot(max(1 - chosen["threshold"], 1e-6), chosen["coverage"], **look)
    left.set(xlabel="share of prompts that is routed", ylabel="routed to the right expert")
    right.set(xlabel="doubt that is allowed, 1 − θ", ylabel="share of prompts that is routed", xscale="log")
    for axis in (left.xaxis, left.yaxis, right.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


@styled
def routing_worth(accuracy: pd.DataFrame, curves: pd.DataFrame, even: pd.DataFrame) -> Figure:
    """What routing brings, left, and what it takes, right: a panel per ``subject`` of ``curves``.

    ``accuracy``: system, kind (of tasks), value, low, high. ``curves``: subject, system, tokens, ratio
    (seconds of a request over the dense model's); ``even``: subject, system, tokens at which that is 1.
    """
    systems, kinds = list(dict.fromkeys(accuracy["system"])), list(dict.fromkeys(accuracy["kind"]))
    subjects, lines = list(dict.fromkeys(curves["subject"])), list(dict.fromkeys(curves["system"]))
    fig, (dots, *panels) = plt.subplots(
        1, 1 + len(subjects), figsize=(DOUBLE, 2.7), width_ratios=[1.5] + [1] * len(subjects)
    )
    for place, kind in enumerate(kinds):
        part = accuracy[accuracy["kind"] == kind].set_index("system").reindex(systems)
        y = [row + 0.16 * (2 * place - len(kinds) + 1) for row in range(len(systems))]
        bars = [part["value"] - part["low"], part["high"] - part["value"]]
        look = {"color": PALETTE[place], "marker": MARKERS[place], "label": kind}
        dots.errorbar(part["value"], y, xerr=bars, linestyle="", elinewidth=0.8, **look)
    dots.set_yticks(range(len(systems)), systems, fontsize=6.5)
    dots.set_ylim(len(systems) - 0.5, -0.5)
    dots.tick_params(axis="y", length=0)
    dots.grid(axis="x", color="0.92", linewidth=0.5)
    dots.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
    dots.set(xlabel="accuracy, %")
    dots.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=len(kinds))
    for ax, subject in zip(panels, subjects, strict=True):
        ax.axhline(1, color=DENSE, linestyle="--", linewidth=0.8)
        for place, system in enumerate(lines):
            line = curves[(curves["subject"] == subject) & (curves["system"] == system)]
            ax.plot(line["tokens"], line["ratio"], DASHES[place % 3], color=PALETTE[place + 2], label=system)
            at = even[(even["subject"] == subject) & (even["system"] == system)]["tokens"]
            inside = at[(at >= line["tokens"].min()) & (at <= line["tokens"].max())]
            ax.plot(inside, [1] * len(inside), linestyle="", marker=MARKERS[place], color=PALETTE[place + 2])
        ax.set(xscale="log", xlabel="generated tokens", title=subject.replace(" (", "\n("))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panels[0].set_ylabel("seconds / dense")
    handles, names = panels[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower right", ncols=1, fontsize=6.5)
    return fig
