"""Places: a function for each, and an environment variable for each place that can be moved.

| place | variable | default |
|---|---|---|
| the project: notebooks, profiles, bundled data | ``SEAP_ROOT`` | the package's checkout, else the working directory |
| data sets in the hub's schema | ``SEAP_DATA_DIR`` | none: the hub |
| computed artefacts | ``SEAP_STORE_DIR`` | ``data/store`` |
| executed notebooks and run records | ``SEAP_RUNS_DIR`` | ``data/runs`` |
| exported figures and tables | ``SEAP_FIGURES_DIR`` | ``figures`` |

No function creates a directory; the writer does.
"""

import os
from pathlib import Path


def _place(variable: str, default: Path | None) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser().resolve() if value else default


def root() -> Path:
    """The project directory, which holds ``notebooks/`` and ``papermill_runs.yaml``."""
    checkout = Path(__file__).resolve().parent.parent
    return _place("SEAP_ROOT", checkout if (checkout / "notebooks").is_dir() else Path.cwd())


def notebooks_dir() -> Path:
    return root() / "notebooks"


def bundled_dir() -> Path:
    """The bundled model, its benchmark and their generator."""
    return root() / "data" / "bundled"


def published_dir() -> Path:
    """The papers' numbers, as csv."""
    return root() / "data" / "published"


def data_dir() -> Path | None:
    """The folder of local data sets in the hub's schema, None where data sets come from the hub."""
    return _place("SEAP_DATA_DIR", None)


def store_dir() -> Path:
    return _place("SEAP_STORE_DIR", root() / "data" / "store")


def runs_dir() -> Path:
    return _place("SEAP_RUNS_DIR", root() / "data" / "runs")


def figures_dir(profile: str | None = None) -> Path:
    """The directory of a profile's figures and tables; without a profile, the directory of all profiles."""
    directory = _place("SEAP_FIGURES_DIR", root() / "figures")
    return directory / profile if profile else directory
