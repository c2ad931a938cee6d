"""Words, overlaps and template words on texts small enough to count by hand."""

import pytest

from seaplib.texts import words
from seaplib.texts.corpora import Corpus, corpus

pytestmark = pytest.mark.unit


def test_words_and_marks_count_alike_and_case_does_not():
    assert words.words("Anna didn't give _ 1.5?") == ["anna", "didn", "'", "t", "give", "_", "1", ".", "5", "?"]


def test_template_words_are_those_of_nearly_all_texts_of_one_task():
    texts = {"sums": ["How many pears?", "How many nuts?", "How much?"], "facts": ["Water is wet.", "Stone is dry."]}
    assert words.template_words(texts, 1.0) == {"sums": {"how", "?"}, "facts": {"is", "."}}
    assert words.template_words(texts, 0.6)["sums"] == {"how", "many", "?"}
    with pytest.raises(ValueError, match="share"):
        words.template_words(texts, 0.0)


def test_without_leaves_the_rest_as_it_was():
    assert words.without("How many Pears has Ann's aunt?", {"how", "many", "?", "'"}) == "Pears has Ann s aunt"
    assert words.without("How many?", {"how", "many", "?"}) == ""


def test_overlap_is_the_jaccard_index_of_word_types():
    frame = words.overlap({"a": ["x y", "y z"], "b": ["Y z w"]}).set_index(["task_a", "task_b"])["overlap"]
    assert frame.to_dict() == {("a", "a"): 1.0, ("a", "b"): 0.5, ("b", "b"): 1.0}


def test_describe_counts_tokens_words_and_truncations(tiny_data_dir, tiny_tokenizer):
    drawn = corpus("piqa", 6)
    row = words.describe({"piqa": drawn}, tiny_tokenizer, context=12).iloc[0]
    lengths = [len(tiny_tokenizer(text)["input_ids"]) for text in drawn.texts]
    assert row["tokens"] == sum(lengths) and row["tokens_max"] == max(lengths)
    assert row["truncated"] == sum(length > 12 for length in lengths) > 0
    assert (row["texts"], row["available"], row["left_out"]) == (6, 24, 0)
    one = Corpus("t", ("a b a",), ("0",), {"rows": 1, "data": "file", "dataset": "t"})
    assert words.describe({"t": one}, tiny_tokenizer).iloc[0][["word_types", "words_median"]].tolist() == [2, 3]
