"""papermill_runs.yaml: planning, checking and executing the notebooks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "manifest": ["provenance"],
    },
)
