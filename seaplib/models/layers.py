"""Decoder layers by role (``q k v o gate up down``), whatever the architecture calls its modules.

Projections may be fused, transposed (GPT-2's Conv1D) or offloaded by accelerate; here each role has
a weight [out, in] and a bias [out], and a whole projection can be replaced by a smaller one.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers.pytorch_utils import Conv1D

from .architectures import ARCHITECTURES, MODULES, OUTPUTS, ROLES, Architecture, ModelError, _model_type
from .offloading import offload, runs_on, tensor
from .shapes import Geometry

#: share of a model's embeddings that its own tokenizer knows at least; the rest is padding to a round number
FULL = 0.9
_BY_LAYER = {record.layer: record for record in ARCHITECTURES.values()}


class EmptyAttention(nn.Module):
    """Stands for attention without heads: adds only ``bias`` to the residual stream.

    The module still writes a zero per position into the KV cache, because a cache takes the sequence's
    length from its first layer.
    """

    def __init__(self, hidden: int, layer_idx: int, bias: Float[Tensor, " hidden"] | None = None):
        super().__init__()
        self.layer_idx = layer_idx
        self.hidden = hidden
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))

    def forward(
        self, hidden_states: Float[Tensor, "batch tokens hidden"], past_key_values=None, layer_past=None, **kwargs
    ):
        cache = past_key_values if layer_past is None else layer_past  # GPT-NeoX calls it layer_past
        if cache is not None:
            nothing = hidden_states.new_zeros(hidden_states.shape[0], 1, hidden_states.shape[1], 1)
            cache.update(nothing, nothing, self.layer_idx)
        out = torch.zeros_like(hidden_states)
        return (out if self.bias is None else out + self.bias.to(out.device)), None


class EmptyMLP(nn.Module):
    """Stands for an MLP without channels: adds only ``bias`` to the residual stream."""

    def __init__(self, hidden: int, bias: Float[Tensor, " hidden"] | None = None):
        super().__init__()
        self.hidden = hidden
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))

    def forward(self, hidden_states: Float[Tensor, "*tokens hidden"]) -> Float[Tensor, "*tokens hidden"]:
        out = torch.zeros_like(hidden_states)
        return out if self.bias is None else out + self.bias.to(out.device)


class LayerConfig:
    """The model's configuration with a few values that belong to a single layer.

    Every other value is read from the model's configuration when it is asked for: a copy would not follow a
    later change of the attention implementation, and attention would silently stop being causal.
    """

    def __init__(self, shared, **own):
        self.__dict__.update(own, _shared=shared)

    def __getattr__(self, name):
        if name == "_shared" or name.startswith("__"):  # ``_shared`` is not there yet while the object is being copied
            raise AttributeError(name)
        return getattr(self._shared, name)


def record(layer: nn.Module) -> Architecture:
    """The layer's architecture."""
    return _BY_LAYER[type(layer).__name__]


def attention(layer: nn.Module) -> nn.Module:
    return layer.get_submodule(record(layer).attention)


def mlp(layer: nn.Module) -> nn.Module:
    """The layer's MLP; its output projection where the MLP is no module of its own."""
    return layer.get_submodule(record(layer).mlp or record(layer).roles["down"])


def emptied(layer: nn.Module) -> dict[str, nn.Module]:
    """``attention`` and ``mlp`` → the module that stands in their place, where pruning emptied them."""
    return {
        name: module
        for name, module in (("attention", attention(layer)), ("mlp", mlp(layer)))
        if isinstance(module, EmptyAttention | EmptyMLP)
    }


def empty(layer: nn.Module, module: str, index: int, hidden: int, bias: Float[Tensor, " hidden"] | None) -> None:
    """Replace a layer's ``attention`` or ``mlp`` by a module that adds ``bias`` alone."""
    if module == "attention":
        layer.set_submodule(record(layer).attention, EmptyAttention(hidden, index, bias))
    elif record(layer).mlp:
        layer.set_submodule(record(layer).mlp, EmptyMLP(hidden, bias))
    else:
        layer.set_submodule(record(layer).roles["up"], nn.Identity())
        layer.set_submodule(record(layer).roles["down"], EmptyMLP(hidden, bias))


def is_bypassable(layer: nn.Module) -> bool:
    """Whether the layer is the identity once its attention and MLP are gone.

    The layer is not the identity where a norm stands on the residual stream itself (post-norm models).
    """
    name = record(layer).norm_first
    return name is None or getattr(layer, name)


@contextmanager
def without_attention(layer: nn.Module, index: int, hidden: int) -> Iterator[None]:
    """The layer without its attention, bias included, while the context is open."""
    kept = attention(layer)
    empty(layer, "attention", index, hidden, None)
    try:
        yield
    finally:
        layer.set_submodule(record(layer).attention, kept)


def gate_activation(layer: nn.Module) -> nn.Module | None:
    """The function between ``gate`` and the product with ``up``; None where the MLP has no gate or is emptied."""
    if not record(layer).gated or "mlp" in emptied(layer):
        return None
    return getattr(mlp(layer), record(layer).gate_function)


def linear(layer: nn.Module, role: str) -> nn.Module:
    """The projection that plays ``role``, whose input is the role's input. Fused roles share a projection."""
    return layer.get_submodule(record(layer).roles[role])


def set_linear(layer: nn.Module, role: str, module: nn.Module) -> None:
    """Replace the projection of ``role`` (and of the roles fused with it); offloaded if the old projection was."""
    offload(module, like=linear(layer, role))
    layer.set_submodule(record(layer).roles[role], module)


def projections(layer: nn.Module) -> list[tuple[str, ...]]:
    """The layer's projections, each as the tuple of roles that it plays: ("q",), … or fused ("q", "k", "v"), …"""
    gone = [role for module in emptied(layer) for role in MODULES[module]]
    found: dict[str, tuple[str, ...]] = {}
    for role in ROLES:
        path = record(layer).roles.get(role)
        if path is not None and role not in gone:
            found[path] = (*found.get(path, ()), role)
    return list(found.values())


def shape(module: nn.Module) -> tuple[int, int]:
    """(outputs, inputs) of a projection."""
    return tuple(reversed(module.weight.shape)) if isinstance(module, Conv1D) else tuple(module.weight.shape)


def rows(layer: nn.Module, role: str) -> slice | Int[Tensor, " outputs"]:
    """The role's outputs of its projection: all outputs, unless the role is fused with others."""
    together = next(roles for roles in projections(layer) if role in roles)
    if len(together) == 1:
        return slice(None)
    total, place = shape(linear(layer, role))[0], together.index(role)
    if together != MODULES["attention"][:3]:
        return slice(total // 2 * place, total // 2 * (place + 1))  # gate, up
    if record(layer).interleaved:
        return torch.arange(total).view(-1, 3, head_dim(layer))[:, place].flatten()
    queries = shape(linear(layer, "o"))[1]
    starts = (0, queries, (total + queries) // 2, total)
    return slice(starts[place], starts[place + 1])


def matrix(module: nn.Module) -> Float[Tensor, "out in"]:
    """Weight of a projection as [out, in], a view; fetched where it is offloaded."""
    value = tensor(module, "weight")
    return value.T if isinstance(module, Conv1D) else value


def weight(layer: nn.Module, role: str) -> Float[Tensor, "out in"]:
    """The role's weight [out, in]."""
    return matrix(linear(layer, role)).detach()[rows(layer, role)]


def bias(layer: nn.Module, role: str) -> Float[Tensor, " out"] | None:
    """The role's bias [out]; None where the projection has no bias."""
    value = tensor(linear(layer, role), "bias")
    return None if value is None else value.detach()[rows(layer, role)]


def head_dim(layer: nn.Module) -> int:
    return getattr(attention(layer), record(layer).head_dim)


def set_heads(layer: nn.Module, heads: int, kv_heads: int) -> None:
    """Set the attention module's own counts. A stale count crashes eager attention but passes in sdpa."""
    module = attention(layer)
    values = {"heads": heads, "kv_heads": kv_heads, "groups": heads // kv_heads, "width": heads * head_dim(layer)}
    for name, quantity in record(layer).counts.items():
        if name.startswith("config."):
            shared = module.config._shared if isinstance(module.config, LayerConfig) else module.config
            module.config = LayerConfig(shared, **{name.removeprefix("config."): values[quantity]})
        else:
            setattr(module, name, values[quantity])


def blank(like: nn.Module, out: int, into: int, bias: bool) -> nn.Module:
    """A projection of the same kind and other sizes (a Conv1D always has a bias)."""
    return Conv1D(out, into) if isinstance(like, Conv1D) else nn.Linear(into, out, bias=bias)


def resized(
    module: nn.Module,
    rows: Int[Tensor, " rows"] | None = None,
    columns: Int[Tensor, " columns"] | None = None,
    bias: Float[Tensor, " out"] | None = None,
) -> nn.Module:
    """A copy of a projection with only these output ``rows`` and input ``columns`` (index tensors), which learns
    where the projection does.

    ``bias`` [out] replaces the module's own, which otherwise is sliced along.
    """
    weight, own = matrix(module).detach(), tensor(module, "bias")
    weight = weight if rows is None else weight[rows]
    weight = weight.clone() if columns is None else weight[:, columns]
    if bias is None and own is not None:
        bias = own.detach() if rows is None else own.detach()[rows]
    with torch.device("meta"):
        new = blank(module, *weight.shape, bias is not None)
    learns = module.weight.requires_grad
    new.weight = nn.Parameter((weight.T if isinstance(new, Conv1D) else weight).contiguous(), learns)
    if bias is not None:
        new.bias = nn.Parameter(bias.to(weight.dtype).clone(), learns)
    return new


def is_output(role: str) -> bool:
    """Whether the role writes to the residual stream (o, down)."""
    return role in OUTPUTS


def decoder(model) -> nn.Module:
    """The stack of decoder layers without the LM head; maps token ids to hidden states. TypeError for no such model."""
    if not hasattr(model, "get_decoder"):
        raise TypeError(f"the model is a causal language model of transformers, got {type(model).__name__}")
    return model.get_decoder()


def decoder_layers(model) -> nn.ModuleList:
    stack = decoder(model)
    return getattr(stack, ARCHITECTURES[_model_type(model.config)].layers)


def input_device(model) -> torch.device:
    """The device that token ids belong on: where the embedding is computed, also when it is offloaded."""
    return runs_on(decoder(model).get_input_embeddings())


def linear_layers(model) -> dict[tuple[int, str], nn.Module]:
    """(layer, role) → the linear layer that plays the role, for the roles that the model has.

    A fused projection appears under each of its roles, always as the same module. Modules that pruning
    emptied do not appear.
    """
    found = {}
    for index, layer in enumerate(decoder_layers(model)):
        for roles in projections(layer):
            found |= {(index, role): linear(layer, role) for role in roles}
    return found


def geometry(model) -> Geometry:
    """Shape of an unpruned model, from its layers. Raises :class:`ModelError` if these differ in width, or if a
    projection is no plain matrix: an adapter is on it, or it is quantised.
    """
    layers = decoder_layers(model)
    record = ARCHITECTURES[_model_type(model.config)]
    check_plain(model)
    sizes = {_sizes(layer) for layer in layers}
    if len(sizes) != 1 or None in sizes:
        raise ModelError("the model's layers differ in width, so it is already pruned; start from the dense model")
    size = head_dim(layers[0])
    queries, keys, channels, attention_bias, mlp_bias = sizes.pop()
    return Geometry(
        layers=len(layers),
        hidden=model.config.hidden_size,
        heads=queries // size,
        kv_heads=keys // size,
        head_dim=size,
        channels=channels,
        model_parameters=parameters(model),
        vocabulary=model.config.vocab_size,
        attention_bias=attention_bias,
        mlp_bias=mlp_bias,
        gated=record.gated,
    )


def check_plain(model) -> None:
    """:class:`ModelError` where a projection is not a plain matrix of numbers, whose rows and columns can be cut."""
    for index, layer in enumerate(decoder_layers(model)):
        for roles in projections(layer):
            module = linear(layer, roles[0])
            where = f"the projection {roles[0]} of layer {index}"
            if hasattr(module, "base_layer"):
                raise ModelError(f"{where} has an adapter: merge it first, model.merge_and_unload()")
            weight = getattr(module, "weight", None)
            plain = isinstance(weight, Tensor) and weight.is_floating_point() and weight.element_size() > 1
            if not plain or is_wrapped(weight) or not isinstance(module, nn.Linear | Conv1D):
                raise ModelError(
                    f"{where} is a quantised {type(module).__name__}, which can be evaluated but not pruned; "
                    "prune the model in full precision, and quantise what comes out"
                )


def is_wrapped(weight: Tensor) -> bool:
    """Whether a tensor stands for others, such as quantised numbers and their scales."""
    return is_traceable_wrapper_subclass(weight.detach())


def parameters(model) -> int:
    """Number of a model's parameters, tied tensors counted once (the object does not show it where offloaded)."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    return sum(p.numel() for name, p in model.named_parameters() if name not in tied)


def _sizes(layer: nn.Module) -> tuple | None:
    """Outputs of q, k and up, and whether q and up have a bias; None where a layer lacks or cut a projection."""
    widths = {role: width(layer, role) for roles in projections(layer) for role in roles if not is_output(role)}
    if not {"q", "up"} <= widths.keys():  # an emptied module has no projections
        return None
    if widths["v"] != widths["k"] or widths.get("gate", widths["up"]) != widths["up"]:
        return None
    return widths["q"], widths["k"], widths["up"], *(linear(layer, role).bias is not None for role in ("q", "up"))


def width(layer: nn.Module, role: str) -> int:
    """Number of a role's outputs."""
    total = shape(linear(layer, role))[0]
    own = rows(layer, role)
    return len(range(total)[own]) if isinstance(own, slice) else len(own)


def check_tokenizer(tokenizer) -> None:
    """TypeError for what cannot be called with texts."""
    if not callable(tokenizer):
        raise TypeError(f"the tokenizer is one of transformers, got {type(tokenizer).__name__}")


def check_vocabulary(model, tokenizer) -> None:
    """A warning where the tokenizer knows far fewer tokens than the model: it is probably another model's.

    Embeddings are padded to round numbers, so that a few tokens less are usual. Ids that are too large:
    :func:`check_ids`.
    """
    check_tokenizer(tokenizer)
    known = len(tokenizer) if hasattr(tokenizer, "__len__") else math.inf
    size = model.get_input_embeddings().weight.shape[0]
    if known < FULL * size:
        said = f"the tokenizer knows {known:,} tokens and the model {size:,}: is it the model's own?"
        warnings.warn(said, stacklevel=3)


def check_ids(model, largest: int) -> None:
    """ValueError where the token id ``largest`` has no embedding: the tokenizer is another model's, or was extended."""
    known = decoder(model).get_input_embeddings().weight.shape[0]
    if largest >= known:
        raise ModelError(f"token id {largest} has no place among the model's {known} embeddings; use its own tokenizer")


def context_length(model) -> int:
    """Positions the model was built for, in tokens."""
    return model.config.max_position_embeddings


def projection_parameters(model) -> int:
    """Number of parameters in the decoder layers' projections as they are now, without the biases of o and down."""
    total = 0
    for layer in decoder_layers(model):
        for roles in projections(layer):
            module = linear(layer, roles[0])
            total += module.weight.numel()
            if module.bias is not None and not is_output(roles[0]):
                total += module.bias.numel()
    return total
