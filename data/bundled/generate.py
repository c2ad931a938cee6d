"""Write the bundled benchmark and general text: ``python data/bundled/generate.py [folder]``.

Same seed, same bytes. Every task's rows have the hub's columns; ``depth`` is ours. An item's split
follows from a hash of what it asks, so nothing asked in a test file is asked in training (what that
means, task by task, is in DATA_CARD.md).
"""

import argparse
import os
import random
from itertools import islice
from pathlib import Path

import errands
import knowledge
import prose
import pyarrow as pa
import pyarrow.parquet as pq
import reading
import stories
from draw import Balance
from prompts import Prompt
from world import SEED, World, inflected, split_of

#: task -> its maker, and how often an item of depth 1, 2 and 3 is drawn for the training stream
MAKERS = {
    "boolq": (reading.boolq, (5, 3, 2)),
    "arc_easy": (knowledge.arc_easy, (4, 3, 3)),
    "arc_challenge": (knowledge.arc_challenge, (5, 4, 1)),
    "openbookqa": (knowledge.openbookqa, (3, 4, 3)),
    "piqa": (errands.piqa, (4, 4, 2)),
    "hellaswag": (stories.hellaswag, (2, 3, 5)),
    "winogrande": (reading.winogrande, (4, 4, 2)),
    "gsm8k": (stories.gsm8k, (4, 3, 3)),
    "mmlu": (knowledge.mmlu, (5, 4, 1)),
}
#: the same for the published files, where it differs: what a model of this size does not learn is asked seldom,
#: as answers by guessing show nothing of what pruning breaks
PUBLISHED = {"boolq": (14, 3, 3), "hellaswag": (2, 1, 4)}
SIZES = {"train": 1500, "validation": 120, "test": 500}
DOCUMENTS = {"train": 2000, "validation": 100, "test": 250}
NARROW = {"idx": pa.int32(), "ind": pa.int32(), "humanScore": pa.float32(), "clarity": pa.float32()}


def generator(*names) -> random.Random:
    """An independent random generator for each purpose."""
    return random.Random("/".join(map(str, (SEED, *names))))


def identity(row: dict) -> str:
    """An item's text, whatever the order of its options."""
    asked = [str(row[c]) for c in ("passage", "question", "question_stem", "goal", "sentence", "ctx") if c in row]
    if "subject" in row:  # "Which of these ...?" is settled by the answer
        asked.append(row["choices"][row["answer"]])
    return "|".join(asked + sorted(row[c] for c in ("sol1", "sol2") if c in row))


def items(world: World, task: str, split: str, rng: random.Random, weights: tuple | None = None):
    """Endless items of one split; ``weights`` of the depths are by default the training stream's."""
    make, usual = MAKERS[task]
    weights = weights or usual
    while True:
        depth = rng.choices((1, 2, 3), weights=weights)[0]
        draws = (make(world, rng, split, depth) for _ in range(10_000))
        row = next(made[1] for made in draws if made and split_of(made[0]) == split)
        yield {column: inflected(value) if isinstance(value, str) else value for column, value in row.items()}


def rows(world: World, task: str, split: str) -> list[dict]:
    """The split's published items: distinct, numbered, positions of right answers balanced by chance."""
    kept, seen, balance, prompt = [], set(), Balance(), Prompt(task)
    drawn = items(world, task, split, generator(task, split), PUBLISHED.get(task))
    for row in islice(drawn, 100 * SIZES[split]):
        if identity(row) in seen or not balance.admits(*prompt(row)[1:]):
            continue
        seen.add(identity(row))
        for column in ("idx", "ind"):
            if column in row:
                row[column] = len(kept)
        if "id" in row:
            row["id"] = f"{task}-{split}-{len(kept)}"
        if "split" in row:
            row["split"] = {"train": "train", "validation": "val", "test": "test"}[split]
        kept.append(row)
        if len(kept) == SIZES[split]:
            return kept
    raise RuntimeError(f"{task}: only {len(kept)} distinct {split} items; enlarge the world or lower SIZES[{split!r}]")


def documents(world: World, split: str) -> list[dict]:
    rng = generator("wikitext", split)
    return [{"text": prose.document(world, rng)} for _ in range(DOCUMENTS[split])]


def write(file: Path, data: list[dict]) -> None:
    """Write a whole file or, where that is interrupted, leave the one that was there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(data)
    for column, kind in NARROW.items():
        if column in table.column_names:
            i = table.column_names.index(column)
            table = table.set_column(i, column, table[column].cast(kind))
    fresh = file.with_suffix(".tmp")
    pq.write_table(table, fresh, compression="zstd", compression_level=19)
    os.replace(fresh, file)


def main(target: Path) -> None:
    world = World()
    for split in SIZES:
        for task in MAKERS:
            write(target / task / f"{split}.parquet", rows(world, task, split))
        write(target / "wikitext" / f"{split}.parquet", documents(world, split))
    print(f"{len(world.facts)} facts about {len(world.by_name)} entities: {len(MAKERS)} tasks and text in {target}")


def arguments(given: list[str] | None = None) -> Path:
    """The folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).resolve().parent / "tasks"
    parser.add_argument("folder", nargs="?", type=Path, default=default, help="to write to (default: %(default)s)")
    folder = parser.parse_args(given).folder.resolve()
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            parser.error(f"{place} is a file; name a folder")
    return folder


if __name__ == "__main__":
    main(arguments())
