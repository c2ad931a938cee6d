"""Every row of the paper's tables as a method: its score, its calibration text, its allocation.

A :class:`Method` is a decision; :func:`variants` turns methods and statistics into
:class:`~seaplib.pruning.apply.Variant` objects for :func:`~seaplib.evaluation.accuracy.evaluate`. To add a
method, add a :class:`Method` here, or a score to :mod:`seaplib.pruning.scores`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import nn

from ..activations.covariances import Covariances, WeightedCovariances
from ..activations.statistics import ActivationStats, weighted_mean
from ..settings import ALLOCATIONS, BUDGETS, COMPENSATIONS, KV_UNITS, SCORES, Calibration
from ..texts import tasks as registry
from .allocation import Allocation
from .apply import Variant
from .baselines.authors_code import authors_code
from .baselines.flap import flap
from .baselines.score_fusion import fused_scores
from .baselines.shortgpt import influence, shortgpt
from .baselines.two_ssp import stored_two_stage
from .compensation import Compensation
from .masks import PruningMask
from .scores import Scores, aggregate, score, weights
from .selection import select

#: calibration of a method: on a task's corpus, general text, both fused, all corpora (Eq. 15), nothing
CALIBRATIONS = ("task", "general", "fused", "all", "none")
#: calibrations that make a mask for every task's corpus
EXPERTS = ("task", "fused")
#: what a compensated method's name ends in
SUFFIXES = {"none": "", "mean": "+bias", "least squares": "+least squares"}


@dataclass(frozen=True)
class Method:
    """A row of a table.

    ``calibration`` is ``task`` (an expert), ``general`` (general text), ``fused`` (an expert from both:
    :func:`~seaplib.pruning.baselines.score_fusion.fused_scores`), ``all`` (Eq. 15) or ``none``; ``text`` names
    the general text where it is not the table's. Raises ``ValueError`` for an unknown choice.
    """

    name: str
    score: str
    calibration: str
    allocation: str = "logistic"
    x0: float = 0.3
    k: float = 1.0
    protect_first: int = 0
    protect_last: int | None = None  # None: the allocation's own
    budget: str = "parameters"
    kv_unit: str = "group"
    compensation: str = "none"  # for removed units: "mean" (a bias), "least squares" (the kept units' weights too)
    as_published: bool = False  # FLAP's own metric, threshold and running estimates
    text: str | None = None  # None: the table's general text

    def __post_init__(self):
        choices = {"score": SCORES, "calibration": CALIBRATIONS, "allocation": ALLOCATIONS, "budget": BUDGETS}
        for name, known in (choices | {"kv_unit": KV_UNITS, "compensation": COMPENSATIONS}).items():
            if getattr(self, name) not in known:
                raise ValueError(f"{self.name}: {name} is one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.text is not None and self.calibration not in ("general", "fused"):
            raise ValueError(f"{self.name}: a general text of its own needs calibration 'general' or 'fused'")

    def allocate(self, sparsity: float) -> Allocation:
        """The method's allocation at a global sparsity."""
        last = ALLOCATIONS[self.allocation].protect_last if self.protect_last is None else self.protect_last
        return Allocation(self.allocation, sparsity, self.x0, self.k, self.protect_first, last)

    @property
    def allocation_name(self) -> str:
        """The allocation's name, with its protection where that is unusual."""
        usual = ALLOCATIONS[self.allocation].protect_last
        last = usual if self.protect_last is None else self.protect_last
        own = (self.protect_first, last) != (0, usual)
        return f"{self.allocation}, protect {self.protect_first}+{last}" if own else self.allocation

    def label(self, seed: int) -> dict:
        """The columns that name the method's rows."""
        return {
            "method": self.name + ("" if self.as_published else SUFFIXES[self.compensation]),
            "score": self.score,
            "allocation": self.allocation_name,
            "budget": self.budget,
            "calibration": self.calibration if self.text is None else f"{self.calibration}: {self.text}",
            "calibration_seed": seed,
        }

    def on(self, text: str) -> "Method":
        """The same method with another general text."""
        return replace(self, text=text)


SEAP_F, SEAP_W = Method("SEAP", "s_F", "task"), Method("SEAP", "s_W", "task")
GENERAL_F, GENERAL_W = Method("SEAP-gen", "s_F", "all"), Method("SEAP-gen", "s_W", "all")
FLAP, WANDA_SP = Method("FLAP", "s_F", "general"), Method("Wanda-sp", "s_W", "general")
FLAP_PUBLISHED = Method("FLAP as published", "s_F", "general", "adaptive", compensation="mean", as_published=True)
FUSED_F, FUSED_W = Method("Score fusion", "s_F", "fused"), Method("Score fusion", "s_W", "fused")
RANDOM, MAGNITUDE = Method("random", "random", "none"), Method("magnitude", "magnitude", "none")
#: Table 1 (and 4): same allocation for all, they differ in calibration text
PAPER = (WANDA_SP, SEAP_W, GENERAL_W, FLAP, SEAP_F, GENERAL_F)
#: controls that could embarrass the method
CONTROLS = (RANDOM, MAGNITUDE, FLAP_PUBLISHED)
#: the same with the removed units' mean contribution added back
COMPENSATED = tuple(replace(method, compensation="mean") for method in PAPER)
#: our own allocation for SEAP's and for FLAP's scores
ENERGY_F, FLAP_ENERGY = (
    Method("SEAP-energy", "s_F", "task", "energy"),
    Method("FLAP-energy", "s_F", "general", "energy"),
)
#: control of our allocation: is leaving the first layer alone all that it gains?
FIRST_LAYER = replace(SEAP_F, allocation="uniform", protect_first=1)
#: our allocation and compensation, each alone and together, beside the paper's rows and their controls
BEYOND = (FLAP, SEAP_F, FIRST_LAYER, FLAP_ENERGY, ENERGY_F) + tuple(
    replace(method, compensation=how) for method in (SEAP_F, ENERGY_F) for how in ("mean", "least squares")
)
#: how much of a result is the protection of the last layers
UNPROTECTED = tuple(replace(method, protect_last=0) for method in (FLAP, SEAP_F, GENERAL_F))
#: the same choices under the paper's floor(ρC)
FLOOR = tuple(replace(method, budget="floor") for method in PAPER)
#: allocation and number of protected last layers; the paper's own setting comes last
SETTINGS = tuple((name, last) for name in sorted(ALLOCATIONS, key="logistic".__eq__) for last in (0, 2))


def grid(*methods: Method) -> tuple[Method, ...]:
    """Each method under every allocation, without and with its last two layers protected.

    The adaptive allocation ranks the units of all layers by their scores, so random scores are left out.
    """
    return tuple(
        replace(method, allocation=allocation, protect_last=last)
        for allocation, last in SETTINGS
        for method in methods
        if (method.score, allocation) != ("random", "adaptive")
    )


#: Table 3: every allocation, for the three methods whose mask serves all tasks
TABLE_3 = grid(WANDA_SP, FLAP, GENERAL_F) + (FLAP_PUBLISHED,)
#: beside it: the first layer left alone, and compensation under the paper's allocation and ours
BESIDE_3 = tuple(
    replace(method, allocation="uniform", protect_first=1) for method in (WANDA_SP, FLAP, GENERAL_F)
) + tuple(
    replace(method, allocation=allocation, compensation=how)
    for allocation in ("energy", "logistic")
    for how in ("mean", "least squares")
    for method in (WANDA_SP, FLAP, GENERAL_F)
)
#: the same for every method, experts and controls too
FULL_GRID = grid(*PAPER, RANDOM, MAGNITUDE) + (FLAP_PUBLISHED,)


def scores(
    method: Method, stats: dict[str, ActivationStats], general: str, task: str | None = None, seed: int = 0
) -> Scores:
    """The scores that a method ranks by; ``task`` names the corpus of an expert."""
    general = method.text or general
    if method.calibration == "fused":
        return fused_scores(stats[general], stats[task], method.score)
    if method.calibration == "all":
        each = {name: score(of_text, method.score) for name, of_text in stats.items()}
        return aggregate(each, weights(each, general))
    source = {"task": task, "general": general}.get(method.calibration, general)
    return score(stats[source], method.score, seed=seed)


def mask(
    method: Method,
    stats: dict[str, ActivationStats],
    sparsity: float,
    general: str,
    task: str | None = None,
    seed: int = 0,
) -> PruningMask:
    """The mask of a method at a sparsity; ``task`` names the corpus of an expert."""
    if method.as_published:
        return flap(stats[method.text or general], sparsity)
    return select(scores(method, stats, general, task, seed), method.allocate(sparsity), method.budget, method.kv_unit)


def preset(name: str, stats: dict[str, ActivationStats], sparsity: float, general: str) -> dict[str, PruningMask]:
    """Masks of a published configuration: task → its expert's mask, ``"general"`` → the aggregated scores' mask.

    ``paper``: s_F, logistic allocation with the last two layers protected, floor(ρC).
    ``authors_code``: the masks of the published code
    (:func:`~seaplib.pruning.baselines.authors_code.authors_code`), from statistics collected with
    ``estimator="authors"``.
    """
    if name == "authors_code":
        return authors_code(stats, sparsity, general)
    if name != "paper":
        raise ValueError(f"the preset is 'paper' or 'authors_code', got {name!r}")
    expert, whole = replace(SEAP_F, budget="floor"), replace(GENERAL_F, budget="floor")
    masks = {task: mask(expert, stats, sparsity, general, task) for task in stats}
    return masks | {"general": mask(whole, stats, sparsity, general)}


def variants(
    methods: Iterable[Method],
    stats: dict[str, ActivationStats],
    sparsities: Iterable[float],
    tasks: Iterable[str],
    general: str,
    seed: int = 0,
    published: dict[str, ActivationStats] | None = None,
    mode: str = "remove",
    covariances: dict[str, Covariances] | None = None,
) -> list[Variant]:
    """A variant per method and sparsity; for an expert method a variant per task's corpus, for that corpus' tasks.

    ``stats`` maps every expert's task, and ``general``, to statistics of the same calibration ``seed``.
    ``published`` holds the general text's statistics with ``estimator="flap"`` for methods as published;
    ``covariances`` holds the corpora's (:func:`~seaplib.activations.covariances.calibrate`) for methods
    compensated by least squares. ``mode`` says how masks are applied (:func:`~seaplib.pruning.apply.prune`).
    Raises ``ValueError`` where a corpus that is needed has no statistics.
    """
    tasks = tuple(tasks)
    experts: dict[str, list[str]] = {}
    for task in tasks:
        experts.setdefault(registry.get(task).expert, []).append(task)
    methods = tuple(methods)
    texts = {method.text or general for method in methods if not method.as_published}
    if missing := (set(experts) | texts | {general}) - set(stats):
        raise ValueError(f"no statistics for {', '.join(sorted(missing))}; calibrate on them first")
    out = []
    for method in methods:
        if method.as_published and (method.text or general) not in (published or {}):
            raise ValueError(f"{method.name} needs the general text's statistics with estimator='flap'")
        of = published if method.as_published else stats
        rows = (
            [(task, tuple(served)) for task, served in experts.items()]
            if method.calibration in EXPERTS
            else [(None, None)]
        )
        for sparsity in sparsities:
            for task, served in rows:
                chosen = mask(method, of, sparsity, general, task, seed)
                compensation = compensate(method, of, general, task, covariances)
                out.append(Variant(method.label(seed), chosen, mode, compensation, served))
    return out


def compensate(
    method: Method,
    stats: dict[str, ActivationStats],
    general: str,
    task: str | None = None,
    covariances: dict[str, Covariances] | None = None,
) -> Compensation | None:
    """The compensation of a method for :func:`~seaplib.pruning.apply.prune`, from the method's calibration text.

    With calibration on all texts, each text has its weight α (Eq. 15). ValueError where least squares needs
    the covariances of a corpus that ``covariances`` lacks.
    """
    if method.compensation == "none":
        return None
    everything, text = method.calibration == "all", task or method.text or general
    if method.compensation == "mean":
        return weighted_mean(stats, weights(stats, general)) if everything else stats[text].mean
    if missing := (set(stats) if everything else {text}) - set(covariances or {}):
        raise ValueError(f"least squares needs the covariances of {', '.join(sorted(missing))}")
    if not everything:
        return covariances[text]
    return WeightedCovariances({name: covariances[name] for name in stats}, weights(stats, general))


@dataclass(frozen=True)
class DepthMethod:
    """A row of a table whose mask ShortGPT or 2SSP makes; labelled like a ``Method``."""

    name: str
    score: str
    allocation: str

    def label(self, seed: int) -> dict:
        """The columns that name the method's rows."""
        about = {"method": self.name, "score": self.score, "allocation": self.allocation, "budget": "nearest"}
        return about | {"calibration": "general", "calibration_seed": seed}


SHORTGPT = DepthMethod("ShortGPT", "BI", "layers")
TWO_STAGE = DepthMethod("2SSP", "norm", "two stages")
DEPTH = (SHORTGPT, TWO_STAGE)


def depth_variants(
    model: nn.Module,
    tokenizer,
    sparsities: Iterable[float],
    general: str,
    calibration: Calibration | None = None,
    methods: Iterable[DepthMethod] = DEPTH,
    mode: str = "remove",
) -> list[Variant]:
    """A variant per method and sparsity, calibrated on the ``general`` text; statistics and masks are stored.

    Unlike :func:`variants`, these methods run the model, or read the layers as wholes. ``mode`` says how masks
    are applied (:func:`~seaplib.pruning.apply.prune`): "mask" where the model fits in memory only once.
    """
    calibration = calibration or Calibration()
    out = []
    for method in methods:
        for sparsity in sparsities:
            if method == SHORTGPT:
                mask = shortgpt(influence(model, tokenizer, general, calibration), sparsity)
            else:
                mask = stored_two_stage(model, tokenizer, general, calibration, sparsity, mode)
            out.append(Variant(method.label(calibration.seed), mask, mode))
    return out
