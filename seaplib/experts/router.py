"""The router of prompts to experts: a calibrated classifier of mean layer-0 embeddings, which may abstain.

    z(p) = (e(p) − m) / s,   P(τ | p) = softmax(β (W z(p) + b))_τ,
    expert(p) = argmax_τ P(τ | p) if max_τ P(τ | p) ≥ θ, else general

e is the embedding of :mod:`seaplib.experts.classifier`, W and b are its logistic regression. β is the inverse
temperature (Guo et al. 2017), fitted to predictions for prompts that the regression did not see, with
Platt's targets: where all of N predictions are right, their confidence goes to (N + 1)/(N + 2) and
not to 1. θ is the largest threshold under which a wanted share of such prompts is still routed.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from statsmodels.stats.proportion import proportion_confint

from .. import files, store
from ..models import identity, layers
from ..settings import WORDINGS, Routing
from ..texts import corpora, lm_eval, tasks
from ..texts.rows import read_rows
from . import classifier

GENERAL = "general"
ARRAYS = ("mean", "scale", "weight", "bias", "sharpness", "threshold")
FOLDS = 5


@dataclass(frozen=True)
class Router:
    """A trained router: its arrays and its decisions.

    ``mean`` and ``scale`` [hidden], ``weight`` [classes, hidden], ``bias`` [classes], float64;
    ``sharpness`` is β, ``threshold`` θ. A decision depends on the prompt alone, to the last bit.
    """

    classes: tuple[str, ...]
    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    sharpness: float
    threshold: float
    provenance: dict = field(default_factory=dict)

    def __post_init__(self):
        for name in ARRAYS[:4]:  # in one layout, on which the order of a sum depends
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=np.float64))
        classes, hidden = len(self.classes), len(self.mean)
        shapes = {"scale": (hidden,), "weight": (classes, hidden), "bias": (classes,)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"the router's {name} has shape {getattr(self, name).shape}, it needs {shape}")
        if GENERAL in self.classes:
            raise ValueError(f"{GENERAL!r} is what a router answers below its threshold; it cannot be a class")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"a threshold is a probability, got {self.threshold}")

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """P(τ | p) of ``features`` [prompts, hidden]: [prompts, classes], float64."""
        if features.shape[-1] != len(self.mean):
            raise ValueError(f"the router was made for {len(self.mean)} dimensions, got {features.shape[-1]}")
        z = (features - self.mean) / self.scale
        # einsum's own loop, unlike BLAS, gives a row the same bits whatever stands beside it
        return softmax(self.sharpness * (np.einsum("ph,ch->pc", z, self.weight) + self.bias), axis=1)

    def decide(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The expert of every prompt (``general`` below the threshold), and the probability of the likeliest class."""
        probabilities = self.probabilities(features)
        confidence = probabilities.max(1)
        names = np.array([*self.classes, GENERAL], dtype=object)
        return names[np.where(confidence >= self.threshold, probabilities.argmax(1), -1)], confidence

    def at(self, threshold: float) -> "Router":
        """The same router with another threshold; 0 never abstains."""
        return replace(self, threshold=float(threshold))

    @property
    def fingerprint(self) -> str:
        """Changes with anything that could change a decision."""
        arrays = [np.asarray(getattr(self, name), np.float64).tobytes().hex() for name in ARRAYS]
        return store.digest([self.classes, arrays])

    def __repr__(self) -> str:
        return f"Router({len(self.classes)} experts: {', '.join(self.classes)}; general below {self.threshold:.3f})"

    def save(self, directory: Path) -> None:
        Path(directory).mkdir(parents=True, exist_ok=True)
        arrays = {name: np.array(getattr(self, name), dtype=np.float64, order="C") for name in ARRAYS}
        save_file(arrays, Path(directory) / "router.safetensors")
        about = {"classes": self.classes, "provenance": self.provenance}
        (Path(directory) / "router.json").write_text(json.dumps(about, indent=1))

    @classmethod
    @files.loader("router")
    def load(cls, directory: Path) -> "Router":
        about = json.loads((Path(directory) / "router.json").read_text())
        arrays = load_file(Path(directory) / "router.safetensors")
        scalars = {name: float(arrays.pop(name)) for name in ("sharpness", "threshold")}
        return cls(tuple(about["classes"]), **arrays, **scalars, provenance=about["provenance"])


def fit(
    features: np.ndarray, experts: Sequence[str], routing: Routing | None = None, provenance: dict | None = None
) -> Router:
    """A router trained on ``features`` [prompts, hidden] and each prompt's expert.

    Only a linear classifier can be fitted: the router is made of the ``coef_`` and ``intercept_`` of
    :func:`seaplib.experts.classifier.train`'s regression.

    Temperature and threshold come from cross-validated predictions (``FOLDS`` folds, drawn by ``routing.seed``);
    the regression is trained on all prompts. ``routing.coverage`` is the share of prompts to be routed. ValueError
    where an expert has fewer prompts than there are folds.
    """
    routing = routing or Routing()
    experts = np.asarray(experts)
    names, counts = np.unique(experts, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"a router needs at least two experts, got {', '.join(names) or 'none'}")
    if counts.min() < FOLDS:
        raise ValueError(f"{names[counts.argmin()]} has {counts.min()} prompts; a router needs {FOLDS} of each expert")
    features = np.asarray(features, dtype=np.float64)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=routing.seed)
    scaler, regression = classifier.train(features, experts)
    unseen = cross_val_predict(classifier.untrained(), features, experts, cv=folds, method="decision_function")
    weight, bias = regression.coef_, regression.intercept_
    if len(weight) == 1:  # one row for two classes, the second's against the first's
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
        unseen = np.stack([0 * unseen, unseen], axis=1)
    sharpness = _sharpness(unseen, np.searchsorted(names, experts))
    unseen = softmax(sharpness * unseen, axis=1)
    about = {"prompts": dict(zip(names.tolist(), counts.tolist(), strict=True))}
    about |= {"coverage": routing.coverage, "seed": routing.seed}
    about["accuracy_left_out"] = float((names[unseen.argmax(1)] == experts).mean())
    threshold = threshold_at(unseen.max(1), routing.coverage)
    arrays = (scaler.mean_, scaler.scale_, weight, bias)
    return Router(tuple(names.tolist()), *arrays, sharpness, threshold, about | (provenance or {}))


def _sharpness(logits: np.ndarray, truth: np.ndarray) -> float:
    """β that makes softmax(β · ``logits``) [prompts, classes] likeliest, under Platt's targets."""
    doubt = 1 / (np.bincount(truth)[truth] + 2)
    targets = np.repeat(doubt[:, None] / (logits.shape[1] - 1), logits.shape[1], axis=1)
    targets[np.arange(len(truth)), truth] = 1 - doubt
    found = minimize_scalar(
        lambda log_beta: -(targets * log_softmax(np.exp(log_beta) * logits, axis=1)).sum(), bounds=(-10.0, 10.0)
    )
    return float(np.exp(found.x))


def train(model, tokenizer, names: Sequence[str], routing: Routing | None = None) -> Router:
    """A router between the experts of the tasks ``names``, from training prompts, asking the store first.

    Duplicates among the prompts count once.
    """
    routing = routing or Routing()
    frame = asked(names, routing.per_task, routing.seed, routing.wording).drop_duplicates("text")
    about = {"tasks": list(names), "ids": frame["id"].tolist()} | routing.as_dict()
    about |= identity.specification(model, tokenizer)
    asks = {"texts": store.digest(frame["text"].tolist()), "experts": frame["expert"].tolist()}

    def make() -> Router:
        return fit(embed(model, tokenizer, frame["text"]), frame["expert"], routing, about)

    return store.fetch("router", about | asks, make, Router)


def asked(
    names: Sequence[str], per_task: int | None = None, seed: int = 0, wording: str = "request", split: str = "train"
) -> pd.DataFrame:
    """Prompts of tasks: columns task, expert (whose mask serves the task), id, text.

    ``wording`` is "request", the prompt that lm-eval sends to the model, or "question", the bare question
    without the template's words. At most ``per_task`` prompts of each task are drawn by ``seed``.
    """
    if wording not in WORDINGS:
        raise ValueError(f"wording is one of {', '.join(WORDINGS)}, got {wording!r}")
    draw = corpora.questions if wording == "question" else _requests
    parts = []
    for name in dict.fromkeys(names):
        drawn = draw(name, per_task, seed, split)
        named = {"task": name, "expert": tasks.get(name).expert}
        parts.append(pd.DataFrame(named | {"id": drawn.ids, "text": drawn.texts}))
    if not parts:
        raise ValueError("no task is named, so there is no prompt")
    return pd.concat(parts, ignore_index=True)


def _requests(name: str, samples: int | None, seed: int, split: str) -> corpora.Corpus:
    rows = read_rows(name, split)
    rows = rows.take(np.random.default_rng(seed).permutation(len(rows))[:samples])
    worded = list(lm_eval.contexts(tasks.get(name), rows.table))
    texts, ids = tuple(text for _, text in worded), tuple(rows.ids[place] for place, _ in worded)
    return corpora.Corpus(name, texts, ids, rows.source | {"wording": "lm-eval's request"})


def embed(model, tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Mean layer-0 embedding over the tokens of every text, special tokens apart: float32 [texts, hidden]."""
    special = set(tokenizer.all_special_ids)
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return embed_ids(model, [[token for token in ids if token not in special] for ids in encoded])


def embed_ids(model, encoded: Sequence[Sequence[int]]) -> np.ndarray:
    """:func:`embed` of token ids; only the rows of these tokens leave the device."""
    table = layers.tensor(model.get_input_embeddings(), "weight").detach()
    rows = (table[np.asarray(ids, dtype=np.int64)].float().cpu().numpy() for ids in encoded)
    return np.stack([classifier.mean_row(found) for found in rows])


def across_wordings(
    model,
    tokenizer,
    names: Sequence[str],
    unseen: Sequence[str],
    items: int | None,
    routing: Routing | None = None,
) -> pd.DataFrame:
    """How far a router's knowledge reaches: trained on requests or on bare questions, and asked in either wording.

    Shares over ``items`` test prompts of each task of ``names`` and of the ``unseen`` tasks: right without a
    threshold, routed, right among the routed, unseen prompts held back. A row per pair of wordings, so that
    ``routing.wording`` does not matter.
    """
    rows = []
    for trained in WORDINGS:
        router = train(model, tokenizer, names, replace(routing or Routing(), wording=trained))
        for wording in WORDINGS:
            held = asked([*names, *unseen], items, split="test", wording=wording)
            features = embed(model, tokenizer, held["text"])
            ours, routed = held["task"].isin(names).to_numpy(), router.decide(features)[0] != GENERAL
            right = (router.at(0).decide(features)[0] == held["expert"]).to_numpy()
            row = {"trained on": trained, "asked as": wording, "right, without a threshold": right[ours].mean()}
            row |= {"routed": routed[ours].mean(), "right, of the routed": right[ours & routed].mean()}
            rows.append(row | {"unseen held back": 1 - routed[~ours].mean()})
    return pd.DataFrame(rows)


def threshold_at(confidence: np.ndarray, coverage: float) -> float:
    """The largest θ under which at least the share ``coverage`` of prompts has a confidence ≥ θ."""
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must lie in (0, 1], got {coverage}")
    return float(np.sort(confidence)[::-1][math.ceil(coverage * len(confidence) - 1e-9) - 1])


def abstention(confidence: np.ndarray, right: np.ndarray, thresholds: Sequence[float] | None = None) -> pd.DataFrame:
    """Coverage against accuracy: a row per threshold (default: 0 and every confidence that occurs).

    Columns: threshold, coverage (share routed), routed, accuracy of the routed prompts, low, high (Wilson, 95%).
    Accuracy is NaN where no prompt is routed.
    """
    thresholds = np.unique([0.0, *confidence]) if thresholds is None else thresholds
    rows = []
    for threshold in thresholds:
        chosen = confidence >= threshold
        count, hits = int(chosen.sum()), int(right[chosen].sum())
        low, high = proportion_confint(hits, count, method="wilson") if count else (np.nan, np.nan)
        row = {"threshold": float(threshold), "coverage": count / len(confidence), "routed": count}
        rows.append(row | {"accuracy": hits / count if count else np.nan, "low": low, "high": high})
    return pd.DataFrame(rows)


def reliability(router: Router, features: np.ndarray, experts: Sequence[str], bins: int = 10) -> pd.DataFrame:
    """Calibration error and log loss of the probabilities, with the fitted temperature and without.

    The error is the mean distance between confidence and accuracy over ``bins`` groups of equally
    many prompts (expected calibration error). Rows "temperature" and "none".
    """
    experts, rows = np.asarray(experts), []
    for name, measured in {"none": replace(router, sharpness=1.0), "temperature": router}.items():
        probabilities = measured.probabilities(features)
        confidence, right = probabilities.max(1), np.asarray(router.classes)[probabilities.argmax(1)] == experts
        group = np.argsort(np.argsort(confidence, kind="stable")) * bins // len(confidence)
        both = pd.DataFrame({"said": confidence, "happened": right}).groupby(group).agg(["mean", "size"])
        gaps = (both["said", "mean"] - both["happened", "mean"]).abs()
        error = float(np.average(gaps, weights=both["said", "size"]))
        loss = log_loss(experts, probabilities, labels=list(router.classes))
        rows.append({"calibration": name, "calibration_error": error, "log_loss": float(loss), "n": len(experts)})
    return pd.DataFrame(rows)
