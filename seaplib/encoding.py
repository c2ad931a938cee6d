"""Texts as token ids: cut to the context, and counted."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

from . import models


class Encoded(NamedTuple):
    """``ids`` of the texts that have tokens, these texts' places among those given, and how many were cut."""

    ids: list[list[int]]
    kept: list[int]
    truncated: int


def encode(model, tokenizer, texts: Sequence[str], max_length: int) -> Encoded:
    """Token ids of every text, cut to ``max_length`` and to the model's context.

    A text that tokenises to nothing (a lone BOS is no text) is skipped, with a warning that counts
    them. ValueError where no text is left.
    """
    if not texts:
        raise ValueError("the corpus is empty: it has no texts")
    limit = min(max_length, models.context_length(model))
    encoded = tokenizer(list(texts), verbose=False)["input_ids"]
    special = tokenizer.num_special_tokens_to_add()
    kept = [i for i, ids in enumerate(encoded) if len(ids) > special]
    if not kept:
        raise ValueError(f"all {len(encoded)} texts tokenise to nothing")
    if skipped := len(encoded) - len(kept):
        first = next(i for i, ids in enumerate(encoded) if len(ids) <= special)
        said = f"{skipped} of {len(encoded)} texts tokenise to nothing and are skipped (the first is number {first})"
        warnings.warn(said, stacklevel=2)
    found = [encoded[i] for i in kept]
    models.check_ids(model, max(map(max, found)))
    return Encoded([ids[:limit] for ids in found], kept, sum(len(ids) > limit for ids in found))
