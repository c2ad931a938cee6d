"""Figures of the studies of calibration (notebooks 13 to 17) and of routing (notebook 12)."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, PercentFormatter

from .. import display_names
from .looks import series_styles, variant_styles
from .style import (
    DENSE,
    DOUBLE,
    LOSSES,
    PALE,
    PALETTE,
    SINGLE,
    as_number,
    as_percent,
    cells,
    hide_spare,
    label_rows,
    layer_axis,
    legend_below,
    name_ticks,
    styled,
    task_styles,
    unique,
)


@styled
def effects(frame: pd.DataFrame) -> Figure:
    """Differences in points with 95% intervals: a row per ``row``, a panel per ``panel``, a colour per ``metric``.

    Columns: row, panel, metric, difference, low, high (points). The line is no difference.
    """
    rows, panels = unique(frame["row"]), unique(frame["panel"])
    metrics = unique(frame["metric"])
    looks = series_styles(map(display_names.metric, metrics))
    size = (SINGLE if len(panels) == 1 else DOUBLE, 0.3 * len(rows) + 1.0)
    fig, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharey=True, sharex=True)
    for ax, panel in zip(axes.flat, panels, strict=True):
        ax.axvline(0, color=DENSE, linewidth=0.8, zorder=0)
        for place, metric in enumerate(metrics):
            part = frame[(frame["panel"] == panel) & (frame["metric"] == metric)]
            y = [rows.index(row) + 0.3 * (place - (len(metrics) - 1) / 2) for row in part["row"]]
            name = display_names.metric(metric)
            look = looks[name] | {"linestyle": "", "elinewidth": 0.9, "label": name}
            spread = [part["difference"] - part["low"], part["high"] - part["difference"]]
            ax.errorbar(part["difference"], y, xerr=np.clip(spread, 0, None), **look)
        ax.set(xlabel="difference, points", title=panel if len(panels) > 1 else "")
        ax.grid(axis="x", color=PALE, linewidth=0.5)
        ax.set_axisbelow(True)
    label_rows(axes[0, 0], rows)
    legend_below(fig, axes.flat[0], len(metrics))
    return fig


@styled
def shares(frame: pd.DataFrame) -> Figure:
    """What each factor does and carries: its effect in points (left), its share of the variation (right).

    Columns of ``expert_or_general.analyse`` and ``metric``; the tick on a bar is the share that
    calibration seeds alone would give.
    """
    sources, metrics = unique(frame["source"]), unique(frame["metric"])
    size, looks = (DOUBLE, 0.26 * len(sources) + 0.9), series_styles(map(display_names.metric, metrics))
    fig, (left, right) = plt.subplots(1, 2, figsize=size, sharey=True)
    left.axvline(0, color=DENSE, linewidth=0.8, zorder=0)
    height = 0.7 / len(metrics)
    for place, metric in enumerate(metrics):
        part = frame[frame["metric"] == metric].set_index("source").reindex(sources)
        y = np.arange(len(sources)) + height * (place - (len(metrics) - 1) / 2)
        name = display_names.metric(metric)
        look = looks[name] | {"linestyle": "", "elinewidth": 0.9, "label": name}
        spread = [100 * (part["effect"] - part["low"]), 100 * (part["high"] - part["effect"])]
        left.errorbar(100 * part["effect"], y, xerr=np.clip(spread, 0, None), **look)
        ends = np.clip([part["share"] - part["share_low"], part["share_high"] - part["share"]], 0, None)
        right.barh(y, part["share"], height, color=look["color"], alpha=0.75)
        right.errorbar(part["share"], y, xerr=ends, linestyle="", ecolor="0.3", elinewidth=0.8)
        right.plot(part["by_noise"], y, linestyle="", marker="|", color="black", markersize=6)
    label_rows(left, sources)
    left.set_xlabel("effect, points")
    right.set_xlabel("share of the variation within tasks\n(tick: what calibration seeds alone would give)")
    right.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    legend_below(fig, left, len(metrics))
    return fig


@styled
def calibration_size(
    overlap: pd.DataFrame, curves: Mapping[str, pd.DataFrame], smallest: int, dense: Mapping[str, float]
) -> Figure:
    """Mask overlap (left, Jaccard index) and right answers (right) by texts per task, with 95% intervals, log scale.

    ``overlap`` has a row per ``module`` and size, ``curves`` maps metrics to ``accuracy_curve``'s frames; the vertical
    line is the smallest stable corpus, dashed lines are the dense model, dotted lines chance.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(DOUBLE, 2.5))
    looks = series_styles([*overlap["module"], *map(display_names.metric, curves)])
    for module, part in overlap.groupby("module", sort=False):
        look = looks[module]
        left.plot(part["texts"], part["overlap"], label=module, **look)
        left.fill_between(part["texts"], part["low"], part["high"], color=look["color"], alpha=0.2, linewidth=0)
        left.plot(part["texts"], part["chance"], ":", color=look["color"], linewidth=0.8)
    for metric, part in curves.items():
        look = looks[display_names.metric(metric)]
        right.plot(part["texts"], part["value"], label=display_names.metric(metric), **look)
        right.fill_between(part["texts"], part["low"], part["high"], color=look["color"], alpha=0.15, linewidth=0)
        right.axhline(dense[metric], color=look["color"], linestyle="--", linewidth=0.8)
    sizes = sorted(overlap["texts"].unique())
    for ax in (left, right):
        ax.axvline(smallest, color="0.4", linewidth=0.8, zorder=0)
        ax.set_xscale("log")
        ax.set_xticks(sizes, [f"{size:g}" for size in sizes])
        ax.minorticks_off()
        ax.set_xlabel(f"calibration texts per task\n({'dotted: chance' if ax is left else 'dashed: dense model'})")
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    left.annotate("smallest stable size", (smallest, 0.5), (2, 0), xycoords=left.get_xaxis_transform(), color="0.4",
                  textcoords="offset points", rotation=90, va="center", fontsize=6)  # fmt: skip
    left.set_ylabel("overlap with the largest size")
    right.set_ylabel("right answers")
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return fig


@styled
def leave_one_out(frame: pd.DataFrame, rows: Sequence[str], titles: Mapping[str, str]) -> Figure:
    """``loss`` in points (colour, number) by ``calibrated_on`` (rows) and ``task``; a panel per ``metric``.

    Framed cells are masks that have seen the task (``own``).
    """
    metrics, tasks = unique(frame["metric"]), display_names.task_order(frame["task"])
    size = (DOUBLE, 0.24 * len(rows) + 1.2)
    fig, axes = plt.subplots(1, len(metrics), figsize=size, squeeze=False)
    top = max(float(frame["loss"].max()), 1.0)
    for ax, metric in zip(axes.flat, metrics, strict=True):
        part = frame[frame["metric"] == metric]
        square = part.pivot(index="calibrated_on", columns="task", values="loss").reindex(index=rows, columns=tasks)
        text = square.map(lambda number: "" if np.isnan(number) else f"{round(number)}".replace("-", "−"))
        cells(ax, square, text, cmap=LOSSES, vmin=0, vmax=top)
        for row in part[part["own"]].itertuples():
            corner = tasks.index(row.task), rows.index(row.calibrated_on)
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=PALETTE[0], linewidth=1.2))
        name_ticks(ax, tasks, [])
        ax.set_yticks(np.arange(len(rows)) + 0.5, [titles.get(row, row) for row in rows], rotation=0, fontsize=6.5)
        ax.set(xlabel="", ylabel="calibrated on" if ax is axes[0, 0] else "", title=display_names.metric(metric))
        if ax is not axes[0, 0]:
            ax.set_yticklabels([])
    fig.supxlabel("answered task; points lost against the dense model; framed: the mask has seen the task", fontsize=7)
    return fig


@styled
def logistic_grid(frame: pd.DataFrame, chosen: pd.DataFrame, usual: Mapping[str, float]) -> Figure:
    """Mean result on validation items over ``x0`` and ``k``; a row of panels per ``metric``, a column per sparsity.

    A star marks the choice (``chosen``: metric, requested_sparsity, x0, k), a dot the paper's setting.
    """
    metrics, sparsities = unique(frame["metric"]), sorted(frame["requested_sparsity"].unique())
    x0, k = sorted(frame["x0"].unique()), sorted(frame["k"].unique())
    size = (min(DOUBLE, 1.1 + len(sparsities) * (0.45 * len(k) + 0.5)), len(metrics) * (0.25 * len(x0) + 0.6) + 0.2)
    fig, axes = plt.subplots(len(metrics), len(sparsities), figsize=size, squeeze=False)
    for metric, line in zip(metrics, axes, strict=True):
        for ax, sparsity in zip(line, sparsities, strict=True):
            part = frame[(frame["metric"] == metric) & (frame["requested_sparsity"] == sparsity)]
            square = part.pivot(index="x0", columns="k", values="validation").reindex(index=x0, columns=k)
            text = square.map(lambda value: "" if np.isnan(value) else f"{100 * value:.0f}")
            cells(ax, square, text)
            best = chosen[(chosen["metric"] == metric) & (chosen["requested_sparsity"] == sparsity)].iloc[0]
            for setting, marker, down in ((best, "*", 0.22), (usual, ".", 0.78)):
                if setting["k"] in k and setting["x0"] in x0:
                    place = k.index(setting["k"]) + 0.85, x0.index(setting["x0"]) + down
                    ax.plot(*place, linestyle="", marker=marker, color=PALETTE[3], markersize=7)
            ax.set_xticks(np.arange(len(k)) + 0.5, [f"{value:g}" for value in k])
            ax.set_yticks(np.arange(len(x0)) + 0.5, [f"{value:g}" for value in x0], rotation=0)
            ax.tick_params(length=0)
            ax.set(xlabel="$k$", ylabel="$x_0$")
            ax.set_title(f"{display_names.metric(metric)} (%) at {display_names.sparsity(sparsity)}", fontsize=7)
    fig.supxlabel("star: chosen on validation items; dot: the paper's setting", fontsize=7)
    return fig


@styled
def sensitivity(frame: pd.DataFrame) -> Figure:
    """``drop`` by ``layer``: a panel per ``task``, a thin line per calibration seed, their mean with markers."""
    tasks, looks = display_names.task_order(frame["task"]), task_styles(frame["task"].unique())
    columns = min(len(tasks), 4)
    rows = -(-len(tasks) // columns)
    size = (DOUBLE, 1.5 * rows + 0.4)
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=True, sharey=True)
    for ax, task in zip(axes.flat, tasks, strict=False):
        part = frame[frame["task"] == task]
        ax.axhline(0, color=DENSE, linewidth=0.6, zorder=0)
        for _, line in part.groupby("calibration_seed"):
            ax.plot(line["layer"], 100 * line["drop"], color=looks[task]["color"], alpha=0.35, linewidth=0.7)
        mean = part.groupby("layer")["drop"].mean()
        ax.plot(mean.index, 100 * mean, **looks[task])
        layer_axis(ax, "layer pruned")
        ax.tick_params(labelbottom=True)
        ax.set_title(display_names.task(task), fontsize=7)
    hide_spare(axes, len(tasks))
    fig.supylabel("points lost", fontsize=8)
    return fig


DASHES = ("-", "--", ":")


@styled
def abstention(curves: Mapping[str, pd.DataFrame], thresholds: Mapping[str, float]) -> Figure:
    """Accuracy of the prompts that are routed by how many are (95% band), and how many are by the threshold.

    A curve (``router.abstention``) and its chosen threshold (dot) for every kind of prompt. The right
    panel's axis is 1 − θ on a logarithmic scale, because a router is rarely in doubt.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(DOUBLE, 2.4))
    looks = series_styles(curves)
    for place, (name, curve) in enumerate(curves.items()):
        colour, routed = looks[name]["color"], curve.dropna(subset="accuracy").sort_values("coverage")
        left.fill_between(routed["coverage"], routed["low"], routed["high"], color=colour, alpha=0.15, linewidth=0)
        left.plot(routed["coverage"], routed["accuracy"], color=colour, linestyle=DASHES[place % 3], label=name)
        doubt = (1 - curve["threshold"]).clip(lower=1e-6)
        right.plot(doubt, curve["coverage"], color=colour, linestyle=DASHES[place % 3])
        chosen = curve[curve["threshold"] <= thresholds[name]].iloc[-1]
        look = looks[name] | {"markersize": 5, "linestyle": ""}
        left.plot(chosen["coverage"], chosen["accuracy"], **look)
        right.plot(max(1 - chosen["threshold"], 1e-6), chosen["coverage"], **look)
    right.set(xlabel="doubt that is allowed, 1 − θ", ylabel="share of prompts routed", xscale="log")
    left.set(xlabel="share of prompts routed", ylabel="routed to the right expert")
    right.xaxis.set_major_formatter(as_number)
    for axis in (left.xaxis, left.yaxis, right.yaxis):
        axis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")
    legend_below(fig, left, 2)
    return fig


@styled
def routing_worth(accuracy: pd.DataFrame, curves: pd.DataFrame, even: pd.DataFrame) -> Figure:
    """What routing brings, left, and what it takes, right: a panel per ``subject`` of ``curves``.

    ``accuracy``: system, kind (of tasks), value, low, high. ``curves``: subject, system, tokens, ratio
    (seconds of a request over the dense model's); ``even``: subject, system, tokens at which that is 1.
    """
    systems, kinds = unique(accuracy["system"]), unique(accuracy["kind"])
    subjects, lines = unique(curves["subject"]), unique(curves["system"])
    of_kinds, of_systems = series_styles(kinds), variant_styles(lines)
    fig, (dots, *panels) = plt.subplots(
        1, 1 + len(subjects), figsize=(DOUBLE, 2.7), width_ratios=[1.5] + [1] * len(subjects)
    )
    for place, kind in enumerate(kinds):
        part = accuracy[accuracy["kind"] == kind].set_index("system").reindex(systems)
        y = [row + 0.16 * (2 * place - len(kinds) + 1) for row in range(len(systems))]
        bars = [part["value"] - part["low"], part["high"] - part["value"]]
        look = of_kinds[kind] | {"label": f"{kind} tasks"}
        dots.errorbar(part["value"], y, xerr=bars, linestyle="", elinewidth=0.8, **look)
    label_rows(dots, [_in_words(system) for system in systems])
    dots.tick_params(axis="y", length=0)
    dots.grid(axis="x", color=PALE, linewidth=0.5)
    dots.xaxis.set_major_formatter(as_percent)
    dots.set(xlabel="accuracy, %")
    fig.legend(*dots.get_legend_handles_labels(), loc="outside lower left", ncols=len(kinds))
    for ax, subject in zip(panels, subjects, strict=True):
        ax.axhline(1, color=DENSE, linestyle="--", linewidth=0.8)
        for place, system in enumerate(lines):
            line = curves[(curves["subject"] == subject) & (curves["system"] == system)]
            colour = of_systems[system]["color"]
            ax.plot(line["tokens"], line["ratio"], DASHES[place % 3], color=colour, label=_in_words(system))
            at = even[(even["subject"] == subject) & (even["system"] == system)]["tokens"]
            inside = at[(at >= line["tokens"].min()) & (at <= line["tokens"].max())]
            ax.plot(inside, [1] * len(inside), linestyle="", **of_systems[system])
        ax.set(xscale="log", xlabel="generated tokens", title=subject.replace(" (", "\n("))
        ax.xaxis.set_major_locator(LogLocator(numticks=9))
        ax.xaxis.set_major_formatter(as_number)
    panels[0].set_ylabel("seconds / dense")
    fig.legend(*panels[0].get_legend_handles_labels(), loc="outside lower right", ncols=1, fontsize=6.5)
    return fig


def _in_words(system: str) -> str:
    return {"dense": "dense model", "general": "general mask"}.get(system, system)
