"""A pass that starts at a layer gives what the whole pass gives, bit for bit."""

import pytest
import torch
from conftest import ARCHITECTURE_CASES

from seaplib import evaluation, models, pruning
from seaplib.models import likelihood
from seaplib.pruning import masks, selection
from seaplib.pruning.scores import Scores
from seaplib.settings import Evaluation

pytestmark = pytest.mark.unit


def scores_of(model) -> Scores:
    g, draw = models.geometry(model), torch.Generator().manual_seed(0)
    sizes = (g.layers, g.heads * g.head_dim), (g.layers, g.channels)
    return Scores(g, *(torch.rand(size, generator=draw, dtype=torch.float64) for size in sizes))


def removals(model, ratios=(0.5, 1.0)) -> list[pruning.Variant]:
    scores = scores_of(model)
    cases = [(layer, ratio) for layer in range(scores.geometry.layers) for ratio in ratios]
    return [
        pruning.Variant({"method": "remove test", "layer": layer}, selection.single_layer(scores, layer, ratio))
        for layer, ratio in cases
    ]


@pytest.mark.parametrize("case", ARCHITECTURE_CASES)
def test_entering_at_a_layer_is_the_whole_pass(any_model, case):
    model = any_model(case, num_hidden_layers=3) if not case.startswith(("gpt2", "gemma", "qwen2")) else any_model(case)
    ids = torch.randint(3, 250, (2, 9), generator=torch.Generator().manual_seed(0))

    def run():
        return models.decoder(model)(input_ids=ids, use_cache=False).last_hidden_state

    with torch.inference_mode():
        expected = run()
        start, x = 0, None
        for layer in range(1, len(models.decoder_layers(model)) + 1):
            start, x = layer, likelihood.stepping(model, layer, start, x, run)
            with likelihood.entering(model, layer, x):
                assert torch.equal(run(), expected)
        assert torch.equal(run(), expected)
    assert not any("forward" in layer.__dict__ for layer in models.decoder_layers(model))


def test_the_model_is_itself_again_after_an_error(tiny_model):
    model = tiny_model()
    model.model.layers[0].forward = own = model.model.layers[0].forward  # as accelerate's hooks do
    with pytest.raises(RuntimeError, match="inside"), likelihood.entering(model, 1, torch.zeros(1, 1, 32)):
        raise RuntimeError("inside")
    assert model.model.layers[0].__dict__["forward"] is own
    assert "forward" not in model.model.layers[1].__dict__


def test_the_first_layer_that_changes(tiny_model):
    model = tiny_model(num_hidden_layers=3)
    scores = scores_of(model)
    for layer in range(3):
        assert pruning.Variant({}, selection.single_layer(scores, layer, 0.5)).first_layer == layer
    assert pruning.Variant({}, masks.keep_all(scores.geometry)).first_layer == 3
    several = masks.keep_all(scores.geometry)
    several.channels[1, 3] = several.heads[2, 0] = False
    assert pruning.Variant({}, several).first_layer == 1


def items():
    draw = torch.Generator().manual_seed(1)

    def ids(n):
        return torch.randint(3, 300, (n,), generator=draw).tolist()

    contexts = [[1, *ids(n)] for n in (5, 12, 30, 44, 61)]
    return [[(context, ids(k)) for k in (3, 7, 1)] for context in contexts] + [[(ids(9), ids(30)), (ids(9), ids(3))]]


def test_layer_inputs_in_any_order(tiny_model):
    model = tiny_model("gqa", num_hidden_layers=3)
    batches = likelihood.plan(items(), 256, 100)
    assert {batch.branches is None for batch in batches} == {True, False}
    dense, expected = likelihood.LayerInputs(model, batches), likelihood.score(model, batches)
    for layer in (2, 0, 1, 3, 3, 1):
        found = likelihood.score(model, batches, dense, layer)
        assert (found[0] == expected[0]).all() and (found[1] == expected[1]).all()
        assert dense.layer == layer and all((x is None) == (layer == 0) for x in dense.kept)


def test_inputs_that_take_too_much_memory_are_not_kept(tiny_model, monkeypatch):
    model = tiny_model("gqa", num_hidden_layers=3)
    batches = likelihood.plan(items(), 256, 100)
    size = sum(batch.ids.numel() for batch in batches) * model.config.hidden_size * 4
    expected = likelihood.score(model, batches)[0]
    for limit, starts in ((size, 2), (size - 1, 0)):
        monkeypatch.setattr(likelihood, "KEPT_BYTES", limit)
        dense = likelihood.LayerInputs(model, batches)
        assert (likelihood.score(model, batches, dense, 2)[0] == expected).all()
        assert dense.at(2)[0] == starts and (dense.kept[0] is None) == (starts == 0)


def test_a_remove_test_is_what_each_model_by_itself_gives(tiny_model, tiny_tokenizer, tiny_data_dir, monkeypatch):
    model = tiny_model("gqa", num_hidden_layers=3)
    variants, settings = [None, *removals(model)], Evaluation(batch_tokens=300)
    sums, score = [], likelihood.score
    monkeypatch.setattr(likelihood, "score", lambda *args: sums.append(score(*args)[0]) or score(*args))
    shared = evaluation.evaluate_items(model, tiny_tokenizer, ["arc_easy", "piqa"], variants, settings, progress=False)
    with_shared, sums[:] = list(sums), []
    monkeypatch.setattr(pruning.Variant, "first_layer", 0)
    monkeypatch.setenv("SEAP_STORE_DIR", str(tiny_data_dir / "other_store"))
    alone = evaluation.evaluate_items(model, tiny_tokenizer, ["arc_easy", "piqa"], variants, settings, progress=False)
    assert shared.equals(alone)
    assert len(sums) == 14 and all((a == b).all() for a, b in zip(with_shared, sums, strict=True))


def test_a_remove_test_computes_half_of_the_layers(tiny_model, tiny_tokenizer, tiny_data_dir):
    """Counted in MLPs that run: one pass in all to go from layer to layer, and what follows each pruned one."""
    model, passes = tiny_model(num_hidden_layers=3), []
    for layer in models.decoder_layers(model):  # copies share the hook
        layer.mlp.register_forward_hook(lambda module, args, output: passes.append(1))
    settings = Evaluation(items=1, batch_tokens=10**4)
    evaluation.evaluate_items(model, tiny_tokenizer, ["piqa"], removals(model, (0.5,)), settings, progress=False)
    assert len(passes) == (3 + 2 + 1) + 2
