"""Claims and diagnostics: verdicts, Holm's correction, and what the saved tables are made to say."""

import numpy as np
import pandas as pd
import pytest
import torch

from seaplib import models, paths
from seaplib.evaluation import comparison, perplexity
from seaplib.experts import variants
from seaplib.pruning import methods
from seaplib.pruning.apply import Variant
from seaplib.pruning.masks import PruningMask
from seaplib.reports import claims, paper_tests, tables
from seaplib.reports.paper_claims import PAPER_CLAIMS
from seaplib.runner import plan
from seaplib.studies import diagnostics

pytestmark = pytest.mark.unit
SHAPE = models.Geometry(layers=2, hidden=4, heads=2, kv_heads=2, head_dim=2, channels=4, model_parameters=500)


def row(text="a beats b", **changes):
    given = {"measured": 2.0, "low": 1.0, "high": 3.0, "unit": "points", "n": 100, "p_value": 0.01} | changes
    return claims.claim(text, given.pop("measured"), given.pop("low"), given.pop("high"), **given)


@pytest.mark.parametrize(
    ("low", "high", "null", "direction", "expected"),
    [
        (0.1, 0.5, 0, 1, "holds"),
        (0.1, 0.5, 0, -1, "reversed"),
        (-0.5, -0.1, 0, -1, "holds"),
        (0.9, 1.1, 1, 1, "undecided"),
        (1.01, 1.1, 1, 1, "holds"),
        (0.8, 0.99, 1, 1, "reversed"),
        (np.nan, np.nan, 0, 1, "undecided"),
    ],
)
def test_the_verdict_follows_from_the_interval_and_the_null(low, high, null, direction, expected):
    assert row(low=low, high=high, null=null, direction=direction)["verdict"] == expected


def test_a_paired_difference_is_a_claim_in_points_and_a_cell_of_a_table():
    found = {"difference": 0.012, "low": 0.003, "high": 0.02, "p": 0.01, "n": 60}
    made = claims.points("a beats b", found, sparsity=0.5, metric="exact_match", where="table")
    assert made["claim_id"] == "a-beats-b/50%/exact-match" and made["claim"] == "a beats b at 50%, by exact match"
    assert (made["measured"], made["low"], made["high"], made["unit"]) == (1.2, 0.3, 2.0, "points")
    assert (made["p_value"], made["n"], made["verdict"], made["where"]) == (0.01, 60, "holds", "table")
    frame = pd.DataFrame([found], index=[7])
    assert tables.points(frame).to_dict() == {7: "+1.2 [+0.3, +2.0]"} and tables.points(frame.head(0)).empty


def test_the_mean_of_a_few_values_is_a_claim():
    values = {"Tasks keep different heads": np.array([0.2, 0.3, 0.25]), "and channels": np.array([-0.1, 0.1])}
    first, second = claims.of_means(values, "mask_overlap", draws=500, sparsity=0.5, unit="Jaccard")
    assert first["measured"] == pytest.approx(0.25) and (first["n"], first["verdict"]) == (3, "holds")
    assert first["claim_id"] == "tasks-keep-different-heads/50%" and first["p_value"] == first["p_floor"] == 2 / 501
    assert second["verdict"] == "undecided" and second["where"] == "mask_overlap"


def test_a_direction_is_one_or_minus_one():
    with pytest.raises(ValueError, match="0"):
        row(direction=0)


def test_what_is_zero_but_for_rounding_is_recorded_as_zero():
    found = row(measured=-2.5e-17, low=6e-18, high=1 / 3, p_value=1e-64)
    assert found["verdict"] == "undecided"  # an interval that begins at 0 is not beyond it
    assert str(found["measured"]) == "0.0" and found["low"] == 0 and found["high"] == 0.3333333333
    assert found["p_value"] == 1e-64
    file = next(file for file in tables.save(claims.frame([found]), "claims_x", "p") if file.suffix == ".csv")
    assert ",0,0,0.333333," in file.read_text()


@pytest.mark.parametrize(
    ("text", "name", "sparsity", "metric", "expected"),
    [
        ("SEAP ($s_F$) beats FLAP", "", None, "", "seap-s-f-beats-flap"),
        ("4 times the text helps", "more-text-helps", 0.2, "primary", "more-text-helps/20%/accuracy"),
        ("8:16 beats 2:4", "", 0.35, "", "8-16-beats-2-4/35%"),
    ],
)
def test_an_id_is_words(text, name, sparsity, metric, expected):
    assert row(text, name=name, sparsity=sparsity, metric=metric)["claim_id"] == expected


def test_a_counter_of_an_older_layout_is_refused_with_the_new_name(monkeypatch):
    monkeypatch.setattr(claims, "older_ids", lambda: {"06.1": {"embedded": "a-beats-b/50%"}})
    for call in (lambda: row("06.1"), lambda: row(name="06.1"), lambda: claims.find(claims.frame([row()]), "06.1")):
        with pytest.raises(KeyError, match="a-beats-b/50%"):
            call()
    with pytest.raises(ValueError, match="words"):
        row("!")


def test_a_claim_is_found_by_its_id():
    rows = claims.frame([row(), row("c beats d", measured=1.0)])
    assert claims.find(rows, "c-beats-d")["measured"] == 1.0
    with pytest.raises(KeyError, match="did you mean 'c-beats-d'"):
        claims.find(rows, "c-beat-d")


def test_contrasts_that_test_a_claim_become_claims():
    found = {"difference": 0.012, "low": 0.003, "high": 0.02, "p": 0.01, "p_floor": 0.001, "n": 60, "metric": "primary"}
    frame = pd.DataFrame([found | {"claim": "a beats b", "requested_sparsity": 0.2}, found | {"claim": ""}])
    (made,) = claims.of_contrasts(frame, "table")
    assert (made["claim_id"], made["p_floor"], made["where"]) == ("a-beats-b/20%/accuracy", 0.001, "table")


def test_a_claim_of_the_paper_has_its_sentence_and_is_bound_to_its_models():
    made = claims.of_paper("retention-at-20", 98.5, 98.0, 99.0, model="bundled", n=700, p_value=0.01)
    assert made["claim"] == "At 20% SEAP keeps 97.8% of the dense accuracy" and made["null"] == 97.8
    assert (made["part"], made["verdict"], made["claim_id"]) == (claims.PAPER, "holds", "retention-at-20")
    bound = {
        model: claims.of_paper("speed-at-50", 1.6, 1.5, 1.7, model=model) for model in ("bundled", "Llama-2-7b-hf")
    }
    assert [bound[model]["verdict"] for model in bound] == [claims.NOT_TESTED, "holds"]
    assert bound["bundled"]["measured"] == 1.6  # what was measured here stands beside it
    with pytest.raises(KeyError, match="retention-at-20"):
        claims.of_paper("retention-at-2", 1, 1, 1, model="bundled")


def test_every_claim_of_the_paper_is_a_sentence_with_a_number_and_a_notebook():
    assert 10 <= len(PAPER_CLAIMS) <= 20
    declared = plan.read()[1]
    for name, about in PAPER_CLAIMS.items():
        assert about.paper and about.notebook in declared and about.direction in (1, -1), name
    sentences = [about.sentence for about in PAPER_CLAIMS.values()]
    assert len(set(sentences)) == len(sentences)


def test_claims_are_gathered_in_two_parts_and_corrected_within_each_family():
    some = [row("b", p_value=0.03), row("c", p_value=0.01), row("d", p_value=np.nan)]
    paper = [
        claims.of_paper("beats-flap-at-20", 1, 0.5, 2, model="bundled", p_value=0.02, n=9),
        claims.of_paper("retention-at-20", 99, 98, 99.5, model="bundled", p_value=0.04, n=9),
        claims.of_paper("speed-at-50", 1.2, 1.1, 1.3, model="bundled", p_value=1e-9, n=9),
    ]
    claims.save([*paper, *some], "06_zero_shot", "p")
    claims.save([row("a", p_value=0.02)], "01_hidden_state_clustering", "p")
    found = claims.gather("p")
    first, further = (found[found["part"] == part] for part in (claims.PAPER, claims.FURTHER))
    assert first["claim_id"].tolist() == list(PAPER_CLAIMS) and found.index.tolist() == list(range(len(found)))
    assert further["claim_id"].tolist() == ["a", "b", "c", "d"]
    np.testing.assert_allclose(further["p_holm"], [0.02, 0.03, 0.02, np.nan])
    by_id = first.set_index("claim_id")
    # not tested here: no part of the family, whatever its p-value
    np.testing.assert_allclose(by_id.loc[["beats-flap-at-20", "retention-at-20"], "p_holm"], [0.04, 0.04])
    assert np.isnan(by_id.at["speed-at-50", "p_holm"])
    absent = by_id.loc["classifier-accuracy"]
    assert absent["verdict"] == claims.NOT_TESTED and np.isnan(absent["measured"]) and absent["paper"] == "93%"
    shown = claims.table(first)
    assert shown.columns.tolist()[:3] == ["claim", "the paper", "measured [95%]"] and len(shown) == len(PAPER_CLAIMS)


def test_a_verdict_that_the_correction_does_not_leave_standing_is_marked():
    rows = claims.frame([row("a"), row("b"), row("c", low=-1.0)]).assign(p_holm=[0.01, 0.2, 0.3])
    assert claims.marked(rows) == ["holds", "holds" + claims.MARK, "undecided"]


def test_a_p_value_that_the_bootstrap_could_not_make_smaller_says_so():
    rows = claims.frame(
        [row("a", p_value=2 / 2001, p_floor=2 / 2001), row("b", p_value=0.02, p_floor=2 / 2001), row("c")]
    )
    assert claims.table(rows)["p"].tolist() == ["≤ 0.001", "0.02", "0.01"]
    corrected = rows.assign(p_holm=[0.003, 0.04, 0.04])
    assert claims.table(corrected)["p (Holm)"].tolist() == ["≤ 0.003", "0.04", "0.04"]


def test_names_that_stand_twice_are_an_error():
    with pytest.raises(ValueError, match="a-beats-b"):
        claims.save([row(), row()], "06_zero_shot", "p")
    claims.save([row()], "06_zero_shot", "p")
    claims.save([row()], "07_sparsity_settings", "p")
    with pytest.raises(ValueError, match="06_zero_shot and 07_sparsity_settings"):
        claims.gather("p")


def test_a_table_of_an_older_layout_names_the_new_products():
    tables.save(pd.DataFrame({"claim_id": ["13.1"], "claim": ["a"]}), "claims_open_questions", "p")
    with pytest.raises(ValueError, match="claims_expert_transfer.*--profile p"):
        claims.gather("p")


def test_nothing_to_gather_is_an_error():
    with pytest.raises(FileNotFoundError, match="empty"):
        claims.gather("empty")


def test_an_estimate_has_signs_where_the_null_value_is_zero():
    rows = claims.frame([row(), row("c", measured=1.5, low=1.2, high=1.8, null=1.0, unit="×")])
    assert [claims.estimate(one) for one in rows.itertuples()] == ["+2 [+1, +3] points", "1.5 [1.2, 1.8] ×"]


# --- comparisons of methods, of perplexities ----------------------------------------------------


def answers(values: dict, seeds=(0,), sparsity=0.5) -> pd.DataFrame:
    """{method: {task: right answers of 20}} as item results, the same under every seed."""
    parts = []
    for method, right in values.items():
        for seed in seeds:
            for task, k in right.items():
                cell = pd.DataFrame({"doc_id": [str(i) for i in range(20)], "value": [float(i < k) for i in range(20)]})
                for metric in ("acc", "acc_norm", "exact_match"):
                    named = method.label(seed) | {"requested_sparsity": sparsity, "task": task, "metric": metric}
                    parts.append(cell.assign(**named))
    return pd.concat(parts, ignore_index=True).astype({"calibration_seed": "Int64"})


def test_contrasts_compare_over_all_tasks_and_task_by_task():
    items = answers({methods.SEAP_F: {"piqa": 18, "boolq": 12}, methods.FLAP: {"piqa": 10, "boolq": 12}}, seeds=(0, 1))
    items["truncated"] = False
    found = comparison.contrasts(items, [(methods.SEAP_F, methods.FLAP)], metrics=("primary",), draws=500)
    assert found["task"].tolist() == ["all", "piqa", "boolq"]
    assert found["difference"].tolist() == pytest.approx([0.2, 0.4, 0.0])
    assert (found["a"] == "SEAP, s_F").all() and (found["b"] == "FLAP, s_F").all()
    assert found["seeds"].tolist() == [2, 1, 1]
    assert np.isnan(found["p_mcnemar"][0]) and found["p_mcnemar"][1] == pytest.approx(2 / 2**8)
    assert found["p_holm"][0] == found["p"][0] and found["p_holm"][1] == pytest.approx(2 * 2 / 2**8)
    assert found["verdict"].tolist() == ["holds", "holds", "undecided"]


def dense(tasks: dict) -> pd.DataFrame:
    frame = answers({methods.SEAP_F: tasks}, sparsity=0.0)
    return frame.assign(method="dense", score="none", allocation="none", calibration_seed=pd.NA)


def test_the_papers_claims_about_accuracy_from_item_results():
    right = {methods.SEAP_F: 19, methods.GENERAL_F: 18, methods.FLAP: 10, methods.WANDA_SP: 8}
    parts = [
        answers({method: {"hellaswag": k, "boolq": k} for method, k in right.items()}, sparsity=G) for G in (0.2, 0.5)
    ]
    items = pd.concat([*parts, dense({"hellaswag": 20, "boolq": 20})], ignore_index=True)
    found = claims.frame(paper_tests.zero_shot(items.assign(truncated=False), "bundled", draws=400)).set_index(
        "claim_id"
    )
    of_06 = {name for name, about in PAPER_CLAIMS.items() if about.notebook == "06_zero_shot"}
    assert set(found.index) == of_06
    assert found.at["retention-at-20", "measured"] == pytest.approx(95)
    assert found.at["gain-over-flap-at-50", "measured"] == pytest.approx(90)
    assert found.at["gain-over-wanda-sp-at-50", "measured"] == pytest.approx(100 * (19 / 8 - 1))
    assert found.at["beats-flap-at-20", "measured"] == pytest.approx(45)
    assert found.at["experts-beat-general-at-50", "measured"] == pytest.approx(5)
    assert found.at["general-ahead-on-boolq", "measured"] == pytest.approx(-5)
    assert found.at["general-ahead-on-boolq", "verdict"] == claims.NOT_TESTED
    assert found.at["gain-over-flap-at-50", "verdict"] == "holds"
    kept = paper_tests.retention(items.assign(truncated=False), draws=50).set_index(["method", "requested_sparsity"])
    assert kept.at[("SEAP-gen", 0.5), "ratio"] == pytest.approx(0.9)
    less = paper_tests.zero_shot(items[items["requested_sparsity"] != 0.5].assign(truncated=False), "bundled", draws=50)
    assert {one["claim_id"] for one in less} == {n for n in of_06 if n.endswith(("-20", "hellaswag"))}


def test_contrasts_carry_the_claims_of_their_pairs():
    items = answers({methods.SEAP_F: {"piqa": 18}, methods.FLAP: {"piqa": 10}}).assign(truncated=False)
    pairs = {(methods.SEAP_F, methods.FLAP): "text helps", (methods.FLAP, methods.SEAP_F): ""}
    found = comparison.contrasts(items, pairs, ("primary",), draws=50)
    assert found["claim"].tolist() == ["text helps"] * 2 + [""] * 2


def test_contrasts_name_what_differs():
    from dataclasses import replace

    bare = replace(methods.FLAP, protect_last=0)
    items = answers({methods.FLAP: {"piqa": 18}, bare: {"piqa": 10}, methods.RANDOM: {"piqa": 3}})
    found = comparison.contrasts(items, [(methods.FLAP, bare), (methods.FLAP, methods.RANDOM)], ("primary",), draws=50)
    assert found["a"].unique().tolist() == ["FLAP, s_F, logistic", "FLAP, s_F"]
    assert found["b"].unique().tolist() == ["FLAP, s_F, logistic, protect 0+0", "random"]


def windows() -> pd.DataFrame:
    rng, parts = np.random.default_rng(0), []
    base = rng.normal(3, 0.5, 40)  # windows differ far more than methods do
    for method, more in (("dense", 0.0), ("flap", 0.2), ("seap", 0.3), ("seap", 0.5)):
        nll = 100 * (base + more + rng.normal(0, 0.01, 40))
        parts.append(pd.DataFrame({"method": method, "preset": "128", "start": range(40), "nll": nll, "tokens": 100}))
    return pd.concat(parts, ignore_index=True)


def test_perplexities_are_compared_on_the_same_windows():
    found = perplexity.compare(windows(), {"method": "seap"}, {"method": "flap"})
    assert found["ratio"] == pytest.approx(np.exp(0.2), rel=0.01)  # two experts: the mean of 0.3 and 0.5, minus 0.2
    assert found["high"] - found["low"] < 0.03 and found["low"] < found["ratio"] < found["high"]
    assert found["n"] == 40 and found["p"] < 0.01
    same = perplexity.compare(windows(), {"method": "flap"}, {"method": "flap"})
    assert same["ratio"] == same["low"] == same["high"] == same["p"] == 1
    with pytest.raises(ValueError, match="wanda"):
        perplexity.compare(windows(), {"method": "wanda"}, {"method": "flap"})


# --- diagnostics --------------------------------------------------------------------------------


def variant(seed: int, channels: list[bool], tasks=None) -> Variant:
    keep = torch.tensor([channels, channels])
    mask = PruningMask(SHAPE, torch.ones(2, 2, dtype=torch.bool), keep, {"requested": 0.5})
    return Variant(methods.SEAP_F.label(seed), mask, tasks=tasks)


def test_mask_stability_is_the_mean_overlap_of_pairs_of_seeds():
    masks = [[True, True, False, False], [True, True, False, False], [True, False, True, False]]
    found = diagnostics.mask_stability([[variant(seed, channels, ("piqa",))] for seed, channels in enumerate(masks)])
    assert found["task"].tolist() == ["piqa"] and found["seeds"].tolist() == [3]
    assert found["channels"][0] == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    assert found["channels_chance"][0] == pytest.approx(1 / 3)
    assert diagnostics.mask_stability([[variant(0, masks[0])]]).empty  # one seed: nothing to compare
    with pytest.raises(ValueError, match="boolq"):
        diagnostics.mask_stability([[variant(0, masks[0], ("piqa",))], [variant(1, masks[1], ("boolq",))]])


def results() -> pd.DataFrame:
    rows = [("dense", "none", "none", 0.0, 0.9), ("SEAP", "s_F", "logistic", 0.5, 0.85)]
    rows += [("FLAP", "s_F", "logistic", 0.5, 0.7)]
    rows += [("FLAP", "s_F", "logistic, protect 0+0", 0.5, 0.6), ("FLAP+bias", "s_F", "logistic", 0.5, 0.2)]
    columns = ["method", "score", "allocation", "requested_sparsity", "value"]
    frame = pd.concat([pd.DataFrame(rows, columns=columns).assign(task=task) for task in ("piqa", "boolq")])
    seeds = frame["method"].where(frame["method"] == "dense", 0).replace("dense", pd.NA)
    return frame.assign(model="m", budget="parameters", stderr=0.01, primary=True, calibration_seed=seeds)


def test_a_large_drop_fires_and_says_what_protection_did():
    found = diagnostics.accuracy_drops(results(), drop=10).set_index("method")
    assert found["fires"].to_dict() == {"SEAP": "no", "FLAP": "yes"}
    assert found.at["FLAP", "measured"] == pytest.approx(20)
    assert "+10.0 points" in found.at["FLAP", "advice"] and found.at["SEAP", "advice"] == "–"


def test_where_protection_was_not_measured_it_is_not_recommended():
    frame = results()
    bare = frame["allocation"].astype(str).str.endswith("0+0")
    advice = diagnostics.accuracy_drops(frame[~bare], drop=10).set_index("method").at["FLAP", "advice"]
    assert "protect" not in advice and advice.startswith("try another allocation")


def test_protection_that_did_harm_is_not_recommended():
    frame = results()
    frame.loc[frame["allocation"].str.endswith("0+0"), "value"] = 0.75
    advice = diagnostics.accuracy_drops(frame, drop=10).set_index("method").at["FLAP", "advice"]
    assert advice.startswith("protect other layers than the last") and "-5.0 points" in advice


def test_protection_is_judged_at_the_seeds_that_both_have():
    frame = results()
    other = frame[(frame["method"] == "FLAP") & (frame["allocation"] == "logistic")]
    other = other.assign(value=0.3, calibration_seed=1)
    found = diagnostics.accuracy_drops(pd.concat([frame, other]), drop=10).set_index("method")
    assert found.at["FLAP", "measured"] == pytest.approx(40)  # mean of both seeds
    assert "+10.0 points" in found.at["FLAP", "advice"]  # the first seed alone


def test_perplexity_fires_only_where_accuracy_stayed():
    frame = results().drop_duplicates(["method", "allocation"]).drop(columns="task")
    frame["perplexity"] = frame["method"].map({"dense": 5.0, "SEAP": 20.0, "FLAP": 20.0, "FLAP+bias": 5.0})
    found = diagnostics.perplexity_gaps(results(), frame.assign(preset="2048"), ratio=2, kept=6).set_index("method")
    assert found["measured"].to_dict() == pytest.approx({"SEAP": 4.0, "FLAP": 4.0})
    assert found["fires"].to_dict() == {"SEAP": "yes", "FLAP": "no"}


def test_routing_that_brings_nothing_fires():
    rows = [(0.2, "known", 0.01, "undecided"), (0.5, "known", 0.04, "holds"), (0.5, "unseen", -0.2, "reversed")]
    frame = pd.DataFrame(rows, columns=["requested_sparsity", "kind", "difference", "verdict"])
    frame = frame.assign(a=variants.WAYS["router"], b="general", metric="primary")
    others = frame.assign(b="dense"), frame.assign(metric="exact_match")
    found = diagnostics.idle_routing(pd.concat([frame, *others])).set_index("requested_sparsity")
    assert found["fires"].to_dict() == {0.2: "yes", 0.5: "no"} and found["measured"].tolist() == [1.0, 4.0]
    assert "general mask alone" in found.at[0.2, "advice"] and found.at[0.5, "advice"] == "–"


def test_diagnose_reads_what_is_there_and_names_what_is_not():
    tables.save(results(), "table1_zero_shot", "p")
    masks = [[True, True, False, False], [False, True, True, False]]
    stability = diagnostics.mask_stability([[variant(seed, channels)] for seed, channels in enumerate(masks)])
    tables.save(stability, "mask_stability", "p")
    found, missing = diagnostics.diagnose("p", overlap=0.5)
    assert missing == ["perplexity", "routing_comparisons"]
    assert found["diagnostic"].unique().tolist() == ["accuracy drop", "mask depends on the seed"]
    assert found.iloc[-1]["fires"] == "yes" and found.iloc[-1]["measured"] == pytest.approx(1 / 3, rel=1e-3)
    assert set(found["where"]) == {"table1_zero_shot", "mask_stability"}
    empty, absent = diagnostics.diagnose("nothing here")
    assert empty.empty and list(empty.columns) == list(diagnostics.COLUMNS) and len(absent) == 4
    assert not (paths.figures_dir("nothing here")).exists()
