"""Our allocation: the stream's size and relative errors against loops, the cheapest division against all others."""

import itertools

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURE_CASES, SENTENCES

import seaplib
from seaplib import activations, models
from seaplib.models.shapes import Geometry
from seaplib.pruning import allocation, methods, scores, selection
from seaplib.pruning.allocation import UnreachableSparsity
from seaplib.pruning.scores import Scores
from seaplib.settings import Calibration
from seaplib.texts import corpora

pytestmark = pytest.mark.unit

TEXTS = corpora.Corpus("mine", tuple(SENTENCES), tuple(map(str, range(len(SENTENCES)))), {})


def drawn(g: Geometry, seed=0, spread=2.0) -> Scores:
    """Random scores, and errors of other sizes in every module."""
    draw = torch.Generator().manual_seed(seed)
    sizes = {"attention": g.heads * g.head_dim, "mlp": g.channels}
    ranks = [torch.rand(g.layers, size, generator=draw, dtype=torch.float64) for size in sizes.values()]
    scale = {m: torch.exp(spread * torch.randn(g.layers, 1, generator=draw, dtype=torch.float64)) for m in sizes}
    errors = {m: scale[m] * torch.rand(g.layers, n, generator=draw, dtype=torch.float64) for m, n in sizes.items()}
    return Scores(g, *ranks, errors=errors)


def shape(layers=4, kv_heads=4, channels=192) -> Geometry:
    return Geometry(
        layers, hidden=64, heads=8, kv_heads=kv_heads, head_dim=8, channels=channels, model_parameters=10**6
    )


# --- what it goes by ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ARCHITECTURE_CASES)
def test_the_streams_size_is_the_harmonic_mean_over_tokens(any_model, tiny_tokenizer, case):
    model = any_model(case)
    seen = {}

    def note(index):
        return lambda module, args, kwargs: seen.setdefault(index, []).append(
            (args[0] if args else kwargs["hidden_states"])[0].detach().double()
        )

    layers = models.decoder_layers(model)
    handles = [layer.register_forward_pre_hook(note(i), with_kwargs=True) for i, layer in enumerate(layers)]
    with torch.no_grad():
        for ids in tiny_tokenizer(list(TEXTS.texts))["input_ids"]:
            model(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    expected = [1 / float((1 / torch.cat(parts).square().sum(-1)).mean()) for parts in seen.values()]
    for calibration in (None, Calibration(batch_tokens=1), Calibration(pooling="prompt")):
        stats = activations.collect(model, tiny_tokenizer, TEXTS, calibration, progress=False)
        assert stats.stream.tolist() == pytest.approx(expected, rel=1e-4)


def test_the_bos_position_is_left_out_with_the_others(tiny_model, tiny_tokenizer):
    model = tiny_model()
    whole, without = (
        activations.collect(model, tiny_tokenizer, TEXTS, Calibration(bos=bos), progress=False) for bos in (True, False)
    )
    assert not torch.allclose(whole.stream, without.stream)


def test_the_streams_size_saves_and_loads(tiny_model, tiny_tokenizer, tmp_path):
    stats = activations.collect(tiny_model(), tiny_tokenizer, TEXTS, progress=False)
    stats.save(tmp_path)
    assert torch.equal(activations.ActivationStats.load(tmp_path).stream, stats.stream)


@pytest.mark.parametrize("name", ["s_F", "s_W", "magnitude", "random"])
def test_relative_errors_are_energies_over_the_streams_size(tiny_model, tiny_tokenizer, name):
    stats = activations.collect(tiny_model("gqa"), tiny_tokenizer, TEXTS, progress=False)
    found = scores.score(stats, name)
    for module, dims in (("attention", 32), ("mlp", 48)):
        for layer, i in itertools.product(range(2), range(dims)):
            energy = stats.second_moment[module][layer, i] * stats.weight_l2sq[module][layer, i]
            assert float(found.errors[module][layer, i]) == pytest.approx(float(energy / stats.stream[layer]))


def test_aggregated_errors_are_the_weighted_mean_over_tasks(tiny_model, tiny_tokenizer):
    model = tiny_model()
    few = corpora.Corpus("few", TEXTS.texts[:2], ("0", "1"), {})
    each = {
        task: scores.score(activations.collect(model, tiny_tokenizer, one, progress=False))
        for task, one in (("mine", TEXTS), ("few", few))
    }
    both = scores.aggregate(each, {"mine": 3.0, "few": 2.0})
    expected = 0.6 * each["mine"].errors["mlp"] + 0.4 * each["few"].errors["mlp"]
    torch.testing.assert_close(both.errors["mlp"], expected)


# --- the division ---------------------------------------------------------------------------------


def test_the_convex_curve_lies_below_and_touches():
    draw = np.random.default_rng(0)
    for values in (draw.normal(size=20).cumsum(), np.arange(7.0), np.arange(9.0) ** 2, -(np.arange(9.0) ** 2)):
        under = selection.convex(values)
        assert (under <= values + 1e-12).all() and (np.diff(under, 2) >= -1e-9).all()
        assert under[0] == values[0] and under[-1] == values[-1]
    np.testing.assert_allclose(selection.convex(np.arange(9.0) ** 2), np.arange(9.0) ** 2)
    np.testing.assert_allclose(selection.convex(np.array([0.0, 5, 4, 9])), [0, 2, 4, 9])


def test_a_step_that_does_not_fit_leaves_the_rest_to_finer_ones():
    steps = {"coarse": np.array([0.1, 0.2]), "fine": np.array([1.0, 2.0, 3.0])}
    costs = {"coarse": 3.0, "fine": 1.0}
    assert selection.cheapest(steps, costs, 5.0) == {"coarse": 1, "fine": 2}
    assert selection.cheapest(steps, costs, 0.0) == {"coarse": 0, "fine": 0}
    late = {"coarse": np.array([50.0, 60.0]), "fine": np.array([1.0, 2.0, 3.0])}
    assert selection.cheapest(late, costs, 5.0) == {"coarse": 1, "fine": 2}, "the dearest fine one is given back"


def test_steps_of_equal_cost_are_the_best_of_all_divisions():
    for seed in range(5):
        draw = np.random.default_rng(seed)
        steps = {name: np.sort(draw.lognormal(0, 2, 6)) for name in "abc"}
        found = selection.cheapest(steps, dict.fromkeys(steps, 2.0), 14.0)
        totals = {name: np.append(0, one.cumsum()) for name, one in steps.items()}
        options = [one for one in itertools.product(range(7), repeat=3) if sum(one) == 7]
        best = min(sum(totals[name][n] for name, n in zip(steps, one, strict=True)) for one in options)
        assert sum(found.values()) == 7
        assert sum(totals[name][n] for name, n in found.items()) == pytest.approx(best)


# --- the masks ------------------------------------------------------------------------------------


UNITS_OF_ATTENTION = [(8, "group"), (4, "group"), (2, "group"), (4, "query"), (2, "query")]


@pytest.mark.parametrize(("kv_heads", "kv_unit"), UNITS_OF_ATTENTION)
def test_masks_meet_budget_and_protection(kv_heads, kv_unit):
    g = shape(layers=6, kv_heads=kv_heads)
    for seed, target, protect in itertools.product(range(3), (0.0, 0.2, 0.35, 0.5), ((0, 0), (1, 0), (0, 2), (1, 1))):
        mask = selection.select(drawn(g, seed), allocation.energy(target, *protect), kv_unit=kv_unit)
        assert mask.achieved == pytest.approx(target, abs=0.005)
        kept = torch.ones(g.layers, dtype=torch.bool)
        kept[protect[0] : g.layers - protect[1]] = False
        assert bool(mask.heads[kept].all() and mask.channels[kept].all())
        assert bool(mask.heads.any(1).all() and mask.channels.any(1).all()), "a unit of every module remains"
        assert mask.provenance["allocation"] == "energy" and mask.requested == target


@pytest.mark.parametrize("kind", allocation.ALLOCATIONS)
def test_where_every_layer_is_protected_nothing_goes(kind):
    rule = allocation.Allocation(kind, 0.0, protect_first=2, protect_last=2)
    assert selection.select(drawn(shape(layers=4)), rule).removed_parameters == 0


def test_in_a_module_the_lowest_scored_units_go():
    one = drawn(shape())
    mask = selection.select(one, allocation.energy(0.5))
    for layer in range(4):
        kept, gone = one.channels[layer][mask.channels[layer]], one.channels[layer][~mask.channels[layer]]
        assert not len(gone) or float(gone.max()) < float(kept.min())


def test_cut_modules_rise_equally_fast():
    """Scores that rank by error: no kept channel is cheaper than a removed one, in whatever layer it is."""
    g = shape()
    one = drawn(g)
    one = Scores(g, one.errors["attention"], one.errors["mlp"], errors=one.errors)
    mask = selection.select(one, allocation.energy(0.4))
    cut_to_one = mask.channels.sum(1) == 1  # one channel stays, however cheap
    removed, kept = one.errors["mlp"][~mask.channels], one.errors["mlp"][mask.channels & ~cut_to_one[:, None]]
    assert float(removed.max()) <= float(kept.min()) * (1 + 1e-9)


def test_a_layer_that_writes_little_for_its_stream_goes_first():
    g = shape(layers=3)
    one = drawn(g, spread=0.0)
    for module in one.errors:
        one.errors[module][1] /= 1e6
    mask = selection.select(one, allocation.energy(0.3))
    assert bool(mask.channels[[0, 2]].all() and mask.heads[[0, 2]].all()), "layer 1 alone has what is asked for"


def test_what_cannot_be_is_refused(tiny_model, tiny_tokenizer):
    one = drawn(shape())
    with pytest.raises(UnreachableSparsity, match=r"0\.4"):
        selection.select(one, allocation.energy(0.6, protect_last=2))
    with pytest.raises(ValueError, match="round_to"):
        selection.select(one, allocation.energy(0.5), round_to=8)
    with pytest.raises(ValueError, match="energy"):
        selection.select(Scores(one.geometry, one.attention, one.channels), allocation.energy(0.5))
    assert str(seaplib.energy(0.5)) == "energy(0.5, protect 0+0)"


def test_methods_allocate_by_energy_and_are_refitted(tiny_model, tiny_tokenizer):
    from dataclasses import replace

    from seaplib.activations import covariances
    from seaplib.activations.covariances import WeightedCovariances

    model = tiny_model("gqa", num_hidden_layers=4, intermediate_size=256)
    corpus = {name: corpora.Corpus(name, texts, tuple(map(str, range(len(texts)))), {}) for name, texts in
              (("piqa", TEXTS.texts[:4]), ("wikitext2", TEXTS.texts[3:]))}  # fmt: skip
    stats = {name: activations.collect(model, tiny_tokenizer, one, progress=False) for name, one in corpus.items()}
    spread = {name: covariances.collect(model, tiny_tokenizer, one, progress=False) for name, one in corpus.items()}
    general_energy = replace(methods.GENERAL_F, name="SEAP-gen-energy", allocation="energy")
    own = (methods.ENERGY_F, replace(methods.ENERGY_F, score="s_W"), general_energy, methods.FLAP_ENERGY)
    recipes = [
        *own,
        *(replace(one, compensation="least squares") for one in (own[0], *own[2:])),
    ]
    made = methods.variants(recipes, stats, [0.2, 0.5], ["piqa"], "wikitext2", covariances=spread)
    assert all(abs(one.label["achieved_sparsity"] - one.label["requested_sparsity"]) < 0.005 for one in made)
    assert [one.label["method"] for one in made[::2]] == [
        "SEAP-energy", "SEAP-energy", "SEAP-gen-energy", "FLAP-energy",
        "SEAP-energy+least squares", "SEAP-gen-energy+least squares", "FLAP-energy+least squares",
    ]  # fmt: skip
    expert, general, flap = (made[i] for i in (8, 10, 12))
    assert (expert.compensation, flap.compensation) == (spread["piqa"], spread["wikitext2"])
    assert isinstance(general.compensation, WeightedCovariances) and general.compensation.alpha["wikitext2"] == 3.0
    assert expert.mask.fingerprint == made[0].mask.fingerprint and expert.fingerprint != made[0].fingerprint
    fused = replace(methods.FUSED_F, allocation="energy")
    (one,) = methods.variants([fused], stats, [0.4], ["piqa"], "wikitext2")
    assert one.mask.achieved == pytest.approx(0.4, abs=0.005)
    with pytest.raises(ValueError, match="piqa"):
        methods.variants(recipes[4:5], stats, [0.2], ["piqa"], "wikitext2")
