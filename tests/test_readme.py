"""The README's promises: its program runs as printed, its numbers are the exported tables'."""

import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch

import seaplib
from seaplib import models, readme

pytestmark = pytest.mark.unit

README = Path(__file__).resolve().parent.parent / "README.md"


def program() -> str:
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if "seaplib.load(" in block]
    return block


def test_the_shortest_useful_program(tmp_path, monkeypatch, tiny_model, tiny_tokenizer, tiny_data_dir):
    """As printed, on a local model and a two-column parquet file."""
    from transformers import AutoModelForCausalLM

    dense = tiny_model("gqa", num_hidden_layers=6)
    seaplib.save_pretrained(dense, tiny_tokenizer, tmp_path / "path-or-hub-id")
    rows = {"question": ["Where does the otter live?", "What boils water?"], "answer": ["in the river", "a kettle"]}
    pd.DataFrame(rows).to_parquet(tmp_path / "mine.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEAP_DATA_DIR", str(tiny_data_dir))
    names = {}
    exec(compile(program(), "README.md", "exec"), names)

    assert abs(names["mask"].achieved - 0.5) < 0.005
    counted = 1 - models.projection_parameters(names["pruned"]) / models.projection_parameters(names["model"])
    assert counted == pytest.approx(names["mask"].achieved)
    results = names["results"]
    assert set(results["task"]) == {"piqa"} and {"acc", "acc_norm", "exact_match"} <= set(results["metric"])
    assert results["value"].between(0, 1).all() and (results["n"] > 0).all()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned-model")
    saved, loaded = names["pruned"].state_dict(), again.state_dict()
    assert saved.keys() == loaded.keys() and all(torch.equal(saved[name], loaded[name]) for name in saved)


def test_the_program_beyond_the_paper(tmp_path, monkeypatch, tiny_model, tiny_tokenizer):
    """As printed, on a local model."""
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if "seaplib.energy(" in block]
    rows = {"question": ["Where does the otter live?", "What boils water?"], "answer": ["in the river", "a kettle"]}
    pd.DataFrame(rows).to_parquet(tmp_path / "mine.parquet")
    monkeypatch.chdir(tmp_path)
    model = tiny_model("gqa", num_hidden_layers=6)
    names = {"seaplib": seaplib, "model": model, "tokenizer": tiny_tokenizer}
    exec(compile(block, "README.md", "exec"), names)
    assert abs(names["mask"].achieved - 0.5) < 0.005
    counted = 1 - models.projection_parameters(names["pruned"]) / models.projection_parameters(model)
    assert counted == pytest.approx(names["mask"].achieved, abs=1e-3)


def test_the_program_with_experts(tmp_path, monkeypatch):
    """As printed, on the bundled model, with fewer prompts for its router."""
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if "routes.build(" in block]
    monkeypatch.chdir(tmp_path)
    model, tokenizer = seaplib.load("bundled")
    build, small = seaplib.routes.build, {"calibration": seaplib.Calibration(samples=8), "per_task": 40}
    monkeypatch.setattr(seaplib.routes, "build", lambda *args, **options: build(*args, **options, **small))
    evaluate = seaplib.evaluate
    monkeypatch.setattr(seaplib, "evaluate", lambda *a, **b: evaluate(*a, **b, settings=seaplib.Evaluation(items=10)))
    names = {"seaplib": seaplib, "model": model, "tokenizer": tokenizer}
    exec(compile(block, "README.md", "exec"), names)
    assert names["written"].shape[0] == 2 and set(names["results"]["task"]) == {"mini_piqa", "mini_mmlu"}
    assert set(names["results"]["method"]) == {"routed experts"}
    with torch.no_grad():
        before, after = (one(**names["inputs"]).logits for one in (names["experts"], names["again"]))
    assert torch.equal(before, after)


@pytest.fixture
def committed_figures():
    """The README quotes the committed run; after another one here, its numbers are that run's to refresh."""
    command = ["git", "diff", "--quiet", "HEAD", "--", "figures/embedded", "figures/bench"]
    if subprocess.run(command, cwd=README.parent, capture_output=True).returncode == 1:
        pytest.skip("figures were regenerated here; `python -m seaplib readme` copies its tables")


def test_marked_blocks_are_the_exported_tables(committed_figures):
    text = README.read_text("utf-8")
    assert readme.BLOCK.search(text), "the README shows no exported table"
    assert readme.refreshed(text) == text, "run: python -m seaplib readme"


def test_a_stale_block_is_noticed(tmp_path):
    (tmp_path / "table.md").write_text("| new |\n")
    stale = "before\n<!-- from table.md -->\n| old |\n<!-- end -->\nafter"
    assert readme.refreshed(stale, tmp_path) == stale.replace("old", "new")
    with pytest.raises(FileNotFoundError):
        readme.refreshed(stale.replace("table.md", "other.md"), tmp_path)


def test_verdicts_in_prose_are_the_scorecards(committed_figures):
    cited = re.findall(r"\((\d\d\.\d+) (holds|does not hold|undecided)\)", README.read_text("utf-8"))
    scorecard = pd.read_csv(README.parent / "figures" / "embedded" / "scorecard.csv", dtype={"claim_id": str})
    verdicts = dict(zip(scorecard["claim_id"], scorecard["verdict"], strict=True))
    assert cited and dict(cited) == {name: verdicts[name] for name, _ in cited}
