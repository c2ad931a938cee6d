"""The authors' code as published: by hand, and by what it removes from a 7B model."""

from dataclasses import replace

import pytest
import torch
from pruned import CORPUS

from seaplib import activations, models
from seaplib.pruning import scores
from seaplib.pruning.baselines import authors_code
from seaplib.settings import Calibration

pytestmark = pytest.mark.unit


@pytest.fixture
def stats(tiny_model, tiny_tokenizer):
    def build(kind="mha", estimator="flap"):
        model = tiny_model(kind, num_hidden_layers=6)
        return activations.collect(model, tiny_tokenizer, CORPUS, Calibration(estimator=estimator), progress=False)

    return build


def test_the_authors_scores_by_hand(stats):
    one = stats(estimator="authors")
    variance, norm = authors_code.authors_score(one, "WIFV"), authors_code.authors_score(one, "WIFN")
    assert torch.equal(variance.channels, one.var["mlp"] * one.weight_l2sq["mlp"])
    assert torch.equal(norm.channels, one.second_moment["mlp"].sqrt() * one.weight_l2sq["mlp"])
    per_head = (one.var["attention"] * one.weight_l2sq["attention"]).unflatten(1, (4, 8)).mean(-1)
    torch.testing.assert_close(variance.heads, per_head)


def test_the_authors_logistic_protects_both_ends(stats):
    mask = authors_code.authors_mask(authors_code.authors_score(stats(estimator="authors")), 0.5)
    for layer in (0, 1, 4, 5):
        assert bool(mask.heads[layer].all()) and bool(mask.channels[layer].all())
    assert mask.requested == 0.5 and mask.achieved < 0.2, "less than asked, by far"


@pytest.mark.parametrize(("asked", "channels", "heads"), [(0.2, 0.175, 0.162), (0.5, 0.4375, 0.424)])
def test_what_the_authors_logistic_removes_from_a_7b_model(asked, channels, heads):
    """Counted over all 32 layers; heads lose more to the floor than channels do."""
    g = models.Geometry(32, 4096, 32, 32, 128, 11008, model_parameters=6_738_415_616)
    torch.manual_seed(0)
    mask = authors_code.authors_mask(scores.Scores(g, torch.rand(32, 4096), torch.rand(32, 11008), "mean"), asked)
    assert float((~mask.channels).double().mean()) == pytest.approx(channels, abs=3e-4)
    assert float((~mask.heads).double().mean()) == pytest.approx(heads, abs=5e-4)


def test_the_authors_adaptive_allocation(stats):
    one = stats(estimator="authors")
    mask = authors_code.authors_mask(authors_code.authors_score(one), 0.5, "AL-AM")
    assert 0.47 < mask.achieved <= 0.5, "never above the request"
    with pytest.raises(ValueError, match="multi-head"):
        authors_code.authors_mask(authors_code.authors_score(stats("gqa", "authors")), 0.5, "AL-AM")


def test_robust_standardisation_by_hand():
    """Median of an even count is the lower one; quartiles interpolate; ±3 is the limit."""
    out = authors_code._robust(torch.tensor([[1.0, 2.0, 3.0, 100.0]], dtype=torch.float64))
    assert out[0].tolist() == pytest.approx([-1 / 25.5, 0, 1 / 25.5, 3])  # quartiles 1.75 and 27.25, median 2


def test_the_general_mask_uses_three_and_two(stats):
    a = stats(estimator="authors")
    b = replace(a, var={m: v.flip(1) for m, v in a.var.items()})
    made = authors_code.authors_code({"text": a, "piqa": b}, 0.5, "text", allocation="UL-UM")
    assert set(made) == {"text", "piqa", "general"}
    each = {"text": authors_code.authors_score(a), "piqa": authors_code.authors_score(b)}
    general = scores.aggregate(each, {"text": 3.0, "piqa": 2.0})
    assert made["general"].fingerprint == authors_code.authors_mask(general, 0.5, "UL-UM").fingerprint
    assert made["piqa"].fingerprint == authors_code.authors_mask(each["piqa"], 0.5, "UL-UM").fingerprint


def test_unknown_allocations_are_refused(stats):
    with pytest.raises(ValueError, match="UL-XX"):
        authors_code.authors_mask(authors_code.authors_score(stats()), 0.5, "UL-XX")
