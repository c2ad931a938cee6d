"""The names of each architecture's modules, a record for each architecture; no other file names a module.

Adding an architecture is adding a record. This file imports nothing heavy, so that a plan can be
checked against the records before torch is loaded. :mod:`seaplib.models.layers` finds the record of a
decoder layer by the layer's class.
"""

from dataclasses import dataclass, field

ROLES = ("q", "k", "v", "o", "gate", "up", "down")
#: the two prunable modules of a layer → the roles they hold; the last one reads the units
MODULES = {"attention": ("q", "k", "v", "o"), "mlp": ("gate", "up", "down")}
#: the projections that write to the residual stream; their inputs are the units, their biases stay whole
OUTPUTS = ("o", "down")


@dataclass(frozen=True)
class Architecture:
    """How the models of a ``model_type`` are built. Paths are paths for ``get_submodule``.

    ``roles`` maps a role to its module inside a decoder layer. Roles that share a module are fused:
    their rows follow each other in the order of :data:`ROLES`, or, where ``interleaved``, head by
    head. An MLP without a gate has no role ``gate``.
    ``counts`` maps attributes of the attention module to what they hold and must be kept true after
    slicing: ``heads``, ``kv_heads``, ``groups`` (query heads per KV head) or ``width`` (of q).
    ``config.<name>`` is read from the model's configuration, of which layers of different width need
    a version of their own.
    ``sizes`` are the configuration's names of layers, heads, hidden size and MLP channels.
    """

    layer: str  # class of a decoder layer
    roles: dict[str, str]
    attention: str = "self_attn"
    mlp: str | None = "mlp"  # None: the MLP's projections belong to the layer itself
    layers: str = "layers"  # inside the decoder
    head_dim: str = "head_dim"  # attribute of the attention module
    counts: dict[str, str] = field(default_factory=dict)
    interleaved: bool = False
    gate_function: str = "act_fn"  # attribute of a gated MLP: the function between gate and the product with up
    activation: str = "hidden_act"  # the configuration's name of the MLP's activation function
    norm_first: str | None = None  # attribute of a layer: False where its norms stand on the residual stream itself
    sizes: tuple[str, str, str, str] = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size")

    @property
    def gated(self) -> bool:
        return "gate" in self.roles


_LLAMA = {role: f"self_attn.{role}_proj" for role in "qkvo"} | {
    role: f"mlp.{role}_proj" for role in ("gate", "up", "down")
}
_GROUPS = {"num_key_value_groups": "groups"}
#: ``model_type`` → its record.
ARCHITECTURES = {
    "llama": Architecture("LlamaDecoderLayer", _LLAMA, counts=_GROUPS),
    "mistral": Architecture("MistralDecoderLayer", _LLAMA, counts=_GROUPS),
    "qwen2": Architecture("Qwen2DecoderLayer", _LLAMA, counts=_GROUPS),
    "qwen3": Architecture("Qwen3DecoderLayer", _LLAMA, counts=_GROUPS),
    "gemma2": Architecture("Gemma2DecoderLayer", _LLAMA, counts=_GROUPS, activation="hidden_activation"),
    "gemma3_text": Architecture("Gemma3DecoderLayer", _LLAMA, counts=_GROUPS, activation="hidden_activation"),
    "phi3": Architecture(
        "Phi3DecoderLayer",
        dict.fromkeys("qkv", "self_attn.qkv_proj")
        | {"o": "self_attn.o_proj", "gate": "mlp.gate_up_proj", "up": "mlp.gate_up_proj", "down": "mlp.down_proj"},
        counts=_GROUPS | {"num_key_value_heads": "kv_heads", "config.num_attention_heads": "heads"},
        gate_function="activation_fn",
    ),
    "opt": Architecture(
        "OPTDecoderLayer",
        {role: f"self_attn.{role}_proj" for role in "qkv"} | {"o": "self_attn.out_proj", "up": "fc1", "down": "fc2"},
        mlp=None,
        counts={"num_heads": "heads"},
        activation="activation_function",
        norm_first="do_layer_norm_before",
        sizes=("num_hidden_layers", "num_attention_heads", "hidden_size", "ffn_dim"),
    ),
    "gpt_neox": Architecture(
        "GPTNeoXLayer",
        dict.fromkeys("qkv", "attention.query_key_value")
        | {"o": "attention.dense", "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"},
        attention="attention",
        head_dim="head_size",
        interleaved=True,
    ),
    "gpt2": Architecture(
        "GPT2Block",
        dict.fromkeys("qkv", "attn.c_attn") | {"o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"},
        attention="attn",
        layers="h",
        counts={"num_heads": "heads", "split_size": "width"},
        activation="activation_function",
        sizes=("n_layer", "n_head", "n_embd", "n_inner"),
    ),
}
_SUFFIX = "_pruned__import_seaplib_to_load"
#: ``model_type`` of checkpoints whose projections were sliced by this package → the original type.
PRUNED_TYPES = {kind + _SUFFIX: kind for kind in ARCHITECTURES}


class ModelError(ValueError):
    """A model that cannot be used; the message says why and what would work."""


def _model_type(config) -> str:
    kind = getattr(config, "model_type", None) if not isinstance(config, dict) else config.get("model_type")
    kind = kind if isinstance(kind, str) else None
    original = PRUNED_TYPES.get(kind, kind)
    if original not in ARCHITECTURES:
        raise ModelError(f"architecture {kind!r} is not supported; supported: {', '.join(sorted(ARCHITECTURES))}")
    return original
