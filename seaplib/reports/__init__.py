"""Tables, claims and figures: everything that is read, nothing that is computed."""

import pkgutil

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[module.name for module in pkgutil.iter_modules(__path__)],
    submod_attrs={
        "tables": ["load_results"],
    },
)
