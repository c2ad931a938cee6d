"""Sparse inputs: every pattern, criterion and transformation against a loop, in a model and out of it."""

import itertools
import math

import conftest
import numpy as np
import pytest
import torch
from torch.nn import functional

import seaplib
from seaplib import Calibration, evaluation, models
from seaplib.evaluation.perplexity import perplexity
from seaplib.input_sparsity import grid
from seaplib.input_sparsity import products as sparse_products
from seaplib.input_sparsity.errors import STREAM, output_errors
from seaplib.input_sparsity.plan import SparsityPlan, sparsified, sparsity_plan
from seaplib.input_sparsity.rule import ROLES, InputSparsity
from seaplib.input_sparsity.sparsifier import LeastSquares, Sparsifier, dropped, lowest, sparse_weight
from seaplib.input_sparsity.statistics import collect_inputs
from seaplib.models.state import state
from seaplib.runner import parameters
from seaplib.texts import corpora

pytestmark = pytest.mark.unit

PATTERNS = ["2:4", "8:16", "1:2", "3:8", "16:32", 0.0, 0.2, 0.5, 0.7, 1.0]
TRANSFORMATIONS = ["none", "var", "pts", "scaling", "shift", "scale", "learnable", "pts+var", "scaling+learnable"]
TEXTS = ("The otter eats small fish.", "A copper spoon gets hot quickly.", "There are 12 apples in the basket.")
CORPUS = corpora.Corpus("toy", TEXTS, ("0", "1", "2"), {"data": "toy", "dataset": "toy"})


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- loops ---------------------------------------------------------------------------------------


def loop_zeroed(scores: list[float], rule: InputSparsity) -> list[bool]:
    """Which coordinates of one token go: group by group, the lowest first, of equal ones the first."""
    n = len(scores)
    groups = [range(n)]
    counts = [math.floor(rule.ratio * n + 1e-9)]
    if rule.nm:
        keep, size = rule.nm
        groups = [range(start, start + size) for start in range(0, n, size)]
        counts = [size - keep] * len(groups)
    gone = [False] * n
    for group, count in zip(groups, counts, strict=True):
        for i in sorted(group, key=lambda i: (scores[i], i))[:count]:
            gone[i] = True
    return gone


def loop_sparse(x: list[float], rule: InputSparsity, channel=None, gamma=None, beta=None) -> list[float]:
    n = len(x)
    centre = math.fsum(x) / n if "pts" in rule.parts else 0.0
    z = [v - centre for v in x]
    gone = loop_zeroed([abs(z[i]) * (1 if channel is None else channel[i]) for i in range(n)], rule)
    kept = [0.0 if gone[i] else z[i] for i in range(n)]
    if "var" in rule.parts:
        variances = [math.fsum((v - math.fsum(t) / n) ** 2 for v in t) / (n - 1) for t in (z, kept)]
        factor = math.sqrt(variances[0] / variances[1]) if variances[1] > 0 else 1.0
        kept = [v * factor for v in kept]
    if gamma is not None:
        kept = [v * g for v, g in zip(kept, gamma, strict=True)]
    if beta is not None:
        kept = [v + b for v, b in zip(kept, beta, strict=True)]
    return [v + centre for v in kept]


# --- patterns ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("transformation", ["none", "var", "pts", "pts+var"])
def test_a_token_is_what_the_loop_makes_of_it(pattern, transformation):
    rule = InputSparsity(pattern, transformation=transformation)
    x = rand(5, 32)
    expected = torch.tensor([loop_sparse(row, rule) for row in x.double().tolist()])
    assert torch.allclose(Sparsifier(rule)(x), expected, atol=1e-5)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_channel_weights_scale_and_shift_enter_as_in_the_loop(pattern):
    rule = InputSparsity(pattern, transformation="shift+scale+pts")
    channel, gamma, beta = rand(32, seed=1).abs(), rand(32, seed=2), rand(32, seed=3)
    made = Sparsifier(rule, channel=channel, gamma=gamma, beta=beta)
    x = rand(4, 32)
    lists = [t.double().tolist() for t in (channel, gamma, beta)]
    expected = torch.tensor([loop_sparse(row, rule, *lists) for row in x.double().tolist()])
    assert torch.allclose(made(x), expected, atol=1e-5)


@pytest.mark.parametrize("pattern", ["2:4", "8:16", "1:2", "3:8", "16:32"])
def test_exactly_n_of_each_m_stay(pattern):
    n, m = map(int, pattern.split(":"))
    for x in (rand(3, 7, 64), torch.ones(2, 64), torch.zeros(2, 64), rand(4, 64).bfloat16().round()):
        stays = ~dropped(x.abs(), InputSparsity(pattern))
        assert (stays.unflatten(-1, (-1, m)).sum(-1) == n).all()
    sparse = Sparsifier(InputSparsity(pattern))(rand(6, 64))
    assert ((sparse != 0).unflatten(-1, (-1, m)).sum(-1) == n).all()


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.7, 0.9])
def test_a_ratio_takes_the_same_number_from_every_token(ratio):
    sparse = Sparsifier(InputSparsity(ratio))(rand(6, 40))
    assert ((sparse == 0).sum(-1) == math.floor(ratio * 40 + 1e-9)).all()


def test_of_equal_scores_the_first_go():
    assert lowest(torch.tensor([[1.0, 0.5, 0.5, 0.5]]), 2).tolist() == [[False, True, True, False]]
    assert lowest(torch.zeros(1, 4), 3).tolist() == [[True, True, True, False]]


def test_what_stays_is_unchanged_and_keeps_its_type():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = rand(3, 32).to(dtype)
        sparse = Sparsifier(InputSparsity("8:16"))(x)
        assert sparse.dtype == dtype and torch.equal(sparse[sparse != 0], x[sparse != 0])
        assert Sparsifier(InputSparsity("8:16", transformation="var"))(x).dtype == dtype


def test_weights_are_pruned_along_the_input_or_as_a_whole():
    weight = rand(6, 16)
    nm = sparse_weight(weight, InputSparsity("2:4", of="weights"))
    assert ((nm != 0).unflatten(-1, (-1, 4)).sum(-1) == 2).all()
    whole = sparse_weight(weight, InputSparsity(0.25, of="weights"))
    smallest = sorted(weight.abs().flatten().tolist())[23]
    assert torch.equal(whole, weight * (weight.abs() > smallest)) and int((whole == 0).sum()) == 24


@pytest.mark.parametrize("transformation", ["none", "var", "pts", "pts+var"])
@pytest.mark.parametrize("pattern", ["8:16", 0.5])
def test_a_token_does_not_depend_on_its_batch(pattern, transformation):
    made = Sparsifier(InputSparsity(pattern, transformation=transformation), channel=rand(32, seed=4).abs())
    x = rand(3, 5, 32)
    together = made(x)
    for i, j in itertools.product(range(3), range(5)):
        assert torch.equal(made(x[i, j]), together[i, j])
    assert torch.equal(made(x.flip(0)), together.flip(0))


def test_the_original_takes_statistics_over_the_batch_the_median_and_loses_the_rest():
    x, weight = rand(6, 16), rand(8, 16, seed=1)
    rule = InputSparsity("8:16", transformation="scaling", preset="original")
    made = Sparsifier(rule, column_max=weight.abs().amax(0))
    scale = (x.abs().amax(0) / weight.abs().amax(0)).sqrt()
    expected = [loop_zeroed(row, rule) for row in (x.abs() / scale).tolist()]
    assert (made(x) == 0).tolist() == expected
    assert not torch.equal(made(x[:1]), made(x)[:1])
    cosine = Sparsifier(InputSparsity("8:16", criterion="cosine", preset="original"))
    expected = [loop_zeroed(row, rule) for row in (x.abs() * x.norm(dim=0)).tolist()]
    assert (cosine(x) == 0).tolist() == expected
    shifted = Sparsifier(InputSparsity("8:16", transformation="pts", preset="original"))(x)
    assert (shifted == x.median(-1, keepdim=True).values).sum(-1).min() >= 8
    assert InputSparsity(0.7, preset="original").removed(16) == 16 - int(16 * (1 - 0.7))


# --- least squares -------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [False, True])
def test_scale_and_shift_are_the_least_squares_solution(shift):
    z, weight = rand(60, 6) + 0.5, rand(4, 6, seed=1)
    s = Sparsifier(InputSparsity("2:3"))(z)
    sums = LeastSquares(6)
    for part in (slice(0, 17), slice(17, 60)):
        sums.add(z[part], s[part])
    gamma, beta = sums.solve(weight, shift)
    # every token and output is one equation in γ (and, per output, a free constant)
    design = torch.einsum("oi,ti->toi", weight, s).reshape(-1, 6).double()
    if shift:
        design = torch.cat([design, torch.eye(4, dtype=torch.float64).repeat(60, 1)], dim=1)
    target = (z @ weight.T).reshape(-1, 1).double()
    exact = torch.linalg.lstsq(design, target).solution[:, 0]

    def error(gamma, constant):
        return ((z - s * gamma) @ weight.T - constant).square().mean()

    constant = weight @ beta if shift else torch.zeros(4)
    best = error(exact[:6].float(), exact[6:].float() if shift else constant)
    assert best <= error(gamma, constant) <= best * 1.001
    assert error(gamma, constant) < error(torch.ones(6), torch.zeros(4))


def test_a_shift_alone_restores_the_mean_of_the_output():
    z, weight = rand(50, 8) + 1, rand(3, 8, seed=1)
    s = Sparsifier(InputSparsity("2:4"))(z)
    sums = LeastSquares(8, scale=False)
    sums.add(z, s)
    gamma, beta = sums.solve(weight, True)
    assert gamma is None
    assert torch.allclose(((s + beta) @ weight.T).mean(0), (z @ weight.T).mean(0), atol=1e-5)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"pattern": "5:4"}, "1 and 4"),
        ({"pattern": "0:4"}, "1 and 4"),
        ({"pattern": 1.5}, "1.5"),
        ({"pattern": -0.1}, "-0.1"),
        ({"pattern": float("nan")}, "nan"),
        ({"pattern": "half"}, "half"),
        ({"pattern": None}, "None"),
        ({"criterion": "magnitud"}, "'magnitude'"),
        ({"transformation": "vra"}, "'var'"),
        ({"targets": "upp"}, "'up'"),
        ({"of": "weight"}, "'weights'"),
        ({"preset": "orginal"}, "'original'"),
        ({"of": "weights", "transformation": "var"}, "weights .*magnitude"),
        ({"of": "weights", "criterion": "wina"}, "weights .*magnitude"),
        ({"transformation": "var+scale"}, "var and scale"),
        ({"criterion": "wina", "transformation": "scaling"}, "'magnitude'"),
        ({"criterion": "teal"}, "teal .*ratio"),
        ({"pattern": 0.5, "criterion": "teal", "transformation": "pts"}, "pts"),
        ({"pattern": 0.5, "criterion": "cats", "targets": "up"}, "'down'"),
        ({"pattern": 0.5, "criterion": "cats", "transformation": "var"}, "cats .*transformation"),
    ],
)
def test_an_impossible_rule_is_refused(choices, message):
    with pytest.raises(ValueError, match=message) as error:
        InputSparsity(**choices)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"pattern": "3:7"}, "7 .*32 .*0.q"),
        ({"pattern": "8:32"}, "32 .*48 .*0.down"),
        ({"layers": (0, 5)}, "layer 5"),
        ({"layers": ()}, "layer"),
        ({"transformation": "learnable"}, "scale, shift"),
        ({"criterion": "cosine"}, "cosine"),
        ({"transformation": "scaling"}, "scaling"),
        ({"pattern": 0.5, "criterion": "teal"}, "teal"),
        ({"pattern": 0.5, "criterion": "cats"}, "cats"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_anything_is_replaced(tiny_model, choices, message):
    model = tiny_model()
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        sparsity_plan(model, InputSparsity(**choices))
    assert same(before, snapshot(model))


def test_the_original_needs_no_calibration_for_what_it_takes_from_the_batch(tiny_model):
    for choices in ({"transformation": "scaling"}, {"criterion": "cosine"}):
        made = sparsity_plan(tiny_model(), InputSparsity("8:16", preset="original", **choices))
        assert made.calibration == "none" and len(made.inputs) == 14


def test_roles_are_the_models():
    assert models.ROLES == ROLES


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("patterns", ["2:4", "5:4"], "1 and 4"),
        ("repairs", ["vra"], "'var'"),
        ("criteria", ["cosin"], "'cosine'"),
        ("targets", ["atention"], "'attention'"),
        ("base", "all", "base: .*'all'"),
        ("neighbour_ratio", 2.0, "neighbour_ratio: .*2.0"),
    ],
)
def test_a_plan_with_an_impossible_rule_is_refused_before_anything_starts(name, value, message):
    with pytest.raises(parameters.PlanError, match=message):
        parameters.check("profile x, notebook", {name: value})


# --- in a model ----------------------------------------------------------------------------------


def snapshot(model):
    """Everything a context could leave behind: parameters by identity and content, hooks, marks."""
    hooks = [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()]
    tensors = {name: (id(p), p.detach().clone()) for name, p in model.named_parameters()}
    return tensors, hooks, state(model), models.fingerprint(model)


def same(a, b) -> bool:
    identical = all(a[0][name][0] == b[0][name][0] and torch.equal(a[0][name][1], b[0][name][1]) for name in a[0])
    return identical and a[0].keys() == b[0].keys() and a[1:] == b[1:]


@torch.inference_mode()
def logits(model, ids=None):
    return model(torch.arange(3, 27).view(2, 12) if ids is None else ids).logits


def plan_for(model, tokenizer, **choices) -> SparsityPlan:
    return sparsity_plan(model, InputSparsity(**choices), tokenizer, CORPUS)


RULES = [
    *({"pattern": "8:16", "transformation": name} for name in TRANSFORMATIONS),
    {"pattern": "2:4", "criterion": "cosine"},
    {"pattern": 0.5, "criterion": "wina"},
    {"pattern": 0.5, "criterion": "teal"},
    {"pattern": 0.5, "criterion": "cats"},
    {"pattern": "8:16", "of": "weights"},
    {"pattern": 0.5, "of": "weights", "targets": "attention"},
    {"pattern": 0.7, "targets": "q+down", "layers": (1,)},
    {"pattern": "8:16", "transformation": "scaling", "preset": "original"},
]


@pytest.mark.parametrize("choices", RULES, ids=str)
@pytest.mark.parametrize("kind", ["mha", "gqa"])
def test_the_model_is_bit_equal_after_the_context_also_after_an_error(tiny_model, tiny_tokenizer, kind, choices):
    model = tiny_model(kind)
    made = plan_for(model, tiny_tokenizer, **choices)
    before, dense = snapshot(model), logits(model)
    with sparsified(model, made) as inside:
        assert inside is model
        sparse = logits(model)
        assert not torch.equal(sparse, dense)
        assert models.fingerprint(model) != before[3]
    assert same(before, snapshot(model)) and torch.equal(logits(model), dense)
    with pytest.raises(RuntimeError, match="inside"), sparsified(model, made):
        raise RuntimeError("inside")
    assert same(before, snapshot(model))
    copied = made.apply(model)
    assert torch.equal(logits(copied), sparse) and same(before, snapshot(model))
    assert models.fingerprint(copied) != before[3]


@pytest.mark.parametrize("choices", [{"pattern": "8:8"}, {"pattern": 0.0}], ids=str)
@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
def test_what_takes_nothing_is_the_identity_bit_for_bit(tiny_model, tiny_tokenizer, choices, transformation):
    model = tiny_model()
    made = plan_for(model, tiny_tokenizer, transformation=transformation, **choices)
    assert not made.inputs and made.skipped == 0
    with sparsified(model, made):
        assert torch.equal(logits(model), logits(tiny_model()))
    for of in ("activations", "weights"):
        assert torch.equal(logits(plan_for(model, tiny_tokenizer, of=of, **choices).apply(model)), logits(model))


def test_taking_everything_leaves_the_biases_and_the_residual_stream(tiny_model, tiny_tokenizer):
    model = tiny_model()
    with sparsified(model, plan_for(model, tiny_tokenizer, pattern=1.0)):
        hidden = models.decoder(model)(torch.tensor([[5, 6]])).last_hidden_state
    embedded = models.decoder(model).norm(model.get_input_embeddings()(torch.tensor([[5, 6]])))
    assert torch.allclose(hidden, embedded, atol=1e-6)


def test_only_the_named_inputs_are_sparse(tiny_model, tiny_tokenizer):
    model = tiny_model("gqa")
    seen = {}
    made = plan_for(model, tiny_tokenizer, pattern="2:4", targets="v+mlp", layers=(1,))
    assert sorted(made.inputs) == ["1.down", "1.gate", "1.up", "1.v"]
    copied = made.apply(model)
    for key, module in models.linear_layers(copied).items():
        module.register_forward_pre_hook(lambda _, args, key=key: seen.update({key: (args[0] == 0).double().mean()}))
    logits(copied)
    assert {key for key, zeros in seen.items() if zeros > 0.4} == {(1, r) for r in ("v", "gate", "up", "down")}


def test_a_prompt_does_not_depend_on_which_others_share_its_batch(tiny_model, tiny_tokenizer):
    model = tiny_model()
    ids = torch.arange(3, 39).view(3, 12)
    for choices in ({"transformation": "pts+var"}, {"transformation": "scaling+learnable"}, {"criterion": "cosine"}):
        with sparsified(model, plan_for(model, tiny_tokenizer, **choices)):
            together = logits(model, ids)
            alone = torch.cat([logits(model, row[None]) for row in ids])
        assert torch.allclose(together, alone, atol=1e-4), choices


def test_the_originals_preset_does_depend_on_it_and_loses_the_bias(tiny_model, tiny_tokenizer):
    model = tiny_model(attention_bias=True)
    for _, module in models.linear_layers(model).items():
        if module.bias is not None:
            torch.nn.init.constant_(module.bias, 0.5)
    made = plan_for(model, tiny_tokenizer, transformation="scaling", preset="original")
    ids = torch.arange(3, 39).view(3, 12)
    with sparsified(model, made):
        assert not any(m.bias is not None and m.bias.any() for m in models.linear_layers(model).values())
        together = logits(model, ids)
        alone = torch.cat([logits(model, row[None]) for row in ids])
    assert not torch.allclose(together, alone, atol=1e-3)
    assert (model.model.layers[0].self_attn.q_proj.bias == 0.5).all()


def test_statistics_do_not_depend_on_batches(tiny_model, tiny_tokenizer):
    model = tiny_model()
    together, apart = (collect_inputs(model, tiny_tokenizer, CORPUS, Calibration(3, batch_tokens=n)) for n in (999, 1))
    assert together.count == apart.count == sum(len(ids) for ids in tiny_tokenizer(list(TEXTS))["input_ids"])
    for key in together.second_moment:
        assert torch.allclose(together.second_moment[key], apart.second_moment[key], rtol=1e-5)
        assert torch.allclose(together.largest[key], apart.largest[key], rtol=1e-5)
        assert int(together.histogram[key].sum()) == together.count * len(together.second_moment.get(key))
        assert math.isclose(together.threshold(key, 0.5), apart.threshold(key, 0.5), rel_tol=1e-2)


def test_a_threshold_is_the_quantile_of_magnitudes(tiny_model, tiny_tokenizer):
    model, seen = tiny_model(), []
    stats = collect_inputs(model, tiny_tokenizer, CORPUS, Calibration(3))
    handle = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for text in TEXTS:
        models.decoder(model)(torch.tensor([tiny_tokenizer(text)["input_ids"]]))
    handle.remove()
    values = torch.cat([x.abs().flatten() for x in seen]).detach()
    for ratio in (0.1, 0.5, 0.9, 1.0):
        share = float((values <= stats.threshold("1.down", ratio)).double().mean())
        assert abs(share - ratio) < 0.01
    assert stats.threshold("1.down", 0.0) <= float(values.min())


def test_cats_shuts_the_gate_and_nothing_else(tiny_model, tiny_tokenizer):
    model, seen = tiny_model(), {}
    made = plan_for(model, tiny_tokenizer, pattern=0.6, criterion="cats")
    mlp = model.model.layers[1].mlp
    x = rand(1, 9, 32)
    gate = functional.silu(mlp.gate_proj(x))
    expected = mlp.down_proj(gate * (gate.abs() > made.inputs["1.down"].threshold) * mlp.up_proj(x))
    with sparsified(model, made):
        assert torch.allclose(mlp(x), expected, atol=1e-6)
        mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.update(zeros=(args[0] == 0).double().mean()))
        models.decoder(model)(torch.tensor([tiny_tokenizer(TEXTS[0])["input_ids"]]))
    assert 0.3 < seen["zeros"] < 0.9


def test_criteria_and_scaling_take_their_channels_from_weights_and_calibration(tiny_model, tiny_tokenizer):
    model = tiny_model()
    stats = collect_inputs(model, tiny_tokenizer, CORPUS, Calibration(3))
    weight = model.model.layers[0].mlp.up_proj.weight
    cosine = plan_for(model, tiny_tokenizer, criterion="cosine").inputs["0.up"].channel
    assert torch.allclose(cosine.double(), stats.second_moment["0.up"].sqrt())
    wina = plan_for(model, tiny_tokenizer, criterion="wina").inputs["0.up"].channel
    assert torch.allclose(wina, weight.norm(dim=0))
    scaling = plan_for(model, tiny_tokenizer, transformation="scaling").inputs["0.up"].channel
    assert torch.allclose(scaling, 1 / (stats.largest["0.up"] / weight.abs().amax(0)).sqrt(), rtol=1e-5)


def test_prune_then_sparsify_and_not_the_other_way_round(tiny_model, tiny_tokenizer):
    model = tiny_model()
    stats = seaplib.collect(model, tiny_tokenizer, CORPUS)
    mask = seaplib.select(seaplib.score(stats), seaplib.uniform(0.5), round_to=8)
    pruned = seaplib.prune(model, mask)
    made = plan_for(pruned, tiny_tokenizer, pattern="4:8", transformation="learnable")
    dense = logits(pruned)
    with sparsified(pruned, made):
        assert not torch.equal(logits(pruned), dense)
    assert torch.equal(logits(pruned), dense)
    with pytest.raises(ValueError, match="made for another model"), sparsified(model, made):
        pass
    with pytest.raises(ValueError, match="prune"), sparsified(model, plan_for(model, tiny_tokenizer)):
        seaplib.prune(model, mask)


def test_a_sparse_model_is_not_saved_as_if_it_were_dense(tmp_path, tiny_model, tiny_tokenizer):
    model = tiny_model()
    with pytest.raises(ValueError, match="plan"):
        seaplib.save_pretrained(plan_for(model, tiny_tokenizer).apply(model), tiny_tokenizer, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    with sparsified(model, plan_for(model, tiny_tokenizer)):
        pass
    assert seaplib.save_pretrained(model, tiny_tokenizer, tmp_path / "m").exists()


def test_contexts_nest_on_different_inputs_only(tiny_model, tiny_tokenizer):
    model = tiny_model()
    attention, mlp = (plan_for(model, tiny_tokenizer, targets=name) for name in ("attention", "mlp"))
    both = plan_for(model, tiny_tokenizer)
    with sparsified(model, attention), sparsified(model, mlp):
        nested = logits(model)
        with pytest.raises(ValueError, match="sparse"), sparsified(model, both):
            pass
        assert torch.equal(logits(model), nested)
    assert torch.equal(logits(both.apply(model)), nested) and not state(model).sparse


def test_generation_with_a_cache_gives_the_same_tokens(tiny_model, tiny_tokenizer):
    model = tiny_model("gqa")
    made = plan_for(model, tiny_tokenizer, transformation="pts+var")
    options = {"max_new_tokens": 8, "do_sample": False}
    with sparsified(model, made):
        cached, plain = (model.generate(torch.arange(3, 9)[None], use_cache=use, **options) for use in (True, False))
    assert torch.equal(cached, plain)


# --- plans as objects ----------------------------------------------------------------------------


@pytest.mark.parametrize("choices", RULES, ids=str)
def test_a_plan_comes_back_from_disk(tmp_path, tiny_model, tiny_tokenizer, choices):
    model = tiny_model()
    made = plan_for(model, tiny_tokenizer, **choices)
    made.save(tmp_path)
    again = SparsityPlan.load(tmp_path)
    assert again.fingerprint == made.fingerprint and again.rule == made.rule
    assert repr(again.label) == repr(made.label)
    assert torch.equal(logits(again.apply(model)), logits(made.apply(model)))


def test_different_plans_have_different_fingerprints(tiny_model, tiny_tokenizer):
    model = tiny_model()
    found = [plan_for(model, tiny_tokenizer, **choices).fingerprint for choices in RULES]
    assert len(set(found)) == len(found)
    other = corpora.Corpus("toy", TEXTS[:2], ("0", "1"), CORPUS.source)
    rule = InputSparsity(criterion="cosine")
    prints = {sparsity_plan(model, rule, tiny_tokenizer, corpus).fingerprint for corpus in (CORPUS, other)}
    assert len(prints) == 2


def test_skipped_counts_multiplications(tiny_model, tiny_tokenizer):
    model = tiny_model("gqa")
    linear = models.linear_layers(model)
    total = sum(module.weight.numel() for module in linear.values())
    mlp = sum(module.weight.numel() for (_, role), module in linear.items() if role in ("gate", "up", "down"))
    assert plan_for(model, tiny_tokenizer, pattern="2:4").skipped == 0.5
    assert math.isclose(plan_for(model, tiny_tokenizer, pattern="4:16", targets="mlp").skipped, 0.75 * mlp / total)
    cats = plan_for(model, tiny_tokenizer, pattern=0.5, criterion="cats")
    assert math.isclose(cats.skipped, 0.5 * (2 / 3) * mlp / total)


def test_a_plan_is_a_variant(tiny_model, tiny_tokenizer, tiny_data_dir):
    model = tiny_model()
    variants = [None, plan_for(model, tiny_tokenizer), plan_for(model, tiny_tokenizer, of="weights")]
    results = seaplib.evaluate(model, tiny_tokenizer, ["piqa"], variants, progress=False)
    results = results[results["primary"]]
    assert results["method"].tolist() == ["dense", "sparse activations", "sparse weights"]
    assert results["achieved_sparsity"].tolist() == [0.0, 0.5, 0.5]
    windows = perplexity(model, tiny_tokenizer, "wikitext2", "flap128", variants, progress=False)
    assert windows["perplexity"].nunique() == 3
    with sparsified(model, variants[1]):
        inside = perplexity(model, tiny_tokenizer, "wikitext2", "flap128", progress=False)
    assert inside["method"].item() == "sparsified"
    assert math.isclose(inside["perplexity"].item(), windows["perplexity"][1], rel_tol=1e-6)


# --- errors of the output, and speed -------------------------------------------------------------


def test_output_errors_are_what_a_loop_over_tokens_finds(tiny_model, tiny_tokenizer):
    model, seen = tiny_model(), []
    plans = {"act": plan_for(model, tiny_tokenizer, pattern="2:4"), "wt": plan_for(model, tiny_tokenizer, of="weights")}
    plans["cats"] = plan_for(model, tiny_tokenizer, pattern=0.5, criterion="cats")
    found = output_errors(model, tiny_tokenizer, CORPUS, plans, Calibration(3, batch_tokens=40), progress=False)
    found = found.set_index(["plan", "layer", "role"])
    assert found.loc[("act", 1, "down"), "zeros"] == 0.5 == found.loc[("wt", 0, "q"), "zeros"]
    handle = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(
        lambda _, args: seen.append(args[0][0].detach())
    )
    for text in TEXTS:
        models.decoder(model)(torch.tensor([tiny_tokenizer(text)["input_ids"]]))
    handle.remove()
    weight = model.model.layers[1].mlp.down_proj.weight.detach()
    for name, plan in plans.items():
        if name == "cats":
            continue
        errors = []
        for x in (x for text in seen for x in text):
            full = weight @ x
            other = sparse_weight(weight, plan.rule) @ x if name == "wt" else weight @ plan.inputs["1.down"](x)
            errors.append(float((full - other).norm() / full.norm()))
        assert math.isclose(found.loc[(name, 1, "down"), "error"], np.mean(errors), rel_tol=1e-4)
    assert (found["error"] > 0).all() and found["tokens"].nunique() == 1
    assert found.xs(STREAM, level="role")["zeros"].isna().all()
    assert set(found.loc["cats"].reset_index()["role"]) == {"down", STREAM}


def test_the_gathered_product_is_the_product():
    x, weight = Sparsifier(InputSparsity(0.7))(rand(1, 64)), rand(24, 64, seed=1)
    found = sparse_products.gather_product(x, weight.T.contiguous())
    assert torch.allclose(found, x @ weight.T, atol=1e-5)
    assert not sparse_products.gather_product(torch.zeros(1, 64), weight.T.contiguous()).any()


def test_times_name_their_kernel_or_say_that_there_is_none():
    rules = [InputSparsity("2:4"), InputSparsity(0.75)]
    single = sparse_products.time_products({"down": (16, 64)}, rules, rounds=2, progress=False)
    assert single["kernel"].tolist() == ["dense", "all columns", "gather", "select + gather"] * 2
    assert single["bound"].tolist() == [2.0] * 4 + [4.0] * 4 and (single["seconds"] > 0).all()
    many = sparse_products.time_products({"down": (16, 64)}, rules, tokens=4, rounds=2, progress=False)
    assert many["kernel"].tolist() == ["dense", sparse_products.NO_KERNEL] * 2
    assert many.loc[many["kernel"] == sparse_products.NO_KERNEL, "seconds"].isna().all()


@pytest.mark.gpu
def test_2_to_4_products_agree_with_the_dense_one():
    if not torch.cuda.is_available() or not sparse_products.has_sparse_tensor_cores(torch.device("cuda")):
        pytest.skip("a CUDA device with sparse tensor cores")
    x, weight = rand(128, 256).cuda().half(), rand(128, 256, seed=1).cuda().half()
    products = sparse_products._products(x, weight, InputSparsity("2:4"))
    expected = functional.linear(Sparsifier(InputSparsity("2:4"))(x), weight)
    for name in ("2:4", "pack + 2:4"):
        assert torch.allclose(products[name](), expected, atol=0.5, rtol=1e-2)


# --- every architecture --------------------------------------------------------------------------

CASES = getattr(conftest, "ARCHITECTURE_CASES", ())


@pytest.mark.parametrize("case", CASES)
def test_every_architecture_is_sparse_inside_the_context_and_itself_behind_it(any_model, tiny_tokenizer, case):
    model = any_model(case)
    gated = any(role == "gate" for _, role in models.linear_layers(model))
    ids = torch.arange(3, 39).view(3, 12)
    before, dense = snapshot(model), logits(model, ids)
    for choices in [c for c in RULES if gated or c.get("criterion") != "cats"]:
        if "q+down" in choices.get("targets", ""):
            continue  # q is fused with k and v in some of them
        made = plan_for(model, tiny_tokenizer, **choices)
        with sparsified(model, made):
            sparse = logits(model, ids)
            if choices.get("preset") != "original":
                alone = torch.cat([logits(model, row[None]) for row in ids])
                assert torch.allclose(sparse, alone, atol=2e-3), choices
        assert not torch.equal(sparse, dense), choices
        assert same(before, snapshot(model)) and torch.equal(logits(model, ids), dense), choices
        assert torch.equal(logits(made.apply(model), ids), sparse), choices
    identity = plan_for(model, tiny_tokenizer, pattern="16:16", transformation="learnable")
    assert torch.equal(logits(identity.apply(model), ids), dense)


@pytest.mark.parametrize("case", CASES)
def test_every_architectures_inputs_keep_n_of_m_and_fused_ones_count_once(any_model, tiny_tokenizer, case):
    model, seen = any_model(case), []
    made = plan_for(model, tiny_tokenizer, pattern="2:4").apply(model)
    modules = {id(module): module for module in models.linear_layers(made).values()}
    for module in modules.values():
        module.register_forward_pre_hook(lambda _, args: seen.append((args[0] != 0).unflatten(-1, (-1, 4)).sum(-1)))
    logits(made)
    assert len(seen) == len(modules) and all(
        (kept == 2).float().mean() > 0.4 for kept in seen
    )  # behind a ReLU, 0 may stay
    assert all((kept <= 2).all() for kept in seen)
    fused = len(modules) < len(models.linear_layers(made))
    rule = InputSparsity("2:4", targets="q")
    if fused:
        with pytest.raises(ValueError, match="gate, up|q, k, v"):
            sparsity_plan(model, rule)
    else:
        assert sorted(sparsity_plan(model, rule).inputs) == ["0.q", "1.q"]


@pytest.mark.parametrize("case", CASES)
def test_cats_needs_a_gate(any_model, tiny_tokenizer, case):
    model = any_model(case)
    if any(role == "gate" for _, role in models.linear_layers(model)):
        assert len(plan_for(model, tiny_tokenizer, pattern=0.5, criterion="cats").inputs) == 2
    else:
        with pytest.raises(ValueError, match="cats"):
            plan_for(model, tiny_tokenizer, pattern=0.5, criterion="cats")


@pytest.mark.parametrize(
    "choices",
    [{"pattern": True}, {"targets": None}, {"targets": ["q"]}, {"layers": 3}, {"layers": "12"}, {"layers": [1.0]}],
)
def test_values_of_another_kind_are_refused(choices):
    with pytest.raises(ValueError, match=r"pattern is|targets is|layers is"):
        InputSparsity(**choices)


def test_equal_rules_are_equal():
    assert InputSparsity("04:08") == InputSparsity("4:8")
    assert InputSparsity(targets="k+q+q", layers=[1, 0, 1]) == InputSparsity(targets="q+k", layers=(0, 1))


def test_wina_is_wina_under_the_original_preset_too(tiny_model):
    model = tiny_model("mha")
    plan = sparsity_plan(model, InputSparsity(0.5, criterion="wina", preset="original"))
    assert all(one.channel is not None for one in plan.inputs.values())


def test_a_small_ratio_of_the_weights_is_taken_from_the_matrix_as_a_whole(tiny_model):
    model = tiny_model("mha")
    plan = sparsity_plan(model, InputSparsity(0.01, of="weights", targets="attention"))
    with sparsified(model, plan):
        assert any((module.weight == 0).any() for module in models.linear_layers(model).values())
    assert plan.skipped > 0


@pytest.mark.parametrize("mode", ["zero", "mask"])
def test_zeroed_units_do_not_count_as_sparse_inputs(tiny_model, mode):
    model = tiny_model("mha")
    shape = models.geometry(model)
    channels = torch.ones(shape.layers, shape.channels, dtype=torch.bool)
    channels[:, ::2] = False
    mask = seaplib.PruningMask(shape, torch.ones(shape.layers, shape.heads, dtype=torch.bool), channels)
    with pytest.raises(ValueError, match="mode='remove'"):
        sparsity_plan(seaplib.prune(model, mask, mode=mode), InputSparsity(0.5))
    pruned = seaplib.prune(model, mask)
    label = evaluation.label_of(pruned, sparsity_plan(pruned, InputSparsity(0.5)))
    assert label["method"] == "pruned + sparse activations"


def test_a_grid_names_its_rules_and_what_they_are_compared_with():
    made = grid.Grid(
        ["2:4", "8:16"], [0.5], "8:16", ["pts+var", "shift"], ["wina"], ["teal", "cats"], 0.5, ["mlp"], ["8:16"]
    )
    assert list(made.blocks["activations"]) == ["2:4", "8:16", "0.5"] and "8:16 PTS+VAR" in made.rules
    assert made.rules["0.5 wt"] == InputSparsity(0.5, of="weights")
    assert made.rules["8:16 wt (mlp)"] == InputSparsity("8:16", of="weights", targets="mlp")
    assert made.rules["0.5 CATS"].targets == "down" and len(made.rules) == 3 + 3 + 2 + 1 + 2 + 2
    assert made.shown == ["2:4", "8:16", "8:16 wt", "8:16 shift"]
    pairs = list(made.pairs)
    told = [pair for pair in pairs if pair in grid.PUBLISHED]
    assert pairs[: len(told)] == told and ("8:16", "2:4") in told and ("8:16 (mlp)", "8:16") in told
    assert all(set(pair) <= set(made.rules) for pair in pairs) and len(set(made.pairs.values())) == len(pairs)
    assert made.pairs["8:16 PTS+VAR", "8:16"] == "PTS+VAR repairs part of what 8:16 breaks"


def test_sparse_products_stand_beside_the_dense_one():
    frame = sparse_products.time_products(
        {"small": (32, 64)}, [InputSparsity("2:4"), InputSparsity(0.5)], rounds=2, progress=False
    )
    found = sparse_products.beside_dense(frame)
    assert set(found["kernel"]) == {"all columns", "gather", "select + gather"} and len(found) == 6
    dense = frame[frame["kernel"] == "dense"].set_index("pattern")["seconds"]
    assert found["dense_seconds"].tolist() == found["pattern"].map(dense).tolist()
