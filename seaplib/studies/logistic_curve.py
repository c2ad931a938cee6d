"""Settings of the logistic curve, chosen on validation items and judged on test items.

On the items that chose it, the best of many settings looks better than it is. So the items of each task are parted at
random: validation items choose, test items report.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..evaluation import bootstrap, comparison

VALIDATION, TEST = "validation", "test"


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
