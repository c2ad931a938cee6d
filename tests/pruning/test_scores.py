from dataclasses import replace

import pytest
import reference
import torch

from seaplib import activations
from seaplib.activations import capture
from seaplib.pruning import scores
from seaplib.settings import SCORES, Calibration
from seaplib.texts import corpora

pytestmark = pytest.mark.unit


@pytest.fixture
def stats(tiny_model, tiny_tokenizer):
    texts = ("the otter in the river", "A kettle is used to boil water.", "grey stone")
    corpus = corpora.Corpus("mine", texts, ("0", "1", "2"), {})
    return lambda kind="mha", seed=0: activations.collect(
        tiny_model(kind, seed=seed), tiny_tokenizer, corpus, Calibration(), progress=False
    )


@pytest.mark.parametrize("kind", ["mha", "gqa"])
@pytest.mark.parametrize("name", ["s_F", "s_W"])
def test_scores_equal_the_slow_ones(stats, kind, name):
    one = stats(kind)
    made = scores.score(one, name)
    for layer in range(2):
        slow = {
            module: reference.score(
                name,
                *(
                    getattr(one, part)[module][layer].tolist()
                    for part in ("var", "second_moment", "weight_l1", "weight_l2sq")
                ),
            )
            for module in capture.UNITS
        }
        assert made.channels[layer].tolist() == pytest.approx(slow["mlp"], rel=1e-12)
        assert made.heads[layer].tolist() == pytest.approx(reference.head_scores(slow["attention"], 4), rel=1e-12)


def test_heads_by_mean_have_the_order_of_heads_by_sum(stats):
    total = scores.score(stats(), "s_F")
    mean = replace(total, reduction="mean")
    torch.testing.assert_close(total.heads, mean.heads * 8)


def test_magnitude_and_random_need_no_activations(stats):
    one = stats()
    other = replace(
        one, var={m: t * 0 for m, t in one.var.items()}, second_moment={m: t * 0 for m, t in one.second_moment.items()}
    )
    assert torch.equal(scores.score(one, "magnitude").channels, one.weight_l2sq["mlp"])
    for name in ("magnitude", "random"):
        assert torch.equal(scores.score(one, name).channels, scores.score(other, name).channels)
    a, b = scores.score(one, "random", seed=0), scores.score(one, "random", seed=1)
    assert not torch.equal(a.attention, b.attention)
    assert torch.equal(a.attention, scores.score(one, "random", seed=0).attention)


def test_an_unknown_score_is_refused(stats):
    with pytest.raises(ValueError, match="s_f"):
        scores.score(stats(), "s_f")


def test_every_score_that_settings_allow_has_a_formula():
    assert tuple(scores.FORMULAS) == SCORES


def test_weights_are_three_for_general_text_and_two_for_tasks():
    assert scores.weights(["piqa", "wikitext2", "boolq"], "wikitext2") == {"piqa": 2.0, "wikitext2": 3.0, "boolq": 2.0}
    assert scores.weights(["piqa"], None) == {"piqa": 2.0}


def test_the_general_score_is_the_weighted_sum(stats):
    each = {"piqa": scores.score(stats(seed=0)), "wikitext2": scores.score(stats(seed=1))}
    made = scores.aggregate(each, {"piqa": 2.0, "wikitext2": 3.0})
    assert torch.equal(made.channels, 2 * each["piqa"].channels + 3 * each["wikitext2"].channels)
    torch.testing.assert_close(made.heads, 2 * each["piqa"].heads + 3 * each["wikitext2"].heads)
    assert made.provenance["alpha"] == {"piqa": 2.0, "wikitext2": 3.0}
    assert made.provenance["calibration"] == "piqa+wikitext2"


def test_aggregation_wants_one_weight_per_task(stats):
    each = {"piqa": scores.score(stats())}
    for alpha in ({}, {"boolq": 2.0}, {"piqa": 2.0, "boolq": 2.0}):
        with pytest.raises(ValueError, match="tasks"):
            scores.aggregate(each, alpha)
    with pytest.raises(ValueError, match="tasks"):
        scores.aggregate({}, {})


def test_scores_print_well(stats):
    assert repr(scores.score(stats(), "s_W")) == "Scores(s_W on mine: heads (2, 4), channels (2, 48))"
