"""Task corpora: a task's rows, and the calibration texts made of them.

``rows`` reads a task's rows in one role; ``corpus`` words the training rows as in Table 5 (those of a
task that is lm-eval's alone by its own templates) and draws from them; ``questions`` are the prompts
without their answers. No calibration item is an evaluation
item: the few training rows whose question and right answer are in the test too (MMLU 35,
OpenBookQA 15, PIQA 5, ARC-Challenge 1) are left out, and counted in ``Corpus.source``.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from . import paths, prompts, store, tasks


@dataclass(frozen=True)
class Rows:
    """Rows of one role, their ids (the data set's own, else split and number), and where they are from."""

    table: pa.Table
    ids: tuple[str, ...]
    source: dict

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[dict]:
        return iter(self.table.to_pylist())

    def take(self, indices: Iterable[int]) -> "Rows":
        indices = [int(i) for i in indices]
        return Rows(self.table.take(pa.array(indices, pa.int64())), tuple(self.ids[i] for i in indices), self.source)


@dataclass(frozen=True)
class Corpus:
    """Texts of one task, the ids of the rows they were made from, and the source they came from."""

    task: str
    texts: tuple[str, ...]
    ids: tuple[str, ...]
    source: dict

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        words = np.median([len(text.split()) for text in self.texts])
        origin = f"{self.source['data']}: {self.source['dataset']}"
        return f"Corpus({self.task}, {len(self)} texts, median {words:.0f} words, {origin})"

    @property
    def fingerprint(self) -> str:
        """Changes with the task's name, any text, their order or an id."""
        return store.digest([self.task, self.texts, self.ids])

    def first(self, n: int) -> "Corpus":
        """The first ``n`` texts (all, if there are fewer); a smaller draw of the same seed."""
        return Corpus(self.task, self.texts[:n], self.ids[:n], self.source | {"samples": min(n, len(self))})

    def head(self, n: int = 5) -> pd.DataFrame:
        return pd.DataFrame({"id": self.ids[:n], "text": self.texts[:n]})

    def save(self, directory: Path) -> None:
        Path(directory).mkdir(parents=True, exist_ok=True)
        content = {"task": self.task, "texts": self.texts, "ids": self.ids, "source": self.source}
        (Path(directory) / "corpus.json").write_text(json.dumps(content, ensure_ascii=False, indent=1), "utf-8")

    @classmethod
    def load(cls, directory: Path) -> "Corpus":
        content = json.loads((Path(directory) / "corpus.json").read_text("utf-8"))
        return cls(content["task"], tuple(content["texts"]), tuple(content["ids"]), content["source"])


def corpus(name_or_path: str | Path, samples: int | None = None, seed: int = 0) -> Corpus:
    """Calibration texts of a task, or of a file with columns ``question`` and ``answer`` (or ``text``).

    ``samples`` texts are drawn without replacement by ``seed``: the same ones every time, and a
    smaller draw is the beginning of a larger one; all, in the drawn order, if None or too many.
    Files may be parquet, csv, json or jsonl.
    """
    if isinstance(name_or_path, Path) or Path(name_or_path).suffix[1:].isalpha():
        return _draw(*_from_file(Path(name_or_path)), samples, seed)
    task = tasks.get(name_or_path)
    found = rows(task.name)
    source = found.source | {"wording": "Table 5" if task.plain or task.pair else "lm-eval's templates"}
    if task.plain:
        return _draw(task.name, documents(found), source, samples, seed)
    seen = _evaluated(task)
    worded = _worded(task, found)
    items = [(one.id, one.text) for one in worded if one.pair not in seen]
    if not items:
        raise ValueError(f"{task.name}: all {len(found)} training rows are test items too, so none may calibrate")
    return _draw(task.name, items, source | {"left_out": len(worded) - len(items)}, samples, seed)


def questions(name: str, samples: int | None = None, seed: int = 0, split: str = "train") -> Corpus:
    """Prompts of a task without their answers, drawn as ``corpus`` draws, from its "train" or "test" rows.

    They classify and do not calibrate, so that no row is left out.
    """
    task = tasks.get(name)
    found = rows(name, split)
    source = found.source | {"wording": "question without answer"}
    if task.plain:
        return _draw(name, documents(found), source, samples, seed)
    return _draw(name, [(one.id, one.pair[0]) for one in _worded(task, found, whole=False)], source, samples, seed)


def documents(found: Rows) -> list[tuple[str, str]]:
    """(id, text) of every document in rows of plain text.

    WikiText's rows are lines. A document is a section: a heading (``= Title =``, ``= = Part = =``)
    and the paragraphs up to the next one; headings without a paragraph go to the section after them,
    and blank rows count for nothing. Rows without any heading are documents already.
    """
    lines = [(name, row["text"].strip()) for name, row in zip(found.ids, found, strict=True)]
    if not any(_HEADING.fullmatch(line) for _, line in lines):
        return [(name, line) for name, line in lines if line]
    sections, open_section, has_paragraph = [], [], False
    for name, line in [*lines, ("", "= end =")]:
        heading = bool(_HEADING.fullmatch(line))
        if heading and has_paragraph:
            sections.append((open_section[0][0], "\n".join(text for _, text in open_section)))
            open_section, has_paragraph = [], False
        if line:
            open_section.append((name, line))
            has_paragraph |= not heading
    return sections


class _Item(NamedTuple):
    id: str
    pair: tuple[str, str]  # question, right answer
    text: str


def _worded(task: tasks.Task, found: Rows, whole: bool = True) -> list[_Item]:
    """Every row of a task in words, the ``whole`` text too (test rows may lack what it needs).

    ValueError that names the row whose right answer cannot be told.
    """
    if task.pair is None:
        return [_Item(found.ids[row], (q, a), text) for row, q, a, text in prompts.rendered(task.name, found.table)]
    items = []
    for name, row in zip(found.ids, found, strict=True):
        try:
            items.append(_Item(name, task.pair(row), task.text(row) if whole else ""))
        except (ValueError, TypeError, AttributeError) as error:  # a label out of range, a missing cell
            raise ValueError(f"{task.name}: row {name} cannot be worded: {error}") from error
    return items


def _evaluated(task: tasks.Task) -> set:
    """The items that may not calibrate: those of the task's test, and of any test its corpus serves.

    Where there are no test rows at hand, there is nothing that could meet.
    """
    registered = map(tasks.get, tasks.names(scored=True))
    served = {task.name: task} | {other.name: other for other in registered if task.name == other.expert}
    items = set()
    for other in served.values():
        try:
            items |= {one.pair for one in _worded(other, rows(other.name, "test"), whole=False)}
        except (FileNotFoundError, ConnectionError):
            continue
    return items


def _draw(name: str, items: list[tuple[str, str]], source: dict, samples: int | None, seed: int) -> Corpus:
    if samples is not None and (not isinstance(samples, int) or samples < 1):
        raise ValueError(f"samples must be a whole number from 1, got {samples!r}")
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be a whole number from 0, got {seed!r}")
    items = [(i, text) for i, text in items if text.strip()]
    if not items:
        raise ValueError(f"{name}: an empty corpus (no row is complete)")
    order = np.random.default_rng(seed).permutation(len(items))[:samples]
    ids, texts = zip(*(items[i] for i in order), strict=True)
    return Corpus(name, texts, ids, source | {"samples": len(ids), "seed": seed})


# --- reading ------------------------------------------------------------------------------------

_HEADING = re.compile(r"=.*[^=\s].*=")


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text("utf-8-sig").splitlines() if line.strip()]


# values as the file has them: a data frame would make 1.0 of an answer 1, and nothing of an answer NA
_READERS = {
    ".parquet": lambda file: pq.read_table(file).to_pylist(),
    ".csv": lambda file: list(csv.DictReader(io.StringIO(file.read_text("utf-8-sig")))),
    ".json": lambda file: json.loads(file.read_text("utf-8-sig")),
    ".jsonl": lambda file: [json.loads(line) for line in _lines(file)],
}


def _from_file(file: Path) -> tuple[str, list[tuple[str, str]], dict]:
    if file.suffix not in _READERS:
        raise ValueError(f"{file}: a corpus file is one of {', '.join(_READERS)}")
    if not file.exists():
        raise FileNotFoundError(f"no corpus file {file}")
    try:
        found = [dict(row) for row in _READERS[file.suffix](file)]
    except Exception as error:  # each reader has its own classes for "this is not such a file"
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{file} cannot be read as {file.suffix[1:]}: {reason}") from None
    if not found:
        raise ValueError(f"{file} is an empty corpus: it has no rows")
    columns = ("question", "answer") if {"question", "answer"} <= found[0].keys() else ("text",)
    if not set(columns) <= found[0].keys():
        raise ValueError(f"{file} needs columns question and answer (or text); it has: {', '.join(found[0])}")
    if nested := [c for c in columns if any(isinstance(row.get(c), list | dict) for row in found)]:
        raise ValueError(f"{file}: column {nested[0]} holds lists or records; it needs texts")
    cells = [[str(row[column]).strip() for column in columns if row.get(column) is not None] for row in found]
    # A row that lacks a cell would be calibrated on as half a text: it is left out, and counted.
    items = [(str(i), " ".join(row)) for i, row in enumerate(cells) if len(row) == len(columns) and all(row)]
    source = {"dataset": file.name, "data": "file", "files": {file.name: store.file_hash(file)}, "rows": len(found)}
    return file.stem, items, source | {"wording": " + ".join(columns), "left_out": len(found) - len(items)}


def rows(name: str, role: str = "train") -> Rows:
    """All rows of a task in one role ("train" or "test").

    Raises FileNotFoundError where a local file is missing, ValueError where one is damaged or lacks a
    column, ConnectionError where the hub cannot be read; each says what to do.
    """
    task = tasks.get(name)
    if role not in ("train", "test"):
        raise ValueError(f"role is 'train' or 'test', got {role!r}")
    source = getattr(task, role)
    if source is None:
        has = "no training split to calibrate on" if role == "train" else "no test rows"
        raise ValueError(f"{name} has {has}")
    folder = paths.bundled_dir() / "tasks" if task.bundled else paths.data_dir()
    tables, ids, files = [], [], {}
    for split in source.splits:
        if folder is None:
            table = _from_hub(name, source, split)
        else:
            found = _local_files(name, source, split, folder)
            table = _joined(f"{name}: {split}", [_read(file) for file in found])
            files |= {file.relative_to(folder).as_posix(): store.file_hash(file) for file in found}
        if missing := [column for column in source.columns if column not in table.column_names]:
            raise ValueError(f"{name}: {split} lacks {', '.join(missing)}; it has: {', '.join(table.column_names)}")
        # lm-eval would word an empty cell as "None"; in a schema that is not ours a template may expect it
        empty = [column for column in source.columns if table[column].null_count] if task.plain or task.pair else []
        if empty:
            raise ValueError(f"{name}: {split} has {table[empty[0]].null_count} empty cells in {empty[0]}")
        if task.plain and not _holds_texts(kind := table[source.columns[0]].type):
            raise ValueError(f"{name}: {split} has {kind} in {source.columns[0]}; it needs texts")
        own = table["id"].to_pylist() if "id" in table.column_names else range(len(table))
        ids += [i if isinstance(i, str) else f"{split}-{i}" for i in own]
        tables.append(table)
    if not ids:
        raise ValueError(f"{name}: the {role} split has no rows")
    origin = {
        "dataset": source.path,
        "config": source.config,
        "splits": list(source.splits),
        "data": "bundled" if task.bundled else "hub" if folder is None else "local",
        "files": files,
        "rows": len(ids),
    }
    return Rows(pa.concat_tables(tables), tuple(ids), origin)


def _holds_texts(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _local_files(name: str, source: tasks.Source, split: str, folder: Path) -> list[Path]:
    for place in source.local:
        try:
            if files := paths.split_files(folder / place, split):
                return files
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    wanted = " or ".join(str(folder / place / f"{split}.parquet") for place in source.local)
    bundled = source.path == "bundled"
    hint = "generate the bundled world" if bundled else "put it there, or unset SEAP_DATA_DIR to use the hub"
    raise FileNotFoundError(f"{name}: no file {wanted}; {hint}")


def _joined(where: str, parts: list[pa.Table]) -> pa.Table:
    try:
        return pa.concat_tables(parts)
    except pa.ArrowInvalid as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{where}: its files differ in their columns ({reason}); copy them again") from None


def _read(file: Path) -> pa.Table:
    try:
        table = pq.read_table(file)
        table.validate(full=True)  # texts that are not UTF-8
        return table
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read as parquet ({str(error).splitlines()[0]}); copy it again") from None


def _from_hub(name: str, source: tasks.Source, split: str) -> pa.Table:
    from datasets import load_dataset  # slow to import, and not needed for local data

    try:
        data = load_dataset(source.path, source.config, split=split, **source.options)
    except Exception as error:  # the hub client raises a dozen unrelated classes
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise ConnectionError(
            f"{name}: the {split} split of {source.path} could not be read from the hub or its cache ({reason}); "
            f"without a network, set SEAP_DATA_DIR to a directory with {source.local[0]}/{split}.parquet"
        ) from None
    return data.with_format("arrow")[:]
