"""Models that accelerate keeps partly in main memory or on disk: same numbers, and nothing held twice."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from test_apply import logits, random_mask, random_means

from seaplib import activations, models
from seaplib.models import layers
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
    held = layers.kept_elsewhere(model)
    copy = prune(model, random_mask(model))
    assert held and all(held[key] is value for key, value in layers.kept_elsewhere(copy).items() if key in held)
    hooks = [layers._offloading(m) for m in copy.modules()]
    old = {key for key in layers.kept_elsewhere(copy) if key in held}
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
    with pytest.raises(ValueError, match="already pruned"):
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
    with pytest.raises(ValueError, match="mode='remove' to save it"):
        checkpoints.save_pretrained(masked, tiny_tokenizer, tmp_path / "masked")
    with pytest.raises(ValueError, match="already pruned"):
        prune(masked, mask)


def test_a_place_is_given_once(directory):
    with pytest.raises(models.ModelError, match="give one of them"):
        models.load(directory("llama"), device="cpu", device_map="auto")
