"""Timing: the loop generates what transformers does, sizes are counted, and ratios are paired."""

import numpy as np
import pandas as pd
import pytest
import torch

from seaplib.evaluation import speed

pytestmark = pytest.mark.unit


def prompt(model, n: int = 9) -> torch.Tensor:
    return torch.randint(model.config.vocab_size, (1, n), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["mha", "gqa"])
@pytest.mark.parametrize("cache", speed.CACHES)
def test_the_loop_chooses_the_tokens_of_generate(tiny_model, kind, cache):
    model = tiny_model(kind)
    ids = prompt(model)
    model.generation_config.eos_token_id = None
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=13, do_sample=False)
    run = speed.generate(model, ids, 12, cache)
    assert run.tokens == expected[0, 9:].tolist()
    assert run.prefill_seconds > 0 and run.decode_seconds > 0 and np.isnan(run.peak_bytes)
    heads = {"mha": 4, "gqa": 2}[kind]
    assert run.kv_cache_bytes == 2 * 2 * heads * 8 * (9 + 12) * 4  # layers · k, v · heads · head_dim · tokens · bytes


def test_parameter_bytes_count_tied_weights_once(tiny_model):
    model, tied = tiny_model(), tiny_model(tie_word_embeddings=True)
    assert speed.parameter_bytes(model) == sum(p.numel() * 4 for p in model.parameters())
    assert speed.parameter_bytes(model) - speed.parameter_bytes(tied) == model.lm_head.weight.numel() * 4
    assert speed.parameter_bytes(model.half()) * 2 == speed.parameter_bytes(tiny_model())


class Clocked(torch.nn.Module):
    """A model whose every forward pass takes a stated time of a clock that nothing else moves."""

    clock = 0.0

    def __init__(self, model, seconds: float):
        super().__init__()
        self.inner, self.seconds = model, seconds
        self.config, self.device, self.dtype = model.config, model.device, model.dtype

    def get_decoder(self):
        return self.inner.get_decoder()

    def forward(self, **inputs):
        Clocked.clock += self.seconds
        return self.inner(**inputs)


def test_speeds_and_ratios_are_those_of_the_clock(tiny_model, monkeypatch):
    monkeypatch.setattr(speed.time, "perf_counter", lambda: Clocked.clock)
    model = tiny_model()
    models = {"dense": Clocked(model, 0.5), "slow": Clocked(model, 2.0)}
    options = {"prompt_tokens": 8, "new_tokens": 4, "rounds": 3, "warmup": 1, "progress": False}
    frame = speed.compare_speed(models, **options).set_index(["name", "measure"])
    for name, seconds in (("dense", 0.5), ("slow", 2.0)):
        assert frame.at[(name, "decode"), "tokens_per_second"] == pytest.approx(1 / seconds)
        assert frame.at[(name, "prefill"), "tokens_per_second"] == pytest.approx(8 / seconds)
    ratios = frame[["ratio", "ratio_low", "ratio_high"]]
    assert np.allclose(ratios.loc["dense"], 1) and np.allclose(ratios.loc["slow"], 0.25)
    dense = frame.loc[("dense", "decode")]
    assert dense["parameters"] == sum(p.numel() for p in model.parameters())
    assert dense["threads"] == torch.get_num_threads() and dense["rounds"] == 3 and dense["prompt_tokens"] == 8
    for column in ("device", "device_name", "dtype", "cache", "attention", "torch", "transformers", "new_tokens"):
        assert frame[column].notna().all()


def test_rounds_are_interleaved_and_start_with_another_model_each(tiny_model, monkeypatch):
    calls, real = [], speed.generate
    models = {name: tiny_model() for name in "abc"}

    def noted(model, ids, *rest):
        calls.append((model, ids))
        return real(model, ids, *rest)

    monkeypatch.setattr(speed, "generate", noted)
    frame = speed.time_rounds(models, 4, 2, rounds=3, warmup=1, progress=False)
    names = [next(name for name, model in models.items() if model is called) for called, _ in calls]
    assert "".join(names) == "cab" + "abc" + "bca" + "cab"
    prompts = [ids for _, ids in calls]
    assert all(torch.equal(prompts[i], prompts[3 * (i // 3)]) for i in range(12))  # the same for all models
    assert not torch.equal(prompts[3], prompts[6])  # and others in another round
    assert len(frame) == 3 * 3 * 2 and set(frame["round"]) == {0, 1, 2}


def test_ratios_are_those_within_a_round():
    rows = []
    for turn, drift in enumerate((1.0, 0.1, 0.5)):  # a machine that is ten times slower for a while
        for name, factor in (("dense", 1.0), ("pruned", 1.5)):
            row = {"round": turn, "name": name, "measure": "decode", "tokens": 1, "seconds": 1.0}
            rows.append(row | {"tokens_per_second": 100 * drift * factor, "peak_bytes": np.nan})
    frame = speed.compare_speed(pd.DataFrame(rows)).set_index("name")
    assert frame.loc["pruned", ["ratio", "ratio_low", "ratio_high"]].tolist() == pytest.approx([1.5] * 3)
    inverse = speed.compare_speed(pd.DataFrame(rows), reference="pruned").set_index("name")
    assert inverse.at["dense", "ratio"] == pytest.approx(1 / 1.5)


def test_threads_are_those_asked_for_and_given_back(tiny_model, monkeypatch):
    before, seen, real = torch.get_num_threads(), [], speed.generate

    def noted(*arguments):
        seen.append(torch.get_num_threads())
        return real(*arguments)

    monkeypatch.setattr(speed, "generate", noted)
    frame = speed.time_rounds({"dense": tiny_model()}, 4, 1, rounds=1, warmup=0, threads=before + 1, progress=False)
    assert seen == [before + 1] and set(frame["threads"]) == {before + 1}
    assert torch.get_num_threads() == before


def test_impossible_requests_are_refused(tiny_model):
    models = {"dense": tiny_model()}
    with pytest.raises(ValueError, match="256"):
        speed.time_rounds(models, 250, 10)
    with pytest.raises(ValueError, match="static"):
        speed.time_rounds(models, 4, 2, compiled=True)
    with pytest.raises(ValueError, match="statik"):
        speed.generate(models["dense"], prompt(models["dense"]), 2, "statik")
    with pytest.raises(ValueError, match="'dens'"):
        speed.compare_speed(models, "dens", prompt_tokens=4, new_tokens=1, rounds=1, warmup=0, progress=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="counts GPU memory")
def test_peak_memory_is_counted_on_the_gpu(tiny_model):
    model = tiny_model().cuda()
    run = speed.generate(model, prompt(model).cuda(), 4, "static")
    assert run.peak_bytes >= speed.parameter_bytes(model) + run.kv_cache_bytes
