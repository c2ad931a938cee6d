"""Masks on tasks that they were not calibrated on: the leave-one-task-out matrix.

Rows are calibration texts, columns are tasks. Every expert answers all tasks. The general mask (Eq. 15) is made once
of all corpora, and once per task without that task's corpus. A mask of the general text alone has seen no task.
Off the diagonal everything is out of distribution. Two rows sum the experts up: the task's own, and the others' mean.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from ..activations.statistics import ActivationStats
from ..evaluation import bootstrap, comparison
from ..pruning.apply import Variant
from ..pruning.methods import Method
from ..pruning.scores import Scores, aggregate, score, weights
from ..reports import display_names
from ..reports.claims import points
from ..texts.tasks import experts, get
from . import common

ALL, WITHOUT, TEXT = "all corpora", "all but the task's", "general text"
OWN, OTHERS = "own expert", "other experts"
#: claim's name → its sentence, the rows a and b whose difference a − b it is about, its direction
CLAIMS = {
    "own-expert-beats-others": ("A task's own expert beats the other tasks' experts on it", OWN, OTHERS, 1),
    "leaving-a-task-out-costs": ("Leaving a task's text out of the general mask costs that task", WITHOUT, ALL, -1),
    "other-experts-worse-than-general": (
        "Other tasks' experts are worse than a general mask without the task", OTHERS, WITHOUT, -1,
    ),
    "other-tasks-beat-general-text": (
        "Other tasks' texts beat the general text alone on an unseen task", WITHOUT, TEXT, 1,
    ),
}  # fmt: skip


def expert(corpus: str) -> str:
    """The name of the row of a corpus' expert."""
    return f"expert: {corpus}"


def variants(
    stats: Mapping[str, ActivationStats],
    tasks: Sequence[str],
    general: str,
    sparsity: float,
    seed: int,
    method: Method,
    mode: str = "remove",
) -> list[Variant]:
    """All masks of the matrix for a calibration seed; column ``calibrated_on`` names the row.

    ``stats``: every expert's corpus, and ``general``, to its statistics. ValueError where a task's corpus is the
    general text, or is the only corpus.
    """
    served = experts(tasks)
    if general in served or len(served) < 2:
        raise ValueError("leaving a task out needs corpora of two tasks or more, and a general text beside them")
    each = {name: score(stats[name], method.score) for name in (*served, general)}

    def mask(scores: Scores, row: str, answered) -> Variant:
        return common.variant(method, scores, sparsity, seed, answered, mode, calibrated_on=row)

    out = [mask(each[name], expert(name), None) for name in served]
    out.append(mask(each[general], TEXT, None))
    for row, without in ((ALL, None), *((WITHOUT, name) for name in served)):
        chosen = {name: own for name, own in each.items() if name != without}
        answered = served[without] if without else None
        out.append(mask(aggregate(chosen, weights(chosen, general)), row, answered))
    return out


def matrix(items: pd.DataFrame, metric: str = bootstrap.PRIMARY, draws: int = bootstrap.FEW_DRAWS) -> pd.DataFrame:
    """A row per calibration text and task: calibrated_on, task, value, low, high (95%, items and seeds), own.

    ``items`` are item results of :func:`variants`. ``own`` says whether the task's own corpus is part of the text.
    """
    rows = []
    for task, part in items.groupby("task", sort=False):
        answers = bootstrap.results(part, ["calibrated_on"], metric)
        means, drawn = answers.means.mean((1, 2)), answers.drawn(draws).mean((2, 3))
        low, high = bootstrap.interval(drawn)
        for place, row in enumerate(answers.cells):
            own = row in (ALL, expert(get(task).expert))
            rows.append((row, task, means[place], low[place], high[place], own))
    return pd.DataFrame(rows, columns=["calibrated_on", "task", "value", "low", "high", "own"])


def averaged(items: pd.DataFrame) -> pd.DataFrame:
    """``items`` and the rows OWN and OTHERS: every item under its task's own expert, and its mean under the others."""
    by_own = items["task"].map(lambda task: expert(get(task).expert))
    keys = [name for name in ("task", "metric", "doc_id", "calibration_seed", "requested_sparsity") if name in items]
    own = items.loc[items["calibrated_on"] == by_own, [*keys, "value"]]
    foreign = items[items["calibrated_on"].str.startswith("expert: ") & (items["calibrated_on"] != by_own)]
    means = foreign.groupby(keys, sort=False)["value"].mean().reset_index()
    return pd.concat([items, own.assign(calibrated_on=OWN), means.assign(calibrated_on=OTHERS)], ignore_index=True)


def ordered(corpora: Sequence[str]) -> dict[str, str]:
    """Rows of the matrix and how they are written, from masks that know most of a task to masks that know least."""
    names = {name: name for name in (ALL, WITHOUT)}
    return names | {expert(name): f"{display_names.task(name)} expert" for name in corpora} | {TEXT: TEXT}


def losses(found: pd.DataFrame, dense: Mapping[str, float]) -> pd.DataFrame:
    """``matrix``'s frame with ``dense`` (task → value) as a column, and ``loss`` against it in points."""
    whole = found["task"].map(dense)
    return found.assign(dense=whole, loss=np.round(100 * (whole - found["value"]), 6))


def table(items: pd.DataFrame, dense: pd.DataFrame) -> pd.DataFrame:
    """The matrix by every metric, with the losses against the ``dense`` results (tasks × metrics).

    ``items`` are those of :func:`averaged`.
    """
    parts = [losses(matrix(items, name), dense[name].to_dict()).assign(metric=name) for name in dense]
    return pd.concat(parts, ignore_index=True)


def display(found: pd.DataFrame, corpora: Sequence[str]) -> pd.DataFrame:
    """:func:`table` for reading: points lost, a row per metric and text, a column per task and their mean."""
    names = {OWN: "the task's own expert", OTHERS: "experts of other tasks"} | ordered(corpora)
    square = found.pivot(index=["metric", "calibrated_on"], columns="task", values="loss")
    square = square.reindex(pd.MultiIndex.from_product([found["metric"].unique(), names], names=square.index.names))
    square = square[display_names.task_order(square.columns)].rename(columns=display_names.task)
    square = square.assign(mean=square.mean(axis=1)).round(1).reset_index().rename_axis(columns=None)
    square["calibrated_on"] = square["calibrated_on"].map(names)
    square["metric"] = square["metric"].map(display_names.metric)
    return square.rename(columns={"calibrated_on": "calibrated on"})


def claims(items: pd.DataFrame, sparsity: float, draws: int = bootstrap.DRAWS) -> list[dict]:
    """The claims of :data:`CLAIMS` over all tasks; ``items`` are those of :func:`averaged`."""
    rows = []
    for (name, (text, a, b, direction)), metric in product(CLAIMS.items(), bootstrap.measured(items)):
        found = comparison.compare(items, {"calibrated_on": a}, {"calibrated_on": b}, metric, draws)
        about = {"name": name, "sparsity": sparsity, "metric": metric, "direction": direction}
        rows.append(points(text, found, where="leave_one_task_out", **about))
    return rows


def answer(verdicts: pd.DataFrame, found: pd.DataFrame, sparsity: float) -> str:
    """What a mask is worth on a task that it has not seen; ``found`` is :func:`table`'s frame."""
    at = display_names.sparsity(sparsity)
    means, metrics = found.groupby(["calibrated_on", "metric"])["loss"].mean(), found["metric"].unique()
    named = " / ".join(map(display_names.metric, metrics))
    lost = {row: " / ".join(f"{means[row, name]:.1f}" for name in metrics) for row in (OWN, OTHERS, WITHOUT)}
    own = {
        comparison.HOLDS: "an expert is worth less on a task that it has not seen than that task's own expert",
        comparison.REVERSED: "an expert is worth more on tasks that it has not seen than their own experts",
        comparison.UNDECIDED: "whether a task's own expert is better than another task's stays open",
    }
    out = {
        comparison.HOLDS: "leaving a task's text out of the general mask costs that task",
        comparison.REVERSED: "leaving a task's text out of the general mask even helps that task",
        comparison.UNDECIDED: "leaving a task's text out of the general mask costs nothing that these items can show",
    }
    first = (
        f"At {at} a task loses {lost[OTHERS]} points ({named}) under another task's expert, {lost[OWN]} under its "
        f"own, and {lost[WITHOUT]} under a general mask that has not seen it."
    )
    further = [("own-expert-beats-others", own), ("leaving-a-task-out-costs", out)]
    return " ".join([first, *(common.sentence(common.told(verdicts, f"{name}/{at}", said)) for name, said in further)])
