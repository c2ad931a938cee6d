"""A mask applied to a model: by removal, by zeroing or on the fly, with or without bias compensation."""

import copy
import hashlib
import json
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from . import layers, models
from .layers import EmptyAttention, EmptyMLP, resized
from .masks import PruningMask
from .settings import MODES

__all__ = ["EmptyAttention", "EmptyMLP", "Variant", "copy_of", "prune", "resized"]


def _compensated(
    module: nn.Module, removed: torch.Tensor, mean: torch.Tensor | None, bypass: bool = False
) -> torch.Tensor | None:
    """Bias of an output projection that also carries the removed units' mean contribution, W[:, removed]·μ.

    With ``bypass``, and no unit left, it is 0: nothing of the module remains.
    """
    bias = layers.tensor(module, "bias")
    bias = None if bias is None else bias.detach()
    if bypass and bool(removed.all()):
        return None if bias is None else torch.zeros_like(bias)
    if mean is None or not bool(removed.any()):
        return bias
    weight = layers.matrix(module).detach()[:, removed].double()
    extra = weight @ mean.to(weight.device)[removed].double()
    return (extra if bias is None else bias.double() + extra).to(layers.matrix(module).dtype)


def _kept(mask: PruningMask, index: int) -> dict[str, torch.Tensor]:
    """role → bool over its coordinates that stay: outputs of q, k, v, gate, up, inputs of o, down."""
    size = mask.geometry.head_dim
    query = mask.heads[index].repeat_interleave(size)
    key = mask.kv_heads[index].repeat_interleave(size)
    channel = mask.channels[index]
    return {"q": query, "k": key, "v": key, "o": query, "gate": channel, "up": channel, "down": channel}


@torch.no_grad()
def _prune_layer(layer: nn.Module, index: int, mask: PruningMask, mode: str, mean: dict | None) -> None:
    kept = _kept(mask, index)
    biases = {}
    for role, module in (("o", "attention"), ("down", "mlp")):
        projection = models.linear(layer, role)
        own = None if mean is None else mean[module][index]
        biases[role] = _compensated(projection, ~kept[role], own, mask.bypass)
    replaced = {}  # all are made before any is put in place: fused projections are read through each other
    for roles in layers.projections(layer):
        output, projection = layers.is_output(roles[0]), models.linear(layer, roles[0])
        keep = torch.ones(layers.shape(projection)[int(output)], dtype=torch.bool)
        for role in roles:
            keep[slice(None) if output else models.rows(layer, role)] = kept[role]
        if bool(keep.all()) or (mode == "remove" and not bool(keep.any())):
            continue  # nothing goes, or everything does: an emptied module is replaced as a whole below
        bias = biases.get(roles[0])
        if mode == "remove":
            places = keep.nonzero().squeeze(1).to(layers.matrix(projection).device)
            new = resized(projection, None if output else places, places if output else None, bias)
        else:
            new = resized(projection, bias=bias)
            if output:
                layers.matrix(new)[:, ~keep] = 0
            else:
                layers.matrix(new)[~keep] = 0
                if new.bias is not None:
                    new.bias[~keep] = 0
        replaced[roles[0]] = new
    for role, new in replaced.items():
        models.set_linear(layer, role, new)
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
def _mask_layer(layer: nn.Module, index: int, mask: PruningMask, mean: dict | None) -> None:
    """Zero the removed units where the output projections read them, and add what compensates them."""
    kept = _kept(mask, index)
    for role, module in (("o", "attention"), ("down", "mlp")):
        if bool(kept[role].all()):
            continue
        projection = models.linear(layer, role)
        projection.register_forward_pre_hook(partial(_zero_removed, ~kept[role]))
        if mean is not None or mask.bypass:
            own = layers.tensor(projection, "bias")
            extra = _compensated(projection, ~kept[role], None if mean is None else mean[module][index], mask.bypass)
            if extra is not None:
                projection.register_forward_hook(partial(_add, extra if own is None else extra - own))


def _zero_removed(removed: torch.Tensor, module: nn.Module, args: tuple) -> tuple:
    return (args[0].masked_fill(removed.to(args[0].device), 0), *args[1:])


def _add(extra: torch.Tensor, module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
    return output + extra.to(output.device)


def copy_of(model):
    """A copy that shares every tensor: projections are replaced, never modified."""
    shared = {id(p): p for p in model.parameters()} | {id(b): b for b in model.buffers()}
    return copy.deepcopy(model, memo=shared | layers.kept_elsewhere(model))


def prune(
    model,
    mask: PruningMask,
    mode: str = "remove",
    compensation: dict[str, torch.Tensor] | None = None,
    in_place: bool = False,
):
    """A pruned copy of ``model``; the model itself is left as it is.

    ``mode="remove"`` makes the projections smaller (the real speed-up), ``"zero"`` sets the removed
    weights to 0 and keeps all shapes, ``"mask"`` zeroes the removed units' activations on the fly, so
    that no weight is copied and a model that fits in memory once can be evaluated; all give the same
    logits to rounding. ``compensation`` maps ``attention`` and ``mlp`` to mean activations
    [layers, dim] (``stats.mean``, or :func:`~seaplib.activations.weighted_mean` for a general mask);
    the removed units' mean contribution is then added to the output projections' biases.

    A copy shares what does not change with the original. ``in_place=True`` uses the model itself up,
    a layer at a time: the peak is the model and one layer.
    """
    if mode not in MODES:
        raise ValueError(f"mode is one of {', '.join(MODES)}, got {mode!r}")
    if getattr(model, "seap_mask", None) is not None:
        raise ValueError("the model is already pruned; start from the dense model")
    if getattr(model, "seap_sparsity", None):
        raise ValueError("the model's inputs are sparse already; prune first, then make the inputs sparse")
    here = models.geometry(model)
    if here != mask.geometry:
        raise ValueError(f"the mask was made for another model: {mask.geometry} against {here}")
    pruned = model if in_place else copy_of(model)
    for index, layer in enumerate(models.decoder_layers(pruned)):
        if mode == "mask":
            _mask_layer(layer, index, mask, compensation)
        else:
            _prune_layer(layer, index, mask, mode, compensation)
    pruned.seap_mask = mask
    if mode == "mask":
        pruned.seap_masked = identity(mask, mode, compensation)
    else:
        pruned.seap_source = None
    return pruned


def identity(mask: PruningMask, mode: str, compensation: dict[str, torch.Tensor] | None) -> str:
    """Hash of what is done to a model."""
    digest = hashlib.sha256(json.dumps([mask.fingerprint, mode]).encode())
    for module, mean in sorted((compensation or {}).items()):
        digest.update(module.encode() + mean.double().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Variant:
    """One pruned model to evaluate: what it is called, its mask, and how the mask is applied.

    ``label`` holds the columns of its result rows (method, score, allocation, budget, calibration,
    calibration_seed); requested and achieved sparsity are added from the mask. ``tasks`` restricts
    it to some tasks (an expert is evaluated on its own).
    """

    label: dict
    mask: PruningMask
    mode: str = "remove"
    compensation: dict | None = None
    tasks: tuple[str, ...] | None = None

    def __post_init__(self):
        sparsities = {
            "requested_sparsity": self.mask.requested,
            "achieved_sparsity": self.mask.achieved,
            "achieved_model_sparsity": self.mask.achieved_model,
        }
        object.__setattr__(self, "label", dict(self.label) | sparsities)

    @property
    def fingerprint(self) -> str:
        return identity(self.mask, self.mode, self.compensation)

    @property
    def first_layer(self) -> int:
        """The first layer that loses anything (the number of layers where none does); those before it are dense."""
        changed = ~(self.mask.heads.all(1) & self.mask.channels.all(1))
        return int(changed.int().argmax()) if changed.any() else self.mask.geometry.layers

    def apply(self, model):
        return prune(model, self.mask, self.mode, self.compensation)
