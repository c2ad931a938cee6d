"""Tasks, their rows, and the calibration texts made of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "corpora": ["Corpus", "corpus", "questions"],
    },
)
