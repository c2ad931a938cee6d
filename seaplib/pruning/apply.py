"""A mask applied to a model: by removal, by zeroing or on the fly, with or without compensation."""

import hashlib
import json
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..models import layers
from ..models.layers import resized
from ..models.offloading import copy_of, unshare
from ..models.state import note, state
from ..models.state import pruned as was_pruned
from ..settings import MODES, expect
from .checkpoints import adopt, projections
from .compensation import Compensation, check, compensated, content
from .masks import PruningMask

SPARSITIES = ("requested_sparsity", "achieved_sparsity", "achieved_model_sparsity")
#: what a mask's provenance says of how it was made, beside its sizes
NAMED = ("score", "allocation", "budget", "calibration")


def _kept(mask: PruningMask, index: int) -> dict[str, Bool[Tensor, " dim"]]:
    """Role → which coordinates stay: outputs of q, k, v, gate, up, inputs of o, down."""
    size = mask.geometry.head_dim
    query = mask.heads[index].repeat_interleave(size)
    key = mask.kv_heads[index].repeat_interleave(size)
    channel = mask.channels[index]
    return {"q": query, "k": key, "v": key, "o": query, "gate": channel, "up": channel, "down": channel}


def _output(
    projection: nn.Module,
    keep: Bool[Tensor, " in"],
    mode: str,
    weight: Float[Tensor, "out kept"] | None,
    bias: Float[Tensor, " out"] | None,
) -> nn.Module:
    """An output projection with the inputs ``keep`` alone; ``weight`` holds their columns where these are new."""
    places = keep.nonzero().squeeze(1).to(layers.matrix(projection).device)
    new = resized(projection, columns=places if mode == "remove" else None, bias=bias)
    own = layers.matrix(new)
    if mode == "remove":
        if weight is not None:
            own.copy_(weight)
    else:
        own[:, ~keep] = 0
        if weight is not None:
            own[:, places] = weight
    return new


@torch.no_grad()
def _prune_layer(layer: nn.Module, index: int, mask: PruningMask, mode: str, compensation: Compensation | None) -> None:
    kept = _kept(mask, index)
    columns, biases = {}, {}
    for role, module in (("o", "attention"), ("down", "mlp")):
        projection = layers.linear(layer, role)
        columns[role], biases[role] = compensated(projection, ~kept[role], module, index, compensation, mask.bypass)
    replaced = {}  # all are made before any is put in place: fused projections are read through each other
    for roles in layers.projections(layer):
        output, projection = layers.is_output(roles[0]), layers.linear(layer, roles[0])
        keep = torch.ones(layers.shape(projection)[int(output)], dtype=torch.bool)
        for role in roles:
            keep[slice(None) if output else layers.rows(layer, role)] = kept[role]
        if bool(keep.all()) or (mode == "remove" and not bool(keep.any())):
            continue  # nothing goes, or everything does: an emptied module is replaced as a whole below
        if output:
            replaced[roles[0]] = _output(projection, keep, mode, columns[roles[0]], biases[roles[0]])
            continue
        if mode == "remove":
            new = resized(projection, keep.nonzero().squeeze(1).to(layers.matrix(projection).device))
        else:
            new = resized(projection)
            layers.matrix(new)[~keep] = 0
            if new.bias is not None:
                new.bias[~keep] = 0
        replaced[roles[0]] = new
    for role, new in replaced.items():
        layers.set_linear(layer, role, new)
    if mode == "remove":
        hidden = mask.geometry.hidden
        if mask.bypass:
            biases = {"o": None, "down": None}  # of the modules that are emptied below
        if bool(mask.heads[index].any()):
            layers.set_heads(layer, int(mask.heads[index].sum()), int(mask.kv_heads[index].sum()))
        else:
            layers.empty(layer, "attention", index, hidden, biases["o"])
        if not bool(mask.channels[index].any()):
            layers.empty(layer, "mlp", index, hidden, biases["down"])


@torch.no_grad()
def _mask_layer(layer: nn.Module, index: int, mask: PruningMask, compensation: Compensation | None) -> None:
    """Zero the removed units where the output projections read them, and add what compensates them.

    A refitted output projection is a copy in which the removed units' columns are 0 already.
    """
    kept = _kept(mask, index)
    for role, module in (("o", "attention"), ("down", "mlp")):
        if bool(kept[role].all()):
            continue
        projection = layers.linear(layer, role)
        columns, bias = compensated(projection, ~kept[role], module, index, compensation, mask.bypass)
        if columns is not None:
            layers.set_linear(layer, role, _output(projection, kept[role], "zero", columns, bias))
            continue
        projection.register_forward_pre_hook(partial(_zero_removed, ~kept[role]))
        own = layers.tensor(projection, "bias")
        if bias is not None and (compensation is not None or mask.bypass):
            projection.register_forward_hook(partial(_add, bias if own is None else bias - own))


def _zero_removed(removed: Bool[Tensor, " in"], module: nn.Module, args: tuple) -> tuple:
    return (args[0].masked_fill(removed.to(args[0].device), 0), *args[1:])


def _add(extra: Float[Tensor, " out"], module: nn.Module, args: tuple, output: Tensor) -> Tensor:
    return output + extra.to(output)


def prune(
    model: nn.Module,
    mask: PruningMask,
    mode: str = "remove",
    compensation: Compensation | None = None,
    in_place: bool = False,
    share: bool = False,
) -> nn.Module:
    """A pruned copy of ``model``, which stays as it is.

    ``mode="remove"`` makes the projections smaller (the real speed-up); ``"zero"`` sets the removed weights
    to 0 and keeps all shapes; ``"mask"`` zeroes the removed units' activations on the fly: no weight is
    copied, so a model that fits in memory once can be evaluated. All three give the same logits to rounding.
    The copy learns and is saved like any model of transformers, by ``save_pretrained`` too (masked on the fly: not).

    ``compensation`` maps ``attention`` and ``mlp`` to mean activations [layers, dims] (``stats.mean``, or
    :func:`~seaplib.activations.statistics.weighted_mean` for a general mask): the removed units' mean
    contribution is added to the biases of the output projections. Or ``compensation`` holds covariances
    (:func:`~seaplib.activations.covariances.collect`, or
    :class:`~seaplib.activations.covariances.WeightedCovariances` for a general mask): the kept units' columns
    of the output projections are refitted by least squares as well; "mask" then copies these projections.

    ``in_place=True`` prunes ``model`` itself, a layer at a time: the peak is the model and a layer. ``share=True``
    lets the copy share the tensors that do not change (embeddings, norms, whole layers), which saves memory and
    means that whoever trains the one changes the other; ``"mask"`` always does.
    Raises ``ValueError`` for a model that is pruned or sparse already, for the mask or the compensation of another
    model, and for a compensation that is not finite.
    """
    _check(mask, mode, compensation)
    if was_pruned(model):
        raise ValueError("the model is already pruned; start from the dense model")
    if state(model).sparse:
        raise ValueError("the model's inputs are sparse already; prune first, then make the inputs sparse")
    here = layers.geometry(model)
    if here != mask.geometry:
        raise ValueError(f"the mask was made for another model: {mask.geometry} against {here}")
    check(compensation, here)
    pruned = model if in_place else copy_of(model)
    # Before the first layer: a model that is stopped halfway in place must not pass for the dense one.
    note(pruned, mask=mask, mode=mode)
    if mode == "mask":
        note(pruned, applied=identity(mask, mode, compensation))
    pruned.config.pruning = record(mask, mode)
    before = projections(pruned)
    for index, layer in enumerate(layers.decoder_layers(pruned)):
        if mode == "mask":
            _mask_layer(layer, index, mask, compensation)
        else:
            _prune_layer(layer, index, mask, mode, compensation)
    if projections(pruned) != before:
        adopt(pruned)
    if not (share or in_place or mode == "mask"):
        unshare(pruned, model)
    return pruned


def _check(mask: PruningMask, mode: str, compensation: Compensation | None) -> None:
    """Errors for arguments of another kind, before any model is looked at."""
    expect(mask, PruningMask, "the mask")
    if mode not in MODES:
        raise ValueError(f"mode is one of {', '.join(MODES)}, got {mode!r}")
    if not (compensation is None or isinstance(compensation, dict) or hasattr(compensation, "at")):
        kind = type(compensation).__name__
        raise TypeError(f"compensation holds means by module (stats.mean) or covariances, got {kind}")


def record(mask: PruningMask, mode: str) -> dict:
    """What a pruned model's configuration says of its mask, in memory and on disk: the columns that name its rows."""
    sparsities = zip(SPARSITIES, (mask.requested, mask.achieved, mask.achieved_model), strict=True)
    about = {key: str(mask.provenance[key]) for key in NAMED if key in mask.provenance}
    return {"mode": mode, "mask": mask.fingerprint} | dict(sparsities) | about


def identity(mask: PruningMask, mode: str, compensation: Compensation | None) -> str:
    """Hash of what is done to a model."""
    digest = hashlib.sha256(json.dumps([mask.fingerprint, mode]).encode())
    digest.update(content(compensation))
    return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Variant:
    """A pruned model to evaluate: how its rows are named, its mask, and how the mask is applied.

    ``label`` holds the columns of the result rows (method, score, allocation, budget, calibration,
    calibration_seed); requested and achieved sparsity are added from the mask. ``tasks`` names the tasks
    to evaluate on (an expert's own); None: all.
    """

    label: dict
    mask: PruningMask
    mode: str = "remove"
    compensation: Compensation | None = None
    tasks: tuple[str, ...] | None = None

    def __post_init__(self):
        _check(self.mask, self.mode, self.compensation)
        sizes = {name: value for name, value in record(self.mask, self.mode).items() if name in SPARSITIES}
        object.__setattr__(self, "label", dict(self.label) | sizes)

    @property
    def fingerprint(self) -> str:
        """Hash of what is done to a model."""
        return identity(self.mask, self.mode, self.compensation)

    @property
    def first_layer(self) -> int:
        """The first layer that loses a unit (the number of layers where no layer does); layers before it are dense."""
        changed = ~(self.mask.heads.all(1) & self.mask.channels.all(1))
        return int(changed.int().argmax()) if changed.any() else self.mask.geometry.layers

    def apply(self, model: nn.Module) -> nn.Module:
        """The pruned copy of ``model``, which shares what does not change."""
        return prune(model, self.mask, self.mode, self.compensation, share=True)
