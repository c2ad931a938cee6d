"""Fingerprints of models and tokenizers: hashes that store entries name them by."""

import hashlib
import json
from collections.abc import Iterator

import torch
import xxhash
from torch import Tensor

from .layers import check_tokenizer, is_wrapped
from .offloading import tensor
from .state import state

# Up to this many bytes of weights SHA-256 is quick enough; seven billion parameters would take it ten seconds a call.
SHA_BYTES = 256 * 2**20
# Values of a configuration that describe its file and not the computation.
NOT_COMPUTING = {"_name_or_path", "architectures", "dtype", "transformers_version", "pruning"}


def fingerprint(model) -> str:
    """Hash that identifies what a model computes: its configuration, and its weights by their content in memory.

    The weights are those of ``state_dict()``, adapters among them, and are read anew at every call: no counter of
    changes sees an assignment through ``.data``. Buffers that are not saved follow from the configuration.
    """
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    done = state(model)
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_COMPUTING}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    if done.sparse:  # inputs are made sparse by hooks, which are no weights
        digest.update(json.dumps(done.sparse, sort_keys=True).encode())
    content = digest if size <= SHA_BYTES else xxhash.xxh3_128()
    if adapters := _adapters(model):
        content.update(json.dumps(adapters).encode())
    for name, value in _tensors(model):
        content.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        content.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    if content is not digest:
        digest.update(content.digest())
    if done.applied is not None:  # the weights are still the dense model's
        digest.update(done.applied.encode())
    return digest.hexdigest()[:32]


def _tensors(model) -> Iterator[tuple[str, Tensor]]:
    """Entries of ``model.state_dict()`` in the order of names; offloaded tensors are fetched singly.

    A tensor that stands for others (quantised numbers and their scales) is given as these.
    """
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor) and value.device.type == "meta":
            path, _, last = name.rpartition(".")
            value = tensor(model.get_submodule(path), last)
        yield from _parts(name, value)


def _parts(name: str, value) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, tuple | list):  # packed weights and biases of torch's own quantisation
        for place, part in enumerate(value):
            yield from _parts(f"{name}.{place}", part)
    elif isinstance(value, Tensor) and is_wrapped(value):
        names, about = value.detach().__tensor_flatten__()
        yield f"{name} {about}", torch.empty(0)
        for part in names:
            yield from _parts(f"{name}.{part}", getattr(value, part))
    elif isinstance(value, Tensor) and value.is_quantized:
        yield name, value.detach().dequantize()
    elif isinstance(value, Tensor):
        yield name, value
    else:
        yield f"{name} {value}", torch.empty(0)


def _adapters(model) -> list:
    """What adapters do beyond their weights: which are active, switched off or merged, and their scaling."""
    found = []
    for name, module in model.named_modules():
        if hasattr(module, "base_layer") and hasattr(module, "active_adapters"):
            scaling = dict(getattr(module, "scaling", {}))
            found.append([name, module.active_adapters, module.disable_adapters, module.merged_adapters, scaling])
    return found


def tokenizer_fingerprint(tokenizer) -> str:
    """Hash that identifies how texts become token ids. TypeError for what is no tokenizer of transformers."""
    check_tokenizer(tokenizer)
    described = (
        tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else f"{tokenizer.name_or_path} {len(tokenizer)}"
    )
    return hashlib.sha256(described.encode()).hexdigest()[:32]


def specification(model, tokenizer) -> dict[str, str]:
    """Fingerprints of a model (or the model's fingerprint itself) and a tokenizer, as store entries name them."""
    known = model if isinstance(model, str) else fingerprint(model)
    return {"model": known, "tokenizer": tokenizer_fingerprint(tokenizer)}
