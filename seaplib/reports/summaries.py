"""Item results summarised as the papers' tables show them: a row per method, ± and marks of best."""

import math
import re

import numpy as np
import pandas as pd

from ..evaluation import bootstrap, comparison
from . import claims, display_names
from .tables import AVERAGE, MISSING, least, points

GUESSED = "°"  # behind a result that its items cannot tell from guessing


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean over calibration seeds per variant, sparsity and task, and over tasks (task ``average``).

    The variance of a mean is the variance from items (the same items for all seeds, so not divided by
    their number) plus the variance between k seeds over k. Tasks are independent, so the average of
    T tasks has standard error sqrt(Σ se²)/T. Only a frame's primary metrics count. A variant that
    lacks a task of the frame has no average.

    Returns requested_sparsity, method, score, label, task, value, stderr, seeds [, published] [, at_chance: whether
    every seed's value may be guessing].
    """
    models = sorted(frame["model"].unique()) if "model" in frame else []
    if len(models) > 1:
        raise ValueError(f"one model at a time: filter the frame, which has {', '.join(models)}")
    frame = frame[frame["primary"].astype(bool)] if "primary" in frame else frame
    frame = frame.assign(label=display_names.variants(frame))
    keys = ["requested_sparsity", "method", *(["score"] if "score" in frame else []), "label"]
    rows = []
    for key, cell in frame.groupby([*keys, "task"], sort=False):
        between = cell["value"].var(ddof=1) / len(cell) if len(cell) > 1 else 0.0
        row = dict(zip([*keys, "task"], key, strict=True))
        row |= {"value": cell["value"].mean(), "stderr": math.sqrt((cell["stderr"] ** 2).mean() + between)}
        row["seeds"] = len(cell)
        if "published" in cell:
            row["published"] = cell["published"].mean()
        if "at_chance" in cell:
            row["at_chance"] = bool(cell["at_chance"].all())
        rows.append(row)
    means = pd.DataFrame(rows)
    tasks = display_names.task_order(means["task"])
    averages = []
    for key, variant in means.groupby(keys, sort=False):
        row = dict(zip(keys, key, strict=True)) | {"task": AVERAGE, "seeds": variant["seeds"].min()}
        complete = len(variant) == len(tasks)
        row["value"] = variant["value"].mean() if complete else np.nan
        row["stderr"] = math.sqrt((variant["stderr"] ** 2).sum()) / len(tasks) if complete else np.nan
        if "published" in variant:
            row["published"] = variant["published"].mean()
        averages.append(row)
    return pd.concat([means, pd.DataFrame(averages)], ignore_index=True)


def by_allocation(frame: pd.DataFrame) -> pd.DataFrame:
    """Averages over tasks under each sparsity allocation (Table 3): ``summary``'s columns and ``allocation``.

    The dense model is a row of allocation ``none``.
    """
    frame = frame.assign(allocation=frame["allocation"].where(frame["requested_sparsity"] > 0, "none"))
    parts = {name: summary(part) for name, part in frame.groupby("allocation", sort=False)}
    means = pd.concat([part.assign(allocation=name) for name, part in parts.items()], ignore_index=True)
    return means[means["task"] == AVERAGE].reset_index(drop=True)


def sparsity_settings(means: pd.DataFrame) -> pd.DataFrame:
    """The form of the paper's Table 3: rows sparsity × method, a column of averages per allocation.

    Takes the frame of ``by_allocation``; the best of every row is bold, the second underlined.
    """
    names = [name for name in means["allocation"].unique() if name != "none"]
    order, blocks = display_names.variant_order(means), []
    for sparsity, block in means.groupby("requested_sparsity"):
        wide = block.pivot(index="label", columns="allocation", values="value")
        if not sparsity:
            wide = wide.rename(columns={"none": names[0]})
        wide = wide.reindex(columns=names).loc[[label for label in order if label in wide.index]]
        shown = (100 * wide).apply(_marked, axis=1)
        blocks.append(_with_heads(shown, sparsity))
    return pd.concat(blocks, ignore_index=True).rename(columns={name: display_names.allocation(name) for name in names})


def by_metric(results: pd.DataFrame) -> pd.DataFrame:
    """The form of :func:`sparsity_settings` by every reported metric: a row per sparsity, method and compensation.

    Takes the frame of ``evaluate``. The allocation has columns of its own, so that a method's name does not say it.
    """
    named, blocks = results.assign(method=results["method"].str.replace("-energy", "")), []
    for metric in bootstrap.measured(named):
        chosen = bootstrap.of_metric(named, metric).assign(primary=True)
        block = sparsity_settings(by_allocation(chosen))
        block.insert(0, "Metric", display_names.metric(metric))
        blocks.append(block)
    return pd.concat(blocks, ignore_index=True)


def zero_shot(frame: pd.DataFrame) -> pd.DataFrame:
    """The form of the paper's Tables 1 and 4: rows sparsity × method, columns tasks and average.

    Takes the frame of ``evaluate``; cells are percentages, with the best of every sparsity bold
    and the second best underlined. ° marks what these items cannot tell from guessing. A task by whose metric the dense
    model gets nothing right has dashes. With a column ``published`` (``with_published``), the paper's
    average over the tasks that both have stands last.
    """
    means = summary(frame)
    dense = means[means["method"] == "dense"]
    means["value"] = means["value"].mask(means["task"].isin(dense.loc[dense["value"] == 0, "task"]))
    tasks = display_names.task_order(task for task in means["task"].unique() if task != AVERAGE)
    order = display_names.variant_order(means)
    blocks = []
    for sparsity, block in means.groupby("requested_sparsity"):
        wide = block.pivot(index="label", columns="task", values="value").reindex(columns=[*tasks, AVERAGE])
        wide = wide.loc[[label for label in order if label in wide.index]]
        shown = (100 * wide).apply(_marked)
        if "at_chance" in block:
            guessed = block.pivot(index="label", columns="task", values="at_chance").reindex_like(wide).eq(True)
            shown = shown.mask(guessed, shown.map(_guessed))
        if "published" in block:
            paper = block[block["task"] == AVERAGE].set_index("label")["published"].reindex(wide.index)
            shown["paper, same tasks"] = _plain(100 * paper)
        blocks.append(_with_heads(shown, sparsity))
    names = {task: display_names.task(task) for task in tasks} | {AVERAGE: "Average"}
    return pd.concat(blocks, ignore_index=True).rename(columns=names)


def as_published(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of Table 1 as the paper has them: none again under another budget, protection or compensation."""
    allocation, method = frame["allocation"].astype(str), frame["method"].astype(str)
    again = allocation.str.contains("protect") | method.str.contains("+", regex=False) | (frame["budget"] == "floor")
    return frame[~again]


def variations(results: pd.DataFrame) -> pd.DataFrame:
    """Average accuracy (%) of every method at the first calibration seed, a column per variation of its row.

    The variations are: as in Table 1, ``+bias``, the last layers unprotected, the paper's floor budget. Takes the
    frame of ``evaluate``; a dash was not run.
    """
    first = results[(results["calibration_seed"] == results["calibration_seed"].min()) & results["primary"]]
    recipe = pd.Series("as in Table 1", index=first.index)
    recipe[first["method"].str.endswith("+bias")] = "+bias"
    recipe[first["allocation"].astype(str).str.endswith("protect 0+0")] = "no layer protected"
    recipe[first["budget"] == "floor"] = "floor budget"
    first = first.assign(recipe=recipe, method=first["method"].str.partition("+")[0])
    keys = ["requested_sparsity", "method", "score"]
    averages = first.pivot_table(index=keys, columns="recipe", values="value", sort=False)
    return (100 * averages).round(1).reset_index().rename_axis(columns=None)


def budgets(results: pd.DataFrame) -> pd.DataFrame:
    """The smallest and largest achieved sparsity of every method, of the projections and of the whole model."""
    keys = ["requested_sparsity", "budget", "allocation", "method", "score"]
    pruned = results[results["method"] != "dense"].groupby(keys)
    found = pruned[["achieved_sparsity", "achieved_model_sparsity"]].agg(["min", "max"])
    found.columns = [f"{name}, {end}" for name, end in found.columns]
    return found.reset_index()


def comparisons(contrasts: pd.DataFrame) -> pd.DataFrame:
    """``comparison.contrasts`` over all tasks for reading: differences in points and verdicts, a column per metric.

    A verdict that Holm's correction over the whole table does not leave standing has a mark; "shown from" is the
    smallest difference that so many items show four times in five.
    """
    overall = contrasts[contrasts["task"] == "all"]
    cells = overall.assign(cell=points(overall), verdict=claims.marked(overall), least=least(overall))
    cells["metric"] = cells["metric"].map(display_names.metric)
    keys = ["requested_sparsity", "a", "b"]
    wide = cells.pivot(index=keys, columns="metric", values=["cell", "least", "verdict"])
    wide = wide.reindex(cells.set_index(keys).index.unique())
    kinds = {"cell": "", "least": ": shown from", "verdict": ": verdict"}
    wide.columns = [metric + kinds[kind] for kind, metric in wide.columns]
    shown = wide[sorted(wide.columns)].reset_index()
    shown[["a", "b"]] = shown[["a", "b"]].map(display_names.allocation)
    return shown.assign(requested_sparsity=shown["requested_sparsity"].map(display_names.sparsity))


def crossed(found: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """``comparison.crossed`` or ``by_task`` for reading; "shown from" as in :func:`comparisons`."""
    shown = found[[*by, "a", "b"]].assign(
        sparsity=found["requested_sparsity"].map(display_names.sparsity),
        metric=found["metric"].map(display_names.metric),
        difference=points(found),
        least=least(found),
        n=found["n"],
        verdict=claims.marked(found),
    )
    named = [column for column in (*by, "a", "b") if column != "task"]
    shown[named] = shown[named].map(display_names.allocation)
    return shown.rename(columns={"difference": "a − b, points [95%]", "least": "shown from"})


def uncompensated(results: pd.DataFrame) -> pd.DataFrame:
    """The rows of Table 3's figures: no compensation, and not the control that leaves the first layer alone."""
    allocation, method = results["allocation"].astype(str), results["method"].astype(str)
    return results[~method.str.contains("+", regex=False) & ~allocation.str.endswith("1+0")]


def with_compensation(items: pd.DataFrame) -> pd.DataFrame:
    """The items of methods that were run with and without compensation.

    Adds ``compensation`` ("none", "bias", "least squares") and ``base``, the method with its allocation.
    """
    names, suffix = items["method"].str.partition("+")[0], items["method"].str.partition("+")[2]
    base = (
        display_names.variants(items[["score"]].assign(method=names)[["method", "score"]]) + ", " + items["allocation"]
    )
    items = items.assign(compensation=suffix.replace({"": "none"}), base=base)
    return items[items["base"].isin(set(items.loc[suffix != "", "base"]))]


def largest_contributions(by_task: pd.DataFrame) -> pd.DataFrame:
    """Of ``comparison.by_task``'s means by accuracy: tasks ahead and behind, and the task that contributes most."""
    single = by_task[(by_task["task"] != comparison.POOLED) & (by_task["metric"] == "primary")]
    rows = []
    for (a, b, sparsity), part in single.groupby(["a", "b", "requested_sparsity"], sort=False):
        most, said = part.loc[part["difference"].abs().idxmax()], part["verdict"].value_counts()
        rows.append(
            {
                "a": a,
                "b": b,
                "sparsity": display_names.sparsity(sparsity),
                "mean, points": f"{100 * part['difference'].mean():+.1f}",
                "a ahead": said.get(comparison.HOLDS, 0),
                "a behind": said.get(comparison.REVERSED, 0),
                "tasks": len(part),
                "most in": f"{display_names.task(most['task'])} ({100 * most['difference']:+.1f})",
                "mean without it": f"{100 * part.drop(most.name)['difference'].mean():+.1f}",
            }
        )
    return pd.DataFrame(rows)


def single_tasks(contrasts: pd.DataFrame) -> pd.DataFrame:
    """On how many single tasks a is better or worse than b, and on how many McNemar's test stands after Holm's."""
    single = contrasts[(contrasts["task"] != "all") & (contrasts["metric"] == "primary")]
    counts = {
        "better": single["difference"] > 0,
        "worse": single["difference"] < 0,
        "significant": single["p_holm"] < 0.05,
    }
    keys = ["requested_sparsity", "a", "b"]
    grouped = single.assign(**counts, tasks=1).groupby(keys, sort=False)
    return grouped[[*counts, "tasks"]].sum().reset_index()


def remove_tests(results: pd.DataFrame, layers: int) -> pd.DataFrame:
    """Remove tests as a row per task, metric, layer and ratio: what is lost against the dense model (``drop``).

    Takes the frame of ``evaluate`` with a column ``layer``. ``ratio`` is the share of one layer that was asked for,
    ``requested_sparsity`` what that is of all ``layers``.
    """
    dense = results[results["method"] == "dense"].set_index(["task", "metric"])["value"].rename("dense")
    curves = results[results["method"] != "dense"].join(dense, on=["task", "metric"])
    return curves.assign(
        ratio=curves["requested_sparsity"],
        requested_sparsity=curves["requested_sparsity"] / layers,
        layer=curves["layer"].astype(int),
        drop=curves["dense"] - curves["value"],
    )


def remove_tests_by_layer(curves: pd.DataFrame) -> pd.DataFrame:
    """:func:`remove_tests` for reading: percentages, a row per task, metric and ratio, a column per layer."""
    wide = curves.pivot_table(index=["task", "metric", "ratio"], columns="layer", values="value", sort=False)
    shown = (100 * wide.sort_index(axis=1)).round(1).rename(columns=lambda layer: f"layer {layer}").reset_index()
    shown["exact"] = shown["metric"] == "exact_match"
    order = {task: place for place, task in enumerate(shown["task"].unique())}
    shown = shown.sort_values(["task", "exact", "ratio"], key=lambda c: c.map(order) if c.name == "task" else c)
    return shown.drop(columns="exact").rename_axis(columns=None)


def perplexity(results: pd.DataFrame) -> pd.DataFrame:
    """Perplexities for reading, experts as their geometric mean with lowest and highest; gentlest method first.

    Takes a row per preset and variant (``summarise``'s columns beside the label's); ``over_dense`` is the ratio to
    the dense model's perplexity.
    """
    order = {preset: place for place, preset in enumerate(results["preset"].unique())}
    named = results.assign(label=display_names.variants(results.assign(task=results["dataset"])))
    keys = ["preset", "requested_sparsity", "label"]
    shown = named.groupby(keys, sort=False).agg(
        nll=("nll", "mean"),
        lowest=("perplexity", "min"),
        highest=("perplexity", "max"),
        bits_per_byte=("bits_per_byte", "mean"),
        masks=("nll", "size"),
    )
    shown.insert(0, "perplexity", np.exp(shown["nll"]))
    shown[["lowest", "highest"]] = shown[["lowest", "highest"]].where(shown["masks"] > 1)
    shown = shown.drop(columns="nll").reset_index()
    dense = results[results["method"] == "dense"].set_index("preset")["perplexity"]
    shown.insert(7, "over_dense", shown["perplexity"] / shown["preset"].map(dense))
    return shown.sort_values(keys[:2] + ["perplexity"], key=lambda c: c.map(order) if c.name == "preset" else c)


def task_classifier(ours: pd.DataFrame, bare: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """The form of the paper's Table 6: precision, recall, F1 and support per class, the paper's beside ours.

    ``ours`` and ``bare`` (without the template's words) are reports by class, ``paper`` the published table.
    """
    wide = paper.assign(base=paper["class"].map(display_names.base_task)).pivot(
        index="base", columns="metric", values="value"
    )
    ours, bare = ours.set_index("class"), bare.set_index("class")
    shown = pd.DataFrame({"Class": [display_names.task(name) for name in ours.index]}, ours.index)
    shown[["precision", "recall", "f1"]] = ours[["precision", "recall", "f1"]].round(2)
    shown["support"] = ours["support"]
    shown["f1, no template"] = bare["f1"].round(2)
    shown, bases = shown.reset_index(drop=True), ours.index.map(display_names.base_task)
    for column in ("precision", "recall", "f1", "support"):
        shown[f"paper: {column}"] = wide[column].reindex(bases).to_numpy()
    return shown


def _marked(column: pd.Series) -> pd.Series:
    """Numbers as text, the largest bold and the next largest underlined, compared as displayed."""
    texts = _plain(column)
    ranked = sorted({float(text) for text in texts if text != MISSING}, reverse=True)
    if len(column.dropna()) < 2:
        return texts
    marks = dict(zip((f"{value:.1f}" for value in ranked), ("**{}**", "<ins>{}</ins>"), strict=False))
    return texts.map(lambda text: marks.get(text, "{}").format(text))


def _guessed(text: str) -> str:
    """A cell with ° behind its number, inside its marks."""
    return re.sub(r"(?<=\d)(?=\D*$)", GUESSED, text, count=1)


def _plain(column: pd.Series) -> pd.Series:
    return column.map(lambda value: MISSING if pd.isna(value) else f"{value:.1f}")


def _with_heads(shown: pd.DataFrame, sparsity: float) -> pd.DataFrame:
    shown.insert(0, "Sparsity", display_names.sparsity(sparsity))
    shown.insert(1, "Method", shown.index)
    return shown
