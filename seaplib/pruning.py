"""A mask applied to a model: by zeroing or by removal, with or without bias compensation."""

import copy
import hashlib
import json
from dataclasses import dataclass

import torch
from torch import nn

from . import models
from .masks import PruningMask


class EmptyAttention(nn.Module):
    """Stands for attention without heads: adds only ``bias`` to the residual stream.

    It still writes one zero per position into the KV cache, because caches take the sequence's
    length from their first layer.
    """

    def __init__(self, hidden: int, layer_idx: int, bias: torch.Tensor | None = None):
        super().__init__()
        self.layer_idx = layer_idx
        self.hidden = hidden
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))

    def forward(self, hidden_states, past_key_values=None, **kwargs):
        if past_key_values is not None:
            nothing = hidden_states.new_zeros(hidden_states.shape[0], 1, hidden_states.shape[1], 1)
            past_key_values.update(nothing, nothing, self.layer_idx)
        out = torch.zeros_like(hidden_states)
        return (out if self.bias is None else out + self.bias), None


class EmptyMLP(nn.Module):
    """Stands for an MLP without channels: adds only ``bias`` to the residual stream."""

    def __init__(self, hidden: int, bias: torch.Tensor | None = None):
        super().__init__()
        self.hidden = hidden
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))

    def forward(self, hidden_states):
        out = torch.zeros_like(hidden_states)
        return out if self.bias is None else out + self.bias


def resized(module: nn.Linear, rows=None, columns=None, bias: torch.Tensor | None = None) -> nn.Linear:
    """A copy of ``module`` with only these output ``rows`` and input ``columns`` (index tensors).

    ``bias`` [out] replaces the module's own, which otherwise is sliced along.
    """
    weight = module.weight.detach()
    weight = weight if rows is None else weight[rows]
    weight = weight.clone() if columns is None else weight[:, columns]
    if bias is None and module.bias is not None:
        bias = module.bias.detach() if rows is None else module.bias.detach()[rows]
    new = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    new.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if bias is not None:
        new.bias = nn.Parameter(bias.to(weight.dtype).clone(), requires_grad=False)
    return new


def _compensated(module: nn.Linear, removed: torch.Tensor, mean: torch.Tensor | None) -> torch.Tensor | None:
    """Bias of an output projection that also carries the removed units' mean contribution, W[:, removed]·μ."""
    bias = None if module.bias is None else module.bias.detach()
    if mean is None or not bool(removed.any()):
        return bias
    weight = module.weight.detach()[:, removed].double()
    extra = weight @ mean.to(weight.device)[removed].double()
    return (extra if bias is None else bias.double() + extra).to(module.weight.dtype)


@torch.no_grad()
def _prune_layer(layer: nn.Module, index: int, mask: PruningMask, mode: str, mean: dict | None) -> None:
    g = mask.geometry
    device = models.linear(layer, "o").weight.device

    def coordinates(heads):  # bool [n] → bool [n·head_dim]
        return heads.repeat_interleave(g.head_dim).to(device)

    query, key = coordinates(mask.heads[index]), coordinates(mask.kv_heads[index])
    channel = mask.channels[index].to(device)
    keeps = {"q": (query, None), "k": (key, None), "v": (key, None), "o": (None, query)}
    keeps |= {"gate": (channel, None), "up": (channel, None), "down": (None, channel)}
    biases = {}
    for role, kept, module in (("o", query, "attention"), ("down", channel, "mlp")):
        projection = models.linear(layer, role)
        biases[role] = _compensated(projection, ~kept, None if mean is None else mean[module][index])
    for role, (rows, columns) in keeps.items():
        kept = rows if rows is not None else columns
        if bool(kept.all()) or (mode == "remove" and not bool(kept.any())):
            continue  # nothing goes, or everything does: an emptied module is replaced as a whole below
        projection = models.linear(layer, role)
        if mode == "remove":
            new = resized(
                projection,
                None if rows is None else rows.nonzero().squeeze(1),
                None if columns is None else columns.nonzero().squeeze(1),
                biases.get(role),
            )
        else:
            new = resized(projection, bias=biases.get(role))
            if rows is not None:
                new.weight[~rows] = 0
                if new.bias is not None:
                    new.bias[~rows] = 0
            else:
                new.weight[:, ~columns] = 0
        models.set_linear(layer, role, new)
    if mode == "remove":
        if not bool(query.any()):
            layer.self_attn = EmptyAttention(g.hidden, index, biases["o"])
        else:
            attention = models.attention(layer)
            attention.num_key_value_groups = int(mask.heads[index].sum()) // int(mask.kv_heads[index].sum())
        if not bool(channel.any()):
            layer.mlp = EmptyMLP(g.hidden, biases["down"])


def prune(model, mask: PruningMask, mode: str = "remove", compensation: dict[str, torch.Tensor] | None = None):
    """A pruned copy of ``model``; the model itself is left as it is.

    ``mode="remove"`` makes the projections smaller (the real speed-up), ``"zero"`` sets the removed
    weights to 0 and keeps all shapes; both give the same logits to rounding. ``compensation`` maps
    ``attention`` and ``mlp`` to mean activations [layers, dim] (``stats.mean``, or
    :func:`~seaplib.activations.weighted_mean` for a general mask); the removed units' mean
    contribution is then added to the output projections' biases.
    """
    if mode not in ("remove", "zero"):
        raise ValueError(f"mode is 'remove' or 'zero', got {mode!r}")
    if getattr(model, "seap_mask", None) is not None:
        raise ValueError("the model is already pruned; start from the dense model")
    here = models.geometry(model)
    if here != mask.geometry:
        raise ValueError(f"the mask was made for another model: {mask.geometry} against {here}")
    # Projections are replaced, not modified, so the copy can share every tensor with the original.
    shared = {id(p): p for p in model.parameters()} | {id(b): b for b in model.buffers()}
    pruned = copy.deepcopy(model, memo=shared)
    pruned.seap_source = None
    for index, layer in enumerate(models.decoder_layers(pruned)):
        _prune_layer(layer, index, mask, mode, compensation)
    pruned.seap_mask = mask
    return pruned


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
        digest = hashlib.sha256(json.dumps([self.mask.fingerprint, self.mode]).encode())
        for module, mean in sorted((self.compensation or {}).items()):
            digest.update(module.encode() + mean.double().contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]

    def apply(self, model):
        return prune(model, self.mask, self.mode, self.compensation)
