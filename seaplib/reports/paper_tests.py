"""The paper's claims tested, each with what else a notebook asks of the same numbers: rows for ``claims.save``.

Items are ``evaluate_items``'s frame with the dense model's rows. A claim about a sparsity that was not run has no row.
Accuracies are means over tasks of the tasks' usual metrics, on the same items and calibration seeds.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from ..evaluation import bootstrap, comparison
from . import claims, display_names
from .paper_claims import PAPER_CLAIMS

DENSE = {"method": "dense"}
SEAP, GENERAL = {"method": "SEAP", "score": "s_F"}, {"method": "SEAP-gen", "score": "s_F"}
FLAP, WANDA_SP = {"method": "FLAP", "score": "s_F"}, {"method": "Wanda-sp", "score": "s_W"}
TABLE_1 = {"allocation": "logistic", "budget": "parameters"}
BASELINES = {"flap": FLAP, "wanda-sp": WANDA_SP}
#: model with which SEAP-gen's decoding speed is compared → the claim, and its direction
SPEED = {
    "Dense": ("SEAP-gen decodes faster than the dense model", 1),
    "Wanda": ("SEAP-gen decodes faster than unstructured Wanda", 1),
    "FLAP as published": ("SEAP-gen decodes slower than FLAP as published", -1),
}
LARGER = ", on a larger model of random weights"  # behind claims about the second model that is timed
#: task of a claim about a single task → sparsity
EXCEPTIONS = {"hellaswag": 0.2, "boolq": 0.5}


def zero_shot(items: pd.DataFrame, model: str, draws: int = bootstrap.DRAWS) -> list[dict]:
    """What Tables 1 and 4 claim: retention and both baselines at 20%, relative gains at 50%, experts and general mask.

    ``model`` decides about claims that are bound to a model.
    """
    rows, about = [], {"model": model, "where": "table1_zero_shot"}
    if len(at := _at(items, 0.2)):
        kept = comparison.ratio(at, SEAP | TABLE_1, DENSE, null=0.978, draws=draws)
        rows.append(_percent("retention-at-20", kept, 0.0, **about))
        for name, baseline in BASELINES.items():
            rows.append(_points(f"beats-{name}-at-20", at, SEAP, baseline, draws, **about))
    if len(at := _at(items, 0.5)):
        for name, baseline in BASELINES.items():
            gain = comparison.ratio(at, SEAP | TABLE_1, baseline | TABLE_1, null=1.2, draws=draws)
            rows.append(_percent(f"gain-over-{name}-at-50", gain, 1.0, **about))
    for sparsity in (0.2, 0.5):
        if len(at := _at(items, sparsity)):
            name = f"experts-beat-general-at-{100 * sparsity:.0f}"
            rows.append(_points(name, at, SEAP, GENERAL, draws, **about))
    for task, sparsity in EXCEPTIONS.items():
        at = _at(items, sparsity)
        at = at[at["task"].map(display_names.base_task) == task]
        if len(at):
            rows.append(_points(f"general-ahead-on-{task}", at, GENERAL, SEAP, draws, **about))
    return rows


def retention(items: pd.DataFrame, draws: int = bootstrap.DRAWS) -> pd.DataFrame:
    """What each of Table 1's methods keeps of the dense model's accuracy, on the same items and calibration seeds.

    A row per method and sparsity: method, score, requested_sparsity and the columns of ``comparison.ratio``, the mean
    over tasks of the pruned model divided by that of the dense model.
    """
    rows = []
    for sparsity in sorted(set(items["requested_sparsity"]) - {0.0}):
        for method in (WANDA_SP, FLAP, GENERAL, SEAP):
            found = comparison.ratio(_at(items, sparsity), method | TABLE_1, DENSE, draws=draws)
            rows.append(method | {"requested_sparsity": sparsity} | found)
    return pd.DataFrame(rows)


def allocations(items: pd.DataFrame, model: str, draws: int = bootstrap.DRAWS) -> list[dict]:
    """What Table 3 claims: the logistic allocation against uniform (SEAP-gen) and against adaptive (FLAP)."""
    rows, about = [], {"model": model, "where": "table3_sparsity_settings"}
    tested = [("uniform", GENERAL, 0.2), ("uniform", GENERAL, 0.5), ("adaptive", FLAP, 0.5)]
    for other, method, sparsity in tested:
        if len(at := _at(items, sparsity)):
            name = f"logistic-beats-{other}-at-{100 * sparsity:.0f}"
            found = comparison.compare(at, method | TABLE_1, method | TABLE_1 | {"allocation": other}, draws=draws)
            rows.append(claims.of_paper_points(name, found, **about))
    return rows


def remove_tests(items: pd.DataFrame, tasks: Iterable[str], layers: int, model: str) -> list[dict]:
    """What Figures 5 and 6 claim: pruning a layer of the early half costs more than a layer of the deep half.

    ``items`` has a column ``layer``, the layer pruned; ratios are averaged. With an odd number of ``layers`` the
    middle one counts for neither half. Beside the tasks' usual metrics stands exact match, and beside the early half
    the early half without layer 0.
    """
    half, pruned = layers // 2, items[items["method"] != "dense"]
    deep = pruned[pruned["layer"].isin(range(layers - half, layers))].assign(half="deep")
    rows = []
    for text, first in (("Early layers", 0), ("Early layers but layer 0", 1)):
        early = pruned[pruned["layer"].isin(range(first, half))].assign(half="early")
        for task in tasks if len(early) else ():
            keys = ["half", "task", "metric", "doc_id", "calibration_seed"]
            both = pd.concat([deep, early]).query("task == @task").groupby(keys)["value"].mean().reset_index()
            base = display_names.base_task(task)
            for metric in bootstrap.measured(both, items):
                found = comparison.compare(both, {"half": "deep"}, {"half": "early"}, metric)
                name = f"early-layers-matter-{base}"
                if metric == bootstrap.PRIMARY and not first and name in PAPER_CLAIMS:
                    rows.append(claims.of_paper_points(name, found, model=model, where="remove_tests"))
                else:
                    said = f"{text} are more sensitive to pruning than deep ones ({display_names.task(base)})"
                    rows.append(claims.points(said, found, metric=metric, where="remove_tests"))
    return rows


def task_classifier(
    right: Mapping[str, np.ndarray], bare: str, random: str, largest: float, model: str, seed: int = 0
) -> list[dict]:
    """What Table 6 claims of a classifier of prompts, and what its accuracy rests on.

    ``right`` maps inputs to whether each held-out prompt was named rightly: "all words", ``bare`` (without the
    template's words), and ``random`` (all words, random embeddings). ``largest`` is the largest class's share.
    Differences are paired, with McNemar's exact test.
    """
    words, about = right["all words"], {"where": "table6_task_classifier"}
    chance = round(100 * float(largest), 2)
    rows = [claims.of_paper("classifier-accuracy", **comparison.percentage(words, 93), model=model, **about)]
    for text, named, null in (
        ("A linear layer on layer-0 embeddings names the task more often than chance", words, chance),
        ("The classifier names the task more often than chance without the template's words", right[bare], chance),
        ("A router on layer-0 embeddings is right for at least 95% of held-out prompts", words, 95),
    ):
        rows.append(claims.claim(text, **comparison.percentage(named, null), null=null, unit="%", **about))
    for text, other in (
        ("The template's words carry part of the classifier's accuracy", bare),
        ("What the embeddings have learnt carries part of the classifier's accuracy", random),
    ):
        gain = 100 * (words.astype(float) - right[other])
        low, high = bootstrap.mean_interval(gain, seed=seed)
        tested = {"n": len(gain), "p_value": comparison.mcnemar(words, right[other])}
        rows.append(claims.claim(text, gain.mean(), low, high, unit="points", **tested, **about))
    return rows


def perplexity(compared: pd.DataFrame, model: str) -> list[dict]:
    """What Figure 7 claims at 20%, and every other ratio of ``evaluation.perplexity.contrasts`` as a claim."""
    rows = []
    for found in compared.to_dict("records"):
        sides, sparsity = (found["a"], found["b"]), found["requested_sparsity"]
        if sides == ("SEAP-gen, s_F", "FLAP, s_F") and sparsity == 0.2:
            estimate = (found[key] for key in ("ratio", "low", "high"))
            about = {"n": found["n"], "p_value": found["p"], "p_floor": found["p_floor"], "where": "fig7_perplexity"}
            rows.append(claims.of_paper("perplexity-higher-at-20", *estimate, model=model, **about))
        else:
            rows.append(claims.times(found["claim"], found, sparsity=sparsity, where="fig7_perplexity"))
    return rows


def speed(timed: Mapping[str, pd.DataFrame], sparsities: Iterable[float], minutes: float, model: str) -> list[dict]:
    """What Table 2 and the text claim: decoding speed at 50%, minutes of pruning; and SEAP-gen against the others.

    ``timed`` maps models, the profile's first, to ``speed.time_rounds``'s frames, names as "SEAP-gen, 50%". Wanda and
    FLAP as published are compared on the last model, which is the largest. ``minutes`` are those of one pruning.
    """
    rows, where = [], "table2_inference_speed"
    tables = {
        name: frame[frame["measure"] == "decode"].pivot(index="round", columns="name", values="tokens_per_second")
        for name, frame in timed.items()
    }
    for place, table in enumerate(tables.values()):
        for sparsity in sparsities:
            for other, (text, direction) in SPEED.items():
                if other != "Dense" and place < len(tables) - 1:
                    continue
                theirs = table[other if other == "Dense" else f"{other}, {sparsity:.0%}"]
                found = comparison.rounds(table[f"SEAP-gen, {sparsity:.0%}"], theirs)
                if (place, other, sparsity) == (0, "Dense", 0.5):
                    estimate = (found[key] for key in ("ratio", "low", "high"))
                    rows.append(claims.of_paper("speed-at-50", *estimate, model=model, n=found["n"], where=where))
                said = text + (LARGER if place else "")
                rows.append(claims.times(said, found, sparsity=sparsity, direction=direction, where=where))
    return [*rows, claims.of_paper("pruning-takes-minutes", *3 * [minutes], model=model, n=1, where=where)]


def routing(
    contrasts: pd.DataFrame, right: np.ndarray, tests: Iterable[Mapping], sparsity: float, larger: bool
) -> list[dict]:
    """Claims about routed experts, none of which is the paper's: accuracy, the router's decisions, times.

    ``contrasts`` is ``experts.variants.contrasts``; ``right`` whether each known request's expert was named;
    ``tests`` is ``experts.timing.tests`` at ``sparsity``, on the ``larger`` model of random weights or on the model.
    """
    rows = [
        claims.points(
            row["claim"], row, sparsity=row["requested_sparsity"], null=row["null"], where="routing_comparisons"
        )
        for row in contrasts.to_dict("records")
        if row["claim"]
    ]
    text = "The router names the right expert for at least 95% of test requests"
    named = comparison.percentage(right, 95)
    rows.append(claims.claim(text, **named, null=95, unit="%", where="routing_decisions"))
    for found in tests:
        text = found["claim"] + (LARGER if larger else "")
        rows.append(claims.times(text, found, null=found["null"], sparsity=sparsity, where="routing_worth"))
    return rows


def _at(items: pd.DataFrame, sparsity: float) -> pd.DataFrame:
    """The items of one sparsity with the dense model's; empty where nothing was pruned to that sparsity."""
    at = items[items["requested_sparsity"].isin([0.0, sparsity])]
    return at if (at["requested_sparsity"] == sparsity).any() else at.head(0)


def _points(name: str, items: pd.DataFrame, a: Mapping, b: Mapping, draws: int, **about) -> dict:
    return claims.of_paper_points(
        name, comparison.compare(items, {**a, **TABLE_1}, {**b, **TABLE_1}, draws=draws), **about
    )


def _percent(name: str, found: Mapping, minus: float, **about) -> dict:
    """A ratio less ``minus`` as a percentage."""
    values = (100 * (found[key] - minus) for key in ("ratio", "low", "high"))
    sizes = {"n": found["n"], "p_value": found["p"], "p_floor": found["p_floor"]}
    return claims.of_paper(name, *values, **sizes, **about)
