"""Which units stay: :class:`PruningMask`, and selection to a budget (Eqs. 8-10)."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from .ranking import rank_all, standardise
from .scores import Scores
from .shapes import Geometry
from .sparsity import Allocation, logistic
from .waterfilling import energy_counts


@dataclass(frozen=True)
class PruningMask:
    """Kept units: ``heads`` [layers, query heads] and ``channels`` [layers, channels], bool.

    A KV head stays while any of its query heads does. Every kept KV group of a layer must keep the
    same number of query heads, because attention kernels need one ratio per layer. With ``bypass`` a
    module without units loses its output bias too, so that a layer without both is the identity.
    """

    geometry: Geometry
    heads: torch.Tensor
    channels: torch.Tensor
    provenance: dict = field(default_factory=dict)
    bypass: bool = False

    def __post_init__(self):
        g = self.geometry
        expected = {"heads": (g.layers, g.heads), "channels": (g.layers, g.channels)}
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"mask {name} have shape {tuple(getattr(self, name).shape)}, the model needs {shape}")
        per_group = self.heads.unflatten(1, (g.kv_heads, g.queries_per_group)).sum(-1)
        for layer, counts in enumerate(per_group):
            if len(set(counts[counts > 0].tolist())) > 1:
                raise ValueError(
                    f"layer {layer}: kept KV groups must keep equally many query heads, got {counts.tolist()}"
                )

    @property
    def kv_heads(self) -> torch.Tensor:
        """bool [layers, KV heads]"""
        return self.heads.unflatten(1, (self.geometry.kv_heads, self.geometry.queries_per_group)).any(-1)

    @property
    def requested(self) -> float | None:
        return self.provenance.get("requested")

    @property
    def removed_parameters(self) -> int:
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
        """Requested and achieved shares: all projections, attention, MLP, model, MACs, KV cache.

        MACs are those of the projections and the LM head for one token; attention's own products
        depend on the context's length and are left out.
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
        bits = np.packbits(torch.cat([self.heads, self.channels], dim=1).numpy())
        shape = str(tuple(self.heads.shape)) + self.bypass * " bypass"
        return hashlib.sha256(bits.tobytes() + shape.encode()).hexdigest()[:32]

    def overlap(self, other: "PruningMask") -> dict[str, float]:
        """Jaccard index of the kept units, and its expectation for independent masks of these sizes."""
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

    def save(self, directory: Path) -> None:
        Path(directory).mkdir(parents=True, exist_ok=True)
        save_file(
            {"heads": self.heads.to(torch.uint8), "channels": self.channels.to(torch.uint8)},
            Path(directory) / "mask.safetensors",
        )
        about = {"geometry": self.geometry.as_dict(), "provenance": self.provenance, "bypass": self.bypass}
        (Path(directory) / "mask.json").write_text(json.dumps(about, indent=1))

    @classmethod
    def load(cls, directory: Path) -> "PruningMask":
        about = json.loads((Path(directory) / "mask.json").read_text())
        tensors = load_file(Path(directory) / "mask.safetensors")
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


def attention_units(geometry: Geometry, kv_unit: str) -> int:
    """How many attention units a layer has: KV groups, or query heads of one group."""
    if kv_unit == "query" and geometry.queries_per_group == 1:
        raise ValueError(
            "kv_unit='query' takes query heads from every KV group, but here a group has only one; use 'group'"
        )
    return geometry.kv_heads if kv_unit == "group" else geometry.queries_per_group


def attention_unit_parameters(geometry: Geometry, kv_unit: str) -> int:
    """Parameters that go with one attention unit of one layer."""
    if kv_unit == "group":
        return geometry.queries_per_group * geometry.query_parameters + geometry.kv_parameters
    return geometry.kv_heads * geometry.query_parameters


def lowest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """bool mask of ``scores`` [n] without its ``count`` lowest entries; ties go by index (Eqs. 8-10)."""
    place = max(count, 1) - 1
    threshold = np.partition(scores.numpy(), place)[place]  # linear in n, and vectorised, unlike torch's kthvalue
    keep = scores > threshold
    tied = (scores == threshold).nonzero().squeeze(1)
    keep[tied[count - int((scores < threshold).sum()) :]] = True
    return keep


def keep_heads(head_scores: torch.Tensor, count: int, geometry: Geometry, kv_unit: str) -> torch.Tensor:
    """bool [query heads] of one layer after removing ``count`` attention units."""
    grouped = head_scores.unflatten(0, (geometry.kv_heads, geometry.queries_per_group))
    if kv_unit == "group":
        return lowest(grouped.sum(1), count).repeat_interleave(geometry.queries_per_group)
    return torch.cat([lowest(group, count) for group in grouped])


def select(
    scores: Scores,
    sparsity: Allocation | float = 0.5,
    budget: str = "parameters",
    kv_unit: str = "group",
    round_to: int = 1,
) -> PruningMask:
    """Remove the lowest-scored units of every layer to the allocation's budget.

    ``budget="floor"``: floor(ρ_ℓ·units) in every module, as in the paper. ``"parameters"``: rounding
    errors are carried from layer to layer, over heads and channels, so that the achieved share of
    parameters meets the request within one channel (within ``round_to`` of them, where kept channels
    shall be a multiple of it). A bare number means ``logistic(number)``.
    Raises :class:`~seaplib.sparsity.UnreachableSparsity`.
    """
    if budget not in ("parameters", "floor"):
        raise ValueError(f"budget is 'parameters' or 'floor', got {budget!r}")
    if kv_unit not in ("group", "query"):
        raise ValueError(f"kv_unit is 'group' or 'query', got {kv_unit!r}")
    most = scores.geometry.channels // 2
    if not 1 <= round_to <= most:
        raise ValueError(f"round_to must lie between 1 and half the channels ({most}), got {round_to}")
    for values in (scores.attention, scores.channels):
        if not np.isfinite(values.numpy()).all():  # one pass, where torch's takes several
            raise ValueError("the scores are not all finite (NaN or Inf), so they rank nothing")
    allocation = sparsity if isinstance(sparsity, Allocation) else logistic(float(sparsity))
    by_layer = allocation.kind in ("uniform", "logistic")
    if round_to > 1 and (budget == "floor" or not by_layer):
        raise ValueError("round_to needs budget='parameters' and an allocation that fixes a ratio per layer")
    geometry = scores.geometry
    units = attention_units(geometry, kv_unit)
    if allocation.kind == "adaptive":
        heads, channels = _adaptive(scores, allocation, kv_unit)
    elif allocation.kind == "energy":
        counts = energy_counts(scores, allocation, units, attention_unit_parameters(geometry, kv_unit), kv_unit)
        heads, channels = _keep(scores, counts, kv_unit)
    else:
        caps = {"attention": 1 - 1 / units, "mlp": 1 - 1 / geometry.channels}
        # Counted in parameters, only what can go bears the target: with kv_unit="query" k and v stay.
        unit_cost = attention_unit_parameters(geometry, kv_unit)
        attention = geometry.attention_parameters if budget == "floor" else units * unit_cost
        shares = {
            "attention": attention / geometry.layer_parameters,
            "mlp": geometry.mlp_parameters / geometry.layer_parameters,
        }
        rho = allocation.ratios(geometry.layers, caps, shares)
        counts = (
            _floor_counts(rho, units, geometry)
            if budget == "floor"
            else _carried_counts(rho, units, geometry, kv_unit, round_to)
        )
        heads, channels = _keep(scores, counts, kv_unit)
    provenance = dict(scores.provenance) | {
        "requested": allocation.sparsity,
        "allocation": allocation.kind,
        "allocation_detail": str(allocation),
        "budget": budget,
        "kv_unit": kv_unit,
    }
    return PruningMask(geometry, heads, channels, provenance)


def _keep(scores: Scores, counts: list[tuple[int, int]], kv_unit: str) -> tuple[torch.Tensor, torch.Tensor]:
    """bool [layers, heads], [layers, channels] without the lowest ``counts`` (attention units, channels) per layer."""
    g = scores.geometry
    heads = [keep_heads(row, n, g, kv_unit) for row, (n, _) in zip(scores.heads, counts, strict=True)]
    channels = [lowest(row, n) for row, (_, n) in zip(scores.channels, counts, strict=True)]
    return torch.stack(heads), torch.stack(channels)


def _floor_counts(rho: dict, units: int, geometry: Geometry) -> list[tuple[int, int]]:
    """Removed (attention units, channels) per layer; the small term keeps 0.2·5 from becoming 0."""
    return [
        (int(a * units + 1e-9), int(m * geometry.channels + 1e-9))
        for a, m in zip(rho["attention"], rho["mlp"], strict=True)
    ]


def _carried_counts(rho: dict, units: int, geometry: Geometry, kv_unit: str, round_to: int) -> list[tuple[int, int]]:
    """As :func:`_floor_counts`, with rounding errors carried on.

    Attention units carry their own error, so that their share follows ρ on average; channels, the
    finer unit, absorb whatever is left of the layers' parameters so far.
    """
    unit_cost, channel_cost = attention_unit_parameters(geometry, kv_unit), geometry.channel_parameters
    head_debt, parameter_debt = 0.0, 0.0
    counts = []
    for a, m in zip(rho["attention"], rho["mlp"], strict=True):
        if a == 0 and m == 0:
            counts.append((0, 0))
            continue
        head_debt += a * units
        removed_units = int(np.clip(round(head_debt), 0, units - 1))
        head_debt -= removed_units
        parameter_debt += (a * units - removed_units) * unit_cost + m * geometry.mlp_parameters
        removed_channels = int(np.clip(round(parameter_debt / channel_cost), 0, geometry.channels - 1))
        if round_to > 1:
            kept = max(round((geometry.channels - removed_channels) / round_to), 1) * round_to
            removed_channels = max(geometry.channels - kept, 0)
        parameter_debt -= removed_channels * channel_cost
        counts.append((removed_units, removed_channels))
    return counts


def _adaptive(scores: Scores, allocation: Allocation, kv_unit: str) -> tuple[torch.Tensor, torch.Tensor]:
    """FLAP's idea with true parameter costs: coordinates standardised per layer, averaged into KV
    groups, one order over everything unprotected. May empty a module."""
    if kv_unit != "group":
        raise ValueError("the adaptive allocation ranks whole KV groups; use kv_unit='group'")
    g = scores.geometry
    free = torch.from_numpy(allocation.unprotected(g.layers))
    if allocation.sparsity > free.double().mean():
        allocation.ratios(g.layers)  # raises, naming the largest possible sparsity
    groups = standardise(scores.attention).unflatten(1, (g.kv_heads, g.queries_per_group * g.head_dim)).mean(-1)
    channels = standardise(scores.channels)
    target = allocation.sparsity * g.projection_parameters / g.channel_parameters
    cost = attention_unit_parameters(g, "group") / g.channel_parameters
    kept_groups, kept_channels = torch.ones_like(groups, dtype=torch.bool), torch.ones_like(channels, dtype=torch.bool)
    kept_groups[free], kept_channels[free] = rank_all(groups[free], channels[free], cost, target)
    return kept_groups.repeat_interleave(g.queries_per_group, dim=1), kept_channels


def single_layer(scores: Scores, layer: int, ratio: float, kv_unit: str = "group") -> PruningMask:
    """Remove floor(ratio·units) of one layer's heads and channels: the paper's remove test (Figs. 5, 6)."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio must lie in [0, 1], got {ratio}")
    g = scores.geometry
    mask = keep_all(g)
    units = attention_units(g, kv_unit)
    mask.heads[layer] = keep_heads(scores.heads[layer], int(ratio * units + 1e-9), g, kv_unit)
    mask.channels[layer] = lowest(scores.channels[layer], int(ratio * g.channels + 1e-9))
    provenance = dict(scores.provenance) | {
        "requested": ratio,
        "allocation": f"layer {layer}",
        "budget": "floor",
        "layer": layer,
    }
    return PruningMask(g, mask.heads, mask.channels, provenance)
