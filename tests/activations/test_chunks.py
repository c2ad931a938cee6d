"""Statistics in parts: every union equals what one pass over the same texts gives."""

import pytest
import torch
from conftest import SENTENCES

import seaplib
from seaplib import activations
from seaplib.activations import chunks, statistics
from seaplib.models import layers
from seaplib.settings import Calibration
from seaplib.texts import corpora

pytestmark = pytest.mark.unit


def texts(count: int = 21) -> corpora.Corpus:
    lines = tuple(f"{number} {SENTENCES[number % len(SENTENCES)]}" for number in range(count))
    return corpora.Corpus("mine", lines, tuple(map(str, range(count))), {})


def part_of(corpus: corpora.Corpus, chosen) -> corpora.Corpus:
    lines, ids = (tuple(getattr(corpus, name)[i] for i in chosen) for name in ("texts", "ids"))
    return corpora.Corpus(corpus.task, lines, ids, corpus.source)


def same(a: activations.ActivationStats, b: activations.ActivationStats) -> None:
    assert a.count == b.count and a.geometry == b.geometry
    for name in activations.ActivationStats.TENSORS:
        for module, one in getattr(a, name).items():  # other batches round otherwise
            torch.testing.assert_close(one, getattr(b, name)[module], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["mha", "gqa"])
def test_a_union_of_parts_equals_one_pass_over_its_texts(tiny_model, tiny_tokenizer, kind):
    model, corpus = tiny_model(kind), texts()
    parts = chunks.collect_parts(model, tiny_tokenizer, corpus, 4)
    assert len(parts) == 6 and parts.texts == (4, 4, 4, 4, 4, 1)
    same(parts.union(range(6)), activations.collect(model, tiny_tokenizer, corpus))
    chosen = [8, 9, 10, 11, 0, 1, 2, 3, 20]
    union = parts.union([2, 0, 5, 2])  # a part named twice counts once
    same(union, activations.collect(model, tiny_tokenizer, part_of(corpus, chosen)))
    assert union.provenance["texts"] == 9 and union.provenance["tokens"] == union.count


def test_merging_needs_the_same_model_and_the_same_way_of_collecting(tiny_model, tiny_tokenizer):
    corpus = texts(3)
    one = activations.collect(tiny_model(), tiny_tokenizer, corpus)
    with pytest.raises(ValueError, match="pooling"):
        statistics.merge([one, activations.collect(tiny_model(seed=1), tiny_tokenizer, corpus)])
    pooled = Calibration(pooling="prompt")
    with pytest.raises(ValueError, match="pooling"):
        statistics.merge([one, activations.collect(tiny_model(), tiny_tokenizer, corpus, pooled)])
    running = activations.collect(tiny_model(), tiny_tokenizer, corpus, Calibration(estimator="flap"))
    with pytest.raises(ValueError, match="exact"):
        statistics.merge([running, running])
    with pytest.raises(ValueError, match="merge"):
        statistics.merge([])
    with pytest.raises(ValueError, match="size of 0"):
        chunks.collect_parts(tiny_model(), tiny_tokenizer, corpus, 0)


def test_parts_are_saved_and_loaded_and_taken_from_the_store(
    tiny_model, tiny_tokenizer, tiny_data_dir, tmp_path, monkeypatch
):
    model = tiny_model()
    found = chunks.calibrate_parts(model, tiny_tokenizer, ["piqa"], pool=12, size=5)["piqa"]
    assert found.texts == (5, 5, 2)
    (tmp_path / "parts").mkdir()
    found.save(tmp_path / "parts")
    same(chunks.PartialStats.load(tmp_path / "parts").union([0, 2]), found.union([2, 0]))
    monkeypatch.setattr(chunks, "collect", lambda *_, **__: pytest.fail("collected twice"))
    again = chunks.calibrate_parts(model, tiny_tokenizer, ["piqa"], pool=12, size=5)["piqa"]
    same(again.union(range(3)), found.union(range(3)))


def test_weight_norms_are_taken_over(tiny_model, tiny_tokenizer, monkeypatch):
    model, corpus = tiny_model(), texts(4)
    weights = activations.Weights(model)
    first = activations.collect(model, tiny_tokenizer, corpus, weights=weights)
    monkeypatch.setattr(statistics, "_column_norms", lambda _: pytest.fail("computed again"))
    same(activations.collect(model, tiny_tokenizer, corpus, weights=weights), first)


def test_texts_of_ones_own_are_calibrated_on_once(tiny_model, tiny_tokenizer, monkeypatch):
    model = tiny_model()
    first = activations.calibrate_texts(model, tiny_tokenizer, {("a", 0): texts(4), "b": texts(6)})
    assert first["a", 0].provenance["texts"] == 4 and first["b"].provenance["texts"] == 6
    monkeypatch.setattr(layers, "decoder", lambda _: pytest.fail("collected twice"))
    same(activations.calibrate_texts(model, tiny_tokenizer, {"c": texts(4)})["c"], first["a", 0])


def test_merged_statistics_refuse_the_allocation_that_needs_the_stream(tiny_model, tiny_tokenizer):
    model = tiny_model()
    parts = [activations.collect(model, tiny_tokenizer, texts(n)) for n in (3, 5)]
    assert parts[0].stream is not None
    merged = statistics.merge(parts)
    with pytest.raises(ValueError, match="residual stream"):
        seaplib.select(seaplib.score(merged, "s_F"), seaplib.energy(0.3))
