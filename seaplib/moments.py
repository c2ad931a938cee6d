"""Running statistics of samples: count, mean and variance, exact or as the published codes estimate them."""

from dataclasses import dataclass

import torch


@dataclass
class Moments:
    """Running count, mean and sum of squared deviations of ``dim`` coordinates, float64.

    Chan, Golub & LeVeque (1979): two sets merge as n = n₁+n₂, δ = m₂−m₁, m = m₁ + δ·n₂/n,
    M = M₁ + M₂ + δ²·n₁n₂/n.
    """

    count: int
    mean: torch.Tensor  # [dim]
    m2: torch.Tensor  # [dim]

    @classmethod
    def of(cls, x: torch.Tensor, left_out: torch.Tensor | None = None, count: int | None = None) -> "Moments":
        """Moments of samples ``x`` [n, dim] without the rows ``left_out``, after which ``count`` remain.

        Two passes over one copy in float32 or better, its sums over rows (``torch.var_mean`` over the
        first dimension takes five times as long on a CPU). Whatever stands in the rows left out, NaN
        included, becomes zero and adds nothing.
        """
        count = len(x) if count is None else count
        own = x.to(torch.promote_types(x.dtype, torch.float32), copy=True)
        if left_out is None:
            left_out = torch.empty(0, dtype=torch.long, device=x.device)
        mean = own.index_fill_(0, left_out, 0).sum(0).div_(max(count, 1))
        deviations = own.sub_(mean).index_fill_(0, left_out, 0)
        return cls(count, mean.double(), deviations.square_().sum(0).double())

    def merge(self, other: "Moments") -> "Moments":
        if self.count == 0 or other.count == 0:
            return other if self.count == 0 else self
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        m2 = self.m2 + other.m2 + delta.square() * (self.count * other.count / count)
        return Moments(count, mean, m2)


@dataclass
class RunningMoments:
    """The running estimates of the published codes, one prompt at a time, float32.

    ``per="token"`` (SEAP's code) counts tokens; ``per="prompt"`` (FLAP's code) counts prompts, sums
    squares over a prompt's tokens, and measures deviations twice around the mean that already
    contains the prompt. In both, the first prompt's fluctuation counts as zero. Kept for the presets
    that reproduce published masks.
    """

    per: str
    count: int = 0
    mean: torch.Tensor | float = 0.0
    var: torch.Tensor | float = 0.0
    second_moment: torch.Tensor | float = 0.0

    def update(self, x: torch.Tensor) -> None:
        """Add one prompt ``x`` [tokens, dim]."""
        x = x.float()
        n, new = self.count, len(x) if self.per == "token" else 1
        old = self.mean
        total = x.sum(0) if self.per == "token" else x.mean(0)
        self.mean = old * (n / (n + new)) + total / (n + new)
        self.second_moment = self.second_moment * (n / (n + new)) + x.norm(dim=0).square() / (n + new)
        if n:
            other = old if self.per == "token" else self.mean
            fluctuation = ((x - self.mean) * (x - other)).sum(0)
            self.var = self.var * ((n - 1) / (n + new - 1)) + fluctuation / (n + new)
        self.count = n + new
