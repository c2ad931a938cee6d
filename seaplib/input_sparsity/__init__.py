"""Sparse inputs of linear layers: LLM_activation_pruning's N:M and unstructured patterns."""

import pkgutil

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[module.name for module in pkgutil.iter_modules(__path__)],
    submod_attrs={
        "plan": ["SparsityPlan", "sparsified", "sparsity_plan"],
        "rule": ["InputSparsity"],
    },
)
