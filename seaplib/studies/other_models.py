"""The comparison at the heart of the paper on any model: task-calibrated, general and general-text masks, and chance.

Every model goes through the same steps with the same texts, items and seeds: calibration on each task and on general
text; expert, general (Eq. 15), general-text-only and random masks at the same sparsity; all masks answer all items.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd

from ..activations.statistics import calibrate
from ..evaluation import accuracy, bootstrap, comparison
from ..models import loading
from ..pruning import methods
from ..settings import Calibration, Evaluation
from ..texts.tasks import experts

METHODS = (methods.SEAP_F, methods.GENERAL_F, methods.FLAP, methods.RANDOM)
#: pairs (a, b) of the comparisons "a is better than b"
PAIRS = (
    (methods.SEAP_F, methods.FLAP),
    (methods.GENERAL_F, methods.FLAP),
    (methods.SEAP_F, methods.GENERAL_F),
    (methods.SEAP_F, methods.RANDOM),
)


def answers(
    model,
    tokenizer,
    tasks: Sequence[str],
    general: str,
    sparsity: float,
    seeds: Iterable[int],
    samples: int = 128,
    settings: Evaluation | None = None,
    mode: str = "remove",
    protect_last: int | None = None,
) -> pd.DataFrame:
    """Item results of the dense model and of ``METHODS`` under every seed, with a column ``architecture``.

    ``protect_last``: layers at the output that keep everything, for a model too shallow for the usual number.
    """
    recipes = [replace(method, protect_last=protect_last) for method in METHODS]
    corpora = [*experts(tasks), general]
    chosen = [None]
    for seed in seeds:
        stats = calibrate(model, tokenizer, corpora, Calibration(samples=samples, seed=seed))
        chosen += methods.variants(recipes, stats, [sparsity], tasks, general, seed, mode=mode)
    items = accuracy.evaluate_items(model, tokenizer, tasks, chosen, settings)
    return items.assign(architecture=model.config.model_type)


def compared(
    items: pd.DataFrame, name: str, draws: int = bootstrap.DRAWS, protect_last: int | None = None
) -> pd.DataFrame:
    """``PAIRS`` on a model's items, over all tasks: columns model, architecture, and ``comparison.contrasts``'s."""
    pairs = [tuple(replace(side, protect_last=protect_last) for side in pair) for pair in PAIRS]
    found = comparison.contrasts(items, pairs, draws=draws)
    found = found[found["task"] == "all"].drop(columns="p_mcnemar")
    dense = {metric: _mean(items, metric) for metric in bootstrap.REPORTED}
    found.insert(0, "model", name)
    found.insert(1, "architecture", items["architecture"].iloc[0])
    return found.assign(dense=found["metric"].map(dense)).reset_index(drop=True)


def _mean(items: pd.DataFrame, metric: str) -> float:
    """The dense model's mean over tasks."""
    rows = accuracy.aggregate(items[items["method"] == "dense"].drop(columns="architecture"))
    return float(bootstrap.of_metric(rows, metric)["value"].mean())


def on_models(
    names: Iterable[str], draws: int = bootstrap.DRAWS, dtype: str = "auto", device_map=None, **options
) -> pd.DataFrame:
    """The protocol on each named model in turn, each alone in memory; ``options`` as in :func:`answers`."""
    frames = []
    for name in names:
        model, tokenizer = loading.load(name, dtype=dtype, device_map=device_map)
        items, last = answers(model, tokenizer, **options), options.get("protect_last")
        frames.append(compared(items, accuracy.name_of(model), draws, last))
        del model
    return pd.concat(frames, ignore_index=True)
