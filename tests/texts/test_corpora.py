"""Corpora: draws, documents, bad files, and that no calibration item is evaluated."""

import pandas as pd
import pytest

from seaplib.texts import rows, tasks
from seaplib.texts.corpora import Corpus, corpus, questions
from seaplib.texts.rows import read_rows

pytestmark = pytest.mark.unit


def test_a_draw_is_stable_and_a_smaller_one_begins_a_larger(tiny_data_dir):
    small, large = corpus("piqa", samples=6, seed=3), corpus("piqa", samples=12, seed=3)
    assert large.texts[:6] == small.texts and large.ids[:6] == small.ids
    assert len(set(large.ids)) == 12
    assert corpus("piqa", samples=6, seed=3).fingerprint == small.fingerprint
    assert corpus("piqa", samples=6, seed=4).fingerprint != small.fingerprint
    assert large.first(6).fingerprint == small.fingerprint and len(large.first(99)) == 12
    assert len(corpus("piqa", samples=10**6)) == len(corpus("piqa")) == 24


def test_source_says_where_texts_come_from(tiny_data_dir):
    one = corpus("arc_easy", samples=5)
    assert one.ids[0].startswith("train_")
    assert one.source["dataset"] == "allenai/ai2_arc" and one.source["config"] == "ARC-Easy"
    assert list(one.source["files"]) == ["ai2_arc/ARC-Easy/train.parquet"]
    assert str(tiny_data_dir) not in str(one.source)  # an artefact says nothing about this machine
    assert "arc_easy, 5 texts" in repr(one) and list(one.head(2).columns) == ["id", "text"]


def test_save_and_load(tiny_data_dir, tmp_path):
    one = corpus("winogrande", samples=4)
    one.save(tmp_path / "corpus")
    assert Corpus.load(tmp_path / "corpus") == one


def test_rows_that_the_test_repeats_are_left_out(tiny_data_dir):
    file = tiny_data_dir / "piqa" / "train.parquet"
    train, test = pd.read_parquet(file), pd.read_parquet(tiny_data_dir / "piqa" / "validation.parquet")
    pd.concat([train, test.head(2)]).to_parquet(file, index=False)
    one = corpus("piqa")
    assert len(read_rows("piqa", "train")) == 26 and len(one) == 24 and one.source["left_out"] == 2
    assert not {tasks.get("piqa").text(row) for row in read_rows("piqa", "test")} & set(one.texts)
    assert len(questions("piqa")) == 26  # prompts to classify are not calibration


def test_expert_corpus_avoids_every_test_it_serves(tiny_data_dir):
    """arc_challenge's corpus makes the expert for ARC-easy too."""
    source, target = tiny_data_dir / "ai2_arc" / "ARC-Easy", tiny_data_dir / "ai2_arc" / "ARC-Challenge"
    target.mkdir()
    pd.read_parquet(source / "train.parquet").to_parquet(target / "test.parquet")
    pd.read_parquet(source / "test.parquet").to_parquet(target / "train.parquet")
    with pytest.raises(ValueError, match="arc_challenge"):
        corpus("arc_challenge")


def test_questions_have_no_answers(tiny_data_dir):
    asked = questions("piqa", samples=5, seed=1)
    assert asked.ids == corpus("piqa", samples=5, seed=1).ids
    assert all(text.endswith("(train)?") for text in asked.texts)
    assert all("(validation)" in text for text in questions("piqa", split="test").texts)


def test_wikitext_documents_are_sections(tiny_data_dir):
    found = read_rows("wikitext2")
    sections = rows.documents(found)
    assert [text.split("\n")[0] for _, text in sections] == ["= Harbour train =", "= = Stone = ="]
    assert sum(len(text.split("\n")) for _, text in sections) == sum(bool(row["text"].strip()) for row in found)


def test_headings_without_a_paragraph_join_the_next_section():
    import pyarrow as pa

    lines = [" = A = \n", "", " = = B = = \n", " text \n", " = C = \n"]
    found = rows.Rows(pa.table({"text": lines}), tuple("abcde"), {})
    assert rows.documents(found) == [("a", "= A =\n= = B = =\ntext")]
    plain = rows.Rows(pa.table({"text": ["one", " ", "two"]}), tuple("abc"), {})
    assert rows.documents(plain) == [("a", "one"), ("c", "two")]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl", ".json"])
def test_a_two_column_file_is_a_corpus(tmp_path, suffix):
    frame = pd.DataFrame({"question": ["a?", "b?", None], "answer": ["1", "NA", None], "other": [0, 0, 0]})
    file = tmp_path / f"mine{suffix}"
    write = {".parquet": frame.to_parquet, ".csv": lambda f: frame.to_csv(f, index=False)}
    write.get(suffix, lambda f: frame.to_json(f, orient="records", lines=suffix == ".jsonl"))(file)
    mine = corpus(file)
    assert sorted(mine.texts) == ["a? 1", "b? NA"] and mine.task == "mine"


def test_bad_files_are_one_clear_error(tmp_path):
    file = tmp_path / "mine.parquet"
    with pytest.raises(FileNotFoundError, match="mine.parquet"):
        corpus(file)
    pd.DataFrame({"prompt": ["a"], "answer": ["b"]}).to_parquet(file)
    with pytest.raises(ValueError, match="prompt, answer"):
        corpus(file)
    pd.DataFrame({"question": [], "answer": []}).to_parquet(file)
    with pytest.raises(ValueError, match="mine.parquet"):
        corpus(file)
    file.write_bytes(b"PAR1 not parquet")
    with pytest.raises(ValueError, match="parquet"):
        corpus(file)
    with pytest.raises(ValueError, match="mine.txt: .*parquet"):
        corpus(tmp_path / "mine.txt")
    with pytest.raises(ValueError, match="'piqa'"):
        corpus("piqqa")


def test_bad_local_data_is_one_clear_error(tiny_data_dir):
    with pytest.raises(FileNotFoundError, match="hellaswag/train.parquet .*subset/train.parquet"):
        corpus("hellaswag")
    file = tiny_data_dir / "piqa" / "train.parquet"
    pd.read_parquet(file).drop(columns="sol2").to_parquet(file)
    with pytest.raises(ValueError, match="piqa: .*sol2.*goal, sol1, label"):
        corpus("piqa")
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match="parquet"):
        corpus("piqa")
    with pytest.raises(ValueError, match="role"):
        read_rows("piqa", "validation")


def test_an_unreachable_hub_says_what_to_do(monkeypatch):
    import datasets

    def refuse(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.delenv("SEAP_DATA_DIR", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ConnectionError, match="SEAP_DATA_DIR .*piqa/train.parquet"):
        corpus("piqa")


def test_sharded_names_of_the_hub_are_found(tiny_data_dir):
    folder = tiny_data_dir / "piqa"
    (folder / "train.parquet").rename(folder / "train-00000-of-00001.parquet")
    assert len(read_rows("piqa")) == 24


@pytest.mark.parametrize("name", [name for name in tasks.names() if name != "c4"])
def test_calibration_and_evaluation_never_meet(name, request):
    """For every task whose data are here: neither an id nor a text of the corpus is in the test."""
    task = tasks.get(name)
    if not task.bundled:
        request.getfixturevalue("real_data_dir")
    try:
        calibration, test = corpus(name), read_rows(name, "test")
    except FileNotFoundError as error:
        pytest.skip(f"data not at hand: {error}")
    assert not set(calibration.ids) & set(test.ids)
    if task.pair is None:
        evaluated = {text for _, text in rows.documents(test)}
    else:
        fact = {} if "fact1" in test.table.column_names or "fact1" not in task.train.columns else {"fact1": ""}
        evaluated = {task.text(row | fact) for row in test} | {" ".join(task.pair(row)) for row in test}
        answers = {text for i, text in zip(read_rows(name).ids, map(task.text, read_rows(name)), strict=True)}
        assert set(calibration.texts) <= answers
    assert not set(calibration.texts) & evaluated


def test_texts_of_your_own_come_from_memory_too(tmp_path):
    pairs = [("a?", "1"), ("b?", "2"), ("c?", " "), ("d?", None)]
    frame = pd.DataFrame(pairs, columns=["question", "answer"])
    frame.to_json(tmp_path / "pairs.json", orient="records")
    found = [corpus(pairs), corpus(frame), corpus(tmp_path / "pairs.json"), corpus(["a? 1", "b? 2", ""])]
    assert all(sorted(made.texts) == ["a? 1", "b? 2"] for made in found)
    assert [made.task for made in found] == ["own", "own", "pairs", "own"] and corpus(pairs, name="mine").task == "mine"
    assert found[0].source["left_out"] == 2 and "memory" in repr(found[0])
    assert corpus(pairs, samples=1, seed=3).texts == corpus(pairs, seed=3).texts[:1]
    for wrong in ([], ["text", ("question", "answer")], [("a", "b", "c")], [1, 2], pd.DataFrame({"body": ["x"]})):
        with pytest.raises(ValueError, match="own"):
            corpus(wrong)
    with pytest.raises(ValueError, match="own name"):
        corpus("piqa", name="mine")


def test_cells_are_texts_or_missing(tmp_path):
    """Bytes without the mark of UTF-8, and answers that are NaN, were calibrated on as b'…' and "nan"."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"question": [b"caf\xc3\xa9?", b"b?", b"c?"], "answer": pa.array([1.5, float("nan"), None])})
    pq.write_table(table, tmp_path / "bytes.parquet")
    assert corpus(tmp_path / "bytes.parquet").texts == ("café? 1.5",)
    pq.write_table(pa.table({"text": [b"whole", b"\xff\xfe"]}), tmp_path / "latin.parquet")
    with pytest.raises(ValueError, match=r"row 1.*UTF-8"):
        corpus(tmp_path / "latin.parquet")
    (tmp_path / "nan.jsonl").write_text('{"question": "a?", "answer": NaN}\n{"question": "b?", "answer": 2}\n')
    assert corpus(tmp_path / "nan.jsonl").texts == ("b? 2",)
    (tmp_path / "half.json").write_text('[{"text": "whole"}, {"text": "half \\ud83d"}]')
    with pytest.raises(ValueError, match=r"row 1.*UTF-8"):
        corpus(tmp_path / "half.json")
    with pytest.raises(ValueError, match=r"row 0.*UTF-8"):
        corpus(["half \ud83d"])


@pytest.mark.parametrize("good", [True, False])
def test_a_tasks_columns_of_bytes_are_texts(tiny_data_dir, good):
    import pyarrow as pa
    import pyarrow.parquet as pq

    before = corpus("piqa").texts
    for file in tiny_data_dir.glob("piqa/**/train*.parquet"):
        table = pq.read_table(file)
        column = pa.array([cell.encode() if good else b"\xff" for cell in table["goal"].to_pylist()], pa.binary())
        pq.write_table(table.set_column(table.schema.get_field_index("goal"), "goal", column), file)
    if good:
        assert corpus("piqa").texts == before
    else:
        with pytest.raises(ValueError, match=r"piqa.*goal.*UTF-8"):
            corpus("piqa")


@pytest.mark.parametrize("wrong", [{"samples": True}, {"samples": 1.0}, {"seed": -1}, {"seed": True}])
def test_a_draw_is_a_whole_number(wrong):
    with pytest.raises(ValueError, match="whole number"):
        corpus(["a text", "another"], **wrong)
