"""What was done to a model beyond its weights and its configuration: :class:`ModelState`, kept on the model itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class ModelState:
    """What was done to a model; the default is a model that nothing was done to.

    ``mask`` and ``mode``: the :class:`~seaplib.pruning.masks.PruningMask` the model was pruned with, and how.
    ``applied``: hash of what acts on the fly while the weights stay the dense model's; None where nothing does.
    ``sparse``: the inputs that are sparse, place → fingerprint of the rule there.
    ``label``: the columns that name the model's result rows, where mask and inputs do not.
    """

    mask: object | None = None
    mode: str | None = None
    applied: str | None = None
    sparse: Mapping = field(default_factory=dict)
    label: Mapping | None = None


_UNTOUCHED = ModelState()


def state(model) -> ModelState:
    """What was done to ``model``. A deep copy of a model carries its state."""
    return getattr(model, "seaplib_state", _UNTOUCHED)


def note(model, **changes) -> None:
    """Write ``changes``, fields of :class:`ModelState`, into the model's state."""
    model.seaplib_state = replace(state(model), **changes)
