"""Experts of one dense model: bit for bit the separately pruned ones, within their memory, without drift or leak."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from conftest import ARCHITECTURE_CASES
from pruned import EXPERTS, PROMPTS, mask_of, masks_of, router_of

import seaplib
from seaplib import models, settings
from seaplib.activations import covariances
from seaplib.evaluation import generation
from seaplib.experts import cache as expert_cache
from seaplib.experts import variants
from seaplib.experts.model import ExpertModel
from seaplib.experts.router import GENERAL
from seaplib.pruning import methods
from seaplib.pruning.baselines import griffin

pytestmark = pytest.mark.unit


@pytest.fixture
def experts(tiny_model, tiny_tokenizer):
    model = tiny_model("gqa")
    return ExpertModel(model, tiny_tokenizer, masks_of(model), router_of(model, tiny_tokenizer))


def batch(tokenizer, texts=PROMPTS):
    return tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", return_token_type_ids=False)


def tensors() -> int:
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


def state(model) -> dict:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("case", ARCHITECTURE_CASES)
def test_outputs_are_those_of_separately_pruned_models_bit_for_bit(any_model, tiny_tokenizer, case):
    model = any_model(case)
    experts = ExpertModel(model, tiny_tokenizer, masks_of(model), router_of(model, tiny_tokenizer))
    inputs, named = batch(tiny_tokenizer), ["winogrande", GENERAL, "winogrande", "dense"]
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    with torch.no_grad():
        logits = experts(**inputs, experts=named).logits
        written = experts.generate(**inputs, experts=named, **options)
        for name in dict.fromkeys(named):
            rows = [place for place, one in enumerate(named) if one == name]
            alone = model if name == "dense" else seaplib.prune(model, experts.masks[name], mode="remove")
            part = {key: value[rows] for key, value in inputs.items()}
            assert torch.equal(alone(**part).logits, logits[rows])
            assert torch.equal(alone.generate(**part, **options), written[rows])


def test_what_is_done_to_the_dense_model_tells_the_experts_apart(tiny_model, tiny_tokenizer):
    model = tiny_model("gqa")
    experts = ExpertModel(model, tiny_tokenizer, masks_of(model), router_of(model, tiny_tokenizer))
    before = models.fingerprint(experts)
    with griffin.griffin(model, 16):
        assert models.fingerprint(experts) != before
    assert models.fingerprint(experts) == before


@pytest.mark.parametrize("case", ARCHITECTURE_CASES)
@pytest.mark.parametrize("compensated", [False, True])
def test_bytes_foreseen_are_the_bytes_of_the_parameters(any_model, tiny_tokenizer, case, compensated):
    model = any_model(case)
    g = models.geometry(model)
    chosen = masks_of(model)
    chosen["emptied"] = mask_of(model, 9)
    chosen["emptied"].heads[0], chosen["emptied"].channels[1] = False, False
    chosen["whole layers"] = mask_of(model, 9)
    chosen["whole layers"].heads[0], chosen["whole layers"].channels[0] = True, True
    mean = {"attention": torch.ones(g.layers, g.heads * g.head_dim), "mlp": torch.ones(g.layers, g.channels)}
    cache = expert_cache.ExpertCache(model, chosen, None, dict.fromkeys(chosen, mean) if compensated else None)
    for name in chosen:
        cache.clear()
        cache[name]
        assert cache.held_bytes == cache.sizes[name] == expert_cache.own_bytes(model, chosen[name], compensated)


def test_what_no_mask_touches_is_shared_with_the_dense_model(experts):
    own = {p.data_ptr() for p in experts.dense.parameters()}
    for name in EXPERTS:
        pruned = experts.expert(name)
        assert pruned.get_input_embeddings().weight.data_ptr() in own
        assert pruned.get_output_embeddings().weight.data_ptr() in own
        norms = [p for key, p in pruned.named_parameters() if "norm" in key]
        assert norms and all(p.data_ptr() in own for p in norms)


def test_memory_stays_within_its_budget_and_the_least_recently_used_goes(experts):
    cache = experts.cache
    assert cache.budget_bytes == sum(cache.sizes.values()) == cache.room(0) == cache.room(3)
    assert cache.room(1) == max(cache.sizes.values())
    two = max(cache.sizes[a] + cache.sizes[b] for a in EXPERTS for b in EXPERTS if a != b)
    cache.budget_bytes = two
    for name in ("piqa", "winogrande", "piqa", GENERAL, "piqa", "winogrande"):
        experts.expert(name)
        assert cache.held_bytes <= cache.budget_bytes and cache.held[-1] == name
        assert cache.held_bytes == sum(cache.sizes[one] for one in cache.held)
    assert cache.built == {"piqa": 1, "winogrande": 2, GENERAL: 1}
    cache.budget_bytes = max(cache.sizes.values())
    assert cache.held == ["winogrande"]
    with pytest.raises(ValueError, match="10 bytes"):
        cache.budget_bytes = 10
    assert cache.budget_bytes == max(cache.sizes.values())


def test_a_mixed_batch_uses_what_is_in_memory_before_it_makes_room(experts, tiny_tokenizer):
    experts.cache.budget_bytes = max(experts.cache.sizes.values())
    experts.expert("winogrande")
    with torch.no_grad():
        experts(**batch(tiny_tokenizer), experts=["piqa", "winogrande", "piqa", "winogrande"])
    assert experts.cache.built == {"winogrande": 1, "piqa": 1}


@pytest.mark.slow
def test_a_hundred_switches_leave_no_drift_and_no_leak(experts, tiny_tokenizer):
    experts.cache.budget_bytes = max(experts.cache.sizes.values())
    before, inputs, gone = state(experts.dense), batch(tiny_tokenizer), []
    with torch.no_grad():
        first = {name: experts(**inputs, experts=name).logits for name in EXPERTS}
        gc.collect()
        alive = tensors()
        for turn in range(102):
            name = EXPERTS[turn % 3]
            assert torch.equal(experts(**inputs, experts=name).logits, first[name])
            gone.append(weakref.ref(experts.expert(name)))
    gc.collect()
    assert sum(experts.cache.built.values()) >= 102 and experts.cache.held == [EXPERTS[101 % 3]]
    assert sum(one() is not None for one in gone) == 1, "one expert is in memory, and nothing of the others"
    assert tensors() <= alive
    after = experts.dense.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_the_router_decides_row_by_row_and_may_be_overruled(experts, tiny_tokenizer):
    inputs = batch(tiny_tokenizer)
    chosen = experts.choose(PROMPTS)
    assert set(chosen) == set(EXPERTS[:2]), "both, or the test says nothing"
    with torch.no_grad():
        routed = experts(**inputs).logits
        assert torch.equal(routed, experts(**inputs, experts=chosen).logits)
        with experts.using("piqa"):
            assert torch.equal(experts(**inputs).logits, experts.expert("piqa")(**inputs).logits)
            assert torch.equal(experts(**inputs, experts=chosen).logits, routed)
        assert torch.equal(experts(**inputs).logits, routed)
    careful = ExpertModel(experts.dense, tiny_tokenizer, experts.masks, experts.router.at(1.0))
    assert careful.choose(PROMPTS) == [GENERAL] * 4 and careful.choose(["", "<s>"]) == [GENERAL] * 2


def test_a_cache_stays_with_its_expert(experts, tiny_tokenizer):
    from transformers import DynamicCache

    ids = tiny_tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        for name in EXPERTS:
            past = DynamicCache(config=experts.config)
            experts(ids[:, :-2], past_key_values=past, experts=name)
            for place in (-2, -1):  # the router would name another one for these
                step = experts(ids[:, place, None], past_key_values=past).logits
            whole = experts.expert(name)(ids).logits
            torch.testing.assert_close(step[:, -1], whole[:, -1], rtol=1e-4, atol=1e-5)
        with pytest.raises(ValueError, match="piqa"):
            experts(ids.repeat(2, 1), experts=["piqa", GENERAL], past_key_values=DynamicCache(config=experts.config))
        foreign = DynamicCache(config=experts.config)
        experts.dense(ids, past_key_values=foreign)
        with pytest.raises(ValueError, match="cache"):
            experts(ids, past_key_values=foreign)


def test_generation_returns_every_prompt_in_order_and_pads_on_the_right(experts, tiny_tokenizer):
    inputs, named = batch(tiny_tokenizer), [GENERAL, "piqa", GENERAL, "piqa"]
    stop = int(experts.expert("piqa")(**{k: v[1:2] for k, v in inputs.items()}).logits[0, -1].argmax())
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": stop, "pad_token_id": 0}
    both = experts.generate(**inputs, experts=named, num_return_sequences=2, num_beams=2, **options)
    assert len(both) == 8
    for place, name in enumerate(named):
        rows = [i for i, one in enumerate(named) if one == name]
        part = {key: value[rows] for key, value in inputs.items()}
        alone = experts.expert(name).generate(**part, num_return_sequences=2, num_beams=2, **options)
        mine = alone.unflatten(0, (len(rows), 2))[rows.index(place)]
        assert torch.equal(both[2 * place : 2 * place + 2, : mine.shape[1]], mine)
        assert not both[2 * place : 2 * place + 2, mine.shape[1] :].any()


def test_saved_and_loaded_it_is_the_same(experts, tiny_tokenizer, tmp_path):
    seaplib.save_pretrained(experts.dense, tiny_tokenizer, tmp_path / "dense")
    model, tokenizer = seaplib.load(tmp_path / "dense")
    g = experts.cache.masks["piqa"].geometry
    mean = {"attention": torch.rand(g.layers, g.heads * g.head_dim), "mlp": torch.rand(g.layers, g.channels)}
    budget = 2 * max(experts.cache.sizes.values())
    router, about = experts.router.at(0.61), {"made": "here"}
    made = ExpertModel(model, tokenizer, experts.masks, router, budget, {"piqa": mean}, about)
    made.save(tmp_path / "experts")
    assert not list((tmp_path / "experts").rglob("*.bin")) and not list((tmp_path / "experts").rglob("*.pkl"))
    again, inputs = ExpertModel.load(tmp_path / "experts"), batch(tiny_tokenizer)
    assert again.fingerprint == made.fingerprint and again.provenance == {"made": "here"}
    assert again.cache.budget_bytes == budget and again.router.threshold == 0.61
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, made(**inputs).logits)
        assert torch.equal(again(**inputs, experts="piqa").logits, made(**inputs, experts="piqa").logits)
        assert not torch.equal(again(**inputs, experts="piqa").logits, experts(**inputs, experts="piqa").logits)
    with pytest.raises(ValueError, match="weights"):
        ExpertModel.load(tmp_path / "experts", model.to(torch.bfloat16), tokenizer)
    halved = ExpertModel.load(tmp_path / "experts", model, tokenizer, verify=False)
    assert halved.cache.sizes["piqa"] * 2 == again.cache.sizes["piqa"]
    with pytest.raises(FileNotFoundError, match="experts.json"):
        ExpertModel.load(tmp_path / "dense")


def test_least_squares_compensation_is_saved_too(experts, tiny_tokenizer, tmp_path):
    corpus = seaplib.Corpus("mine", ("a b c d e f", "b d f a c e", "c c d a"), ("0", "1", "2"), {})
    spread = covariances.collect(experts.dense, tiny_tokenizer, corpus, progress=False)
    budget = 2 * max(experts.cache.sizes.values())
    g = experts.masks["piqa"].geometry
    mean = {"attention": torch.rand(g.layers, g.heads * g.head_dim), "mlp": torch.rand(g.layers, g.channels)}
    for compensated in (mean, spread):  # the second save leaves nothing of the first
        made = ExpertModel(experts.dense, tiny_tokenizer, experts.masks, None, budget, {"piqa": compensated})
        made.save(tmp_path / "experts")
    again = ExpertModel.load(tmp_path / "experts", experts.dense, tiny_tokenizer)
    pruned = seaplib.prune(experts.dense, experts.masks["piqa"], compensation=spread)
    inputs = batch(tiny_tokenizer)
    with torch.no_grad():
        assert torch.equal(again(**inputs, experts="piqa").logits, pruned(**inputs).logits)
        assert not torch.equal(pruned(**inputs).logits, experts(**inputs, experts="piqa").logits)
    mixed = covariances.WeightedCovariances({"mine": spread}, {"mine": 1.0})
    with pytest.raises(ValueError, match="piqa"):
        ExpertModel(experts.dense, tiny_tokenizer, experts.masks, None, budget, {"piqa": mixed}).save(tmp_path / "no")


def test_experts_are_built_of_task_calibrated_recipes_without_compensation(experts, tiny_tokenizer):
    for method in (methods.FLAP, methods.RANDOM, replace(methods.SEAP_F, compensation="mean")):
        with pytest.raises(ValueError, match=method.name):
            variants.build(experts.dense, tiny_tokenizer, ["piqa"], "wikitext2", method=method)


def test_moving_the_model_moves_its_experts(experts, tiny_tokenizer):
    experts.expert("piqa")
    before = experts.cache.sizes["piqa"]
    experts.to(torch.float64)
    assert experts.cache.held == [] and experts.cache.sizes["piqa"] == 2 * before
    assert experts.expert("piqa")(**batch(tiny_tokenizer)).logits.dtype == torch.float64


def test_bad_input_is_refused_before_anything_is_cut(tiny_model, tiny_tokenizer, experts):
    model, other = experts.dense, tiny_model("gqa", num_hidden_layers=3)
    good, router = experts.masks, experts.router
    for match, build in {
        "'piqa'": lambda: ExpertModel(model, tiny_tokenizer, {"piqa": mask_of(other, 0)}),
        "mask": lambda: ExpertModel(model, tiny_tokenizer, {}),
        "'dense'": lambda: ExpertModel(model, tiny_tokenizer, {"dense": good["piqa"]}),
        "general, winogrande": lambda: ExpertModel(model, tiny_tokenizer, {"piqa": good["piqa"]}, router),
        "arc": lambda: ExpertModel(model, tiny_tokenizer, good, compensation={"arc": {}}),
        "100": lambda: ExpertModel(model, tiny_tokenizer, good, router, 100),
        "pruned": lambda: ExpertModel(seaplib.prune(model, good["piqa"]), tiny_tokenizer, good),
        "'boolq'.*piqa": lambda: experts.expert("boolq"),
        "1.*4": lambda: experts(**batch(tiny_tokenizer), experts=["piqa"]),
        "'x'": lambda: experts(**batch(tiny_tokenizer), experts="x"),
        "router": lambda: ExpertModel(model, tiny_tokenizer, good)(**batch(tiny_tokenizer)),
        "decoder": lambda: models.decoder_layers(experts),
        "a/b": lambda: ExpertModel(model, tiny_tokenizer, {"a/b": good["piqa"]}).save("x"),
        "oracle": lambda: variants.Route(experts, "oracle"),
    }.items():
        with pytest.raises(ValueError, match=match):
            build()
    wide = tiny_model("gqa", hidden_size=64, head_dim=8)
    with pytest.raises(ValueError, match="32.*64"):
        ExpertModel(wide, tiny_tokenizer, masks_of(wide), router)
    with pytest.raises(ValueError, match="tokenizer"):
        ExpertModel.load("x", model)


@pytest.mark.parametrize("name", ["GRIFFIN", "routed"])
def test_a_variant_without_a_single_model_is_evaluated_only(experts, tiny_tokenizer, tiny_data_dir, monkeypatch, name):
    monkeypatch.setitem(settings.PRESETS, "16", settings.Preset(16))
    dense = experts.dense
    made = {"GRIFFIN": griffin.Griffin(models.geometry(dense), 0.2), "routed": variants.Route(experts, "router")}[name]
    with pytest.raises(ValueError, match=f"{name}.*evaluate"):
        seaplib.perplexity(dense, tiny_tokenizer, "wikitext2", "16", [made], progress=False)
    with pytest.raises(ValueError, match=f"{name}.*evaluate"):
        generation.generate(dense, tiny_tokenizer, PROMPTS[:1], [made], new_tokens=2, progress=False)
    assert len(seaplib.evaluate_items(dense, tiny_tokenizer, "piqa", [made], progress=False))
