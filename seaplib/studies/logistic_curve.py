"""Which curve over the layers, and is there one for all tasks and seeds?

*The curve.* On the items that chose it, the best of many settings of the logistic curve looks better than it is. So
the items of each task are parted at random: validation items choose, test items report.

*Layer sensitivity* (remove tests, Figs. 5 and 6) over tasks and calibration seeds:

    d[ℓ, τ, s] = dense(τ) − pruned(ℓ, τ, s)

One layer ℓ loses a share of its units, chosen by the scores that seed s gives on task τ's own corpus. If the curve
belongs to the model, its ranks agree between seeds and between tasks, and d varies with ℓ alone; if it belongs to the
task or to chance, it does not.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from ..activations.statistics import ActivationStats
from ..evaluation import bootstrap, comparison
from ..pruning import selection
from ..pruning.apply import Variant
from ..pruning.methods import Method
from ..pruning.scores import score
from ..reports import display_names, tables
from ..reports.claims import claim, points
from ..texts.tasks import experts
from . import common, expert_or_general

VALIDATION, TEST = "validation", "test"
PAPER = {"x0": 0.3, "k": 1.0}  # the paper's curve
TUNED = "tuned-curve-beats-paper"  # name of the claim
SEEDS, TASKS = "between calibration seeds of one task", "between tasks"
LAYER = "layer"
#: what is correlated → the claim's name and its sentence
AGREEMENT = {
    SEEDS: ("layers-agree-between-seeds", "Layers matter in the same order under other calibration texts"),
    TASKS: ("layers-agree-between-tasks", "Layers matter in the same order on other tasks"),
}


# --- the curve ------------------------------------------------------------------------------------


def variants(
    stats: Mapping[tuple[str, int], ActivationStats],
    tasks: Sequence[str],
    sparsities: Iterable[float],
    curves: Iterable[tuple[float, float]],
    method: Method,
    mode: str = "remove",
) -> list[Variant]:
    """One expert per sparsity, curve (x0, k), corpus and seed, answering the corpus' tasks; columns ``x0`` and ``k``.

    ``stats``: (corpus, seed) → statistics.
    """
    served, out = experts(tasks), []
    scores = {key: score(own, method.score) for key, own in stats.items()}
    for sparsity, (x0, k), (name, seed) in product(sparsities, list(curves), stats):
        shaped = replace(method, x0=x0, k=k)
        out.append(common.variant(shaped, scores[name, seed], sparsity, seed, served[name], mode, x0=x0, k=k))
    return out


def parted(items: pd.DataFrame, share: float = 0.5) -> pd.DataFrame:
    """``items`` with a column ``part``: the ``share`` of every task's items is for validation, the rest for test.

    An item is on the same side in all its rows. ValueError where a task would have no items on a side.
    """
    side = {}
    for task, names in items.groupby("task")["doc_id"].unique().items():
        first = round(share * len(names))
        if not 0 < first < len(names):
            raise ValueError(f"{task}: {len(names)} items cannot be parted with a share of {share:g} to validate")
        order = np.random.default_rng(0).permutation(np.sort(np.asarray(names, dtype=str)))
        side |= {(task, name): VALIDATION if place < first else TEST for place, name in enumerate(order)}
    keys = zip(items["task"], items["doc_id"].astype(str), strict=True)
    return items.assign(part=[side[key] for key in keys])


def table(items: pd.DataFrame, by: Sequence[str], metric: str = "primary") -> pd.DataFrame:
    """Mean over tasks of every setting on either side: columns ``by``, validation, test."""
    rows = bootstrap.of_metric(items, metric)
    means = rows.groupby([*by, "part", "task"], sort=False)["value"].mean().groupby([*by, "part"], sort=False).mean()
    return means.unstack("part").reset_index().rename_axis(columns=None)[[*by, VALIDATION, TEST]]


def judge(
    items: pd.DataFrame, by: Sequence[str], usual: Mapping, metric: str = "primary", draws: int = bootstrap.DRAWS
) -> tuple[dict, dict]:
    """The setting that is best on validation items, and its difference to the ``usual`` setting on test items.

    Of equally good settings the usual setting counts as best, then the first. The second dictionary is
    :func:`seaplib.evaluation.comparison.compare`'s.
    """
    found = table(items, by, metric)
    best = found[found[VALIDATION] >= found[VALIDATION].max() - 1e-12]
    is_usual = (best[list(usual)] == pd.Series(usual)).all(axis=1)
    row = best[is_usual].iloc[0] if is_usual.any() else best.iloc[0]
    chosen = {name: row[name] for name in by}
    report = items[items["part"] == TEST]
    if is_usual.any():  # nothing is compared with itself
        same = bootstrap.of_metric(report, metric)
        value = float(same[(same[list(usual)] == pd.Series(usual)).all(axis=1)].groupby("task")["value"].mean().mean())
        count = same.groupby("task")["doc_id"].nunique().sum()
        nothing = {"difference": 0.0, "low": 0.0, "high": 0.0, "value_a": value, "value_b": value, "p": 1.0}
        return chosen, nothing | {"n": int(count)}
    return chosen, comparison.compare(report, chosen, usual, metric, draws)


def judged(items: pd.DataFrame, draws: int = bootstrap.DRAWS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every curve on either side of ``items`` (:func:`parted`), and the chosen curves against the paper's.

    The first frame has :func:`table`'s columns, requested_sparsity, metric and chosen; the second a row per sparsity
    and metric: x0, k, difference, low, high, value_a (the choice's), value_b (the paper's), p, n.
    """
    by, grid, rows = list(PAPER), [], []
    for sparsity, part in items.groupby("requested_sparsity"):
        for metric in bootstrap.measured(items):
            where = {"requested_sparsity": sparsity, "metric": metric}
            best, found = judge(part, by, PAPER, metric, draws)
            all_curves = table(part, by, metric)
            chosen = (all_curves[by] == pd.Series(best)).all(axis=1)
            grid.append(all_curves.assign(chosen=chosen, **where))
            names = ("difference", "low", "high", "value_a", "value_b", "p", "n")
            rows.append(where | best | {name: found[name] for name in names})
    return pd.concat(grid, ignore_index=True), pd.DataFrame(rows)


def display(rows: pd.DataFrame) -> pd.DataFrame:
    """:func:`judged`'s second frame for reading."""
    shown = {
        "sparsity": rows["requested_sparsity"].map(display_names.sparsity),
        "metric": rows["metric"].map(display_names.metric),
        "chosen $x_0$, $k$": [f"{row.x0:g}, {row.k:g}" for row in rows.itertuples()],
        "chosen, %": (100 * rows["value_a"]).round(1),
        "paper's (0.3, 1), %": (100 * rows["value_b"]).round(1),
        "difference, points [95%]": tables.points(rows),
        "p": rows["p"].map("{:.2g}".format),
    }
    return pd.DataFrame(shown)


def curve_claims(rows: pd.DataFrame) -> list[dict]:
    """The claims of :func:`judged`'s second frame."""
    text = "A curve chosen on other items beats the paper's"
    return [
        points(text, row, name=TUNED, sparsity=row["requested_sparsity"], metric=row["metric"], where="logistic_grid")
        for row in rows.to_dict("records")
    ]


# --- layer sensitivity ----------------------------------------------------------------------------


def layer_variants(
    stats: Mapping[tuple[str, int], ActivationStats],
    tasks: Sequence[str],
    ratio: float,
    name: str = "s_F",
    mode: str = "remove",
) -> list[Variant]:
    """One mask per layer, corpus and seed, layer by layer, answering the corpus' tasks; column ``layer``.

    ``stats``: (corpus, seed) → statistics.
    """
    served = experts(tasks)
    scores = {key: score(own, name) for key, own in stats.items() if key[0] in served}
    layers = next(iter(scores.values())).geometry.layers
    out = []
    for layer in range(layers):
        for (corpus, seed), own in scores.items():
            label = {"method": "remove test", "score": name, "budget": "floor", "calibration": "task"}
            label |= {"allocation": f"layer {layer}", "calibration_seed": seed, "layer": layer}
            mask = selection.single_layer(own, layer, ratio)
            out.append(Variant(label, mask, mode, tasks=served[corpus]))
    return out


def agreement(curves: np.ndarray, weight: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Mean rank correlation (Spearman) of curves [..., layers, tasks, seeds], between seeds and between tasks.

    Between tasks, curves are means over seeds. ``weight`` [..., seeds] is how often a seed counts (default: once); no
    seed is compared with itself. NaN where there are not two to compare; a curve that is flat correlates with
    nothing (0).
    """
    weight = np.ones((*curves.shape[:-3], curves.shape[-1])) if weight is None else np.asarray(weight, dtype=float)
    total, pairs = np.zeros(curves.shape[:-3]), np.zeros(curves.shape[:-3])
    for i, j in combinations(range(curves.shape[-1]), 2):
        both = weight[..., i] * weight[..., j]
        total, pairs = total + both * _spearman(curves[..., i], curves[..., j]).mean(-1), pairs + both
    between_seeds = np.where(pairs > 0, total / np.where(pairs > 0, pairs, 1), np.nan)
    means = np.einsum("...lts,...s->...lt", curves, weight / weight.sum(-1, keepdims=True))
    found = [_spearman(means[..., [i]], means[..., [j]])[..., 0] for i, j in combinations(range(means.shape[-1]), 2)]
    return {SEEDS: between_seeds, TASKS: np.mean(found, axis=0) if found else np.full(curves.shape[:-3], np.nan)}


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation along the layers of [..., layers, n] → [..., n]."""
    x, y = (rankdata(values, axis=-2) for values in (np.round(a, 12), np.round(b, 12)))
    x, y = (ranks - ranks.mean(-2, keepdims=True) for ranks in (x, y))
    size = np.sqrt((x**2).sum(-2) * (y**2).sum(-2))
    return np.where(size > 0, (x * y).sum(-2) / np.where(size > 0, size, 1), 0.0)


def stability(answers: bootstrap.Results, draws: int = bootstrap.FEW_DRAWS) -> pd.DataFrame:
    """How far curves agree: rows of rank correlations and of shares of variance, with 95% intervals.

    ``answers``' cells are layers. Columns: quantity, measured, low, high, p_value (of a correlation, against 0).
    The dense model's own results are not needed: they shift a task's curve and change neither ranks nor variation.
    """
    curves, drawn = -answers.means, -answers.drawn(draws)
    rows = []
    resampled = agreement(-answers.drawn(draws, seeds=False), answers.seed_weights(draws))
    for name, value in agreement(curves).items():
        numbers = resampled[name][~np.isnan(resampled[name])]  # a draw of a single seed has no pair
        found = bootstrap.estimate(value, numbers) if len(numbers) else {}
        rows.append({"quantity": f"rank correlation {name}"} | found)
    vectors = expert_or_general.between(answers.cells)
    both = (expert_or_general.squares(values, vectors) for values in (curves, drawn))
    for name, (value, of_draws) in _shares(*both).items():
        row = {"quantity": f"share of the variation: {name}"} | bootstrap.estimate(value, of_draws)
        rows.append(row | {"p_value": np.nan})  # a share is never below 0
    return pd.DataFrame(rows, columns=["quantity", "measured", "low", "high", "p_value"])


def _shares(whole: Mapping, drawn: Mapping) -> dict[str, tuple]:
    """Shares of layer, layer × task and seeds, of a data set and of the data sets drawn from it."""
    both = []
    for found in (whole, drawn):
        named = (expert_or_general.BY_TASK, expert_or_general.NOISE)
        layer = sum(value for source, value in found.items() if source not in named)
        parts = {
            LAYER: layer,
            "layer × task": found[expert_or_general.BY_TASK],
            expert_or_general.NOISE: found[expert_or_general.NOISE],
        }
        total = np.asarray(sum(parts.values()))
        safe = np.where(total > 0, total, 1)
        both.append({name: np.where(total > 0, part / safe, 0.0) for name, part in parts.items()})
    return {name: (both[0][name], both[1][name]) for name in both[0]}


def curves(answers: bootstrap.Results, dense: Mapping[str, float]) -> pd.DataFrame:
    """The curves themselves: layer, task, calibration_seed, drop (a share, against the dense model's result)."""
    rows = []
    for place, layer in enumerate(answers.cells):
        for number, task in enumerate(answers.tasks):
            for index, seed in enumerate(answers.seeds):
                rows.append((int(layer), task, int(seed), dense[task] - answers.means[place, number, index]))
    return pd.DataFrame(rows, columns=["layer", "task", "calibration_seed", "drop"])


def stabilities(items: pd.DataFrame, draws: int = bootstrap.FEW_DRAWS) -> pd.DataFrame:
    """:func:`stability` by every metric, with n (items); ``items`` are item results of :func:`layer_variants`."""
    found = {name: bootstrap.results(items, ["layer"], name) for name in bootstrap.measured(items)}
    parts = [stability(answers, draws).assign(metric=name, n=answers.items) for name, answers in found.items()]
    return pd.concat(parts, ignore_index=True)


def display_stability(found: pd.DataFrame) -> pd.DataFrame:
    """:func:`stabilities` for reading: a row per quantity, a column per metric."""
    cells = [f"{row.measured:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in found.itertuples()]
    metrics = found["metric"].map(display_names.metric)
    square = found.assign(cell=cells, metric=metrics).set_index(["quantity", "metric"])["cell"].unstack(sort=False)
    return square.reset_index().rename_axis(columns=None)


def layer_claims(found: pd.DataFrame) -> list[dict]:
    """That ranks of layers agree, between seeds and between tasks; none where there are not two to compare."""
    rows = []
    for (what, (name, text)), metric in product(AGREEMENT.items(), found["metric"].unique()):
        row = found[(found["quantity"] == f"rank correlation {what}") & (found["metric"] == metric)].iloc[0]
        if not np.isnan(row["measured"]):
            about = {"name": name, "metric": metric, "unit": "rank correlation", "n": row["n"]}
            estimate = (row[column] for column in ("measured", "low", "high"))
            rows.append(claim(text, *estimate, p_value=row["p_value"], where="sensitivity_stability", **about))
    return rows


def answer(verdicts: pd.DataFrame, rows: pd.DataFrame, found: pd.DataFrame) -> str:
    """Whether a chosen curve is better, at the largest sparsity, and whether tasks and seeds share one curve.

    ``rows`` is :func:`judged`'s second frame, ``found`` that of :func:`stabilities`.
    """
    rows = rows[rows["requested_sparsity"] == rows["requested_sparsity"].max()]
    at = display_names.sparsity(rows["requested_sparsity"].iloc[0])
    chosen = " and ".join(f"({r.x0:g}, {r.k:g}) by {display_names.metric(r.metric)}" for r in rows.itertuples())
    curve = {
        comparison.HOLDS: "such a choice beats the paper's (0.3, 1)",
        comparison.REVERSED: "such a choice loses to the paper's (0.3, 1)",
        comparison.UNDECIDED: "such a choice is not decidedly better or worse than the paper's (0.3, 1)",
    }
    lines = [
        f"at {at} half of the items choose {chosen}; on the other half {common.told(verdicts, f'{TUNED}/{at}', curve)}"
    ]
    same = {
        comparison.HOLDS: "layers matter in the same order",
        comparison.REVERSED: "layers matter in the opposite order",
        comparison.UNDECIDED: "it is not shown that layers matter in the same order",
    }
    for what, (name, _) in AGREEMENT.items():
        where = {SEEDS: "with other calibration texts", TASKS: "on other tasks"}[what]
        if said := common.told(verdicts, name, same):
            lines.append(f"{where}, {said}")
    share = found.set_index(["quantity", "metric"])["measured"]
    layer, by_task = (share[f"share of the variation: {of}", bootstrap.PRIMARY] for of in (LAYER, f"{LAYER} × task"))
    lines.append(
        f"of all variation one curve for all tasks explains {layer:.0%}, a curve for each "
        f"task a further {by_task:.0%} (by {display_names.metric(bootstrap.PRIMARY)})"
    )
    return " ".join(map(common.sentence, lines))
