"""Sparse inputs of linear layers: LLM_activation_pruning's N:M and unstructured patterns."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "plan": ["SparsityPlan", "sparsified", "sparsity_plan"],
        "rule": ["InputSparsity"],
    },
)
