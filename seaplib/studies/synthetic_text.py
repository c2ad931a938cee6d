"""More calibration text from little: continuations by the model itself, and recombined training items.

A text is cut in the middle of its words. *Continued*: the model writes on from the first half, sampled from
p(x_t | x_<t), until it ends the text. *Recombined*: the first half of a text and the second half of another text.
*Real*: further training items, the upper bound (where the training set is a generator's, so are they). Corpora
are compared at equal numbers of tokens: :func:`enlarged` adds texts as long as they fit.
"""

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from .. import store
from ..models import identity, layers, passes
from ..models.passes import partition
from ..texts.corpora import Corpus

KINDS = ("real", "recombined", "continued")
ROUNDS = 16  # of new texts; a kind that has not filled its budget by then is refused
BATCH_TOKENS = 8192  # of prompts and new tokens, padding included


def halves(text: str) -> tuple[str, str]:
    """A text's first and second half by words, with the space between them at the second's beginning.

    The first has the middle word of an odd number; a text of a single word has no second half.
    """
    words = text.split(" ")
    middle = (len(words) + 1) // 2
    first = " ".join(words[:middle])
    return first, text[len(first) :]


def recombine(corpus: Corpus, seed: int) -> Corpus:
    """As many texts as ``corpus`` has: the first half of each, and the second half of another text.

    ValueError for fewer than two texts.
    """
    n = len(corpus)
    if n < 2:
        raise ValueError(f"{corpus.task}: a single text cannot be recombined; calibrate on two or more")
    order = np.random.default_rng([seed, 1]).permutation(n)  # a cycle through all texts: none meets itself
    other = dict(zip(order.tolist(), np.roll(order, -1).tolist(), strict=True))
    parts = [halves(text) for text in corpus.texts]
    texts = tuple(parts[i][0] + parts[other[i]][1] for i in range(n))
    ids = tuple(f"{corpus.ids[i]}+{corpus.ids[other[i]]}" for i in range(n))
    return Corpus(corpus.task, texts, ids, corpus.source | {"wording": "recombined", "seed": seed})


def continue_texts(
    model, tokenizer, corpus: Corpus, seed: int, new_tokens: int = 40, temperature: float = 1.0
) -> Corpus:
    """As many texts as ``corpus`` has: the first half of each, continued by the model.

    Sampled with ``seed``, at most ``new_tokens`` tokens, from the store if there. ValueError where a first half
    leaves no room for them in the model's context.
    """
    spec = identity.specification(model, tokenizer) | {
        "corpus": corpus.fingerprint,
        "seed": seed,
        "new_tokens": new_tokens,
        "temperature": temperature,
    }
    make = partial(_continue, model, tokenizer, corpus, seed, new_tokens, temperature)
    return store.fetch("synthetic", spec, make, Corpus)


@torch.inference_mode()
def _continue(model, tokenizer, corpus: Corpus, seed: int, new_tokens: int, temperature: float) -> Corpus:
    prompts = tokenizer([halves(text)[0] for text in corpus.texts], verbose=False)["input_ids"]
    longest, context = max(map(len, prompts)), layers.context_length(model)
    if longest + new_tokens > context:
        both = f"half a text of {longest} and {new_tokens} new tokens"
        raise ValueError(f"{corpus.task}: {both} exceed the model's context of {context}")
    stop = model.generation_config.eos_token_id
    stops = set(stop) if isinstance(stop, list) else {stop}
    options = {"max_new_tokens": new_tokens, "do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    device, written = layers.input_device(model), {}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), passes.numbers_only(model):
        torch.manual_seed(seed)
        for rows in partition([len(ids) + new_tokens for ids in prompts], BATCH_TOKENS):
            width = max(len(prompts[row]) for row in rows)
            ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
            for place, row in enumerate(rows):  # padded on the left, where a continuation does not begin
                ids[place, width - len(prompts[row]) :] = torch.tensor(prompts[row])
                mask[place, width - len(prompts[row]) :] = 1
            out = model.generate(ids.to(device), attention_mask=mask.to(device), pad_token_id=0, **options)
            for place, row in enumerate(rows):
                written[row] = _until(out[place, width:].tolist(), stops)
    texts = [tokenizer.decode([*prompts[row], *written[row]], skip_special_tokens=True) for row in range(len(prompts))]
    ids = tuple(f"{name} continued {seed}" for name in corpus.ids)
    return Corpus(corpus.task, tuple(texts), ids, corpus.source | {"wording": "continued", "seed": seed})


def _until(ids: list[int], stops: set) -> list[int]:
    return next((ids[:place] for place, token in enumerate(ids) if token in stops), ids)


def lengths(tokenizer, corpus: Corpus) -> list[int]:
    """Tokens of every text, special tokens included."""
    return [len(ids) for ids in tokenizer(list(corpus.texts), verbose=False)["input_ids"]]


def enlarged(
    model, tokenizer, drawn: Corpus, texts: int, times: float, kind: str, seed: int, new_tokens: int = 40
) -> tuple[Corpus, Corpus]:
    """The first ``texts`` of ``drawn``, and more of a ``kind``: up to ``times`` their tokens in all.

    ``drawn`` is a whole training corpus in the order of a calibration seed; ``seed`` is that of the synthesis.

    Returns the base and the added texts. New texts are taken as they come, except texts that would exceed the budget,
    until no text of a whole round fits. A text may come twice where the model repeats itself. ValueError for an
    unknown kind, and where new texts leave more than a tenth of the budget (and than a text of the base) unused.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)}, got {kind!r}")
    if times <= 1:
        raise ValueError(f"times is how many times as many tokens there shall be, more than 1; got {times}")
    base = drawn.first(texts)
    counted = lengths(tokenizer, base)
    budget = round((times - 1) * sum(counted))
    rounds = _rounds(model, tokenizer, drawn, base, kind, seed, new_tokens, math.ceil(times))
    added, ids, left = [], [], budget
    for _, more in zip(range(ROUNDS), rounds, strict=False):
        fits = False
        for text, name, length in zip(more.texts, more.ids, lengths(tokenizer, more), strict=True):
            if text.strip() and length <= left:
                added, ids, left, fits = [*added, text], [*ids, name], left - length, True
        if not fits:
            break
    if left > max(0.1 * budget, max(counted)):
        hint = "start from fewer texts or enlarge them less"
        raise ValueError(f"{drawn.task}: {kind} texts fill {budget - left} of {budget} tokens; {hint}")
    source = base.source | {"wording": kind, "samples": len(added)}
    return base, Corpus(drawn.task, tuple(added), tuple(ids), source)


def _rounds(
    model, tokenizer, drawn: Corpus, base: Corpus, kind: str, seed: int, new_tokens: int, copies: int
) -> Iterator[Corpus]:
    """New texts of a kind: first ``copies`` times as many as the base has (the model writes them in a single batch)."""
    if kind == "real":
        for start in range(len(base), len(drawn), copies * len(base)):
            part = slice(start, start + copies * len(base))
            yield Corpus(drawn.task, drawn.texts[part], drawn.ids[part], drawn.source)
        return
    for number in range(seed * ROUNDS, (seed + 1) * ROUNDS):
        if kind == "continued":
            copies = copies if number == seed * ROUNDS else 1  # what is still missing is little
            again = Corpus(base.task, base.texts * copies, base.ids * copies, base.source)
            yield continue_texts(model, tokenizer, again, number, new_tokens)
        else:
            made = [recombine(base, number * copies + copy) for copy in range(copies)]
            texts, ids = (tuple(entry for part in made for entry in getattr(part, name)) for name in ("texts", "ids"))
            yield Corpus(base.task, texts, ids, made[0].source)
