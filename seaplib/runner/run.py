"""``papermill_runs.yaml`` carried out: stale notebooks are executed, fresh notebooks left alone.

Each notebook runs in a worker process of its own, so that neither a kernel nor papermill can take
the runner down. A notebook succeeds if the worker says so, the kernel outlived the last cell, and
every declared product has been written. A failure stops only the notebooks that depend on it.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import filelock
import psutil
from tqdm import tqdm

from .. import disk, paths
from . import checks
from .manifest import NOTE_VARIABLE, Ledger, read_json
from .parameters import PlanError
from .plan import Notebook, load

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
#: bytes that the store must have left: the bundled model's largest profile takes a quarter of it
ROOM = 2**30
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass
class Outcome:
    """The end of a notebook: "done", "failed", "fresh" or "skipped", and the reason."""

    status: str
    why: str = ""
    seconds: float = 0.0
    device: str | None = None


@dataclass
class Worker:
    """A notebook that is being executed."""

    notebook: Notebook
    ledger: Ledger
    threads: int
    cell: str = "starting"
    cells: int = 0  # code cells begun
    stopped: bool = False
    processes: list[psutil.Process] = field(default_factory=list)
    ingredients: dict[str, str] = field(default_factory=dict)  # before it started

    def run(self) -> Outcome:
        """Execute the notebook and look at the products that it wrote."""
        started, before = time.monotonic(), self._marks()
        note = self.ledger.runs / f".{self.notebook.name}.json"
        note.unlink(missing_ok=True)
        error = self._execute(note)
        device = read_json(note).get("device")
        note.unlink(missing_ok=True)
        if not error:
            after = self._marks()
            unwritten = [file for file, mark in after.items() if mark is None or mark == before[file]]
            error = f"did not write {', '.join(unwritten)}" if unwritten else ""
        return Outcome("failed" if error else "done", error, round(time.monotonic() - started, 1), device)

    def _execute(self, note: Path) -> str:
        """Run the worker process to the end; the error in one line, or ""."""
        output = self.ledger.runs / f"{self.notebook.name}.ipynb"
        job = {
            "notebook": str(self.notebook.path),
            "output": str(output),
            "parameters": {name: self.notebook.parameters[name] for name in self.notebook.given},
            "directory": str(paths.root()),
        }
        error = ""
        with open(output.with_suffix(".log"), "w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "seaplib.runner.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C reaches the runner alone, which then ends its workers
                env=self._environment() | {NOTE_VARIABLE: str(note)},
            )
        with process:
            self._track(process.pid)
            try:
                process.stdin.write(json.dumps(job) + "\n")
                process.stdin.flush()
                for line in process.stdout:
                    event = json.loads(line)
                    error = event.get("error", error)
                    if "kernel" in event:
                        self._track(event["kernel"])
                    if "title" in event:
                        self.cell, self.cells = event["title"], self.cells + 1
            except (BrokenPipeError, ValueError):
                pass  # the worker died at once or in the middle of a line; the exit status says so
            code = process.wait()
        self.kill()  # a worker that was killed may have left its kernel
        if error or code:
            return f"{error or f'its process ended with status {code}'} (in: {self.cell})"
        return ""

    def _track(self, pid: int) -> None:
        try:
            self.processes.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            return
        if self.stopped:
            self.kill()

    def _environment(self) -> dict[str, str]:
        """The user's, with threads and network settled; byte code is kept, else every kernel compiles torch again."""
        settings = dict.fromkeys(THREADS, str(self.threads))
        settings |= {"OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}
        own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | paths.moved()
        return settings | own | (OFFLINE if self.ledger.plan.offline else {})

    def _marks(self) -> dict[str, tuple | None]:
        """File → modification time and inode, which change when the file is written again with the same bytes."""
        marks = {}
        for names in self.notebook.files.values():
            for name in names:
                path = self.ledger.directory / name
                stat = path.stat() if path.is_file() else None
                marks[name] = stat and (stat.st_mtime_ns, stat.st_ino)
        return marks

    def kill(self) -> None:
        """End the worker, the kernel and all processes that they started."""
        self.stopped = True
        for process in self.processes:
            try:
                for each in [*process.children(recursive=True), process]:
                    each.kill()
            except psutil.NoSuchProcess:
                continue


def prepare(
    profile: str | None = None, only=None, jobs: int | None = None, dry: bool = False
) -> tuple[Ledger, list[Notebook], set[str]]:
    """The state of a checked profile, the chosen notebooks and the names of those asked for. Raises PlanError.

    ``dry``: the plan is only looked at, so that a model on the hub need not be within reach.
    """
    if jobs is not None and jobs < 1:
        raise PlanError(f"jobs must be at least 1, got {jobs}")
    plan = checks.check(load(profile), dry)
    return Ledger(plan), *plan.select(only)


def reproduce(
    profile: str | None = None,
    only: Iterable[str] | None = None,
    force: bool = False,
    jobs: int | None = None,
    gpu: str | None = None,
) -> tuple[Ledger, dict[str, Outcome]]:
    """Bring a profile up to date; returns the profile's state and notebook → outcome.

    ``only`` names notebooks (needed notebooks are brought up to date too), ``force`` executes the named
    notebooks even if they are fresh, ``jobs`` notebooks run at a time. The time and memory that a real
    model will take on ``gpu`` (a name of :data:`seaplib.runner.estimate.DEVICES`) are printed first.
    An impossible request is a :class:`~seaplib.runner.parameters.PlanError` before anything is executed.
    """
    ledger, chosen, asked = prepare(profile, only, jobs)
    jobs = ledger.plan.jobs if jobs is None else jobs
    _check_places(ledger, chosen, asked if force else set())
    lock = filelock.FileLock(ledger.runs / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise PlanError(f"profile {ledger.plan.profile} is being reproduced by another process; wait for it") from error
    try:
        ledger = Ledger(ledger.plan)  # read again, now that no other process writes
        forced = asked if force else set()
        ledger.write_manifest()  # what another run, or an accident, took out of it
        if text := estimate(ledger, chosen, forced, gpu):
            print(text, file=sys.stderr)
        return ledger, _run_all(ledger, chosen, forced, jobs)
    finally:
        lock.release()


def _check_places(ledger: Ledger, chosen: list[Notebook], forced: set[str]) -> None:
    """Every folder that the run writes to takes a file, and has room; else a :class:`PlanError` before the hours."""
    store, need = paths.store_dir(), ROOM
    if stale := _of_real_models(ledger, chosen, forced):
        from . import estimate  # builds the model's shape with torch

        need += int(estimate.store_bytes(ledger.plan, stale))
    for place in (ledger.directory, ledger.runs, store):  # executed copies are a convenience, and fail no run
        if wrong := disk.refusal(place, need if place == store else 0):
            raise PlanError(f"{place} cannot be written: {wrong}")


def estimate(ledger: Ledger, chosen: list[Notebook], forced: set[str] = frozenset(), gpu: str | None = None) -> str:
    """Time and memory of the stale notebooks, as text; "" for the bundled model, which needs little of both."""
    stale = _of_real_models(ledger, chosen, forced, any_model=gpu is not None)
    if not stale:
        return ""
    from . import estimate  # builds the model's shape with torch

    return estimate.report(ledger.plan, stale, gpu)


def _of_real_models(
    ledger: Ledger, chosen: list[Notebook], forced: set[str], any_model: bool = False
) -> list[Notebook]:
    """The stale notebooks, if any of those chosen is about another model than the bundled one."""
    if not any_model and {notebook.parameters.get("model", "bundled") for notebook in chosen} <= {"bundled"}:
        return []
    forecast = ledger.forecast(chosen, forced)
    return [notebook for notebook in chosen if forecast[notebook.name][0] != "fresh"]


def _run_all(ledger: Ledger, chosen: list[Notebook], forced: set[str], jobs: int) -> dict[str, Outcome]:
    """Execute the stale notebooks, needed notebooks first, up to ``jobs`` at a time."""
    outcomes: dict[str, Outcome] = {}
    pending, running = list(chosen), {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(jobs) as pool, _Progress(ledger.plan.profile, chosen) as progress:
        try:
            while pending or running:
                for notebook in list(pending):
                    outcome = _settled(ledger, notebook, outcomes, notebook.name in forced)
                    if outcome:
                        outcomes[notebook.name] = outcome
                    elif all(need in outcomes for need in notebook.needs) and _has_room(notebook, running, jobs):
                        threads = cores if notebook.alone else max(1, cores // jobs)
                        worker = Worker(notebook, ledger, threads)
                        worker.ingredients = ledger.looked_at_anew(notebook)
                        running[pool.submit(worker.run)] = worker
                    else:
                        continue
                    pending.remove(notebook)
                finished, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in finished:
                    worker, outcome = running.pop(future), future.result()
                    notebook = worker.notebook
                    outcomes[notebook.name] = outcome
                    now = datetime.now(UTC).isoformat(timespec="seconds")
                    facts = {"seconds": outcome.seconds, "finished": now, "device": outcome.device}
                    facts |= {"error": outcome.why} if outcome.why else {}
                    if changed := ledger.finish(notebook, outcome.status, worker.ingredients, **facts):
                        progress.tell(f"{notebook.name}: {', '.join(changed)} changed while it ran; it is to run again")
                    if error := _show(ledger, notebook):
                        progress.tell(error)
                    progress.tell(f"{notebook.name}: {outcome.status} in {outcome.seconds:.0f} s {outcome.why}".strip())
                progress.show(outcomes, running.values())
        except BaseException:
            for worker in running.values():
                worker.kill()
            raise
    return outcomes


def _show(ledger: Ledger, notebook: Notebook) -> str:
    """Lay a read-only copy of the executed notebook where the Lab shows it; the error in one line, or ""."""
    source, folder = ledger.runs / f"{notebook.name}.ipynb", paths.executed_dir(ledger.plan.profile)
    if not source.exists():  # the worker ended before the first cell
        return ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with disk.replacing(folder / source.name) as partial:
            shutil.copyfile(source, partial)
            partial.chmod(0o444)
    except OSError as error:
        return f"{notebook.name}: its executed notebook stays in {source.parent} ({error})"
    return ""


def _settled(ledger: Ledger, notebook: Notebook, outcomes: dict[str, Outcome], forced: bool) -> Outcome | None:
    """The outcome of a notebook that need not or cannot be executed; None while that is open."""
    broken = [need for need in notebook.needs if need in outcomes and outcomes[need].status in ("failed", "skipped")]
    if broken:
        return Outcome("skipped", f"needs {broken[0]}")
    if forced or not all(need in outcomes for need in notebook.needs):
        return None
    return Outcome("fresh") if ledger.state(notebook)[0] == "fresh" else None


def _has_room(notebook: Notebook, running: dict, jobs: int) -> bool:
    """Whether a notebook can start now; a notebook that measures time runs alone."""
    if notebook.alone or any(worker.notebook.alone for worker in running.values()):
        return not running
    return len(running) < jobs


class _Progress:
    """A bar over all code cells, and beside it the running notebooks with the titles of their cells."""

    def __init__(self, profile: str, notebooks: list[Notebook]):
        self.cells = {n.name: sum(cell["cell_type"] == "code" for cell in n.cells) for n in notebooks}
        self.bar = tqdm(
            total=sum(self.cells.values()),
            desc=profile,
            mininterval=0.2 if sys.stderr.isatty() else 30,
            miniters=0,  # the clock and the titles move even while a long cell runs
            bar_format="{desc}: {percentage:3.0f}%|{bar:20}| {elapsed}{postfix}",
            dynamic_ncols=True,
        )

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def tell(self, line: str) -> None:
        self.bar.write(line, file=sys.stderr)

    def show(self, outcomes: dict[str, Outcome], running: Iterable[Worker]) -> None:
        done = sum(self.cells[name] for name in outcomes)
        now = [f"{worker.notebook.name}: {worker.cell[:40]}" for worker in running]
        self.bar.set_postfix_str(" · ".join(now), refresh=False)
        self.bar.update(done + sum(max(worker.cells - 1, 0) for worker in running) - self.bar.n)
