"""Measured sensitivities: the divergence written out once more, the order it finds, the store, the allocation."""

import pytest
import torch
from conftest import ARCHITECTURE_CASES, SENTENCES

import seaplib
from seaplib import corpora, masks, methods, models, sensitivity, sparsity
from seaplib.pruning import prune
from seaplib.scores import Scores
from seaplib.sensitivity import Gauge, Sensitivity
from seaplib.settings import Calibration

pytestmark = pytest.mark.unit


@pytest.fixture
def texts(monkeypatch):
    """Tasks whose corpora are the sentences, so that no data set is read."""
    found = {"piqa": tuple(SENTENCES), "wikitext2": tuple(SENTENCES[3:])}

    def draw(task, samples=None, seed=0):
        return corpora.Corpus(task, found[task], tuple(map(str, range(len(found[task])))), {}).first(samples or 99)

    monkeypatch.setattr(sensitivity.corpora, "corpus", draw)
    return found


def random_scores(model, seed=0) -> Scores:
    g, draw = models.geometry(model), torch.Generator().manual_seed(seed)
    sizes = (g.layers, g.heads * g.head_dim), (g.layers, g.channels)
    return Scores(g, *(torch.rand(size, generator=draw, dtype=torch.float64) for size in sizes))


def divergence(dense, pruned, tokenizer, texts) -> float:
    """Mean KL over the tokens of single texts, in double precision."""
    total, count = 0.0, 0
    with torch.no_grad():
        for ids in tokenizer(list(texts))["input_ids"]:
            p, q = (m(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1) for m in (dense, pruned))
            total, count = total + float((p.exp() * (p - q)).sum()), count + len(p)
    return total / count


@pytest.mark.parametrize("case", ARCHITECTURE_CASES)
def test_losses_are_the_divergences_of_models_pruned_in_one_module(any_model, tiny_tokenizer, texts, case):
    model = any_model(case)
    before, scores = models.fingerprint(model), random_scores(model)
    found = Gauge(model, tiny_tokenizer)(scores, {"piqa": 1.0})
    g = scores.geometry
    assert found.losses["mlp"].shape == (g.layers, 4)
    assert found.shares["mlp"].tolist() == [0.25, 0.5, 0.75, int(0.9 * g.channels) / g.channels]
    for layer in range(g.layers):
        mask = masks.keep_all(g)
        mask.channels[layer] = masks.lowest(scores.channels[layer], g.channels // 2)
        expected = divergence(model, prune(model, mask), tiny_tokenizer, texts["piqa"])
        assert found.losses["mlp"][layer, 1] == pytest.approx(expected, rel=1e-3, abs=1e-6)
        mask = masks.keep_all(g)
        count = round(found.shares["attention"][0] * g.kv_heads)
        mask.heads[layer] = masks.keep_heads(scores.heads[layer], count, g, "group")
        expected = divergence(model, prune(model, mask), tiny_tokenizer, texts["piqa"])
        assert found.losses["attention"][layer, 0] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert models.fingerprint(model) == before


def test_several_texts_are_weighted(tiny_model, tiny_tokenizer, texts):
    model = tiny_model("gqa")
    gauge, scores = Gauge(model, tiny_tokenizer), random_scores(model)
    a, b = gauge(scores, {"piqa": 1.0}), gauge(scores, {"wikitext2": 1.0})
    both = gauge(scores, {"wikitext2": 3.0, "piqa": 2.0})
    for module in a.losses:
        expected = 0.4 * a.losses[module] + 0.6 * b.losses[module]
        torch.testing.assert_close(torch.tensor(both.losses[module]), torch.tensor(expected), rtol=1e-5, atol=1e-9)
    assert both.provenance["task"] == "piqa+wikitext2" and "most in layer" in repr(both)
    with pytest.raises(ValueError, match="at least one task"):
        gauge(scores, {})


def test_tokens_bound_what_is_read(tiny_model, tiny_tokenizer, texts):
    model = tiny_model()
    few, all_of = (Gauge(model, tiny_tokenizer, tokens=n)(random_scores(model), {"piqa": 1.0}) for n in (9, 10**6))
    assert few.provenance["tokens"] == 9
    assert all_of.provenance["tokens"] == sum(len(i) - 1 for i in tiny_tokenizer(list(texts["piqa"]))["input_ids"])


def test_the_store_keeps_a_sensitivity_apart_from_others(tiny_model, tiny_tokenizer, texts, monkeypatch):
    model = tiny_model("gqa")
    scores = random_scores(model)
    first = Gauge(model, tiny_tokenizer)(scores, {"piqa": 1.0})
    measured = sensitivity.measure
    monkeypatch.setattr(sensitivity, "measure", None)  # a second measurement would call it
    again = Gauge(model, tiny_tokenizer)(scores, {"piqa": 1.0})
    assert isinstance(again, Sensitivity) and again.losses["mlp"].tolist() == first.losses["mlp"].tolist()
    for changed in (
        lambda: Gauge(tiny_model("gqa", seed=1), tiny_tokenizer)(scores, {"piqa": 1.0}),
        lambda: Gauge(model, tiny_tokenizer)(random_scores(model, 1), {"piqa": 1.0}),
        lambda: Gauge(model, tiny_tokenizer)(scores, {"wikitext2": 1.0}),
        lambda: Gauge(model, tiny_tokenizer)(scores, {"piqa": 1.0}, "query"),
        lambda: Gauge(model, tiny_tokenizer, Calibration(samples=3))(scores, {"piqa": 1.0}),
    ):
        with pytest.raises(TypeError, match="not callable"):
            changed()
    monkeypatch.setattr(sensitivity, "measure", measured)


def test_a_module_that_does_nothing_is_cut_first(tiny_model, tiny_tokenizer, texts):
    """The MLP of layer 1 writes zeros: the allocation takes all but one of its channels before any other unit."""
    model = tiny_model(num_hidden_layers=3)
    with torch.no_grad():
        models.linear(models.decoder_layers(model)[1], "down").weight.zero_()
    scores = random_scores(model)
    g = scores.geometry
    target = 0.9 * g.mlp_parameters / g.projection_parameters
    found = Gauge(model, tiny_tokenizer)(scores, {"piqa": 1.0})
    mask = seaplib.select(scores, seaplib.measured(target, found))
    assert int(mask.channels[1].sum()) < 0.15 * g.channels and mask.achieved == pytest.approx(target, abs=0.005)
    assert bool(mask.channels[[0, 2]].all()) and bool(mask.heads.all())


@pytest.mark.parametrize("kv_unit", ["group", "query"])
@pytest.mark.parametrize("budget", ["parameters", "floor"])
def test_masks_meet_their_budget(tiny_model, tiny_tokenizer, texts, kv_unit, budget):
    model = tiny_model("gqa", num_hidden_layers=4, intermediate_size=256)
    scores = random_scores(model)
    found = Gauge(model, tiny_tokenizer)(scores, {"piqa": 1.0}, kv_unit)
    for target in (0.2, 0.35, 0.5):
        for last in (0, 1):
            mask = masks.select(scores, sparsity.measured(target, found, protect_last=last), budget, kv_unit)
            if budget == "parameters":
                assert mask.achieved == pytest.approx(target, abs=0.005)
            else:
                assert target - 0.15 < mask.achieved <= target + 1e-9
            assert mask.provenance["allocation"] == "measured"
            assert not last or bool(mask.channels[-1].all() and mask.heads[-1].all())
            assert bool(mask.heads.any(1).all() and mask.channels.any(1).all())
    with pytest.raises(ValueError, match="round_to needs"):
        masks.select(scores, sparsity.measured(0.5, found), round_to=8)


def test_methods_are_measured_on_their_own_texts(tiny_model, tiny_tokenizer, texts):
    model = tiny_model("mha", num_hidden_layers=3)
    corpus = {task: sensitivity.corpora.corpus(task) for task in texts}
    stats = {task: seaplib.collect(model, tiny_tokenizer, one, progress=False) for task, one in corpus.items()}
    seen, gauge = [], Gauge(model, tiny_tokenizer)

    def noting(scores, alpha, kv_unit):
        seen.append(alpha)
        return gauge(scores, alpha, kv_unit)

    rows = [methods.replace(one, allocation="measured") for one in (methods.SEAP_F, methods.FLAP, methods.GENERAL_F)]
    made = methods.variants(rows, stats, [0.3, 0.5], ["piqa"], "wikitext2", gauge=noting)
    assert seen[::2] == [{"piqa": 1.0}, {"wikitext2": 1.0}, {"piqa": 2.0, "wikitext2": 3.0}]
    assert [one.label["allocation"] for one in made] == ["measured"] * 6
    assert all(abs(one.label["achieved_sparsity"] - one.label["requested_sparsity"]) < 0.01 for one in made)
    with pytest.raises(ValueError, match="needs a gauge"):
        methods.variants(rows, stats, [0.3], ["piqa"], "wikitext2")
