"""Items scored by several processes at once: a small model on a CPU leaves cores idle.

Every process takes a variant after the other and fills the store; whoever asked then reads all from there, so that
the numbers and their order are those of a single process.
"""

import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache, partial

import torch
from torch import nn
from tqdm.auto import tqdm

from .lm_eval import Bench

#: of a worker process: the bench, the variants, and how a variant becomes a model
_HERE: dict = {}


def can_share(model: nn.Module) -> bool:
    """Whether several processes can hold the model: all of it lies in main memory."""
    return all(parameter.device.type == "cpu" for parameter in model.parameters())


def fill(bench: Bench, variants: Sequence, work: Mapping[int, Sequence[str]], apply: Callable, progress: bool) -> None:
    """Have ``work``, place of a variant → names of tasks, put into the store by ``bench.settings.workers`` processes.

    ``apply(variant, model)`` gives what a variant makes of the bench's model. The first error of a process is raised
    here, once the others have stopped.
    """
    given = pickle.dumps((bench.model, bench.tokenizer, bench.settings, list(variants), apply))
    count = min(bench.settings.workers, len(work))
    threads = max(1, torch.get_num_threads() // count)
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may never wake up
    total = sum(map(len, work.values()))
    with (
        ProcessPoolExecutor(count, context, initializer=_begin, initargs=(given, threads)) as pool,
        tqdm(total=total, desc="evaluating", unit="task", leave=False, disable=not progress) as bar,
    ):
        waiting = {pool.submit(_answer, place, names): len(names) for place, names in work.items()}
        try:
            for done in as_completed(waiting):
                done.result()
                bar.update(waiting[done])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(given: bytes, threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    model, tokenizer, settings, variants, apply = pickle.loads(given)  # noqa: S301 (our own process wrote it)
    _HERE.update(bench=Bench(model, tokenizer, settings), variants=variants, apply=apply)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _answer(place: int, names: Sequence[str]) -> None:
    bench, variant = _HERE["bench"], _HERE["variants"][place]
    applied = lru_cache(partial(_HERE["apply"], variant, bench.model))
    for name in names:
        bench.items(name, variant, applied)
