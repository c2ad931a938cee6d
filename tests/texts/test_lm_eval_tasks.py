"""Any lm-eval task by its name: which ones, from where, scored as lm-eval does, worded by their own templates."""

import json
import os
import subprocess
import sys

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from conftest import SENTENCES
from lm_eval_alone import sciq, stock

import seaplib
from seaplib import evaluation
from seaplib.evaluation import lm_eval as harness
from seaplib.models import likelihood
from seaplib.settings import Calibration, Evaluation
from seaplib.texts import corpora, lm_eval, rows, tasks

pytestmark = pytest.mark.unit


@pytest.fixture
def write(tmp_path, monkeypatch):
    """``write(folder, split, frame)`` into a data directory of its own, which SEAP_DATA_DIR names."""
    monkeypatch.setenv("SEAP_DATA_DIR", str(tmp_path / "data"))

    def to(folder: str, split: str, frame: pd.DataFrame):
        (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
        frame.to_parquet(tmp_path / "data" / folder / f"{split}.parquet", index=False)
        return tmp_path / "data" / folder / f"{split}.parquet"

    return to


@pytest.fixture
def sciq_dir(write, tmp_path):
    for split, n in {"train": 30, "validation": 7, "test": 16}.items():
        write("sciq", split, sciq(split, n))
    return tmp_path / "data"


def test_a_name_is_enough():
    task = tasks.get("sciq")
    assert (task.train.path, task.train.config, task.train.splits) == ("allenai/sciq", None, ("train",))
    assert (task.test.splits, task.train.local, task.metric) == (("test",), ("sciq",), "acc_norm")
    assert {"support", "question", "correct_answer"} <= set(task.train.columns)
    assert "sciq" not in tasks.names(), "nothing is registered by asking"
    rte = tasks.get("sglue_rte")  # validation is its test, and only accuracy is offered
    assert (rte.test.splits, rte.test.local, rte.metric) == (("validation",), ("super_glue/rte",), "acc")
    assert tasks.get("lambada_openai").train is None
    assert tasks.get("nq_open").metric == "exact_match"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sciqq", "'sciqq'.*'sciq'"),
        ("piqqa", "'piqa'"),
        ("blimp", r"'blimp' .*blimp_adjunct_island, .* \(67\)"),
        ("ai2_arc", "arc_challenge, arc_easy$"),  # a tag, one of whose tasks inherits it
        ("mmlu_stem", "mmlu_abstract_algebra"),
        ("cola", "mcc.* acc_norm, acc, exact_match"),
        ("wikitext", "word_perplexity.*'wikitext2'"),
        ("squadv2", "Python"),
        ("pisa_de", "images"),
        ("qqqqqqqq", "boolq"),
    ],
)
def test_what_cannot_be_scored_is_said_in_a_line(name, said):
    with pytest.raises(ValueError, match=said) as raised:
        tasks.get(name)
    assert "\n" not in str(raised.value) and str(lm_eval.directory()) not in str(raised.value)


def test_names_are_those_of_lm_evals_own_index():
    from lm_eval.tasks._index import Kind, TaskIndex

    folders = [lm_eval.directory() / name for name in ("glue", "super_glue", "sciq", "blimp", "mmlu", "mmmlu")]
    for entry in TaskIndex.build(folders).values():
        if entry.kind == Kind.TASK:
            assert lm_eval.index().tasks[entry.name] == entry.yaml_path
        elif entry.kind == Kind.TAG and len(entry.tags) < 60:
            assert entry.tags <= set(lm_eval.members(entry.name)), entry.name
        else:
            assert entry.kind == Kind.TAG or entry.name in lm_eval.index().groups


def test_a_corpus_is_worded_by_the_tasks_own_templates(sciq_dir):
    corpus = corpora.corpus("sciq")
    by_id = dict(zip(corpus.ids, corpus.texts, strict=True))
    assert len(corpus) == 30 and corpus.source["wording"] == "lm-eval's templates"
    assert by_id["train-1"] == f"{SENTENCES[1]}\nQuestion: What is number 1 of the train?\nAnswer: copper"
    asked = corpora.questions("sciq", samples=5, seed=1)
    assert all(text.endswith("Answer:") for text in asked.texts)
    assert asked.ids == corpora.corpus("sciq", samples=5, seed=1).ids


def test_no_item_of_the_test_calibrates(sciq_dir, write):
    write("sciq", "train", pd.concat([sciq("train", 30), sciq("test", 2)]))
    corpus = corpora.corpus("sciq")
    assert len(corpus) == 30 and corpus.source["left_out"] == 2


def test_it_is_scored_as_lm_eval_scores_it(tiny_model, tiny_tokenizer, sciq_dir, tmp_path):
    from lm_eval.models.huggingface import HFLM

    model = tiny_model("gqa")
    expected = stock("sciq", sciq_dir, tmp_path, HFLM(model, tokenizer=tiny_tokenizer, batch_size=3))
    frame = evaluation.evaluate(model, tiny_tokenizer, ["sciq"], progress=False).set_index("metric")
    for metric in ("acc", "acc_norm"):
        assert frame.value[metric] == pytest.approx(expected["results"][f"{metric},none"], abs=1e-12)
    assert frame.primary.to_dict() == {"acc": False, "acc_norm": True, "exact_match": False}
    assert (frame.n == 16).all() and (frame.task_version == "1.0").all()
    sums = likelihood.score(model, harness.Bench(model, tiny_tokenizer, Evaluation()).prepared("sciq").batches)[0]
    answers = [answer for sample in expected["samples"] for answer in sample["filtered_resps"]]
    torch.testing.assert_close(torch.tensor(sums), torch.tensor([a for a, _ in answers]).double(), atol=1e-4, rtol=0)
    assert frame.chance.dropna().to_dict() == {"acc_norm": 0.25}


def test_from_its_name_to_a_pruned_models_accuracy(tiny_model, tiny_tokenizer, sciq_dir):
    model = tiny_model("gqa", num_hidden_layers=4)
    stats = seaplib.calibrate(model, tiny_tokenizer, ["sciq"], Calibration(samples=8))
    mask = seaplib.select(seaplib.score(stats["sciq"], "s_F"), sparsity=seaplib.logistic(0.3))
    frame = seaplib.evaluate(seaplib.prune(model, mask), tiny_tokenizer, ["sciq"], progress=False)
    assert set(frame.method) == {"pruned"} and frame[frame.primary].n.tolist() == [16]


def test_options_in_the_prompt_and_targets_that_are_texts(write):
    """WinoGrande's kind, a prefix that functions make, written answers, and a last word."""
    rte = pd.DataFrame({"premise": ["It rains."], "hypothesis": ["It is wet."], "label": [0]})
    write("super_glue/rte", "train", rte)
    texts = [
        text for *_, text in lm_eval.rendered(tasks.get("sglue_rte"), pq.read_table(write("super_glue/rte", "x", rte)))
    ]
    assert texts == ["It rains.\nQuestion: It is wet. True or False?\nAnswer: True"]
    copa = {"premise": ["The man slept."], "choice1": ["He was tired."], "choice2": ["He ran."], "question": ["cause"]}
    table = pq.read_table(write("x", "copa", pd.DataFrame(copa | {"label": [0]})))
    assert list(lm_eval.rendered(tasks.get("copa"), table)) == [
        (0, "The man slept because", " he was tired.", "The man slept because  he was tired.")  # two spaces: so scored
    ]
    nq = pd.DataFrame({"question": ["who sleeps"], "answer": [["the otter", "an otter"]]})
    *_, text = next(lm_eval.rendered(tasks.get("nq_open"), pq.read_table(write("x", "nq", nq))))
    assert text == "Q: who sleeps?\nA: the otter"
    table = pq.read_table(write("x", "lambada", pd.DataFrame({"text": ["she hung the wet towel"]})))
    assert list(lm_eval.rendered(tasks.get("lambada_openai"), table)) == [
        (0, "she hung the wet", " towel", "she hung the wet towel")
    ]
    wsc = {"sentence": "Anna gave Ben _ box", "option1": "his", "option2": "her", "answer": "2"}
    table = pq.read_table(write("x", "wino", pd.DataFrame([wsc])))
    assert list(lm_eval.rendered(tasks.get("winogrande"), table)) == [
        (0, "Anna gave Ben h", "er box", "Anna gave Ben her box")
    ]


def test_rows_that_a_task_leaves_out_keep_the_others_ids(write):
    frame = pd.DataFrame({"text": ["a b", "drop me", "c d"], "label": [0, 1, 0]})
    table = pq.read_table(write("x", "rows", frame))
    import datasets

    data = datasets.Dataset(datasets.table.InMemoryTable(table))
    kept, places = lm_eval._processed(data, lambda rows: rows.filter(lambda row: row["text"] != "drop me"))
    assert kept["text"] == ["a b", "c d"] and places == [0, 2] and kept.column_names == ["text", "label"]
    with pytest.raises(ValueError, match="ids"):
        lm_eval._processed(
            data, lambda rows: rows.select_columns(["text"]).filter(lambda row: row["text"] != "drop me")
        )


def test_a_task_without_training_rows_is_scored_and_not_calibrated_on(tiny_model, tiny_tokenizer, write):
    write("lambada_openai/default", "test", pd.DataFrame({"text": [f"{s} the end" for s in SENTENCES]}))
    frame = evaluation.evaluate(tiny_model(), tiny_tokenizer, ["lambada_openai"], progress=False)
    assert frame.metric.tolist() == ["acc", "log_likelihood"] and set(frame.n) == {len(SENTENCES)}
    assert frame.primary.tolist() == [True, False] and frame.value[1] < 0
    with pytest.raises(ValueError, match="lambada_openai"):
        corpora.corpus("lambada_openai")
    with pytest.raises(ValueError, match="lambada_openai"):
        rows.check("lambada_openai")


def test_a_plan_looks_at_its_files(sciq_dir):
    rows.check("sciq")
    file = sciq_dir / "sciq" / "train.parquet"
    sciq("train", 5).drop(columns="support").to_parquet(file)
    with pytest.raises(ValueError, match="sciq: .*support"):
        rows.check("sciq")
    file.unlink()
    with pytest.raises(FileNotFoundError, match="sciq/train.parquet"):
        rows.check("sciq")
    for name, said in {"sciqq": "'sciq'", "blimp": "blimp_adjunct_island", "cola": "mcc"}.items():
        with pytest.raises(ValueError, match=said):
            rows.check(name)


def test_a_plan_imports_no_torch(sciq_dir):
    code = (
        "import sys; sys.argv, sys.orig_argv = ['-m'], ['-m', 'seaplib']\n"
        "import seaplib.runner.checks\nfrom seaplib.texts import rows\n"
        "rows.check('sciq')\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.stdout.strip() == "False", done.stderr


def test_rows_that_do_not_fit_are_one_clear_error(tiny_model, tiny_tokenizer, sciq_dir, write):
    write("sciq", "test", sciq("test", 4).drop(columns="distractor2"))
    with pytest.raises(ValueError, match="sciq: .*distractor2"):
        evaluation.evaluate(tiny_model(), tiny_tokenizer, ["sciq"], progress=False)
    frame = pd.DataFrame({"premise": ["The man slept."], "choice1": ["He was tired."], "label": [0]})
    write("super_glue/copa", "validation", frame)
    with pytest.raises(ValueError, match="copa .*premise, choice1, label"):
        evaluation.evaluate(tiny_model(), tiny_tokenizer, ["copa"], progress=False)
    frame = pd.DataFrame({"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [1, -1]})
    write("super_glue/rte", "train", frame)
    write("super_glue/rte", "validation", frame)
    with pytest.raises(ValueError, match="sglue_rte: row 1 .*label -1"):
        corpora.corpus("sglue_rte")
    with pytest.raises(ValueError, match="sglue_rte: item validation-1 .*label -1"):
        evaluation.evaluate(tiny_model(), tiny_tokenizer, ["sglue_rte"], progress=False)


OWN = """
task: my_quiz
dataset_path: json
dataset_kwargs:
  data_files: {train: train.jsonl, test: test.jsonl}
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: options
doc_to_target: right
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture
def quiz(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "_REGISTRY", dict(tasks._REGISTRY))
    for split, count in (("train", 6), ("test", 4)):
        rows = [{"question": f"{split} {i}?", "options": ["yes", "no"], "right": i % 2} for i in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "quiz.yaml").write_text(OWN)
    return tmp_path / "quiz.yaml"


@pytest.mark.parametrize("local", [False, True])
def test_a_yaml_of_your_own_is_a_task_by_its_path(quiz, tiny_model, tiny_tokenizer, tmp_path, monkeypatch, local):
    """Pruned for it, and measured on it, whether or not SEAP_DATA_DIR names other data."""
    if local:
        monkeypatch.setenv("SEAP_DATA_DIR", str(tmp_path))
    else:
        monkeypatch.delenv("SEAP_DATA_DIR", raising=False)
    texts = seaplib.corpus(str(quiz))
    assert texts.task == "my_quiz" and sorted(texts.texts)[1] == "Question: train 1?\nAnswer: no"
    options = {"settings": seaplib.Evaluation(items=4), "progress": False}
    found = seaplib.evaluate(tiny_model(), tiny_tokenizer, [str(quiz)], **options)
    again = seaplib.evaluate(tiny_model(), tiny_tokenizer, ["my_quiz"], **options)
    assert set(found["task"]) == {"my_quiz"} and set(found["n"]) == {4} and found.equals(again)
    assert found[found["primary"]]["metric"].tolist() == ["acc"]


def test_an_edited_yaml_is_read_anew(quiz):
    assert tasks.get(str(quiz)).metric == "acc"
    quiz.write_text(OWN.replace("metric: acc,", "metric: acc_norm,"))
    os.utime(quiz, ns=(1, 1))
    assert tasks.get(str(quiz)).metric == "acc_norm"


def test_a_yaml_that_is_no_task_is_one_line(quiz):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        tasks.get("nowhere.yaml")
    quiz.write_text(OWN.replace("my_quiz", "piqa"))
    with pytest.raises(ValueError, match="another task named 'piqa'"):
        tasks.get(str(quiz))
    quiz.with_name("other.yaml").write_text(OWN.replace("test_split: test\n", ""))
    with pytest.raises(ValueError, match="neither a test nor a validation split"):
        tasks.get(str(quiz.with_name("other.yaml")))
