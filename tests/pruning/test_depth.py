"""ShortGPT and 2SSP: against loops, and against models from which the layers were really deleted."""

import copy
import math
from dataclasses import replace

import pytest
import reference
import torch
from conftest import ARCHITECTURE_CASES

from seaplib import activations, models, store
from seaplib.models import layers
from seaplib.pruning import masks, methods
from seaplib.pruning.apply import prune
from seaplib.pruning.baselines import shortgpt, two_ssp
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
KINDS = ("mha", "gqa")


@pytest.fixture
def ids():
    return torch.randint(3, 250, (2, 11), generator=torch.Generator().manual_seed(0))


def dropped(geometry, *gone: int) -> masks.PruningMask:
    """The mask that removes whole layers."""
    mask = replace(masks.keep_all(geometry), bypass=True)
    for layer in gone:
        mask.heads[layer], mask.channels[layer] = False, False
    return mask


def deleted(model, *gone: int, renumber: bool = False):
    """The reference: a copy of the model whose list of layers is shorter.

    A KV cache needs its layers ``renumber``ed; GPT-2 may divide its scores by that number too.
    """
    shorter = copy.deepcopy(model)
    everything = models.decoder_layers(shorter)
    kept = [layer for i, layer in enumerate(everything) if i not in gone]
    for owner in list(shorter.modules()):
        for name, child in list(owner.named_children()):
            if child is everything:
                setattr(owner, name, torch.nn.ModuleList(kept))
    for place, layer in enumerate(kept):
        for module in layer.modules():
            if renumber and hasattr(module, "layer_idx"):
                module.layer_idx = place
    config = shorter.config
    if getattr(config, "layer_types", None):
        config.layer_types = [kind for i, kind in enumerate(config.layer_types) if i not in gone]
    setattr(config, "n_layer" if config.model_type == "gpt2" else "num_hidden_layers", len(kept))
    return shorter


@torch.no_grad()
def slow_influence(model, tokenizer, texts=TEXTS, skip: int = 0) -> list[float]:
    """1 − mean cosine between what enters and what leaves a layer, one token at a time."""
    cosines = [[] for _ in models.decoder_layers(model)]
    for text in texts:
        seen = []
        handles = [
            layer.register_forward_hook(lambda _, args, out, to=seen: to.append((args[0], out)))
            for layer in models.decoder_layers(model)
        ]
        model(torch.tensor([tokenizer(text)["input_ids"]]))
        for handle in handles:
            handle.remove()
        for index, (before, after) in enumerate(seen):
            after = after[0] if isinstance(after, tuple) else after
            for a, b in zip(before[0][skip:].tolist(), after[0][skip:].tolist(), strict=True):
                product = math.fsum(x * y for x, y in zip(a, b, strict=True))
                cosines[index].append(product / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b)))
    return [1 - math.fsum(row) / len(row) for row in cosines]


# ---- block influence and ShortGPT ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_tokens", [8192, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_block_influence_equals_the_slow_one(tiny_model, tiny_tokenizer, kind, batch_tokens):
    model = tiny_model(kind, num_hidden_layers=4)
    for bos in (True, False):
        calibration = Calibration(bos=bos, batch_tokens=batch_tokens)
        found = shortgpt.measure_influence(model, tiny_tokenizer, CORPUS, calibration, progress=False)
        expected = slow_influence(model, tiny_tokenizer, skip=0 if bos else 1)
        assert found.values.tolist() == pytest.approx(expected, abs=1e-5)
        lengths = [len(ids) - (not bos) for ids in tiny_tokenizer(list(TEXTS))["input_ids"]]
        assert found.count == sum(lengths)


@pytest.mark.parametrize("case", [c for c in ARCHITECTURE_CASES if c != "opt_post_norm"])
def test_block_influence_on_every_architecture(any_model, tiny_tokenizer, case):
    model = any_model(case)
    found = shortgpt.measure_influence(model, tiny_tokenizer, CORPUS, progress=False)
    assert found.values.tolist() == pytest.approx(slow_influence(model, tiny_tokenizer), abs=1e-5)


def test_post_norm_layers_cannot_be_dropped(any_model, tiny_tokenizer):
    with pytest.raises(ValueError, match="post-norm"):
        shortgpt.measure_influence(any_model("opt_post_norm"), tiny_tokenizer, CORPUS, progress=False)


def test_influence_of_nothing_and_of_broken_states_is_refused(tiny_model, tiny_tokenizer):
    model = tiny_model()
    with torch.no_grad():
        models.decoder_layers(model)[0].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        shortgpt.measure_influence(model, tiny_tokenizer, CORPUS, progress=False)
    with pytest.raises(ValueError, match="empty"):
        shortgpt.measure_influence(tiny_model(), tiny_tokenizer, corpora.Corpus("none", (), (), {}), progress=False)


def influence_of(geometry, values) -> shortgpt.BlockInfluence:
    return shortgpt.BlockInfluence(geometry, torch.tensor(values, dtype=torch.float64), 10, {"task": "mine"})


def test_shortgpt_drops_the_layers_of_least_influence(tiny_model):
    g = models.geometry(tiny_model(num_hidden_layers=5))
    block = influence_of(g, [0.5, 0.1, 0.3, 0.1, 0.2])
    for sparsity, gone in ((0.0, []), (0.09, []), (0.1, [1]), (0.2, [1]), (0.35, [1, 3]), (0.5, [1, 3, 4])):
        mask = shortgpt.shortgpt(block, sparsity)
        assert [i for i in range(5) if not mask.heads[i].any()] == gone, sparsity
        assert torch.equal(mask.heads.any(1), mask.channels.all(1)) and mask.bypass
        assert mask.achieved == pytest.approx(len(gone) / 5) and mask.requested == sparsity
        assert abs(mask.achieved - sparsity) <= 0.1 + 1e-9, "half a layer"
    assert shortgpt.shortgpt(block, 0.97).achieved == pytest.approx(0.8), "a layer always stays"
    for wrong in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"sparsity must lie in \[0, 1\)"):
            shortgpt.shortgpt(block, wrong)


def test_influence_survives_saving(tiny_model, tmp_path):
    block = influence_of(models.geometry(tiny_model("gqa")), [1 / 3, 0.1])
    block.save(tmp_path)
    again = shortgpt.BlockInfluence.load(tmp_path)
    assert again.geometry == block.geometry and torch.equal(again.values, block.values)
    assert (again.count, again.provenance) == (10, {"task": "mine"}) and "least in layers 1, 0" in repr(again)


@pytest.mark.parametrize("case", [c for c in ARCHITECTURE_CASES if c != "opt_post_norm"])
def test_a_dropped_layer_is_a_deleted_layer(any_model, ids, case):
    """Biases included: what is left of the layer is the residual stream."""
    model = any_model(case)
    for gone in (0, 1):
        mask = dropped(models.geometry(model), gone)
        with torch.no_grad():
            expected = deleted(model, gone)(ids, use_cache=False).logits
            for mode in ("remove", "zero", "mask"):
                got = prune(model, mask, mode)(ids).logits
                torch.testing.assert_close(got, expected, rtol=0, atol=1e-5, msg=f"layer {gone}, {mode}")
            assert not torch.allclose(model(ids).logits, expected, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_dropped_layers_in_generation_are_deleted_layers(tiny_model, ids, kind):
    model = tiny_model(kind, num_hidden_layers=4, attention_bias=True, mlp_bias=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(generator=torch.Generator().manual_seed(2))
    pruned, shorter = prune(model, dropped(models.geometry(model), 0, 2)), deleted(model, 0, 2, renumber=True)
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    assert torch.equal(pruned.generate(ids, **options), shorter.generate(ids, **options))
    with_bias = prune(model, replace(dropped(models.geometry(model), 0, 2), bypass=False))
    with torch.no_grad():
        assert not torch.allclose(with_bias(ids).logits, pruned(ids).logits), "without bypass the biases stay"


def test_a_bypassed_module_takes_no_compensation(tiny_model, ids):
    model = tiny_model(attention_bias=True, mlp_bias=True)
    g, mask = models.geometry(model), dropped(models.geometry(model), 1)
    mask.channels[0, :9] = False
    means = {"attention": torch.ones(g.layers, g.heads * g.head_dim), "mlp": torch.ones(g.layers, g.channels)}
    with torch.no_grad():
        outputs = [prune(model, mask, mode, means)(ids).logits for mode in ("remove", "zero", "mask")]
        plain = prune(model, mask)(ids).logits
    for out in outputs[1:]:
        torch.testing.assert_close(out, outputs[0], rtol=0, atol=1e-5)
    assert not torch.allclose(outputs[0], plain), "layer 0 is compensated"
    pruned = prune(model, mask, "remove", means)
    assert all(one.bias is None for one in layers.emptied(models.decoder_layers(pruned)[1]).values())


def test_bypass_is_part_of_a_mask(tiny_model, tmp_path):
    mask = dropped(models.geometry(tiny_model()), 1)
    plain = replace(mask, bypass=False)
    assert mask.fingerprint != plain.fingerprint
    mask.save(tmp_path)
    assert masks.PruningMask.load(tmp_path).fingerprint == mask.fingerprint


# ---- 2SSP ----------------------------------------------------------------------------------------------------------


def norms(model, tokenizer, **options) -> activations.ActivationStats:
    return activations.collect(model, tokenizer, CORPUS, Calibration(pooling="norm", **options), progress=False)


@torch.no_grad()
def slow_norms(model, tokenizer, skip: int = 0) -> list[list[float]]:
    """Mean over texts of each channel's L2 norm over the text's tokens, per layer."""
    out = []
    for layer in models.decoder_layers(model):
        seen = []
        handle = layer.mlp.down_proj.register_forward_pre_hook(lambda _, args, to=seen: to.append(args[0][0]))
        for text in TEXTS:
            model(torch.tensor([tokenizer(text)["input_ids"]]))
        handle.remove()
        rows = [[math.sqrt(math.fsum(v * v for v in c)) for c in x[skip:].T.tolist()] for x in seen]
        out.append([math.fsum(column) / len(rows) for column in zip(*rows, strict=True)])
    return out


@pytest.mark.parametrize("batch_tokens", [8192, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_channel_norms_equal_the_slow_ones(tiny_model, tiny_tokenizer, kind, batch_tokens):
    model = tiny_model(kind)
    for bos in (True, False):
        stats = norms(model, tiny_tokenizer, batch_tokens=batch_tokens, bos=bos)
        expected = torch.tensor(slow_norms(model, tiny_tokenizer, skip=0 if bos else 1)).double()
        torch.testing.assert_close(stats.mean["mlp"], expected, rtol=1e-5, atol=1e-6)
        assert stats.count == len(TEXTS)


def test_norms_are_not_scores(tiny_model, tiny_tokenizer):
    from seaplib.pruning.scores import score

    model = tiny_model()
    with pytest.raises(ValueError, match="have no score"):
        score(norms(model, tiny_tokenizer))
    with pytest.raises(ValueError, match="pooling='norm'"):
        two_ssp.first_stage(activations.collect(model, tiny_tokenizer, CORPUS, progress=False), 0.3)


def test_the_balance_between_the_stages_by_hand():
    """Llama-2-7B: |MLP| = 3·4096·11008, |attention| = 4·4096², so the exponent is 2.0156/1.5."""
    llama = models.Geometry(32, 4096, 32, 32, 128, 11008, model_parameters=6_738_415_616)
    exponent = 3 * 11008 / (4 * 4096) / 1.5
    for sparsity, expected in ((0.25, 32 * 0.25**exponent), (0.5, 32 * 0.5**exponent)):
        assert two_ssp.attention_modules(llama, sparsity) == round(expected)
    assert [two_ssp.attention_modules(llama, s) for s in (0.0, 0.25, 0.375, 0.5)] == [0, 5, 9, 13]
    with pytest.raises(ValueError, match="alpha must be positive"):
        two_ssp.attention_modules(llama, 0.5, alpha=0)


@torch.no_grad()
def slow_second_stage(model, first, count, texts) -> list[int]:
    """Perplexity of a model that is pruned anew for every candidate, with Hugging Face's own loss."""
    gone = []
    for _ in range(count):
        best, lowest = None, math.inf
        for candidate in range(first.geometry.layers):
            if candidate in gone:
                continue
            heads = first.heads.clone()
            heads[[*gone, candidate]] = False
            pruned = prune(model, replace(first, heads=heads, bypass=True))
            nll = sum(float(pruned(ids, labels=ids).loss) * (ids.shape[1] - 1) for ids in texts)
            if nll < lowest:
                best, lowest = candidate, nll
        gone.append(best)
    return gone


@pytest.mark.parametrize("kind", KINDS)
def test_two_stages_equal_the_slow_ones(tiny_model, tiny_tokenizer, kind):
    model = tiny_model(kind, num_hidden_layers=5)
    before = models.fingerprint(model)
    g, stats = models.geometry(model), norms(model, tiny_tokenizer)
    count = two_ssp.attention_modules(g, 0.5)
    mask = two_ssp.two_stage(model, tiny_tokenizer, stats, CORPUS, 0.5, progress=False)
    assert count >= 2 and not mask.heads[mask.provenance["attention_removed"]].any()
    # the first stage: an equal share of every MLP makes up what attention leaves
    rest = 0.5 * g.projection_parameters - count * g.attention_parameters
    gone = round(rest / g.layers / g.channel_parameters)
    for row, kept in zip(slow_norms(model, tiny_tokenizer), mask.channels.tolist(), strict=True):
        assert kept == reference.keep(row, gone)
    texts = [torch.tensor([ids]) for ids in tiny_tokenizer(list(TEXTS))["input_ids"]]
    first = two_ssp.first_stage(stats, 0.5)
    assert slow_second_stage(model, first, count, texts) == mask.provenance["attention_removed"]
    assert mask.heads.all(1).sum() == g.layers - count
    frugal = two_ssp.two_stage(model, tiny_tokenizer, stats, CORPUS, 0.5, mode="mask", progress=False)
    assert frugal.fingerprint == mask.fingerprint, "no weight copied, the same mask"
    half_a_channel = 0.5 * g.layers * g.channel_parameters / g.projection_parameters
    assert mask.achieved == pytest.approx(0.5, abs=half_a_channel + 1e-9) and mask.requested == 0.5
    assert models.fingerprint(model) == before and not layers.emptied(models.decoder_layers(model)[0])


@pytest.mark.parametrize("case", ["gpt2", "opt", "gpt_neox", "phi3", "gemma2", "opt_post_norm"])
def test_two_stages_on_other_architectures(any_model, tiny_tokenizer, ids, case):
    model = any_model(case)
    stats = norms(model, tiny_tokenizer)
    mask = two_ssp.two_stage(model, tiny_tokenizer, stats, CORPUS, 0.5, progress=False)
    assert mask.provenance["attention_removed"] and mask.bypass
    with torch.no_grad():
        outputs = [prune(model, mask, mode)(ids).logits for mode in ("remove", "zero", "mask")]
    for out in outputs[1:]:
        torch.testing.assert_close(out, outputs[0], rtol=0, atol=1e-5)


def test_the_second_stage_reads_no_more_than_its_tokens(tiny_model, tiny_tokenizer, monkeypatch):
    model, seen = tiny_model(num_hidden_layers=3), []
    real = two_ssp.second_stage
    monkeypatch.setattr(two_ssp, "second_stage", lambda *args: seen.append(args[3]) or real(*args))
    two_ssp.two_stage(model, tiny_tokenizer, norms(model, tiny_tokenizer), CORPUS, 0.5, tokens=12, progress=False)
    whole = tiny_tokenizer(list(TEXTS))["input_ids"]
    flat = [i for ids in seen[0] for i in ids]
    assert len(flat) == 12 and seen[0][0] == whole[0][: len(seen[0][0])]


def test_what_two_stages_cannot_reach_is_refused(tiny_model, tiny_tokenizer):
    stats = norms(tiny_model(), tiny_tokenizer)
    for sparsity, alpha in ((0.99, 0.01), (0.2, 1000.0)):
        with pytest.raises(ValueError, match="2SSP cannot reach"):
            two_ssp.first_stage(stats, sparsity, alpha)


# ---- rows ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(monkeypatch, tiny_model, tiny_tokenizer):
    """A model, and corpora drawn from texts of the test's own."""

    def corpus(name, samples=None, seed=0):
        texts = TEXTS if name == "mine" else TEXTS[::-1]
        return corpora.Corpus(name, texts[:samples], tuple("0123")[:samples], {})

    monkeypatch.setattr(corpora, "corpus", corpus)
    return tiny_model("gqa", num_hidden_layers=4), tiny_tokenizer


def test_rows_are_labelled_like_all_others(world):
    made = methods.depth_variants(*world, [0.3, 0.5], "mine", Calibration(samples=3, seed=7))
    assert [(v.label["method"], v.label["requested_sparsity"]) for v in made] == [
        ("ShortGPT", 0.3), ("ShortGPT", 0.5), ("2SSP", 0.3), ("2SSP", 0.5),
    ]  # fmt: skip
    assert set(methods.FLAP.label(0)) <= set(made[0].label)
    assert {v.label["calibration_seed"] for v in made} == {7} and {v.label["calibration"] for v in made} == {"general"}
    assert [v.label["achieved_sparsity"] for v in made[:2]] == [0.25, 0.5]
    again = methods.depth_variants(*world, [0.3, 0.5], "mine", Calibration(samples=3, seed=7))
    assert [v.fingerprint for v in again] == [v.fingerprint for v in made]


def test_store_keys_follow_the_inputs(world, tiny_model, monkeypatch):
    keys = []
    real = store.fetch
    monkeypatch.setattr(
        store, "fetch", lambda kind, spec, *rest: keys.append((kind, store.key(spec))) or real(kind, spec, *rest)
    )
    model, tokenizer = world
    calls = [
        (model, "mine", Calibration(samples=3), 0.5),
        (model, "other", Calibration(samples=3), 0.5),
        (model, "mine", Calibration(samples=2), 0.5),
        (model, "mine", Calibration(samples=3, bos=False), 0.5),
        (tiny_model("gqa", seed=1, num_hidden_layers=4), "mine", Calibration(samples=3), 0.5),
    ]
    for which, text, calibration, sparsity in calls:
        methods.depth_variants(which, tokenizer, [sparsity], text, calibration)
    for kind in ("influence", "masks", "stats"):
        mine = [key for one, key in keys if one == kind]
        assert len(mine) == len(set(mine)) == len(calls), kind
    methods.depth_variants(model, tokenizer, [0.3], "mine", Calibration(samples=3))
    assert len({key for kind, key in keys if kind == "influence"}) == len(calls), "one pass serves every sparsity"
    assert len({key for kind, key in keys if kind == "masks"}) == len(calls) + 1
