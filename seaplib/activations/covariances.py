"""Covariances of the prunable units over calibration text, for least-squares compensation.

They take another pass through the decoder, or several where the matrices of all layers take more than
``MATRIX_BYTES`` at once (8·dim² bytes a module while they are summed). Beside the pass itself that is
tokens·dim² multiplications a module: for a Llama-like layer about two thirds of the layer's own, in double precision.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Float64
from safetensors import safe_open
from torch import Tensor

from .. import files, store
from ..models import identity, layers
from ..models.passes import watch
from ..models.shapes import Geometry
from ..settings import MATRIX_BYTES, Calibration
from ..texts import corpora
from .capture import UNITS, _Sums


@dataclass(frozen=True)
class Covariances:
    """Mean [dim] and covariance [dim, dim] (1/n) of the units of every layer's ``attention`` and ``mlp``.

    ``tensors`` maps "mean.<module>.<layer>" and "covariance.<module>.<layer>" to float32 tensors; loaded
    tensors are read from disk when they are asked for, so that those of a large model need not fit in memory
    (4·dim² bytes each). ``count`` is the number of tokens.
    """

    geometry: Geometry
    count: int
    tensors: Mapping[str, Float[Tensor, "..."]]
    fingerprint: str
    provenance: dict = field(default_factory=dict)

    @classmethod
    def of(cls, geometry: Geometry, count: int, tensors: dict, provenance: dict | None = None) -> "Covariances":
        """Covariances made of ``tensors``; the fingerprint is their hash."""
        digest = hashlib.sha256()
        for name, tensor in sorted(tensors.items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return cls(geometry, count, tensors, digest.hexdigest()[:32], provenance or {})

    def __repr__(self) -> str:
        task = self.provenance.get("task", "?")
        return f"Covariances({task}: {self.count:,} tokens, {self.geometry.layers} layers)"

    def at(self, module: str, layer: int) -> tuple[Float64[Tensor, " dim"], Float64[Tensor, "dim dim"]]:
        """Mean [dim] and covariance [dim, dim] of a layer's ``module``, float64."""
        mean, covariance = (self.tensors[f"{name}.{module}.{layer}"] for name in ("mean", "covariance"))
        return mean.double(), covariance.double()

    def save(self, directory: Path) -> None:
        facts = {"geometry": self.geometry.as_dict(), "count": self.count, "fingerprint": self.fingerprint}
        files.save(directory, "units", self.tensors, facts | {"provenance": self.provenance})

    @classmethod
    @files.loader("set of covariances")
    def load(cls, directory: Path) -> "Covariances":
        about = json.loads((Path(directory) / "units.json").read_text())
        geometry = Geometry(**about.pop("geometry"))
        return cls(geometry, tensors=_OnDisk(Path(directory) / "units.safetensors"), **about)


class _OnDisk(Mapping):
    """Tensors of a safetensors file, each read when it is asked for."""

    def __init__(self, path: Path):
        self.path = path
        with safe_open(path, "pt") as file:
            self.names = tuple(file.keys())

    def __getitem__(self, name: str) -> Float[Tensor, "..."]:
        with safe_open(self.path, "pt") as file:
            return file.get_tensor(name)

    def __iter__(self):
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class WeightedCovariances:
    """Covariances of several tasks together, each with a weight, as the general score is (Eq. 15).

        μ = Σ_τ a_τ·μ_τ,   Σ = Σ_τ a_τ·(Σ_τ + (μ_τ − μ)(μ_τ − μ)ᵀ),   a_τ = α_τ / Σα

    A task's weight does not depend on how many tokens its texts have.
    """

    parts: dict[str, Covariances]
    alpha: dict[str, int | float]

    def __post_init__(self):
        if not self.parts or set(self.parts) != set(self.alpha):
            raise ValueError(f"weights must name the same tasks; got {sorted(self.parts)} and {sorted(self.alpha)}")

    @property
    def geometry(self) -> Geometry:
        return next(iter(self.parts.values())).geometry

    @property
    def fingerprint(self) -> str:
        named = sorted((part.fingerprint, float(self.alpha[task])) for task, part in self.parts.items())
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:32]

    def at(self, module: str, layer: int) -> tuple[Float64[Tensor, " dim"], Float64[Tensor, "dim dim"]]:
        """As :meth:`Covariances.at`."""
        total, each = sum(self.alpha.values()), {task: part.at(module, layer) for task, part in self.parts.items()}
        share = {task: self.alpha[task] / total for task in each}
        mean = sum(share[task] * own for task, (own, _) in each.items())
        offsets = {task: own - mean for task, (own, _) in each.items()}
        whole = sum(share[task] * (own + torch.outer(offsets[task], offsets[task])) for task, (_, own) in each.items())
        return mean, whole


def collect(
    model, tokenizer, corpus: corpora.Corpus, calibration: Calibration | None = None, progress: bool = True
) -> Covariances:
    """Run a corpus' first texts through the decoder and return the :class:`Covariances` of its units.

    The samples are token positions (``calibration.pooling`` and ``.estimator`` have no effect), padding
    left out. ValueError where activations are not finite.
    """
    if not isinstance(corpus, corpora.Corpus):
        raise TypeError(f"covariances are collected on a Corpus (seaplib.corpus(...)), got {type(corpus).__name__}")
    calibration = calibration or Calibration(samples=max(len(corpus), 1))
    shape = layers.geometry(model)
    waiting = [(module, layer) for layer in range(shape.layers) for module in UNITS]
    width = {"attention": shape.heads * shape.head_dim, "mlp": shape.channels}
    texts = corpus.first(calibration.samples).texts
    tensors, count = {}, 0
    while waiting:
        chosen, used = [], 0
        while waiting and (not chosen or used + 8 * width[waiting[0][0]] ** 2 <= MATRIX_BYTES):
            used += 8 * width[waiting[0][0]] ** 2
            chosen.append(waiting.pop(0))
        sums = {key: _Sums() for key in chosen}
        inputs = {layers.linear(layers.decoder_layers(model)[i], UNITS[m]): sums[m, i].add for m, i in chosen}
        described = f"covariances on {corpus.task}"
        count = watch(model, tokenizer, texts, calibration, inputs, None, progress, described)
        for (module, layer), total in sums.items():
            if total.m2 is None or not torch.isfinite(total.m2).all():
                where = f"the {module} activations of layer {layer}"
                raise ValueError(f"{corpus.task}: {where} are not finite (NaN or Inf)")
            tensors[f"mean.{module}.{layer}"] = total.mean.float().cpu()
            tensors[f"covariance.{module}.{layer}"] = (total.m2 / total.count).float().cpu()
    provenance = {"task": corpus.task, "calibration": calibration.as_dict(), "corpus": corpus.fingerprint}
    return Covariances.of(shape, count, tensors, provenance)


def calibrate(model, tokenizer, tasks, calibration: Calibration | None = None) -> dict[str, Covariances]:
    """Every task's :class:`Covariances` on the texts that ``calibrate`` draws, asking the store first."""
    if isinstance(tasks, str):
        raise TypeError(f"calibrate takes a list of tasks, got the text {tasks!r}")
    calibration = calibration or Calibration()
    known = identity.specification(model, tokenizer)
    out = {}
    for task in tasks:
        corpus = corpora.corpus(task, calibration.samples, calibration.seed)
        spec = known | {"corpus": corpus.fingerprint, "calibration": calibration.as_dict()}
        make = partial(collect, model, tokenizer, corpus, calibration)
        out[task] = store.fetch("covariances", spec, make, Covariances)
    return out
