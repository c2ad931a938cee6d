"""What is to be run: ``papermill_runs.yaml`` read and checked as a whole before anything starts.

The parameters of a notebook are its ``parameters`` cell, overridden by the profile's
``parameters``, by the notebook's, and by what the profile says of that notebook, in this order.
Whatever is wrong with the file is one :class:`PlanError` of one line; whether the machine has what
the plan asks for is the matter of :mod:`seaplib.checks`.
"""

import ast
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

import yaml

from .. import paths
from .parameters import PlanError, _same_kind, suggestion

FIGURE_FILES, TABLE_FILES = (".pdf", ".png"), (".csv", ".tex", ".md")
PROFILE_KEYS = ("description", "extends", "jobs", "offline", "parameters", "notebooks", "skip", "not_run")
NOTEBOOK_KEYS = ("title", "figures", "tables", "needs", "parameters", "alone")


@dataclass(frozen=True)
class Notebook:
    """One notebook under one profile: what it takes and what it must leave behind."""

    name: str
    title: str
    figures: tuple[str, ...]
    tables: tuple[str, ...]
    needs: tuple[str, ...]
    parameters: dict = field(hash=False)  # all of them, as the notebook will see them
    given: tuple[str, ...] = ()  # those that do not come from its own cell
    alone: bool = False  # whether it measures time and wants the machine for itself

    @property
    def path(self) -> Path:
        return paths.notebooks_dir() / f"{self.name}.ipynb"

    @cached_property
    def cells(self) -> list[dict]:
        return read_cells(self.path)

    @property
    def files(self) -> dict[str, tuple[str, ...]]:
        """Product → the files it consists of; a figure and the table it shows may share a name."""
        files: dict[str, tuple[str, ...]] = {}
        for stems, suffixes in ((self.figures, FIGURE_FILES), (self.tables, TABLE_FILES)):
            for stem in stems:
                files[stem] = files.get(stem, ()) + tuple(stem + suffix for suffix in suffixes)
        return files


@dataclass(frozen=True)
class Plan:
    """A profile, and its notebooks in an order in which they can run."""

    profile: str
    description: str
    jobs: int
    offline: bool
    not_run: str
    notebooks: tuple[Notebook, ...]

    def select(self, only: Iterable[str] | None) -> tuple[list[Notebook], set[str]]:
        """The notebooks to look at (those named, and what they need), and the names asked for."""
        known = {notebook.name: notebook for notebook in self.notebooks}
        asked = {resolve(name, known, f"profile {self.profile}") for name in only or known}
        wanted = set(asked)
        for notebook in reversed(self.notebooks):
            wanted.update(notebook.needs if notebook.name in wanted else ())
        return [notebook for notebook in self.notebooks if notebook.name in wanted], asked


def resolve(name, known: Iterable[str], where: str) -> str:
    """The notebook that ``name`` means: its full name, its file, or its number."""
    text = f"{name:02d}" if isinstance(name, int) else Path(str(name)).name.removesuffix(".ipynb")
    matches = [candidate for candidate in known if candidate == text or candidate.split("_")[0] == text]
    if len(matches) != 1:
        raise PlanError(f"{where}: there is no notebook {text!r}{suggestion(text, known)}")
    return matches[0]


class _Loader(yaml.SafeLoader):
    """YAML in which a key stands once: of two, the last would win and the other be lost without a word."""


def _once(loader: _Loader, node: yaml.MappingNode) -> dict:
    seen = set()
    for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge")):
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
        seen.add(key.value)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _once)


def read() -> tuple[dict, dict]:
    """The ``profiles`` and ``notebooks`` of ``papermill_runs.yaml``, their shape checked."""
    path = paths.root() / "papermill_runs.yaml"
    try:
        content = yaml.load(path.read_text("utf-8"), _Loader)  # noqa: S506 (a safe loader)
    except OSError as error:
        raise PlanError(f"{path} cannot be read; run this in the project's directory or set SEAP_ROOT") from error
    except yaml.YAMLError as error:
        raise PlanError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}") from error
    _known_keys(content, ("profiles", "notebooks"), path.name)
    profiles, notebooks = content.get("profiles") or {}, content.get("notebooks") or {}
    for section, entries, keys in (("profile", profiles, PROFILE_KEYS), ("notebook", notebooks, NOTEBOOK_KEYS)):
        _mapping(entries, f"{section}s")
        for name, entry in entries.items():
            _check_entry(section, name, entry, keys)
    for name, entry in profiles.items():
        overrides = (entry.get("notebooks") or {}).items()
        entry["notebooks"] = {resolve(key, notebooks, f"profile {name}"): values or {} for key, values in overrides}
        entry["skip"] = [resolve(key, notebooks, f"profile {name}: skip") for key in entry.get("skip") or ()]
    return profiles, notebooks


def load(profile: str | None = None) -> Plan:
    """The plan of one profile; by default of the file's first. Raises :class:`PlanError`."""
    plans = load_all(profile)
    return plans[profile or next(iter(plans))]


def load_all(expected: str | None = None) -> dict[str, Plan]:
    """The plans of all profiles, so that a slip in any of them is found whichever is run."""
    profiles, declared = read()
    if not profiles or (expected and expected not in profiles):
        raise PlanError(f"there is no profile {expected!r}{suggestion(expected, profiles)}")
    own = {name: read_parameters(name) for name in declared}
    _check_products(declared)
    return {profile: _plan(profile, _inherit(profile, profiles), declared, own) for profile in profiles}


def _plan(profile: str, chosen: dict, declared: dict, own: dict[str, dict]) -> Plan:
    where = f"profile {profile}"
    anywhere = {parameter for values in own.values() for parameter in values}
    for parameter in chosen["parameters"]:
        if parameter not in anywhere:
            raise PlanError(f"{where}: no notebook has a parameter {parameter!r}{suggestion(parameter, anywhere)}")
    notebooks = {}
    for name, entry in declared.items():
        given = {key: value for key, value in chosen["parameters"].items() if key in own[name]}
        for source, values in ((f"notebook {name}", entry.get("parameters")), (where, chosen["notebooks"].get(name))):
            for parameter in _mapping(values or {}, f"{source}: parameters of {name}"):
                if parameter not in own[name]:
                    hint = suggestion(parameter, own[name])
                    raise PlanError(f"{source}: {name} has no parameter {parameter!r}{hint}")
            given |= values or {}
        if "profile" in own[name]:
            given["profile"] = profile
        for parameter, value in given.items():
            _same_kind(f"{where}: {name}", parameter, value, own[name][parameter])
        notebooks[name] = Notebook(
            name=name,
            title=entry.get("title") or name,
            figures=tuple(entry.get("figures") or ()),
            tables=tuple(entry.get("tables") or ()),
            needs=tuple(resolve(need, declared, f"notebook {name}: needs") for need in entry.get("needs") or ()),
            parameters=own[name] | given,
            given=tuple(given),
            alone=bool(entry.get("alone")),
        )
    jobs = chosen.get("jobs", 1)
    if type(jobs) is not int or jobs < 1:
        raise PlanError(f"{where}: jobs must be a whole number from 1, got {jobs!r}")
    texts = {key: " ".join(str(chosen.get(key) or "").split()) for key in ("description", "not_run")}
    order = _order(notebooks, set(chosen["skip"]))
    return Plan(profile, jobs=jobs, offline=bool(chosen.get("offline")), notebooks=order, **texts)


def read_cells(path: Path) -> list[dict]:
    """The cells of a notebook file, with ``source`` as one string."""
    try:
        cells = json.loads(path.read_text("utf-8"))["cells"]
        return [cell | {"source": "".join(cell["source"])} for cell in cells]
    except FileNotFoundError as error:
        raise PlanError(f"notebook {path.stem}: there is no file {path.parent.name}/{path.name}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise PlanError(f"notebook {path.stem}: {path.name} is not a notebook ({error})") from error


def read_parameters(name: str) -> dict:
    """The literals of a notebook's ``parameters`` cell, by name."""
    parameters = {}
    for cell in read_cells(paths.notebooks_dir() / f"{name}.ipynb"):
        if "parameters" not in cell.get("metadata", {}).get("tags", ()):
            continue
        try:
            for statement in ast.parse(cell["source"]).body:
                target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
                parameters[target.id] = ast.literal_eval(statement.value)
        except (SyntaxError, ValueError, AttributeError) as error:
            raise PlanError(f"notebook {name}: its parameters cell must hold only lines 'name = literal'") from error
    return parameters


def _inherit(profile, profiles: dict, seen: tuple = ()) -> dict:
    """The profile's entry laid over the one it extends; parameters are merged, the rest replaced."""
    if not isinstance(profile, str) or profile not in profiles:
        raise PlanError(f"profile {seen[-1]} extends {profile!r}, which does not exist{suggestion(profile, profiles)}")
    if profile in seen:
        raise PlanError(f"profile {profile} extends itself: {' → '.join([*seen, profile])}")
    entry = profiles[profile]
    base = _inherit(entry["extends"], profiles, (*seen, profile)) if entry.get("extends") else {}
    notebooks = dict(base.get("notebooks", {}))
    for name, values in entry["notebooks"].items():
        notebooks[name] = notebooks.get(name, {}) | _mapping(values, f"profile {profile}: {name}")
    parameters = (base.get("parameters") or {}) | (entry.get("parameters") or {})
    skip = entry["skip"] or base.get("skip", [])
    return base | entry | {"parameters": parameters, "notebooks": notebooks, "skip": skip}


def _order(notebooks: dict[str, Notebook], skip: set[str]) -> tuple[Notebook, ...]:
    """Needed notebooks first, otherwise as declared; a skipped notebook is nobody's need."""
    order, visiting = {}, []

    def visit(name):
        if name in visiting:
            raise PlanError(f"notebooks need each other: {' → '.join([*visiting[visiting.index(name) :], name])}")
        if name in order or name in skip:
            return
        visiting.append(name)
        for need in notebooks[name].needs:
            visit(need)
        visiting.pop()
        kept = tuple(need for need in notebooks[name].needs if need not in skip)
        order[name] = Notebook(**{f.name: getattr(notebooks[name], f.name) for f in fields(Notebook)} | {"needs": kept})

    for name in notebooks:
        visit(name)
    return tuple(order.values())


def _check_products(declared: dict) -> None:
    owner = {}
    for name, entry in declared.items():
        for product in [*(entry.get("figures") or ()), *(entry.get("tables") or ())]:
            if owner.get(product, name) != name:
                raise PlanError(f"product {product!r} is declared twice, by {owner[product]} and by {name}")
            owner[product] = name


def _check_entry(section: str, name, entry, keys: tuple[str, ...]) -> None:
    """One profile or notebook of the file: its keys, and the kinds of what stands under them."""
    where = f"{section} {name}"
    if not isinstance(name, str):
        raise PlanError(f"{where}: a {section} is named by a text; put {name!r} in quotes")
    _known_keys(entry, keys, where)
    for key in {"parameters", "notebooks"} & set(keys):
        _mapping(entry.get(key) or {}, f"{where}: {key}")
    for key in {"offline", "alone"} & set(keys):
        if not isinstance(entry.get(key) or False, bool):
            raise PlanError(f"{where}: {key} must be true or false, got {entry[key]!r}")
    for key in {"skip", "figures", "tables", "needs"} & set(keys):
        listed = entry.get(key) or []
        if not isinstance(listed, list) or not all(isinstance(one, str | int) for one in listed):
            raise PlanError(f"{where}: {key} must be a list of names")
        if key in ("figures", "tables") and (wrong := [one for one in listed if Path(str(one)).name != one]):
            raise PlanError(f"{where}: {key}: a product is named without folder, got {wrong[0]!r}")


def _mapping(value, where: str) -> dict:
    if not isinstance(value, dict):
        raise PlanError(f"papermill_runs.yaml: {where} must be a mapping")
    return value


def _known_keys(entry, known: tuple[str, ...], where: str) -> None:
    for key in _mapping(entry, where):
        if key not in known:
            raise PlanError(f"{where}: unknown key {key!r}{suggestion(key, known)}")
