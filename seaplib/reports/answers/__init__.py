"""The sentences in which a notebook answers its question, computed from its numbers: a function per notebook."""

import pkgutil

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[module.name for module in pkgutil.iter_modules(__path__)],
    submod_attrs={
        "accuracy": ["beyond", "other_methods", "percent", "scorecard", "sparsity_settings", "tally", "zero_shot"],
        "activations": ["hidden_states", "norms", "remove_tests", "task_classifier"],
        "costs": ["inference_speed", "perplexity", "routing", "sparse_inputs"],
        "masks": ["corpora", "generation", "pruning"],
    },
)
