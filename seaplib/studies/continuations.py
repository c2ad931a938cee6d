"""Texts that the model writes on: the first half of each, continued by sampling from p(x_t | x_<t).

What is written is stored, so that this module imports no table and no claim: a change there writes nothing again.
"""

from functools import partial

import torch

from .. import store
from ..models import identity, layers, passes
from ..models.passes import partition
from ..texts.corpora import Corpus

BATCH_TOKENS = 8192  # of prompts and new tokens, padding included


def halves(text: str) -> tuple[str, str]:
    """A text's first and second half by words, with the space between them at the second's beginning.

    The first has the middle word of an odd number; a text of a single word has no second half.
    """
    words = text.split(" ")
    middle = (len(words) + 1) // 2
    first = " ".join(words[:middle])
    return first, text[len(first) :]


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
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), passes.writing(model):
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
