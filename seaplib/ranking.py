"""One order over the units of all layers and modules: what adaptive allocations and FLAP choose by."""

import torch


def standardise(metric: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit (n−1) deviation in every layer of ``metric`` [layers, dims].

    ValueError where a layer's are all equal: they have no place in an order over all layers.
    """
    return ranked_across((metric - metric.mean(1, keepdim=True)) / metric.std(1, keepdim=True))


def ranked_across(metric: torch.Tensor) -> torch.Tensor:
    """``metric`` [layers, dims] itself. ValueError where a layer's has NaN, which any order would put somewhere."""
    if flat := metric.isnan().any(1).nonzero().flatten().tolist():
        raise ValueError(
            f"the scores of layer {flat[0]} do not differ, so no order over all layers can place its units; "
            "calibrate on more text, or use an allocation that fixes a ratio per layer (logistic, uniform)"
        )
    return metric


def rank_all(groups: torch.Tensor, channels: torch.Tensor, group_cost: float, target: float, nearest: bool = True):
    """Keep units by one order over all layers and modules: bool [layers, groups], [layers, channels].

    ``groups`` and ``channels`` are comparable metrics, ``group_cost`` what a group costs in channels,
    ``target`` how many channels' worth is to go. The lowest units go, their number the one whose cost
    is nearest the target, or (``nearest=False``) the last one not above it; ties go by index.
    """
    metric = torch.cat([groups.flatten(), channels.flatten()])
    cost = torch.ones(len(metric), dtype=torch.float64)
    cost[: groups.numel()] = group_cost
    order = torch.argsort(metric, stable=True)
    spent = torch.cat([torch.zeros(1, dtype=torch.float64), cost[order].cumsum(0)])
    if nearest:
        count = int((spent - target).abs().argmin())
    else:  # the tolerance forgives rounding where a prefix costs exactly the target
        count = int((spent <= target + 1e-6).sum()) - 1
    keep = torch.ones(len(metric), dtype=torch.bool)
    keep[order[:count]] = False
    return keep[: groups.numel()].view_as(groups), keep[groups.numel() :].view_as(channels)
