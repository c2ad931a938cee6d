"""Slow loop versions of the method: each rule written out once more, one unit at a time.

They are what the fast versions are compared with, so they share no code with the package, and use
Python floats (double precision) throughout. Lists, not tensors, go in and come out.
"""

import math
from collections.abc import Callable


def statistics(samples: list[list[float]]) -> tuple[list[float], list[float], list[float]]:
    """Mean, variance (1/n) and second moment of every coordinate of ``samples`` [n][dim] (Eqs. 3-5)."""
    n = len(samples)
    mean, var, second = [], [], []
    for i in range(len(samples[0])):
        values = [sample[i] for sample in samples]
        m = math.fsum(values) / n
        mean.append(m)
        var.append(math.fsum((v - m) ** 2 for v in values) / n)
        second.append(math.fsum(v * v for v in values) / n)
    return mean, var, second


def column_norms(weight: list[list[float]]) -> tuple[list[float], list[float]]:
    """‖w‖₁ and ‖w‖₂² of every column of ``weight`` [out][in]."""
    columns = range(len(weight[0]))
    l1 = [math.fsum(abs(row[i]) for row in weight) for i in columns]
    l2sq = [math.fsum(row[i] ** 2 for row in weight) for i in columns]
    return l1, l2sq


def score(name: str, var: list[float], second: list[float], l1: list[float], l2sq: list[float]) -> list[float]:
    """Eq. 11 (``s_F``) or Eq. 12 (``s_W``) for every coordinate of one layer."""
    if name == "s_F":
        return [var[i] * l2sq[i] for i in range(len(var))]
    return [second[i] * l1[i] for i in range(len(second))]


def head_scores(scores: list[float], heads: int) -> list[float]:
    """Eq. 13: the sum over the coordinates a head spans."""
    size = len(scores) // heads
    return [math.fsum(scores[h * size : (h + 1) * size]) for h in range(heads)]


def keep(scores: list[float], removed: int) -> list[bool]:
    """Eqs. 8-10: without the ``removed`` lowest units; of equal ones the first goes."""
    kept = [True] * len(scores)
    for _ in range(removed):
        lowest = None
        for i, value in enumerate(scores):
            if kept[i] and (lowest is None or value < scores[lowest]):
                lowest = i
        kept[lowest] = False
    return kept


def logistic(target: float, layers: int, x0: float, k: float, first: int, last: int, cap: float = 1.0) -> list[float]:
    """Eqs. 16-17 with protected layers: ρ per layer, its mean over all layers ``target``.

    Capped layers are found one after the other: scale, fix what exceeds the cap, scale the rest again.
    """
    free = [i for i in range(layers) if first <= i < layers - last]
    shape = {i: 1 / (1 + math.exp(-k * (i / (layers - 1) - x0))) for i in free}
    capped: set[int] = set()
    while True:
        scale = (target * layers - cap * len(capped)) / sum(shape[i] for i in free if i not in capped)
        over = {i for i in free if i not in capped and scale * shape[i] > cap}
        if not over:
            return [0.0 if i not in shape else cap if i in capped else scale * shape[i] for i in range(layers)]
        capped |= over


def flap_threshold(metrics: list[float], costs: list[float], sparsity: float) -> float:
    """FLAP's threshold: walking down from the best unit, the metric where the cost kept is nearest the budget.

    Units stay that lie strictly above it.
    """
    budget = sum(costs) * (1 - sparsity)
    order = sorted(range(len(metrics)), key=lambda i: -metrics[i])
    spent, best, threshold = 0.0, math.inf, -math.inf
    for i in order:
        spent += costs[i]
        if abs(spent - budget) < best:
            best, threshold = abs(spent - budget), metrics[i]
    return threshold


def zeroed(weight: list[list[float]], gone: Callable[[int, int], bool]) -> list[list[float]]:
    """``weight`` [out][in] with 0 wherever ``gone(out, in)``."""
    return [[0.0 if gone(row, column) else w for column, w in enumerate(line)] for row, line in enumerate(weight)]


def removed_parameters(
    heads: list[list[bool]], channels: list[list[bool]], kv_heads: int, head_dim: int, hidden: int
) -> int:
    """Weights that go with a mask, counted matrix by matrix (no biases)."""
    total = 0
    for layer_heads, layer_channels in zip(heads, channels, strict=True):
        per_group = len(layer_heads) // kv_heads
        for kept in layer_heads:
            if not kept:
                total += head_dim * hidden  # rows of q
                total += hidden * head_dim  # columns of o
        for group in range(kv_heads):
            if not any(layer_heads[group * per_group : (group + 1) * per_group]):
                total += head_dim * hidden  # rows of k
                total += head_dim * hidden  # rows of v
        for kept in layer_channels:
            if not kept:
                total += 3 * hidden  # a row of gate and of up, a column of down
    return total
