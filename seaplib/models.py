"""Loading a model, its shape (:class:`Geometry`) and what identifies it.

What an architecture calls its modules stands in :mod:`seaplib.architectures`; :mod:`seaplib.layers`
reads it. Everything else asks this module for a projection by its role (``q k v o gate up down``)
and for a :class:`Geometry`, a plain object that scores, allocations and masks use without a model.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from . import hub, layers, paths
from .architectures import ARCHITECTURES, PRUNED_TYPES, ROLES  # noqa: F401
from .layers import (  # noqa: F401 (the rest of the package asks this module for them)
    attention,
    bias,
    gate_activation,
    head_dim,
    is_output,
    linear,
    matrix,
    projections,
    rows,
    set_linear,
    shape,
    tensor,
    weight,
)
from .shapes import Geometry

# Below this many bytes a model is identified by its content, above it by the files it came from.
CONTENT_HASH_LIMIT = 256 * 2**20
# What a configuration says about its file, not about what the model computes.
NOT_COMPUTING = {"_name_or_path", "architectures", "dtype", "transformers_version"}


class ModelError(ValueError):
    """A model that cannot be used; the message says why and what would work."""


def _model_type(config) -> str:
    kind = getattr(config, "model_type", None) if not isinstance(config, dict) else config.get("model_type")
    kind = kind if isinstance(kind, str) else None
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
        said = (not local.is_dir() and hub.problem(error)) or f"{what} ({reason})"
        raise ModelError(f"cannot load model {str(name_or_path)!r}: {said}") from error
    _model_type(config)
    return config


def load(
    name_or_path: str | Path,
    dtype: torch.dtype | str = "auto",
    device: str | None = None,
    device_map: str | dict | None = None,
    max_memory: dict | None = None,
    offload_folder: str | Path | None = None,
):
    """Load a model and its tokenizer; returns ``(model, tokenizer)``, the model in eval mode.

    ``dtype="auto"`` keeps the checkpoint's. ``device`` (default: the GPU if there is one) takes the
    whole model. ``device_map="auto"`` spreads it over the GPUs and, where they are too small, main
    memory and then ``offload_folder`` (a fast disk), as accelerate does; ``max_memory`` bounds each,
    ``{0: "38GiB", "cpu": "60GiB"}``. Weights are read once, straight to where they belong.
    Raises :class:`ModelError` for a missing or unsupported model, and where the weights on disk do
    not match the architecture one to one: transformers would drop unknown tensors and initialise
    missing ones at random.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check(name_or_path)
    source = resolve(name_or_path)
    local, names = Path(source), ("tokenizer.json", "tokenizer.model", "vocab.json")
    if local.is_dir() and not any((local / name).is_file() for name in names):
        raise ModelError(f"cannot load {source}: it has no tokenizer file ({' or '.join(names)})")
    if device is not None and device_map is not None:
        raise ModelError("device puts the whole model in one place, device_map spreads it: give one of them")
    whole = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        on_gpu = torch.device(whole).type == "cuda"
    except RuntimeError as error:
        raise ModelError(f"there is no device {whole!r}; name one as 'cpu' or 'cuda:0'") from error
    placed = {"device_map": device_map, "max_memory": max_memory, "offload_folder": offload_folder}
    if device_map is None:
        placed = {"device_map": {"": whole}} if on_gpu else {}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, output_loading_info=True, **placed)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (
        Exception
    ) as error:  # what transformers, tokenizers and safetensors raise about damaged files is not one class
        said = not local.is_dir() and hub.problem(error)
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "ignore_mismatched_sizes" in first:
            first = "the weights do not have the shapes that config.json says; fetch the model again"
        elif not isinstance(error, OSError | RuntimeError | ValueError):
            first = f"a file of it is damaged or says what is not known ({type(error).__name__}: {first})"
        raise ModelError(f"cannot load {source}: {said or first}") from error
    wrong = {
        kind: sorted(map(str, report[kind]))
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if report.get(kind)
    }
    if wrong:
        found = "; ".join(f"{kind.replace('_', ' ')}: {', '.join(names[:3])}" for kind, names in wrong.items())
        raise ModelError(f"the weights in {source} do not fit the architecture ({found})")
    if not placed:
        model.to(whole)
    model.eval()
    model.seap_source = _source(source)
    return model, tokenizer


def _source(source: str) -> dict:
    """What identifies the files a model came from: path, sizes and times, or the hub's revision."""
    local = Path(source)
    if local.is_dir():
        files = sorted(local.glob("*.safetensors")) + sorted(local.glob("*.bin"))
        return {
            "path": str(local.resolve()),
            "files": [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files],
        }
    revision = hub.snapshot(source)
    return {"hub": source, "revision": revision and revision.name}


def fingerprint(model) -> str:
    """Hash that identifies what a model computes: its configuration, and its weights by their content
    (large models: by the files they came from)."""
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    source = getattr(model, "seap_source", None)
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_COMPUTING}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    if sparse := getattr(model, "seap_sparsity", None):  # inputs are made sparse by hooks, which are no weights
        digest.update(json.dumps(sparse, sort_keys=True).encode())
    if size > CONTENT_HASH_LIMIT and source:
        digest.update(json.dumps([source, str(model.dtype)], sort_keys=True).encode())
    else:
        for name, value in tensors(model):
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    masked = getattr(model, "seap_masked", None)
    if masked is not None:  # its weights are still the dense ones
        digest.update(masked.encode())
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
    return getattr(decoder(model), ARCHITECTURES[_model_type(model.config)].layers)


def input_device(model) -> torch.device:
    """Where token ids belong: the embedding's device, or the one it is computed on when offloaded."""
    embedding = decoder(model).get_input_embeddings()
    hook = getattr(embedding, "_hf_hook", None)
    place = next((h.execution_device for h in getattr(hook, "hooks", [hook]) if h is not None), None)
    return embedding.weight.device if place is None else torch.device(place)


def linear_layers(model) -> dict[tuple[int, str], nn.Module]:
    """(layer, role) → the linear layer that plays it, for the roles that the model has.

    A fused projection appears under each of its roles, as one and the same module. Modules that
    pruning emptied do not appear.
    """
    found = {}
    for index, layer in enumerate(decoder_layers(model)):
        for roles in layers.projections(layer):
            found |= {(index, role): linear(layer, role) for role in roles}
    return found


def geometry(model) -> Geometry:
    """Shape of an unpruned model. Raises :class:`ModelError` if its layers differ in width."""
    record = ARCHITECTURES[_model_type(model.config)]
    layers = decoder_layers(model)
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
        model_parameters=_parameters(model),
        vocabulary=model.config.vocab_size,
        attention_bias=attention_bias,
        mlp_bias=mlp_bias,
        gated=record.gated,
    )


def _parameters(model) -> int:
    """How many parameters a model has, tied ones once (offloaded ones do not show that they are tied)."""
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
    """How many outputs a role has."""
    total = shape(linear(layer, role))[0]
    own = rows(layer, role)
    return len(range(total)[own]) if isinstance(own, slice) else len(own)


def check_ids(model, largest: int) -> None:
    """ValueError where the token id ``largest`` has no embedding: the tokenizer is another model's, or was extended."""
    known = decoder(model).get_input_embeddings().weight.shape[0]
    if largest >= known:
        raise ModelError(f"token id {largest} has no place among the model's {known} embeddings; use its own tokenizer")


def context_length(model) -> int:
    """Positions the model was built for, in tokens."""
    return model.config.max_position_embeddings


def projection_parameters(model) -> int:
    """Parameters of the decoder layers' projections as they are now, biases of o and down apart."""
    total = 0
    for layer in decoder_layers(model):
        for roles in projections(layer):
            module = linear(layer, roles[0])
            total += module.weight.numel()
            if module.bias is not None and not is_output(roles[0]):
                total += module.bias.numel()
    return total


def tensors(model) -> Iterator[tuple[str, torch.Tensor]]:
    """What ``model.state_dict()`` holds, in the order of names, offloaded tensors fetched one at a time."""
    for name in sorted(model.state_dict()):
        path, _, last = name.rpartition(".")
        yield name, tensor(model.get_submodule(path), last)
