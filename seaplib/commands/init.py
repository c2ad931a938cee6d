"""``init``: a folder of one's own to run the notebooks in, from what comes with the package."""

import shlex
import shutil
from pathlib import Path

from .. import paths
from ..runner.parameters import PlanError

#: What is copied; the bundled data stay with the package (:func:`seaplib.paths.bundled_dir`).
PARTS = ("notebooks", "papermill_runs.yaml")
FOLDERS = ("data", "figures")
README = """# A workbench for pruning with seaplib

    cd {folder}
    python -m seaplib list                          # profiles and notebooks
    python -m seaplib reproduce --profile embedded  # all of them on the bundled model
    python -m jupyterlab --LabApp.default_url=/lab/tree/notebooks  # by hand

`papermill_runs.yaml` says what a profile runs. Figures and tables are written to `figures/`, executed notebooks to
`executed/`, computed artefacts to `data/store/`. The library's own README explains all of them.
"""


def add(subparsers) -> None:
    parser = subparsers.add_parser("init", help="unpack notebooks and profiles into a folder of one's own")
    parser.add_argument("folder", metavar="DIR", type=Path, help="a new folder, or one that holds none of them yet")
    parser.set_defaults(command=run)


def run(options) -> int:
    folder = options.folder.expanduser()
    there = [name for name in (*PARTS, *FOLDERS, "README.md") if (folder / name).exists()]
    if there:
        raise PlanError(f"{folder} already holds {', '.join(there)}, which init does not overwrite; name a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PARTS[0]).mkdir()
        for notebook in (paths.shipped() / PARTS[0]).glob("*.ipynb"):  # their contents: an installation is read-only
            shutil.copyfile(notebook, folder / PARTS[0] / notebook.name)
        shutil.copyfile(paths.shipped() / PARTS[1], folder / PARTS[1])
        for name in FOLDERS:
            (folder / name).mkdir()
        (folder / "README.md").write_text(README.format(folder=shlex.quote(str(folder))), encoding="utf-8")
    except OSError as error:
        raise PlanError(f"cannot unpack into {folder}: {error}") from error
    print(f"{folder}: notebooks and profiles; go there and run: python -m seaplib reproduce")
    return 0
