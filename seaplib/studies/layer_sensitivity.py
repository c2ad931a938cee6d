"""The layer-sensitivity curve (remove tests, Figs. 5 and 6) over tasks and calibration seeds: is it the same curve?

    d[ℓ, τ, s] = dense(τ) − pruned(ℓ, τ, s)

One layer ℓ loses a share of its units, chosen by the scores that seed s gives on task τ's own corpus. If the curve
belongs to the model, its ranks agree between seeds and between tasks, and d varies with ℓ alone; if it belongs to the
task or to chance, it does not.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from ..activations.statistics import ActivationStats
from ..evaluation import bootstrap
from ..pruning import selection
from ..pruning.apply import Variant
from ..pruning.scores import score
from ..texts.tasks import experts
from . import expert_or_general

SEEDS, TASKS = "between calibration seeds of one task", "between tasks"
LAYER = "layer"


def variants(
    stats: Mapping[tuple[str, int], ActivationStats],
    tasks: Sequence[str],
    ratio: float,
    name: str = "s_F",
    mode: str = "remove",
) -> list[Variant]:
    """One mask per layer, corpus and seed, layer by layer, answering the corpus' tasks; column ``layer``.

    ``stats``: (corpus, seed) → statistics.
    """
    served = experts(tasks)
    scores = {key: score(own, name) for key, own in stats.items() if key[0] in served}
    layers = next(iter(scores.values())).geometry.layers
    out = []
    for layer in range(layers):
        for (corpus, seed), own in scores.items():
            label = {"method": "remove test", "score": name, "budget": "floor", "calibration": "task"}
            label |= {"allocation": f"layer {layer}", "calibration_seed": seed, "layer": layer}
            mask = selection.single_layer(own, layer, ratio)
            out.append(Variant(label, mask, mode, tasks=served[corpus]))
    return out


def agreement(curves: np.ndarray, weight: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Mean rank correlation (Spearman) of curves [..., layers, tasks, seeds], between seeds and between tasks.

    Between tasks, curves are means over seeds. ``weight`` [..., seeds] is how often a seed counts (default: once); no
    seed is compared with itself. NaN where there are not two to compare; a curve that is flat correlates with
    nothing (0).
    """
    weight = np.ones((*curves.shape[:-3], curves.shape[-1])) if weight is None else np.asarray(weight, dtype=float)
    total, pairs = np.zeros(curves.shape[:-3]), np.zeros(curves.shape[:-3])
    for i, j in combinations(range(curves.shape[-1]), 2):
        both = weight[..., i] * weight[..., j]
        total, pairs = total + both * _spearman(curves[..., i], curves[..., j]).mean(-1), pairs + both
    between_seeds = np.where(pairs > 0, total / np.where(pairs > 0, pairs, 1), np.nan)
    means = np.einsum("...lts,...s->...lt", curves, weight / weight.sum(-1, keepdims=True))
    found = [_spearman(means[..., [i]], means[..., [j]])[..., 0] for i, j in combinations(range(means.shape[-1]), 2)]
    return {SEEDS: between_seeds, TASKS: np.mean(found, axis=0) if found else np.full(curves.shape[:-3], np.nan)}


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation along the layers of [..., layers, n] → [..., n]."""
    x, y = (rankdata(values, axis=-2) for values in (np.round(a, 12), np.round(b, 12)))
    x, y = (ranks - ranks.mean(-2, keepdims=True) for ranks in (x, y))
    size = np.sqrt((x**2).sum(-2) * (y**2).sum(-2))
    return np.where(size > 0, (x * y).sum(-2) / np.where(size > 0, size, 1), 0.0)


def stability(answers: bootstrap.Results, draws: int = bootstrap.FEW_DRAWS) -> pd.DataFrame:
    """How far curves agree: rows of rank correlations and of shares of variance, with 95% intervals.

    ``answers``' cells are layers. Columns: quantity, measured, low, high, p_value (of a correlation, against 0).
    The dense model's own results are not needed: they shift a task's curve and change neither ranks nor variation.
    """
    curves, drawn = -answers.means, -answers.drawn(draws)
    rows = []
    resampled = agreement(-answers.drawn(draws, seeds=False), answers.seed_weights(draws))
    for name, value in agreement(curves).items():
        numbers = resampled[name][~np.isnan(resampled[name])]  # a draw of a single seed has no pair
        found = bootstrap.estimate(value, numbers) if len(numbers) else {}
        rows.append({"quantity": f"rank correlation {name}"} | found)
    vectors = expert_or_general.between(answers.cells)
    both = (expert_or_general.squares(values, vectors) for values in (curves, drawn))
    for name, (value, of_draws) in _shares(*both).items():
        row = {"quantity": f"share of the variation: {name}"} | bootstrap.estimate(value, of_draws)
        rows.append(row | {"p_value": np.nan})  # a share is never below 0
    return pd.DataFrame(rows, columns=["quantity", "measured", "low", "high", "p_value"])


def _shares(whole: Mapping, drawn: Mapping) -> dict[str, tuple]:
    """Shares of layer, layer × task and seeds, of a data set and of the data sets drawn from it."""
    both = []
    for found in (whole, drawn):
        named = (expert_or_general.BY_TASK, expert_or_general.NOISE)
        layer = sum(value for source, value in found.items() if source not in named)
        parts = {
            LAYER: layer,
            "layer × task": found[expert_or_general.BY_TASK],
            expert_or_general.NOISE: found[expert_or_general.NOISE],
        }
        total = np.asarray(sum(parts.values()))
        safe = np.where(total > 0, total, 1)
        both.append({name: np.where(total > 0, part / safe, 0.0) for name, part in parts.items()})
    return {name: (both[0][name], both[1][name]) for name in both[0]}


def curves(answers: bootstrap.Results, dense: Mapping[str, float]) -> pd.DataFrame:
    """The curves themselves: layer, task, calibration_seed, drop (a share, against the dense model's result)."""
    rows = []
    for place, layer in enumerate(answers.cells):
        for number, task in enumerate(answers.tasks):
            for index, seed in enumerate(answers.seeds):
                rows.append((int(layer), task, int(seed), dense[task] - answers.means[place, number, index]))
    return pd.DataFrame(rows, columns=["layer", "task", "calibration_seed", "drop"])
