"""Masks of six methods for eight tasks at Llama-2-7B's shape, and UMAP of all layers of 1,400 prompts."""

import numpy as np
import torch

from seaplib.activations import hidden_states
from seaplib.activations.statistics import ActivationStats
from seaplib.models.shapes import Geometry
from seaplib.pruning import methods

from . import common

LLAMA_7B = Geometry(layers=32, hidden=4096, heads=32, kv_heads=32, head_dim=128, channels=11008,
                    model_parameters=6_738_415_616, vocabulary=32_000)  # fmt: skip
TASKS = ("piqa", "boolq", "openbookqa", "arc_challenge", "winogrande", "gsm8k", "hellaswag", "mmlu")
PROMPTS, DIMENSIONS, LAYERS = 1_400, 192, 33


def statistics() -> dict[str, ActivationStats]:
    """Random statistics of the tasks and of general text."""
    draw = torch.Generator().manual_seed(0)

    def drawn() -> dict[str, torch.Tensor]:
        sizes = {"attention": LLAMA_7B.hidden, "mlp": LLAMA_7B.channels}
        return {m: torch.rand(LLAMA_7B.layers, n, generator=draw, dtype=torch.float64) for m, n in sizes.items()}

    norms = drawn(), drawn()
    names = (*TASKS, "wikitext2")
    return {name: ActivationStats(LLAMA_7B, 1000, drawn(), drawn(), drawn(), *norms, {"task": name}) for name in names}


def selection() -> list[dict]:
    stats = statistics()

    def all_masks() -> None:
        for method in methods.PAPER:
            for task in TASKS:
                methods.mask(method, stats, 0.5, "wikitext2", task)

    seconds = common.in_turn({"masks": all_masks}, 5)["masks"]
    case = f"32 × (32 + 11008) units, {len(TASKS)} tasks × {len(methods.PAPER)} methods"
    return [common.row(case, "scores and masks", seconds, "s", "<= 1")]


def embedding() -> list[dict]:
    """One clustered cloud a layer."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(7, LAYERS, DIMENSIONS))
    labels = np.arange(PROMPTS) % 7
    vectors = (centres[labels] + draw.normal(size=(PROMPTS, LAYERS, DIMENSIONS))).astype(np.float32)
    states = hidden_states.HiddenStates(vectors, labels.astype(str), np.arange(PROMPTS).astype(str))
    hidden_states.embed(states, [0], progress=False)  # imports and compiles UMAP
    seconds = common.in_turn({"all": lambda: hidden_states.embed(states, progress=False)}, 1, warm_up=False)["all"]
    return [common.row(f"UMAP, {PROMPTS:,} prompts, {LAYERS} layers", "all layers", seconds, "s")]


def run() -> list[dict]:
    return selection() + embedding()
