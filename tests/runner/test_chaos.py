"""Killed runners, workers and kernels, and code edited meanwhile, cost nothing: the short version of tests/chaos.py."""

import chaos
import pytest


@pytest.mark.slow
def test_kills_and_edits_cost_nothing():
    tally = chaos.chaos(kills=3, each=1, pause=6, seed=2, notebooks=["02_norm_heatmaps", "04_pruning"], edits=1.0)
    assert tally.wrong == []
    assert tally.killed.total() == 3 and tally.edits == 3 and tally.numbers["equal"] > 100


@pytest.mark.unit
def test_the_committed_calls_lost_nothing():
    rows = list(chaos.csv.DictReader(chaos.COUNTS.read_text("utf-8").splitlines()))
    bad = ("processes_left", "lost", "damaged", "numbers_different", "texts_different")
    assert all(row[name] == "0" for row in rows for name in bad)
    assert sum(int(row["kills"]) for row in rows) >= 20
