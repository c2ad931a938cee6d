"""Wanda (arXiv 2306.11695, code @8e8fc87): unstructured, row by row, layer after layer."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from ...activations.capture import capture
from ...models import layers
from ...models.layers import resized
from ...models.offloading import copy_of
from ...models.passes import batches, encode
from ...texts.corpora import Corpus
from ..allocation import checked

#: role whose input a projection shares → the projections (q, k, v read the same input; so do gate, up)
_SAME_INPUT = {"q": ("q", "k", "v"), "o": ("o",), "up": ("gate", "up"), "down": ("down",)}


class _Reached(Exception):
    """The forward pass has come as far as is needed."""


@contextmanager
def _stop_after(layer: nn.Module) -> Iterator[None]:
    def stop(module, args, output):
        raise _Reached

    handle = layer.register_forward_hook(stop)
    try:
        yield
    finally:
        handle.remove()


def wanda_pruned(
    weight: Float[Tensor, "out in"], second_moment: Float[Tensor, " in"], sparsity: float
) -> Bool[Tensor, "out in"]:
    """Weights that go: in every row the floor(sparsity·in) lowest |w|·sqrt(mean h²)."""
    metric = weight.abs() * second_moment.to(weight).sqrt()
    lowest = torch.argsort(metric, dim=1, stable=True)[:, : int(sparsity * weight.shape[1] + 1e-9)]
    return torch.zeros_like(weight, dtype=torch.bool).scatter_(1, lowest, True)


@torch.no_grad()
def wanda(
    model: nn.Module, tokenizer, corpus: Corpus, sparsity: float, max_length: int = 2048, progress: bool = True
) -> nn.Module:
    """Unstructured Wanda: a copy of ``model`` with the share ``sparsity`` of every projection's weights set to 0.

    As published, layer by layer: the inputs of a layer are measured with the layers before it pruned.
    The shapes stay, so nothing gets faster without kernels for scattered zeros.
    """
    checked(sparsity)
    encoded = encode(model, tokenizer, corpus.texts, max_length)
    pruned = copy_of(model)
    device = layers.input_device(pruned)
    for index, layer in enumerate(
        tqdm(layers.decoder_layers(pruned), desc="Wanda", unit="layer", leave=False, disable=not progress)
    ):
        with capture(pruned, roles=tuple(_SAME_INPUT), only=(index,)) as recorder, _stop_after(layer):
            for batch in batches(encoded, device, None):
                try:
                    batch.run(pruned)
                except _Reached:
                    continue
        for measured, roles in _SAME_INPUT.items():
            _, _, _, second_moment = recorder.stacked(measured)
            if not torch.isfinite(second_moment).all():
                raise ValueError(
                    f"the inputs of layer {index}'s {measured} are not finite (NaN or Inf), so they rank nothing"
                )
            for role, *_ in layers.projections(layer):
                if role in roles:
                    projection = resized(layers.linear(layer, role))
                    matrix = layers.matrix(projection)
                    matrix[wanda_pruned(matrix, second_moment[0], sparsity)] = 0
                    layers.set_linear(layer, role, projection)
    return pruned
