"""Bad input in Python: one clear error, early, never a wrong number."""

import pandas as pd
import pytest
import torch

import seaplib
from seaplib import masks, models, perplexity, pruning, scores, sparsity
from seaplib.settings import Evaluation

pytestmark = pytest.mark.unit


@pytest.fixture
def ranked(tiny_model):
    """Scores of a tiny model, all different."""
    g = models.geometry(tiny_model("gqa", num_hidden_layers=4))
    attention = torch.arange(g.layers * g.heads * g.head_dim, dtype=torch.float64).view(g.layers, -1)
    channels = torch.arange(g.layers * g.channels, dtype=torch.float64).view(g.layers, -1)
    return scores.Scores(g, attention, channels)


def damaged(model):
    with torch.no_grad():
        models.linear(models.decoder_layers(model)[1], "up").weight[0, 0] = float("nan")
    return model


def test_damaged_weights_never_become_an_accuracy_or_a_perplexity(tiny_model, tiny_tokenizer, tiny_data_dir):
    model = damaged(tiny_model("mha"))
    with pytest.raises(ValueError, match="not numbers"):
        seaplib.evaluate(model, tiny_tokenizer, tasks=["piqa"], progress=False)
    windows = pd.DataFrame({"nll": [1.0, float("nan")], "tokens": [2, 2], "bytes": [4, 4]})
    with pytest.raises(ValueError, match="not numbers"):
        perplexity.summarise(windows)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kv_unit": "grp"}, "kv_unit is"),
        ({"budget": "flor"}, "budget is"),
        ({"round_to": 0}, "round_to must"),
        ({"round_to": 4096}, "round_to must"),
    ],
)
def test_select_refuses_unknown_choices(ranked, options, said):
    with pytest.raises(ValueError, match=said):
        masks.select(ranked, sparsity.uniform(0.2), **options)


def test_select_refuses_scores_that_rank_nothing(ranked):
    ranked.channels[2, 5] = float("nan")
    with pytest.raises(ValueError, match="not all finite"):
        masks.select(ranked, sparsity.uniform(0.2))


@pytest.mark.parametrize("wrong", [{"k": 1000.0}, {"k": float("nan")}, {"x0": float("inf")}])
def test_a_curve_that_cannot_be_computed(wrong):
    with pytest.raises(ValueError, match="x0 must be finite"):
        sparsity.logistic(0.5, **wrong)


def test_an_allocation_without_a_curve():
    with pytest.raises(ValueError, match="uniform, logistic, adaptive"):
        sparsity.Allocation("linear", 0.5)


@pytest.mark.parametrize("mode", ["zero", "remove"])
def test_a_pruned_model_is_not_pruned_again(tiny_model, ranked, mode):
    model = tiny_model("gqa", num_hidden_layers=4)
    mask = masks.select(ranked, sparsity.uniform(0.4))
    with pytest.raises(ValueError, match="already pruned"):
        pruning.prune(pruning.prune(model, mask, mode), mask, mode)


def test_unknown_reduction_and_method(tiny_model):
    with pytest.raises(ValueError, match="allocation is one of"):
        seaplib.Method("mine", "s_F", "task", allocation="linear")
    with pytest.raises(ValueError, match="calibration is one of"):
        seaplib.Method("mine", "s_F", "tasks")


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"samples": -1}, {"samples": 2.5}, {"seed": -1}])
def test_draws_that_cannot_be_made(tmp_path, wrong):
    pd.DataFrame({"question": ["a?", "b?"], "answer": ["c", "d"]}).to_parquet(tmp_path / "mine.parquet")
    with pytest.raises(ValueError, match="must be a whole number"):
        seaplib.corpus(tmp_path / "mine.parquet", **wrong)


def test_incomplete_rows_are_left_out_and_counted(tmp_path):
    pd.DataFrame({"question": ["a?", None, "b?"], "answer": ["c", "d", " "]}).to_parquet(tmp_path / "mine.parquet")
    corpus = seaplib.corpus(tmp_path / "mine.parquet")
    assert corpus.texts == ("a? c",) and corpus.source["left_out"] == 2
    pd.DataFrame({"question": ["a?"], "answer": [["c"]]}).to_parquet(tmp_path / "lists.parquet")
    with pytest.raises(ValueError, match="answer holds lists"):
        seaplib.corpus(tmp_path / "lists.parquet")


def test_wrong_kinds_of_arguments(tiny_model, tiny_tokenizer):
    with pytest.raises(TypeError, match="collect takes a Corpus"):
        seaplib.collect(tiny_model("mha"), tiny_tokenizer, "mini_piqa")
    with pytest.raises(TypeError, match="a list of tasks"):
        seaplib.calibrate(tiny_model("mha"), tiny_tokenizer, "mini_piqa")
    with pytest.raises(ValueError, match="max_length must be"):
        Evaluation(max_length=0)
