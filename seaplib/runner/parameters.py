"""Every notebook parameter, declared once: type, bounds, choices, and the kind of tasks that it names.

A parameter that is named like a field of a settings dataclass is declared by that field alone
(:func:`setting`): the dataclass's own check decides. The values of a profile and of a
notebook's cell are checked against :class:`Parameters`; each problem is a :class:`PlanError` of one line.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import reduce
from operator import or_
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from .. import paths, settings
from ..input_sparsity.rule import InputSparsity
from ..settings import suggestion

OTHER_METHODS = ("ShortGPT", "2SSP", "Score fusion", "GRIFFIN")
GROUPS = (settings.Calibration, settings.Pruning, settings.Evaluation, settings.Routing)
T = TypeVar("T")


class PlanError(ValueError):
    """A request that cannot be carried out; the message is one line and says what to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).splitlines()))


@dataclass(frozen=True)
class Names:
    """The parameter names tasks: "scored" by lm-eval, "plain" text whose perplexity is measured, or "any"."""

    kind: str


# --- kinds of values ------------------------------------------------------------------------------


def _without_repeats(values: list) -> list:
    for place, value in enumerate(values):
        if not isinstance(value, list) and value in values[:place]:
            raise ValueError(f"names {value!r} twice; name it once")
    return values


def _within(low: float, high: float, ends: bool = True) -> AfterValidator:
    def check(value: float) -> float:
        if not (low <= value <= high if ends else low < value < high):
            raise ValueError(f"must lie in {f'[{low}, {high}]' if ends else f'({low}, {high})'}, got {value!r}")
        return value

    return AfterValidator(check)


def _one_of(known: Callable[[], Any]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in known():
            raise ValueError(f"there is no {value!r}{suggestion(value, known())}")
        return value

    return AfterValidator(check)


def _without_class(error: ValueError) -> str:
    """The message of a settings dataclass without the dataclass's name in front."""
    return re.sub(r"^[A-Z]\w+: ", "", str(error))


def setting(name: str):
    """The type of the settings field ``name``, checked as the dataclasses that have the field check it.

    Where several dataclasses have the field, a value that one of them accepts will do.
    """
    groups = [group for group in GROUPS if name in {field.name for field in fields(group)}]

    def check(value):
        errors = []
        for group in groups:
            try:
                group(**{name: value})
                return value
            except ValueError as error:
                errors.append(_without_class(error))
        raise ValueError(errors[0])

    return Annotated[reduce(or_, (get_type_hints(group)[name] for group in groups)), AfterValidator(check)]


def _rule(field: str) -> AfterValidator:
    """The value must be possible as this field of a rule for sparse inputs."""

    def check(value):
        try:
            InputSparsity(**{"pattern": 0.5, field: value})
        except ValueError as error:
            raise ValueError(_without_class(error)) from error
        return value

    return AfterValidator(check)


def _registered(value: str) -> str:
    if "/" in value or value.endswith((".parquet", ".jsonl", ".json", ".csv", ".txt")):
        hint = "use seaplib.corpus(...) in Python or register a task"
        raise ValueError(f"notebooks take registered tasks, got the file {value}; {hint}")
    return value


def _published_tables() -> list[str]:
    return [file.stem for file in paths.published_dir().glob("*.csv")]


Several = Annotated[list[T], Field(min_length=1), AfterValidator(_without_repeats)]
Further = Annotated[list[T], AfterValidator(_without_repeats)]  # beside the rest; may be empty
Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, _within(0, 1)]
TaskName = Annotated[str, AfterValidator(_registered)]
Preset = Annotated[str, _one_of(lambda: settings.PRESETS)]
Sparsity = setting("sparsity")


def choice(*known: str):
    return Annotated[str, _one_of(lambda: known)]


# --- the parameters -------------------------------------------------------------------------------


_Settings = TypedDict("_Settings", {name: setting(name) for group in GROUPS for name in group().as_dict()}, total=False)


class Parameters(_Settings, total=False):
    """All parameters that a notebook can have: every field of a settings dataclass, and these.

    Numbers are never booleans, and 8.0 is no whole number.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    profile: str
    # models
    model: str
    other_models: Further[str]
    dtype: choice("auto", "float32", "bfloat16", "float16")
    device_map: choice("auto", "balanced", "sequential") | None
    large_layers: Whole
    large_hidden: Annotated[int, Field(ge=64)]
    large_channels: Count
    # tasks and texts
    tasks: Annotated[Several[TaskName], Names("scored")]
    unseen_tasks: Annotated[Several[TaskName], Names("scored")]
    first_task: Annotated[TaskName, Names("scored")]
    second_task: Annotated[TaskName, Names("scored")]
    class_tasks: Annotated[Several[TaskName], Names("any")]
    general: Annotated[TaskName, Names("any")]  # "plain" in a notebook that measures perplexity on it
    other_general: Annotated[Further[TaskName], Names("any")]
    text_task: Annotated[TaskName | None, Names("plain")]
    # calibration
    large_samples: Count
    seeds: Several[setting("seed")]
    text_pooling: choice("mean", "last")
    sizes: Several[Count]
    pool: Count
    part_texts: Count
    base_texts: Count
    tokens: Count
    times: Number
    # pruning
    sparsities: Several[Sparsity]
    unprotected_sparsities: Further[Sparsity]
    x0_grid: Several[setting("x0")]
    k_grid: Several[setting("k")]
    ratios: Several[Share]
    remove_ratio: Share
    variations: bool
    least_squares: bool
    full_grid: bool
    other_methods: Further[choice(*OTHER_METHODS)]
    # evaluation
    grid_items: Count
    draws: Count
    window_draws: Count
    permutations: Count
    presets: Several[Preset]
    claims_preset: Preset
    window_tokens: Annotated[int, Field(ge=2)] | None
    published_table: Annotated[str, _one_of(_published_tables)]
    published_model: str
    # generation and speed
    prompts: Several[str] | None
    prompt_count: Count
    prompt_words: Count
    prompt_tokens: Count
    shown: Whole
    new_tokens: Count
    large_tokens: Count
    rounds: Count
    warmup: Whole
    cache: choice("dynamic", "static")
    compiled: bool
    # sparse inputs
    patterns: Several[Annotated[str, _rule("pattern")]]
    base: Annotated[str, _rule("pattern")]
    target_patterns: Several[Annotated[str, _rule("pattern")]]
    neighbour_ratio: Annotated[float, _rule("pattern")]
    repairs: Several[Annotated[str, _rule("transformation")]]
    criteria: Several[Annotated[str, _rule("criterion")]]
    neighbours: Several[Annotated[str, _rule("criterion")]]
    targets: Several[Annotated[str, _rule("targets")]]
    error_texts: Count
    prefill_tokens: Count
    product_shapes: Several[Annotated[list[Count], Field(min_length=2, max_length=2)]]
    # classifier and routing
    prompts_per_class: Annotated[int, Field(ge=10)]
    router_prompts: Count
    prompt_types: Annotated[int, Field(ge=256)] | None
    random_widths: Several[Count]
    template_shares: Several[Share]
    test_share: Annotated[float, _within(0, 1, ends=False)]
    needed_accuracy: Share
    rooms: Several[Whole]
    stream_requests: Count
    large_requests: Count
    burst: Count
    batch: Count
    batch_rounds: Count
    # figures and verdicts
    layers: Several[Whole] | None
    method: choice("umap", "tsne", "pca")
    top_share: Share
    overlap: Share
    overlap_needed: Share
    loss_allowed: Number
    drop: Number
    ratio: Number
    kept: Number


DECLARED = get_type_hints(Parameters, include_extras=True)
_ADAPTER = TypeAdapter(Parameters)


def check(where: str, parameters: dict) -> None:
    """Raise a :class:`PlanError` for a parameter that is not declared, or whose value is not possible."""
    try:
        _ADAPTER.validate_python(parameters)
    except ValidationError as error:
        raise PlanError(f"{where}: {line(error, DECLARED)}") from error
    presets, preset = parameters.get("presets"), parameters.get("claims_preset")
    if presets and preset and preset not in presets:
        raise PlanError(f"{where}: claims_preset {preset!r} must be one of presets ({', '.join(presets)})")
    if parameters.get("compiled") and parameters.get("cache") == "dynamic":
        raise PlanError(f"{where}: compiled needs cache: static")
    seeds = parameters.get("seeds", ())
    if "overlap_needed" in parameters and len(seeds) == 1:
        raise PlanError(f"{where}: seeds must be at least two, whose masks are compared, got {seeds}")


def sparsities_of(parameters: dict) -> list[float]:
    """The sparsities of a notebook's masks: ``sparsities``, or its only ``sparsity``; empty where it has neither."""
    alone = parameters.get("sparsity")
    return parameters.get("sparsities") or ([] if alone is None else [alone])


def named_tasks(parameters: dict) -> list[tuple[str, str]]:
    """(task, kind) of every task that a notebook's parameters name, kinds as in :class:`Names`.

    Perplexity is measured on ``text_task``, or else, where there are ``presets``, on the general text.
    """
    read = "general" if "presets" in parameters and not parameters.get("text_task") else None
    named = []
    for name, value in parameters.items():
        for kind in (note.kind for note in getattr(DECLARED[name], "__metadata__", ()) if isinstance(note, Names)):
            tasks = [value] if isinstance(value, str) else value or []
            named += [(task, "plain" if name == read else kind) for task in tasks]
    return named


#: pydantic's kinds of errors → what is said of the value
_SAID = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "greater_than_equal": "must be at least {ge}",
}


def line(found: ValidationError, known: Iterable[str]) -> str:
    """The first of pydantic's errors in one line: the name, what is allowed, and the value given."""
    error = found.errors()[0]
    name, value, kind = str(error["loc"][0]), error["input"], error["type"]
    if kind == "extra_forbidden":
        return f"there is nothing named {name!r}{suggestion(name, known)}"
    if kind == "too_short":
        return f"{name} must not be empty"
    if kind == "value_error":
        said = str(error["ctx"]["error"])
        if said.startswith(f"{name} "):
            return said
        return f"{name} {said}" if said.startswith(("must ", "names ")) else f"{name}: {said}"
    name = f"each of {name}" if len(error["loc"]) > 1 else name
    if value is None:
        return f"{name} must not be null"
    said = _SAID.get(kind, error["msg"]).format(**error.get("ctx", {}))
    return f"{name} {said}, got {value!r}"
