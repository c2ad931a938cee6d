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
from ..evaluation import bootstrap, comparison
from ..pruning.apply import Variant
from ..pruning.methods import Method
from ..pruning.scores import Scores, aggregate, score, weights
from ..reports import display_names, tables
from ..reports.claims import claim
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
AHEAD = "general − expert"
#: source of a difference → the claim's name and its sentence: the two masks of the paper, then the four factors
CLAIMS = {
    AHEAD: ("general-beats-experts", "The general mask beats experts"),
    "amount": ("more-text-helps", "More calibration text helps, whatever its kind"),
    "variety": ("mixed-text-beats-own", "Mixed text beats as much of the task's own"),
    "alpha": ("published-weights-beat-equal", "In mixtures the published weights α beat equal weights"),
    "scale": ("equal-scale-beats-plain", "In mixtures scores brought to one scale beat scores as they are"),
}
FACTORS = {
    "amount": "the amount of text",
    "variety": "the variety of text",
    "alpha": "the weights α",
    "scale": "the scale of scores",
}
METHODS = "SEAP and SEAP-gen"  # the column ``method`` of the tables


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


# --- tables, claims and the answer ----------------------------------------------------------------


def cell_means(answers: pd.DataFrame) -> pd.DataFrame:
    """Means of the cells over tasks and seeds in percent, for reading: a column per mixture."""
    rows = []
    for (sparsity, metric), found in _results(answers).items():
        for (amount, mixture), value in zip(found.cells, found.means.mean((1, 2)), strict=True):
            about = {"sparsity": display_names.sparsity(sparsity), "metric": display_names.metric(metric)}
            rows.append(about | {"amount": amount, "mixture": mixture, "value": 100 * value})
    square = pd.DataFrame(rows).set_index(["sparsity", "metric", "amount", "mixture"])["value"].unstack(sort=False)
    return square[list(MIXTURES)].round(1).reset_index().rename_axis(columns=None)


def _results(answers: pd.DataFrame) -> dict[tuple[float, str], bootstrap.Results]:
    """(sparsity, metric) → the design's results; ``answers`` are item results of :func:`variants`."""
    return {
        (sparsity, metric): bootstrap.results(part, ["amount", "mixture"], metric)
        for sparsity, part in answers.groupby("requested_sparsity")
        for metric in bootstrap.measured(part)
    }


def effects(answers: pd.DataFrame, draws: int = bootstrap.DRAWS) -> pd.DataFrame:
    """Who is ahead in the paper's setting (source AHEAD), and :func:`analyse`'s rows, by sparsity and metric.

    Columns: method, source, requested_sparsity, metric, effect, low, high, p_value, n, and the shares.
    """
    ahead, analysed = [], []
    general, expert = (dict(zip(("amount", "mixture"), cell, strict=True)) for cell in (GENERAL, EXPERT))
    for (sparsity, metric), found in _results(answers).items():
        where = {"requested_sparsity": sparsity, "metric": metric}
        part = answers[answers["requested_sparsity"] == sparsity]
        lead = comparison.compare(part, general, expert, metric, draws)
        names = {"difference": "effect", "low": "low", "high": "high", "p": "p_value", "n": "n"}
        ahead.append({"source": AHEAD} | where | {new: lead[name] for name, new in names.items()})
        analysed.append(analyse(found, draws).assign(n=found.items, **where))
    factors = pd.concat([pd.DataFrame(ahead), *analysed], ignore_index=True)
    factors.insert(0, "method", METHODS)
    return factors


def effects_by_task(answers: pd.DataFrame, draws: int = bootstrap.DRAWS) -> pd.DataFrame:
    """The lead of the general mask and the effect of every factor, task by task, at the largest sparsity."""
    answers = answers[answers["requested_sparsity"] == answers["requested_sparsity"].max()]
    parts = [effects(part, draws).assign(task=task) for task, part in answers.groupby("task", sort=False)]
    found = pd.concat(parts, ignore_index=True)
    columns = ["method", "task", "metric", "source", "effect", "low", "high", "n", "requested_sparsity"]
    return found.loc[found["source"].isin(CLAIMS), columns].reset_index(drop=True)


def display(factors: pd.DataFrame) -> pd.DataFrame:
    """:func:`effects` for reading; ``by seeds alone`` is the share that a factor without any effect would have."""
    of_points = factors.rename(columns={"effect": "difference"})
    parts = factors[["share", "by_noise"]].map(lambda share: tables.MISSING if np.isnan(share) else f"{share:.0%}")
    shown = {
        "sparsity": factors["requested_sparsity"].map(display_names.sparsity),
        "metric": factors["metric"].map(display_names.metric),
        "source": factors["source"],
        "effect, points [95%]": tables.points(of_points).where(factors["effect"].notna(), tables.MISSING),
        "p": [tables.MISSING if np.isnan(p) else f"{p:.2g}" for p in factors["p_value"]],
        "share of the variation": parts["share"],
        "by seeds alone": parts["by_noise"],
    }
    return pd.DataFrame(shown)


def display_by_task(found: pd.DataFrame) -> pd.DataFrame:
    """:func:`effects_by_task` for reading: effects in points, a star where the interval excludes 0."""
    stars = ["*" * (comparison.verdict(row.low, row.high) != comparison.UNDECIDED) for row in found.itertuples()]
    cells = [f"{100 * effect:+.1f}{star}" for effect, star in zip(found["effect"], stars, strict=True)]
    shown = found.assign(
        cell=cells, task=found["task"].map(display_names.task), metric=found["metric"].map(display_names.metric)
    )
    square = shown.set_index(["task", "metric", "source"])["cell"].unstack(sort=False)
    return square.reset_index().rename_axis(columns=None)


def claims(factors: pd.DataFrame) -> list[dict]:
    """The claims on the paper's two masks and on each factor."""
    rows = []
    for row in factors[factors["source"].isin(CLAIMS)].itertuples():
        name, text = CLAIMS[row.source]
        about = {"name": name, "sparsity": row.requested_sparsity, "metric": row.metric, "unit": "points"}
        about |= {"n": row.n, "p_value": row.p_value, "where": "expert_or_general"}
        rows.append(claim(text, *(100 * value for value in (row.effect, row.low, row.high)), **about))
    return rows


def answer(verdicts: pd.DataFrame, factors: pd.DataFrame, by_task: pd.DataFrame) -> str:
    """Who is ahead at the largest sparsity, which factor carries most of the difference, and on which tasks."""
    sparsity = factors["requested_sparsity"].max()
    at = display_names.sparsity(sparsity)
    ahead = {
        comparison.HOLDS: f"at {at} the general mask beats experts over all tasks",
        comparison.REVERSED: f"at {at} experts beat the general mask over all tasks",
        comparison.UNDECIDED: f"at {at} neither experts nor the general mask are ahead decidedly over all tasks",
    }
    parts, won = [], []
    for metric, part in factors[factors["requested_sparsity"] == sparsity].groupby("metric", sort=False):
        share = part.set_index("source")["share"]
        most = share[list(FACTORS)].idxmax()
        parts.append(
            f"{share[most]:.0%} is due to {FACTORS[most]}, the largest of four factors, {share[BY_TASK]:.0%} differs "
            f"from task to task and {share[NOISE]:.0%} from draw to draw (by {display_names.metric(metric)})"
        )
    for metric, part in by_task[by_task["source"] == AHEAD].groupby("metric", sort=False):
        sides = part.loc[part["low"] > 0, "task"], part.loc[part["high"] < 0, "task"]
        front, behind = (", ".join(map(display_names.task, tasks)) or "no task" for tasks in sides)
        won.append(f"ahead on {front} and behind on {behind} by {display_names.metric(metric)}")
    lines = [
        common.told(verdicts, f"general-beats-experts/{at}", ahead),
        f"of all variation between masks {'; '.join(parts)}",
        f"task by task the general mask is {', '.join(won)}, and nothing is decided on the others",
    ]
    return " ".join(map(common.sentence, lines))
