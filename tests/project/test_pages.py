"""Tables and numbers of the pages are those of the files that their marks name (docs/pages.py)."""

import subprocess
from pathlib import Path

import pages
import pandas as pd
import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
ROW = {"a": "SEAP, s_F", "b": "FLAP, s_F", "metric": "primary", "task": "all", "requested_sparsity": 0.5}
ROW |= {"p": 1e-4}
BLOCK = '<!-- [[[cog print(table("{file}"))]]] -->\n{middle}<!-- [[[end]]] -->\n'


@pytest.fixture
def committed_figures():
    """The pages quote the committed runs; after another run here, their numbers are that run's to refresh."""
    folders = ["figures/embedded", "figures/embedded_full", "figures/bench"]
    command = ["git", "diff", "--quiet", "HEAD", "--", *folders]
    if subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 1:
        pytest.skip("figures were made again here; make docs copies their numbers")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a table of comparisons, a csv and a text."""
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    folder = tmp_path / "figures" / pages.PROFILE
    folder.mkdir(parents=True)

    def write(name: str = "zero_shot_comparisons", others=(), **values):
        pages.read.cache_clear()
        pd.DataFrame([ROW | values, *others]).to_csv(folder / f"{name}.csv", index=False)

    write(difference=-0.0272, low=-0.0455, high=-0.00886)
    (tmp_path / "README.md").write_text("no mark\n")
    yield write
    pages.read.cache_clear()


@pytest.mark.parametrize("name", pages.names())
def test_a_page_is_up_to_date(name, committed_figures):
    text = (ROOT / name).read_text("utf-8")
    assert pages.refreshed(text, name) == text, "run: make docs"


def test_a_number_is_filled_and_refreshed(project):
    mark = '<!-- behind(0.5, "SEAP, s_F", "FLAP, s_F") -->'
    filled = f"SEAP is 2.7 [0.9, 4.5]{mark} points behind."
    assert pages.refreshed(f"SEAP is ?{mark} points behind.") == filled
    assert pages.refreshed(f"SEAP is 13.0 [−1.0, 2.2]{mark} points behind.") == filled == pages.refreshed(filled)


@pytest.mark.parametrize(
    "call, interval",
    [
        ('ahead(0.5, "SEAP, s_F", "FLAP, s_F")', (-0.01, 0.02)),
        ('behind(0.5, "SEAP, s_F", "FLAP, s_F")', (-0.02, 0.01)),
        ('level(0.5, "SEAP, s_F", "FLAP, s_F")', (0.01, 0.02)),
        ('estimate("zero_shot_comparisons", "difference", above=0, a="SEAP, s_F")', (-0.01, 0.02)),
        ('estimate("zero_shot_comparisons", "difference", below=0, a="SEAP, s_F")', (-0.01, 0.02)),
        ('ahead(0.5, "SEAP, s_F", "FLAP, s_W")', (0.01, 0.02)),  # not compared
        ('number("zero_shot_comparisons", "difference", a="SEAP, s_W")', (0.01, 0.02)),  # no such row
        ('number("absent", "difference")', (0.01, 0.02)),
        ("nothing(1)", (0.01, 0.02)),
    ],
)
def test_a_sentence_that_is_no_longer_true_is_an_error(project, call, interval):
    project(difference=sum(interval) / 2, low=interval[0], high=interval[1])
    with pytest.raises(pages.PageError, match="^page:2: "):
        pages.refreshed(f"text\nmore ?<!-- {call} -->\n", "page")


def test_a_difference_that_holms_correction_does_not_leave_standing_is_not_called_ahead(project):
    others = [ROW | {"b": f"other {k}", "difference": 0.5, "low": 0.4, "high": 0.6} for k in range(600)]
    call = (0.5, "SEAP, s_F", "FLAP, s_F")
    project(difference=0.03, low=0.01, high=0.05, p=0.003, others=others)
    with pytest.raises(ValueError, match=r"p = 0\.003"):  # Holm: the largest of all counts once
        pages.uncorrected(*call)
    assert pages.ahead(*call) == "3.0 [1.0, 5.0]"
    weak = [row | {"difference": 0.02, "low": 0.0005, "high": 0.0395, "p": 0.04} for row in others]
    project(difference=0.03, low=0.01, high=0.05, p=0.003, others=weak)
    with pytest.raises(ValueError, match="not leave it standing"):
        pages.ahead(*call)
    assert pages.uncorrected(*call) == "+3.0 [+1.0, +5.0]"
    # 600 times the bootstrap's smallest p-value is above 0.05; an interval far from 0 stands all the same
    project(difference=0.5, low=0.4, high=0.6, others=weak)
    assert pages.ahead(*call) == "50.0 [40.0, 60.0]"
    # a table's rows of single tasks, and by another metric, are other families
    apart = [row | {"task": "mini_piqa"} for row in weak] + [row | {"metric": "exact_match"} for row in weak]
    project(difference=0.03, low=0.01, high=0.05, p=0.003, others=apart)
    assert pages.ahead(*call) == "3.0 [1.0, 5.0]"


def test_a_difference_says_its_sign(project):
    project(difference=0.0004, low=-0.004, high=0.0044)
    assert pages.level(0.5, "SEAP, s_F", "FLAP, s_F") == "0.0 [−0.4, +0.4]"
    shown = pages.differences("zero_shot_comparisons", {("SEAP, s_F", "FLAP, s_F"): "words"}, metrics=("primary",))
    assert shown.splitlines()[-1].split("|")[1:-1] == [" words        ", " accuracy ", " 0.0 [−0.4, +0.4] "]
    project(difference=0.02, low=0.01, high=0.03)
    assert "**+2.0 [+1.0, +3.0]**" in pages.differences(
        "zero_shot_comparisons", {("SEAP, s_F", "FLAP, s_F"): "words"}, ("primary",)
    )


def test_a_block_is_filled_and_refreshed(project):
    (pages.ROOT / "table.md").write_text("| new |\n")
    full = BLOCK.format(file="table.md", middle="| new |\n")
    for middle in ("", "| old |\n"):
        assert pages.refreshed(BLOCK.format(file="table.md", middle=middle)) == full
    for broken in (BLOCK.format(file="absent.md", middle=""), BLOCK.split("{middle}")[0].format(file="table.md")):
        with pytest.raises(pages.PageError):
            pages.refreshed(broken)


def test_a_csv_becomes_a_table(project):
    lines = ["name,task,acc,n,change,all", "x,a|b,0.25,100,-1e-05,1", "y,,1,,0.12345,0", "z,x,,7,,1"]
    (pages.ROOT / "table.csv").write_text("\n".join(lines) + "\n")
    rows = [
        [cell.strip() for cell in line.replace(r"\|", "¦").split("|")[1:-1]]
        for line in pages.table("table.csv").splitlines()
    ]
    assert rows[0] == ["name", "task", "acc", "n", "change", "all"] and set("".join(rows[1])) <= set(":-")
    assert rows[2:] == [
        ["x", "a¦b", "0.250", "100", "0.000", "1"],
        ["y", "", "1.000", "", "0.123", "0"],
        ["z", "x", "", "7", "", "1"],
    ]


def test_the_program_writes_all_pages_or_none(project, capsys):
    mark = '?<!-- behind(0.5, "SEAP, s_F", "FLAP, s_F") -->\n'
    (pages.ROOT / "docs").mkdir()
    page = pages.ROOT / "docs" / "page.md"
    (pages.ROOT / "README.md").write_text(mark)
    page.write_text(mark.replace("behind", "ahead"))
    assert pages.main([]) == 2 and capsys.readouterr().err.startswith("docs/page.md:1: ")
    assert (pages.ROOT / "README.md").read_text() == mark
    page.write_text("no mark\n")
    assert pages.main(["--check"]) == 1 and (pages.ROOT / "README.md").read_text() == mark
    assert pages.main([]) == 0 and capsys.readouterr().out.endswith("README.md: refreshed\n")
    assert pages.main(["--check"]) == 0
