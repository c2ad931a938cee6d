"""Masks as tidy frames: against masks small enough to count by hand."""

import numpy as np
import pytest
import torch

from seaplib.models.shapes import Geometry
from seaplib.pruning import allocation, inspection
from seaplib.pruning.masks import PruningMask
from seaplib.pruning.selection import select

pytestmark = pytest.mark.unit
MHA = Geometry(8, 32, 8, 8, 4, 48, model_parameters=100_000, vocabulary=100)
GQA = Geometry(8, 32, 8, 2, 4, 48, model_parameters=100_000, vocabulary=100)


def mask(heads: str, channels: str) -> PruningMask:
    """A mask of one layer, 1 for a unit that stays."""
    shape = Geometry(1, 2, len(heads), len(heads), 1, len(channels), model_parameters=1000)
    units = (torch.tensor([[unit == "1" for unit in row]]) for row in (heads, channels))
    return PruningMask(shape, *units)


def test_what_a_layer_loses_adds_up_to_the_mask():
    for shape in (MHA, GQA):
        chosen = select(inspection.drawn_scores(shape), allocation.adaptive(0.5))
        lost = inspection.removed_by_layer(chosen)
        assert lost.shape == (8,) and np.isclose(lost.mean(), chosen.achieved)
    assert inspection.removed_by_layer(mask("11", "1100")).tolist() == [2 * 6 / (2 * 8 + 4 * 6)]


def test_layer_shares_follow_the_curve_or_the_scores():
    rules = (allocation.uniform, allocation.logistic, allocation.authors_logistic, allocation.adaptive)
    frame = inspection.layer_shares(rules, [0.2, 0.5], inspection.drawn_scores(MHA))
    names = ["uniform", "logistic", "authors' code, protect 2+2", "adaptive"]
    assert frame["allocation"].unique().tolist() == names and len(frame) == 4 * 2 * 8
    means = frame.groupby(["allocation", "sparsity"])["ratio"].mean()
    for name in ("uniform", "logistic", "adaptive"):
        assert np.isclose(means[name], [0.2, 0.5], atol=0.02).all()
    assert means["authors' code, protect 2+2", 0.5] == pytest.approx(0.25, abs=1e-3)  # half of the layers, protected


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (allocation.logistic(0.5), "logistic"),
        (allocation.logistic(0.5, protect_last=0), "logistic, protect 0+0"),
        (allocation.uniform(0.5, protect_first=1), "uniform, protect 1+0"),
    ],
)
def test_allocations_are_named_as_in_results(rule, name):
    assert inspection.allocation_name(rule) == name


def test_masks_are_listed_with_what_stays():
    frame = inspection.listed({("a", 0.5): mask("10", "1100"), ("b", 0.5): mask("11", "1110")})
    assert frame[["calibration", "heads", "channels"]].values.tolist() == [["a", 1, 2], ["b", 2, 3]]
    assert frame["fingerprint"].nunique() == 2


def test_overlaps_and_gaps_by_hand():
    masks = {"a": mask("10", "1100"), "b": mask("01", "1010"), "c": mask("01", "0011")}
    again = masks | {"a": mask("10", "1010")}
    found = inspection.overlaps(masks, again).set_index(["module", "task_a", "task_b"])["jaccard"]
    assert found["channels", "a", "a"] == pytest.approx(1 / 3) and found["channels", "b", "b"] == 1
    assert found["heads", "a", "b"] == 0 and found["channels", "a", "b"] == pytest.approx(1 / 3)
    frame = inspection.gaps(inspection.overlaps(masks, again)).set_index(["module", "task"])
    assert frame.loc[("heads", "a"), ["same", "other", "gap"]].tolist() == [1, 0, 1]
    assert frame.loc[("heads", "b"), ["same", "other", "gap"]].tolist() == [1, 0.5, 0.5]
    assert frame.loc[("channels", "a"), "gap"] == pytest.approx(1 / 3 - 1 / 6)


def test_budgets_have_a_row_for_every_unit_of_attention():
    rules = [(allocation.logistic, "floor"), (allocation.logistic, "parameters")]
    shapes = {name: inspection.drawn_scores(shape) for name, shape in {"mha": MHA, "gqa": GQA}.items()}
    frame = inspection.budgets(shapes, rules, [0.2, 0.5])
    assert frame.groupby("geometry").size().to_dict() == {"mha": 4, "gqa": 8}
    carried = frame[(frame["budget"] == "parameters") & (frame["kv_unit"] == "group")]
    assert (carried["achieved"] - carried["requested"]).abs().max() < 0.02  # small shapes have coarse units
    assert (frame.loc[frame["kv_unit"] == "query", "kv_cache"] == 0).all()
