"""Texts through the decoder, in batches: token ids of similar lengths together, so that little of a batch is padding.

A pass is ``for batch in batches(encode(model, tokenizer, texts, …), …): batch.run(model)``, with hooks on the
model's modules that look on.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from tqdm.auto import tqdm
from transformers import GenerationConfig

from ..settings import Calibration
from .layers import check_ids, check_vocabulary, context_length, decoder, decoder_layers, input_device

#: on a CPU more tokens at once are slower: activations no longer fit the caches
CPU_BATCH_TOKENS = 1024
#: cost of starting a forward pass, in tokens: worth so much padding, and no more
PASS_TOKENS = 32


def affordable(device, batch_tokens: int) -> int:
    """``batch_tokens``, or fewer where fewer are faster."""
    return min(batch_tokens, CPU_BATCH_TOKENS) if torch.device(device).type == "cpu" else batch_tokens


def partition(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices of ``lengths``, batch by batch: the cheapest batches of neighbours in length, longest first.

    A batch costs its padded tokens, rows × longest, which are at most ``batch_tokens`` (a longer text
    stands alone), and ``PASS_TOKENS``. With texts in descending order the best batches of the first
    j are best(j) = min_i best(i) + cost(i … j), found in O(texts × rows in a batch).
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    best, first = [0], [0]
    for end in range(1, len(order) + 1):
        options = []
        for start in range(end - 1, -1, -1):
            padded = lengths[order[start]] * (end - start)
            if padded > batch_tokens and options:
                break
            options.append((best[start] + padded + PASS_TOKENS, start))
        cost, start = min(options)
        best.append(cost)
        first.append(start)
    parts, end = [], len(order)
    while end:
        parts.append(order[first[end] : end])
        end = first[end]
    return parts[::-1]


@dataclass(frozen=True)
class Encoded:
    """Texts as token ids, without the texts that tokenise to nothing.

    ``kept``: the place of each among the texts given; ``truncated``: how many were cut;
    ``starts_with_bos``: whether every text begins with BOS; ``skip_first``: whether that position does not count.
    """

    ids: list[list[int]]
    kept: list[int]
    truncated: int
    starts_with_bos: bool
    skip_first: bool


def encode(model, tokenizer, texts: Sequence[str], max_length: int, bos: bool = True) -> Encoded:
    """Token ids of every text, cut to ``max_length`` and to the model's context.

    A text that tokenises to nothing (a lone BOS is no text) is skipped, with a warning that counts such texts.
    With ``bos=False`` the position of BOS does not count, where every text begins with it. ValueError where
    no text is left, and where nothing of a text counts.
    """
    if not texts:
        raise ValueError("the corpus is empty: it has no texts")
    check_vocabulary(model, tokenizer)
    limit = min(max_length, context_length(model))
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
    check_ids(model, max(map(max, found)))
    cut = [ids[:limit] for ids in found]
    starts_with_bos = all(ids[0] == tokenizer.bos_token_id for ids in cut)
    skip_first = starts_with_bos and not bos
    if skip_first and min(map(len, cut)) < 2:
        raise ValueError("a text consists of the BOS token alone, so nothing is left without it")
    return Encoded(cut, kept, sum(len(ids) > limit for ids in found), starts_with_bos, skip_first)


@dataclass(frozen=True)
class Batch:
    """Texts of one forward pass, padded on the right.

    ``mask`` (1 at tokens, 0 at padding) is None where the batch is one text; ``keep`` says which positions
    count: no padding, and no BOS where that is left out. ``rows``: the texts' places in ``Encoded.ids``.
    """

    ids: Int[Tensor, "texts tokens"]
    mask: Int[Tensor, "texts tokens"] | None
    keep: Bool[Tensor, "texts tokens"]
    rows: list[int]

    @torch.inference_mode()
    def run(self, model) -> None:
        """The batch through the decoder, without the LM head: hooks look on."""
        with evaluating(model):
            decoder(model)(input_ids=self.ids, attention_mask=self.mask, use_cache=False)


def batches(
    encoded: Encoded, device, batch_tokens: int | None, description: str = "", progress: bool = False, pad: int = 0
) -> Iterator[Batch]:
    """Every text once, on ``device``, behind a progress bar.

    Texts of similar lengths share a batch of at most ``batch_tokens`` padded tokens, fewer where that is
    faster. ``batch_tokens=None``: every text alone, in the order given.
    """
    texts = encoded.ids
    if batch_tokens is None:
        parts = [[index] for index in range(len(texts))]
    else:
        parts = partition(list(map(len, texts)), affordable(device, batch_tokens))
    with tqdm(total=len(texts), desc=description, unit="text", leave=False, disable=not progress) as bar:
        for rows in parts:
            longest = len(texts[rows[0]])
            ids = torch.full((len(rows), longest), pad)
            mask = torch.zeros((len(rows), longest), dtype=torch.long)
            for row, index in enumerate(rows):
                ids[row, : len(texts[index])] = torch.tensor(texts[index])
                mask[row, : len(texts[index])] = 1
            mask = mask.to(device)
            keep = mask.bool()
            if encoded.skip_first:
                keep[:, 0] = False
            yield Batch(ids.to(device), None if batch_tokens is None else mask, keep, rows)
            bar.update(len(rows))


@contextmanager
def residual_stream(model, read: Callable[[int, Float[Tensor, "batch tokens hidden"]], None]) -> Iterator[None]:
    """While the context is open, ``read(layer, x)`` gets every forward pass's residual stream.

    ``x`` is [batch, tokens, hidden], for layer 0 (the embeddings) to L in turn. The hooks are gone
    on exit, also after an error.
    """
    layers = decoder_layers(model)

    def before(index):
        return lambda module, args, kwargs: read(index, args[0] if args else kwargs["hidden_states"])

    def after(module, args, output):
        read(len(layers), output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_pre_hook(before(i), with_kwargs=True) for i, layer in enumerate(layers)]
    handles.append(layers[-1].register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model) -> Iterator[None]:
    """Eval mode while the context is open, in which dropout does nothing; afterwards every module is as it was."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


Watcher = Callable[[Float[Tensor, "tokens dim"]], None]  # padding left out


def real(x: Shaped[Tensor, "*tokens dim"], keep: Bool[Tensor, "texts length"]) -> Shaped[Tensor, "kept dim"]:
    """Rows [kept, dim] of ``x`` [texts, length, dim] at the positions that count (OPT flattens its first two axes)."""
    return x.flatten(0, -2)[keep.flatten().to(x.device)]


def watch(
    model,
    tokenizer,
    texts: Sequence[str],
    calibration: Calibration,
    inputs: Mapping[torch.nn.Module, Watcher],
    outputs: Mapping[torch.nn.Module, Watcher] | None = None,
    progress: bool = True,
    description: str = "inputs",
) -> int:
    """Run texts through the decoder and show every batch's inputs (outputs) of modules; the number of tokens shown.

    ``calibration`` says how texts are read: max_length, bos, batch_tokens.
    """
    encoded = encode(model, tokenizer, texts, calibration.max_length, calibration.bos)
    keep, tokens = None, 0
    with ExitStack() as stack:
        for module, see in inputs.items():
            handle = module.register_forward_pre_hook(lambda _, args, see=see: see(real(args[0], keep)))
            stack.callback(handle.remove)
        for module, see in (outputs or {}).items():
            handle = module.register_forward_hook(lambda _, args, out, see=see: see(real(out, keep)))
            stack.callback(handle.remove)
        for batch in batches(encoded, input_device(model), calibration.batch_tokens, description, progress):
            keep = batch.keep
            tokens += int(keep.sum())
            batch.run(model)
    return tokens


DAMAGED = "the model's log-probabilities are not numbers (NaN): its weights or activations are damaged"


@contextmanager
def writing(model) -> Iterator[None]:
    """While the context is open, ``model.generate`` does what it is told and nothing else.

    The model's own defaults of generation (a repetition penalty, beams, suppressed tokens, …) are set aside, all but
    its special tokens, and it is in eval mode. ValueError at the end if a logit was NaN meanwhile: greedy decoding
    writes on, with the first of its tokens.
    """
    own, seen = model.generation_config, []
    special = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}

    def look(module, args, output):
        seen[:] = [torch.isnan(output).any() | (seen[0] if seen else False)]

    handle = model.get_output_embeddings().register_forward_hook(look)
    try:
        model.generation_config = GenerationConfig(**special)
        with evaluating(model):
            yield
    finally:
        model.generation_config = own
        handle.remove()
    if seen and bool(seen[0]):
        raise ValueError(DAMAGED)
