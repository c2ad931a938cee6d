"""Statistics of the inputs of linear layers over calibration text, for sparsifying these inputs.

Per input and channel the second moment and the largest magnitude; per input a histogram of
magnitudes, from which the threshold of any ratio can be read. The histogram counts the upper half of
a float32's bits (65536 buckets, each less than 0.8% wide), so all of it is exact, whatever the
batches. ``learn`` fits shift and scale on the same texts.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import files, store
from ..models import identity
from ..models.layers import decoder_layers, gate_activation, linear_layers, matrix, shape
from ..models.offloading import runs_on
from ..models.passes import watch
from ..settings import Calibration
from .sparsifier import LeastSquares, Sparsifier

BUCKETS = 2**15  # of the upper 16 bits of a float32, the sign apart
GATE = "act(gate)"  # beside the roles: the output of the gate's activation function (CATS)
MOMENT_BYTES = 2**30  # memory for the least squares' matrices; more layers take several passes


@dataclass(frozen=True)
class InputStats:
    """Statistics of linear layers' inputs; ``key`` is "<layer>.<role>".

    ``second_moment``, ``largest``: key → [dim]; ``histogram``: key → int64 [BUCKETS] of |x| over
    tokens and channels. ``count`` is the number of tokens.
    """

    count: int
    second_moment: dict[str, Float[Tensor, " _"]]
    largest: dict[str, Float[Tensor, " _"]]
    histogram: dict[str, Int[Tensor, " _"]]
    provenance: dict = field(default_factory=dict)

    TENSORS = ("second_moment", "largest", "histogram")

    def threshold(self, key: str, ratio: float) -> float:
        """The magnitude that a share ``ratio`` of the values does not exceed, linear inside a bucket."""
        counts = self.histogram[key].double()
        below = counts.cumsum(0)
        wanted = ratio * float(below[-1])
        bucket = int((below < wanted).sum()) if wanted > 0 else 0
        low, high = (float(torch.tensor((bucket + i) << 16, dtype=torch.int32).view(torch.float32)) for i in (0, 1))
        share = (wanted - float(below[bucket] - counts[bucket])) / max(float(counts[bucket]), 1.0)
        return low + share * (high - low)

    def save(self, directory: Path) -> None:
        tensors = files.flat({name: getattr(self, name) for name in self.TENSORS}, "/")
        files.save(directory, "inputs", tensors, {"count": self.count, "provenance": self.provenance})

    @classmethod
    @files.loader("set of input statistics")
    def load(cls, directory: Path) -> "InputStats":
        tensors, facts = files.load(directory, "inputs")
        return cls(facts["count"], provenance=facts["provenance"], **files.grouped(tensors, "/"))


def collect_inputs(model, tokenizer, corpus, calibration: Calibration, progress: bool = True) -> InputStats:
    """:class:`InputStats` of all linear layers of the decoder layers, from the store if there."""
    known = identity.specification(model, tokenizer)
    known |= {"corpus": corpus.first(calibration.samples).fingerprint, "calibration": calibration.as_dict()}
    make = partial(_collect, model, tokenizer, corpus, calibration, progress, known)
    return store.fetch("input_stats", known, make, InputStats)


def _collect(model, tokenizer, corpus, calibration, progress, provenance) -> InputStats:
    found = {name: {} for name in InputStats.TENSORS}

    def see(key: str, x: Float[Tensor, "tokens dim"]) -> None:
        x = x.float()
        magnitude = x.abs()
        counts = torch.bincount((magnitude.contiguous().view(torch.int32) >> 16).flatten(), minlength=BUCKETS)
        new = {"second_moment": x.double().square().sum(0), "largest": magnitude.amax(0), "histogram": counts}
        for name, value in new.items():
            value, before = value.cpu(), found[name].get(key)
            merged = value if before is None else torch.maximum(before, value) if name == "largest" else before + value
            found[name][key] = merged

    inputs, outputs = {}, {}
    layers, linear = decoder_layers(model), linear_layers(model)
    for (layer, role), module in linear.items():
        inputs.setdefault(module, lambda x, key=f"{layer}.{role}": see(key, x))  # fused: once, under its first role
        if role == "gate" and (act := gate_activation(layers[layer])) is not None:
            width = shape(linear[layer, "down"])[1]  # a fused gate and up: the gate comes first
            outputs[module] = lambda out, i=layer, act=act, width=width: see(f"{i}.{GATE}", act(out[..., :width]))
    texts = corpus.first(calibration.samples).texts
    count = watch(model, tokenizer, texts, calibration, inputs, outputs, progress, f"inputs on {corpus.task}")
    bad = [key for key, value in found["second_moment"].items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"{corpus.task}: the input of {bad[0]} is not finite (NaN or Inf)")
    found["second_moment"] = {key: value / count for key, value in found["second_moment"].items()}
    return InputStats(count, provenance=provenance | {"task": corpus.task}, **found)


def learn(
    model, tokenizer, corpus, calibration: Calibration, sparsifiers: dict[str, Sparsifier], progress: bool = True
) -> dict[str, Sparsifier]:
    """The sparsifiers with γ and β fitted to the model's own (dense) inputs on calibration text.

    Every layer is fitted alone, with the inputs it has in the dense model.
    """
    modules = {f"{layer}.{role}": module for (layer, role), module in linear_layers(model).items()}
    texts = corpus.first(calibration.samples).texts
    fitted, waiting = {}, list(sparsifiers)
    while waiting:
        chosen, used = [], 0
        while waiting and (not chosen or used < MOMENT_BYTES):
            chosen.append(waiting.pop(0))
            used += 16 * shape(modules[chosen[-1]])[1] ** 2
        sums, watchers = {}, {}
        for key in chosen:
            module = modules[key]
            sums[key] = LeastSquares(shape(module)[1], runs_on(module), "scale" in sparsifiers[key].rule.parts)
            watchers[module] = lambda x, s=sparsifiers[key], sums=sums[key]: sums.add(*s.split(x)[:2])
        watch(model, tokenizer, texts, calibration, watchers, None, progress, f"fitting {chosen[0]} to {chosen[-1]}")
        for key in chosen:
            weight = matrix(modules[key]).detach().to(runs_on(modules[key]))
            gamma, beta = sums[key].solve(weight, "shift" in sparsifiers[key].rule.parts)
            fitted[key] = replace(sparsifiers[key], gamma=gamma, beta=beta)
    return fitted
