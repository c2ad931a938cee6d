from dataclasses import replace

import pytest
import torch
from pruned import TEXTS as FOUR

from seaplib import activations, models, settings, store
from seaplib.activations import covariances
from seaplib.pruning import methods, scores, selection
from seaplib.pruning.allocation import Allocation, UnreachableSparsity
from seaplib.pruning.apply import prune
from seaplib.pruning.methods import Method, variants
from seaplib.settings import Calibration
from seaplib.texts import corpora

pytestmark = pytest.mark.unit
TABLE_1 = methods.PAPER + methods.CONTROLS + methods.COMPENSATED + methods.UNPROTECTED + methods.FLOOR

TASKS = ("arc_easy", "arc_challenge", "piqa")
TEXTS = {
    "arc_challenge": ("Which animal lives in the river and eats small fish? the otter", "Metals conduct heat."),
    "piqa": ("To dry a wet towel, hang it on a line in the warm sun.", "A kettle is used to boil water."),
    "wikitext2": ("= The old harbour = The harbour of the town was built from grey stone.", "grey stone", "the town"),
}


@pytest.fixture
def model(tiny_model):
    return tiny_model("mha", num_hidden_layers=4)


@pytest.fixture
def collect(model, tiny_tokenizer):
    def build(estimator="exact"):
        corpus = {
            task: corpora.Corpus(task, texts, tuple(map(str, range(len(texts)))), {}) for task, texts in TEXTS.items()
        }
        calibration = Calibration(estimator=estimator)
        return {
            task: activations.collect(model, tiny_tokenizer, one, calibration, progress=False)
            for task, one in corpus.items()
        }

    return build


def make(stats, *chosen, sparsities=(0.3,), tasks=TASKS, **options):
    return variants(chosen, stats, sparsities, tasks, "wikitext2", **options)


def test_experts_share_a_corpus_and_are_evaluated_on_their_own_tasks(collect):
    """ARC is one expert, used for both ARC tests."""
    stats = collect()
    made = make(stats, methods.SEAP_F)
    assert {one.tasks for one in made} == {("arc_easy", "arc_challenge"), ("piqa",)}
    for one, corpus in zip(sorted(made, key=lambda v: v.tasks), ("arc_challenge", "piqa"), strict=True):
        expected = selection.select(scores.score(stats[corpus], "s_F"), Allocation("logistic", 0.3, protect_last=2))
        assert one.mask.fingerprint == expected.fingerprint
        assert one.mask.provenance["calibration"] == corpus
    assert made[0].mask.fingerprint != made[1].mask.fingerprint


def test_general_methods_serve_every_task(collect):
    stats = collect()
    for method in (methods.FLAP, methods.WANDA_SP, methods.GENERAL_F, methods.RANDOM, methods.MAGNITUDE):
        (one,) = make(stats, method)
        assert one.tasks is None
    (flap,) = make(stats, methods.FLAP)
    assert flap.mask.provenance["calibration"] == "wikitext2"
    expected = selection.select(scores.score(stats["wikitext2"], "s_F"), Allocation("logistic", 0.3, protect_last=2))
    assert flap.mask.fingerprint == expected.fingerprint


def test_the_general_score_weighs_text_three_and_tasks_two(collect):
    stats = collect()
    made = methods.scores(methods.GENERAL_F, stats, "wikitext2")
    each = {task: scores.score(one, "s_F").channels for task, one in stats.items()}
    expected = 3 * each["wikitext2"] + 2 * each["piqa"] + 2 * each["arc_challenge"]
    torch.testing.assert_close(made.channels, expected, rtol=1e-12, atol=0)
    (one,) = make(stats, methods.GENERAL_F)
    assert one.mask.provenance["calibration"] == "arc_challenge+piqa+wikitext2", "which tasks went in is recorded"
    assert one.mask.provenance["alpha"] == {"arc_challenge": 2.0, "piqa": 2.0, "wikitext2": 3.0}


def test_one_variant_per_method_sparsity_and_expert(collect):
    made = make(collect(), methods.SEAP_F, methods.FLAP, sparsities=(0.2, 0.4))
    assert [(one.label["method"], one.label["requested_sparsity"]) for one in made] == [
        ("SEAP", 0.2), ("SEAP", 0.2), ("SEAP", 0.4), ("SEAP", 0.4), ("FLAP", 0.2), ("FLAP", 0.4),
    ]  # fmt: skip


def test_labels_carry_every_column(collect):
    (one,) = make(collect(), methods.FLAP, seed=7)
    assert set(one.label) == {
        "method", "score", "allocation", "budget", "calibration", "calibration_seed",
        "requested_sparsity", "achieved_sparsity", "achieved_model_sparsity",
    }  # fmt: skip
    assert (
        one.label["method"] == "FLAP" and one.label["calibration"] == "general" and one.label["calibration_seed"] == 7
    )
    assert one.label["achieved_sparsity"] == one.mask.achieved


def test_no_two_rows_of_a_table_have_one_label():
    for table in (
        TABLE_1,
        methods.TABLE_3 + methods.BESIDE_3,
        methods.FULL_GRID + methods.BESIDE_3,
        methods.BEYOND,
    ):
        labels = [tuple(method.label(0).values()) for method in table]
        assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (Method("m", "s_F", "task"), "logistic"),
        (Method("m", "s_F", "task", protect_last=2), "logistic"),
        (Method("m", "s_F", "task", protect_last=0), "logistic, protect 0+0"),
        (Method("m", "s_F", "task", protect_first=1), "logistic, protect 1+2"),
        (Method("m", "s_F", "task", "uniform"), "uniform"),
        (Method("m", "s_F", "task", "uniform", protect_last=2), "uniform, protect 0+2"),
    ],
)
def test_the_allocations_name_tells_its_protection(method, name):
    assert method.allocation_name == name
    expected = tuple(map(int, name.partition("protect ")[2].split("+"))) if "protect" in name else None
    allocation = method.allocate(0.3)
    if expected:
        assert (allocation.protect_first, allocation.protect_last) == expected


def test_the_grid_crosses_every_method_with_allocation_and_protection():
    cells = [(one.name, one.score, one.allocation, one.protect_last) for one in methods.FULL_GRID]
    recipes = [*methods.PAPER, methods.MAGNITUDE, methods.RANDOM]
    crossed = {(m.name, m.score, a, n) for m in recipes for a in settings.ALLOCATIONS for n in (0, 2)}
    absent = {("random", "random", "adaptive", n) for n in (0, 2)}  # random scores do not rank layers
    published = {("FLAP as published", "s_F", "adaptive", None)}
    assert len(cells) == len(set(cells)) and set(cells) == crossed - absent | published
    assert set(methods.TABLE_3) < set(methods.FULL_GRID)
    assert cells[-2][2:] == ("logistic", 2), "the paper's own setting comes last"


def test_unprotected_rows_cut_the_last_layers(collect):
    stats = collect()
    usual, unprotected = make(stats, methods.FLAP)[0], make(stats, methods.UNPROTECTED[0])[0]
    assert bool(usual.mask.channels[-2:].all()) and not bool(unprotected.mask.channels[-1].all())


def test_a_methods_budget_and_unit_are_its_masks(collect, tiny_model, tiny_tokenizer):
    stats = collect()
    for method in methods.FLOOR:
        one = make(stats, method)[0]
        source = methods.scores(method, stats, "wikitext2", "arc_challenge")
        expected = selection.select(source, Allocation("logistic", 0.3, protect_last=2), "floor")
        assert one.mask.fingerprint == expected.fingerprint
        assert one.label["budget"] == one.mask.provenance["budget"] == "floor"
    corpus = corpora.Corpus("wikitext2", TEXTS["wikitext2"], ("0", "1", "2"), {})
    grouped = activations.collect(tiny_model("gqa"), tiny_tokenizer, corpus, progress=False)
    chosen = Method("m", "s_F", "general", "uniform", kv_unit="query")
    (one,) = variants([chosen], {"wikitext2": grouped}, [0.3], [], "wikitext2")
    assert bool(one.mask.kv_heads.all()) and not bool(one.mask.heads.all())


def test_random_follows_the_seed(collect):
    stats = collect()
    a, b, again = (make(stats, methods.RANDOM, seed=seed)[0] for seed in (0, 1, 0))
    assert a.mask.fingerprint == again.mask.fingerprint != b.mask.fingerprint
    assert a.label["calibration"] == "none"


def test_compensation_uses_the_means_of_the_calibration_text(collect, model):
    stats = collect()
    by_name = {method.calibration: method for method in methods.COMPENSATED if method.score == "s_F"}
    (flap,) = make(stats, by_name["general"])
    assert flap.compensation is stats["wikitext2"].mean and flap.label["method"] == "FLAP+bias"
    (general,) = make(stats, by_name["all"])
    expected = (
        3 * stats["wikitext2"].mean["mlp"] + 2 * stats["piqa"].mean["mlp"] + 2 * stats["arc_challenge"].mean["mlp"]
    ) / 7
    torch.testing.assert_close(general.compensation["mlp"], expected)
    arc, piqa = make(stats, by_name["task"])
    assert (arc.compensation, piqa.compensation) == (stats["arc_challenge"].mean, stats["piqa"].mean)
    pruned = piqa.apply(model)
    bias = models.linear(models.decoder_layers(pruned)[0], "down").bias
    removed = ~piqa.mask.channels[0]
    weight = models.linear(models.decoder_layers(model)[0], "down").weight.detach()
    torch.testing.assert_close(
        bias.double(), weight[:, removed].double() @ stats["piqa"].mean["mlp"][0][removed], rtol=1e-5, atol=1e-7
    )
    assert all(one.compensation is None for one in make(stats, *methods.PAPER))


def test_flap_as_published_needs_its_own_statistics(collect):
    stats, published = collect(), collect("flap")
    with pytest.raises(ValueError, match="flap"):
        make(stats, methods.FLAP_PUBLISHED)
    (one,) = make(stats, methods.FLAP_PUBLISHED, published={"wikitext2": published["wikitext2"]})
    from seaplib.pruning.baselines.flap import flap

    assert one.mask.fingerprint == flap(published["wikitext2"], 0.3).fingerprint
    assert one.compensation is published["wikitext2"].mean
    assert one.label["method"] == "FLAP as published" and one.label["allocation"] == "adaptive"


def test_fused_experts_are_made_of_a_task_and_the_general_text(collect):
    stats = collect()
    made = make(stats, methods.FUSED_F, methods.FUSED_W)
    assert {one.tasks for one in made} == {("arc_easy", "arc_challenge"), ("piqa",)} and len(made) == 4
    from seaplib.pruning.baselines.score_fusion import fused_scores

    for one, (score, task) in zip(
        made, [(s, t) for s in ("s_F", "s_W") for t in ("arc_challenge", "piqa")], strict=True
    ):
        fused = fused_scores(stats["wikitext2"], stats[task], score)
        expected = selection.select(fused, Allocation("logistic", 0.3, protect_last=2))
        assert one.mask.fingerprint == expected.fingerprint and one.label["calibration"] == "fused"
        assert one.mask.provenance["calibration"] == f"wikitext2+{task}"
    others = make(stats, methods.SEAP_F, methods.FLAP, methods.GENERAL_F)
    assert not {one.mask.fingerprint for one in others} & {one.mask.fingerprint for one in made}


def test_a_method_may_have_a_general_text_of_its_own(collect, tiny_model, tiny_tokenizer):
    stats = collect()
    other = corpora.Corpus("c4", ("Ben tells a long story about copper.", "the warm sun"), ("0", "1"), {})
    model = tiny_model("mha", num_hidden_layers=4)
    stats["c4"] = activations.collect(model, tiny_tokenizer, other, progress=False)
    usual, on_c4 = make(stats, methods.FLAP, methods.FLAP.on("c4"))
    assert on_c4.mask.provenance["calibration"] == "c4" and usual.mask.provenance["calibration"] == "wikitext2"
    assert (usual.label["calibration"], on_c4.label["calibration"]) == ("general", "general: c4")
    expected = selection.select(scores.score(stats["c4"], "s_F"), Allocation("logistic", 0.3, protect_last=2))
    assert on_c4.mask.fingerprint == expected.fingerprint != usual.mask.fingerprint
    (compensated,) = make(stats, replace(methods.FLAP.on("c4"), compensation="mean"))
    assert compensated.compensation is stats["c4"].mean
    published = {"wikitext2": collect("flap")["wikitext2"]}
    with pytest.raises(ValueError, match="flap"):
        make(stats, methods.FLAP_PUBLISHED.on("c4"), published=published)
    del stats["c4"]
    with pytest.raises(ValueError, match="c4"):
        make(stats, methods.WANDA_SP.on("c4"))
    with pytest.raises(ValueError, match="general"):
        methods.SEAP_F.on("c4")


def test_missing_statistics_are_named(collect):
    stats = collect()
    del stats["piqa"], stats["wikitext2"]
    with pytest.raises(ValueError, match="piqa, wikitext2"):
        make(stats, methods.FLAP)


def test_unknown_tasks_are_refused(collect):
    with pytest.raises((ValueError, KeyError), match="piqa"):
        make(collect(), methods.SEAP_F, tasks=("piqqa",))


def test_an_unreachable_sparsity_is_refused(collect):
    with pytest.raises(UnreachableSparsity, match="sparsity"):
        make(collect(), methods.SEAP_F, sparsities=(0.9,))


def test_every_row_of_tables_1_and_3_applies(collect, model, tiny_tokenizer):
    stats, published = collect(), {"wikitext2": collect("flap")["wikitext2"]}
    texts = {task: corpora.Corpus(task, found, tuple(map(str, range(len(found)))), {}) for task, found in TEXTS.items()}
    spread = {task: covariances.collect(model, tiny_tokenizer, one, progress=False) for task, one in texts.items()}
    ids = torch.arange(3, 30)[None]
    rows = (*TABLE_1, *methods.FULL_GRID, *methods.BESIDE_3, *methods.BEYOND)
    for one in make(stats, *rows, published=published, covariances=spread):
        with torch.no_grad():
            assert torch.isfinite(one.apply(model)(ids).logits).all()
        if one.label["budget"] == "parameters":
            assert one.label["achieved_sparsity"] == pytest.approx(0.3, abs=0.03), one.label


def test_experts_differ_from_general_masks(collect):
    """The tables compare calibration texts: their masks must not be one and the same."""
    made = make(collect(), methods.SEAP_F, methods.GENERAL_F, methods.FLAP, methods.RANDOM, methods.MAGNITUDE)
    assert len({one.mask.fingerprint for one in made}) == len(made)


def test_variants_apply_by_removal(collect, model):
    (one,) = make(collect(), methods.FLAP)
    assert models.projection_parameters(one.apply(model)) == models.projection_parameters(
        prune(model, one.mask, "remove")
    )


def test_presets_are_the_published_configurations(tiny_model, tiny_tokenizer):
    from seaplib.pruning import allocation
    from seaplib.pruning.baselines import authors_code

    model = tiny_model("mha", num_hidden_layers=6)
    stats = {}
    for estimator in ("exact", "authors"):
        texts = {task: corpora.Corpus(task, t, tuple(map(str, range(len(t)))), {}) for task, t in TEXTS.items()}
        calibration = Calibration(estimator=estimator)
        stats[estimator] = {
            task: activations.collect(model, tiny_tokenizer, corpus, calibration, progress=False)
            for task, corpus in texts.items()
        }
    paper = methods.preset("paper", stats["exact"], 0.3, "wikitext2")
    assert set(paper) == {*TEXTS, "general"}
    by_hand = selection.select(scores.score(stats["exact"]["piqa"], "s_F"), allocation.logistic(0.3), budget="floor")
    assert paper["piqa"].fingerprint == by_hand.fingerprint
    authors = methods.preset("authors_code", stats["authors"], 0.3, "wikitext2")
    expected = authors_code.authors_mask(authors_code.authors_score(stats["authors"]["piqa"]), 0.3)
    assert authors["piqa"].fingerprint == expected.fingerprint
    assert authors["piqa"].heads[:2].all() and authors["piqa"].channels[-2:].all()
    with pytest.raises(ValueError, match="authors"):
        methods.preset("authors", stats["exact"], 0.3, "wikitext2")


# ---- rows of ShortGPT and 2SSP --------------------------------------------------------------------------------


@pytest.fixture
def world(monkeypatch, tiny_model, tiny_tokenizer):
    """A model, and corpora drawn from texts of the test's own."""

    def corpus(name, samples=None, seed=0):
        texts = FOUR if name == "mine" else FOUR[::-1]
        return corpora.Corpus(name, texts[:samples], tuple("0123")[:samples], {})

    monkeypatch.setattr(corpora, "corpus", corpus)
    return tiny_model("gqa", num_hidden_layers=4), tiny_tokenizer


def test_rows_are_labelled_like_all_others(world):
    made = methods.depth_variants(*world, [0.3, 0.5], "mine", Calibration(samples=3, seed=7))
    assert [(v.label["method"], v.label["requested_sparsity"]) for v in made] == [
        ("ShortGPT", 0.3), ("ShortGPT", 0.5), ("2SSP", 0.3), ("2SSP", 0.5),
    ]  # fmt: skip
    assert set(methods.FLAP.label(0)) <= set(made[0].label)
    assert {v.label["calibration_seed"] for v in made} == {7} and {v.label["calibration"] for v in made} == {"general"}
    assert [v.label["achieved_sparsity"] for v in made[:2]] == [0.25, 0.5]
    again = methods.depth_variants(*world, [0.3, 0.5], "mine", Calibration(samples=3, seed=7))
    assert [v.fingerprint for v in again] == [v.fingerprint for v in made]


def test_store_keys_follow_the_inputs(world, tiny_model, monkeypatch):
    keys = []
    real = store.fetch
    monkeypatch.setattr(
        store, "fetch", lambda kind, spec, *rest: keys.append((kind, store.digest(spec))) or real(kind, spec, *rest)
    )
    model, tokenizer = world
    calls = [
        (model, "mine", Calibration(samples=3), 0.5),
        (model, "other", Calibration(samples=3), 0.5),
        (model, "mine", Calibration(samples=2), 0.5),
        (model, "mine", Calibration(samples=3, bos=False), 0.5),
        (tiny_model("gqa", seed=1, num_hidden_layers=4), "mine", Calibration(samples=3), 0.5),
    ]
    for which, text, calibration, sparsity in calls:
        methods.depth_variants(which, tokenizer, [sparsity], text, calibration)
    for kind in ("influence", "masks", "stats"):
        mine = [key for one, key in keys if one == kind]
        assert len(mine) == len(set(mine)) == len(calls), kind
    methods.depth_variants(model, tokenizer, [0.3], "mine", Calibration(samples=3))
    assert len({key for kind, key in keys if kind == "influence"}) == len(calls), "one pass serves every sparsity"
    assert len({key for kind, key in keys if kind == "masks"}) == len(calls) + 1
