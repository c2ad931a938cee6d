"""The task classifier (Table 6): a linear layer on the mean layer-0 embedding of a prompt.

e(p) = (1/T) Σ_t E[p_t], where E [vocabulary, hidden] are the model's input embeddings, and
P(τ | p) = softmax(W z(p) + b)_τ, where z is e standardised per dimension over the training prompts.
Prompts come without answers, equally many of every task. No layer of the model runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from statsmodels.stats.proportion import proportion_confint

from ..models.offloading import tensor
from ..texts import corpora, words

AVERAGES = {"macro": "macro avg", "weighted": "weighted avg"}


@dataclass(frozen=True)
class Report:
    """Accuracy of a classifier on held-out prompts, per class and over all classes.

    ``classes``: class, precision, recall, f1, support, with two rows of averages at the end;
    ``confusion``: counts, true class × predicted class; ``predicted``: a class per prompt;
    ``low`` and ``high``: Wilson's 95% interval of the accuracy.
    """

    classes: pd.DataFrame
    confusion: pd.DataFrame
    predicted: np.ndarray
    accuracy: float
    low: float
    high: float
    n: int

    def __repr__(self) -> str:
        return f"Report(accuracy {self.accuracy:.3f} [{self.low:.3f}, {self.high:.3f}], n = {self.n})"


def prompts(tasks: Sequence[str], per_class: int, seed: int = 0) -> pd.DataFrame:
    """Prompts without answers: ``per_class`` of every task, or as many as the smallest task has.

    Columns: task, id, text. ValueError for fewer than two tasks.
    """
    if len(set(tasks)) < 2:
        raise ValueError(f"a classifier needs at least two classes, got {', '.join(tasks) or 'none'}")
    found = {}
    for task in dict.fromkeys(tasks):
        drawn = corpora.questions(task, seed=seed)
        found[task] = pd.DataFrame({"task": task, "id": drawn.ids, "text": drawn.texts})
    size = min(per_class, *map(len, found.values()))
    return pd.concat([frame.head(size) for frame in found.values()], ignore_index=True)


def split(frame: pd.DataFrame, test_share: float = 0.2, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training prompts and held-out prompts, drawn over all classes together as in Table 6 (supports differ).

    A training prompt whose text is held out too is dropped, because data sets repeat texts. ValueError where a
    task loses all training prompts.
    """
    kept, held_out = train_test_split(frame, test_size=test_share, random_state=seed)
    kept = kept[~kept["text"].isin(held_out["text"])]
    if missing := sorted(set(frame["task"]) - set(kept["task"])):
        raise ValueError(f"no training prompts are left of {', '.join(missing)}; hold out fewer, or draw more")
    return kept.reset_index(drop=True), held_out.reset_index(drop=True)


def strip_template(train: pd.DataFrame, test: pd.DataFrame, share: float) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Both frames without template words, and task → the words that went.

    A word goes, from the prompts of every task, if at least the share ``share`` of the *training* prompts of
    any task has the word.
    """
    found = words.template_words({task: part["text"] for task, part in train.groupby("task", sort=False)}, share)
    removed = set().union(*found.values())
    bare = [frame.assign(text=[words.without(text, removed) for text in frame["text"]]) for frame in (train, test)]
    return *bare, found


def embeddings(model) -> np.ndarray:
    """The model's input embeddings, float32 [vocabulary, hidden]."""
    return tensor(model.get_input_embeddings(), "weight").detach().float().cpu().numpy()


def embed(table: np.ndarray, tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Mean row of ``table`` [vocabulary, hidden] over every text's tokens: [texts, hidden].

    Special tokens do not count. A text without any token is the zero vector.
    """
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return np.stack([mean_row(table[ids]) for ids in encoded])


def mean_row(rows: np.ndarray) -> np.ndarray:
    """Mean of ``rows`` [tokens, hidden]; the zero vector where there is no token."""
    return rows.mean(0) if len(rows) else np.zeros(rows.shape[1], rows.dtype)


def random_table(types: int, width: int, seed: int = 0) -> np.ndarray:
    """Standard normal embeddings [types, width]: they tell tokens apart, and know nothing else about them."""
    return np.random.default_rng(seed).standard_normal((types, width)).astype(np.float32)


def vocabulary_of(texts: Sequence[str], types: int):
    """A tokenizer learnt from ``texts``: a byte-level BPE of at most ``types`` types, without special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if types < len(alphabet):
        raise ValueError(f"a byte-level vocabulary has at least {len(alphabet)} types, got {types}")
    trainer = trainers.BpeTrainer(vocab_size=types, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(list(texts), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def measure(table: np.ndarray, tokenizer, train_prompts: pd.DataFrame, test_prompts: pd.DataFrame) -> Report:
    """Report of a classifier on mean rows of ``table``, trained and tested on prompts (columns task, text)."""
    fitted = train(embed(table, tokenizer, train_prompts["text"]), train_prompts["task"])
    return evaluate(fitted, embed(table, tokenizer, test_prompts["text"]), test_prompts["task"])


def train(features: np.ndarray, tasks: Sequence[str]) -> Pipeline:
    """Multinomial logistic regression on standardised ``features`` [prompts, hidden], L2 penalty C = 1."""
    return untrained().fit(features, list(tasks))


def untrained() -> Pipeline:
    """The classifier of :func:`train` before training."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))


def evaluate(classifier: Pipeline, features: np.ndarray, tasks: Sequence[str]) -> Report:
    """The classifier's :class:`Report` on held-out prompts."""
    classes = list(classifier.classes_)
    predicted, tasks = classifier.predict(features), np.asarray(tasks)
    rows = []
    for average in (None, *AVERAGES):
        scores = precision_recall_fscore_support(tasks, predicted, labels=classes, average=average, zero_division=0)
        names = classes if average is None else [AVERAGES[average]]
        support = scores[3] if average is None else [len(tasks)]
        rows += zip(names, *(np.atleast_1d(score) for score in scores[:3]), support, strict=True)
    right = int((predicted == tasks).sum())
    low, high = proportion_confint(right, len(tasks), method="wilson")
    return Report(
        classes=pd.DataFrame(rows, columns=["class", "precision", "recall", "f1", "support"]),
        confusion=pd.DataFrame(confusion_matrix(tasks, predicted, labels=classes), classes, classes),
        predicted=predicted,
        accuracy=right / len(tasks),
        low=float(low),
        high=float(high),
        n=len(tasks),
    )


def tidy(reports: Mapping[str, Report]) -> pd.DataFrame:
    """Reports (input → report) as a long frame: input, class, metric, value, low, high, n."""
    parts = []
    for name, report in reports.items():
        part = report.classes.melt("class", var_name="metric")
        part["n"] = part["class"].map(report.classes.set_index("class")["support"])
        whole = {"class": "all", "metric": "accuracy", "value": report.accuracy, "n": report.n}
        whole |= {"low": report.low, "high": report.high}
        parts.append(pd.concat([part, pd.DataFrame([whole])]).assign(input=name))
    return pd.concat(parts, ignore_index=True)[["input", "class", "metric", "value", "low", "high", "n"]]
