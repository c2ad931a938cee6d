"""Which units go: the lowest scores, in each layer (Eqs. 8-10) or in a single order over the whole model.

A sparsity is spent in four ways: as a ratio per layer, rounded down (``floor``, the paper's) or with the
rounding error carried on (``parameters``); in a single order over all layers (``adaptive``, FLAP's); and by
our own allocation, ``energy``, which spreads a budget over the attention and the MLP of every layer:

    minimise Σ_m f_m(n_m)   subject to   Σ_m c_m·n_m = budget

for modules m whose n_m lowest-scored units, of c_m parameters each, go. f_m is the energy that these units
write into the residual stream, relative to the stream's energy where the layer reads it (``Scores.errors``).
With convex f_m the steps of least error per parameter, taken in order, are the minimum (up to the last step).

An alternative was tried on validation items of the bundled benchmark: to measure how far the predictions move
when a single module loses a share of its units. It took hundreds of forward passes and gave no better accuracy.
"""

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..models.shapes import Geometry
from ..settings import ALLOCATIONS, BUDGETS, KV_UNITS, expect
from .allocation import Allocation, logistic
from .masks import PruningMask, keep_all
from .scores import Scores


def standardise(metric: Float[Tensor, "layers dims"]) -> Float[Tensor, "layers dims"]:
    """``metric`` with mean 0 and (n−1) deviation 1 in every layer.

    ValueError where the values of a layer are all equal: they have no place in an order over all layers.
    """
    return ranked_across((metric - metric.mean(1, keepdim=True)) / metric.std(1, keepdim=True))


def ranked_across(metric: Float[Tensor, "layers dims"]) -> Float[Tensor, "layers dims"]:
    """``metric`` itself. ValueError where a layer has NaN: sorting would give NaN an arbitrary place."""
    if flat := metric.isnan().any(1).nonzero().flatten().tolist():
        fixed = ", ".join(name for name, kind in ALLOCATIONS.items() if kind.by_layer)
        raise ValueError(
            f"the scores of layer {flat[0]} do not differ, so no order over all layers can place its units; "
            f"calibrate on more text, or use an allocation that fixes a ratio per layer ({fixed})"
        )
    return metric


def rank_all(
    groups: Float[Tensor, "layers groups"],
    channels: Float[Tensor, "layers channels"],
    group_cost: float,
    target: float,
    nearest: bool = True,
) -> tuple[Bool[Tensor, "layers groups"], Bool[Tensor, "layers channels"]]:
    """Units that stay by a single order over all layers and modules.

    ``groups`` and ``channels`` are comparable metrics; ``group_cost`` is the cost of a group and ``target`` the
    cost to remove, both in channels. The lowest units go, so many that their cost is nearest the target, or
    (``nearest=False``) as many as do not exceed the target; ties go by index.
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


def attention_units(geometry: Geometry, kv_unit: str) -> int:
    """Number of attention units in a layer: KV groups, or query heads of a group.

    ValueError for kv_unit="query" where a group has a single query head.
    """
    if kv_unit == "query" and geometry.queries_per_group == 1:
        raise ValueError(
            "kv_unit='query' takes query heads from every KV group, but here a group has a single head; use 'group'"
        )
    return geometry.kv_heads if kv_unit == "group" else geometry.queries_per_group


def attention_unit_parameters(geometry: Geometry, kv_unit: str) -> int:
    """Parameters that go with an attention unit of a layer."""
    if kv_unit == "group":
        return geometry.queries_per_group * geometry.query_parameters + geometry.kv_parameters
    return geometry.kv_heads * geometry.query_parameters


def lowest(scores: Float[Tensor, " units"], count: int) -> Bool[Tensor, " units"]:
    """Units that stay when the ``count`` lowest ``scores`` go; ties go by index (Eqs. 8-10)."""
    place = max(count, 1) - 1
    threshold = np.partition(scores.numpy(), place)[place]  # linear in n, and vectorised, unlike torch's kthvalue
    keep = scores > threshold
    tied = (scores == threshold).nonzero().squeeze(1)
    keep[tied[count - int((scores < threshold).sum()) :]] = True
    return keep


def keep_heads(
    head_scores: Float[Tensor, " heads"], count: int, geometry: Geometry, kv_unit: str
) -> Bool[Tensor, " heads"]:
    """Query heads of a layer that stay when ``count`` attention units go."""
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
    """The mask without the lowest-scored units of every layer, to the budget of an allocation.

    ``budget="floor"``: floor(ρ_ℓ·units) go from every module, as in the paper. ``"parameters"``: rounding
    errors are carried from layer to layer, over heads and channels, so that the achieved share of parameters
    meets the request within a channel (within ``round_to`` channels where the number of kept channels is a
    multiple of ``round_to``). A bare number as ``sparsity`` means ``logistic(number)``. Raises ``ValueError`` for
    scores that are not finite, and :class:`~seaplib.pruning.allocation.UnreachableSparsity`.
    """
    expect(scores, Scores, "the scores")
    if budget not in BUDGETS:
        raise ValueError(f"budget is one of {', '.join(BUDGETS)}, got {budget!r}")
    if kv_unit not in KV_UNITS:
        raise ValueError(f"kv_unit is one of {', '.join(KV_UNITS)}, got {kv_unit!r}")
    most = scores.geometry.channels // 2
    if not 1 <= round_to <= most:
        raise ValueError(f"round_to must lie between 1 and half the channels ({most}), got {round_to}")
    for values in (scores.attention, scores.channels):
        if not np.isfinite(values.numpy()).all():  # a single pass, where torch takes several
            raise ValueError("the scores are not all finite (NaN or Inf), so they rank nothing")
    allocation = sparsity if isinstance(sparsity, Allocation) else logistic(float(sparsity))
    if round_to > 1 and (budget == "floor" or not allocation.by_layer):
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


def _keep(
    scores: Scores, counts: list[tuple[int, int]], kv_unit: str
) -> tuple[Bool[Tensor, "layers heads"], Bool[Tensor, "layers channels"]]:
    """Units that stay when the lowest ``counts`` (attention units, channels) of every layer go."""
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

    Attention units carry an error of their own, so that their share follows ρ on average. Channels, the
    finer unit, absorb what is left of the parameters of all layers so far.
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


def _adaptive(
    scores: Scores, allocation: Allocation, kv_unit: str
) -> tuple[Bool[Tensor, "layers heads"], Bool[Tensor, "layers channels"]]:
    """FLAP's idea with true parameter costs: coordinates standardised per layer and averaged into KV groups,
    then a single order over all unprotected units. A module may lose all its units."""
    if kv_unit != "group":
        raise ValueError("the adaptive allocation ranks whole KV groups; use kv_unit='group'")
    g = scores.geometry
    free = torch.from_numpy(allocation.unprotected(g.layers))
    if allocation.sparsity > free.double().mean():
        allocation.check(g.layers, {"all": 1.0}, {"all": 1.0})  # raises, naming the largest possible sparsity
    groups = standardise(scores.attention).unflatten(1, (g.kv_heads, g.queries_per_group * g.head_dim)).mean(-1)
    channels = standardise(scores.channels)
    target = allocation.sparsity * g.projection_parameters / g.channel_parameters
    cost = attention_unit_parameters(g, "group") / g.channel_parameters
    kept_groups, kept_channels = torch.ones_like(groups, dtype=torch.bool), torch.ones_like(channels, dtype=torch.bool)
    kept_groups[free], kept_channels[free] = rank_all(groups[free], channels[free], cost, target)
    return kept_groups.repeat_interleave(g.queries_per_group, dim=1), kept_channels


def single_layer(scores: Scores, layer: int, ratio: float) -> PruningMask:
    """The mask without floor(ratio·units) KV groups and channels of a single layer: the remove test (Figs. 5, 6)."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio must lie in [0, 1], got {ratio}")
    g = scores.geometry
    mask = keep_all(g)
    mask.heads[layer] = keep_heads(scores.heads[layer], int(ratio * g.kv_heads + 1e-9), g, "group")
    mask.channels[layer] = lowest(scores.channels[layer], int(ratio * g.channels + 1e-9))
    provenance = dict(scores.provenance) | {
        "requested": ratio,
        "allocation": f"layer {layer}",
        "budget": "floor",
        "layer": layer,
    }
    return PruningMask(g, mask.heads, mask.channels, provenance)


def energy_counts(
    scores: Scores, allocation: Allocation, units: int, unit_cost: int, kv_unit: str
) -> list[tuple[int, int]]:
    """Numbers of (attention units, channels) that go from every layer: those of least error per parameter.

    A layer has ``units`` attention units of ``unit_cost`` parameters each. In every module units go in the
    order of their scores; where that is not the order of their errors, the largest convex curve below the
    error replaces the error. A unit of every module stays. Raises ``ValueError`` where the scores hold no
    finite errors, and :class:`~seaplib.pruning.allocation.UnreachableSparsity`.
    """
    if scores.errors is None:
        raise ValueError("the allocation 'energy' needs the residual stream's size: collect the statistics anew")
    if not all(torch.isfinite(values).all() for values in scores.errors.values()):
        raise ValueError("the errors of the scores are not all finite (NaN or Inf): the residual stream's size is none")
    g, costs = scores.geometry, {"attention": unit_cost, "mlp": scores.geometry.channel_parameters}
    caps = {"attention": 1 - 1 / units, "mlp": 1 - 1 / g.channels}
    shares = {"attention": units * unit_cost / g.layer_parameters, "mlp": g.mlp_parameters / g.layer_parameters}
    allocation.check(g.layers, caps, shares)
    errors = scores.errors["attention"].unflatten(1, (g.heads, g.head_dim)).sum(-1)
    steps = {}
    for layer in np.flatnonzero(allocation.unprotected(g.layers)).tolist():
        of_channels = scores.errors["mlp"][layer][torch.argsort(scores.channels[layer], stable=True)]
        of_units = _by_unit(scores.heads[layer], errors[layer], g, kv_unit)
        for module, error in (("attention", of_units), ("mlp", of_channels)):
            steps[module, layer] = np.diff(convex(np.append(0.0, error[:-1].cumsum(0).numpy())))
    found = cheapest(steps, {key: costs[key[0]] for key in steps}, allocation.sparsity * g.projection_parameters)
    return [(found.get(("attention", i), 0), found.get(("mlp", i), 0)) for i in range(g.layers)]


def _by_unit(
    head_scores: Float[Tensor, " heads"], errors: Float[Tensor, " heads"], geometry: Geometry, kv_unit: str
) -> Float[Tensor, " units"]:
    """Errors of a layer's attention units, the lowest-scored unit first."""
    grouped = (geometry.kv_heads, geometry.queries_per_group)
    head_scores, errors = head_scores.unflatten(0, grouped), errors.unflatten(0, grouped)
    if kv_unit == "group":
        return errors.sum(1)[torch.argsort(head_scores.sum(1), stable=True)]
    return errors.gather(1, torch.argsort(head_scores, dim=1, stable=True)).sum(0)  # a head of every group


def convex(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The largest convex curve below ``values``, at the same places."""
    corners: list[tuple[int, float]] = []
    for place, value in enumerate(values):
        while len(corners) > 1:
            (a, low), (b, middle) = corners[-2:]
            if (middle - low) * (place - b) < (value - middle) * (b - a):
                break
            corners.pop()
        corners.append((place, float(value)))
    places, heights = zip(*corners, strict=True)
    return np.interp(np.arange(len(values)), places, heights)


def cheapest(
    steps: Mapping[Hashable, np.ndarray], costs: Mapping[Hashable, float | int], budget: float
) -> dict[Hashable, int]:
    """How many steps of every module to take: those of least loss per cost, until ``budget`` is spent.

    ``steps`` of a module ascend and cost ``costs`` of the module each. A step that no longer fits is passed
    over, so that finer steps fill the rest of the budget. Where no finer step remains, the step is taken after
    all, and the dearest fine steps are given back. Within reach, the sum misses the budget by at most half the
    finest cost.
    """
    if not steps:  # every layer is protected
        return {}
    keys = list(steps)
    owner = np.repeat(np.arange(len(keys)), [len(steps[key]) for key in keys])
    cost = np.array([costs[key] for key in keys])[owner]
    order = np.argsort(np.concatenate([steps[key] for key in keys]) / cost, kind="stable")
    owner, cost = owner[order], cost[order]
    finest = min(costs.values())
    taken = np.cumsum(cost) <= budget
    left = budget - cost[taken].sum()
    for place in np.flatnonzero(~taken):
        if left <= finest / 2:
            break
        if cost[place] <= left + finest / 2:
            taken[place] = True
            left -= cost[place]
    if left > finest / 2 and not taken.all():
        place = np.flatnonzero(~taken)[0]
        taken[place] = True
        left -= cost[place]
        for back in np.flatnonzero(taken & (cost <= finest))[::-1]:
            if left >= -finest / 2:
                break
            taken[back] = False
            left += cost[back]
    return dict(zip(keys, np.bincount(owner[taken], minlength=len(keys)).tolist(), strict=True))
