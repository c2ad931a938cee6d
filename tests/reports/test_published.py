"""The published numbers: complete, consistent with each other, and flagged where they cannot be right."""

import re

import numpy as np
import pandas as pd
import pytest

from seaplib import paths
from seaplib.reports import published
from seaplib.texts import tasks

pytestmark = pytest.mark.unit

NAMES = sorted(path.stem for path in paths.published_dir().glob("*.csv"))
ACTIVATION = "table_activation_sparsity"
#: evaluation items of each task: the split that lm-eval scores
ITEMS = {
    "winogrande": 1267,
    "openbookqa": 500,
    "hellaswag": 10042,
    "piqa": 1838,
    "arc_challenge": 1172,
    "arc_easy": 2376,
    "boolq": 3270,
}
#: averages that do not follow from their tasks, as (file, sparsity, method, score): none does
WRONG_AVERAGES: set[tuple] = set()


def averages(name: str) -> pd.Series:
    paper = published.published(name).query("task == 'average'")
    return paper.set_index(["requested_sparsity", "method", "score"])["value"]


def activation_rows() -> pd.DataFrame:
    """One row per printed row: its settings, and a column per task."""
    frame = published.published(ACTIVATION)
    settings = ["model", "row", "label", "method", "pattern", "transformation", "targets", "replaced_layers", "flag"]
    wide = frame.pivot(index=["table", "row"], columns="task", values="value")
    return frame[["table", *settings]].drop_duplicates(["table", "row"]).join(wide, on=["table", "row"])


def test_all_tables_are_there():
    expected = {"table1_zero_shot", "table2_inference_speed", "table3_sparsity_settings", "table4_zero_shot"}
    assert set(NAMES) == expected | {"table6_task_classifier", "wanda_perplexity", ACTIVATION}
    text = (paths.published_dir() / "README.md").read_text("utf-8")
    assert set(re.findall(r"`(\w+)\.csv`", text)) == set(NAMES)


def test_wandas_perplexities_are_complete_and_ordered():
    """Three sizes × dense and three methods × three patterns; bigger models lose less, 2:4 costs more than 4:8."""
    frame = published.published("wanda_perplexity").set_index(["model", "method", "pattern"])["value"].unstack("model")
    assert frame.shape == (10, 3) and frame.notna().all().all()
    assert (frame["Llama-2-7B"] > frame["Llama-2-13B"]).all() and (frame["Llama-2-13B"] > frame["Llama-2-70B"]).all()
    by_pattern = frame.drop("Dense", level="method").unstack("pattern")
    for size in frame:
        assert (by_pattern[size]["2:4"] > by_pattern[size]["4:8"]).all()
        assert (by_pattern[size]["4:8"] > by_pattern[size]["0.5"]).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_a_source_and_stands_once(name):
    frame = published.published(name)
    assert frame["source"].str.fullmatch(r"arXiv \d{4}\.\d{5}|LLM_activation_pruning|locuslab/wanda").all()
    assert frame["table"].notna().all()
    assert pd.api.types.is_numeric_dtype(frame["value"]) and np.isfinite(frame["value"]).all()
    assert not frame.drop(columns=["value", "flag"], errors="ignore").duplicated().any()
    for unit, highest in {"percent": 100, "fraction": 1}.items():
        if "unit" in frame:
            assert frame.loc[frame["unit"] == unit, "value"].between(0, highest).all()


@pytest.mark.parametrize("name", ["table1_zero_shot", "table4_zero_shot"])
def test_zero_shot_tables_use_the_registered_metrics(name):
    frame = published.published(name).query("task != 'average'")
    assert set(frame["task"]) == set(ITEMS)
    assert (frame["metric"] == frame["task"].map(lambda task: tasks.get(task).metric)).all()


@pytest.mark.parametrize("name", ["table1_zero_shot", "table4_zero_shot"])
def test_averages_are_the_means_of_their_tasks(name):
    frame = published.published(name)
    keys = ["requested_sparsity", "method", "score"]
    means = frame[frame["task"] != "average"].groupby(keys)["value"].mean()
    stated = averages(name)
    off = (means.loc[stated.index] - stated).abs() > 0.005 + 1e-9
    assert {(name, *key) for key in off.index[off]} == {wrong for wrong in WRONG_AVERAGES if wrong[0] == name}


def test_over_twenty_percent_is_relative_and_only_against_wanda():
    average = averages("table1_zero_shot")
    over_wanda = average[0.5, "SEAP", "s_W"] / average[0.5, "WandA-sp", "s_W"] - 1
    over_flap = average[0.5, "SEAP", "s_F"] / average[0.5, "FLAP", "s_F"] - 1
    assert over_wanda == pytest.approx(0.217, abs=5e-4)
    assert over_flap == pytest.approx(0.190, abs=5e-4)
    assert average[0.5, "SEAP", "s_F"] - average[0.5, "FLAP", "s_F"] < 9  # points


def test_the_drop_at_twenty_percent_is_relative_too():
    average = averages("table1_zero_shot")
    dense, seap = average[0.0, "Dense", "none"], average[0.2, "SEAP", "s_F"]
    assert 1 - seap / dense == pytest.approx(0.0225, abs=1e-4)
    assert dense - seap == pytest.approx(1.51, abs=0.005)


@pytest.mark.parametrize("name", ["table1_zero_shot", "table4_zero_shot"])
def test_the_standard_error_of_an_average_is_about_half_a_point(name):
    frame = published.published(name).query("task != 'average'")
    share = frame["value"] / 100
    frame = frame.assign(variance=share * (1 - share) / frame["task"].map(ITEMS))
    total = frame.groupby(["requested_sparsity", "method", "score"])["variance"].sum()
    np.testing.assert_allclose(100 * np.sqrt(total) / len(ITEMS), 0.48, atol=0.012)


def test_classifier_scores_follow_from_each_other():
    wide = published.published("table6_task_classifier").pivot(index="class", columns="metric", values="value")
    classes = wide.drop(index=["macro avg", "weighted avg", "all"])
    assert classes["support"].sum() == wide.at["all", "support"] == 1343
    harmonic = 2 * classes["precision"] * classes["recall"] / (classes["precision"] + classes["recall"])
    np.testing.assert_allclose(classes["f1"], harmonic, atol=0.01)
    weighted = (classes["recall"] * classes["support"]).sum() / 1343
    assert wide.at["all", "accuracy"] == pytest.approx(weighted, abs=0.01)
    for metric in ("precision", "recall", "f1"):
        assert wide.at["macro avg", metric] == pytest.approx(classes[metric].mean(), abs=0.01)


def test_activation_tables_are_complete():
    rows = activation_rows()
    assert rows.groupby("model").size().to_dict() == {
        "Gemma-3-4b-it": 9,
        "Llama-2-7B(-chat)": 13,
        "Qwen2.5-7B-Instruct": 29,
    }
    assert rows[["arc_easy", "boolq", "piqa", "winogrande"]].notna().all(axis=None)
    assert rows.loc[rows["wikitext2"].isna(), ["model", "label"]].values.tolist() == [
        ["Llama-2-7B(-chat)", "0.2"],
        ["Llama-2-7B(-chat)", "0.5"],
    ]
    frame = published.published(ACTIVATION)
    settings = frame.drop(columns=["task", "metric", "value", "unit"])
    assert len(settings.drop_duplicates()) == len(rows), "the cells of a printed row share all else, its flag too"
    chat = frame[["model", "chat_template"]].drop_duplicates()
    assert dict(chat.values) == {"Llama-2-7B(-chat)": False, "Qwen2.5-7B-Instruct": True, "Gemma-3-4b-it": True}


def test_activation_labels_say_what_the_columns_say():
    for row in activation_rows().itertuples():
        label = row.label.lower()
        assert label.startswith(row.pattern)
        assert (row.method == "weights") == bool(re.search(r"\bwt\b", label))
        assert row.targets == {"none": "none"}.get(label, (re.findall(r"\((\w+)\)", label) or ["all"])[0])
        assert row.transformation.lower() in label or row.transformation == "none"


def test_rows_above_their_dense_model_are_flagged():
    """Sparse rows with a lower perplexity than the dense one, or an accuracy two standard errors higher."""
    rows = activation_rows()
    dense = rows[rows["method"] == "Dense"].set_index("model")
    above = rows["wikitext2"] < rows["model"].map(dense["wikitext2"])
    for task in ("arc_easy", "boolq", "piqa", "winogrande"):
        base = rows["model"].map(dense[task])
        error = np.sqrt((base * (1 - base) + rows[task] * (1 - rows[task])) / ITEMS[task])
        above |= rows[task] - base > 2 * error
    suspects = set(rows.loc[above, "label"])
    names = {f"{pattern} {repair} (qkvo)" for pattern in ("2:4", "8:16") for repair in ("PTS", "VAR")}
    assert suspects == {"0.25 wt"} | names
    assert rows.loc[above, "flag"].str.contains("above the dense row").all()


def test_layer_counts_that_contradict_the_label_are_flagged():
    layers = {"Llama-2-7B(-chat)": 32, "Qwen2.5-7B-Instruct": 28}
    rows = activation_rows()
    rows = rows[rows["model"].isin(layers) & rows["replaced_layers"].notna()]
    targets = rows["targets"].map({"none": 0, "all": 7, "qkv": 3, "qkvo": 4})
    wrong = rows["replaced_layers"] != rows["model"].map(layers) * targets
    assert wrong.sum() == 9 and set(rows.loc[wrong, "replaced_layers"]) == {84, 112}
    flagged = rows["flag"].fillna("").str.contains("label and count disagree")
    assert (flagged == wrong).all()


def test_labels_printed_twice_are_flagged_and_no_other_row_is():
    rows = activation_rows()
    twice = rows.duplicated(["model", "label"], keep=False)
    assert rows.loc[twice, "label"].tolist() == ["8:16 wt", "8:16 wt"]
    flag = rows["flag"].fillna("")
    assert (flag.str.contains("printed twice") == twice).all()
    other_base = rows.loc[flag.str.contains("other base model"), ["row", "label"]].values.tolist()
    assert other_base == [[6, "8:16 wt"], [11, "0.25 wt"], [12, "0.5 wt"], [13, "0.75 wt"]]
    assert (flag != "").sum() == 2 + 3 + 9 + 4  # printed twice, other base, layer counts, above dense in Qwen


def test_what_the_activation_tables_show():
    """At 2:4 and 8:16 activations lose less than weights, but not in Qwen2.5, which attention inputs alone spare."""
    rows = activation_rows()
    rows = rows[rows["pattern"].isin(["2:4", "8:16"]) & (rows["transformation"] == "none")]
    loss = rows.groupby(["model", "targets", "pattern", "method"])["wikitext2"].min().unstack("method")
    better = loss["activations"] < loss["weights"]
    assert better.groupby(["model", "targets"]).unique().str[0].to_dict() == {
        ("Gemma-3-4b-it", "all"): True,
        ("Llama-2-7B(-chat)", "all"): True,
        ("Qwen2.5-7B-Instruct", "all"): False,
        ("Qwen2.5-7B-Instruct", "qkvo"): True,
    }
    assert better.groupby(["model", "targets"]).nunique().eq(1).all()


def test_published_rules_are_found_by_what_they_do():
    said = published.SparseInputs("table_activation_sparsity")
    llama = said.models[0]
    row = {"method": "sparse activations", "pattern": "2:4", "transformation": "none", "targets": "all"}
    key = published.rule_key(row | {"criterion": "magnitude"})
    assert said.mean(key, llama, ["wikitext2"]) == 10.23 and said.text(key, llama, ["piqa"]) == "0.714"
    weights = published.rule_key(row | {"method": "sparse weights", "pattern": "8:16", "criterion": "magnitude"})
    assert said.text(weights, llama, ["wikitext2"], ["piqa", "boolq"]) == "20.47 · 0.7385†"
    assert published.rule_key(row | {"criterion": "wina"}) is None
    assert said.text(None, llama, ["piqa"]) == "–" and said.quote(key, None, ["piqa"]) == ""
    assert said.quote(key, weights, ["wikitext2"]).startswith(f"{llama} 10.23 against 20.47†; ")
    dense = published.rule_key(
        dict.fromkeys(["criterion", "pattern", "transformation", "targets"], "none") | {"method": "dense"}
    )
    assert said.text(dense, llama, ["wikitext2"]) == "6.943"


def test_repairs_are_quoted_where_they_were_published():
    said, rows = published.SparseInputs("table_activation_sparsity"), []
    for name, repair in (("8:16", "none"), ("8:16 VAR", "var")):
        row = {"rule": name, "method": "sparse activations", "pattern": "8:16", "transformation": repair}
        rows.append(row | {"targets": "all", "criterion": "magnitude"})
    quotes = published.sparse_input_quotes([("8:16 VAR", "8:16")], pd.DataFrame(rows), said, ["piqa"])
    assert len(quotes) == 2 and all(quote.startswith("Qwen2.5-7B-Instruct") for quote in quotes)
