"""The bootstrap of whole tables: shapes, what is drawn together, and agreement with the paired comparison."""

import numpy as np
import pandas as pd
import pytest

from seaplib.evaluation import bootstrap, comparison

pytestmark = pytest.mark.unit


def frame(seeds=(0, 1, 2), n=40) -> pd.DataFrame:
    generator, parts = np.random.default_rng(0), []
    for task, base in (("piqa", 0.5), ("boolq", 0.3)):
        ease = generator.random(n)
        for method, more in (("a", 0.3), ("b", 0.0)):
            for seed in seeds:
                value = (ease < base + more + 0.05 * seed).astype(float)
                for metric in ("acc", "acc_norm", "exact_match"):
                    columns = {"method": method, "calibration_seed": seed, "task": task, "metric": metric}
                    columns |= {"doc_id": np.arange(n).astype(str), "value": value}
                    parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True).astype({"calibration_seed": "Int64"})


def test_means_are_those_of_the_frame():
    items = frame()
    found = bootstrap.results(items, ["method"])
    assert found.cells == ("a", "b") and found.tasks == ("piqa", "boolq") and found.seeds == (0, 1, 2)
    assert found.means.shape == (2, 2, 3) and found.items == 80
    chosen = items.query("method == 'b' and task == 'boolq' and calibration_seed == 2 and metric == 'acc'")
    assert found.means[1, 1, 2] == pytest.approx(chosen["value"].mean())
    both = bootstrap.results(items, ["method", "metric"], "exact_match")
    assert both.cells == (("a", "exact_match"), ("b", "exact_match"))


def test_intervals_agree_with_the_paired_comparison():
    items = frame()
    drawn = bootstrap.results(items, ["method"]).drawn(4000).mean((2, 3))
    low, high = bootstrap.interval(drawn[:, 0] - drawn[:, 1])
    paired = comparison.compare(items, {"method": "a"}, {"method": "b"}, draws=4000)
    assert low == pytest.approx(paired["low"], abs=0.01) and high == pytest.approx(paired["high"], abs=0.01)


def test_cells_and_tasks_are_drawn_together():
    found = bootstrap.results(frame(), ["method"])
    same = bootstrap.Results(("x", "y"), ("piqa",), (0, 1), {"piqa": np.stack([found.values["piqa"][0, :2]] * 2)})
    drawn = same.drawn(50)
    assert (drawn[:, 0] == drawn[:, 1]).all() and drawn.std() > 0
    items_alone = same.drawn(50, seeds=False)
    weights = same.seed_weights(50)
    assert (weights.sum(1) == 2).all()
    np.testing.assert_allclose(drawn.mean(3), (items_alone * weights[:, None, None, :] / 2).sum(3))


def test_p_and_interval_by_hand():
    drawn = np.array([1.0] * 98 + [-1.0] * 2)
    assert bootstrap.p_value(drawn) == pytest.approx(2 * 3 / 101)
    assert bootstrap.p_value(drawn, null=2.0) == pytest.approx(2 * 1 / 101)
    assert bootstrap.p_value(drawn / 2) == pytest.approx(2 * 3 / 101), "the null value is 0"
    for beyond in (0, 1, 3, 50):
        drawn = np.array([-1.0] * beyond + [1.0] * (100 - beyond))
        assert bootstrap.p_value(drawn) == pytest.approx(min(1, 2 * (1 + beyond) / 101))
    assert bootstrap.estimate(0.5, np.zeros(9))["p_value"] == 1.0


def test_means_are_drawn_as_by_numpys_choice_and_a_generator_goes_on():
    values = np.random.default_rng(1).random(9)
    expected = np.random.default_rng(3).choice(values, (500, 9)).mean(axis=1)
    np.testing.assert_array_equal(bootstrap.means(values, 500, 3), expected)
    np.testing.assert_array_equal(bootstrap.mean_interval(values, 500, 3), np.quantile(expected, [0.025, 0.975]))
    generator = np.random.default_rng(3)
    first, second = (bootstrap.means(values, 500, generator) for _ in range(2))
    assert (first == expected).all() and (second != expected).any()


def test_strata_keep_their_sizes():
    strata = np.array(["a"] * 3 + ["b"] * 5)
    constant = np.where(strata == "a", 1.0, 7.0)[:, None]
    np.testing.assert_allclose(bootstrap.stratified_interval(constant, strata, 200), 0, atol=1e-12)


def test_a_stratum_is_drawn_as_often_as_it_has_members():
    """The mean of n values of ±1 has the standard error 1/√n, in one stratum as in two alike."""
    signs = np.tile([1.0, -1.0], 50)[:, None]
    for strata in (np.zeros(100), np.arange(100) // 50):
        low, high = bootstrap.stratified_interval(signs, strata, 4000)[:, 0]
        assert low == pytest.approx(-0.196, abs=0.03) and high == pytest.approx(0.196, abs=0.03)


def test_blocks_of_draws_change_nothing(monkeypatch):
    differences = [np.random.default_rng(0).random((2, n)) for n in (30, 17)]
    whole = bootstrap.paired(differences, 100, 0)
    monkeypatch.setattr(bootstrap, "NUMBERS_AT_ONCE", 30 * 8 + 1)
    np.testing.assert_array_equal(bootstrap.paired(differences, 100, 0), whole)
    _, counts = bootstrap._draw((30, 17), 2, 100, 0)
    assert all((count.sum(1) == n).all() for count, n in zip(counts, (30, 17), strict=True))


def test_holes_and_doubles_are_refused():
    items = frame()
    with pytest.raises(ValueError, match="piqa"):
        bootstrap.results(
            items.drop(items[items["task"] == "piqa"].index[0]).query("metric == 'acc'"), ["method"], "acc"
        )
    with pytest.raises(ValueError, match="metric"):
        bootstrap.results(items, ["metric"], "acc")
    with pytest.raises(ValueError, match="f1"):
        bootstrap.results(items, ["method"], "f1")


def test_reported_rows_are_each_tasks_own_metric_and_exact_match():
    rows = [(task, metric) for task in ("mini_piqa", "mini_boolq") for metric in ("acc", "acc_norm", "exact_match")]
    items = pd.DataFrame(rows, columns=["task", "metric"], index=[7, 7, 8, 9, 9, 9])  # an index need not be unique
    kept = [
        ("mini_piqa", "acc_norm"),
        ("mini_piqa", "exact_match"),
        ("mini_boolq", "acc"),
        ("mini_boolq", "exact_match"),
    ]
    found = bootstrap.reported(items)
    assert list(found.itertuples(index=False, name=None)) == kept and found.index.tolist() == [7, 8, 9, 9]
    parts = [bootstrap.of_metric(items, metric) for metric in bootstrap.REPORTED]
    assert sorted(pd.concat(parts).itertuples(index=False, name=None)) == sorted(kept)
    assert bootstrap.reported(items.head(0)).empty


def test_metrics_are_measured_where_every_task_offers_them(monkeypatch):
    monkeypatch.setattr(bootstrap, "REPORTED", ("primary", "exact_match", "acc_norm", "acc"))
    offered = {"mini_piqa": ("acc_norm", "exact_match"), "mini_boolq": ("acc", "exact_match")}
    rows = [(task, metric) for task, metrics in offered.items() for metric in metrics]
    items = pd.DataFrame(rows, columns=["task", "metric"])
    assert bootstrap.measured(items) == ("primary", "exact_match")
    assert bootstrap.measured(items[items["task"] == "mini_boolq"]) == ("primary", "exact_match", "acc")
    assert bootstrap.measured(items[:3]) == ("primary",)


def test_a_metric_by_which_the_dense_model_gets_nothing_right_says_nothing():
    rows = [(method, metric) for method in ("dense", "FLAP") for metric in ("acc_norm", "exact_match")]
    items = pd.DataFrame(rows, columns=["method", "metric"]).assign(task="mini_piqa", value=[1.0, 0.0, 1.0, 1.0])
    pruned = items[items["method"] == "FLAP"]
    assert bootstrap.offered(items) == ("primary", "exact_match") and bootstrap.measured(items) == ("primary",)
    assert bootstrap.measured(pruned) == ("primary", "exact_match"), "nothing is known of the dense model"
    assert bootstrap.measured(pruned, items) == ("primary",)
    other = items.assign(task="mini_arc_easy", value=1.0)
    assert bootstrap.measured(pruned, pd.concat([items, other])) == ("primary",), "on these tasks, not on others"
    nothing = items.assign(value=0.0)
    assert bootstrap.measured(nothing) == ("primary",), "the tasks' usual metric stays, whatever it is"


def test_the_smallest_difference_shown_is_shown_four_times_in_five():
    rng, n, repeats, shown = np.random.default_rng(0), 150, 400, 0
    both = rng.random((repeats, n)) < 0.3  # items that the two sides answer differently, and at random
    signs = np.where(rng.random((repeats, n)) < 0.5, 1.0, -1.0) * both
    spread = bootstrap.paired([signs[:1]], 500, 0)
    least = bootstrap.detectable(spread, n)
    assert least == pytest.approx(2.8 * (0.3 / n) ** 0.5, rel=0.15)
    up = np.where(rng.random((repeats, n)) < 0.5 + least / 0.6, 1.0, -1.0) * both  # now different by `least`
    for differences in up:
        low, _ = bootstrap.interval(bootstrap.means(differences, 500))
        shown += low > 0
    assert 0.7 < shown / repeats < 0.9
    assert bootstrap.detectable(np.zeros(50), 40) == 6 / 40, "2 · 2^-6 is the first sign test below 5%"
