"""Accuracy, perplexity, generations and speed of a model, and paired comparisons of two."""

import pkgutil

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[module.name for module in pkgutil.iter_modules(__path__)],
    submod_attrs={
        "accuracy": ["DENSE", "aggregate", "evaluate", "evaluate_items", "label_of", "name_of"],
        "bootstrap": ["REPORTED", "measured", "of_metric", "offered", "reported"],
    },
)
