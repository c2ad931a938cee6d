"""Why general masks sometimes beat experts: a balanced factorial design and its sums of squares.

Every cell of the design is a mask for each task: how much text it is calibrated on (*amount*: the tokens of one
corpus, or of as many corpora as there are), whether that text is the task's own or a mixture (*variety*), and in the
mixture how Eq. 15 adds up the corpora: with published or equal weights (*alpha*), of scores as they are or each scaled
to mean 1 per layer and module (*scale*). A single corpus has neither weights nor scale, since any multiple of its
scores ranks alike. So a cell is an amount and one of five mixtures, and the variation between cells splits into nine
orthogonal contrasts of one degree of freedom each: the variety contrast sets a single task against the mean of the
four mixed cells; alpha and scale are contrasts among the mixed cells.

With y[cell, task, seed] and a contrast a (differences of means: its positive parts sum to 1, its negative to −1),

    z[task, seed] = Σ_c a_c·y[c, task, seed],   effect = mean(z),
    SS(factor) = T·S·effect²/‖a‖²,   SS(factor × task) = S·Σ_t (z̄_t − z̄)²/‖a‖²,
    SS(noise) = Σ_ts (z_ts − z̄_t)²/‖a‖²   (and the seeds' own differences),

which add up exactly to the variation of y within tasks: the part of each factor, the part that depends on the task,
and the part that comes from the drawn texts alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd

from ..activations.statistics import ActivationStats
from ..evaluation import bootstrap
from ..pruning.apply import Variant
from ..pruning.methods import Method
from ..pruning.scores import Scores, aggregate, score, weights
from ..texts.tasks import experts
from . import common

AMOUNTS = ("equal", "more")  # tokens in all: one corpus' share, or that many for each of the corpora
ONE = "one task"
#: mixture → (weights of Eq. 15, whether scores are scaled first)
MIXED = {
    "published α": ("published", False),
    "equal α": ("equal", False),
    "published α, scaled": ("published", True),
    "equal α, scaled": ("equal", True),
}
MIXTURES = (ONE, *MIXED)
#: the cells in which the paper's two kinds of mask are found
EXPERT, GENERAL = ("equal", ONE), ("more", "published α")
CELLS = tuple((amount, mixture) for amount in AMOUNTS for mixture in MIXTURES)
NOISE, BY_TASK = "calibration seeds (noise)", "factor × task"


def scaled(scores: Scores) -> Scores:
    """Scores over their mean, per layer and module, so that no corpus outweighs another in a sum (Eq. 15)."""
    attention, channels = (part / part.mean(1, keepdim=True) for part in (scores.attention, scores.channels))
    return replace(scores, attention=attention, channels=channels)


def cell_scores(stats: Mapping[str, ActivationStats], mixture: str, general: str, name: str = "s_F") -> Scores:
    """The scores of a cell. ``stats``: corpus → statistics; for ONE, the task's own corpus alone."""
    each = {corpus: score(own, name) for corpus, own in stats.items()}
    if mixture == ONE:
        if len(each) != 1:
            raise ValueError(f"{ONE!r} takes the statistics of one corpus, got {', '.join(each)}")
        return next(iter(each.values()))
    if mixture not in MIXED:
        raise ValueError(f"the mixture is one of {', '.join(MIXTURES)}, got {mixture!r}")
    alpha, scale = MIXED[mixture]
    chosen = weights(each, general) if alpha == "published" else dict.fromkeys(each, 1.0)
    return aggregate({corpus: scaled(own) if scale else own for corpus, own in each.items()}, chosen)


def amounts(corpora: Sequence[str], general: str, tokens: int) -> dict[str, list[int]]:
    """How many tokens of each corpus' draw the design needs (``common.by_tokens``).

    ``tokens`` is the share of a corpus. Equal amounts are ``tokens`` in all, of a single task or a part of every
    corpus; more is that times the number of corpora, the general text included.
    """
    count = len(corpora) + 1
    return {name: [tokens // count, tokens, tokens * count] for name in corpora} | {general: [tokens // count, tokens]}


def variants(
    stats: Mapping[tuple[str, int, int], ActivationStats],
    tasks: Sequence[str],
    general: str,
    tokens: int,
    seeds: Sequence[int],
    sparsity: float,
    method: Method,
    mode: str = "remove",
) -> list[Variant]:
    """The masks of all cells: columns ``amount`` and ``mixture``, cell by cell and seed by seed.

    ``stats`` are those of :func:`amounts`: (corpus, tokens, seed) → statistics. A cell of one task is an expert for
    every corpus, answering its own tasks; a mixture is one mask that answers all.
    """
    served, out = experts(tasks), []
    count = len(served) + 1
    for (amount, mixture), seed in product(CELLS, seeds):
        cell = {"amount": amount, "mixture": mixture}
        if mixture == ONE:
            taken = tokens * count if amount == "more" else tokens
            groups = [({name: stats[name, taken, seed]}, answered) for name, answered in served.items()]
        else:
            taken = tokens if amount == "more" else tokens // count
            groups = [({name: stats[name, taken, seed] for name in (*served, general)}, None)]
        for each, answered in groups:
            scores = cell_scores(each, mixture, general, method.score)
            out.append(common.variant(method, scores, sparsity, seed, answered, mode, **cell))
    return out


def contrasts() -> dict[str, np.ndarray]:
    """The nine contrasts over ``CELLS``, each a difference of two means; orthogonal to each other."""
    mixture = {
        "variety": np.array([-4.0, 1, 1, 1, 1]),
        "alpha": np.array([0.0, 1, -1, 1, -1]),
        "scale": np.array([0.0, -1, -1, 1, 1]),
        "alpha × scale": np.array([0.0, -1, 1, 1, -1]),
    }
    amount = np.array([-1.0, 1.0])
    found = {"amount": np.kron(amount, np.ones(5))}
    found |= {name: np.kron(np.ones(2), vector) for name, vector in mixture.items()}
    found |= {f"amount × {name}": np.kron(amount, vector) for name, vector in mixture.items()}
    return {name: vector / vector[vector > 0].sum() for name, vector in found.items()}


def squares(y: np.ndarray, vectors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sums of squares of ``y`` [..., cells, tasks, seeds] within tasks, by source: contrasts, BY_TASK, NOISE.

    ``vectors`` are orthogonal contrasts that span all differences between cells, so that their sums of squares
    add up to the whole.
    """
    cells, tasks, seeds = y.shape[-3:]
    found, by_task, noise = {}, 0.0, 0.0
    for name, vector in vectors.items():
        size = (vector**2).sum()
        z = np.einsum("c,...cts->...ts", vector, y)
        each, whole = z.mean(-1), z.mean((-1, -2))
        found[name] = tasks * seeds * whole**2 / size
        by_task = by_task + seeds * ((each - whole[..., None]) ** 2).sum(-1) / size
        noise = noise + ((z - each[..., None]) ** 2).sum((-1, -2)) / size
    level = y.mean(-3)  # of all cells together
    noise = noise + cells * ((level - level.mean(-1, keepdims=True)) ** 2).sum((-1, -2))
    return found | {BY_TASK: by_task, NOISE: noise}


def analyse(answers: bootstrap.Results, draws: int = bootstrap.DRAWS) -> pd.DataFrame:
    """Effect of every factor and its share of the variation: a row per contrast, and a row each for BY_TASK and NOISE.

    The cells of ``answers`` are ``CELLS`` in that order. Columns: source, effect, low, high (a difference of means,
    with its 95% interval over items and seeds), p_value, share, share_low, share_high (of the variation within tasks),
    by_noise: the share that calibration seeds alone would give a source of as many degrees of freedom. All cells and
    seeds answer the same items, so that the choice of items is not part of the noise. It is part of the intervals, and
    of ``factor × task``, because every task has items of its own.
    """
    if answers.cells != CELLS:
        raise ValueError(f"the design's cells are {CELLS}, got {answers.cells}")
    vectors = contrasts()
    y, drawn = answers.means, answers.drawn(draws)
    whole, resampled = squares(y, vectors), squares(drawn, vectors)
    total, totals = sum(whole.values()), sum(resampled.values())
    cells, tasks, seeds = y.shape
    freedom = cells * tasks * (seeds - 1)
    rows = []
    for source in whole:
        row = {"source": source, "measured": np.nan, "low": np.nan, "high": np.nan, "p_value": np.nan}
        if source in vectors:
            value = float(np.einsum("c,cts->", vectors[source], y) / (tasks * seeds))
            of_draws = np.einsum("c,dcts->d", vectors[source], drawn) / (tasks * seeds)
            row |= bootstrap.estimate(value, np.round(of_draws, 12))
        with np.errstate(invalid="ignore"):
            low, high = bootstrap.interval(np.where(totals > 0, resampled[source] / totals, 0.0))
        row |= {"share": whole[source] / total if total > 0 else 0.0, "share_low": low, "share_high": high}
        noise = whole[NOISE] / freedom / total if freedom and total > 0 else np.nan
        degrees = {BY_TASK: len(vectors) * (tasks - 1), NOISE: np.nan}.get(source, 1)
        rows.append(row | {"by_noise": degrees * noise})
    return pd.DataFrame(rows).rename(columns={"measured": "effect"})


def between(levels: Sequence) -> dict[str, np.ndarray]:
    """Orthogonal contrasts among ``levels`` without names of their own (Helmert's): for a factor of many levels."""
    n, found = len(levels), {}
    for k in range(1, n):
        vector = np.concatenate([np.full(k, -1 / k), [1.0], np.zeros(n - k - 1)])
        found[f"{levels[k]} against those before"] = vector
    return found
