from dataclasses import replace

import pytest
import reference
import torch

from seaplib import activations, models, pruning
from seaplib.activations import capture
from seaplib.pruning import masks, scores, selection
from seaplib.pruning.baselines import authors_code, flap, score_fusion
from seaplib.pruning.baselines import wanda as baselines
from seaplib.settings import Calibration
from seaplib.texts import corpora

pytestmark = pytest.mark.unit

TEXTS = (
    "the otter in the river",
    "A kettle is used to boil water before the tea is made.",
    "grey stone",
    "There are 12 apples.",
)
CORPUS = corpora.Corpus("mine", TEXTS, tuple("0123"), {})


@pytest.fixture
def stats(tiny_model, tiny_tokenizer):
    def build(kind="mha", estimator="flap"):
        model = tiny_model(kind, num_hidden_layers=6)
        return activations.collect(model, tiny_tokenizer, CORPUS, Calibration(estimator=estimator), progress=False)

    return build


# ---- FLAP ----------------------------------------------------------------------------------------------------------


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
        with pytest.raises(ValueError, match=r"sparsity must lie in \[0, 1\)"):
            flap.flap(one, wrong)
    for function in (lambda: flap.flap(one, 0.5, "WIFX"), lambda: authors_code.authors_score(one, "WIFX")):
        with pytest.raises(ValueError, match="metric is 'WIFV' or 'WIFN', got 'WIFX'"):
            function()


# ---- the authors' code ---------------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match="multi-head attention only"):
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
    with pytest.raises(ValueError, match="allocation is 'UL-UM', 'UL-LD' or 'AL-AM', got 'UL-XX'"):
        authors_code.authors_mask(authors_code.authors_score(stats()), 0.5, "UL-XX")


# ---- score fusion --------------------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match="a share between 0 and 1"):
        score_fusion.fused_scores(general, task, exclusive=1.5)
    with pytest.raises(ValueError, match="different shape"):
        score_fusion.fused_scores(general, two_stats("gqa")[1])


# ---- Wanda ---------------------------------------------------------------------------------------------------------


def test_wanda_prunes_the_lowest_of_every_row():
    torch.manual_seed(0)
    weight, second = torch.randn(6, 10), torch.rand(10)
    pruned = baselines.wanda_pruned(weight, second, 0.35)
    for row in range(6):
        metric = [abs(float(w)) * float(s) ** 0.5 for w, s in zip(weight[row], second, strict=True)]
        assert (~pruned[row]).tolist() == reference.keep(metric, 3)


@pytest.fixture
def wanda(tiny_model, tiny_tokenizer):
    model = tiny_model("gqa")
    return model, baselines.wanda(model, tiny_tokenizer, CORPUS, 0.5, progress=False)


def test_wanda_zeroes_its_share_of_every_projection(wanda):
    model, pruned = wanda
    for before, after in zip(models.decoder_layers(model), models.decoder_layers(pruned), strict=True):
        for role in models.ROLES:
            old, new = models.linear(before, role).weight, models.linear(after, role).weight
            assert bool(((new == 0).sum(1) == old.shape[1] // 2).all()), role
            assert torch.equal(new[new != 0], old[new != 0])


def test_wanda_measures_a_layer_behind_its_pruned_predecessors(wanda, tiny_tokenizer):
    """As published: the second layer's inputs come from a model whose first layer is already pruned."""
    model, pruned = wanda
    halfway = pruning.prune(model, masks.keep_all(models.geometry(model)))
    for role in models.ROLES:
        models.set_linear(
            models.decoder_layers(halfway)[0], role, models.linear(models.decoder_layers(pruned)[0], role)
        )
    for source, same in ((halfway, True), (model, False)):
        with torch.no_grad(), capture.capture(source, roles=("gate",), only=(1,)) as recorder:
            for ids in tiny_tokenizer(list(TEXTS))["input_ids"]:
                source(torch.tensor([ids]))
        weight = models.linear(models.decoder_layers(model)[1], "gate").weight.detach()
        expected = baselines.wanda_pruned(weight, recorder.stacked("gate")[3][0], 0.5)
        got = models.linear(models.decoder_layers(pruned)[1], "gate").weight == 0
        assert torch.equal(got, expected) == same


def test_wanda_leaves_the_model_alone(wanda, tiny_model):
    model, pruned = wanda
    assert models.fingerprint(model) == models.fingerprint(tiny_model("gqa"))
    for one in (model, pruned):
        assert not any(module._forward_pre_hooks or module._forward_hooks for module in one.modules())
    assert not any(parameter.requires_grad is False for parameter in model.parameters())


def test_wanda_at_zero_is_the_identity(tiny_model, tiny_tokenizer):
    model = tiny_model()
    assert models.fingerprint(
        baselines.wanda(model, tiny_tokenizer, CORPUS, 0.0, progress=False)
    ) == models.fingerprint(model)
    with pytest.raises(ValueError, match=r"sparsity must lie in \[0, 1\)"):
        baselines.wanda(model, tiny_tokenizer, CORPUS, 1.0)
