"""A task's rows in one role: found (bundled, on this disk or on the hub), checked and read.

A plan and a reader look at the same headers: :func:`check` stops there, :func:`read_rows` reads on.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .. import hub, paths, store
from . import tasks

_HEADING = re.compile(r"=.*[^=\s].*=")


@dataclass(frozen=True)
class Rows:
    """Rows of one role, their ids (the data set's own, or else split and number) and their origin."""

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


def documents(found: Rows) -> list[tuple[str, str]]:
    """(id, text) of every document in rows of plain text.

    WikiText's rows are lines. A document is a section: a heading (``= Title =``, ``= = Part = =``)
    and the paragraphs up to the next heading. A heading without a paragraph belongs to the section
    that follows, and blank rows are dropped. Where no row is a heading, every row is a document.
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


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text("utf-8-sig").splitlines() if line.strip()]


# values as the file has them: a data frame would turn the answer 1 into 1.0, and the answer NA into a missing value
_READERS = {
    ".parquet": lambda file: pq.read_table(file).to_pylist(),
    ".csv": lambda file: list(csv.DictReader(io.StringIO(file.read_text("utf-8-sig")))),
    ".json": lambda file: json.loads(file.read_text("utf-8-sig")),
    ".jsonl": lambda file: [json.loads(line) for line in _lines(file)],
}


def read_file(file: Path) -> tuple[str, list[tuple[str, str]], dict]:
    """Name, (id, text) items and source of a file with columns ``question`` and ``answer`` (or ``text``).

    Raises FileNotFoundError where there is no file, ValueError for a damaged file and for other columns.
    """
    found = _records(file)
    items, about = own_items(found, str(file))
    source = {"dataset": file.name, "data": "file", "files": {file.name: store.file_hash(file.expanduser())}}
    return file.stem, items, source | about


def _records(file: Path) -> list[dict]:
    """The rows of a file."""
    file = file.expanduser()
    if file.suffix not in _READERS:
        raise ValueError(f"{file}: a corpus file is one of {', '.join(_READERS)}")
    if not file.exists():
        raise FileNotFoundError(f"no corpus file {file}")
    try:
        return [dict(row) for row in _READERS[file.suffix](file)]
    except Exception as error:  # each reader has its own error classes for a file of another kind
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{file} cannot be read as {file.suffix[1:]}: {reason}") from None


def records(source, where: str) -> list[dict]:
    """Rows of your own: of a file, a data frame, a list of texts (column text) or of (question, answer) pairs.

    ValueError for a list of anything else and for no rows; ``where`` names the rows in it.
    """
    if isinstance(source, str | Path):
        found = _records(Path(source))
    elif hasattr(source, "to_dict"):  # a data frame, without importing pandas into a plan
        found = source.to_dict("records")
    else:
        texts = list(source)
        pairs = all(isinstance(text, tuple | list) and len(text) == 2 for text in texts)
        if not pairs and not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{where}: a corpus is made of texts, or of (question, answer) pairs, all of a kind")
        columns = ("question", "answer") if pairs else ("text",)
        found = [dict(zip(columns, text if pairs else (text,), strict=True)) for text in texts]
    if not found:
        raise ValueError(f"{where} is an empty corpus: it has no rows")
    return found


def own_items(found: Sequence[Mapping], where: str) -> tuple[list[tuple[str, str]], dict]:
    """(id, text) items of rows with ``question`` and ``answer`` (or ``text``), and their source's further facts.

    A row that lacks a cell would be half a calibration text: it is left out, and counted. ValueError for other
    columns, cells that are no texts, and no rows; ``where`` names the rows' place.
    """
    if not found:
        raise ValueError(f"{where} is an empty corpus: it has no rows")
    columns = ("question", "answer") if {"question", "answer"} <= found[0].keys() else ("text",)
    if not set(columns) <= found[0].keys():
        raise ValueError(
            f"{where} needs columns question and answer (or text); it has: {', '.join(map(str, found[0]))}"
        )
    if nested := [c for c in columns if any(isinstance(row.get(c), list | dict) for row in found)]:
        raise ValueError(f"{where}: column {nested[0]} holds lists or records; it needs texts")
    cells = [[cell(row.get(column), f"{where}: row {i}") for column in columns] for i, row in enumerate(found)]
    items = [(str(i), " ".join(row)) for i, row in enumerate(cells) if all(row)]
    return items, {"rows": len(found), "wording": " + ".join(columns), "left_out": len(found) - len(items)}


def cell(value, where: str) -> str:
    """A cell as text, "" where it is missing (NaN too). ValueError for bytes and half characters that are no text."""
    if value is None or value != value:
        return ""
    try:
        text = value.decode("utf-8") if isinstance(value, bytes) else str(value)
        text.encode("utf-8")
    except UnicodeError as error:
        raise ValueError(f"{where} is no text in UTF-8: {error.reason}") from None
    return text.strip()


def check(name: str, ask_hub: bool = True) -> None:
    """Whether a task's rows are there, training and test, by the headers of the files alone.

    ``ask_hub``: a data set that is neither local nor in the hub's cache must be on the hub. A task
    without training rows is refused. Raises as :func:`read_rows` does.
    """
    task = tasks.get(name)
    for source in (_source(task, "train"), task.test):
        if source is None:
            continue
        folder = _folder(task)
        if folder is not None:
            _located(task, source, folder)
        elif ask_hub and not source.says_where and not hub.has_data(source.path):
            try:
                _ask_hub(source.path)
            except Exception as error:
                raise _not_on_hub(name, source, error) from error


def read_rows(name: str, role: str = "train") -> Rows:
    """All rows of a task in one role ("train" or "test").

    Raises FileNotFoundError where a local file is missing, ValueError where one is damaged or lacks a
    column, ConnectionError where the hub cannot be read; each says what to do.
    """
    task = tasks.get(name)
    if role not in ("train", "test"):
        raise ValueError(f"role is 'train' or 'test', got {role!r}")
    source, folder = _source(task, role), _folder(task)
    located = _located(task, source, folder) if folder is not None else dict.fromkeys(source.splits, [])
    tables, ids, files = [], [], {}
    for split, found in located.items():
        if folder is None:
            table = _from_hub(name, source, split)
            _check_schema(task, source, split, table.schema)
        else:
            table = _joined(f"{name}: {split}", [_read(name, file) for file in found])
            files |= {file.relative_to(folder).as_posix(): store.file_hash(file) for file in found}
        table = _decoded(table, f"{name}: {split}", source.columns)
        # lm-eval would word an empty cell as "None"; the templates of a stock task may expect empty cells
        empty = [column for column in source.columns if table[column].null_count] if task.plain or task.pair else []
        if empty:
            raise ValueError(f"{name}: {split} has {table[empty[0]].null_count} empty cells in {empty[0]}")
        own = table["id"].to_pylist() if "id" in table.column_names else range(len(table))
        ids += [i if isinstance(i, str) else f"{split}-{i}" for i in own]
        tables.append(table)
    if not ids:
        raise ValueError(f"{name}: {', '.join(source.splits)} has no rows")
    origin = {
        "dataset": source.path,
        "config": source.config,
        "splits": list(source.splits),
        "data": "bundled" if task.bundled else "hub" if folder is None else "local",
        "files": files,
        "rows": len(ids),
    }
    return Rows(pa.concat_tables(tables), tuple(ids), origin)


def _source(task: tasks.Task, role: str) -> tasks.Source:
    source = getattr(task, role)
    if source is None:
        has = "no training split to calibrate on" if role == "train" else "no test rows"
        raise ValueError(f"{task.name} has {has}")
    return source


def _folder(task: tasks.Task) -> Path | None:
    """The folder of a task's local data sets, None where its rows come from the hub."""
    if task.bundled:
        return paths.bundled_dir() / "tasks"
    return None if (task.test or task.train).says_where else paths.data_dir()


def _located(task: tasks.Task, source: tasks.Source, folder: Path) -> dict[str, list[Path]]:
    """Split → parquet files below ``folder``, once their headers show rows and the columns that the task needs."""
    located, rows = {}, 0
    for split in source.splits:
        located[split] = _local_files(task.name, source, split, folder)
        for file in located[split]:
            try:
                header = pq.ParquetFile(file)
            except (pa.ArrowException, OSError) as error:
                raise _damaged(task.name, file, error) from error
            _check_schema(task, source, split, header.schema_arrow)
            rows += header.metadata.num_rows
    if not rows:
        raise ValueError(f"{task.name}: {', '.join(source.splits)} has no rows")
    return located


def _check_schema(task: tasks.Task, source: tasks.Source, split: str, schema: pa.Schema) -> None:
    if missing := [column for column in source.columns if column not in schema.names]:
        raise ValueError(f"{task.name}: {split} lacks {', '.join(missing)}; it has: {', '.join(schema.names)}")
    if task.plain and not _holds_texts(kind := schema.field(source.columns[0]).type):
        raise ValueError(f"{task.name}: {split} has {kind} in {source.columns[0]}; it needs texts")


def _damaged(name: str, file: Path, error: Exception) -> ValueError:
    return ValueError(f"{name}: {file} cannot be read as parquet ({' '.join(str(error).split())}); copy it again")


def _holds_texts(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return _holds_bytes(kind) or any(test(kind) for test in texts)


def _holds_bytes(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def _decoded(table: pa.Table, where: str, needed: Iterable[str]) -> pa.Table:
    """``table`` with its columns of bytes as texts, as some writers leave them without the mark of UTF-8.

    ValueError where a ``needed`` column is no UTF-8; another column stays as it is.
    """
    for place, field in enumerate(table.schema):
        if _holds_bytes(field.type):
            try:
                table = table.set_column(place, field.name, table.column(place).cast(pa.string()))
            except pa.ArrowInvalid:
                if field.name in needed:
                    raise ValueError(f"{where} has bytes in {field.name} that are no text in UTF-8") from None
    return table


def _local_files(name: str, source: tasks.Source, split: str, folder: Path) -> list[Path]:
    for place in source.local:
        try:
            if files := split_files(folder / place, split):
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


def _read(name: str, file: Path) -> pa.Table:
    try:
        table = pq.read_table(file)
        table.validate(full=True)  # texts that are not UTF-8
        return table
    except (pa.ArrowException, OSError) as error:
        raise _damaged(name, file, error) from None


@lru_cache
def _ask_hub(path: str) -> None:
    """Raises the client's error where the hub lacks a data set or cannot be reached; asks once for each data set."""
    hub.files(path, "dataset")


def _from_hub(name: str, source: tasks.Source, split: str) -> pa.Table:
    from datasets import load_dataset  # slow to import, and unused for local data

    try:
        data = load_dataset(source.path, source.config, split=split, **source.options)
    except Exception as error:  # the client's classes have no common base
        raise _not_on_hub(name, source, error) from None
    return data.with_format("arrow")[:]


def _not_on_hub(name: str, source: tasks.Source, error: Exception) -> ConnectionError:
    place = f"{source.local[0]}/{source.splits[0]}.parquet"
    said = hub.reason(error)
    return ConnectionError(
        f"{name}: data set {source.path!r} cannot be read ({said}); set SEAP_DATA_DIR to a directory with {place}"
    )


def split_files(folder: Path, split: str) -> list[Path]:
    """The parquet file of a split in a data set's folder, or all shards in order; empty where there is neither.

    ValueError where a shard is missing or present twice: a part of the rows would pass for all rows.
    """
    whole = folder / f"{split}.parquet"
    if whole.exists():
        return [whole]
    shard = re.compile(re.escape(split) + r"-(\d+)-of-(\d+)(-\w+)?\.parquet")
    found = [
        (match, file)
        for file in sorted(folder.glob(f"{split}-*-of-*.parquet"))
        if (match := shard.fullmatch(file.name))
    ]
    for number, total in {(len(found), int(match[2])) for match, _ in found}:
        if number != total or {int(match[1]) for match, _ in found} != set(range(total)):
            raise ValueError(f"{folder} has {number} of the {total} files of the split {split!r}; copy it again")
    return [file for _, file in found]
