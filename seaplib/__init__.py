"""seaplib: task-adaptive, training-free pruning of language models.

texts → activation statistics → scores → sparsity per layer → mask → pruned model → results.
Each arrow is one call of this module; see the README for the ten lines that make a whole program.
"""

import importlib
import sys

import lazy_loader

from .settings import ALLOCATIONS

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "activations",
        "evaluation",
        "experts",
        "hub",
        "input_sparsity",
        "models",
        "paths",
        "pruning",
        "reports",
        "settings",
        "store",
        "studies",
        "texts",
    ],
    submod_attrs={
        "activations.capture": ["capture"],
        "activations.statistics": ["ActivationStats", "calibrate", "collect"],
        "evaluation.accuracy": ["evaluate", "evaluate_items"],
        "evaluation.perplexity": ["perplexity"],
        "experts.model": ["ExpertModel"],
        "experts.router": ["Router"],
        "input_sparsity.plan": ["SparsityPlan", "sparsified", "sparsity_plan"],
        "input_sparsity.rule": ["InputSparsity"],
        "models.layers": ["geometry"],
        "models.loading": ["load"],
        "pruning.allocation": ["Allocation", *ALLOCATIONS],
        "pruning.apply": ["Variant", "prune"],
        "pruning.checkpoints": ["save_pretrained"],
        "pruning.masks": ["PruningMask"],
        "pruning.methods": ["Method", "variants"],
        "pruning.scores": ["Scores", "aggregate", "score"],
        "pruning.selection": ["select"],
        "reports.tables": ["load_results"],
        "runner.manifest": ["provenance"],
        "settings": ["Calibration", "Evaluation", "Pruning", "Routing"],
        "texts.corpora": ["Corpus", "corpus", "questions"],
        "texts.own": ["own_task"],
    },
)

# Loading a pruned checkpoint needs its classes registered with transformers, so `import seaplib`
# does that; only the runner (python -m seaplib), which loads no model, starts without it. While a module is
# started by -m, argv[0] is "-m" in every package on the way to it; the module's name stands in orig_argv alone.
if sys.argv[:1] != ["-m"] or sys.orig_argv[-len(sys.argv)].partition(".")[0] != __name__:
    importlib.import_module(".pruning.checkpoints", __name__)
