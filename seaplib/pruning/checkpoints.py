"""Pruned models as ordinary Hugging Face directories.

A model whose projections changed shape, or gained a bias, has a class and a ``model_type`` of its own
(:func:`adopt`), so that whoever saves it, transformers' Trainer too, writes what can be loaded: the
configuration records every projection's shape. After ``import seaplib``,
``AutoModelForCausalLM.from_pretrained(path)`` loads the model bit for bit: the registered subclass gives the
projections their recorded shapes in ``__init__``, the stock loader does the rest. Without seaplib, loading
fails with an error that says what to import. So does loading by the architecture's own class, which would
fill missing projections at random: only :class:`PrunedConfig` resolves the stored activation function.
Wrong weights are never loaded.
"""

import json
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from ..models import layers
from ..models.architectures import ARCHITECTURES, MODULES, PRUNED_TYPES
from ..models.state import refuse, state

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

    def to_json_string(self, use_diff: bool = True) -> str:
        """The file's text, in which the activation function is behind the lock."""
        name = ARCHITECTURES[PRUNED_TYPES[self.model_type]].activation
        written = json.loads(super().to_json_string(use_diff)) | {"activation": getattr(self, name), name: LOCK}
        return json.dumps(written, indent=2, sort_keys=True) + "\n"


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

    def __call__(self, *args, **kwargs):
        """As the base class; a cache of another model's heads is refused, which peft's prefix tuning would bring."""
        if (cache := kwargs.get("past_key_values")) is not None and not torch.compiler.is_compiling():
            _check_cache(self, cache)
        return super().__call__(*args, **kwargs)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As transformers does; the configuration records the projections as they are now."""
        self.config.projections = projections(self)
        return super().save_pretrained(save_directory, *args, **kwargs)

    def _get_static_cache_init_shape(self) -> None:
        """Layers differ in their KV heads, which the configuration cannot say: a cache learns each when it writes."""
        return None

    def generate_batch(self, *args, **kwargs):
        """Refused: continuous batching gives every layer a cache of the configuration's heads."""
        raise ValueError("continuous batching takes all layers to be equally wide; use generate for a pruned model")


def _check_cache(model: PrunedModel, held) -> None:
    """ValueError where a KV cache holds other heads than a layer has."""
    for index, (layer, recorded) in enumerate(zip(getattr(held, "layers", ()), model.config.projections, strict=False)):
        keys = getattr(layer, "keys", None)
        if keys is None or not keys.numel() or "k" not in recorded:
            continue
        heads = recorded["k"][0] // keys.shape[-1]
        if keys.shape[1] != heads:
            found = f"{keys.shape[1]} KV heads for layer {index}, which has {heads}"
            raise ValueError(f"the cache holds {found}: it is another model's, or a prefix of equal layers (use LoRA)")


def _configuration(pruned_type: str, kind: str) -> type:
    """Configuration class of an architecture's pruned checkpoints, known to AutoConfig, and to pickle by its name."""
    base = CONFIG_MAPPING[kind]
    fields = {"projections": None, "activation": None, "__module__": __name__, "model_type": pruned_type}
    fields["__annotations__"] = {"projections": list | None, "activation": str | None}
    made = globals()[f"Pruned{base.__name__}"] = type(f"Pruned{base.__name__}", (PrunedConfig, base), fields)
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
    made = globals()[f"Pruned{base.__name__}"] = type(f"Pruned{base.__name__}", (PrunedModel, base), fields)
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


def adopt(model: nn.Module) -> None:
    """Make a model of other shapes than its configuration says an instance of its pruned class, in place.

    A class other than the architecture's own causal language model stays, and refuses to be saved.
    """
    kind = model.config.model_type
    if kind not in PRUNED_TYPES:
        pruned_type = next(new for new, old in PRUNED_TYPES.items() if old == kind)
        if type(model) is not MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[kind]]:
            why = f"a pruned {type(model).__name__} cannot be saved, only transformers' own causal language models can"
            model.save_pretrained = partial(refuse, why)
            return
        activation = getattr(model.config, ARCHITECTURES[kind].activation)
        model.__class__, model.config.__class__ = model_class(pruned_type), CONFIGURATIONS[pruned_type]
        model.config.activation, model.config.model_type = activation, pruned_type
    model.config.projections = projections(model)


def __getattr__(name: str) -> type:
    """The pruned model class ``name``: another process may unpickle a model before any configuration was made."""
    for pruned_type, kind in PRUNED_TYPES.items() if name.startswith("Pruned") else ():
        if name == f"Pruned{MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[kind]].__name__}":
            return model_class(pruned_type)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def save_pretrained(model: nn.Module, tokenizer, path: str | Path) -> Path:
    """Save a model (pruned or not) and its tokenizer; the mask and its provenance lie beside them.

    A model with the architecture's own shapes is saved as an ordinary checkpoint. ValueError where the model
    is masked on the fly or has sparse inputs: weights do not hold either, so a checkpoint would lose it.
    """
    path, done = Path(path).expanduser(), state(model)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; a checkpoint is saved in a folder")
    if not isinstance(model.config, PrunedConfig) and projections(model) != projections(_skeleton(model)):
        adopt(model)  # cut by other code than ours
    model.save_pretrained(path, state_dict=_untied(model))
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
