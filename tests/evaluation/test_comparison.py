"""Paired comparison: estimates, intervals and pairing, against plain loops and known cases."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from seaplib.evaluation.comparison import POOLED, by_task, compare, crossed, holm, percentage, ratio, rounds, verdict

pytestmark = pytest.mark.unit
A, B, DENSE = {"method": "seap"}, {"method": "flap"}, {"method": "dense"}


def frame(values: dict, task: str, method: str, seed=0, metric="acc", **columns) -> pd.DataFrame:
    rows = {"doc_id": list(values), "value": [float(v) for v in values.values()], "task": task, "metric": metric}
    return pd.DataFrame(rows | {"method": method, "calibration_seed": seed, "truncated": False} | columns)


def made(effects: dict, seeds=(0,), n=200, seed=0) -> pd.DataFrame:
    """``effects``: (method, task) → success rate; items differ in difficulty, which methods share."""
    draw, parts = np.random.default_rng(seed), []
    difficulty = {task: draw.random(n) for _, task in effects}
    for (method, task), rate in effects.items():
        for s in [pd.NA] if method == "dense" else seeds:
            right = difficulty[task] + draw.normal(0, 0.1, n) < rate
            parts.append(frame({f"{task}-{i}": r for i, r in enumerate(right)}, task, method, s))
    items = pd.concat(parts, ignore_index=True)
    return items.astype({"calibration_seed": "Int64"})


def test_difference_is_the_mean_of_task_means():
    items = pd.concat(
        [
            frame(dict.fromkeys("abcd", 1), "boolq", "seap"),
            frame({"a": 1, "b": 0, "c": 0, "d": 0}, "boolq", "flap"),
            frame({"x": 0, "y": 1}, "winogrande", "seap"),
            frame({"x": 1, "y": 1}, "winogrande", "flap"),
        ]
    )
    found = compare(items, A, B)
    assert found["difference"] == pytest.approx((0.75 - 0.5) / 2)
    assert found["value_a"] == pytest.approx(0.75) and found["value_b"] == pytest.approx(0.625)
    assert (found["n"], found["tasks"], found["seeds"]) == (6, 2, 1)
    assert math.isnan(found["p_mcnemar"])
    assert compare(items, B, A)["difference"] == -found["difference"]


def test_interval_is_the_paired_one():
    """On one task with one seed the bootstrap's standard error is sd(a − b)/√n, far below the unpaired one."""
    items = made({("seap", "boolq"): 0.6, ("flap", "boolq"): 0.5}, n=1000)
    found = compare(items, A, B, draws=8000)
    wide = items.pivot(index="doc_id", columns="method", values="value")
    paired = (wide.seap - wide.flap).std(ddof=0) / math.sqrt(1000)
    unpaired = math.hypot(wide.seap.std(), wide.flap.std()) / math.sqrt(1000)
    assert (found["high"] - found["low"]) / 2 == pytest.approx(1.96 * paired, rel=0.06)
    assert paired < 0.7 * unpaired


def test_interval_covers_as_often_as_it_says():
    inside = 0
    for trial in range(100):
        draw = np.random.default_rng(trial)
        a, b = draw.random(80) < 0.6, draw.random(80) < 0.5
        parts = [frame(dict(enumerate(v)), "boolq", m) for v, m in ((a, "seap"), (b, "flap"))]
        found = compare(pd.concat(parts), A, B, draws=300, seed=trial)
        inside += found["low"] <= 0.1 <= found["high"]
    assert 88 <= inside <= 100  # 95% ± three standard errors of the simulation


def test_calibration_seeds_widen_the_interval():
    """Two seeds that disagree say more about noise than any number of items."""
    n = 400
    steady = pd.concat(
        [frame(dict.fromkeys(range(n), 0), "boolq", "flap", s) for s in (0, 1)]
        + [frame({i: i % 2 for i in range(n)}, "boolq", "seap", s) for s in (0, 1)]
    )
    shaky = steady.copy()
    seap = shaky.method == "seap"
    shaky.loc[seap & (shaky.calibration_seed == 0), "value"] = 1.0
    shaky.loc[seap & (shaky.calibration_seed == 1), "value"] = 0.0
    narrow, wide = compare(steady, A, B), compare(shaky, A, B)
    assert narrow["difference"] == pytest.approx(wide["difference"]) == 0.5
    assert narrow["high"] - narrow["low"] < 0.12 < 0.9 < wide["high"] - wide["low"]
    assert wide["seeds"] == 2 and wide["n"] == n


def test_seeds_are_matched_and_dense_meets_all_of_them():
    items = made({("dense", "boolq"): 0.9, ("seap", "boolq"): 0.6, ("flap", "boolq"): 0.5}, seeds=(0, 1, 2))
    found = compare(items, DENSE, A)
    values = items.groupby("method").value.mean()
    assert found["seeds"] == 3 and found["n"] == 200
    assert found["difference"] == pytest.approx(values.dense - values.seap)
    dropped = items[~((items.method == "flap") & (items.calibration_seed == 1).fillna(False))]
    assert compare(dropped, A, B)["seeds"] == 2
    both = items.assign(calibration_seed=pd.array([pd.NA] * len(items), "Int64")).drop_duplicates(["method", "doc_id"])
    assert compare(both, A, B)["seeds"] == 1


def test_only_common_items_count():
    items = pd.concat(
        [
            frame({"a": 1, "b": 1, "c": 0}, "boolq", "seap"),
            frame({"b": 0, "c": 0, "d": 1}, "boolq", "flap"),
            frame({"x": 1}, "winogrande", "flap"),
        ]
    )
    found = compare(items, A, B)
    assert (found["difference"], found["n"], found["tasks"]) == (0.5, 2, 1)


def test_mcnemar_is_exact():
    a, b = [1] * 9 + [0] * 2 + [1] * 30, [0] * 9 + [1] * 2 + [1] * 30
    items = pd.concat([frame(dict(enumerate(v)), "boolq", m) for v, m in ((a, "seap"), (b, "flap"))])
    assert compare(items, A, B)["p_mcnemar"] == pytest.approx(binomtest(2, 11, 0.5).pvalue)


def test_primary_metric_is_each_tasks_own():
    items = pd.concat(
        [
            frame({"a": value}, task, method, metric=metric)
            for task, method, metric, value in [
                ("boolq", "seap", "acc", 1),
                ("boolq", "flap", "acc", 0),
                ("piqa", "seap", "acc", 0),
                ("piqa", "flap", "acc", 1),
                ("piqa", "seap", "acc_norm", 1),
                ("piqa", "flap", "acc_norm", 0),
            ]
        ]
    )
    assert compare(items, A, B)["difference"] == 1.0
    assert compare(items, A, B, metric="acc")["difference"] == 0.0
    with pytest.raises(ValueError, match="method=seap"):
        compare(items, A, B, metric="exact_match")


def test_reproducible_and_independent_of_row_order():
    items = made({(m, t): 0.5 for m in ("seap", "flap") for t in ("boolq", "piqa")}, seeds=(0, 1))
    items.loc[items.task == "piqa", "metric"] = "acc_norm"
    found, shuffled = compare(items, A, B), compare(items.sample(frac=1, random_state=1), A, B)
    assert {**found, "p_mcnemar": 0} == {**shuffled, "p_mcnemar": 0}
    assert found["low"] != compare(items, A, B, seed=1)["low"]
    assert found["low"] <= found["difference"] <= found["high"] and found["p"] > 0.001


def test_ambiguous_or_empty_sides_are_errors():
    items = pd.concat([frame({"a": 1}, "boolq", "seap", budget=budget) for budget in ("floor", "parameters")])
    with pytest.raises(ValueError, match="budget"):
        compare(items, A, A | {"budget": "floor"})
    with pytest.raises(ValueError, match="metod"):
        compare(items, {"metod": "seap"}, A)
    twice = pd.concat([items, items.assign(variant="again")])  # the same results from two calls are one variant
    assert compare(twice, A | {"budget": "floor"}, A | {"budget": "parameters"})["n"] == 1
    other = frame({"b": 1}, "boolq", "flap", budget="floor")
    with pytest.raises(ValueError, match="method=flap"):
        compare(pd.concat([items, other]), A | {"budget": "floor"}, B)


def test_verdicts():
    assert verdict(0.01, 0.03) == "holds" and verdict(-0.03, -0.01) == "reversed"
    assert verdict(-0.01, 0.03) == "undecided" and verdict(0.0, 0.03) == "undecided"
    assert verdict(-0.03, -0.01, direction=-1) == "holds" and verdict(0.01, 0.03, direction=-1) == "reversed"
    assert verdict(math.nan, math.nan) == "undecided"
    with pytest.raises(ValueError, match="direction"):
        verdict(0, 1, 0)


def test_a_null_value_moves_p_and_nothing_else():
    items = made({("seap", "boolq"): 0.6, ("flap", "boolq"): 0.5}, n=200)
    plain, above = compare(items, A, B, draws=500), compare(items, A, B, draws=500, null=-0.5)
    assert {k: v for k, v in plain.items() if k != "p"} == {k: v for k, v in above.items() if k != "p"}
    assert above["p"] == above["p_floor"] == pytest.approx(2 / 501)
    assert compare(items, A, B, draws=500, null=plain["difference"])["p"] > 0.5


def test_a_percentage_is_tested_exactly():
    found = percentage(np.array([True] * 18 + [False] * 2), 75)
    assert (found["measured"], found["n"]) == (90, 20)
    assert found["p_value"] == pytest.approx(binomtest(18, 20, 0.75).pvalue)
    low, high = proportion_confint(18, 20, method="wilson")
    assert (found["low"], found["high"]) == (pytest.approx(100 * low), pytest.approx(100 * high))


def test_rounds_compare_what_was_measured_together():
    slow = np.array([1.0, 10.0, 1.2, 1.1, 0.9, 1.0])  # the machine was busy in the second round
    found = rounds(slow * [1.5, 1.52, 1.48, 1.51, 1.49, 1.5], slow)
    assert found["ratio"] == pytest.approx(1.5) and 1.48 <= found["low"] < found["high"] <= 1.52
    assert found["n"] == 6 and found["p"] == pytest.approx(found["p_floor"]) == 2 / 2**6
    assert math.isnan(rounds([2.0], [1.0])["p"]) and math.isnan(rounds(slow, slow)["p"])


def test_holm():
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    adjusted = holm([0.01, math.nan, 0.03])
    assert adjusted[[0, 2]].tolist() == pytest.approx([0.02, 0.03]) and math.isnan(adjusted[1])


def grid() -> pd.DataFrame:
    """Methods × allocations at one sparsity, two tasks and two seeds; the last method lacks an allocation."""
    rates = {("seap", "uniform"): 0.8, ("seap", "logistic"): 0.7, ("flap", "uniform"): 0.6, ("flap", "logistic"): 0.6}
    parts = []
    for place, ((method, allocation), rate) in enumerate((rates | {("random", "uniform"): 0.4}).items()):
        items = made({(method, task): rate for task in ("boolq", "winogrande")}, seeds=(0, 1), n=60, seed=place)
        parts.append(items.assign(allocation=allocation, requested_sparsity=0.5))
    dense = made({("dense", "boolq"): 0.9}, n=60).assign(allocation="none", requested_sparsity=0.0)
    return pd.concat([*parts, dense], ignore_index=True)


def test_crossed_compares_at_every_level_of_the_other_factor():
    items = grid()
    found = crossed(items, [("seap", "flap"), ("seap", "random")], "method", "allocation", metrics=["acc"], draws=300)
    assert found[["a", "b", "allocation", "levels"]].values.tolist() == [
        ["seap", "flap", "uniform", 1], ["seap", "flap", "logistic", 1], ["seap", "flap", POOLED, 2],
        ["seap", "random", "uniform", 1], ["seap", "random", POOLED, 1],
    ]  # fmt: skip
    assert set(found["requested_sparsity"]) == {0.5} and set(found["seeds"]) == {2} and set(found["n"]) == {120}
    uniform = compare(items[items["allocation"] == "uniform"], A, B, "acc", draws=300)
    for name in ("difference", "low", "high", "p"):
        assert found[name][0] == uniform[name]
    assert found["p_holm"].tolist() == pytest.approx(holm(found["p"]).tolist())
    assert found["verdict"].tolist() == [verdict(row.low, row.high) for row in found.itertuples()]


def test_crossed_pools_an_items_results_before_it_resamples_items():
    items = grid()
    found = crossed(items, [("seap", "flap")], "method", "allocation", metrics=["acc"], draws=300)
    levels, pooled = found[found["allocation"] != POOLED], found[found["allocation"] == POOLED].iloc[0]
    assert pooled["difference"] == pytest.approx(levels["difference"].mean()) and pooled["n"] == levels["n"].iloc[0]
    assert math.isnan(pooled["p_mcnemar"])
    two = items[items["method"].isin(["seap", "flap"])]
    by_hand = two.groupby(["method", "calibration_seed", "task", "metric", "doc_id"])["value"].mean().reset_index()
    assert pooled["low"] == compare(by_hand, A, B, "acc", draws=300)["low"]
    only = crossed(items, [("seap", "flap")], "method", "allocation", pool=["logistic"], metrics=["acc"], draws=300)
    assert only["difference"].iloc[2] == pytest.approx(only["difference"].iloc[1])
    sharper = crossed(items, [("seap", "random")], "method", "allocation", None, ["acc"], 300, pooled_draws=4000)
    assert sharper["p"].min() == pytest.approx(2 / 4001) and sharper["p"].max() == pytest.approx(2 / 301)


def test_a_ratio_resamples_both_sides_together():
    """Where b is a on every item the ratio is 1 in every draw; its interval is far narrower than of two apart."""
    items = made(
        {("seap", "boolq"): 0.6, ("seap", "winogrande"): 0.4, ("flap", "boolq"): 0.5, ("flap", "winogrande"): 0.4}
    )
    same = ratio(items, A, A)
    assert same["ratio"] == same["low"] == same["high"] == 1 and same["n"] == 400
    found = ratio(items, A, B, null=1.2, draws=4000)
    assert found["ratio"] == pytest.approx(found["value_a"] / found["value_b"])
    drawn, rng = [], np.random.default_rng(1)
    wide = items.pivot(index=["task", "doc_id"], columns="method", values="value")
    tables = [part[["seap", "flap"]].to_numpy() for _, part in wide.groupby("task")]
    for _ in range(2000):
        seap, flap = sum(table[rng.integers(len(table), size=len(table))].mean(0) for table in tables)
        drawn.append(seap / flap)
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.01)
    assert found["low"] > 1 and found["p"] < 0.05 or found["high"] > 1.2
    assert found["p_floor"] == pytest.approx(2 / 4001)


def test_a_ratio_to_nothing_is_no_number():
    items = pd.concat([frame({"a": 1, "b": 0}, "boolq", "seap"), frame({"a": 0, "b": 0}, "boolq", "flap")])
    assert math.isinf(ratio(items, A, B, draws=50)["ratio"])


def test_by_task_averages_over_the_levels_that_both_sides_have():
    items = grid()
    items = pd.concat([items, items.assign(metric="exact_match")], ignore_index=True)
    found = by_task(items, {("seap", "random"): "seap wins"}, "method", "allocation", draws=100, pooled_draws=200)
    only = items[items["allocation"] == "uniform"]  # random has no other
    alone = compare(only[only["task"] == "boolq"], A, {"method": "random"}, "acc", draws=100)
    row = found[(found["task"] == "boolq") & (found["metric"] == "primary")].iloc[0]
    assert row["difference"] == pytest.approx(alone["difference"]) and row["claim"] == "seap wins"
    assert found["p_mcnemar"].isna().all() and set(found["task"]) == {"boolq", "winogrande", POOLED}
