"""Shared by the studies of notebook 13: masks named by their cell, and statistics of calibration text by tokens.

A study varies the text that a mask is calibrated on and nothing else. All its masks follow the same
:class:`~seaplib.pruning.methods.Method` (score, allocation, budget); result rows carry the study's columns beside the
usual columns.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..activations.statistics import ActivationStats, calibrate_texts, merge
from ..pruning.apply import Variant
from ..pruning.methods import Method
from ..pruning.scores import Scores
from ..pruning.selection import select
from ..texts.corpora import Corpus, corpus
from .synthetic_text import lengths


def variant(
    method: Method, scores: Scores, sparsity: float, seed: int, tasks: Sequence[str] | None, mode: str, **cell
) -> Variant:
    """The mask of ``scores`` and ``method``, answering ``tasks`` (None: all); ``cell`` are the study's own columns."""
    mask = select(scores, method.allocate(sparsity), method.budget, method.kv_unit)
    return Variant(method.label(seed) | cell, mask, mode, tasks=None if tasks is None else tuple(tasks))


def draws(names: Iterable[str], seeds: Iterable[int]) -> dict[tuple[str, int], Corpus]:
    """Whole training corpora in the order of each calibration seed: (corpus, seed) → texts as ``corpus`` draws them.

    Every corpus is read once.
    """
    out, seeds = {}, list(seeds)
    for name in names:
        first = corpus(name, None, 0)
        rows = np.argsort(np.random.default_rng(0).permutation(len(first)))
        for seed in seeds:
            order = rows[np.random.default_rng(seed).permutation(len(first))]
            texts, ids = (tuple(getattr(first, part)[i] for i in order) for part in ("texts", "ids"))
            out[name, seed] = Corpus(first.task, texts, ids, first.source | {"seed": seed})
    return out


def cut(tokenizer, texts: Corpus, tokens: Sequence[int]) -> list[Corpus]:
    """``texts`` cut into pieces, one after the other, that end nearest to the numbers of ``tokens`` from the start.

    Every piece has at least one text. ValueError where the corpus ends before the last of them.
    """
    ends = np.cumsum(lengths(tokenizer, texts))
    if ends[-1] < max(tokens):
        raise ValueError(
            f"{texts.task} has {ends[-1]:,} tokens of training text where {max(tokens):,} are asked for; ask for fewer"
        )
    pieces, start = [], 0
    for place, wanted in enumerate(tokens):
        last = len(ends) - (len(tokens) - place - 1)  # leaves a text for every piece that follows
        end = min(max(int(np.abs(ends - wanted).argmin()) + 1, start + 1), last)
        pieces.append(Corpus(texts.task, texts.texts[start:end], texts.ids[start:end], texts.source))
        start = end
    return pieces


def by_tokens(
    model, tokenizer, drawn: Mapping[tuple[str, int], Corpus], tokens: Mapping[str, Sequence[int]]
) -> dict[tuple[str, int, int], ActivationStats]:
    """Statistics of the first so many tokens of every draw: (corpus, tokens, seed) → statistics.

    ``drawn`` is that of :func:`draws`; ``tokens`` maps every corpus to ascending numbers. A draw runs through the model
    once: the longer beginnings are merged from the shorter beginnings and the texts that follow.
    """
    pieces = {}
    for (name, seed), texts in drawn.items():
        for place, piece in enumerate(cut(tokenizer, texts, tokens[name])):
            pieces[name, seed, place] = piece
    each, out = calibrate_texts(model, tokenizer, pieces), {}
    for name, seed, place in pieces:
        out[name, tokens[name][place], seed] = merge([each[name, seed, before] for before in range(place + 1)])
    return out
