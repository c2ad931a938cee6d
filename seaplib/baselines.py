"""The other methods, where they are more than a score and an allocation.

Sources: FLAP (arXiv 2312.11983, code @3bb57db), SEAP's published code (@c6bce61), Wanda
(arXiv 2306.11695, code @8e8fc87), task-aware score fusion (arXiv 2510.22489). Wanda-sp and FLAP under
the paper's own allocation need nothing of this file: they are ``select(score(stats, "s_W" or "s_F"),
logistic(...))`` on general text. ShortGPT and 2SSP are in :mod:`seaplib.depth`, GRIFFIN, which is no
mask, in :mod:`seaplib.griffin`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tqdm.auto import tqdm

from . import layers, models
from .activations import ActivationStats
from .encoding import encode
from .masks import PruningMask, attention_unit_parameters, select
from .pruning import copy_of, resized
from .ranking import rank_all, ranked_across, standardise
from .recording import capture
from .scores import Scores, aggregate, mixed_errors, score, weights
from .sparsity import authors_logistic, uniform


def flap(stats: ActivationStats, sparsity: float, metric: str = "WIFV") -> PruningMask:
    """FLAP's adaptive mask as published; ``stats`` collected with ``estimator="flap"``.

    WIFV = fluctuation·‖w‖₂², WIFN = mean|w|·sqrt(mean square). Attention metrics are squared per
    coordinate; all are standardised per layer over coordinates and averaged into heads; one
    descending order over all layers and modules, a head costing 4·head_dim/3 channels; units stay
    strictly above the threshold nearest the budget. (The published code truncates a head's cost to
    an integer; at head_dim 128 that is 170 instead of 170⅔.) May empty modules.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must lie in [0, 1), got {sparsity}")
    if metric not in ("WIFV", "WIFN"):
        raise ValueError(f"metric is 'WIFV' or 'WIFN', got {metric!r}")
    g = stats.geometry

    def of(module: str) -> torch.Tensor:
        if metric == "WIFV":
            return stats.var[module] * stats.weight_l2sq[module]
        return stats.second_moment[module].sqrt() * stats.weight_l1[module] / g.hidden

    groups = standardise(of("attention").square()).unflatten(1, (g.kv_heads, g.queries_per_group * g.head_dim)).mean(-1)
    channels = standardise(of("mlp"))
    metrics = torch.cat([groups.flatten(), channels.flatten()])
    cost = torch.ones(len(metrics), dtype=torch.float64)
    cost[: groups.numel()] = attention_unit_parameters(g, "group") / g.channel_parameters
    order = torch.argsort(metrics, descending=True, stable=True)
    kept = cost[order].cumsum(0)
    threshold = metrics[order][(kept - cost.sum() * (1 - sparsity)).abs().argmin()] if sparsity else metrics.min() - 1
    heads = (groups > threshold).repeat_interleave(g.queries_per_group, dim=1)
    provenance = {
        "score": metric,
        "calibration": stats.provenance.get("task", "?"),
        "requested": sparsity,
        "allocation": "adaptive",
        "budget": "parameters",
    }
    return PruningMask(g, heads, channels > threshold, provenance)


def authors_score(stats: ActivationStats, metric: str = "WIFV") -> Scores:
    """Scores of SEAP's published code; ``stats`` collected with ``estimator="authors"``.

    WIFV = variance·‖w‖₂²; WIFN = sqrt(mean square)·‖w‖₂² (not Eq. 12); heads by mean.
    """
    if metric not in ("WIFV", "WIFN"):
        raise ValueError(f"metric is 'WIFV' or 'WIFN', got {metric!r}")

    def of(module: str) -> torch.Tensor:
        factor = stats.var[module] if metric == "WIFV" else stats.second_moment[module].sqrt()
        return factor * stats.weight_l2sq[module]

    provenance = {"score": metric, "calibration": stats.provenance.get("task", "?")}
    return Scores(stats.geometry, of("attention"), of("mlp"), "mean", provenance)


def authors_mask(
    scores: Scores, sparsity: float, allocation: str = "UL-LD", k: float = 0.8, x0: float = 0.3
) -> PruningMask:
    """A mask of SEAP's published code: ``UL-UM`` uniform, ``UL-LD`` logistic, ``AL-AM`` adaptive.

    UL-LD protects the first and last two layers and averages over the others, so that less than the
    request goes. AL-AM standardises each layer by median and inter-quartile range, clips at ±3, and
    removes from below while the cost does not exceed the request.
    """
    g = scores.geometry
    if allocation == "UL-UM":
        return select(scores, uniform(sparsity), budget="floor")
    if allocation == "UL-LD":
        return select(scores, authors_logistic(sparsity, x0, k), budget="floor")
    if allocation != "AL-AM":
        raise ValueError(f"allocation is 'UL-UM', 'UL-LD' or 'AL-AM', got {allocation!r}")
    if g.queries_per_group != 1:
        raise ValueError("the published code prunes multi-head attention only; this model has grouped queries")
    heads, channels = _robust(scores.heads), _robust(scores.channels)
    cost = attention_unit_parameters(g, "group") / g.channel_parameters
    target = sparsity * (heads.numel() * cost + channels.numel())
    kept_heads, kept_channels = rank_all(heads, channels, cost, target, nearest=False)
    provenance = dict(scores.provenance) | {"requested": sparsity, "allocation": "AL-AM", "budget": "parameters"}
    return PruningMask(g, kept_heads, kept_channels, provenance)


def _robust(metric: torch.Tensor) -> torch.Tensor:
    """(x − median)/IQR per layer, clipped at ±3; the median is the lower one of an even count."""
    quartiles = torch.quantile(metric, torch.tensor([0.25, 0.75], dtype=metric.dtype), dim=1, keepdim=True)
    return ranked_across(
        ((metric - metric.median(1, keepdim=True).values) / (quartiles[1] - quartiles[0])).clamp(-3, 3)
    )


def authors_code(
    stats: dict[str, ActivationStats], sparsity: float, general: str, metric: str = "WIFV", allocation: str = "UL-LD"
) -> dict[str, PruningMask]:
    """Preset ``authors_code``: task → its expert mask, and ``"general"`` → the aggregated one."""
    each = {task: authors_score(one, metric) for task, one in stats.items()}
    each["general"] = aggregate(dict(each), weights(stats, general))
    return {name: authors_mask(one, sparsity, allocation) for name, one in each.items()}


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


#: role whose input a projection shares → the projections (q, k, v read the same input; so do gate, up)
_SAME_INPUT = {"q": ("q", "k", "v"), "o": ("o",), "up": ("gate", "up"), "down": ("down",)}


class _Reached(Exception):
    """The forward pass has come as far as it was needed."""


@contextmanager
def _stop_after(layer: torch.nn.Module) -> Iterator[None]:
    def stop(module, args, output):
        raise _Reached

    handle = layer.register_forward_hook(stop)
    try:
        yield
    finally:
        handle.remove()


def wanda_pruned(weight: torch.Tensor, second_moment: torch.Tensor, sparsity: float) -> torch.Tensor:
    """bool like ``weight`` [out, in]: in every row the floor(sparsity·in) lowest |w|·sqrt(mean h²)."""
    metric = weight.abs() * second_moment.to(weight).sqrt()
    lowest = torch.argsort(metric, dim=1, stable=True)[:, : int(sparsity * weight.shape[1] + 1e-9)]
    return torch.zeros_like(weight, dtype=torch.bool).scatter_(1, lowest, True)


@torch.no_grad()
def wanda(model, tokenizer, corpus, sparsity: float, max_length: int = 2048, progress: bool = True):
    """Unstructured Wanda: a copy of ``model`` with this share of every projection's weights set to 0.

    As published, layer by layer: a layer's inputs are measured with the layers before it pruned.
    The shapes stay, so nothing gets faster without kernels for scattered zeros.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must lie in [0, 1), got {sparsity}")
    encoded = encode(model, tokenizer, corpus.texts, max_length).ids
    pruned = copy_of(model)
    pruned.seap_source = None
    decoder = models.decoder(pruned)
    device = models.input_device(pruned)
    for index, layer in enumerate(
        tqdm(models.decoder_layers(pruned), desc="Wanda", unit="layer", leave=False, disable=not progress)
    ):
        with capture(pruned, roles=tuple(_SAME_INPUT), only=(index,)) as recorder, _stop_after(layer):
            for ids in encoded:
                try:
                    decoder(input_ids=torch.tensor([ids], device=device), use_cache=False)
                except _Reached:
                    continue
        for measured, roles in _SAME_INPUT.items():
            _, _, _, second_moment = recorder.stacked(measured)
            if not torch.isfinite(second_moment).all():
                raise ValueError(
                    f"the inputs of layer {index}'s {measured} are not finite (NaN or Inf), so they rank nothing"
                )
            for role, *_ in layers.projections(layer):
                if role in roles:
                    projection = resized(models.linear(layer, role))
                    matrix = layers.matrix(projection)
                    matrix[wanda_pruned(matrix, second_moment[0], sparsity)] = 0
                    models.set_linear(layer, role, projection)
    return pruned
