"""Every figure from made-up data: what is drawn, that its text fits, and that its files are reproducible."""

import ast
import re
import zlib
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from seaplib.reports import figures
from seaplib.reports.figures import style

pytestmark = pytest.mark.unit
TASKS = [f"mini_{task}" for task in ("boolq", "arc_easy", "arc_challenge", "openbookqa", "piqa", "hellaswag",
                                     "winogrande", "gsm8k", "mmlu")]  # fmt: skip
VARIANTS = [("random", "-"), ("wanda_sp", "s_W"), ("flap_as_published", "s_F"), ("seap", "s_F"), ("seap_gen", "s_F")]


def results(allocations=("logistic",)) -> pd.DataFrame:
    """What ``evaluate`` returns, in small."""
    rng, rows = np.random.default_rng(0), []
    for sparsity in (0.0, 0.2, 0.5):
        for method, score in VARIANTS if sparsity else [("dense", "none")]:
            for allocation in allocations if sparsity else ["none"]:
                for task in TASKS:
                    row = {"model": "m", "method": method, "score": score, "allocation": allocation, "task": task}
                    row |= {"requested_sparsity": sparsity, "value": rng.uniform(0.3, 1), "stderr": 0.03, "n": 200}
                    rows.append(row | {"metric": "acc", "primary": True, "calibration_seed": 0})
    return pd.DataFrame(rows)


def pairs(column: str, **extra) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = [(a, b, 1.0 if a == b else rng.uniform(0.2, 0.7)) for i, a in enumerate(TASKS) for b in TASKS[: i + 1]]
    return pd.DataFrame(rows, columns=["task_a", "task_b", column]).assign(**extra)


def norms(noise: float = 0.05) -> dict:
    rng = np.random.default_rng(2)
    own = {task: rng.gamma(2, size=(6, 40)) for task in TASKS}
    return {(task, half): own[task] * rng.normal(1, noise, (6, 40)) for task in TASKS for half in (0, 1)}


def removed(tasks) -> pd.DataFrame:
    rows = [(task, layer, sparsity, 0.9 - sparsity / (layer + 2)) for task in tasks for layer in range(4)
            for sparsity in (0.2, 0.5, 0.8)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["task", "layer", "sparsity", "value"])
    return frame.assign(stderr=0.02, dense=0.92, chance=0.25)


def allocated() -> pd.DataFrame:
    rows = [(a, g, layer, module, g * (1 + (a == "adaptive") * (0.1 * layer - 0.2 * (module == "mlp"))))
            for a in ("uniform", "adaptive") for g in (0.2, 0.5) for layer in range(5)
            for module in ("attention", "mlp")]  # fmt: skip
    return pd.DataFrame(rows, columns=["allocation", "sparsity", "layer", "module", "ratio"])


def embedded() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    rows = [(layer, task, *rng.normal(size=2)) for layer in range(9) for task in TASKS for _ in range(5)]
    return pd.DataFrame(rows, columns=["layer", "task", "x", "y"])


def masks(channels: int = 60) -> dict:
    rng = np.random.default_rng(4)
    draw = lambda: SimpleNamespace(heads=rng.random((6, 4)) > 0.5, channels=rng.random((6, channels)) > 0.5)  # noqa: E731
    return {"PIQA expert, 50%": draw(), "general, 50%": draw()}


def separated() -> pd.DataFrame:
    frame = pd.DataFrame({"layer": range(5), "value": np.linspace(0.1, 0.4, 5)})
    frame = frame.assign(low=frame["value"] - 0.05, high=frame["value"] + 0.05, chance=0.0)
    return pd.concat([frame.assign(measure=measure) for measure in ("silhouette", "knn_accuracy")])


def perplexities() -> pd.DataFrame:
    frame = results().drop_duplicates(["method", "requested_sparsity"]).drop(columns="task")
    frame = frame.assign(perplexity=5 * np.exp(4 * frame["requested_sparsity"]), dataset="mini_wikitext", preset="2048")
    return frame.assign(low=frame["perplexity"] * 0.9, high=frame["perplexity"] * 1.1)


def speeds() -> pd.DataFrame:
    rows = [(name, measure, base * k, base * k * 0.9, base * k * 1.1, k, 8e6 / k)
            for name, k in (("Dense", 1.0), ("SEAP-gen, 50%", 1.5)) for measure, base in (("decode", 300), ("prefill", 9e3))]  # fmt: skip # noqa: E501
    columns = ["name", "measure", "tokens_per_second", "low", "high", "ratio", "parameter_bytes"]
    return pd.DataFrame(rows, columns=columns)


def claims() -> pd.DataFrame:
    rows = [
        ("Hidden states cluster by task, and more so in the deeper layers of the model", 0.05, 0.02, 0.08, "holds"),
        ("Logistic beats uniform", -1.0, -2.0, -0.1, "does not hold"),
        ("Expert beats general", 0.2, -0.5, 0.9, "undecided"),
        ("Not measured", np.nan, np.nan, np.nan, "undecided"),
    ]
    return pd.DataFrame(rows, columns=["claim", "measured", "low", "high", "verdict"]).assign(unit="points")


def many_claims(per_notebook=(40, 3, 90, 60, 47)) -> pd.DataFrame:
    """As many as the bundled profile has, of notebooks 01 to 05; the last was not measured."""
    rng = np.random.default_rng(5)
    ids = [f"{book:02d}.{i + 1:02d}" for book, n in enumerate(per_notebook, 1) for i in range(n)]
    measured, half = rng.normal(0, 2, len(ids)), rng.uniform(0.1, 2, len(ids))
    frame = pd.DataFrame({"claim_id": ids, "measured": measured, "low": measured - half, "high": measured + half})
    frame.loc[len(ids) - 1, ["measured", "low", "high"]] = np.nan
    decided = np.select([frame["low"] > 0, frame["high"] < 0], ["holds", "does not hold"], "undecided")
    return frame.assign(claim="A beats B", verdict=decided, unit="points", null=0.0)


def errors() -> pd.DataFrame:
    rows = [(plan, layer, role, 0.1 + 0.02 * layer) for plan in ("8:16", "8:16 wt", "8:16 VAR") for layer in range(4)
            for role in (*"qkvo", "gate", "up", "down", "residual stream")]  # fmt: skip
    return pd.DataFrame(rows, columns=["plan", "layer", "role", "error"])


def sparse_rules() -> pd.DataFrame:
    rows = [("dense", "none", 0.0, 4.0)]
    rows += [
        (of, p, r, 4 + 9 * r)
        for of in ("activations", "weights")
        for p, r in (("2:4", 0.5), ("0.2", 0.2), ("0.9", 0.9))
    ]
    frame = pd.DataFrame(rows, columns=["block", "pattern", "ratio", "perplexity"])
    frame = frame.assign(of=frame["block"], label=frame["pattern"] + " " + frame["block"], accuracy=0.97, stderr=0.03)
    return frame.assign(low=frame["perplexity"] * 0.9, high=frame["perplexity"] * 1.1)


def abstained() -> tuple[dict, dict]:
    thresholds = np.array([0.0, 0.6, 0.9, 0.99, 1.0])
    curve = pd.DataFrame({"threshold": thresholds, "coverage": 1 - thresholds**9, "accuracy": 0.9 + thresholds / 10})
    curve = curve.assign(low=curve["accuracy"] - 0.05, high=np.minimum(curve["accuracy"] + 0.05, 1))
    curve.loc[4, ["accuracy", "low", "high"]] = np.nan  # nothing is routed
    curves = {"all words": curve, "without template": curve.assign(accuracy=0.8)}
    return curves, {"all words": 0.9, "without template": 0.6}


SYSTEMS = ("dense", "general", "experts, true task", "experts, routed", "experts, another task's")


def routed(subjects=("bundled (3.7 M)", "random weights (66 M)")) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    rows = [(system, kind, 0.5 + 0.05 * place) for place, system in enumerate(SYSTEMS) for kind in ("known", "unseen")]
    accuracy = pd.DataFrame(rows, columns=["system", "kind", "value"])
    accuracy = accuracy.assign(low=accuracy["value"] - 0.04, high=accuracy["value"] + 0.04)
    overheads = {"general": 0.1, "routed, all in memory": 0.4, "routed, room for one": 6.0}
    lines = [(subject, system, n, 0.7 + extra / n) for subject in subjects for n in (1, 10, 100)
             for system, extra in overheads.items()]  # fmt: skip
    even = [(subject, "routed, room for one", n) for subject, n in zip(subjects, (20.0, np.inf), strict=False)]
    columns = ["subject", "system", "tokens"]
    return accuracy, pd.DataFrame(lines, columns=[*columns, "ratio"]), pd.DataFrame(even, columns=columns)


def differences(panels=("50%",)) -> pd.DataFrame:
    rows = [(panel, f"{kind}\nagainst base only", metric, place - 1.0) for panel in panels for metric in BOTH
            for place, kind in enumerate(("real", "recombined", "continued"))]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["panel", "row", "metric", "difference"])
    return frame.assign(low=frame["difference"] - 2, high=frame["difference"] + 3)


def analysed() -> pd.DataFrame:
    rows = []
    for metric in BOTH:
        for place, source in enumerate(("amount", "variety", "amount × alpha × scale", "calibration seeds (noise)")):
            effect = np.nan if source.startswith("calibration") else 0.05 * (place - 1)
            rows.append(
                (source, metric, effect, effect - 0.03, effect + 0.02, 0.2 * place, 0.1 * place, 0.3 * place, 0.02)
            )
    columns = ["source", "metric", "effect", "low", "high", "share", "share_low", "share_high", "by_noise"]
    return pd.DataFrame(rows, columns=columns)


def sizes():
    texts = [10, 30, 100, 300, 1000]
    overlap = pd.DataFrame({"texts": texts, "overlap": np.linspace(0.8, 1, 5), "chance": 0.5})
    overlap = overlap.assign(low=overlap["overlap"] - 0.02, high=overlap["overlap"] + 0.02)
    curve = pd.DataFrame({"texts": texts, "value": np.linspace(0.4, 0.6, 5)})
    curve = curve.assign(low=curve["value"] - 0.05, high=curve["value"] + 0.05)
    both = pd.concat([overlap.assign(module=module) for module in ("channels", "heads")])
    return both, dict.fromkeys(BOTH, curve), 300, dict.fromkeys(BOTH, 0.8)


def transferred(tasks):
    rows = ["all corpora", "all but the task's", *(f"expert: {task}" for task in tasks), "general text"]
    frame = pd.DataFrame([(row, task, metric, 5.0 * place) for metric in BOTH for place, row in enumerate(rows)
                          for task in tasks], columns=["calibrated_on", "task", "metric", "loss"])  # fmt: skip
    return frame.assign(own=frame["calibrated_on"] == "all corpora"), rows, {f"expert: {task}": task for task in tasks}


def grid(sparsities):
    rows = [(x0, k, G, metric, 0.5 + 0.01 * k * x0) for x0 in (0.0, 0.3, 0.6) for k in (1.0, 4.0, 12.0, 20.0)
            for G in sparsities for metric in BOTH]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["x0", "k", "requested_sparsity", "metric", "validation"])
    chosen = frame[(frame["x0"] == 0.6) & (frame["k"] == 12.0)]
    return frame, chosen, {"x0": 0.3, "k": 1.0}


def sensitive(tasks) -> pd.DataFrame:
    rows = [
        (layer, task, seed, 0.3 / (layer + 1) + 0.01 * seed) for layer in range(8) for task in tasks for seed in (0, 1)
    ]
    return pd.DataFrame(rows, columns=["layer", "task", "calibration_seed", "drop"])


def by_task() -> pd.DataFrame:
    rows = [
        (G, a, "FLAP ($s_F$)", task, value, value - 0.05, value + 0.05)
        for G in (0.2, 0.5)
        for a in ("SEAP ($s_F$)", "random")
        for task, value in zip([*TASKS, "pooled"], np.linspace(-0.2, 0.4, len(TASKS) + 1), strict=True)
        if (a, task) != ("random", TASKS[0])
    ]
    return pd.DataFrame(rows, columns=["requested_sparsity", "a", "b", "task", "difference", "low", "high"])


BOTH = ("primary", "exact_match")
CONFUSION = pd.DataFrame(np.eye(6, dtype=int) * 200 + 3, index=TASKS[:6], columns=TASKS[:6])
LENGTHS = pd.DataFrame({"task": TASKS, "tokens_p10": 5, "tokens_median": 20, "tokens_p90": 60, "tokens_max": 400})
ALLOCATIONS = ("uniform", "uniform, protect 0+2", "adaptive", "logistic, protect 0+0", "logistic")
DRAWN = {
    "accuracy_by_sparsity": lambda: figures.accuracy_by_sparsity(results(ALLOCATIONS)),
    "pipeline": lambda: figures.pipeline(),
    "vocabulary_overlap": lambda: figures.vocabulary_overlap(pairs("overlap")),
    "corpus_lengths": lambda: figures.corpus_lengths(LENGTHS),
    "hidden_states": lambda: figures.hidden_states(embedded()),
    "separability": lambda: figures.separability(separated()),
    "norm_heatmaps": lambda: figures.norm_heatmaps(norms()),
    "norm_heatmaps relative": lambda: figures.norm_heatmaps(norms(), relative=True),
    "remove_test": lambda: figures.remove_test(removed(["mini_mmlu"])),
    "remove_test, two tasks": lambda: figures.remove_test(removed(["mini_mmlu", "mini_piqa"])),
    "allocation_curves": lambda: figures.allocation_curves(allocated()),
    "masks": lambda: figures.masks(masks()),
    "mask_overlap": lambda: figures.mask_overlap(pairs("jaccard", module="heads", chance=0.33)),
    "confusion": lambda: figures.confusion(CONFUSION),
    "confusion, two": lambda: figures.confusion({"all words": CONFUSION, "without template": CONFUSION}),
    "abstention": lambda: figures.abstention(*abstained()),
    "routing_worth": lambda: figures.routing_worth(*routed()),
    "routing_worth, one model": lambda: figures.routing_worth(*routed(["bundled (3.7 M)"])),
    "perplexity": lambda: figures.perplexity(perplexities()),
    "zero_shot": lambda: figures.zero_shot(results()),
    "zero_shot, chance": lambda: figures.zero_shot(results().assign(chance=0.25)),
    "sparsity_settings": lambda: figures.sparsity_settings(results(("uniform", "logistic", "adaptive"))),
    "differences_by_task": lambda: figures.differences_by_task(by_task()),
    "inference_speed": lambda: figures.inference_speed(speeds()),
    "inference_speed, two models": lambda: figures.inference_speed(
        pd.concat([speeds().assign(model=model) for model in ("bundled (3.7 M)", "random weights (60 M)")])
    ),
    "layer_errors": lambda: figures.layer_errors(errors()),
    "sparsity_rules": lambda: figures.sparsity_rules(sparse_rules()),
    "activations_against_weights": lambda: figures.activations_against_weights(sparse_rules()),
    "scorecard": lambda: figures.scorecard(claims()),
    "scorecard, many claims": lambda: figures.scorecard(many_claims()),
    "effects": lambda: figures.effects(differences()),
    "effects, two sparsities": lambda: figures.effects(differences(("20%", "50%"))),
    "shares": lambda: figures.shares(analysed()),
    "calibration_size": lambda: figures.calibration_size(*sizes()),
    "leave_one_out": lambda: figures.leave_one_out(*transferred(TASKS[:2])),
    "leave_one_out, nine tasks": lambda: figures.leave_one_out(*transferred(TASKS)),
    "logistic_grid": lambda: figures.logistic_grid(*grid([0.5])),
    "logistic_grid, three sparsities": lambda: figures.logistic_grid(*grid([0.2, 0.35, 0.5])),
    "sensitivity": lambda: figures.sensitivity(sensitive(TASKS[:3])),
    "sensitivity, seven tasks": lambda: figures.sensitivity(sensitive(TASKS[:7])),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SEAP_FIGURES_DIR", str(tmp_path))
    return tmp_path


def texts(fig) -> list[Text]:
    shown = [text for text in fig.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in shown if text.axes is None or text.axes.get_visible()]


def words(fig) -> str:
    return "\n".join(text.get_text() for text in texts(fig))


def test_every_public_figure_is_tested():
    public = {name for name in figures.__all__ if callable(getattr(figures, name))} - {"save", "allocation_sliders"}
    assert public == {name.split(",")[0].split(" ")[0] for name in DRAWN}


@pytest.mark.parametrize("name", DRAWN)
def test_text_lies_inside_the_figure_and_nothing_stays_open(name):
    open_before, settings_before = plt.get_fignums(), mpl.rcParams["font.size"]
    fig = DRAWN[name]()
    assert plt.get_fignums() == open_before
    assert mpl.rcParams["font.size"] == settings_before
    with style.style():
        fig.draw_without_rendering()
        ticks = [tick for ax in fig.axes for axis in (ax.xaxis, ax.yaxis)
                 for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]]  # fmt: skip
        of_ticks = {text for tick in ticks for text in (tick.label1, tick.label2)}
        boxes = {text.get_text(): text.get_window_extent() for text in texts(fig) if text not in of_ticks}
        for ax in fig.axes:  # an axis's box counts the ticks that are drawn, not those beyond its limits
            for axis in (ax.xaxis, ax.yaxis) if ax.get_visible() else ():
                boxes[f"{ax.get_title()} {axis.axis_name}"] = axis.get_tightbbox()
        for text, box in boxes.items():
            page = fig.bbox.padded(1)
            inside = box is None or page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
            assert inside, f"{text!r} leaves the page"


@pytest.mark.parametrize("name", ["zero_shot", "hidden_states", "norm_heatmaps", "pipeline"])
def test_saved_files_are_the_same_bytes_each_time_without_type_3_fonts(name, folder):
    first = figures.save(DRAWN[name](), "a", "p")
    fig = DRAWN[name]()
    figures.save(fig, "b", "p")
    again = figures.save(fig, "c", "p")
    assert [path.name for path in first] == ["a.pdf", "a.png"] and first[0].parent == folder / "p"
    for one, two in zip(first, again, strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert sorted(path.name for path in (folder / "p").iterdir()) == [f"{n}.{s}" for n in "abc" for s in ("pdf", "png")]
    pdf = first[0].read_bytes()
    streams = re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.S)
    for content in [pdf, *map(inflated, streams)]:
        assert b"/Type3" not in content and b"CreationDate" not in content
    assert b"/Type42" in pdf or b"/TrueType" in pdf or b"/CIDFontType2" in pdf


def inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


def test_a_failed_save_leaves_nothing_behind(folder, monkeypatch):
    fig = DRAWN["confusion"]()
    monkeypatch.setattr(fig, "savefig", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        figures.save(fig, "a", "p")
    assert list((folder / "p").iterdir()) == []


def test_remove_test_draws_the_values_with_dense_and_chance():
    frame = removed(["piqa"])
    ax = figures.remove_test(frame).axes[0]
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    expected = frame[frame["sparsity"] == 0.5].sort_values("layer")["value"]
    np.testing.assert_allclose(lines["50%"], expected)
    assert lines["dense"][0] == 0.92 and lines["chance"][0] == 0.25


def test_norm_heatmap_dimensions_are_chosen_in_the_first_half_only():
    one, two = norms(), norms()
    rng = np.random.default_rng(9)
    for task in TASKS:
        two[task, 1] = rng.gamma(2, size=(6, 40))
    images = [[np.asarray(ax.images[0].get_array()) for ax in figures.norm_heatmaps(p, dimensions=16).axes[:4]]
              for p in (one, two)]  # fmt: skip
    for a, b in zip(*images, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.shape == (len(TASKS), 16)


def test_masks_show_what_is_kept_exactly_and_in_bins():
    drawn = masks(60)
    fig = figures.masks(drawn)
    np.testing.assert_array_equal(fig.axes[1].images[0].get_array(), drawn["PIQA expert, 50%"].channels)
    image = figures.masks(drawn, bins=20).axes[1].images[0].get_array()
    np.testing.assert_allclose(image, drawn["PIQA expert, 50%"].channels.reshape(6, 20, 3).mean(2))


def test_stated_numbers():
    assert "chance 0.33" in words(DRAWN["mask_overlap"]())
    assert "×1.50" in words(DRAWN["inference_speed"]())
    assert "36.9" in words(DRAWN["perplexity"]())  # 5·exp(4·0.5)
    card = words(DRAWN["scorecard"]())
    assert "-1 [-2, -0.1] points" in card and "does not hold" in card
    assert "mini-PIQA" in words(DRAWN["hidden_states"]())  # a bundled task never passes for the real one


def test_many_claims_stand_on_one_page_by_number_under_their_notebooks(folder):
    frame = many_claims()
    fig = figures.scorecard(frame)
    assert len(fig.axes) == 5 and fig.get_figheight() <= 9.2
    drawn = [label.get_text() for ax in fig.axes for label in ax.get_yticklabels()]
    assert drawn == frame["claim_id"].tolist()
    titles = [[text.get_text() for text in ax.texts] for ax in fig.axes]
    assert titles[0] == ["notebook 01", "notebook 02", "notebook 03"] and titles[1] == ["notebook 03"]  # it goes on
    assert "A beats B" not in words(fig) and "does not hold" in words(fig)
    for ax in fig.axes:  # no number touches the next
        boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
        assert all(above.y0 >= below.y1 for above, below in zip(boxes, boxes[1:], strict=False))
    assert figures.save(fig, "card", "p")[1].stat().st_size < 500_000


def test_claims_are_drawn_on_the_line_of_their_number():
    frame = many_claims()
    frame.loc[5, ["measured", "low", "high", "null"]] = [1.5, 1.25, 2.0, 1.0]
    ax = figures.scorecard(frame).axes[0]
    line = dict(zip((label.get_text() for label in ax.get_yticklabels()), ax.get_yticks(), strict=True))["01.06"]
    (mark,) = [one for one in ax.lines if list(one.get_ydata()) == [line]]
    assert mark.get_xdata()[0] == 0.5  # half of the way from the null value to the far end


def test_a_scorecard_without_numbers_keeps_its_words():
    frame = many_claims().drop(columns="claim_id")
    assert words(figures.scorecard(frame)).count("A beats B") == len(frame)
    few = many_claims((12, 28))
    assert words(figures.scorecard(few)).count("A beats B") == 40


def test_perplexities_of_other_windows_and_seeds_are_not_mixed_up():
    frame = perplexities()
    short = frame.assign(perplexity=2 * frame["perplexity"], preset="flap128")
    text = words(figures.perplexity(pd.concat([frame, short])))
    assert "mini-WikiText-2\nflap128" in text and "36.9" in text and "73.9" in text
    seeds = pd.concat([frame, frame.assign(perplexity=4 * frame["perplexity"], calibration_seed=1)])
    assert "73.9" in words(figures.perplexity(seeds))  # geometric: e to the mean nll


def test_allocations_equal_for_both_modules_are_drawn_once():
    frame = allocated()
    frame = frame[frame["allocation"] == "uniform"]
    assert "mlp" not in words(figures.allocation_curves(frame))
    assert "adaptive, mlp" in words(DRAWN["allocation_curves"]())


def test_sliders_draw_the_curve_that_they_say(monkeypatch):
    drawn = []
    monkeypatch.setattr("ipywidgets.widgets.interaction.display", drawn.append)
    widget = figures.allocation_sliders(8, x0=0.3, k=1.0, protect_last=2)
    widget.update()
    widget.children[0].value = 0.2
    first, second = (fig.axes[0].lines[1].get_ydata() for fig in (drawn[0], drawn[-1]))
    assert np.mean(first) == pytest.approx(0.5) and np.mean(second) == pytest.approx(0.2)
    assert not plt.get_fignums()


def test_accuracy_by_sparsity_starts_dense_and_dashes_what_is_protected():
    frame = results(ALLOCATIONS)
    frame = frame[(frame["method"] != "random") | (frame["allocation"] != "adaptive")]
    random, wanda = figures.accuracy_by_sparsity(frame).axes[:2]
    lines = {line.get_label(): line for line in wanda.lines}
    assert set(lines) == set(ALLOCATIONS) and len(random.lines) == 4
    dashed = {name for name, line in lines.items() if line.get_linestyle() == "--"}
    assert dashed == {"uniform, protect 0+2", "logistic"}
    dense = frame.loc[frame["method"] == "dense", "value"].mean()
    cell = frame[(frame["method"] == "wanda_sp") & (frame["allocation"] == "uniform")]
    expected = cell.groupby("requested_sparsity")["value"].mean()
    np.testing.assert_allclose(lines["uniform"].get_xdata(), [0, 0.2, 0.5])
    np.testing.assert_allclose(lines["uniform"].get_ydata(), [dense, *expected])


def test_differences_by_task_are_bold_where_the_interval_excludes_zero():
    frame = by_task()
    upper, lower = figures.differences_by_task(frame).axes
    assert [label.get_text() for label in lower.get_xticklabels()][-1] == "mean"
    for ax in (upper, lower):
        cells = {(text.get_position(), text.get_text()): text.get_fontweight() for text in ax.texts if text.get_text()}
        part = frame[frame["requested_sparsity"] == 0.2]
        assert len(cells) == len(part) == 2 * len(TASKS) + 1
        decided = (part["low"] > 0) | (part["high"] < 0)
        assert sorted(text for (_, text), weight in cells.items() if weight == "bold") == sorted(
            f"{round(100 * value):+d}".replace("-", "−") for value in part.loc[decided, "difference"]
        )


def test_zero_shot_shows_every_dot_of_every_block():
    """Columns share their axis between sparsities: the first block's range is not the second's."""
    frame = results()
    much = frame["requested_sparsity"] == frame["requested_sparsity"].max()
    frame.loc[much, "value"] *= 0.2
    fig = figures.zero_shot(frame)
    for ax in fig.axes:
        low, high = ax.get_xlim()
        dots = [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 1]
        assert dots and all(low <= x <= high for x in dots)


def test_zero_shot_dots_are_the_means_of_the_summary():
    frame = results()
    fig = figures.zero_shot(frame)
    row = frame[(frame["method"] == "seap") & (frame["requested_sparsity"] == 0.2)]
    average = fig.axes[len(TASKS)]
    drawn = sorted(float(line.get_xdata()[0]) for line in average.lines if len(line.get_xdata()) == 1)
    assert pytest.approx(row["value"].mean()) in drawn
    dense = frame.loc[frame["method"] == "dense", "value"].mean()
    assert any(line.get_xdata()[0] == pytest.approx(dense) for line in average.lines if len(line.get_xdata()) == 2)


def test_colour_maps_and_the_pale_grey_have_names_in_style_alone():
    found = set()
    for file in Path(style.__file__).parent.glob("*.py"):
        words = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
        words = {word for word in words if isinstance(word, str) and (word in mpl.colormaps or word == style.PALE)}
        found |= {(file.stem, word) for word in words}
    maps = {style.SEQUENTIAL, style.DIVERGING, style.CELLS, style.LOSSES, style.PALE}
    assert found == {("style", word) for word in maps}
    assert "".join(style.LINE_MARKERS[:4]) == "osD^" and set(style.MARKERS) < set(style.LINE_MARKERS)
