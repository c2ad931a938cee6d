"""Wanda: against loops, layer behind pruned layer."""

import pytest
import reference
import torch
from pruned import CORPUS, TEXTS

from seaplib import models, pruning
from seaplib.activations import capture
from seaplib.pruning import masks
from seaplib.pruning.baselines import wanda as baselines

pytestmark = pytest.mark.unit


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
    with pytest.raises(ValueError, match="sparsity"):
        baselines.wanda(model, tiny_tokenizer, CORPUS, 1.0)
