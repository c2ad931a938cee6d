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
from ..evaluation import bootstrap, comparison
from ..pruning.apply import Variant
from ..pruning.methods import Method
from ..pruning.scores import score
from ..reports import display_names
from ..reports.claims import claim
from ..texts.tasks import experts
from . import common

USUAL = 128  # texts: what calibration takes in Wanda, FLAP and elsewhere
FEW, ENOUGH = "smallest-corpus-too-small", "usual-corpus-large-enough"  # names of the claims


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
    """Mean overlap by size with its 95% interval over seeds (Student's t).

    Columns: texts, overlap, low, high, chance, module.
    """
    rows = []
    for texts, part in found.groupby("texts"):
        by_seed = part.groupby("calibration_seed")[module].mean()
        half = np.nan
        if len(by_seed) > 1:
            half = scipy_stats.t.ppf(0.975, len(by_seed) - 1) * by_seed.std(ddof=1) / np.sqrt(len(by_seed))
        mean, chance = by_seed.mean(), part[f"{module}_chance"].mean()
        rows.append({"texts": texts, "overlap": mean, "low": mean - half, "high": mean + half, "chance": chance})
    return pd.DataFrame(rows).assign(module=module)


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


# --- tables, claims and the answer ----------------------------------------------------------------


def accuracy_curves(items: pd.DataFrame, draws: int = bootstrap.DRAWS) -> dict[str, pd.DataFrame]:
    """:func:`accuracy_curve` by every metric; ``items`` are item results of :func:`variants`."""
    measured = bootstrap.measured(items)
    return {name: accuracy_curve(bootstrap.results(items, ["texts"], name), draws) for name in measured}


def table(
    overlap: Sequence[pd.DataFrame], curves: Mapping[str, pd.DataFrame], smallest: int, pool: int
) -> pd.DataFrame:
    """All curves as one frame: measure, texts, value with interval and difference, shared, recommended.

    ``shared``: the share of a corpus that another draw of its size from ``pool`` texts has too.
    """
    parts = [
        part.rename(columns={"overlap": "value"}).assign(measure=f"overlap, {part['module'].iloc[0]}")
        for part in overlap
    ]
    parts += [part.assign(measure=name) for name, part in curves.items()]
    found = pd.concat(parts, ignore_index=True).drop(columns="module")
    return found.assign(shared=found["texts"] / pool, recommended=found["texts"] == smallest, method="SEAP")


def display(found: pd.DataFrame) -> pd.DataFrame:
    """:func:`table` for reading: a row per size, overlaps and shares of right answers with their intervals."""
    cells = [_cell(row) for row in found.itertuples()]
    names = {name: f"{display_names.metric(name)} (points against the largest)" for name in bootstrap.REPORTED}
    square = found.assign(cell=cells).set_index(["texts", "measure"])["cell"].unstack(sort=False)
    return square.rename(columns=names).reset_index().rename_axis(columns=None)


def _cell(row) -> str:
    if row.measure.startswith("overlap"):
        return f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"
    apart = (100 * value for value in (row.difference, row.difference_low, row.difference_high))
    return "{:.1f}% ({:+.1f} [{:+.1f}, {:+.1f}])".format(100 * row.value, *apart)


def usual(sizes: Sequence[int]) -> int:
    """Of ``sizes`` but the largest, the size nearest to :data:`USUAL`."""
    return min(sizes[:-1] or sizes, key=lambda n: abs(np.log(n / USUAL)))


def claims(curves: Mapping[str, pd.DataFrame], sparsity: float, n: int, allowed: float) -> list[dict]:
    """That the smallest size loses against the largest, and that the usual one loses less than ``allowed`` points.

    ``n``: test items. The sentences hold sizes, the names do not.
    """
    rows = []
    for metric, curve in curves.items():
        sizes = curve["texts"].tolist()
        few, normal, most = sizes[0], usual(sizes), sizes[-1]
        about = {"sparsity": sparsity, "metric": metric, "unit": "points", "n": n, "where": "calibration_size"}
        found = curve.set_index("texts")[["difference", "difference_low", "difference_high"]] * 100
        p_value = curve["p_value"].iloc[0]
        text = f"{few} calibration texts a task are too few: worse than {most}"
        rows.append(claim(text, *found.loc[few], name=FEW, direction=-1, p_value=p_value, **about))
        text = f"{normal} calibration texts a task lose less than {allowed:g} points against {most}"
        rows.append(claim(text, *found.loc[normal], name=ENOUGH, null=-allowed, **about))
    return rows


def answer(
    verdicts: pd.DataFrame, overlap: pd.DataFrame, smallest: int, sparsity: float, needed: float, allowed: float
) -> str:
    """How many texts are enough, what the smallest corpus costs, and how alike masks are; ``overlap``: of channels."""
    at, most = display_names.sparsity(sparsity), overlap.iloc[-1]
    enough = (
        f"{smallest} texts a task are enough here at {at}: from there on masks agree with the largest corpus at least "
        f"{needed:.0%} as much as two of the largest agree, beyond chance, and no interval reaches {allowed:g} points "
        "below the largest."
    )
    if smallest == most["texts"]:
        enough = f"At {at} no corpus smaller than the largest, {smallest} texts a task, is stable by the rule above."
    few = overlap["texts"].iloc[0]
    said = {
        comparison.HOLDS: f"{few} texts lose against the largest corpus",
        comparison.REVERSED: f"{few} texts even do better than the largest corpus",
        comparison.UNDECIDED: f"{few} texts lose nothing against the largest corpus that these items can show",
    }
    alike = (
        f"masks of {few} texts share {overlap['overlap'].iloc[0]:.0%} of their channels with those of the largest "
        f"corpus, those of {most['texts']:.0f} texts {most['overlap']:.0%}, unrelated masks {most['chance']:.0%}"
    )
    lines = [enough, common.sentence(common.told(verdicts, f"{FEW}/{at}", said)), common.sentence(alike)]
    return " ".join(lines)
