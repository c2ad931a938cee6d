"""Greedy continuations by the dense and by pruned models, and simple measures of the change.

    repetition   seq-rep-4 = 1 − (distinct 4-grams) / (4-grams) of a continuation's tokens (Welleck et al. 2020)
    perplexity   exp of the mean −log p of a continuation's tokens under the *dense* model
    agreement    share of tokens before the first difference from the dense model's continuation
    known_words, known_sentences   share of a continuation's words, and of the sentences that it completes,
                 that occur in reference texts

The measures separate loops and word salad from language. They do not say whether a text is true, except where
the reference texts state the facts of a small world in so many words: a known sentence is then true.
"""

import itertools
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from .. import store
from ..models import identity, layers, passes
from .accuracy import DENSE, name_of, pruned

N = 4  # length of the n-grams that count as repetition
MEASURES = ("repetition", "perplexity", "agreement", "known_words", "known_sentences")
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
SENTENCE = re.compile(r"[^.!?\n]*[^.!?\s][.!?]")


@dataclass(frozen=True)
class Continuations:
    """Token ids written after each prompt, without the end-of-text token."""

    ids: list[list[int]]

    def save(self, directory: Path) -> None:
        (Path(directory) / "ids.json").write_text(json.dumps(self.ids))

    @classmethod
    def load(cls, directory: Path) -> "Continuations":
        return cls(json.loads((Path(directory) / "ids.json").read_text()))


def generate(
    model: nn.Module,
    tokenizer,
    prompts: Iterable[str],
    variants: Iterable | None = None,
    new_tokens: int = 40,
    reference: Iterable[str] = (),
    progress: bool = True,
) -> pd.DataFrame:
    """Continuations of each prompt by the dense model and by every variant: a row per variant × prompt.

    ``variants`` as in :func:`~seaplib.evaluation.accuracy.evaluate`; the dense model (None) always comes first.
    Words and sentences of the texts ``reference`` count as known. Columns: model, the label's (method …
    calibration_seed), prompt, continuation, tokens, and the measures of this module; a measure with nothing to
    count (no tokens, no reference) is NaN. Raises ``ValueError`` for an empty prompt, for a prompt that leaves
    no room for ``new_tokens`` in the model's context, and for a variant that makes no single model (GRIFFIN,
    routed experts).
    """
    prompts, reference = list(prompts), list(reference)
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise ValueError("generation needs at least one prompt, and no prompt may be empty")
    encoded = tokenizer(prompts)["input_ids"]
    longest, context = max(map(len, encoded)), layers.context_length(model)
    if longest + new_tokens > context:
        raise ValueError(f"a prompt of {longest} and {new_tokens} new tokens exceed the model's context of {context}")
    chosen = [None, *(variant for variant in variants or () if variant is not None)]
    fingerprints = identity.specification(model, tokenizer)
    known_words = {word for text in reference for word in words(text)}
    known_sentences = {sentence for text in reference for sentence in sentences(text)}
    rows, dense = [], None
    for variant in tqdm(chosen, desc="generating", unit="model", leave=False, disable=not progress):
        spec = fingerprints | {"prompts": encoded, "new_tokens": new_tokens}
        spec["variant"] = None if variant is None else variant.fingerprint
        make = partial(_write, model, variant, encoded, new_tokens)
        written = store.fetch("continuations", spec, make, Continuations, (variant, model))
        dense = written if dense is None else dense
        label = {"model": name_of(model)} | (DENSE if variant is None else DENSE | variant.label)
        for prompt, start, ids, whole in zip(prompts, encoded, written.ids, dense.ids, strict=True):
            text = tokenizer.decode(ids, skip_special_tokens=True).strip()
            completed = sentences(f"{prompt} {text}")[len(sentences(prompt)) :]
            measures = {
                "tokens": len(ids),
                "repetition": repetition(ids),
                "perplexity": _perplexity(model, start, ids),
                "agreement": _agreement(ids, whole),
                "known_words": _share(words(text), known_words),
                "known_sentences": _share(completed, known_sentences),
            }
            rows.append(label | {"prompt": prompt, "continuation": text} | measures)
    return pd.DataFrame(rows).astype({"calibration_seed": "Int64"})


def summary(texts: pd.DataFrame) -> pd.DataFrame:
    """Means of the measures over prompts, from the frame of :func:`generate`: a row per variant.

    The mean of perplexity is geometric (the mean of log p); ``<measure>_stderr`` is the standard error of the
    mean (for perplexity, of the mean logarithm).
    """
    keys = [column for column in ("method", "label", "score", "requested_sparsity") if column in texts]
    groups = texts.assign(perplexity=np.log(texts["perplexity"])).groupby(keys, sort=False)
    means, errors = groups[list(MEASURES)].mean(), groups[list(MEASURES)].sem()
    means["perplexity"] = np.exp(means["perplexity"])
    return means.join(errors.add_suffix("_stderr")).assign(n=groups.size()).reset_index()


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return [word.lower() for word in WORD.findall(text)]


def sentences(text: str) -> list[str]:
    """The sentences that a text completes, each with its full stop, question or exclamation mark."""
    return [sentence.strip() for sentence in SENTENCE.findall(text)]


def _share(found: list[str], known: set[str]) -> float:
    return sum(piece in known for piece in found) / len(found) if found and known else math.nan


def repetition(ids: list[int], n: int = N) -> float:
    """seq-rep-n of token ids: 0 where every n-gram is new, near 1 in a loop; NaN below n tokens."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else math.nan


@torch.inference_mode()
def _write(model, variant, encoded: list[list[int]], new_tokens: int) -> Continuations:
    """Greedy decoding, a prompt at a time, so that padding has no part in it."""
    applied = pruned(variant, model)
    stop = applied.generation_config.eos_token_id
    stops = set(stop) if isinstance(stop, list) else {stop}
    written = []
    for start in encoded:
        ids = torch.tensor([start], device=layers.input_device(applied))
        options = {"max_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
        with passes.writing(applied):
            out = applied.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(start) :].tolist()
        written.append(out[:-1] if out and out[-1] in stops else out)
    return Continuations(written)


@torch.inference_mode()
def _perplexity(model, start: list[int], ids: list[int]) -> float:
    if not ids:
        return math.nan
    whole = torch.tensor([[*start, *ids]], device=layers.input_device(model))
    with passes.evaluating(model):
        logits = model(whole).logits[0, len(start) - 1 : -1].float()
    return float(torch.nn.functional.cross_entropy(logits, whole[0, len(start) :]).exp())


def _agreement(ids: list[int], dense: list[int]) -> float:
    if not (ids or dense):
        return math.nan
    pairs = zip(ids, dense, strict=False)
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return same / max(len(ids), len(dense))
