"""The factorial design: orthogonal contrasts, sums of squares against statsmodels, and what is put in comes out."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SENTENCES

from seaplib import activations
from seaplib.evaluation import bootstrap
from seaplib.pruning import scores as scoring
from seaplib.pruning import selection
from seaplib.pruning.allocation import uniform
from seaplib.reports import claims
from seaplib.studies import expert_or_general
from seaplib.studies.expert_or_general import BY_TASK, CELLS, NOISE
from seaplib.texts import corpora

pytestmark = pytest.mark.unit


def test_contrasts_are_nine_orthogonal_differences_of_means():
    found = expert_or_general.contrasts()
    vectors = np.stack(list(found.values()))
    assert vectors.shape == (9, 10)
    gram = vectors @ vectors.T
    np.testing.assert_allclose(gram - np.diag(np.diag(gram)), 0, atol=1e-12)
    np.testing.assert_allclose(vectors.sum(1), 0, atol=1e-12)
    np.testing.assert_allclose(np.clip(vectors, 0, None).sum(1), 1)


@pytest.mark.parametrize(
    ("source", "inside"),
    [
        ("amount", lambda amount, mixture: amount == "more"),
        ("variety", lambda amount, mixture: mixture != expert_or_general.ONE),
        ("alpha", lambda amount, mixture: mixture.startswith("published")),
        ("scale", lambda amount, mixture: mixture.endswith("scaled")),
    ],
)
def test_a_factor_that_is_put_in_comes_out_and_nothing_else(source, inside):
    mixed = source in ("alpha", "scale")
    values = [0.4 + 0.2 * inside(*cell) * (cell[1] != expert_or_general.ONE or not mixed) for cell in CELLS]
    if mixed:  # one task lies at the mean of the mixtures: no effect of variety
        values = [0.5 if cell[1] == expert_or_general.ONE else value for cell, value in zip(CELLS, values, strict=True)]
    y = np.broadcast_to(np.array(values)[:, None, None], (10, 3, 4))
    found = expert_or_general.squares(y, expert_or_general.contrasts())
    total = sum(found.values())
    assert found[source] == pytest.approx(total) and total > 0
    answers = bootstrap.Results(
        CELLS, ("piqa",), (0, 1), {"piqa": np.repeat(y[:, :1, :2].transpose(0, 2, 1), 5, axis=2)}
    )
    rows = expert_or_general.analyse(answers, draws=50).set_index("source")
    assert rows.at[source, "effect"] == pytest.approx(0.2) and rows.at[source, "share"] == pytest.approx(1)
    assert rows.at[NOISE, "share"] == pytest.approx(0)


def test_sums_of_squares_are_those_of_a_type_two_analysis_of_variance():
    """Balanced, so that the types agree; the contrasts enter as numbers, task and its products as categories."""
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    y = np.random.default_rng(0).normal(size=(10, 3, 4))
    vectors = expert_or_general.contrasts()
    columns = {f"c{place}": vector for place, vector in enumerate(vectors.values())}
    rows = [
        {name: vector[c] for name, vector in columns.items()} | {"task": t, "y": y[c, t, s]}
        for c in range(10)
        for t in range(3)
        for s in range(4)
    ]
    terms = " + ".join(columns)
    table = anova_lm(ols(f"y ~ ({terms}) * C(task)", pd.DataFrame(rows)).fit(), typ=2)["sum_sq"]
    found = expert_or_general.squares(y, vectors)
    for name, source in zip(columns, vectors, strict=True):
        assert found[source] == pytest.approx(table[name])
    assert found[BY_TASK] == pytest.approx(table[[i for i in table.index if ":C(task)" in i or "C(task):" in i]].sum())
    assert found[NOISE] == pytest.approx(table["Residual"])


def test_the_parts_add_up_to_the_variation_within_tasks():
    y = np.random.default_rng(1).random((4, 3, 5))
    found = expert_or_general.squares(y, expert_or_general.between(range(4)))
    within = ((y - y.mean((0, 2), keepdims=True)) ** 2).sum()
    assert sum(found.values()) == pytest.approx(within)


def test_pure_noise_is_called_noise():
    generator = np.random.default_rng(0)
    values = {task: generator.random((10, 6, 200)) < 0.5 for task in ("piqa", "boolq", "mmlu")}
    answers = bootstrap.Results(CELLS, tuple(values), tuple(range(6)), {k: v.astype(float) for k, v in values.items()})
    rows = expert_or_general.analyse(answers, draws=400).set_index("source")
    contrasts = rows.loc[list(expert_or_general.contrasts())]
    assert (contrasts["p_value"] < 0.05).sum() <= 2
    assert rows.at[NOISE, "share"] > 0.6
    assert rows["share"].sum() == pytest.approx(1)
    assert contrasts["share"].mean() < 4 * contrasts["by_noise"].iloc[0]


def test_a_design_with_other_cells_is_refused():
    answers = bootstrap.Results(("a", "b"), ("piqa",), (0,), {"piqa": np.zeros((2, 1, 3))})
    with pytest.raises(ValueError, match="'a', 'b'"):
        expert_or_general.analyse(answers)


@pytest.fixture
def stats(tiny_model, tiny_tokenizer):
    model, found = tiny_model(), {}
    for place, name in enumerate(("one", "two", "general")):
        texts = tuple(SENTENCES[place : place + 3])
        found[name] = activations.collect(model, tiny_tokenizer, corpora.Corpus(name, texts, ("0", "1", "2"), {}))
    return found


def test_scores_of_every_mixture_by_hand(stats):
    each = {name: scoring.score(one).channels for name, one in stats.items()}
    relative = {name: one / one.mean(1, keepdim=True) for name, one in each.items()}
    expected = {
        "published α": 2 * each["one"] + 2 * each["two"] + 3 * each["general"],
        "equal α": sum(each.values()),
        "published α, scaled": 2 * relative["one"] + 2 * relative["two"] + 3 * relative["general"],
        "equal α, scaled": sum(relative.values()),
    }
    for mixture, channels in expected.items():
        torch.testing.assert_close(expert_or_general.cell_scores(stats, mixture, "general").channels, channels)
    alone = expert_or_general.cell_scores({"one": stats["one"]}, expert_or_general.ONE, "general")
    torch.testing.assert_close(alone.channels, each["one"])


def test_of_one_corpus_weights_and_scale_change_no_mask(stats):
    one, half = scoring.score(stats["one"]), uniform(0.5)
    plain = selection.select(one, half)
    assert selection.select(expert_or_general.scaled(one), half).fingerprint == plain.fingerprint
    assert selection.select(scoring.aggregate({"one": one}, {"one": 2.0}), half).fingerprint == plain.fingerprint


def test_cells_that_do_not_exist_are_refused(stats):
    with pytest.raises(ValueError, match="half"):
        expert_or_general.cell_scores(stats, "half", "general")
    with pytest.raises(ValueError, match="one, two, general"):
        expert_or_general.cell_scores(stats, expert_or_general.ONE, "general")


def test_what_is_said_of_experts_and_general_masks_follows_from_the_numbers():
    """On one task the mixtures are worse, on the other no cell differs."""
    rows = []
    for (amount, mixture), task in itertools.product(CELLS, ("piqa", "boolq")):
        share = 0.2 if task == "piqa" and mixture != expert_or_general.ONE else 0.8
        for seed in (0, 1, 2):
            frame = pd.DataFrame({"doc_id": [str(i) for i in range(40)]})
            frame["value"] = [float((7 * i + seed) % 40 < 40 * share) for i in range(40)]
            named = {"amount": amount, "mixture": mixture, "task": task, "calibration_seed": seed}
            rows += [frame.assign(metric=name, **named) for name in ("acc", "acc_norm", "exact_match")]
    answers = pd.concat(rows, ignore_index=True).assign(requested_sparsity=0.5).astype({"calibration_seed": "Int64"})
    factors = expert_or_general.effects(answers, draws=200)
    assert len(factors) == len(bootstrap.REPORTED) * (1 + 9 + 2) and set(factors["n"]) == {80}
    lead = factors[(factors["source"] == expert_or_general.AHEAD) & (factors["metric"] == "exact_match")].iloc[0]
    assert lead["effect"] == pytest.approx(-0.3)
    by_task = expert_or_general.effects_by_task(answers, draws=200)
    assert len(by_task) == 2 * len(bootstrap.REPORTED) * 5
    verdicts = claims.save(expert_or_general.claims(factors), "14_expert_or_general", "p")
    decided = verdicts.set_index("claim_id")["verdict"]
    assert (
        decided["general-beats-experts/50%/accuracy"] == "reversed" == decided["mixed-text-beats-own/50%/exact-match"]
    )
    assert decided["more-text-helps/50%/accuracy"] == "undecided" and len(decided) == 5 * len(bootstrap.REPORTED)
    text = expert_or_general.answer(verdicts, factors, by_task)
    assert "experts beat the general mask over all tasks (-30 " in text and "50% is due to the variety of text" in text
    assert "ahead on no task and behind on PIQA by exact match" in text
    shown = expert_or_general.display_by_task(by_task).set_index(["task", "metric"])
    assert (
        shown.at[("PIQA", "accuracy"), "variety"] == "-60.0*" and shown.at[("BoolQ", "accuracy"), "variety"] == "+0.0"
    )
    means = expert_or_general.cell_means(answers)
    assert means.columns.tolist() == ["sparsity", "metric", "amount", *expert_or_general.MIXTURES]
    assert expert_or_general.display(factors)["by seeds alone"].iloc[0] == "–"
