"""A model's files, before it is loaded: its configuration, and whether weights and tokenizer are there and whole.

Only configurations, headers of weight files and the hub's listing are read, without torch. Each
problem is a :class:`~seaplib.runner.parameters.PlanError` of one line.
"""

import json
from pathlib import Path

import torch

from .. import hub, paths
from ..runner.parameters import PlanError
from .architectures import ARCHITECTURES, PRUNED_TYPES, ModelError, _model_type
from .identity import _source
from .shapes import PUBLISHED
from .state import note

#: ``model_type`` of the configurations that :mod:`seaplib.models` can prune.
MODEL_TYPES = tuple(ARCHITECTURES)
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def model_config(name: str, offline: bool, where: str = "model", dry: bool = False) -> dict:
    """A dense model's ``config.json``, its sizes, weight files and tokenizer looked at.

    ``name`` is "bundled", a directory or a hub id. ``dry``: for a plan that is only looked at, a model
    known by its published sizes will do. Raises :class:`PlanError` if there is no such model, its
    architecture is not supported, or it is damaged or already pruned.
    """
    directory = paths.bundled_dir() / "model" if name == "bundled" else Path(name).expanduser()
    if name == "bundled" or directory.is_dir():
        if not (directory / "config.json").is_file():
            raise PlanError(f"{where}: there is no model in {directory} (no config.json)")
        return _read_config(name, directory, where)
    if directory.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise PlanError(f"{where}: there is no model {name!r}: neither 'bundled', nor a directory, nor a hub id")
    cached = hub.snapshot(name)
    if cached and (offline or not _lacks(cached)):
        return _read_config(name, cached, where)
    if dry and (cached or name in PUBLISHED):
        return _read_config(name, cached, where, whole=False) if cached else dict(PUBLISHED[name])
    if offline:
        reason = "not in the local hub cache (this profile is offline)"
        raise PlanError(f"{where}: cannot load model {name!r}: {reason}")
    return _read_config(name, _from_hub(name, where), where, whole=False)


def _read_config(name: str, directory: Path, where: str, whole: bool = True) -> dict:
    """The configuration in a directory, if it can be used; ``whole``: its weights and tokenizer must be there too."""
    file = directory / "config.json"
    if whole and (lacking := _lacks(directory)):
        raise PlanError(f"{where}: the model in {directory} {lacking}")
    try:
        config = json.loads(file.read_text("utf-8"))
        kind = str(config.get("model_type"))
    except (ValueError, AttributeError) as error:
        raise PlanError(f"{where}: {file} is not a model configuration ({error})") from error
    if kind in PRUNED_TYPES:
        raise PlanError(f"{where}: the model {name} is already pruned; start from the dense model")
    if kind not in MODEL_TYPES:
        supported = ", ".join(sorted(MODEL_TYPES))
        raise PlanError(f"{where}: architecture {kind!r} of {name} is not supported; supported: {supported}")
    needed = sizes(config)
    for key, size in (needed | {key: config.get(key) for key in ("num_key_value_heads", "head_dim")}).items():
        missing = size is None and key not in needed  # the last two follow from the others
        if not missing and (type(size) is not int or size < 1):
            raise PlanError(f"{where}: {file}: {key} must be a whole number from 1, got {size!r}")
    _, heads, hidden, _ = needed.values()
    if heads % (config.get("num_key_value_heads") or 1):
        raise PlanError(f"{where}: {file}: num_attention_heads must be a multiple of num_key_value_heads")
    if not config.get("head_dim") and hidden % heads:
        raise PlanError(f"{where}: {file}: hidden_size must be a multiple of num_attention_heads")
    if whole:
        _check_weights(directory, config, where)
    return config


def _lacks(directory: Path) -> str:
    """What a model's directory lacks of weights and tokenizer, "" if nothing."""
    if not any(directory.glob("*.safetensors")) and not any(directory.glob("*.bin")):
        return "has no weights (no .safetensors file)"
    for index in directory.glob("*.safetensors.index.json"):
        try:
            shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"has an index of weight files that is none, {index.name}; fetch the model again"
        absent = sorted(str(shard) for shard in shards if not (directory / str(shard)).is_file())
        if absent:
            return f"lacks {absent[0]}; fetch the model again"
    if not any((directory / tokenizer).is_file() for tokenizer in TOKENIZERS):
        return f"has no tokenizer (no {' or '.join(TOKENIZERS)})"
    return ""


def sizes(config: dict) -> dict:
    """Layers, heads, hidden size and MLP channels of a configuration, under its own names for them."""
    names = ARCHITECTURES[config["model_type"]].sizes
    found = {name: config.get(name) for name in names}
    if found.get("n_inner", 0) is None:  # GPT-2's default
        found["n_inner"] = 4 * (found["n_embd"] or 0)
    return found


def _check_weights(directory: Path, config: dict, where: str) -> None:
    """Every .safetensors file must be as long as its header says; together they have every layer's projections."""
    names = set()
    for file in sorted(directory.glob("*.safetensors")):
        size = file.stat().st_size
        try:
            with open(file, "rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(min(length, size)))
            header.pop("__metadata__", None)
            end = max(entry["data_offsets"][1] for entry in header.values())
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise PlanError(f"{where}: {file} is not a safetensors file; fetch the model again") from error
        if size != 8 + length + end:
            expected = 8 + length + end
            raise PlanError(f"{where}: {file} has {size} bytes instead of {expected}; fetch the model again")
        names |= header.keys()
    if not names:  # an older format, which says nothing before it is read
        return
    kind, depth = config["model_type"], next(iter(sizes(config).values()))
    record = ARCHITECTURES[kind]
    found = {layers + rest for name in names for _, layers, rest in [f".{name}".rpartition(f".{record.layers}.")]}
    found = {name.removeprefix(".") for name in found}
    for layer in range(depth):
        for module in dict.fromkeys(record.roles.values()):
            if (wanted := f"{record.layers}.{layer}.{module}.weight") not in found:
                what = f"those of a {kind} with {depth} layers: there is no {wanted}"
                raise PlanError(f"{where}: the weights in {directory} are not {what}; fetch the model again")


def _from_hub(name: str, where: str) -> Path:
    """The folder of the configuration of a model on the hub, once all that it needs is found to be there."""
    from huggingface_hub import hf_hub_download

    try:
        there = hub.files(name)
        if not any(file.endswith((".safetensors", ".bin")) for file in there):
            raise PlanError(f"{where}: the model {name} on the hub has no weights (no .safetensors file)")
        if not there & set(TOKENIZERS):
            raise PlanError(f"{where}: the model {name} on the hub has no tokenizer (no {' or '.join(TOKENIZERS)})")
        return Path(hf_hub_download(name, "config.json")).parent
    except PlanError:
        raise
    except Exception as error:  # one line, whether it is missing, gated, or the network is away
        reason = hub.problem(error) or " ".join(str(error).split())[:200]
        raise PlanError(f"{where}: cannot load model {name!r}: {reason}") from error


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
    note(model, source=_source(source))
    return model, tokenizer
