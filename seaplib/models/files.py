"""A model's files before anything is loaded: configuration, weights and tokenizer, there and whole.

Only configurations, headers of weight files and the hub's listing are read, without torch. Each
problem is a :class:`ModelError` of one line. A plan of runs and :func:`seaplib.load` share these checks.
"""

import json
from pathlib import Path

from .. import hub, paths, store
from .architectures import ARCHITECTURES, PRUNED_TYPES, ModelError, _model_type
from .shapes import PUBLISHED

#: weight files in the order in which transformers looks for them
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
#: a quantised checkpoint's ``quant_method`` → the package that reads it, where transformers alone does not
QUANTIZERS = {
    "aqlm": "aqlm",
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "eetq": "eetq",
    "gptq": "gptqmodel",
    "hqq": "hqq",
    "quanto": "optimum-quanto",
    "torchao": "torchao",
    "vptq": "vptq",
}
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def resolve(name_or_path: str | Path) -> str:
    """'bundled' → the bundled model's folder; a path below "~" → the whole path; anything else unchanged."""
    name = str(name_or_path)
    if name == "bundled":
        return str(paths.bundled_dir() / "model")
    return str(Path(name).expanduser()) if name.startswith("~") else name


def read_config(name_or_path: str | Path, offline: bool = False, published: bool = False) -> dict:
    """The ``config.json`` of a model whose sizes, weight files and tokenizer can be used.

    ``name_or_path`` is "bundled", a directory or a hub id. ``offline``: only the hub's cache is asked.
    ``published``: the configuration in the cache, or else the published sizes, will do for a hub
    model whose weights are not at hand. Raises :class:`ModelError` for a model that does not exist,
    is damaged or has an unsupported architecture.
    """
    name = str(name_or_path)
    nothing = f"there is no model {name!r}: neither 'bundled', nor a directory, nor a hub id"
    try:  # ValueError: no hub id, or a null character; RuntimeError: the home of nobody; OSError: too long a name
        directory = Path(resolve(name_or_path))
        there = name == "bundled" or bool(name) and directory.is_dir()
        local = directory.is_absolute() or name[:1] in ("", ".") or name.count("/") > 1
        cached = None if there or local else hub.snapshot(name)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(nothing) from error
    if there:
        return _checked(name, directory)
    if local:
        raise ModelError(nothing)
    offline = offline or hub.offline()
    if cached and (offline or not _lacks(cached)):
        return _checked(name, cached)
    if published and (cached or name in PUBLISHED):
        return _checked(name, cached, whole=False) if cached else dict(PUBLISHED[name])
    if offline:
        raise ModelError(f"cannot load model {name!r}: not in the local hub cache, and offline")
    return _checked(name, _from_hub(name), whole=False)


def sizes(config: dict) -> dict:
    """Layers, heads, hidden size and MLP channels of a configuration, under the configuration's names for them."""
    names = ARCHITECTURES[_model_type(config)].sizes
    found = {name: config.get(name) for name in names}
    if found.get("n_inner", 0) is None:  # GPT-2's default
        found["n_inner"] = 4 * (found["n_embd"] or 0)
    return found


def _checked(name: str, directory: Path, whole: bool = True) -> dict:
    """The configuration in a directory; ``whole``: weights and tokenizer must be there too."""
    file = directory / "config.json"
    try:
        config = json.loads(file.read_text("utf-8"))
        kind = _model_type(config)
    except FileNotFoundError as error:
        raise ModelError(f"there is no model in {directory} (no config.json)") from error
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise ModelError(f"{file} is not a model configuration ({error})") from error
    needed = sizes(config)
    for key, size in (needed | {key: config.get(key) for key in ("num_key_value_heads", "head_dim")}).items():
        missing = size is None and key not in needed  # the last two follow from the others
        if not missing and (type(size) is not int or size < 1):
            raise ModelError(f"{file}: {key} must be a whole number from 1, got {size!r}")
    _, heads, hidden, _ = needed.values()
    if heads % (config.get("num_key_value_heads") or 1):
        raise ModelError(f"{file}: num_attention_heads must be a multiple of num_key_value_heads")
    if not config.get("head_dim") and hidden % heads:
        raise ModelError(f"{file}: hidden_size must be a multiple of num_attention_heads")
    for key in ("attn_implementation", "_attn_implementation"):
        if "/" in str(config.get(key, "")):  # transformers would fetch it, and run it
            raise ModelError(
                f"{name} names code on the hub as its attention ({config[key]!r}); remove {key} from {file}"
            )
    _check_quantization(name, config)
    if whole and (lacking := _lacks(directory)):
        raise ModelError(f"the model in {directory} {lacking}")
    if whole:
        _check_weights(directory, config, kind)
    return config


def _weights(directory: Path) -> tuple[list[Path], str]:
    """The weight files that transformers would read, and what is wrong with them as a clause ("": nothing)."""
    for name in WEIGHTS:
        file = directory / name
        if not file.is_file():
            continue
        if file.suffix != ".json":
            return [file], ""
        try:
            shards = sorted(map(str, set(json.loads(file.read_text("utf-8"))["weight_map"].values())))
        except (ValueError, KeyError, TypeError, AttributeError):
            return [], f"has a damaged index of weight files, {name}; fetch the model again"
        absent = [shard for shard in shards if not (directory / shard).is_file()]
        return [directory / shard for shard in shards], f"lacks {absent[0]}; fetch the model again" if absent else ""
    return [], f"has no weights (none of {', '.join(WEIGHTS)})"


def _lacks(directory: Path) -> str:
    """Which weights or tokenizer a model's directory lacks, as a clause; "" where it lacks nothing."""
    if wrong := _weights(directory)[1]:
        return wrong
    if not any((directory / tokenizer).is_file() for tokenizer in TOKENIZERS):
        return f"has no tokenizer (no {' or '.join(TOKENIZERS)})"
    return ""


def _check_quantization(where: object, config: dict) -> None:
    """The package that reads quantised weights must be installed."""
    quantization = config.get("quantization_config")
    if not quantization:
        return
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    package = QUANTIZERS.get(str(method))
    if package and store.versions((package,))[package] is None:
        raise ModelError(f"{where} is quantised ({method}), which the package {package} reads: pip install {package}")


def _check_weights(directory: Path, config: dict, kind: str) -> None:
    """Every .safetensors file must be as long as its header says; a dense model's have every layer's projections."""
    names = set()
    for file in _weights(directory)[0]:
        if file.suffix != ".safetensors":
            continue
        size = file.stat().st_size
        try:
            with open(file, "rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(min(length, size)))
            header.pop("__metadata__", None)
            end = max(entry["data_offsets"][1] for entry in header.values())
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ModelError(f"{file} is not a safetensors file; fetch the model again") from error
        if size != 8 + length + end:
            raise ModelError(f"{file} has {size} bytes instead of {8 + length + end}; fetch the model again")
        names |= header.keys()
    # .bin files say nothing before they are read, and quantised projections have other names
    if not names or config["model_type"] in PRUNED_TYPES or config.get("quantization_config"):
        return
    record, depth = ARCHITECTURES[kind], next(iter(sizes(config).values()))
    found = {layers + rest for name in names for _, layers, rest in [f".{name}".rpartition(f".{record.layers}.")]}
    found = {name.removeprefix(".") for name in found}
    for layer in range(depth):
        for module in dict.fromkeys(record.roles.values()):
            if (wanted := f"{record.layers}.{layer}.{module}.weight") not in found:
                expected = f"those of a {kind} with {depth} layers: there is no {wanted}"
                raise ModelError(f"the weights in {directory} are not {expected}; fetch the model again")


def _from_hub(name: str) -> Path:
    """The folder with the configuration of a model on the hub, whose listing has weights and a tokenizer."""
    from huggingface_hub import hf_hub_download

    try:
        there = hub.files(name)
        if not any(file.endswith((".safetensors", ".bin")) for file in there):
            raise ModelError(f"the model {name} on the hub has no weights (no .safetensors file)")
        if not there & set(TOKENIZERS):
            raise ModelError(f"the model {name} on the hub has no tokenizer (no {' or '.join(TOKENIZERS)})")
        return Path(hf_hub_download(name, "config.json")).parent
    except ModelError:
        raise
    except Exception as error:  # the client's classes have no common base
        raise ModelError(f"cannot load model {name!r}: {hub.reason(error)}") from error
