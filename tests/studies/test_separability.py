"""Separability against scikit-learn and slow loops, on states with known clusters."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import pairwise_distances, silhouette_samples, silhouette_score

from seaplib.activations.capture import capture
from seaplib.activations.hidden_states import HiddenStates
from seaplib.evaluation import bootstrap
from seaplib.settings import Calibration
from seaplib.studies import separability
from seaplib.studies.separability import NormProfiles, by_layer, norm_correlations, norm_profiles, prompt_values, trend
from seaplib.texts.corpora import Corpus

pytestmark = pytest.mark.unit
N, LAYERS = 30, 5


def states(growth: float) -> HiddenStates:
    """Three tasks whose centres lie ``growth`` times further apart with every layer, from 0 on."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 8)).repeat(N, axis=0)
    layers = [rng.normal(size=(3 * N, 8)) + growth * layer * centres for layer in range(LAYERS)]
    labels = np.array(["a", "b", "c"]).repeat(N)
    return HiddenStates(np.stack(layers, axis=1).astype(np.float32), labels, np.arange(3 * N).astype(str))


@pytest.fixture(scope="module")
def growing():
    return prompt_values(states(0.8), progress=False)


def test_mean_silhouette_is_scikit_learns(growing):
    frame = by_layer(growing)
    for layer in (0, 4):
        expected = silhouette_score(states(0.8).standardised(layer), states(0.8).labels)
        measured = frame[(frame["layer"] == layer) & (frame["measure"] == "silhouette")]["value"].item()
        assert measured == pytest.approx(expected, abs=1e-6)


def test_intervals_hold_their_values_and_separate_clusters_from_none(growing):
    frame = by_layer(growing).set_index(["measure", "layer"])
    assert ((frame["low"] <= frame["value"]) & (frame["value"] <= frame["high"])).all()
    assert (frame["low"] < frame["high"]).all() and (frame["n"] == 3 * N).all()
    accuracy = frame.loc["knn_accuracy"]
    assert accuracy.at[0, "low"] < 1 / 3 < accuracy.at[0, "high"] and accuracy.at[4, "low"] > 0.9
    assert accuracy.at[4, "high"] <= 1 and accuracy.at[0, "chance"] == pytest.approx(1 / 3)
    silhouette = frame.loc["silhouette"]
    assert silhouette.at[4, "low"] > 0.2 and silhouette.at[0, "high"] < 0.05


def test_silhouettes_and_their_jackknife_equal_a_slow_loop():
    given = states(0.8)
    x, labels = given.standardised(3)[::5], given.labels[::5]
    distances = pairwise_distances(x)
    values, influence = separability._silhouettes(distances, labels)
    np.testing.assert_allclose(values, silhouette_samples(distances, labels, metric="precomputed"), atol=1e-9)
    n = len(x)
    for i in (0, 7, n - 1):
        rest = np.delete(np.arange(n), i)
        without = silhouette_score(distances[np.ix_(rest, rest)], labels[rest], metric="precomputed")
        assert influence[i] == pytest.approx(n * values.mean() - (n - 1) * without)


def test_the_silhouettes_interval_is_as_wide_as_the_spread_of_fresh_samples():
    centres = np.random.default_rng(1).normal(size=(3, 8)) * 0.6
    groups = np.random.default_rng(2).normal(size=(3, 4, 8)) * 0.8  # tasks have inner structure, as real ones
    means, widths = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels = np.repeat([0, 1, 2], N)
        x = centres[labels] + groups[labels, rng.integers(4, size=3 * N)] + 0.5 * rng.normal(size=(3 * N, 8))
        values, influence = separability._silhouettes(pairwise_distances(x), labels)
        low, high = bootstrap.stratified_interval(influence[:, None], labels, 500, 0)[:, 0]
        means.append(values.mean())
        widths.append(high - low)
    assert np.mean(widths) / (2 * 1.96) == pytest.approx(np.std(means), rel=0.3)


def test_trend_is_found_where_there_is_one_only(growing):
    frame = trend(growing).set_index("measure")
    assert (frame["low"] > 0).all() and (frame["spearman"] > 0.8).all() and (frame["p_value"] < 1e-6).all()
    means = by_layer(growing).query("measure == 'silhouette'").set_index("layer")["value"]
    expected = means[[3, 4]].mean() - means[[0, 1]].mean()
    assert frame.at["silhouette", "value"] == pytest.approx(expected)
    flat = trend(prompt_values(states(0.0), progress=False)).set_index("measure")
    assert (flat["low"] < 0).all() and (flat["high"] > 0).all() and (flat["p_value"] > 0.05).all()


def test_repeats_exactly_and_takes_states_as_well(growing):
    assert by_layer(growing).equals(by_layer(growing))
    few = HiddenStates(states(0.8).vectors[:, :2], states(0.8).labels, states(0.8).ids)
    assert by_layer(few).equals(by_layer(prompt_values(few, progress=False)))


def test_too_few_prompts_are_refused():
    few = HiddenStates(np.zeros((6, 2, 3), np.float32), np.array(list("aaabbb")), np.arange(6).astype(str))
    with pytest.raises(ValueError, match="5"):
        prompt_values(few)


def profiles(signal: float, tasks: int = 5, layers: int = 2, seed: int = 0) -> dict:
    """Norms: a part common to all tasks, ``signal`` of the task's own, and noise of the half."""
    rng = np.random.default_rng(seed)
    common, own = rng.normal(size=(layers, 200)), rng.normal(size=(tasks, layers, 200))
    return {(f"t{task}", half): np.exp(common + signal * own[task] + 0.3 * rng.normal(size=(layers, 200)))
            for task in range(tasks) for half in (0, 1)}  # fmt: skip


@pytest.mark.parametrize("method, correlate", [("spearman", spearmanr), ("pearson", pearsonr)])
def test_correlations_equal_a_loop_over_pairs(method, correlate):
    given = profiles(0.4, tasks=4)
    frame = norm_correlations(given, method).set_index("layer")
    for layer in (0, 1):
        within = [correlate(given[f"t{i}", 0][layer], given[f"t{i}", 1][layer]).statistic for i in range(4)]
        between = [correlate(given[f"t{i}", 0][layer], given[f"t{j}", 1][layer]).statistic
                   for i in range(4) for j in range(4) if i != j]  # fmt: skip
        assert frame.at[layer, "within"] == pytest.approx(np.mean(within))
        assert frame.at[layer, "between"] == pytest.approx(np.mean(between))
        assert frame.at[layer, "value"] == pytest.approx(np.mean(within) - np.mean(between))


def test_permutation_test_finds_what_is_there_and_nothing_else():
    found = norm_correlations(profiles(0.5), per_layer=False).iloc[0]
    assert found["p_value"] == pytest.approx(1 / 120)  # the true assignment is the best of 5!
    assert 0 < found["low"] < found["value"] < found["high"]
    sampled = norm_correlations(profiles(0.5, tasks=9), permutations=500)
    assert (sampled["p_value"] == 1 / 501).all() and (sampled["tasks"] == 9).all()
    null = [norm_correlations(profiles(0.0, seed=seed), per_layer=False)["p_value"].item() for seed in range(40)]
    assert 0.3 < np.mean(null) < 0.7 and np.mean(np.array(null) <= 0.1) < 0.3


def test_incomplete_halves_are_refused():
    given = profiles(0.5)
    del given["t0", 1]
    with pytest.raises(ValueError, match="0, 1"):
        norm_correlations(given)


def test_norm_profiles_are_equation_5_over_equal_halves(tiny_model, tiny_tokenizer, tmp_path):
    texts = {"a": [f"A kettle of {i} cups is used to boil water" for i in range(9)],
             "b": [f"Anna gave box {i} to Ben" for i in range(6)]}  # fmt: skip
    corpora = {task: Corpus(task, tuple(t), tuple(map(str, range(len(t)))), {}) for task, t in texts.items()}
    model = tiny_model("gqa")
    made = norm_profiles(model, tiny_tokenizer, corpora, Calibration(seed=3), progress=False)
    assert made.prompts == 3 and set(made.norms) == {"attention", "mlp"}
    rows = np.random.default_rng(3).permutation(9)[3:6]  # the second half of task a
    pooled = []
    for row in rows:
        with capture(model, pooling="prompt") as recorder:
            model(**tiny_tokenizer(texts["a"][row], return_tensors="pt"))
        pooled.append(recorder.stacked("down")[1].numpy())
    expected = np.sqrt(np.square(pooled).sum(axis=0)) / 3
    np.testing.assert_allclose(made.norms["mlp"]["a", 1], expected, rtol=1e-4, atol=1e-6)
    made.save(tmp_path)
    loaded = NormProfiles.load(tmp_path)
    assert loaded.prompts == 3 and loaded.provenance == made.provenance
    np.testing.assert_array_equal(loaded.norms["mlp"]["a", 1], made.norms["mlp"]["a", 1])
    assert list(loaded.norms["attention"]) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]


def test_depth_is_claimed_as_the_paper_says_it_and_beside_it(growing):
    rows = separability.depth_claims(growing, "some-model")
    assert [row["part"] for row in rows] == ["paper", "further", "further", "further"]
    found = trend(growing).set_index("measure").loc["silhouette"]
    assert rows[0]["claim_id"] == "hidden-states-cluster" and rows[0]["verdict"] == "holds"
    assert rows[0]["measured"] == pytest.approx(found["value"]) and rows[0]["n"] == 3 * N
    assert rows[3]["null"] == 33.33 and rows[3]["measured"] > 90 and rows[3]["unit"] == "%"


def test_strongest_dimensions_that_tasks_share():
    up, down = np.arange(20.0)[None], np.arange(20.0)[None, ::-1]
    made = {("up", 0): up, ("up", 1): up, ("down", 0): down, ("down", 1): down}
    names, shares = separability.shared_strongest(made, 0.2)
    assert names == ["up", "down"] and shares.tolist() == [[1, 0], [0, 1]]
    assert separability.between_tasks(shares).tolist() == [0, 0]
    assert separability.shared_strongest(made, 0.6)[1][0, 1] == pytest.approx(4 / 12)  # of 12, 4 are in both


def test_norms_are_claimed_for_mlp_as_the_paper_says_and_for_heads_beside_it():
    given = profiles(0.6, tasks=5)
    made = NormProfiles({"attention": given, "mlp": given}, 4)
    overlaps = {module: separability.shared_strongest(norms)[1] for module, norms in made.norms.items()}
    rows = separability.norm_claims(made, overlaps, "some-model", 200)
    assert [row["claim_id"] for row in rows][:2] == ["attention-norms-tell-tasks-apart", "norms-tell-tasks-apart"]
    assert [row["part"] for row in rows] == ["further", "paper", "further", "further"]
    assert rows[0]["measured"] == rows[1]["measured"] and rows[1]["verdict"] == "holds"
    assert rows[1]["p_value"] == rows[1]["p_floor"] == separability.smallest_p(5, 200) == 1 / 120
    assert rows[2]["direction"] == -1 and rows[2]["null"] == 0.5 and np.isnan(rows[2]["p_value"])
