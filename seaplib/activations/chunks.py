"""Statistics of a corpus in parts: the corpus runs through the model once, and every union of parts is exact.

Counts, means and sums of squared deviations of parts i merge as

    n = Σ nᵢ,   m = Σ nᵢmᵢ / n,   M = Σ (Mᵢ + nᵢ(mᵢ − m)²)      (Chan, Golub & LeVeque 1979)

in double precision, so that the statistics of a hundred draws from a corpus cost one pass over the corpus.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import SupportsIndex

import torch
from jaxtyping import Float64, Int
from torch import Tensor
from tqdm.auto import tqdm

from .. import files, store
from ..models import identity
from ..settings import Calibration
from ..texts import corpora
from ..texts.corpora import Corpus
from .statistics import ActivationStats, Weights, collect, merge


@dataclass(frozen=True)
class PartialStats:
    """Statistics of a corpus' parts of ``size`` texts each, in the corpus' order; the last may be smaller.

    ``counts`` (samples) int64 [parts]; ``mean`` and ``var``: module → float64 [parts, layers, dim]. ``like``
    holds the statistics that are the same in all parts: geometry, weight norms, provenance.
    """

    size: int
    counts: Int[Tensor, " parts"]
    mean: dict[str, Float64[Tensor, "parts layers _"]]
    var: dict[str, Float64[Tensor, "parts layers _"]]
    texts: tuple[int, ...]
    tokens: tuple[int, ...]
    like: ActivationStats = field(repr=False)

    def __len__(self) -> int:
        return len(self.counts)

    def part(self, index: int) -> ActivationStats:
        """The statistics of a single part."""
        mean = {module: rows[index] for module, rows in self.mean.items()}
        var = {module: rows[index] for module, rows in self.var.items()}
        second = {module: var[module] + mean[module].square() for module in mean}
        about = dict(self.like.provenance) | {"texts": self.texts[index], "tokens": self.tokens[index], "ids": []}
        about |= {"corpus": f"{self.like.provenance['corpus']} part {index}", "skipped": 0, "truncated": 0}
        count = int(self.counts[index])
        return replace(self.like, count=count, mean=mean, var=var, second_moment=second, stream=None, provenance=about)

    def union(self, indices: Iterable[SupportsIndex]) -> ActivationStats:
        """The statistics of several parts together; a part named twice counts once."""
        return merge([self.part(int(index)) for index in dict.fromkeys(indices)])

    def save(self, directory: Path) -> None:
        tensors = files.flat({"mean": self.mean, "var": self.var}) | {"counts": self.counts}
        files.save(directory, "parts", tensors, {"size": self.size, "texts": self.texts, "tokens": self.tokens})
        self.like.save(directory)

    @classmethod
    @files.loader("set of partial statistics")
    def load(cls, directory: Path) -> "PartialStats":
        tensors, facts = files.load(directory, "parts")
        counts, groups = tensors.pop("counts"), files.grouped(tensors)
        texts, tokens = tuple(facts["texts"]), tuple(facts["tokens"])
        like = ActivationStats.load(directory)
        return cls(facts["size"], counts, groups["mean"], groups["var"], texts, tokens, like)


def collect_parts(
    model, tokenizer, corpus: Corpus, size: int, calibration: Calibration | None = None, weights: Weights | None = None
) -> PartialStats:
    """One pass over all texts of ``corpus``, its statistics kept for every ``size`` neighbouring texts.

    ``calibration`` says how samples are taken; its number of texts and its seed count for nothing here.
    Memory and disk: 16 bytes × layers × (heads·head_dim + channels) a part. ``weights`` as in ``collect``.
    """
    if size < 1:
        raise ValueError(f"a part needs at least one text, got a size of {size}")
    options = (calibration or Calibration()).as_dict() | {"samples": size}
    settings, weights = Calibration(**options), weights or Weights(model)
    found: list[ActivationStats] = []
    starts = range(0, len(corpus), size)
    for start in tqdm(starts, desc=f"calibrating on {corpus.task}", unit="part", leave=False):
        texts, ids = corpus.texts[start : start + size], corpus.ids[start : start + size]
        part = Corpus(corpus.task, texts, ids, corpus.source)
        found.append(collect(model, tokenizer, part, settings, progress=False, weights=weights))
    mean, var = (
        {module: torch.stack([getattr(part, name)[module] for part in found]) for module in found[0].mean}
        for name in ("mean", "var")
    )
    texts, tokens = (tuple(part.provenance[name] for part in found) for name in ("texts", "tokens"))
    counts = torch.tensor([part.count for part in found])
    whole = replace(found[0], provenance=dict(found[0].provenance) | {"corpus": corpus.fingerprint})
    return PartialStats(size, counts, mean, var, texts, tokens, whole)


def calibrate_parts(model, tokenizer, tasks: Iterable[str], pool: int, size: int) -> dict[str, PartialStats]:
    """:func:`collect_parts` of every task's corpus (``pool`` texts, or all it has), from the store if it is there."""
    calibration = Calibration()
    weights = Weights(model)
    known = identity.specification(weights.identity, tokenizer)
    how = {k: v for k, v in calibration.as_dict().items() if k != "samples"}
    out = {}
    for task in tasks:
        texts = corpora.corpus(task, pool, calibration.seed)
        spec = known | {"corpus": texts.fingerprint, "size": size, "calibration": how}
        make = partial(collect_parts, model, tokenizer, texts, size, calibration, weights)
        out[task] = store.fetch("parts", spec, make, PartialStats)
    return out
