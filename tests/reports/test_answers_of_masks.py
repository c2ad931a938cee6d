"""The answers of notebooks 00, 04 and 10 say what their frames say."""

import numpy as np
import pandas as pd
import pytest

from seaplib.evaluation import generation
from seaplib.reports import answers

pytestmark = pytest.mark.unit


def test_corpora():
    about = {"tokens_median": [14.0, 60.0], "left_out": [3, 1], "truncated": 0, "data": "bundled: bundled"}
    statistics = pd.DataFrame({"task": ["mini_piqa", "mini_wikitext"], "texts": [8, 20]} | about)
    overlap = pd.DataFrame(
        {"task_a": ["mini_piqa"] * 2, "task_b": ["mini_piqa", "mini_wikitext"], "overlap": [1, 0.25]}
    )
    said = answers.corpora(statistics, overlap)
    for fact in ("28 training texts of bundled data, 8 to 20", "mini-PIQA (14 tokens)", "mini-WikiText-2 (25%)", ": 4"):
        assert fact in said
    assert "shared by" not in answers.corpora(statistics[:1], overlap[:1]), "a single corpus shares nothing"


def budgets(*sparsities: float) -> pd.DataFrame:
    rules = [
        ("logistic", "floor", -0.02),
        ("logistic", "parameters", 0.0),
        ("authors' code, protect 2+2", "floor", -0.1),
    ]
    rows = [(name, kind, "group", g, g + less, 0.8 * g) for g in sparsities for name, kind, less in rules]
    return pd.DataFrame(rows, columns=["allocation", "budget", "kv_unit", "requested", "achieved", "model"])


def test_pruning():
    ratio = {"uniform": [0.5] * 4, "logistic": [0.6, 0.8, 0.6, 0.0]}
    shares = pd.concat(
        [pd.DataFrame({"allocation": name, "sparsity": g, "layer": range(4), "ratio": np.array(r) * g / 0.5})
         for name, r in ratio.items() for g in (0.2, 0.5)]
    )  # fmt: skip
    about = {"task": "a", "other": [0.6, 0.7], "same": [0.9, 0.8], "chance": 0.5, "gap": [0.3, 0.1]}
    gaps = pd.DataFrame({"module": ["heads", "channels"]} | about)
    said = answers.pruning(shares, budgets(0.2, 0.5), gaps, pd.DataFrame({"verdict": ["holds", "undecided"]}))
    answer, tally = said.split("\n\n")
    for fact in (
        "floor removes 48.0%",
        "code removes 40.0%",
        "at most 40.0%",
        "over 3 layers, from 60%",
        "other 1.",
    ):
        assert fact in answer
    assert "different heads *holds* and different channels *undecided*" in answer
    assert tally.startswith("- Asked for 20%") and "48.0%" not in tally


def test_generation():
    rows = [("dense", "Dense", 0.0, 2.0, 0.0, 1.0), ("SEAP-gen", "SEAP-gen", 0.5, 3.0, 0.4, 0.25)]
    texts = pd.DataFrame(
        rows, columns=["method", "label", "requested_sparsity", "perplexity", "repetition", "agreement"]
    )
    texts = pd.concat([texts.assign(known_words=1.0, known_sentences=0.5)] * 2, ignore_index=True)
    texts.loc[3, "repetition"] = 0.5
    said = answers.generation(generation.summary(texts))
    assert (
        "for 25% of a text by SEAP-gen" in said and "1.5 times as perplexing" in said and "**more than dense**" in said
    )
