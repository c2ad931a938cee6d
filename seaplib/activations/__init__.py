"""Activation statistics: what each head and channel does on a task's texts (Eqs. 3-5)."""

import pkgutil

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[module.name for module in pkgutil.iter_modules(__path__)],
    submod_attrs={
        "capture": ["UNITS"],
        "statistics": ["ActivationStats", "Weights", "calibrate", "calibrate_texts", "collect", "weighted_mean"],
    },
)
