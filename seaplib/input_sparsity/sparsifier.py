"""Sparse inputs of linear layers, on plain tensors: which coordinates stay, and what repairs the error.

    y = W·x̂ + b,   x̂ = γ ∘ S(x − c) + β + c            (x is one token's input, [dim])

``S`` keeps what scores highest and sets the rest to zero: N of every M neighbours, a share of the
token's coordinates, or whatever passes a threshold. ``c`` (per-token shift), the variance correction
and γ, β (learned from calibration text) are the transformations. Everything is computed per token or
comes from calibration, so a token's result never depends on which others share its batch; only the
preset ``original`` takes statistics over the batch, as the published code (LLM_activation_pruning)
does. β and c reach the output as constants of the layer, W·β and c·W·1, so the product that runs at
inference still sees zeros.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .rule import InputSparsity

RIDGE = 1e-3  # of the mean diagonal; pulls γ to 1 where calibration says little


def lowest(scores: Float[Tensor, "*rows n"], count: int) -> Bool[Tensor, "*rows n"]:
    """bool [..., n]: the ``count`` lowest of each row of non-negative ``scores``; of equal scores the first.

    Bits of non-negative floats order like integers, so score and place make a unique integer key;
    the outcome depends on the row alone.
    """
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    bits = scores.float().contiguous().view(torch.int32).long()
    keys = (bits << 31) + torch.arange(scores.shape[-1], device=scores.device)
    if scores.device.type == "cpu":  # numpy's partition is an order of magnitude faster than torch's on a CPU
        last = torch.from_numpy(np.partition(keys.numpy(), count - 1, axis=-1)[..., count - 1, None])
    else:
        last = keys.kthvalue(count, dim=-1, keepdim=True).values
    return keys <= last


def dropped(scores: Float[Tensor, "*rows dim"], rule: InputSparsity) -> Bool[Tensor, "*rows dim"]:
    """bool like ``scores`` [..., dim]: what ``rule``'s pattern sets to zero along the last axis."""
    if rule.nm is None:
        return lowest(scores, rule.removed(scores.shape[-1]))
    n, m = rule.nm
    if scores.shape[-1] % m:
        raise ValueError(f"{rule.pattern}: {m} does not divide the width {scores.shape[-1]}")
    return lowest(scores.unflatten(-1, (-1, m)), m - n).flatten(-2)


def sparse_weight(weight: Float[Tensor, "out in"], rule: InputSparsity) -> Float[Tensor, "out in"]:
    """``weight`` [out, in] without its smallest entries: N:M along the input, or a share of the whole matrix."""
    scores = weight.abs()
    gone = dropped(scores, rule) if rule.nm else lowest(scores.flatten(), int(rule.ratio * weight.numel() + 1e-9))
    return weight.masked_fill(gone.view_as(weight), 0)


@dataclass(frozen=True)
class Sparsifier:
    """A rule for an input of width dim, with its parameters from weights and calibration.

    ``channel`` [dim]: a coordinate's score is |x|·channel; ``threshold``: scores up to it go (TEAL);
    ``gamma``, ``beta`` [dim]: learned scale and shift; ``column_max`` [dim]: max|w| per channel, for
    the original's scaling. None: not used.
    """

    rule: InputSparsity
    channel: Float[Tensor, " dim"] | None = None
    threshold: float | None = None
    gamma: Float[Tensor, " dim"] | None = None
    beta: Float[Tensor, " dim"] | None = None
    column_max: Float[Tensor, " dim"] | None = None

    TENSORS = ("channel", "gamma", "beta", "column_max")

    def __call__(self, x: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens dim"]:
        """x̂ for inputs ``x`` [..., dim], in their dtype."""
        centred, kept, centre = self.split(x)
        if self.gamma is not None:
            kept = kept * self.gamma.to(kept)
        if self.beta is not None:
            kept = kept + self.beta.to(kept)
        return kept if centre is None else kept + centre

    def split(
        self, x: Float[Tensor, "*tokens dim"]
    ) -> tuple[Float[Tensor, "*tokens dim"], Float[Tensor, "*tokens dim"], Float[Tensor, "*tokens 1"] | None]:
        """x − c, its sparse (and variance-corrected) version, and c (None: no shift)."""
        parts, original = self.rule.parts, self.rule.preset == "original"
        centre = None
        if "pts" in parts:
            centre = x.median(-1, keepdim=True).values if original else x.mean(-1, keepdim=True)
        centred = x if centre is None else x - centre
        kept = centred.masked_fill(self.gone(centred), 0)
        if "var" in parts:
            kept = kept * variance_factor(centred, kept)
        return centred, kept, centre

    def gone(self, x: Float[Tensor, "*tokens dim"]) -> Bool[Tensor, "*tokens dim"]:
        """bool [..., dim]: the coordinates of ``x`` that are set to zero."""
        scores = x.abs().float()
        if self.threshold is not None:
            return scores <= self.threshold
        if self.rule.preset == "original":
            rows = scores.flatten(0, -2)
            if "scaling" in self.rule.parts:
                scores = scores / (rows.amax(0) / self.column_max.to(rows).clamp(min=1e-8)).sqrt().clamp(min=1e-20)
            if self.rule.criterion == "cosine":
                scores = scores * rows.norm(dim=0)
        if self.channel is not None:
            scores = scores * self.channel.to(scores)
        return dropped(scores, self.rule)


def variance_factor(
    x: Float[Tensor, "*tokens dim"], sparse: Float[Tensor, "*tokens dim"]
) -> Float[Tensor, "*tokens 1"]:
    """sqrt(var x / var x̂) of every token, [..., 1]; 1 where nothing stays."""
    full, left = (t.float().var(-1, keepdim=True) for t in (x, sparse))
    return torch.where(left > 0, (full / left.clamp(min=1e-30)).sqrt(), 1).to(x.dtype)


class LeastSquares:
    """γ and β that minimise E‖W·(z − γ∘s − β)‖² over calibration tokens, in closed form.

    z is the input as it is (less c), s its sparse version, both [tokens, dim]. With G = WᵀW and
    moments C_ss = E[s sᵀ], C_sz = E[s zᵀ], less the means' products where β is free:

        (G ∘ C_ss)·γ = (G ∘ C_sz)·1,      β = E[z] − γ∘E[s]
    """

    def __init__(self, width: int, device=None, scale: bool = True):
        self.count = 0
        self.z, self.s = (torch.zeros(width, dtype=torch.float64, device=device) for _ in range(2))
        self.ss, self.sz = (
            torch.zeros(width, width, dtype=torch.float64, device=device) if scale else None for _ in range(2)
        )

    def add(self, z: Float[Tensor, "tokens dim"], s: Float[Tensor, "tokens dim"]) -> None:
        z, s = z.double(), s.double()
        self.count += len(z)
        self.z += z.sum(0)
        self.s += s.sum(0)
        if self.ss is not None:
            self.ss += s.T @ s
            self.sz += s.T @ z

    def solve(
        self, weight: Float[Tensor, "out dim"], shift: bool
    ) -> tuple[Float[Tensor, " dim"] | None, Float[Tensor, " dim"] | None]:
        """(γ, β) in float32 for ``weight`` [out, dim]; None for what is not asked for."""
        z, s = self.z / self.count, self.s / self.count
        gamma = torch.ones_like(s)
        if self.ss is not None:
            ss, sz = self.ss / self.count, self.sz / self.count
            if shift:
                ss, sz = ss - s[:, None] * s, sz - s[:, None] * z
            gram = weight.double().T @ weight.double()
            left, right = gram * ss, (gram * sz).sum(1)
            ridge = RIDGE * left.diagonal().mean().clamp(min=1e-30)
            left = left + ridge * torch.eye(len(left), dtype=left.dtype, device=left.device)
            gamma = torch.linalg.solve(left, right + ridge)  # the ridge pulls to 1, not to 0
        beta = (z - gamma * s).float() if shift else None
        return (gamma.float() if self.ss is not None else None), beta
