"""A profile's tables beside the committed ones: which numbers are equal, which are not, and where.

Only csv tables count. A row is named by its texts and by its settings (:data:`SETTINGS`); everything else in it is
measured. Two numbers are

- *equal* if they are printed alike or differ by less than ``TOLERANCE``, relatively;
- *within* their interval if the intervals of both (``low`` and ``high``, or ± 1.96 standard errors) overlap so that
  one of the numbers lies in the other's interval; the ends, the standard error and the p-value go with the estimate;
- *different* otherwise.

Times depend on the machine and on what else runs there: they are counted and not compared.
"""

import csv
import io
import math
import re
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from .. import paths
from ..evaluation.bootstrap import Z

TOLERANCE = 1e-6
EQUAL, WITHIN, DIFFERENT, TEXT, TIME = "equal", "within", "different", "text", "time"
#: a column that names a row alone
NAMES = ("claim_id",)
#: columns of numbers that are no results, in any table and in some
SETTINGS = {"requested_sparsity", "requested", "sparsity", "seed", "calibration_seed", "layer", "x0", "k", "preset"}
SETTINGS |= {"pattern", "window", "stride", "samples", "batch", "prompt_tokens", "new_tokens", "hidden"}
OWN_SETTINGS = {"calibration_size": {"texts"}, "remove_tests": {"ratio"}, "router_abstention": {"threshold"}}
OWN_SETTINGS |= {"sparse_products": {"tokens"}}
#: columns of texts that follow from results
OUTCOMES = {"verdict", "fires", "advice", "chosen", "recommended", "at_chance", "within_2_se", "fingerprint"}
OUTCOMES |= {"continuation", "text", "here"}
#: columns that say where a table was made, or count its rows
SURROUNDINGS = {"device", "device_name", "threads", "torch", "transformers", "pair"}
#: columns of times in any table; product → its further columns of times and of ratios of times
TIMED = re.compile(r"(\w+_)?(seconds|minutes|ms)|tokens_per_second|speedup")
TIMES = {
    "table2_inference_speed": {"low", "high", "ratio", "ratio_low", "ratio_high"},
    "routing_worth": {"low", "high", "ratio", "break_even", "break_even_low", "break_even_high", "switch_steps"},
    "sparse_products": {"low", "high"},
}
#: a claim that points there is about times
OF_TIMES = {*TIMES, "inference_speed"}
MISSING = ("", "–")
P_VALUE = re.compile(r"p|p_(value|holm|mcnemar|floor)")
NAMED = 4  # cells that name a row in an example
LONGEST = 60  # characters of a text in an example

Row = dict[str, str]


@dataclass
class Compared:
    """A product on both sides: how many numbers, texts and times, and the first that differs."""

    name: str
    counts: Counter = field(default_factory=Counter)
    example: str = ""
    apart: list[str] = field(default_factory=list)  # what only one side has

    @property
    def differs(self) -> bool:
        """Whether any number or text differs, or only one side has a row or a column."""
        return bool(self.counts[DIFFERENT] or self.counts[TEXT] or self.apart)


@dataclass
class Comparison:
    """All tables of a profile: those of both sides, and the names of those that only one side has."""

    tables: list[Compared]
    only_committed: list[str]
    only_here: list[str]

    @property
    def counts(self) -> Counter:
        return sum((table.counts for table in self.tables), Counter())

    def listed(self) -> list[list[str]]:
        """A row per product that differs, for print: its numbers of each kind, its changed texts, and where."""
        rows = []
        for table in self.tables:
            if table.differs:
                counts = [f"{table.counts[kind]:,}" for kind in (EQUAL, WITHIN, DIFFERENT, TEXT)]
                where = [table.example] if table.example else []
                rows.append([table.name, *counts, "\n".join(where + table.apart)])
        return rows

    def summary(self, known: str = "the committed ones") -> str:
        """One sentence; ``known`` names the tables compared with."""
        counts = self.counts
        numbers = sum(counts[kind] for kind in (EQUAL, WITHIN, DIFFERENT))
        said = f"Of {numbers:,} numbers in {len(self.tables)} tables {counts[EQUAL]:,} equal {known}"
        said += f", {counts[WITHIN]:,} are equal within their interval and {counts[DIFFERENT]:,} are different"
        if counts[TEXT]:
            said += f"; {counts[TEXT]:,} texts, such as verdicts, are different"
        if counts[TIME]:
            said += f"; {counts[TIME]:,} are times, not compared"
        return f"{said}."


def compare(profile: str, revision: str = "HEAD") -> Comparison | None:
    """The tables of ``figures/<profile>`` compared with those that git holds in ``revision``.

    None where there is nothing to compare with: no git checkout, or a revision without tables of the profile.
    """
    before = committed(profile, revision)
    if not before:
        return None
    return beside(before, tables_of(paths.figures_dir(profile)))


def tables_of(folder: Path) -> dict[str, str]:
    """Product → csv text, of the tables in a folder."""
    return {file.stem: file.read_text("utf-8") for file in sorted(folder.glob("*.csv"))}


def beside(before: dict[str, str], now: dict[str, str]) -> Comparison:
    """Two sets of tables, product → csv text."""
    both = [compare_tables(name, before[name], now[name]) for name in before if name in now]
    return Comparison(both, sorted(set(before) - set(now)), sorted(set(now) - set(before)))


def committed(profile: str, revision: str = "HEAD") -> dict[str, str]:
    """Product → csv text, as git holds it; nothing is checked out. Empty without git, revision or tables."""
    listed = _git(["ls-tree", "-z", revision, f"figures/{profile}/"])
    blobs = {}
    for entry in listed.decode("utf-8", "replace").split("\0"):
        facts, _, path = entry.partition("\t")
        if path.endswith(".csv"):
            blobs[path.rpartition("/")[2].removesuffix(".csv")] = facts.split()[2]
    if not blobs:
        return {}
    batch = io.BytesIO(_git(["cat-file", "--batch"], "".join(f"{blob}\n" for blob in blobs.values()).encode()))
    contents = {}
    for name in blobs:
        size = int(batch.readline().split()[2])
        contents[name] = batch.read(size).decode("utf-8")
        batch.readline()
    return contents


def knows(revision: str) -> bool:
    """Whether the project is a git checkout that has this revision."""
    return bool(_git(["rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]))


def _git(arguments: list[str], given: bytes = b"") -> bytes:
    """What git says in the project's directory; nothing where git is absent or refuses."""
    command = ["git", "-C", str(paths.root()), *arguments]
    try:
        return subprocess.run(command, input=given, capture_output=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return b""


def compare_tables(name: str, before: str, now: str) -> Compared:
    """Two csv texts of a product. Rows meet by name, repeated names in their order."""
    tables = _Tables(name, *(list(csv.reader(io.StringIO(text))) for text in (before, now)))
    compared, (old, new) = Compared(name), tables.rows
    for key in old:
        if key in new:
            _compare_rows(compared, tables, old[key], new[key])
    sides = (("only committed", old, new, 0), ("only here", new, old, 1))
    for side, own, other, place in sides:
        rows = len([key for key in own if key not in other])
        columns = [column for column in tables.columns[place] if column not in tables.columns[1 - place]]
        found = [f"{rows} row{'s' * (rows > 1)}"] if rows else []
        found += [f"column{'s' * (len(columns) > 1)} {', '.join(columns)}"] if columns else []
        compared.apart += [f"{side}: {', '.join(found)}"] if found else []
    return compared


def _compare_rows(compared: Compared, tables: "_Tables", old: Row, new: Row) -> None:
    timed = bool({old.get("where"), new.get("where")} & OF_TIMES)
    for column in tables.compared:
        kind = tables.judge(column, old, new)
        if kind and (column in tables.times or timed and (column in tables.numbers or column in OUTCOMES)):
            kind = TIME if column in tables.numbers else ""
        if kind in (DIFFERENT, TEXT) and not compared.example:
            change = " → ".join(_short(row[column]) for row in (old, new))
            compared.example = f"{tables.named(new)}: {column} {change}"
        if kind:
            compared.counts[kind] += 1


class _Tables:
    """Both sides of a table: which columns name a row, which are numbers, and which intervals these have."""

    def __init__(self, name: str, *sides: list[list[str]]):
        self.columns = [side[0] if side else [] for side in sides]
        self._rows = [[dict(zip(side[0], cells, strict=True)) for cells in side[1:]] for side in sides]
        common = [column for column in self.columns[1] if column in self.columns[0] and column not in SURROUNDINGS]
        self.numbers = {column for column in common if self._is_number(column)} - set(NAMES)
        settings = SETTINGS | OWN_SETTINGS.get(name, set())
        texts = [column for column in common if column not in self.numbers | OUTCOMES]
        self.keys = [column for column in NAMES if column in common] or [
            column for column in common if column in texts or column in self.numbers & settings
        ]
        self.compared = [column for column in common if column not in self.keys]
        self.times = {column for column in self.compared if TIMED.fullmatch(column)} | TIMES.get(name, set())
        self.bounds, self.owners = _bounds([column for column in common if column in self.numbers])

    def _is_number(self, column: str) -> bool:
        cells = {row[column] for side in self._rows for row in side}
        return bool(cells - set(MISSING)) and all(_number(cell) is not None for cell in cells - set(MISSING))

    @cached_property
    def rows(self) -> list[dict[tuple, Row]]:
        """Both sides by name; of rows that are named alike, by their order."""
        found = []
        for side in self._rows:
            seen, named = Counter(), {}
            for row in side:
                key = tuple(row[column] for column in self.keys)
                named[*key, seen[key]] = row
                seen[key] += 1
            found.append(named)
        return found

    @cached_property
    def _telling(self) -> list[str]:
        """The columns that name a row and are not the same in all rows."""
        varied = [key for key in self.keys if len({row[key] for row in self._rows[1]}) > 1]
        return varied or self.keys[:1]

    def named(self, row: Row) -> str:
        """A row's name in an example."""
        return ", ".join(_short(row[key]) for key in self._telling[:NAMED] if row[key]) or "the row"

    def judge(self, column: str, old: Row, new: Row) -> str:
        """How a cell compares; "" for an empty cell and for an equal text."""
        a, b = old[column], new[column]
        if column not in self.numbers:
            return TEXT if a != b else ""
        if a in MISSING and b in MISSING:
            return ""
        if a == b or _close(_number(a), _number(b)):
            return EQUAL
        if column in self.owners:
            return DIFFERENT if self.judge(self.owners[column], old, new) == DIFFERENT else WITHIN
        intervals = [self._interval(column, row) for row in (old, new)]
        if None in intervals:
            return DIFFERENT
        (low_a, high_a), (low_b, high_b) = intervals
        return WITHIN if low_b <= _number(a) <= high_b or low_a <= _number(b) <= high_a else DIFFERENT

    def _interval(self, column: str, row: Row) -> tuple[float, float] | None:
        value, ends = _number(row[column]), [_number(row[end]) for end in self.bounds.get(column, ())]
        if value is None or not ends or None in ends:
            return None
        return (value - Z * ends[0], value + Z * ends[0]) if len(ends) == 1 else (ends[0], ends[1])


def _bounds(columns: list[str]) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Estimate → its ends or its standard error, and each of these, and the p-value → its estimate.

    ``low``, ``high`` and ``stderr`` belong to the column before them, ``ratio_low`` to ``ratio``, a p-value to the
    last estimate before it.
    """
    bounds, owners, last = {}, {}, None
    for place, column in enumerate(columns):
        stem, _, end = column.rpartition("_")
        if end in ("low", "stderr"):
            owner = stem or (columns[place - 1] if place else "")
            further = column.removesuffix("low") + "high" if end == "low" else None
            if owner in columns and (further is None or further in columns):
                ends = (column, further) if further else (column,)
                bounds.setdefault(owner, ends)
                owners |= dict.fromkeys(ends, owner)
                last = owner
        elif last and P_VALUE.fullmatch(column):
            owners[column] = last
    return bounds, owners


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _close(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=0.0)


def _short(cell: str) -> str:
    cell = " ".join(cell.split()) or "nothing"
    return cell if len(cell) <= LONGEST else cell[: LONGEST - 1] + "…"
