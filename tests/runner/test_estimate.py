"""Estimates against measurements: parameters exactly, activations and operations on models that fit here."""

import json
import socket
import weakref
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import ARCHITECTURE_CASES
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

import seaplib
from seaplib import models, paths
from seaplib.activations import capture, covariances
from seaplib.models import shapes
from seaplib.pruning import methods
from seaplib.runner import estimate, run, workload
from seaplib.runner import plan as profiles
from seaplib.runner.parameters import PlanError

pytestmark = pytest.mark.unit

PARAMETERS = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
}


@pytest.mark.parametrize("name", shapes.PUBLISHED)
def test_published_shapes_have_the_published_number_of_parameters(name):
    g = estimate.geometry(shapes.PUBLISHED[name])
    assert g.model_parameters == PARAMETERS[name]
    embeddings = g.vocabulary * g.hidden * (1 if shapes.PUBLISHED[name]["tie_word_embeddings"] else 2)
    norms = (2 * g.layers + 1) * g.hidden
    assert g.projection_parameters + embeddings + norms == PARAMETERS[name]


@pytest.mark.parametrize("case", ARCHITECTURE_CASES)
def test_a_shape_from_a_configuration_is_the_models_and_its_bytes_are_exact(any_model, tmp_path, case):
    model = any_model(case)
    model.config.save_pretrained(tmp_path)
    g = estimate.geometry(json.loads((tmp_path / "config.json").read_text()))
    assert g == models.geometry(model)
    assert g.model_parameters * 4 == sum(p.numel() * p.element_size() for p in model.parameters())


def small(**changes) -> LlamaForCausalLM:
    options = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 3, "num_attention_heads": 8}
    options |= {"num_key_value_heads": 8, "vocab_size": 128, "max_position_embeddings": 512}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**options | changes)).eval()


def peak(work) -> int:
    """Bytes that ``work`` allocates at its worst moment beyond those there before, by the CPU's allocator."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = highest = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


WIDTHS = {torch.float32: 4, torch.bfloat16: 2}
#: long MLP, as everywhere; grouped queries; attention larger than the MLP
SHAPES = {"mha": {}, "gqa": {"num_key_value_heads": 2}, "attention": {"intermediate_size": 256}}


@pytest.mark.parametrize("dtype", WIDTHS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_activations_of_a_batch_are_within_15_percent_of_what_is_measured(shape, dtype):
    model = small(**SHAPES[shape]).to(dtype)
    g, ids = models.geometry(model), torch.randint(0, 128, (16, 128))
    decoder = models.decoder(model)
    with torch.inference_mode():
        decoder(input_ids=ids, use_cache=False)  # what is made once, is
        measured = peak(lambda: decoder(input_ids=ids, use_cache=False))
    predicted = estimate.activation_bytes(g, ids.numel(), WIDTHS[dtype])
    assert 0.85 < predicted / measured < 1.15, (predicted, measured)


@pytest.mark.parametrize("dtype", WIDTHS, ids=str)
def test_activations_while_statistics_are_taken(dtype):
    model = small().to(dtype)
    g, ids = models.geometry(model), torch.randint(0, 128, (16, 128))
    mask = torch.ones_like(ids)
    mask[:, 100:] = 0

    def measure():
        with torch.inference_mode(), capture.capture(model):
            models.decoder(model)(input_ids=ids, attention_mask=mask, use_cache=False)

    measure()
    predicted, measured = estimate.activation_bytes(g, ids.numel(), WIDTHS[dtype], statistics=True), peak(measure)
    assert 0.85 < predicted / measured < 1.15, (predicted, measured)


class Live(TorchDispatchMode):
    """Bytes of the tensors alive at once that operations have made, on a device that holds none (meta)."""

    def __init__(self):
        super().__init__()
        self.tensors, self.held, self.highest = Counter(), 0, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.tensors[storage._cdata] += 1
                if self.tensors[storage._cdata] == 1:
                    self.held += storage.nbytes()
                weakref.finalize(tensor, self.gone, storage._cdata, storage.nbytes())
        self.highest = max(self.highest, self.held)
        return result

    def gone(self, storage: int, size: int) -> None:
        self.tensors[storage] -= 1
        if not self.tensors[storage]:
            self.held -= size


@pytest.mark.parametrize("name", ["meta-llama/Llama-2-13b-hf", "meta-llama/Llama-2-70b-hf"])
def test_activations_of_large_shapes_on_the_meta_device(name):
    """Two layers are enough: nothing of a layer outlives it but the stream."""
    config = AutoConfig.for_model(**shapes.PUBLISHED[name] | {"num_hidden_layers": 2})
    with torch.device("meta"), torch.inference_mode():
        model = LlamaForCausalLM(config).bfloat16().eval()
        ids = torch.ones(4, 2048, dtype=torch.long)
        mask = torch.zeros(4, 1, 2048, 2048, dtype=torch.bfloat16)  # otherwise its values are looked at
        with Live() as live:
            models.decoder(model)(input_ids=ids, attention_mask=mask, use_cache=False)
    predicted = estimate.activation_bytes(estimate.geometry(shapes.PUBLISHED[name]), ids.numel(), 2)
    assert 0.85 < predicted / live.highest < 1.15, (predicted, live.highest)


def test_statistics_and_cache_bytes_are_those_of_the_objects(tiny_model, tiny_tokenizer, tmp_path):
    model = tiny_model("gqa")
    file = tmp_path / "mine.csv"
    file.write_text("question,answer\nWhich animal?,the otter\nA kettle?,boils water\n")
    stats = seaplib.collect(model, tiny_tokenizer, seaplib.corpus(file), progress=False)
    held = sum(t.numel() * t.element_size() for name in stats.TENSORS for t in getattr(stats, name).values())
    assert held == estimate.statistics_bytes(models.geometry(model), corpora=1)
    with torch.inference_mode():
        cache = model(torch.ones(1, 7, dtype=torch.long), use_cache=True).past_key_values
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert held == estimate.kv_bytes(models.geometry(model), 7, 4)


def test_operations_of_the_projections_and_the_head_are_counted_exactly():
    model = small()
    g, ids = models.geometry(model), torch.randint(0, 128, (4, 50))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(ids, use_cache=False)
    of = counter.get_flop_counts()["Global"]
    products = sum(count for kind, count in of.items() if "mm" in str(kind) and "bmm" not in str(kind))
    predicted = estimate.flops(g, workload.Pass(("x",), ids.numel(), length=0, head=1.0))
    # rotary embedding's own product: one multiply-add per position and frequency
    assert products == pytest.approx(predicted, rel=1e-3)


def plan_of(profile: str) -> dict[str, profiles.Notebook]:
    return {notebook.name: notebook for notebook in profiles.load(profile).notebooks}


def test_every_notebook_has_a_rule():
    for notebook in plan_of("llama_2_7b").values():
        assert workload.passes(notebook.name, notebook.parameters | {"layers": 32}) is not None, notebook.name


def test_zero_shot_counts_every_variant_and_task():
    p = plan_of("llama_2_7b")["06_zero_shot"].parameters
    found = [one for one in workload.passes("06_zero_shot", p) if one.key[0] == "items"]
    main = methods.PAPER + methods.CONTROLS
    recipes = len(p["seeds"]) * len(main) * len(p["sparsities"])
    varied = {*methods.COMPENSATED, *methods.UNPROTECTED, *methods.FLOOR}
    recipes += len(varied) * len(p["sparsities"])
    assert len(found) == len(p["tasks"]) * (1 + recipes) == len({one.key for one in found})
    beyond = plan_of("llama_2_7b")["19_beyond_the_paper"].parameters
    plain, refits = (workload.passes("19_beyond_the_paper", beyond | {"least_squares": on}) for on in (False, True))
    assert len([one for one in refits if one.key[0] == "items"]) > len([one for one in plain if one.key[0] == "items"])
    assert {one.key[1] for one in refits if one.key[0] == "covariances"} >= {"piqa", p["general"]}
    assert sum(one.key[2] for one in found if one.key[3] == "dense") == 1267 + 500 + 10042 + 1838 + 1172 + 2376 + 3270
    masked = workload.passes("06_zero_shot", p | {"mode": "mask"})
    assert {one.kept for one in masked} == {1.0} and {one.kept for one in found} == {1.0, 0.8, 0.5}


STUDIES = (
    "13_expert_transfer",
    "14_expert_or_general",
    "15_synthetic_text",
    "16_calibration_size",
    "17_logistic_curve",
)


def test_studies_count_every_mask_and_share_their_calibration():
    plan = plan_of("llama_2_7b")
    found = {name: workload.passes(name, plan[name].parameters | {"layers": 32}) for name in STUDIES}
    tasks, seeds = 5, 5
    items = {name: len([one for one in works if one.key[0] == "items"]) for name, works in found.items()}
    assert items == {
        "13_expert_transfer": tasks * (1 + seeds * (5 + 1 + 2)),
        "14_expert_or_general": tasks * seeds * 10,
        "15_synthetic_text": tasks * seeds * 4,
        "16_calibration_size": tasks * (1 + seeds * 5),
        "17_logistic_curve": tasks * (1 + 9 * 2 + seeds * 32),
    }
    first, second, _, _, last = ({one.key for one in works if one.key[0] == "statistics"} for works in found.values())
    assert last < first < second
    (dense,) = ({one.key for one in found[name] if one.key[-1] == "dense"} for name in STUDIES[:1])
    assert dense <= {one.key for one in found["16_calibration_size"]}
    for name in STUDIES:
        assert workload.copies(name, plan[name].parameters) == (1.0 if name == "17_logistic_curve" else 0.5)
        assert workload.copies(name, plan[name].parameters | {"mode": "mask"}) == 0.0


def test_work_that_the_store_keeps_is_counted_once():
    plan = plan_of("llama_2_7b")
    four, six = (plan[name] for name in ("04_pruning", "06_zero_shot"))
    both = estimate.report(profiles.load("llama_2_7b"), [four, six])
    alone = estimate.report(profiles.load("llama_2_7b"), [six])
    assert f"Most memory in {six.name}: " in alone  # the first is named too
    tokens = [next(line.split()[1] for line in text.splitlines() if line.startswith("06_")) for text in (both, alone)]
    assert float(tokens[0]) <= float(tokens[1])
    shared = {one.key for one in workload.passes(four.name, four.parameters)}
    assert shared & {one.key for one in workload.passes(six.name, six.parameters)}


def test_tasks_whose_sizes_are_guessed_are_named():
    six = plan_of("llama_2_7b")["06_zero_shot"]
    assert "Not measured" not in estimate.report(profiles.load("llama_2_7b"), [six])
    asked = {"tasks": ["piqa", "sciq"], "general": "mine"}
    text = estimate.report(profiles.load("llama_2_7b"), [replace(six, parameters=six.parameters | asked)])
    guessed = next(line for line in text.splitlines() if line.startswith("Not measured"))
    assert guessed.endswith(": sciq, mine") and f"{workload.UNKNOWN.items} items" in guessed


def test_memory_of_the_speed_notebook_grows_with_its_models():
    notebook = plan_of("llama_2_7b")["09_inference_speed"]
    g = estimate.geometry(shapes.PUBLISHED["meta-llama/Llama-2-7b-hf"])
    found = workload.passes(notebook.name, notebook.parameters)
    memory = estimate.memory(g, notebook, found, 2, estimate.DEVICES["H100"])
    assert memory.weights == 2 * g.model_parameters
    assert memory.copies == pytest.approx((1 + 3 * 0.5) * 2 * g.projection_parameters)
    assert memory.total == sum(vars(memory).values()) < 80 * estimate.GIB


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("SEAP_DATA_DIR", raising=False)


@pytest.mark.parametrize("profile", ["llama_2_7b", "llama_2_13b", "llama_3_8b", "qwen2_5_0_5b", "smollm2_135m"])
def test_dry_run_prints_the_estimate_without_a_network(no_network, profile, capsys):
    from seaplib import __main__

    assert __main__.main(["reproduce", "--profile", profile, "--dry-run", "--gpu", "a100"]) == 0
    said = capsys.readouterr().out
    model = profiles.load(profile).notebooks[0].parameters["model"]
    assert f"Estimate: {model}, {PARAMETERS[model]:,} parameters" in said and "NVIDIA A100" in said
    assert "hellaswag" in said and "mmlu" in said and "Most memory in" in said
    total = next(line.split() for line in said.splitlines() if line.startswith("all "))
    assert float(total[1]) > 1e5 and float(total[2]) > 1e13 and float(total[-1]) > 0


def test_an_unknown_device_is_one_line(no_network, capsys):
    from seaplib import __main__

    assert __main__.main(["reproduce", "--profile", "llama_2_7b", "--dry-run", "--gpu", "H10"]) == 2
    error = capsys.readouterr().err
    assert "there is no device 'H10'; did you mean 'H100'?" in error and error.count("\n") == 1


def test_the_bundled_model_has_no_estimate():
    ledger, chosen, _ = run.prepare("embedded", dry=True)
    assert run.estimate(ledger, chosen) == ""


def test_the_store_takes_what_was_estimated(tiny_model, tiny_tokenizer, tiny_data_dir):
    model = tiny_model("gqa", hidden_size=64, intermediate_size=400)
    calibration = seaplib.Calibration(samples=4)
    seaplib.calibrate(model, tiny_tokenizer, ["piqa", "wikitext2"], calibration)
    covariances.calibrate(model, tiny_tokenizer, ["piqa"], calibration)
    files = [file for file in paths.store_dir().rglob("*.safetensors")]
    found = [workload.Pass(("statistics", "piqa")), workload.Pass(("statistics", "wikitext2"))]
    found += [workload.Pass(("covariances", "piqa"))] * 2  # asked for twice, stored once
    taken = sum(file.stat().st_size for file in files)
    assert estimate.stored_bytes(models.geometry(model), found) == pytest.approx(taken, rel=0.1)


def test_a_full_disk_is_found_before_the_run(monkeypatch):
    plan = profiles.load("llama_2_7b")
    known = estimate.store_bytes(plan, list(plan.notebooks))
    assert 1e9 < known < 1e11 and estimate.store_bytes(profiles.load("smoke"), list(plan.notebooks)[:0]) == 0
    monkeypatch.setattr(run.checks, "check", lambda plan, dry: plan)
    monkeypatch.setattr(run.disk.shutil, "disk_usage", lambda folder: SimpleNamespace(free=int(known) // 2))
    with pytest.raises(PlanError, match="MiB are free"):
        run.reproduce("llama_2_7b")
