"""Every choice a user can make, as frozen dataclasses.

A notebook's parameters cell and ``papermill_runs.yaml`` override these fields by name: a parameter
called ``samples`` always means ``Calibration.samples``. An unknown keyword is a ``TypeError``, an
impossible value a ``ValueError``, before any model is loaded.
"""

import difflib
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import get_args, get_type_hints

SCORES = ("s_F", "s_W", "magnitude", "random")


@dataclass(frozen=True)
class AllocationKind:
    """What tells allocations apart before any scores are known."""

    by_layer: bool  # fixes a ratio per layer; otherwise the ratios follow from the scores of all layers
    protect_last: int = 0  # layers at the output that keep everything, where nothing else is said


#: allocation → its kind; each has a function of its name in :mod:`seaplib.pruning.allocation`
ALLOCATIONS = {
    "uniform": AllocationKind(by_layer=True),
    "logistic": AllocationKind(by_layer=True, protect_last=2),
    "adaptive": AllocationKind(by_layer=False),
    "energy": AllocationKind(by_layer=False),
}


@dataclass(frozen=True)
class MetricKind:
    """What the tables say of a metric."""

    title: str
    reported: bool = False  # in result tables and comparisons, beside each task's own metric
    share: bool = True  # of the items, between 0 and 1
    lm_eval: str = ""  # lm-eval's name for it, where that is another


#: lm-eval's metrics that are kept, in the order of preference: the first that a task offers is the task's own
#: ("primary"). A metric must have a number for every item.
METRICS = {
    "acc_norm": MetricKind("accuracy (normalised)"),
    "acc": MetricKind("accuracy"),
    "exact_match": MetricKind("exact match", reported=True),
    # of an item, lm-eval's "perplexity" is the log-likelihood that its aggregate is made of
    "log_likelihood": MetricKind("log-likelihood of the answer, nats", share=False, lm_eval="perplexity"),
}
MODES = ("remove", "zero", "mask")
BUDGETS = ("parameters", "floor")
KV_UNITS = ("group", "query")
#: a router's training prompts: what lm-eval sends to the model, or the bare question without a template's words
WORDINGS = ("request", "question")
#: in place of removed units: nothing, their mean in a bias, a least-squares refit of the kept units
COMPENSATIONS = ("none", "mean", "least squares")
#: bytes for the sums of covariances; where all layers need more, the layers take several passes
MATRIX_BYTES = 2**32
#: largest |k| of the logistic curve; a steeper curve is a step, and underflows
STEEPEST = 100


def nearest(name, known: Iterable) -> str | None:
    """The known name that is most like a misspelt ``name``, None if none is like it."""
    return next(iter(difflib.get_close_matches(str(name), [str(other) for other in known], 1)), None)


def suggestion(name, known: Iterable) -> str:
    """The end of an error message about a misspelt name: the nearest known name, or else all of them."""
    known = sorted(map(str, known))
    close = nearest(name, known)
    return f"; did you mean {close!r}?" if close else f"; known: {', '.join(known) or 'none'}"


#: type of a field → which values are of it, and how the type is called; numpy's numbers are numbers
_KINDS = {
    bool: (lambda value: isinstance(value, bool), "true or false"),
    int: (lambda value: isinstance(value, Integral) and not isinstance(value, bool), "a whole number"),
    float: (lambda value: isinstance(value, Real) and not isinstance(value, bool), "a number"),
    str: (lambda value: isinstance(value, str), "a text"),
    type(None): (lambda value: value is None, "None"),
}


def check_types(made) -> None:
    """ValueError for a field of the dataclass object ``made`` whose value is not of the declared type."""
    hints = get_type_hints(type(made))
    for field in fields(made):
        value, kinds = getattr(made, field.name), get_args(hints[field.name]) or (hints[field.name],)
        if not any(_KINDS[kind][0](value) for kind in kinds):
            wanted = " or ".join(_KINDS[kind][1] for kind in kinds)
            raise ValueError(f"{type(made).__name__}: {field.name} must be {wanted}, got {value!r}")


def expect(value, kind: type, what: str) -> None:
    """TypeError where ``value`` is not of ``kind``; ``what`` names it, and how to make one where that helps."""
    if not isinstance(value, kind):
        raise TypeError(f"{what} is a {kind.__name__}, got {type(value).__name__}")


def whole(number, least: int, what: str) -> None:
    """ValueError where ``number`` is no whole number from ``least`` on; ``what`` names it."""
    if not _KINDS[int][0](number) or number < least:
        raise ValueError(f"{what} must be a whole number from {least}, got {number!r}")


class Settings:
    """Base of the settings dataclasses: every value is of its field's type, and passes the class's ``_check``."""

    def __post_init__(self):
        check_types(self)
        self._check()

    def as_dict(self) -> dict:
        return asdict(self)

    def _require(self, condition: bool, message: str) -> None:
        if not condition:
            raise ValueError(f"{type(self).__name__}: {message}")


@dataclass(frozen=True)
class Calibration(Settings):
    """The texts that are run through the model, and the statistics that are taken (Eqs. 3-5)."""

    samples: int = 128  # texts per task, or all texts of a smaller corpus
    seed: int = 0  # of the draw of texts
    max_length: int = 2048  # tokens per text; longer texts are truncated and counted
    pooling: str = "token"  # a sample is: "token" a position, "prompt" a prompt's mean, "norm" its L2 norm over tokens
    bos: bool = True  # whether the BOS position is part of the statistics
    batch_tokens: int = 8192  # padded tokens per batch
    estimator: str = "exact"  # or "authors", "flap": the running estimates of the published codes

    def _check(self):
        self._require(self.samples >= 1, f"samples must be at least 1, got {self.samples}")
        self._require(self.seed >= 0, f"seed must be at least 0, got {self.seed}")
        self._require(self.max_length >= 2, f"max_length must be at least 2, got {self.max_length}")
        self._require(self.batch_tokens >= 1, f"batch_tokens must be positive, got {self.batch_tokens}")
        known = ("token", "prompt", "norm")
        self._require(self.pooling in known, f"pooling is one of {', '.join(known)}, got {self.pooling!r}")
        known = ("exact", "authors", "flap")
        self._require(self.estimator in known, f"estimator is one of {', '.join(known)}, got {self.estimator!r}")
        plain = self.estimator == "exact" or self.pooling == "token"
        self._require(plain, f"estimator {self.estimator!r} pools as its published code does; leave pooling at 'token'")


@dataclass(frozen=True)
class Pruning(Settings):
    """How many units are removed, and from which layers (Eqs. 8-17)."""

    sparsity: float = 0.5  # G: share of the decoder layers' projection parameters
    score: str = "s_F"
    allocation: str = "logistic"
    x0: float = 0.3  # inflection point of the logistic curve (Eq. 16)
    k: float = 1.0  # steepness of the logistic curve
    protect_first: int = 0  # layers at the input that keep everything
    protect_last: int = 2  # layers at the output that keep everything (the paper gives no n)
    budget: str = "parameters"  # or "floor", as in the paper
    kv_unit: str = "group"  # or "query": the same number of query heads from every KV group
    mode: str = "remove"  # or "zero"; "mask" on the fly, for a model that fits in memory only once
    compensation: str = "none"  # for removed units: "mean" in a bias, "least squares" in the kept units' weights
    round_to: int = 1  # kept channels are a multiple of this

    def _check(self):
        self._require(0 <= self.sparsity < 1, f"sparsity must lie in [0, 1), got {self.sparsity}")
        self._require(self.score in SCORES, f"score is one of {', '.join(SCORES)}, got {self.score!r}")
        self._require(
            self.allocation in ALLOCATIONS, f"allocation is one of {', '.join(ALLOCATIONS)}, got {self.allocation!r}"
        )
        curve = math.isfinite(self.x0) and abs(self.k) <= STEEPEST
        self._require(curve, f"x0 must be finite and k within ±{STEEPEST}, got x0={self.x0}, k={self.k}")
        self._require(self.budget in BUDGETS, f"budget is one of {', '.join(BUDGETS)}, got {self.budget!r}")
        self._require(self.kv_unit in KV_UNITS, f"kv_unit is one of {', '.join(KV_UNITS)}, got {self.kv_unit!r}")
        self._require(self.mode in MODES, f"mode is one of {', '.join(MODES)}, got {self.mode!r}")
        known = COMPENSATIONS
        self._require(self.compensation in known, f"compensation is one of {known}, got {self.compensation!r}")
        for name in ("protect_first", "protect_last"):
            self._require(getattr(self, name) >= 0, f"{name} must be at least 0, got {getattr(self, name)}")
        self._require(self.round_to >= 1, f"round_to must be at least 1, got {self.round_to}")


@dataclass(frozen=True)
class Evaluation(Settings):
    """The items that are scored, and the conventions of lm-eval, zero-shot."""

    items: int | None = None  # test items per task, the first of a seeded shuffle; None: all
    item_seed: int = 0
    batch_tokens: int = 8192  # padded tokens per batch
    max_length: int | None = None  # tokens; None: the model's context
    bos: bool | None = None  # begin with BOS, once; False: without; None: as the tokenizer and the template do
    chat_template: bool = False  # a prompt is a user's turn in the tokenizer's chat template
    workers: int = 1  # processes that score, of a model in main memory; each holds a copy of it

    def _check(self):
        for name in ("items", "max_length"):
            value = getattr(self, name)
            self._require(value is None or value >= 1, f"{name} must be at least 1 (or None), got {value}")
        self._require(self.item_seed >= 0, f"item_seed must be at least 0, got {self.item_seed}")
        self._require(self.batch_tokens >= 1, f"batch_tokens must be positive, got {self.batch_tokens}")
        self._require(self.workers >= 1, f"workers must be at least 1, got {self.workers}")


@dataclass(frozen=True)
class Routing(Settings):
    """What a router between experts is trained on, and how often it may abstain."""

    per_task: int = 500  # training prompts of a task, at most
    seed: int = 0  # of the draw of prompts, and of the folds that temperature and threshold are fitted on
    wording: str = "request"  # of the training prompts: lm-eval's requests, or the bare "question"
    coverage: float = 0.95  # share of the prompts that is routed; the general mask answers the rest

    def _check(self):
        self._require(self.per_task >= 1, f"per_task must be at least 1, got {self.per_task}")
        self._require(self.seed >= 0, f"seed must be at least 0, got {self.seed}")
        self._require(self.wording in WORDINGS, f"wording is one of {', '.join(WORDINGS)}, got {self.wording!r}")
        self._require(0 < self.coverage <= 1, f"coverage must lie in (0, 1], got {self.coverage}")


@dataclass(frozen=True)
class Preset:
    """Windows of ``window`` tokens, of which the last ``scored`` tokens count (by default all but the first)."""

    window: int
    scored: int | None = None
    random: int | None = None  # number of windows at random starts; None: windows follow each other


PRESETS = {
    "2048": Preset(2048),
    "flap128": Preset(128),
    # "128 random samples, each with a 2048-token context and a 512-token evaluation window": read as
    # windows of 2048 of which the last 512 tokens count
    "paper": Preset(2048, scored=512, random=128),
    "authors512": Preset(512),  # as in the published code
}
