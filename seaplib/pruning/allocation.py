"""How much to remove from each layer: uniform, logistic (Eqs. 16-17), adaptive, energy. Numpy only.

An :class:`Allocation` is a decision that can be printed and compared before anything is pruned.
``uniform`` and ``logistic`` fix a ratio per layer; under ``adaptive`` and ``energy`` (our own) the ratios
follow from the scores of all layers (:func:`~seaplib.pruning.selection.select`). Which is which, and how many
last layers each protects by default, stands in ``settings.ALLOCATIONS``.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from ..settings import ALLOCATIONS, STEEPEST, check_types


class UnreachableSparsity(ValueError):
    """The global target lies beyond what the unprotected layers can give."""


@dataclass(frozen=True, repr=False)
class Allocation:
    """A global target G and its spread over the layers; made by the functions below.

    With ``over="all"`` G is the mean over all layers (Eq. 17). With ``over="unprotected"`` G is the mean over
    the unprotected layers, and depth counts from the first of these, as in the published code (less than G
    goes then). Raises ``ValueError`` for a kind, sparsity, curve or protection that cannot be.
    """

    kind: str
    sparsity: float
    x0: float = 0.3
    k: float = 1.0
    protect_first: int = 0
    protect_last: int = 0
    over: str = "all"

    def __post_init__(self):
        check_types(self)
        if self.kind not in ALLOCATIONS:
            raise ValueError(f"the allocation is one of {', '.join(ALLOCATIONS)}, got {self.kind!r}")
        checked(self.sparsity)
        if not (math.isfinite(self.x0) and abs(self.k) <= STEEPEST):
            raise ValueError(f"x0 must be finite and k within ±{STEEPEST}, got x0={self.x0}, k={self.k}")
        if min(self.protect_first, self.protect_last) < 0:
            raise ValueError("the number of protected layers cannot be negative")

    def __str__(self) -> str:
        curve = f", x0={self.x0:g}, k={self.k:g}" if self.kind == "logistic" else ""
        return f"{self.kind}({self.sparsity:g}{curve}, protect {self.protect_first}+{self.protect_last})"

    __repr__ = __str__

    def unprotected(self, layers: int) -> Bool[np.ndarray, " layers"]:
        """Which layers may lose units."""
        index = np.arange(layers)
        return (index >= self.protect_first) & (index < layers - self.protect_last)

    @property
    def by_layer(self) -> bool:
        """Whether the allocation fixes a ratio per layer, whatever the scores."""
        return ALLOCATIONS[self.kind].by_layer

    def check(self, layers: int, caps: dict[str, float], shares: dict[str, float]) -> None:
        """Raise :class:`UnreachableSparsity`, naming the largest G possible; ``caps``, ``shares``: :meth:`ratios`."""
        free = self.unprotected(layers).sum()
        largest = sum(shares[m] * caps[m] for m in caps) * free / max(self._counted(layers), 1)
        if self.sparsity > largest + 1e-12:
            raise UnreachableSparsity(
                f"sparsity {self.sparsity:g} is out of reach with {self.protect_first}+{self.protect_last} of {layers} "
                "layers protected and one unit kept in every module; "
                f"the largest possible is {np.floor(largest * 1000) / 1000:g}"
            )

    def _counted(self, layers: int) -> int:
        """The number of layers over which G is the mean."""
        return int(self.unprotected(layers).sum()) if self.over == "unprotected" else layers

    def ratios(
        self, layers: int, caps: dict[str, float] | None = None, shares: dict[str, float] | None = None
    ) -> dict[str, Float[np.ndarray, " layers"]]:
        """Ratio ρ_ℓ to remove from every layer, module → [layers].

        ρ_ℓ = Λ/(1+exp(−k(x_ℓ−x₀))), x_ℓ = (ℓ−1)/(L−1) (Eq. 16), constant for ``uniform``; 0 in
        protected layers. Λ is found by bisection so that the mean is G (Eq. 17). ``caps`` bounds ρ in each
        module so that a unit always remains; ``shares`` are the modules' weights in the mean (their shares of
        a layer's parameters). Without caps and shares there is a single module, with ρ < 1.
        Raises :class:`UnreachableSparsity`, which names the largest G possible, and ``ValueError`` for an
        allocation without a curve, whose ratios follow from scores.
        """
        caps = caps or {"all": 1.0}
        shares = shares or {module: 1 / len(caps) for module in caps}
        self.check(layers, caps, shares)
        free, counted = self.unprotected(layers), self._counted(layers)
        curve = np.where(free, self._curve(layers), 0.0)

        def at(scale):
            return {module: np.minimum(scale * curve, cap) * free for module, cap in caps.items()}

        def mean(rho):
            return sum(shares[module] * rho[module].sum() for module in caps) / max(counted, 1)

        if not free.any() or self.sparsity == 0:
            return {module: np.zeros(layers) for module in caps}
        published = self.over == "unprotected"  # its search starts at [0, 2] and ends within 1e-4 of the target
        reached = curve[curve > 0]  # a curve may leave an unprotected layer whole
        low, high = 0.0, 2.0 if published else max(caps.values()) / reached.min(initial=1.0)
        if not published and mean(at(high)) < self.sparsity - 1e-12:
            largest = np.floor(mean(at(high)) * 1000) / 1000
            raise UnreachableSparsity(f"{self} leaves whole layers alone; the largest possible sparsity is {largest:g}")
        for _ in range(200):
            middle = (low + high) / 2
            if not low < middle < high:  # neighbouring numbers
                break
            if published and abs(mean(at(middle)) - self.sparsity) < 1e-4:
                return at(middle)
            low, high = (middle, high) if mean(at(middle)) < self.sparsity else (low, middle)
        return at(high)

    def _curve(self, layers: int) -> Float[np.ndarray, " layers"]:
        """Shape of ρ over depth, up to the factor Λ."""
        if self.kind == "uniform":
            return np.ones(layers)
        if self.kind != "logistic":
            raise ValueError(f"the allocation {self.kind!r} has no curve over depth")
        if self.over == "unprotected":
            first, last = self.protect_first, layers - 1 - self.protect_last
        else:
            first, last = 0, layers - 1
        x = (np.arange(layers) - first) / max(last - first, 1)
        return 1 / (1 + np.exp(-self.k * (x - self.x0)))


def checked(sparsity: float) -> float:
    """``sparsity`` itself. ValueError where it does not lie in [0, 1)."""
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must lie in [0, 1), got {sparsity}")
    return sparsity


def logistic(
    sparsity: float,
    x0: float = 0.3,
    k: float = 1.0,
    protect_first: int = 0,
    protect_last: int = ALLOCATIONS["logistic"].protect_last,
) -> Allocation:
    """The paper's allocation (Eqs. 16-17): less in early layers, nothing in the last ``protect_last``."""
    return Allocation("logistic", sparsity, x0, k, protect_first, protect_last)


def uniform(
    sparsity: float, protect_first: int = 0, protect_last: int = ALLOCATIONS["uniform"].protect_last
) -> Allocation:
    """The same ratio in every unprotected layer (UL in Table 3)."""
    return Allocation("uniform", sparsity, protect_first=protect_first, protect_last=protect_last)


def adaptive(
    sparsity: float, protect_first: int = 0, protect_last: int = ALLOCATIONS["adaptive"].protect_last
) -> Allocation:
    """A single ranking over all layers and modules of scores standardised per layer (AL in Table 3, FLAP)."""
    return Allocation("adaptive", sparsity, protect_first=protect_first, protect_last=protect_last)


def energy(
    sparsity: float, protect_first: int = 0, protect_last: int = ALLOCATIONS["energy"].protect_last
) -> Allocation:
    """Our own: the attention and the MLP of every layer lose what adds least to the error of the residual stream.

        minimise Σ_{ℓ,m} e_{ℓ,m}(n_{ℓ,m})   subject to the budget in parameters,
        e_{ℓ,m}(n) = Σ over the n lowest-scored units of layer ℓ's module m of mean(h²)·‖w‖₂² / ‖x_ℓ‖²

    x_ℓ is the residual stream as layer ℓ reads it; h and w are a unit's activation and column (Eqs. 11-12). The
    norms divide the stream by its size, so an error counts relative to that size. All terms are in the
    statistics: no mask is tried out. The errors of different units are added as if they were uncorrelated,
    and as if later layers let them pass.
    """
    return Allocation("energy", sparsity, protect_first=protect_first, protect_last=protect_last)


def authors_logistic(sparsity: float) -> Allocation:
    """The published code's allocation: the first and last two layers protected, G the mean over the other layers."""
    return Allocation("logistic", sparsity, x0=0.3, k=0.8, protect_first=2, protect_last=2, over="unprotected")


def check_reachable(
    sparsity: float,
    layers: int,
    attention_units: int,
    channels: int,
    attention_share: float,
    protect_first: int = 0,
    protect_last: int = 0,
) -> None:
    """Raise :class:`UnreachableSparsity` unless every module can keep a unit at this target."""
    caps = {"attention": 1 - 1 / attention_units, "mlp": 1 - 1 / channels}
    shares = {"attention": attention_share, "mlp": 1 - attention_share}
    uniform(sparsity, protect_first, protect_last).check(layers, caps, shares)
