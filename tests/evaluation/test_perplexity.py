"""Perplexity: against a plain loop, an exact case, and every label that a number needs."""

import math
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch

from seaplib.evaluation import perplexity as module
from seaplib.evaluation.perplexity import perplexity
from seaplib.settings import PRESETS, Preset
from seaplib.texts import corpora, rows

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def small_presets(monkeypatch):
    """The tiny text has a few hundred tokens."""
    small = {"64": Preset(64), "16": Preset(16), "random": Preset(64, scored=16, random=9), "long": Preset(4096)}
    for name, preset in small.items():
        monkeypatch.setitem(PRESETS, name, preset)


def text_of(task="wikitext2"):
    return "\n\n".join(row["text"] for row in rows.read_rows(task, "test"))


def loop(model, ids, window, first=None):
    """The published codes' loop: window after window, mean of the mean losses."""
    ids, losses = torch.tensor(ids), []
    for start in range(0, len(ids) // window * window, window):
        piece = ids[start : start + window].clone()
        if first is not None:
            piece[0] = first
        with torch.inference_mode():
            logits = model(piece[None]).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, piece[1:]).item())
    return math.exp(np.mean(losses)), losses


@pytest.mark.parametrize("kind", ["mha", "gqa"])
@pytest.mark.parametrize("bos", ["text", "none", "window"])
def test_equals_the_plain_loop(tiny_model, tiny_tokenizer, tiny_data_dir, kind, bos):
    model = tiny_model(kind)
    row = perplexity(model, tiny_tokenizer, preset="64", bos=bos, progress=False).iloc[0]
    ids = tiny_tokenizer(text_of(), add_special_tokens=bos == "text")["input_ids"]
    expected, losses = loop(model, ids, 64, tiny_tokenizer.bos_token_id if bos == "window" else None)
    assert row.perplexity == pytest.approx(expected, rel=1e-5)
    assert row.samples == len(ids) // 64 == len(losses) and row.tokens == 63 * len(losses)
    error = np.std(losses, ddof=1) / math.sqrt(len(losses))
    assert row.nll_stderr == pytest.approx(error, rel=1e-4)
    assert row.high == pytest.approx(expected * math.exp(1.96 * error), rel=1e-4)
    assert row.bos == {"text": "start of text", "none": "none", "window": "every window"}[bos]


def test_a_model_that_knows_nothing_has_the_vocabulary_as_its_perplexity(tiny_model, tiny_tokenizer, tiny_data_dir):
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    row = perplexity(model, tiny_tokenizer, preset="64", progress=False).iloc[0]
    size = len(tiny_tokenizer)
    assert row.perplexity == pytest.approx(size, rel=1e-6)
    assert row.bits_per_byte == pytest.approx(row.tokens * math.log2(size) / row.bytes, rel=1e-6)


def test_bytes_are_those_of_the_tokens_scored(tiny_model, tiny_tokenizer, tiny_data_dir):
    file = tiny_data_dir / "wikitext" / "wikitext-2-raw-v1" / "test.parquet"
    pd.DataFrame({"text": ["Café – naïve 😀 otter, the kettle. " * 6]}).to_parquet(file)  # 1 to 4 bytes a character
    ids, ends = module._tokenise(tiny_tokenizer, text_of(), True)
    assert ends[0] == 0 and ends[-1] == len(text_of().encode()) and (np.diff(ends) >= 0).all()
    row = perplexity(tiny_model(), tiny_tokenizer, preset="16", progress=False).iloc[0]
    pieces = [ids[start + 1 : start + 16] for start in range(0, len(ids) - 15, 16)]
    bytes_of_tokens = sum(len(tiny_tokenizer.convert_ids_to_tokens(int(i))) for piece in pieces for i in piece)
    # byte-level tokens have one character a byte; a split character counts when it is complete
    assert abs(row.bytes - bytes_of_tokens) <= 6 * row.samples and row.bytes < len(text_of().encode())


def test_independent_of_batch_size_but_not_of_the_preset(tiny_model, tiny_tokenizer, tiny_data_dir, monkeypatch):
    model, values = tiny_model(), []
    for number, batch_tokens in enumerate((1, 130, 10**6)):
        monkeypatch.setenv("SEAP_STORE_DIR", str(tiny_data_dir / f"store{number}"))
        values.append(perplexity(model, tiny_tokenizer, preset="64", batch_tokens=batch_tokens, progress=False).nll[0])
    assert max(values) - min(values) < 1e-6
    assert abs(perplexity(model, tiny_tokenizer, preset="16", progress=False).nll[0] - values[0]) > 1e-3


def test_random_windows_score_their_end(tiny_model, tiny_tokenizer, tiny_data_dir):
    model = tiny_model()
    windows = module.Windows(model, tiny_tokenizer, "wikitext2", "random", None, 0, "text")
    frame = windows.measure(model, 200)
    assert len(frame) == 9 and frame.start.is_unique and (frame.tokens == 16).all()
    ids = torch.tensor(windows.ids)
    for row in frame.itertuples():
        piece = ids[row.start : row.start + 64]
        with torch.inference_mode():
            logprobs = model(piece[None]).logits[0, :-1].log_softmax(-1)
        assert row.nll == pytest.approx(-logprobs[-16:].gather(1, piece[-16:, None]).sum().item(), rel=1e-5)
    other = module.Windows(model, tiny_tokenizer, "wikitext2", "random", None, 1, "text")
    assert set(other.starts) != set(windows.starts)
    assert windows.label["stride"] == 0 and windows.label["samples"] == 9


def test_fewer_windows_are_a_seeded_choice(tiny_model, tiny_tokenizer, tiny_data_dir):
    one = perplexity(tiny_model(), tiny_tokenizer, preset="16", samples=5, progress=False).iloc[0]
    all_starts = module.Windows(tiny_model(), tiny_tokenizer, "wikitext2", "16", None, 0, "text").starts
    few = module.Windows(tiny_model(), tiny_tokenizer, "wikitext2", "16", 5, 0, "text").starts
    assert one.samples == 5 == len(few) and set(few) < set(all_starts) and sorted(few) == list(few)


def test_a_short_context_cuts_the_window_and_says_so(tiny_model, tiny_tokenizer, tiny_data_dir):
    row = perplexity(tiny_model(max_position_embeddings=32), tiny_tokenizer, preset="2048", progress=False).iloc[0]
    assert row.window == row.stride == 32 and row.preset == "2048, cut to the context of 32"
    assert row.dataset == "wikitext2" and row.split == "test"
    assert row.data_version.startswith("wikitext-2-raw-v1@")
    assert row.method == "dense" and row.requested_sparsity == 0


def test_variants_and_store(tiny_model, tiny_tokenizer, tiny_data_dir, monkeypatch):
    @dataclass(frozen=True)
    class Flat:
        label: dict
        fingerprint: str = "flat"

        def apply(self, model):
            import copy

            calls.append(1)
            model = copy.deepcopy(model)
            with torch.no_grad():
                model.lm_head.weight.zero_()
            return model

    calls, model = [], tiny_model()
    flat = Flat({"method": "flat", "requested_sparsity": 0.5, "calibration_seed": 1})
    first = perplexity(model, tiny_tokenizer, preset="64", variants=[None, flat], progress=False)
    assert first.method.tolist() == ["dense", "flat"]
    assert first.perplexity[1] == pytest.approx(len(tiny_tokenizer)) and first.perplexity[0] != first.perplexity[1]
    pd.testing.assert_frame_equal(
        perplexity(model, tiny_tokenizer, preset="64", variants=[None, flat], progress=False), first
    )
    assert calls == [1]
    assert perplexity(tiny_model(seed=1), tiny_tokenizer, preset="64", progress=False).nll[0] != first.nll[0]


PUBLISHED = {  # DESIGN's conventions: window, tokens scored in it, stride (0: random starts), windows
    "2048": (2048, 2047, 2048, None),
    "flap128": (128, 127, 128, None),
    "paper": (2048, 512, 0, 128),
    "authors512": (512, 511, 512, None),
}


@pytest.mark.parametrize("preset", PUBLISHED)
@pytest.mark.parametrize("bos", ["text", "window", "none"])
def test_presets_are_the_published_conventions_and_say_so(tiny_model, tiny_tokenizer, tiny_data_dir, preset, bos):
    window, scored, stride, count = PUBLISHED[preset]
    assert set(PRESETS) >= set(PUBLISHED)
    file = tiny_data_dir / "wikitext" / "wikitext-2-raw-v1" / "test.parquet"
    pd.DataFrame({"text": pd.read_parquet(file)["text"].tolist() * 12}).to_parquet(file)
    model = tiny_model(max_position_embeddings=2048)
    row = perplexity(model, tiny_tokenizer, preset=preset, bos=bos, samples=3, progress=False).iloc[0]
    assert (row.preset, row.window, row.stride, row.samples) == (preset, window, stride, 3)
    assert row.tokens == 3 * scored and row.bytes > 0
    whole = module.Windows(model, tiny_tokenizer, "wikitext2", preset, None, 0, bos)
    tokens = len(whole.ids)
    assert whole.label["samples"] == (count or tokens // window)
    assert row.data_version == whole.label["data_version"] == f"wikitext-2-raw-v1@{row.data_version[-8:]}"
    assert row.dataset == "wikitext2" and row.split == "test"
    assert row.bos == {"text": "start of text", "window": "every window", "none": "none"}[bos]


def test_bad_input_is_one_clear_error(tiny_model, tiny_tokenizer, tiny_data_dir):
    model = tiny_model()
    with pytest.raises(ValueError, match="flap182.*flap128"):
        perplexity(model, tiny_tokenizer, preset="flap182")
    with pytest.raises(ValueError, match="piqa.*wikitext2, mini_wikitext"):
        perplexity(model, tiny_tokenizer, "piqa")
    with pytest.raises(ValueError, match="c4.*wikitext2, mini_wikitext$"):
        perplexity(model, tiny_tokenizer, "c4")  # its sample is for calibration
    with pytest.raises(ValueError, match="wikitext2"):
        perplexity(model, tiny_tokenizer, "wikitext")
    with pytest.raises(ValueError, match="yes"):
        perplexity(model, tiny_tokenizer, bos="yes")
    with pytest.raises(ValueError, match="4096"):
        perplexity(tiny_model(max_position_embeddings=4096), tiny_tokenizer, preset="long")


def test_raw_wikitext_has_no_unknown_words(real_data_dir):
    text = text_of()
    assert "<unk>" not in text and len(text) > 10**6


def test_contrasts_name_both_sides_and_average_experts():
    rows = []
    for name, nll in {"SEAP": (3.0, 5.0), "FLAP": (2.0, 2.0), "dense": (1.0, 1.0)}.items():
        for expert in (0, 1) if name == "SEAP" else (0,):
            for start in range(6):
                about = {"method": name, "score": "none" if name == "dense" else "s_F", "preset": "64", "start": start}
                about |= {"requested_sparsity": 0.0 if name == "dense" else 0.5, "tokens": 1, "variant": expert}
                rows.append(about | {"nll": nll[expert] + 0.1 * start})
    Named = namedtuple("Named", "name score")
    pairs = {(Named("SEAP", "s_F"), Named("FLAP", "s_F")): "SEAP costs more", (Named("FLAP", "s_F"), None): ""}
    found = module.contrasts(pd.DataFrame(rows), pairs, [0.5], draws=300)
    assert found[["a", "b", "claim"]].values.tolist() == [
        ["SEAP, s_F", "FLAP, s_F", "SEAP costs more"], ["FLAP, s_F", "dense", ""]
    ]  # fmt: skip
    assert found["ratio"].tolist() == pytest.approx([math.e**2, math.e]), "experts by their geometric mean"
    assert (found["n"] == 6).all() and (found["p"] == found["p_floor"]).all()


def test_train_mode_is_left_while_measuring(tiny_model, tiny_tokenizer, tiny_data_dir, monkeypatch, tmp_path):
    model = tiny_model(attention_dropout=0.5)
    expected = perplexity(model, tiny_tokenizer, preset="64", progress=False)
    monkeypatch.setenv("SEAP_STORE_DIR", str(tmp_path / "another store"))
    pd.testing.assert_frame_equal(perplexity(model.train(), tiny_tokenizer, preset="64", progress=False), expected)
    assert model.training


def test_texts_of_your_own_have_a_perplexity(tiny_model, tiny_tokenizer, tiny_data_dir):
    model, sections = tiny_model(), [text for text in text_of().split("\n\n") if text.strip()]
    mine = corpora.corpus(sections, name="mine")
    row = perplexity(model, tiny_tokenizer, mine, preset="64", progress=False).iloc[0]
    windows = module.Windows(model, tiny_tokenizer, mine, "64", None, 0, "text")
    assert (row.dataset, row.split, row.method) == ("mine", "own texts", "dense") and row.samples == len(windows.starts)
    assert row.nll == pytest.approx(perplexity(model, tiny_tokenizer, preset="64", progress=False)["nll"][0], rel=0.2)
