"""Comparison with figures that the published codes computed on a tiny model (``tests/golden``).

Tolerances. The references come from float32 forward passes, one prompt at a time; another batch or
another BLAS gives activations that differ in the last bits, so a coordinate whose value is 10⁴ times
smaller than its neighbours' cannot agree to 1e-6 of itself. What does hold, and is asserted, is
1e-6 of the layer's scale: ‖ours − theirs‖/‖theirs‖ and max|ours − theirs|/max|theirs| per layer.
Masks are compared exactly.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seaplib import activations, models
from seaplib.activations import capture
from seaplib.pruning import allocation, masks, scores
from seaplib.pruning.baselines import authors_code, flap, wanda
from seaplib.settings import Calibration
from seaplib.texts import corpora

pytestmark = pytest.mark.golden

GOLDEN = Path(__file__).parent
TASKS = ("wikitext2", "piqa", "gsm8k")
MODULES = ("attention", "mlp")
LAYERS = 8
TOLERANCE = 4e-6  # single precision: with the narrowest instruction set (no AVX) differences of 1.1e-6 were seen
NAMES = {"mean": "mean", "var": "var", "second_moment": "l2"}  # field of ActivationStats → the authors' name


class Ids:
    """A tokenizer for texts that are token ids already, as ``"3 17 5"``."""

    bos_token_id = None

    def __call__(self, texts, verbose=True):
        return {"input_ids": [[int(token) for token in text.split()] for text in texts]}

    def num_special_tokens_to_add(self):
        return 0


@pytest.fixture(scope="module")
def model():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(GOLDEN / "model").eval()


@pytest.fixture(scope="module")
def expected():
    return load_file(GOLDEN / "expected.safetensors")


@pytest.fixture(scope="module")
def corpus():
    prompts = json.loads((GOLDEN / "prompts.json").read_text())

    def build(task: str) -> corpora.Corpus:
        texts = tuple(" ".join(map(str, ids)) for ids in prompts[task])
        return corpora.Corpus(task, texts, tuple(f"{task}-{i}" for i in range(len(texts))), {})

    return build


@pytest.fixture(scope="module")
def stats(model, corpus):
    """``stats(estimator, **calibration)``: task → statistics, each computed once."""
    made = {}

    def build(estimator: str = "exact", batch_tokens: int = 1) -> dict[str, activations.ActivationStats]:
        key = (estimator, batch_tokens)
        if key not in made:
            calibration = Calibration(estimator=estimator, batch_tokens=batch_tokens)
            made[key] = {t: activations.collect(model, Ids(), corpus(t), calibration, progress=False) for t in TASKS}
        return made[key]

    return build


def layerwise(expected: dict, prefix: str, suffix: str = "") -> torch.Tensor:
    """The tensors ``<prefix>.<layer><suffix>`` as one [layers, dim]."""
    return torch.stack([expected[f"{prefix}.{layer}{suffix}"] for layer in range(LAYERS)])


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    """Per layer, relative to the layer's scale; two-sided, and refuses a NaN."""
    assert ours.shape == theirs.shape, what
    difference = ours.double() - theirs.double()
    norm = difference.norm(dim=1) / theirs.double().norm(dim=1)
    largest = difference.abs().amax(1) / theirs.double().abs().amax(1)
    assert bool((norm < tolerance).all()), f"{what}: norms differ by {norm.max():.2e}"
    assert bool((largest < tolerance).all()), f"{what}: largest differences {largest.max():.2e}"


@pytest.mark.parametrize("batch_tokens", [1, 100, 8192], ids=["alone", "padded", "one batch"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("module", MODULES)
def test_exact_statistics(stats, expected, module, task, batch_tokens):
    one = stats("exact", batch_tokens)[task]
    for name in NAMES:
        theirs = layerwise(expected, f"exact.stats.{task}.{module}", f".{name}")
        assert_close(getattr(one, name)[module], theirs, f"{task} {module} {name}")


@pytest.mark.parametrize("batch_tokens", [1, 100], ids=["alone", "padded"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["s_F", "s_W"])
def test_exact_scores(stats, expected, name, task, batch_tokens):
    one = scores.score(stats("exact", batch_tokens)[task], name)
    for module, ours in (("attention", one.heads), ("mlp", one.channels)):
        assert_close(ours, layerwise(expected, f"exact.score.{name}.{task}.{module}"), f"{name} {task} {module}")


@pytest.mark.parametrize("task", TASKS)
def test_authors_statistics(stats, expected, task):
    one = stats("authors")[task]
    for module in MODULES:
        for ours, theirs in NAMES.items():
            reference = layerwise(expected, f"authors.stats.{task}.{module}", f".{theirs}")
            assert_close(getattr(one, ours)[module], reference, f"{task} {module} {ours}")


def test_authors_variance_is_not_the_exact_one(stats):
    """The published running variance is too small, by 3% in the median and up to 58% over these three
    tasks (its first batch counts as zero variance): the preset must not drift to the exact one."""
    low = []
    for task in TASKS:
        exact, authors = stats("exact")[task].var, stats("authors")[task].var
        low += [(1 - authors[module] / exact[module]).flatten() for module in MODULES]
    low = torch.cat(low)
    assert float(low.median()) == pytest.approx(0.030, abs=0.002)
    assert float(low.max()) == pytest.approx(0.576, abs=0.005)
    assert float(low.min()) > 0


def authors_scores(stats, metric: str) -> dict[str, scores.Scores]:
    each = {task: authors_code.authors_score(one, metric) for task, one in stats("authors").items()}
    return each | {"generic": scores.aggregate(each, scores.weights(each, "wikitext2"))}


@pytest.mark.parametrize("task", [*TASKS, "generic"])
@pytest.mark.parametrize("metric", ["WIFV", "WIFN"])
def test_authors_scores(stats, expected, metric, task):
    one = authors_scores(stats, metric)[task]
    for module, ours in (("attention", one.heads), ("mlp", one.channels)):
        assert_close(ours, layerwise(expected, f"authors.score.{metric}.{task}.{module}"), f"{metric} {task} {module}")


def assert_same_mask(mask: masks.PruningMask, expected: dict, prefix: str) -> None:
    for module, ours in (("attention", mask.heads), ("mlp", mask.channels)):
        theirs = layerwise(expected, f"{prefix}.{module}").bool()
        assert torch.equal(ours, theirs), f"{prefix}.{module}: {int((ours != theirs).sum())} units differ"


@pytest.mark.parametrize("ratio", [0.2, 0.5])
@pytest.mark.parametrize("allocation", ["UL-UM", "UL-LD", "AL-AM"])
@pytest.mark.parametrize("metric", ["WIFV", "WIFN"])
def test_authors_masks_are_identical(stats, expected, metric, allocation, ratio):
    made = authors_code.authors_code(stats("authors"), ratio, "wikitext2", metric, allocation)
    assert set(made) == {*TASKS, "general"}
    for task, mask in made.items():
        theirs = "generic" if task == "general" else task
        assert_same_mask(mask, expected, f"authors.mask.{metric}.{allocation}.{ratio}.{theirs}")


@pytest.mark.parametrize("ratio", [0.2, 0.5])
def test_authors_layer_ratios(ratio):
    published = json.loads((GOLDEN / "meta.json").read_text())["authors_layer_sparsity_UL-LD_k0.8"][str(ratio)]
    (ours,) = allocation.authors_logistic(ratio).ratios(LAYERS).values()
    assert ours == pytest.approx(published, abs=1e-12)


@pytest.mark.parametrize("metric", ["WIFV", "WIFN"])
def test_flap_baseline_and_metric(model, stats, expected, metric):
    one = stats("flap")["wikitext2"]
    for module, role in capture.UNITS.items():
        theirs = layerwise(expected, f"flap.baseline_inp.{metric}.{module}")
        assert_close(one.mean[module], theirs, f"{metric} {module} baseline")
        weight = torch.stack(
            [models.linear(layer, role).weight.detach() for layer in models.decoder_layers(model)]
        ).double()
        if metric == "WIFV":
            ours = one.var[module] * weight.square().sum(1)
        else:
            ours = one.second_moment[module].sqrt() * weight.abs().mean(1)
        assert_close(ours, layerwise(expected, f"flap.metric.{metric}.{module}"), f"{metric} {module} metric")


@pytest.mark.parametrize("ratio", [0.2, 0.5])
@pytest.mark.parametrize("metric", ["WIFV", "WIFN"])
def test_flap_masks_are_identical(stats, expected, metric, ratio):
    mask = flap.flap(stats("flap")["wikitext2"], ratio, metric)
    assert torch.equal(mask.heads, expected[f"flap.mask.{metric}.AL-AM.{ratio}.attention"].bool())
    assert torch.equal(mask.channels, expected[f"flap.mask.{metric}.AL-AM.{ratio}.mlp"].bool())


def test_wanda_mask_is_identical(model, corpus, expected):
    """Wanda's running norm is the mean over prompts of Σ_tokens x²: tokens/prompts times our second moment."""
    encoded = Ids()(corpus("wikitext2").texts)["input_ids"]
    with torch.inference_mode(), capture.capture(model, roles=("gate",), only=(1,)) as recorder:
        for ids in encoded:
            models.decoder(model)(input_ids=torch.tensor([ids]), use_cache=False)
    count, _, _, second_moment = recorder.stacked("gate")
    assert count == sum(map(len, encoded))
    norm = second_moment * count / len(encoded)
    assert_close(norm, expected["wanda.layer1.gate_proj.scaler_row"][None], "scaler_row")
    weight = models.linear(models.decoder_layers(model)[1], "gate").weight.detach()
    pruned = wanda.wanda_pruned(weight, second_moment[0], 0.5)
    assert torch.equal(pruned, expected["wanda.layer1.gate_proj.pruned.0.5"].bool())
