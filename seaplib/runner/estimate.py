"""Time and memory of a run before it starts, from the model's configuration and the notebooks' parameters.

    FLOPs = 2·tokens·(kept projections) + 2·tokens·length·layers·heads·d_head + 2·(tokens asked)·hidden·vocabulary
    seconds = FLOPs / (utilisation · peak) + steps · bytes read / (utilisation · bandwidth) + overheads
    memory = weights + pruned copies + statistics + activations of one batch + KV cache + logits

Causal attention looks at half a text on average: scores and values then cost 2·length·heads·d_head
a token and layer. Decoding reads every weight once a step. The shape is that of the model built
without memory (torch's meta device), so that every parameter counts. Counts are arithmetic; the
utilisations are assumptions, stated with every estimate.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tabulate import tabulate

from .. import hub
from ..models.files import read_config, sizes
from ..models.shapes import PUBLISHED, Geometry
from ..settings import MATRIX_BYTES, Calibration, Evaluation, suggestion
from . import workload
from .parameters import PlanError
from .plan import Notebook, Plan
from .workload import Pass

GIB = 2**30
LOGITS_AT_ONCE = 2**25  # as in likelihood, which cannot be imported without torch
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


@dataclass(frozen=True)
class Device:
    """What a device can do: bf16 multiply-adds without sparsity (a CPU: fp32), memory bandwidth, memory."""

    name: str
    tflops: float
    bandwidth: float  # GB/s
    memory: float  # GiB
    compute_share: float = 0.4  # of the peak, reached with batches of thousands of tokens
    bandwidth_share: float = 0.6  # reached in decoding


#: the makers' data sheets; the paper's own device is the H800
DEVICES = {
    "H100": Device("one NVIDIA H100 SXM", 989, 3350, 80),
    "H200": Device("one NVIDIA H200", 989, 4800, 141),
    "H800": Device("one NVIDIA H800", 989, 3350, 80),
    "A100": Device("one NVIDIA A100 SXM, 80 GB", 312, 2039, 80),
    "A100-40GB": Device("one NVIDIA A100 SXM, 40 GB", 312, 1555, 40),
    "L40S": Device("one NVIDIA L40S", 362, 864, 48),
    "RTX4090": Device("one NVIDIA RTX 4090", 165, 1008, 24),
    "CPU": Device("a CPU with 8 cores", 0.6, 60, 16),
}
NOTEBOOK_SECONDS = 60  # imports, corpora, intervals, figures
VARIANT_SECONDS = 2  # a mask chosen and applied
LOAD_BANDWIDTH = 1.0  # GB/s from disk
LARGE = 10**9  # parameters from which a GPU is assumed


@lru_cache
def _geometry(config: str) -> Geometry:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from ..models import layers

    with torch.device("meta"):
        return layers.geometry(AutoModelForCausalLM.from_config(AutoConfig.for_model(**json.loads(config))))


def geometry(config: dict) -> Geometry:
    """Shape of the model that a configuration (``config.json``) describes; no weight is made."""
    return _geometry(json.dumps(config, sort_keys=True))


@dataclass(frozen=True)
class Memory:
    """Bytes at the worst moment of a notebook."""

    weights: float
    copies: float = 0.0
    statistics: float = 0.0
    activations: float = 0.0
    kv_cache: float = 0.0
    logits: float = 0.0

    @property
    def total(self) -> float:
        return sum(vars(self).values())

    def __str__(self) -> str:
        return " + ".join(f"{name.replace('_', ' ')} {_gib(value)}" for name, value in vars(self).items() if value)


def _gib(value: float) -> str:
    return f"{value / GIB:.2g} GiB" if value < 10 * GIB else f"{value / GIB:.0f} GiB"


def activation_bytes(g: Geometry, tokens: int, width: int, statistics: bool = False) -> float:
    """Bytes of activations alive at once while ``tokens`` pass through a layer, without gradients.

    ``width``: bytes of a number. Always there: the embeddings, the layer's input, the residual and the
    normed stream. Beside them the larger of the attention's and the MLP's worst moment: queries, keys and
    their rotation; gate, up and product; with ``statistics`` the MLP's product and a copy of it in
    fp32 or better.
    """
    queries, keys = g.heads * g.head_dim, g.kv_heads * g.head_dim
    attention = 4 * queries + 2 * keys
    mlp = 3 * g.channels * width
    if statistics:
        mlp = max(mlp, g.channels * (width + max(width, 4)))
    return tokens * (4 * g.hidden * width + max(attention * width, mlp))


def statistics_bytes(g: Geometry, corpora: int) -> float:
    """Mean, variance, second moment and two weight norms of every unit, in fp64, per corpus."""
    return corpora * 5 * 8 * g.layers * (g.heads * g.head_dim + g.channels)


def covariance_bytes(g: Geometry) -> int:
    """Sums of the units' covariances while they are collected, float64, as many layers' as one pass takes."""
    widest = max(g.heads * g.head_dim, g.channels)
    whole = 8 * g.layers * ((g.heads * g.head_dim) ** 2 + g.channels**2)
    return max(min(whole, MATRIX_BYTES), 8 * widest**2)


def kv_bytes(g: Geometry, tokens: int, width: int) -> float:
    return 2 * tokens * g.layers * g.kv_heads * g.head_dim * width


def flops(g: Geometry, one: Pass) -> float:
    attention = g.layers * g.heads * g.head_dim * one.length
    head = g.hidden * g.vocabulary * one.head
    each = g.projection_parameters * one.kept + attention * one.kept + head
    return 2 * one.tokens * each + 2 * one.steps * (g.projection_parameters * one.kept + g.hidden * g.vocabulary)


def memory(g: Geometry, notebook: Notebook, found: list[Pass], width: int, device: Device) -> Memory:
    """What a notebook holds at its worst moment, with the default batches."""
    p, cpu = notebook.parameters, device is DEVICES["CPU"]
    calibrates = any(one.key[0] == "statistics" for one in found)
    tokens = max(Calibration().batch_tokens, Evaluation().batch_tokens) if not cpu or calibrates else 1024
    runs = any(one.tokens for one in found)
    corpora = len({one.key[1:] for one in found if one.key[0] == "statistics"})
    decodes = any(one.steps for one in found)
    length = (p.get("prompt_tokens") or 50) + p["new_tokens"] if decodes else 0
    asked = max((one.tokens * one.head for one in found), default=0)
    return Memory(
        weights=g.model_parameters * width,
        copies=workload.copies(notebook.name, p) * g.projection_parameters * width,
        statistics=statistics_bytes(g, corpora) + covariance_bytes(g) * bool(p.get("least_squares")),
        activations=activation_bytes(g, tokens, width, calibrates) if runs else 0,
        kv_cache=kv_bytes(g, length, width),
        logits=min(LOGITS_AT_ONCE, asked * g.vocabulary) * (width + 8),
    )


def seconds(g: Geometry, found: list[Pass], width: int, device: Device) -> float:
    """How long a notebook's passes take, and what comes on top of them."""
    computed = sum(flops(g, one) for one in found if not one.steps)
    prefilled = sum(flops(g, Pass(one.key, one.tokens, one.length, one.kept)) for one in found if one.steps)
    weights = g.model_parameters - g.projection_parameters
    read = sum(one.steps * (weights + g.projection_parameters * one.kept) * width for one in found)
    variants = len({one.key[2:] for one in found if one.key[0] in ("items", "perplexity")})
    loading = g.model_parameters * width / (LOAD_BANDWIDTH * 1e9)
    total = (computed + prefilled) / (device.compute_share * device.tflops * 1e12)
    total += read / (device.bandwidth_share * device.bandwidth * 1e9)
    return total + NOTEBOOK_SECONDS + loading + VARIANT_SECONDS * variants


def report(plan: Plan, notebooks: list[Notebook], gpu: str | None = None) -> str:
    """The estimate of these notebooks as text, a section for every model but the bundled one; "" if there is none.

    ``gpu`` names one of :data:`DEVICES`; by default an H100, for models below 10⁹ parameters a CPU.
    Raises :class:`~seaplib.runner.parameters.PlanError` for a device that is not known.
    """
    if gpu is not None and gpu.upper() not in DEVICES:
        raise PlanError(f"there is no device {gpu!r}{suggestion(gpu.upper(), DEVICES)}")
    models = dict.fromkeys(n.parameters.get("model") for n in notebooks)
    own = {name: [n for n in notebooks if n.parameters.get("model") == name] for name in models}
    return "\n\n".join(_section(plan, name, used, gpu) for name, used in own.items() if name not in (None, "bundled"))


def _section(plan: Plan, name: str, notebooks: list[Notebook], gpu: str | None) -> str:
    config = read_config(name, plan.offline, published=True)
    g = geometry(config)
    device = DEVICES[gpu.upper() if gpu else "H100" if g.model_parameters >= LARGE else "CPU"]
    asked = next((n.parameters["dtype"] for n in notebooks if "dtype" in n.parameters), "auto")
    dtype = asked if asked in BYTES else str(config.get("dtype") or config.get("torch_dtype") or "float32")
    width, depth = BYTES.get(dtype, 4), next(iter(sizes(config).values()))
    rows, seen, worst, sums = [], set(), None, [0.0, 0.0, 0.0]
    for notebook in notebooks:
        found = workload.passes(notebook.name, notebook.parameters | {"layers": depth})
        if found is None or not workload.loads_model(notebook.name):
            rows.append([notebook.name, *4 * ["?" if found is None else "–"]])
            continue
        new = list({one.key: one for one in found if one.key not in seen}.values())
        seen |= {one.key for one in new}
        held, took = memory(g, notebook, found, width, device), seconds(g, new, width, device)
        totals = [sum(one.tokens + one.steps for one in new), sum(flops(g, one) for one in new), took]
        sums = [a + b for a, b in zip(sums, totals, strict=True)]
        if worst is None or held.total > worst[0].total:
            worst = held, notebook.name
        rows.append([notebook.name, *_written(*totals[:2]), _gib(held.total), f"{took / 3600:.2f}"])
    rows.append(["all", *_written(*sums[:2]), _gib(worst[0].total) if worst else "", f"{sums[2] / 3600:.2f}"])
    published = name in PUBLISHED and not Path(name).is_dir() and hub.snapshot(name) is None
    source = "sizes as published, its config.json not being at hand" if published else "sizes from its config.json"
    head = f"Estimate: {name}, {g.model_parameters:,} parameters, {dtype} ({source}); {device.name} "
    head += f"({device.tflops:g} TFLOP/s, {device.bandwidth:g} GB/s, {device.memory:g} GiB)"
    columns = ["notebook", "tokens", "FLOPs", "memory", "hours"]
    lines = [head, *_tasks(notebooks), tabulate(rows, columns, disable_numparse=True)]
    if worst:
        lines.append(f"Most memory in {worst[1]}: {worst[0]}")
        if worst[0].total > 0.95 * device.memory * GIB:
            hints = "take a larger one, device_map: auto (slower), mode: mask, or fewer sparsities"
            lines.append(f"This is more than {device.name} has: {hints}.")
    share = f"{device.compute_share:.0%} of the peak and {device.bandwidth_share:.0%} of the bandwidth"
    lines.append(f"Assumed: {share}, {workload.CHARACTERS:g} characters a token; good to a factor of two or three.")
    return "\n".join(lines)


def _written(tokens: float, operations: float) -> list[str]:
    return [f"{tokens:.2g}" if tokens else "–", f"{operations:.2g}" if operations else "–"]


def _tasks(notebooks: list[Notebook]) -> list[str]:
    """The tasks and how many items of each are answered."""
    asked: dict[str, int] = {}
    for p in (n.parameters for n in notebooks if "items" in n.parameters):
        for task in [*(p.get("tasks") or ()), *(p[k] for k in ("first_task", "second_task") if p.get(k))]:
            asked[task] = max(asked.get(task, 0), workload.items(task, p["items"]))
    guessed = [task for task in asked if task not in workload.SIZES]
    lines = ["Tasks (items): " + ", ".join(f"{task} {count:,}" for task, count in asked.items())] if asked else []
    return lines + ([f"Not measured, taken as {workload.UNKNOWN.items} items: {', '.join(guessed)}"] if guessed else [])
