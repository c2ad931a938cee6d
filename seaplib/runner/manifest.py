"""Products and freshness: a profile's products, their ingredients, and whether both are unchanged.

Two files, written atomically. ``figures/<profile>/manifest.json`` is evidence, kept with the
products: hashes of the products and of their ingredients, and the seconds that each notebook took to
make them (fewer if the store held some results). A run that makes the same products again leaves the
manifest unchanged. ``data/runs/<profile>/record.json`` is local: when each notebook ran, for how
long, how the run ended, and the hashes by which the next call knows which notebooks are fresh.
"""

import importlib
import json
import os
import platform
import subprocess
import sys
from functools import cached_property
from html import escape
from pathlib import Path

import filelock

from .. import disk, hub, paths, source, store
from .parameters import PlanError, named_tasks
from .plan import Notebook, Plan

VERSIONS = ("seaplib", "torch", "transformers", "lm-eval", "datasets", "numpy", "pandas", "scikit-learn", "umap-learn")
VERSIONS += ("matplotlib",)
PACKAGE = Path(__file__).resolve().parent.parent
BUNDLED = ("model", "tasks", "lm_eval")
#: The variable with the file in which a notebook's set-up cell tells the runner its device.
NOTE_VARIABLE = "SEAP_PROVENANCE_FILE"


def source_hash() -> str:
    """Hash of the package's source tree."""
    files = [[file.relative_to(PACKAGE).as_posix(), store.file_hash(file)] for file in source.files()]
    return store.digest(files)


def write_json(path: Path, content) -> None:
    """``content`` as readable JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk.replacing(path, durable=True) as partial:
        partial.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: Path) -> dict:
    """The content, or {} for an absent or damaged file, by which every notebook counts as never run."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


class Ledger:
    """The state of a profile: the plan compared with the record and the files."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.directory = paths.figures_dir(plan.profile)
        self.runs = paths.runs_dir() / plan.profile
        self.record = read_json(self.runs / "record.json")
        self._notebooks = {notebook.name: notebook for notebook in plan.notebooks}
        self._identities: dict = {}

    @cached_property
    def source(self) -> str:
        return source_hash()

    @cached_property
    def versions(self) -> dict[str, str | None]:
        return {"python": platform.python_version()} | store.versions(VERSIONS)

    def ingredients(self, notebook: Notebook) -> dict[str, str]:
        """Ingredient of a notebook's products → hash."""
        cells = [[cell["cell_type"], cell["source"]] for cell in notebook.cells]
        return {
            "notebook": store.digest(cells),
            "parameters": store.digest(notebook.parameters),
            "products": store.digest(notebook.files),
            "package": self.source,
            "versions": store.digest(self.versions),
            "model and data": store.digest(self._inputs(notebook)),
            "needed notebooks": store.digest([self.ingredients(self._notebooks[need]) for need in notebook.needs]),
        }

    def _inputs(self, notebook: Notebook) -> list:
        """The bundled world by content, other models by files or revision, local data by size and time."""
        inputs = [self._identity(paths.bundled_dir() / part) for part in BUNDLED]
        inputs.append(self._identity(paths.published_dir()))
        for model in (notebook.parameters.get("model"), *notebook.parameters.get("other_models", ())):
            if isinstance(model, str) and Path(model).is_dir():
                inputs.append(self._identity(Path(model)))
            elif isinstance(model, str) and "/" in model:
                revision = hub.snapshot(model)
                inputs.append(revision and revision.name)
        if paths.data_dir() and not self._is_bundled(notebook):
            inputs.append(self._identity(paths.data_dir(), hashed_bytes=-1))
        return inputs

    def _is_bundled(self, notebook: Notebook) -> bool:
        return all(task.startswith("mini_") for task, _ in named_tasks(notebook.parameters))

    def _identity(self, path: Path, **options) -> str:
        if path not in self._identities:
            self._identities[path] = store.identity(path, **options)
        return self._identities[path]

    def hashes(self, notebook: Notebook) -> dict[str, str | None]:
        """File of a declared product → hash, None for a missing file."""
        files = [self.directory / name for names in notebook.files.values() for name in names]
        return {file.name: store.file_hash(file) if file.is_file() else None for file in files}

    def state(self, notebook: Notebook) -> tuple[str, str]:
        """("fresh" | "stale" | "failed", why), from the record and the files alone."""
        entry = self.record.get(notebook.name)
        if not entry:
            return "stale", "never run here"
        if entry.get("status") != "done":
            return "failed", entry.get("error") or "interrupted"
        known = entry.get("ingredients", {})
        changed = [name for name, value in self.ingredients(notebook).items() if known.get(name) != value]
        if changed:
            return "stale", f"changed: {', '.join(changed)}"
        for file, value in self.hashes(notebook).items():
            if value is None or entry["products"].get(file) != value:
                return "stale", f"{file} is missing" if value is None else f"{file} is not what was produced"
        for need in notebook.needs:
            if entry["needs"].get(need) != self._produced(need):
                return "stale", f"{need} has new products"
        return "fresh", ""

    def forecast(self, chosen: list[Notebook], forced: set[str] = frozenset()) -> dict[str, tuple[str, str]]:
        """Notebook → (state, why) as of now; a notebook that needs a stale notebook counts as stale."""
        states: dict[str, tuple[str, str]] = {}
        for notebook in chosen:
            waiting = [need for need in notebook.needs if states[need][0] != "fresh"]
            state = ("stale", "forced") if notebook.name in forced else self.state(notebook)
            if waiting and state[0] == "fresh":
                state = ("stale", f"needs {', '.join(waiting)}")
            states[notebook.name] = state
        return states

    def _produced(self, name: str) -> str:
        return store.digest(self.record.get(name, {}).get("products"))

    def looked_at_anew(self, notebook: Notebook) -> dict[str, str]:
        """:meth:`ingredients` as they are now, not as they were when this object first looked."""
        vars(self).pop("source", None)
        vars(notebook).pop("cells", None)
        self._identities.clear()
        return self.ingredients(notebook)

    def finish(self, notebook: Notebook, status: str, before: dict[str, str], **facts) -> list[str]:
        """Record the end of a run, "done" or "failed", that began with the ingredients ``before``.

        Returns the ingredients that changed meanwhile: nobody knows which the products were made of, so that the
        notebook does not count as fresh.
        """
        try:
            now = self.looked_at_anew(notebook)
        except (PlanError, OSError):  # the file is gone, or is no notebook any more
            now = {}
        changed = [name for name in before if now.get(name) != before[name]]
        entry = {"status": status, **facts}
        if status == "done":
            entry["ingredients"] = {name: value for name, value in before.items() if name not in changed}
            entry["products"] = self.hashes(notebook)
            entry["needs"] = {need: self._produced(need) for need in notebook.needs}
        self.record[notebook.name] = entry
        write_json(self.runs / "record.json", self.record)
        self.write_manifest(notebook if status == "done" else None)
        return changed

    def write_manifest(self, notebook: Notebook | None = None) -> None:
        """Enter the products of ``notebook``, and of fresh notebooks that a lost manifest had; drop products that are
        no longer declared or have been changed.

        The wall time of the run counts only if the run made something new. Two runners may finish at once.
        """
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.directory.parent / f".{self.plan.profile}.lock"):
            self._write_manifest(notebook)

    def _write_manifest(self, notebook: Notebook | None) -> None:
        path = self.directory / "manifest.json"
        before = read_json(path)
        old, spent = before.get("products", {}), before.get("seconds", {})
        products = {}
        for owner in self.plan.notebooks:
            hashes, ran = self.hashes(owner), self.record.get(owner.name, {})
            lost = not owner.files.keys() <= old.keys() and self.state(owner)[0] == "fresh"
            entered = lost or (notebook is not None and owner.name == notebook.name)
            for product, names in owner.files.items():
                files = {name: hashes[name] for name in names}
                if entered:
                    products[product] = {
                        "files": files,
                        "notebook": owner.name,
                        "parameters": owner.parameters,
                        "seed": owner.parameters.get("seed", owner.parameters.get("seeds")),
                        "source": self.source,
                        "versions": self.versions,
                        "device": ran.get("device"),
                    }
                elif old.get(product, {}).get("files") == files:
                    products[product] = old[product]
            own = [product for product, entry in products.items() if entry["notebook"] == owner.name]
            if entered and any(products[product] != old.get(product) for product in own):
                spent = spent | {owner.name: ran.get("seconds")}
        kept = {entry["notebook"] for entry in products.values()}
        spent = {name: value for name, value in spent.items() if name in kept}
        content = {"profile": self.plan.profile, "products": products, "seconds": spent}
        if content != before and (products or path.exists()):
            write_json(path, content)

    def undeclared(self) -> list[str]:
        """Files among the products that no notebook of this profile declares."""
        declared = {name for notebook in self.plan.notebooks for names in notebook.files.values() for name in names}
        present = self.directory.iterdir() if self.directory.is_dir() else ()
        return sorted(f.name for f in present if f.name not in declared | {"manifest.json"} and f.name[0] != ".")


class Provenance(dict):
    """Fact → value; a notebook shows all of it, where a data frame would cut long values."""

    def __repr__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(f"{name:{width}}  {value}" for name, value in self.items())

    def _repr_html_(self) -> str:
        cell = "<t{0} style='text-align: left; white-space: normal; vertical-align: top'>{1}</t{0}>"
        rows = [cell.format("h", escape(name)) + cell.format("d", escape(str(self[name]))) for name in self]
        return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def provenance(profile: str | None = None, model: str | None = None, notebook: str | None = None) -> Provenance:
    """Versions, device, source and data that a notebook runs on, for the set-up cell.

    Under the runner, the device is also entered in the manifest.
    """
    device = _device()
    if os.environ.get(NOTE_VARIABLE):
        write_json(Path(os.environ[NOTE_VARIABLE]), {"device": device})
    versions = store.versions(VERSIONS)
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "lm-eval"))
    facts = {
        "notebook": notebook,
        "profile": profile,
        "model": model,
        "data": str(paths.data_dir() or "bundled, or the hub"),
        "device": device,
        "package": f"seaplib {versions['seaplib']}, source {source_hash()[:12]}{_commit()}",
        "libraries": f"python {platform.python_version()}, {libraries}",
    }
    return Provenance({name: value for name, value in facts.items() if value is not None})


def _device() -> str:
    torch = sys.modules.get("torch") or importlib.import_module("torch")
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return "cpu"


def _commit() -> str:
    """ ", commit 1a2b3c4" where the source is a git checkout, " with changes" if it differs from the commit."""
    git = ["git", "-C", str(PACKAGE)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=10)
        changes = subprocess.run([*git, "status", "--porcelain", "."], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if commit.returncode:
        return ""
    return f", commit {commit.stdout.strip()}" + (" with changes" if changes.stdout.strip() else "")
