"""What stands in for removed units: their mean, or a least-squares refit of the units that stay.

An output projection (o, down) computes y = W·x + b from the units x, of which pruning keeps x_k and
removes x_r. With the mean μ of x over calibration tokens y is right on average,

    b' = b + W_r·μ_r                                                   (FLAP's bias compensation)

and with the covariance Σ too it is as nearly right, token by token, as the kept units allow:

    min over W', b' of  E‖W·x + b − W'·x_k − b'‖² + Σ_j λ_j·‖w'_j − w_j‖²,   λ_j = RIDGE·Σ_jj
    W' = W_k + W_r·Σ_rk·(Σ_kk + diag λ)⁻¹,    b' = b + W·μ − W'·μ_k

What the kept units say about the removed ones moves into their columns, and the shapes stay those of
the mask. The ridge pulls to the first rule: where calibration says little, W' is W_k and b' that of the mean.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from . import layers
from .shapes import Geometry

RIDGE = 1e-2  # of each kept unit's variance; chosen on validation items of the bundled benchmark


@dataclass(frozen=True)
class Covariances:
    """Mean [dim] and covariance [dim, dim] (1/n) of the units of every layer's ``attention`` and ``mlp``.

    ``tensors`` maps "mean.<module>.<layer>" and "covariance.<module>.<layer>" to float32 tensors; loaded
    ones are read from disk when they are asked for, so that a large model's need not fit in memory
    (4·dim² bytes each). ``count`` is the number of tokens.
    """

    geometry: Geometry
    count: int
    tensors: Mapping[str, torch.Tensor]
    fingerprint: str
    provenance: dict = field(default_factory=dict)

    @classmethod
    def of(cls, geometry: Geometry, count: int, tensors: dict, provenance: dict | None = None) -> "Covariances":
        """Made of ``tensors``, which its fingerprint is the hash of."""
        digest = hashlib.sha256()
        for name, tensor in sorted(tensors.items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return cls(geometry, count, tensors, digest.hexdigest()[:32], provenance or {})

    def __repr__(self) -> str:
        task = self.provenance.get("task", "?")
        return f"Covariances({task}: {self.count:,} tokens, {self.geometry.layers} layers)"

    def at(self, module: str, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean [dim] and covariance [dim, dim] of one layer's ``module``, float64."""
        mean, covariance = (self.tensors[f"{name}.{module}.{layer}"] for name in ("mean", "covariance"))
        return mean.double(), covariance.double()

    def save(self, directory: Path) -> None:
        save_file({name: t.contiguous() for name, t in self.tensors.items()}, Path(directory) / "units.safetensors")
        about = {"geometry": self.geometry.as_dict(), "count": self.count, "fingerprint": self.fingerprint}
        (Path(directory) / "units.json").write_text(json.dumps(about | {"provenance": self.provenance}, indent=1))

    @classmethod
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

    def __getitem__(self, name: str) -> torch.Tensor:
        with safe_open(self.path, "pt") as file:
            return file.get_tensor(name)

    def __iter__(self):
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class WeightedCovariances:
    """Those of several corpora together, each with its weight, as the general score is (Eq. 15).

        μ = Σ_τ a_τ·μ_τ,   Σ = Σ_τ a_τ·(Σ_τ + (μ_τ − μ)(μ_τ − μ)ᵀ),   a_τ = α_τ / Σα

    A task's weight does not depend on how many tokens its texts have.
    """

    parts: dict[str, Covariances]
    alpha: dict[str, float]

    def __post_init__(self):
        if not self.parts or set(self.parts) != set(self.alpha):
            raise ValueError(f"weights must name the same tasks; got {sorted(self.parts)} and {sorted(self.alpha)}")

    @property
    def geometry(self) -> Geometry:
        return next(iter(self.parts.values())).geometry

    @property
    def fingerprint(self) -> str:
        named = sorted((one.fingerprint, float(self.alpha[task])) for task, one in self.parts.items())
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:32]

    def at(self, module: str, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`Covariances.at`."""
        total, each = sum(self.alpha.values()), {task: one.at(module, layer) for task, one in self.parts.items()}
        share = {task: self.alpha[task] / total for task in each}
        mean = sum(share[task] * one for task, (one, _) in each.items())
        offsets = {task: one - mean for task, (one, _) in each.items()}
        whole = sum(share[task] * (one + torch.outer(offsets[task], offsets[task])) for task, (_, one) in each.items())
        return mean, whole


#: what ``prune`` takes: mean activations (``attention``, ``mlp`` → [layers, dim]), or covariances
Compensation = dict[str, torch.Tensor] | Covariances | WeightedCovariances


def refit(weight: torch.Tensor, covariance: torch.Tensor, removed: torch.Tensor, ridge: float = RIDGE) -> torch.Tensor:
    """W' [out, kept] in float64 for a weight [out, in] that loses the inputs ``removed`` (bool [in])."""
    weight, kept = weight.double(), ~removed
    left = covariance[kept][:, kept].clone()
    variances = left.diagonal().clone()
    floor = 1e-8 * variances.mean() if len(variances) else 0.0  # units that never vary teach nothing
    left.diagonal().add_(ridge * variances + floor + torch.finfo(torch.float64).tiny)
    change = torch.linalg.solve(left, covariance[kept][:, removed] @ weight[:, removed].T).T
    return weight[:, kept] + change


def compensated(
    projection: nn.Module,
    removed: torch.Tensor,
    module: str,
    layer: int,
    compensation: Compensation | None,
    bypass: bool = False,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Weight [out, kept] (None: its own columns) and bias of an output projection without the units ``removed``.

    With ``bypass``, and no unit left, the bias is 0: nothing of the module remains.
    """
    bias = layers.tensor(projection, "bias")
    bias = None if bias is None else bias.detach()
    if bypass and bool(removed.all()):
        return None, None if bias is None else torch.zeros_like(bias)
    if compensation is None or not bool(removed.any()):
        return None, bias
    weight = layers.matrix(projection).detach()
    removed = removed.to(weight.device)
    if isinstance(compensation, dict):
        new, mean = None, compensation[module][layer].to(weight.device).double()
        extra = weight[:, removed].double() @ mean[removed]
    else:
        mean, covariance = (t.to(weight.device) for t in compensation.at(module, layer))
        new = refit(weight, covariance, removed).to(weight.dtype)  # the bias makes up for its rounding too
        extra = weight.double() @ mean - new.double() @ mean[~removed]
    return new, (extra if bias is None else bias.double() + extra).to(weight.dtype)


def content(compensation: Compensation | None) -> bytes:
    """What a compensation changes in a model, as bytes to be hashed."""
    if compensation is None or isinstance(compensation, dict):
        means = sorted((compensation or {}).items())
        return b"".join(module.encode() + mean.double().contiguous().numpy().tobytes() for module, mean in means)
    return f"least squares {RIDGE} {compensation.fingerprint}".encode()
