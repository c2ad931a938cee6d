"""What the paper claims and what else is asked of the same numbers, from frames made by hand."""

import numpy as np
import pandas as pd
import pytest

from seaplib.evaluation import bootstrap
from seaplib.reports import answers, claims, costs, paper_tests, published, summaries

pytestmark = pytest.mark.unit


def remove_items(loss: dict, layers: int = 4, n: int = 40) -> pd.DataFrame:
    """Items of two tasks: the dense model is right, a layer's removal makes the share ``loss[layer]`` wrong."""
    parts = []
    for task, metric in (("mini_mmlu", "acc"), ("mini_piqa", "acc_norm")):
        for layer in (None, *range(layers)):
            lost = int(n * loss.get(layer, 0))
            values = {"doc_id": [str(i) for i in range(n)], "value": [0.0] * lost + [1.0] * (n - lost)}
            named = {"method": "dense" if layer is None else "remove test", "layer": layer, "task": task}
            named |= {"calibration_seed": 0, "requested_sparsity": 0.0 if layer is None else 1.0, "truncated": False}
            parts += [pd.DataFrame(values | named | {"metric": name}) for name in (metric, "exact_match")]
    return pd.concat(parts, ignore_index=True)


def remove_results(items: pd.DataFrame) -> pd.DataFrame:
    """The frame of ``aggregate``, as far as the tables need it."""
    keys = ["task", "metric", "method", "layer", "requested_sparsity"]
    means = items.groupby(keys, dropna=False, sort=False)["value"].mean().reset_index()
    guessed = means["task"].map({"mini_mmlu": 0.25, "mini_piqa": 0.5}).where(means["metric"] != "exact_match")
    at_chance = (means["value"] - guessed).abs() <= 0.02
    return means.assign(stderr=0.01, primary=guessed.notna(), chance=guessed, at_chance=at_chance)


def test_remove_tests_compare_the_halves_with_and_without_the_first_layer():
    items = remove_items({0: 0.5, 1: 0.1, 2: 0.1, 3: 0.1})
    rows = claims.frame(paper_tests.remove_tests(items, ["mini_mmlu", "mini_piqa"], 4, "bundled"))
    paper = rows[rows["part"] == claims.PAPER]
    assert paper["claim_id"].tolist() == ["early-layers-matter-mmlu", "early-layers-matter-piqa"]
    assert paper["measured"].tolist() == pytest.approx([20, 20]) and (paper["verdict"] == "holds").all()
    assert "Early layers are more sensitive to pruning than deep ones (MMLU), by exact match" in set(rows["claim"])
    without = rows[rows["claim"].str.contains("but layer 0")]
    assert (
        without["claim_id"].str.endswith(("/accuracy", "/exact-match")).sum() == 4
        and (without["measured"] == 0).all()
        and rows["claim_id"].is_unique
    )
    two = paper_tests.remove_tests(remove_items({0: 0.5}, layers=2), ["mini_piqa"], 2, "bundled")
    assert len(two) == len(bootstrap.REPORTED), "of two layers the early half is layer 0 alone"


def test_remove_tests_as_a_table_and_as_an_answer():
    items = remove_items({0: 0.5, 2: 0.25})
    curves = summaries.remove_tests(remove_results(items), 4)
    mine = curves[(curves["task"] == "mini_mmlu") & (curves["metric"] == "acc")].set_index("layer")
    assert mine["drop"].to_dict() == pytest.approx({0: 0.5, 1: 0, 2: 0.25, 3: 0})
    assert set(curves["requested_sparsity"]) == {0.25} and set(curves["ratio"]) == {1.0}
    shown = summaries.remove_tests_by_layer(curves)
    assert shown["metric"].tolist() == ["acc", "exact_match", "acc_norm", "exact_match"]
    assert shown["layer 0"].tolist() == [50] * 4
    verdicts = claims.frame(paper_tests.remove_tests(items, ["mini_mmlu", "mini_piqa"], 4, "bundled"))
    text = answers.remove_tests(curves, verdicts)
    assert "mini-MMLU (dense 100.0%, guessing 25%): pruning one layer costs most in layer 0 (50.0 points" in text
    assert "at most two standard errors in 2 of 4" in text and "+12.5" in text and "(*holds*)" in text


def test_a_classifier_is_held_against_the_papers_number_chance_and_its_controls():
    right = {name: np.arange(200) < hits for name, hits in {"all words": 196, "bare": 150, "random": 196}.items()}
    rows = claims.frame(paper_tests.task_classifier(right, "bare", "random", 0.2, "bundled"))
    paper = claims.find(rows, "classifier-accuracy")
    assert (paper["measured"], paper["null"], paper["verdict"], paper["part"]) == (98, 93, "holds", "paper")
    assert rows["null"].tolist() == [93, 20, 20, 95, 0, 0] and (rows["n"] == 200).all()
    assert rows["measured"].tolist()[-2:] == [23, 0] and rows["verdict"].tolist()[-2:] == ["holds", "undecided"]
    summary = pd.DataFrame({"input": ["all words", "all words, random embeddings", "bare"], "chance": 0.2})
    summary[["accuracy", "low", "high"]] = [[0.9, 0.8, 0.95], [0.92, 0.82, 0.97], [0.7, 0.6, 0.8]]
    routed = pd.Series({"coverage": 0.95, "accuracy": 0.99})
    text = answers.task_classifier(summary, "bare", "all words, random embeddings", 0.85, routed)
    assert "90.0% [80.0%, 95.0%]" in text and "enough for routing" in text and "routes 95.0%" in text
    assert "Of 2 tables the best is random embeddings: 92.0%" in text
    assert "not enough" in answers.task_classifier(summary, "bare", "all words, random embeddings", 0.95, routed)


def ratios(a: str, b: str, sparsity: float, ratio: float) -> dict:
    found = {"ratio": ratio, "low": ratio - 0.1, "high": ratio + 0.1, "p": 0.01, "p_floor": 0.001, "n": 9}
    return found | {"a": a, "b": b, "requested_sparsity": sparsity, "claim": f"{a.partition(',')[0]} costs more"}


def test_perplexity_is_the_papers_claim_at_20_percent_only():
    frame = pd.DataFrame(
        [ratios("SEAP-gen, s_F", "FLAP, s_F", sparsity, 1.3) for sparsity in (0.2, 0.5)]
        + [ratios("SEAP-gen, s_W", "Wanda-sp, s_W", 0.2, 0.8)]
    )
    rows = claims.frame(paper_tests.perplexity(frame, "bundled"))
    ids = ["perplexity-higher-at-20", "seap-gen-costs-more/50%", "seap-gen-costs-more/20%"]
    assert rows["claim_id"].tolist() == ids and rows["null"].tolist() == [1, 1, 1]
    assert rows["verdict"].tolist() == ["holds", "holds", "reversed"] and rows["p_floor"].tolist() == [0.001] * 3


def timed(**speeds) -> pd.DataFrame:
    """``time_rounds``'s frame of 6 rounds: {name: tokens per second}."""
    rows = [
        {"round": turn, "name": name, "measure": "decode", "tokens_per_second": speed * (1 + 0.01 * turn * (i % 2))}
        for turn in range(6)
        for i, (name, speed) in enumerate(speeds.items())
    ]
    return pd.DataFrame(rows)


def test_speed_is_claimed_for_the_papers_model_and_beside_it_on_what_is_at_hand():
    names = ["Dense", "Wanda, 50%", "FLAP as published, 50%", "SEAP-gen, 50%"]
    small = timed(**dict(zip(names, (10, 10, 11, 11), strict=True)))
    large = timed(**dict(zip(names, (10, 10, 15, 16), strict=True)))
    rows = claims.frame(paper_tests.speed({"a": small, "b": large}, [0.5], 2.0, "bundled"))
    paper = rows[rows["part"] == claims.PAPER].set_index("claim_id")
    assert (paper["verdict"] == claims.NOT_TESTED).all()
    assert paper.loc["speed-at-50", "measured"] == pytest.approx(1.1, abs=0.05)
    assert paper.loc["pruning-takes-minutes", ["measured", "low", "high", "n"]].tolist() == [2, 2, 2, 1]
    further = rows[rows["part"] == claims.FURTHER]
    assert further["claim"].str.endswith("on a larger model of random weights at 50%").tolist() == [False] + [True] * 3
    assert further["verdict"].tolist()[-1] == "reversed" and (further["p_floor"] == 2 / 2**6).all()
    own = claims.frame(paper_tests.speed({"a": large}, [0.5], 2.0, "meta-llama/Llama-2-7b-hf"))
    assert own.set_index("claim_id").loc["speed-at-50", "verdict"] == "holds"
    assert own.set_index("claim_id").loc["pruning-takes-minutes", "verdict"] == "holds"
    assert len(own) == 5 and not own["claim"].str.contains("random weights").any()


def speeds_of(model: str) -> pd.DataFrame:
    rows = []
    for name, ratio, size in (("Dense", 1.0, 100), ("Wanda, 50%", 1.0, 100), ("SEAP-gen, 50%", 1.4, 50)):
        for measure in ("decode", "prefill"):
            row = {"model": model, "name": name, "measure": measure, "tokens_per_second": 10 * ratio, "ratio": ratio}
            rows.append(row | {"ratio_low": ratio - 0.1, "ratio_high": ratio + 0.1, "parameter_bytes": size})
    return pd.DataFrame(rows)


def test_speeds_stand_beside_bytes_and_the_papers():
    rows = costs.speed_rows(speeds_of("mine"), {("mine", "SEAP-gen, 50%"): 0.49})
    assert rows["method"].tolist()[::2] == ["Dense", "Wanda", "SEAP-gen"]
    assert rows["achieved_sparsity"].tolist()[::2] == [0, 0.5, 0.49] and rows["bytes_ratio"].max() == 2
    table_2 = published.published("table2_inference_speed").query("model == 'Llama-2-7B'")
    shown = costs.inference_speed(rows, table_2).set_index("Method")
    assert shown.loc["SEAP-gen", "Up"] == "×1.40 [1.30, 1.50]" and shown.loc["Dense", "Sparsity"] == "0%"
    assert shown.loc["SEAP-gen", "paper: up (Llama-2-7B)"] == "×1.48"
    text = answers.inference_speed(rows, 0.5)
    assert "at 50% SEAP-gen has 50% of the bytes and decodes ×1.40" in text
    assert "40% of what the bytes would allow" in text
    assert "takes 30 seconds" in text


def test_routing_has_no_claim_of_the_papers_and_names_the_model_that_was_timed():
    found = {"difference": -0.002, "low": -0.008, "high": 0.001, "p": 0.01, "p_floor": 0.001, "n": 60}
    head = {"requested_sparsity": 0.5, "kind": "known", "a": "x", "b": "y", "metric": "primary"}
    contrasts = pd.DataFrame([head | found | {"claim": text, "null": -1} for text in ("Routed loses little", "")])
    tested = {"claim": "Routed experts are faster", "null": 1.0, "ratio": 1.2, "low": 1.1, "high": 1.3}
    tested |= {"p": 0.03, "p_floor": 0.03, "n": 6}
    right = np.array([True] * 50)
    rows = claims.frame(paper_tests.routing(contrasts, right, [tested], 0.5, larger=True))
    assert (rows["part"] == claims.FURTHER).all() and (rows["paper"] == "").all()
    assert rows["verdict"].tolist() == ["holds", "undecided", "holds"] and rows["null"].tolist() == [-1, 95, 1]
    assert rows["claim_id"].tolist()[0] == "routed-loses-little/50%"
    assert rows["claim"].tolist()[2] == "Routed experts are faster, on a larger model of random weights at 50%"
