"""Tables, claims and figures: everything that is read, nothing that is computed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "tables": ["load_results"],
    },
)
