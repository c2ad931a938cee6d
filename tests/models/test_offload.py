"""Models that accelerate keeps partly in main memory or on disk: same numbers, and nothing held twice."""

import gc
import weakref
from dataclasses import replace

import pandas as pd
import pytest
import torch
from pruned import logits, random_mask, random_means

from seaplib import activations, models
from seaplib.input_sparsity import InputSparsity, sparsified, sparsity_plan
from seaplib.input_sparsity import statistics as input_statistics
from seaplib.input_sparsity.errors import output_errors
from seaplib.models import layers, offloading
from seaplib.pruning import checkpoints
from seaplib.pruning.apply import Variant, prune
from seaplib.pruning.baselines import griffin, shortgpt, two_ssp
from seaplib.settings import Calibration
from seaplib.texts import corpora

pytestmark = pytest.mark.unit

CASES = ("llama", "phi3", "opt", "gpt2", "gemma3_text")
TEXTS = ("the otter in the river", "A kettle is used to boil water before the tea is made.")
CORPUS = corpora.Corpus("mine", TEXTS, ("0", "1"), {})
IDS = torch.arange(3, 20).reshape(1, -1)


@pytest.fixture
def directory(any_model, tiny_tokenizer, tmp_path):
    def save(case):
        any_model(case).save_pretrained(tmp_path / case)
        tiny_tokenizer.save_pretrained(tmp_path / case)
        return tmp_path / case

    return save


@pytest.fixture(params=["memory", "disk"])
def offloaded(request, directory, tmp_path):
    """``offloaded(case)``: a saved model whose layers are fetched from main memory or from disk when they run."""

    def load(case):
        path = directory(case)
        if request.param == "memory":
            from accelerate import cpu_offload

            model, tokenizer = models.load(path, device="cpu")
            model = cpu_offload(model, execution_device=torch.device("cpu"))
            model.hf_device_map = {"": "cpu"}  # as where a GPU is the main device
            return model, tokenizer
        plain, _ = models.load(path, device="cpu")
        inner = next(name for name, module in plain.named_modules() if module is models.decoder_layers(plain))
        places = {name: "cpu" for name, module in plain.named_modules() if not list(module.children())}
        places = {name: where for name, where in places.items() if not name.startswith(f"{inner}.")}
        places |= {f"{inner}.0": "cpu", f"{inner}.1": "disk"}
        return models.load(path, device_map=places, offload_folder=tmp_path / "offload")

    return load


@pytest.mark.parametrize("case", CASES)
def test_an_offloaded_model_gives_the_same_numbers(offloaded, directory, case):
    model, tokenizer = offloaded(case)
    plain, _ = models.load(directory(case), device="cpu")
    assert any(p.device.type == "meta" for p in model.parameters()), "something is offloaded"
    assert models.geometry(model) == models.geometry(plain)
    assert models.fingerprint(model) == models.fingerprint(plain)
    assert models.input_device(model) == torch.device("cpu")
    torch.testing.assert_close(logits(model, IDS), logits(plain, IDS), rtol=0, atol=1e-6)
    got, expected = (activations.collect(m, tokenizer, CORPUS, progress=False) for m in (model, plain))
    for name in activations.ActivationStats.TENSORS:
        for module in ("attention", "mlp"):
            torch.testing.assert_close(getattr(got, name)[module], getattr(expected, name)[module])


@pytest.mark.parametrize("mode", ["remove", "zero", "mask"])
@pytest.mark.parametrize("case", CASES)
def test_an_offloaded_model_prunes_and_saves(offloaded, directory, tmp_path, case, mode):
    model, tokenizer = offloaded(case)
    plain, _ = models.load(directory(case), device="cpu")
    mask, means = random_mask(plain), random_means(plain)
    before = logits(model, IDS)
    pruned, expected = (prune(m, mask, mode, means) for m in (model, plain))
    torch.testing.assert_close(logits(pruned, IDS), logits(expected, IDS), rtol=0, atol=1e-5)
    assert torch.equal(logits(model, IDS), before), "the original is as it was"
    if mode == "remove":
        layer = models.decoder_layers(pruned)[1]
        assert models.linear(layer, "down").weight.device.type == "meta", "what was offloaded stays offloaded"
        path = checkpoints.save_pretrained(pruned, tokenizer, tmp_path / "pruned")
        loaded, _ = models.load(path, device="cpu")
        assert models.fingerprint(loaded) == models.fingerprint(models.load(path, device="cpu")[0])
        torch.testing.assert_close(logits(loaded, IDS), logits(expected, IDS), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_layers_and_attention_of_an_offloaded_model_are_dropped(offloaded, directory, tmp_path, case):
    """ShortGPT's and 2SSP's masks are the plain model's, and what they bypass is gone in every mode."""
    model, tokenizer = offloaded(case)
    plain, _ = models.load(directory(case), device="cpu")
    both = [shortgpt.measure_influence(m, tokenizer, CORPUS, progress=False).values for m in (model, plain)]
    torch.testing.assert_close(*both, rtol=0, atol=1e-6)
    found = []
    for m, how in ((model, "mask"), (plain, "remove")):
        stats = activations.collect(m, tokenizer, CORPUS, Calibration(pooling="norm"), progress=False)
        found.append(two_ssp.two_stage(m, tokenizer, stats, CORPUS, 0.5, mode=how, progress=False))
    assert found[0].fingerprint == found[1].fingerprint
    mask = replace(found[1], heads=found[1].heads.clone(), channels=found[1].channels.clone())
    mask.heads[1], mask.channels[1] = False, False
    expected = logits(prune(plain, mask), IDS)
    for mode in ("remove", "zero", "mask"):
        torch.testing.assert_close(logits(prune(model, mask, mode), IDS), expected, rtol=0, atol=1e-5, msg=mode)
    path = checkpoints.save_pretrained(prune(model, mask), tokenizer, tmp_path / "pruned")
    torch.testing.assert_close(logits(models.load(path, device="cpu")[0], IDS), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_griffin_on_an_offloaded_model(offloaded, directory, case):
    model, _ = offloaded(case)
    plain, _ = models.load(directory(case), device="cpu")
    options = {"attention_mask": torch.ones_like(IDS), "max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    written = []
    for m in (model, plain):
        with griffin.griffin(m, 12) as selection:
            written.append(m.generate(IDS, pad_token_id=0, **options))
            assert len(selection.chosen) == 2
    assert torch.equal(*written)


def test_a_copy_of_an_offloaded_model_shares_what_is_kept_elsewhere(offloaded):
    model, _ = offloaded("llama")
    held = offloading.kept_elsewhere(model)
    copy = prune(model, random_mask(model))
    assert held and all(held[key] is value for key, value in offloading.kept_elsewhere(copy).items() if key in held)
    hooks = [offloading.offloading(m) for m in copy.modules()]
    old = {key for key in offloading.kept_elsewhere(copy) if key in held}
    assert old, "norms and embeddings are fetched from where the original keeps them"
    assert any(h is not None and id(h.weights_map) not in held for h in hooks), "projections are new"


def test_pruning_in_place_frees_a_layer_before_it_takes_the_next(any_model, monkeypatch):
    """So the peak is the model and one layer; the result is what a copy would be."""
    model = any_model("llama", num_hidden_layers=4)
    mask = random_mask(model)
    expected = logits(prune(model, mask), IDS)
    big = [weakref.ref(models.linear(layer, "gate").weight) for layer in models.decoder_layers(model)]
    alive = []
    original = layers.set_heads

    def after_a_layer(*args):
        original(*args)
        gc.collect()
        alive.append(sum(reference() is not None for reference in big))

    monkeypatch.setattr(layers, "set_heads", after_a_layer)
    assert prune(model, mask, in_place=True) is model
    assert alive == [3, 2, 1, 0]
    assert torch.equal(logits(model, IDS), expected)
    with pytest.raises(ValueError, match="pruned"):
        prune(model, mask)


def test_masking_copies_no_weight_and_is_a_model_of_its_own(any_model, tiny_tokenizer, tmp_path):
    model = any_model("llama")
    mask, means = random_mask(model), random_means(model)
    variant = Variant({}, mask, "mask", means)
    masked = variant.apply(model)
    before, dense = models.fingerprint(model), logits(model, IDS)
    assert {id(p) for p in masked.parameters()} == {id(p) for p in model.parameters()}
    others = [Variant({}, mask, "mask").apply(model), Variant({}, random_mask(model, seed=5), "mask").apply(model)]
    assert len({before, *(models.fingerprint(m) for m in (masked, *others))}) == 4
    assert models.fingerprint(model) == before and torch.equal(logits(model, IDS), dense)
    with pytest.raises(ValueError, match="mode='remove'"):
        checkpoints.save_pretrained(masked, tiny_tokenizer, tmp_path / "masked")
    with pytest.raises(ValueError, match="pruned"):
        prune(masked, mask)


def test_a_place_is_given_once(directory):
    with pytest.raises(models.ModelError, match="device_map"):
        models.load(directory("llama"), device="cpu", device_map="auto")


#: channel weights and fitted shift and scale, a threshold, a gate's threshold, sparse weights, a lost bias
RULES = {
    "cosine": {"pattern": "2:4", "criterion": "cosine", "transformation": "learnable"},
    "teal": {"pattern": 0.5, "criterion": "teal"},
    "cats": {"pattern": 0.5, "criterion": "cats"},
    "weights": {"pattern": 0.5, "of": "weights"},
    "original": {"pattern": "2:4", "preset": "original", "transformation": "scaling"},
}


@pytest.mark.parametrize("case", CASES)
def test_sparse_inputs_of_an_offloaded_model(offloaded, directory, tmp_path, monkeypatch, case):
    """Statistics, plans, sparse outputs and errors are the plain model's, and nothing sparse is left behind."""
    model, tokenizer = offloaded(case)
    plain, _ = models.load(directory(case), device="cpu")
    before, calibration = logits(model, IDS), Calibration(samples=2)
    both = ((model, "offloaded"), (plain, "plain"))

    def alone(m, name, make, *args):
        """With a store of the model's own: the fingerprints of both models are the same."""
        monkeypatch.setenv("SEAP_STORE_DIR", str(tmp_path / name))
        return make(m, *args, tokenizer, CORPUS, calibration, progress=False)

    got, expected = (alone(m, name, input_statistics.collect_inputs) for m, name in both)
    assert got.count == expected.count and got.histogram.keys() == expected.histogram.keys()
    for key in expected.second_moment:
        torch.testing.assert_close(got.second_moment[key], expected.second_moment[key], rtol=1e-5, atol=0)
        torch.testing.assert_close(got.largest[key], expected.largest[key], rtol=1e-5, atol=0)
    plans = {}
    for name, choices in RULES.items():
        if name == "cats" and not models.geometry(plain).gated:
            continue
        rule = InputSparsity(**choices)
        planned = [alone(m, which, sparsity_plan, rule) for m, which in both]
        assert planned[0].fingerprint == planned[1].fingerprint, name
        assert (planned[0].skipped, planned[0].skipped_model) == (planned[1].skipped, planned[1].skipped_model)
        plans[name] = planned[0]
        outputs = []
        for m in (model, plain):
            outputs.append(logits(planned[0].apply(m), IDS))
            with sparsified(m, planned[0]):
                outputs.append(logits(m, IDS))
                outputs.append(models.fingerprint(m))
        torch.testing.assert_close(outputs[0], outputs[3], rtol=0, atol=1e-5, msg=name)
        assert torch.equal(outputs[0], outputs[1]) and outputs[2] == outputs[5] != models.fingerprint(plain)
        assert not torch.equal(outputs[0], before), name
        assert torch.equal(logits(model, IDS), before), "the original is as it was"
    got, expected = (output_errors(m, tokenizer, CORPUS, plans, calibration, progress=False) for m in (model, plain))
    pd.testing.assert_frame_equal(got, expected, rtol=1e-5)
