"""The rule by which inputs of linear layers become sparse: pattern, criterion, targets, transformation.

Nothing here needs torch, so that a plan of runs can be checked before anything is loaded; the
sparsification of a tensor stands in :mod:`seaplib.input_sparsity.sparsifier`.
"""

import math
import re
from dataclasses import dataclass

from ..models.architectures import MODULES, ROLES
from ..settings import Settings, suggestion

OF = ("activations", "weights")
TARGETS = MODULES | {"all": ROLES}
#: criterion → what a coordinate's score is
CRITERIA = {
    "magnitude": "|x|",
    "cosine": "|x|·(root mean square of the channel): the cosine loss of leaving it out",
    "wina": "|x|·‖column of W‖₂ (WINA)",
    "teal": "|x| against one threshold per input, the ratio's quantile in calibration (TEAL)",
    "cats": "|act(gate)| against such a threshold, for the input of down (CATS)",
}
TRANSFORMATIONS = {
    "var": "rescale by sqrt(var x / var x̂), per token",
    "pts": "prune x − mean(x), add the mean back, per token",
    "scaling": "choose by |x|/s with s = sqrt(max|x| / max|w|) per channel",
    "shift": "add E[x − x̂] per channel (calibration)",
    "scale": "the γ per channel that minimises the output error (calibration)",
}
PRESETS = ("default", "original")
FITTED = {"shift", "scale"}
FROM_CALIBRATION = {"cosine", "teal", "cats", "scaling"} | FITTED


def known(kind: str, name: str, names) -> str:
    """``name`` where ``names`` holds it; otherwise a ValueError with the nearest name."""
    if name not in names:
        raise ValueError(f"unknown {kind} {name!r}{suggestion(name, names)}")
    return name


@dataclass(frozen=True)
class InputSparsity(Settings):
    """A rule for making the inputs of linear layers sparse.

    ``pattern``: "8:16" (8 of every 16 neighbours stay) or 0.5 (that share of a token's coordinates
    goes). ``of``: "activations", or "weights" for the same pattern on the weight matrices (N:M along
    the input, a ratio over the whole matrix, both by magnitude). ``criterion`` and ``transformation``
    as in ``CRITERIA`` and ``TRANSFORMATIONS``; several of the latter are joined by "+", and
    "learnable" is "shift+scale". ``targets``: "all", "attention", "mlp", or roles joined by "+".
    ``layers``: indices, None for all.

    ``preset="original"`` follows the published code where it departs from the above: the channel
    statistics of ``scaling`` and ``cosine`` are those of the batch at hand, ``pts`` takes the median,
    int(dim·(1 − ratio)) coordinates stay, and the layer's bias is lost.

    Raises ValueError for whatever cannot be, before any model is touched.
    """

    pattern: str | float = "8:16"
    of: str = "activations"
    criterion: str = "magnitude"
    transformation: str = "none"
    targets: str = "all"
    layers: tuple[int, ...] | None = None
    preset: str = "default"

    def __post_init__(self):
        for name in ("of", "criterion", "transformation", "targets", "preset"):
            value = getattr(self, name)
            self._require(isinstance(value, str), f"{name} is a text (several joined by +), got {value!r}")
        self._set("pattern", self._pattern())
        known("kind of sparsity (of)", self.of, OF)
        known("criterion", self.criterion, CRITERIA)
        known("preset", self.preset, PRESETS)
        named = str(self.transformation).replace("learnable", "shift+scale")
        chosen = {known("transformation", part, TRANSFORMATIONS) for part in named.split("+") if part != "none"}
        self._set("transformation", "+".join(part for part in TRANSFORMATIONS if part in chosen) or "none")
        if self.criterion == "cats" and self.targets == "all":
            self._set("targets", "down")
        for role in () if self.targets in TARGETS else self.targets.split("+"):
            known("role", role, [*ROLES, *TARGETS])
        if self.targets not in TARGETS:
            self._set("targets", "+".join(self.roles))
        if self.layers is not None:
            listed = isinstance(self.layers, list | tuple) and all(type(n) is int and n >= 0 for n in self.layers)
            self._require(listed, f"layers is a list of layer numbers, counted from 0, got {self.layers!r}")
            self._set("layers", tuple(sorted(set(self.layers))))
        self._combination(chosen)

    def _set(self, name: str, value) -> None:
        object.__setattr__(self, name, value)

    def _pattern(self) -> str | float:
        if isinstance(self.pattern, str) and (found := re.fullmatch(r"([0-9]+):([0-9]+)", self.pattern)):
            n, m = map(int, found.groups())
            self._require(1 <= n <= m, f"of {m} neighbours between 1 and {m} can stay, got {self.pattern}")
            return f"{n}:{m}"
        try:
            ratio = math.nan if isinstance(self.pattern, bool) else float(self.pattern)
        except (TypeError, ValueError):
            ratio = math.nan
        message = f"pattern is 'N:M' (N of M stay) or a ratio in [0, 1] (the share that goes), got {self.pattern!r}"
        self._require(0 <= ratio <= 1, message)
        return ratio

    def _combination(self, chosen: set) -> None:
        if self.of == "weights":
            plain = self.criterion == "magnitude" and not chosen and self.preset == "default"
            self._require(plain, "weights are pruned by magnitude alone, without transformation or preset")
        if self.criterion in ("teal", "cats"):
            self._require(self.nm is None, f"{self.criterion} has one threshold, so its pattern is a ratio")
            self._require(not chosen & {"pts", "scaling"}, f"{self.criterion} compares |x| itself: no pts, no scaling")
        if self.criterion == "cats":
            self._require(self.roles == ("down",), "cats thresholds the gate, so its only target is 'down'")
            self._require(not chosen, "cats takes no transformation")
        plain = "scaling" not in chosen or self.criterion == "magnitude"
        self._require(plain, "scaling is itself a criterion; combine it with 'magnitude' only")
        self._require(not {"var", "scale"} <= chosen, "var and scale both rescale what stays; choose one")

    @property
    def nm(self) -> tuple[int, int] | None:
        """(N, M), None for a ratio."""
        return tuple(map(int, self.pattern.split(":"))) if isinstance(self.pattern, str) else None

    @property
    def ratio(self) -> float:
        """The share that goes."""
        return 1 - self.nm[0] / self.nm[1] if self.nm else self.pattern

    @property
    def parts(self) -> frozenset[str]:
        return frozenset(self.transformation.split("+")) - {"none"}

    @property
    def roles(self) -> tuple[str, ...]:
        named = [role for part in self.targets.split("+") for role in TARGETS.get(part, (part,))]
        return tuple(role for role in ROLES if role in named)

    @property
    def from_calibration(self) -> set[str]:
        """What needs calibration text."""
        wanted = (self.parts | {self.criterion}) & FROM_CALIBRATION
        return set(wanted) if self.preset == "default" else wanted - {"cosine", "scaling"}

    @property
    def exact(self) -> bool:
        """Whether every token loses equally many coordinates."""
        return self.of == "activations" and self.criterion not in ("teal", "cats")

    def removed(self, width: int) -> int:
        """How many of a token's ``width`` coordinates go, on average for a threshold."""
        if self.nm:
            return width // self.nm[1] * (self.nm[1] - self.nm[0])
        return width - int(width * (1 - self.ratio)) if self.preset == "original" else int(self.ratio * width + 1e-9)
