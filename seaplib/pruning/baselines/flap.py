"""FLAP (arXiv 2312.11983, code @3bb57db) with its own adaptive allocation.

FLAP's metric under the paper's allocation is ``select(score(stats, "s_F"), logistic(...))`` on general text,
Wanda-sp the same with ``"s_W"``; neither needs this module.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ...activations.statistics import ActivationStats
from ..allocation import checked
from ..masks import PruningMask
from ..selection import attention_unit_parameters, standardise


def flap(stats: ActivationStats, sparsity: float, metric: str = "WIFV") -> PruningMask:
    """FLAP's adaptive mask as published; ``stats`` collected with ``estimator="flap"``.

    WIFV = fluctuation·‖w‖₂², WIFN = mean|w|·sqrt(mean square). Attention metrics are squared per
    coordinate. All metrics are standardised per layer over coordinates and averaged into heads, then put
    into a single descending order over all layers and modules, where a head costs 4·head_dim/3 channels.
    Units stay strictly above the threshold nearest the budget; a module may lose all its units. (The
    published code truncates the cost of a head to an integer: 170 instead of 170⅔ at head_dim 128.)
    """
    checked(sparsity)
    if metric not in ("WIFV", "WIFN"):
        raise ValueError(f"metric is 'WIFV' or 'WIFN', got {metric!r}")
    g = stats.geometry

    def of(module: str) -> Float[Tensor, "layers dims"]:
        if metric == "WIFV":
            return stats.var[module] * stats.weight_l2sq[module]
        return stats.second_moment[module].sqrt() * stats.weight_l1[module] / g.hidden

    groups = standardise(of("attention").square()).unflatten(1, (g.kv_heads, g.queries_per_group * g.head_dim)).mean(-1)
    channels = standardise(of("mlp"))
    metrics = torch.cat([groups.flatten(), channels.flatten()])
    cost = torch.ones(len(metrics), dtype=torch.float64)
    cost[: groups.numel()] = attention_unit_parameters(g, "group") / g.channel_parameters
    order = torch.argsort(metrics, descending=True, stable=True)
    kept = cost[order].cumsum(0)
    threshold = metrics[order][(kept - cost.sum() * (1 - sparsity)).abs().argmin()] if sparsity else metrics.min() - 1
    heads = (groups > threshold).repeat_interleave(g.queries_per_group, dim=1)
    provenance = {
        "score": metric,
        "calibration": stats.provenance.get("task", "?"),
        "requested": sparsity,
        "allocation": "adaptive",
        "budget": "parameters",
    }
    return PruningMask(g, heads, channels > threshold, provenance)
