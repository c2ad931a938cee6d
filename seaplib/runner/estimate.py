"""Time and memory of a run before its start, from the model's configuration and the notebooks' parameters.

    FLOPs = 2·tokens·(kept projections) + 2·tokens·length·layers·heads·d_head + 2·(tokens asked)·hidden·vocabulary
    seconds = FLOPs / (utilisation · peak) + steps · bytes read / (utilisation · bandwidth) + overheads
    memory = weights + pruned copies + statistics + activations of one batch + KV cache + logits

Causal attention reaches half of a text on average: scores and values then cost
2·length·heads·d_head per token and layer. Decoding reads every weight once per step. The shape is
that of the model built on torch's meta device, so every parameter counts. The counts are arithmetic,
the utilisations are assumptions that every estimate states.
"""

import json
from collections.abc import Iterable
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
LOGITS_AT_ONCE = 2**25  # as in models.likelihood, which imports torch
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


@dataclass(frozen=True)
class Device:
    """A device's dense bf16 throughput (of a CPU: fp32), memory bandwidth and memory."""

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
ENTRY_BYTES = 200_000  # of item results, a mask, a router, …


@lru_cache
def _geometry(config: str) -> Geometry:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from ..models import layers

    with torch.device("meta"):
        return layers.geometry(AutoModelForCausalLM.from_config(AutoConfig.for_model(**json.loads(config))))


def geometry(config: dict) -> Geometry:
    """Shape of the model that a configuration (``config.json``) describes, without making a weight."""
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
    """Bytes of the activations alive at once while ``tokens`` pass through a layer, without gradients.

    ``width``: bytes of a number. Embeddings, the layer's input, the residual and the normed stream are
    always alive; beside them the larger of the worst moments of attention (queries, keys and their
    rotation) and MLP (gate, up and product; with ``statistics`` the product and a copy of the product
    in fp32 or fp64).
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
    """Bytes of the sums of covariances while they are collected, float64, for the layers of one pass."""
    widest = max(g.heads * g.head_dim, g.channels)
    whole = 8 * g.layers * ((g.heads * g.head_dim) ** 2 + g.channels**2)
    return max(min(whole, MATRIX_BYTES), 8 * widest**2)


def stored_bytes(g: Geometry, found: Iterable[Pass]) -> float:
    """What these passes leave in the store: statistics and covariances of each corpus, and a little of each variant."""
    units = g.layers * ((g.heads * g.head_dim) ** 2 + g.channels**2)
    each = {
        "statistics": statistics_bytes(g, 1),
        "running statistics": statistics_bytes(g, 1),
        "covariances": 4 * units,
    }
    return sum(each.get(key[0], ENTRY_BYTES) for key in {work.key for work in found})


def kv_bytes(g: Geometry, tokens: int, width: int) -> float:
    return 2 * tokens * g.layers * g.kv_heads * g.head_dim * width


def flops(g: Geometry, work: Pass) -> float:
    attention = g.layers * g.heads * g.head_dim * work.length
    head = g.hidden * g.vocabulary * work.head
    each = g.projection_parameters * work.kept + attention * work.kept + head
    return 2 * work.tokens * each + 2 * work.steps * (g.projection_parameters * work.kept + g.hidden * g.vocabulary)


def memory(g: Geometry, notebook: Notebook, found: list[Pass], width: int, device: Device) -> Memory:
    """A notebook's memory at the worst moment, with the default batches."""
    p, cpu = notebook.parameters, device is DEVICES["CPU"]
    calibrates = any(work.key[0] == "statistics" for work in found)
    tokens = max(Calibration().batch_tokens, Evaluation().batch_tokens) if not cpu or calibrates else 1024
    runs = any(work.tokens for work in found)
    corpora = len({work.key[1:] for work in found if work.key[0] == "statistics"})
    decodes = any(work.steps for work in found)
    length = (p.get("prompt_tokens") or 50) + p["new_tokens"] if decodes else 0
    asked = max((work.tokens * work.head for work in found), default=0)
    return Memory(
        weights=g.model_parameters * width,
        copies=workload.copies(notebook.name, p) * g.projection_parameters * width,
        statistics=statistics_bytes(g, corpora) + covariance_bytes(g) * bool(p.get("least_squares")),
        activations=activation_bytes(g, tokens, width, calibrates) if runs else 0,
        kv_cache=kv_bytes(g, length, width),
        logits=min(LOGITS_AT_ONCE, asked * g.vocabulary) * (width + 8),
    )


def seconds(g: Geometry, found: list[Pass], width: int, device: Device) -> float:
    """Seconds of a notebook's passes, of loading, and of the work around both."""
    computed = sum(flops(g, work) for work in found if not work.steps)
    prefilled = sum(flops(g, Pass(work.key, work.tokens, work.length, work.kept)) for work in found if work.steps)
    weights = g.model_parameters - g.projection_parameters
    read = sum(work.steps * (weights + g.projection_parameters * work.kept) * width for work in found)
    variants = len({work.key[2:] for work in found if work.key[0] in ("items", "perplexity")})
    loading = g.model_parameters * width / (LOAD_BANDWIDTH * 1e9)
    total = (computed + prefilled) / (device.compute_share * device.tflops * 1e12)
    total += read / (device.bandwidth_share * device.bandwidth * 1e9)
    return total + NOTEBOOK_SECONDS + loading + VARIANT_SECONDS * variants


def report(plan: Plan, notebooks: list[Notebook], gpu: str | None = None) -> str:
    """The estimate of the notebooks as text, a section for every model but the bundled model; "" without a section.

    ``gpu`` names one of :data:`DEVICES`; by default an H100, for models below 10⁹ parameters a CPU.
    Raises :class:`~seaplib.runner.parameters.PlanError` for an unknown device.
    """
    if gpu is not None and gpu.upper() not in DEVICES:
        raise PlanError(f"there is no device {gpu!r}{suggestion(gpu.upper(), DEVICES)}")
    models = dict.fromkeys(n.parameters.get("model") for n in notebooks)
    own = {name: [n for n in notebooks if n.parameters.get("model") == name] for name in models}
    return "\n\n".join(_section(plan, name, used, gpu) for name, used in own.items() if name not in (None, "bundled"))


def store_bytes(plan: Plan, notebooks: list[Notebook]) -> float:
    """What the notebooks leave in the store, of every model but the bundled model."""
    whole = 0.0
    for name in dict.fromkeys(n.parameters.get("model") for n in notebooks) if notebooks else ():
        if name in (None, "bundled"):
            continue
        config = read_config(name, plan.offline, published=True)
        depth, found = next(iter(sizes(config).values())), []
        for notebook in notebooks:
            if notebook.parameters.get("model") == name and workload.loads_model(notebook.name):
                found += workload.passes(notebook.name, notebook.parameters | {"layers": depth}) or []
        whole += stored_bytes(geometry(config), found)
    return whole


def _section(plan: Plan, name: str, notebooks: list[Notebook], gpu: str | None) -> str:
    config = read_config(name, plan.offline, published=True)
    g = geometry(config)
    device = DEVICES[gpu.upper() if gpu else "H100" if g.model_parameters >= LARGE else "CPU"]
    asked = next((n.parameters["dtype"] for n in notebooks if "dtype" in n.parameters), "auto")
    dtype = asked if asked in BYTES else str(config.get("dtype") or config.get("torch_dtype") or "float32")
    width, depth = BYTES.get(dtype, 4), next(iter(sizes(config).values()))
    rows, seen, worst, sums, left = [], set(), None, [0.0, 0.0, 0.0], 0.0
    for notebook in notebooks:
        found = workload.passes(notebook.name, notebook.parameters | {"layers": depth})
        if found is None or not workload.loads_model(notebook.name):
            rows.append([notebook.name, *4 * ["?" if found is None else "–"]])
            continue
        new = list({work.key: work for work in found if work.key not in seen}.values())
        seen |= {work.key for work in new}
        left += stored_bytes(g, new)
        held, took = memory(g, notebook, found, width, device), seconds(g, new, width, device)
        totals = [sum(work.tokens + work.steps for work in new), sum(flops(g, work) for work in new), took]
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
    lines.append(f"The store takes about {_gib(left)}.")
    share = f"{device.compute_share:.0%} of the peak and {device.bandwidth_share:.0%} of the bandwidth"
    lines.append(f"Assumed: {share}, {workload.CHARACTERS:g} characters a token; good to a factor of two or three.")
    return "\n".join(lines)


def _written(tokens: float, operations: float) -> list[str]:
    return [f"{tokens:.2g}" if tokens else "–", f"{operations:.2g}" if operations else "–"]


def _tasks(notebooks: list[Notebook]) -> list[str]:
    """Lines with the tasks and the number of items answered of each, and with the tasks whose sizes are guessed."""
    asked: dict[str, int] = {}
    for p in (n.parameters for n in notebooks if "items" in n.parameters):
        for task in [*(p.get("tasks") or ()), *(p[k] for k in ("first_task", "second_task") if p.get(k))]:
            asked[task] = max(asked.get(task, 0), workload.items(task, p["items"]))
    several, single = ("tasks", "unseen_tasks", "other_general"), ("first_task", "second_task", "general", "text_task")
    named = [task for n in notebooks for key in several for task in n.parameters.get(key) or ()]
    named += [n.parameters[key] for n in notebooks for key in single if n.parameters.get(key)]
    guessed = [task for task in dict.fromkeys(named) if task not in workload.SIZES]
    lines = ["Tasks (items): " + ", ".join(f"{task} {count:,}" for task, count in asked.items())] if asked else []
    size = f"{workload.UNKNOWN.items} items and {workload.UNKNOWN.texts} texts"
    return lines + ([f"Not measured, taken as {size}: {', '.join(guessed)}"] if guessed else [])
