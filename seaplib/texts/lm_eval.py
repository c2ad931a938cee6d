"""lm-eval's tasks by name: where one is defined and what it says, without lm-eval's task objects.

The names are read off the YAML files' own lines (half a second for fourteen thousand files, where
lm-eval's index takes ten), and only when a name is asked for that this package does not know; then
one file is read, with what it includes. Functions stay text, and torch is not imported, so that a
plan can be checked.
"""

import importlib.util
import logging
import os.path
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import pyarrow as pa
import yaml

from ..settings import METRICS
from . import formats

#: What :func:`harness_task` adds to a task of multiple choice that lists metrics without it.
ADDED = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
_KEY = rb"""^["']?%b["']?:[ \t]*["']?([^\s"'#\[][^"'#\n]*)"""
_TASK, _GROUP = (re.compile(_KEY % key, re.MULTILINE) for key in (b"task", b"group"))
_INCLUDE = re.compile(rb"""^["']?include["']?:[ \t]*(\S.*)$""", re.MULTILINE)
_FUNCTION = re.compile(r"!function[ \t]+([\w.]+)\.\w+")
_TAG = re.compile(rb"""^["']?tag["']?:(.*(?:\n[ \t]*-.*)*)""", re.MULTILINE)


@dataclass(frozen=True)
class Index:
    """``tasks`` and ``groups``: name → its file."""

    tasks: dict[str, Path]
    groups: dict[str, Path]


def directory() -> Path:
    """lm-eval's task directory."""
    return Path(importlib.util.find_spec("lm_eval").submodule_search_locations[0]) / "tasks"


@lru_cache(maxsize=1)
def index() -> Index:
    """All of lm-eval's names."""
    found, groups = {}, {}
    for file in sorted(directory().rglob("*.yaml")):
        text = file.read_bytes()
        if group := _GROUP.search(text):
            groups.setdefault(_plain(group[1]), file)
        elif task := _TASK.search(text):
            found.setdefault(_plain(task[1]), file)
    return Index(found, groups)


def members(name: str) -> list[str]:
    """The tasks that a group or tag of that name stands for, groups within it included; empty where there is none."""
    if name in index().tasks:
        return [name]
    if name not in index().groups:
        return [task for task, file in index().tasks.items() if name in _tags(file)]
    listed = config(index().groups[name]).get("task") or []
    names = [one if isinstance(one, str) else str(one.get("task", one.get("group"))) for one in listed]
    return [task for one in names if one != name for task in members(one)]


@cache
def _tags(file: Path) -> frozenset[str]:
    """A file's own tags, or else those of what it includes."""
    text = file.read_bytes()
    if listed := _TAG.search(text):
        return frozenset(_plain(tag.strip().removeprefix(b"- ")) for tag in re.split(rb"[\n,\[\]]", listed[1]))
    included = (file.parent / _plain(name) for name in _INCLUDE.findall(text))
    return next((found for found in map(_tags, filter(Path.is_file, included)) if found), frozenset())


def _plain(text: bytes) -> str:
    return text.decode("utf-8", "replace").strip().strip("'\"")


@lru_cache(maxsize=64)
def _read(file: Path, changed: int) -> dict:
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        return load_yaml(file, resolve_func=False)
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error


def config(file: Path) -> dict:
    """A task's configuration, includes merged in; functions are the text of where they are."""
    return dict(_read(file, file.stat().st_mtime_ns))  # one's own may be edited while a kernel lives


def content(file: Path) -> str:
    """The text of a task's YAML, of the files that it includes and of the functions that they name."""
    text = file.read_text("utf-8")
    included = [file.parent / _plain(name) for name in _INCLUDE.findall(text.encode())]
    modules = [file.parent / f"{name.replace('.', '/')}.py" for name in sorted(set(_FUNCTION.findall(text)))]
    more = [content(other) for other in included] + [module.read_text("utf-8") for module in modules if module.exists()]
    return "\n".join([text, *more])


def metrics(config: dict) -> list[str]:
    """Names of the metrics that lm-eval reports, functions apart; its defaults where the task lists none."""
    if listed := config.get("metric_list"):
        return [one["metric"] for one in listed if "/" not in str(one.get("metric", "/"))]
    defaults = {"multiple_choice": ["acc", "acc_norm"], "generate_until": ["exact_match"], "loglikelihood": ["acc"]}
    return defaults.get(config.get("output_type", "generate_until"), [])


def columns(config: dict) -> tuple[str, ...]:
    """The columns that a task's templates name; none where a function prepares the rows first."""
    from jinja2 import Environment, meta

    if "process_docs" in config:
        return ()
    templates = [config.get(f"doc_to_{part}") for part in ("text", "target", "choice")]
    jinja = Environment(autoescape=False)
    named = (meta.find_undeclared_variables(jinja.parse(one)) for one in templates if _is_template(one))
    return tuple(sorted(set().union(*named)))


def _is_template(value) -> bool:
    return isinstance(value, str) and "{" in value


_PLACE = "seaplib_row"  # a column that says which row a document was made from


def harness_task(task, table: pa.Table):
    """lm-eval's task for a registered ``Task`` over exactly these rows, zero-shot, with :data:`ADDED` beside accuracy.

    Returns it and, for each of its documents, the number of the row it was made from: some tasks leave
    rows out while they prepare them. ValueError where the rows do not fit the task's templates.
    """
    import datasets
    from lm_eval import utils
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of models and rows handed over in memory
    if not hasattr(utils.env.from_string, "cache_info"):  # it compiles a task's template anew for every item
        utils.env.from_string = lru_cache(utils.env.from_string)
    config = load_yaml(task.config_file()) | task.changes
    for key in ("tag", "group", "training_split", "validation_split", "fewshot_split", "fewshot_config"):
        config.pop(key, None)
    if config.get("metric_list"):  # the others are not reported, and some are fetched from the hub
        kept = {kind.lm_eval or name for name, kind in METRICS.items()}
        config["metric_list"] = [metric for metric in config["metric_list"] if metric["metric"] in kept]
        if config["output_type"] == "multiple_choice" and ADDED["metric"] not in _measured(config):
            config["metric_list"].append(dict(ADDED))
    data = datasets.Dataset(datasets.table.InMemoryTable(table))
    with _understood(task.name, table):
        data, places = _processed(data, config.pop("process_docs", None))
        splits = datasets.DatasetDict({"test": data})
        made = ConfigurableTask(
            config=config
            | {"task": task.name, "test_split": "test", "num_fewshot": 0, "custom_dataset": lambda **_: splits}
        )
    for field in ("doc_to_text", "doc_to_target", "doc_to_choice"):  # lm-eval compiles a template at every call
        setattr(made, field, _remembered(getattr(made, field)))
    return made, places


def rendered(task, table: pa.Table) -> Iterator[tuple[int, str, str, str]]:
    """Number of the row, question, right answer and the whole text, for each of a task's documents.

    The text is lm-eval's own example: doc_to_text, target_delimiter and the right choice or target (of
    several targets the first), without description. Where the options stand in the prompt (WinoGrande's
    kind), the question is what all of them begin with. ValueError for a row without a right answer.
    """
    made, places = harness_task(task, table)
    for place, doc in zip(places, made.eval_docs, strict=True):
        with _understood(f"{task.name}: row {place}", table):
            yield place, *_example(made, doc)


def contexts(task, table: pa.Table) -> Iterator[tuple[int, str]]:
    """Number of the row and what lm-eval asks the model, zero-shot, for each of a task's documents.

    Where the options stand in the prompt (WinoGrande's kind), it is what all of them begin with.
    """
    made, places = harness_task(task, table)
    for place, doc in zip(places, made.eval_docs, strict=True):
        with _understood(f"{task.name}: row {place}", table):
            asked = made.fewshot_context(doc, num_fewshot=0, gen_prefix=made.doc_to_prefix(doc))
            yield place, asked if isinstance(asked, str) else os.path.commonprefix(asked)


def _example(made, doc: dict) -> tuple[str, str, str]:
    text, prefix, delimiter = made.doc_to_text(doc), made.doc_to_prefix(doc), made.config.target_delimiter
    choices = made.doc_to_choice(doc) if made.config.doc_to_choice is not None else None
    answers = targets(made, doc) if made.OUTPUT_TYPE == "multiple_choice" else made.doc_to_target(doc)
    answer = answers[0] if isinstance(answers, list) else answers
    if made.multiple_input:
        question, right = os.path.commonprefix(choices), choices[answer] + delimiter + str(made.doc_to_target(doc))
        return question, right[len(question) :], right
    if made.OUTPUT_TYPE == "loglikelihood":  # scored as it is written
        delimiter = ""
    if choices is not None and isinstance(answer, int):
        answer = formats.option(choices, answer)
    question, whole = (
        "".join(part.to_text() for part in made.build_qa_turn(q=text, gen_prefix=prefix, tgt_delim=delimiter, **more))
        for more in ({}, {"a": str(answer), "few_delim": ""})
    )
    return question, str(answer), whole


def targets(made, doc: dict) -> list[int]:
    """The right options of a multiple-choice document, as numbers. ValueError where one is not among its options.

    lm-eval itself warns there, and counts every answer as wrong.
    """
    choices = made.doc_to_choice(doc)
    found = made.doc_to_text(doc) if made.multiple_input else made.doc_to_target(doc)
    found = found if isinstance(found, list) else [found]
    numbers = [choices.index(one) if isinstance(one, str) and one in choices else one for one in found]
    for number in numbers:
        formats.option(choices, number if isinstance(number, int) else None)
    if not numbers:
        raise ValueError("no option is right")
    return numbers


def _measured(config: dict) -> set:
    return {metric["metric"] for metric in config["metric_list"]}


def _processed(data, process) -> tuple:
    """``process(data)`` and the row of each of its documents. ValueError where these cannot be told."""
    import datasets

    if process is None:
        return data, range(len(data))
    shown = datasets.are_progress_bars_disabled() is False
    datasets.disable_progress_bars()
    try:
        made = process(data)
        if len(made) == len(data):
            return made, range(len(data))
        made = process(data.add_column(_PLACE, list(range(len(data)))))  # rows were left out: which?
    finally:
        if shown:
            datasets.enable_progress_bars()
    if _PLACE not in made.column_names:
        raise ValueError("lm-eval drops items while it prepares them, so that ids would be lost")
    return made.remove_columns(_PLACE), list(made[_PLACE])


@contextmanager
def _understood(where: str, table: pa.Table) -> Iterator[None]:
    """Whatever a task's templates or functions raise about rows that they do not fit, as one line."""
    try:
        yield
    except Exception as error:  # jinja's, KeyError, IndexError, TypeError, AttributeError, …
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
        columns = ", ".join(name for name in table.column_names)
        raise ValueError(f"{where} does not fit lm-eval's task ({reason}); columns: {columns}") from error


def _remembered(function):
    """``function(doc)`` computed once per document, which is kept, so that its id stays its own."""
    known = {}

    def remembered(doc, *args):
        if args:
            return function(doc, *args)
        if id(doc) not in known:
            known[id(doc)] = doc, function(doc)
        return known[id(doc)][1]

    return remembered
