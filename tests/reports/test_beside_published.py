"""Published beside measured: of the right model, the dense row first, with what two standard errors say."""

import pandas as pd
import pytest

from seaplib.reports import published, summaries

pytestmark = pytest.mark.unit

NAMES = {
    "meta-llama/Llama-2-7b-hf": "Llama-2-7B",
    "meta-llama/Llama-2-13b-hf": "Llama-2-13B",
    "/models/llama-2-7b": "Llama-2-7B",
    "/models/Llama-2-7B-hf/": "Llama-2-7B",
    "meta-llama/Llama-2-7b-chat-hf": None,  # another model, though of the same shape
    "meta-llama/Llama-2-70b-hf": None,
    "meta-llama/Llama-3.1-8B": None,
    "bundled": None,
}


@pytest.mark.parametrize("name, paper", NAMES.items())
def test_only_the_papers_own_models_count_as_such(name, paper):
    assert published.paper_model(name) == paper


def test_the_published_rows_follow_the_model():
    seven, thirteen = (published.zero_shot(f"meta-llama/Llama-2-{size}-hf") for size in ("7b", "13b"))
    assert set(seven["model"]) == {"Llama-2-7B"} and set(thirteen["model"]) == {"Llama-2-13B"}
    assert set(published.zero_shot("meta-llama/Llama-2-7b-hf", "table4_zero_shot")["model"]) == {"Llama-2-7B"}
    assert set(published.zero_shot("bundled", "table4_zero_shot")["model"]) == {"Llama-2-13B"}


def measured(off: float = 0.0) -> pd.DataFrame:
    """Rows as ``evaluate`` gives them: the paper's numbers, the dense ones ``off`` by so many errors of 0.005."""
    paper = published.published("table1_zero_shot").query("task in ['piqa', 'boolq']")
    names = {"Dense": "dense", "WandA-sp": "Wanda-sp"}
    frame = paper[["method", "score", "allocation", "requested_sparsity", "task", "metric"]].copy()
    frame["method"] = frame["method"].replace(names)
    frame["value"] = paper["value"] / 100 + 0.005 * (off if off else 1) * (paper["method"] == "Dense")
    frame = frame.assign(stderr=0.005, model="Llama-2-7b-hf", primary=True)
    return frame.sample(frac=1, random_state=0).reset_index(drop=True)


def beside(frame: pd.DataFrame, model: str) -> pd.DataFrame:
    compared = published.with_published(frame, published.zero_shot(model))
    return published.beside(summaries.summary(compared), model, published.zero_shot(model)["model"].iloc[0])


def test_the_dense_row_stands_first_and_a_difference_within_two_standard_errors_agrees():
    found = beside(measured(), "meta-llama/Llama-2-7b-hf")
    dense = found["method"] == "dense"
    assert dense.iloc[: dense.sum()].all() and dense.sum() == 3  # two tasks and the average
    assert (found["within_2_se"] == "yes").all() and (found["published_model"] == "Llama-2-7B").all()
    assert found.loc[dense & (found["task"] != "average"), "difference"].round(6).eq(0.005).all()
    assert found.loc[~dense, "difference"].abs().max() < 1e-9
    assert "within two standard errors" in published.verdict(found) and "off" not in published.verdict(found)


def test_a_dense_row_that_is_off_is_said_to_be():
    found = beside(measured(off=3), "meta-llama/Llama-2-7b-hf")
    assert (found.loc[found["method"] == "dense", "within_2_se"] == "no").all()
    assert "Dense: 0 of 3" in published.verdict(found) and "The dense model is off" in published.verdict(found)


def test_beside_another_model_no_difference_is_taken():
    found = beside(measured(), "meta-llama/Llama-3.1-8B")
    assert found["difference"].isna().all() and (found["within_2_se"] == "another model").all()
    assert "Llama-2-7B: another model" in published.verdict(found)


def test_shown_in_percent_with_signs_and_dashes():
    columns = {"label": "Method", "task": "Task"}
    own = published.display(beside(measured(), "meta-llama/Llama-2-7b-hf"), columns)
    assert list(own) == ["Method", "Task", "published", "measured", "s.e.", "difference", "within 2 s.e."]
    row = own[(own["Method"].str.startswith("Dense")) & (own["Task"] == "piqa")].iloc[0]
    assert (row["published"], row["measured"], row["s.e."], row["difference"]) == ("79.11", "79.61", "0.50", "+0.50")
    other = published.display(beside(measured(), "bundled"), columns)
    assert set(other["difference"]) == {"–"}
