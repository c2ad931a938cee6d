"""What holds for every allocation, selection, budget and mask, whatever the model's shape (drawn by hypothesis)."""

import tempfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seaplib.models.shapes import Geometry
from seaplib.pruning import allocation, masks, selection
from seaplib.pruning.allocation import UnreachableSparsity
from seaplib.pruning.scores import Scores

pytestmark = pytest.mark.unit


@st.composite
def geometries(draw) -> Geometry:
    kv_heads, queries = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    shape = {"layers": draw(st.integers(1, 7)), "hidden": draw(st.integers(1, 40)), "head_dim": draw(st.integers(1, 5))}
    shape |= {"heads": kv_heads * queries, "kv_heads": kv_heads, "channels": draw(st.integers(2, 40))}
    flags = {name: draw(st.booleans()) for name in ("attention_bias", "mlp_bias", "gated")}
    made = Geometry(**shape, **flags, model_parameters=0)
    return Geometry(**shape, **flags, model_parameters=made.projection_parameters + draw(st.integers(0, 1000)))


@st.composite
def scored(draw) -> Scores:
    g = draw(geometries())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    sizes = {"attention": (g.layers, g.heads * g.head_dim), "mlp": (g.layers, g.channels)}
    levels = draw(st.sampled_from([2, 5, 10**6]))  # few levels make many ties

    def values(module: str) -> torch.Tensor:
        return torch.randint(1, levels, sizes[module], generator=generator).double()

    return Scores(g, values("attention"), values("mlp"), errors={module: values(module) for module in sizes})


@st.composite
def allocations(draw, kinds=("uniform", "logistic", "energy")) -> allocation.Allocation:
    curve = {"x0": draw(st.floats(-1, 2)), "k": draw(st.floats(-20, 20))}
    protected = {"protect_first": draw(st.integers(0, 2)), "protect_last": draw(st.integers(0, 2))}
    return allocation.Allocation(draw(st.sampled_from(kinds)), draw(st.floats(0, 0.95)), **curve, **protected)


@given(allocations(("uniform", "logistic")), st.integers(1, 30), st.floats(0.3, 1), st.floats(0.05, 0.95))
def test_ratios_meet_the_target_within_their_caps(rule, layers, cap, share):
    caps, shares = {"attention": cap, "mlp": 1.0}, {"attention": share, "mlp": 1 - share}
    try:
        ratios = rule.ratios(layers, caps, shares)
    except UnreachableSparsity:
        free = rule.unprotected(layers).sum()
        assert rule.sparsity > sum(shares[m] * caps[m] for m in caps) * free / layers
        return
    mean = sum(shares[module] * ratios[module].mean() for module in caps)
    assert mean == pytest.approx(rule.sparsity, abs=1e-6)
    for module, cap_of in caps.items():
        assert ((0 <= ratios[module]) & (ratios[module] <= cap_of + 1e-12)).all()
        assert not ratios[module][~rule.unprotected(layers)].any()


@given(scored(), allocations(), st.sampled_from(["group", "query"]))
def test_a_selection_meets_its_budget_and_takes_the_lowest(scores, rule, kv_unit):
    g = scores.geometry
    if kv_unit == "query" and g.queries_per_group == 1:
        return
    try:
        mask = selection.select(scores, rule, kv_unit=kv_unit)
    except UnreachableSparsity:
        return
    free = torch.from_numpy(rule.unprotected(g.layers))
    assert mask.heads[~free].all() and mask.channels[~free].all()
    if rule.sparsity == 0:
        assert mask.removed_parameters == 0
    unit = selection.attention_unit_parameters(g, kv_unit)
    missed = abs(mask.removed_parameters - rule.sparsity * g.projection_parameters)
    assert missed <= max(unit, g.channel_parameters) + 1e-6, "within the coarsest unit, wherever channels run out"
    for layer in range(g.layers):
        assert mask.heads[layer].any() and mask.channels[layer].any()
        kept, gone = (scores.channels[layer][keep] for keep in (mask.channels[layer], ~mask.channels[layer]))
        assert not len(gone) or gone.max() <= kept.min()
        by_group = mask.heads[layer].unflatten(0, (g.kv_heads, g.queries_per_group))
        assert len(set(by_group.sum(1)[by_group.any(1)].tolist())) == 1


@given(scored(), st.floats(0, 0.9))
def test_floor_never_takes_more_than_asked(scores, sparsity):
    try:
        mask = selection.select(scores, allocation.uniform(sparsity), budget="floor")
    except UnreachableSparsity:
        return
    assert mask.achieved <= sparsity + 1e-9


@given(scored(), st.floats(0, 0.9))
def test_the_budget_counts_what_the_mask_removes(scores, sparsity):
    g = scores.geometry
    try:
        mask = selection.select(scores, allocation.energy(sparsity))
    except UnreachableSparsity:
        return
    removed = sum(int((~mask.heads[i]).sum()) * g.query_parameters for i in range(g.layers))
    removed += sum(int((~mask.kv_heads[i]).sum()) * g.kv_parameters for i in range(g.layers))
    removed += sum(int((~mask.channels[i]).sum()) * g.channel_parameters for i in range(g.layers))
    assert removed == mask.removed_parameters
    assert mask.achieved == pytest.approx(removed / g.projection_parameters)
    assert 0 <= mask.achieved_model <= mask.achieved or g.model_parameters == 0
    with tempfile.TemporaryDirectory() as folder:
        mask.save(folder)
        again = masks.PruningMask.load(folder)
    assert torch.equal(again.heads, mask.heads) and torch.equal(again.channels, mask.channels)
    assert (again.geometry, again.fingerprint, again.provenance) == (g, mask.fingerprint, mask.provenance)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30))
def test_the_convex_curve_lies_below_and_is_convex(steps):
    values = np.append(0.0, np.cumsum(steps))
    found = selection.convex(values)
    assert (found <= values + 1e-9).all() and found[0] == values[0] and found[-1] == values[-1]
    assert (np.diff(found, 2) >= -1e-7).all()


@given(
    st.dictionaries(
        st.integers(0, 5), st.tuples(st.integers(1, 9), st.lists(st.floats(0, 10), max_size=12)), min_size=1
    ),
    st.floats(0, 1),
)
def test_the_cheapest_steps_spend_their_budget(modules, share):
    steps = {key: np.sort(losses) for key, (_, losses) in modules.items()}
    costs = {key: cost for key, (cost, _) in modules.items()}
    finest, most = min(costs.values()), sum(costs[key] * len(losses) for key, losses in steps.items())
    budget = share * most
    taken = selection.cheapest(steps, costs, budget)
    spent = sum(costs[key] * count for key, count in taken.items())
    assert all(0 <= count <= len(steps[key]) for key, count in taken.items())
    assert spent <= budget + max(costs.values())
    able = next((key for key in steps if costs[key] == finest), None)
    if len(steps[able]) * finest >= max(costs.values()):  # finer steps are enough to fill any gap
        assert abs(spent - budget) <= max(costs.values())
