"""The API reference, made from docstrings by griffe2md: the public names, and what else of the rooms is called.

:mod:`pages` puts both into their pages. The first part says everything about the names of ``seaplib.__all__``; the
second has a line for every function and class that the notebooks, the README or a page calls by its room.
"""

import ast
import importlib
import inspect
import json
import pkgutil
import re
from functools import cache
from pathlib import Path

from griffe import Class, GriffeLoader, Object
from griffe2md import render_object_docs

import seaplib
from seaplib.reports import tables

ROOT = Path(__file__).resolve().parents[1]
#: rooms in the order in which data flows through them
ROOMS = (
    "texts", "models", "activations", "pruning", "input_sparsity", "evaluation", "experts", "reports", "studies",
    "runner", "settings", "store", "paths",
)  # fmt: skip
ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):`(~?)([\w.]+)`")
OPTIONS = {
    "separate_signature": False,
    "show_root_full_path": False,
    "show_bases": False,
    "summary": False,
    "members": [],
    "inherited_members": False,
    "heading_level": 3,
}


def public() -> list[str]:
    """The functions and classes of ``seaplib.__all__``, in the order of the rooms."""
    named = [name for name in seaplib.__all__ if not inspect.ismodule(getattr(seaplib, name))]
    return sorted(named, key=lambda name: (ROOMS.index(_room(getattr(seaplib, name))), seaplib.__all__.index(name)))


def reference() -> str:
    """Every public name with its signature and docstring, room by room."""
    parts, room = [], None
    for name in public():
        value = getattr(seaplib, name)
        if _room(value) != room:
            room = _room(value)
            parts.append(f"## {room}\n\n{_markdown(_summary(importlib.import_module(f'seaplib.{room}').__doc__))}")
        about = _griffe(value)
        parts.append(_markdown(render_object_docs(about, OPTIONS)).strip())
        if isinstance(about, Class):
            parts += [block for block in (_fields(about), _members(about)) if block]
    return "\n\n".join(parts)


def rooms() -> str:
    """A table per room: the functions and classes that are called by their modules, a line each."""
    parts, shown = [], {getattr(seaplib, name) for name in public()}
    called = [value for value in _called() if value not in shown]
    for room in ROOMS:
        rows = sorted((value.__module__, value.__qualname__, value) for value in called if _room(value) == room)
        if rows:
            cells = [
                {"name": f"`{module.removeprefix('seaplib.')}.{name}`", "what it does": _line(value)}
                for module, name, value in rows
            ]
            parts.append(f"## {room}\n\n{tables.markdown(tables.pd.DataFrame(cells))}")
    return "\n\n".join(parts)


def _room(value) -> str:
    return value.__module__.split(".")[1]


@cache
def _package() -> Object:
    return GriffeLoader(search_paths=[str(ROOT)]).load("seaplib")


def _griffe(value) -> Object:
    return _package()[f"{value.__module__}.{value.__qualname__}".removeprefix("seaplib.")]


def _summary(doc: str | None) -> str:
    """The first paragraph of a docstring, in a line."""
    return " ".join(inspect.cleandoc(doc or "").partition("\n\n")[0].split())


def _line(value) -> str:
    return _markdown(_summary(value.__doc__))


def _markdown(text: str) -> str:
    """reStructuredText's code and references as Markdown's."""
    text = ROLE.sub(lambda role: f"`{role[2].rpartition('.')[2] if role[1] else role[2]}`", text)
    return text.replace("``", "`")


def _fields(about: Class) -> str:
    """The fields of a dataclass that have a comment, as they stand in the source."""
    lines = [line.strip() for line in about.source.splitlines() if re.match(r"    \w+: [^#]*  # ", line)]
    return "```python\n" + "\n".join(lines) + "\n```" if lines else ""


def _members(about: Class) -> str:
    """The documented methods and properties of a class as a list."""
    lines = []
    for name, member in about.members.items():
        if not name.startswith("_") and member.docstring and not member.is_alias:
            arguments = ""
            if member.is_function:
                given = [each for each in member.parameters if each.name not in ("self", "cls")]
                words = [f"{each.name}={each.default}" if each.default is not None else each.name for each in given]
                arguments = "(" + ", ".join(words) + ")"
            lines.append(f"- `{name}{arguments}`: {_markdown(' '.join(member.docstring.value.split()))}")
    return "\n".join(lines)


def _called() -> list:
    """The package's functions and classes that notebooks, README and pages call, each once."""
    programs = []
    for file in sorted(ROOT.glob("notebooks/*.ipynb")):
        cells = json.loads(file.read_text("utf-8"))["cells"]
        programs.append(["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"])
    for file in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]:
        programs.append(re.findall(r"^```python\n(.*?)^```", file.read_text("utf-8"), re.MULTILINE | re.DOTALL))
    found = {}
    for program in programs:
        known = {"seaplib": "seaplib"}
        trees = [ast.parse(cell) for cell in program]
        for node in (node for tree in trees for node in ast.walk(tree)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "seaplib":
                known |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
        for node in (node for tree in trees for node in ast.walk(tree)):
            if isinstance(node, ast.Name | ast.Attribute) and (name := _dotted(node, known)):
                value = _resolved(name)
                if value is not None:
                    found[value.__module__, value.__qualname__] = value
    return list(found.values())


def _dotted(node: ast.AST, known: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute) and (base := _dotted(node.value, known)):
        return f"{base}.{node.attr}"
    return None


def _resolved(name: str):
    """The function or class of the package behind a dotted name, None for anything else."""
    try:
        value = pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return None
    own = inspect.isfunction(value) or inspect.isclass(value)
    return value if own and value.__module__.startswith("seaplib.") else None
