"""Words of texts: their number, the words that two corpora share, and the words of a task's template.

A word is a run of letters, digits or underscores, in lower case. Every other mark is a word of its
own, so that the question mark of a template counts too.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd

from .corpora import Corpus

_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """The words of a text in order, lower-cased."""
    return [word.lower() for word in _WORD.findall(text)]


def types(texts: Iterable[str]) -> set[str]:
    """The word types of some texts: every word once."""
    return {word for text in texts for word in words(text)}


def describe(corpora: Mapping[str, Corpus], tokenizer, context: int | None = None) -> pd.DataFrame:
    """One row per corpus: the number of texts, their lengths in tokens and words, and the word types.

    ``available`` counts the rows that texts were drawn from, ``left_out`` the rows that the test
    repeats, ``truncated`` the texts longer than ``context`` tokens.
    """
    rows = []
    for task, corpus in corpora.items():
        tokens = np.array([len(ids) for ids in tokenizer(list(corpus.texts), verbose=False)["input_ids"]])
        low, median, high = np.percentile(tokens, (10, 50, 90))
        rows.append(
            {
                "task": task,
                "texts": len(corpus),
                "available": corpus.source["rows"],
                "left_out": corpus.source.get("left_out", 0),
                "tokens": int(tokens.sum()),
                "tokens_p10": low,
                "tokens_median": median,
                "tokens_p90": high,
                "tokens_max": int(tokens.max()),
                "words_median": float(np.median([len(words(text)) for text in corpus.texts])),
                "word_types": len(types(corpus.texts)),
                "truncated": int((tokens > context).sum()) if context else 0,
                "data": f"{corpus.source['data']}: {corpus.source['dataset']}",
            }
        )
    return pd.DataFrame(rows)


def overlap(corpora: Mapping[str, Iterable[str]]) -> pd.DataFrame:
    """Jaccard index |A ∩ B| / |A ∪ B| of the word types of every two corpora (task → texts).

    Columns task_a, task_b, overlap. The index grows with the number of texts, so compare equal numbers of texts.
    """
    found = {task: types(texts) for task, texts in corpora.items()}
    rows = [
        (a, b, len(found[a] & found[b]) / len(found[a] | found[b])) for a, b in combinations_with_replacement(found, 2)
    ]
    return pd.DataFrame(rows, columns=["task_a", "task_b", "overlap"])


def template_words(texts: Mapping[str, Iterable[str]], share: float) -> dict[str, set[str]]:
    """Task → the words that at least ``share`` of the task's texts contain: the words of its template."""
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    found = {}
    for task, own in texts.items():
        own = list(own)
        counts = Counter(word for text in own for word in set(words(text)))
        found[task] = {word for word, count in counts.items() if count >= share * len(own)}
    return found


def without(text: str, removed: set[str]) -> str:
    """``text`` without the words in ``removed``, single spaces between the remaining words."""
    return " ".join(_WORD.sub(lambda match: " " if match[0].lower() in removed else match[0], text).split())
