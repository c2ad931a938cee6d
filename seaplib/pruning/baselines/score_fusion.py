"""Task-aware score fusion (arXiv 2510.22489): two scores in one order over the whole model."""

import torch

from ...activations.statistics import ActivationStats
from ..scores import Scores, mixed_errors, score


def fused_scores(general: ActivationStats, task: ActivationStats, name: str = "s_F", exclusive: float = 0.5) -> Scores:
    """Scores of a general text and of a task's, fused coordinate by coordinate (after arXiv 2510.22489).

    From the paper (its abstract): an existing method's importance is computed on general and on
    task-specific text; coordinates are parted into shared and exclusive ones by the difference of their
    activation norms on the two; the groups' scores are fused. Our reading of what the abstract leaves
    open, with n the root mean square of a coordinate's activation (per token, so that the longer
    corpus does not win by its length):

    - difference: |n_T − n_G| / (n_T + n_G); in each layer and module the ``exclusive`` share of the
      coordinates with the largest is exclusive, to the corpus on which its norm is larger (ties go by index);
    - fusion: a shared coordinate has the mean of its two scores, an exclusive one that of its corpus.

    The paper ranks single weights; here the scores are those of the units, heads by sum (Eq. 13).
    """
    if not 0 <= exclusive <= 1:
        raise ValueError(f"exclusive is a share between 0 and 1, got {exclusive}")
    if general.geometry != task.geometry:
        raise ValueError("the two statistics are of models of different shape")
    both = score(general, name), score(task, name)

    def fuse(module: str, of_general: torch.Tensor, of_task: torch.Tensor) -> torch.Tensor:
        n_general, n_task = (stats.second_moment[module].sqrt() for stats in (general, task))
        difference = (n_task - n_general).abs() / (n_task + n_general).clamp_min(torch.finfo(torch.float64).tiny)
        most = torch.argsort(difference, dim=1, descending=True, stable=True)
        most = most[:, : int(exclusive * difference.shape[1] + 1e-9)]
        alone = torch.zeros_like(difference, dtype=torch.bool).scatter_(1, most, True)
        return torch.where(alone, torch.where(n_task > n_general, of_task, of_general), (of_general + of_task) / 2)

    attention = fuse("attention", both[0].attention, both[1].attention)
    channels = fuse("mlp", both[0].channels, both[1].channels)
    texts = "+".join(stats.provenance.get("task", "?") for stats in (general, task))
    provenance = {"score": name, "calibration": texts, "exclusive": exclusive}
    errors = mixed_errors(dict(zip(("general", "task"), both, strict=True)), {"general": 1.0, "task": 1.0})
    return Scores(general.geometry, attention, channels, provenance=provenance, errors=errors)
