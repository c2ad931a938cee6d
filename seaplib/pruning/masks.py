"""Which units stay: :class:`PruningMask`, with its budget and its file."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from .. import files
from ..models.shapes import Geometry


@dataclass(frozen=True)
class PruningMask:
    """Kept units: ``heads`` [layers, query heads] and ``channels`` [layers, channels], bool.

    A KV head stays while any of its query heads stays. All kept KV groups of a layer keep equally many
    query heads, because attention kernels need the same ratio of query to KV heads in a whole layer. With
    ``bypass`` a module without units loses its output bias too: a layer without units is then the identity.
    Raises ``ValueError`` for other shapes and types and for KV groups of unequal size.
    """

    geometry: Geometry
    heads: Bool[Tensor, "layers heads"]
    channels: Bool[Tensor, "_layers channels"]  # as many layers as ``heads``, by the check of the geometry below
    provenance: dict = field(default_factory=dict)
    bypass: bool = False

    def __post_init__(self):
        g = self.geometry
        expected = {"heads": (g.layers, g.heads), "channels": (g.layers, g.channels)}
        for name, shape in expected.items():
            units = getattr(self, name)
            if tuple(units.shape) != shape:
                raise ValueError(f"mask {name} have shape {tuple(units.shape)}, the model needs {shape}")
            if units.dtype != torch.bool:  # ~ of an integer is arithmetic
                raise ValueError(f"mask {name} are {units.dtype}; units stay or go, so a mask is torch.bool")
            object.__setattr__(self, name, units.cpu())
        per_group = self.heads.unflatten(1, (g.kv_heads, g.queries_per_group)).sum(-1)
        for layer, counts in enumerate(per_group):
            if len(set(counts[counts > 0].tolist())) > 1:
                raise ValueError(
                    f"layer {layer}: kept KV groups must keep equally many query heads, got {counts.tolist()}"
                )

    @property
    def kv_heads(self) -> Bool[Tensor, "layers kv_heads"]:
        """KV heads that stay: every KV head with a query head that stays."""
        return self.heads.unflatten(1, (self.geometry.kv_heads, self.geometry.queries_per_group)).any(-1)

    @property
    def requested(self) -> float | None:
        """The sparsity that was asked for; None where the provenance does not say."""
        return self.provenance.get("requested")

    @property
    def removed_parameters(self) -> int:
        """Weights of the projections that go with the removed units."""
        g = self.geometry
        return (
            int((~self.heads).sum()) * g.query_parameters
            + int((~self.kv_heads).sum()) * g.kv_parameters
            + int((~self.channels).sum()) * g.channel_parameters
        )

    @property
    def achieved(self) -> float:
        """Removed share of the decoder layers' projection parameters."""
        return self.removed_parameters / self.geometry.projection_parameters

    @property
    def achieved_model(self) -> float:
        """Removed share of the whole model's parameters."""
        return self.removed_parameters / self.geometry.model_parameters

    def budget(self) -> dict:
        """Requested share, and achieved shares of all projections, attention, MLP, model, MACs and KV cache.

        MACs are those of the projections and the LM head for a token. The products of queries, keys and
        values depend on the context's length and are left out.
        """
        g = self.geometry
        attention = int((~self.heads).sum()) * g.query_parameters + int((~self.kv_heads).sum()) * g.kv_parameters
        return {
            "requested": self.requested,
            "achieved": self.achieved,
            "attention": attention / (g.layers * g.attention_parameters),
            "mlp": float((~self.channels).double().mean()),
            "model": self.achieved_model,
            "macs": self.removed_parameters / (g.projection_parameters + g.vocabulary * g.hidden),
            "kv_cache": float((~self.kv_heads).double().mean()),
        }

    @property
    def fingerprint(self) -> str:
        """Hash of the kept units and of ``bypass``."""
        bits = np.packbits(torch.cat([self.heads, self.channels], dim=1).numpy())
        shape = str(tuple(self.heads.shape)) + self.bypass * " bypass"
        return hashlib.sha256(bits.tobytes() + shape.encode()).hexdigest()[:32]

    def overlap(self, other: "PruningMask") -> dict[str, float]:
        """Jaccard index of the kept units, and its expectation for independent masks of these sizes.

        ValueError for a mask of another shape.
        """
        if (self.heads.shape, self.channels.shape) != (other.heads.shape, other.channels.shape):
            raise ValueError(f"masks of different models do not overlap: {self.geometry} against {other.geometry}")
        out = {}
        for module in ("heads", "channels"):
            a, b = getattr(self, module), getattr(other, module)
            both = (a.double().mean(1) * b.double().mean(1)).sum()
            either = (a.double().mean(1) + b.double().mean(1)).sum() - both
            out[module] = float((a & b).sum() / max(int((a | b).sum()), 1))
            out[f"{module}_chance"] = float(both / either) if either > 0 else 1.0
        return out

    def __repr__(self) -> str:
        asked = "" if self.requested is None else f"requested {self.requested:.1%}, "
        about = " ".join(
            str(self.provenance[k]) for k in ("score", "calibration", "allocation") if k in self.provenance
        )
        heads = f"{int(self.heads.sum())}/{self.heads.numel()} heads"
        channels = f"{int(self.channels.sum())}/{self.channels.numel()} channels"
        return f"PruningMask({about}: {asked}achieved {self.achieved:.1%} of projections, keeps {heads}, {channels})"

    def save(self, directory: str | Path) -> None:
        """Write ``mask.safetensors`` (the units) and ``mask.json`` (geometry, provenance, bypass)."""
        units = {"heads": self.heads.to(torch.uint8), "channels": self.channels.to(torch.uint8)}
        about = {"geometry": self.geometry.as_dict(), "provenance": self.provenance, "bypass": self.bypass}
        files.save(directory, "mask", units, about)

    @classmethod
    @files.loader("mask")
    def load(cls, directory: str | Path) -> "PruningMask":
        """Read what :meth:`save` wrote."""
        tensors, about = files.load(directory, "mask")
        kept = tensors["heads"].bool(), tensors["channels"].bool()
        return cls(Geometry(**about["geometry"]), *kept, about["provenance"], about.get("bypass", False))


def keep_all(geometry: Geometry) -> PruningMask:
    """The mask that removes nothing."""
    return PruningMask(
        geometry,
        torch.ones(geometry.layers, geometry.heads, dtype=torch.bool),
        torch.ones(geometry.layers, geometry.channels, dtype=torch.bool),
        {"requested": 0.0},
    )
