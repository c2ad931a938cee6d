"""The README's promises: its program runs as printed, its numbers are the exported tables'."""

import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch

import seaplib
from seaplib import __main__, models
from seaplib.experts import variants
from seaplib.runner import readme

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"


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
    (block,) = [block for block in blocks if "variants.build(" in block]
    monkeypatch.chdir(tmp_path)
    model, tokenizer = seaplib.load("bundled")
    build, small = variants.build, {"calibration": seaplib.Calibration(samples=8), "per_task": 40}
    monkeypatch.setattr(variants, "build", lambda *args, **options: build(*args, **options, **small))
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
    folders = ["figures/embedded", "figures/embedded_full", "figures/bench"]
    command = ["git", "diff", "--quiet", "HEAD", "--", *folders]
    if subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 1:
        pytest.skip("figures were regenerated here; `python -m seaplib readme` copies its tables")


@pytest.mark.parametrize("name", readme.FILES)
def test_marked_blocks_are_the_exported_tables(name, committed_figures):
    text = (ROOT / name).read_text("utf-8")
    if name == "README.md":
        assert readme.BLOCK.search(text), "the README shows no exported table"
    assert readme.refreshed(text) == text, "run: python -m seaplib readme"


def test_a_stale_block_is_noticed(tmp_path):
    (tmp_path / "table.md").write_text("| new |\n")
    stale = "before\n<!-- from table.md -->\n| old |\n<!-- end -->\nafter"
    assert readme.refreshed(stale, tmp_path) == stale.replace("old", "new")
    with pytest.raises(FileNotFoundError):
        readme.refreshed(stale.replace("table.md", "other.md"), tmp_path)


def test_an_empty_block_is_filled(tmp_path):
    (tmp_path / "table.md").write_text("| new |\n")
    empty, full = ("<!-- from table.md -->\n" + middle + "<!-- end -->" for middle in ("", "| new |\n"))
    assert readme.refreshed(empty, tmp_path) == readme.refreshed(full, tmp_path) == full
    assert readme.refreshed(f"{empty}\n{empty}\n", tmp_path) == f"{full}\n{full}\n"


@pytest.mark.parametrize(
    "text, line",
    [
        ("a\n<!-- from t.md -->\nold\nprose\n<!-- from t.md -->\nold\n<!-- end -->\n", 2),  # no end
        ("<!-- from t.md -->\nold\n<!-- end -->\nprose\n<!-- end -->\n", 5),  # no beginning
        ("<!-- form t.md -->\nold\n<!-- end -->\n", 3),
        ("<!-- from t.md -->\nold\n<!-- ende -->\n", 1),
        ("<!-- from t.md -->\nold\n<!--end-->\n", 1),
        ("<!-- from t.md --> \nold\n<!-- end -->\n", 1),
        (" <!-- from t.md -->\nold\n<!-- end -->\n", 1),
        ("<!--from t.md -->\nold\n<!-- end -->\n", 1),
        ("<!-- From t.md -->\nold\n<!-- end -->\n", 1),
        ("<!-- from my t.md -->\nold\n<!-- end -->\n", 1),
        ("<!-- from t.md -->\nold\nprose <!-- end -->\n", 1),
        ("prose <!-- from t.md -->\nold\n<!-- end -->\n", 3),
    ],
)
def test_a_marker_that_is_no_half_of_a_block_is_an_error(tmp_path, text, line):
    (tmp_path / "t.md").write_text("| new |\n")
    with pytest.raises(ValueError, match=rf"^CARD.md:{line}: '.*' does not begin or end a block; write"):
        readme.refreshed(text, tmp_path, "CARD.md")


def test_a_csv_becomes_a_table(tmp_path):
    lines = ["claim_id,task,acc,n,change,all", "06.50,a|b,0.25,100,-1e-05,1", "06.51,,1,,0.12345,0", "10.10,x,,7,,1"]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    text = readme.refreshed("<!-- from table.csv -->\nold\n<!-- end -->", tmp_path)
    assert text.startswith("<!-- from table.csv -->\n| claim_id ") and text.endswith("|\n<!-- end -->")
    shown = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines()[1:-1]]
    assert shown[0] == ["claim_id", "task", "acc", "n", "change", "all"] and set("".join(shown[1])) <= set(":-")
    assert shown[2:] == [
        ["06.50", r"a\|b", "0.250", "100", "0.000", "1"],
        ["06.51", "", "1.000", "", "0.123", "0"],
        ["10.10", "x", "", "7", "", "1"],
    ]
    assert readme.refreshed(text, tmp_path) == text


def test_the_command_refreshes_all_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEAP_ROOT", str(tmp_path))
    (tmp_path / "data" / "bundled").mkdir(parents=True)
    (tmp_path / "table.csv").write_text("n\n3\n")
    block = "<!-- from table.csv -->\nold\n<!-- end -->\n"
    (tmp_path / "README.md").write_text("no block\n")
    (tmp_path / "data" / "bundled" / "DATA_CARD.md").write_text("no block either\n")
    (tmp_path / "data" / "bundled" / "MODEL_CARD.md").write_text(block)
    assert __main__.main(["readme"]) == 0
    said = capsys.readouterr().out.splitlines()
    fresh, cards = ": already up to date", "data/bundled"
    assert said == [f"README.md{fresh}", f"{cards}/DATA_CARD.md{fresh}", f"{cards}/MODEL_CARD.md: tables refreshed"]
    assert (tmp_path / "README.md").read_text() == "no block\n"
    assert "| 3 " in (tmp_path / "data" / "bundled" / "MODEL_CARD.md").read_text()


def test_the_command_writes_all_files_or_none(tmp_path, monkeypatch, capsys):
    """Whatever is wrong is said in one line, and what comes before it is left alone."""
    monkeypatch.setenv("SEAP_ROOT", str(tmp_path))
    (tmp_path / "data" / "bundled").mkdir(parents=True)
    (tmp_path / "table.csv").write_text("n\n3\n")
    (tmp_path / "empty.csv").write_text("")
    block = "<!-- from table.csv -->\nold\n<!-- end -->\n"
    for name in readme.FILES[:-1]:
        (tmp_path / name).write_text(block)
    card = tmp_path / readme.FILES[-1]

    def refused() -> str:
        assert __main__.main(["readme"]) == 2
        assert all((tmp_path / name).read_text() == block for name in readme.FILES[:-1])
        out, err = capsys.readouterr()
        assert not out and err.count("\n") == 1
        return err

    assert refused().startswith(f"seaplib: {tmp_path} has no data/bundled/MODEL_CARD.md;")
    card.write_text("\n" + block.replace("table", "absent"))
    assert refused().startswith("seaplib: data/bundled/MODEL_CARD.md:2: there is no absent.csv;")
    card.write_text(block.replace("table", "empty"))
    assert f"{tmp_path / 'empty.csv'} is no table (No columns to parse from file)" in refused()
    card.write_text(block.replace("end", "end of it"))
    assert refused().startswith("seaplib: data/bundled/MODEL_CARD.md:1: '<!-- from table.csv -->'")
    card.write_text(block)
    assert __main__.main(["readme"]) == 0
    assert all("| 3 " in (tmp_path / name).read_text() for name in readme.FILES)


#: profile → the README's section whose verdicts are that profile's; "": all others
SECTIONS = {"embedded": "", "embedded_full": "### The full grid"}


def section(text: str, heading: str) -> str | None:
    """What stands under exactly this ``heading``, None without it; for "" what stands under none of ``SECTIONS``."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)  # a comment in a program is no heading
    parts = [(part.partition("\n")[0], part) for part in re.split(r"^(?=#{1,3} )", text, flags=re.MULTILINE)]
    if heading:
        return dict(parts).get(heading)
    return "".join(part for name, part in parts if name not in SECTIONS.values())


def citations(text: str) -> list[tuple[str, str]]:
    return re.findall(r"\((\d\d\.\d+) (holds|does not hold|undecided)\)", text)


@pytest.mark.parametrize("profile", SECTIONS)
def test_verdicts_in_prose_are_the_scorecards(profile, committed_figures):
    file = ROOT / "figures" / profile / "scorecard.csv"
    text = section(README.read_text("utf-8"), SECTIONS[profile])
    if profile != "embedded" and text is None:
        pytest.skip(f"the README has no section {SECTIONS[profile]!r}")
    if profile != "embedded" and not file.exists():
        pytest.skip(f"there is no {file.relative_to(ROOT)}: that profile's figures are not kept here")
    cited, scorecard = citations(text), pd.read_csv(file, dtype={"claim_id": str})
    verdicts = dict(zip(scorecard["claim_id"], scorecard["verdict"], strict=True))
    assert cited and cited == [(name, verdicts.get(name, "is no claim")) for name, _ in cited]


@pytest.mark.parametrize("profile", SECTIONS)
def test_decided_claims_are_counted(profile, committed_figures):
    file = ROOT / "figures" / profile / "scorecard.csv"
    if profile != "embedded" and not file.exists():
        pytest.skip(f"there is no {file.relative_to(ROOT)}: that profile's figures are not kept here")
    scorecard = pd.read_csv(file)
    decided = scorecard[scorecard["verdict"] != "undecided"]
    survive = (decided["p_holm"] < 0.05).sum()
    said = f"of {len(decided)} decided claims of {len(scorecard)}, {survive} survive Holm's correction"
    assert said in section(README.read_text("utf-8"), SECTIONS[profile]), said


def test_citations_belong_to_the_section_they_stand_in():
    text = "# a\n(06.1 holds)\n### The full grid\n(06.2 undecided)\n```sh\n# no heading\n```\n#### more\n(06.3 holds)\n"
    text += "### The full grid, again\n(06.4 does not hold)\n## b\n(06.5 holds)\n"
    assert citations(section(text, "### The full grid")) == [("06.2", "undecided"), ("06.3", "holds")]
    assert [name for name, _ in citations(section(text, ""))] == ["06.1", "06.4", "06.5"]
    assert section("# a\n", "### The full grid") is None
