"""Zero-shot accuracy through lm-eval: prompts, metrics and versions are lm-eval's, the scoring is ours.

The requests of a task are built and tokenised once and serve every variant
(:mod:`~seaplib.evaluation.lm_eval`); options that begin alike share a forward pass
(:mod:`~seaplib.models.likelihood`). Item results stand beside their aggregates, so that methods can be
compared item by item (:mod:`~seaplib.evaluation.comparison`). The store keeps item results under everything
that could change them: a killed run resumes where it was.
"""

import math
from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path

import pandas as pd
from torch import nn
from tqdm.auto import tqdm

from ..models import architectures, loading
from ..models.state import state
from ..settings import METRICS, Evaluation, expect
from ..texts import tasks as registry
from . import bootstrap, workers
from .lm_eval import Bench

DENSE = {
    "method": "dense",
    "score": "none",
    "allocation": "none",
    "budget": "none",
    "requested_sparsity": 0.0,
    "achieved_sparsity": 0.0,
    "achieved_model_sparsity": 0.0,
    "calibration": "none",
    "calibration_seed": pd.NA,
}
SPARSITIES = ("requested_sparsity", "achieved_sparsity", "achieved_model_sparsity")


def evaluate(
    model: nn.Module,
    tokenizer,
    tasks: str | Iterable[str],
    variants: Iterable | None = None,
    settings: Evaluation | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Scores of variants on tasks: a row per variant × task × metric.

    A variant has ``label`` (the columns that name its rows), ``tasks`` (None: all), ``fingerprint`` and
    ``apply(model)``, which returns a model or an :class:`~seaplib.evaluation.lm_eval.Answering`. None among
    the variants, and by default, stands for ``model`` as it is ("dense", or "pruned" where it was pruned before).

    Columns: model, the label's (method … calibration_seed), task, metric, value (a share of the items; of
    ``log_likelihood`` a mean in nats), stderr
    (sample standard deviation / √n, as lm-eval's), n, chance (what guessing gives by a task's usual metric, 0 where
    answers are written; NaN for other metrics), at_chance (whether n items cannot tell the value from guessing: chance
    lies in Wilson's 95% interval), detectable (the smallest difference to another model's value that n items show
    four times in five, if both err independently; paired comparisons of models show smaller differences:
    :mod:`~seaplib.evaluation.comparison`), task_version, bos (whether prompts begin with BOS),
    chat_template (whether it was applied), primary (whether the paper's tables report this metric),
    truncated (number of items whose prompt did not fit the context).
    """
    items = evaluate_items(model, tokenizer, tasks, variants, settings, progress)
    return aggregate(items, name_of(model))


def aggregate(items: pd.DataFrame, model: str = "model") -> pd.DataFrame:
    """The rows of :func:`evaluate` from those of :func:`evaluate_items`."""
    constant = [column for column in items.columns if column not in ("doc_id", "value", "truncated")]
    parts = []
    for key, cell in items.groupby(constant, sort=False, dropna=False):
        row = {"model": model} | dict(zip(constant, key, strict=True))
        n = len(cell)
        row["value"] = cell["value"].mean()
        row["stderr"] = cell["value"].std(ddof=1) / math.sqrt(n) if n > 1 else math.nan
        row["at_chance"] = _at_chance(row["value"], n, row.get("chance", math.nan))
        share = METRICS[row["metric"]].share if row["metric"] in METRICS else True
        row["detectable"] = _detectable(row["value"], n) if share else bootstrap.SHOWN * 2**0.5 * row["stderr"]
        parts.append(row | {"n": n, "truncated": int(cell["truncated"].sum())})
    frame = pd.DataFrame(parts)
    frame["primary"] = [registry.get(row.task).metric == row.metric for row in frame.itertuples()]
    frame["calibration_seed"] = frame["calibration_seed"].astype("Int64")
    last = ["task", "metric", "value", "stderr", "n", "chance", "at_chance", "detectable", "task_version", "bos"]
    last = [column for column in (*last, "chat_template", "primary", "truncated") if column in frame]
    return frame[[column for column in frame if column not in (*last, "variant")] + last]


def evaluate_items(
    model: nn.Module,
    tokenizer,
    tasks: str | Iterable[str],
    variants: Iterable | None = None,
    settings: Evaluation | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Item results: a row per variant × task × metric × test item. Parameters as in :func:`evaluate`.

    Columns: variant (the place in ``variants``, or "dense" for ``model`` as it is), the label's, task,
    bos, chat_template, chance (of guessing, by the task's usual metric; NaN by others), task_version, metric, doc_id,
    value (0 or 1), truncated. Raises, before any model runs,
    ``ValueError`` for an unknown task and for a task named twice, ``FileNotFoundError`` for a missing split.
    """
    settings = Evaluation() if settings is None else settings
    expect(settings, Evaluation, "settings")
    chosen = list(variants) if variants is not None else [None]
    for variant in chosen:
        check_variant(variant)
    bench = Bench(model, tokenizer, settings)
    names = [registry.get(name).name for name in ([tasks] if isinstance(tasks, str) else tasks)]
    if double := [name for place, name in enumerate(names) if name in names[:place]]:
        raise ValueError(f"task {double[0]!r} is named twice, so its items would count twice; name it once")
    work = [(i, v, name) for i, v in enumerate(chosen) for name in names if v is None or not v.tasks or name in v.tasks]
    for name in dict.fromkeys(name for _, _, name in work):
        bench.identity(name)
    if bench.settings.workers > 1 and workers.can_share(model):
        missing: dict[int, list[str]] = {}
        for index, variant, name in work:
            if not bench.stored(name, variant):
                missing.setdefault(index, []).append(name)
        if len(missing) > 1:
            workers.fill(bench, chosen, missing, _apply, progress)
    frames, applied, current = [], None, None
    bar = tqdm(work, desc="evaluating", unit="task", leave=False, disable=not progress)
    for index, variant, name in bar:
        if index != current:
            applied, current = lru_cache(partial(_apply, variant, model)), index
        label = label_of(model, variant)
        bar.set_postfix_str(f"{label['method']} {name}")
        frame = bench.items(name, variant, applied)
        columns = {"variant": "dense" if variant is None else str(index)} | label | {"task": name} | bench.conditions
        guessed = frame["metric"].eq(registry.get(name).metric).map({True: bench.chance(name), False: math.nan})
        frames.append(frame.assign(**columns, chance=guessed)[[*columns, "chance", *frame.columns]])
    if not frames:
        raise ValueError("nothing to evaluate: no variant is meant for any of the tasks " + ", ".join(names))
    items = pd.concat(frames, ignore_index=True)
    return items.astype({"calibration_seed": "Int64"})


def _at_chance(value: float, n: int, chance: float) -> bool:
    """Whether ``chance`` lies in Wilson's 95% interval of a share of ``n`` items; no where it is NaN."""
    if math.isnan(chance):
        return False
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(value * n, n, method="wilson")
    return bool(low - 1e-12 <= chance <= high + 1e-12)


def _detectable(value: float, n: int) -> float:
    """The difference between two shares of ``n`` items each that is shown four times in five (Agresti and Coull)."""
    share = (value * n + 2) / (n + 4)
    return bootstrap.SHOWN * math.sqrt(2 * share * (1 - share) / (n + 4))


def check_variant(variant) -> None:
    """TypeError for what is no variant, such as a mask without a label."""
    if variant is not None and not all(hasattr(variant, part) for part in ("label", "fingerprint", "apply")):
        kind = type(variant).__name__
        raise TypeError(f"a variant has a label, a fingerprint and apply, as seaplib.Variant(label, mask); got {kind}")


def label_of(model: nn.Module, variant=None) -> dict:
    """The columns that name a variant, or ``model`` as it is: dense, or pruned beforehand."""
    if variant is not None:
        label, below = DENSE | variant.label, label_of(model)["method"]
        return label if below == DENSE["method"] else label | {"method": f"{below} + {label['method']}"}
    done = state(model)
    if done.label is not None:  # an ExpertModel
        return DENSE | done.label
    if done.sparse:
        return DENSE | dict.fromkeys(SPARSITIES, math.nan) | {"method": "sparsified"}
    if made := getattr(model.config, "pruning", None):
        known = {key: math.nan if made[key] is None else made[key] for key in DENSE if key in made}
        return DENSE | known | {"method": "pruned"}
    if model.config.model_type in architectures.PRUNED_TYPES:
        return DENSE | dict.fromkeys(SPARSITIES, math.nan) | {"method": "pruned"}
    return dict(DENSE)


def name_of(model: nn.Module) -> str:
    """A model's name in tables: "bundled", its hub id, or the last part of its path."""
    path = model.config._name_or_path or type(model).__name__
    if not Path(path).exists():
        return path
    return "bundled" if Path(path).resolve() == Path(loading.resolve("bundled")).resolve() else Path(path).name


def _apply(variant, model):
    return model if variant is None else variant.apply(model)


def pruned(variant, model: nn.Module) -> nn.Module:
    """The model that a variant (None: the dense model) makes of ``model``.

    ValueError for a variant that makes no single model but answers items by a protocol of its own.
    """
    made = _apply(variant, model)
    if not isinstance(made, nn.Module):
        name = variant.label["method"]
        raise ValueError(f"{name} makes no single model, and answers a task's items only: use seaplib.evaluate")
    return made
