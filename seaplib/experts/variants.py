"""How the experts of one model are put together, and who answers when they are scored.

:func:`build` goes the whole way from task names to an :class:`~seaplib.experts.ExpertModel`;
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

#: how a :class:`Route` chooses → what its rows are called
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
    """Experts of the tasks ``names``, one general mask, and a router between them; what is known comes from the store.

    ``method`` makes the experts' masks, and the general one under the same score and allocation from all
    their corpora and the text ``general`` (Eq. 15). ``per_task``, ``wording`` and ``coverage`` are
    :func:`seaplib.routing.train`'s; with a single expert there is nothing to route, and no router.
    ValueError where ``method`` is calibrated on another text than the task's, or compensates.
    """
    if method.calibration != "task" or method.compensation != "none" or method.as_published:
        raise ValueError(f"{method.name}: experts are calibrated on their tasks and built without compensation")
    calibration = calibration or Calibration()
    corpora = list(dict.fromkeys(tasks.get(name).expert for name in names))
    if not corpora:
        raise ValueError("name at least one task to be an expert for")
    stats = calibrate(model, tokenizer, [*corpora, general], calibration)
    whole = replace(method, name="SEAP-gen", calibration="all")
    masks = {one: methods.mask(method, stats, sparsity, general, one, calibration.seed) for one in corpora}
    masks[GENERAL] = methods.mask(whole, stats, sparsity, general, seed=calibration.seed)
    router = None
    if len(corpora) > 1:
        router = train(model, tokenizer, names, per_task, calibration.seed, wording, coverage)
    about = {"tasks": list(names), "general": general, "sparsity": sparsity, "calibration": calibration.as_dict()}
    return ExpertModel(model, tokenizer, masks, router, budget_bytes, provenance=about | {"method": method.name})


@dataclass(frozen=True)
class Route:
    """An :class:`~seaplib.experts.ExpertModel` to evaluate, and how it finds an item's expert.

    ``way`` is "router", "forced" (the router without its threshold), "task" (the item's own; ``general``
    where that has no expert), "random" (any expert but the item's own, drawn by ``seed`` and prompt: what
    a wrong choice costs), or the name of one expert for all.
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
            raise ValueError("with one expert there is no other to choose by mistake")
        named = {"method": WAYS.get(self.way, self.way), "calibration": "all" if self.way == GENERAL else "task"}
        object.__setattr__(self, "label", self.experts.label | named | dict(self.label))

    @property
    def _specialists(self) -> list[str]:
        return [name for name in self.experts.masks if name != GENERAL]

    @property
    def fingerprint(self) -> str:
        return store.digest([self.experts.fingerprint, self.way, self.seed])

    def apply(self, model) -> "Route":
        if model is not self.experts.dense:
            raise ValueError("these experts were cut from another model; evaluate them on their own")
        return self

    def choose(self, task: str, texts: Sequence[str]) -> list[str]:
        """The expert of each of one task's prompts."""
        own = tasks.get(task).expert
        own = own if own in self.experts.masks else GENERAL
        if self.way == "task":
            return [own] * len(texts)
        if self.way == "random":
            others = [name for name in self._specialists if name != own]
            seeds = (int(store.digest([self.seed, text])[:8], 16) for text in texts)
            return [others[np.random.default_rng(one).integers(len(others))] for one in seeds]
        if self.way in ("router", "forced"):
            return self.experts.choose(texts, always=self.way == "forced")
        return [self.way] * len(texts)

    def answer(self, bench: Bench, prepared: Prepared) -> pd.DataFrame:
        """Item results: every item is scored by the expert that the route chooses."""
        return self.experts.answer_by(self.choose(prepared.name, prepared.prompts), bench, prepared)
