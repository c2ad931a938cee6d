"""The same on a GPU: calibration, and Table 2 for Llama-2-7B's and 13B's shapes with random weights."""

import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from seaplib import pruning
from seaplib.evaluation import speed

from . import calibration, common, decoding

SHAPES = {"Llama-2-7B": (4096, 11008, 32, 32), "Llama-2-13B": (5120, 13824, 40, 40)}
ROUNDS, PROMPT, NEW = 5, 128, 64


def random_model(name: str):
    """The shape with random fp16 weights, made on the GPU."""
    hidden, channels, layers, heads = SHAPES[name]
    config = LlamaConfig(vocab_size=common.VOCABULARY, hidden_size=hidden, intermediate_size=channels,
                         num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
                         max_position_embeddings=4096)  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda"):
        return LlamaForCausalLM._from_config(config, dtype=torch.float16).eval()


def bandwidth() -> float:
    """Bytes per second at which the GPU reads its memory."""
    data, seconds = torch.ones(2**30, dtype=torch.float16, device="cuda"), []
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        data.amax()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return data.numel() * 2 / min(seconds)


def table_2(name: str) -> list[dict]:
    dense, rate, found = random_model(name), bandwidth(), []
    named = {"dense": dense}
    for ratio in decoding.SPARSITIES:
        mask = decoding.mask(dense, ratio)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        named[f"{ratio:.0%}"] = pruning.prune(dense, mask)
        torch.cuda.synchronize()
        case = f"{name}, fp16, {ratio:.0%}"
        found.append(common.row(case, "pruning", time.perf_counter() - start, "s"))
        extra = torch.cuda.max_memory_allocated() - before
        found.append(common.row(case, "pruning, peak memory beyond the dense model", extra / 2**30, "GiB"))
    options = {"cache": "static", "compiled": True, "progress": False}
    timed = speed.time_rounds(named, PROMPT, NEW, ROUNDS, warmup=2, **options)
    for measure in ("decode", "prefill"):
        table = timed[timed["measure"] == measure].pivot(index="round", columns="name", values="tokens_per_second")
        for kind, model in named.items():
            case, read = f"{name}, fp16, batch 1, {kind}", decoding.bytes_read(model)
            found.append(common.row(case, measure, table[kind], "tokens/s", bytes=read))
            if measure == "decode":
                found.append(common.row(case, "share of the read bandwidth", 100 * table[kind] * read / rate, "%"))
        for ratio in decoding.SPARSITIES:
            kind = f"{ratio:.0%}"
            case, gain = f"{name}, fp16, batch 1, {kind}", table[kind] / table["dense"]
            published = decoding.published(ratio, name) if measure == "decode" else ""
            found.append(common.row(case, f"{measure} gain over dense", gain, published=published))
            if measure == "decode":
                ideal = decoding.bytes_read(dense) / decoding.bytes_read(named[kind])
                found.append(common.row(case, f"gain / ideal ({ideal:.2f})", 100 * gain / ideal, "%", ">= 90"))
    return found


def run() -> list[dict]:
    found = []
    for size in calibration.ROUNDS:
        found += calibration.rows(size, "cuda", {"fp32": ">= 20", "bf16": ">= 20"})
    for name in SHAPES:
        found += table_2(name)
        torch.compiler.reset()
        torch.cuda.empty_cache()
    return found


def why_not() -> str | None:
    """Why there is nothing to run, or None."""
    return None if torch.cuda.is_available() else "no CUDA device"
