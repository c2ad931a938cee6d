"""What to try next: rules of thumb that read a profile's saved tables.

| symptom | reading | what to try |
|---|---|---|
| accuracy falls by more than ``drop`` points | layers were cut that can spare nothing | another allocation, or less |
| perplexity rises, accuracy hardly falls | the tasks' texts do not need what general text needs | more general text |
| masks change with the calibration seed | where they differ, the scores are noise | more calibration text |
| routed experts answer no better than the general mask | there is nothing to route for | the general mask alone |

Every rule returns a row per method, score and sparsity, whether it fires or not: that no rule fires is a finding
too.
"""

from itertools import combinations

import numpy as np
import pandas as pd

from .. import paths
from ..evaluation import comparison
from ..experts import router, variants
from ..reports import summaries, tables

KEYS = ["method", "score", "requested_sparsity"]
COLUMNS = ("diagnostic", *KEYS, "measured", "threshold", "unit", "fires", "advice", "where")


def mask_stability(runs: list[list]) -> pd.DataFrame:
    """How alike masks of different calibration seeds are; ``runs`` holds a list of variants per seed.

    The lists come from the same recipes, so that variants at the same place differ in the seed alone
    (ValueError otherwise). A row per variant: method, score, requested_sparsity, allocation, budget,
    task (the expert's, or "all"), heads and channels (Jaccard index of the kept units, mean over
    pairs of seeds), their ``_chance`` (for independent masks of these sizes), seeds.
    """
    shown, rows = [*KEYS, "allocation", "budget"], []
    for same in zip(*runs, strict=True):
        names = [
            {k: variant.label[k] for k in shown} | {"task": "+".join(variant.tasks or ["all"])} for variant in same
        ]
        if any(name != names[0] for name in names):
            raise ValueError(f"variants at the same place must differ in the seed alone, got {names}")
        pairs = [a.mask.overlap(b.mask) for a, b in combinations(same, 2)]
        if pairs:
            rows.append(names[0] | pd.DataFrame(pairs).mean().to_dict() | {"seeds": len(same)})
    return pd.DataFrame(rows, columns=[*shown, "task", "heads", "heads_chance", "channels", "channels_chance", "seeds"])


def accuracy_drops(results: pd.DataFrame, drop: float) -> pd.DataFrame:
    """Fires where the average over tasks lies more than ``drop`` points below the dense model's.

    ``results`` is notebook 06's table. The advice speaks of protected layers only
    where a row without them stands beside: it says what protecting the last layers did.
    """
    averages, dense = _averages(plain(results)), _averages(results[results["requested_sparsity"] == 0])
    bare = results[results["allocation"].astype(str).str.endswith("protect 0+0")]
    same_seeds = plain(results[results["calibration_seed"].isin(bare["calibration_seed"])])
    gains = 100 * (_averages(same_seeds) - _averages(bare)) if len(bare) else {}
    rows = []
    for key, value in averages.items():
        measured, advice = 100 * (dense.iloc[0] - value), "try another allocation (notebook 07), or cut less"
        if (gain := gains.get(key, np.nan)) == gain:
            advice = f"protect {'more layers' if gain > 0 else 'other layers than the last'}, or cut less"
            advice += f" (their protection, as here, changed the average by {gain:+.1f} points)"
        rows.append(("accuracy drop", *key, measured, drop, "points", measured > drop, advice, "table1_zero_shot"))
    return _frame(rows)


def perplexity_gaps(results: pd.DataFrame, perplexities: pd.DataFrame, ratio: float, kept: float) -> pd.DataFrame:
    """Fires where perplexity exceeds ``ratio`` times the dense model's and accuracy stays within ``kept`` points.

    ``perplexities`` is notebook 08's table, of which the first preset counts; experts by their mean.
    """
    drops = accuracy_drops(results, 0.0).set_index(KEYS)["measured"]
    first = perplexities[perplexities["preset"] == perplexities["preset"].iloc[0]]
    dense = first.loc[first["requested_sparsity"] == 0, "perplexity"].iloc[0]
    means = np.exp(np.log(plain(first).set_index(KEYS)["perplexity"]).groupby(KEYS, sort=False).mean()) / dense
    rows = []
    for key, measured in means[means.index.isin(drops.index)].items():
        fires = measured > ratio and drops[key] < kept
        advice = f"calibrate on more general text, or weigh it more: accuracy fell by only {drops[key]:.1f} points"
        rows.append(("perplexity without accuracy", *key, measured, ratio, "× dense", fires, advice, "perplexity"))
    return _frame(rows)


def unstable_masks(stability: pd.DataFrame, overlap: float) -> pd.DataFrame:
    """Fires where the channels kept under two calibration seeds have a Jaccard index below ``overlap``.

    ``stability`` is the table of :func:`mask_stability`; of a method's experts the least stable counts.
    """
    rows = []
    for key, cell in stability[stability["score"] != "random"].groupby(KEYS, sort=False):
        worst = cell.loc[cell["channels"].idxmin()]
        advice = f"calibrate on more texts; unrelated masks would share {worst['channels_chance']:.2f}"
        if len(cell) > 1:
            advice += f"; of {len(cell)} experts, {worst['task']} is the least stable"
        fires = worst["channels"] < overlap
        measured = (worst["channels"], overlap, "Jaccard")
        rows.append(("mask depends on the seed", *key, *measured, fires, advice, "mask_stability"))
    return _frame(rows)


def idle_routing(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Fires where routed experts are not shown to be more accurate than the general mask on the tasks they know.

    ``comparisons`` is notebook 12's table of paired differences.
    """
    chosen = comparisons[(comparisons["kind"] == "known") & (comparisons["metric"] == "primary")]
    chosen = chosen[(chosen["a"] == variants.WAYS["router"]) & (chosen["b"] == router.GENERAL)]
    rows = []
    for row in chosen.itertuples():
        advice = "use the general mask alone: no router, no switches, and the dense model need not stay in memory"
        key, measured = (row.a, "–", row.requested_sparsity), (100 * row.difference, 0.0, "points")
        fires = row.verdict != comparison.HOLDS
        rows.append(("routing brings nothing", *key, *measured, fires, advice, "routing_comparisons"))
    return _frame(rows)


def diagnose(
    profile: str, drop: float = 10.0, ratio: float = 2.0, kept: float = 2.0, overlap: float = 0.9
) -> tuple[pd.DataFrame, list[str]]:
    """All rules over a profile's saved tables, and the names of the tables that are not there.

    ``drop`` and ``kept`` are points of average accuracy, ``ratio`` multiples of the dense
    perplexity, ``overlap`` a Jaccard index.
    """
    found, missing, parts = {}, [], []
    for name in ("table1_zero_shot", "perplexity", "mask_stability", "routing_comparisons"):
        file = paths.figures_dir(profile) / f"{name}.csv"
        if file.exists():
            found[name] = pd.read_csv(file, keep_default_na=False, na_values=[""])
        else:
            missing.append(name)
    if "table1_zero_shot" in found:
        parts.append(accuracy_drops(found["table1_zero_shot"], drop))
        if "perplexity" in found:
            parts.append(perplexity_gaps(found["table1_zero_shot"], found["perplexity"], ratio, kept))
    if "mask_stability" in found:
        parts.append(unstable_masks(found["mask_stability"], overlap))
    if "routing_comparisons" in found:
        parts.append(idle_routing(found["routing_comparisons"]))
    parts = [part for part in parts if len(part)]
    return (pd.concat(parts, ignore_index=True) if parts else _frame([])), missing


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Pruned rows, without repetitions of a method under another budget, protection or compensation."""
    return summaries.as_published(frame[frame["requested_sparsity"] > 0])


def _averages(results: pd.DataFrame) -> pd.Series:
    """Average over tasks by ``KEYS``."""
    means = summaries.summary(results)
    return means[means["task"] == tables.AVERAGE].set_index(KEYS)["value"]


def _frame(rows: list[tuple]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame["advice"] = frame["advice"].where(frame["fires"].astype(bool), "–")
    return frame.assign(fires=frame["fires"].map({True: "yes", False: "no"}))
