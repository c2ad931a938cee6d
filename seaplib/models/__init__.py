"""Language models: loading, identity, layers by role, passes through the decoder."""

import pkgutil

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[module.name for module in pkgutil.iter_modules(__path__)],
    submod_attrs={
        "architectures": ["ARCHITECTURES", "ModelError", "PRUNED_TYPES", "ROLES"],
        "identity": ["fingerprint", "tokenizer_fingerprint"],
        "layers": [
            "attention",
            "context_length",
            "decoder",
            "decoder_layers",
            "geometry",
            "input_device",
            "linear",
            "linear_layers",
            "matrix",
            "projection_parameters",
            "set_linear",
        ],
        "files": ["resolve"],
        "loading": ["check", "load", "random_llama"],
        "shapes": ["Geometry"],
    },
)
