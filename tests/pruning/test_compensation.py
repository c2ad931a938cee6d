"""Least-squares compensation: covariances against torch.cov, the refit against lstsq, on every architecture."""

from dataclasses import replace

import pytest
import torch
from conftest import ARCHITECTURE_CASES, SENTENCES
from pruned import assert_same_function, logits, random_mask

from seaplib import activations, models
from seaplib.activations import capture, covariances
from seaplib.activations.covariances import Covariances, WeightedCovariances
from seaplib.models import layers
from seaplib.pruning import checkpoints, compensation, masks
from seaplib.pruning.apply import Variant, prune
from seaplib.settings import Calibration
from seaplib.texts import corpora

pytestmark = pytest.mark.unit

TEXTS = corpora.Corpus("mine", tuple(SENTENCES), tuple(map(str, range(len(SENTENCES)))), {})
OTHER = corpora.Corpus("other", tuple(SENTENCES[:3]), ("0", "1", "2"), {})
MODES = ("remove", "zero", "mask")


@pytest.fixture
def ids():
    return torch.randint(3, 250, (2, 11), generator=torch.Generator().manual_seed(0))


def unit_inputs(model, tokenizer, corpus) -> dict:
    """(layer, module) → what the output projection reads, [tokens, dim] in double precision, text by text."""
    seen = {}
    handles = []
    for index, layer in enumerate(models.decoder_layers(model)):
        for module, role in capture.UNITS.items():

            def note(_, args, key=(index, module)):
                seen.setdefault(key, []).append(args[0].detach().flatten(0, -2).double())

            handles.append(models.linear(layer, role).register_forward_pre_hook(note))
    with torch.no_grad():
        for one in tokenizer(list(corpus.texts))["input_ids"]:
            model(torch.tensor([one]))
    for handle in handles:
        handle.remove()
    return {key: torch.cat(parts) for key, parts in seen.items()}


def collected(model, tokenizer, corpus=TEXTS, **options) -> Covariances:
    return covariances.collect(model, tokenizer, corpus, progress=False, **options)


@pytest.mark.parametrize("case", ["llama", "opt", "gpt2", "phi3"])
def test_covariances_equal_torchs(any_model, tiny_tokenizer, case):
    model = any_model(case)
    found, inputs = collected(model, tiny_tokenizer), unit_inputs(model, tiny_tokenizer, TEXTS)
    for (layer, module), x in inputs.items():
        mean, covariance = found.at(module, layer)
        assert found.count == len(x)
        torch.testing.assert_close(mean, x.mean(0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(covariance, torch.cov(x.T, correction=0), rtol=1e-4, atol=1e-5)


def test_covariances_do_not_depend_on_batches_or_passes(tiny_model, tiny_tokenizer, monkeypatch):
    model = tiny_model("gqa", num_hidden_layers=3)
    whole = collected(model, tiny_tokenizer)
    one_by_one = collected(model, tiny_tokenizer, calibration=Calibration(batch_tokens=1))
    monkeypatch.setattr(covariances, "MATRIX_BYTES", 1)  # a module a pass
    in_passes = collected(model, tiny_tokenizer)
    assert in_passes.fingerprint == whole.fingerprint
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(one_by_one.tensors[name], tensor, rtol=1e-5, atol=1e-6)


def test_the_variances_are_the_statistics(tiny_model, tiny_tokenizer):
    model = tiny_model("gqa")
    stats = activations.collect(model, tiny_tokenizer, TEXTS, progress=False)
    found = collected(model, tiny_tokenizer)
    for module in capture.UNITS:
        for layer in range(2):
            mean, covariance = found.at(module, layer)
            torch.testing.assert_close(mean, stats.mean[module][layer], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(covariance.diagonal(), stats.var[module][layer], rtol=1e-4, atol=1e-6)


def test_covariances_save_and_load_and_are_read_when_asked_for(tiny_model, tiny_tokenizer, tmp_path):
    found = collected(tiny_model("gqa"), tiny_tokenizer)
    found.save(tmp_path)
    loaded = Covariances.load(tmp_path)
    assert (loaded.fingerprint, loaded.count, loaded.geometry) == (found.fingerprint, found.count, found.geometry)
    assert set(loaded.tensors) == set(found.tensors) and len(loaded.tensors) == 2 * 2 * 2
    for a, b in zip(loaded.at("mlp", 1), found.at("mlp", 1), strict=True):
        assert torch.equal(a, b)
    assert "mine" in repr(loaded) and f"{found.count:,} tokens" in repr(loaded)


def test_tasks_covariances_come_from_the_store(tiny_model, tiny_tokenizer, tiny_data_dir, monkeypatch):
    model = tiny_model("gqa")
    first = covariances.calibrate(model, tiny_tokenizer, ["piqa"], Calibration(samples=4))
    monkeypatch.setattr(covariances, "watch", None)  # a second collection would call it
    again = covariances.calibrate(model, tiny_tokenizer, ["piqa"], Calibration(samples=4))
    assert first["piqa"].fingerprint == again["piqa"].fingerprint
    with pytest.raises(TypeError, match="tasks"):
        covariances.calibrate(model, tiny_tokenizer, "piqa")


def test_weighted_covariances_are_those_of_the_weighted_mixture(tiny_model, tiny_tokenizer):
    model = tiny_model()
    parts = {"a": collected(model, tiny_tokenizer, TEXTS), "b": collected(model, tiny_tokenizer, OTHER)}
    inputs = {"a": unit_inputs(model, tiny_tokenizer, TEXTS), "b": unit_inputs(model, tiny_tokenizer, OTHER)}
    mean, covariance = WeightedCovariances(parts, {"a": 3.0, "b": 2.0}).at("mlp", 1)
    x = torch.cat([inputs["a"][1, "mlp"], inputs["b"][1, "mlp"]])
    weight = torch.cat([torch.full((len(i[1, "mlp"]),), w / len(i[1, "mlp"])) for i, w in
                        ((inputs["a"], 0.6), (inputs["b"], 0.4))]).double()  # fmt: skip
    expected = weight @ x
    torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-5)
    centred = x - expected
    torch.testing.assert_close(covariance, centred.T @ (weight[:, None] * centred), rtol=1e-4, atol=1e-5)
    same = WeightedCovariances(parts, {"a": 3.0, "b": 2.0}).fingerprint
    assert same == WeightedCovariances(parts, {"b": 2.0, "a": 3.0}).fingerprint
    assert same != WeightedCovariances(parts, {"a": 2.0, "b": 2.0}).fingerprint
    with pytest.raises(ValueError, match="tasks"):
        WeightedCovariances(parts, {"a": 1.0})


def ridged(x, weight, bias, removed):
    """W' and b' by torch.linalg.lstsq: the tokens' equations, and one for every coordinate that the ridge holds."""
    kept, n = ~removed, len(x)
    target = x @ weight.T + (0 if bias is None else bias)
    variance = x[:, kept].var(0, correction=0)  # of a ReLU's dead units it is 0: their columns stay as they are
    scale = (n * (compensation.RIDGE * variance + 1e-8 * variance.mean())).sqrt()
    left = torch.cat([x[:, kept], torch.ones(n, 1, dtype=x.dtype)], dim=1)
    left = torch.cat([left, torch.cat([torch.diag(scale), torch.zeros(len(scale), 1, dtype=x.dtype)], dim=1)])
    right = torch.cat([target, scale[:, None] * weight[:, kept].T])
    solution = torch.linalg.lstsq(left, right, rcond=1e-15, driver="gelsd").solution
    return solution[:-1].T, solution[-1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", ARCHITECTURE_CASES)
def test_output_projections_are_refitted_as_by_lstsq(any_model, tiny_tokenizer, case, mode):
    model = any_model(case)
    mask, found = random_mask(model), collected(model, tiny_tokenizer)
    inputs, pruned = unit_inputs(model, tiny_tokenizer, TEXTS), prune(model, mask, mode, found)
    size = mask.geometry.head_dim
    for index in range(mask.geometry.layers):
        kept = {"attention": mask.heads[index].repeat_interleave(size), "mlp": mask.channels[index]}
        for module, role in capture.UNITS.items():
            dense, new = (models.linear(models.decoder_layers(m)[index], role) for m in (model, pruned))
            bias = None if dense.bias is None else dense.bias.detach().double()
            weight, bias = ridged(inputs[index, module], layers.matrix(dense).detach().double(), bias, ~kept[module])
            own = layers.matrix(new).double()
            if mode != "remove":
                assert bool((own[:, ~kept[module]] == 0).all())
                own = own[:, kept[module]]
            torch.testing.assert_close(own, weight, rtol=1e-3, atol=2e-4)
            torch.testing.assert_close(new.bias.double(), bias, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("case", ARCHITECTURE_CASES)
def test_removal_equals_zeroing_equals_masking(any_model, tiny_tokenizer, ids, case):
    """In one pass and step by step, eager and sdpa; the model itself stays as it is."""
    model = any_model(case)
    before, mask, found = models.fingerprint(model), random_mask(model), collected(model, tiny_tokenizer)
    removed, zeroed, masked = (prune(model, mask, mode, found) for mode in MODES)
    assert float((logits(removed, ids) - logits(prune(model, mask), ids)).abs().max()) > 1e-3
    how = {"caches": ("dynamic",), "implementations": ("eager",) if case == "gemma2" else ("eager", "sdpa")}
    assert_same_function(removed, zeroed, ids, **how)
    assert_same_function(masked, zeroed, ids, **how)
    assert models.fingerprint(model) == before


def test_the_error_is_least(tiny_model, tiny_tokenizer):
    """On its own calibration text: below that of the mean's bias, which is below that of nothing; by mean square."""
    model = tiny_model("gqa", num_hidden_layers=1)
    stats = activations.collect(model, tiny_tokenizer, TEXTS, progress=False)
    inputs, mask = unit_inputs(model, tiny_tokenizer, TEXTS), random_mask(model)
    layer, errors = models.decoder_layers(model)[0], {}
    for name, what in {"none": None, "mean": stats.mean, "least": collected(model, tiny_tokenizer)}.items():
        pruned = models.decoder_layers(prune(model, mask, "zero", what))[0]
        for module, role in capture.UNITS.items():
            x = inputs[0, module].float()
            difference = models.linear(pruned, role)(x) - models.linear(layer, role)(x)
            errors[name, module] = float(difference.detach().square().sum(-1).mean())
    for module in capture.UNITS:
        assert errors["least", module] < errors["mean", module] <= errors["none", module] * (1 + 1e-6)


def test_units_that_never_vary_teach_nothing():
    """A constant unit and a dead one keep their columns; a copy's column carries that of the unit it repeats."""
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 1], x[:, 2], x[:, 4] = 3.0, 0.0, x[:, 0]
    weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    removed = torch.tensor([False, False, False, False, True])
    new = compensation.refit(weight, torch.cov(x.T, correction=0), removed, ridge=1e-9)
    torch.testing.assert_close(new[:, 0], weight[:, 0] + weight[:, 4], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(new[:, 1:3], weight[:, 1:3])
    nothing = compensation.refit(weight, torch.zeros(5, 5, dtype=torch.float64), removed)
    torch.testing.assert_close(nothing, weight[:, ~removed])


@pytest.mark.parametrize("bypass", [False, True])
def test_emptied_modules(tiny_model, tiny_tokenizer, ids, bypass):
    model = tiny_model("gqa", attention_bias=True)
    mask, found = replace(random_mask(model), bypass=bypass), collected(model, tiny_tokenizer)
    mask.heads[0], mask.channels[1] = False, False
    removed, zeroed, masked = (prune(model, mask, mode, found) for mode in MODES)
    assert_same_function(removed, zeroed, ids, caches=("dynamic",))
    assert_same_function(masked, zeroed, ids, caches=("dynamic",))
    mean, _ = found.at("mlp", 1)
    down = models.linear(models.decoder_layers(model)[1], "down")
    bias = layers.mlp(models.decoder_layers(removed)[1]).bias
    if bypass:
        assert bias is None
    else:
        torch.testing.assert_close(bias, (down.weight.detach().double() @ mean).float(), rtol=1e-5, atol=1e-6)


def test_a_mask_that_keeps_all_is_the_identity(tiny_model, tiny_tokenizer, ids):
    model = tiny_model("gqa")
    whole = masks.keep_all(models.geometry(model))
    for mode in MODES:
        pruned = prune(model, whole, mode, collected(model, tiny_tokenizer))
        assert torch.equal(logits(pruned, ids), logits(model, ids))


@pytest.mark.parametrize("mode", ["remove", "zero"])
@pytest.mark.parametrize("case", ["llama", "gpt2", "opt"])
def test_saved_models_carry_their_new_weights(any_model, tiny_tokenizer, ids, tmp_path, case, mode):
    model = any_model(case)
    pruned = prune(model, random_mask(model), mode, collected(model, tiny_tokenizer))
    path = checkpoints.save_pretrained(pruned, tiny_tokenizer, tmp_path / "saved")
    loaded, _ = models.load(path, device="cpu")
    state, expected = loaded.state_dict(), pruned.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[name], t) for name, t in expected.items())
    assert torch.equal(logits(loaded, ids), logits(pruned, ids))


def test_half_precision(tiny_model, tiny_tokenizer, ids):
    model = tiny_model("gqa").to(torch.bfloat16)
    removed, zeroed = (prune(model, random_mask(model), mode, collected(model, tiny_tokenizer)) for mode in MODES[:2])
    assert {p.dtype for p in removed.parameters()} == {torch.bfloat16}
    a, b = logits(removed, ids).float(), logits(zeroed, ids).float()
    assert torch.isfinite(a).all() and (a - b).norm() / b.norm() < 0.05


def test_a_variants_fingerprint_follows_the_covariances(tiny_model, tiny_tokenizer):
    model = tiny_model("gqa")
    mask, stats = random_mask(model), activations.collect(model, tiny_tokenizer, TEXTS, progress=False)
    a, b = collected(model, tiny_tokenizer), collected(model, tiny_tokenizer, OTHER)
    both = WeightedCovariances({"mine": a, "other": b}, {"mine": 3, "other": 2})
    kinds = [None, stats.mean, a, b, both]
    assert len({Variant({}, mask, compensation=kind).fingerprint for kind in kinds}) == len(kinds)
    assert Variant({}, mask, compensation=a).fingerprint == Variant({}, mask, compensation=replace(a)).fingerprint
