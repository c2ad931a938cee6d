"""Masks on tasks that they were not calibrated on: the leave-one-task-out matrix.

Rows are calibration texts, columns are tasks. Every expert answers all tasks. The general mask (Eq. 15) is made once
of all corpora, and once per task without that task's corpus. A mask of the general text alone has seen no task.
Off the diagonal everything is out of distribution.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..activations.statistics import ActivationStats
from ..evaluation import bootstrap
from ..pruning.apply import Variant
from ..pruning.methods import Method
from ..pruning.scores import Scores, aggregate, score, weights
from ..texts.tasks import experts, get
from . import common

ALL, WITHOUT, TEXT, OTHERS = "all corpora", "all but the task's", "general text", "other experts"
DENSE = "dense model"


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


def with_others(items: pd.DataFrame) -> pd.DataFrame:
    """``items`` and, as row OTHERS, the mean result of every item over the experts of other tasks' corpora."""
    own = items["task"].map(lambda task: expert(get(task).expert))
    foreign = items[items["calibrated_on"].str.startswith("expert: ") & (items["calibrated_on"] != own)]
    keys = [name for name in ("task", "metric", "doc_id", "calibration_seed", "requested_sparsity") if name in foreign]
    means = foreign.groupby(keys, sort=False)["value"].mean().reset_index()
    return pd.concat([items, means.assign(calibrated_on=OTHERS)], ignore_index=True)


def ordered(rows: Sequence[str], corpora: Sequence[str]) -> list[str]:
    """Rows of the matrix, from masks that know most of a task to masks that know least."""
    order = [ALL, WITHOUT, *map(expert, corpora), TEXT, DENSE]
    return [name for name in order if name in set(rows)]


def losses(found: pd.DataFrame, dense: Mapping[str, float]) -> pd.DataFrame:
    """``matrix``'s frame with ``dense`` (task → value) as a column, and ``loss`` against it in points."""
    whole = found["task"].map(dense)
    return found.assign(dense=whole, loss=np.round(100 * (whole - found["value"]), 6))
