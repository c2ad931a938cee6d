"""FLAP: against loops."""

import pytest
import reference
from pruned import CORPUS

from seaplib import activations
from seaplib.pruning import selection
from seaplib.pruning.baselines import authors_code, flap
from seaplib.settings import Calibration

pytestmark = pytest.mark.unit


@pytest.fixture
def stats(tiny_model, tiny_tokenizer):
    def build(kind="mha", estimator="flap"):
        model = tiny_model(kind, num_hidden_layers=6)
        return activations.collect(model, tiny_tokenizer, CORPUS, Calibration(estimator=estimator), progress=False)

    return build


def slow_flap(stats: activations.ActivationStats, sparsity: float) -> tuple[list, list]:
    """FLAP's recipe with loops: which KV groups and channels of every layer stay."""
    g = stats.geometry

    def standardised(values: list[float]) -> list[float]:
        mean = sum(values) / len(values)
        deviation = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
        return [(v - mean) / deviation for v in values]

    groups, channels = [], []
    size = g.queries_per_group * g.head_dim
    for layer in range(g.layers):
        metric = {m: (stats.var[m][layer] * stats.weight_l2sq[m][layer]).tolist() for m in ("attention", "mlp")}
        attention = standardised([value**2 for value in metric["attention"]])
        groups.append([sum(attention[i * size : (i + 1) * size]) / size for i in range(g.kv_heads)])
        channels.append(standardised(metric["mlp"]))
    cost = (2 * g.queries_per_group + 2) * g.head_dim / 3
    flat = [v for row in groups for v in row] + [v for row in channels for v in row]
    costs = [cost] * (g.layers * g.kv_heads) + [1.0] * (g.layers * g.channels)
    threshold = reference.flap_threshold(flat, costs, sparsity)
    return [[v > threshold for v in row] for row in groups], [[v > threshold for v in row] for row in channels]


@pytest.mark.parametrize("sparsity", [0.1, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("kind", ["mha", "gqa"])
def test_flap_equals_the_slow_one(stats, kind, sparsity):
    one = stats(kind)
    mask = flap.flap(one, sparsity)
    groups, channels = slow_flap(one, sparsity)
    assert mask.kv_heads.tolist() == groups
    assert mask.channels.tolist() == channels
    assert mask.achieved == pytest.approx(sparsity, abs=0.05), "a KV group is 2 to 3% of this model's parameters"
    assert mask.requested == sparsity and mask.provenance["score"] == "WIFV"


def test_a_head_costs_four_thirds_of_its_size_in_channels(stats):
    g = stats().geometry
    assert selection.attention_unit_parameters(g, "group") / g.channel_parameters == pytest.approx(4 * g.head_dim / 3)


def test_flap_keeps_everything_at_zero(stats):
    for kind in ("mha", "gqa"):
        assert flap.flap(stats(kind), 0.0).achieved == 0


def test_flaps_two_metrics_differ(stats):
    one = stats()
    assert flap.flap(one, 0.5, "WIFV").fingerprint != flap.flap(one, 0.5, "WIFN").fingerprint


def test_impossible_requests_are_refused(stats):
    one = stats()
    for wrong in (-0.1, 1.0):
        with pytest.raises(ValueError, match="sparsity"):
            flap.flap(one, wrong)
    for function in (lambda: flap.flap(one, 0.5, "WIFX"), lambda: authors_code.authors_score(one, "WIFX")):
        with pytest.raises(ValueError, match="WIFX"):
            function()
