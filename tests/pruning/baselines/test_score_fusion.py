"""Score fusion: against loops."""

import pytest
import reference
import torch
from pruned import TEXTS

from seaplib import activations
from seaplib.pruning import scores
from seaplib.pruning.baselines import score_fusion
from seaplib.texts import corpora

pytestmark = pytest.mark.unit


def slow_fusion(general, task, module: str, name: str, exclusive: float) -> list[list[float]]:
    """One coordinate at a time: mean where shared, the score of the louder corpus where exclusive."""
    out = []
    for layer in range(general.geometry.layers):
        parts = []
        for stats in (general, task):
            var, second = stats.var[module][layer].tolist(), stats.second_moment[module][layer].tolist()
            norms = stats.weight_l1[module][layer].tolist(), stats.weight_l2sq[module][layer].tolist()
            parts.append(([m**0.5 for m in second], reference.score(name, var, second, *norms)))
        (loud_g, score_g), (loud_t, score_t) = parts
        apart = [abs(t - g) / (t + g) for g, t in zip(loud_g, loud_t, strict=True)]
        alone = [not stays for stays in reference.keep([-a for a in apart], int(exclusive * len(apart)))]
        row = []
        for i, a in enumerate(alone):
            louder = score_t[i] if loud_t[i] > loud_g[i] else score_g[i]
            row.append(louder if a else (score_g[i] + score_t[i]) / 2)
        out.append(row)
    return out


@pytest.fixture
def two_stats(tiny_model, tiny_tokenizer):
    def build(kind):
        model = tiny_model(kind, num_hidden_layers=3)
        texts = {"text": TEXTS[:2], "piqa": TEXTS[2:]}
        corpus = {name: corpora.Corpus(name, t, ("0", "1"), {}) for name, t in texts.items()}
        return [activations.collect(model, tiny_tokenizer, one, progress=False) for one in corpus.values()]

    return build


@pytest.mark.parametrize("exclusive", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("name", ["s_F", "s_W"])
@pytest.mark.parametrize("kind", ["mha", "gqa"])
def test_fused_scores_equal_the_slow_ones(two_stats, kind, name, exclusive):
    general, task = two_stats(kind)
    fused = score_fusion.fused_scores(general, task, name, exclusive)
    for module, got in (("attention", fused.attention), ("mlp", fused.channels)):
        expected = slow_fusion(general, task, module, name, exclusive)
        torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    assert fused.provenance == {"score": name, "calibration": "text+piqa", "exclusive": exclusive}


def test_fusing_a_text_with_itself_changes_nothing(two_stats):
    general, _ = two_stats("gqa")
    fused, plain = score_fusion.fused_scores(general, general), scores.score(general)
    assert torch.equal(fused.attention, plain.attention) and torch.equal(fused.channels, plain.channels)


def test_impossible_fusions_are_refused(two_stats):
    general, task = two_stats("mha")
    with pytest.raises(ValueError, match="exclusive"):
        score_fusion.fused_scores(general, task, exclusive=1.5)
    with pytest.raises(ValueError, match="shape"):
        score_fusion.fused_scores(general, two_stats("gqa")[1])
