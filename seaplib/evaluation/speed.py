"""Decode and prefill speed, and the bytes a model takes, with the conditions under which they hold (Table 2).

Models are timed in turn, round after round, and each round starts with another model. A machine that
is slow for a while thus slows all models, and a ratio to the reference compares two times of the
same round.
"""

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DynamicCache, StaticCache

from ..models import layers
from . import comparison

CACHES = ("dynamic", "static")


@dataclass(frozen=True)
class Run:
    """A generation: seconds of prefill and decode, the chosen tokens, bytes of cache and memory."""

    prefill_seconds: float
    decode_seconds: float
    tokens: list[int]  # of the batch's first sequence; the prefill chooses the first token
    kv_cache_bytes: int
    peak_bytes: float  # parameters and all that the run allocated; NaN where the device does not count


def generate(
    model, prompt: Int[Tensor, "batch tokens"], new_tokens: int, cache: str = "dynamic", step: Callable | None = None
) -> Run:
    """Greedy generation by a plain loop over ``model.forward``, timed.

    A forward pass over ``prompt`` chooses the first token (prefill); ``new_tokens`` passes of a token each follow
    (decode). ``step`` is a compiled forward pass for decoding. A ``static`` cache is allocated at the start, a
    ``dynamic`` cache grows.
    """
    if cache not in CACHES:
        raise ValueError(f"cache is one of {', '.join(CACHES)}, got {cache!r}")
    device, length = prompt.device, prompt.shape[1] + new_tokens
    past = DynamicCache(config=model.config) if cache == "dynamic" else StaticCache(model.config, max_cache_len=length)
    options = {"past_key_values": past, "use_cache": True, "logits_to_keep": 1}
    before = _reset_peak(device)
    with torch.inference_mode():
        start = _now(device)
        token = model(input_ids=prompt, **options).logits[:, -1].argmax(-1, keepdim=True)
        middle, chosen = _now(device), [token]
        for _ in range(new_tokens):
            token = (step or model)(input_ids=token, **options).logits[:, -1].argmax(-1, keepdim=True)
            chosen.append(token)
        end = _now(device)
    tokens = torch.cat(chosen, dim=1)[0].tolist()
    peak = parameter_bytes(model) + torch.cuda.max_memory_allocated(device) - before if before is not None else np.nan
    return Run(middle - start, end - middle, tokens, _cache_bytes(past), peak)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _reset_peak(device: torch.device) -> int | None:
    """Bytes allocated now on a device that counts them, with its peak reset; None elsewhere."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _cache_bytes(cache) -> int:
    tensors = [t for layer in cache.layers for t in (getattr(layer, "keys", None), getattr(layer, "values", None))]
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def parameter_bytes(model) -> int:
    """Bytes of all parameters; tied parameters count once. Zeros count too: only removal makes a model smaller."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def time_rounds(
    models: Mapping[str, torch.nn.Module],
    prompt_tokens: int = 128,
    new_tokens: int = 64,
    rounds: int = 10,
    warmup: int = 2,
    cache: str = "dynamic",
    compiled: bool = False,
    threads: int | None = None,
    seed: int = 0,
    progress: bool = True,
    batch: int = 1,
) -> pd.DataFrame:
    """Time every model once per round: round, name, measure, tokens, seconds, tokens_per_second, and sizes.

    ``measure`` is ``prefill`` or ``decode``. ``tokens`` counts a single sequence, ``tokens_per_second`` all
    ``batch`` sequences. Prompts are random token ids, new in every round and the same for all models.
    ``warmup`` rounds come first and are not counted. ``compiled`` compiles the decode step, which needs the
    static cache. ``threads`` is PyTorch's number of threads while timing (default: unchanged); a single
    thread is steadier on a shared machine.
    """
    if not models:
        raise ValueError("no models to time")
    if compiled and cache != "static":
        raise ValueError("a compiled decode step needs cache='static'")
    if min(prompt_tokens, new_tokens, rounds, batch) < 1:
        raise ValueError("prompt_tokens, new_tokens, rounds and batch must be at least 1")
    longest = min(layers.context_length(model) for model in models.values())
    if prompt_tokens + new_tokens > longest:
        raise ValueError(f"{prompt_tokens} + {new_tokens} tokens do not fit the context of {longest}")
    steps = {name: _compiled(model) if compiled else None for name, model in models.items()}
    vocabulary = min(model.config.vocab_size for model in models.values())
    generator = torch.Generator().manual_seed(seed)
    names, rows = list(models), []
    plan = [(turn, name) for turn in range(-warmup, rounds) for name in _rotated(names, turn)]
    with _threads(threads):
        about = conditions(models[names[0]]) | {"cache": cache, "compiled": compiled, "batch": batch}
        for turn, name in tqdm(plan, desc="speed", unit="run", leave=False, disable=not progress):
            if name == _rotated(names, turn)[0]:
                prompt = torch.randint(vocabulary, (batch, prompt_tokens), generator=generator)
            model = models[name]
            run = generate(model, prompt.to(layers.input_device(model)), new_tokens, cache, steps[name])
            sizes = {"parameters": sum(p.numel() for p in model.parameters())}
            sizes |= {"parameter_bytes": parameter_bytes(model)}
            sizes |= {"kv_cache_bytes": run.kv_cache_bytes, "peak_bytes": run.peak_bytes}
            phases = (("decode", new_tokens, run.decode_seconds), ("prefill", prompt_tokens, run.prefill_seconds))
            for measure, tokens, seconds in phases if turn >= 0 else ():
                row = {"round": turn, "name": name, "measure": measure, "tokens": tokens, "seconds": seconds}
                rows.append(row | {"tokens_per_second": batch * tokens / seconds} | sizes)
    about |= {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "rounds": rounds}
    return pd.DataFrame(rows).assign(**about)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _compiled(model):
    """The forward pass compiled for one token at a time, with CUDA graphs where there is CUDA."""
    return torch.compile(model.forward, mode="reduce-overhead" if model.device.type == "cuda" else "default")


def _rotated(names: list[str], turn: int) -> list[str]:
    place = turn % len(names)
    return names[place:] + names[:place]


def compare_speed(
    models: Mapping[str, torch.nn.Module] | pd.DataFrame, reference: str | None = None, seed: int = 0, **options
) -> pd.DataFrame:
    """Speed of several models and their ratio to ``reference`` (default: the first), a row per model and measure.

    Takes models, timed by ``time_rounds`` with ``options``, or the frame of ``time_rounds``. ``tokens_per_second`` is
    the median over rounds, ``low``-``high`` its quartiles; ``ratio`` is the median of the ratios
    within a round, ``ratio_low``-``ratio_high`` its 95% bootstrap interval over rounds. Bytes and
    conditions stand in every row.
    """
    timed = models if isinstance(models, pd.DataFrame) else time_rounds(models, seed=seed, **options)
    names = list(dict.fromkeys(timed["name"]))  # round 0 is in the given order
    reference = names[0] if reference is None else reference
    if reference not in names:
        raise ValueError(f"the reference is one of {', '.join(names)}, got {reference!r}")
    rows = []
    for measure in dict.fromkeys(timed["measure"]):
        table = timed[timed["measure"] == measure].pivot(index="round", columns="name", values="tokens_per_second")
        for name in names:
            found = comparison.rounds(table[name].to_numpy(), table[reference].to_numpy(), seed)
            middle, low, high = np.percentile(table[name], [50, 25, 75])
            row = {"name": name, "measure": measure, "tokens_per_second": middle, "low": low, "high": high}
            row |= {"ratio": found["ratio"], "ratio_low": found["low"], "ratio_high": found["high"]}
            mine = timed[(timed["name"] == name) & (timed["measure"] == measure)]
            row |= {"reference": reference, "peak_bytes": mine["peak_bytes"].max()}
            timings = {"round", "name", "measure", "tokens", "seconds", "tokens_per_second", "peak_bytes"}
            rows.append(row | mine.drop(columns=timings).iloc[0].to_dict())
    return pd.DataFrame(rows)


def named(name: str, model) -> str:
    """A model's name with its size: "bundled (1.9 M)"."""
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    return f"{name} ({millions:,.{1 if millions < 10 else 0}f} M)"


def conditions(model) -> dict:
    """The conditions of a timing besides the model: device, threads, dtype, attention kernel, versions."""
    device = layers.input_device(model)
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config._attn_implementation,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _processor() -> str:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
