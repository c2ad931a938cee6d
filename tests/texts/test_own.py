"""Questions and answers of one's own, from rows to a routed, evaluated expert."""

import numpy as np
import pandas as pd
import pytest
import torch

import seaplib
from seaplib.evaluation import comparison
from seaplib.experts import variants
from seaplib.texts import tasks

pytestmark = pytest.mark.unit

QUIET = {"settings": seaplib.Evaluation(items=6), "progress": False}


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(tasks, "_REGISTRY", dict(tasks._REGISTRY))


def pairs(word: str, count: int = 20) -> list[tuple[str, str]]:
    return [(f"Where is the {word} {n}?", f"in box {n % 3}") for n in range(count)]


def quiz(count: int = 20) -> pd.DataFrame:
    rows = pd.DataFrame(pairs("key", count), columns=["question", "answer"])
    return rows.assign(options=[["in box 0", "in box 1", "in box 2"]] * count)


def test_with_options_accuracy_and_without_the_answers_likelihood(tiny_model, tiny_tokenizer):
    model = tiny_model("gqa")
    chosen = seaplib.own_task("quiz", quiz())
    found = seaplib.evaluate(model, tiny_tokenizer, [chosen], **QUIET).set_index("metric")
    assert set(found.index) == {"acc", "acc_norm", "exact_match"} and (found.n == 4).all(), "a fifth is held out"
    assert found.chance["acc_norm"] == pytest.approx(1 / 3) and found.primary["acc_norm"]
    written = seaplib.own_task("letters", pairs("letter"), pairs("parcel", 6))
    found = seaplib.evaluate(model, tiny_tokenizer, [written], **QUIET).set_index("metric")
    assert set(found.index) == {"acc", "log_likelihood"} and (found.n == 6).all()
    sums = []
    for question, answer in pairs("parcel", 6):
        asked, whole = (
            tiny_tokenizer(text, return_tensors="pt").input_ids for text in (question, f"{question} {answer}")
        )
        with torch.no_grad():
            logprobs = model(whole).logits.log_softmax(-1)[0, asked.shape[1] - 1 : -1]
        sums.append(logprobs.gather(1, whole[0, asked.shape[1] :, None]).sum().item())
    assert found.value["log_likelihood"] == pytest.approx(np.mean(sums), rel=1e-5)
    assert not found.at_chance["log_likelihood"] and found.detectable["log_likelihood"] > 0


def test_held_out_rows_calibrate_nothing(tmp_path):
    name = seaplib.own_task("quiz", quiz(), held_out=0.25, seed=3)
    train, test = seaplib.corpus(name), seaplib.questions(name, split="test")
    assert len(train) == 15 and len(test) == 5
    assert not {text.split("?")[0] for text in train.texts} & {text.split("?")[0] for text in test.texts}
    again = seaplib.own_task("again", quiz(), quiz(4))
    assert len(seaplib.corpus(again)) == 16, "rows that the test repeats are left out"
    quiz().to_parquet(tmp_path / "mine.parquet")
    assert seaplib.own_task("file", tmp_path / "mine.parquet", folder=tmp_path / "there") == "file"
    assert tasks.get(str(tmp_path / "there" / "file.yaml")).name == "file", "its path names it in another process"


def test_registered_again_with_other_rows_it_is_another_task(tiny_model, tiny_tokenizer):
    model, seen = tiny_model("gqa"), []
    for rows in (pairs("key"), pairs("door"), pairs("key")):
        name = seaplib.own_task("mine", rows)
        seen.append(
            seaplib.evaluate(model, tiny_tokenizer, [name], **QUIET).set_index("metric").value["log_likelihood"]
        )
    assert seen[0] == seen[2] != seen[1]


def test_pruned_routed_and_compared(tiny_model, tiny_tokenizer):
    """From one's own rows to the question whether they helped."""
    model = tiny_model("gqa", num_hidden_layers=4)
    names = [seaplib.own_task(word, pairs(word, 30)) for word in ("key", "ship")]
    stats = seaplib.calibrate(model, tiny_tokenizer, names, seaplib.Calibration(samples=8))
    masks = {name: seaplib.select(seaplib.score(stats[name]), seaplib.energy(0.3)) for name in names}
    made = [None, *(seaplib.Variant({"method": name}, mask) for name, mask in masks.items())]
    items = seaplib.evaluate_items(model, tiny_tokenizer, "key", made, **QUIET)
    found = comparison.compare(items, {"method": "key"}, {"method": "ship"}, metric="log_likelihood")
    assert found["low"] <= found["difference"] <= found["high"] and found["n"] == 6
    options = {"calibration": seaplib.Calibration(samples=8), "routing": seaplib.Routing(per_task=20)}
    fleet = variants.build(model, tiny_tokenizer, names, names[0], 0.3, **options)
    assert set(fleet.masks) == {*names, "general"}
    assert set(fleet.choose([question for question, _ in pairs("ship", 3)])) <= {"ship", "general"}
    routed = seaplib.evaluate(fleet, tiny_tokenizer, names, **QUIET)
    assert set(routed["task"]) == set(names)


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        (["a text"], {}, "row 0 has no question"),
        ([("Where?", "")], {}, "row 0 has no answer"),
        ([("Where?", "here")], {}, "a single row"),
        (quiz().assign(answer="nowhere"), {}, "row 0 needs two options"),
        (quiz().assign(options="in box 0"), {}, "row 0 has options that are no list"),
        (pd.concat([quiz(), quiz().drop(columns="options")]), {}, "some rows have options"),
        (pairs("key"), {"held_out": 1.5}, "held_out"),
        (pairs("key"), {"seed": -1}, "seed"),
        ([], {}, "no rows"),
    ],
)
def test_rows_that_make_no_task(rows, options, said):
    with pytest.raises(ValueError, match=said):
        seaplib.own_task("mine", rows, **options)


@pytest.mark.parametrize("name", ["piqa", "sciq", "../mine", ""])
def test_names_that_are_taken_or_none(name):
    with pytest.raises(ValueError, match="another task|is no name"):
        seaplib.own_task(name, pairs("key"))
