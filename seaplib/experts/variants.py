"""Experts of a model from task names, and rules for who answers when the experts are evaluated.

:func:`build` goes the whole way from task names to an :class:`~seaplib.experts.model.ExpertModel`;
:class:`Route` is a variant for :func:`seaplib.evaluate`: the same experts under the router, under the
true task, or under controls.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from .. import store
from ..activations.statistics import calibrate
from ..evaluation.lm_eval import Bench, Prepared
from ..pruning import methods
from ..pruning.methods import SEAP_F, Method
from ..settings import Calibration
from ..texts import tasks
from .cache import WHOLE
from .model import ExpertModel
from .router import GENERAL, train

#: way in which a :class:`Route` chooses → name of its rows
WAYS = {
    "router": "experts, routed",
    "forced": "experts, always routed",
    "task": "experts, true task",
    "random": "experts, another task's",
}


def build(
    model,
    tokenizer,
    names: Sequence[str],
    general: str,
    sparsity: float = 0.5,
    method: Method = SEAP_F,
    calibration: Calibration | None = None,
    per_task: int = 500,
    coverage: float = 0.95,
    wording: str = "request",
    budget_bytes: int | None = None,
) -> ExpertModel:
    """Experts of the tasks ``names``, a general mask, and a router between them, asking the store first.

    ``method`` makes the experts' masks; the general mask has the same score and allocation, from all corpora
    and the text ``general`` (Eq. 15). ``per_task``, ``wording`` and ``coverage`` go to
    :func:`seaplib.experts.router.train`; with a single expert there is no router. ValueError where ``method`` is
    calibrated on another text than the task's, or compensates.
    """
    if method.calibration != "task" or method.compensation != "none" or method.as_published:
        raise ValueError(f"{method.name}: experts are calibrated on their tasks and built without compensation")
    calibration = calibration or Calibration()
    corpora = list(dict.fromkeys(tasks.get(name).expert for name in names))
    if not corpora:
        raise ValueError("name at least one task to be an expert for")
    stats = calibrate(model, tokenizer, [*corpora, general], calibration)
    whole = replace(method, name="SEAP-gen", calibration="all")
    masks = {name: methods.mask(method, stats, sparsity, general, name, calibration.seed) for name in corpora}
    masks[GENERAL] = methods.mask(whole, stats, sparsity, general, seed=calibration.seed)
    router = None
    if len(corpora) > 1:
        router = train(model, tokenizer, names, per_task, calibration.seed, wording, coverage)
    about = {"tasks": list(names), "general": general, "sparsity": sparsity, "calibration": calibration.as_dict()}
    return ExpertModel(model, tokenizer, masks, router, budget_bytes, provenance=about | {"method": method.name})


@dataclass(frozen=True)
class Route:
    """An :class:`~seaplib.experts.model.ExpertModel` to evaluate, and the way to an item's expert.

    ``way`` is "router", "forced" (the router without its threshold), "task" (the expert of the item's task, or
    ``general`` where the task has no expert), "random" (any expert but that of the item's task, drawn by
    ``seed`` and prompt: the cost of a wrong choice), or the name of an expert for all items.
    """

    experts: ExpertModel
    way: str = "router"
    label: dict = field(default_factory=dict)
    tasks: tuple[str, ...] | None = None
    seed: int = 0

    def __post_init__(self):
        if self.way not in WAYS and self.way != WHOLE and self.way not in self.experts.masks:
            known = (*WAYS, WHOLE, *self.experts.masks)
            raise ValueError(f"a route goes by one of {', '.join(known)}, got {self.way!r}")
        if self.way in ("router", "forced") and self.experts.router is None:
            raise ValueError(f"the experts have no router, so there is no way {self.way!r}")
        if self.way == "random" and len(self._specialists) < 2:
            raise ValueError("with a single expert there is no other expert to choose by mistake")
        named = {"method": WAYS.get(self.way, self.way), "calibration": "all" if self.way == GENERAL else "task"}
        object.__setattr__(self, "label", self.experts.label | named | dict(self.label))

    @property
    def _specialists(self) -> list[str]:
        return [name for name in self.experts.masks if name != GENERAL]

    @property
    def fingerprint(self) -> str:
        """Hash of the experts and of the way to them."""
        return store.digest([self.experts.fingerprint, self.way, self.seed])

    def apply(self, model) -> "Route":
        """The route itself. ValueError for a model from which these experts were not cut."""
        if model is not self.experts.dense:
            raise ValueError("these experts were cut from another model; evaluate them on their own")
        return self

    def choose(self, task: str, texts: Sequence[str]) -> list[str]:
        """The expert of each prompt of a task."""
        own = tasks.get(task).expert
        own = own if own in self.experts.masks else GENERAL
        if self.way == "task":
            return [own] * len(texts)
        if self.way == "random":
            others = [name for name in self._specialists if name != own]
            seeds = (int(store.digest([self.seed, text])[:8], 16) for text in texts)
            return [others[np.random.default_rng(drawn).integers(len(others))] for drawn in seeds]
        if self.way in ("router", "forced"):
            return self.experts.choose(texts, always=self.way == "forced")
        return [self.way] * len(texts)

    def answer(self, bench: Bench, prepared: Prepared) -> pd.DataFrame:
        """Item results: every item is scored by the expert that the route chooses."""
        return self.experts.answer_by(self.choose(prepared.name, prepared.prompts), bench, prepared)
