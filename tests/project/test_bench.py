"""The benchmarks' own parts: what they compare with, count and write. No time is tested."""

import pandas as pd
import pytest
import torch
from bench import calibration, common, decoding, plain, report

from seaplib import activations, models, pruning
from seaplib.activations import capture
from seaplib.texts import corpora

pytestmark = pytest.mark.unit

TEXTS = ("the otter", "A kettle is used to boil water before the tea is made.", "grey stone")


def test_the_plain_way_gives_the_same_statistics(tiny_model, tiny_tokenizer):
    model = tiny_model("gqa")
    slow = plain.calibrate(model, tiny_tokenizer(list(TEXTS))["input_ids"])
    corpus = corpora.Corpus("mine", TEXTS, ("0", "1", "2"), {})
    fast = activations.collect(model, tiny_tokenizer, corpus, progress=False)
    for module, role in capture.UNITS.items():
        for layer in range(len(models.decoder_layers(model))):
            own = slow[layer, role]
            assert own.count == fast.count
            for name in ("mean", "var", "second_moment"):
                expected = getattr(fast, name)[module][layer].float()
                torch.testing.assert_close(getattr(own, name), expected, rtol=1e-4, atol=1e-6)


def test_texts_are_as_long_as_recorded():
    recorded = pd.read_csv(common.LENGTHS)
    words, found = calibration.tokenizer(), calibration.texts()
    assert [one.task for one in found] == list(recorded["task"].unique()) and len(recorded) == 200
    for one in found:
        encoded = words(list(one.texts))["input_ids"]
        assert list(map(len, encoded)) == list(recorded.loc[recorded["task"] == one.task, "tokens"])
        assert all(ids[0] == words.bos_token_id and words.unk_token_id not in ids for ids in encoded)


def test_bytes_read_are_counted(tiny_model):
    model = tiny_model("gqa", num_hidden_layers=6)
    table = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is not table
    unread = (len(table) - 1) * table.shape[1] * 4
    assert decoding.bytes_read(model) == sum(p.numel() * 4 for p in model.parameters()) - unread
    pruned = pruning.prune(model, decoding.mask(model, 0.3))
    gone = models.projection_parameters(model) - models.projection_parameters(pruned)
    assert decoding.bytes_read(model) - decoding.bytes_read(pruned) == 4 * gone > 0


def test_published_gains_stand_beside():
    assert decoding.published(0.2) == "Llama-2-7B: SEAP 1.17, FLAP 1.22"
    assert decoding.published(0.5, "Llama-2-13B") == "Llama-2-13B: SEAP 1.52, FLAP 1.58"


def test_a_row_compares_its_median_with_the_target():
    row = common.row("case", "gain", [3, 1, 2], target=">= 2")
    assert (row["median"], row["min"], row["max"], row["rounds"], row["met"]) == (2, 1, 3, 3, "yes")
    assert common.row("case", "gain", [3, 1, 2], target="<= 1.9")["met"] == "no"
    assert common.row("case", "gain", 5.0)["met"] == ""


def test_calls_take_turns():
    order = []
    seconds = common.in_turn({name: lambda name=name: order.append(name) for name in "ABC"}, 3, warm_up=False)
    assert "".join(order) == "ABCBCACAB" and seconds.shape == (3, 3) and (seconds >= 0).all(axis=None)


def test_the_table_says_what_was_measured(tmp_path):
    about = pd.DataFrame({"group": "decoding", "what": ["cores", "clock"], "value": ["2", "wall"]})
    about.to_csv(tmp_path / "machine.csv", index=False)
    rows = [
        common.row("a", "gain", [2.0, 3.0, 4.0], target=">= 4.5"),
        common.row("a", "time", 1.5, "s"),
        common.row("b", "gain", [1.1, 1.2], published="X: SEAP 1.17, FLAP 1.22"),
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "decoding.csv", index=False)
    report.write(tmp_path)
    summary = (tmp_path / "summary.md").read_text().splitlines()
    assert summary[0] == "cores 2, clock wall."
    title = report.GROUPS["decoding"]
    missed, timed = f"| {title} | a | gain | 3× | 2 – 4 | ≥ 4.5 | no |", f"| {title} | a | time | 1.5 s |  |  |  |"
    beside = f"| {title} | b | gain (published for X: SEAP 1.17, FLAP 1.22) | 1.15× | 1.1 – 1.2 |  |  |"
    assert summary[4:] == [missed, timed, beside]
    assert (tmp_path / "targets.md").read_text().splitlines()[4:] == [missed, beside]
    both = pd.concat([about, about.assign(group="safety"), about.assign(group="gpu", value="8")])
    first, second = report.machines(both)
    assert first == f"{title}, {report.GROUPS['safety']}: cores 2, clock wall."
    assert second == f"{report.GROUPS['gpu']}: cores 8, clock 8."
