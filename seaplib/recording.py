"""Activations as they pass: hooks that take the moments of projections' inputs while a context is open."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from . import models
from .moments import Moments, RunningMoments

#: name of a module in statistics, scores and masks → role of the projection whose input is read
UNITS = {"attention": "o", "mlp": "down"}
UNIT_ROLES = tuple(UNITS.values())


class Recorder:
    """What :func:`capture` yields: moments per role and layer, filled by every forward pass.

    The decoder's attention mask says which positions count in the current pass; ``skip_first`` leaves
    the first one out too.
    """

    def __init__(self, roles, layers: int, pooling: str, estimator: str):
        self.pooling = pooling
        self.estimator = estimator
        self.tokens: tuple[int, int] | None = None  # [batch, tokens] of the current pass
        self.skip_first = False
        self._mask: torch.Tensor | None = None  # [batch, tokens], with a KV cache the earlier ones too
        self._kept: dict = {}  # of the current pass, by length and device: a model may lie on several
        self.moments = {role: [self._empty() for _ in range(layers)] for role in roles}
        self.positions, self.inverse = [0] * layers, [0.0] * layers  # Σ 1/‖x‖² of the residual stream per layer

    def _empty(self) -> Moments | RunningMoments:
        if self.estimator == "exact":
            return Moments(0, torch.zeros(()), torch.zeros(()))
        return RunningMoments("token" if self.estimator == "authors" else "prompt")

    def begin(self, mask: torch.Tensor | None, tokens: tuple[int, int] | None) -> None:
        """A forward pass of ``tokens`` [batch, tokens] starts, with attention ``mask``."""
        self._mask = mask.bool() if torch.is_tensor(mask) and mask.dim() == 2 else None
        self.tokens, self._kept = tokens, {}

    def _positions(self, batch: int, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int]:
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

    def update(self, role: str, layer: int, x: torch.Tensor) -> None:
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

    def update_stream(self, layer: int, x: torch.Tensor) -> None:
        """Add the residual stream ``x`` [batch, tokens, hidden] that a layer reads."""
        keep, _, count = self._positions(*x.shape[:2], x.device)
        size = x.detach().float().square().sum(-1)[keep].double()
        self.positions[layer] += count
        self.inverse[layer] += float((1 / size.clamp(min=torch.finfo(torch.float32).tiny)).sum())

    def stream(self) -> torch.Tensor:
        """Harmonic mean over positions of ‖x‖² where each layer reads the stream, [layers], float64."""
        found = zip(self.positions, self.inverse, strict=True)
        return torch.tensor([count / inverse for count, inverse in found], dtype=torch.float64)

    def stacked(self, role: str) -> tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]:
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
    layers = [layer for index, layer in enumerate(models.decoder_layers(model)) if only is None or index in only]
    recorder = Recorder(roles, len(layers), pooling, estimator)

    def note_mask(module, args, kwargs):
        ids = args[0] if args else kwargs.get("input_ids")
        recorder.begin(kwargs.get("attention_mask"), None if ids is None else tuple(ids.shape))

    def note_input(role, index):
        return lambda module, args: recorder.update(role, index, args[0].detach())

    def note_stream(index):
        return lambda module, args, kwargs: recorder.update_stream(index, args[0] if args else kwargs["hidden_states"])

    handles = [models.decoder(model).register_forward_pre_hook(note_mask, with_kwargs=True)]
    try:
        for index, layer in enumerate(layers):
            handles.append(layer.register_forward_pre_hook(note_stream(index), with_kwargs=True))
            for role in roles:
                handles.append(models.linear(layer, role).register_forward_pre_hook(note_input(role, index)))
        yield recorder
    finally:
        for handle in handles:
            handle.remove()
