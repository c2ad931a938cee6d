"""Whether a plan can be carried out on this machine: models, reachable sparsities, data.

Only configurations and file headers are read, before any model is loaded. Each problem is a
:class:`~seaplib.runner.parameters.PlanError` of one line that names profile and notebook.
"""

from .. import paths, settings
from ..models.architectures import ARCHITECTURES, PRUNED_TYPES, ModelError
from ..models.files import read_config, sizes
from ..texts import rows, tasks
from .parameters import PlanError, named_tasks, sparsities_of
from .plan import Plan


def check(plan: Plan, dry: bool = False) -> Plan:
    """The plan itself, if every model, sparsity and task in it exists and is possible.

    ``dry``: the plan is only looked at. Then the hub is not asked for what its cache or
    :data:`seaplib.models.shapes.PUBLISHED` can tell.
    """
    data = paths.data_dir()
    if data is not None and not data.is_dir():
        raise PlanError(f"the data directory {data} does not exist; correct or unset SEAP_DATA_DIR")
    models, asked = {}, {}
    for notebook in plan.notebooks:
        where = f"profile {plan.profile}, {notebook.name}"
        for task in named_tasks(notebook.parameters):
            asked.setdefault(task, where)
        model = notebook.parameters.get("model")
        for name in [model, *notebook.parameters.get("other_models", ())]:
            if not isinstance(name, str):
                continue
            if name not in models:
                models[name] = _dense_config(name, where, plan.offline, dry)
            _check_sparsity(where, notebook.parameters, models[name])
    for (task, kind), where in asked.items():
        _check_task(task, where, plan.offline, kind, dry)
    return plan


def _dense_config(name: str, where: str, offline: bool, dry: bool) -> dict:
    """The configuration of a model that a notebook can prune."""
    try:
        config = read_config(name, offline, published=dry)
    except ModelError as error:
        raise PlanError(f"{where}: {error}") from error
    if config["model_type"] in PRUNED_TYPES or config.get("pruning"):
        raise PlanError(f"{where}: the model {name} is already pruned; start from the dense model")
    return config


def _check_sparsity(where: str, parameters: dict, config: dict) -> None:
    """Every requested sparsity must be reachable by the unprotected layers."""
    from ..pruning.allocation import check_reachable

    record = ARCHITECTURES[config["model_type"]]
    layers, heads, hidden, channels = sizes(config).values()
    groups = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or hidden // heads
    attention, mlp = 2 * (heads + groups) * head * hidden, (2 + record.gated) * channels * hidden
    defaults = settings.Pruning()
    by_query = parameters.get("kv_unit", defaults.kv_unit) == "query" and groups < heads
    protect = {key: parameters.get(key, getattr(defaults, key)) for key in ("protect_first", "protect_last")}
    for target in sparsities_of(parameters):
        units = heads // groups if by_query else groups
        share = attention / (attention + mlp)
        try:
            check_reachable(target, layers, units, channels, share, **protect)
        except ValueError as error:
            raise PlanError(f"{where}: {error}") from error


def _check_task(name: str, where: str, offline: bool, kind: str = "any", dry: bool = False) -> None:
    """A task of the ``kind`` ("scored", "plain", "any") whose rows are there."""
    try:
        task = tasks.get(name)
        if kind == "scored" and task.plain:
            raise ValueError(f"task {name} is plain text, which has no accuracy; it can only be the general text")
        if kind == "plain" and not (task.plain and task.test):
            known = ", ".join(name for name in tasks.names(scored=False) if tasks.get(name).test)
            raise ValueError(f"{name} has no running text to measure perplexity on; such tasks: {known}")
        if offline and not task.bundled and paths.data_dir() is None:
            raise ValueError(f"task {name} needs local data; set SEAP_DATA_DIR to a directory that has it")
        rows.check(name, ask_hub=not (offline or dry))
    except (ValueError, OSError) as error:
        raise PlanError(f"{where}: {error}") from error
