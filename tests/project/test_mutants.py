"""The committed sample of mutants is of the size that was meant, and every survivor has its reason."""

import csv

import mutants
import pytest

pytestmark = pytest.mark.unit


def test_every_survivor_has_a_reason():
    if not mutants.RESULTS.is_file():
        pytest.skip("make mutants has not been run to its end yet")
    rows = list(csv.DictReader(mutants.RESULTS.read_text("utf-8").splitlines()))
    assert len(rows) >= 300 and {row["module"] for row in rows} == set(mutants.TESTS)
    assert all(row["why"] for row in rows if row["outcome"] == mutants.SURVIVED)


def test_annotations_and_messages_are_no_code():
    text = "def f(x: int | None) -> int:\n    if x < 0:\n        raise ValueError(x * 2)\n    return x + 1\n"
    same = text.replace("int | None", "int & None").replace("x * 2", "x / 2")
    assert mutants.computing(text) == mutants.computing(same) != mutants.computing(text.replace("x + 1", "x - 1"))
    assert mutants.computing("def") is None
    assert mutants.change("a\nb\nc", "a\nB\nc") == "b → B"
