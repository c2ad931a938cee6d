"""The bootstrap: how far a number computed from results depends on which items, prompts or seeds were drawn.

Two designs. *Plain*: n values (windows, rounds, tasks) are drawn with replacement. *Two levels*: items are drawn with
replacement within each task, and calibration seeds, which all tasks share, once per draw; an item keeps its results
under every seed. Two methods that err on the same items thus differ by far less than their separate standard errors
suggest.

A study compares many masks on the same items. Its item results make a :class:`Results`: for every task an array
[cells, seeds, items], a cell being one level of the factor that the study varies. A draw takes the same items and
seeds in all cells. Any number computed from the drawn means (a share of variance, a rank correlation, a row of a
matrix) has its interval from the quantiles of that number over the draws.

Every interval is a percentile interval at 95%. scipy's bootstrap knows neither design with shared seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from ..settings import METRICS
from ..texts import tasks as registry

PRIMARY = "primary"
#: The metrics of the result tables and of every comparison: each task's own and, beside it, exact match.
REPORTED = (PRIMARY, *(name for name, kind in METRICS.items() if kind.reported))
ENDS = (0.025, 0.975)  # of every interval
Z = 1.96  # half a 95% interval of a normal distribution, in standard errors
#: a difference of so many standard errors is shown (two-sided, at 5%) by four of five data sets: 1.96 + 0.84
SHOWN = 2.8
FEWEST = 6  # items that one side alone gets right, the fewest by which an exact sign test reaches 5%
DRAWS = 2000  # of every bootstrap where a caller says nothing else
FEW_DRAWS = 1000  # the same where a draw costs more: rankings, and whole curves or matrices
NUMBERS_AT_ONCE = 2**24  # bounds the memory of paired draws

Seed = int | Sequence[int] | np.random.Generator


def places(n: int, draws: int, seed: Seed = 0) -> Int[np.ndarray, "draws n"]:
    """Places of n values drawn with replacement, a row per draw. A generator as ``seed`` goes on where it is."""
    return np.random.default_rng(seed).integers(n, size=(draws, n))


def means(values: Float[np.ndarray, " n"], draws: int = DRAWS, seed: Seed = 0) -> Float[np.ndarray, " draws"]:
    """Means of ``values`` drawn with replacement."""
    return values[places(len(values), draws, seed)].mean(axis=1)


def mean_interval(values: Float[np.ndarray, " n"], draws: int = DRAWS, seed: Seed = 0) -> Float[np.ndarray, " 2"]:
    """Low and high end (95%) of the mean of ``values``."""
    return interval(means(values, draws, seed))


def stratified_interval(
    influences: Float[np.ndarray, "n numbers"], strata: np.ndarray, draws: int = DRAWS, seed: Seed = 0
) -> Float[np.ndarray, "2 numbers"]:
    """Low and high end (95%), around 0, of the means of ``influences``, drawn within ``strata`` [n]."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((draws, len(influences)))
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        weights[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=draws)
    drawn = weights @ influences / len(influences)
    return interval(drawn - influences.mean(axis=0))


def paired(
    differences: list[Float[np.ndarray, "seeds _"]], draws: int = DRAWS, seed: Seed = 0
) -> Float[np.ndarray, " draws"]:
    """Δ = mean over tasks of the mean over seeds and items, of resampled data.

    ``differences`` are a − b of every item: [seeds, items], an array per task. Comparisons on equally many items and
    seeds draw the same, so that the draws of a whole ``seed`` are made once.
    """
    shape = tuple(table.shape[1] for table in differences), len(differences[0]), draws
    weight, counts = _drawn(*shape, seed) if isinstance(seed, int) else _draw(*shape, seed)
    total = np.zeros(draws)
    for table, count in zip(differences, counts, strict=True):
        block = max(1, NUMBERS_AT_ONCE // table.shape[1])
        for start in range(0, draws, block):
            part = slice(start, min(start + block, draws))
            means = table @ count[part].T.astype(float) / table.shape[1]  # [seeds, draws]
            total[part] += (weight[part].T * means).sum(axis=0)
    return np.round(total / len(differences), 12)  # 1/3 + 1/3 − 2/3 is 0, not beyond it


def _draw(items: tuple[int, ...], seeds: int, draws: int, seed: Seed):
    """How much each seed counts in a draw, [draws, seeds], and per task how often each item does, [draws, items]."""
    rng = np.random.default_rng(seed)
    weight = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    counts = []
    for n in items:
        count = np.empty((draws, n), np.uint16)
        block = max(1, NUMBERS_AT_ONCE // n)
        for start in range(0, draws, block):
            rows = min(start + block, draws) - start
            chosen = places(n, rows, rng) + n * np.arange(rows)[:, None]
            count[start : start + rows] = np.bincount(chosen.ravel(), minlength=rows * n).reshape(rows, n)
        counts.append(count)
    return weight, counts


_drawn = lru_cache(maxsize=2)(_draw)


def interval(drawn: Float[np.ndarray, " draws *shape"], method: str = "linear") -> Float[np.ndarray, " 2 *shape"]:
    """Low and high end (95%) of numbers drawn along the first axis; NaN where a draw has no number.

    ``method`` as in ``numpy.quantile``; "closest_observation" interpolates nothing, for numbers that may be infinite.
    """
    return np.quantile(drawn, ENDS, axis=0, method=method)


def p_value(drawn: Float[np.ndarray, " draws"], null: float = 0.0) -> float:
    """p = 2 · (1 + tail) / (1 + draws), two-sided: tail is the smaller number of draws on either side of ``null``.

    At least :func:`p_floor`, at most 1.
    """
    tail = min((drawn <= null).sum(), (drawn >= null).sum())
    return float(min(1.0, 2 * (1 + tail) / (1 + len(drawn))))


def p_floor(draws: int) -> float:
    """The smallest p that so many draws can give: 2 / (1 + draws)."""
    return 2 / (1 + draws)


def estimate(value: float | np.ndarray, drawn: Float[np.ndarray, " draws"], null: float = 0.0) -> dict:
    """``value`` with its interval and p, as columns: measured, low, high, p_value."""
    low, high = interval(drawn)
    return {"measured": float(value), "low": float(low), "high": float(high), "p_value": p_value(drawn, null)}


def detectable(drawn: Float[np.ndarray, " draws"], n: int) -> float:
    """The smallest paired difference over ``n`` items that such data show four times in five: :data:`SHOWN` errors.

    ``drawn`` are the differences that the bootstrap drew. Two sides that hardly ever differ have a small spread; less
    than :data:`FEWEST` items' worth is never shown.
    """
    return float(max(SHOWN * drawn.std(ddof=1), FEWEST / n)) if len(drawn) > 1 else float("nan")


@dataclass(frozen=True)
class Results:
    """``values``: task → float [cells, seeds, items]; ``cells`` are the levels, ``seeds`` the calibration seeds."""

    cells: tuple
    tasks: tuple[str, ...]
    seeds: tuple
    values: dict[str, Float[np.ndarray, "cells seeds _"]]

    @property
    def items(self) -> int:
        """Items of all tasks together."""
        return sum(table.shape[2] for table in self.values.values())

    @property
    def means(self) -> Float[np.ndarray, "cells tasks seeds"]:
        """Means over items."""
        return np.stack([self.values[task].mean(2) for task in self.tasks], axis=1)

    def seed_weights(self, draws: int) -> Int[np.ndarray, "draws seeds"]:
        """How often each calibration seed is taken in each draw."""
        n = len(self.seeds)
        return np.random.default_rng([0, 0]).multinomial(n, np.full(n, 1 / n), size=draws)

    def drawn(self, draws: int, seeds: bool = True) -> Float[np.ndarray, "draws cells tasks seeds"]:
        """``means`` of ``draws`` resampled data sets.

        ``seeds=False`` draws items alone, for comparisons of seeds with each other: a seed drawn twice would agree
        with itself. :meth:`seed_weights` then says how often each seed counts.
        """
        generator, out = np.random.default_rng([0, 1]), []  # [0, 0] draws the seeds
        order = np.arange(len(self.seeds))
        chosen = np.stack([order.repeat(weight) for weight in self.seed_weights(draws)])
        for task in self.tasks:
            table = self.values[task]
            n = table.shape[2]
            weight = generator.multinomial(n, np.full(n, 1 / n), size=draws) / n
            means = np.moveaxis(table @ weight.T, 2, 0)  # [draws, cells, seeds]
            out.append(np.take_along_axis(means, chosen[:, None, :], axis=2) if seeds else means)
        return np.round(np.stack(out, axis=2), 12)  # 1/3 + 1/3 − 2/3 is 0


def of_metric(items: pd.DataFrame, metric: str = PRIMARY) -> pd.DataFrame:
    """The rows of item results, or of means, by ``metric``: a metric of the frame, or "primary", each task's own."""
    return items[_is(items, metric)]


def reported(items: pd.DataFrame) -> pd.DataFrame:
    """The rows of item results, or of means, by the metrics :data:`REPORTED`."""
    return items[np.logical_or.reduce([_is(items, metric) for metric in REPORTED])]


def offered(items: pd.DataFrame) -> tuple[str, ...]:
    """Those of :data:`REPORTED` that every task of ``items`` offers: means over fewer tasks would not compare."""
    tasks = items["task"].nunique()
    return tuple(metric for metric in REPORTED if of_metric(items, metric)["task"].nunique() == tasks)


def measured(items: pd.DataFrame, whole: pd.DataFrame | None = None) -> tuple[str, ...]:
    """Those of :func:`offered` that say something: by them the dense model gets an item of these tasks right.

    A pruned model can lose nothing by a metric that is 0 before pruning. ``whole`` has the dense model's rows where
    ``items`` lacks them; without such rows every metric counts. The tasks' usual metric always counts.
    """
    rows = items if whole is None else whole[whole["task"].isin(items["task"].unique())]
    if "method" not in rows:
        return offered(items)
    dense = rows[rows["method"] == "dense"]
    right = {metric: of_metric(dense, metric)["value"] for metric in offered(items)}
    return tuple(name for name, values in right.items() if name == PRIMARY or not len(values) or values.any())


def _is(items: pd.DataFrame, metric: str) -> pd.Series:
    """Whether a row is by ``metric``."""
    if metric != PRIMARY:
        return items["metric"] == metric
    primary = {task: registry.get(task).metric for task in items["task"].unique()}
    return items["metric"] == items["task"].map(primary)


def results(items: pd.DataFrame, by: Sequence[str], metric: str = PRIMARY) -> Results:
    """Item results (``evaluate_items``'s frame) as arrays, a cell for every combination of the columns ``by``.

    ``metric`` as in :func:`of_metric`. ValueError where a cell lacks an item, a task or a seed that another cell
    has: means of different items cannot be compared.
    """
    rows = of_metric(items, metric)
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
            raise ValueError(f"{task}: an item has two results in one cell of {', '.join(by)}")
        wide = part.pivot(index=["_cell", "calibration_seed"], columns="doc_id", values="value")
        wide = wide.reindex(pd.MultiIndex.from_product([range(len(cells)), seeds]))
        if wide.isna().any(axis=None):
            raise ValueError(f"{task}: every cell needs the same items under the same calibration seeds")
        values[task] = wide.to_numpy(float).reshape(len(cells), len(seeds), -1)
    return Results(cells, tuple(values), seeds, values)
