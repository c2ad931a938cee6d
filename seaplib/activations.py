"""Activation statistics of the prunable units (Eqs. 3-5), in one exact pass.

A unit's activation is its coordinate of the input of a projection: attention units are read at
the input of ``o``, MLP channels at the input of ``down``. Per coordinate we keep count, mean and
variance (1/n) over token positions, padding excluded, merged by Chan's rule in double precision,
so that the result does not depend on how the texts were batched or ordered. The norms of the
output projections' columns lie beside them, so that scores need no model.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from . import corpora, models, store
from .batching import batches
from .encoding import Encoded, encode
from .moments import Moments, RunningMoments
from .settings import Calibration

#: name of a module in statistics, scores and masks → role of the projection whose input is read
UNITS = {"attention": "o", "mlp": "down"}
UNIT_ROLES = tuple(UNITS.values())


@dataclass(frozen=True)
class ActivationStats:
    """Statistics of one corpus under one model; ``modules`` are ``attention`` and ``mlp``.

    ``mean``, ``var``, ``second_moment``: module → float64 [layers, dim], dim = heads·head_dim or
    channels. ``weight_l1``, ``weight_l2sq``: ‖w‖₁ and ‖w‖₂² of the column each coordinate feeds.
    ``count`` is the number of samples (tokens, or prompts with ``pooling="prompt"`` and ``"norm"``).
    ``stream`` [layers], float64: the residual stream's size ‖x‖² where each layer reads it, as the harmonic
    mean over token positions (whatever the pooling), which a few positions of huge norm do not dominate.
    """

    geometry: models.Geometry
    count: int
    mean: dict[str, torch.Tensor]
    var: dict[str, torch.Tensor]
    second_moment: dict[str, torch.Tensor]
    weight_l1: dict[str, torch.Tensor]
    weight_l2sq: dict[str, torch.Tensor]
    provenance: dict = field(default_factory=dict)
    stream: torch.Tensor | None = None

    TENSORS = ("mean", "var", "second_moment", "weight_l1", "weight_l2sq")

    def __repr__(self) -> str:
        task = self.provenance.get("task", "?")
        skipped = self.provenance.get("skipped", 0)
        less = f", {skipped} empty texts skipped" if skipped else ""
        return f"ActivationStats({task}: {self.count:,} samples, {self.geometry.layers} layers{less})"

    def norms(self) -> dict[str, torch.Tensor]:
        """Eq. 5, (1/n)·sqrt(Σh²) per coordinate: module → [layers, dim]."""
        return {module: (self.second_moment[module] / self.count).sqrt() for module in self.second_moment}

    def save(self, directory: Path) -> None:
        tensors = {
            f"{name}.{module}": t.contiguous() for name in self.TENSORS for module, t in getattr(self, name).items()
        }
        if self.stream is not None:
            tensors["stream"] = self.stream.contiguous()
        save_file(tensors, Path(directory) / "stats.safetensors")
        about = {"geometry": self.geometry.as_dict(), "count": self.count, "provenance": self.provenance}
        (Path(directory) / "stats.json").write_text(json.dumps(about, indent=1))

    @classmethod
    def load(cls, directory: Path) -> "ActivationStats":
        about = json.loads((Path(directory) / "stats.json").read_text())
        tensors = load_file(Path(directory) / "stats.safetensors")
        parts = {name: {} for name in cls.TENSORS} | {"stream": tensors.pop("stream", None)}
        for key, tensor in tensors.items():
            name, module = key.split(".")
            parts[name][module] = tensor
        return cls(models.Geometry(**about["geometry"]), about["count"], provenance=about["provenance"], **parts)


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


class Weights:
    """What statistics take from the model itself, worked out when asked for and once for all corpora."""

    def __init__(self, model):
        self.model = model

    @cached_property
    def identity(self) -> str:
        """The model's fingerprint."""
        return models.fingerprint(self.model)

    @cached_property
    def norms(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """‖w‖₁ and ‖w‖₂² of the output projections' columns: module → float64 [layers, dim] each."""
        layers, found = models.decoder_layers(self.model), {}
        for module, role in UNITS.items():
            columns = [_column_norms(models.weight(layer, role)) for layer in layers]
            found[module] = tuple(torch.stack(norms) for norms in zip(*columns, strict=True))
        return found


def collect(
    model,
    tokenizer,
    corpus,
    calibration: Calibration | None = None,
    progress: bool = True,
    weights: Weights | None = None,
) -> ActivationStats:
    """Run a corpus through the decoder (without LM head) and return its :class:`ActivationStats`.

    The corpus' first ``calibration.samples`` texts are used, all of them without a ``calibration``.
    Texts that tokenise to nothing are skipped, and counted in ``provenance["skipped"]``. ValueError
    where activations are not finite, with the first layer, module and text, and where no text is left.
    ``weights`` is the model's where other corpora share it: hashing and norms of all weights take a while.
    """
    if not isinstance(corpus, corpora.Corpus):
        raise TypeError(f"collect takes a Corpus (seaplib.corpus(...)), got {type(corpus).__name__}")
    calibration = calibration or Calibration(samples=max(len(corpus), 1))
    weights = weights or Weights(model)
    shape = models.geometry(model)
    texts = corpus.first(calibration.samples)
    encoded, kept, truncated = found = encode(model, tokenizer, texts.texts, calibration.max_length)
    starts_with_bos = all(ids[0] == tokenizer.bos_token_id for ids in encoded)
    if starts_with_bos and not calibration.bos and min(map(len, encoded)) < 2:
        raise ValueError("a text consists of the BOS token alone, so nothing is left without it")
    device = models.input_device(model)
    with (
        torch.inference_mode(),
        capture(model, pooling=calibration.pooling, estimator=calibration.estimator) as recorder,
    ):
        recorder.skip_first = starts_with_bos and not calibration.bos
        if calibration.estimator != "exact":  # order matters to these, and they take prompts one by one
            plan = ((torch.tensor([ids], device=device), None, [i]) for i, ids in enumerate(encoded))
        else:
            plan = batches(encoded, calibration.batch_tokens, device)
        with tqdm(
            total=len(encoded), desc=f"calibrating on {corpus.task}", unit="text", leave=False, disable=not progress
        ) as bar:
            for ids, mask, rows in plan:
                models.decoder(model)(input_ids=ids, attention_mask=mask, use_cache=False)
                bar.update(len(rows))
    parts = {name: {} for name in ActivationStats.TENSORS}
    for module, role in UNITS.items():
        count, parts["mean"][module], parts["var"][module], parts["second_moment"][module] = recorder.stacked(role)
        if not torch.isfinite(parts["second_moment"][module]).all():
            raise ValueError(f"{corpus.task}: {_not_finite(model, found, texts.ids)}")
        parts["weight_l1"][module], parts["weight_l2sq"][module] = weights.norms[module]
    provenance = {
        "task": corpus.task,
        "model": weights.identity,
        "corpus": texts.fingerprint,
        "ids": [texts.ids[i] for i in kept],
        "texts": len(encoded),
        "skipped": len(texts) - len(kept),
        "tokens": sum(map(len, encoded)),
        "truncated": truncated,
        "starts_with_bos": starts_with_bos,
        "calibration": calibration.as_dict(),
    }
    return ActivationStats(shape, count, provenance=provenance, stream=recorder.stream(), **parts)


def _not_finite(model, found: Encoded, ids: tuple[str, ...]) -> str:
    """Where activations stop being numbers: the first text, run by itself, and in it the first layer and module."""
    device = models.input_device(model)
    for place, tokens in zip(found.kept, found.ids, strict=True):
        with torch.inference_mode(), capture(model) as recorder:
            models.decoder(model)(input_ids=torch.tensor([tokens], device=device), use_cache=False)
        for layer, modules in enumerate(zip(*(recorder.moments[role] for role in UNITS.values()), strict=True)):
            for module, moments in zip(UNITS, modules, strict=True):
                if not torch.isfinite(moments.m2).all():
                    where = f"first in layer {layer} at text {ids[place]!r}"
                    return f"the model's {module} activations are not finite (NaN or Inf): {where}"
    return "activations are not finite (NaN or Inf) in a batch, though every text by itself is"


def _column_norms(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """‖w‖₁ and ‖w‖₂² of the columns of ``weight`` [out, in], one layer's at a time in double precision."""
    w = weight.double().cpu()
    return w.abs().sum(0), w.square().sum(0)


def calibrate(model, tokenizer, tasks, calibration: Calibration | None = None) -> dict[str, ActivationStats]:
    """Statistics of every task's corpus, task → stats, asking the store first.

    ``calibration.samples`` texts a task are drawn with ``calibration.seed``.
    """
    if isinstance(tasks, str):
        raise TypeError(f"calibrate takes a list of tasks, got the text {tasks!r}")
    calibration = calibration or Calibration()
    texts = {task: corpora.corpus(task, calibration.samples, calibration.seed) for task in tasks}
    return calibrate_texts(model, tokenizer, texts, calibration)


def calibrate_texts(model, tokenizer, texts: dict, calibration: Calibration | None = None) -> dict:
    """Statistics of every :class:`~seaplib.corpora.Corpus` in ``texts``, under the same keys, asking the store first.

    As in :func:`collect`, all texts of each without a ``calibration``.
    """
    weights = Weights(model)
    known = {"model": weights.identity, "tokenizer": models.tokenizer_fingerprint(tokenizer)}
    out, many = {}, len(texts) > 20  # then one bar for all of them
    for key, corpus in tqdm(texts.items(), desc="calibrating", unit="corpus", leave=False, disable=not many):
        settings = calibration or Calibration(samples=max(len(corpus), 1))
        spec = known | {"corpus": corpus.fingerprint, "calibration": settings.as_dict()}
        make = partial(collect, model, tokenizer, corpus, settings, not many, weights)
        out[key] = store.fetch("stats", spec, make, ActivationStats)
    return out


def weighted_mean(stats: dict[str, ActivationStats], weights: dict[str, float]) -> dict[str, torch.Tensor]:
    """Mean activation over tasks, weighted as the general score is (Eq. 15): module → [layers, dim].

    What compensation of a general mask adds back.
    """
    total = sum(weights[task] for task in stats)
    modules = next(iter(stats.values())).mean
    return {m: sum(weights[task] * one.mean[m] for task, one in stats.items()) / total for m in modules}
