"""Mutants: small errors put into the numeric core one at a time; the unit tests should notice each.

    python tests/mutants.py --sample 300        make mutants

cosmic-ray makes the mutants of :data:`TESTS`' modules; annotations and messages apart, a seeded sample of them is
tried, each in a copy of the project, by the unit tests of its module. ``tests/mutants.csv`` has a row per mutant; a
survivor's column ``why`` is written by hand and kept. A call goes on where the last one stopped, as long as the
modules are what they were.
"""

import argparse
import ast
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "tests" / "mutants.csv"
SEED = 0
#: module → its unit tests
TESTS = {
    "seaplib/pruning/scores.py": (
        "pruning/test_scores.py", "pruning/test_energy.py", "pruning/test_every_selection.py",
        "pruning/baselines/test_two_ssp.py",
    ),
    "seaplib/pruning/allocation.py": ("pruning/test_allocation.py", "pruning/test_every_selection.py"),
    "seaplib/pruning/selection.py": (
        "pruning/test_every_selection.py", "pruning/test_masks.py", "pruning/test_energy.py",
        "pruning/test_allocation.py",
    ),
    "seaplib/pruning/masks.py": ("pruning/test_masks.py", "pruning/test_every_selection.py"),
    "seaplib/activations/capture.py": (
        "activations/test_every_moment.py", "activations/test_statistics.py", "pruning/baselines/test_two_ssp.py",
        "pruning/test_energy.py",
    ),
    "seaplib/evaluation/bootstrap.py": ("evaluation/test_bootstrap.py", "evaluation/test_comparison.py"),
    "seaplib/evaluation/comparison.py": (
        "evaluation/test_comparison.py", "evaluation/test_bootstrap.py", "reports/test_claims.py",
    ),
}  # fmt: skip
LONGEST = 240  # seconds of a mutant's tests; a mutant that hangs is noticed
FIELDS = ("module", "line", "function", "operator", "occurrence", "change", "outcome", "why")
KILLED, SURVIVED = "killed", "survived"


@dataclass(frozen=True)
class Mutant:
    """One changed place of a module: cosmic-ray's operator, and which of the places that it could change."""

    module: str
    line: int
    function: str
    operator: str
    arguments: str  # of the operator, as JSON
    occurrence: int

    def code(self, folder: Path = ROOT) -> str | None:
        """The module's text with the change."""
        from cosmic_ray.mutating import mutate_code
        from cosmic_ray.plugins import get_operator

        operator = get_operator(self.operator)(**json.loads(self.arguments))
        return mutate_code((folder / self.module).read_text("utf-8"), operator, self.occurrence)

    @property
    def key(self) -> tuple[str, ...]:
        return self.module, self.operator, self.arguments, str(self.occurrence)


def drawn(number: int) -> list[Mutant]:
    """So many mutants that change what is computed, drawn from all mutants of the modules."""
    from cosmic_ray.commands.init import init
    from cosmic_ray.work_db import WorkDB, use_db

    found = []
    with tempfile.TemporaryDirectory() as folder, use_db(f"{folder}/work.sqlite", WorkDB.Mode.create) as work:
        init([Path(module) for module in TESTS], work, {})
        for item in work.work_items:
            (one,) = item.mutations
            about = (str(one.module_path), one.start_pos[0], one.definition_name or "", one.operator_name)
            found.append(Mutant(*about, json.dumps(one.operator_args, sort_keys=True), one.occurrence))
    plain = {module: computing(Path(module).read_text("utf-8")) for module in TESTS}
    random.Random(SEED).shuffle(found)
    telling = (one for one in found if (text := one.code()) and computing(text) not in (None, plain[one.module]))
    return list(islice(telling, number))  # the text of each takes a tenth of a second


def computing(text: str) -> str | None:
    """A module's syntax without annotations and without the words of its errors; None where it is no Python."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            node.exc.args = []
    return ast.dump(tree)


def change(before: str, after: str) -> str:
    """The changed lines, "old → new"."""
    old, new = before.splitlines(), after.splitlines()
    while old and new and old[-1] == new[-1]:
        old.pop(), new.pop()
    while old and new and old[0] == new[0]:
        old.pop(0), new.pop(0)
    return " → ".join(" ".join(" ".join(lines).split()) for lines in (old, new))


def copied(folder: Path) -> Path:
    """A copy of the tracked project, without figures."""
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, capture_output=True, check=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith("figures/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def passes(module: str, project: Path) -> bool:
    """Whether a module's unit tests pass in ``project``, in a fork of this process, which has the libraries loaded."""
    child = os.fork()
    if not child:
        os.setsid()
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1), os.dup2(silent, 2)
        import pytest

        chosen = [f"tests/{name}" for name in TESTS[module]]
        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not long", *chosen])))
    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def work(chosen: list[Mutant], project: Path, output: Path) -> None:
    """Try mutants in a copy of the project, a line of JSON each."""
    os.chdir(project)
    sys.dont_write_bytecode = True  # two changes within a second would share a time stamp
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(project)}
    sys.path[:0] = [str(project), str(project / "tests")]
    import hypothesis  # noqa: F401 (loaded once, for all forks)
    import pandas  # noqa: F401
    import pytest  # noqa: F401
    import sklearn  # noqa: F401
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    for module in sorted({one.module for one in chosen}):
        if not passes(module, project):
            raise SystemExit(f"the unit tests of {module} fail without any mutant")
    with open(output, "a") as file:
        for one in chosen:
            path = project / one.module
            before, after = path.read_text("utf-8"), one.code(project)
            path.write_text(after, "utf-8")
            try:
                outcome = SURVIVED if passes(one.module, project) else KILLED
            finally:
                path.write_text(before, "utf-8")
            print(json.dumps([*one.key, change(before, after), outcome]), file=file, flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Put small errors into the numeric core; do the unit tests notice?")
    parser.add_argument("--sample", type=int, default=300, help="how many mutants (default: 300)")
    parser.add_argument("--jobs", type=int, default=2, help="at a time (default: 2)")
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    chosen = drawn(options.sample)
    code = hashlib.sha256("".join(Path(name).read_text("utf-8") for name in TESTS).encode()).hexdigest()[:16]
    done = Path(tempfile.gettempdir()) / f"mutants-{code}.jsonl"  # of earlier calls
    known = (
        {tuple(row[:4]): row[4:] for row in map(json.loads, done.read_text().splitlines())} if done.is_file() else {}
    )
    waiting = [one for one in chosen if one.key not in known]
    print(f"{len(chosen)} mutants drawn, {len(waiting)} to try", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for number in range(options.jobs if waiting else 0):
            project = copied(Path(folder) / str(number))
            if not (child := os.fork()):
                try:
                    work(waiting[number :: options.jobs], project, done)
                except BaseException as error:  # the folder belongs to the parent
                    print(error, file=sys.stderr, flush=True)
                    os._exit(1)
                os._exit(0)
            children.append(child)
        failed = [child for child in children if os.waitpid(child, 0)[1]]
    if failed:
        return 1
    known = {tuple(row[:4]): row[4:] for row in map(json.loads, done.read_text().splitlines())}
    before = list(csv.DictReader(RESULTS.read_text("utf-8").splitlines())) if RESULTS.is_file() else []
    why = {(row["module"], row["change"]): row["why"] for row in before}
    rows = []
    for one in sorted(chosen, key=lambda one: (one.module, one.line, one.operator, one.occurrence)):
        changed, outcome = known[one.key]
        about = [
            one.module,
            one.line,
            one.function,
            one.operator.removeprefix("core/"),
            one.occurrence,
            changed,
            outcome,
        ]
        rows.append(dict(zip(FIELDS, [*about, why.get((one.module, changed), "")], strict=True)))
    with open(RESULTS, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    survived = [row for row in rows if row["outcome"] == SURVIVED]
    for row in survived:
        print(f"{row['module']}:{row['line']} {row['function']}: {row['change']}  ({row['why'] or 'not explained'})")
    print(dict(Counter(row["outcome"] for row in rows)))
    return int(any(not row["why"] for row in survived))


if __name__ == "__main__":
    sys.exit(main())
