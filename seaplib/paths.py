"""Places: a function for each, and an environment variable for each place that can be moved.

| place | variable | default |
|---|---|---|
| the project: notebooks and profiles | ``SEAP_ROOT`` | the nearest with ``papermill_runs.yaml``, else the checkout |
| data sets in the hub's schema | ``SEAP_DATA_DIR`` | none: the hub |
| computed artefacts | ``SEAP_STORE_DIR`` | ``data/store`` |
| run records and logs | ``SEAP_RUNS_DIR`` | ``data/runs`` |
| executed notebooks, to be read in the Lab | ``SEAP_EXECUTED_DIR`` | ``executed`` |
| exported figures and tables | ``SEAP_FIGURES_DIR`` | ``figures`` |

The bundled model and data and the papers' numbers are the project's own where it has any, else those that come with
the package: an installed package carries a copy of them (:func:`shipped`). No function creates a directory; the
writer does.
"""

import os
import re
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
LONGEST = 128  # bytes of a name: file systems take 255, and files get endings and marks
_NAME = re.compile(r"\w[\w .+=,-]*")


def _place(variable: str, default: Path | None) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser().resolve() if value else default


def moved() -> dict[str, str]:
    """The variables above that are set, with whole paths: a process in another directory must find the same places."""
    names = [f"SEAP_{name}" for name in ("ROOT", "DATA_DIR", "STORE_DIR", "RUNS_DIR", "EXECUTED_DIR", "FIGURES_DIR")]
    return {name: str(_place(name, None)) for name in names if os.environ.get(name)}


def name(value: str, what: str) -> str:
    """``value``, if it can name a file anywhere. ValueError for separators, a leading dot, and too long a name."""
    if not (isinstance(value, str) and _NAME.fullmatch(value)) or len(value.encode()) > LONGEST:
        raise ValueError(f"{what} {value!r} is no name: up to {LONGEST} letters, digits, blanks and any of _ - . + = ,")
    return value


def shipped() -> Path:
    """What comes with the package: the checkout or, in an installed package, ``seaplib/workbench``.

    Both hold ``notebooks/``, ``papermill_runs.yaml``, ``data/bundled`` and ``data/published``.
    """
    installed = _PACKAGE / "workbench"
    return installed if installed.is_dir() else _PACKAGE.parent


def root() -> Path:
    """The project directory, which holds ``notebooks/`` and ``papermill_runs.yaml``; never a package's own folder.

    Nearest is the working directory, then the folders above it.
    """
    here = Path.cwd()
    places = (place for place in (here, *here.parents, _PACKAGE.parent) if (place / "papermill_runs.yaml").is_file())
    return _place("SEAP_ROOT", next(places, here))


def notebooks_dir() -> Path:
    """The notebooks of the project."""
    return root() / "notebooks"


def _data(name: str) -> Path:
    own = root() / "data" / name
    return own if own.is_dir() else shipped() / "data" / name


def bundled_dir() -> Path:
    """The bundled model, its benchmark and their generator."""
    return _data("bundled")


def published_dir() -> Path:
    """The papers' numbers, as csv."""
    return _data("published")


def data_dir() -> Path | None:
    """The folder of local data sets in the hub's schema, None where data sets come from the hub."""
    return _place("SEAP_DATA_DIR", None)


def store_dir() -> Path:
    """Where computed artefacts are kept."""
    return _place("SEAP_STORE_DIR", root() / "data" / "store")


def runs_dir() -> Path:
    """Where executed notebooks and run records are kept."""
    return _place("SEAP_RUNS_DIR", root() / "data" / "runs")


def executed_dir(profile: str) -> Path:
    """The directory of a profile's executed notebooks: read-only copies, in the root that ``make lab`` opens."""
    return _place("SEAP_EXECUTED_DIR", root() / "executed") / name(profile, "the profile")


def figures_dir(profile: str | None = None) -> Path:
    """The directory of a profile's figures and tables; without a profile, the directory of all profiles."""
    directory = _place("SEAP_FIGURES_DIR", root() / "figures")
    return directory / name(profile, "the profile") if profile else directory
