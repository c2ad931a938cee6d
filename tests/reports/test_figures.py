"""Every figure from made-up data: what is drawn, that its text fits, and that its files are reproducible."""

import ast
import itertools
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

from seaplib.pruning import methods
from seaplib.reports import claims, display_names, figures
from seaplib.reports.figures import looks, style
from seaplib.reports.paper_claims import PAPER_CLAIMS

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


def uneven() -> pd.DataFrame:
    """Results that are far worse at the largest sparsity."""
    frame = results()
    return frame.assign(value=frame["value"] * np.where(frame["requested_sparsity"] == 0.5, 0.2, 1.0))


def settings() -> pd.DataFrame:
    """Results under several allocations; random scores have no adaptive one."""
    frame = results(ALLOCATIONS)
    return frame[(frame["method"] != "random") | (frame["allocation"] != "adaptive")]


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


def perplexities(preset: str = "2048", times: float = 1) -> pd.DataFrame:
    frame = results().drop_duplicates(["method", "requested_sparsity"]).drop(columns="task")
    frame = frame.assign(perplexity=5 * times * np.exp(4 * frame["requested_sparsity"]), preset=preset)
    frame["dataset"] = "mini_wikitext"
    return frame.assign(low=frame["perplexity"] * 0.9, high=frame["perplexity"] * 1.1)


def speeds() -> pd.DataFrame:
    rows = [(name, measure, base * k, base * k * 0.9, base * k * 1.1, k, 8e6 / k)
            for name, k in (("Dense", 1.0), ("SEAP-gen, 50%", 1.5)) for measure, base in (("decode", 300), ("prefill", 9e3))]  # fmt: skip # noqa: E501
    columns = ["name", "measure", "tokens_per_second", "low", "high", "ratio", "parameter_bytes"]
    return pd.DataFrame(rows, columns=columns)


def scored() -> pd.DataFrame:
    """The paper's claims as ``claims.gather`` returns them: of every verdict, two without an estimate."""
    rows = []
    for place, (name, about) in enumerate(PAPER_CLAIMS.items()):
        middle, half = about.null + about.direction * (place % 5 - 2.0), 0.5 + 0.25 * (place % 3)
        estimate = 3 * [np.nan] if place in (2, 9) else [middle, middle - half, middle + half]
        row = claims.of_paper(name, *estimate, model="bundled", p_value=0.03) | {"p_holm": 0.02 if place % 2 else 0.3}
        rows.append(row | ({"verdict": claims.NOT_TESTED} if place in (2, 9) else {}))
    return pd.DataFrame(rows)


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
UNIFORM = ("uniform", "uniform, protect 0+2", "uniform, protect 1+0")
ALLOCATIONS = (*UNIFORM, "adaptive", "logistic, protect 0+0", "logistic")
DRAWN = {
    "accuracy_by_sparsity": lambda: figures.accuracy_by_sparsity(settings()),
    "pipeline": lambda: figures.pipeline(),
    "vocabulary_overlap": lambda: figures.vocabulary_overlap(pairs("overlap")),
    "corpus_lengths": lambda: figures.corpus_lengths(LENGTHS),
    "hidden_states": lambda: figures.hidden_states(embedded()),
    "hidden_states, two layers": lambda: figures.hidden_states(embedded().query("layer < 2")),
    "separability": lambda: figures.separability(separated()),
    "norm_heatmaps": lambda: figures.norm_heatmaps(norms(), dimensions=16),
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
    "perplexity, two windows": lambda: figures.perplexity(pd.concat([perplexities(), perplexities("flap128", 2)])),
    "zero_shot": lambda: figures.zero_shot(uneven().assign(chance=0.25)),
    "zero_shot, two tasks": lambda: figures.zero_shot(results().query("task in @TASKS[:2]")),
    "sparsity_settings": lambda: figures.sparsity_settings(results(("uniform", "logistic", "adaptive"))),
    "differences_by_task": lambda: figures.differences_by_task(by_task()),
    "inference_speed": lambda: figures.inference_speed(speeds()),
    "inference_speed, two models": lambda: figures.inference_speed(
        pd.concat([speeds().assign(model=model) for model in ("bundled (3.7 M)", "random weights (60 M)")])
    ),
    "layer_errors": lambda: figures.layer_errors(errors()),
    "sparsity_rules": lambda: figures.sparsity_rules(sparse_rules()),
    "activations_against_weights": lambda: figures.activations_against_weights(sparse_rules()),
    "scorecard": lambda: figures.scorecard(scored()),
    "method_sheet": lambda: figures.method_sheet(),
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


@pytest.fixture(scope="module")
def drawn():
    """Each figure of ``DRAWN`` by name, drawn once for all tests that only look at it."""
    done = {}

    def draw(name: str):
        if name not in done:
            mpl.get_backend()  # is a setting too, chosen at first sight
            open_before, settings_before = plt.get_fignums(), mpl.rcParams.copy()
            done[name] = DRAWN[name]()
            assert plt.get_fignums() == open_before and mpl.rcParams == settings_before
        return done[name]

    return draw


def texts(fig) -> list[Text]:
    shown = [text for text in fig.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in shown if text.axes is None or text.axes.get_visible()]


def words(fig) -> str:
    return "\n".join(text.get_text() for text in texts(fig))


def test_every_public_figure_is_tested():
    public = {name for name in figures.__all__ if callable(getattr(figures, name))} - {"save", "allocation_sliders"}
    assert public == {name.split(",")[0].split(" ")[0] for name in DRAWN}


@pytest.mark.parametrize("name", DRAWN)
def test_text_lies_inside_the_figure_and_nothing_stays_open(name, drawn):
    fig = drawn(name)
    with style.style():
        ticks = [tick for ax in fig.axes for axis in (ax.xaxis, ax.yaxis)
                 for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]]  # fmt: skip
        of_ticks = {text for tick in ticks for text in (tick.label1, tick.label2)}
        boxes = {text.get_text(): text.get_window_extent() for text in texts(fig) if text not in of_ticks}
        for ax in fig.axes:  # an axis's box counts the ticks that are drawn, not those beyond its limits
            for axis in (ax.xaxis, ax.yaxis) if ax.get_visible() and ax.axison else ():
                boxes[f"{ax.get_title()} {axis.axis_name}"] = axis.get_tightbbox()
        for text, box in boxes.items():
            page = fig.bbox.padded(1)
            inside = box is None or page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
            assert inside, f"{text!r} leaves the page"


@pytest.mark.parametrize("name", ["corpus_lengths", "hidden_states, two layers", "norm_heatmaps", "pipeline"])
def test_saved_files_are_the_same_bytes_each_time_without_type_3_fonts(name, folder, drawn):
    first, again = figures.save(drawn(name), "a", "p"), figures.save(DRAWN[name](), "b", "p")
    if name == "corpus_lengths":
        again += figures.save(drawn(name), "c", "p")  # saving moves nothing
    assert [path.name for path in first] == ["a.pdf", "a.png"] and first[0].parent == folder / "p"
    for one, two in zip(first * 2, again, strict=False):
        assert one.read_bytes() == two.read_bytes()
    assert set((folder / "p").iterdir()) == {*first, *again}
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
    fig = DRAWN["corpus_lengths"]()
    monkeypatch.setattr(fig, "savefig", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        figures.save(fig, "a", "p")
    assert list((folder / "p").iterdir()) == []


def test_remove_test_draws_the_values_with_dense_and_chance(drawn):
    frame = removed(["mini_mmlu"])
    ax = drawn("remove_test").axes[0]
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    expected = frame[frame["sparsity"] == 0.5].sort_values("layer")["value"]
    np.testing.assert_allclose(lines["50%"], expected)
    assert lines["dense"][0] == 0.92 and lines["chance"][0] == 0.25


def test_norm_heatmap_dimensions_are_chosen_in_the_first_half_only(drawn):
    other, rng = norms(), np.random.default_rng(9)
    for task in TASKS:
        other[task, 1] = rng.gamma(2, size=(6, 40))
    both = drawn("norm_heatmaps"), figures.norm_heatmaps(other, dimensions=16)
    images = [[np.asarray(ax.images[0].get_array()) for ax in fig.axes[:4]] for fig in both]
    for a, b in zip(*images, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.shape == (len(TASKS), 16)


def test_masks_show_what_is_kept_exactly_and_in_bins(drawn):
    kept = masks()["PIQA expert, 50%"].channels
    np.testing.assert_array_equal(drawn("masks").axes[1].images[0].get_array(), kept)
    image = figures.masks(masks(), bins=20).axes[1].images[0].get_array()
    np.testing.assert_allclose(image, kept.reshape(6, 20, 3).mean(2))


def test_stated_numbers(drawn):
    assert "(chance 0.33)" in words(drawn("mask_overlap"))
    assert "×1.50" in words(drawn("inference_speed"))
    assert "36.9" in words(drawn("perplexity"))  # 5·exp(4·0.5)
    card = words(drawn("scorecard"))
    assert "−2 points\n[−2.5, −1.5]" in card and "\n0 points\n[−0.5, +0.5]" in card and "×2.48\n[1.98, 2.98]" in card
    assert "mini-PIQA" in words(drawn("hidden_states"))  # a bundled task never passes for the real one


def test_scorecard_says_every_claim_in_words_and_nothing_overlaps(drawn):
    frame, fig = scored(), drawn("scorecard")
    assert fig.get_figheight() < 7
    shown = {" ".join(text.get_text().split()): text for text in fig.texts}
    for row in frame.itertuples():
        assert row.claim in shown and row.paper in shown
    rows = [[text.get_text() for text in fig.texts if abs(text.get_position()[1] - place) < 1e-9]
            for place in sorted({text.get_position()[1] for text in fig.texts}, reverse=True)]  # fmt: skip
    headings, *lines = rows
    assert headings == ["the paper's claim", "measured here, with 95% interval", "in the paper", "verdict"]
    assert [line[3].removesuffix(claims.MARK) for line in lines] == frame["verdict"].tolist()
    assert [claims.MARK in line[3] for line in lines] == (
        (frame["p_holm"] > 0.05) & frame["verdict"].isin(["holds", "reversed"])
    ).tolist()
    assert [line[1] == "–" for line in lines] == frame["measured"].isna().tolist()
    assert "does not survive Holm's correction" in words(fig)
    boxes = [text.get_window_extent() for text in texts(fig) if text.get_text().strip()]
    pairs_of = [(a, b) for place, a in enumerate(boxes) for b in boxes[:place]]
    assert not any(a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1 for a, b in pairs_of)


def test_scorecard_intervals_lie_around_their_null_value_and_the_claim_is_on_the_right():
    frame = scored().iloc[:2].assign(null=1.0, measured=1.5, low=1.25, high=2.0, direction=[1, -1])
    ax = figures.scorecard(frame).axes[0]
    dots = {line.get_ydata()[0]: line.get_xdata()[0] for line in ax.lines if abs(line.get_xdata()[0]) < 1 and
            len(line.get_xdata()) == 1}  # fmt: skip
    assert dots == {0: 0.5, 1: -0.5}  # half of the way from the null value to the far end


def test_perplexities_of_other_windows_and_seeds_are_not_mixed_up(drawn):
    text = words(drawn("perplexity, two windows"))
    assert "mini-WikiText-2\nflap128" in text and "36.9" in text and "73.9" in text
    frame = perplexities()
    seeds = pd.concat([frame, frame.assign(perplexity=4 * frame["perplexity"], calibration_seed=1)])
    assert "73.9" in words(figures.perplexity(seeds))  # geometric: e to the mean nll


def test_allocations_equal_for_both_modules_are_drawn_once(drawn):
    frame = allocated()
    once = figures.allocation_curves(frame[frame["allocation"] == "uniform"])
    assert "MLP" not in words(once) and [len(ax.lines) for ax in once.axes] == [2, 2]  # and the line of the mean
    assert "MLP without markers" in words(drawn("allocation_curves"))
    assert [len(ax.lines) for ax in drawn("allocation_curves").axes] == [5, 5]


def test_sliders_draw_the_curve_that_they_say(monkeypatch):
    drawn = []
    monkeypatch.setattr("ipywidgets.widgets.interaction.display", drawn.append)
    widget = figures.allocation_sliders(8, x0=0.3, k=1.0, protect_last=2)
    widget.update()
    widget.children[0].value = 0.2
    first, second = (fig.axes[0].lines[1].get_ydata() for fig in (drawn[0], drawn[-1]))
    assert np.mean(first) == pytest.approx(0.5) and np.mean(second) == pytest.approx(0.2)
    assert not plt.get_fignums()


def test_accuracy_by_sparsity_starts_dense_and_dashes_what_is_protected(drawn):
    frame, fig = settings(), drawn("accuracy_by_sparsity")
    random, wanda = fig.axes[:2]
    lines = {line.get_label(): line for line in wanda.lines}
    assert set(lines) == set(ALLOCATIONS) and len(random.lines) == 5
    dashes = {"uniform": "-", "uniform, protect 0+2": "--", "uniform, protect 1+0": ":", "logistic": "--"}
    assert {name: line.get_linestyle() for name, line in lines.items()} == dict.fromkeys(ALLOCATIONS, "-") | dashes
    assert {line.get_color() for name, line in lines.items() if name.startswith("uniform")} == {"#8c8c8c"}
    legend = [text.get_text() for text in fig.legends[0].get_texts()]
    said = ["no layer protected", "last two layers protected", "first layer left alone"]
    assert [text for text in legend if text.strip()] == ["uniform", said[0], "logistic", said[1], "adaptive", said[2]]
    dense = frame.loc[frame["method"] == "dense", "value"].mean()
    cell = frame[(frame["method"] == "wanda_sp") & (frame["allocation"] == "uniform")]
    expected = cell.groupby("requested_sparsity")["value"].mean()
    np.testing.assert_allclose(lines["uniform"].get_xdata(), [0, 0.2, 0.5])
    np.testing.assert_allclose(lines["uniform"].get_ydata(), [dense, *expected])


def test_differences_by_task_are_bold_where_the_interval_excludes_zero(drawn):
    frame = by_task()
    upper, lower = drawn("differences_by_task").axes
    assert {"0", "+7"} < {text.get_text() for text in upper.texts}  # no sign before nothing
    assert [label.get_text() for label in lower.get_xticklabels()][-1] == "mean"
    for ax in (upper, lower):
        cells = {(text.get_position(), text.get_text()): text.get_fontweight() for text in ax.texts if text.get_text()}
        part = frame[frame["requested_sparsity"] == 0.2]
        assert len(cells) == len(part) == 2 * len(TASKS) + 1
        decided = (part["low"] > 0) | (part["high"] < 0)
        assert sorted(text for (_, text), weight in cells.items() if weight == "bold") == sorted(
            f"{round(100 * value):+d}".replace("-", "−") for value in part.loc[decided, "difference"]
        )


def test_zero_shot_shows_every_dot_of_every_block(drawn):
    """Columns share their axis between sparsities: the first block's range is not the second's."""
    for ax in drawn("zero_shot").axes:
        low, high = ax.get_xlim()
        dots = [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 1]
        assert dots and all(low <= x <= high for x in dots)


def test_zero_shot_dots_are_the_means_of_the_summary(drawn):
    frame, fig = uneven(), drawn("zero_shot")
    row = frame[(frame["method"] == "seap") & (frame["requested_sparsity"] == 0.2)]
    average = fig.axes[len(TASKS)]
    dots = sorted(float(line.get_xdata()[0]) for line in average.lines if len(line.get_xdata()) == 1)
    assert pytest.approx(row["value"].mean()) in dots
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


def test_no_two_methods_share_a_look_and_no_two_a_marker():
    listed = [(look.color, str(look.marker)) for look in looks.METHODS.values()]
    assert len(set(listed)) == len(listed)
    assert len({marker for _, marker in listed}) == len(listed)  # they stay apart in grey
    assert set(display_names.METHODS) | {looks.FIRST_LAYER} == set(looks.METHODS)
    spare = {(look.color, str(look.marker)) for look in looks.SPARE}
    assert len(spare) == len(looks.SPARE) and not spare & set(listed)


#: what is left of linear RGB without the cones for red and for green (Machado, Oliveira & Fernandes 2009, severity 1)
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
}  # fmt: skip


def cielab(colours, kind: str) -> np.ndarray:
    """CIELAB (D65) of sRGB colours as seen with a kind of colour blindness, [colours, 3]."""
    rgb = np.array([mpl.colors.to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                       [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
    xyz = np.clip(linear @ BLINDNESS[kind].T, 0, 1) @ to_xyz.T / to_xyz.sum(1)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("kind", BLINDNESS)
def test_families_stay_apart_for_everyone(kind):
    colours = {family: [look.color for look in members.values()] for family, members in looks.FAMILIES.items()}
    seen = {family: cielab(members, kind) for family, members in colours.items()}
    for a, b in itertools.combinations(seen, 2):
        nearest = np.linalg.norm(seen[a][:, None] - seen[b][None], axis=-1).min()
        assert nearest > (30 if kind == "none" else 15), (a, b, nearest)


def test_a_method_looks_the_same_in_every_figure():
    every = (*methods.PAPER, *methods.CONTROLS, *methods.COMPENSATED, *methods.BEYOND, methods.FUSED_W, *methods.DEPTH)
    labels = display_names.variants(pd.DataFrame([one.label(0) for one in every])[["method", "score"]])
    together = looks.variant_styles(labels)
    assert all(looks.variant_styles([label])[label] == look for label, look in together.items())
    told = {repr(sorted(look.items())) for look in together.values()}
    assert len(told) == labels.nunique()  # score and compensation by the marker's fill
    same = {"SEAP-gen": "SEAP-gen ($s_F$)", "Wanda-sp": "Wanda-sp ($s_W$)", "SEAP": "experts, routed", "Dense": "dense"}
    for label, other in (same | {"FLAP": "FLAP ($s_F$), uniform, no layer protected"}).items():
        assert looks.variant_styles([f"{label}, 50%"])[f"{label}, 50%"] == looks.variant_styles([other])[other]
    drawn_alone = {name: looks.variant_styles([name])[name] for name in ("mine", "yours ($s_W$)")}
    assert looks.variant_styles(["SEAP", *drawn_alone])["mine"] == drawn_alone["mine"]
    assert drawn_alone["mine"]["color"] not in {look.color for look in looks.METHODS.values()}
    many = looks.variant_styles(f"method {n}" for n in range(8))
    assert len({(look["color"], look["marker"]) for look in many.values()}) == 8


def test_the_first_layer_left_alone_is_a_control():
    recipes = [methods.SEAP_F, methods.FIRST_LAYER]
    frame = pd.DataFrame([one.label(0) for one in recipes]).assign(task="piqa", requested_sparsity=0.5)
    usual, control = display_names.variants(frame)
    assert (usual, control) == ("SEAP ($s_F$), logistic", "SEAP ($s_F$), uniform, first layer left alone")
    found = looks.variant_styles([usual, control])
    assert found[usual]["color"] == looks.METHODS["seap"].color
    assert found[control]["color"] == looks.METHODS[looks.FIRST_LAYER].color


def test_series_have_fixed_looks_and_none_is_drawn_twice():
    names = ["exact match", "accuracy", "8:16 wt", "8:16", "8:16 PTS+VAR", "something new"]
    found = looks.series_styles(names)
    assert found["exact match"] == looks.series_styles(["exact match"])["exact match"]
    assert len({look["color"] for look in looks.series_styles(["8:16 wt", "8:16", "8:16 PTS+VAR"]).values()}) == 3
    assert all(found.values()) and list(found) == names
