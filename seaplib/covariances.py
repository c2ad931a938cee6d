"""Covariances of the prunable units over calibration text, which least-squares compensation needs.

One pass more through the decoder, or several where the matrices of all layers take more than
``MATRIX_BYTES`` at once (8·dim² bytes a module while they are summed). Beside the pass itself that is
tokens·dim² multiplications a module: for a Llama-like layer about two thirds of its own, in double precision.
"""

from functools import partial

import torch

from . import corpora, models, store
from .compensation import Covariances
from .input_statistics import watch
from .recording import UNITS
from .settings import MATRIX_BYTES, Calibration


class _Sums:
    """Running mean and covariance of rows [tokens, dim], float64; batches merge by Chan's rule."""

    def __init__(self):
        self.count, self.mean, self.m2 = 0, None, None

    def add(self, x: torch.Tensor) -> None:
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


def collect(
    model, tokenizer, corpus: corpora.Corpus, calibration: Calibration | None = None, progress: bool = True
) -> Covariances:
    """Run a corpus' first texts through the decoder and return the :class:`Covariances` of its units.

    The samples are token positions (``calibration.pooling`` and ``.estimator`` are not looked at), padding
    left out. ValueError where activations are not finite.
    """
    if not isinstance(corpus, corpora.Corpus):
        raise TypeError(f"covariances are collected on a Corpus (seaplib.corpus(...)), got {type(corpus).__name__}")
    calibration = calibration or Calibration(samples=max(len(corpus), 1))
    shape = models.geometry(model)
    waiting = [(module, layer) for layer in range(shape.layers) for module in UNITS]
    width = {"attention": shape.heads * shape.head_dim, "mlp": shape.channels}
    tensors, count = {}, 0
    while waiting:
        chosen, used = [], 0
        while waiting and (not chosen or used + 8 * width[waiting[0][0]] ** 2 <= MATRIX_BYTES):
            used += 8 * width[waiting[0][0]] ** 2
            chosen.append(waiting.pop(0))
        sums = {key: _Sums() for key in chosen}
        inputs = {models.linear(models.decoder_layers(model)[i], UNITS[m]): sums[m, i].add for m, i in chosen}
        described = f"covariances on {corpus.task}"
        count = watch(model, tokenizer, corpus, calibration, inputs, None, progress, described)
        for (module, layer), one in sums.items():
            if one.m2 is None or not torch.isfinite(one.m2).all():
                where = f"the {module} activations of layer {layer}"
                raise ValueError(f"{corpus.task}: {where} are not finite (NaN or Inf)")
            tensors[f"mean.{module}.{layer}"] = one.mean.float().cpu()
            tensors[f"covariance.{module}.{layer}"] = (one.m2 / one.count).float().cpu()
    provenance = {"task": corpus.task, "calibration": calibration.as_dict(), "corpus": corpus.fingerprint}
    return Covariances.of(shape, count, tensors, provenance)


def calibrate(model, tokenizer, tasks, calibration: Calibration | None = None) -> dict[str, Covariances]:
    """Every task's :class:`Covariances` on the texts that ``calibrate`` draws, asking the store first."""
    if isinstance(tasks, str):
        raise TypeError(f"calibrate takes a list of tasks, got the text {tasks!r}")
    calibration = calibration or Calibration()
    known = {"model": models.fingerprint(model), "tokenizer": models.tokenizer_fingerprint(tokenizer)}
    out = {}
    for task in tasks:
        corpus = corpora.corpus(task, calibration.samples, calibration.seed)
        spec = known | {"corpus": corpus.fingerprint, "calibration": calibration.as_dict()}
        make = partial(collect, model, tokenizer, corpus, calibration)
        out[task] = store.fetch("covariances", spec, make, Covariances)
    return out
