"""Corpora made larger: halves, recombination, the model's own continuations, equal numbers of tokens."""

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURE_CASES, SENTENCES

from seaplib.studies import continuations, synthetic_text
from seaplib.texts import corpora

pytestmark = pytest.mark.unit


def texts(lines=SENTENCES) -> corpora.Corpus:
    return corpora.Corpus("mine", tuple(lines), tuple(str(i) for i in range(len(lines))), {})


def test_halves_join_to_the_text():
    assert synthetic_text.halves("a b c d") == ("a b", " c d")
    assert synthetic_text.halves("a b  c") == ("a b", "  c")
    assert synthetic_text.halves("a b c") == ("a b", " c")
    assert synthetic_text.halves("a") == ("a", "")
    for text in SENTENCES:
        assert "".join(synthetic_text.halves(text)) == text


def test_recombined_texts_have_halves_of_two_different_texts():
    corpus = texts()
    made = synthetic_text.recombine(corpus, seed=0)
    first, second = zip(*map(synthetic_text.halves, corpus.texts), strict=True)
    assert len(made) == len(corpus)
    seconds = []
    for place, text in enumerate(made.texts):
        assert text.startswith(first[place]) and text != corpus.texts[place]
        seconds.append(second.index(text[len(first[place]) :]))
    assert sorted(seconds) == list(range(len(corpus))) and all(a != b for a, b in enumerate(seconds))
    assert (
        synthetic_text.recombine(corpus, seed=0).texts == made.texts != synthetic_text.recombine(corpus, seed=1).texts
    )
    with pytest.raises(ValueError, match="mine"):
        synthetic_text.recombine(texts(SENTENCES[:1]), seed=0)


@pytest.mark.parametrize("case", ARCHITECTURE_CASES)
def test_a_batch_of_continuations_is_distributed_as_each_alone(any_model, tiny_tokenizer, case, monkeypatch):
    """At temperature near 0 a sample is the likeliest token, whatever stands beside it in the batch."""
    model, corpus = any_model(case), texts()
    cold = {"temperature": 1e-4, "new_tokens": 6}
    together = synthetic_text.continue_texts(model, tiny_tokenizer, corpus, seed=0, **cold)
    for place, text in enumerate(together.texts):
        ids = tiny_tokenizer(synthetic_text.halves(corpus.texts[place])[0])["input_ids"]
        start = len(ids)
        with torch.no_grad():
            for _ in range(6):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
                if ids[-1] == tiny_tokenizer.eos_token_id:
                    ids.pop()
                    break
        assert text == tiny_tokenizer.decode(ids, skip_special_tokens=True), (case, place, start)


def test_continuations_depend_on_the_seed_alone_and_are_stored(tiny_model, tiny_tokenizer, monkeypatch):
    model, corpus = tiny_model(), texts()
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    made = synthetic_text.continue_texts(model, tiny_tokenizer, corpus, seed=3, new_tokens=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert made.texts != synthetic_text.continue_texts(model, tiny_tokenizer, corpus, seed=4, new_tokens=5).texts
    for text, source in zip(made.texts, corpus.texts, strict=True):
        assert text.startswith(synthetic_text.halves(source)[0])
    monkeypatch.setattr(model, "generate", lambda *_, **__: pytest.fail("written twice"))
    assert synthetic_text.continue_texts(model, tiny_tokenizer, corpus, seed=3, new_tokens=5).texts == made.texts


def test_what_stands_after_the_end_of_a_text_is_cut():
    assert continuations._until([5, 6, 2, 7], {2}) == [5, 6] and continuations._until([5, 6], {2, None}) == [5, 6]


def test_a_prompt_without_room_is_refused(tiny_model, tiny_tokenizer):
    model = tiny_model(max_position_embeddings=16)
    with pytest.raises(ValueError, match="16"):
        synthetic_text.continue_texts(model, tiny_tokenizer, texts(), seed=0, new_tokens=8)


@pytest.mark.parametrize("kind", synthetic_text.KINDS)
def test_enlarged_corpora_have_the_same_base_and_as_many_tokens(tiny_model, tiny_tokenizer, tiny_data_dir, kind):
    drawn = corpora.corpus("piqa", None, 0)
    base, more = synthetic_text.enlarged(tiny_model(), tiny_tokenizer, drawn, 6, 3, kind, seed=0, new_tokens=12)
    assert base.texts == corpora.corpus("piqa", 6, 0).texts
    counted = [sum(synthetic_text.lengths(tiny_tokenizer, part)) for part in (base, more)]
    longest = max(synthetic_text.lengths(tiny_tokenizer, base))
    assert 2 * counted[0] - longest <= counted[1] <= 2 * counted[0]
    whole = set(corpora.corpus("piqa", None, 0).texts)
    assert (set(more.texts) <= whole) == (kind == "real") and not set(base.texts) & set(more.texts)


def test_what_cannot_be_enlarged_is_refused(tiny_model, tiny_tokenizer, tiny_data_dir):
    model, drawn = tiny_model(), corpora.corpus("piqa", None, 0)
    with pytest.raises(ValueError, match="translated"):
        synthetic_text.enlarged(model, tiny_tokenizer, drawn, 4, 2, "translated", 0)
    with pytest.raises(ValueError, match="got 1"):
        synthetic_text.enlarged(model, tiny_tokenizer, drawn, 4, 1, "real", 0)
    with pytest.raises(ValueError, match="piqa: real"):
        synthetic_text.enlarged(model, tiny_tokenizer, drawn, 20, 3, "real", 0)


def test_lengths_count_special_tokens(tiny_tokenizer):
    corpus = texts(["a", "a kettle"])
    expected = [len(tiny_tokenizer(text)["input_ids"]) for text in corpus.texts]
    assert synthetic_text.lengths(tiny_tokenizer, corpus) == expected and np.all(np.array(expected) >= 2)
