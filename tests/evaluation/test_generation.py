"""Greedy continuations and their measures."""

import math

import pandas as pd
import pytest
import torch

from seaplib import models
from seaplib.evaluation import generation
from seaplib.pruning import masks
from seaplib.pruning.apply import Variant

pytestmark = pytest.mark.unit


def test_repetition_by_hand():
    assert generation.repetition([1, 2, 3, 4, 5, 6, 7, 8]) == 0
    assert generation.repetition([1] * 10) == pytest.approx(1 - 1 / 7)
    assert generation.repetition([1, 2, 1, 2, 1], n=2) == pytest.approx(0.5)
    assert math.isnan(generation.repetition([1, 2, 3]))


@pytest.mark.parametrize(
    "ids, dense, share", [([1, 2, 3], [1, 2, 3], 1), ([1, 2], [1, 3], 0.5), ([1, 2], [1, 2, 3, 4], 0.5), ([5], [6], 0)]
)
def test_agreement_by_hand(ids, dense, share):
    assert generation._agreement(ids, dense) == share


def test_sentences_by_hand():
    text = "The Hupaith eats nuts. Is it red?\nIt is. Then it"
    assert generation.sentences(text) == ["The Hupaith eats nuts.", "Is it red?", "It is."]
    assert generation.words("It's 3 well-known x") == ["it's", "3", "well-known", "x"]


def test_known_sentences_count_from_the_one_begun_in_the_prompt(tiny_model, tiny_tokenizer, monkeypatch):
    """Prompt "A b. C d" continued by "e. F g. H": two sentences are completed, one of them is known."""
    ids = tiny_tokenizer("e. F g. H", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(generation, "_write", lambda *_: generation.Continuations([ids]))
    frame = generation.generate(
        tiny_model(), tiny_tokenizer, ["A b. C d"], reference=["A b. C d e.", "f"], progress=False
    )
    assert frame["known_sentences"][0] == 0.5
    assert frame["known_words"][0] == pytest.approx(2 / 4)  # e, f of e, f, g, h


def test_agreement_of_nothing():
    assert math.isnan(generation._agreement([], []))


def test_dense_and_identical_variant(tiny_model, tiny_tokenizer):
    """Greedy continuations are the arg max token by token; a mask that removes nothing changes nothing."""
    model = tiny_model()
    nothing = Variant({"method": "nothing"}, masks.keep_all(models.geometry(model)))
    prompts = ["To dry a wet towel", "Anna gave"]
    frame = generation.generate(
        model, tiny_tokenizer, prompts, [nothing], new_tokens=6, reference=["a towel"], progress=False
    )
    assert frame["method"].tolist() == ["dense", "dense", "nothing", "nothing"]
    assert (frame["agreement"] == 1).all() and frame["continuation"].tolist()[:2] == frame["continuation"].tolist()[2:]

    ids = tiny_tokenizer(prompts[0])["input_ids"]
    start, nll = len(ids), 0.0
    with torch.no_grad():
        for _ in range(6):
            logp = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            ids, nll = [*ids, int(logp.argmax())], nll - float(logp.max())
    assert frame["continuation"][0] == tiny_tokenizer.decode(ids[start:], skip_special_tokens=True).strip()
    assert frame["perplexity"][0] == pytest.approx(math.exp(nll / 6), rel=1e-4)


def test_a_pruned_variant_differs_and_is_stored(tiny_model, tiny_tokenizer, monkeypatch):
    model = tiny_model()
    mask = masks.keep_all(models.geometry(model))
    mask.channels[:, 1:] = False
    variants = [Variant({"method": "pruned"}, mask)]
    first = generation.generate(model, tiny_tokenizer, ["A copper spoon"], variants, new_tokens=8, progress=False)
    assert first["agreement"][1] < 1
    monkeypatch.setattr(type(model), "generate", lambda *_, **__: pytest.fail("written twice"))
    again = generation.generate(model, tiny_tokenizer, ["A copper spoon"], variants, new_tokens=8, progress=False)
    assert again.equals(first)


def test_empty_prompts_are_refused(tiny_model, tiny_tokenizer):
    for prompts in ([], ["  "]):
        with pytest.raises(ValueError, match="prompt"):
            generation.generate(tiny_model(), tiny_tokenizer, prompts)


def test_summary_by_hand():
    texts = pd.DataFrame(
        {"method": ["dense"] * 2, "score": "none", "requested_sparsity": 0.0}
        | {m: [1.0, 4.0] for m in generation.MEASURES}
    )
    row = generation.summary(texts).iloc[0]
    assert row["n"] == 2 and row["repetition"] == 2.5 and row["perplexity"] == pytest.approx(2.0)
    assert row["repetition_stderr"] == pytest.approx(1.5) and row["perplexity_stderr"] == pytest.approx(math.log(2))


def test_a_prompt_that_leaves_no_room_is_refused(tiny_model, tiny_tokenizer):
    """Learned positions (GPT-2, OPT) would run out of their table, rotary ones go where nobody trained them."""
    model = tiny_model(max_position_embeddings=16)
    with pytest.raises(ValueError, match="8.*16"):
        generation.generate(model, tiny_tokenizer, ["A kettle is used to boil water."], new_tokens=8, progress=False)


SETTINGS = {"repetition_penalty": 1.8, "num_beams": 3, "no_repeat_ngram_size": 1, "suppress_tokens": [5], "top_k": 3}


@pytest.mark.parametrize("name", SETTINGS)
def test_greedy_is_greedy_whatever_the_models_own_settings(tiny_model, tiny_tokenizer, name, tmp_path, monkeypatch):
    """A repetition penalty leaked into greedy texts, which then came back from the store for the model without it."""
    prompts, model = ["To dry a wet towel", "Anna gave"], tiny_model(attention_dropout=0.5)
    expected = generation.generate(model, tiny_tokenizer, prompts, new_tokens=12, progress=False)
    monkeypatch.setenv("SEAP_STORE_DIR", str(tmp_path / "another store"))
    setattr(model.generation_config, name, SETTINGS[name])
    model.generation_config.do_sample = name == "top_k"
    own = model.generation_config
    found = generation.generate(model.train(), tiny_tokenizer, prompts, new_tokens=12, progress=False)
    pd.testing.assert_frame_equal(found, expected)
    assert model.generation_config is own and model.training
