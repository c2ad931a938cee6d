"""How much calibration text is enough: masks and accuracy as corpora grow, and the smallest that is stable.

Every corpus runs through the model once, in parts (``activations.chunks``). A calibration seed is an order of the
parts; a corpus of n texts is the first n of them, so that under a seed larger corpora contain the smaller ones.
Masks are compared with masks of the largest corpus under *other* seeds, because under its own seed a mask shares texts
by construction. All draws come from the same pool: two draws of n texts share n / pool of them on average.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from ..activations.chunks import PartialStats
from ..evaluation import bootstrap
from ..pruning.apply import Variant
from ..pruning.methods import Method
from ..pruning.scores import score
from ..texts.tasks import experts
from . import common


def order(parts: int, seed: int) -> np.ndarray:
    """The order in which a calibration seed takes the parts of a corpus."""
    return np.random.default_rng([seed, parts]).permutation(parts)


def possible(sizes: Iterable[int], parts: Mapping[str, PartialStats]) -> list[int]:
    """The ``sizes`` (texts) that every corpus has in whole parts. ValueError for a size between them."""
    size = next(iter(parts.values())).size
    if wrong := [n for n in sizes if n % size or n < size]:
        raise ValueError(f"statistics were kept for every {size} texts, so a corpus of {wrong[0]} texts cannot be made")
    least = min(sum(n == size for n in part.texts) for part in parts.values()) * size
    return sorted(n for n in sizes if n <= least)


def variants(
    parts: Mapping[str, PartialStats],
    sizes: Sequence[int],
    seeds: Sequence[int],
    tasks: Sequence[str],
    sparsity: float,
    method: Method,
    mode: str = "remove",
) -> list[Variant]:
    """One expert per corpus, size and seed, answering its own tasks; columns ``texts`` and ``corpus``."""
    out = []
    for corpus, served in experts(tasks).items():
        own = parts[corpus]
        for seed in seeds:
            taken = [i for i in order(len(own), seed) if own.texts[i] == own.size]
            for texts in sizes:
                scores = score(own.union(taken[: texts // own.size]), method.score)
                cell = {"texts": texts, "corpus": corpus}
                out.append(common.variant(method, scores, sparsity, seed, served, mode, **cell))
    return out


def overlaps(made: Sequence[Variant]) -> pd.DataFrame:
    """Overlap of every mask with the masks of the same corpus at its largest size under the other seeds.

    Columns: corpus, texts, calibration_seed, heads, channels (Jaccard index of the kept units, mean over the other
    seeds), heads_chance, channels_chance. Empty with a single seed.
    """
    largest = max(variant.label["texts"] for variant in made)
    keys = ("corpus", "texts", "calibration_seed")
    masks = {tuple(variant.label[key] for key in keys): variant.mask for variant in made}
    rows = []
    for (corpus, texts, seed), mask in masks.items():
        others = [other for (of, n, s), other in masks.items() if (of, n) == (corpus, largest) and s != seed]
        if others:
            found = pd.DataFrame([mask.overlap(other) for other in others]).mean().to_dict()
            rows.append({"corpus": corpus, "texts": texts, "calibration_seed": seed} | found)
    return pd.DataFrame(rows)


def overlap_curve(found: pd.DataFrame, module: str = "channels") -> pd.DataFrame:
    """Mean overlap by size with its 95% interval over seeds (Student's t): texts, overlap, low, high, chance."""
    rows = []
    for texts, part in found.groupby("texts"):
        by_seed = part.groupby("calibration_seed")[module].mean()
        half = np.nan
        if len(by_seed) > 1:
            half = scipy_stats.t.ppf(0.975, len(by_seed) - 1) * by_seed.std(ddof=1) / np.sqrt(len(by_seed))
        mean, chance = by_seed.mean(), part[f"{module}_chance"].mean()
        rows.append({"texts": texts, "overlap": mean, "low": mean - half, "high": mean + half, "chance": chance})
    return pd.DataFrame(rows)


def accuracy_curve(answers: bootstrap.Results, draws: int = bootstrap.DRAWS) -> pd.DataFrame:
    """Mean result by size, and its difference to the largest, with 95% intervals over items and seeds.

    ``answers``' cells are sizes. Columns: texts, value, low, high, difference,
    difference_low, difference_high, p_value.
    """
    means, drawn = answers.means.mean((1, 2)), answers.drawn(draws).mean((2, 3))
    last, rows = answers.cells.index(max(answers.cells)), []
    for place, texts in enumerate(answers.cells):
        low, high = bootstrap.interval(drawn[:, place])
        apart = np.round(drawn[:, place] - drawn[:, last], 12)
        found = bootstrap.estimate(means[place] - means[last], apart)
        names = zip(("difference", "difference_low", "difference_high", "p_value"), found.values(), strict=True)
        rows.append({"texts": texts, "value": means[place], "low": low, "high": high} | dict(names))
    return pd.DataFrame(rows).sort_values("texts", ignore_index=True)


def smallest_stable(overlap: pd.DataFrame, accuracies: Iterable[pd.DataFrame], needed: float, allowed: float) -> int:
    """The smallest corpus that is as good as the largest, in texts.

    From this size on, (a) the overlap with masks of the largest corpus exceeds chance at least ``needed`` times as far
    as the overlap of two such masks does, and (b) by every measure of ``accuracies`` the lower end of the interval of
    the difference to the largest corpus is at least −``allowed`` (a share). The largest itself where no smaller
    size qualifies.
    """
    curve = overlap.set_index("texts")
    beyond = (curve["overlap"] - curve["chance"]) / (curve["overlap"] - curve["chance"]).iloc[-1]
    stable = beyond >= needed
    for accuracy in accuracies:
        stable &= (accuracy.set_index("texts")["difference_low"] >= -allowed).reindex(stable.index)
    stable.iloc[-1] = True  # by definition
    return int(stable.index[stable.to_numpy()[::-1].cumprod()[::-1].astype(bool)][0])
