"""Decode and prefill of a model whose weights do not fit a cache, dense and pruned, and switching experts."""

import sys
import time

import pandas as pd
import torch

from seaplib import models, paths, pruning
from seaplib.evaluation import speed
from seaplib.pruning import allocation, masks, selection
from seaplib.pruning.scores import Scores

from . import common

SIZE, DTYPE = "0.6B", torch.bfloat16
ROUNDS = 11
PROMPT, NEW = 32, 12
SPARSITIES = (0.2, 0.5)
WIDTHS = (8, 64, 128)


def published(ratio: float, model: str = "Llama-2-7B") -> str:
    """What the paper's Table 2 reports at the same sparsity for SEAP and FLAP, on a GPU."""
    table = pd.read_csv(paths.published_dir() / "table2_inference_speed.csv")
    rows = table[(table["model"] == model) & (table["requested_sparsity"] == ratio) & (table["metric"] == "speedup")]
    gains = rows.set_index("method")["value"]
    return f"{model}: SEAP {gains['SEAP-gen']:.2f}, FLAP {gains['FLAP']:.2f}"


def mask(model, ratio: float, seed: int = 0, round_to: int = 1) -> masks.PruningMask:
    """A mask of random scores: speed depends on how much goes from where, not on which units."""
    g, draw = models.geometry(model), torch.Generator().manual_seed(seed)
    sizes = (g.layers, g.heads * g.head_dim), (g.layers, g.channels)
    scores = Scores(g, *(torch.rand(size, generator=draw, dtype=torch.float64) for size in sizes))
    return selection.select(scores, allocation.logistic(ratio), round_to=round_to)


def bytes_read(model) -> int:
    """Bytes of parameters that a decode step of one sequence reads: all, but one row of the embedding."""
    table = model.get_input_embeddings().weight
    tied = model.get_output_embeddings().weight is table
    unread = 0 if tied else (table.shape[0] - 1) * table.shape[1] * table.element_size()
    return speed.parameter_bytes(model) - unread


def read_bandwidth(rounds: int = 10) -> float:
    """Bytes per second at which this machine reads a gigabyte of main memory, at its fastest of ``rounds``.

    By the wall clock, as decoding is timed.
    """
    data, seconds = torch.ones(2**28), []
    for _ in range(rounds):
        start = time.perf_counter()
        data.sum()
        seconds.append(time.perf_counter() - start)
    return data.numel() * 4 / min(seconds)


def decode(dense) -> list[dict]:
    """Batch 1: the ratio to the dense model beside the ratio of the bytes read."""
    named = {"dense": dense} | {f"{r:.0%}": pruning.prune(dense, mask(dense, r)) for r in SPARSITIES}
    timed = speed.time_rounds(named, PROMPT, NEW, ROUNDS, warmup=1, cache="static", progress=False)
    table = timed[timed["measure"] == "decode"].pivot(index="round", columns="name", values="tokens_per_second")
    bandwidth, found = read_bandwidth(), []
    for name, model in named.items():
        case = f"{SIZE}, bf16, batch 1, {name}"
        share = 100 * table[name] * bytes_read(model) / bandwidth
        found.append(common.row(case, "decode", table[name], "tokens/s", bytes=bytes_read(model)))
        found.append(common.row(case, "share of the read bandwidth", share, "%", bytes=bytes_read(model)))
    for ratio in SPARSITIES:
        name = f"{ratio:.0%}"
        ideal = bytes_read(dense) / bytes_read(named[name])
        case = f"{SIZE}, bf16, batch 1, {name}"
        gain = table[name] / table["dense"]
        found.append(common.row(case, "gain over dense", gain, published=published(ratio)))
        found.append(common.row(case, f"gain / ideal ({ideal:.2f})", 100 * gain / ideal, "%", ">= 80"))
    return found


def widths(dense) -> list[dict]:
    """Prefill and decode of 16 sequences, 50% pruned, kept channels rounded to multiples."""
    named = {"dense": dense}
    named |= {f"50%, widths {n}": pruning.prune(dense, mask(dense, 0.5, round_to=n)) for n in (1, *WIDTHS)}
    timed = speed.time_rounds(named, PROMPT, 4, 3, warmup=1, cache="static", progress=False, batch=16)
    found = []
    for measure in ("prefill", "decode"):
        table = timed[timed["measure"] == measure].pivot(index="round", columns="name", values="tokens_per_second")
        for name in list(named)[1:]:
            gain = table[name] / table["dense"]
            found.append(common.row(f"{SIZE}, bf16, batch 16, {name}", f"{measure} gain over dense", gain))
    return found


def switching(dense) -> list[dict]:
    """From one expert's model to another's: the old one goes, the new one is cut from the dense."""
    experts = [mask(dense, 0.5, seed) for seed in range(2)]
    held = [pruning.prune(dense, experts[0])]

    def switch() -> None:
        held.clear()
        held.append(pruning.prune(dense, experts[1]))

    token = torch.zeros(1, 1, dtype=torch.long)

    @torch.inference_mode()
    def step() -> None:
        dense(input_ids=token, use_cache=False)

    seconds = common.in_turn({"switch": switch, "step": step}, ROUNDS)
    held.clear()
    peaks = {what: common.peak_of("tests.bench.decoding", what) for what in ("hold", "switch")}
    case = f"{SIZE}, bf16, expert at 50%"
    return [
        common.row(case, "switching", 1000 * seconds["switch"], "ms"),
        common.row(case, "switching / decode step of the dense model", seconds["switch"] / seconds["step"]),
        common.row(case, "peak memory / dense and one pruned copy", peaks["switch"] / peaks["hold"], "×", "<= 1.05"),
    ]


def measure(what: str) -> None:
    """In a process of its own: hold the dense model and one pruned copy, or switch three times; print the peak."""
    before = common.resident_bytes()
    dense = common.llama(SIZE, DTYPE)
    if what == "hold":
        pruned = pruning.prune(dense, mask(dense, 0.5))
        print(common.resident_bytes() - before if pruned is not None else 0)
        return
    common.forget_peak()
    held = []
    for seed in range(4):  # the old copy goes before the new one is cut
        held.clear()
        held.append(pruning.prune(dense, mask(dense, 0.5, seed)))
    print(common.peak_bytes() - before)


def run() -> list[dict]:
    dense = common.llama(SIZE, DTYPE)
    return decode(dense) + widths(dense) + switching(dense)


if __name__ == "__main__":
    measure(sys.argv[1])
