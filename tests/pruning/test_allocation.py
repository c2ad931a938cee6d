import itertools
import re

import numpy as np
import pytest
import reference

import seaplib
from seaplib import pruning
from seaplib.pruning import allocation as sparsity
from seaplib.settings import ALLOCATIONS, STEEPEST, Pruning

pytestmark = pytest.mark.unit

SHAPES = [  # x0, k, layers, protected first and last
    (x0, k, layers, first, last)
    for (x0, k), (layers, first, last) in itertools.product(
        [(0.3, 1.0), (0.3, 0.8), (0.0, 5.0), (1.0, 20.0), (0.5, -3.0)],
        [(1, 0, 0), (2, 0, 0), (6, 0, 2), (32, 0, 2), (32, 2, 2), (40, 4, 0), (5, 0, 4)],
    )
]


@pytest.mark.parametrize("target", [0.0, 0.05, 0.2, 0.5, 0.7])
def test_the_mean_over_all_layers_is_the_target(target):
    for x0, k, layers, first, last in SHAPES:
        allocation = sparsity.logistic(target, x0, k, first, last)
        if target > (layers - first - last) / layers:
            with pytest.raises(sparsity.UnreachableSparsity):
                allocation.ratios(layers)
            continue
        (rho,) = allocation.ratios(layers).values()
        assert rho.shape == (layers,)
        assert rho.mean() == pytest.approx(target, abs=1e-9), (x0, k, layers, first, last)
        assert (rho[:first] == 0).all() and (rho[layers - last :] == 0).all()
        assert (rho >= 0).all() and (rho <= 1).all()


@pytest.mark.parametrize("target", [0.2, 0.5])
def test_logistic_equals_the_slow_one(target):
    for x0, k, layers, first, last in SHAPES:
        if layers < 2 or target > (layers - first - last) / layers:
            continue
        (rho,) = sparsity.logistic(target, x0, k, first, last).ratios(layers).values()
        assert rho == pytest.approx(reference.logistic(target, layers, x0, k, first, last), abs=1e-9)


def test_the_papers_curve_by_hand():
    """Five layers, none protected: ρ ∝ 1/(1+exp(−(x−0.3))) at x = 0, ¼, ½, ¾, 1."""
    (rho,) = sparsity.logistic(0.5, protect_last=0).ratios(5).values()
    curve = 1 / (1 + np.exp(-(np.linspace(0, 1, 5) - 0.3)))
    assert rho == pytest.approx(0.5 * curve / curve.mean(), abs=1e-12)
    assert (np.diff(rho) > 0).all(), "early layers lose less"


def test_uniform_is_constant():
    (rho,) = sparsity.uniform(0.3).ratios(7).values()
    assert rho == pytest.approx([0.3] * 7)
    (rho,) = sparsity.uniform(0.3, protect_last=2).ratios(6).values()
    assert rho == pytest.approx([0.45] * 4 + [0, 0])


@pytest.mark.parametrize("target", [0.5, 0.8, 0.88])
def test_caps_bind_inside_the_search(target):
    """Where a module may not lose all, the others make up for it and the mean is still the target."""
    caps, shares = {"attention": 0.5, "mlp": 0.99}, {"attention": 0.2, "mlp": 0.8}
    rho = sparsity.logistic(target, k=3.0, protect_last=0).ratios(12, caps, shares)
    total = sum(shares[m] * rho[m].mean() for m in caps)
    assert total == pytest.approx(target, abs=1e-9)
    for module, cap in caps.items():
        assert rho[module].max() <= cap + 1e-12
    assert rho["attention"].max() == pytest.approx(0.5)


def test_one_cap_equals_the_slow_water_filling():
    (rho,) = sparsity.logistic(0.6, k=4.0, protect_last=2).ratios(16, {"all": 0.9}).values()
    assert rho.max() == pytest.approx(0.9)
    assert rho == pytest.approx(reference.logistic(0.6, 16, 0.3, 4, 0, 2, cap=0.9), abs=1e-9)


@pytest.mark.parametrize("make", [sparsity.logistic, sparsity.uniform])
def test_out_of_reach_names_the_largest_possible_and_that_one_is_reachable(make):
    for layers, first, last, caps in [
        (6, 0, 2, {"all": 1.0}),
        (32, 2, 3, {"all": 0.75}),
        (9, 1, 2, {"a": 2 / 3, "b": 0.999}),
    ]:
        shares = {"a": 0.25, "b": 0.75} if "a" in caps else None
        with pytest.raises(sparsity.UnreachableSparsity) as error:
            make(0.95, protect_first=first, protect_last=last).ratios(layers, caps, shares)
        assert f"{first}+{last} of {layers} layers" in str(error.value)
        largest = float(re.search(r"largest possible is ([\d.]+)", str(error.value)).group(1))
        rho = make(largest, protect_first=first, protect_last=last).ratios(layers, caps, shares)
        weighed = sum((shares or {"all": 1.0})[m] * rho[m].mean() for m in caps)
        assert weighed == pytest.approx(largest, abs=1e-9)
        with pytest.raises(sparsity.UnreachableSparsity):
            make(largest + 0.002, protect_first=first, protect_last=last).ratios(layers, caps, shares)


def test_all_layers_protected_leaves_only_zero():
    assert list(sparsity.uniform(0.0, 1, 2).ratios(3)["all"]) == [0, 0, 0]
    with pytest.raises(sparsity.UnreachableSparsity, match="0$"):
        sparsity.uniform(0.1, 1, 2).ratios(3)


@pytest.mark.parametrize("wrong", [-0.1, 1.0, 1.5, float("nan")])
def test_a_target_outside_its_range_is_refused(wrong):
    for make in (sparsity.logistic, sparsity.uniform, sparsity.adaptive):
        with pytest.raises(ValueError, match="sparsity"):
            make(wrong)
    with pytest.raises(ValueError, match="sparsity"):
        Pruning(sparsity=wrong)


@pytest.mark.parametrize("curve", [{"k": STEEPEST * 1.01}, {"k": -STEEPEST * 1.01}, {"x0": float("inf")}])
def test_a_curve_that_is_a_step_is_refused(curve):
    sparsity.logistic(0.2, k=STEEPEST), sparsity.logistic(0.2, k=-STEEPEST)
    with pytest.raises(ValueError, match="x0"):
        sparsity.logistic(0.2, **curve)


def test_negative_protection_is_refused():
    with pytest.raises(ValueError, match="negative"):
        sparsity.logistic(0.2, protect_last=-1)


def test_the_published_code_removes_less_than_asked():
    """At 32 layers, four of them protected, its '20%' is 17.5% over all layers and its '50%' 43.75%."""
    for target, over_all in ((0.2, 0.175), (0.5, 0.4375)):
        (rho,) = sparsity.authors_logistic(target).ratios(32).values()
        assert rho.mean() == pytest.approx(over_all, abs=1e-4)
        assert rho[2:-2].mean() == pytest.approx(target, abs=1e-4)
        assert (rho[:2] == 0).all() and (rho[-2:] == 0).all()
        curve = 1 / (1 + np.exp(-0.8 * (np.linspace(0, 1, 28) - 0.3)))
        assert rho[2:-2] / rho[2] == pytest.approx(curve / curve[0], rel=1e-9), (
            "depth counts from the first unprotected layer"
        )


def test_check_reachable_without_a_model():
    sparsity.check_reachable(0.5, layers=6, attention_units=4, channels=256, attention_share=1 / 3, protect_last=2)
    with pytest.raises(sparsity.UnreachableSparsity, match=r"0\.6"):
        sparsity.check_reachable(0.7, layers=6, attention_units=4, channels=256, attention_share=1 / 3, protect_last=2)
    halves = {"layers": 3, "attention_units": 2, "channels": 2, "attention_share": 0.5}  # a unit of each stays
    sparsity.check_reachable(0.5, **halves)
    with pytest.raises(sparsity.UnreachableSparsity, match=r"0\.5"):
        sparsity.check_reachable(0.51, **halves)


@pytest.mark.parametrize("kind", ALLOCATIONS)
def test_every_declared_allocation_has_a_function_of_its_name(kind):
    declared = ALLOCATIONS[kind]
    assert getattr(pruning, kind) is getattr(seaplib, kind) is getattr(sparsity, kind)
    assert getattr(sparsity, kind)(0.3) == sparsity.Allocation(kind, 0.3, protect_last=declared.protect_last)


@pytest.mark.parametrize("kind", ALLOCATIONS)
def test_an_allocation_without_a_curve_is_never_uniform(kind):
    made = sparsity.Allocation(kind, 0.3)
    if ALLOCATIONS[kind].by_layer:
        assert made.by_layer and made.ratios(6)["all"].mean() == pytest.approx(0.3, abs=1e-9)
    else:
        with pytest.raises(ValueError, match=kind):
            made.ratios(6)


def test_a_curve_may_leave_a_layer_whole(monkeypatch):
    monkeypatch.setattr(sparsity.Allocation, "_curve", lambda self, layers: np.arange(layers) / (layers - 1))
    ratios = sparsity.logistic(0.3, protect_last=0).ratios(5)["all"]
    assert ratios[0] == 0 and ratios.mean() == pytest.approx(0.3) and (np.diff(ratios) > 0).all()
    with pytest.raises(sparsity.UnreachableSparsity, match=r"0\.8"):
        sparsity.logistic(0.9, protect_last=0).ratios(5)


def test_allocations_print_well():
    assert str(sparsity.logistic(0.2)) == "logistic(0.2, x0=0.3, k=1, protect 0+2)"
    assert str(sparsity.uniform(0.5)) == "uniform(0.5, protect 0+0)"
