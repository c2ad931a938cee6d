"""Evaluation: remove tests against whole passes, and 16 masks on one task against 16 runs of lm-eval."""

import shutil
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch

import seaplib
from seaplib import models, pruning
from seaplib.evaluation import lm_eval
from seaplib.models import likelihood
from seaplib.pruning import allocation, selection
from seaplib.pruning.scores import Scores
from seaplib.settings import Evaluation
from seaplib.texts import tasks

from . import common

ROUNDS = 3
RATIOS = (0.2, 0.5, 0.8, 1.0)
REMOVE_TASKS, REMOVE_ITEMS = ("mini_mmlu", "mini_piqa"), 100
TASK, MASKS, ITEMS = "mini_arc_easy", 16, 200


@cache
def bundled():
    return seaplib.load("bundled")


def random_scores(seed: int) -> Scores:
    """Speed does not depend on which units go."""
    g, draw = models.geometry(bundled()[0]), torch.Generator().manual_seed(seed)
    sizes = (g.layers, g.heads * g.head_dim), (g.layers, g.channels)
    return Scores(g, *(torch.rand(size, generator=draw, dtype=torch.float64) for size in sizes))


def remove_test() -> list[dict]:
    """All layers × four ratios × two tasks, from stored layer inputs and from the embeddings up."""
    model, tokenizer = bundled()
    bench = lm_eval.Bench(model, tokenizer, Evaluation(items=REMOVE_ITEMS))
    prepared = [bench.prepared(task) for task in REMOVE_TASKS]
    scores, layers = random_scores(0), models.geometry(model).layers
    variants = [pruning.Variant({}, selection.single_layer(scores, i, r)) for i in range(layers) for r in RATIOS]
    sums = {}

    def test(shared: bool) -> None:
        found, dense = [], [likelihood.LayerInputs(model, task.batches) for task in prepared]
        for variant in variants:  # in the order of `evaluate`, so that a variant is applied once
            pruned, first = variant.apply(model), variant.first_layer if shared else 0
            for task, inputs in zip(prepared, dense, strict=True):
                found.append(likelihood.score(pruned, task.batches, inputs, first)[0])
        sums[shared] = np.concatenate(found)

    seconds = common.in_turn({"whole": lambda: test(False), "shared": lambda: test(True)}, ROUNDS)
    ideal = (layers + 1) / (2 * layers)
    case = f"{layers} layers × {len(RATIOS)} ratios × {len(REMOVE_TASKS)} tasks"
    ratio = seconds["shared"] / seconds["whole"]
    return [
        common.row(case, "time / evaluating every model whole", ratio),
        common.row(case, "the same / ideal (L+1)/2L", ratio / ideal, target="<= 1.15"),
        common.row(case, "largest difference of a log-likelihood", np.abs(sums[True] - sums[False]).max(), "", "<= 0"),
    ]


@contextmanager
def stock_task():
    """lm-eval's own way to the task: a YAML file over parquet files, cut to the items that we draw."""
    bench = lm_eval.Bench(*bundled(), Evaluation(items=ITEMS))
    folder = Path(tempfile.mkdtemp())
    try:
        import pyarrow.parquet as pq

        pq.write_table(bench.drawn(TASK).table, folder / "test.parquet")
        lines = [f"include: {tasks.get(TASK).config_file()}", "task: stock", "dataset_path: parquet"]
        lines += ["dataset_kwargs:", f"  cache_dir: {folder / 'cache'}", "  data_files:"]
        lines += [f"    {split}: {folder / 'test.parquet'}" for split in ("train", "validation", "test")]
        (folder / "stock.yaml").write_text("\n".join(lines))
        yield folder
    finally:
        shutil.rmtree(folder)


def sixteen_masks() -> list[dict]:
    """Masks of one model on one task."""
    import logging

    import datasets
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    model, tokenizer = bundled()
    chosen = [selection.select(random_scores(seed), allocation.logistic(0.2 + 0.02 * seed)) for seed in range(MASKS)]
    found = {}

    def ours() -> None:
        bench = lm_eval.Bench(model, tokenizer, Evaluation(items=ITEMS))
        task = bench.prepared(TASK)
        frames = [bench.score(task, pruning.Variant({}, mask).apply(model)) for mask in chosen]
        found["ours"] = [frame[frame["metric"] == "acc"]["value"].mean() for frame in frames]

    with stock_task() as folder:

        def theirs() -> None:
            accuracies = []
            for mask in chosen:
                lm = HFLM(pruning.prune(model, mask), tokenizer=tokenizer, batch_size=32)
                manager = TaskManager(include_path=str(folder), include_defaults=False)
                result = simple_evaluate(lm, tasks=["stock"], num_fewshot=0, task_manager=manager, bootstrap_iters=0)
                accuracies.append(result["results"]["stock"]["acc,none"])
            found["theirs"] = accuracies

        seconds = common.in_turn({"lm-eval": theirs, "ours": ours}, ROUNDS)
    case = f"{MASKS} masks, {TASK}, {ITEMS} items"
    difference = np.abs(np.subtract(found["ours"], found["theirs"])).max()
    return [
        common.row(case, "time / separate lm-eval runs", seconds["ours"] / seconds["lm-eval"], target="<= 0.7"),
        common.row(case, "ours", seconds["ours"], "s"),
        common.row(case, "largest difference of an accuracy", difference, "", "<= 0"),
    ]


def run() -> list[dict]:
    return remove_test() + sixteen_masks()
