"""Activation statistics of the prunable units (Eqs. 3-5), in one exact pass.

A unit's activation is its coordinate of the input of a projection: attention units are read at
the input of ``o``, MLP channels at the input of ``down``. Per coordinate we keep count, mean and
variance (1/n) over token positions, padding excluded, merged by Chan's rule in double precision,
so that the result does not depend on how the texts were batched or ordered. The norms of the
output projections' columns lie beside them, so that scores need no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from tqdm.auto import tqdm

from .. import files, store
from ..models import identity, shapes
from ..models.layers import decoder, decoder_layers, geometry, input_device, weight
from ..models.passes import Encoded, batches, encode, evaluating
from ..models.state import pruned
from ..settings import Calibration
from ..texts import corpora
from .capture import UNITS, capture


@dataclass(frozen=True)
class ActivationStats:
    """Statistics of a corpus under a model; ``modules`` are ``attention`` and ``mlp``.

    ``mean``, ``var``, ``second_moment``: module → float64 [layers, dim], dim = heads·head_dim or
    channels. ``weight_l1``, ``weight_l2sq``: ‖w‖₁ and ‖w‖₂² of the column each coordinate feeds.
    ``count`` is the number of samples (tokens, or prompts with ``pooling="prompt"`` and ``"norm"``).
    ``stream`` [layers], float64: the residual stream's size ‖x‖² where each layer reads it, as the harmonic
    mean over token positions (whatever the pooling), which a few positions of huge norm do not dominate.
    """

    geometry: shapes.Geometry
    count: int
    mean: dict[str, Float64[Tensor, "layers _"]]
    var: dict[str, Float64[Tensor, "layers _"]]
    second_moment: dict[str, Float64[Tensor, "layers _"]]
    weight_l1: dict[str, Float64[Tensor, "layers _"]]
    weight_l2sq: dict[str, Float64[Tensor, "layers _"]]
    provenance: dict = field(default_factory=dict)
    stream: Float64[Tensor, " layers"] | None = None

    TENSORS = ("mean", "var", "second_moment", "weight_l1", "weight_l2sq")

    def __repr__(self) -> str:
        task = self.provenance.get("task", "?")
        skipped = self.provenance.get("skipped", 0)
        less = f", {skipped} empty texts skipped" if skipped else ""
        return f"ActivationStats({task}: {self.count:,} samples, {self.geometry.layers} layers{less})"

    def norms(self) -> dict[str, Float64[Tensor, "layers _"]]:
        """Eq. 5, (1/n)·sqrt(Σh²) per coordinate: module → [layers, dim]."""
        return {module: (self.second_moment[module] / self.count).sqrt() for module in self.second_moment}

    def save(self, directory: Path) -> None:
        tensors = files.flat({name: getattr(self, name) for name in self.TENSORS})
        if self.stream is not None:
            tensors["stream"] = self.stream
        facts = {"geometry": self.geometry.as_dict(), "count": self.count, "provenance": self.provenance}
        files.save(directory, "stats", tensors, facts)

    @classmethod
    @files.loader("set of activation statistics")
    def load(cls, directory: Path) -> "ActivationStats":
        tensors, facts = files.load(directory, "stats")
        stream, shape = tensors.pop("stream", None), shapes.Geometry(**facts["geometry"])
        return cls(shape, facts["count"], provenance=facts["provenance"], stream=stream, **files.grouped(tensors))


class Weights:
    """Fingerprint and weight norms of a model, worked out when asked for and once for all corpora."""

    def __init__(self, model):
        self.model = model

    @cached_property
    def identity(self) -> str:
        """The model's fingerprint."""
        return identity.fingerprint(self.model)

    @cached_property
    def norms(self) -> dict[str, tuple[Float64[Tensor, "layers dim"], Float64[Tensor, "layers dim"]]]:
        """‖w‖₁ and ‖w‖₂² of the output projections' columns: module → float64 [layers, dim] each."""
        layers, found = decoder_layers(self.model), {}
        for module, role in UNITS.items():
            columns = [_column_norms(weight(layer, role)) for layer in layers]
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
    ``weights`` are shared between corpora of the same model: hashing and norms of all weights take a while.
    """
    if not isinstance(corpus, corpora.Corpus):
        raise TypeError(f"collect takes a Corpus (seaplib.corpus(...)), got {type(corpus).__name__}")
    calibration = calibration or Calibration(samples=max(len(corpus), 1))
    weights = weights or Weights(model)
    shape = geometry(model)
    texts = corpus.first(calibration.samples)
    encoded = encode(model, tokenizer, texts.texts, calibration.max_length, calibration.bos)
    at_once = (
        calibration.batch_tokens if calibration.estimator == "exact" else None
    )  # the published codes take texts in order
    with capture(model, pooling=calibration.pooling, estimator=calibration.estimator) as recorder:
        recorder.skip_first = encoded.skip_first
        described = f"calibrating on {corpus.task}"
        for batch in batches(encoded, input_device(model), at_once, described, progress):
            batch.run(model)
    parts = {name: {} for name in ActivationStats.TENSORS}
    for module, role in UNITS.items():
        count, parts["mean"][module], parts["var"][module], parts["second_moment"][module] = recorder.stacked(role)
        if not torch.isfinite(parts["second_moment"][module]).all():
            raise ValueError(f"{corpus.task}: {_not_finite(model, encoded, texts.ids)}")
        parts["weight_l1"][module], parts["weight_l2sq"][module] = weights.norms[module]
    provenance = {
        "task": corpus.task,
        "model": weights.identity,
        "corpus": texts.fingerprint,
        "ids": [texts.ids[i] for i in encoded.kept],
        "texts": len(encoded.ids),
        "skipped": len(texts) - len(encoded.kept),
        "tokens": sum(map(len, encoded.ids)),
        "truncated": encoded.truncated,
        "starts_with_bos": encoded.starts_with_bos,
        "calibration": calibration.as_dict(),
    }
    if how := pruned(model):
        provenance["pruned"] = how
    return ActivationStats(shape, count, provenance=provenance, stream=recorder.stream(), **parts)


def _not_finite(model, found: Encoded, ids: tuple[str, ...]) -> str:
    """Where activations stop being numbers: the first text, run by itself, and in it the first layer and module."""
    device = input_device(model)
    for place, tokens in zip(found.kept, found.ids, strict=True):
        with torch.inference_mode(), evaluating(model), capture(model) as recorder:
            decoder(model)(input_ids=torch.tensor([tokens], device=device), use_cache=False)
        for layer, modules in enumerate(zip(*(recorder.moments[role] for role in UNITS.values()), strict=True)):
            for module, moments in zip(UNITS, modules, strict=True):
                if not torch.isfinite(moments.m2).all():
                    where = f"first in layer {layer} at text {ids[place]!r}"
                    return f"the model's {module} activations are not finite (NaN or Inf): {where}"
    return "activations are not finite (NaN or Inf) in a batch, though every text by itself is"


def _column_norms(weight: Float[Tensor, "out dim"]) -> tuple[Float64[Tensor, " dim"], Float64[Tensor, " dim"]]:
    """‖w‖₁ and ‖w‖₂² of the columns of ``weight`` [out, in], in double precision."""
    w = weight.double().cpu()
    return w.abs().sum(0), w.square().sum(0)


def calibrate(model, tokenizer, tasks, calibration: Calibration | None = None) -> dict[str, ActivationStats]:
    """Statistics of every task's corpus, task → stats, asking the store first.

    ``calibration.samples`` texts a task are drawn with ``calibration.seed``.
    """
    if isinstance(tasks, str):
        raise TypeError(f"calibrate takes a list of tasks, got the text {tasks!r}")
    if not tasks:
        raise ValueError("calibrate takes at least one task")
    calibration = calibration or Calibration()
    texts = {task: corpora.corpus(task, calibration.samples, calibration.seed) for task in tasks}
    return calibrate_texts(model, tokenizer, texts, calibration)


def calibrate_texts(model, tokenizer, texts: dict, calibration: Calibration | None = None) -> dict:
    """Statistics of every :class:`~seaplib.Corpus` in ``texts``, under the same keys, asking the store first.

    As in :func:`collect`, all texts of each without a ``calibration``.
    """
    weights = Weights(model)
    known = identity.specification(weights.identity, tokenizer)
    out, many = {}, len(texts) > 20  # then a single progress bar for all of them
    for key, corpus in tqdm(texts.items(), desc="calibrating", unit="corpus", leave=False, disable=not many):
        settings = calibration or Calibration(samples=max(len(corpus), 1))
        spec = known | {"corpus": corpus.fingerprint, "calibration": settings.as_dict()}
        make = partial(collect, model, tokenizer, corpus, settings, not many, weights)
        out[key] = store.fetch("stats", spec, make, ActivationStats)
    return out


def weighted_mean(
    stats: dict[str, ActivationStats], weights: dict[str, int | float]
) -> dict[str, Float64[Tensor, "layers _"]]:
    """Mean activation over tasks, weighted as the general score is (Eq. 15): module → [layers, dim].

    Compensation of a general mask adds this mean back.
    """
    total = sum(weights[task] for task in stats)
    modules = next(iter(stats.values())).mean
    return {m: sum(weights[task] * own.mean[m] for task, own in stats.items()) / total for m in modules}


def merge(parts: Sequence[ActivationStats]) -> ActivationStats:
    """The statistics of several corpora as if these were a single corpus; exact, whatever the order.

    ValueError where ``parts`` is empty, where models or ways of collecting differ, and where the estimates
    are the published codes' running estimates, which do not merge.
    """
    if not parts:
        raise ValueError("there is nothing to merge: no statistics")
    first = parts[0]
    conditions = [_conditions(part) for part in parts]
    if any(found != conditions[0] for found in conditions):
        raise ValueError("statistics merge only if model, pooling and BOS are the same in all of them")
    if conditions[0].get("estimator", "exact") != "exact":
        raise ValueError("running estimates of the published codes do not merge; collect with estimator='exact'")
    count = sum(part.count for part in parts)
    mean, var, second = {}, {}, {}
    for module in first.mean:
        means = torch.stack([part.mean[module] for part in parts])
        share = torch.tensor([part.count / count for part in parts], dtype=torch.float64)[:, None, None]
        mean[module] = (share * means).sum(0)
        spread = torch.stack([part.var[module] for part in parts]) + (means - mean[module]).square()
        var[module] = (share * spread).sum(0)
        second[module] = var[module] + mean[module].square()
    about = [part.provenance for part in parts]
    joined = {
        "task": "+".join(dict.fromkeys(str(facts.get("task", "?")) for facts in about)),
        "corpus": store.digest([facts.get("corpus") for facts in about]),
        "ids": [i for facts in about for i in facts.get("ids", ())],
    }
    sums = {name: sum(facts.get(name, 0) for facts in about) for name in ("texts", "skipped", "tokens", "truncated")}
    provenance = dict(first.provenance) | joined | sums
    # the stream's size has no count of its own here, so it is not merged: the allocation "energy" refuses
    return replace(first, count=count, mean=mean, var=var, second_moment=second, stream=None, provenance=provenance)


def _conditions(stats: ActivationStats) -> dict:
    """The settings that must be the same in statistics that are merged."""
    how = stats.provenance.get("calibration", {})
    named = {name: how.get(name) for name in ("pooling", "bos", "estimator", "max_length") if name in how}
    return named | {"model": stats.provenance.get("model"), "geometry": stats.geometry}
