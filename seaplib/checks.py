"""Can the plan be carried out here? Values, sparsity, model and data, before any model is loaded.

Only configurations and file headers are read. Each problem is a
:class:`~seaplib.profiles.PlanError` of one line.
"""

from dataclasses import fields
from pathlib import Path

from . import hub, paths, settings
from .architectures import ARCHITECTURES
from .input_sparsity import InputSparsity
from .model_files import model_config, sizes
from .profiles import Plan, PlanError, suggestion

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


def check(plan: Plan, dry: bool = False) -> Plan:
    """The plan itself, if everything it asks for exists and is possible.

    ``dry``: only to be looked at. Nothing is asked of the hub then that its cache or
    :data:`seaplib.shapes.PUBLISHED` can tell.
    """
    data = paths.data_dir()
    if data is not None and not data.is_dir():
        raise PlanError(f"the data directory {data} does not exist; correct or unset SEAP_DATA_DIR")
    models, tasks = {}, {}
    for notebook in plan.notebooks:
        where = f"profile {plan.profile}, {notebook.name}"
        for name, value in notebook.parameters.items():
            _check_value(where, name, value)
        for name, named in _tasks_by_parameter(notebook.parameters).items():
            kind = _kind(name, notebook.parameters)
            for task in named:
                _check_task_name(task, where)
                tasks.setdefault((task, kind), where)
        model = notebook.parameters.get("model")
        for name in [model, *notebook.parameters.get("other_models", ())]:
            if not isinstance(name, str):
                continue
            if name not in models:
                models[name] = model_config(name, plan.offline, where, dry)
            _check_sparsity(where, notebook.parameters, models[name])
        _check_together(where, notebook.parameters)
    for (task, kind), where in tasks.items():
        _check_task(task, where, plan.offline, kind)
    if paths.data_dir() is None and not plan.offline and not dry:
        _check_hub_data({task for task, _ in tasks}, f"profile {plan.profile}")
    return plan


def task_names(parameters: dict) -> list[str]:
    """The tasks that a notebook's parameters name."""
    return [task for named in _tasks_by_parameter(parameters).values() for task in named]


def _tasks_by_parameter(parameters: dict) -> dict[str, list]:
    chosen = {k: v for k, v in parameters.items() if k in TASK_PARAMETERS or k.endswith(("_task", "_tasks"))}
    return {name: [value] if isinstance(value, str) else list(value or []) for name, value in chosen.items()}


def _kind(name: str, parameters: dict) -> str:
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


def _check_sparsity(where: str, parameters: dict, config: dict) -> None:
    """Every requested sparsity must be within what the unprotected layers can give."""
    from .sparsity import check_reachable

    targets = [parameters.get("sparsity"), *(parameters.get("sparsities") or ())]
    record = ARCHITECTURES[config["model_type"]]
    layers, heads, hidden, channels = sizes(config).values()
    groups = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or hidden // heads
    attention, mlp = 2 * (heads + groups) * head * hidden, (2 + record.gated) * channels * hidden
    defaults = settings.Pruning()
    by_query = parameters.get("kv_unit", defaults.kv_unit) == "query" and groups < heads
    protect = {key: parameters.get(key, getattr(defaults, key)) for key in ("protect_first", "protect_last")}
    for target in (target for target in targets if target is not None):
        units = heads // groups if by_query else groups
        share = attention / (attention + mlp)
        try:
            check_reachable(target, layers, units, channels, share, **protect)
        except ValueError as error:
            raise PlanError(f"{where}: {error}") from error


def _check_hub_data(names: set[str], where: str) -> None:
    """Data sets that come from the hub must be in its cache, or there to be read."""
    from . import tasks

    sources = [(name, source) for name in sorted(names) for source in (tasks.get(name).train, tasks.get(name).test)]
    seen = {"bundled"}
    for name, source in sources:
        if source is None or source.path in seen or hub.has_data(source.path):
            continue
        seen.add(source.path)
        try:
            hub.files(source.path, "dataset")
        except Exception as error:
            reason = hub.problem(error) or " ".join(str(error).split())[:200]
            hint = "or set SEAP_DATA_DIR to a directory that has it"
            raise PlanError(f"{where}: task {name}: data set {source.path!r} is {reason}; {hint}") from error


def _check_task_name(name, where: str) -> None:
    if not isinstance(name, str):
        raise PlanError(f"{where}: a task is named by a text, got {name!r}")
    if "/" in name or Path(name).suffix in (".parquet", ".jsonl", ".json", ".csv", ".txt"):
        hint = "use seaplib.corpus(...) in Python or register a task"
        raise PlanError(f"{where}: notebooks take registered tasks, got the file {name}; {hint}")


def _check_task(name: str, where: str, offline: bool, kind: str = "any") -> None:
    """A registered task of the ``kind`` ("scored", "plain", "any"), its files in place if they must be local."""
    from . import tasks

    try:
        task = tasks.get(name)
    except (KeyError, ValueError) as error:
        raise PlanError(f"{where}: {error.args[0]}") from error
    if task.train is None:
        raise PlanError(f"{where}: task {name} has no training split, so there is no corpus of it to calibrate on")
    if kind == "scored" and task.plain:
        raise PlanError(f"{where}: task {name} is plain text, which has no accuracy; it can only be the general text")
    if kind == "plain" and not (task.plain and task.test):
        known = ", ".join(name for name in tasks.names(scored=False) if tasks.get(name).test)
        raise PlanError(f"{where}: {name} has no running text to measure perplexity on; such tasks: {known}")
    base = paths.bundled_dir() / "tasks" if task.bundled else paths.data_dir()
    if base is None and offline:
        raise PlanError(f"{where}: task {name} needs local data; set SEAP_DATA_DIR to a directory that has it")
    for source in (task.train, task.test) if base else ():
        if source is not None:
            _check_files(f"{where}: task {name}", base, source)


def _check_files(where: str, base: Path, source) -> None:
    """The first folder that has the split must hold parquet files with rows and the needed columns."""
    import pyarrow.parquet as pq

    for split in source.splits:
        try:
            files = next(filter(None, (paths.split_files(base / folder, split) for folder in source.local)), None)
        except ValueError as error:
            raise PlanError(f"{where}: {error}") from error
        if files is None:
            raise PlanError(f"{where}: there is no {base / source.local[0] / split}.parquet")
        try:
            headers = [pq.ParquetFile(file) for file in files]
        except Exception as error:
            raise PlanError(f"{where}: {files[0]} is not a parquet file ({' '.join(str(error).split())})") from error
        missing = sorted(set(source.columns) - set(headers[0].schema_arrow.names))
        if missing:
            raise PlanError(f"{where}: {files[0]} has no column {', '.join(map(repr, missing))}")
        if not sum(header.metadata.num_rows for header in headers):
            raise PlanError(f"{where}: {files[0]} has no rows")
