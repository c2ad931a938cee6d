"""What being sure costs: writes that survive a power cut, checksums, hashes of weights and sources. Wall time."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pandas as pd
import torch

import seaplib
from seaplib import disk, pruning, store
from seaplib.evaluation import lm_eval
from seaplib.models import identity
from seaplib.pruning import allocation, selection
from seaplib.runner import plan
from seaplib.runner.manifest import Ledger
from seaplib.settings import Evaluation

from . import common, evaluation

ROUNDS = 5
ENTRIES, ITEMS = 40, 100


@contextmanager
def without_sync() -> Iterator[None]:
    with mock.patch.object(disk, "synced", lambda path: None):
        yield


def entries() -> list[dict]:
    """Item results stored and read, with and without what makes them sure."""
    frame = pd.DataFrame({"metric": "acc", "doc_id": [str(n) for n in range(ITEMS)], "value": 1.0, "truncated": False})
    shelf = Path(tempfile.mkdtemp())

    def stored() -> None:
        shutil.rmtree(shelf / "bench", ignore_errors=True)
        for number in range(ENTRIES):
            store.fetch("bench", {"number": number}, lambda: frame, pd.DataFrame, (seaplib.Evaluation,))

    def unsynced() -> None:
        with without_sync():
            stored()

    def read() -> None:
        for number in range(ENTRIES):
            store.fetch("bench", {"number": number}, lambda: frame, pd.DataFrame, (seaplib.Evaluation,))

    def bare() -> None:
        for file in (shelf / "bench").glob("*/frame.parquet"):
            pd.read_parquet(file)

    try:
        with mock.patch.dict("os.environ", {"SEAP_STORE_DIR": str(shelf)}):
            written = common.in_turn({"synced": stored, "not": unsynced}, ROUNDS, wall=True)
            taken = common.in_turn({"checked": read, "bare": bare}, ROUNDS, wall=True)
    finally:
        shutil.rmtree(shelf)
    case = f"{ENTRIES} entries of {ITEMS} items"
    return [
        common.row(case, "stored: with fsync / without", written["synced"] / written["not"]),
        common.row(case, "fsync of an entry", 1e3 * (written["synced"] - written["not"]) / ENTRIES, "ms"),
        common.row(case, "read: code and checksums / parquet alone", taken["checked"] / taken["bare"]),
        common.row(case, "code and checksums of an entry", 1e3 * (taken["checked"] - taken["bare"]) / ENTRIES, "ms"),
    ]


def weights() -> list[dict]:
    """A model's fingerprint, taken anew at every call, beside SHA-256 and beside what it is taken for."""
    model = common.llama("0.6B", torch.bfloat16)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    whole = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).view(torch.uint8).numpy()
    calls = {"ours": lambda: identity.fingerprint(model), "sha": lambda: hashlib.sha256(whole.data).hexdigest()}
    seconds = common.in_turn(calls, ROUNDS, wall=True)
    case = f"0.6B, bf16, {size / 2**30:.2f} GiB"
    return [
        common.row(case, "fingerprint / SHA-256 of as many bytes", seconds["ours"] / seconds["sha"]),
        common.row(case, "fingerprint of a GiB", seconds["ours"] / size * 2**30, "s"),
    ]


def evaluated() -> list[dict]:
    """Masks of the bundled model on one task, everything stored and hashed, against neither."""
    model, tokenizer = evaluation.bundled()
    chosen = [selection.select(evaluation.random_scores(seed), allocation.logistic(0.3)) for seed in range(16)]
    variants = [pruning.Variant({"method": str(place)}, mask) for place, mask in enumerate(chosen)]
    settings = Evaluation(items=20)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as shelf, mock.patch.dict("os.environ", {"SEAP_STORE_DIR": shelf}):
            seaplib.evaluate_items(model, tokenizer, evaluation.TASK, variants, settings, progress=False)

    def unsynced() -> None:
        with without_sync():
            ours()

    def bare() -> None:
        bench = lm_eval.Bench(model, tokenizer, settings)
        task = bench.prepared(evaluation.TASK)
        for variant in variants:
            bench.score(task, variant.apply(model), variant.first_layer)

    seconds = common.in_turn({"ours": ours, "unsynced": unsynced, "bare": bare}, ROUNDS, wall=True)
    case = f"{len(variants)} masks, {evaluation.TASK}, {settings.items} items"
    return [
        common.row(case, "stored and hashed / scored alone", seconds["ours"] / seconds["bare"]),
        common.row(case, "the same without fsync", seconds["unsynced"] / seconds["bare"]),
    ]


def runs() -> list[dict]:
    """Source, model and data hashed before and after a notebook."""
    ledger = Ledger(plan.load("embedded"))
    chosen = next(one for one in ledger.plan.notebooks if one.name.startswith("06"))
    seconds = common.in_turn({"hashed": lambda: ledger.looked_at_anew(chosen)}, ROUNDS, wall=True)["hashed"]
    return [common.row("a notebook of the profile embedded", "what it is made from, hashed", seconds, "s")]


def run() -> list[dict]:
    return entries() + weights() + evaluated() + runs()
