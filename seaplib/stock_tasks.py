"""lm-eval's tasks by name: where one is defined and what it says, without lm-eval's task objects.

The names are read off the YAML files' own lines (half a second for fourteen thousand files, where
lm-eval's index takes ten), and only when a name is asked for that this package does not know; then
one file is read, with what it includes. Functions stay text, and torch is not imported, so that a
plan can be checked.
"""

import importlib.util
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

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
def _read(file: Path) -> dict:
    from lm_eval.tasks._yaml_loader import load_yaml

    return load_yaml(file, resolve_func=False)


def config(file: Path) -> dict:
    """A task's configuration, includes merged in; functions are the text of where they are."""
    return dict(_read(file))


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
