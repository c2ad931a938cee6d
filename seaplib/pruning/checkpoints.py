"""Pruned models as ordinary Hugging Face directories.

A model whose projections changed shape, or gained a bias, is saved with a ``model_type`` of its own; the
configuration records every projection's shape. After ``import seaplib``,
``AutoModelForCausalLM.from_pretrained(path)`` loads the model bit for bit: the registered subclass gives the
projections their recorded shapes in ``__init__``, the stock loader does the rest. Without seaplib, loading
fails with an error that says what to import. So does loading by the architecture's own class, which would
fill missing projections at random: only :class:`PrunedConfig` resolves the stored activation function.
Wrong weights are never loaded.
"""

import json
from functools import cache
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from ..models import layers
from ..models.architectures import ARCHITECTURES, MODULES, PRUNED_TYPES
from ..models.state import state

#: stands for the activation function in a pruned checkpoint's config
LOCK = "a pruned checkpoint: import seaplib, then use AutoModelForCausalLM"


class PrunedConfig:
    """Mixed into a configuration: ``projections`` has an entry per layer, role → [out, in, has bias].

    A layer without attention or MLP has ``{"bias": bool}`` under ``empty_attention``/``empty_mlp``.
    ``activation`` is the MLP's activation function; on disk the usual key of that function holds :data:`LOCK`.
    """

    def __post_init__(self, **kwargs):
        name = ARCHITECTURES[PRUNED_TYPES[self.model_type]].activation
        if getattr(self, name) == LOCK:
            setattr(self, name, self.activation)
        super().__post_init__(**kwargs)
        model_class(self.model_type)


class PrunedModel:
    """Mixed into a causal language model: the projections get the shapes that the configuration records."""

    def __init__(self, config):
        super().__init__(config)
        # layers beyond the recorded ones keep their stock shapes, which no weights on disk will fit
        for index, (layer, recorded) in enumerate(
            zip(layers.decoder_layers(self), config.projections or [], strict=False)
        ):
            _reshape(layer, index, recorded, config.hidden_size)
        self.post_init()


def _configuration(pruned_type: str, kind: str) -> type:
    """Configuration class of an architecture's pruned checkpoints, known to AutoConfig."""
    base = CONFIG_MAPPING[kind]
    fields = {"projections": None, "activation": None, "__module__": __name__, "model_type": pruned_type}
    fields["__annotations__"] = {"projections": list | None, "activation": str | None}
    made = type(f"Pruned{base.__name__}", (PrunedConfig, base), fields)
    AutoConfig.register(pruned_type, made)
    return made


@cache
def model_class(pruned_type: str) -> type:
    """Model class of an architecture's pruned checkpoints, known to AutoModelForCausalLM.

    Made with the first configuration of its kind: importing the modelling code of ten architectures takes seconds.
    """
    from transformers.conversion_mapping import (
        get_checkpoint_conversion_mapping,
        register_checkpoint_conversion_mapping,
    )

    kind, config = PRUNED_TYPES[pruned_type], CONFIGURATIONS[pruned_type]
    base = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[kind]]
    fields = {"config_class": config, "__module__": __name__}
    made = type(f"Pruned{base.__name__}", (PrunedModel, base), fields)
    AutoModelForCausalLM.register(config, made)
    # Where tensors have other names on disk (GPT-NeoX's LM head), transformers finds them by type or class.
    for original, own in ((kind, pruned_type), (base.__name__, made.__name__)):
        if (renamed := get_checkpoint_conversion_mapping(original)) is not None:
            register_checkpoint_conversion_mapping(own, renamed)
    return made


def _reshape(layer: nn.Module, index: int, recorded: dict, hidden: int) -> None:
    """Give a layer's projections their recorded shapes, uninitialised."""
    for module in MODULES:
        if f"empty_{module}" in recorded:
            bias = torch.zeros(hidden) if recorded[f"empty_{module}"]["bias"] else None
            layers.empty(layer, module, index, hidden, bias)
    if "q" in recorded:
        size = layers.head_dim(layer)
        layers.set_heads(layer, recorded["q"][0] // size, recorded["k"][0] // size)
    for roles in layers.projections(layer):
        (_, into, bias), out = recorded[roles[0]], sum(recorded[role][0] for role in roles)
        old = layers.linear(layer, roles[0])
        layers.set_linear(layer, roles[0], layers.blank(old, out, into, bias))


#: pruned ``model_type`` → its configuration class
CONFIGURATIONS = {pruned: _configuration(pruned, kind) for pruned, kind in PRUNED_TYPES.items()}


def projections(model: nn.Module) -> list[dict]:
    """The record of a :class:`PrunedConfig`, read off the layers of a model."""
    recorded = []
    for layer in layers.decoder_layers(model):
        entry = {f"empty_{name}": {"bias": bypass.bias is not None} for name, bypass in layers.emptied(layer).items()}
        for roles in layers.projections(layer):
            module = layers.linear(layer, roles[0])
            for role in roles:
                entry[role] = [layers.width(layer, role), layers.shape(module)[1], module.bias is not None]
        recorded.append(entry)
    return recorded


def save_pretrained(model: nn.Module, tokenizer, path: str | Path) -> Path:
    """Save a model (pruned or not) and its tokenizer; the mask and its provenance lie beside them.

    A model with the architecture's own shapes is saved as an ordinary checkpoint. ValueError where the model
    is masked on the fly or has sparse inputs: weights do not hold either, so a checkpoint would lose it.
    """
    done = state(model)
    if done.applied is not None:
        raise ValueError("a model masked on the fly has all its dense weights; prune it with mode='remove' to save it")
    if done.sparse:
        raise ValueError(
            "sparse inputs cannot be saved with the weights; save the model as it was, and its plan beside it"
        )
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    pruned = isinstance(model.config, PrunedConfig) or projections(model) != projections(_skeleton(model))
    model.save_pretrained(path, state_dict=_untied(model))
    if pruned:
        _stamp(path, model)
    tokenizer.save_pretrained(path)
    if done.mask is not None:
        done.mask.save(path / "mask")
    return path


def _untied(model) -> dict | None:
    """State to save where parameters are offloaded: offloading hides tied parameters from transformers."""
    if all(parameter.device.type != "meta" for parameter in model.parameters()):
        return None
    tied = model.all_tied_weights_keys or {}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in tied}


def _skeleton(model):
    """The architecture as its config alone describes it, without weights."""
    with torch.device("meta"):
        return type(model)(model.config)


def _stamp(path: Path, model) -> None:
    """Give the written config our type and class, the projections' shapes, and the lock."""
    written = json.loads((path / "config.json").read_text())
    kind = model.config.model_type
    pruned_type = kind if kind in PRUNED_TYPES else next(new for new, old in PRUNED_TYPES.items() if old == kind)
    activation = ARCHITECTURES[PRUNED_TYPES[pruned_type]].activation
    written |= {
        "model_type": pruned_type,
        "architectures": [model_class(pruned_type).__name__],
        "projections": projections(model),
        "activation": getattr(model.config, activation),
        activation: LOCK,
    }
    (path / "config.json").write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
