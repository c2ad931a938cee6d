"""Bad input in Python: one clear error, early, never a wrong number."""

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import SENTENCES

import seaplib
from seaplib import models, pruning
from seaplib.evaluation import generation, perplexity
from seaplib.pruning import allocation, scores, selection
from seaplib.pruning.baselines import authors_code, flap, griffin, wanda
from seaplib.settings import Calibration, Evaluation
from seaplib.texts import corpora, tasks

pytestmark = pytest.mark.unit


@pytest.fixture
def ranked(tiny_model):
    """Scores of a tiny model, all different."""
    g = models.geometry(tiny_model("gqa", num_hidden_layers=4))
    attention = torch.arange(g.layers * g.heads * g.head_dim, dtype=torch.float64).view(g.layers, -1)
    channels = torch.arange(g.layers * g.channels, dtype=torch.float64).view(g.layers, -1)
    return scores.Scores(g, attention, channels)


def damaged(model):
    with torch.no_grad():
        models.linear(models.decoder_layers(model)[1], "up").weight[0, 0] = float("nan")
    return model


def test_damaged_weights_never_become_an_accuracy_or_a_perplexity(tiny_model, tiny_tokenizer, tiny_data_dir):
    model = damaged(tiny_model("mha"))
    with pytest.raises(ValueError, match="not numbers"):
        seaplib.evaluate(model, tiny_tokenizer, tasks=["piqa"], progress=False)
    windows = pd.DataFrame({"nll": [1.0, float("nan")], "tokens": [2, 2], "bytes": [4, 4]})
    with pytest.raises(ValueError, match="not numbers"):
        perplexity.summarise(windows)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kv_unit": "grp"}, "kv_unit .*'grp'"),
        ({"budget": "flor"}, "budget .*'flor'"),
        ({"round_to": 0}, "round_to .*0"),
        ({"round_to": 4096}, "round_to .*4096"),
    ],
)
def test_select_refuses_unknown_choices(ranked, options, said):
    with pytest.raises(ValueError, match=said):
        selection.select(ranked, allocation.uniform(0.2), **options)


def test_select_refuses_scores_that_rank_nothing(ranked):
    ranked.channels[2, 5] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        selection.select(ranked, allocation.uniform(0.2))


@pytest.mark.parametrize("wrong", [{"k": 1000.0}, {"k": float("nan")}, {"x0": float("inf")}])
def test_a_curve_that_cannot_be_computed(wrong):
    with pytest.raises(ValueError, match="x0"):
        allocation.logistic(0.5, **wrong)


def test_an_allocation_without_a_curve():
    with pytest.raises(ValueError, match="'linear'"):
        allocation.Allocation("linear", 0.5)


@pytest.mark.parametrize("mode", ["zero", "remove"])
def test_a_pruned_model_is_not_pruned_again(tiny_model, ranked, mode):
    model = tiny_model("gqa", num_hidden_layers=4)
    mask = selection.select(ranked, allocation.uniform(0.4))
    with pytest.raises(ValueError, match="pruned"):
        pruning.prune(pruning.prune(model, mask, mode), mask, mode)


def test_a_method_of_unknown_parts():
    with pytest.raises(ValueError, match="'linear'"):
        seaplib.Method("mine", "s_F", "task", allocation="linear")
    with pytest.raises(ValueError, match="'tasks'"):
        seaplib.Method("mine", "s_F", "tasks")


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"samples": -1}, {"samples": 2.5}, {"seed": -1}])
def test_draws_that_cannot_be_made(tmp_path, wrong):
    pd.DataFrame({"question": ["a?", "b?"], "answer": ["c", "d"]}).to_parquet(tmp_path / "mine.parquet")
    with pytest.raises(ValueError, match="whole number"):
        seaplib.corpus(tmp_path / "mine.parquet", **wrong)


def test_incomplete_rows_are_left_out_and_counted(tmp_path):
    pd.DataFrame({"question": ["a?", None, "b?"], "answer": ["c", "d", " "]}).to_parquet(tmp_path / "mine.parquet")
    corpus = seaplib.corpus(tmp_path / "mine.parquet")
    assert corpus.texts == ("a? c",) and corpus.source["left_out"] == 2
    pd.DataFrame({"question": ["a?"], "answer": [["c"]]}).to_parquet(tmp_path / "lists.parquet")
    with pytest.raises(ValueError, match="answer"):
        seaplib.corpus(tmp_path / "lists.parquet")


def test_wrong_kinds_of_arguments(tiny_model, tiny_tokenizer):
    with pytest.raises(TypeError, match="Corpus"):
        seaplib.collect(tiny_model("mha"), tiny_tokenizer, "mini_piqa")
    with pytest.raises(TypeError, match="list"):
        seaplib.calibrate(tiny_model("mha"), tiny_tokenizer, "mini_piqa")
    with pytest.raises(ValueError, match="max_length"):
        Evaluation(max_length=0)


def rewrite(file, change) -> None:
    change(pd.read_parquet(file)).to_parquet(file, index=False)


#: what is wrong with a split: (the damage to the file, what is said)
DAMAGE = {
    "no file": (lambda file: file.unlink(), "SEAP_DATA_DIR"),
    "nothing in it": (lambda file: file.write_bytes(b""), "parquet"),
    "half of it": (lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]), "parquet"),
    "not UTF-8": (
        lambda file: pq.write_table(
            pa.table(pd.read_parquet(file).drop(columns="goal")).append_column(
                "goal", pa.Array.from_buffers(pa.string(), *_not_text(len(pd.read_parquet(file))))
            ),
            file,
        ),
        "parquet",
    ),
    "no rows": (lambda file: rewrite(file, lambda rows: rows[:0]), "no rows"),
    "no column": (lambda file: rewrite(file, lambda rows: rows.drop(columns="sol2")), "sol2"),
    "a shard missing": (
        lambda file: file.rename(file.with_name(f"{file.stem}-00000-of-00002.parquet")),
        "1 of the 2 files",
    ),
    "shards that differ": (lambda file: _two_shards(file), "label"),
    "an empty cell": (
        lambda file: rewrite(file, lambda rows: rows.assign(goal=[None, *rows["goal"][1:]])),
        "1 .*goal",
    ),
    "a label out of range": (
        lambda file: rewrite(file, lambda rows: rows.assign(label=[0, 0, 2, *[0] * (len(rows) - 3)])),
        "-2 .*label 2",
    ),
    "no label": (  # the hub's test splits without public labels say -1
        lambda file: rewrite(file, lambda rows: rows.assign(label=-1)),
        "-0 .*label -1",
    ),
}


def _two_shards(file) -> None:
    rows = pd.read_parquet(file)
    for number, label in enumerate((rows["label"], rows["label"].astype(str))):
        rows.assign(label=label).to_parquet(file.with_name(f"{file.stem}-0000{number}-of-00002.parquet"), index=False)
    file.unlink()


def _not_text(n: int) -> tuple:
    """Buffers of ``n`` strings of one byte that no UTF-8 text has."""
    offsets = pa.py_buffer(torch.arange(n + 1, dtype=torch.int32).numpy().tobytes())
    return n, [None, offsets, pa.py_buffer(b"\xff" * n)]


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("role", ["train", "test"])
def test_damaged_data_never_become_a_number(tiny_model, tiny_tokenizer, tiny_data_dir, what, role):
    """Neither a corpus is made of them nor an accuracy."""
    damage, said = DAMAGE[what]
    damage(tiny_data_dir / "piqa" / {"train": "train.parquet", "test": "validation.parquet"}[role])
    with pytest.raises((ValueError, FileNotFoundError), match=f"piqa.*{said}") as raised:
        if role == "train":
            seaplib.corpus("piqa")
        else:
            seaplib.evaluate(tiny_model("mha"), tiny_tokenizer, tasks=["piqa"], progress=False)
    assert "\n" not in str(raised.value)


#: per task a row that has no right answer, and what its column is
UNLABELLED = {
    "piqa": {"goal": "g", "sol1": "a", "sol2": "b", "label": -1},
    "boolq": {"passage": "p", "question": "q", "label": -1},
    "winogrande": {"sentence": "the _", "option1": "a", "option2": "b", "answer": ""},
    "hellaswag": {
        "ctx_a": "a", "ctx_b": "b", "ctx": "a b", "activity_label": "c", "endings": ["a", "b", "c", "d"], "label": "",
    },
    "mmlu": {"question": "q", "subject": "s", "choices": ["a", "b", "c", "d"], "answer": 4},
    "arc_challenge": {"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "C"},
    "openbookqa": {
        "question_stem": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "", "fact1": "f",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", UNLABELLED)
def test_a_row_without_a_right_answer_is_neither_worded_nor_scored(
    tiny_model, tiny_tokenizer, tmp_path, monkeypatch, name
):
    task = tasks.get(name)
    for source in (task.train, task.test):
        for split in source.splits:
            (tmp_path / source.local[0]).mkdir(parents=True, exist_ok=True)
            pd.DataFrame([UNLABELLED[name]] * 2).to_parquet(tmp_path / source.local[0] / f"{split}.parquet")
    monkeypatch.setenv("SEAP_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=f"{name}: row .*-0 "):
        corpora.questions(name)
    with pytest.raises(ValueError, match=f"^{name}"):
        seaplib.evaluate(tiny_model("mha"), tiny_tokenizer, tasks=[name], progress=False)


def test_prompts_longer_than_the_context_are_counted(tiny_model, tiny_tokenizer, tiny_data_dir):
    """As lm-eval cuts them, from the left, and said in every row; in calibration from the right, and said there."""
    file = tiny_data_dir / "piqa" / "validation.parquet"
    rewrite(file, lambda rows: rows.assign(goal=[" ".join(SENTENCES) * 3, *rows["goal"][1:]]))
    frame = seaplib.evaluate(tiny_model("mha"), tiny_tokenizer, tasks=["piqa"], progress=False)
    assert set(frame.truncated) == {1} and set(frame.n) == {12}
    rewrite(
        tiny_data_dir / "piqa" / "train.parquet", lambda rows: rows.assign(goal=[" ".join(SENTENCES) * 3] * len(rows))
    )
    stats = seaplib.collect(tiny_model("mha"), tiny_tokenizer, seaplib.corpus("piqa", samples=3), progress=False)
    assert stats.provenance["truncated"] == 3 and stats.provenance["tokens"] == 3 * 256


def test_an_answer_that_tokenises_to_nothing_is_not_scored(tiny_model, tiny_tokenizer, tiny_data_dir):
    """Its log-probability would be 0, the largest there is."""
    import copy

    from tokenizers import normalizers

    deaf = copy.deepcopy(tiny_tokenizer)
    deaf.backend_tokenizer.normalizer = normalizers.Replace(" Nothing", "")
    rewrite(
        tiny_data_dir / "piqa" / "validation.parquet", lambda rows: rows.assign(sol2=["Nothing", *rows["sol2"][1:]])
    )
    with pytest.raises(ValueError, match="piqa: item validation-0"):
        seaplib.evaluate(tiny_model("mha"), deaf, tasks=["piqa"], progress=False)


def test_what_is_named_twice_is_not_counted_twice(tiny_model, tiny_tokenizer, tiny_data_dir):
    with pytest.raises(ValueError, match="'piqa'"):
        seaplib.evaluate(tiny_model("mha"), tiny_tokenizer, tasks=["piqa", "piqa"], progress=False)
    model = tiny_model("mha")
    prompted = [griffin.Griffin(models.geometry(model), sparsity) for sparsity in (0.1, 0.2)]
    once = seaplib.evaluate_items(model, tiny_tokenizer, iter(["piqa"]), prompted, progress=False)
    assert set(once.groupby("requested_sparsity").size()) == {len(once) / 2}


@pytest.fixture
def sums_to_write(tiny_data_dir):
    """GSM8K of three rows."""
    (tiny_data_dir / "gsm8k/main").mkdir(parents=True)
    for split in ("train", "test"):
        rows = {"question": [f"How many {split} {i}?" for i in range(3)], "answer": [f"x #### {i}" for i in range(3)]}
        pd.DataFrame(rows).to_parquet(tiny_data_dir / f"gsm8k/main/{split}.parquet")


def test_a_damaged_model_writes_no_answers(tiny_model, tiny_tokenizer, sums_to_write):
    """Greedy decoding of NaN is a text like any other."""
    model, roomy = damaged(tiny_model("mha", max_position_embeddings=512)), {"settings": Evaluation(items=2)}
    with pytest.raises(ValueError, match="not numbers"):
        seaplib.evaluate(model, tiny_tokenizer, tasks=["gsm8k"], progress=False, **roomy)
    with pytest.raises(ValueError, match="not numbers"):
        prompted = [griffin.Griffin(models.geometry(model), 0.2)]
        seaplib.evaluate_items(model, tiny_tokenizer, ["gsm8k"], prompted, progress=False, **roomy)
    with pytest.raises(ValueError, match="not numbers"):
        generation.generate(model, tiny_tokenizer, ["A kettle"], new_tokens=4, progress=False)


def test_a_context_too_small_for_an_answer(tiny_model, tiny_tokenizer, sums_to_write):
    with pytest.raises(ValueError, match="gsm8k: .*256"):
        seaplib.evaluate(tiny_model("mha"), tiny_tokenizer, tasks=["gsm8k"], progress=False)


def test_a_tokenizer_with_more_types_than_the_model(tiny_model, tiny_tokenizer, tiny_data_dir):
    import copy

    extended = copy.deepcopy(tiny_tokenizer)
    extended.add_tokens(["How"])
    with pytest.raises(ValueError, match="token id 400 .* 400"):
        seaplib.evaluate(tiny_model("mha", vocab_size=400), extended, tasks=["piqa"], progress=False)
    with pytest.raises(ValueError, match="400"):
        seaplib.collect(tiny_model("mha", vocab_size=400), extended, seaplib.corpus("piqa", 4), progress=False)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% if x %}", "turn"),
        ("{{ raise_exception('system only') }}", "system only"),
        ("hello", "user"),
    ],
)
def test_a_chat_template_that_words_no_prompt(tiny_model, tiny_tokenizer, template, said):
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=said):
        seaplib.evaluate(
            tiny_model("mha"), tokenizer, tasks=["piqa"], settings=Evaluation(chat_template=True), progress=False
        )


def test_running_text_that_is_no_text(tiny_model, tiny_tokenizer, tiny_data_dir):
    for split in ("train", "test"):
        file = tiny_data_dir / "wikitext/wikitext-2-raw-v1" / f"{split}.parquet"
        pd.DataFrame({"text": [1, 2, 3]}).to_parquet(file)
    with pytest.raises(ValueError, match="wikitext2: train .*int64"):
        seaplib.corpus("wikitext2", 2)
    with pytest.raises(ValueError, match="wikitext2: test .*int64"):
        perplexity.perplexity(tiny_model("mha"), tiny_tokenizer, "wikitext2", progress=False)


@pytest.mark.parametrize("wrong", [{"items": True}, {"item_seed": -1}])
def test_settings_that_draw_nothing(wrong):
    with pytest.raises(ValueError, match="whole number|at least 0"):
        Evaluation(**wrong)


def test_a_layer_without_activations_has_no_place_in_an_order_over_layers(tiny_model, tiny_tokenizer, tiny_data_dir):
    """NaN sorts to one end: the layer would be kept, or removed, as a whole."""
    model, corpus = tiny_model("mha", num_hidden_layers=4), seaplib.corpus("piqa", 8)
    with torch.no_grad():
        models.linear(models.decoder_layers(model)[1], "up").weight.zero_()
    said = "layer 1"
    for estimator in ("exact", "flap", "authors"):
        calibration = Calibration(samples=8, estimator=estimator)
        stats = seaplib.collect(model, tiny_tokenizer, corpus, calibration, progress=False)
        with pytest.raises(ValueError, match=said):
            if estimator == "exact":
                selection.select(scores.score(stats), allocation.adaptive(0.3))
            elif estimator == "flap":
                flap.flap(stats, 0.3)
            else:
                authors_code.authors_mask(authors_code.authors_score(stats), 0.3, "AL-AM")
    stats = seaplib.collect(model, tiny_tokenizer, corpus, progress=False)
    assert abs(selection.select(scores.score(stats), allocation.uniform(0.3)).achieved - 0.3) < 0.02


def test_wanda_ranks_no_weights_by_nan(tiny_model, tiny_tokenizer, tiny_data_dir):
    with pytest.raises(ValueError, match="layer 1.*down"):
        wanda.wanda(damaged(tiny_model("mha")), tiny_tokenizer, seaplib.corpus("piqa", 4), 0.5, progress=False)
