"""What several rooms' tests share: masks and means drawn at random, routers, and comparisons of two models."""

import json
import os
import subprocess
import sys

import numpy as np
import torch

from seaplib import models
from seaplib.experts import router
from seaplib.experts.router import GENERAL
from seaplib.pruning import allocation, masks, selection
from seaplib.pruning.scores import Scores
from seaplib.texts import corpora

ATTENTION = ("eager", "sdpa")
TOLERANCE = 1e-5
NEW_TOKENS = 4
EXPERTS = ("piqa", "winogrande", GENERAL)
TEXTS = (
    "the otter in the river",
    "A kettle is used to boil water before the tea is made.",
    "grey stone",
    "There are 12 apples.",
)
CORPUS = corpora.Corpus("mine", TEXTS, tuple("0123"), {})
PROMPTS = ["How do you boil water?", "Anna gave the box to Ben", "Which animal lives in the river", "a kettle"]


def random_mask(model, kv_unit="group", seed=0, target=0.45) -> masks.PruningMask:
    g = models.geometry(model)
    generator = torch.Generator().manual_seed(seed)
    attention = torch.rand(g.layers, g.heads * g.head_dim, generator=generator, dtype=torch.float64)
    channels = torch.rand(g.layers, g.channels, generator=generator, dtype=torch.float64)
    return selection.select(Scores(g, attention, channels), allocation.uniform(target), kv_unit=kv_unit)


def random_means(model, seed=1) -> dict[str, torch.Tensor]:
    g = models.geometry(model)
    generator = torch.Generator().manual_seed(seed)
    return {
        "attention": torch.randn(g.layers, g.heads * g.head_dim, generator=generator, dtype=torch.float64),
        "mlp": torch.randn(g.layers, g.channels, generator=generator, dtype=torch.float64),
    }


@torch.no_grad()
def logits(model, ids):
    return model(ids).logits


@torch.no_grad()
def greedy(model, ids, cache: str | None):
    """Greedy tokens and the logits of every step, without a KV cache or with this kind of one."""
    options = {"cache_implementation": cache} if cache else {}
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=None,
        use_cache=cache is not None,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    return out.sequences, torch.stack(out.logits)


def assert_same_function(a, b, ids, caches=(None, "dynamic", "static"), implementations=ATTENTION):
    """Same logits in one pass and step by step, eager and sdpa."""
    for implementation in implementations:
        for model in (a, b):
            model.set_attn_implementation(implementation)
        torch.testing.assert_close(logits(a, ids), logits(b, ids), rtol=0, atol=TOLERANCE)
        whole = greedy(b, ids, None)
        for cache in caches:
            tokens, steps = greedy(a, ids, cache)
            assert torch.equal(tokens, whole[0]), (implementation, cache)
            torch.testing.assert_close(steps, whole[1], rtol=0, atol=TOLERANCE)


def mask_of(model, seed: int, ratio: float = 0.4) -> masks.PruningMask:
    g, draw = models.geometry(model), torch.Generator().manual_seed(seed)
    sizes = (g.layers, g.heads * g.head_dim), (g.layers, g.channels)
    scores = Scores(g, *(torch.rand(size, generator=draw, dtype=torch.float64) for size in sizes))
    return selection.select(scores, allocation.uniform(ratio))


def masks_of(model) -> dict:
    return {name: mask_of(model, seed) for seed, name in enumerate(EXPERTS)}


def router_of(model, tokenizer, threshold: float = 0.0) -> router.Router:
    """A router that decides by nothing in particular, between the prompts of ``PROMPTS``."""
    features = router.embed(model, tokenizer, PROMPTS).astype(np.float64)
    towards = (features[1] - features[0]) / 2
    weight = np.stack([-towards, towards])
    return router.Router(EXPERTS[:2], features[:2].mean(0), np.ones(len(towards)), weight, np.zeros(2), 3.0, threshold)


FRESH = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama import LlamaForCausalLM

def load(path):
    expected = load_file(path / "expected" / "expected.safetensors")
    ids = expected.pop("ids")
    logits = expected.pop("logits")
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()
        state = model.state_dict()
        same = state.keys() == expected.keys()
        same = same and all(state[k].dtype == v.dtype and torch.equal(state[k], v) for k, v in expected.items())
        with torch.no_grad():
            same = same and torch.allclose(model(ids).logits, logits, rtol=0, atol=64 * torch.finfo(logits.dtype).eps)
        tokens = AutoTokenizer.from_pretrained(path)("the otter")["input_ids"]
        return ["loaded", same, tokens]
    except Exception as error:
        return ["refused", type(error).__name__, str(error)]

paths = sorted(Path(sys.argv[1]).iterdir())
without = {path.name: load(path) for path in paths}
assert "seaplib" not in sys.modules
import seaplib
print("RESULT" + json.dumps([without, {path.name: load(path) for path in paths}]))
"""


def in_a_fresh_process(directory) -> list[dict]:
    """What becomes of every checkpoint in a directory: loaded by transformers alone, then after ``import seaplib``."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FRESH, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rsplit("RESULT", 1)[1])
