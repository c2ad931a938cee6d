"""Every figure of the notebooks: a tidy data frame (or a mask) in, a matplotlib ``Figure`` out.

Figures compute only what a picture needs (means over calibration seeds, the choice of dimensions that fit on paper),
so that a figure can be restyled without running a model. Intervals are drawn wherever the frame has them.
"""

import pkgutil

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[module.name for module in pkgutil.iter_modules(__path__)],
    submod_attrs={
        "calibration": [
            "MEASURES",
            "corpus_lengths",
            "hidden_states",
            "norm_heatmaps",
            "pipeline",
            "separability",
            "vocabulary_overlap",
        ],
        "evaluation": [
            "accuracy_by_sparsity",
            "confusion",
            "differences_by_task",
            "inference_speed",
            "perplexity",
            "sparsity_settings",
            "zero_shot",
        ],
        "input_sparsity": ["activations_against_weights", "layer_errors", "sparsity_rules"],
        "looks": ["method_sheet"],
        "pruning": ["allocation_curves", "mask_overlap", "masks", "remove_test"],
        "sliders": ["allocation_sliders"],
        "studies": [
            "abstention",
            "calibration_size",
            "effects",
            "leave_one_out",
            "logistic_grid",
            "routing_worth",
            "sensitivity",
            "shares",
        ],
        "style": ["save"],
        "verdicts": ["scorecard"],
    },
)
