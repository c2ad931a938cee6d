"""Tables: the three formats, the paper's forms, and the published numbers."""

import numpy as np
import pandas as pd
import pytest

from seaplib.reports import display_names, published, summaries, tables
from seaplib.texts import tasks

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SEAP_FIGURES_DIR", str(tmp_path))
    return tmp_path / "p"


def row(method, score, sparsity, task, value, **more) -> dict:
    base = {"model": "m", "method": method, "score": score, "allocation": "logistic", "requested_sparsity": sparsity}
    return base | {"task": task, "metric": "acc", "value": value, "stderr": 0.03, "calibration_seed": 0} | more


def results() -> pd.DataFrame:
    rows = [row("dense", "none", 0.0, "mini_piqa", 0.9), row("dense", "none", 0.0, "mini_boolq", 0.7)]
    pruned = [("seap", "s_F", 0.8, 0.5), ("wanda_sp", "s_W", 0.62, 0.6), ("flap", "s_F", 0.7, 0.6)]
    for method, score, piqa, boolq in pruned:
        rows += [row(method, score, 0.5, "mini_piqa", piqa), row(method, score, 0.5, "mini_boolq", boolq)]
    return pd.DataFrame(rows)


def test_save_writes_the_whole_frame_and_the_shown_one(folder):
    frame = pd.DataFrame({"name": ["a_b", "50% | c"], "value": [1 / 3, np.nan], "n": [1, 2]})
    written = tables.save(frame, "t", "p", caption="A & B", display=frame[["name", "value"]])
    assert written == [folder / "t.csv", folder / "t.tex", folder / "t.md"]
    assert sorted(path.name for path in folder.iterdir()) == ["t.csv", "t.md", "t.tex"]
    assert (folder / "t.csv").read_text() == "name,value,n\na_b,0.333333,1\n50% | c,,2\n"
    tex = (folder / "t.tex").read_text()
    assert r"a\_b & 0.3333 \\" in tex and r"50\% | c & – \\" in tex and r"\caption{A \& B}" in tex
    assert r"\toprule" in tex and r"\label{tab:t}" in tex and r"\begin{tabular}{lr}" in tex
    assert r"50% \| c" in (folder / "t.md").read_text()
    before = [path.read_bytes() for path in written]
    tables.save(frame, "t", "p", caption="A & B", display=frame[["name", "value"]])
    assert before == [path.read_bytes() for path in written]


def test_an_index_with_names_counts_as_columns():
    frame = pd.DataFrame({"value": [0.5, 0.25]}, index=pd.Index(["x", "y"], name="task"))
    path = tables.save(frame, "t", "p")[0]
    assert path.read_text() == "task,value\nx,0.5\ny,0.25\n"


def test_zero_shot_marks_the_best_two_of_every_sparsity():
    shown = summaries.zero_shot(results())
    assert list(shown) == ["Sparsity", "Method", "mini-BoolQ", "mini-PIQA", "Average"]
    assert list(shown["Method"]) == ["Dense", "Wanda-sp ($s_W$)", "FLAP ($s_F$)", "SEAP ($s_F$)"]
    assert list(shown["mini-PIQA"]) == ["90.0", "62.0", "<ins>70.0</ins>", "**80.0**"]
    assert list(shown["mini-BoolQ"]) == ["70.0", "**60.0**", "**60.0**", "<ins>50.0</ins>"]  # a tie is shown as one
    assert list(shown["Average"]) == ["80.0", "<ins>61.0</ins>", "**65.0**", "**65.0**"]
    tex = tables.latex(shown, "t")
    assert r" & FLAP ($s_F$) & \textbf{60.0} & \underline{70.0} & \textbf{65.0} \\" in tex
    assert "\\midrule\n50\\% & Wanda-sp" in tex


def test_zero_shot_marks_what_may_be_guessing_and_shows_nothing_where_the_dense_model_has_nothing():
    frame = results().assign(at_chance=[False, False, False, True, True, False, False, True])
    shown = summaries.zero_shot(frame)
    assert list(shown["mini-PIQA"]) == ["90.0", "62.0°", "<ins>70.0</ins>", "**80.0**"]
    assert list(shown["mini-BoolQ"]) == ["70.0", "**60.0**", "**60.0°**", "<ins>50.0°</ins>"]
    assert r"\textbf{60.0$^\circ$}" in tables.latex(shown, "t") and "**60.0°**" in tables.markdown(shown)
    nothing = frame.assign(
        value=frame["value"].where((frame["method"] != "dense") | (frame["task"] != "mini_piqa"), 0.0)
    )
    assert set(summaries.zero_shot(nothing)["mini-PIQA"]) == {tables.MISSING}
    assert list(summaries.zero_shot(nothing)["mini-BoolQ"]) == list(shown["mini-BoolQ"])
    assert set(summaries.zero_shot(frame.assign(value=0.0)).iloc[:, 2:].to_numpy().ravel()) == {tables.MISSING}


def test_comparisons_say_from_which_size_a_difference_shows():
    head = {"requested_sparsity": 0.5, "a": "SEAP", "b": "FLAP", "task": "all", "verdict": "undecided", "p_holm": 1.0}
    numbers = {"difference": 0.01, "low": -0.02, "high": 0.04, "n": 40, "metric": "primary"}
    frame = pd.DataFrame([head | numbers | {"detectable": 0.0834}])
    assert summaries.comparisons(frame)["accuracy: shown from"].tolist() == ["8.3"]
    crossed = summaries.crossed(frame.assign(recipe="pooled", detectable=float("nan")), ["recipe"])
    assert crossed["shown from"].tolist() == [tables.MISSING]


def test_summary_combines_the_noise_of_items_and_of_seeds():
    seeds = [row("flap", "s_F", 0.5, "piqa", 0.5 + seed / 10, calibration_seed=seed) for seed in range(3)]
    means = summaries.summary(pd.DataFrame(seeds)).set_index("task")
    assert means.at["piqa", "value"] == pytest.approx(0.6)
    assert means.at["piqa", "stderr"] == pytest.approx(np.sqrt(0.03**2 + 0.01 / 3))
    assert means.at["piqa", "seeds"] == 3
    average = summaries.summary(results()).set_index(["label", "task"]).loc[("Dense", tables.AVERAGE)]
    assert average["stderr"] == pytest.approx(np.sqrt(2 * 0.03**2) / 2)


def test_summary_averages_complete_variants_of_one_model_only():
    incomplete = results().drop(index=2)
    shown = summaries.zero_shot(incomplete).set_index("Method")
    assert shown.at["SEAP ($s_F$)", "Average"] == shown.at["SEAP ($s_F$)", "mini-PIQA"] == tables.MISSING
    with pytest.raises(ValueError, match="other"):
        summaries.summary(pd.concat([results(), results().assign(model="other")]))
    both = pd.concat([results().assign(primary=True), results().assign(value=0.0, metric="acc_norm", primary=False)])
    pd.testing.assert_frame_equal(summaries.summary(both), summaries.summary(results()))


def test_variants_that_differ_are_never_averaged():
    frame = pd.concat([results(), results().query("method == 'flap'").assign(allocation="adaptive", value=0.1)])
    names = set(display_names.variants(frame))
    assert {"FLAP ($s_F$), logistic", "FLAP ($s_F$), adaptive", "SEAP ($s_F$)"} <= names
    experts = pd.DataFrame([row("seap", "s_F", 0.5, task, 0.5, calibration=task) for task in ("piqa", "boolq")])
    assert set(display_names.variants(experts)) == {"SEAP ($s_F$)"}  # one expert per task is one method
    crossed = pd.concat([experts, experts.assign(calibration="gsm8k")])
    assert "SEAP ($s_F$), GSM8K" in set(display_names.variants(crossed))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("logistic", "logistic"),
        ("logistic, protect 0+0", "logistic, no layer protected"),
        ("uniform, protect 0+2", "uniform, last two layers protected"),
        ("uniform, protect 0+1", "uniform, last layer protected"),
        ("uniform, protect 1+0", "uniform, first layer left alone"),
        ("logistic, protect 2+2", "logistic, first and last two layers protected"),
        ("energy, protect 1+12", "energy, first layer and last 12 layers protected"),
        ("two stages", "two stages"),
    ],
)
def test_allocations_are_written_in_words(name, words):
    assert display_names.allocation(name) == words
    if ", " in words:
        assert display_names.protection_words(name) == words.partition(", ")[2]


def test_a_usual_protection_has_words_too():
    assert display_names.protection_words("logistic") == "last two layers protected"
    assert display_names.protection_words("uniform") == "no layer protected"
    assert display_names.protection_words("authors' code") == "first and last two layers protected"


def test_details_are_written_in_words_in_labels_and_tables():
    told = (("floor", "general"), ("parameters", "general"), ("floor", "general: mini_c4"))
    rows = [row("flap", "s_F", 0.5, "piqa", 0.5, budget=budget, calibration=text) for budget, text in told]
    assert display_names.variants(pd.DataFrame(rows)).tolist() == [
        "FLAP ($s_F$), floor budget, general text",
        "FLAP ($s_F$), exact budget",
        "FLAP ($s_F$), floor budget, general text: mini-C4",
    ]
    pruned = results().query("requested_sparsity > 0")
    frame = pd.concat([results(), pruned.assign(allocation="logistic, protect 0+0")])
    assert list(summaries.sparsity_settings(summaries.by_allocation(frame)))[2:] == [
        "logistic", "logistic, no layer protected"
    ]  # fmt: skip


def test_a_label_names_every_score_that_the_method_does_not_say():
    named = {("SEAP", "s_F"): "SEAP ($s_F$)", ("SEAP", "mine"): "SEAP (mine)", ("SEAP", "random"): "SEAP (random)"}
    named |= {
        ("random+bias", "random"): "Random+bias",
        ("magnitude", "magnitude"): "Magnitude",
        ("2SSP", "norm"): "2SSP",
    }
    named |= {("ShortGPT", "BI"): "ShortGPT", ("GRIFFIN", "prompt"): "GRIFFIN", ("dense", "none"): "Dense"}
    named[("remove test", None)] = "remove test"
    assert display_names.variants(pd.DataFrame(named.keys(), columns=["method", "score"])).tolist() == list(
        named.values()
    )


def test_published_numbers_stand_beside_the_measured_ones():
    beside = published.with_published(results(), published.published("table1_zero_shot"))
    assert len(beside) == len(results())
    values = beside.set_index(["method", "task"])["published"]
    assert values["dense", "mini_piqa"] == pytest.approx(0.7911)
    assert values["wanda_sp", "mini_boolq"] == pytest.approx(0.3945)
    assert values["seap", "mini_piqa"] == pytest.approx(0.7432)
    shown = summaries.zero_shot(beside).set_index("Method")
    assert shown.at["FLAP ($s_F$)", "paper, same tasks"] == f"{(63.00 + 42.32) / 2:.1f}"
    unknown = results().assign(requested_sparsity=lambda f: f["requested_sparsity"].replace(0.5, 0.3))
    assert published.with_published(unknown, published.published("table1_zero_shot"))["published"].notna().sum() == 2


def test_sparsity_settings_beside_the_papers():
    pruned = results().query("requested_sparsity > 0")
    frame = pd.concat([results(), pruned.assign(allocation="uniform", value=pruned["value"] - 0.1)])
    means = summaries.by_allocation(frame)
    assert set(means["allocation"]) == {"none", "logistic", "uniform"}
    shown = summaries.sparsity_settings(means)
    assert list(shown) == ["Sparsity", "Method", "logistic", "uniform"]
    flap = shown[shown["Method"] == "FLAP ($s_F$)"].iloc[0]
    assert flap["logistic"] == "**65.0**" and flap["uniform"] == "<ins>55.0</ins>"
    beside = published.with_published(means, published.published("table3_sparsity_settings"))
    wanda = beside[(beside["method"] == "wanda_sp") & (beside["allocation"] == "uniform")]
    assert wanda["published"].item() == pytest.approx(0.4880)


def test_published_speedups_and_settings_follow_from_the_other_tables():
    speed = published.published("table2_inference_speed").pivot_table(
        index=["model", "method", "requested_sparsity"], columns="metric", values="value"
    )
    for (model, _, _), cell in speed.dropna().iterrows():
        dense = speed.loc[(model, "Dense", 0.0), "tokens_per_second"]
        assert cell["speedup"] == pytest.approx(cell["tokens_per_second"] / dense, abs=0.0051)
    keys = ["requested_sparsity", "method", "score"]
    settings = (
        published.published("table3_sparsity_settings").query("allocation == 'logistic'").set_index(keys)["value"]
    )
    thirteen = published.published("table4_zero_shot").query("task == 'average'").set_index(keys)["value"]
    np.testing.assert_array_equal(settings, thirteen.loc[settings.index])


def test_an_unknown_published_table_is_named_with_the_nearest():
    with pytest.raises(FileNotFoundError, match="table1_zero_shot"):
        published.published("table1_zeroshot")


def test_long_text_is_a_paragraph_and_stays_text():
    text = "It costs $40 million & 5% of a_b.\nTwo lines, quite long, yes."
    frame = pd.DataFrame({"model": ["dense"], "text": [text]})
    tex = tables.latex(frame, "t")
    assert "p{0.8\\linewidth}" in tex and r"\$40 million \& 5\% of a\_b. Two lines" in tex
    assert "<br>Two lines" in tables.markdown(frame)


INPUT = r"$\input{secret}$"


@pytest.mark.parametrize(
    "text",
    [
        INPUT,
        r"$\write18{id}$",
        r"$x^^5cinput{secret}$",
        r"$\rho\input{secret}$",
        r"$\catcode`\%=0$",
        r"$\text{x}$",
        "$x}$",
        "$ x$",
    ],
)
def test_only_our_own_mathematics_reaches_tex(text):
    """A cell may come from a data set or a model; TeX read a file that such a cell named, and printed it."""
    shown = tables.latex(pd.DataFrame({"text": [text], text: ["**" + text + "**"]}), "t", caption=text)
    assert r"\input" not in shown and r"\write" not in shown and r"\catcode" not in shown and "^^" not in shown
    assert shown.count(r"\$") == 8, "each dollar of cell, head, bold cell and caption is a character"


@pytest.mark.parametrize(
    "text", ["$s_F$", "$x_0$", r"$\rho$", r"$\sigma^2$", "$G$", r"$x\leq{}1$", r"$\lVert{}w\rVert_2^2$"]
)
def test_our_mathematics_stays_mathematics(text):
    assert f" {text} " in tables.latex(pd.DataFrame({"a": [0], "text": [text], "b": [1]}), "t").replace("\n", " ")


def test_html_and_links_in_cells_are_text():
    cells = ["<script>alert(1)</script>", "<img src=x onerror=y>", "![a](http://b)", "a < b & c", "<ins>1 < 2</ins>"]
    shown = tables.markdown(pd.DataFrame({"<b>": cells}))
    assert "<script" not in shown and "<img" not in shown and "<b>" not in shown and "](" not in shown
    assert "a &lt; b &amp; c" in shown and "<ins>1 &lt; 2</ins>" in shown


def test_a_spreadsheet_finds_no_formula(folder):
    texts = ["=1+1", "@SUM(1)", "+cmd|' /C calc'!A0", "-2+3+cmd|'x'!A0", "\tx", "+4.51 points", "-0.5", "+23.2%", "a=b"]
    path = tables.save(pd.DataFrame({"text": texts, "number": [-1.5] * len(texts)}), "t", "p")[0]
    read = pd.read_csv(path, keep_default_na=False)
    assert read["text"].tolist() == ["'" + text for text in texts[:5]] + texts[5:] and (read["number"] == -1.5).all()


@pytest.mark.parametrize("name", ["../up", "/root", "a/b", "a\\b", "..", ".hidden", "", "n" * 200, "a\nb", "a\0b"])
def test_names_are_names(name):
    for call in (
        lambda: tables.save(results(), name, "p"),
        lambda: tables.save(results(), "t", name) if name else tables.save(results(), name, "p"),
        lambda: tasks.Task(name, None),
    ):
        with pytest.raises(ValueError, match="no name"):
            call()
