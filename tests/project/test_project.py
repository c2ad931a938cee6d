"""The project around the package: pins, README, docs, notebooks, profiles say what is there."""

import json
import pkgutil
import re
import shlex
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import seaplib
from seaplib import __main__
from seaplib.runner import plan

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
#: pages → their text; the API pages are written from docstrings, which name files of their own
PAGES = {
    file.relative_to(ROOT).as_posix(): file.read_text("utf-8")
    for file in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/*.md")))
}
WRITTEN = [name for name in PAGES if not name.startswith("docs/api")]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# What a page may name although a fresh clone does not have it.
MADE_LATER = (".venv", "data/store", "data/runs", "executed")
FILE_SUFFIXES = (".md", ".py", ".yaml", ".yml", ".toml", ".csv", ".ipynb", ".cff", ".pdf", ".png", ".json", ".tex")


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(line) for line in PROJECT["dependencies"] + [line for extra in extras for line in extra]]


def locked() -> dict[str, str]:
    """Package → version of requirements.lock."""
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    found = [line for line in lines if not line.startswith("#")]
    # versions only: no address, no path, no hash, no build of one machine (+cpu)
    assert all(re.fullmatch(r"[A-Za-z0-9_.\-]+==[0-9][0-9A-Za-z.]*", line) for line in found)
    versions = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in found}
    assert len(versions) == len(found)
    return versions


def test_every_dependency_has_a_range_that_holds_its_locked_version():
    lock = locked()
    for requirement in requirements():
        bounds = {bound.operator for bound in requirement.specifier}
        assert bounds == {">=", "<"} and not requirement.url and not requirement.marker, requirement
        assert lock[canonicalize_name(requirement.name)] in requirement.specifier, requirement
    names = [canonicalize_name(requirement.name) for requirement in requirements()]
    assert len(names) == len(set(names))


def test_make_compiles_each_module_once():
    """Packages are installed without byte code, so whatever make starts has to be allowed to write it."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert "--no-compile" in makefile and re.search("^unexport PYTHONDONTWRITEBYTECODE$", makefile, re.MULTILINE)


def test_the_lock_holds_what_the_dependencies_need_in_turn():
    """And so on, as far as it is installed here: platforms and extras that are not do not count."""
    lock, todo, done = locked(), requirements(), set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        key = name, frozenset(requirement.extras)
        if key in done or name.startswith(("nvidia", "cuda", "triton")):
            continue
        done.add(key)
        assert name in lock and lock[name] in requirement.specifier, requirement
        try:
            needs = [Requirement(line) for line in metadata.requires(requirement.name) or ()]
        except metadata.PackageNotFoundError:
            continue
        extras = [*requirement.extras, ""]
        todo += [need for need in needs if not need.marker or any(need.marker.evaluate({"extra": e}) for e in extras)]
    assert len(done) > 100, "nothing is installed: this test sees nothing"
    assert not {"pip", "seaplib"} & set(lock)


def test_make_and_conda_install_from_the_lock():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    installs = [line for line in makefile.splitlines() if "pip install" in line]
    own = [line for line in installs if "-lock/" not in line]  # make lock itself must not be held by the lock
    assert own and all("--constraint requirements.lock" in line for line in own)
    assert re.search(r"^\$\(VENV\)/installed: .*requirements\.lock", makefile, re.MULTILINE)
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    *conda, last = environment["dependencies"]
    assert last == {"pip": ["-c requirements.lock", "-e .[test]"]}, "the versions stand in the lock alone"
    assert [re.split("[=<>]", name)[0] for name in conda] == ["python", "pip"]
    version = tuple(map(int, conda[0].partition("=")[2].split(".")))
    lowest = tuple(map(int, PROJECT["requires-python"].removeprefix(">=").split(".")))
    assert version >= lowest


def test_versions_agree_and_the_paper_is_cited():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == PROJECT["version"] == seaplib.__version__
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert "MIT License" in (ROOT / "LICENSE").read_text("utf-8")
    assert "2503.07605" in citation["preferred-citation"]["url"]


def code_of(text: str) -> tuple[list[str], list[str]]:
    """Inline code spans, and the lines of shell blocks, of a markdown text."""
    blocks = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    shell = "\n".join(block for language, block in blocks if language in ("sh", "bash", "shell", "console"))
    lines = [line.removeprefix("$ ").partition(" #")[0].strip() for line in shell.splitlines()]
    return inline, [line for line in lines if line and not line.startswith("#")]


def links_of(text: str) -> list[str]:
    targets = re.findall(r"\]\(\s*<?([^)>\s]+)", text) + re.findall(r"""(?:src|href)=["']([^"']+)""", text)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def missing_paths(spans: list[str]) -> list[str]:
    """Words that look like files of this project and are not there."""
    missing = []
    for word in (word for span in spans for word in span.split()):
        word = word.strip(".,;:()'\"").rstrip("/") if not word.startswith(".") else word.rstrip("/,;:")
        if re.search(r"[<>*{}$=…]", word) or word.startswith((*MADE_LATER, "/", "~", "-", "http")) or not word:
            continue
        ours = word.endswith(FILE_SUFFIXES) or ("/" in word and (ROOT / word.split("/")[0]).exists())
        if ours and not any((ROOT / place / word).exists() for place in ("", "seaplib")):
            missing.append(word)
    return missing


def wrong_commands(lines: list[str]) -> list[str]:
    """make targets that do not exist, and command lines of the package that it does not take."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    known = plan.read()[0]
    wrong = []
    for line in lines:
        words = [word for word in shlex.split(line, comments=True) if word not in ("[", "]")]
        if words[:1] == ["make"]:
            chosen = [word.partition("=") for word in words[1:]]
            bad = [name for name, equals, _ in chosen if not equals and name not in targets]
            bad += [value for name, _, value in chosen if name == "PROFILE" and value not in known]
            wrong += [line] if bad else []
        elif "seaplib" in words and words[words.index("seaplib") - 1] == "-m":
            try:
                options = __main__.parser().parse_args(words[words.index("seaplib") + 1 :])
                wrong += [line] if getattr(options, "profile", None) not in {None, *known} else []
            except SystemExit:
                wrong.append(line)
    return wrong


def anchors_of(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a markdown text."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(text: str, folder: Path = ROOT) -> list[str]:
    """Relative links of a page in ``folder`` whose file or heading is not there; links within the page begin with #."""
    broken = []
    for link in links_of(text):
        name, _, anchor = link.partition("#")
        file = folder / name
        there = anchors_of(file.read_text("utf-8") if name else text) if anchor and (file.is_file() or not name) else ()
        if not file.exists() or (anchor and anchor not in there):
            broken.append(link)
    return broken


@pytest.mark.parametrize("name", PAGES)
def test_the_links_of_a_page_lead_somewhere(name):
    assert broken_links(PAGES[name], (ROOT / name).parent) == []


@pytest.mark.parametrize("name", WRITTEN)
def test_a_page_names_only_what_exists(name):
    inline, lines = code_of(PAGES[name])
    assert missing_paths(inline + lines) == []
    commands = [span for span in inline if re.match(r"make [a-z]|\S*python[\d.]* -m seaplib", span)]
    # in running text a command may be named with its placeholders
    assert wrong_commands(lines + [command for command in commands if not re.search(r"[\[<…]", command)]) == []


@pytest.mark.parametrize("name", WRITTEN)
def test_a_page_names_only_attributes_that_exist(name):
    inline, _ = code_of(PAGES[name])
    names = {name for span in inline for name in re.findall(r"(?<![\w/])seaplib\.(\w+)", span)}
    assert [name for name in sorted(names) if not hasattr(seaplib, name)] == []


def test_the_readme_links_every_page():
    links = {link.partition("#")[0] for link in links_of(PAGES["README.md"])}
    assert {name for name in PAGES if name != "README.md"} <= links


def test_the_check_of_pages_finds_errors():
    shell = "```sh\nmake tset  # x\npython -m seaplib reprodce\n```"
    text = f"See [a](nowhere.md), `seaplib/nothing.py`, `Makefile`.\n{shell}"
    inline, lines = code_of(text)
    assert broken_links(text) == ["nowhere.md"] and missing_paths(inline + lines) == ["seaplib/nothing.py"]
    assert broken_links("# Ten lines, or `so`\n[a](#ten-lines-or-so) [b](#ten) [c](README.md#the-tree)") == ["#ten"]
    assert wrong_commands(lines) == ["make tset", "python -m seaplib reprodce"]
    assert wrong_commands(["make reproduce PROFILE=smoke", ".venv/bin/python -m seaplib status --profile smoke"]) == []
    assert wrong_commands(["make reproduce PROFILE=smok"]) == ["make reproduce PROFILE=smok"]


def test_the_full_profile_runs_the_whole_grid_and_the_short_one_does_not():
    plans = plan.load_all()
    full, short = ({n.name[:2]: n.parameters for n in plans[name].notebooks} for name in ("embedded_full", "embedded"))
    for number in ("06", "07"):
        assert full[number]["items"] == {"06": None, "07": 100}[number] and full[number]["seeds"] == [0, 1, 2]
        assert {0.2, 0.35, 0.5} <= set(full[number]["sparsities"])
    assert full["07"]["full_grid"] and full["07"]["unprotected_sparsities"]
    assert len(full["07"]["tasks"]) == 9 and short["07"]["seeds"] == [0] and not short["07"]["full_grid"]
    ignored = (ROOT / ".gitignore").read_text("utf-8").split()
    assert not any(line.startswith(("figures/embedded", "figures/*")) for line in ignored), "its products are evidence"


def test_every_profile_can_be_planned():
    plans = plan.load_all()
    assert next(iter(plans)) == "embedded"
    assert {path.stem for path in NOTEBOOKS} == {notebook.name for notebook in plans["embedded"].notebooks}
    assert all(plan.description and plan.not_run for plan in plans.values())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_clean_and_documented(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code), "clear all outputs"
    tagged = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    uncommented = [line for line in "".join(tagged[0]["source"]).splitlines() if line and "#" not in line]
    assert not uncommented, "every parameter says what it is"
    assert "profile" in plan.read_parameters(path.stem)


def test_every_dotted_name_of_the_package_exists():
    """In docstrings, README and docs: ``seaplib.room.module.name``."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("data/*/*.md"), *ROOT.glob("seaplib/**/*.py")]
    missing = []
    for file in files:
        for name in set(re.findall(r"(?<![\w/])seaplib(?:\.[A-Za-z_]\w*)+", file.read_text("utf-8"))):
            try:
                pkgutil.resolve_name(name)
            except (ImportError, AttributeError):
                missing.append((file.name, name))
    assert not missing
