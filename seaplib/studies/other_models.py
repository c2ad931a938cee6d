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
from ..reports import display_names, tables
from ..settings import Calibration, Evaluation
from ..texts.tasks import experts

METHODS = (methods.SEAP_F, methods.GENERAL_F, methods.FLAP, methods.RANDOM)
#: pairs (a, b) → "a is better than b" in words
PAIRS = {
    (methods.SEAP_F, methods.FLAP): "experts beat a mask of general text",
    (methods.GENERAL_F, methods.FLAP): "the general mask beats a mask of general text",
    (methods.SEAP_F, methods.GENERAL_F): "experts beat the general mask",
    (methods.SEAP_F, methods.RANDOM): "experts beat random units",
}


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
    pairs = {tuple(replace(side, protect_last=protect_last) for side in pair): text for pair, text in PAIRS.items()}
    found = comparison.contrasts(items, pairs, draws=draws)
    found = found[found["task"] == "all"].drop(columns="p_mcnemar")
    dense = {metric: _mean(items, metric) for metric in bootstrap.measured(items)}
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


def display(found: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`compared` for reading."""
    shown = {
        "model": found["model"] + " (" + found["architecture"] + ")",
        "claim": found["claim"],
        "metric": found["metric"].map(display_names.metric),
        "dense, %": (100 * found["dense"]).round(1),
        "difference, points [95%]": tables.points(found),
        "p": found["p"].map("{:.2g}".format),
        "verdict": found["verdict"],
    }
    return pd.DataFrame(shown)


def answer(found: pd.DataFrame, sparsity: float) -> str:
    """Which claims hold on which of the models, and of how many architectures that says anything."""
    models, kinds, held = found["model"].unique(), found["architecture"].unique(), []
    for claim, part in found.groupby("claim", sort=False):
        sides = []
        for metric, of in part.groupby("metric", sort=False):
            count = f"holds on {sum(of['verdict'] == comparison.HOLDS)} of {len(models)}"
            sides.append(f"{count if len(models) > 1 else of['verdict'].iloc[0]} by {display_names.metric(metric)}")
        held.append(f"{claim} ({', '.join(sides)})")
    first = f"At {display_names.sparsity(sparsity)} on {', '.join(models)}: {'; '.join(held)}."
    if len(models) > 1:
        return f"{first} That is said of {len(kinds)} architectures ({', '.join(kinds)})."
    return (
        f"{first} No other model was at hand, so that nothing is said here about other architectures than {kinds[0]}; "
        "`other_models` takes directories and hub ids of any supported architecture."
    )
