"""seaplib: task-adaptive, training-free pruning of language models.

texts → activation statistics → scores → sparsity per layer → mask → pruned model → results.
Each arrow is one call of this module; see the README for the ten lines that make a whole program.
"""

import importlib
import sys

__version__ = "0.1.0"

_PUBLIC = {
    "settings": ("Calibration", "Pruning", "Evaluation"),
    "models": ("load", "geometry"),
    "corpora": ("corpus", "Corpus", "questions"),
    "activations": ("collect", "calibrate", "ActivationStats"),
    "recording": ("capture",),
    "scores": ("score", "aggregate", "Scores"),
    "sparsity": ("logistic", "uniform", "adaptive", "energy", "Allocation"),
    "masks": ("select", "PruningMask"),
    "pruning": ("prune", "Variant"),
    "checkpoints": ("save_pretrained",),
    "input_sparsity": ("InputSparsity",),
    "sparse_inputs": ("sparsity_plan", "sparsified", "SparsityPlan"),
    "methods": ("Method", "variants"),
    "routing": ("Router",),
    "experts": ("ExpertModel",),
    "evaluation": ("evaluate", "evaluate_items"),
    "perplexity": ("perplexity",),
    "manifest": ("provenance",),
    "runs": ("load_results",),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'seaplib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


# Loading a pruned checkpoint needs its classes registered with transformers, so `import seaplib`
# does that; only the runner (python -m seaplib), which loads no model, starts without it.
if sys.argv[:1] != ["-m"]:
    importlib.import_module(".checkpoints", __name__)
