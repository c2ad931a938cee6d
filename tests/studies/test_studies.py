"""The studies of notebooks 13 to 17 and 20: unseen tasks, calibration size, the curve, layers, any architecture."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from seaplib import activations, models, paths
from seaplib.activations import chunks
from seaplib.activations.statistics import merge
from seaplib.evaluation import bootstrap
from seaplib.pruning import methods
from seaplib.pruning.scores import score
from seaplib.reports import claims, display_names
from seaplib.settings import Evaluation
from seaplib.studies import (
    calibration_size,
    common,
    expert_or_general,
    logistic_curve,
    other_models,
    synthetic_text,
    unseen_tasks,
)
from seaplib.texts import corpora, tasks

pytestmark = pytest.mark.unit
METRICS = [display_names.metric(name).replace(" ", "-") for name in bootstrap.REPORTED]  # as ids have them

TASKS = ("piqa", "arc_easy", "winogrande")
EXPERT = replace(methods.SEAP_F, protect_last=0)


def cells(values: dict, column: str, seeds=(0, 1), n=20, tasks=("piqa", "boolq")) -> pd.DataFrame:
    """{level: share of right answers} as item results, a little different for every seed."""
    rows = []
    for level, share in values.items():
        for task in tasks:
            for seed in seeds:
                right = round(n * share) + seed % 2
                frame = pd.DataFrame(
                    {"doc_id": [str(i) for i in range(n)], "value": [float(i < right) for i in range(n)]}
                )
                named = {column: level, "task": task, "calibration_seed": seed, "requested_sparsity": 0.5}
                rows += [frame.assign(metric=metric, **named) for metric in ("acc", "acc_norm", "exact_match")]
    return pd.concat(rows, ignore_index=True).astype({"calibration_seed": "Int64"})


def verdicts_of(rows: list[dict]) -> pd.DataFrame:
    """Claims as a notebook has them when it has saved them."""
    return claims.save(rows, "13_a_study", "p")


# --- what they share ----------------------------------------------------------------------------


def test_experts_are_grouped_by_their_corpus():
    assert tasks.experts(["piqa", "arc_easy", "arc_challenge"]) == {
        "piqa": ("piqa",),
        "arc_challenge": ("arc_easy", "arc_challenge"),
    }


def test_draws_are_those_of_the_seeds(tiny_data_dir):
    for (name, seed), drawn in common.draws(["piqa", "wikitext2"], [0, 3]).items():
        expected = corpora.corpus(name, None, seed)
        assert drawn.fingerprint == expected.fingerprint and drawn.source == expected.source


def test_texts_are_cut_nearest_to_the_numbers_of_tokens(tiny_tokenizer):
    texts = corpora.Corpus("mine", tuple("a kettle" for _ in range(10)), tuple(map(str, range(10))), {})
    one = synthetic_text.lengths(tiny_tokenizer, texts)[0]
    pieces = common.cut(tiny_tokenizer, texts, [2 * one + 1, 2 * one + 2, 7 * one - 1])
    assert [len(piece) for piece in pieces] == [2, 1, 4]  # a piece has at least one text
    assert sum((piece.ids for piece in pieces), ()) == texts.ids[:7]
    with pytest.raises(ValueError, match="mine"):
        common.cut(tiny_tokenizer, texts, [one, 11 * one])


def test_beginnings_of_a_draw_are_merged_from_its_pieces(tiny_model, tiny_tokenizer, tiny_data_dir):
    model, wanted = tiny_model(), {"piqa": [100, 300]}
    stats = common.by_tokens(model, tiny_tokenizer, common.draws(["piqa"], [0, 1]), wanted)
    assert set(stats) == {("piqa", n, seed) for n in (100, 300) for seed in (0, 1)}
    whole = stats["piqa", 300, 1]
    direct = activations.collect(model, tiny_tokenizer, corpora.corpus("piqa", whole.provenance["texts"], 1))
    assert direct.count == whole.count
    torch.testing.assert_close(direct.var["mlp"], whole.var["mlp"], rtol=1e-4, atol=1e-7)


def test_own_statistics_are_the_designs_and_come_from_the_store(tiny_model, tiny_tokenizer, tiny_data_dir):
    tasks, general = ("piqa", "winogrande"), "wikitext2"
    wanted = expert_or_general.amounts(tasks, general, 90)
    stats = common.by_tokens(tiny_model(), tiny_tokenizer, common.draws([*tasks, general], [0]), wanted)
    kept = sorted(paths.store_dir().glob("stats/*/spec.json"))
    own = common.own_statistics(tiny_model(), tiny_tokenizer, tasks, [0], 90, general)
    assert sorted(paths.store_dir().glob("stats/*/spec.json")) == kept and len(kept) == 3 + 3 + 2
    assert set(own) == {(name, 0) for name in (*tasks, general)}
    for (name, seed), found in own.items():
        torch.testing.assert_close(found.var["mlp"], stats[name, 90, seed].var["mlp"])
    assert set(common.own_statistics(tiny_model(), tiny_tokenizer, tasks, [0], 90)) == {(name, 0) for name in tasks}


def test_metrics_of_one_verdict_share_the_words():
    about = {"name": "a-beats-b", "sparsity": 0.5, "unit": "points"}
    rows = [claims.claim("A beats b", 2, 1, 3, metric=name, **about) for name in ("primary", "acc_norm")]
    rows.append(claims.claim("A beats b", 1, -1, 3, metric="exact_match", **about))
    said = common.told(claims.frame(rows), "a-beats-b/50%", {"holds": "a wins", "undecided": "nobody wins"})
    won, lost = said.split("; ")
    assert won == "a wins (+2 [+1, +3] points by accuracy, +2 [+1, +3] points by accuracy (normalised))"
    assert lost == "nobody wins (+1 [-1, +3] points by exact match)"
    assert common.sentence(said).startswith("A wins (") and common.told(claims.frame(rows), "a", {}) == ""


# --- the factorial design's masks ---------------------------------------------------------------


def test_every_cell_of_the_design_has_the_text_that_it_says(tiny_model, tiny_tokenizer, tiny_data_dir):
    tasks, general, tokens = ("piqa", "winogrande"), "wikitext2", 90
    wanted = expert_or_general.amounts(tasks, general, tokens)
    assert wanted == {"piqa": [30, 90, 270], "winogrande": [30, 90, 270], "wikitext2": [30, 90]}
    stats = common.by_tokens(tiny_model(), tiny_tokenizer, common.draws([*tasks, general], [0]), wanted)
    made = expert_or_general.variants(stats, tasks, general, tokens, [0], 0.4, EXPERT)
    by_cell = {}
    for one in made:
        by_cell.setdefault((one.label["amount"], one.label["mixture"]), []).append(one)
    assert tuple(by_cell) == expert_or_general.CELLS
    for (_, mixture), found in by_cell.items():
        expected = [("piqa",), ("winogrande",)] if mixture == expert_or_general.ONE else [None]
        assert [one.tasks for one in found] == expected
        assert all(one.label["achieved_sparsity"] == pytest.approx(0.4, abs=0.02) for one in found)


# --- calibration size ---------------------------------------------------------------------------


def test_sizes_are_whole_parts_that_every_corpus_has(tiny_model, tiny_tokenizer, tiny_data_dir):
    parts = chunks.calibrate_parts(tiny_model(), tiny_tokenizer, ["piqa", "winogrande"], 24, 4)
    assert calibration_size.possible([20, 4, 12, 40], parts) == [4, 12, 20]
    with pytest.raises(ValueError, match="6"):
        calibration_size.possible([6], parts)
    made = calibration_size.variants(parts, [4, 20], [0, 1, 2], ["piqa", "winogrande"], 0.5, EXPERT)
    assert len(made) == 2 * 2 * 3 and {one.tasks for one in made} == {("piqa",), ("winogrande",)}
    own = parts["piqa"]
    scores = score(own.union(calibration_size.order(len(own), 1)[:1]), "s_F")
    same = [
        one for one in made if one.tasks == ("piqa",) and one.label["texts"] == 4 and one.label["calibration_seed"] == 1
    ]
    assert [one.mask.fingerprint for one in same] == [
        common.variant(EXPERT, scores, 0.5, 1, None, "remove").mask.fingerprint
    ]
    found = calibration_size.overlaps(made)
    assert len(found) == 12 and found["channels"].between(0, 1).all()
    curve = calibration_size.overlap_curve(found)
    assert curve["texts"].tolist() == [4, 20] and (curve["low"] <= curve["overlap"]).all()
    assert calibration_size.overlaps([one for one in made if one.label["calibration_seed"] == 0]).empty


def test_accuracy_by_size_is_compared_with_the_largest():
    answers = bootstrap.results(cells({10: 0.2, 100: 0.5, 1000: 0.5}, "texts"), ["texts"])
    found = calibration_size.accuracy_curve(answers, draws=200).set_index("texts")
    assert found["difference"].tolist() == pytest.approx([-0.3, 0, 0])
    assert found.at[10, "difference_high"] < 0 and found.at[1000, "difference_low"] == 0


def curve(overlap) -> pd.DataFrame:
    return pd.DataFrame({"texts": [10, 100, 1000], "overlap": overlap, "chance": 0.5})


@pytest.mark.parametrize(
    ("overlap", "lows", "expected"),
    [
        ([0.6, 0.88, 0.9], [-0.1, -0.01, 0.0], 100),  # 0.38 of 0.4 beyond chance
        ([0.6, 0.80, 0.9], [-0.1, -0.01, 0.0], 1000),
        ([0.9, 0.90, 0.9], [-0.01, -0.1, 0.0], 1000),  # a smaller one that happens to do well does not count
        ([0.9, 0.90, 0.9], [-0.01, -0.01, 0.0], 10),
    ],
)
def test_the_smallest_stable_corpus_by_hand(overlap, lows, expected):
    accuracy = pd.DataFrame({"texts": [10, 100, 1000], "difference_low": lows})
    assert calibration_size.smallest_stable(curve(overlap), [accuracy], needed=0.9, allowed=0.03) == expected


def test_what_is_said_of_the_size_follows_from_the_numbers():
    items = cells({10: 0.2, 100: 0.6, 1000: 0.6}, "texts", n=60)
    curves = calibration_size.accuracy_curves(items, draws=100)
    verdicts = verdicts_of(calibration_size.claims(curves, 0.5, 120, 3.0))
    assert verdicts["claim_id"].tolist() == [
        f"{name}/50%/{metric}"
        for metric in METRICS
        for name in ("smallest-corpus-too-small", "usual-corpus-large-enough")
    ]
    assert (verdicts["verdict"] == "holds").all() and verdicts["null"].tolist() == [0, -3] * len(METRICS)
    found = [curve([0.6, 0.88, 0.9]).assign(low=0.5, high=0.9, module=name) for name in ("channels", "heads")]
    table = calibration_size.table(found, curves, 100, 1500)
    assert table.loc[table["recommended"], "texts"].unique().tolist() == [100]
    assert table["shared"].max() == pytest.approx(1000 / 1500)
    assert calibration_size.display(table).columns[1:3].tolist() == ["overlap, channels", "overlap, heads"]
    text = calibration_size.answer(verdicts, found[0], 100, 0.5, 0.9, 3.0)
    assert text.startswith("100 texts a task are enough") and "10 texts lose against the largest corpus (-40 " in text
    assert "no corpus smaller" in calibration_size.answer(verdicts, found[0], 1000, 0.5, 0.9, 3.0)


# --- unseen tasks -------------------------------------------------------------------------------


@pytest.fixture
def stats(tiny_model, tiny_tokenizer, tiny_data_dir):
    names = ["piqa", "arc_challenge", "winogrande", "wikitext2"]
    texts = {n: corpora.corpus("arc_easy" if n == "arc_challenge" else n, 8) for n in names}
    return activations.calibrate_texts(tiny_model(), tiny_tokenizer, texts)


def test_a_task_left_out_is_in_none_of_its_masks_text(stats):
    made = unseen_tasks.variants(stats, TASKS, "wikitext2", 0.5, 0, EXPERT)
    rows = [one.label["calibrated_on"] for one in made]
    experts = [unseen_tasks.expert(name) for name in ("piqa", "arc_challenge", "winogrande")]
    assert rows == [*experts, unseen_tasks.TEXT, unseen_tasks.ALL] + [unseen_tasks.WITHOUT] * 3
    assert [one.tasks for one in made] == [None] * 5 + [("piqa",), ("arc_easy",), ("winogrande",)]
    texts = made[-1].mask.provenance["calibration"].split("+")
    assert texts == ["arc_challenge", "piqa", "wikitext2"]
    with pytest.raises(ValueError, match="two"):
        unseen_tasks.variants(stats, ["piqa"], "wikitext2", 0.5, 0, EXPERT)


def test_the_matrix_and_the_mean_of_other_experts():
    shares = {unseen_tasks.expert("piqa"): 0.9, unseen_tasks.expert("boolq"): 0.5, unseen_tasks.expert("mmlu"): 0.3}
    items = unseen_tasks.averaged(cells(shares | {unseen_tasks.ALL: 0.7}, "calibrated_on", seeds=(0, 2)))
    found = unseen_tasks.matrix(items, draws=50).set_index(["calibrated_on", "task"])
    assert found.at[(unseen_tasks.OTHERS, "piqa"), "value"] == pytest.approx((0.5 + 0.3) / 2)
    assert found.at[(unseen_tasks.OTHERS, "boolq"), "value"] == pytest.approx((0.9 + 0.3) / 2)
    assert found.at[(unseen_tasks.OWN, "piqa"), "value"] == found.at[(unseen_tasks.expert("piqa"), "piqa"), "value"]
    own = found["own"][found["own"]].index.tolist()
    assert sorted(own) == sorted(
        [
            (unseen_tasks.expert("piqa"), "piqa"),
            (unseen_tasks.expert("boolq"), "boolq"),
            (unseen_tasks.ALL, "piqa"),
            (unseen_tasks.ALL, "boolq"),
        ]
    )
    lost = unseen_tasks.losses(found.reset_index(), {"piqa": 1.0, "boolq": 0.8}).set_index(["calibrated_on", "task"])
    assert lost.at[(unseen_tasks.ALL, "boolq"), "loss"] == pytest.approx(10)
    order = unseen_tasks.ordered(["boolq", "piqa"])
    experts = {"expert: boolq": "BoolQ expert", "expert: piqa": "PIQA expert"}
    assert list(order.items())[2:-1] == list(experts.items())
    assert list(order)[:2] == [unseen_tasks.ALL, unseen_tasks.WITHOUT] and list(order)[-1] == unseen_tasks.TEXT


def test_what_is_said_of_unseen_tasks_follows_from_the_numbers():
    shares = {unseen_tasks.expert("piqa"): 0.9, unseen_tasks.expert("boolq"): 0.1}
    shares |= {unseen_tasks.ALL: 0.6, unseen_tasks.WITHOUT: 0.6, unseen_tasks.TEXT: 0.2}
    made = cells(shares, "calibrated_on", seeds=(0, 2), n=40)
    own = made["calibrated_on"] == made["task"].map(unseen_tasks.expert)
    made.loc[own, "value"] = 1.0
    items = unseen_tasks.averaged(made)
    verdicts = claims.frame(unseen_tasks.claims(items, 0.5, draws=100)).set_index("claim_id")["verdict"]
    assert verdicts["own-expert-beats-others/50%/accuracy"] == "holds"
    assert verdicts["leaving-a-task-out-costs/50%/exact-match"] == "undecided"
    assert verdicts["other-tasks-beat-general-text/50%/accuracy"] == "holds" and len(verdicts) == 4 * len(METRICS)
    dense = pd.DataFrame(dict.fromkeys(bootstrap.REPORTED, 1.0), index=["piqa", "boolq"])
    found = unseen_tasks.table(items, dense)
    text = unseen_tasks.answer(verdicts_of(unseen_tasks.claims(items, 0.5, draws=100)), found, 0.5)
    assert (
        "An expert is worth less on a task that it has not seen" in text
        and f"loses {' / '.join(len(METRICS) * ['50.0'])} points" in text
    )
    assert "costs nothing that these items can show" in text
    shown = unseen_tasks.display(found, ["piqa", "boolq"])
    assert shown.loc[0, ["calibrated on", "BoolQ", "PIQA", "mean"]].tolist() == ["the task's own expert", 0, 0, 0]


# --- synthetic text -----------------------------------------------------------------------------


def test_what_is_said_of_synthetic_text_follows_from_the_numbers():
    items = cells({"base only": 0.3, "real": 0.8, "recombined": 0.1, "continued": 0.3}, "text", n=60)
    found = synthetic_text.compared(items, draws=100)
    verdicts = verdicts_of(synthetic_text.claims(found))
    decided = verdicts.set_index("claim_id")["verdict"]
    assert decided["real-text-helps/50%/accuracy"] == "holds" == decided["recombined-text-falls-short/50%/accuracy"]
    assert decided["recombined-text-helps/50%/exact-match"] == "reversed" and len(decided) == 5 * len(METRICS)
    text = synthetic_text.answer(verdicts, 0.5, 16, 4.0)
    for words in ("to 16 texts a task up to 4 times", "further real items help (+50 ", "Recombined items do harm"):
        assert words in text
    assert "The model's continuations change nothing" in text and text.count("they fall short of real items") == 2
    drawn = synthetic_text.effects(found)
    assert drawn["difference"].iloc[0] == pytest.approx(50) and set(drawn["panel"]) == {"50%"}


def test_an_expert_of_an_enlarged_corpus_has_both_texts(tiny_model, tiny_tokenizer, tiny_data_dir):
    model = tiny_model()
    texts = synthetic_text.made(model, tiny_tokenizer, ["piqa"], [0, 1], 6, 2.0, 8)
    kinds = [synthetic_text.BASE, *synthetic_text.KINDS]
    assert set(texts) == {("piqa", kind, seed) for kind in kinds for seed in (0, 1)}
    stats = activations.calibrate_texts(model, tiny_tokenizer, texts)
    made = {one.label["text"]: one for one in synthetic_text.variants(stats, ["piqa"], [0.5], EXPERT)}
    assert set(made) == set(kinds)
    both = merge([stats["piqa", synthetic_text.BASE, 1], stats["piqa", "real", 1]])
    expected = common.variant(EXPERT, score(both, "s_F"), 0.5, 1, None, "remove")
    assert made["real"].mask.fingerprint == expected.mask.fingerprint
    assert synthetic_text.counted(tiny_tokenizer, texts)["text"].tolist() == list(synthetic_text.WORDS.values())
    assert synthetic_text.examples(texts)["example"][0] == texts["piqa", synthetic_text.BASE, 0].texts[0]


# --- a setting chosen on some items, judged on others -------------------------------------------


def test_items_are_parted_once_for_all_their_rows():
    items = logistic_curve.parted(cells({1.0: 0.5, 4.0: 0.6}, "k"), share=0.25)
    sides = items.groupby(["task", "doc_id"])["part"].nunique()
    assert (sides == 1).all()
    counts = items.drop_duplicates(["task", "doc_id"]).groupby(["task", "part"]).size()
    assert counts.unstack().to_dict("index") == {task: {"test": 15, "validation": 5} for task in ("piqa", "boolq")}
    with pytest.raises(ValueError, match="0.01"):
        logistic_curve.parted(items, share=0.01)


def test_the_choice_sees_validation_items_only():
    items = logistic_curve.parted(cells({1.0: 0.5, 4.0: 0.5}, "k", seeds=(0,)))
    validates = items["part"] == logistic_curve.VALIDATION
    items["value"] = np.where(items["k"] == 4.0, validates, ~validates).astype(float)  # good where it chooses, else bad
    chosen, found = logistic_curve.judge(items, ["k"], {"k": 1.0}, draws=100)
    assert chosen == {"k": 4.0} and found["difference"] == -1.0 and found["value_b"] == 1.0
    table = logistic_curve.table(items, ["k"]).set_index("k")
    assert table.loc[4.0].to_dict() == {"validation": 1.0, "test": 0.0}


def test_what_is_said_of_the_curve_and_of_layers_follows_from_the_numbers():
    shapes = {(0.3, 1.0): 0.3, (0.6, 4.0): 0.8}
    made = [cells({x0: share}, "x0", seeds=(0,), n=60).assign(k=k) for (x0, k), share in shapes.items()]
    grid, rows = logistic_curve.judged(logistic_curve.parted(pd.concat(made, ignore_index=True)), draws=100)
    assert grid.loc[grid["chosen"], ["x0", "k"]].to_numpy().tolist() == [[0.6, 4.0]] * len(METRICS)
    layers = cells({0: 0.1, 1: 0.5, 2: 0.7, 3: 0.9}, "layer", seeds=(0, 2, 4), n=60)
    stable = logistic_curve.stabilities(layers, draws=100)
    verdicts = verdicts_of(logistic_curve.curve_claims(rows) + logistic_curve.layer_claims(stable))
    assert (
        (verdicts["verdict"] == "holds").all() and len(verdicts) == 3 * len(METRICS) and verdicts["claim_id"].is_unique
    )
    text = logistic_curve.answer(verdicts, rows, stable)
    assert "choose (0.6, 4) by accuracy" in text and "such a choice beats the paper's" in text
    assert "On other tasks, layers matter in the same order" in text and "explains 100%" in text
    assert "0.6, 4" in logistic_curve.display(rows).iloc[0].tolist()
    alone = logistic_curve.stabilities(layers[layers["calibration_seed"] == 0], draws=100)
    assert {row["claim_id"].partition("/")[0] for row in logistic_curve.layer_claims(alone)} == {
        "layers-agree-between-tasks"
    }


def test_of_equally_good_settings_the_usual_one_is_kept():
    items = logistic_curve.parted(cells({2.0: 0.5, 1.0: 0.5, 4.0: 0.4}, "k", seeds=(0,)))
    chosen, found = logistic_curve.judge(items, ["k"], {"k": 1.0}, draws=100)
    assert chosen == {"k": 1.0} and found["difference"] == found["low"] == found["high"] == 0 and found["p"] == 1


# --- layer sensitivity --------------------------------------------------------------------------


def test_agreement_by_hand():
    layers = np.array([3.0, 1.0, 2.0, 0.0])
    curves = np.stack(
        [np.stack([layers, layers], 1), np.stack([-layers, -layers], 1)], axis=1
    )  # [layers, tasks, seeds]
    found = logistic_curve.agreement(curves)
    assert found[logistic_curve.SEEDS] == pytest.approx(1) and found[logistic_curve.TASKS] == pytest.approx(-1)
    assert np.isnan(logistic_curve.agreement(curves[:, :1, :1])[logistic_curve.SEEDS])
    one = logistic_curve.agreement(
        np.stack([curves] * 2), np.array([[2, 0], [1, 1]])
    )  # a seed drawn twice has no partner
    assert np.isnan(one[logistic_curve.SEEDS][0]) and one[logistic_curve.SEEDS][1] == pytest.approx(1)
    flat = logistic_curve.agreement(np.zeros((4, 2, 2)))
    assert flat[logistic_curve.SEEDS] == 0 == flat[logistic_curve.TASKS]


def test_rank_correlation_is_scipys():
    from scipy.stats import spearmanr

    curves = np.random.default_rng(0).integers(0, 4, size=(9, 2, 2)).astype(float)  # with ties
    found = logistic_curve.agreement(curves)
    expected = np.mean([spearmanr(curves[:, t, 0], curves[:, t, 1]).statistic for t in range(2)])
    assert found[logistic_curve.SEEDS] == pytest.approx(expected)
    expected = spearmanr(curves[:, 0].mean(1), curves[:, 1].mean(1)).statistic
    assert found[logistic_curve.TASKS] == pytest.approx(expected)


def test_one_curve_for_all_is_called_one():
    items = cells({0: 0.1, 1: 0.5, 2: 0.7, 3: 0.9}, "layer", seeds=(0, 2, 4), n=60)
    answers = bootstrap.results(items, ["layer"])
    found = logistic_curve.stability(answers, draws=100).set_index("quantity")
    assert found.at[f"rank correlation {logistic_curve.SEEDS}", "measured"] == pytest.approx(1)
    assert found.at["share of the variation: layer", "measured"] == pytest.approx(1)
    drops = logistic_curve.curves(answers, {"piqa": 1.0, "boolq": 0.9})
    assert len(drops) == 4 * 2 * 3
    assert drops.query("task == 'boolq' and layer == 0")["drop"].tolist() == pytest.approx([0.8] * 3)


def test_every_layer_loses_units_by_its_own_seeds_scores(stats):
    by_seed = {(name, seed): stats[name] for name in ("piqa", "winogrande") for seed in (0, 1)}
    made = logistic_curve.layer_variants(by_seed, ("piqa", "winogrande"), 0.5)
    assert len(made) == 2 * 2 * 2 and [one.label["layer"] for one in made] == [0] * 4 + [1] * 4
    for one in made:
        untouched = 1 - one.label["layer"]
        assert one.mask.heads[untouched].all() and not one.mask.channels[one.label["layer"]].all()


# --- the protocol on any architecture -----------------------------------------------------------


@pytest.mark.parametrize("case", models.ARCHITECTURES)  # a case of every type is named after it
def test_the_protocol_runs_on_every_architecture(any_model, tiny_tokenizer, tiny_data_dir, case):
    options = {"tasks": ["piqa", "winogrande"], "general": "wikitext2", "sparsity": 0.5, "seeds": [0, 1], "samples": 6}
    model = any_model(case)
    items = other_models.answers(model, tiny_tokenizer, settings=Evaluation(items=6), protect_last=0, **options)
    found = other_models.compared(items, case, draws=50, protect_last=0)
    assert len(found) == len(other_models.PAIRS) * len(bootstrap.measured(items))
    assert (found["architecture"] == model.config.model_type).all()
    assert (found["low"] <= found["difference"]).all() and (found["difference"] <= found["high"]).all()
    assert (found.loc[found["metric"] == "primary", "n"] == 12).all() and (found["seeds"] == 2).all()
    achieved = items.loc[items["method"] != "dense", "achieved_sparsity"]
    assert (achieved - 0.5).abs().max() < 0.1
    dense = items[(items["method"] == "dense") & (items["metric"] == "exact_match")]
    expected = dense.groupby("task")["value"].mean().mean()  # where it is 0, exact match is not compared
    shown = found.loc[found["metric"] == "exact_match", "dense"].unique()
    assert shown == pytest.approx([expected] if expected else [])
    assert set(found["claim"]) == set(other_models.PAIRS.values())
    assert f"than {model.config.model_type};" in other_models.answer(found, 0.5)


def test_several_models_go_through_the_same_protocol(tiny_model, tiny_tokenizer, tiny_data_dir, tmp_path):
    names = []
    for kind in ("mha", "gqa"):
        tiny_model(kind).save_pretrained(tmp_path / kind)
        tiny_tokenizer.save_pretrained(tmp_path / kind)
        names.append(str(tmp_path / kind))
    options = {"tasks": ["piqa"], "general": "wikitext2", "sparsity": 0.5, "seeds": [0], "samples": 4}
    found = other_models.on_models(names, draws=50, settings=Evaluation(items=6), protect_last=0, **options)
    metrics = found["metric"].unique()  # exact match where the dense model has any
    assert found["model"].unique().tolist() == ["mha", "gqa"] and "primary" in metrics
    assert len(found) == 2 * len(metrics) * len(other_models.PAIRS)
    text = other_models.answer(found.assign(verdict="holds"), 0.5)
    assert text.startswith("At 50% on mha, gqa:")
    assert text.count("holds on 2 of 2 by") == len(metrics) * len(other_models.PAIRS)
