"""The promises of README and docs: their programs run as printed, their profiles and API pages are the package's."""

import inspect
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

import seaplib
from seaplib import models
from seaplib.experts import variants
from seaplib.runner import parameters, plan

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
LARGEST = 12 * 1024  # bytes of the README


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, block) of every fenced block of a language."""
    found = []
    for file in (README, *sorted(ROOT.glob("docs/*.md"))):
        if not file.name.startswith("api"):  # signatures and fields
            text = file.read_text("utf-8")
            fenced = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
            found += [(file.relative_to(ROOT).as_posix(), block) for block in fenced]
    return found


@pytest.fixture
def sandbox(tmp_path, monkeypatch, tiny_model, tiny_tokenizer, tiny_data_dir):
    """A folder with the model, corpus file and data sets that the programs name; experts and evaluations are small."""
    dense = tiny_model("gqa", num_hidden_layers=6)
    seaplib.save_pretrained(dense, tiny_tokenizer, tmp_path / "path-or-hub-id")
    rows = {"question": ["Where does the otter live?", "What boils water?"], "answer": ["in the river", "a kettle"]}
    pd.DataFrame(rows).to_parquet(tmp_path / "mine.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEAP_DATA_DIR", str(tiny_data_dir))
    build, small = variants.build, {"calibration": seaplib.Calibration(samples=8)}
    small["routing"] = seaplib.Routing(per_task=40)
    monkeypatch.setattr(variants, "build", lambda *args, **options: build(*args, **options, **small))
    evaluate, few = seaplib.evaluate, {"settings": seaplib.Evaluation(items=10)}
    monkeypatch.setattr(seaplib, "evaluate", lambda *args, **options: evaluate(*args, **few | options))
    return tmp_path


def run(program: str, name: str) -> dict:
    names = {}
    exec(compile(program, name, "exec"), names)
    return names


def test_the_readme_is_short():
    assert len(README.read_bytes()) <= LARGEST


def test_the_shortest_useful_program(sandbox):
    """As printed, on a local model and a two-column parquet file."""
    from transformers import AutoModelForCausalLM

    ((_, program),) = [block for block in blocks("python") if block[0] == "README.md"]
    names = run(program, "README.md")
    assert abs(names["mask"].achieved - 0.2) < 0.005
    counted = 1 - models.projection_parameters(names["pruned"]) / models.projection_parameters(names["model"])
    assert counted == pytest.approx(names["mask"].achieved, abs=1e-3)
    results = names["results"]
    assert set(names["before"]["method"]) == {"dense"} and set(results["method"]) == {"pruned"}
    assert set(results["task"]) == {"piqa"} and {"acc", "acc_norm", "exact_match"} <= set(results["metric"])
    assert results["value"].between(0, 1).all() and (results["n"] > 0).all()
    again = AutoModelForCausalLM.from_pretrained(sandbox / "pruned-model")
    saved, loaded = names["pruned"].state_dict(), again.state_dict()
    assert saved.keys() == loaded.keys() and all(torch.equal(saved[name], loaded[name]) for name in saved)


PROGRAMS = [block for block in blocks("python") if block[0] != "README.md"]


@pytest.mark.parametrize("page, program", PROGRAMS, ids=[f"{page}-{i}" for i, (page, _) in enumerate(PROGRAMS)])
def test_a_page_s_program_runs_as_printed(page, program, sandbox):
    names = run(program, page)
    if "compensation=covariances" in program:
        assert abs(names["mask"].achieved - 0.5) < 0.005
        counted = 1 - models.projection_parameters(names["pruned"]) / models.projection_parameters(names["model"])
        assert counted == pytest.approx(names["mask"].achieved, abs=1e-3)
    if "variants.build(" in program:
        assert names["written"].shape[0] == 2 and set(names["results"]["method"]) == {"routed experts"}
        with torch.no_grad():
            before, after = (one(**names["inputs"]).logits for one in (names["experts"], names["again"]))
        assert torch.equal(before, after)


def test_a_page_s_profile_is_possible():
    known, notebooks = plan.read()
    profiles = [profile for _, block in blocks("yaml") for profile in yaml.safe_load(block)["profiles"].items()]
    assert profiles
    for name, entry in profiles:
        profile = plan.Profile(**entry)
        assert profile.extends in known
        parameters.check(name, profile.parameters)
        for number, own in profile.notebooks.items():
            assert [notebook for notebook in notebooks if notebook.startswith(str(number))]
            parameters.check(name, own)


def test_the_api_page_lists_the_public_names():
    shown = re.findall(r"^### `(\w+)", (ROOT / "docs" / "api.md").read_text("utf-8"), re.MULTILINE)
    names = [name for name in seaplib.__all__ if not inspect.ismodule(getattr(seaplib, name))]
    assert sorted(shown) == sorted(names), "run: make docs"
