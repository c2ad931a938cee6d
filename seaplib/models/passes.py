"""Token ids in batches: texts of similar lengths together, so that little of a batch is padding."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from tqdm.auto import tqdm

from ..settings import Calibration
from ..texts import corpora
from .layers import check_ids, context_length, decoder, decoder_layers

#: on a CPU more tokens at once are slower: activations no longer fit its caches
CPU_BATCH_TOKENS = 1024
#: what starting a forward pass costs, in tokens: worth so much padding, and no more
PASS_TOKENS = 32


def affordable(device, batch_tokens: int) -> int:
    """``batch_tokens``, or less where less is faster."""
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


def batches(
    encoded: list[list[int]], batch_tokens: int, device, pad: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor, list[int]]]:
    """Right-padded batches of similar lengths, at most ``batch_tokens`` padded tokens each.

    Fewer where that is faster. Yields ids [b, t], attention mask [b, t] and the texts' indices.
    """
    for rows in partition(list(map(len, encoded)), affordable(device, batch_tokens)):
        longest = len(encoded[rows[0]])
        ids = torch.full((len(rows), longest), pad)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for row, index in enumerate(rows):
            ids[row, : len(encoded[index])] = torch.tensor(encoded[index])
            mask[row, : len(encoded[index])] = 1
        yield ids.to(device), mask.to(device), rows


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
    return Encoded([ids[:limit] for ids in found], kept, sum(len(ids) > limit for ids in found))


@contextmanager
def residual_stream(model, read: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
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


Watcher = Callable[[torch.Tensor], None]  # takes [tokens, dim], padding left out


def real(x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Rows [tokens, dim] of ``x`` [batch, length, dim] that are no padding (OPT flattens its first two axes)."""
    return x.flatten(0, -2)[keep.flatten()]


@torch.inference_mode()
def watch(
    model,
    tokenizer,
    corpus: corpora.Corpus,
    calibration: Calibration,
    inputs: Mapping[torch.nn.Module, Watcher],
    outputs: Mapping[torch.nn.Module, Watcher] | None = None,
    progress: bool = True,
    description: str = "inputs",
) -> int:
    """Run a corpus' first texts and show every batch's inputs (outputs) of modules; the number of tokens shown."""
    texts = corpus.first(calibration.samples).texts
    encoded = encode(model, tokenizer, texts, calibration.max_length).ids
    skip_first = not calibration.bos and all(ids[0] == tokenizer.bos_token_id for ids in encoded)
    device = decoder(model).get_input_embeddings().weight.device
    keep, tokens = None, 0
    with ExitStack() as stack:
        for module, see in inputs.items():
            handle = module.register_forward_pre_hook(lambda _, args, see=see: see(real(args[0], keep)))
            stack.callback(handle.remove)
        for module, see in (outputs or {}).items():
            handle = module.register_forward_hook(lambda _, args, out, see=see: see(real(out, keep)))
            stack.callback(handle.remove)
        bar = stack.enter_context(tqdm(total=len(encoded), desc=description, leave=False, disable=not progress))
        for ids, mask, rows in batches(encoded, calibration.batch_tokens, device):
            keep = mask.bool()
            if skip_first:
                keep[:, 0] = False
            tokens += int(keep.sum())
            decoder(model)(input_ids=ids, attention_mask=mask, use_cache=False)
            bar.update(len(rows))
    return tokens


DAMAGED = "the model's log-probabilities are not numbers (NaN): its weights or activations are damaged"


@contextmanager
def numbers_only(model) -> Iterator[None]:
    """ValueError at the end if a logit was NaN meanwhile: greedy decoding writes on, with the first of its tokens."""
    seen = []

    def look(module, args, output):
        seen[:] = [torch.isnan(output).any() | (seen[0] if seen else False)]

    handle = model.get_output_embeddings().register_forward_hook(look)
    try:
        yield
    finally:
        handle.remove()
    if seen and bool(seen[0]):
        raise ValueError(DAMAGED)
