"""Experts of a model from task names, and rules for who answers when the experts are evaluated.

:func:`build` goes the whole way from task names to an :class:`~seaplib.experts.model.ExpertModel`;
:class:`Route` is a variant for :func:`seaplib.evaluate`: the same experts under the router, under the
true task, or under controls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch

from .. import store
from ..activations.statistics import calibrate
from ..evaluation import bootstrap, comparison
from ..evaluation.lm_eval import Bench, Prepared
from ..models import layers
from ..pruning import allocation, methods, selection
from ..pruning.methods import SEAP_F, Method
from ..pruning.scores import Scores
from ..settings import Calibration, Routing
from ..texts import tasks
from .cache import WHOLE
from .model import ExpertModel
from .router import GENERAL, asked, embed, fit, train

#: way in which a :class:`Route` chooses → name of its rows
WAYS = {
    "router": "experts, routed",
    "forced": "experts, always routed",
    "task": "experts, true task",
    "random": "experts, another task's",
}
ROUTED, FORCED, TRUE, OTHER = WAYS.values()
#: systems a and b whose answers are compared
PAIRS = ((ROUTED, GENERAL), (TRUE, GENERAL), (ROUTED, TRUE), (TRUE, OTHER), (ROUTED, FORCED), (ROUTED, WHOLE))
#: kind of tasks, a, b, metric → the claim that a − b lies above so many points
CLAIMS = {
    ("known", ROUTED, GENERAL, "primary"): ("Routed experts are more accurate than one general mask", 0),
    ("known", ROUTED, GENERAL, "exact_match"): ("Routed experts match more answers exactly than one general mask", 0),
    ("known", ROUTED, TRUE, "primary"): ("The router loses less than a point of accuracy against the true task", -1),
    ("known", TRUE, OTHER, "primary"): ("The right expert is more accurate than another task's", 0),
    ("unseen", ROUTED, GENERAL, "primary"): (
        "On tasks it never saw, routed experts are more accurate than the general mask", 0),
    ("unseen", ROUTED, FORCED, "primary"): (
        "On tasks it never saw, a router that may abstain is more accurate than one that may not", 0),
}  # fmt: skip


def build(
    model,
    tokenizer,
    names: Sequence[str],
    general: str,
    sparsity: float = 0.5,
    method: Method = SEAP_F,
    calibration: Calibration | None = None,
    routing: Routing | None = None,
    budget_bytes: int | None = None,
) -> ExpertModel:
    """Experts of the tasks ``names``, a general mask, and a router between them, asking the store first.

    ``method`` makes the experts' masks; the general mask has the same score and allocation, from all corpora
    and the text ``general`` (Eq. 15). ``routing`` is by default with the calibration's seed; with a single expert
    there is no router. ValueError where ``method`` is calibrated on another text than the task's, or compensates.
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
        router = train(model, tokenizer, names, routing or Routing(seed=calibration.seed))
    about = {"tasks": list(names), "general": general, "sparsity": sparsity, "calibration": calibration.as_dict()}
    return ExpertModel(model, tokenizer, masks, router, budget_bytes, provenance=about | {"method": method.name})


def random_experts(
    model, tokenizer, names: Sequence[str], sparsity: float, routing: Routing | None = None
) -> ExpertModel:
    """Experts of random masks, and a router of its own, for a model of random weights: only its times mean anything."""
    routing = routing or Routing()
    g, draw = layers.geometry(model), torch.Generator().manual_seed(routing.seed)
    sizes = (g.layers, g.heads * g.head_dim), (g.layers, g.channels)
    masks = {}
    for name in (*tasks.experts(names), GENERAL):
        scores = Scores(g, *(torch.rand(size, generator=draw, dtype=torch.float64) for size in sizes))
        masks[name] = selection.select(scores, allocation.logistic(sparsity))
    prompts = asked(names, routing.per_task, routing.seed, routing.wording)
    router = fit(embed(model, tokenizer, prompts["text"]), prompts["expert"], routing)
    return ExpertModel(model, tokenizer, masks, router)


def contrasts(items: pd.DataFrame, kinds: Mapping[str, Sequence[str]], draws: int = bootstrap.DRAWS) -> pd.DataFrame:
    """``comparison.compare`` of :data:`PAIRS` at every sparsity and ``kind`` of tasks, by every metric they share.

    ``items`` is ``evaluate_items``'s frame with the dense model's rows; ``kinds`` maps kinds to tasks. Columns:
    requested_sparsity, kind, a, b, metric, claim ("" for none), null (points, of the claim and of p), those of
    ``compare``, verdict of "a is better".
    """
    rows = []
    for sparsity in sorted(set(items["requested_sparsity"]) - {0.0}):
        for kind, names in kinds.items():
            part = items[items["task"].isin(names) & items["requested_sparsity"].isin([0.0, sparsity])]
            for a, b in PAIRS:
                for metric in bootstrap.measured(part):
                    claim, null = CLAIMS.get((kind, a, b, metric), ("", 0))
                    sides = {"method": a}, {"method": b}
                    found = comparison.compare(part, *sides, metric, draws, null=null / 100)
                    head = {"requested_sparsity": sparsity, "kind": kind, "a": a, "b": b, "metric": metric}
                    verdict = {"verdict": comparison.verdict(found["low"], found["high"])}
                    rows.append(head | {"claim": claim, "null": null} | found | verdict)
    return pd.DataFrame(rows)


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
