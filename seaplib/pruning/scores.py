"""Importance of heads and channels (Eqs. 11-13), and their aggregation over tasks (Eqs. 14-15)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..activations.statistics import ActivationStats
from ..models.shapes import Geometry
from ..settings import expect

#: Eq. 15's weights as published (A.4): 3 for the general text, 2 for every task.
GENERAL_WEIGHT = 3.0
TASK_WEIGHT = 2.0
#: score → its formula of the statistics, a module ("attention" or "mlp") and a generator of noise: [layers, dims]
FORMULAS = {
    "s_F": lambda stats, module, generator: stats.var[module] * stats.weight_l2sq[module],
    "s_W": lambda stats, module, generator: stats.second_moment[module] * stats.weight_l1[module],
    "magnitude": lambda stats, module, generator: stats.weight_l2sq[module].clone(),
    "random": lambda stats, module, generator: torch.rand(
        stats.weight_l2sq[module].shape, dtype=torch.float64, generator=generator
    ),
}


@dataclass(frozen=True)
class Scores:
    """Importance of every coordinate; the highest scores stay.

    ``attention`` [layers, heads·head_dim] and ``channels`` [layers, channels], float64. A head's score
    reduces over the head's coordinates I_h: ``reduction="sum"`` is Eq. 13, ``"mean"`` the rule of the
    published code (the order within a layer is the same).

    ``errors`` maps ``attention`` and ``mlp`` to [layers, dims], mean(h²)·‖w‖₂²/‖x_ℓ‖²: the energy that a
    coordinate writes into the residual stream x_ℓ, relative to the stream's. The allocation ``energy``
    needs the errors; they are None where the statistics do not hold the stream's size.
    """

    geometry: Geometry
    attention: Float[Tensor, "layers coordinates"]
    channels: Float[Tensor, "layers channels"]
    reduction: str = "sum"
    provenance: dict = field(default_factory=dict)
    errors: dict[str, Float[Tensor, "layers dims"]] | None = None

    @property
    def heads(self) -> Float[Tensor, "layers heads"]:
        """Scores of the query heads."""
        per_head = self.attention.unflatten(1, (self.geometry.heads, self.geometry.head_dim))
        return per_head.sum(-1) if self.reduction == "sum" else per_head.mean(-1)

    def __repr__(self) -> str:
        name, task = self.provenance.get("score", "?"), self.provenance.get("calibration", "?")
        return f"Scores({name} on {task}: heads {tuple(self.heads.shape)}, channels {tuple(self.channels.shape)})"


def score(stats: ActivationStats, name: str = "s_F", seed: int = 0) -> Scores:
    """Scores of all coordinates from the statistics of a corpus (Eq. 14 where the corpus is a task's).

    ``s_F`` = σ²·‖w‖₂² (Eq. 11, FLAP's metric); ``s_W`` = mean(h²)·‖w‖₁ (Eq. 12 with the mean of squares,
    so that the number of tokens of a task has no weight in Eq. 15); ``magnitude`` = ‖w‖₂², without
    activations; ``random`` = uniform noise drawn with ``seed``. Raises ``ValueError`` for another name, and
    for statistics of norms.
    """
    expect(stats, ActivationStats, "stats")
    if name not in FORMULAS:
        raise ValueError(f"score is one of {', '.join(FORMULAS)}, got {name!r}")
    if stats.provenance.get("calibration", {}).get("pooling") == "norm":
        raise ValueError("statistics of norms (pooling='norm') have no score; collect them with pooling='token'")
    generator = torch.Generator().manual_seed(seed)

    def of(module: str) -> Float[Tensor, "layers dims"]:
        return FORMULAS[name](stats, module, generator)

    provenance = {"score": name, "calibration": stats.provenance.get("task", "?")}
    return Scores(stats.geometry, of("attention"), of("mlp"), provenance=provenance, errors=relative_errors(stats))


def relative_errors(stats: ActivationStats) -> dict[str, Float[Tensor, "layers dims"]] | None:
    """mean(h²)·‖w‖₂²/‖x_ℓ‖² of every coordinate, module → [layers, dims]: ``Scores.errors``."""
    if stats.stream is None:
        return None
    energy = {module: stats.second_moment[module] * stats.weight_l2sq[module] for module in stats.second_moment}
    return {module: values / stats.stream[:, None] for module, values in energy.items()}


def mixed_errors(scores: dict[str, Scores], alpha: dict[str, float]) -> dict[str, Float[Tensor, "layers dims"]] | None:
    """Mean of the tasks' relative errors, weighted by ``alpha``; None where a task has no errors."""
    if any(of_task.errors is None for of_task in scores.values()):
        return None
    total, modules = sum(alpha[task] for task in scores), next(iter(scores.values())).errors
    return {m: sum(alpha[task] / total * of_task.errors[m] for task, of_task in scores.items()) for m in modules}


def weights(tasks: Iterable[str], general: str | None) -> dict[str, float]:
    """α of Eq. 15: 3 for the general text, 2 for every other task."""
    return {task: GENERAL_WEIGHT if task == general else TASK_WEIGHT for task in tasks}


def aggregate(scores: dict[str, Scores], alpha: dict[str, float]) -> Scores:
    """General score, Σ_τ α_τ·s^τ (Eq. 15), of ``scores`` and weights ``alpha`` by task.

    Raises ``ValueError`` where scores and weights do not name the same tasks, where a weight is not positive,
    and for scores of different models.
    """
    if not scores or set(scores) != set(alpha):
        raise ValueError(f"scores and weights must name the same tasks; got {sorted(scores)} and {sorted(alpha)}")
    if wrong := [task for task, weight in alpha.items() if not 0 < weight < math.inf]:
        raise ValueError(f"weights must be positive numbers, got {alpha[wrong[0]]} for {wrong[0]}")
    if len({of_task.geometry for of_task in scores.values()}) > 1:
        raise ValueError(f"the scores of {', '.join(sorted(scores))} are of models of different shapes")
    first = next(iter(scores.values()))
    provenance = {"score": first.provenance.get("score", "?"), "calibration": "+".join(sorted(scores)), "alpha": alpha}
    return replace(
        first,
        attention=sum(alpha[task] * of_task.attention for task, of_task in scores.items()),
        channels=sum(alpha[task] * of_task.channels for task, of_task in scores.items()),
        provenance=provenance,
        errors=mixed_errors(scores, alpha),
    )
