"""A profile's tables beside those that git holds: what counts as equal, and what cannot be compared."""

import subprocess

import pytest

from seaplib import __main__
from seaplib.commands import compare as command
from seaplib.runner import compare

pytestmark = pytest.mark.unit

ACCURACY = "method,requested_sparsity,task,value,stderr,n\n"
CLAIMS = "claim_id,claim,measured,low,high,p_value,verdict,where\n"


def counts(before: str, now: str, name: str = "table") -> dict[str, int]:
    return dict(compare.compare_tables(name, before, now).counts)


def test_the_same_table_is_equal():
    text = ACCURACY + "dense,0,piqa,0.8,0.04,100\nSEAP,0.5,piqa,0.6,0.05,100\n"
    assert counts(text, text) == {"equal": 6}
    assert not compare.compare_tables("table", text, text).differs


@pytest.mark.parametrize(
    ("before", "now", "kind"),
    [
        ("0.8", "0.80", "equal"),
        ("1000000", "1000000.5", "equal"),
        ("1000", "1000.01", "different"),
        ("0", "1e-9", "different"),
        ("0.8", "", "different"),
        ("–", "0.8", "different"),
    ],
)
def test_numbers_without_an_interval(before, now, kind):
    table = "method,value\na,{}\nb,1\n"
    assert counts(table.format(before), table.format(now))[kind] == 1 + (kind == "equal")


def test_an_empty_cell_on_both_sides_is_no_number():
    assert counts("method,value\na,\nb,1\n", "method,value\na,–\nb,1\n") == {"equal": 1}


@pytest.mark.parametrize(("now", "kind"), [("0.85", "within"), ("0.95", "different")])
def test_a_standard_error_makes_an_interval(now, kind):
    before = ACCURACY + "SEAP,0.5,piqa,0.80,0.04,100\n"
    assert counts(before, before.replace("0.80", now))[kind] == 1


def test_the_ends_and_the_p_value_go_with_their_estimate():
    before = "a,b,difference,low,high,value_a,p\nSEAP,FLAP,1.0,0.5,1.5,7,0.01\n"
    near = "a,b,difference,low,high,value_a,p\nSEAP,FLAP,1.4,0.9,1.9,7,0.02\n"
    far = "a,b,difference,low,high,value_a,p\nSEAP,FLAP,4.0,3.5,4.5,7,0.03\n"
    assert counts(before, near) == {"within": 4, "equal": 1}
    assert counts(before, far) == {"different": 4, "equal": 1}


def test_intervals_that_only_overlap_are_not_enough():
    table = "a,value,low,high\nSEAP,{},{},{}\n"
    before, now = table.format(1.0, 0.0, 1.5), table.format(2.0, 1.2, 3.0)
    assert counts(before, now) == {"different": 3}


def test_two_estimates_in_a_row_have_intervals_of_their_own():
    table = "a,value,low,high,share,share_low,share_high\nSEAP,{},0,2,{},{},{}\n"
    before, now = table.format(1.0, 0.5, 0.4, 0.6), table.format(1.1, 0.9, 0.8, 1.0)
    assert counts(before, now) == {"within": 1, "different": 3, "equal": 2}


def test_rows_meet_by_name_wherever_they_stand():
    before = ACCURACY + "SEAP,0.2,piqa,0.8,0.04,100\nSEAP,0.5,piqa,0.6,0.04,100\n"
    now = ACCURACY + "SEAP,0.5,piqa,0.6,0.04,100\nSEAP,0.2,piqa,0.8,0.04,100\n"
    assert counts(before, now) == {"equal": 6}


def test_rows_that_are_named_alike_meet_in_their_order():
    before, now = "method,value\nSEAP,1\nSEAP,2\n", "method,value\nSEAP,1\nSEAP,3\n"
    assert counts(before, now) == {"equal": 1, "different": 1}


def test_what_only_one_side_has_is_said():
    before = "method,value,old\nSEAP,1,1\nFLAP,2,1\n"
    now = "method,value,new_a,new_b\nSEAP,1,1,1\n"
    found = compare.compare_tables("table", before, now)
    assert found.apart == ["only committed: 1 row, column old", "only here: columns new_a, new_b"]
    assert found.differs and found.counts == {"equal": 1}


def test_the_first_example_names_row_column_and_both_values():
    before = ACCURACY + "SEAP,0.2,piqa,0.8,0.01,100\nSEAP,0.5,piqa,0.6,0.01,100\n"
    found = compare.compare_tables("table", before, before.replace("0.6", "0.9"))
    assert found.example == "0.5: value 0.6 → 0.9"


def test_a_claim_meets_by_its_id_and_its_verdict_is_a_text():
    before = CLAIMS + "01.1,SEAP wins,1,0.5,1.5,0.01,holds,table1\n"
    now = CLAIMS + "01.1,SEAP is ahead,1,-0.5,1.5,0.01,undecided,table1\n"
    found = compare.compare_tables("claims", before, now)
    assert found.counts == {"equal": 3, "within": 1, "text": 2} and not found.apart


def test_times_are_counted_and_not_compared():
    columns = "name,tokens_per_second,low,high,ratio,ratio_low,ratio_high,parameters,device_name\n"
    speed = f"{columns}SEAP,{{0}},{{0}},{{0}},1,1,1,9,{{0}}\n"
    assert counts(speed.format(1), speed.format(2), "table2_inference_speed") == {"time": 6, "equal": 1}
    assert counts("a,seconds\nx,1\n", "a,seconds\nx,2\n") == {"time": 1}
    claim = CLAIMS + "{0},SEAP is faster,{1},{1},{1},0.1,{2},{0}\n"
    fast, slow = claim.format("routing_worth", 1, "holds"), claim.format("routing_worth", 2, "undecided")
    assert counts(fast, slow) == {"time": 4}
    assert counts(claim.format("other", 1, "holds"), claim.format("other", 2, "holds"))["different"] == 3


# --- git ------------------------------------------------------------------------------------------


def git(root, *arguments: str) -> None:
    about = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(root), *about, *arguments], check=True, capture_output=True)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A checkout whose HEAD holds two tables of a profile, below the repository's root; the same files lie there."""
    root = tmp_path / "repository" / "bench"
    folder = root / "figures" / "small"
    folder.mkdir(parents=True)
    for name, value in (("table_a", "1"), ("table_b", "2")):
        (folder / f"{name}.csv").write_text(f"method,value\nSEAP·é,{value}\n", "utf-8")
    (folder / "manifest.json").write_text("{}")
    (root / "papermill_runs.yaml").write_text("profiles: {small: {}, other: {}}\nnotebooks: {}\n")
    git(tmp_path / "repository", "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "Tables")
    monkeypatch.setenv("SEAP_ROOT", str(root))
    monkeypatch.delenv("SEAP_FIGURES_DIR")
    return root


def test_the_committed_tables_come_from_git_whatever_lies_in_the_folder(project):
    (project / "figures/small/table_a.csv").write_text("method,value\nSEAP·é,9\n", "utf-8")
    assert compare.committed("small")["table_a"] == "method,value\nSEAP·é,1\n"
    assert set(compare.committed("small")) == {"table_a", "table_b"}
    found = compare.compare("small")
    assert found.counts == {"equal": 1, "different": 1}
    assert (project / "figures/small/table_a.csv").read_text("utf-8").endswith("9\n"), "nothing is checked out"


def test_tables_that_only_one_side_has(project):
    (project / "figures/small/table_a.csv").rename(project / "figures/small/table_c.csv")
    found = compare.compare("small")
    assert (found.only_committed, found.only_here) == (["table_a"], ["table_c"])
    said = command.report("small")
    assert "Only among the committed ones: table_a" in said and "Only here: table_c" in said


def test_the_report_ends_in_one_sentence(project):
    assert command.report("small") == (
        "Of 2 numbers in 2 tables 2 equal the committed ones, 0 are equal within their interval and 0 are different."
    )
    (project / "figures/small/table_b.csv").write_text("method,value\nSEAP·é,9\n", "utf-8")
    *table, sentence = command.report("small").splitlines()
    assert any("table_b" in line and "value 2 → 9" in line for line in table) and "table_a" not in "".join(table)
    assert "1 are different" in sentence


@pytest.mark.parametrize("lacking", ["git checkout", "profile", "git"])
def test_nothing_to_compare_with_is_one_line(project, tmp_path, monkeypatch, lacking):
    profile = "other" if lacking == "profile" else "small"
    if lacking == "git checkout":
        (tmp_path / "repository" / ".git").rename(tmp_path / "gone")
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    elif lacking == "git":
        monkeypatch.setenv("PATH", str(tmp_path))
    assert compare.compare(profile) is None
    assert command.report(profile).startswith("Nothing to compare with: ") and "\n" not in command.report(profile)


def test_the_command_takes_profile_and_revision(project, capsys):
    (project / "figures/small/table_a.csv").write_text("method,value\nSEAP·é,9\n", "utf-8")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "-m", "Another number")
    assert __main__.main(["compare"]) == 0
    assert "0 are different" in capsys.readouterr().out
    assert __main__.main(["compare", "--profile", "small", "--with", "HEAD~1"]) == 0
    assert "value 1 → 9" in capsys.readouterr().out
    for wrong in (["--profile", "smal"], ["--with", "nowhere"]):
        assert __main__.main(["compare", *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("damage", [b"\xff\xfe,,", b"method,value\na,b,c\n"])
def test_a_crash_of_the_comparison_is_a_line_and_no_failure(project, capsys, damage):
    (project / "figures/small/table_a.csv").write_bytes(damage)
    assert __main__.main(["reproduce", "--profile", "small"]) == 0
    said = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert said.startswith("Not compared with the committed tables: ")


def test_a_table_of_a_command_wraps_texts_and_leaves_numbers():
    from seaplib.commands.text import table

    lines = table([["name " * 20, "2,098", "word " * 20]], ["a", "b", "c"]).splitlines()
    assert "2,098" in lines[2] and ("name " * 20).strip() in lines[2] and len(lines) == 5
