"""Fingerprints of models and tokenizers: hashes that store entries name them by."""

import hashlib
import json

import torch
import xxhash

from .layers import tensors
from .state import state

# Up to this many bytes of weights SHA-256 is quick enough; seven billion parameters would take it ten seconds a call.
SHA_BYTES = 256 * 2**20
# Values of a configuration that describe its file and not the computation.
NOT_COMPUTING = {"_name_or_path", "architectures", "dtype", "transformers_version"}


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
    for name, value in tensors(model):
        content.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        content.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    if content is not digest:
        digest.update(content.digest())
    if done.applied is not None:  # the weights are still the dense model's
        digest.update(done.applied.encode())
    return digest.hexdigest()[:32]


def tokenizer_fingerprint(tokenizer) -> str:
    """Hash that identifies how texts become token ids."""
    described = (
        tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else f"{tokenizer.name_or_path} {len(tokenizer)}"
    )
    return hashlib.sha256(described.encode()).hexdigest()[:32]


def specification(model, tokenizer) -> dict[str, str]:
    """Fingerprints of a model (or the model's fingerprint itself) and a tokenizer, as store entries name them."""
    known = model if isinstance(model, str) else fingerprint(model)
    return {"model": known, "tokenizer": tokenizer_fingerprint(tokenizer)}
