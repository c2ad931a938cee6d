"""Log-likelihood of given tokens: one forward pass, the LM head applied only where a token is asked for.

    log p(continuation | context) = Σ_t log softmax(z_{t-1})[x_t]      (what lm-eval's HFLM computes)

The requests of an item usually share a prefix: multiple-choice options share the context, WinoGrande's
sentences share everything up to the option. ``plan`` packs such an item into a row, the common prefix once
and a branch for each request, and ``score`` keeps the branches apart with an explicit attention mask and
explicit positions. Every token then sees exactly the tokens it would see alone. Rows of similar
length are padded on the right, where a causal model cannot see it. A plan belongs to a tokenizer
and a context length, not to a model: made once, it serves every pruned variant.
"""

import os.path
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn

from . import passes
from .layers import check_ids, decoder, decoder_layers, input_device
from .passes import DAMAGED, evaluating

WORTH_SHARING = 0.8  # pack an item if its row is at most this share of its requests' tokens
LOGITS_AT_ONCE = 2**25  # numbers; bounds the memory of the LM head's output
KEPT_BYTES = 2**30  # of a layer's inputs; where they would take more, every pass starts at layer 0
Request = tuple[Sequence[int], Sequence[int]]  # token ids of context and continuation


@dataclass(frozen=True)
class Batch:
    """Rows for one forward pass, and the tokens asked for.

    ``ids``, ``positions`` and ``branches`` are [rows, length]; branch 0 is the common prefix, -1 is
    padding. ``positions`` and ``branches`` are None where every row is a plain sequence with the usual
    positions. The logits at (``row``, ``column``) are asked for the token ``target`` of request ``owner``;
    each of these four is [tokens].
    """

    ids: Int[Tensor, "rows length"]
    positions: Int[Tensor, "rows length"] | None
    branches: Int[Tensor, "rows length"] | None
    row: Int[Tensor, " tokens"]
    column: Int[Tensor, " tokens"]
    target: Int[Tensor, " tokens"]
    owner: Int[Tensor, " tokens"]


@dataclass
class _Row:
    ids: list[int]
    positions: list[int]
    branches: list[int]
    column: list[int]
    target: list[int]
    owner: list[int]


def truncated(request: Request, max_length: int) -> bool:
    """Whether context + continuation exceed the model's context (the last token is never an input)."""
    return len(request[0]) + len(request[1]) > max_length + 1


def plan(
    items: Iterable[Sequence[Request]],
    max_length: int,
    batch_tokens: int,
    share: bool = True,
    window: int | None = None,
) -> list[Batch]:
    """Batches of at most ``batch_tokens`` padded tokens for the requests of ``items``.

    Requests are numbered through all items. Too long a context loses its beginning, as in lm-eval.
    ``share=False`` gives every request a row of its own; so do requests longer than ``window``, the
    sliding attention window, which a packed row's mask does not express. ValueError where a
    continuation is empty or alone exceeds ``max_length``.
    """
    rows, first = [], 0
    for requests in items:
        inputs = []
        for context, continuation in requests:
            if not continuation or not context:
                raise ValueError("a context and a continuation need at least one token each")
            if len(continuation) > max_length:
                raise ValueError(
                    f"an answer of {len(continuation)} tokens exceeds the {max_length} of the model's context"
                )
            inputs.append([*context, *continuation][-(max_length + 1) : -1])
        fits = window is None or max(map(len, inputs)) <= window
        common = len(os.path.commonprefix(inputs)) if share and fits and len(inputs) > 1 else 0
        alone = sum(map(len, inputs))
        groups = [range(len(inputs))]
        if alone - common * (len(inputs) - 1) > WORTH_SHARING * alone:
            common, groups = 0, [[i] for i in groups[0]]
        rows += [_pack(inputs, requests, group, common, first) for group in groups]
        first += len(inputs)
    batches = []
    for shared in (False, True):
        kind = [row for row in rows if (max(row.branches) > 0) == shared]
        parts = passes.partition([len(row.ids) for row in kind], batch_tokens)
        batches += [_collate([kind[i] for i in part], shared) for part in parts]
    return batches


def _pack(inputs: list, requests: Sequence[Request], group: Iterable[int], common: int, first: int) -> _Row:
    group = list(group)
    prefix = inputs[group[0]][:common]
    row = _Row(list(prefix), list(range(common)), [0] * common, [], [], [])
    for branch, i in enumerate(group, start=int(len(group) > 1)):
        length, target = len(inputs[i]), list(requests[i][1])
        shift = len(row.ids) - common  # where this branch stands, beyond where it would stand alone
        wanted = range(length - len(target), length)
        row.column += [position + shift if position >= common else position for position in wanted]
        row.target += target
        row.owner += [first + i] * len(target)
        row.ids += inputs[i][common:]
        row.positions += range(common, length)
        row.branches += [branch] * (length - common)
    return row


def _collate(rows: list[_Row], shared: bool) -> Batch:
    shape = len(rows), max(len(row.ids) for row in rows)
    padded = {"ids": np.zeros(shape, np.int64), "positions": np.zeros(shape, np.int64), "branches": np.full(shape, -1)}
    for number, row in enumerate(rows):
        for name, values in padded.items():
            values[number, : len(row.ids)] = getattr(row, name)
    tensors = {name: torch.from_numpy(values) for name, values in padded.items()}
    if not shared:
        tensors["branches"] = None
    where = [number for number, row in enumerate(rows) for _ in row.target]
    asked = {
        name: torch.tensor([v for row in rows for v in getattr(row, name)]) for name in ("column", "target", "owner")
    }
    return Batch(**tensors, row=torch.tensor(where), **asked)


class LayerInputs:
    """The inputs of a layer of ``model`` for every batch; a later layer continues from the layer kept before.

    The inputs of a single layer are kept at a time, at most ``KEPT_BYTES``, so asking for layers in ascending
    order costs one pass in all.
    """

    def __init__(self, model, batches: Sequence[Batch]):
        self.model, self.batches = model, batches
        tokens, width = sum(batch.ids.numel() for batch in batches), model.config.hidden_size
        self.fits = tokens * width * model.dtype.itemsize <= KEPT_BYTES
        self._forget()

    def _forget(self) -> None:
        self.layer, self.kept = 0, [None] * len(self.batches)

    @torch.inference_mode()
    def at(self, layer: int) -> tuple[int, list[Float[Tensor, "rows length hidden"] | None]]:
        """The layer to start at and its inputs [rows, length, hidden] per batch.

        That is ``layer``, or layer 0 where the inputs would take too much memory; None is the input of
        layer 0, which starts from the tokens.
        """
        layer = layer if self.fits else 0
        if layer < self.layer:
            self._forget()
        if layer > self.layer:
            for number, batch in enumerate(self.batches):
                run = partial(_decode, self.model, batch)
                self.kept[number] = stepping(self.model, layer, self.layer, self.kept[number], run)
            self.layer = layer
        return layer, self.kept


@torch.inference_mode()
def score(
    model, batches: Sequence[Batch], dense: LayerInputs | None = None, first: int = 0
) -> tuple[Float64[np.ndarray, " requests"], Bool[np.ndarray, " requests"]]:
    """Sum of log-probabilities (float64, natural) and "is the greedy continuation", per request.

    ``dense`` holds the same batches in a model whose layers before ``first`` equal this model's, and which
    then need not be computed again.
    """
    total = 1 + max(int(batch.owner.max()) for batch in batches)
    sums, greedy = np.zeros(total), np.ones(total, dtype=bool)
    start, inputs = (0, [None] * len(batches)) if dense is None else dense.at(first)
    for batch, x in zip(batches, inputs, strict=True):
        with entering(model, start, x):
            logprob, likeliest = token_logprobs(model, batch)
        owner = batch.owner.numpy()
        np.add.at(sums, owner, logprob.double().cpu().numpy())
        np.logical_and.at(greedy, owner, likeliest.cpu().numpy())
    if np.isnan(sums).any():
        raise ValueError(DAMAGED)
    return sums, greedy


@torch.inference_mode()
def token_logprobs(model, batch: Batch) -> tuple[Float[Tensor, " tokens"], Bool[Tensor, " tokens"]]:
    """Log-probability (float32) of each token asked for, and whether the token is the likeliest: [tokens] each."""
    check_ids(model, int(batch.ids.max()))
    hidden = _decode(model, batch)
    hidden = hidden[batch.row.to(hidden.device), batch.column.to(hidden.device)]  # the last of several devices
    head, cap = model.get_output_embeddings(), getattr(model.config, "final_logit_softcapping", None)
    logprobs, likeliest = [], []
    step = max(1, LOGITS_AT_ONCE // head.out_features)
    for part, wanted in zip(hidden.split(step), batch.target.split(step), strict=True):
        logits = head(part).float()
        wanted = wanted.to(logits.device)
        if cap is not None:
            logits = cap * torch.tanh(logits / cap)
        logprobs.append(logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0])
        likeliest.append(logits.argmax(-1) == wanted)
    return torch.cat(logprobs), torch.cat(likeliest)


def _decode(model, batch: Batch) -> Float[Tensor, "rows length hidden"]:
    """The decoder's output [rows, length, hidden]."""
    device, inputs = input_device(model), {}
    if batch.branches is not None:
        mask = _mask(batch.branches.to(device), model.dtype)
        inputs = {"attention_mask": mask, "position_ids": batch.positions.to(device)}
    with evaluating(model):
        return decoder(model)(input_ids=batch.ids.to(device), use_cache=False, **inputs).last_hidden_state


def _mask(branches: Int[Tensor, "rows length"], dtype: torch.dtype) -> Float[Tensor, "rows 1 length length"]:
    """Additive mask [rows, 1, length, length]: a token sees the prefix and its own branch, up to itself."""
    query, key = branches[:, :, None], branches[:, None, :]
    length = branches.shape[1]
    seen = ((key == 0) | (key == query)) & torch.ones(length, length, dtype=torch.bool, device=branches.device).tril()
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def can_share(model) -> bool:
    """Whether the model's attention takes an explicit mask (eager and sdpa do)."""
    return model.config._attn_implementation in ("eager", "sdpa")


@contextmanager
def entering(model, layer: int, x: Float[Tensor, "batch tokens hidden"] | None) -> Iterator[None]:
    """While the context is open, the decoder's layers before ``layer`` compute nothing and hand ``x`` on.

    ``x`` [batch, tokens, hidden] is what ``layer`` reads in the forward pass that runs inside. With
    ``layer`` = L only what follows the layers is left.
    """
    with _instead(decoder_layers(model)[:layer], lambda _: x):
        yield


def stepping(
    model, layer: int, start: int, x: Float[Tensor, "batch tokens hidden"] | None, run: Callable[[], object]
) -> Float[Tensor, "batch tokens hidden"]:
    """The input of ``layer`` in the forward pass ``run()``, given ``x``, the input of ``start`` (None: ``start`` is 0).

    Only the layers between the two compute. Returns [batch, tokens, hidden].
    """
    layers, seen = decoder_layers(model), []
    handle = layers[-1].register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        with entering(model, start, x), _instead(layers[layer:], lambda hidden: hidden):
            run()
    finally:
        handle.remove()
    return seen[0]


@contextmanager
def _instead(layers: Iterable[nn.Module], what: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Layers that return ``what`` of their input and compute nothing."""
    own = [(layer, layer.__dict__.get("forward")) for layer in layers]  # accelerate's hooks put a forward there
    for layer in layers:
        layer.forward = lambda hidden_states, *args, **kwargs: what(hidden_states)
    try:
        yield
    finally:
        for layer, before in own:
            if before is None:
                del layer.forward
            else:
                layer.forward = before
