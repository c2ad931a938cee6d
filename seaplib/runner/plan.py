"""What is to be run: ``papermill_runs.yaml`` read and checked as a whole before anything starts.

The parameters of a notebook are its ``parameters`` cell, overridden by the profile's
``parameters``, by the notebook's, and by what the profile says of that notebook, in this order.
Whatever is wrong with the file is one :class:`PlanError` of one line; :mod:`.checks` looks whether
the machine has the models and the data.
"""

import ast
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from .. import paths
from ..settings import suggestion
from . import parameters
from .parameters import PlanError

FIGURE_FILES, TABLE_FILES = (".pdf", ".png"), (".csv", ".tex", ".md")
LARGEST = 100_000  # values in papermill_runs.yaml
#: notebook of an older layout → the notebooks that ask its questions now
OLDER_NOTEBOOKS = {
    "13_open_questions": (
        "13_expert_transfer", "14_expert_or_general", "15_synthetic_text", "16_calibration_size", "17_logistic_curve",
        "20_other_models",
    ),
}  # fmt: skip


def _without_folder(name: str) -> str:
    return paths.name(name, "the product")


Product = Annotated[str, AfterValidator(_without_folder)]


class Profile(BaseModel):
    """A profile as ``papermill_runs.yaml`` declares it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    description: str = ""
    extends: str | None = None
    jobs: Annotated[int, Field(ge=1)] = 1
    offline: bool = False
    parameters: dict = {}
    notebooks: dict[str | int, dict | None] = {}
    skip: list[str | int] = []
    not_run: str = ""


class Declared(BaseModel):
    """A notebook as ``papermill_runs.yaml`` declares it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    title: str = ""
    figures: tuple[Product, ...] = Field((), strict=False)
    tables: tuple[Product, ...] = Field((), strict=False)
    needs: list[str | int] = []
    parameters: dict = {}
    alone: bool = False


@dataclass(frozen=True)
class Notebook:
    """A notebook under a profile: parameters, needed notebooks, and the products it must write."""

    name: str
    title: str
    figures: tuple[str, ...]
    tables: tuple[str, ...]
    needs: tuple[str, ...]
    parameters: dict = field(hash=False)  # all parameters, as the notebook will see them
    given: tuple[str, ...] = ()  # names of the parameters that do not come from the notebook's cell
    alone: bool = False  # whether the notebook measures time, so that no other may run beside it

    @property
    def path(self) -> Path:
        return paths.notebooks_dir() / f"{self.name}.ipynb"

    @cached_property
    def cells(self) -> list[dict]:
        return read_cells(self.path)

    @property
    def files(self) -> dict[str, tuple[str, ...]]:
        """Product → its files; a figure and the table that it shows may share a name."""
        files: dict[str, tuple[str, ...]] = {}
        for stems, suffixes in ((self.figures, FIGURE_FILES), (self.tables, TABLE_FILES)):
            for stem in stems:
                files[stem] = files.get(stem, ()) + tuple(stem + suffix for suffix in suffixes)
        return files


@dataclass(frozen=True)
class Plan:
    """A profile, and the profile's notebooks in an order in which they can run."""

    profile: str
    description: str
    jobs: int
    offline: bool
    not_run: str
    notebooks: tuple[Notebook, ...]

    def select(self, only: Iterable[str] | None) -> tuple[list[Notebook], set[str]]:
        """The notebooks named and the notebooks that these need, and the full names of those asked for."""
        known = {notebook.name: notebook for notebook in self.notebooks}
        asked = {resolve(name, known, f"profile {self.profile}") for name in only or known}
        wanted = set(asked)
        for notebook in reversed(self.notebooks):
            wanted.update(notebook.needs if notebook.name in wanted else ())
        return [notebook for notebook in self.notebooks if notebook.name in wanted], asked


def resolve(name, known: Iterable[str], where: str) -> str:
    """The notebook that ``name`` means: a full name, a file or a number."""
    text = f"{name:02d}" if isinstance(name, int) else Path(str(name)).name.removesuffix(".ipynb")
    _refuse_older(text, where)
    matches = [candidate for candidate in known if candidate == text or candidate.split("_")[0] == text]
    if len(matches) != 1:
        raise PlanError(f"{where}: there is no notebook {text!r}{suggestion(text, known)}")
    return matches[0]


def _refuse_older(notebook: str, where: str) -> None:
    if now := OLDER_NOTEBOOKS.get(notebook):
        raise PlanError(f"{where}: the notebook {notebook} is of an older layout; it is now {', '.join(now)}")


def older_product(name: str) -> str:
    """What became of a product of an older layout, as the end of a sentence; "" for any other product."""
    from ..reports.claims import OLDER_PRODUCTS  # loads pandas

    now = OLDER_PRODUCTS.get(name, ())
    return f"{name} is of an older layout; its claims are now in {', '.join(now)}" if now else ""


class _Loader(yaml.SafeLoader):
    """YAML in which a key may stand only once: of two, PyYAML would drop the first without a word."""


def _once(loader: _Loader, node: yaml.MappingNode) -> dict:
    seen = set()
    for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge")):
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
        seen.add(key.value)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _once)


def read() -> tuple[dict[str, Profile], dict[str, Declared]]:
    """The ``profiles`` and ``notebooks`` of ``papermill_runs.yaml``, keys and kinds of values checked."""
    path = paths.root() / "papermill_runs.yaml"
    try:
        content = yaml.load(path.read_text("utf-8"), _Loader)  # noqa: S506 (a safe loader)
    except OSError as error:
        hint = "run this in the project's directory, set SEAP_ROOT, or make a folder with: python -m seaplib init DIR"
        raise PlanError(f"{path} cannot be read; {hint}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8; 0x_; the 45th of a month
        raise PlanError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}") from error
    if (size := _size(content, {})) > LARGEST:
        raise PlanError(f"{path.name} names {size:,.0f} values through its aliases; {LARGEST:,} are plenty")
    for section in {"profiles", "notebooks"} - set(_mapping(content, path.name)):
        content[section] = None
    if unknown := [key for key in content if key not in ("profiles", "notebooks")]:
        raise PlanError(f"{path.name}: unknown key {unknown[0]!r}{suggestion(unknown[0], ('profiles', 'notebooks'))}")
    profiles = _entries("profile", Profile, content["profiles"])
    notebooks = _entries("notebook", Declared, content["notebooks"])
    for name in notebooks:
        _refuse_older(name, path.name)
    for name, entry in profiles.items():
        given = {}
        for key, values in entry.notebooks.items():
            notebook = resolve(key, notebooks, f"profile {name}")
            if notebook in given:
                raise PlanError(f"profile {name}: {notebook} stands twice, under two spellings")
            given[notebook] = values or {}
        skip = [resolve(key, notebooks, f"profile {name}: skip") for key in entry.skip]
        profiles[name] = entry.model_copy(update={"notebooks": given, "skip": skip})
    return profiles, notebooks


def _size(value, known: dict[int, float]) -> float:
    """How many values there are, those behind an alias as often as it is named; infinite where one holds itself."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = float("inf")  # until it is counted
        inside = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(each, known) for each in inside)
    return known[id(value)]


def _entries(section: str, model: type[BaseModel], content) -> dict:
    """Name → the validated entry of a section; a key without a value counts as left out."""
    entries = {}
    for name, entry in _mapping(content or {}, f"{section}s").items():
        where = f"{section} {name}"
        if not isinstance(name, str):
            raise PlanError(f"{where}: a {section} is named by a text; put {name!r} in quotes")
        try:
            paths.name(name, f"the {section}")
        except ValueError as error:
            raise PlanError(str(error)) from error
        given = {key: value for key, value in _mapping(entry, where).items() if value is not None}
        try:
            entries[name] = model.model_validate(given)
        except ValidationError as error:
            raise PlanError(f"{where}: {parameters.line(error, model.model_fields)}") from error
    return entries


def load(profile: str | None = None) -> Plan:
    """The plan of a profile, by default of the first in the file. Raises :class:`PlanError`."""
    plans = load_all(profile)
    return plans[profile or next(iter(plans))]


def profile_name(profile: str | None = None) -> str:
    """The profile itself, by default the first in the file, without a look at its notebooks. Raises PlanError."""
    return _known(profile, read()[0])


def load_all(expected: str | None = None) -> dict[str, Plan]:
    """The plans of all profiles, so that a mistake in any profile is found whichever profile is run."""
    profiles, declared = read()
    _known(expected, profiles)
    own = {name: read_parameters(name) for name in declared}
    _check_products(declared)
    return {profile: _plan(profile, _inherit(profile, profiles), declared, own) for profile in profiles}


def _known(profile: str | None, profiles: dict[str, Profile]) -> str:
    if not profiles or (profile and profile not in profiles):
        raise PlanError(f"there is no profile {profile!r}{suggestion(profile, profiles)}")
    return profile or next(iter(profiles))


def _plan(name: str, profile: Profile, declared: dict[str, Declared], own: dict[str, dict]) -> Plan:
    where = f"profile {name}"
    anywhere = {parameter for values in own.values() for parameter in values}
    for parameter in profile.parameters:
        if parameter not in anywhere:
            raise PlanError(f"{where}: no notebook has a parameter {parameter!r}{suggestion(parameter, anywhere)}")
    notebooks = {}
    for notebook, entry in declared.items():
        cell = own[notebook]
        given = {key: value for key, value in profile.parameters.items() if key in cell}
        for source, values in (
            (f"notebook {notebook}", entry.parameters),
            (where, profile.notebooks.get(notebook, {})),
        ):
            for parameter in values:
                if parameter not in cell:
                    hint = suggestion(parameter, cell)
                    raise PlanError(f"{source}: {notebook} has no parameter {parameter!r}{hint}")
            given |= values
        if "profile" in cell:
            given["profile"] = name
        # null or an empty list in a notebook's own cell: nothing is named
        values = {key: value for key, value in (cell | given).items() if key in given or value not in (None, [])}
        parameters.check(f"{where}, {notebook}", values)
        notebooks[notebook] = Notebook(
            name=notebook,
            title=entry.title or notebook,
            figures=entry.figures,
            tables=entry.tables,
            needs=tuple(resolve(need, declared, f"notebook {notebook}: needs") for need in entry.needs),
            parameters=cell | given,
            given=tuple(given),
            alone=entry.alone,
        )
    texts = {key: " ".join(getattr(profile, key).split()) for key in ("description", "not_run")}
    order = _order(notebooks, set(profile.skip))
    return Plan(name, jobs=profile.jobs, offline=profile.offline, notebooks=order, **texts)


def read_cells(path: Path) -> list[dict]:
    """The cells of a notebook file, with ``source`` as one string."""
    try:
        cells = json.loads(path.read_text("utf-8"))["cells"]
        return [cell | {"source": "".join(cell["source"])} for cell in cells]
    except FileNotFoundError as error:
        raise PlanError(f"notebook {path.stem}: there is no file {path.parent.name}/{path.name}") from error
    except OSError as error:
        raise PlanError(f"notebook {path.stem}: {path.name} cannot be read ({error.strerror})") from error
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


def _inherit(name: str, profiles: dict[str, Profile], seen: tuple = ()) -> Profile:
    """A profile laid over the profile that it extends; parameters are merged, other keys replaced."""
    if name not in profiles:
        raise PlanError(f"profile {seen[-1]} extends {name!r}, which does not exist{suggestion(name, profiles)}")
    if name in seen:
        raise PlanError(f"profile {name} extends itself: {' → '.join([*seen, name])}")
    profile = profiles[name]
    if not profile.extends:
        return profile
    base = _inherit(profile.extends, profiles, (*seen, name))
    given = {key: getattr(profile, key) for key in profile.model_fields_set}
    merged = {key: base.notebooks.get(key, {}) | values for key, values in profile.notebooks.items()}
    given |= {"notebooks": base.notebooks | merged, "parameters": base.parameters | profile.parameters}
    return base.model_copy(update=given | {"skip": profile.skip or base.skip})


def _order(notebooks: dict[str, Notebook], skip: set[str]) -> tuple[Notebook, ...]:
    """Needed notebooks first, otherwise in declared order; a skipped notebook counts as not needed."""
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
        order[name] = replace(notebooks[name], needs=kept)

    for name in notebooks:
        visit(name)
    return tuple(order.values())


def _check_products(declared: dict[str, Declared]) -> None:
    owner = {}
    for name, entry in declared.items():
        for product in (*entry.figures, *entry.tables):
            if owner.get(product, name) != name:
                raise PlanError(f"product {product!r} is declared twice, by {owner[product]} and by {name}")
            owner[product] = name
            # a notebook's claims are named after it; only another name can be an older one
            other = product.startswith("claims_") and product.partition("_")[2] != name.partition("_")[2]
            if other and (older := older_product(product)):
                raise PlanError(f"notebook {name}: {older}")


def _mapping(value, where: str) -> dict:
    if not isinstance(value, dict):
        raise PlanError(f"papermill_runs.yaml: {where} must be a mapping")
    return value
