from dataclasses import replace

import numpy as np
import pytest
import reference
import torch

from seaplib import models, pruning
from seaplib.models.shapes import Geometry
from seaplib.pruning import allocation, masks, selection
from seaplib.pruning.masks import PruningMask
from seaplib.pruning.scores import Scores
from seaplib.pruning.selection import select

pytestmark = pytest.mark.unit


def geometry(layers, hidden, heads, kv_heads, head_dim, channels, vocabulary=1000) -> Geometry:
    g = Geometry(layers, hidden, heads, kv_heads, head_dim, channels, 0, vocabulary)
    return replace(g, model_parameters=g.projection_parameters + 2 * vocabulary * hidden)


#: shapes of real models: multi-head, and grouped-query with 8, 3 and 2 groups a layer
REAL = {
    "mha_32x32": geometry(32, 4096, 32, 32, 128, 11008, 32000),
    "gqa_32x8": geometry(32, 4096, 32, 8, 128, 14336, 128256),
    "gqa_30x3": geometry(30, 576, 9, 3, 64, 1536, 49152),
    "gqa_24x2": geometry(24, 896, 14, 2, 64, 4864, 151936),
}
MHA, GQA = geometry(6, 32, 8, 8, 4, 48), geometry(6, 32, 12, 3, 4, 48)


def random_scores(g: Geometry, seed: int = 0, **changes) -> Scores:
    generator = torch.Generator().manual_seed(seed)

    def draw(dims):
        return torch.rand(g.layers, dims, generator=generator, dtype=torch.float64)

    return Scores(
        g, draw(g.heads * g.head_dim), draw(g.channels), provenance={"score": "s_F", "calibration": "piqa"}, **changes
    )


def units(g: Geometry) -> list[str]:
    return ["group", "query"] if g.queries_per_group > 1 else ["group"]


def cases(geometries: dict) -> list:
    return [pytest.param(g, unit, id=f"{name}-{unit}") for name, g in geometries.items() for unit in units(g)]


# ---- selection -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0.1, 0.2, 0.5])
def test_floor_removes_the_floor_of_every_ratio_and_the_lowest(target):
    scores = random_scores(MHA)
    mask = select(scores, allocation.logistic(target), budget="floor")
    rho = reference.logistic(target, 6, 0.3, 1.0, 0, 2)
    for layer in range(6):
        for kept, score, n in ((mask.heads, scores.heads, 8), (mask.channels, scores.channels, 48)):
            assert kept[layer].tolist() == reference.keep(score[layer].tolist(), int(rho[layer] * n))


def test_floor_is_not_fooled_by_rounding():
    """0.29·100 and 0.57·100 are 28.999… and 56.999… in floating point; the floor of what was meant is 29 and 57."""
    g = geometry(1, 8, 4, 4, 2, 100)
    for ratio, expected in ((0.29, 29), (0.57, 57), (0.299, 29), (0.25, 25)):
        mask = select(random_scores(g), allocation.uniform(ratio), budget="floor")
        assert int((~mask.channels).sum()) == expected


def test_floor_on_few_groups_removes_none_and_says_so():
    g = REAL["gqa_30x3"]
    mask = select(random_scores(g), allocation.uniform(0.2), budget="floor")
    assert bool(mask.heads.all()), "floor(0.2·3) = 0"
    assert mask.requested == 0.2 and mask.achieved == pytest.approx(0.75 * 307 / 1536)


@pytest.mark.parametrize("target", [0.05, 0.2, 0.35, 0.5, 0.65, 0.8])
@pytest.mark.parametrize(("g", "kv_unit"), cases(REAL))
@pytest.mark.parametrize("make", [allocation.logistic, allocation.uniform])
def test_the_parameter_budget_is_met(g, kv_unit, target, make):
    mask = select(random_scores(g), make(target), kv_unit=kv_unit)
    assert abs(mask.achieved - target) < 0.005
    assert abs(mask.achieved - target) < 1.5 * g.channel_parameters / g.projection_parameters, "within a channel"
    assert mask.requested == target
    assert bool(mask.heads.any(1).all()) and bool(mask.channels.any(1).all()), "a unit of each stays in every layer"
    if make is allocation.logistic:
        assert bool(mask.heads[-2:].all()) and bool(mask.channels[-2:].all()), "protected layers lose nothing"


@pytest.mark.parametrize("target", [0.2, 0.5, 0.7])
@pytest.mark.parametrize("g", REAL.values(), ids=REAL)
def test_the_adaptive_allocation_meets_its_budget(g, target):
    unit = "".join(["gro", "up"])  # as read from a file: equal, and another object
    mask = select(random_scores(g), allocation.adaptive(target, protect_last=2), kv_unit=unit)
    assert abs(mask.achieved - target) < 0.005
    assert bool(mask.heads[-2:].all()) and bool(mask.channels[-2:].all())


@pytest.mark.parametrize(("g", "kv_unit"), cases(REAL))
def test_attention_and_mlp_share_the_budget(g, kv_unit):
    """Rounding is carried on, so over all layers each module's share is near the request."""
    budget = select(random_scores(g), allocation.uniform(0.5), kv_unit=kv_unit).budget()
    assert budget["mlp"] == pytest.approx(0.5, abs=0.07)
    if kv_unit == "group":
        assert budget["attention"] == pytest.approx(0.5, abs=0.02)
    else:  # k and v stay
        assert budget["kv_cache"] == 0
        assert budget["attention"] < 0.5 < budget["mlp"]


@pytest.mark.parametrize(("g", "kv_unit"), cases(REAL | {"small_mha": MHA, "small_gqa": GQA}))
def test_what_cannot_be_reached_is_an_error_and_what_is_named_can(g, kv_unit):
    scores = random_scores(g)
    with pytest.raises(allocation.UnreachableSparsity, match="largest possible is") as error:
        select(scores, allocation.logistic(0.99), kv_unit=kv_unit)
    largest = float(str(error.value).rsplit(" ", 1)[1])
    assert 0.4 < largest < 0.99
    mask = select(scores, allocation.logistic(largest), kv_unit=kv_unit)
    assert mask.achieved == pytest.approx(largest, abs=0.005)
    with pytest.raises(allocation.UnreachableSparsity):
        select(scores, allocation.logistic(largest + 0.002), kv_unit=kv_unit)


def test_adaptive_out_of_reach_is_an_error():
    with pytest.raises(allocation.UnreachableSparsity, match=r"0\.666"):
        select(random_scores(MHA), allocation.adaptive(0.7, protect_last=2))


def test_achieved_equals_what_is_counted_matrix_by_matrix():
    for g in (MHA, GQA):
        for kv_unit in units(g):
            mask = select(random_scores(g), allocation.logistic(0.4), kv_unit=kv_unit)
            counted = reference.removed_parameters(
                mask.heads.tolist(), mask.channels.tolist(), g.kv_heads, g.head_dim, g.hidden
            )
            assert mask.removed_parameters == counted
            assert mask.achieved == counted / g.projection_parameters
            assert mask.achieved_model == counted / g.model_parameters


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("kind", "kv_unit"), [("mha", "group"), ("gqa", "group"), ("gqa", "query")])
@pytest.mark.parametrize("budget", ["floor", "parameters"])
def test_achieved_equals_the_parameters_of_the_removed_model(tiny_model, kind, kv_unit, bias, budget):
    model = tiny_model(kind, num_hidden_layers=3, attention_bias=bias, mlp_bias=bias)
    g = models.geometry(model)
    mask = select(random_scores(g), allocation.uniform(0.45), budget, kv_unit)
    pruned = pruning.prune(model, mask, "remove")
    left = sum(p.numel() for p in pruned.parameters())
    assert mask.removed_parameters == g.model_parameters - left > 0
    assert mask.achieved == pytest.approx(1 - models.projection_parameters(pruned) / g.projection_parameters, abs=1e-12)
    assert mask.achieved_model == pytest.approx(1 - left / g.model_parameters, abs=1e-12)


def test_ties_go_by_index():
    g = geometry(2, 8, 4, 4, 2, 10)
    flat = Scores(g, torch.ones(2, 8, dtype=torch.float64), torch.ones(2, 10, dtype=torch.float64))
    mask = select(flat, allocation.uniform(0.5), budget="floor")
    assert mask.heads.tolist() == [[False, False, True, True]] * 2
    assert mask.channels.tolist() == [[False] * 5 + [True] * 5] * 2
    assert reference.keep([1.0] * 10, 5) == mask.channels[0].tolist()
    adaptive, _ = selection.rank_all(torch.zeros(2, 2), torch.zeros(2, 3), 1.0, 3.0)
    assert adaptive.tolist() == [[False, False], [False, True]]


@pytest.mark.parametrize("g", [MHA, GQA], ids=["mha", "gqa"])
def test_ratio_zero_is_the_identity(g):
    for make in (allocation.logistic, allocation.uniform, allocation.adaptive):
        for budget in ("floor", "parameters"):
            mask = select(random_scores(g), make(0.0), budget)
            assert bool(mask.heads.all()) and bool(mask.channels.all())
            assert mask.achieved == 0 and mask.requested == 0
    assert masks.keep_all(g).achieved == 0


def test_the_lowest_go_and_of_equal_ones_the_first():
    draw = torch.Generator().manual_seed(0)
    for size, kinds in ((1, 1), (2, 1), (7, 3), (12, 4), (12, 1000)):
        scores = torch.randint(kinds, (size,), generator=draw).double()
        for count in range(size + 1):
            assert selection.lowest(scores, count).tolist() == reference.keep(scores.tolist(), count)


def test_groups_go_whole_and_by_the_sum_of_their_heads():
    scores = random_scores(GQA)
    mask = select(scores, allocation.uniform(0.4), budget="floor")
    per_group = mask.heads.unflatten(1, (3, 4))
    assert bool((per_group.all(-1) | ~per_group.any(-1)).all())
    for layer in range(6):
        groups = scores.heads[layer].unflatten(0, (3, 4)).sum(1).tolist()
        assert mask.kv_heads[layer].tolist() == reference.keep(groups, 1)


def test_by_query_every_group_loses_the_same_number_of_its_lowest():
    scores = random_scores(GQA)
    mask = select(scores, allocation.uniform(0.5), "floor", "query")
    assert bool(mask.kv_heads.all()), "k and v stay"
    for layer in range(6):
        for group in range(3):
            own = slice(4 * group, 4 * group + 4)
            assert mask.heads[layer, own].tolist() == reference.keep(scores.heads[layer, own].tolist(), 2)


def test_by_query_needs_groups():
    with pytest.raises(ValueError, match="group"):
        select(random_scores(MHA), allocation.uniform(0.5), kv_unit="query")
    with pytest.raises(ValueError, match="group"):
        select(random_scores(GQA), allocation.adaptive(0.5), kv_unit="query")


def test_a_debt_that_is_carried_on_leaves_a_unit_in_every_layer():
    """Half a head is owed by the first layer and one and a half by the second, which has two."""
    g = Geometry(2, hidden=8, heads=2, kv_heads=2, head_dim=4, channels=8, model_parameters=10**4)
    rho = {"attention": np.array([0.25, 0.5]), "mlp": np.array([0.5, 0.5])}
    counts = selection._carried_counts(rho, 2, g, "group", 1)
    assert [units for units, _ in counts] == [0, 1]


@pytest.mark.parametrize("round_to", [2, 8, 64, 128])
def test_kept_channels_are_rounded(round_to):
    g = REAL["gqa_30x3"]
    mask = select(random_scores(g), allocation.logistic(0.3), round_to=round_to)
    assert set((mask.channels.sum(1) % round_to).tolist()) == {0}
    assert mask.achieved == pytest.approx(0.3, abs=0.005)
    for refused in ({"budget": "floor"}, {"sparsity": allocation.adaptive(0.3)}):
        with pytest.raises(ValueError, match="round_to"):
            select(random_scores(g), **({"sparsity": 0.3, "round_to": round_to} | refused))
    select(random_scores(g), 0.0, round_to=g.channels // 2)
    with pytest.raises(ValueError, match=f"half the channels \\({g.channels // 2}\\)"):
        select(random_scores(g), 0.0, round_to=g.channels // 2 + 1)


def test_a_bare_number_is_the_papers_allocation():
    a, b = select(random_scores(MHA), 0.3), select(random_scores(MHA), allocation.logistic(0.3))
    assert torch.equal(a.channels, b.channels) and a.provenance == b.provenance


def test_unknown_choices_are_refused():
    with pytest.raises(ValueError, match="flops"):
        select(random_scores(MHA), 0.3, budget="flops")


def test_the_remove_test_prunes_one_layer():
    scores = random_scores(GQA)
    mask = selection.single_layer(scores, 2, 0.7)
    assert bool(mask.heads[[0, 1, 3, 4, 5]].all()) and bool(mask.channels[[0, 1, 3, 4, 5]].all())
    assert int((~mask.kv_heads[2]).sum()) == int(0.7 * 3) and int((~mask.channels[2]).sum()) == int(0.7 * 48)
    assert not bool(selection.single_layer(scores, 2, 1.0).heads[2].any())
    with pytest.raises(ValueError, match="ratio"):
        selection.single_layer(scores, 2, 1.1)


# ---- FLAP's order --------------------------------------------------------------------------------------------------


def test_standardise_is_per_layer_with_n_minus_one():
    x = torch.tensor([[1.0, 2.0, 6.0], [10.0, 10.0, 40.0]])
    out = selection.standardise(x)
    assert out[0].tolist() == pytest.approx([-2 / 7**0.5, -1 / 7**0.5, 3 / 7**0.5])
    assert out.std(1).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("target", [0.0, 3.0, 7.5, 20.0])
def test_one_order_over_everything(target):
    """Against FLAP's slow threshold. FLAP itself keeps strictly above it, one unit fewer."""
    torch.manual_seed(0)
    groups, channels, cost = torch.rand(3, 4), torch.rand(3, 10), 2.5
    kept_groups, kept_channels = selection.rank_all(groups, channels, cost, target)
    metrics = torch.cat([groups.flatten(), channels.flatten()]).tolist()
    costs = [cost] * 12 + [1.0] * 30
    threshold = reference.flap_threshold(metrics, costs, target / sum(costs))
    assert kept_groups.flatten().tolist() + kept_channels.flatten().tolist() == [
        metric >= threshold for metric in metrics
    ]


def test_the_last_prefix_within_the_target():
    kept, _ = selection.rank_all(torch.tensor([[0.1, 0.2, 0.3]]), torch.zeros(1, 0), 2.0, 3.9, nearest=False)
    assert kept.tolist() == [[False, True, True]]
    kept, _ = selection.rank_all(torch.tensor([[0.1, 0.2, 0.3]]), torch.zeros(1, 0), 2.0, 3.9)
    assert kept.tolist() == [[False, False, True]]


# ---- the noun ------------------------------------------------------------------------------------------------------


def test_save_and_load(tmp_path):
    mask = select(random_scores(GQA), 0.3)
    mask.save(tmp_path / "mask")
    loaded = PruningMask.load(tmp_path / "mask")
    assert torch.equal(loaded.heads, mask.heads) and torch.equal(loaded.channels, mask.channels)
    assert (loaded.geometry, loaded.provenance, loaded.fingerprint) == (
        mask.geometry,
        mask.provenance,
        mask.fingerprint,
    )
    assert loaded.heads.dtype == torch.bool


def test_fingerprints_tell_masks_apart():
    a, b = select(random_scores(GQA), 0.3), select(random_scores(GQA, seed=1), 0.3)
    assert a.fingerprint == select(random_scores(GQA), 0.3).fingerprint != b.fingerprint


def test_overlap_is_jaccard_beside_chance():
    g = geometry(1, 8, 4, 4, 2, 10)
    a, b = masks.keep_all(g), masks.keep_all(g)
    a.channels[0, :5] = False
    b.channels[0, 3:8] = False
    overlap = a.overlap(b)
    assert overlap["channels"] == pytest.approx(2 / 8)  # kept by both: 8, 9; by either: all but 3, 4
    assert overlap["channels_chance"] == pytest.approx(0.25 / 0.75)
    assert overlap["heads"] == overlap["heads_chance"] == 1
    assert a.overlap(a)["channels"] == 1
    a.channels[0] = torch.arange(10) == 9
    assert a.overlap(a)["channels"] == 1, "of a single channel too"


def test_chance_is_what_random_masks_have():
    masks_ = [select(random_scores(REAL["gqa_30x3"], seed), allocation.uniform(0.5)) for seed in (0, 1)]
    overlap = masks_[0].overlap(masks_[1])
    assert overlap["channels"] == pytest.approx(overlap["channels_chance"], abs=0.02)


def test_wrong_shapes_are_refused():
    good = masks.keep_all(GQA)
    for heads, channels, what in (
        (good.heads[:, :8], good.channels, "heads"),
        (good.heads, good.channels[:3], "channels"),
    ):
        with pytest.raises(ValueError, match=what):
            PruningMask(GQA, heads, channels)


def test_uneven_groups_are_refused():
    heads = masks.keep_all(GQA).heads
    heads[3, 0] = False
    with pytest.raises(ValueError, match=r"layer 3.*\[3, 4, 4\]"):
        PruningMask(GQA, heads, masks.keep_all(GQA).channels)
    heads[3, :4] = False  # a whole group may go
    assert PruningMask(GQA, heads, masks.keep_all(GQA).channels).kv_heads[3].tolist() == [False, True, True]


def test_budget_reports_every_share():
    mask = masks.keep_all(GQA)
    mask.channels[:, :24] = False
    mask.heads[0, :4] = False
    budget = mask.budget()
    assert budget["mlp"] == 0.5
    assert budget["kv_cache"] == pytest.approx(1 / 18)
    assert budget["attention"] == pytest.approx(1 / 18)
    assert budget["model"] == mask.achieved_model < budget["macs"] < budget["achieved"] == mask.achieved


def test_masks_print_requested_and_achieved():
    text = repr(select(random_scores(GQA), allocation.logistic(0.3)))
    assert "requested 30.0%" in text and "achieved 30." in text and "s_F piqa logistic" in text
