"""Questions and answers of your own as a task: calibrated on, evaluated and routed to like any other.

A task is an lm-eval YAML with its rows in parquet beside it, written here; whatever takes a task's name takes it from
then on, and in another process the YAML's path does.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from .. import disk, paths
from ..settings import whole
from . import rows, tasks

#: with options, the likeliest is the model's answer; without, the answer's likelihood is what can be measured
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_choice": "options",
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
WRITTEN = {
    "output_type": "loglikelihood",
    "doc_to_target": " {{answer}}",  # scored as it is written
    "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
}
Source = str | Path | pd.DataFrame | Sequence


def own_task(
    name: str,
    train: Source,
    test: Source | None = None,
    held_out: float = 0.2,
    seed: int = 0,
    folder: str | Path | None = None,
) -> str:
    """Register questions and answers of your own as the task ``name``; returns the name.

    ``train`` and ``test`` are files (parquet, csv, json, jsonl) or data frames with columns ``question`` and
    ``answer``, or lists of (question, answer). Without ``test`` the share ``held_out`` of the rows, drawn by ``seed``,
    is kept from calibration and is the test. A column ``options``, a list of texts in every row with the answer among
    them, makes a multiple-choice task, whose metrics are ``acc_norm``, ``acc`` and ``exact_match``. Without it
    ``acc`` says whether the answer is the greedy continuation of the question, and ``log_likelihood`` (nats, summed
    over the answer's tokens) how likely it is.

    The files are written to ``folder`` (default: ``own/<name>`` in the store) and stay there: the path of the YAML
    names the task in another process. Raises ValueError for rows that make no item, naming the row, and for the name
    of another task; FileNotFoundError for a missing file.
    """
    paths.name(name, "the task")
    whole(seed, 0, "seed")
    place = (Path(folder).expanduser() if folder else paths.store_dir() / "own" / name).resolve()
    tasks.check_free(name, place / f"{name}.yaml")
    found = _items(train, f"{name}: train")
    if test is None:
        if not 0 < held_out < 1:
            raise ValueError(f"held_out is a share between 0 and 1, got {held_out!r}")
        order = np.random.default_rng(seed).permutation(len(found))
        count = min(max(1, round(held_out * len(found))), len(found) - 1)
        if not count:
            raise ValueError(f"{name}: a single row cannot be divided; give a test")
        kept, tested = ([found[i] for i in sorted(part)] for part in (order[count:], order[:count]))
    else:
        kept, tested = found, _items(test, f"{name}: test")
    kinds = {"options" in row for row in (*kept, *tested)}
    if len(kinds) > 1:
        raise ValueError(f"{name}: some rows have options and others have none; a task is of one kind")
    place.mkdir(parents=True, exist_ok=True)
    for split, part in (("train", kept), ("test", tested)):
        with disk.replacing(place / f"{split}.parquet") as partial:
            pq.write_table(pa.Table.from_pylist(part), partial)
    about = {"task": name, "dataset_path": "parquet", "training_split": "train", "test_split": "test"}
    about["dataset_kwargs"] = {"data_files": {split: f"{split}.parquet" for split in ("train", "test")}}
    about |= {"doc_to_text": "{{question}}", "metadata": {"version": 1.0}} | (CHOICE if kinds == {True} else WRITTEN)
    with disk.replacing(place / f"{name}.yaml") as partial:
        partial.write_text(yaml.safe_dump(about, sort_keys=False, allow_unicode=True), "utf-8")
    return tasks.own(place / f"{name}.yaml").name


def _items(source: Source, where: str) -> list[dict]:
    """Rows with question and answer, and with options and the label where the source has options."""
    found, items = rows.records(source, where), []
    for place, row in enumerate(found):
        question, answer = (rows.cell(row.get(column), f"{where}: row {place}") for column in ("question", "answer"))
        if not question or not answer:
            lacking = "question" if not question else "answer"
            raise ValueError(f"{where}: row {place} has no {lacking}; an item needs a question and an answer")
        item = {"id": str(place), "question": question, "answer": answer}
        options = row.get("options")
        if options is not None and not isinstance(options, float):  # a missing cell of a data frame is NaN
            if not isinstance(options, list | tuple | np.ndarray):
                raise ValueError(f"{where}: row {place} has options that are no list of texts: {options!r}")
            texts = [rows.cell(option, f"{where}: row {place}") for option in options]
            if texts.count(answer) != 1 or len(texts) < 2:
                raise ValueError(f"{where}: row {place} needs two options or more with its answer once among them")
            item |= {"options": texts, "label": texts.index(answer)}
        items.append(item)
    return items
