"""The task classifier: balance, held-out prompts, embeddings and the report, against scikit-learn and by hand."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import classification_report

from seaplib.experts import classifier

pytestmark = pytest.mark.unit
CLASSES = ["piqa", "arc_easy", "winogrande"]


def test_classes_are_balanced_and_prompts_have_no_answer(tiny_data_dir):
    frame = classifier.prompts(CLASSES, per_class=1000)
    assert frame["task"].value_counts().to_dict() == dict.fromkeys(CLASSES, 24)
    assert classifier.prompts(CLASSES, per_class=5)["task"].value_counts().eq(5).all()
    assert frame[frame["task"] == "winogrande"]["text"].str.contains("_").all()
    assert not frame[frame["task"] == "piqa"]["text"].str.contains("use").any()
    with pytest.raises(ValueError, match="classes"):
        classifier.prompts(["piqa"], 5)
    with pytest.raises(ValueError, match="'piqa'"):
        classifier.prompts(["piqua", "arc_easy"], 5)


def test_no_held_out_prompt_is_trained_on():
    texts = [f"prompt {i % 30}" for i in range(100)]
    frame = pd.DataFrame({"task": ["a", "b"] * 50, "text": texts})
    train, test = classifier.split(frame, 0.2, seed=0)
    assert len(test) == 20 and not set(train["text"]) & set(test["text"])
    assert set(train["text"]) | set(test["text"]) == set(texts)
    copies = pd.DataFrame({"task": ["a"] * 20 + ["b"] * 20, "text": ["same"] * 20 + list(map(str, range(20)))})
    with pytest.raises(ValueError, match=" a;"):
        classifier.split(copies)


def test_published_setting_holds_out_1343_prompts():
    frame = pd.DataFrame({"task": np.repeat(list("abcdef"), 1119), "text": map(str, range(6 * 1119))})
    train, test = classifier.split(frame)
    assert (len(train), len(test)) == (5371, 1343)


def test_template_words_are_learnt_from_training_prompts_alone():
    train = pd.DataFrame({"task": ["a", "a", "b", "b"], "text": ["how tall?", "how wide?", "to sit,", "to run,"]})
    test = pd.DataFrame({"task": ["a", "a"], "text": ["how deep? wow", "wow so deep"]})
    bare_train, bare_test, found = classifier.strip_template(train, test, share=0.9)
    assert found == {"a": {"how", "?"}, "b": {"to", ","}}
    assert bare_train["text"].tolist() == ["tall", "wide", "sit", "run"]
    assert bare_test["text"].tolist() == ["deep wow", "wow so deep"]  # "wow" stands in all test prompts, and stays


def test_embedding_is_the_mean_over_tokens_without_special_ones(tiny_model, tiny_tokenizer):
    model = tiny_model()
    table = classifier.embeddings(model)
    found = classifier.embed(table, tiny_tokenizer, ["the otter", ""])
    ids = tiny_tokenizer("the otter")["input_ids"]
    assert ids[0] == tiny_tokenizer.bos_token_id
    expected = model.get_input_embeddings().weight[ids[1:]].mean(0).detach().numpy()
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-6)
    assert not found[1].any()


def test_random_tables_and_a_vocabulary_of_the_prompts_own(tiny_tokenizer):
    one = classifier.random_table(50, 6, seed=1)
    assert one.shape == (50, 6) and one.dtype == np.float32 and abs(one.mean()) < 0.2
    np.testing.assert_array_equal(one, classifier.random_table(50, 6, seed=1))
    texts = ["the otter in the river"] * 5 + ["the copper kettle"] * 5
    learnt = classifier.vocabulary_of(texts, 280)
    assert 256 < len(learnt) <= 280 and len(learnt.tokenize("the otter in the river")) < 10
    assert learnt.decode(learnt("é 😀")["input_ids"]) == "é 😀", "every byte has a type"
    with pytest.raises(ValueError, match="256.*100"):
        classifier.vocabulary_of(texts, 100)
    prompts = pd.DataFrame({"task": ["a"] * 5 + ["b"] * 5, "text": texts})
    report = classifier.measure(classifier.random_table(len(learnt), 16), learnt, prompts, prompts)
    assert report.accuracy == 1 and report.n == 10


def test_report_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    truth = np.repeat(CLASSES, 40)
    features = rng.normal(size=(120, 6)) + 1.2 * np.eye(6)[np.repeat([0, 1, 2], 40)]
    fitted = classifier.train(features, truth)
    report = classifier.evaluate(fitted, features, truth)
    expected = classification_report(truth, fitted.predict(features), output_dict=True)
    rows = report.classes.set_index("class")
    assert 0.5 < report.accuracy < 1 and report.accuracy == pytest.approx(expected["accuracy"])
    assert report.low < report.accuracy < report.high
    for name in [*CLASSES, "macro avg", "weighted avg"]:
        for measure in ("precision", "recall", "f1", "support"):
            theirs = expected[name]["f1-score" if measure == "f1" else measure]
            assert rows.loc[name, measure] == pytest.approx(theirs)
    assert report.confusion.to_numpy().sum() == 120 and np.trace(report.confusion) == round(120 * report.accuracy)
    tidy = classifier.tidy({"all": report})
    assert tidy[tidy["metric"] == "accuracy"]["value"].item() == report.accuracy
    assert len(tidy) == 5 * 4 + 1
