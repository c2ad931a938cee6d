"""What comes before a layer, computed once: forward passes that start there, or end there.

A model that is pruned in layer ℓ alone computes before ℓ what the dense one computes. Of a remove
test, whose every pass goes through L layers, the share (L + 1)/2L is therefore enough.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from . import models


@contextmanager
def entering(model, layer: int, x: torch.Tensor | None) -> Iterator[None]:
    """While the context is open, the decoder's layers before ``layer`` compute nothing and hand ``x`` on.

    ``x`` [batch, tokens, hidden] is what ``layer`` reads in the forward pass that runs inside. With
    ``layer`` = L only what follows the layers is left.
    """
    with _instead(models.decoder_layers(model)[:layer], lambda _: x):
        yield


def stepping(model, layer: int, start: int, x: torch.Tensor | None, run: Callable[[], object]) -> torch.Tensor:
    """What ``layer`` reads in the forward pass ``run()``, given what ``start`` reads, ``x`` (None: it is 0).

    Only the layers between them compute. Returns [batch, tokens, hidden].
    """
    layers, seen = models.decoder_layers(model), []
    handle = layers[-1].register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        with entering(model, start, x), _instead(layers[layer:], lambda hidden: hidden):
            run()
    finally:
        handle.remove()
    return seen[0]


@contextmanager
def _instead(layers: Sequence[nn.Module], what: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Layers that return ``what`` of their input and compute nothing."""
    own = [(layer, layer.__dict__.get("forward")) for layer in layers]  # accelerate's hooks put one there
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
