"""Item results summarised as the papers' tables show them: a row per method, ± and marks of best."""

import math

import numpy as np
import pandas as pd

from . import display_names
from .tables import AVERAGE, MISSING


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean over calibration seeds per variant, sparsity and task, and over tasks (task ``average``).

    The variance of a mean is the variance from items (the same items for all seeds, so not divided by
    their number) plus the variance between k seeds over k. Tasks are independent, so the average of
    T tasks has standard error sqrt(Σ se²)/T. Only a frame's primary metrics count. A variant that
    lacks a task of the frame has no average.

    Returns requested_sparsity, method, score, label, task, value, stderr, seeds [and published].
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


def zero_shot(frame: pd.DataFrame) -> pd.DataFrame:
    """The form of the paper's Tables 1 and 4: rows sparsity × method, columns tasks and average.

    Takes the frame of ``evaluate``; cells are percentages, with the best of every sparsity bold
    and the second best underlined. With a column ``published`` (``with_published``), the paper's
    average over the tasks that both have stands last.
    """
    means = summary(frame)
    tasks = display_names.task_order(task for task in means["task"].unique() if task != AVERAGE)
    order = display_names.variant_order(means)
    blocks = []
    for sparsity, block in means.groupby("requested_sparsity"):
        wide = block.pivot(index="label", columns="task", values="value").reindex(columns=[*tasks, AVERAGE])
        wide = wide.loc[[label for label in order if label in wide.index]]
        shown = (100 * wide).apply(_marked)
        if "published" in block:
            paper = block[block["task"] == AVERAGE].set_index("label")["published"].reindex(wide.index)
            shown["paper, same tasks"] = _plain(100 * paper)
        blocks.append(_with_heads(shown, sparsity))
    names = {task: display_names.task(task) for task in tasks} | {AVERAGE: "Average"}
    return pd.concat(blocks, ignore_index=True).rename(columns=names)


def _marked(column: pd.Series) -> pd.Series:
    """Numbers as text, the largest bold and the next largest underlined, compared as displayed."""
    texts = _plain(column)
    ranked = sorted({float(text) for text in texts if text != MISSING}, reverse=True)
    if len(column.dropna()) < 2:
        return texts
    marks = dict(zip((f"{value:.1f}" for value in ranked), ("**{}**", "<ins>{}</ins>"), strict=False))
    return texts.map(lambda text: marks.get(text, "{}").format(text))


def _plain(column: pd.Series) -> pd.Series:
    return column.map(lambda value: MISSING if pd.isna(value) else f"{value:.1f}")


def _with_heads(shown: pd.DataFrame, sparsity: float) -> pd.DataFrame:
    shown.insert(0, "Sparsity", display_names.sparsity(sparsity))
    shown.insert(1, "Method", shown.index)
    return shown
