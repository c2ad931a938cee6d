"""Relative error of a layer's output when the layer's input (or weight) is sparse, token by token.

    e = mean over tokens of ‖W·x − W·x̂‖₂ / ‖W·x‖₂           (biases cancel and are left out)

``x`` is the layer's input in the dense model, so a layer's error says nothing about the layers before.
How errors add up is read from the residual stream behind every decoder layer, where the sparse
model is compared with the dense model.
"""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..models import architectures
from ..models.layers import decoder_layers, gate_activation, input_device, linear_layers, matrix
from ..models.offloading import runs_on
from ..models.passes import Batch, batches, encode, real, residual_stream
from ..settings import Calibration
from ..texts import corpora
from .plan import CloseGate, SparsityPlan
from .sparsifier import sparse_weight

STREAM = "residual stream"


@torch.inference_mode()
def output_errors(
    model,
    tokenizer,
    corpus: corpora.Corpus,
    plans: Mapping[str, SparsityPlan],
    calibration: Calibration | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Errors of several plans on the same texts: one row per plan, layer and role.

    Columns: plan, layer, role (``residual stream``: behind the layer), error, zeros (measured share of
    zeros in the layer's sparse input, or weight; NaN for the stream), tokens. ``calibration`` bounds
    the texts: samples, max_length, batch_tokens.
    """
    calibration = calibration or Calibration(samples=max(len(corpus), 1))
    texts = corpus.first(calibration.samples).texts
    encoded = encode(model, tokenizer, texts, calibration.max_length)
    sparse = {name: plan.apply(model) for name, plan in plans.items()}
    sums, tokens = defaultdict(lambda: torch.zeros(2, dtype=torch.float64)), 0
    for batch in batches(encoded, input_device(model), calibration.batch_tokens, "output errors", progress):
        keep = batch.keep
        tokens += int(keep.sum())
        with ExitStack() as stack:
            _watch_layers(model, plans, keep, sums, stack)
            dense = _streams(model, batch)
        for name, other in sparse.items():
            for layer, (x, y) in enumerate(zip(dense, _streams(other, batch), strict=True)):
                x, y = real(x, keep), real(y, keep)
                sums[name, layer, STREAM] += torch.tensor([_relative(x, x - y), float("nan")])
    found = [(*key, *(value / tokens).tolist(), tokens) for key, value in sums.items()]
    frame = pd.DataFrame(found, columns=["plan", "layer", "role", "error", "zeros", "tokens"])
    order = {name: place for place, name in enumerate([*plans, *architectures.ROLES, STREAM])}
    return frame.sort_values(["plan", "layer", "role"], key=lambda c: c.map(order) if c.name != "layer" else c,
                             ignore_index=True)  # fmt: skip


def _streams(model, batch: Batch) -> list[Float[Tensor, "batch tokens hidden"]]:
    """The residual stream behind every decoder layer, [batch, tokens, hidden] each."""
    found = {}
    with residual_stream(model, found.__setitem__):
        batch.run(model)
    return [found[layer] for layer in range(1, len(found))]


def _relative(y: Float[Tensor, "tokens dim"], difference: Float[Tensor, "tokens dim"]) -> float:
    """Sum over tokens [tokens, dim] of ‖difference‖ / ‖y‖."""
    return float((difference.double().norm(dim=-1) / y.double().norm(dim=-1).clamp(min=1e-30)).sum())


def _watch_layers(model, plans, keep, sums, stack: ExitStack) -> None:
    """While the dense model runs, compare every plan's version of each input with the input itself."""
    found, layers = linear_layers(model), decoder_layers(model)
    for name, plan in plans.items():
        for key, sparsifier in plan.inputs.items():
            layer, role = key.split(".")
            module, place = found[int(layer), role], (name, int(layer), role)
            weight = matrix(module).float().to(runs_on(module))
            if plan.rule.of == "weights":
                see = _of_weight(weight, sparse_weight(weight, plan.rule), sums[place])
            elif plan.rule.criterion == "cats":
                gate = CloseGate(gate_activation(layers[int(layer)]), sparsifier.threshold, weight.shape[1])
                see, note = _of_gate(weight, gate, keep, sums[place])
                stack.callback(found[int(layer), "gate"].register_forward_hook(note).remove)
            else:
                see = _of_input(weight, sparsifier, sums[place])
            hook = lambda module, args, see=see: see(real(args[0], keep).float())  # noqa: E731
            stack.callback(module.register_forward_pre_hook(hook).remove)


def _of_weight(weight, sparse, total):
    zeros = float((sparse == 0).double().mean())

    def see(x):
        total.add_(torch.tensor([_relative(x @ weight.T, x @ (weight - sparse).T), zeros * len(x)]))

    return see


def _of_input(weight, sparsifier, total):
    def see(x):
        _, kept, _ = sparsifier.split(x)
        difference = (x - sparsifier(x)) @ weight.T
        total.add_(torch.tensor([_relative(x @ weight.T, difference), float((kept == 0).double().mean(1).sum())]))

    return see


def _of_gate(weight, gate, keep, total):
    closed = []

    def note(module, args, out):
        closed.append(real(gate.closed(out), keep))

    def see(x):
        shut = closed.pop()
        difference = x.masked_fill(~shut, 0) @ weight.T
        total.add_(torch.tensor([_relative(x @ weight.T, difference), float(shut.double().mean(1).sum())]))

    return see, note
