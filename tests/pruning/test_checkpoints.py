import json
import math
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from pruned import in_a_fresh_process
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import seaplib
from seaplib import models
from seaplib.evaluation import accuracy
from seaplib.models.state import state
from seaplib.pruning import checkpoints, masks, selection
from seaplib.pruning.apply import prune

pytestmark = pytest.mark.unit


def random_mask(model, kv_unit="group") -> masks.PruningMask:
    from seaplib.pruning.allocation import uniform
    from seaplib.pruning.scores import Scores

    g = models.geometry(model)
    generator = torch.Generator().manual_seed(0)
    attention = torch.rand(g.layers, g.heads * g.head_dim, generator=generator, dtype=torch.float64)
    channels = torch.rand(g.layers, g.channels, generator=generator, dtype=torch.float64)
    return selection.select(Scores(g, attention, channels, provenance={"score": "s_F"}), uniform(0.45), kv_unit=kv_unit)


def emptied(model) -> masks.PruningMask:
    mask = random_mask(model)
    mask.heads[0] = False
    mask.channels[1] = False
    return mask


def random_means(model) -> dict[str, torch.Tensor]:
    g = models.geometry(model)
    generator = torch.Generator().manual_seed(1)
    return {
        m: torch.randn(g.layers, n, generator=generator)
        for m, n in (("attention", g.heads * g.head_dim), ("mlp", g.channels))
    }


@pytest.fixture
def cases(tiny_model, tmp_path):
    """Name → model, of every kind that can be saved."""
    mha, gqa, biased = tiny_model("mha"), tiny_model("gqa"), tiny_model("gqa", attention_bias=True, mlp_bias=True)
    tied = tiny_model("gqa", tie_word_embeddings=True)
    mha.save_pretrained(
        tmp_path / "mha"
    )  # loaded in half precision, because .to() would cut the rotary frequencies too
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "mha", dtype=torch.bfloat16).eval()
    with torch.no_grad():
        for name, parameter in biased.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(generator=torch.Generator().manual_seed(2))
    means = random_means(gqa)
    return {
        "dense": gqa,
        "zero": prune(gqa, random_mask(gqa), "zero"),
        "mha": prune(mha, random_mask(mha)),
        "gqa": prune(gqa, random_mask(gqa)),
        "query": prune(gqa, random_mask(gqa, "query")),
        "biased": prune(biased, random_mask(biased)),
        "tied": prune(tied, random_mask(tied)),
        "half": prune(half, random_mask(half)),
        "compensated": prune(gqa, random_mask(gqa), "remove", means),
        "zero_compensated": prune(gqa, random_mask(gqa), "zero", means),
        "emptied": prune(gqa, emptied(gqa)),
        "emptied_compensated": prune(gqa, emptied(gqa), "remove", means),
        "emptied_biased": prune(biased, emptied(biased)),
    }


ORDINARY = {"dense", "zero"}  # shapes are the architecture's own: checkpoints like any other
IDS = torch.arange(3, 40).reshape(1, -1)
FROM_CONFIG = """
import json, sys
from transformers import AutoConfig, AutoModelForCausalLM
model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(sys.argv[1]))
from seaplib.pruning import checkpoints
print(json.dumps(checkpoints.projections(model)))
"""


@pytest.fixture
def saved(cases, tiny_tokenizer, tmp_path):
    """Every case in a directory of its own, with its weights and logits beside it."""
    for name, model in cases.items():
        path = checkpoints.save_pretrained(model, tiny_tokenizer, tmp_path / "saved" / name)
        with torch.no_grad():
            logits = model(IDS).logits
        (path / "expected").mkdir()
        state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        save_file(state | {"ids": IDS, "logits": logits.contiguous()}, path / "expected" / "expected.safetensors")
    return tmp_path / "saved"


@pytest.mark.slow
def test_saved_models_load_bit_for_bit_in_a_fresh_process_that_imports_seaplib(saved, cases, tiny_tokenizer):
    """Without it loading fails and says what to import."""
    without, found = in_a_fresh_process(saved)
    assert found == {name: ["loaded", True, tiny_tokenizer("the otter")["input_ids"]] for name in cases}
    for name in cases:
        if name in ORDINARY:
            assert without[name][:2] == ["loaded", True], name
        else:
            assert without[name][0] == "refused", name
            assert "import_seaplib_to_load" in without[name][2]


def test_the_architectures_own_class_refuses_it_too(saved):
    """Naming the class skips the unknown model_type; stock Llama would invent the missing projections."""
    from transformers import LlamaForCausalLM

    refused = set()
    for directory in saved.iterdir():
        kind = json.loads((directory / "config.json").read_text())["model_type"]
        if kind in models.PRUNED_TYPES:
            with pytest.raises(Exception, match="import seaplib"):
                LlamaForCausalLM.from_pretrained(directory)
            refused.add(directory.name)
    assert {"gqa", "compensated", "zero_compensated", "emptied"} <= refused


def test_what_is_written_says_what_it_is(cases, tiny_tokenizer, tmp_path):
    model = cases["compensated"]
    path = checkpoints.save_pretrained(model, tiny_tokenizer, tmp_path / "pruned")
    assert {file.suffix for file in path.rglob("*") if file.is_file()} <= {".json", ".safetensors", ".jinja"}
    config = json.loads((path / "config.json").read_text())
    assert config["model_type"] == "llama_pruned__import_seaplib_to_load"
    assert config["architectures"] == ["PrunedLlamaForCausalLM"]
    assert len(config["projections"]) == 2
    for index, entry in enumerate(config["projections"]):
        for role, (rows, columns, bias) in entry.items():
            module = models.linear(models.decoder_layers(model)[index], role)
            assert (rows, columns) == tuple(module.weight.shape) and bias == (module.bias is not None)
            assert bias == (role in ("o", "down"))
    mask = masks.PruningMask.load(path / "mask")
    assert mask.fingerprint == state(model).mask.fingerprint and mask.provenance["score"] == "s_F"


def test_saving_leaves_the_model_as_it_was(cases, tiny_tokenizer, tmp_path):
    model = cases["emptied_compensated"]
    before, config = models.fingerprint(model), model.config
    checkpoints.save_pretrained(model, tiny_tokenizer, tmp_path / "a")
    assert models.fingerprint(model) == before and model.config is config


@pytest.mark.parametrize("name", ["query", "emptied_compensated"])
def test_a_loaded_model_saves_again_as_it_was(cases, tiny_tokenizer, tmp_path, name):
    first = checkpoints.save_pretrained(cases[name], tiny_tokenizer, tmp_path / "first")
    loaded = AutoModelForCausalLM.from_pretrained(first)
    second = checkpoints.save_pretrained(loaded, tiny_tokenizer, tmp_path / "second")
    a, b = (load_file(path / "model.safetensors") for path in (first, second))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    a, b = (json.loads((path / "config.json").read_text()) for path in (first, second))
    assert a == b


def test_a_loaded_model_generates_like_the_saved_one(cases, tiny_tokenizer, tmp_path):
    for name in ("query", "emptied_compensated"):
        path = checkpoints.save_pretrained(cases[name], tiny_tokenizer, tmp_path / name)
        loaded, _ = models.load(path, device="cpu")
        for cache in ("dynamic", "static"):
            options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "cache_implementation": cache}
            assert torch.equal(loaded.generate(IDS, **options), cases[name].generate(IDS, **options)), (name, cache)


def test_load_refuses_a_checkpoint_that_is_not_whole(cases, tiny_tokenizer, tmp_path):
    path = checkpoints.save_pretrained(cases["compensated"], tiny_tokenizer, tmp_path / "pruned")
    file = path / "model.safetensors"
    whole = file.read_bytes()
    weights = safetensors.torch.load(whole)  # a copy: the file will be overwritten

    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(models.ModelError, match="pruned"):
        models.load(path)

    bias = "model.layers.1.self_attn.o_proj.bias"
    save_file({key: tensor for key, tensor in weights.items() if key != bias}, file, {"format": "pt"})
    with pytest.raises(models.ModelError, match=bias):
        models.load(path)

    save_file(weights | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(3)}, file, {"format": "pt"})
    with pytest.raises(models.ModelError, match="model.layers.0.self_attn.q_proj.bias"):
        models.load(path)

    file.unlink()
    with pytest.raises(models.ModelError, match="pruned"):
        models.load(path)

    file.write_bytes(whole)
    assert models.load(path, device="cpu")[0].training is False


def test_a_config_of_other_shapes_is_refused(cases, tiny_tokenizer, tmp_path):
    path = checkpoints.save_pretrained(cases["mha"], tiny_tokenizer, tmp_path / "pruned")
    config = json.loads((path / "config.json").read_text())
    config["projections"][0]["up"][0] += 1
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(models.ModelError):
        models.load(path)


@pytest.mark.slow
def test_a_pruned_checkpoint_is_known_by_its_config_alone(cases, tiny_tokenizer, tmp_path):
    """config.json alone gives a model of the recorded shapes, in a process that has made no such class before."""
    path = checkpoints.save_pretrained(cases["mha"], tiny_tokenizer, tmp_path / "pruned")
    assert models.check(path).projections == checkpoints.projections(cases["mha"])
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(path / "config.json", alone)
    assert isinstance(AutoConfig.from_pretrained(alone), checkpoints.PrunedConfig)
    mine = tmp_path / "mine"  # a package that imports seaplib, started by -m
    mine.mkdir()
    (mine / "__init__.py").write_text("import seaplib\n")
    (mine / "go.py").write_text(FROM_CONFIG)
    command = [sys.executable, "-m", "mine.go", str(alone)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == checkpoints.projections(cases["mha"])
    (path / "model.safetensors").unlink()
    with pytest.raises(models.ModelError, match="safetensors"):
        models.check(path)


def test_a_loaded_pruned_model_is_not_pruned_again(cases, tiny_tokenizer, tmp_path):
    path = checkpoints.save_pretrained(cases["emptied"], tiny_tokenizer, tmp_path / "pruned")
    model, _ = models.load(path, device="cpu")
    with pytest.raises(ValueError, match="already pruned"):
        prune(model, random_mask(cases["dense"]))


NAMES = ("zero", "mha", "gqa", "tied", "compensated", "zero_compensated", "emptied", "emptied_compensated")


@pytest.mark.parametrize("name", NAMES)
def test_transformers_own_saving_writes_what_loads(cases, tmp_path, name):
    """The reflex of everyone who knows transformers, and Trainer's; gaps were filled at random, biases vanished."""
    model = cases[name]
    model.save_pretrained(tmp_path / "first")
    for place in ("first", "second"):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / place).eval()
        with torch.no_grad():
            assert torch.equal(loaded(IDS).logits, model(IDS).logits)
        assert models.fingerprint(loaded) == models.fingerprint(model)
        loaded.save_pretrained(tmp_path / "second")
    if name not in ORDINARY:
        from transformers import LlamaForCausalLM

        with pytest.raises(Exception, match="import seaplib"):
            LlamaForCausalLM.from_pretrained(tmp_path / "second")


def test_trainers_checkpoint_of_a_pruned_model_loads(cases, tmp_path):
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(tmp_path / "trained", max_steps=2, save_steps=2, report_to=[], use_cpu=True)
    rows = [{"input_ids": IDS[0], "labels": IDS[0]}] * 4
    model = cases["emptied_compensated"]
    before = models.fingerprint(model)
    Trainer(model=model, args=arguments, train_dataset=rows).train()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "trained" / "checkpoint-2")
    assert models.fingerprint(loaded) == models.fingerprint(model) != before


def test_what_acts_on_the_fly_is_not_saved_without_a_word(cases, tmp_path):
    model = cases["dense"]
    masked = prune(model, random_mask(model), "mask")
    with pytest.raises(ValueError, match="mask"):
        masked.save_pretrained(tmp_path / "lost")
    plan = seaplib.sparsity_plan(model, seaplib.InputSparsity("2:4"))
    with seaplib.sparsified(model, plan), pytest.raises(ValueError, match="sparse"):
        model.save_pretrained(tmp_path / "lost")
    model.save_pretrained(tmp_path / "kept")
    assert not (tmp_path / "lost").exists() and (tmp_path / "kept" / "config.json").exists()


@pytest.mark.parametrize("name", ["zero", "gqa", "emptied"])
def test_a_checkpoint_remembers_that_it_was_pruned(cases, tiny_tokenizer, tmp_path, name):
    """A zeroed one was evaluated as dense, with sparsity 0; a cut one had no sparsity at all."""
    model = cases[name]
    loaded, _ = models.load(checkpoints.save_pretrained(model, tiny_tokenizer, tmp_path / "pruned"), device="cpu")
    assert accuracy.label_of(loaded) == accuracy.label_of(model)
    label = accuracy.label_of(loaded)
    assert label["method"] == "pruned" and label["score"] == "s_F" and label["allocation"] == "uniform"
    assert label["achieved_sparsity"] == pytest.approx(state(model).mask.achieved) and not math.isnan(
        label["achieved_model_sparsity"]
    )
    with pytest.raises(ValueError, match="already pruned"):
        prune(loaded, random_mask(cases["dense"]))


def test_a_checkpoint_that_is_equally_wide_everywhere_is_not_pruned_again(cases, tiny_tokenizer, tmp_path):
    mask = masks.keep_all(models.geometry(cases["dense"]))
    mask.channels[:, ::2] = False
    path = checkpoints.save_pretrained(prune(cases["dense"], mask), tiny_tokenizer, tmp_path / "even")
    loaded, _ = models.load(path, device="cpu")
    with pytest.raises(ValueError, match="already pruned"):
        prune(loaded, random_mask(loaded))


UNPICKLED = """
import pickle, sys, torch
model = pickle.load(open(sys.argv[1], "rb"))
again = torch.load(sys.argv[2], weights_only=False)
ids = torch.arange(3, 40).reshape(1, -1)
with torch.no_grad():
    print("RESULT", torch.equal(model(ids).logits, again(ids).logits), type(model).__name__)
"""


@pytest.mark.slow
def test_a_reloaded_model_can_be_pickled(cases, tiny_tokenizer, tmp_path):
    path = checkpoints.save_pretrained(cases["emptied"], tiny_tokenizer, tmp_path / "pruned")
    model, _ = models.load(path, device="cpu")
    files = tmp_path / "model.pickle", tmp_path / "model.pt"
    files[0].write_bytes(pickle.dumps(model))
    torch.save(model, files[1])
    command = [sys.executable, "-c", UNPICKLED, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "RESULT True PrunedLlamaForCausalLM" in done.stdout, done.stderr


def test_a_prompt_in_chunks_fills_a_static_cache_of_layers_that_differ(cases):
    """The cache was made for the configuration's heads, and its slices did not fit."""
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "attention_mask": torch.ones_like(IDS)}
    expected = cases["zero"].generate(IDS, **options)
    for chunk in (None, 8):
        cached = {"cache_implementation": "static", "prefill_chunk_size": chunk}
        assert torch.equal(cases["gqa"].generate(IDS, **options, **cached), expected)
    with pytest.raises(ValueError, match="equally wide"):
        cases["gqa"].generate_batch([[3, 4]])


def test_a_class_of_ones_own_can_be_cut_and_refuses_to_be_saved(tiny_model, tiny_tokenizer, tmp_path):
    model = tiny_model()
    model.__class__ = type("Mine", (type(model),), {})
    cut = prune(model, random_mask(model))
    with torch.no_grad():
        torch.testing.assert_close(cut(IDS).logits, prune(model, random_mask(model), "zero")(IDS).logits)
    for save in (cut.save_pretrained, lambda path: checkpoints.save_pretrained(cut, tiny_tokenizer, path)):
        with pytest.raises(ValueError, match="Mine cannot be saved"):
            save(tmp_path / "lost")


def test_a_prefix_of_equal_layers_is_refused_in_a_line(cases, tiny_model):
    """peft's prefix tuning gives every layer as many KV heads as the configuration says; LoRA trains a pruned model."""
    from peft import PrefixTuningConfig, get_peft_model

    tuned = get_peft_model(cases["gqa"], PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ValueError, match=r"KV heads for layer .* \(use LoRA\)"):
        tuned(input_ids=torch.tensor([[3, 4, 5]]))
    dense = get_peft_model(tiny_model("gqa"), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    assert dense(input_ids=torch.tensor([[3, 4, 5]])).logits.isfinite().all(), "peft itself works"
