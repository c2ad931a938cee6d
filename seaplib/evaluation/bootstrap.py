"""Bootstrap of whole tables: what any number computed from item results would be on other items and other seeds.

A study compares many masks on the same items. Its item results make a :class:`Results`: for every task an array
[cells, seeds, items], a cell being one level of whatever the study varies. One draw takes items with replacement
within each task, the same ones for all cells and seeds, and calibration seeds with replacement, the same ones for
all tasks and cells, as :mod:`seaplib.comparison` does for two methods. Whatever is computed from the drawn means
(a share of variance, a rank correlation, a row of a matrix) has its interval from its own quantiles.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..texts import tasks as registry

PRIMARY = "primary"


@dataclass(frozen=True)
class Results:
    """``values``: task → float [cells, seeds, items]; ``cells`` are the levels, ``seeds`` the calibration seeds."""

    cells: tuple
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    values: dict[str, np.ndarray]

    @property
    def items(self) -> int:
        """Items of all tasks together."""
        return sum(table.shape[2] for table in self.values.values())

    @property
    def means(self) -> np.ndarray:
        """Means over items: [cells, tasks, seeds]."""
        return np.stack([self.values[task].mean(2) for task in self.tasks], axis=1)

    def seed_weights(self, draws: int, seed: int = 0) -> np.ndarray:
        """How often each calibration seed is taken in each draw: int [draws, seeds]."""
        n = len(self.seeds)
        return np.random.default_rng([seed, 0]).multinomial(n, np.full(n, 1 / n), size=draws)

    def drawn(self, draws: int, seed: int = 0, seeds: bool = True) -> np.ndarray:
        """``means`` of ``draws`` resampled data sets: [draws, cells, tasks, seeds].

        ``seeds=False`` draws items alone, for what compares seeds with each other: drawn twice, a seed would agree
        with itself. :meth:`seed_weights` then says how often each counts.
        """
        generator, out = np.random.default_rng([seed, 1]), []
        places = np.arange(len(self.seeds))
        chosen = np.stack([places.repeat(weight) for weight in self.seed_weights(draws, seed)])
        for task in self.tasks:
            table = self.values[task]
            n = table.shape[2]
            weight = generator.multinomial(n, np.full(n, 1 / n), size=draws) / n
            means = np.moveaxis(table @ weight.T, 2, 0)  # [draws, cells, seeds]
            out.append(np.take_along_axis(means, chosen[:, None, :], axis=2) if seeds else means)
        return np.round(np.stack(out, axis=2), 12)  # 1/3 + 1/3 − 2/3 is 0


def results(frame: pd.DataFrame, by: Sequence[str], metric: str = PRIMARY) -> Results:
    """Item results (``evaluate_items``'s frame) as an array, a cell for every combination of the columns ``by``.

    ``metric`` is one of the frame's, or "primary": each task's own. ValueError where a cell lacks an item, a task or
    a seed that another has: means of different items are no comparison.
    """
    wanted = {task: registry.get(task).metric if metric == PRIMARY else metric for task in frame["task"].unique()}
    rows = frame[frame["metric"] == frame["task"].map(wanted)]
    if rows.empty:
        raise ValueError(f"there are no item results by {metric}")
    by = list(by)
    keys = list(rows[by].itertuples(index=False, name=None)) if len(by) > 1 else rows[by[0]].tolist()
    cells = tuple(dict.fromkeys(keys))
    rows = rows.assign(_cell=pd.Series(keys, index=rows.index).map({c: i for i, c in enumerate(cells)}))
    seeds = tuple(sorted(rows["calibration_seed"].unique()))
    values = {}
    for task, part in rows.groupby("task", sort=False):
        if part.duplicated(["_cell", "calibration_seed", "doc_id"]).any():
            raise ValueError(f"{task}: some items have two results in one cell; {', '.join(by)} do not tell them apart")
        wide = part.pivot(index=["_cell", "calibration_seed"], columns="doc_id", values="value")
        wide = wide.reindex(pd.MultiIndex.from_product([range(len(cells)), seeds]))
        if wide.isna().any(axis=None):
            raise ValueError(f"{task}: every cell needs the same items under the same calibration seeds")
        values[task] = wide.to_numpy(float).reshape(len(cells), len(seeds), -1)
    return Results(cells, tuple(values), seeds, values)


def interval(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high end (95%) of numbers drawn along the first axis; NaN where some draw has no number."""
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return low, high


def p_value(drawn: np.ndarray, null: float = 0.0) -> float:
    """Two-sided bootstrap p of one number against ``null``; at least 2 / (draws + 1)."""
    tail = min((drawn <= null).sum(), (drawn >= null).sum())
    return float(min(1.0, 2 * (1 + tail) / (1 + len(drawn))))


def estimate(value: float, drawn: np.ndarray, null: float = 0.0) -> dict:
    """``value`` with its interval and p, as columns: measured, low, high, p_value."""
    low, high = interval(drawn)
    return {"measured": float(value), "low": float(low), "high": float(high), "p_value": p_value(drawn, null)}


NUMBERS_AT_ONCE = 2**24  # bounds the memory of the bootstrap


def _bootstrap(differences: list[np.ndarray], draws: int, draw: np.random.Generator) -> np.ndarray:
    """Δ of resampled data, [draws]; ``differences`` are [seeds, items], one per task."""
    seeds = len(differences[0])
    weight = draw.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds  # [draws, seeds]
    total = np.zeros(draws)
    for table in differences:
        n = table.shape[1]
        block = max(1, NUMBERS_AT_ONCE // table.size)
        for start in range(0, draws, block):
            part = slice(start, min(start + block, draws))
            chosen = draw.integers(n, size=(part.stop - part.start, n))
            total[part] += (weight[part].T * table[:, chosen].mean(axis=2)).sum(axis=0)
    return np.round(total / len(differences), 12)  # 1/3 + 1/3 − 2/3 is 0, not beyond it


def _interval(influences: np.ndarray, strata: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """95% bootstrap interval around 0 of the means of ``influences`` [n, k], resampled within strata: [2, k]."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((resamples, len(influences)))
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        weights[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=resamples)
    means = weights @ influences / len(influences)
    return np.percentile(means - influences.mean(axis=0), [2.5, 97.5], axis=0)
