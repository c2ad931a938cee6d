"""Can the plan be carried out here? Values, sparsity, model and data, before any model is loaded.

Only configurations and file headers are read. Each problem is a
:class:`~seaplib.profiles.PlanError` of one line.
"""

import json
from dataclasses import fields
from pathlib import Path

from . import paths, settings
from .profiles import Plan, PlanError

#: ``model_type`` of the configurations that :mod:`seaplib.models` can prune.
MODEL_TYPES = ("llama",)
GROUPS = (settings.Calibration, settings.Pruning, settings.Evaluation)
TASK_PARAMETERS = ("task", "tasks", "general")


def check(plan: Plan) -> Plan:
    """The plan itself, if everything it asks for exists and is possible."""
    data = paths.data_dir()
    if data is not None and not data.is_dir():
        raise PlanError(f"the data directory {data} does not exist; correct or unset SEAP_DATA_DIR")
    models, tasks = {}, {}
    for notebook in plan.notebooks:
        where = f"profile {plan.profile}, {notebook.name}"
        for name, value in notebook.parameters.items():
            _check_value(where, name, value)
        tasks = dict.fromkeys(task_names(notebook.parameters), where) | tasks
        model = notebook.parameters.get("model")
        if isinstance(model, str):
            if model not in models:
                models[model] = model_config(model, plan.offline, where)
            _check_sparsity(where, notebook.parameters, models[model])
    for task, where in tasks.items():
        _check_task(task, where, plan.offline)
    return plan


def task_names(parameters: dict) -> list[str]:
    """The tasks, or files of texts, that a notebook's parameters name."""
    names = []
    for name, value in parameters.items():
        if name in TASK_PARAMETERS or name.endswith(("_task", "_tasks")):
            names += [value] if isinstance(value, str) else value or []
    return names


def _check_value(where: str, name: str, value) -> None:
    """A parameter named like a settings field must be a possible value of it."""
    values = value if name == "sparsities" else [value]
    name = "sparsity" if name == "sparsities" else name
    groups = [group for group in GROUPS if name in {field.name for field in fields(group)}]
    for single in values if groups else ():
        errors = []
        for group in groups:
            try:
                group(**{name: single})
            except (ValueError, TypeError) as error:
                errors.append(error)
        if len(errors) == len(groups):
            raise PlanError(f"{where}: {errors[0]}")


def _check_sparsity(where: str, parameters: dict, config: dict | None) -> None:
    """Every requested sparsity must be within what the unprotected layers can give."""
    from .sparsity import check_reachable

    targets = [parameters.get("sparsity"), *(parameters.get("sparsities") or ())]
    if config is None or not all(key in config for key in ("num_hidden_layers", "num_attention_heads")):
        return
    heads, hidden, channels = (config[k] for k in ("num_attention_heads", "hidden_size", "intermediate_size"))
    groups = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or hidden // heads
    attention, mlp = 2 * (heads + groups) * head * hidden, 3 * channels * hidden
    defaults = settings.Pruning()
    by_query = parameters.get("kv_unit", defaults.kv_unit) == "query" and groups < heads
    protect = {key: parameters.get(key, getattr(defaults, key)) for key in ("protect_first", "protect_last")}
    for target in (target for target in targets if target is not None):
        units = heads // groups if by_query else groups
        share = attention / (attention + mlp)
        try:
            check_reachable(target, config["num_hidden_layers"], units, channels, share, **protect)
        except ValueError as error:
            raise PlanError(f"{where}: {error}") from error


def model_config(name: str, offline: bool, where: str = "model") -> dict | None:
    """A model's ``config.json``; None for a pruned checkpoint, whose layers differ.

    ``name`` is "bundled", a directory or a hub id. Raises :class:`PlanError` if there is no such
    model or its architecture is not supported.
    """
    directory = paths.bundled_dir() / "model" if name == "bundled" else Path(name).expanduser()
    if name == "bundled" or directory.is_dir():
        file = directory / "config.json"
        if not file.is_file():
            raise PlanError(f"{where}: there is no model in {directory} (no config.json)")
        if not any(directory.glob("*.safetensors")) and not any(directory.glob("*.bin")):
            raise PlanError(f"{where}: the model in {directory} has no weights (no .safetensors file)")
    elif directory.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise PlanError(f"{where}: there is no model {name!r}: neither 'bundled', nor a directory, nor a hub id")
    else:
        file = _hub_config(name, offline, where)
    try:
        config = json.loads(file.read_text("utf-8"))
        kind = config.get("model_type")
    except (ValueError, AttributeError) as error:
        raise PlanError(f"{where}: {file} is not a model configuration ({error})") from error
    if any(kind == f"{known}_pruned__import_seaplib_to_load" for known in MODEL_TYPES):
        return None
    if kind not in MODEL_TYPES:
        supported = ", ".join(MODEL_TYPES)
        raise PlanError(f"{where}: architecture {kind!r} of {name} is not supported; supported: {supported}")
    return config


def _hub_config(name: str, offline: bool, where: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "config.json", local_files_only=offline))
    except Exception as error:  # one line, whether it is missing, gated, or the network is away
        reason = " ".join(str(error).split())[:200]
        place = "in the local hub cache (this profile is offline)" if offline else "on the hub or in its local cache"
        raise PlanError(f"{where}: model {name!r} is not a directory and was not found {place}: {reason}") from error


def _check_task(name: str, where: str, offline: bool) -> None:
    """A registered task, with its files in place where they must be local; or a file of one's own."""
    if not isinstance(name, str):
        raise PlanError(f"{where}: a task is named by a text, got {name!r}")
    if Path(name).suffix in (".parquet", ".jsonl", ".json", ".csv"):
        if not Path(name).is_file():
            raise PlanError(f"{where}: there is no corpus file {name}")
        return
    from . import tasks

    try:
        task = tasks.get(name)
    except (KeyError, ValueError) as error:
        raise PlanError(f"{where}: {error.args[0]}") from error
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
        found = [sorted((base / folder).glob(f"{split}*.parquet")) for folder in source.local]
        files = next((files for files in found if files), None)
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
