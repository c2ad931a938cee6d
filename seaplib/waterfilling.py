"""Our own allocation, ``energy``: a budget spread over every layer's attention and MLP apart.

    minimise Σ_m f_m(n_m)   subject to   Σ_m c_m·n_m = budget

for modules m whose n_m lowest-scored units, of c_m parameters each, go. f_m is the energy that these units
write into the residual stream, relative to the stream's as the layer reads it (``Scores.errors``). With
convex f_m the steps of least error per parameter, taken in order, are the minimum (up to the last one).

Measuring instead how far the predictions move when one module alone loses a share of its units was tried
on validation items of the bundled benchmark: it took hundreds of forward passes and came out no better.
"""

from collections.abc import Hashable, Mapping

import numpy as np
import torch

from .scores import Scores
from .shapes import Geometry
from .sparsity import Allocation


def energy_counts(
    scores: Scores, allocation: Allocation, units: int, unit_cost: int, kv_unit: str
) -> list[tuple[int, int]]:
    """Removed (attention units, channels) per layer: those that add least to the stream's error per parameter.

    ``units`` is how many attention units a layer has, ``unit_cost`` the parameters of one. In every module
    units go in the order of their scores; where that is not the order of their errors, the convex curve below
    the error's takes its place. One unit of every module stays. Raises UnreachableSparsity.
    """
    if scores.errors is None:
        raise ValueError("the allocation 'energy' needs the residual stream's size: collect the statistics anew")
    g, costs = scores.geometry, {"attention": unit_cost, "mlp": scores.geometry.channel_parameters}
    caps = {"attention": 1 - 1 / units, "mlp": 1 - 1 / g.channels}
    shares = {"attention": units * unit_cost / g.layer_parameters, "mlp": g.mlp_parameters / g.layer_parameters}
    allocation.ratios(g.layers, caps, shares)  # raises where the target is out of reach
    errors = scores.errors["attention"].unflatten(1, (g.heads, g.head_dim)).sum(-1)
    steps = {}
    for layer in np.flatnonzero(allocation.unprotected(g.layers)).tolist():
        of_channels = scores.errors["mlp"][layer][torch.argsort(scores.channels[layer], stable=True)]
        of_units = _by_unit(scores.heads[layer], errors[layer], g, kv_unit)
        for module, one in (("attention", of_units), ("mlp", of_channels)):
            steps[module, layer] = np.diff(convex(np.append(0.0, one[:-1].cumsum(0).numpy())))
    found = cheapest(steps, {key: costs[key[0]] for key in steps}, allocation.sparsity * g.projection_parameters)
    return [(found.get(("attention", i), 0), found.get(("mlp", i), 0)) for i in range(g.layers)]


def _by_unit(head_scores: torch.Tensor, errors: torch.Tensor, geometry: Geometry, kv_unit: str) -> torch.Tensor:
    """Errors [units] of one layer's attention units, the lowest-scored unit first."""
    grouped = (geometry.kv_heads, geometry.queries_per_group)
    head_scores, errors = head_scores.unflatten(0, grouped), errors.unflatten(0, grouped)
    if kv_unit == "group":
        return errors.sum(1)[torch.argsort(head_scores.sum(1), stable=True)]
    return errors.gather(1, torch.argsort(head_scores, dim=1, stable=True)).sum(0)  # a head of every group


def convex(values: np.ndarray) -> np.ndarray:
    """The largest convex curve below ``values`` [n], at the same places."""
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
    steps: Mapping[Hashable, np.ndarray], costs: Mapping[Hashable, float], budget: float
) -> dict[Hashable, int]:
    """How many steps of every module to take: those of least loss per cost, until ``budget`` is spent.

    ``steps`` are ascending, a step of a module costs ``costs`` of it. A step that no longer fits is passed
    over, so that finer ones fill what is left; where none of these remains it is taken after all, and the
    dearest fine ones are given back. The sum misses the budget by at most half of the finest, within reach.
    """
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
