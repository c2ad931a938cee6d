"""A budget spread over modules by what each of them loses: the convex curves, and the cheapest steps. Numpy only.

    minimise Σ_m f_m(ρ_m)   subject to   Σ_m P_m·ρ_m = G·Σ_m P_m

for modules m of P_m parameters whose loss f_m rises with the share ρ_m removed. With convex f_m the steps
of least loss per parameter, taken in order, are the minimum (up to the last step); where they meet,
f'_m(ρ_m)/P_m is the same for all modules that are cut at all.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

SMALLEST = 1e-9  # a loss below it counts as it: logarithms are taken
FEWEST = 2.0  # the power of a curve of which one point is known


@dataclass(frozen=True, eq=False)
class Curves:
    """Measured losses: ``shares`` module → [points], ascending, ``losses`` module → [layers, points]."""

    shares: dict[str, np.ndarray]
    losses: dict[str, np.ndarray]

    def steps(self, module: str, layer: int, units: int) -> np.ndarray:
        """What removing one unit more costs, [units], ascending: slopes of the convex curve through the points."""
        return np.diff(convex(between(self.shares[module], self.losses[module][layer], units)))


def between(shares: np.ndarray, losses: np.ndarray, units: int) -> np.ndarray:
    """Losses with 0 … ``units`` of ``units`` removed, [units + 1]: powers of the share between measured points.

    log f is linear in log ρ between two points and continues beyond the outer ones (at least linearly in
    ρ). A loss that falls below an earlier one, which noise can do, is lifted to it.
    """
    losses = np.maximum.accumulate(np.maximum(losses, SMALLEST))
    x, y = np.log(shares), np.log(losses)
    powers = np.diff(y) / np.diff(x) if len(x) > 1 else np.array([FEWEST])
    wanted = np.log(np.arange(1, units + 1) / units)
    found = np.interp(wanted, x, y)
    first, last = max(powers[0], 1.0), max(powers[-1], 1.0)
    found = np.where(wanted < x[0], y[0] + first * (wanted - x[0]), found)
    found = np.where(wanted > x[-1], y[-1] + last * (wanted - x[-1]), found)
    return np.concatenate([[0.0], np.exp(found)])


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
