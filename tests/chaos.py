"""Chaos: two runners on one store are killed at random while code is edited under them; nothing may come of it.

    python tests/chaos.py --kills 20        make chaos

A copy of the project runs the smallest profile once in peace (kept for later calls, as long as the source is the
same). Then two runners with figures of their own and one store between them reproduce some notebooks each. At random
times a runner, a worker or a kernel is killed, or a line of the package is edited so that results change, and later
put back. At last both run to their end. What must hold: their tables equal those of the peaceful run but for columns
of measured time; no process outlives its runner; no stored entry is lost or damaged; a further call finds nothing to
do. A row of ``tests/chaos.csv`` says what a call did; the exit status is 1 where anything did not hold.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from tqdm import tqdm

from seaplib import paths, store
from seaplib.runner import compare, plan

ROOT = Path(__file__).resolve().parents[1]
COUNTS = ROOT / "tests" / "chaos.csv"
PROFILE = "smoke"
COPIED = ("seaplib", "notebooks", "data/bundled", "data/published", "papermill_runs.yaml")
ROLES = {"worker": "seaplib.runner.worker", "kernel": "ipykernel_launcher"}
#: edits that change results: file, what it says, what it says for a while
EDITS = (
    ("seaplib/pruning/allocation.py", "np.exp(-self.k * (x - self.x0))", "np.exp(self.k * (x - self.x0))"),
    ("seaplib/pruning/scores.py", "return per_head.sum(-1) if", "return -per_head.sum(-1) if"),
    ("seaplib/models/likelihood.py", "logits.log_softmax(-1)", "(0 * logits).log_softmax(-1)"),
    ("seaplib/reports/tables.py", 'FLOATS = "%.6g"', 'FLOATS = "%.12g"'),
)
GONE = 20.0  # seconds in which the processes of a killed runner must have ended


@dataclass
class Runner:
    """``reproduce`` of some notebooks in a copy of the project, with figures and run records of its own."""

    project: Path
    home: Path
    notebooks: list[str]
    process: subprocess.Popen | None = None

    def start(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        places = {"FIGURES_DIR": "figures", "RUNS_DIR": "runs", "EXECUTED_DIR": "executed"}
        moved = {f"SEAP_{variable}": str(self.home / folder) for variable, folder in places.items()}
        moved |= {"SEAP_ROOT": str(self.project), "SEAP_STORE_DIR": str(self.project.parent / "store")}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SEAP_")}
        command = [sys.executable, "-m", "seaplib", "reproduce", "--profile", PROFILE, "--only", *self.notebooks]
        self.process = subprocess.Popen(
            command,
            cwd=self.project,
            env=kept | moved | {"PYTHONPATH": str(self.project)},
            stdout=open(self.home / "said.txt", "w"),  # noqa: SIM115 (the process keeps it)
            stderr=subprocess.STDOUT,
        )

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def family(self) -> dict[str, list[psutil.Process]]:
        """Role → processes: the runner itself, its workers and their kernels."""
        found = {"runner": [psutil.Process(self.process.pid)], "worker": [], "kernel": []}
        for child in found["runner"][0].children(recursive=True):
            try:
                words = " ".join(child.cmdline())
            except psutil.Error:
                continue
            for role, mark in ROLES.items():
                if mark in words:
                    found[role].append(child)
        return found

    def finish(self) -> int:
        """Run to the end; the exit status."""
        if not self.alive:
            self.start()
        return self.process.wait()

    def output(self) -> str:
        return (self.home / "said.txt").read_text("utf-8", "replace")

    @property
    def figures(self) -> Path:
        return self.home / "figures" / PROFILE


@dataclass
class Tally:
    """What a call did and found."""

    killed: Counter = field(default_factory=Counter)
    notebooks: set[str] = field(default_factory=set)  # in which a worker or kernel was killed
    edits: int = 0
    orphans: int = 0
    entries: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    damaged: int = 0
    numbers: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def copied(folder: Path) -> Path:
    """A copy of the project's tracked and new files, without what git ignores."""
    project = folder / "project"
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *COPIED]
    for name in subprocess.run(listed, capture_output=True, check=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, project / name)
    for file, usual, _ in EDITS:
        if (project / file).read_text("utf-8").count(usual) != 1:
            raise SystemExit(f"{file} does not hold {usual!r} once; name another line in EDITS of tests/chaos.py")
    return project


def peaceful(project: Path, folder: Path, notebooks: list[str]) -> dict[str, str]:
    """Product → csv text of an undisturbed run with a store of its own, kept below the project's store."""
    code = hashlib.sha256(json.dumps([store.identity(project / name) for name in COPIED]).encode()).hexdigest()[:16]
    kept = paths.store_dir() / "chaos" / f"{code}-{len(notebooks)}"
    if not kept.is_dir():
        calm = Runner(project, folder / "calm" / "home", notebooks)
        calm.project = shutil.copytree(project, folder / "calm" / "project")
        if calm.finish():
            raise SystemExit(f"the undisturbed run failed:\n{calm.output()}")
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(calm.figures, f"{kept}.partial", dirs_exist_ok=True)
        os.replace(f"{kept}.partial", kept)
    return compare.tables_of(kept)


def entries(folder: Path) -> set[str]:
    """The stored entries that are whole."""
    return {
        file.parent.relative_to(folder).as_posix()
        for file in folder.glob("*/*/spec.json")
        if "." not in file.parent.name
    }


def damaged(folder: Path) -> int:
    """How many entries hold a file that is not what its checksum says."""
    wrong = 0
    for entry in (folder / name for name in entries(folder)):
        files = json.loads((entry / "spec.json").read_text("utf-8"))["files"]
        wrong += any(store.file_hash(entry / name) != known for name, known in files.items())
    return wrong


def executing(process: psutil.Process) -> str | None:
    """The notebook that a worker, or a kernel's worker, is executing: its log is the worker's standard error."""
    try:
        for one in (process, process.parent()):
            for file in one.open_files() if one else ():
                if file.path.endswith(".log"):
                    return Path(file.path).stem
    except psutil.Error:
        pass
    return None


def kill(runner: Runner, rng: random.Random, tally: Tally) -> bool:
    """Kill one process of a runner; whether there was one."""
    family = runner.family()
    role = rng.choice([role for role, processes in family.items() if processes])
    victim = rng.choice(family[role])
    everybody = [process for processes in family.values() for process in processes]
    if role != "runner" and (hit := executing(victim)):
        tally.notebooks.add(hit)
    try:
        victim.kill()
    except psutil.NoSuchProcess:
        return False
    tally.killed[role] += 1
    if role == "runner":
        runner.process.wait()
        gone, left = psutil.wait_procs([process for process in everybody if process != victim], timeout=GONE)
        tally.orphans += len(left)
        for process in left:
            process.kill()
    return True


def edit(project: Path, number: int, edited: set[int]) -> None:
    """Change a line of the package, or put it back."""
    file, usual, other = EDITS[number]
    before, after = (other, usual) if number in edited else (usual, other)
    path = project / file
    path.write_text(path.read_text("utf-8").replace(before, after), "utf-8")
    edited ^= {number}


def disturb(runners: list[Runner], kills: int, pause: float, edits: float, rng: random.Random, tally: Tally) -> None:
    """Kill, and edit before the share ``edits`` of kills, until so many were killed; then the code is what it was."""
    project, edited = runners[0].project, set()
    with tqdm(total=kills, desc="kills") as bar:
        while tally.killed.total() < kills:
            for runner in runners:
                if not runner.alive:
                    runner.start()
            time.sleep(rng.uniform(0.1, 2 * pause))
            now = entries(project.parent / "store")
            tally.lost |= tally.entries - now
            tally.entries |= now
            if rng.random() < edits:
                edit(project, rng.randrange(len(EDITS)), edited)
                tally.edits += 1
            alive = [runner for runner in runners if runner.alive]
            if alive and kill(rng.choice(alive), rng, tally):
                bar.update()
    for number in sorted(edited):
        edit(project, number, edited)


def settle(runners: list[Runner], reference: dict[str, str], tally: Tally) -> None:
    """Both runners to their end, and everything that must hold then."""
    for runner in runners:  # what ran under an edit that is taken back is stale, and runs again
        runner.finish()
        if runner.finish():
            tally.wrong.append(f"a notebook failed in peace:\n{runner.output()}")
            continue
        runner.finish()
        if " done " in runner.output():
            tally.wrong.append(f"a notebook was not fresh at last:\n{runner.output()}")
        made = compare.tables_of(runner.figures)
        found = compare.beside({name: text for name, text in reference.items() if name in made}, made)
        tally.numbers += found.counts
        tally.wrong += [" ".join(row) for row in found.listed()] + [f"{name} is new" for name in found.only_here]
        left = [
            file.name for file in runner.figures.iterdir() if file.name.startswith(".") or file.name.startswith("tmp")
        ]
        tally.wrong += [f"left in figures: {name}" for name in left]
    shelf = runners[0].project.parent / "store"
    tally.lost |= tally.entries - entries(shelf)
    tally.damaged = damaged(shelf)


def chaos(
    kills: int, each: int, pause: float, seed: int, notebooks: Iterable[str] | None = None, edits: float = 0.25
) -> Tally:
    """One call: ``kills`` processes, two runners of ``each`` notebooks, drawn by ``seed`` from ``notebooks`` (all)."""
    rng, tally = random.Random(seed), Tally()
    known = plan.load(PROFILE).notebooks
    names = sorted(notebooks or [notebook.name for notebook in known])
    alone = [name for name in names if not next(one for one in known if one.name == name).needs]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        project = copied(folder)
        reference = peaceful(project, folder, names)
        runners = [Runner(project, folder / name, rng.sample(alone, min(each, len(alone)))) for name in ("one", "two")]
        if rng.random() < 0.2:  # the scorecard needs all others: now and then a runner has everything
            runners[0].notebooks = names
        try:
            disturb(runners, kills, pause, edits, rng, tally)
            settle(runners, reference, tally)
        finally:
            for runner in runners:
                if runner.alive:
                    for process in (process for processes in runner.family().values() for process in processes):
                        process.kill()
    bad = {"processes left": tally.orphans, "entries lost": len(tally.lost), "entries damaged": tally.damaged}
    tally.wrong += [f"{count} {what}" for what, count in bad.items() if count]
    return tally


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Kill runners, workers and kernels at random; nothing may be lost.")
    parser.add_argument("--kills", type=int, default=20, help="processes to kill (default: 20)")
    parser.add_argument("--each", type=int, default=8, help="notebooks of each of the two runners (default: 8)")
    parser.add_argument("--pause", type=float, default=12.0, help="mean seconds between two kills (default: 12)")
    parser.add_argument("--seed", type=int, help="of the draws (default: the number of calls so far)")
    options = parser.parse_args(arguments)
    before = list(csv.DictReader(COUNTS.read_text("utf-8").splitlines())) if COUNTS.is_file() else []
    seed = len(before) if options.seed is None else options.seed
    tally = chaos(options.kills, options.each, options.pause, seed)
    commit = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    row = {"commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip(), "seed": seed}
    row |= {"kills": tally.killed.total()} | {role: tally.killed[role] for role in ("runner", "worker", "kernel")}
    row |= {"edits": tally.edits, "notebooks_hit": " ".join(sorted(name[:2] for name in tally.notebooks))}
    row |= {"processes_left": tally.orphans, "entries": len(tally.entries), "lost": len(tally.lost)}
    row |= {"damaged": tally.damaged, "numbers_equal": tally.numbers[compare.EQUAL]}
    row |= {"numbers_different": tally.numbers[compare.WITHIN] + tally.numbers[compare.DIFFERENT]}
    row |= {"texts_different": tally.numbers[compare.TEXT], "times": tally.numbers[compare.TIME]}
    with open(COUNTS, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*before, row])
    print("\n".join(f"{name}: {value}" for name, value in row.items()))
    print(f"{sum(int(each['kills']) for each in [*before, row])} kills in all")
    print("\n".join(tally.wrong) or "nothing was lost, and every number is that of the undisturbed run")
    return int(bool(tally.wrong))


if __name__ == "__main__":
    sys.exit(main())
