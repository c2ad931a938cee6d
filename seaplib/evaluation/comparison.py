"""Paired comparison of two methods on the same items: difference, interval, p-value, verdict.

    Δ = mean over tasks of (mean over calibration seeds and items of a − b)

The 95% interval is that of the two-level bootstrap (:func:`seaplib.evaluation.bootstrap.paired`).
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from . import bootstrap

INHERENT = ("variant", "task", "doc_id", "value", "chance", "truncated")  # what differs between items of one variant
POOLED = "pooled"
SINGLE_DRAWS = 2000  # at most, on a single task
Numbers = Sequence[float] | pd.Series | np.ndarray
HOLDS, REVERSED, UNDECIDED = "holds", "reversed", "undecided"  # the verdicts


def compare(
    items: pd.DataFrame,
    a: Mapping,
    b: Mapping,
    metric: str = bootstrap.PRIMARY,
    draws: int = bootstrap.DRAWS,
    seed: int = 0,
    null: float = 0.0,
) -> dict:
    """Difference a − b on the items that both sides have; ``a`` and ``b`` map columns to the values of either side.

    ``items`` is ``evaluate_items``'s frame; ``metric`` is one of its metrics or "primary" (each task's
    own). Calibration seeds are matched where both sides have them; a side without seeds, such as the
    dense model, is compared with every seed of the other side.

    Returns difference, low, high (95%), value_a, value_b, p (two-sided against ``null``, from the bootstrap), p_floor
    (the smallest that ``draws`` can give), p_mcnemar (exact; NaN unless there is one task and one seed), detectable
    (the smallest difference that these items show four times in five:
    :func:`~seaplib.evaluation.bootstrap.detectable`), n (items), tasks, seeds.
    Raises ValueError where a side is empty or holds two variants, and where the sides share no item.
    """
    return _difference(list(_tables(items, a, b, metric).values()), draws, seed, null)


def ratio(
    items: pd.DataFrame,
    a: Mapping,
    b: Mapping,
    null: float = 1.0,
    metric: str = bootstrap.PRIMARY,
    draws: int = bootstrap.DRAWS,
    seed: int = 0,
) -> dict:
    """Mean of a over mean of b on the items that both sides have: what is kept, or gained, relatively.

    A draw takes the same items and seeds on both sides. Arguments and errors as in :func:`compare`. Returns ratio,
    low, high (95%), value_a, value_b, p (two-sided against ``null``), p_floor, n, tasks, seeds. The ends are
    infinite or NaN where a draw of b has nothing right.
    """
    first, second = zip(*_tables(items, a, b, metric).values(), strict=True)
    above, below = (bootstrap.paired(list(side), draws, seed) for side in (first, second))
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = above / below
        whole = np.divide(_average(first), _average(second))
    low, high = bootstrap.interval(drawn, "closest_observation")
    return {
        "ratio": float(whole),
        "low": float(low),
        "high": float(high),
        "value_a": _average(first),
        "value_b": _average(second),
        "p": bootstrap.p_value(drawn, null),
        "p_floor": bootstrap.p_floor(draws),
    } | _sizes(first)


def contrasts(
    items: pd.DataFrame,
    pairs: Iterable[tuple],
    metrics: Sequence[str] | None = None,
    draws: int = bootstrap.DRAWS,
) -> pd.DataFrame:
    """``compare`` at every sparsity for pairs of methods (objects with ``label(seed)``), over all tasks and by task.

    ``metrics``: by default those of :func:`~seaplib.evaluation.bootstrap.measured`.

    ``pairs`` may map each pair to the claim that it tests. Columns: requested_sparsity, pair (its place), claim ("" for
    none), a, b (names), metric, task ("all", or its name), the columns of
    ``compare`` (a single task is compared at the first seed that both have, where McNemar's test is exact), p_holm
    (p over all rows of all tasks, p_mcnemar over all rows of single tasks), verdict of "a is better".
    ``draws`` bound the smallest p-value over all tasks; single tasks, which have McNemar's, take at most
    :data:`SINGLE_DRAWS`.
    """
    rows, sides = [], [{"side": "a"}, {"side": "b"}]
    for sparsity, part in items[items["requested_sparsity"] > 0].groupby("requested_sparsity"):
        for place, pair in enumerate(pairs):
            wanted = [{k: v for k, v in side.label(0).items() if k != "calibration_seed"} for side in pair]
            found = [part[(part[list(w)] == pd.Series(w)).all(axis=1)] for w in wanted]
            both = pd.concat([rows_of.assign(**side) for rows_of, side in zip(found, sides, strict=True)])
            seeded = not {*found[0]["calibration_seed"]}.isdisjoint(found[1]["calibration_seed"])
            differ = [k for k in wanted[0] if k in ("method", "score") or wanted[0][k] != wanted[1][k]]
            a, b = (", ".join(dict.fromkeys(w[k] for k in differ if k != "calibration")) for w in wanted)
            for metric in metrics or bootstrap.measured(both, items):
                head = {"requested_sparsity": sparsity, "pair": place, "claim": _sentence(pairs, pair)}
                head |= {"a": a, "b": b, "metric": metric}
                tables = _tables(both, *sides, metric)
                rows.append(head | {"task": "all"} | _difference(list(tables.values()), draws))
                for task in [name for name in both["task"].unique() if name in tables] if seeded else ():
                    first = tuple(side[:1] for side in tables[task])  # seed
                    rows.append(head | {"task": task} | _difference([first], min(draws, SINGLE_DRAWS)))
    frame = pd.DataFrame(rows)
    overall = frame["task"] == "all"
    frame["p_holm"] = np.where(overall, holm(frame["p"].where(overall)), holm(frame["p_mcnemar"].where(~overall)))
    return frame.assign(verdict=[verdict(row.low, row.high) for row in frame.itertuples()])


def crossed(
    items: pd.DataFrame,
    pairs: Iterable[tuple],
    factor: str,
    across: str,
    pool: Sequence | None = None,
    metrics: Sequence[str] | None = None,
    draws: int = bootstrap.DRAWS,
    pooled_draws: int | None = None,
) -> pd.DataFrame:
    """``compare`` in a grid: a − b in column ``factor`` at every level of column ``across``, and pooled over them.

    ``pairs`` are values (a, b) of ``factor``, and may map each pair to the claim that it tests. For the pooled rows an
    item's results are averaged over the levels at which both sides were run (of the levels in ``pool``, by default
    all), so that an item counts once. A level that lacks a side has no row. ``pooled_draws`` (default: ``draws``) are
    the bootstrap's draws for the pooled rows, which bound their smallest p-value.

    Columns: requested_sparsity, ``across`` (a level or "pooled"), claim ("" for none), a, b, metric, levels (how
    many), those of ``compare``, p_holm (over all rows), verdict of "a is better".
    """
    whole, items, rows = items, items[items["requested_sparsity"] > 0], []
    levels, sparsities = list(dict.fromkeys(items[across])), sorted(items["requested_sparsity"].unique())
    cells = dict(iter(items.groupby([across, "requested_sparsity"])))
    for a, b in pairs:
        claim = _sentence(pairs, (a, b))
        sides = {key: cell[cell[factor].isin([a, b])] for key, cell in cells.items()}
        sides = {key: cell for key, cell in sides.items() if cell[factor].nunique() == 2}
        for level in (*levels, POOLED):
            for sparsity in sparsities:
                among = [level] if level != POOLED else levels if pool is None else pool
                found = [sides[name, sparsity] for name in among if (name, sparsity) in sides]
                if not found:
                    continue
                both = _averaged(found, factor) if level == POOLED else found[0]
                head = {"requested_sparsity": sparsity, across: level, "claim": claim, "a": a, "b": b}
                for metric in metrics or bootstrap.measured(both, whole):
                    drawn = pooled_draws or draws if level == POOLED else draws
                    row = compare(both, {factor: a}, {factor: b}, metric, drawn)
                    if level == POOLED:
                        row["p_mcnemar"] = float("nan")  # averages are neither right nor wrong
                    rows.append(head | {"metric": metric, "levels": len(found)} | row)
    frame = pd.DataFrame(rows)
    frame["p_holm"] = holm(frame["p"])
    return frame.assign(verdict=[verdict(row.low, row.high) for row in frame.itertuples()])


def by_task(items: pd.DataFrame, pairs: Iterable[tuple], factor: str, across: str, draws: int, pooled_draws: int):
    """``crossed`` over tasks, an item's results averaged over the levels of ``across`` that both sides of a pair have.

    The pooled rows are the mean over tasks. Columns as in :func:`crossed` with "task" in the place of ``across``;
    averages are neither right nor wrong, so that p_mcnemar is NaN.
    """
    keys, parts = [factor, "requested_sparsity", "calibration_seed", "task", "metric", "doc_id"], []
    for pair in pairs:
        sides = items[items[factor].isin(pair)]
        shared = sides.groupby(["requested_sparsity", across])[factor].transform("nunique") == 2
        averaged = sides[shared].groupby(keys, sort=False, dropna=False)["value"].mean().reset_index()
        parts.append(
            crossed(averaged, {pair: _sentence(pairs, pair)}, factor, "task", draws=draws, pooled_draws=pooled_draws)
        )
    frame = pd.concat(parts, ignore_index=True)
    return frame.assign(p_mcnemar=float("nan"), p_holm=holm(frame["p"]))


def verdict(low: float | int, high: float | int, direction: int = 1) -> str:
    """What an interval says of the claim that a difference is positive (``direction`` 1) or negative (−1).

    "holds": the interval lies beyond 0 in the claimed direction; "reversed": beyond 0 in the other direction;
    "undecided": it contains 0, or there is no interval (NaN).
    """
    if direction not in (1, -1):
        raise ValueError(f"direction is 1 or -1, got {direction!r}")
    low, high = sorted((direction * low, direction * high))
    return HOLDS if low > 0 else REVERSED if high < 0 else UNDECIDED


def holm(pvalues: Numbers) -> Float[np.ndarray, " tests"]:
    """Holm's step-down adjusted p-values, in the order given; NaN (nothing tested) stays NaN."""
    from statsmodels.stats.multitest import multipletests

    adjusted = np.array(pvalues, dtype=float)
    tested = ~np.isnan(adjusted)
    if tested.any():
        adjusted[tested] = multipletests(adjusted[tested], method="holm")[1]
    return adjusted


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """McNemar's exact two-sided p of equal success rates; ``first`` and ``second`` are right (1) or wrong (0) by item.

    Only items count that a single side gets right.
    """
    from statsmodels.stats import contingency_tables

    first, second = first > 0.5, second > 0.5
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    return float(contingency_tables.mcnemar([[0, only_first], [only_second, 0]], exact=True).pvalue)


def rounds(a: Numbers, b: Numbers, seed: int = 0) -> dict:
    """Ratio a/b of what was measured in the same rounds: its median, with a bootstrap over rounds and Wilcoxon's test.

    Keys: ratio, low, high (95%), p (two-sided, exact for few rounds; NaN for a single round), p_floor (the smallest
    that so many rounds can give), n.
    """
    from scipy.stats import wilcoxon

    ratios = np.asarray(a, float) / np.asarray(b, float)
    drawn = bootstrap.places(len(ratios), bootstrap.DRAWS, seed)
    low, high = bootstrap.interval(np.median(ratios[drawn], axis=1))
    p = float(wilcoxon(np.log(ratios)).pvalue) if len(ratios) > 1 and (ratios != 1).any() else float("nan")
    found = {"ratio": float(np.median(ratios)), "low": float(low), "high": float(high), "p": p}
    return found | {"p_floor": 2.0 ** (1 - len(ratios)), "n": len(ratios)}


def percentage(right: Numbers, null: float) -> dict:
    """The percentage of results that are ``right`` (true or false), with Wilson's 95% interval.

    Keys: measured, low, high, p_value (two-sided, of the exact binomial test against the percentage ``null``), n.
    """
    from scipy.stats import binomtest

    test = binomtest(int(np.sum(right)), len(right), null / 100)
    low, high = test.proportion_ci(method="wilson")
    percents = {"measured": 100 * test.statistic, "low": 100 * float(low), "high": 100 * float(high)}
    return percents | {"p_value": float(test.pvalue), "n": len(right)}


def _sentence(pairs: Iterable[tuple], pair: tuple) -> str:
    return pairs[pair] if isinstance(pairs, Mapping) else ""


def _averaged(cells: Sequence[pd.DataFrame], factor: str) -> pd.DataFrame:
    """The mean result of every item over ``cells``, per value of ``factor``."""
    keys = [factor, "calibration_seed", "task", "metric", "doc_id"]
    return pd.concat(cells).groupby(keys, sort=False, dropna=False)["value"].mean().reset_index()


def _difference(tables: Sequence[tuple[np.ndarray, np.ndarray]], draws: int, seed: int = 0, null: float = 0.0) -> dict:
    """``compare``'s row from the results of both sides, a pair of arrays [seeds, items] per task."""
    first, second = zip(*tables, strict=True)
    differences = [a - b for a, b in tables]
    drawn = bootstrap.paired(differences, draws, seed)
    low, high = bootstrap.interval(drawn)
    single = len(tables) == 1 and len(differences[0]) == 1
    return {
        "difference": _average(differences),
        "low": float(low),
        "high": float(high),
        "value_a": _average(first),
        "value_b": _average(second),
        "p": bootstrap.p_value(drawn, null),
        "p_floor": bootstrap.p_floor(draws),
        "p_mcnemar": mcnemar(first[0][0], second[0][0]) if single else float("nan"),
        "detectable": bootstrap.detectable(drawn, sum(table.shape[1] for table in first)),
    } | _sizes(first)


def _tables(items: pd.DataFrame, a: Mapping, b: Mapping, metric: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Task → the results of both sides on the items that both have, two arrays [seeds, items]; seeds in their order."""
    pairs = _paired(items, a, b, metric)
    tables = {
        task: cell.pivot(index="seed", columns="doc_id", values=["a", "b"]) for task, cell in pairs.groupby("task")
    }
    seeds = [tuple(table.index) for table in tables.values()]
    if len(set(seeds)) > 1:
        raise ValueError(f"tasks were run with different calibration seeds: {dict(zip(tables, seeds, strict=True))}")
    if any(table.isna().any(axis=None) for table in tables.values()):
        raise ValueError("some items have results under some calibration seeds only")
    return {task: (table["a"].to_numpy(float), table["b"].to_numpy(float)) for task, table in tables.items()}


def _sizes(tables: Sequence[np.ndarray]) -> dict:
    return {"n": sum(table.shape[1] for table in tables), "tasks": len(tables), "seeds": len(tables[0])}


def _paired(items: pd.DataFrame, a: Mapping, b: Mapping, metric: str) -> pd.DataFrame:
    """Columns task, doc_id, seed, a, b: one row per pair."""
    items = bootstrap.of_metric(items, metric)
    left, right = _side(items, a, "a"), _side(items, b, "b")
    on = ["task", "doc_id"]
    if left["seed"].notna().all() and right["seed"].notna().all():
        pairs = left.merge(right, on=[*on, "seed"])
    else:
        pairs = left.merge(right, on=on, suffixes=("", "_right"))
        pairs["seed"] = pairs["seed"].fillna(pairs["seed_right"]).fillna(-1)
    if pairs.empty:
        raise ValueError(f"no item in common: {_name(a)} and {_name(b)} share no task, item and calibration seed")
    return pairs


def _side(items: pd.DataFrame, wanted: Mapping, side: str) -> pd.DataFrame:
    if unknown := [column for column in wanted if column not in items]:
        raise ValueError(f"items have no column {', '.join(unknown)}; they have: {', '.join(items.columns)}")
    chosen = items
    for column, value in wanted.items():
        chosen = chosen[chosen[column].isin(value if isinstance(value, list | tuple | set) else [value])]
    if chosen.empty:
        raise ValueError(f"no items of {_name(wanted)}")
    chosen = chosen.drop_duplicates([column for column in chosen if column != "variant"])  # scored in two calls
    double = chosen.duplicated(["task", "doc_id", "calibration_seed"], keep=False)
    if double.any():
        sample = chosen[double]
        varied = [column for column in sample if column not in INHERENT and sample[column].nunique() > 1]
        raise ValueError(f"{_name(wanted)} is more than one variant; they differ in {', '.join(varied) or 'nothing'}")
    return chosen[["task", "doc_id", "calibration_seed", "value"]].rename(
        columns={"calibration_seed": "seed", "value": side}
    )


def _name(wanted: Mapping) -> str:
    return ", ".join(f"{column}={value}" for column, value in wanted.items())


def _average(tables: Sequence[np.ndarray]) -> float:
    return float(np.mean([table.mean() for table in tables]))
