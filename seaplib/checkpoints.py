"""Pruned models as ordinary Hugging Face directories.

A model whose projections changed shape, or gained a bias, is saved with its own ``model_type``; the
config records every projection's shape. After ``import seaplib``,
``AutoModelForCausalLM.from_pretrained(path)`` loads it bit for bit: the registered subclass gives
the projections their recorded shapes in ``__init__``, the stock loader does the rest. Without
seaplib, loading fails with an error that says what to import, also where the architecture's own
class is named (it would fill missing projections at random): the stored activation function is one
that only :class:`PrunedLlamaConfig` resolves. Wrong weights are never loaded.
"""

import json
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from . import models
from .pruning import EmptyAttention, EmptyMLP

#: stands for the activation function in a pruned checkpoint's config
LOCK = "a pruned checkpoint: import seaplib, then use AutoModelForCausalLM"

(PRUNED_LLAMA,) = (kind for kind, original in models.PRUNED_TYPES.items() if original == "llama")


class PrunedLlamaConfig(LlamaConfig):
    """A Llama configuration with ``projections``: one entry a layer, role → [out, in, has bias].

    A layer without attention or MLP has ``{"bias": bool}`` under ``empty_attention``/``empty_mlp``.
    ``activation`` is the MLP's activation function; on disk ``hidden_act`` holds :data:`LOCK`.
    """

    model_type = PRUNED_LLAMA
    projections: list | None = None
    activation: str | None = None

    def __post_init__(self, **kwargs):
        if self.hidden_act == LOCK:
            self.hidden_act = self.activation
        super().__post_init__(**kwargs)


class PrunedLlamaForCausalLM(LlamaForCausalLM):
    """A Llama whose projections have the shapes its config records."""

    config_class = PrunedLlamaConfig

    def __init__(self, config):
        super().__init__(config)
        for index, (layer, recorded) in enumerate(zip(self.model.layers, config.projections or [], strict=False)):
            _reshape(layer, index, recorded, config)
        self.post_init()


def _reshape(layer: nn.Module, index: int, recorded: dict, config) -> None:
    for role in models.ROLES:
        if role in recorded:
            out, into, bias = recorded[role]
            models.set_linear(layer, role, nn.Linear(into, out, bias=bias))
    if "q" in recorded:
        layer.self_attn.num_key_value_groups = recorded["q"][0] // recorded["k"][0]
    for name, key, make in (
        ("self_attn", "empty_attention", lambda bias: EmptyAttention(config.hidden_size, index, bias)),
        ("mlp", "empty_mlp", lambda bias: EmptyMLP(config.hidden_size, bias)),
    ):
        if key in recorded:
            setattr(layer, name, make(torch.zeros(config.hidden_size) if recorded[key]["bias"] else None))


AutoConfig.register(PRUNED_LLAMA, PrunedLlamaConfig)
AutoModelForCausalLM.register(PrunedLlamaConfig, PrunedLlamaForCausalLM)


def projections(model) -> list[dict]:
    """What :class:`PrunedLlamaConfig` records, read off a model's layers."""
    recorded = []
    for layer in models.decoder_layers(model):
        entry = {}
        for name, key, kind in (("self_attn", "empty_attention", EmptyAttention), ("mlp", "empty_mlp", EmptyMLP)):
            module = getattr(layer, name)
            if isinstance(module, kind):
                entry[key] = {"bias": module.bias is not None}
        for role in models.ROLES:
            if "empty_attention" in entry and role in "qkvo" or "empty_mlp" in entry and role in ("gate", "up", "down"):
                continue
            module = models.linear(layer, role)
            entry[role] = [module.out_features, module.in_features, module.bias is not None]
        recorded.append(entry)
    return recorded


def save_pretrained(model, tokenizer, path: str | Path) -> Path:
    """Save a model (pruned or not) and its tokenizer; the mask and its provenance lie beside them.

    A model whose shapes are the architecture's own is saved as an ordinary checkpoint.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    pruned = isinstance(model.config, PrunedLlamaConfig) or projections(model) != projections(_skeleton(model))
    model.save_pretrained(path)
    if pruned:
        _stamp(path, model)
    tokenizer.save_pretrained(path)
    mask = getattr(model, "seap_mask", None)
    if mask is not None:
        mask.save(path / "mask")
    return path


def _skeleton(model):
    """The architecture as its config alone describes it, without weights."""
    with torch.device("meta"):
        return type(model)(model.config)


def _stamp(path: Path, model) -> None:
    """Give the written config our type and class, the projections' shapes, and the lock."""
    written = json.loads((path / "config.json").read_text())
    written |= {
        "model_type": PRUNED_LLAMA,
        "architectures": [PrunedLlamaForCausalLM.__name__],
        "projections": projections(model),
        "activation": model.config.hidden_act,
        "hidden_act": LOCK,
    }
    (path / "config.json").write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
