"""Task corpora: calibration texts made of a task's rows.

``corpus`` words a task's training rows as in Table 5 (a stock lm-eval task by the templates in
lm-eval's file) and draws from the texts; ``questions`` draws prompts without their answers. No
calibration item is an evaluation item: training rows whose question and right answer are in the test
too (MMLU 35, OpenBookQA 15, PIQA 5, ARC-Challenge 1) are left out, and counted in ``Corpus.source``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from .. import files, store
from ..settings import whole
from . import lm_eval, tasks
from .rows import Rows, documents, own_items, read_file, read_rows, records


@dataclass(frozen=True)
class Corpus:
    """Texts of one task, the ids of their rows, and their source."""

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
        """Hash of the task's name, the texts in their order and the ids."""
        return store.digest([self.task, self.texts, self.ids])

    def first(self, n: int) -> "Corpus":
        """The first ``n`` texts, or all of fewer: a smaller draw by the same seed."""
        return Corpus(self.task, self.texts[:n], self.ids[:n], self.source | {"samples": min(n, len(self))})

    def head(self, n: int = 5) -> pd.DataFrame:
        return pd.DataFrame({"id": self.ids[:n], "text": self.texts[:n]})

    def save(self, directory: Path) -> None:
        Path(directory).mkdir(parents=True, exist_ok=True)
        content = {"task": self.task, "texts": self.texts, "ids": self.ids, "source": self.source}
        (Path(directory) / "corpus.json").write_text(json.dumps(content, ensure_ascii=False, indent=1), "utf-8")

    @classmethod
    @files.loader("corpus")
    def load(cls, directory: Path) -> "Corpus":
        content = json.loads((Path(directory) / "corpus.json").read_text("utf-8"))
        return cls(content["task"], tuple(content["texts"]), tuple(content["ids"]), content["source"])


def corpus(
    source: str | Path | pd.DataFrame | Sequence, samples: int | None = None, seed: int = 0, name: str | None = None
) -> Corpus:
    """Calibration texts of a task, or texts of your own.

    ``source`` is a task's name, or the path of an lm-eval YAML; a file with columns ``question`` and ``answer`` (or
    ``text``), parquet, csv, json or jsonl; a data frame with such columns; a list of texts; or a list of (question,
    answer) pairs. ``samples`` texts are drawn without replacement by ``seed``; None, or more than there are: all
    texts in drawn order. The same seed draws the same texts, and a smaller draw is the beginning of a
    larger draw. ``name`` is what tables call texts of your own: by default the file's name, or "own". Raises
    ValueError and FileNotFoundError for unknown tasks, damaged rows and missing files.
    """
    if not isinstance(source, str | Path):
        return _own(source, samples, seed, name or "own")
    suffix = Path(source).suffix
    if (isinstance(source, Path) or suffix[1:].isalpha()) and suffix not in (".yaml", ".yml"):
        stem, *found = read_file(Path(source))
        return _draw(name or stem, *found, samples, seed)
    if name is not None:
        raise ValueError(f"the task {source!r} has its own name; name={name!r} is for texts of your own")
    task = tasks.get(str(source))
    found = read_rows(task.name)
    origin = found.source | {"wording": "Table 5" if task.plain or task.pair else "lm-eval's templates"}
    if task.plain:
        return _draw(task.name, documents(found), origin, samples, seed)
    seen = _evaluated(task)
    worded = _worded(task, found)
    items = [(item.id, item.text) for item in worded if item.pair not in seen]
    if not items:
        raise ValueError(f"{task.name}: all {len(found)} training rows are test items too, so none may calibrate")
    return _draw(task.name, items, origin | {"left_out": len(worded) - len(items)}, samples, seed)


def _own(found: pd.DataFrame | Sequence, samples: int | None, seed: int, name: str) -> Corpus:
    """Texts from memory: a data frame, texts, or pairs."""
    items, about = own_items(records(found, name), name)
    return _draw(name, items, {"dataset": name, "data": "memory"} | about, samples, seed)


def questions(name: str, samples: int | None = None, seed: int = 0, split: str = "train") -> Corpus:
    """Prompts of a task without their answers, drawn as ``corpus`` draws, from the "train" or "test" rows.

    Prompts are classified and do not calibrate, so no row is left out.
    """
    task = tasks.get(name)
    found = read_rows(name, split)
    source = found.source | {"wording": "question without answer"}
    if task.plain:
        return _draw(name, documents(found), source, samples, seed)
    prompts = [(item.id, item.pair[0]) for item in _worded(task, found, whole=False)]
    return _draw(name, prompts, source, samples, seed)


class _Item(NamedTuple):
    id: str
    pair: tuple[str, str]  # question, right answer
    text: str


def _worded(task: tasks.Task, found: Rows, whole: bool = True) -> list[_Item]:
    """Every row of a task in words; ``whole``: with the calibration text, whose columns test rows may lack.

    ValueError that names the row whose right answer cannot be found.
    """
    if task.pair is None:
        return [_Item(found.ids[row], (q, a), text) for row, q, a, text in lm_eval.rendered(task, found.table)]
    items = []
    for name, row in zip(found.ids, found, strict=True):
        try:
            items.append(_Item(name, task.pair(row), task.text(row) if whole else ""))
        except (ValueError, TypeError, AttributeError) as error:  # a label out of range, a missing cell
            raise ValueError(f"{task.name}: row {name} cannot be worded: {error}") from error
    return items


def _evaluated(task: tasks.Task) -> set:
    """(question, right answer) of the test items of the task and of every task that its corpus serves.

    These may not calibrate. A test whose rows are not at hand has no items here.
    """
    registered = map(tasks.get, tasks.names(scored=True))
    served = {task.name: task} | {other.name: other for other in registered if task.name == other.expert}
    items = set()
    for other in served.values():
        try:
            items |= {item.pair for item in _worded(other, read_rows(other.name, "test"), whole=False)}
        except (FileNotFoundError, ConnectionError):
            continue
    return items


def _draw(name: str, items: list[tuple[str, str]], source: dict, samples: int | None, seed: int) -> Corpus:
    whole(seed, 0, "seed")
    if samples is not None:
        whole(samples, 1, "samples")
    items = [(i, text) for i, text in items if text.strip()]
    if not items:
        raise ValueError(f"{name}: an empty corpus (no row is complete)")
    order = np.random.default_rng(seed).permutation(len(items))[:samples]
    ids, texts = zip(*(items[i] for i in order), strict=True)
    return Corpus(name, texts, ids, source | {"samples": len(ids), "seed": seed})
