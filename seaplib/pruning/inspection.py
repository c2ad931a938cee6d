"""Masks seen from outside, as tidy frames: what each layer loses, how alike masks are, what a budget saves."""

from collections.abc import Callable, Iterable, Mapping
from itertools import combinations_with_replacement, product

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from ..models.shapes import Geometry
from ..settings import ALLOCATIONS
from .allocation import Allocation
from .masks import PruningMask
from .scores import Scores
from .selection import select

Rule = Callable[[float], Allocation]  # a sparsity → how it is spread over the layers
#: module → the claim that its :func:`gaps` test
CLAIMS = {
    module: f"Masks of two tasks share fewer {module} than two masks of one task" for module in ("heads", "channels")
}


def allocation_name(rule: Allocation) -> str:
    """An allocation as results name it, with its protection where that is unusual: "logistic, protect 0+0"."""
    kind = "authors' code" if rule.over == "unprotected" else rule.kind
    protected = (rule.protect_first, rule.protect_last)
    usual = kind in ALLOCATIONS and protected == (0, ALLOCATIONS[kind].protect_last)
    return kind if usual else f"{kind}, protect {protected[0]}+{protected[1]}"


def removed_by_layer(mask: PruningMask) -> Float[np.ndarray, " layers"]:
    """The share of every layer's projection parameters that goes."""
    g = mask.geometry
    lost = (~mask.heads).sum(1) * g.query_parameters + (~mask.kv_heads).sum(1) * g.kv_parameters
    lost = lost + (~mask.channels).sum(1) * g.channel_parameters
    return (lost.double() / g.layer_parameters).numpy()


def layer_shares(rules: Iterable[Rule], sparsities: Iterable[float], scores: Scores) -> pd.DataFrame:
    """What every layer loses under each allocation. Columns: allocation, sparsity, layer, ratio.

    ``ratio`` is ρ_ℓ where the allocation fixes a ratio per layer (Eq. 16); where the ratios follow from ``scores``,
    it is the share of the layer's parameters that goes.
    """
    parts = []
    for rule, sparsity in product(rules, list(sparsities)):
        allocation = rule(sparsity)
        if allocation.by_layer:
            ratio = allocation.ratios(scores.geometry.layers)["all"]
        else:
            ratio = removed_by_layer(select(scores, allocation))
        about = {"allocation": allocation_name(allocation), "sparsity": sparsity, "layer": range(len(ratio))}
        parts.append(pd.DataFrame(about | {"ratio": ratio}))
    return pd.concat(parts, ignore_index=True)


def listed(masks: Mapping[tuple[str, float], PruningMask]) -> pd.DataFrame:
    """A row per mask, ``masks`` mapping (calibration, requested sparsity) to it: units that stay, fingerprint.

    Columns: calibration, requested, achieved, heads, channels, fingerprint.
    """
    rows = []
    for (name, sparsity), mask in masks.items():
        kept = {"heads": int(mask.heads.sum()), "channels": int(mask.channels.sum())}
        about = {"calibration": name, "requested": sparsity, "achieved": mask.achieved}
        rows.append(about | kept | {"fingerprint": mask.fingerprint})
    return pd.DataFrame(rows)


def overlaps(masks: Mapping[str, PruningMask], again: Mapping[str, PruningMask]) -> pd.DataFrame:
    """Jaccard index of the kept units, |A ∩ B| / |A ∪ B|, of every two tasks' masks.

    ``again`` holds each task's mask from other texts: the rows task_a = task_b say how far calibration alone changes
    a mask. Columns: task_a, task_b, module ("heads" or "channels"), jaccard, chance (of independent masks).
    """
    rows = []
    for a, b in combinations_with_replacement(masks, 2):
        found = masks[a].overlap(again[b] if a == b else masks[b])
        rows += [(a, b, module, found[module], found[f"{module}_chance"]) for module in ("heads", "channels")]
    return pd.DataFrame(rows, columns=["task_a", "task_b", "module", "jaccard", "chance"])


def gaps(found: pd.DataFrame) -> pd.DataFrame:
    """By how much more a task's mask overlaps with itself from other texts than with other tasks' masks.

    Takes the frame of :func:`overlaps`. A row per module and task: module, task, same (overlap with itself), other
    (mean overlap with other tasks), chance (mean over all pairs), gap = same − other.
    """
    parts = []
    for module, part in found.groupby("module", sort=False):
        square = part.pivot(index="task_a", columns="task_b", values="jaccard")
        square = square.combine_first(square.T)
        same = pd.Series(np.diag(square), index=square.index)
        other = (square.sum() - same) / (len(square) - 1)
        columns = {"module": module, "task": square.index, "same": same, "other": other}
        parts.append(pd.DataFrame(columns | {"chance": part["chance"].mean(), "gap": same - other}))
    return pd.concat(parts, ignore_index=True)


def drawn_scores(geometry: Geometry, seed: int = 0) -> Scores:
    """Random scores for a shape without weights: how many units a budget leaves does not depend on the scores."""
    draw = torch.Generator().manual_seed(seed)
    widths = (geometry.heads * geometry.head_dim, geometry.channels)
    return Scores(geometry, *(torch.rand(geometry.layers, width, generator=draw) for width in widths))


def budgets(
    shapes: Mapping[str, Scores], rules: Iterable[tuple[Rule, str]], sparsities: Iterable[float]
) -> pd.DataFrame:
    """Requested and achieved shares of every shape under each rule, a pair of allocation and ``budget``.

    With grouped queries, a row for each unit of attention. Columns: geometry, allocation, budget, kv_unit, and those
    of ``PruningMask.budget``.
    """
    rows, rules = [], list(rules)
    for name, scores in shapes.items():
        units = ["group"] if scores.geometry.queries_per_group == 1 else ["group", "query"]
        for sparsity, (rule, budget), unit in product(sparsities, rules, units):
            allocation = rule(sparsity)
            about = {"geometry": name, "allocation": allocation_name(allocation), "budget": budget, "kv_unit": unit}
            rows.append(about | select(scores, allocation, budget, unit).budget())
    return pd.DataFrame(rows)
