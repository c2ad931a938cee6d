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
    def of(cls, x: torch.Tensor) -> "Moments":
        """Moments of samples ``x`` [n, dim]."""
        var, mean = torch.var_mean(x.float() if x.dtype != torch.float64 else x, dim=0, correction=0)
        return cls(len(x), mean.double(), var.double() * len(x))

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
