"""Task-aware score fusion (arXiv 2510.22489): the scores of a general text and of a task's in a single score."""

import torch
from jaxtyping import Float
from torch import Tensor

from ...activations.statistics import ActivationStats
from ..scores import Scores, mixed_errors, score


def fused_scores(general: ActivationStats, task: ActivationStats, name: str = "s_F", exclusive: float = 0.5) -> Scores:
    """Scores of a general text and of a task's, fused coordinate by coordinate (after arXiv 2510.22489).

    From the paper's abstract: an existing method's importance is computed on general and on task-specific
    text; coordinates are divided into shared and exclusive coordinates by the difference of their activation
    norms on the two texts; the scores of both groups are fused. The abstract leaves the rest open. Our
    reading, with n the root mean square of a coordinate's activation (per token, so that the length of a
    corpus has no weight):

    - difference: |n_T − n_G| / (n_T + n_G). In each layer and module the share ``exclusive`` of the coordinates,
      those of largest difference, belongs to the corpus with the larger norm (ties go by index);
    - fusion: a shared coordinate has the mean of both scores, an exclusive coordinate the score of its corpus.

    The paper ranks single weights; here units are ranked, heads by sum (Eq. 13). Raises ``ValueError`` for a
    share outside [0, 1] and for statistics of models of different shape.
    """
    if not 0 <= exclusive <= 1:
        raise ValueError(f"exclusive is a share between 0 and 1, got {exclusive}")
    if general.geometry != task.geometry:
        raise ValueError("the two statistics are of models of different shape")
    both = score(general, name), score(task, name)

    def fuse(
        module: str, of_general: Float[Tensor, "layers dims"], of_task: Float[Tensor, "layers dims"]
    ) -> Float[Tensor, "layers dims"]:
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
