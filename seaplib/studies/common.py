"""Shared by the studies of notebooks 13 to 17: masks named by their cell, statistics by tokens, answers in words.

A study varies the text that a mask is calibrated on and nothing else. All its masks follow the same
:class:`~seaplib.pruning.methods.Method` (score, allocation, budget); result rows carry the study's columns beside the
usual columns. The modules of the studies also say what their tables show: ``claims`` are the rows that a notebook
saves, ``answer`` the sentences with which it ends.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from ..activations.statistics import ActivationStats, calibrate_texts, merge
from ..evaluation import accuracy, bootstrap
from ..pruning.apply import Variant
from ..pruning.methods import Method
from ..pruning.scores import Scores
from ..pruning.selection import select
from ..reports import claims, display_names
from ..settings import Evaluation
from ..texts.corpora import Corpus, corpus
from ..texts.tasks import experts

BLOCK = 64  # texts that are tokenised together where only the beginning of a corpus is wanted


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


def lengths(tokenizer, texts: Corpus) -> list[int]:
    """Tokens of every text, special tokens included."""
    return [len(ids) for ids in tokenizer(list(texts.texts), verbose=False)["input_ids"]]


def cut(tokenizer, texts: Corpus, tokens: Sequence[int]) -> list[Corpus]:
    """``texts`` cut into pieces, one after the other, that end nearest to the numbers of ``tokens`` from the start.

    Every piece has at least one text. ValueError where the corpus ends before the last of them.
    """
    ends = _ends(tokenizer, texts, max(tokens), len(tokens))
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


def _ends(tokenizer, texts: Corpus, enough: int, further: int) -> np.ndarray:
    """Tokens up to the end of each text, as far as ``enough`` tokens reach and ``further`` texts beyond, or all texts.

    A corpus has thousands of texts, of which a piece takes the first few.
    """
    counted: list[int] = []
    while len(counted) < len(texts) and sum(counted[: len(counted) - further]) < enough:
        part = texts.texts[len(counted) : len(counted) + BLOCK]
        counted += [len(ids) for ids in tokenizer(list(part), verbose=False)["input_ids"]]
    return np.cumsum(counted)


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


def own_statistics(
    model, tokenizer, tasks: Sequence[str], seeds: Sequence[int], tokens: int, general: str | None = None
) -> dict[tuple[str, int], ActivationStats]:
    """Statistics of the first ``tokens`` of every expert's corpus, and of ``general``: (corpus, seed) → statistics.

    A draw is cut where ``expert_or_general.amounts`` cuts it, so that the store keeps the pieces once for all studies.
    """
    served = list(experts(tasks))
    names = served if general is None else [*served, general]
    wanted = {name: [tokens // (len(served) + 1), tokens] for name in names}
    stats = by_tokens(model, tokenizer, draws(names, seeds), wanted)
    return {(name, seed): stats[name, tokens, seed] for name, seed in product(names, seeds)}


def amounts_of(stats: Mapping[tuple[str, int, int], ActivationStats]) -> pd.DataFrame:
    """How many texts and tokens the statistics of :func:`by_tokens` come from, in means over seeds, for reading."""
    columns = ["corpus", "tokens wanted", "texts", "tokens"]
    rows = [(name, n, own.provenance["texts"], own.provenance["tokens"]) for (name, n, _), own in stats.items()]
    means = pd.DataFrame(rows, columns=columns).groupby(columns[:2], sort=False).mean()
    return means.round(1).rename(index=display_names.task, level=0).reset_index()


# --- results and answers --------------------------------------------------------------------------


def dense(model, tokenizer, tasks: Sequence[str], settings: Evaluation) -> pd.DataFrame:
    """The dense model's results: a row per task, a column per metric that all tasks offer, shares."""
    rows = accuracy.evaluate(model, tokenizer, tasks, settings=settings)
    by_metric = {name: bootstrap.of_metric(rows, name).set_index("task")["value"] for name in bootstrap.offered(rows)}
    return pd.DataFrame(by_metric).reindex(list(tasks))


def percent(results: pd.DataFrame) -> pd.DataFrame:
    """Results by task (rows) and metric (columns) for reading, in percent."""
    shown = (100 * results).round(1).rename(index=display_names.task, columns=display_names.metric)
    return shown.rename_axis("task").reset_index()


def told(verdicts: pd.DataFrame, name: str, phrases: Mapping[str, str]) -> str:
    """What the verdicts on a claim say, with the estimate by every metric in brackets.

    ``verdicts`` is a frame of claims, ``name`` the claim's (with the sparsity, where it has one: "name/50%");
    ``phrases`` maps a verdict to words. Metrics of the same verdict share the words.
    """
    found: dict[str, list[str]] = {}
    for row in verdicts[verdicts["claim_id"].str.startswith(f"{name}/")].itertuples():
        metric = row.claim_id.rpartition("/")[2].replace("-", " ")
        found.setdefault(phrases[row.verdict], []).append(f"{claims.estimate(row)} by {metric}")
    return "; ".join(f"{words} ({', '.join(estimates)})" for words, estimates in found.items())


def sentence(text: str) -> str:
    """``text`` with a capital letter in front and a full stop behind."""
    return f"{text[:1].upper()}{text[1:]}."
