"""The paper's claims about accuracy, tested on item results: rows for :func:`seaplib.reports.claims.save`.

Items are ``evaluate_items``'s frame with the dense model's rows. A claim about a sparsity that was not run has no row.
All numbers are means over tasks of the tasks' usual metrics, on the same items and calibration seeds.
"""

from collections.abc import Mapping

import pandas as pd

from ..evaluation import bootstrap, comparison
from . import claims, display_names

DENSE = {"method": "dense"}
SEAP, GENERAL = {"method": "SEAP", "score": "s_F"}, {"method": "SEAP-gen", "score": "s_F"}
FLAP, WANDA_SP = {"method": "FLAP", "score": "s_F"}, {"method": "Wanda-sp", "score": "s_W"}
TABLE_1 = {"allocation": "logistic", "budget": "parameters"}
BASELINES = {"flap": FLAP, "wanda-sp": WANDA_SP}
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
