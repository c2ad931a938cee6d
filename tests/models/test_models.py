import copy
import json
from functools import partial

import pytest
import safetensors.torch
import torch
from conftest import ARCHITECTURE_CASES
from safetensors.torch import save_file
from transformers import BloomConfig, LlamaConfig, LlamaForCausalLM

import seaplib
from seaplib import hub, models
from seaplib.models import files, identity
from seaplib.runner import checks, parameters

pytestmark = pytest.mark.unit

KINDS = ("mha", "gqa")


@pytest.fixture
def saved(tiny_model, tiny_tokenizer, tmp_path):
    """A directory with a tiny model and its tokenizer."""
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_geometry_counts_every_parameter_of_the_projections(tiny_model, kind, bias):
    model = tiny_model(kind, attention_bias=bias, mlp_bias=bias)
    g = models.geometry(model)
    assert (g.layers, g.hidden, g.heads, g.kv_heads, g.head_dim, g.channels) == (
        2,
        32,
        4,
        4 if kind == "mha" else 2,
        8,
        48,
    )
    assert g.queries_per_group == (1 if kind == "mha" else 2)
    assert g.model_parameters == sum(p.numel() for p in model.parameters())
    assert g.vocabulary == model.get_output_embeddings().weight.shape[0]
    counted = 0
    for name, parameter in model.named_parameters():
        output_bias = name.endswith(("o_proj.bias", "down_proj.bias"))  # never pruned, so not counted
        if "_proj." in name and not output_bias:
            counted += parameter.numel()
    assert g.projection_parameters == counted == models.projection_parameters(model)


def test_geometry_takes_a_head_size_that_is_not_hidden_over_heads(tiny_model):
    g = models.geometry(tiny_model("gqa", head_dim=16))
    assert (g.head_dim, g.heads, g.kv_heads) == (16, 4, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_roles_lead_to_the_projections(tiny_model, kind):
    layer = models.decoder_layers(tiny_model(kind))[0]
    assert models.linear(layer, "o") is layer.self_attn.o_proj
    assert models.linear(layer, "down") is layer.mlp.down_proj
    replacement = torch.nn.Linear(3, 5)
    models.set_linear(layer, "gate", replacement)
    assert layer.mlp.gate_proj is replacement


def test_load_gives_model_and_tokenizer(saved, tiny_model, tiny_tokenizer):
    model, tokenizer = models.load(saved, device="cpu")
    assert not model.training
    assert tokenizer("the otter")["input_ids"] == tiny_tokenizer("the otter")["input_ids"]
    expected = tiny_model().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_a_missing_model_is_refused_by_its_path(tmp_path):
    with pytest.raises(models.ModelError, match="nowhere"):
        models.load(tmp_path / "nowhere")
    with pytest.raises(models.ModelError, match="./nowhere"):
        models.check("./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(models.ModelError, match="config.json"):
        models.check(tmp_path / "empty")


def test_a_damaged_config_is_refused(saved):
    (saved / "config.json").write_text('{"model_type": "llama", ')
    with pytest.raises(models.ModelError, match="config.json"):
        models.check(saved)


def test_impossible_or_unreadable_configurations_are_refused_in_one_line(saved):
    config = json.loads((saved / "config.json").read_text())
    for changes in ({"num_attention_heads": "four"}, {"num_hidden_layers": None}, {"hidden_size": 30}):
        (saved / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(models.ModelError) as raised:
            models.load(saved)
        assert "\n" not in str(raised.value)
    (saved / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(models.ModelError, match="config.json"):
        models.check(saved)


def test_a_missing_tokenizer_is_refused_by_its_file(saved):
    (saved / "tokenizer.json").unlink()
    with pytest.raises(models.ModelError, match="tokenizer.json"):
        models.load(saved)


def test_an_unsupported_architecture_is_refused_by_name_before_its_weights_are_read(tmp_path):
    BloomConfig(n_layer=1, hidden_size=8, n_head=2).save_pretrained(tmp_path)  # a config only: there are no weights
    for refuse in (models.check, models.load):
        with pytest.raises(models.ModelError, match="'bloom' is not supported; supported: .*llama"):
            refuse(tmp_path)


def test_an_unknown_architecture_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "made_up"}))
    with pytest.raises(models.ModelError, match="'made_up' is not supported; supported: .*llama"):
        models.check(tmp_path)


def test_missing_and_unexpected_weights_are_refused(saved):
    file = saved / "model.safetensors"
    weights = safetensors.torch.load(file.read_bytes())  # a copy: the file will be overwritten
    key = "model.layers.1.mlp.up_proj.weight"
    save_file({k: v for k, v in weights.items() if k != key}, file, {"format": "pt"})
    with pytest.raises(models.ModelError, match=key.removeprefix("model.")):
        models.load(saved)
    save_file(weights | {"model.layers.1.mlp.down_proj.bias": torch.zeros(32)}, file, {"format": "pt"})
    with pytest.raises(models.ModelError, match="model.layers.1.mlp.down_proj.bias"):
        models.load(saved)
    save_file(weights | {key: weights[key][:5].clone()}, file, {"format": "pt"})
    with pytest.raises(models.ModelError):
        models.load(saved)


def test_truncated_weights_are_refused(saved):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(models.ModelError, match="safetensors"):
        models.load(saved)


def test_a_sharded_checkpoint_that_is_cut_short_is_refused(tiny_model, tiny_tokenizer, tmp_path):
    tiny_model().save_pretrained(tmp_path, max_shard_size="40KB")
    tiny_tokenizer.save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2 and models.load(tmp_path, device="cpu")
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(models.ModelError, match="safetensors"):
        models.load(tmp_path)
    shards[1].unlink()
    with pytest.raises(models.ModelError, match="safetensors"):
        models.load(tmp_path)


@pytest.mark.parametrize(("weights", "config"), [("qwen2", "llama"), ("llama", "opt"), ("gpt2", "gpt_neox")])
def test_weights_of_another_architecture_are_refused(any_model, tiny_tokenizer, tmp_path, weights, config):
    """Qwen 2's names are Llama's and a few biases more, which transformers would drop."""
    options = {"attention_bias": False, "mlp_bias": False} if config == "llama" else {}
    any_model(config, **options).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    any_model(weights).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").rename(tmp_path / "model.safetensors")
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(models.ModelError, match="self_attn|fc1|attention"):
        models.load(tmp_path)


def test_a_plan_reads_the_sizes_of_every_architecture(any_model, tiny_tokenizer, tmp_path):
    for case in ARCHITECTURE_CASES:
        model = any_model(case)
        model.save_pretrained(tmp_path / case)
        tiny_tokenizer.save_pretrained(tmp_path / case)
        config, g = files.read_config(tmp_path / case), models.geometry(model)
        assert list(files.sizes(config).values()) == [g.layers, g.heads, g.hidden, g.channels], case
        checks._check_sparsity("here", {"sparsities": [0.2], "protect_last": 0}, config)
        with pytest.raises(parameters.PlanError, match="here: "):
            checks._check_sparsity("here", {"sparsities": [0.99], "protect_last": 1}, config)


def test_an_unreachable_hub_is_said_to_be_one():
    error = OSError("We couldn't connect")
    error.__cause__ = ConnectionError("refused")
    assert "cannot be reached" in hub.problem(error)
    assert hub.problem(OSError("a disk that is full")) is None


def test_fingerprint_follows_weights_and_configuration(tiny_model, saved):
    model = tiny_model()
    before = models.fingerprint(model)
    assert models.fingerprint(tiny_model()) == before
    assert models.fingerprint(models.load(saved, device="cpu")[0]) == before, "where a model came from does not matter"
    assert models.fingerprint(tiny_model(seed=1)) != before
    assert models.fingerprint(copy.deepcopy(model).to(torch.bfloat16)) != before
    assert models.fingerprint(tiny_model(rms_norm_eps=1e-3)) != before, "same weights, another function"
    weight = models.linear(models.decoder_layers(model)[1], "v").weight
    with torch.no_grad():
        weight[3, 4] += 1e-3
    assert models.fingerprint(model) != before


@pytest.mark.parametrize("sha_bytes", [0, 2**30])
def test_every_change_in_memory_is_noticed_whatever_the_size(saved, monkeypatch, sha_bytes):
    """A large loaded model was known by its files, so that stored answers outlived its weights."""
    monkeypatch.setattr(identity, "SHA_BYTES", sha_bytes)
    model, _ = models.load(saved, device="cpu")
    seen = {models.fingerprint(model)}
    assert models.fingerprint(models.load(saved, device="cpu")[0]) in seen
    for parameter in list(model.parameters()):
        kept = parameter.detach().clone()
        parameter.data.view(-1)[-1] += 1e-3  # the parameter's version does not count this
        seen.add(models.fingerprint(model))
        parameter.data.copy_(kept)
    assert len(seen) == 1 + len(list(model.parameters())) and models.fingerprint(model) in seen


def test_a_large_model_changed_in_memory_is_measured_anew(saved, tiny_data_dir, monkeypatch):
    monkeypatch.setattr(identity, "SHA_BYTES", 0)
    model, tokenizer = models.load(saved, device="cpu")
    measure = partial(seaplib.perplexity, model, tokenizer, "wikitext2", "flap128", samples=4, progress=False)
    before = measure()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert measure()["nll"].item() != pytest.approx(before["nll"].item(), rel=1e-3)


def test_tokenizer_fingerprint_follows_the_vocabulary(tiny_tokenizer):
    before = models.tokenizer_fingerprint(tiny_tokenizer)
    other = copy.deepcopy(tiny_tokenizer)
    assert models.tokenizer_fingerprint(other) == before
    other.add_tokens(["otters"])
    assert models.tokenizer_fingerprint(other) != before


def test_context_length_is_the_models(tiny_model):
    assert models.context_length(tiny_model(max_position_embeddings=128)) == 128


def test_layers_of_different_width_are_no_dense_model():
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=20
    )
    model = LlamaForCausalLM(config)
    models.set_linear(models.decoder_layers(model)[0], "gate", torch.nn.Linear(16, 20, bias=False))
    with pytest.raises(models.ModelError, match="pruned"):
        models.geometry(model)


def test_damaged_files_and_places_that_do_not_exist_are_one_line(saved):
    for options, said in (({"device": "tpu9"}, "no device 'tpu9'"), ({"dtype": "float99"}, "float99")):
        with pytest.raises(models.ModelError, match=said):
            models.load(saved, **options)
    config = json.loads((saved / "config.json").read_text())
    for change, said in (
        ({"hidden_act": "swoosh"}, "KeyError: 'swoosh'"),
        ({"hidden_size": 64}, "do not have the shapes that config.json says"),
        ({"model_type": ["llama"]}, "is not supported"),
    ):
        (saved / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(models.ModelError, match=said) as raised:
            models.load(saved)
        assert "\n" not in str(raised.value)
    (saved / "config.json").write_text(json.dumps(config))
    (saved / "tokenizer.json").write_text("{}")
    with pytest.raises(models.ModelError, match="damaged"):
        models.load(saved)


def test_a_model_of_random_weights_has_the_shape_asked_for(tiny_model, tiny_tokenizer):
    like = tiny_model().bfloat16()
    made = models.random_llama(tiny_tokenizer, like, layers=3, hidden=128, channels=200)
    shape = models.geometry(made)
    assert (shape.layers, shape.hidden, shape.heads, shape.head_dim, shape.channels) == (3, 128, 2, 64, 200)
    assert made.dtype == torch.bfloat16 and not made.training and made.config.vocab_size == len(tiny_tokenizer)
    again = models.random_llama(tiny_tokenizer, like, layers=3, hidden=128, channels=200)
    assert models.fingerprint(again) == models.fingerprint(made)


def test_plan_and_load_agree_on_which_files_are_read(saved, tmp_path):
    """The plan refused an index left beside whole weights, and passed a missing .bin shard and an adapter's file."""
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    files.read_config(saved)
    assert models.load(saved, device="cpu")
    (saved / "model.safetensors").rename(saved / "adapter_model.safetensors")
    with pytest.raises(models.ModelError, match="lacks model-00001-of-00002"):
        files.read_config(saved)
    (saved / "model.safetensors.index.json").unlink()
    for call in (files.read_config, models.load):
        with pytest.raises(models.ModelError, match="has no weights"):
            call(saved)
    index = {"weight_map": {"lm_head.weight": "pytorch_model-00001-of-00002.bin"}}
    (saved / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(models.ModelError, match="lacks pytorch_model-00001-of-00002"):
        files.read_config(saved)


def test_a_quantised_checkpoint_names_the_package_that_it_needs(saved):
    config = json.loads((saved / "config.json").read_text())
    for method, package in (("hqq", "hqq"), ("compressed-tensors", "compressed-tensors")):
        quantization = {"quantization_config": {"quant_method": method}}
        (saved / "config.json").write_text(json.dumps(config | quantization))
        for call in (files.read_config, models.load):
            with pytest.raises(models.ModelError, match=f"pip install {package}"):
                call(saved)


def test_a_quantised_checkpoint_passes_where_the_package_is_installed(saved, monkeypatch):
    """Packages are known by what pip calls them: scikit-learn is no module."""
    monkeypatch.setitem(files.QUANTIZERS, "mine", "scikit-learn")
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "mine"}}))
    assert files.read_config(saved)["quantization_config"] == {"quant_method": "mine"}


def test_buffers_of_older_checkpoints_are_no_reason_to_refuse(any_model, tiny_tokenizer, tmp_path):
    """GPT-2's causal mask was saved once; transformers makes it anew and says nothing."""
    model = any_model("gpt2")
    model.save_pretrained(tmp_path / "old")
    tiny_tokenizer.save_pretrained(tmp_path / "old")
    weights = safetensors.torch.load_file(tmp_path / "old" / "model.safetensors")
    former = {
        "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
        "transformer.h.1.attn.bias": torch.ones(1, 1, 8, 8),
    }
    save_file(weights | former, tmp_path / "old" / "model.safetensors", {"format": "pt"})
    loaded, _ = models.load(tmp_path / "old", device="cpu")
    assert models.fingerprint(loaded) == models.fingerprint(model)
    save_file(weights | {"transformer.h.0.attn.extra": torch.ones(1)}, tmp_path / "old" / "model.safetensors")
    with pytest.raises(models.ModelError, match="extra"):
        models.load(tmp_path / "old", device="cpu")


def test_a_tokenizer_of_another_model_is_noticed(tiny_model, tiny_tokenizer, recwarn):
    """Larger than the model's, its ids have no place; much smaller, the model's texts may be read wrongly."""
    text = seaplib.corpus(["The otter lives in the river."])
    own, padded = tiny_model(), tiny_model(vocab_size=len(tiny_tokenizer) + 10)
    for model in (own, padded):
        seaplib.collect(model, tiny_tokenizer, text, progress=False)
    assert not [seen for seen in recwarn if "the model's own" in str(seen.message)]
    larger = tiny_model(vocab_size=2 * len(tiny_tokenizer))
    with pytest.warns(UserWarning, match="is it the model's own"):
        seaplib.collect(larger, tiny_tokenizer, text, progress=False)
    with pytest.raises(TypeError, match="tokenizer is one of transformers, got NoneType"):
        seaplib.collect(own, None, text, progress=False)
    with pytest.raises(ValueError, match="has no place"):
        seaplib.collect(tiny_model(vocab_size=40), tiny_tokenizer, text, progress=False)
