"""Fingerprints of models and tokenizers: hashes that store entries name them by."""

import hashlib
import json
from pathlib import Path

import torch

from .. import hub
from .layers import tensors
from .state import state

# Below this many bytes a model is identified by its content, above it by the files it came from.
CONTENT_HASH_LIMIT = 256 * 2**20
# Values of a configuration that describe its file and not the computation.
NOT_COMPUTING = {"_name_or_path", "architectures", "dtype", "transformers_version"}


def _source(source: str) -> dict:
    """Identity of the files a model came from: path, sizes and times, or the hub's revision."""
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
    done = state(model)
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_COMPUTING}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    if done.sparse:  # inputs are made sparse by hooks, which are no weights
        digest.update(json.dumps(done.sparse, sort_keys=True).encode())
    if size > CONTENT_HASH_LIMIT and done.source:
        digest.update(json.dumps([done.source, str(model.dtype)], sort_keys=True).encode())
    else:
        for name, value in tensors(model):
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
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
