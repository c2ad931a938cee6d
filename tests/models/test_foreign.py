"""Models that other libraries changed: adapters (peft) and quantised weights are evaluated as they are, and not cut."""

import copy

import peft
import pytest
import torch
from pruned import CORPUS, random_mask
from torch.testing._internal.two_tensor import TwoTensor

import seaplib
from seaplib import models
from seaplib.pruning.apply import prune
from seaplib.settings import Evaluation

pytestmark = pytest.mark.unit
EVALUATION = Evaluation(items=4)


def adapted(model):
    """The model with a LoRA adapter that changes what it computes."""
    made = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(target_modules="all-linear", r=2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=generator)
    return made.eval()


def quantised(model):
    return torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear})


def wrapped(model):
    """Weights that stand for two tensors each, as those of quantisation libraries stand for numbers and scales."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if name.endswith("down_proj"):
            module.weight = torch.nn.Parameter(TwoTensor(module.weight.detach(), 2 * module.weight.detach()))
    return model


def measured(model, tokenizer):
    options = {"settings": EVALUATION, "progress": False}
    values = seaplib.evaluate(model, tokenizer, ["piqa", "winogrande"], **options)["value"].tolist()
    return [*values, seaplib.perplexity(model, tokenizer, preset="flap128", samples=2, progress=False)["nll"].item()]


def test_an_adapter_is_merged_before_pruning(tiny_model, tiny_tokenizer):
    """It was dropped where a projection was cut and kept elsewhere."""
    model = tiny_model()
    with_adapter, mask = adapted(model), random_mask(model)
    for mode in ("remove", "zero", "mask"):
        with pytest.raises(models.ModelError, match="merge_and_unload"):
            prune(with_adapter, mask, mode)
    with pytest.raises(models.ModelError, match="merge_and_unload"):
        seaplib.collect(with_adapter, tiny_tokenizer, CORPUS, progress=False)
    merged, ids = with_adapter.merge_and_unload(), torch.arange(3, 20)[None]
    with torch.no_grad():
        cut, zeroed = (prune(merged, mask, mode)(ids).logits for mode in ("remove", "zero"))
        assert (cut - prune(model, mask)(ids).logits).abs().max() > 0.1
    torch.testing.assert_close(cut, zeroed, rtol=0, atol=1e-5)


def test_an_adapter_is_measured_and_every_change_of_it_is_noticed(tiny_model, tiny_tokenizer, tiny_data_dir):
    model = tiny_model(max_position_embeddings=512)
    made, seen = adapted(model), []
    seen += [measured(model, tiny_tokenizer)[-1], measured(made, tiny_tokenizer)[-1]]
    with made.disable_adapter():
        assert measured(made, tiny_tokenizer)[-1] == pytest.approx(seen[0], rel=1e-6)
    for module in made.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling["default"] *= 0.5
    seen.append(measured(made, tiny_tokenizer)[-1])
    merged = made.merge_and_unload()
    assert measured(merged, tiny_tokenizer)[-1] == pytest.approx(seen[-1], rel=1e-5)
    assert len({round(value, 6) for value in seen}) == 3


def test_a_quantised_model_is_measured_and_not_cut(tiny_model, tiny_tokenizer, tiny_data_dir):
    model = tiny_model(max_position_embeddings=512)
    made = quantised(model)
    whole, less = measured(model, tiny_tokenizer), measured(made, tiny_tokenizer)
    assert less[-1] == pytest.approx(whole[-1], rel=0.1) and less[-1] != whole[-1]
    assert models.fingerprint(made) == models.fingerprint(quantised(model)) != models.fingerprint(model)


@pytest.mark.parametrize("make", [quantised, wrapped])
def test_projections_that_are_no_plain_matrices_are_not_cut(tiny_model, tiny_tokenizer, make):
    model = tiny_model()
    made = make(model)
    for act in (
        lambda: prune(made, random_mask(model)),
        lambda: models.geometry(made),
        lambda: seaplib.collect(made, tiny_tokenizer, CORPUS, progress=False),
    ):
        with pytest.raises(models.ModelError, match="quantised"):
            act()


def test_both_parts_of_a_wrapped_weight_are_identified(tiny_model):
    made = wrapped(tiny_model())
    before = models.fingerprint(made)
    assert models.fingerprint(wrapped(tiny_model())) == before
    with torch.no_grad():
        models.decoder_layers(made)[1].mlp.down_proj.weight.b[0, 0] += 1
    assert models.fingerprint(made) != before


def test_a_pruned_model_can_be_quantised(tiny_model, tiny_tokenizer, tiny_data_dir):
    model = tiny_model(max_position_embeddings=512)
    cut = prune(model, random_mask(model))
    whole, less = measured(cut, tiny_tokenizer), measured(quantised(cut), tiny_tokenizer)
    assert less[-1] == pytest.approx(whole[-1], rel=0.1)
