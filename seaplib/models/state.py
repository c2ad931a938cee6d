"""What was done to a model beyond its weights and its configuration: :class:`ModelState`, kept on the model itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from .architectures import PRUNED_TYPES


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
MASKED = "a model masked on the fly has all its dense weights; prune it with mode='remove' to save it"
SPARSE = "sparse inputs cannot be saved with the weights; save the model as it was, and its plan beside it"


def state(model) -> ModelState:
    """What was done to ``model``. A deep copy of a model carries its state."""
    return getattr(model, "seaplib_state", _UNTOUCHED)


def pruned(model) -> str | None:
    """How ``model`` was pruned, now or before it was saved: "remove", "zero" or "mask"; None for a dense model."""
    written = getattr(model.config, "pruning", None) or {}
    cut = "remove" if model.config.model_type in PRUNED_TYPES else None
    return state(model).mode or written.get("mode") or cut


def note(model, **changes) -> None:
    """Write ``changes``, fields of :class:`ModelState`, into the model's state.

    While something acts on the fly, the model refuses to be saved, by whoever's call: a file of its weights would
    hold the model without it.
    """
    done = model.seaplib_state = replace(state(model), **changes)
    if done.applied is not None:
        model.save_pretrained = partial(refuse, MASKED)
    elif done.sparse:
        model.save_pretrained = partial(refuse, SPARSE)
    else:
        vars(model).pop("save_pretrained", None)


def refuse(why: str, *args, **kwargs) -> None:
    """In the place of a method that would do harm: ValueError that says ``why``."""
    raise ValueError(why)
