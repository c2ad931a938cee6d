"""Every supported architecture: shapes, statistics, the three ways to prune, checkpoints."""

import itertools
from dataclasses import replace

import pytest
import reference
import torch
from conftest import ARCHITECTURE_CASES
from pruned import NEW_TOKENS, assert_same_function, greedy, in_a_fresh_process, logits, random_mask, random_means
from transformers import AutoModelForCausalLM

from seaplib import activations, models
from seaplib.evaluation import speed
from seaplib.models import layers, likelihood, passes
from seaplib.pruning import checkpoints, masks
from seaplib.pruning.apply import prune
from seaplib.pruning.baselines import wanda
from seaplib.settings import Calibration
from seaplib.texts import corpora

pytestmark = pytest.mark.unit

TEXTS = ("the otter in the river", "A kettle is used to boil water before the tea is made.", "= The old harbour =")
#: modules that read the units, written out once more: attention output and MLP output of layer 1
OUTPUTS = {
    "phi3": ("model.layers.1.self_attn.o_proj", "model.layers.1.mlp.down_proj"),
    "opt": ("model.decoder.layers.1.self_attn.out_proj", "model.decoder.layers.1.fc2"),
    "gpt_neox": ("gpt_neox.layers.1.attention.dense", "gpt_neox.layers.1.mlp.dense_4h_to_h"),
    "gpt2": ("transformer.h.1.attn.c_proj", "transformer.h.1.mlp.c_proj"),
}


@pytest.fixture
def ids():
    return torch.randint(3, 250, (2, 11), generator=torch.Generator().manual_seed(0))


def implementations(case: str) -> tuple[str, ...]:
    return ("eager",) if case == "gemma2" else ("eager", "sdpa")  # transformers has no sdpa for Gemma 2's softcapping


def query_mask(model) -> masks.PruningMask:
    """Query heads of every KV group where there are groups, whole heads otherwise."""
    return random_mask(model, "query" if models.geometry(model).queries_per_group > 1 else "group")


def test_every_architecture_has_a_case(any_model):
    assert {any_model(case).config.model_type for case in ARCHITECTURE_CASES} == set(models.ARCHITECTURES)


@pytest.mark.parametrize("case", ARCHITECTURE_CASES)
def test_geometry_counts_the_parameters_that_can_go(any_model, case):
    model = any_model(case)
    g = models.geometry(model)
    inside = [f"{name}." for name, module in model.named_modules() if module in set(models.decoder_layers(model))]
    counted = 0
    for name, parameter in model.named_parameters():
        within = any(name.startswith(prefix) for prefix in inside)
        output_bias = name.endswith(("o_proj.bias", "down_proj.bias", "out_proj.bias", "fc2.bias", "attn.c_proj.bias"))
        output_bias |= name.endswith(("mlp.c_proj.bias", "dense.bias", "dense_4h_to_h.bias"))
        if within and "norm" not in name and "ln_" not in name and not output_bias:
            counted += parameter.numel()
    assert g.projection_parameters == counted == models.projection_parameters(model)
    assert (g.heads, g.hidden, g.layers) == (4, 32, 2)
    assert g.channels == (128 if case == "gpt2_scaled" else 48)
    mask = random_mask(model)
    pruned = prune(model, mask)
    assert models.projection_parameters(pruned) == g.projection_parameters - mask.removed_parameters
    assert sum(p.numel() for p in pruned.parameters()) == g.model_parameters - mask.removed_parameters


@pytest.mark.parametrize("pooling", ["token", "prompt"])
@pytest.mark.parametrize("case", ARCHITECTURE_CASES)
def test_statistics_equal_the_slow_ones(any_model, tiny_tokenizer, case, pooling):
    model = any_model(case)
    corpus = corpora.Corpus("mine", TEXTS, ("0", "1", "2"), {})
    stats = activations.collect(model, tiny_tokenizer, corpus, Calibration(pooling=pooling), progress=False)
    default = ("model.layers.1.self_attn.o_proj", "model.layers.1.mlp.down_proj")
    kind = model.config.model_type
    for module, path in zip(("attention", "mlp"), OUTPUTS.get(kind, default), strict=True):
        projection, samples = model.get_submodule(path), []
        handle = projection.register_forward_pre_hook(lambda _, args, to=samples: to.append(args[0].flatten(0, -2)))
        with torch.no_grad():
            for text in TEXTS:
                model(torch.tensor([tiny_tokenizer(text)["input_ids"]]))
        handle.remove()
        rows = [one.mean(0).tolist() for one in samples] if pooling == "prompt" else torch.cat(samples).tolist()
        expected = reference.statistics(rows)
        for got, want in zip((stats.mean, stats.var, stats.second_moment), expected, strict=True):
            torch.testing.assert_close(got[module][1], torch.tensor(want).double(), rtol=1e-4, atol=1e-6)
        weight = projection.weight.detach()
        l1, l2sq = reference.column_norms((weight.T if kind == "gpt2" else weight).tolist())
        torch.testing.assert_close(stats.weight_l1[module][1], torch.tensor(l1).double(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(stats.weight_l2sq[module][1], torch.tensor(l2sq).double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("compensate", [False, True], ids=["plain", "compensated"])
@pytest.mark.parametrize("case", ARCHITECTURE_CASES)
def test_removal_equals_zeroing_equals_masking(any_model, ids, case, compensate):
    model = any_model(case)
    mask = query_mask(model) if compensate else random_mask(model)
    means = random_means(model) if compensate else None
    removed, zeroed, masked = (prune(model, mask, mode, means) for mode in ("remove", "zero", "mask"))
    assert float((logits(removed, ids) - logits(model, ids)).abs().max()) > 1e-2, "pruning changes something"
    assert_same_function(removed, zeroed, ids, implementations=implementations(case))
    assert_same_function(masked, zeroed, ids, caches=("dynamic",), implementations=implementations(case))


@pytest.mark.parametrize("case", ARCHITECTURE_CASES)
def test_emptied_attention_and_mlp(any_model, ids, case, recwarn):
    model = any_model(case)
    mask = random_mask(model)
    mask.heads[0] = False
    mask.channels[1] = False
    means = random_means(model)
    removed, zeroed = prune(model, mask, "remove", means), prune(model, mask, "zero", means)
    first, second = models.decoder_layers(removed)
    assert set(layers.emptied(first)) == {"attention"} and set(layers.emptied(second)) == {"mlp"}
    assert not [w for w in recwarn if "zero-element" in str(w.message)]
    assert_same_function(removed, zeroed, ids, implementations=implementations(case))


@pytest.mark.parametrize("bypass", [False, True])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("case", ARCHITECTURE_CASES)
def test_a_layer_without_both_modules(any_model, ids, case, layer, bypass):
    """Removed, zeroed and masked it is the same function, in one pass and on a KV cache."""
    model = any_model(case)
    mask = replace(random_mask(model), bypass=bypass)
    mask.heads[layer], mask.channels[layer] = False, False
    removed, zeroed, masked = (prune(model, mask, mode) for mode in ("remove", "zero", "mask"))
    assert set(layers.emptied(models.decoder_layers(removed)[layer])) == {"attention", "mlp"}
    gone = mask.removed_parameters
    assert models.projection_parameters(removed) == models.geometry(model).projection_parameters - gone
    assert_same_function(removed, zeroed, ids, implementations=implementations(case))
    assert_same_function(masked, zeroed, ids, caches=("dynamic",), implementations=implementations(case))


@pytest.mark.parametrize("case", ARCHITECTURE_CASES)
def test_a_changed_attention_implementation_stays_causal(any_model, ids, case):
    """Later tokens change nothing before them, also where a layer has a configuration of its own."""
    for before, after in itertools.product(implementations(case), repeat=2):
        model = any_model(case)
        model.set_attn_implementation(before)
        pruned = prune(model, random_mask(model))
        pruned.set_attn_implementation(after)
        whole, beginning = logits(pruned, ids), logits(pruned, ids[:, :7])
        torch.testing.assert_close(whole[:, :7], beginning, rtol=0, atol=1e-5, msg=f"{before}, then {after}")


@pytest.mark.parametrize("case", ARCHITECTURE_CASES)
def test_options_packed_into_one_row_score_as_they_do_alone(any_model, case):
    model = any_model(case)
    items = [[([1, 7, 8, 9, 10, 11], [20, 21]), ([1, 7, 8, 9, 10, 11], [30]), ([1, 7, 8, 9, 10, 11], [40, 41, 42])]]
    window = getattr(model.config, "sliding_window", None)
    packed, alone = (likelihood.plan(items, 256, 1024, share, window) for share in (True, False))
    assert (packed[0].branches is None) == (window is not None), "a sliding window keeps rows apart"
    for a, b in zip(likelihood.score(model, packed), likelihood.score(model, alone), strict=True):
        assert abs(a.astype(float) - b.astype(float)).max() < 1e-4
    for (context, continuation), total in zip(items[0], likelihood.score(model, alone)[0], strict=True):
        whole = logits(model, torch.tensor([context + continuation]))[0].log_softmax(-1)
        expected = sum(whole[len(context) + i - 1, token] for i, token in enumerate(continuation))
        assert abs(float(expected) - total) < 1e-4, "the LM head is applied as the model does"


@pytest.mark.parametrize("case", ARCHITECTURE_CASES)
def test_the_residual_stream_and_the_decoding_loop(any_model, ids, case):
    model = any_model(case)
    seen = {}
    with passes.residual_stream(model, seen.__setitem__), torch.no_grad():
        expected = models.decoder(model)(ids, output_hidden_states=True).hidden_states
    assert sorted(seen) == [0, 1, 2]
    for layer in (0, 1):
        torch.testing.assert_close(seen[layer], expected[layer])
    pruned = prune(model, random_mask(model))
    for cache in speed.CACHES:
        tokens = greedy(pruned, ids[:1], None)[0][0, ids.shape[1] :].tolist()
        assert speed.generate(pruned, ids[:1], NEW_TOKENS - 1, cache).tokens == tokens, cache


@pytest.mark.parametrize("case", ARCHITECTURE_CASES)
def test_wanda_prunes_fused_and_transposed_projections_by_output(any_model, tiny_tokenizer, case):
    model = any_model(case)
    pruned = wanda.wanda(model, tiny_tokenizer, corpora.Corpus("mine", TEXTS, "012", {}), 0.5, progress=False)
    for layer in models.decoder_layers(pruned):
        for roles in layers.projections(layer):
            zeros = (layers.matrix(models.linear(layer, roles[0])) == 0).sum(1)
            assert set(zeros.tolist()) == {layers.shape(models.linear(layer, roles[0]))[1] // 2}


@pytest.fixture
def saved(any_model, tiny_tokenizer, tmp_path):
    """Per architecture pruned models in directories of their own, with weights and logits beside them."""
    from safetensors.torch import save_file

    ids = torch.arange(3, 20).reshape(1, -1)
    originals = {}
    for case in models.ARCHITECTURES:
        model = any_model(case)
        mask = query_mask(model)
        empty = random_mask(model)
        empty.heads[0], empty.channels[1] = False, False
        model.save_pretrained(tmp_path / "dense" / case)  # loaded in half precision: .to() would cut more than weights
        half = {
            name: AutoModelForCausalLM.from_pretrained(tmp_path / "dense" / case, dtype=getattr(torch, name)).eval()
            for name in ("bfloat16", "float16")
        }
        dropped = replace(random_mask(model), bypass=True)
        dropped.heads[1], dropped.channels[1] = False, False
        for name, pruned in {
            "removed": prune(model, mask),
            "compensated": prune(model, mask, "zero", random_means(model)),
            "emptied": prune(model, empty, "remove", random_means(model)),
            **{name: prune(one, mask, "remove", random_means(model)) for name, one in half.items()},
            "dropped": prune(model, dropped),
        }.items():
            path = checkpoints.save_pretrained(pruned, tiny_tokenizer, tmp_path / "saved" / f"{case}-{name}")
            (path / "expected").mkdir()
            state = {key: tensor.clone() for key, tensor in pruned.state_dict().items()}
            state |= {"ids": ids, "logits": logits(pruned, ids).contiguous()}
            save_file(state, path / "expected" / "expected.safetensors")
            originals[path.name] = (type(model), pruned)
    return tmp_path / "saved", originals


@pytest.mark.slow
def test_checkpoints_load_bit_for_bit_in_a_fresh_process_and_never_as_something_else(saved, tiny_tokenizer, ids):
    directory, originals = saved
    without, found = in_a_fresh_process(directory)
    tokens = tiny_tokenizer("the otter")["input_ids"]
    # a zeroed model whose projections all have biases anyway is an ordinary checkpoint
    ordinary = {"gpt2-compensated", "gpt_neox-compensated", "opt-compensated", "llama-compensated"}
    assert found == {name: ["loaded", True, tokens] for name in originals}
    for name, (stock, pruned) in originals.items():
        if name in ordinary:
            assert without[name] == ["loaded", True, tokens], name
            continue
        assert without[name][0] == "refused" and "import_seaplib_to_load" in without[name][2], (name, without[name])
        with pytest.raises(Exception, match="import seaplib"):
            stock.from_pretrained(directory / name)
        if name.endswith(("removed", "dropped")):  # saved again, and its generation with the cache
            loaded = AutoModelForCausalLM.from_pretrained(directory / name)
            again = checkpoints.save_pretrained(loaded, tiny_tokenizer, directory.parent / "again" / name)
            assert (again / "model.safetensors").read_bytes() == (directory / name / "model.safetensors").read_bytes()
            assert (again / "config.json").read_text() == (directory / name / "config.json").read_text()
            assert torch.equal(greedy(loaded, ids, "dynamic")[1], greedy(pruned, ids, "dynamic")[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", ARCHITECTURE_CASES)
def test_half_precision(any_model, tiny_tokenizer, ids, tmp_path, case, dtype):
    """Loaded in half precision: statistics near the full ones, pruned models of that type."""
    model = any_model(case)
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    half, _ = models.load(tmp_path / "model", dtype=dtype, device="cpu")
    corpus = corpora.Corpus("mine", TEXTS, ("0", "1", "2"), {})
    full, stats = (activations.collect(m, tiny_tokenizer, corpus, progress=False) for m in (model, half))
    for module in ("attention", "mlp"):
        got, expected = stats.second_moment[module], full.second_moment[module]
        assert (got - expected).norm() / expected.norm() < 0.1
    removed, zeroed = (prune(half, random_mask(half), mode, stats.mean) for mode in ("remove", "zero"))
    assert {p.dtype for p in removed.parameters()} == {dtype}
    a, b = logits(removed, ids).float(), logits(zeroed, ids).float()
    assert torch.isfinite(a).all() and (a - b).norm() / b.norm() < 0.05
