"""SEAP's published code (@c6bce61), which departs from the paper: in scores, masks and running variance."""

import torch
from jaxtyping import Float
from torch import Tensor

from ...activations.statistics import ActivationStats
from ..allocation import authors_logistic, uniform
from ..masks import PruningMask
from ..scores import Scores, aggregate, weights
from ..selection import attention_unit_parameters, rank_all, ranked_across, select


def authors_score(stats: ActivationStats, metric: str = "WIFV") -> Scores:
    """Scores of SEAP's published code; ``stats`` collected with ``estimator="authors"``.

    WIFV = variance·‖w‖₂²; WIFN = sqrt(mean square)·‖w‖₂² (not Eq. 12); heads by mean.
    """
    if metric not in ("WIFV", "WIFN"):
        raise ValueError(f"metric is 'WIFV' or 'WIFN', got {metric!r}")

    def of(module: str) -> Float[Tensor, "layers dims"]:
        factor = stats.var[module] if metric == "WIFV" else stats.second_moment[module].sqrt()
        return factor * stats.weight_l2sq[module]

    provenance = {"score": metric, "calibration": stats.provenance.get("task", "?")}
    return Scores(stats.geometry, of("attention"), of("mlp"), "mean", provenance)


def authors_mask(scores: Scores, sparsity: float, allocation: str = "UL-LD") -> PruningMask:
    """A mask of SEAP's published code: ``UL-UM`` uniform, ``UL-LD`` logistic, ``AL-AM`` adaptive.

    UL-LD protects the first and last two layers and averages over the other layers, so that less than the
    request goes. AL-AM standardises each layer by median and inter-quartile range, clips at ±3, and
    removes from below while the cost does not exceed the request. Raises ``ValueError`` for another name,
    and for AL-AM on grouped queries.
    """
    g = scores.geometry
    if allocation == "UL-UM":
        return select(scores, uniform(sparsity), budget="floor")
    if allocation == "UL-LD":
        return select(scores, authors_logistic(sparsity), budget="floor")
    if allocation != "AL-AM":
        raise ValueError(f"allocation is 'UL-UM', 'UL-LD' or 'AL-AM', got {allocation!r}")
    if g.queries_per_group != 1:
        raise ValueError("the published code prunes multi-head attention only; this model has grouped queries")
    heads, channels = _robust(scores.heads), _robust(scores.channels)
    cost = attention_unit_parameters(g, "group") / g.channel_parameters
    target = sparsity * (heads.numel() * cost + channels.numel())
    kept_heads, kept_channels = rank_all(heads, channels, cost, target, nearest=False)
    provenance = dict(scores.provenance) | {"requested": sparsity, "allocation": "AL-AM", "budget": "parameters"}
    return PruningMask(g, kept_heads, kept_channels, provenance)


def _robust(metric: Float[Tensor, "layers units"]) -> Float[Tensor, "layers units"]:
    """(x − median)/IQR per layer, clipped at ±3; of an even count, the median is the lower middle value."""
    quartiles = torch.quantile(metric, torch.tensor([0.25, 0.75], dtype=metric.dtype), dim=1, keepdim=True)
    return ranked_across(
        ((metric - metric.median(1, keepdim=True).values) / (quartiles[1] - quartiles[0])).clamp(-3, 3)
    )


def authors_code(
    stats: dict[str, ActivationStats], sparsity: float, general: str, metric: str = "WIFV", allocation: str = "UL-LD"
) -> dict[str, PruningMask]:
    """Preset ``authors_code``: task → its expert's mask, and ``"general"`` → the mask of the aggregated scores."""
    each = {task: authors_score(of_task, metric) for task, of_task in stats.items()}
    each["general"] = aggregate(dict(each), weights(stats, general))
    return {name: authors_mask(scores, sparsity, allocation) for name, scores in each.items()}
