"""A task's rows in one role: found (bundled, on this disk, on the hub), checked, read."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .. import hub, paths, store
from ..runner.parameters import PlanError
from . import tasks


def _check_hub_data(names: set[str], where: str) -> None:
    """Data sets that come from the hub must be in its cache, or there to be read."""
    from . import tasks

    sources = [(name, source) for name in sorted(names) for source in (tasks.get(name).train, tasks.get(name).test)]
    seen = {"bundled"}
    for name, source in sources:
        if source is None or source.path in seen or hub.has_data(source.path):
            continue
        seen.add(source.path)
        try:
            hub.files(source.path, "dataset")
        except Exception as error:
            reason = hub.problem(error) or " ".join(str(error).split())[:200]
            hint = "or set SEAP_DATA_DIR to a directory that has it"
            raise PlanError(f"{where}: task {name}: data set {source.path!r} is {reason}; {hint}") from error


def _check_files(where: str, base: Path, source) -> None:
    """The first folder that has the split must hold parquet files with rows and the needed columns."""
    import pyarrow.parquet as pq

    for split in source.splits:
        try:
            files = next(filter(None, (split_files(base / folder, split) for folder in source.local)), None)
        except ValueError as error:
            raise PlanError(f"{where}: {error}") from error
        if files is None:
            raise PlanError(f"{where}: there is no {base / source.local[0] / split}.parquet")
        try:
            headers = [pq.ParquetFile(file) for file in files]
        except Exception as error:
            raise PlanError(f"{where}: {files[0]} is not a parquet file ({' '.join(str(error).split())})") from error
        missing = sorted(set(source.columns) - set(headers[0].schema_arrow.names))
        if missing:
            raise PlanError(f"{where}: {files[0]} has no column {', '.join(map(repr, missing))}")
        if not sum(header.metadata.num_rows for header in headers):
            raise PlanError(f"{where}: {files[0]} has no rows")


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


def read_rows(name: str, role: str = "train") -> Rows:
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


def split_files(folder: Path, split: str) -> list[Path]:
    """The parquet file of a split in a data set's folder, or all its shards in order; empty where it has none.

    ValueError where a shard is missing or is there twice: some of the rows would pass for all of them.
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
