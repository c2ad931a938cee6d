"""Scores, sparsity per layer, masks, and pruned models (Eqs. 7-17)."""

import pkgutil

import lazy_loader

from ..settings import ALLOCATIONS

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[module.name for module in pkgutil.iter_modules(__path__)],
    submod_attrs={
        "allocation": ["Allocation", *ALLOCATIONS],
        "apply": ["Variant", "prune"],
        "checkpoints": ["save_pretrained"],
        "masks": ["PruningMask"],
        "methods": ["Method", "variants"],
        "scores": ["Scores", "aggregate", "score"],
        "selection": ["select"],
    },
)
