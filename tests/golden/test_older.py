"""What version 0.1.0 wrote while all modules lay in one folder still loads: mask, checkpoint, ExpertModel.

``older/`` holds what that version wrote about the bundled model: a mask of half its units, the configuration
of the model pruned with that mask (the weights are written anew here), and two experts with a general mask.
"""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import seaplib

pytestmark = pytest.mark.golden

OLDER = Path(__file__).parent / "older"
IDS = torch.arange(3, 40).reshape(1, -1)


@pytest.fixture(scope="module")
def bundled():
    return seaplib.load("bundled")


@torch.no_grad()
def test_a_mask_and_a_checkpoint_load(bundled, tmp_path):
    model, tokenizer = bundled
    mask = seaplib.PruningMask.load(OLDER / "mask")
    assert mask.achieved == pytest.approx(0.5, abs=0.005) and mask.provenance["score"] == "s_F"
    pruned = seaplib.prune(model, mask, mode="remove")
    seaplib.save_pretrained(pruned, tokenizer, tmp_path / "pruned")
    shutil.copy(OLDER / "pruned" / "config.json", tmp_path / "pruned" / "config.json")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned")
    assert torch.equal(again(IDS).logits, pruned(IDS).logits)


@torch.no_grad()
def test_an_expert_model_loads(bundled):
    model, tokenizer = bundled
    experts = seaplib.ExpertModel.load(OLDER / "experts", model, tokenizer)
    for name in ("mini_piqa", "mini_boolq", "general"):
        pruned = seaplib.prune(model, seaplib.PruningMask.load(OLDER / "experts" / "masks" / name))
        with experts.using(name):
            assert torch.equal(experts(IDS).logits, pruned(IDS).logits)
    assert set(experts.choose(["Hang a wet towel in the sun."])) <= {"mini_piqa", "mini_boolq", "general"}
