"""Evaluation equals lm-eval's own, item by item; it resumes, and it says clearly what is wrong."""

import copy
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from lm_eval_alone import stock
from pruned import random_mask, random_means

from seaplib import evaluation, settings
from seaplib.evaluation import lm_eval as harness
from seaplib.evaluation import workers
from seaplib.evaluation.accuracy import DENSE, evaluate, evaluate_items
from seaplib.models import likelihood
from seaplib.pruning.apply import Variant, prune
from seaplib.settings import Evaluation
from seaplib.texts import lm_eval, rows, tasks

pytestmark = pytest.mark.unit
TASKS = ("piqa", "arc_easy", "winogrande")


@dataclass(frozen=True)
class Scaled:
    """A stand-in for a pruned variant: the LM head scaled, which changes the scores."""

    label: dict
    factor: float
    tasks: tuple | None = None

    @property
    def fingerprint(self) -> str:
        return f"scaled {self.factor}"

    def apply(self, model):
        APPLIED.append(self.factor)
        scaled = copy.deepcopy(model)
        with torch.no_grad():
            scaled.lm_head.weight.mul_(self.factor)
        return scaled


APPLIED: list[float] = []


def variant(factor, **options):
    label = {"method": f"scaled_{factor}", "requested_sparsity": 0.5, "calibration": "piqa", "calibration_seed": 3}
    return Scaled(label, factor, **options)


@pytest.fixture(autouse=True)
def nothing_applied():
    APPLIED.clear()


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(("bos", "max_length"), [(None, None), (False, 20)])
def test_equals_stock_lm_eval(tiny_model, tiny_tokenizer, tiny_data_dir, tmp_path, name, bos, max_length):
    from lm_eval.models.huggingface import HFLM

    model = tiny_model("gqa")
    settings = Evaluation(batch_tokens=300, bos=bos, max_length=max_length)
    lm = HFLM(model, tokenizer=tiny_tokenizer, batch_size=3, add_bos_token=bos, max_length=max_length)
    expected = stock(name, tiny_data_dir, tmp_path, lm)

    bench = harness.Bench(model, tiny_tokenizer, settings)
    prepared = bench.prepared(name)
    sums, greedy = likelihood.score(model, prepared.batches)
    answers = [answer for sample in expected["samples"] for answer in sample["filtered_resps"]]
    np.testing.assert_allclose(sums, [logprob for logprob, _ in answers], atol=1e-4)
    assert greedy.tolist() == [is_greedy for _, is_greedy in answers]

    frame = evaluate(model, tiny_tokenizer, [name], settings=settings, progress=False).set_index("metric")
    for metric in ("acc", "acc_norm"):
        if f"{metric},none" in expected["results"]:
            assert frame.value[metric] == pytest.approx(expected["results"][f"{metric},none"], abs=1e-12)
            assert frame.stderr[metric] == pytest.approx(expected["results"][f"{metric}_stderr,none"], abs=1e-12)
    assert (frame.n == len(expected["samples"])).all() and (frame.truncated > 0).all() == (max_length == 20)


def test_exact_match_is_the_greedy_gold_option(tiny_model, tiny_tokenizer, tiny_data_dir):
    """A model that always continues with one token finds the one-token answers that are it."""
    frame = pd.DataFrame({"sol1": ["the", "the", "tea", "the the"], "sol2": ["tea", "a", "the", "tea"]})
    frame = frame.assign(goal="go", label=0)
    frame.to_parquet(tiny_data_dir / "piqa" / "validation.parquet")
    model = tiny_model()
    token = tiny_tokenizer.encode(" the", add_special_tokens=False)
    assert len(token) == 1
    with torch.no_grad():  # logits are 0 but for that token: the sum of the hidden state is made positive
        model.lm_head.weight.zero_()
        model.model.norm.weight.fill_(1.0)
    bias = torch.zeros(model.config.vocab_size)
    bias[token[0]] = 5.0
    model.lm_head.bias = torch.nn.Parameter(bias)
    items = evaluate_items(model, tiny_tokenizer, "piqa", progress=False)
    exact = items[items.metric == "exact_match"].set_index("doc_id").value
    assert exact.tolist() == [1.0, 1.0, 0.0, 1.0]


def test_a_metric_named_in_metrics_alone_is_kept(tiny_model, tiny_tokenizer, tiny_data_dir, monkeypatch):
    """One declaration decides what a task's items are scored by; nothing is dropped on the way."""
    listed = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_bytes")]
    monkeypatch.setitem(tasks._REGISTRY, "piqa", replace(tasks.get("piqa"), changes={"metric_list": listed}))
    before = evaluate_items(tiny_model(), tiny_tokenizer, "piqa", progress=False)
    assert before.metric.unique().tolist() == ["acc", "exact_match"]
    monkeypatch.setitem(settings.METRICS, "acc_bytes", settings.MetricKind("accuracy by bytes"))
    after = evaluate_items(tiny_model(), tiny_tokenizer, "piqa", progress=False)  # not what the store has of before
    assert after.metric.unique().tolist() == ["acc", "acc_bytes", "exact_match"]
    assert after.query("metric == 'acc_bytes'").doc_id.tolist() == before.query("metric == 'acc'").doc_id.tolist()


def test_a_configuration_may_lie_anywhere(tiny_model, tiny_tokenizer, tiny_data_dir, tmp_path, monkeypatch):
    piqa, file = tasks.get("piqa"), tmp_path / "own" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(f"include: {piqa.config_file()}\ntask: mine\ntarget_delimiter: ' so '\n")
    monkeypatch.setitem(tasks._REGISTRY, "mine", replace(piqa, name="mine", lm_eval=str(file), expert=""))
    assert tasks.get("mine").config_file() == file
    frame = evaluate(tiny_model(), tiny_tokenizer, ["piqa", "mine"], progress=False).set_index(["task", "metric"])
    assert (frame.n["mine"] == frame.n["piqa"]).all() and frame.primary["mine", "acc_norm"]
    bench = harness.Bench(tiny_model(), tiny_tokenizer, Evaluation())
    own, usual = (bench.prepared(name).instances[0][0].args for name in ("mine", "piqa"))
    assert own[0] == usual[0] and own[1] == " so " + usual[1].removeprefix(" ")


def test_rows_and_columns(tiny_model, tiny_tokenizer, tiny_data_dir):
    variants = [None, variant(0.5), variant(2.0, tasks=("piqa",))]
    items = evaluate_items(tiny_model(), tiny_tokenizer, TASKS, variants, Evaluation(items=8), progress=False)
    assert set(items.variant) == {"dense", "1", "2"}
    assert set(items[items.variant == "2"].task) == {"piqa"}
    frame = evaluation.aggregate(items, "tiny")
    assert list(frame.columns) == [
        "model", "method", "score", "allocation", "budget", "requested_sparsity", "achieved_sparsity",
        "achieved_model_sparsity", "calibration", "calibration_seed", "task", "metric", "value", "stderr", "n",
        "chance", "at_chance", "detectable", "task_version", "bos", "chat_template", "primary", "truncated",
    ]  # fmt: skip
    assert len(frame) == 2 * 8 + 3 and (frame.n == 8).all()
    primary = frame[frame.primary & (frame.method == "dense")].set_index("task").metric
    assert primary.to_dict() == {"piqa": "acc_norm", "arc_easy": "acc", "winogrande": "acc"}
    dense = frame[frame.method == "dense"].iloc[0]
    assert frame.bos.all() and not frame.chat_template.any()
    assert dense.requested_sparsity == 0 and dense.score == "none" and dense.calibration_seed is pd.NA
    assert frame[frame.method == "scaled_2.0"].calibration_seed.tolist() == [3] * 3


def of_items(right: int, n: int, chance: float | None, task: str = "piqa") -> pd.Series:
    items = pd.DataFrame({"value": [1.0] * right + [0.0] * (n - right), "doc_id": range(n), "truncated": False})
    worded = {"task_version": "1", "bos": True, "chat_template": False}
    items = items.assign(**DENSE, **worded, task=task, metric=tasks.get(task).metric)
    return evaluation.aggregate(items if chance is None else items.assign(chance=chance)).iloc[0]


def test_results_say_when_their_items_cannot_tell_them_from_guessing():
    assert of_items(24, 40, 0.5).at_chance and not of_items(120, 200, 0.5).at_chance  # both 60%
    assert not of_items(40, 40, 0.5).at_chance
    assert of_items(2, 2, 0.5).at_chance, "a standard error of 0 is no certainty"
    assert of_items(0, 40, 0.0, "gsm8k").at_chance and not of_items(1, 40, 0.0, "gsm8k").at_chance
    assert not of_items(24, 40, float("nan")).at_chance and not of_items(24, 40, None).at_chance
    assert of_items(20, 40, 0.5).detectable == pytest.approx(2.8 * (2 * 0.25 / 44) ** 0.5)
    assert of_items(0, 40, 0.5).detectable > 0.1, "forty items, all wrong, do not tell 0% from 10%"


def test_chance_is_that_of_the_drawn_items(tiny_model, tiny_tokenizer, tiny_data_dir):
    frame = evaluate(tiny_model(), tiny_tokenizer, ["piqa", "arc_easy"], settings=Evaluation(items=4), progress=False)
    chance = frame.set_index(["task", "metric"])["chance"]
    assert chance["piqa", "acc_norm"] == 0.5 and np.isnan(chance["piqa", "acc"])
    assert np.isnan(chance["piqa", "exact_match"]) and 0 < chance["arc_easy", "acc"] < 0.5
    bench = harness.Bench(tiny_model(), tiny_tokenizer, Evaluation(items=4))
    options = [len(item) for item in bench.prepared("arc_easy").instances]
    assert chance["arc_easy", "acc"] == pytest.approx(np.mean([1 / n for n in options]))


def test_a_model_pruned_beforehand_is_not_called_dense(tiny_model, tiny_tokenizer, tiny_data_dir):
    mask = random_mask(tiny_model())
    mask = replace(mask, provenance={"score": "s_F", "calibration": "piqa", "requested": 0.5})
    model = prune(tiny_model(), mask, "zero")
    row = evaluate(model, tiny_tokenizer, ["piqa"], progress=False).iloc[0]
    assert (row.method, row.score, row.calibration, row.allocation) == ("pruned", "s_F", "piqa", "none")
    sizes = row.requested_sparsity, row.achieved_sparsity, row.achieved_model_sparsity
    assert sizes == (0.5, mask.achieved, mask.achieved_model)


def test_batch_size_does_not_matter(tiny_model, tiny_tokenizer, tiny_data_dir, monkeypatch):
    model = tiny_model()
    sums = []
    for batch_tokens in (50, 5000):
        bench = harness.Bench(model, tiny_tokenizer, Evaluation(batch_tokens=batch_tokens))
        sums.append(likelihood.score(model, bench.prepared("arc_easy").batches)[0])
    np.testing.assert_allclose(*sums, atol=2e-5)


def test_items_are_the_first_of_a_seeded_shuffle(tiny_model, tiny_tokenizer, tiny_data_dir):
    def ids(**options):
        items = evaluate_items(tiny_model(), tiny_tokenizer, ["arc_easy"], None, Evaluation(**options), progress=False)
        return items[items.metric == "acc"].doc_id.tolist()

    assert ids(items=4) == ids(items=8)[:4]
    assert ids(items=4, item_seed=1) != ids(items=4)
    assert sorted(ids()) == sorted(ids(items=100)) == sorted(rows.read_rows("arc_easy", "test").ids)


def test_what_is_stored_is_neither_applied_nor_scored_again(tiny_model, tiny_tokenizer, tiny_data_dir, monkeypatch):
    model, variants = tiny_model(), [variant(0.5), variant(2.0)]
    first = evaluate(model, tiny_tokenizer, ["piqa"], variants, progress=False)
    assert APPLIED == [0.5, 2.0]
    more = evaluate(model, tiny_tokenizer, TASKS, [*variants, variant(3.0, tasks=("piqa",))], progress=False)
    assert APPLIED == [0.5, 2.0, 0.5, 2.0, 3.0]
    monkeypatch.setattr(lm_eval, "harness_task", None)  # a second look needs no lm-eval at all
    again = evaluate(model, tiny_tokenizer, TASKS, variants, progress=False)
    assert len(APPLIED) == 5
    pd.testing.assert_frame_equal(again[again.task == "piqa"].reset_index(drop=True), first)
    pd.testing.assert_frame_equal(more[more.method != "scaled_3.0"].reset_index(drop=True), again)


@pytest.mark.slow
def test_several_processes_give_what_a_single_process_gives(
    tiny_model, tiny_tokenizer, tiny_data_dir, monkeypatch, tmp_path
):
    model, tasks = tiny_model(), ["piqa", "winogrande"]
    masks = [random_mask(model, seed=seed) for seed in (0, 1)]
    chosen = [None, *(Variant({"method": f"mask {place}"}, mask) for place, mask in enumerate(masks))]
    chosen.append(Variant({"method": "piqa's"}, masks[0], "zero", random_means(model), tasks=("piqa",)))
    expected = evaluate_items(model, tiny_tokenizer, tasks, chosen, Evaluation(items=4), progress=False)
    monkeypatch.setenv("SEAP_STORE_DIR", str(tmp_path / "another store"))
    monkeypatch.setattr(harness.Bench, "score", lambda *_: pytest.fail("scored here, and not by a worker"))
    several = Evaluation(items=4, workers=2)
    found = evaluate_items(model, tiny_tokenizer, tasks, chosen, several, progress=False)
    pd.testing.assert_frame_equal(found, expected)
    monkeypatch.setattr(workers, "fill", lambda *_: pytest.fail("everything is in the store"))
    pd.testing.assert_frame_equal(
        evaluate_items(model, tiny_tokenizer, tasks, chosen, several, progress=False), expected
    )


@pytest.mark.slow
def test_an_error_of_a_worker_is_raised_here(tiny_model, tiny_tokenizer, tiny_data_dir):
    model = tiny_model()
    broken = [Variant({"method": "other"}, random_mask(tiny_model(intermediate_size=40))) for _ in range(2)]
    settings = Evaluation(items=4, workers=2)
    with pytest.raises(ValueError, match="another model"):
        evaluate_items(model, tiny_tokenizer, ["piqa"], [None, *broken], settings, progress=False)


def test_a_killed_run_resumes_where_it_was(tiny_model, tiny_tokenizer, tiny_data_dir, monkeypatch):
    model, variants = tiny_model(), [variant(0.5), variant(2.0)]
    undisturbed = evaluate(model, tiny_tokenizer, TASKS, variants, progress=False)
    real, calls = likelihood.score, []

    def dies(*args):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setenv("SEAP_STORE_DIR", str(tiny_data_dir / "other_store"))
    monkeypatch.setattr(likelihood, "score", dies)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, tiny_tokenizer, TASKS, variants, progress=False)
    resumed = evaluate(model, tiny_tokenizer, TASKS, variants, progress=False)
    assert len(calls) == 5 + 2
    pd.testing.assert_frame_equal(resumed, undisturbed)


@pytest.mark.parametrize("change", ["model", "variant", "data", "settings"])
def test_nothing_is_mistaken_for_something_else(tiny_model, tiny_tokenizer, tiny_data_dir, change, monkeypatch):
    real, scored = likelihood.score, []

    def counting(model, *args):
        scored.append(model)
        return real(model, *args)

    monkeypatch.setattr(likelihood, "score", counting)
    model, settings, variants = tiny_model(), Evaluation(items=8), [variant(0.5)]
    evaluate(model, tiny_tokenizer, ["arc_easy"], variants, settings, progress=False)
    if change == "model":
        model = tiny_model(seed=1)
    if change == "variant":
        variants = [variant(0.25)]
    if change == "settings":
        settings = Evaluation(items=8, bos=False)
    if change == "data":
        file = tiny_data_dir / "ai2_arc" / "ARC-Easy" / "test.parquet"
        frame = pd.read_parquet(file)
        frame["question"] += "?"
        frame.to_parquet(file)
    evaluate(model, tiny_tokenizer, ["arc_easy"], variants, settings, progress=False)
    assert len(scored) == 2


def test_generation_tasks_go_through_lm_eval(tiny_model, tiny_tokenizer, tiny_data_dir, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    (tiny_data_dir / "gsm8k" / "main").mkdir(parents=True)
    rows = pd.DataFrame({"question": ["2 + 2 apples?", "3 pears?"], "answer": ["2+2=<<2+2=4>>4\n#### 4", "#### 1,003"]})
    rows.to_parquet(tiny_data_dir / "gsm8k" / "main" / "test.parquet")
    prompts = []

    def generate(self, requests, disable_tqdm=False):
        prompts.extend(request.args for request in requests)
        return ["There are 2 and 2, so 4.", "I think $1,003."]

    monkeypatch.setattr(HFLM, "generate_until", generate)
    model = tiny_model(max_position_embeddings=512)
    frame = evaluate(model, tiny_tokenizer, ["gsm8k"], progress=False)
    assert prompts[0][0] == "Question: 2 + 2 apples?\nAnswer:"
    assert frame.metric.tolist() == ["exact_match"] and frame.value.tolist() == [1.0] and frame.primary.all()


def test_generation_for_real(tiny_model, tiny_tokenizer, tiny_data_dir):
    (tiny_data_dir / "gsm8k" / "main").mkdir(parents=True)
    rows = pd.DataFrame({"question": ["2 + 2 apples?"], "answer": ["#### 4"]})
    rows.to_parquet(tiny_data_dir / "gsm8k" / "main" / "test.parquet")
    frame = evaluate(tiny_model(max_position_embeddings=512), tiny_tokenizer, ["gsm8k"], progress=False)
    assert frame.n.tolist() == [1] and frame.value.isin([0.0, 1.0]).all()


def test_written_answers_are_greedy_whatever_the_models_own_settings(tiny_model, tiny_tokenizer, tiny_data_dir):
    """A repetition penalty turned 34 right answers of 40 into 26, and the store kept them for the model without it."""
    (tiny_data_dir / "gsm8k" / "main").mkdir(parents=True)
    rows = pd.DataFrame({"question": ["2 + 2 apples?"], "answer": ["#### 4"]})
    rows.to_parquet(tiny_data_dir / "gsm8k" / "main" / "test.parquet")
    model, written = tiny_model(max_position_embeddings=512, attention_dropout=0.5), []
    for penalty in (1.0, 1.8):
        model.generation_config.repetition_penalty = penalty
        bench = harness.Bench(model.train(penalty > 1), tiny_tokenizer, Evaluation())
        prepared = bench.prepared("gsm8k")
        bench.written(prepared, model)
        written.append(prepared.instances[0][0].resps)
    assert written[0] == written[1] and model.training and model.generation_config.repetition_penalty == 1.8


def test_bad_input_is_one_clear_error(tiny_model, tiny_tokenizer, tiny_data_dir):
    model = tiny_model()
    with pytest.raises(ValueError, match="piqua.*piqa"):
        evaluate(model, tiny_tokenizer, ["piqa", "piqua"])
    with pytest.raises(FileNotFoundError, match="openbookqa/main/test.parquet"):
        evaluate(model, tiny_tokenizer, ["openbookqa"])
    with pytest.raises(ValueError, match="wikitext2"):
        evaluate(model, tiny_tokenizer, ["wikitext2"])
    with pytest.raises(ValueError, match="arc_easy"):
        evaluate(model, tiny_tokenizer, ["arc_easy"], [variant(2.0, tasks=("piqa",))])


def test_evaluation_changes_neither_model_nor_tokenizer(tiny_model, tiny_tokenizer, tiny_data_dir):
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pad, side = tiny_tokenizer.pad_token, tiny_tokenizer.padding_side
    evaluate(model, tiny_tokenizer, ["piqa"], [None, variant(2.0)], progress=False)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert (tiny_tokenizer.pad_token, tiny_tokenizer.padding_side) == (pad, side)


CHAT = "{{ bos_token }}{% for turn in messages %}[{{ turn['role'] }}] {{ turn['content'] }} {% endfor %}[assistant]"


@pytest.fixture
def bare_tokenizer(tiny_tokenizer):
    """One that knows a BOS and never puts it, as Qwen's and SmolLM2's do."""
    from tokenizers import processors

    bare = copy.deepcopy(tiny_tokenizer)
    bare.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    assert bare("the otter")["input_ids"][0] != bare.bos_token_id
    return bare


def contexts(tokenizer, model, name="piqa", **options) -> list[list[int]]:
    """The token ids of every request's context."""
    bench = harness.Bench(model, tokenizer, Evaluation(**options))
    prepared = bench.prepared(name)
    found = [bench._encode(*request.args)[0] for item in prepared.instances for request in item]
    assert {ids[0] == tokenizer.bos_token_id for ids in found} == {bench.begins_with_bos}
    return found


@pytest.mark.parametrize("adds", [True, False], ids=["adds BOS", "adds none"])
@pytest.mark.parametrize("bos", [None, True, False])
@pytest.mark.parametrize(
    "chat", [None, CHAT, CHAT.replace("{{ bos_token }}", "")], ids=["plain", "chat", "chat, no BOS"]
)
@pytest.mark.parametrize("name", ["piqa", "winogrande"])
def test_bos_comes_once_or_not_at_all(tiny_model, tiny_tokenizer, bare_tokenizer, tiny_data_dir, adds, bos, chat, name):
    tokenizer = copy.deepcopy(tiny_tokenizer if adds else bare_tokenizer)
    tokenizer.chat_template = chat
    found = contexts(tokenizer, tiny_model(), name, bos=bos, chat_template=chat is not None)
    wanted = bos if bos is not None else adds or chat == CHAT
    assert {ids.count(tokenizer.bos_token_id) for ids in found} == {int(wanted)}
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in found]
    assert all(text.startswith("[user] ") == (chat is not None) for text in texts)


def test_a_chat_template_is_lm_evals_own(tiny_model, tiny_tokenizer, tiny_data_dir, tmp_path):
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = tiny_model("gqa"), copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = CHAT
    lm = HFLM(model, tokenizer=copy.deepcopy(tokenizer), batch_size=3)
    expected = stock("arc_easy", tiny_data_dir, tmp_path, lm, apply_chat_template=True)
    bench = harness.Bench(model, tokenizer, Evaluation(chat_template=True))
    sums, _ = likelihood.score(model, bench.prepared("arc_easy").batches)
    answers = [answer for sample in expected["samples"] for answer in sample["filtered_resps"]]
    np.testing.assert_allclose(sums, [logprob for logprob, _ in answers], atol=1e-4)


def test_bos_and_chat_template_are_recorded_and_keyed(tiny_model, bare_tokenizer, tiny_data_dir):
    model, values = tiny_model(), {}
    for template in (CHAT, CHAT.replace("[user]", "user:"), CHAT + " "):
        bare_tokenizer.chat_template = template
        for options in ({}, {"bos": True}, {"chat_template": True}, {"chat_template": True, "bos": False}):
            frame = evaluate(model, bare_tokenizer, ["piqa"], settings=Evaluation(**options), progress=False)
            bos = options.get("bos", options.get("chat_template", False))
            assert set(frame.bos) == {bos} and set(frame.chat_template) == {options.get("chat_template", False)}
            values[template, *options] = frame.value.tolist()
    identities = []
    for template in (CHAT, CHAT + " "):
        bare_tokenizer.chat_template = template
        identities.append(harness.Bench(model, bare_tokenizer, Evaluation(chat_template=True)).identity("piqa"))
        identities.append(harness.Bench(model, bare_tokenizer, Evaluation()).identity("piqa"))
    assert identities[0] != identities[2] and identities[1] == identities[3], "a template counts where it is applied"


def test_options_that_a_tokenizer_cannot_follow(tiny_model, tiny_tokenizer, tiny_data_dir):
    with pytest.raises(ValueError, match="chat_template"):
        evaluate(tiny_model(), tiny_tokenizer, ["piqa"], settings=Evaluation(chat_template=True))
    without = copy.deepcopy(tiny_tokenizer)
    without.bos_token = None
    with pytest.raises(ValueError, match="BOS"):
        evaluate(tiny_model(), without, ["piqa"], settings=Evaluation(bos=True))
    for wrong in ({"bos": "yes"}, {"chat_template": "on"}):
        with pytest.raises(ValueError, match="true or false"):
            Evaluation(**wrong)
