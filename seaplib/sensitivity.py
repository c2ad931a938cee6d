"""How far a model's predictions move when one module alone loses units: what the allocation ``measured`` goes by.

    f_{ℓ,m}(ρ) = mean over tokens of KL(p ‖ p′),   p the dense model's next-token distribution, p′ that of the
                 model whose layer ℓ lost the lowest-scored share ρ of its attention (or MLP) and nothing else

It is the remove test of Figs. 5 and 6 for attention and MLP apart, on a few calibration texts instead of test
items, and on whole distributions instead of answers, so that little text says much and no label is needed. A
layer's inputs are computed once (:mod:`seaplib.prefix`). What it does not see is how the losses of several
modules add up: the allocation adds them.
"""

import hashlib
import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from . import corpora, likelihood, models, store
from .activations import UNITS
from .batching import affordable
from .encoding import encode
from .masks import PruningMask, attention_units, keep_all, keep_heads, lowest
from .pruning import prune
from .scores import Scores
from .settings import Calibration
from .waterfilling import Curves

SHARES = (0.25, 0.5, 0.75, 0.9)  # removed of a module; between them the curve is interpolated
TOKENS = 2048  # of every corpus; its dense distributions are kept meanwhile (4·vocabulary bytes a token)


@dataclass(frozen=True, eq=False)
class Sensitivity(Curves):
    """``losses`` module → [layers, points] in nats a token where ``shares`` module → [points] of it went."""

    provenance: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        found = {(m, i): float(row[-1]) for m, rows in self.losses.items() for i, row in enumerate(rows)}
        order = sorted(found, key=found.get)
        named = [f"layer {layer}'s {module}" for module, layer in (order[0], order[-1])]
        return f"Sensitivity({self.provenance.get('task', '?')}: least in {named[0]}, most in {named[1]})"

    def save(self, directory: Path) -> None:
        about = {name: {m: v.tolist() for m, v in getattr(self, name).items()} for name in ("shares", "losses")}
        text = json.dumps(about | {"provenance": self.provenance}, indent=1)
        (Path(directory) / "sensitivity.json").write_text(text)

    @classmethod
    def load(cls, directory: Path) -> "Sensitivity":
        about = json.loads((Path(directory) / "sensitivity.json").read_text())
        shares, losses = ({m: np.array(v) for m, v in about[name].items()} for name in ("shares", "losses"))
        return cls(shares, losses, about["provenance"])


class Gauge:
    """Measures sensitivities of one model on tasks' calibration texts, asking the store first.

    ``calibration`` says which texts are drawn, as in ``calibrate``; the first of them that make up
    ``tokens`` tokens are read.
    """

    def __init__(self, model, tokenizer, calibration: Calibration | None = None, tokens: int = TOKENS):
        self.model, self.tokenizer, self.tokens = model, tokenizer, tokens
        self.calibration = calibration or Calibration()
        self.geometry = models.geometry(model)
        self._texts: dict[str, _Texts] = {}
        self._known: dict[str, Sensitivity] = {}

    def __call__(self, scores: Scores, alpha: dict[str, float], kv_unit: str = "group") -> Sensitivity:
        """The sensitivity when units go in the order of ``scores``; ``alpha`` task → weight of its texts."""
        if not alpha:
            raise ValueError("a sensitivity is measured on at least one task's texts")
        drawn = {task: corpora.corpus(task, self.calibration.samples, self.calibration.seed) for task in sorted(alpha)}
        spec = {
            "model": models.fingerprint(self.model),
            "tokenizer": models.tokenizer_fingerprint(self.tokenizer),
            "attention": self.model.config._attn_implementation,
            "corpora": {task: [one.fingerprint, float(alpha[task])] for task, one in drawn.items()},
            "max_length": self.calibration.max_length,
            "scores": _order(scores),
            "kv_unit": kv_unit,
            "tokens": self.tokens,
        }
        key = store.digest(spec)
        if key not in self._known:
            make = partial(self._measure, scores, drawn, alpha, kv_unit)
            self._known[key] = store.fetch("sensitivity", spec, make, Sensitivity)
        return self._known[key]

    def _measure(self, scores: Scores, drawn: dict, alpha: dict[str, float], kv_unit: str) -> Sensitivity:
        for task, corpus in drawn.items():
            if task not in self._texts:
                self._texts[task] = _Texts(self.model, self.tokenizer, corpus, self.calibration.max_length, self.tokens)
        chosen = {task: self._texts[task] for task in drawn}
        return measure(self.model, scores, chosen, alpha, kv_unit)


def _order(scores: Scores) -> str:
    digest = hashlib.sha256(scores.reduction.encode())
    for tensor in (scores.attention, scores.channels):
        digest.update(tensor.double().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


class _Texts:
    """The first texts of a corpus as batches, and what the dense model predicts on them."""

    @torch.inference_mode()
    def __init__(self, model, tokenizer, corpus: corpora.Corpus, max_length: int, tokens: int):
        items, room = [], tokens
        for ids in encode(model, tokenizer, corpus.texts, max_length).ids:
            ids = ids[: room + 1]
            if len(ids) < 2:
                continue
            items.append([(ids[:1], ids[1:])])
            room -= len(ids) - 1
            if room < 1:
                break
        if not items:
            raise ValueError(f"{corpus.task}: no text of at least two tokens, so nothing is predicted")
        size = affordable(models.input_device(model), tokens)
        self.batches = likelihood.plan(items, models.context_length(model), size, share=False)
        self.inputs = likelihood.LayerInputs(model, self.batches)
        self.dense = list(likelihood.distributions(model, self.batches))
        self.count = tokens - room

    def divergence(self, model, first: int) -> float:
        """KL(dense ‖ ``model``), nats a token; ``model`` is the dense one before layer ``first``."""
        total = 0.0
        for p, q in zip(self.dense, likelihood.distributions(model, self.batches, self.inputs, first), strict=True):
            total += float((p.exp() * (p - q)).sum(-1).double().sum())
        if not np.isfinite(total):
            raise ValueError(likelihood.DAMAGED)
        return total / self.count


def measure(
    model, scores: Scores, texts: dict[str, _Texts], alpha: dict[str, float], kv_unit: str = "group"
) -> Sensitivity:
    """2·layers·len(SHARES) passes over every task's texts, each from the layer on that is pruned."""
    g, total = scores.geometry, sum(alpha[task] for task in texts)
    units = {"attention": attention_units(g, kv_unit), "mlp": g.channels}
    counts = {m: sorted({int(share * n + 1e-9) for share in SHARES} - {0}) or [1] for m, n in units.items()}
    losses = {module: np.zeros((g.layers, len(counts[module]))) for module in UNITS}
    cells = [(layer, m, place) for layer in range(g.layers) for m in UNITS for place in range(len(counts[m]))]
    for layer, module, place in tqdm(cells, desc="sensitivity", unit="mask", leave=False):
        pruned = prune(model, _alone(scores, module, layer, counts[module][place], kv_unit), "mask")
        each = {task: alpha[task] / total * one.divergence(pruned, layer) for task, one in texts.items()}
        losses[module][layer, place] = sum(each.values())
    shares = {module: np.array(counts[module]) / units[module] for module in UNITS}
    provenance = dict(scores.provenance) | {"task": "+".join(texts), "tokens": sum(one.count for one in texts.values())}
    return Sensitivity(shares, losses, provenance)


def _alone(scores: Scores, module: str, layer: int, count: int, kv_unit: str) -> PruningMask:
    """The mask that removes ``count`` units of one layer's ``module`` and nothing else."""
    mask = keep_all(scores.geometry)
    if module == "attention":
        mask.heads[layer] = keep_heads(scores.heads[layer], count, scores.geometry, kv_unit)
    else:
        mask.channels[layer] = lowest(scores.channels[layer], count)
    return mask
