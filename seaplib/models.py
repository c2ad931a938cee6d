"""Loading a model, and a decoder layer seen by role.

The only file that knows what an architecture calls its modules. Everything else asks for a
projection by its role (``q k v o gate up down``) and for a :class:`Geometry`, a plain object that
scores, allocations and masks use without a model.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from . import paths

ROLES = ("q", "k", "v", "o", "gate", "up", "down")

#: ``model_type`` → module path of every role inside a decoder layer.
ARCHITECTURES = {
    "llama": {
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.o_proj",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    },
}
#: ``model_type`` of checkpoints whose projections were sliced by this package → the original type.
PRUNED_TYPES = {"llama_pruned__import_seaplib_to_load": "llama"}

# Below this many bytes a model is identified by its content, above it by the files it came from.
CONTENT_HASH_LIMIT = 256 * 2**20
# What a configuration says about its file, not about what the model computes.
NOT_COMPUTING = {"_name_or_path", "architectures", "dtype", "transformers_version"}


class ModelError(ValueError):
    """A model that cannot be used; the message says why and what would work."""


@dataclass(frozen=True)
class Geometry:
    """Shape of a decoder: how many units there are, and what removing one saves.

    Counts cover the projections of the decoder layers (q, k, v, o, gate, up, down), weights and
    biases; ``model_parameters`` is the whole model with embeddings and norms.
    """

    layers: int
    hidden: int
    heads: int  # query heads per layer
    kv_heads: int
    head_dim: int
    channels: int  # MLP channels per layer
    model_parameters: int
    vocabulary: int = 0  # rows of the LM head
    attention_bias: bool = False  # on q, k, v (o's bias stays whole when heads go)
    mlp_bias: bool = False  # on gate, up

    @property
    def queries_per_group(self) -> int:
        return self.heads // self.kv_heads

    @property
    def query_parameters(self) -> int:
        """Parameters that go with one query head: its rows of q and its columns of o."""
        return self.head_dim * (2 * self.hidden + self.attention_bias)

    @property
    def kv_parameters(self) -> int:
        """Parameters that go with one KV head: its rows of k and v."""
        return 2 * self.head_dim * (self.hidden + self.attention_bias)

    @property
    def channel_parameters(self) -> int:
        return 3 * self.hidden + 2 * self.mlp_bias

    @property
    def attention_parameters(self) -> int:
        return self.heads * self.query_parameters + self.kv_heads * self.kv_parameters

    @property
    def mlp_parameters(self) -> int:
        return self.channels * self.channel_parameters

    @property
    def layer_parameters(self) -> int:
        """Prunable parameters of one layer; output biases never go, and are not counted."""
        return self.attention_parameters + self.mlp_parameters

    @property
    def projection_parameters(self) -> int:
        return self.layers * self.layer_parameters

    def as_dict(self) -> dict:
        return asdict(self)


def _model_type(config) -> str:
    kind = getattr(config, "model_type", None) if not isinstance(config, dict) else config.get("model_type")
    original = PRUNED_TYPES.get(kind, kind)
    if original not in ARCHITECTURES:
        raise ModelError(f"architecture {kind!r} is not supported; supported: {', '.join(sorted(ARCHITECTURES))}")
    return original


def resolve(name_or_path: str | Path) -> str:
    """'bundled' → the bundled model's folder; anything else unchanged."""
    return str(paths.bundled_dir() / "model") if str(name_or_path) == "bundled" else str(name_or_path)


def check(name_or_path: str | Path):
    """The model's configuration, without touching its weights.

    Raises :class:`ModelError` where the model is missing or its architecture is unsupported.
    """
    from transformers import AutoConfig

    source = resolve(name_or_path)
    local = Path(source)
    if local.exists() and not (local / "config.json").is_file():
        raise ModelError(f"{source} holds no config.json, so it is not a model directory")
    if local.is_dir():
        try:
            _model_type(json.loads((local / "config.json").read_text("utf-8")))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ModelError(f"{source}/config.json is not valid JSON ({error})") from error
    elif local.is_absolute() or source.startswith("."):
        raise ModelError(f"there is no model at {source}")
    try:
        config = AutoConfig.from_pretrained(source)
    except Exception as error:  # transformers' own checks of the values raise many kinds
        reason = " ".join(str(error).split())[:200]
        what = f"{local}/config.json is not valid" if local.is_dir() else "neither a directory nor reachable on the hub"
        raise ModelError(f"cannot load model {str(name_or_path)!r}: {what} ({reason})") from error
    _model_type(config)
    return config


def load(name_or_path: str | Path, dtype: torch.dtype | str = "auto", device: str | None = None):
    """Load a model and its tokenizer; returns ``(model, tokenizer)``, the model in eval mode.

    ``dtype="auto"`` keeps the checkpoint's. Raises :class:`ModelError` for a missing or
    unsupported model, and where the weights on disk do not match the architecture one to one:
    transformers would drop unknown tensors and initialise missing ones at random.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check(name_or_path)
    source = resolve(name_or_path)
    local, names = Path(source), ("tokenizer.json", "tokenizer.model")
    if local.is_dir() and not any((local / name).is_file() for name in names):
        raise ModelError(f"cannot load {source}: it has no tokenizer file ({' or '.join(names)})")
    try:
        model, report = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ModelError(f"cannot load {source}: {str(error).strip().splitlines()[0]}") from error
    wrong = {
        kind: sorted(map(str, report[kind]))
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if report.get(kind)
    }
    if wrong:
        found = "; ".join(f"{kind.replace('_', ' ')}: {', '.join(names[:3])}" for kind, names in wrong.items())
        raise ModelError(f"the weights in {source} do not fit the architecture ({found})")
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
    model.seap_source = _source(source, model)
    return model, tokenizer


def _source(source: str, model) -> dict:
    """What identifies the files a model came from: path, sizes and times, or the hub's revision."""
    local = Path(source)
    if local.is_dir():
        files = sorted(local.glob("*.safetensors")) + sorted(local.glob("*.bin"))
        return {
            "path": str(local.resolve()),
            "files": [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files],
        }
    return {"hub": source, "revision": getattr(model.config, "_commit_hash", None)}


def fingerprint(model) -> str:
    """Hash that identifies what a model computes: its configuration, and its weights by their content
    (large models: by the files they came from)."""
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    source = getattr(model, "seap_source", None)
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_COMPUTING}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    if size > CONTENT_HASH_LIMIT and source:
        digest.update(json.dumps([source, str(model.dtype)], sort_keys=True).encode())
    else:
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def tokenizer_fingerprint(tokenizer) -> str:
    """Hash that identifies how texts become token ids."""
    described = (
        tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else f"{tokenizer.name_or_path} {len(tokenizer)}"
    )
    return hashlib.sha256(described.encode()).hexdigest()[:32]


def decoder(model) -> nn.Module:
    """The stack of decoder layers without the LM head; maps token ids to hidden states."""
    return model.get_decoder()


def decoder_layers(model) -> nn.ModuleList:
    return decoder(model).layers


def attention(layer: nn.Module) -> nn.Module:
    return layer.self_attn


def linear(layer: nn.Module, role: str, model_type: str = "llama") -> nn.Linear:
    """The projection of ``layer`` that plays ``role``."""
    return layer.get_submodule(ARCHITECTURES[model_type][role])


def set_linear(layer: nn.Module, role: str, module: nn.Module, model_type: str = "llama") -> None:
    layer.set_submodule(ARCHITECTURES[model_type][role], module)


def geometry(model) -> Geometry:
    """Shape of an unpruned model. Raises :class:`ModelError` if its layers differ in width."""
    kind = _model_type(model.config)
    layers = decoder_layers(model)
    head_dim = attention(layers[0]).head_dim if hasattr(attention(layers[0]), "head_dim") else model.config.head_dim

    def shape(layer):
        try:
            q, k, gate = (linear(layer, role, kind) for role in ("q", "k", "gate"))
        except AttributeError:  # an emptied module has no projections
            return None
        return q.out_features, k.out_features, gate.out_features, q.bias is not None, gate.bias is not None

    shapes = {shape(layer) for layer in layers}
    if len(shapes) != 1 or None in shapes:
        raise ModelError("the model's layers differ in width, so it is already pruned; start from the dense model")
    queries, keys, channels, attention_bias, mlp_bias = shapes.pop()
    return Geometry(
        layers=len(layers),
        hidden=model.config.hidden_size,
        heads=queries // head_dim,
        kv_heads=keys // head_dim,
        head_dim=head_dim,
        channels=channels,
        model_parameters=sum(p.numel() for p in model.parameters()),
        vocabulary=model.config.vocab_size,
        attention_bias=attention_bias,
        mlp_bias=mlp_bias,
    )


def context_length(model) -> int:
    """Positions the model was built for, in tokens."""
    return model.config.max_position_embeddings


def projection_parameters(model) -> int:
    """Parameters of the decoder layers' projections as they are now, biases of o and down apart."""
    kind = _model_type(model.config)
    total = 0
    for layer in decoder_layers(model):
        for role in ROLES:
            try:
                module = linear(layer, role, kind)
            except AttributeError:
                continue
            total += module.weight.numel()
            if module.bias is not None and role not in ("o", "down"):
                total += module.bias.numel()
    return total
