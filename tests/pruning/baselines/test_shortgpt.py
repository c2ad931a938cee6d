"""ShortGPT: against loops, and against models from which the layers were really deleted."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from conftest import ARCHITECTURE_CASES
from pruned import CORPUS, TEXTS

from seaplib import models
from seaplib.models import layers
from seaplib.pruning import masks
from seaplib.pruning.apply import prune
from seaplib.pruning.baselines import shortgpt
from seaplib.settings import Calibration
from seaplib.texts import corpora

pytestmark = pytest.mark.unit
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
        with pytest.raises(ValueError, match="sparsity"):
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
