"""What a notebook parameter may be: its kind, its smallest value, its choices."""

import difflib
from collections.abc import Iterable
from dataclasses import fields

from .. import paths, settings
from ..input_sparsity.rule import InputSparsity

GROUPS = (settings.Calibration, settings.Pruning, settings.Evaluation)
TASK_PARAMETERS = ("task", "tasks", "general", "other_general")
TEXT_PARAMETERS = ("general", "other_general", "class_tasks")  # never scored by lm-eval: plain text will do
#: Names of :data:`seaplib.perplexity.PRESETS`, which cannot be imported without torch.
PRESETS = ("2048", "flap128", "paper", "authors512")
CHOICES = {
    "presets": PRESETS,
    "claims_preset": PRESETS,
    "method": ("umap", "tsne", "pca"),
    "text_pooling": ("mean", "last"),
    "cache": ("dynamic", "static"),
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "device_map": ("auto", "balanced", "sequential"),
    "other_methods": ("ShortGPT", "2SSP", "Score fusion", "GRIFFIN"),
}
SHARES = ("ratios", "test_share", "top_share", "template_shares", "overlap", "overlap_needed", "needed_accuracy",
          "coverage")  # fmt: skip
#: Parameters that are part of a rule for sparse inputs → which field.
RULES = {"patterns": "pattern", "base": "pattern", "target_patterns": "pattern", "neighbour_ratio": "pattern"}
RULES |= {"repairs": "transformation", "criteria": "criterion", "neighbours": "criterion", "targets": "targets"}
#: Smallest value of a whole number; 0 for those not listed.
SMALLEST = {"prompts_per_class": 10, "window_tokens": 2, "large_hidden": 64, "prompt_types": 256} | dict.fromkeys(
    ("samples", "items", "draws", "prompt_tokens", "new_tokens", "rounds", "prompt_count", "prompt_words",
     "other_seeds", "permutations", "router_prompts", "stream_requests", "burst", "batch", "batch_rounds",
     "large_requests", "large_tokens", "large_channels", "large_samples", "random_widths", "pool", "part_texts",
     "base_texts", "grid_items"), 1
)  # fmt: skip


def task_names(parameters: dict) -> list[str]:
    """The tasks that a notebook's parameters name."""
    return [task for named in _tasks_by_parameter(parameters).values() for task in named]


def _tasks_by_parameter(parameters: dict) -> dict[str, list]:
    chosen = {k: v for k, v in parameters.items() if k in TASK_PARAMETERS or k.endswith(("_task", "_tasks"))}
    return {name: [value] if isinstance(value, str) else list(value or []) for name, value in chosen.items()}


def _kind_name(name: str, parameters: dict) -> str:
    """What the tasks that a parameter names must be: "scored", "plain" (text whose perplexity is measured) or "any"."""
    read = "text_task" if parameters.get("text_task") else "general" if "presets" in parameters else "text_task"
    return "plain" if name == read else "any" if name in TEXT_PARAMETERS else "scored"


def _check_value(where: str, name: str, value) -> None:
    """One parameter's value, whatever the others are."""
    for single in value if isinstance(value, list | tuple) else [value]:
        if single is None or isinstance(single, bool):
            continue
        smallest = SMALLEST.get(name, 0)
        if isinstance(single, int) and single < smallest:
            raise PlanError(f"{where}: {name} must be at least {smallest}, got {single}")
        if name in SHARES and not 0 <= _number(where, name, single) <= 1:
            raise PlanError(f"{where}: {name} must lie in [0, 1], got {single}")
        if name == "test_share" and single in (0, 1):
            raise PlanError(f"{where}: test_share must leave prompts on both sides, got {single}")
        if name in CHOICES and single not in CHOICES[name]:
            raise PlanError(f"{where}: {name}: there is no {single!r}{suggestion(single, CHOICES[name])}")
        if name in RULES:
            try:
                InputSparsity(**{"pattern": 0.5, RULES[name]: single})
            except ValueError as error:
                raise PlanError(f"{where}: {name}: {error}") from error
    if name == "published_table" and not (paths.published_dir() / f"{value}.csv").is_file():
        known = [file.stem for file in paths.published_dir().glob("*.csv")]
        raise PlanError(f"{where}: there is no published table {value!r}{suggestion(value, known)}")
    if isinstance(value, list | tuple):
        for place, single in enumerate(value):
            if not isinstance(single, list) and single in value[:place]:
                raise PlanError(f"{where}: {name} names {single!r} twice; name it once")
    _check_setting(where, name, value)


def _check_setting(where: str, name: str, value) -> None:
    """A parameter named like a settings field must be a possible value of it."""
    values = value if name == "sparsities" else [value]
    name = "sparsity" if name == "sparsities" else name
    groups = [group for group in GROUPS if name in {field.name for field in fields(group)}]
    for single in values if groups else ():
        errors = []
        for group in groups:
            try:
                group(**{name: single})
            except TypeError:  # a comparison with a text or a list
                errors.append(f"{name} must be a number, got {single!r}")
            except ValueError as error:
                errors.append(error)
        if len(errors) == len(groups):
            raise PlanError(f"{where}: {errors[0]}")


def _number(where: str, name: str, value) -> float:
    if not isinstance(value, int | float):
        raise PlanError(f"{where}: {name} must be a number, got {value!r}")
    return value


def _check_together(where: str, parameters: dict) -> None:
    """Values that are possible alone, but not beside each other."""
    presets, preset = parameters.get("presets"), parameters.get("claims_preset")
    if presets and preset and preset not in presets:
        raise PlanError(f"{where}: claims_preset {preset!r} must be one of presets ({', '.join(presets)})")
    if parameters.get("compiled") and parameters.get("cache") == "dynamic":
        raise PlanError(f"{where}: compiled needs cache: static")
    if "overlap_needed" in parameters and len(parameters["seeds"]) < 2:
        raise PlanError(f"{where}: seeds must be at least two, whose masks are compared, got {parameters['seeds']}")


#: Parameters for which null means "all" or "choose", whatever their own cell says.
MAY_BE_NULL = ("items", "window_tokens", "layers", "prompts")
#: Lists that may be empty: what they name stands beside the rest.
MAY_BE_EMPTY = ("other_methods", "other_general", "other_models")


class PlanError(ValueError):
    """Something asked for that cannot be done; the message is one line and says what to do."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of an error message about a misspelt name."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known) or 'none'}"


def _same_kind(where: str, name: str, value, default) -> None:
    """An override must be the same kind of value as the literal it replaces, and a list not empty."""
    if value is None and default is not None and name not in MAY_BE_NULL:
        raise PlanError(f"{where}: {name} must not be null; leave it out for its default {default!r}")
    if None in (value, default):
        return
    whole = isinstance(default, int) and isinstance(value, float)
    if whole or _kind(value) != _kind(default):
        kind = "a whole number" if whole else _kind(default)
        raise PlanError(f"{where}: {name} must be {kind} like {default!r}, got {value!r}")
    if isinstance(value, list) and not value and name not in MAY_BE_EMPTY:
        raise PlanError(f"{where}: {name} must not be empty")
    for single in value if isinstance(value, list) and default else ():
        _same_kind(where, f"each of {name}", single, default[0])


def _kind(value) -> str:
    for types, kind in ((bool, "true or false"), (int | float, "a number"), (str, "a text"), (list | tuple, "a list")):
        if isinstance(value, types):
            return kind
    return "a mapping"
