"""Timing in turn, peak memory in a process of its own, random Llamas, rows of a result table."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from seaplib import store
from seaplib.evaluation import speed

LENGTHS = Path(__file__).with_name("lengths.csv")
LIBRARIES = ("torch", "transformers", "lm-eval", "umap-learn", "numba", "numpy")
#: hidden, channels, layers, heads of the random Llamas, 32,000 token types each
SIZES = {"30M": (384, 1024, 6, 6), "160M": (768, 2048, 12, 12), "0.6B": (2048, 5504, 10, 16)}
VOCABULARY = 32_000


def llama(size: str, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """A random Llama of about ``size`` parameters."""
    hidden, channels, layers, heads = SIZES[size]
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=channels,
                         num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
                         max_position_embeddings=2048, dtype=dtype)  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM._from_config(config, dtype=dtype).eval()


def clock() -> Callable[[], float]:
    """Wall time; of a single thread without a GPU the processor's time, which others on the machine do not stretch."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time if alone else time.perf_counter


def in_turn(
    calls: dict[str, Callable[[], object]], rounds: int, warm_up: bool = True, wall: bool = False
) -> pd.DataFrame:
    """Seconds of every call, [rounds, names]: A B C, B C A, … so that a slow spell hits all of them.

    ``wall``: of waiting too, as for a disk.
    """
    names, now = list(calls), time.perf_counter if wall else clock()
    if warm_up:
        for call in calls.values():
            call()
    rows = []
    for turn in range(rounds):
        seconds = {}
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = now()
            calls[name]()
            seconds[name] = now() - start
        rows.append(seconds)
    return pd.DataFrame(rows)[names]


def row(case: str, quantity: str, values, unit: str = "×", target: str = "", **more) -> dict:
    """A row of a result table: median, smallest and largest of ``values`` over the rounds.

    ``target`` is ">= 4.5", "<= 1.15" or "" (reported only); ``met`` compares the median with it.
    """
    values = np.atleast_1d(np.asarray(values, dtype=float))
    median = float(np.median(values))
    met = ""
    if target:
        sign, number = target.split()
        met = "yes" if (median >= float(number) if sign == ">=" else median <= float(number)) else "no"
    about = {"case": case, "quantity": quantity, "median": median, "min": values.min(), "max": values.max()}
    return about | {"unit": unit, "rounds": len(values), "target": target, "met": met} | more


def peak_of(module: str, *arguments: str) -> int:
    """Peak resident bytes that ``python -m module arguments`` prints, beyond those it had before its model was made."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout.split()[-1])


def forget_peak() -> None:
    """From here on :func:`peak_bytes` counts: making a random model takes more than the model (Linux only)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The largest resident size of this process since :func:`forget_peak` (Linux only)."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def resident_bytes() -> int:
    return psutil.Process().memory_info().rss


def machine() -> dict:
    """What the numbers depend on; no names of hosts or users, no paths."""
    flags = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""
    return {
        "processor": speed._processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bf16 instructions": "AMX" if "amx_bf16" in flags else "AVX-512" if "avx512_bf16" in flags else "none",
        "memory (GiB)": round(psutil.virtual_memory().total / 2**30),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
    } | store.versions(LIBRARIES)
