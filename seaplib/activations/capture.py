"""Moments of projections' inputs during forward passes, taken by hooks while a context is open."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from ..models.layers import decoder, decoder_layers, linear

#: name of a module in statistics, scores and masks → role of the projection whose input is read
UNITS = {"attention": "o", "mlp": "down"}
UNIT_ROLES = tuple(UNITS.values())


@dataclass
class Moments:
    """Running count, mean and sum of squared deviations of ``dim`` coordinates, float64.

    Chan, Golub & LeVeque (1979): two sets merge as n = n₁+n₂, δ = m₂−m₁, m = m₁ + δ·n₂/n,
    M = M₁ + M₂ + δ²·n₁n₂/n.
    """

    count: int
    mean: Float64[Tensor, "*dim"]
    m2: Float64[Tensor, "*dim"]

    @classmethod
    def of(
        cls, x: Float[Tensor, "n dim"], left_out: Int[Tensor, " left_out"] | None = None, count: int | None = None
    ) -> "Moments":
        """Moments of samples ``x`` [n, dim] without the rows ``left_out``, after which ``count`` remain.

        Two passes over a copy in float32 or better, with sums over rows (``torch.var_mean`` over the
        first dimension takes five times as long on a CPU). A value in the rows left out, NaN
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
    """The running estimates of the published codes, prompt by prompt, float32.

    ``per="token"`` (SEAP's code) counts tokens; ``per="prompt"`` (FLAP's code) counts prompts, sums
    squares over a prompt's tokens, and measures deviations twice around the mean that already
    contains the prompt. In both, the first prompt's fluctuation counts as zero. Kept for the presets
    that reproduce published masks.
    """

    per: str
    count: int = 0
    mean: Float[Tensor, " dim"] | float = 0.0
    var: Float[Tensor, " dim"] | float = 0.0
    second_moment: Float[Tensor, " dim"] | float = 0.0

    def update(self, x: Float[Tensor, "tokens dim"]) -> None:
        """Add a prompt ``x`` [tokens, dim]."""
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


class Recorder:
    """What :func:`capture` yields: moments per role and layer, filled by every forward pass.

    The decoder's attention mask says which positions count in the current pass; ``skip_first`` leaves
    out the first position too.
    """

    def __init__(self, roles, layers: int, pooling: str, estimator: str):
        self.pooling = pooling
        self.estimator = estimator
        self.tokens: tuple[int, int] | None = None  # [batch, tokens] of the current pass
        self.skip_first = False
        self._mask: Tensor | None = None  # [batch, tokens], with a KV cache the earlier tokens too
        self._kept: dict = {}  # of the current pass, by length and device: a model may lie on several
        self.moments = {role: [self._empty() for _ in range(layers)] for role in roles}
        self.positions, self.inverse = [0] * layers, [0.0] * layers  # Σ 1/‖x‖² of the residual stream per layer

    def _empty(self) -> Moments | RunningMoments:
        if self.estimator == "exact":
            zero = torch.zeros((), dtype=torch.float64)
            return Moments(0, zero, zero)
        return RunningMoments("token" if self.estimator == "authors" else "prompt")

    def begin(self, mask: Tensor | None, tokens: tuple[int, int] | None) -> None:
        """A forward pass of ``tokens`` [batch, tokens] starts, with attention ``mask``."""
        self._mask = mask.bool() if torch.is_tensor(mask) and mask.dim() == 2 else None
        self.tokens, self._kept = tokens, {}

    def _positions(
        self, batch: int, length: int, device: torch.device
    ) -> tuple[Bool[Tensor, "batch tokens"], Int[Tensor, " left_out"], int]:
        """Which positions count [batch, tokens], the places of the others once flattened, and how many count."""
        if (length, device) not in self._kept:
            if self._mask is None:
                keep = torch.ones((batch, length), dtype=torch.bool, device=device)
            else:
                keep = self._mask[:, -length:].to(device, copy=True)
            if self.skip_first:
                keep[:, 0] = False
            left_out = (~keep).flatten().nonzero().squeeze(1)
            self._kept[length, device] = keep, left_out, keep.numel() - len(left_out)
        return self._kept[length, device]

    def update(self, role: str, layer: int, x: Float[Tensor, "*tokens dim"]) -> None:
        """Add activations ``x`` [batch, tokens, dim] (or [batch·tokens, dim], as OPT's MLP has them)."""
        if x.dim() == 2 and self.tokens is not None:
            x = x.unflatten(0, self.tokens)
        keep, left_out, count = self._positions(*x.shape[:2], x.device)
        if self.estimator != "exact":
            for prompt, valid in zip(x, keep, strict=True):
                self.moments[role][layer].update(prompt[valid].cpu())
            return
        if self.pooling == "prompt":
            x = x if x.dtype == torch.float64 else x.float()  # long sums lose digits in half precision
            weight = keep.unsqueeze(-1).to(x.dtype)
            new = Moments.of(((x * weight).sum(1) / weight.sum(1))[keep.any(1)])
        elif self.pooling == "norm":
            new = Moments.of((x.double() * keep.unsqueeze(-1)).square().sum(1).sqrt()[keep.any(1)])
        else:
            new = Moments.of(x.flatten(0, 1), left_out, count)
        self.moments[role][layer] = self.moments[role][layer].merge(new)

    def update_stream(self, layer: int, x: Float[Tensor, "batch tokens hidden"]) -> None:
        """Add the residual stream ``x`` [batch, tokens, hidden] that a layer reads."""
        keep, _, count = self._positions(*x.shape[:2], x.device)
        size = x.detach().float().square().sum(-1)[keep].double()
        self.positions[layer] += count
        self.inverse[layer] += float((1 / size.clamp(min=torch.finfo(torch.float32).tiny)).sum())

    def stream(self) -> Float64[Tensor, " layers"]:
        """Harmonic mean over positions of ‖x‖² where each layer reads the stream, [layers], float64."""
        found = zip(self.positions, self.inverse, strict=True)
        return torch.tensor([count / inverse for count, inverse in found], dtype=torch.float64)

    def stacked(
        self, role: str
    ) -> tuple[int, Float64[Tensor, "layers dim"], Float64[Tensor, "layers dim"], Float64[Tensor, "layers dim"]]:
        """count, mean, var, second moment of a role, the last three [layers, dim] in float64."""
        rows = self.moments[role]
        if rows[0].count == 0:
            raise ValueError("no activations were captured: run the model inside the context")
        mean = torch.stack([row.mean.double().cpu() for row in rows])
        if self.estimator != "exact":
            var = torch.stack([torch.as_tensor(row.var).double().expand(mean.shape[1]) for row in rows])
            return rows[0].count, mean, var, torch.stack([row.second_moment.double() for row in rows])
        var = torch.stack([(row.m2 / row.count).cpu() for row in rows])
        return rows[0].count, mean, var, var + mean.square()


@contextmanager
def capture(
    model,
    roles=UNIT_ROLES,
    pooling: str = "token",
    estimator: str = "exact",
    only: tuple[int, ...] | None = None,
) -> Iterator[Recorder]:
    """Record the inputs of the projections ``roles`` of every layer (or ``only`` some) while the context is open.

    The hooks are gone on exit, also after an error; the model is never changed.
    """
    layers = [layer for index, layer in enumerate(decoder_layers(model)) if only is None or index in only]
    recorder = Recorder(roles, len(layers), pooling, estimator)

    def note_mask(module, args, kwargs):
        ids = args[0] if args else kwargs.get("input_ids")
        recorder.begin(kwargs.get("attention_mask"), None if ids is None else tuple(ids.shape))

    def note_input(role, index):
        return lambda module, args: recorder.update(role, index, args[0].detach())

    def note_stream(index):
        return lambda module, args, kwargs: recorder.update_stream(index, args[0] if args else kwargs["hidden_states"])

    handles = [decoder(model).register_forward_pre_hook(note_mask, with_kwargs=True)]
    try:
        for index, layer in enumerate(layers):
            handles.append(layer.register_forward_pre_hook(note_stream(index), with_kwargs=True))
            for role in roles:
                handles.append(linear(layer, role).register_forward_pre_hook(note_input(role, index)))
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


class _Sums:
    """Running mean and covariance of rows [tokens, dim], float64; batches merge by Chan's rule."""

    def __init__(self):
        self.count, self.mean, self.m2 = 0, None, None

    def add(self, x: Float[Tensor, "tokens dim"]) -> None:
        x = x.double()
        if not len(x):
            return
        mean = x.mean(0)
        x = x - mean
        if self.mean is None:
            self.count, self.mean, self.m2 = len(x), mean, x.T @ x
            return
        total, delta = self.count + len(x), mean - self.mean
        self.m2 += x.T @ x
        self.m2 += torch.outer(delta, delta) * (self.count * len(x) / total)
        self.mean, self.count = self.mean + delta * (len(x) / total), total
