import copy

import pytest
import reference
import torch
from pruned import random_mask

from seaplib import activations, models
from seaplib.activations import capture, statistics
from seaplib.models import passes
from seaplib.pruning.apply import prune
from seaplib.settings import Calibration
from seaplib.texts import corpora

pytestmark = pytest.mark.unit

TEXTS = (
    "the otter",
    "A kettle is used to boil water before the tea is made.",
    "Which animal lives in the river and eats small fish? the otter",
    "grey stone",
    "There are 12 apples and 5 pears in the basket, so there are 17 fruits.",
    "Anna gave the heavy box to Ben",
    "= The old harbour =",
)
KINDS = ("mha", "gqa")


def corpus(texts=TEXTS) -> corpora.Corpus:
    return corpora.Corpus("mine", tuple(texts), tuple(map(str, range(len(texts)))), {})


def collect(model, tokenizer, texts=TEXTS, **choices) -> activations.ActivationStats:
    choices = {"samples": max(len(texts), 1)} | choices
    return activations.collect(model, tokenizer, corpus(texts), Calibration(**choices), progress=False)


def inputs_of(model, role: str, layer: int, ids: list[int]) -> torch.Tensor:
    """The input [tokens, dim] of one projection for one prompt, by a hook of its own."""
    seen = []
    handle = models.linear(models.decoder_layers(model)[layer], role).register_forward_pre_hook(
        lambda _, args: seen.append(args[0][0])
    )
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    handle.remove()
    return seen[0]


def assert_close(ours, theirs, tolerance=1e-6):
    """Relative to the scale of each layer."""
    for a, b in zip(ours, theirs, strict=True):
        b = torch.as_tensor(b, dtype=torch.float64)
        assert float((a - b).abs().max()) <= tolerance * float(b.abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_equal_the_slow_ones_and_torch_var(tiny_model, tiny_tokenizer, kind):
    model = tiny_model(kind)
    stats = collect(model, tiny_tokenizer)
    encoded = tiny_tokenizer(list(TEXTS))["input_ids"]
    assert stats.count == sum(map(len, encoded)) == stats.provenance["tokens"]
    for module, role in capture.UNITS.items():
        for layer in range(2):
            samples = torch.cat([inputs_of(model, role, layer, ids) for ids in encoded]).double()
            rows = [getattr(stats, name)[module][layer : layer + 1] for name in ("mean", "var", "second_moment")]
            for ours, theirs in zip(rows, reference.statistics(samples.tolist()), strict=True):
                assert_close(ours, [theirs])
            assert_close(rows[1], [torch.var(samples, dim=0, correction=0)])
            weight = models.linear(models.decoder_layers(model)[layer], role).weight.detach().double().tolist()
            l1, l2sq = reference.column_norms(weight)
            assert_close(stats.weight_l1[module][layer : layer + 1], [l1], 1e-12)
            assert_close(stats.weight_l2sq[module][layer : layer + 1], [l2sq], 1e-12)


@pytest.mark.parametrize("pooling", ["token", "prompt"])
@pytest.mark.parametrize("bos", [True, False])
def test_statistics_do_not_depend_on_batches_order_or_padding(tiny_model, tiny_tokenizer, pooling, bos):
    model = tiny_model("gqa")
    one = collect(model, tiny_tokenizer, batch_tokens=1, pooling=pooling, bos=bos)
    for texts, tokens in ((TEXTS, 8192), (TEXTS, 60), (TEXTS[::-1], 90), (sorted(TEXTS), 1)):
        other = collect(model, tiny_tokenizer, texts, batch_tokens=tokens, pooling=pooling, bos=bos)
        assert other.count == one.count
        for name in ("mean", "var", "second_moment"):
            for module in capture.UNITS:
                assert_close(getattr(other, name)[module], getattr(one, name)[module])


def test_the_pad_token_does_not_matter(tiny_model, tiny_tokenizer):
    """Padding is masked out, whatever stands there."""
    model = tiny_model()
    encoded = passes.encode(model, tiny_tokenizer, TEXTS, 256)
    results = []
    for pad in (0, 17):
        with torch.inference_mode(), capture.capture(model) as recorder:
            for batch in passes.batches(encoded, "cpu", 200, pad=pad):
                batch.run(model)
        results.append(recorder.stacked("down"))
    assert results[0][0] == results[1][0] == sum(map(len, encoded.ids))
    assert_close(results[0][2], results[1][2])


def test_pooling_by_prompt_averages_a_prompts_tokens_first(tiny_model, tiny_tokenizer):
    model = tiny_model()
    stats = collect(model, tiny_tokenizer, pooling="prompt")
    encoded = tiny_tokenizer(list(TEXTS))["input_ids"]
    assert stats.count == len(TEXTS)
    for module, role in capture.UNITS.items():
        means = torch.stack([inputs_of(model, role, 1, ids).double().mean(0) for ids in encoded])
        mean, var, second = reference.statistics(means.tolist())
        assert_close(stats.mean[module][1:], [mean])
        assert_close(stats.var[module][1:], [var], 3e-6)
        assert_close(stats.second_moment[module][1:], [second])


def test_without_bos_its_position_is_left_out(tiny_model, tiny_tokenizer):
    model = tiny_model()
    stats = collect(model, tiny_tokenizer, bos=False)
    encoded = tiny_tokenizer(list(TEXTS))["input_ids"]
    assert stats.provenance["starts_with_bos"]
    assert stats.count == sum(map(len, encoded)) - len(encoded)
    samples = torch.cat([inputs_of(model, "o", 0, ids)[1:] for ids in encoded])  # BOS is read, and not counted
    assert_close(stats.mean["attention"][:1], [samples.double().mean(0)])


def test_norms_are_those_of_equation_5(tiny_model, tiny_tokenizer):
    stats = collect(tiny_model(), tiny_tokenizer, pooling="prompt")
    n = stats.count
    expected = (stats.second_moment["mlp"] * n).sqrt() / n  # (1/n)·sqrt(Σh²)
    assert torch.allclose(stats.norms()["mlp"], expected, rtol=1e-12)


def test_merging_is_exact_however_the_samples_are_split():
    torch.manual_seed(0)
    x = torch.randn(200, 5, dtype=torch.float64) * 3 + torch.tensor([0.0, 1e3, -50, 2, 1e6])
    nothing = torch.zeros((), dtype=torch.float64)
    parts = capture.Moments(0, nothing, nothing)
    for piece in torch.split(x, [1, 7, 92, 100]):
        parts = parts.merge(capture.Moments.of(piece))
    assert parts.count == 200
    torch.testing.assert_close(parts.mean, x.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.m2 / parts.count, x.var(0, correction=0), rtol=1e-8, atol=0)


@pytest.mark.parametrize("estimator", ["authors", "flap"])
def test_running_estimates_of_one_prompt(estimator):
    """Both published codes count the first prompt's variance as zero; means and squares differ in what n counts."""
    x = torch.randn(6, 3)
    running = capture.RunningMoments("token" if estimator == "authors" else "prompt")
    running.update(x)
    assert running.var == 0
    torch.testing.assert_close(running.mean, x.mean(0))
    torch.testing.assert_close(running.second_moment, x.square().sum(0) / (6 if estimator == "authors" else 1))


@pytest.mark.parametrize("estimator", ["authors", "flap"])
def test_a_model_is_measured_by_running_estimates(tiny_model, tiny_tokenizer, estimator):
    of = {name: collect(tiny_model(), tiny_tokenizer, TEXTS[:1], estimator=name) for name in ("exact", estimator)}
    for module in ("attention", "mlp"):
        assert (of["exact"].var[module] > 0).any() and not of[estimator].var[module].any()
        torch.testing.assert_close(of[estimator].mean[module], of["exact"].mean[module], check_dtype=False)


@pytest.mark.parametrize("estimator", ["authors", "flap"])
def test_running_estimates_prompt_by_prompt(estimator):
    """The published updates, written out: SEAP's code counts tokens, FLAP's counts prompts."""
    torch.manual_seed(0)
    prompts = [torch.randn(n, 3) for n in (4, 2, 5)]
    by_token = estimator == "authors"
    running = capture.RunningMoments("token" if by_token else "prompt")
    seen, mean, square, var = 0, torch.zeros(3), torch.zeros(3), torch.zeros(3)
    for prompt in prompts:
        running.update(prompt)
        new = len(prompt) if by_token else 1
        before, mean = mean, (seen * mean + (prompt.sum(0) if by_token else prompt.mean(0))) / (seen + new)
        square = (seen * square + prompt.square().sum(0)) / (seen + new)
        if seen:
            spread = sum((row - mean) * (row - (before if by_token else mean)) for row in prompt)
            var = var * (seen - 1) / (seen + new - 1) + spread / (seen + new)
        seen += new
    assert running.count == seen == (11 if by_token else 3)
    torch.testing.assert_close(running.mean, mean)
    torch.testing.assert_close(running.second_moment, square)
    torch.testing.assert_close(running.var, var)


def test_texts_longer_than_the_context_are_cut_and_counted(tiny_model, tiny_tokenizer):
    model = tiny_model(max_position_embeddings=16)
    lengths = [len(ids) for ids in tiny_tokenizer(list(TEXTS))["input_ids"]]
    assert collect(model, tiny_tokenizer).provenance["truncated"] == sum(n > 16 for n in lengths)
    stats = collect(model, tiny_tokenizer, max_length=4)
    assert stats.count == sum(min(n, 4) for n in lengths)
    assert stats.provenance["truncated"] == sum(n > 4 for n in lengths)


def test_the_first_samples_of_a_corpus_are_used(tiny_model, tiny_tokenizer):
    model = tiny_model()
    three, same = collect(model, tiny_tokenizer, samples=3), collect(model, tiny_tokenizer, TEXTS[:3])
    assert three.provenance["ids"] == ["0", "1", "2"]
    assert torch.equal(three.var["mlp"], same.var["mlp"])
    assert collect(model, tiny_tokenizer, samples=999).provenance["texts"] == len(TEXTS)


def test_capture_removes_its_hooks_and_leaves_the_model_alone(tiny_model, tiny_tokenizer):
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids = torch.tensor([tiny_tokenizer(TEXTS[0])["input_ids"]])
    with torch.no_grad():
        logits = model(ids).logits
    with pytest.raises(RuntimeError, match="in the middle"):
        with torch.no_grad(), capture.capture(model):
            model(ids)
            raise RuntimeError("in the middle")
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(ids).logits, logits)


def test_capture_watches_any_forward_pass(tiny_model, tiny_tokenizer):
    """Left padding, and a generation whose cached steps see one new token each."""
    model = tiny_model("gqa")
    ids = torch.tensor([tiny_tokenizer(TEXTS[1])["input_ids"]])
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], 1)
    mask = torch.cat([torch.zeros(1, 3, dtype=torch.long), torch.ones_like(ids)], 1)
    with torch.no_grad(), capture.capture(model) as plain:
        model(ids)
    with torch.no_grad(), capture.capture(model) as left:
        model(padded, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
    assert left.stacked("o")[0] == ids.shape[1]
    assert_close(left.stacked("o")[2], plain.stacked("o")[2], 1e-5)
    with torch.no_grad(), capture.capture(model) as generated:
        out = model.generate(padded, attention_mask=mask, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert generated.stacked("o")[0] == out.shape[1] - 3 - 1, "the last token is never read"


def test_capture_of_some_layers_and_other_roles(tiny_model, tiny_tokenizer):
    model = tiny_model()
    ids = tiny_tokenizer(TEXTS[2])["input_ids"]
    with torch.no_grad(), capture.capture(model, roles=("q", "gate"), only=(1,)) as recorder:
        model(torch.tensor([ids]))
    _, mean, _, _ = recorder.stacked("gate")
    assert mean.shape == (1, 32)
    assert_close(mean, [inputs_of(model, "gate", 1, ids).double().mean(0)])


def test_an_empty_capture_says_what_to_do(tiny_model):
    with capture.capture(tiny_model()) as recorder:
        pass
    with pytest.raises(ValueError, match="context"):
        recorder.stacked("o")


@pytest.mark.parametrize("estimator", ["exact", "authors"])
def test_activations_that_are_not_finite_are_refused(tiny_model, tiny_tokenizer, estimator):
    model = copy.deepcopy(tiny_model())
    with torch.no_grad():
        models.linear(models.decoder_layers(model)[1], "up").weight[7, 3] = float("nan")
    said = "mine: .*mlp .*layer 1 .*'0'"
    with pytest.raises(ValueError, match=said):
        collect(model, tiny_tokenizer, estimator=estimator)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_the_text_that_breaks_is_named(tiny_model, tiny_tokenizer, value):
    """One token's embedding is damaged: the texts without it are fine."""
    model, texts = copy.deepcopy(tiny_model()), ("grey stone", "the otter", "a kettle, the otter")
    others = {token for text in texts[:2] for token in tiny_tokenizer(text)["input_ids"]}
    token = next(token for token in tiny_tokenizer(texts[2])["input_ids"] if token not in others)
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = float(value)
    with pytest.raises(ValueError, match="attention .*layer 0 .*'2'"):
        collect(model, tiny_tokenizer, texts)
    collect(model, tiny_tokenizer, texts[:2])


@pytest.mark.parametrize("bos", [True, False])
def test_a_text_without_tokens_is_skipped_and_counted(tiny_model, tiny_tokenizer, bos):
    """A lone BOS is no text."""
    texts = ("the otter", "", "grey stone")
    with pytest.warns(UserWarning, match="1 of 3 .*number 1"):
        stats = collect(tiny_model(), tiny_tokenizer, texts, bos=bos)
    assert stats.provenance["skipped"] == 1 and stats.provenance["ids"] == ["0", "2"] and stats.provenance["texts"] == 2
    assert "1 empty texts skipped" in repr(stats)
    without = collect(tiny_model(), tiny_tokenizer, texts[::2], bos=bos)
    for name in stats.TENSORS:
        for module, expected in getattr(without, name).items():
            assert torch.equal(getattr(stats, name)[module], expected)
    with pytest.raises(ValueError, match="all 2"):
        collect(tiny_model(), tiny_tokenizer, ("", ""), bos=bos)


def test_an_empty_corpus_is_refused(tiny_model, tiny_tokenizer):
    with pytest.raises(ValueError, match="empty"):
        activations.collect(tiny_model(), tiny_tokenizer, corpus(()), progress=False)


def test_a_pruned_model_is_refused(tiny_model, tiny_tokenizer):
    from seaplib import pruning
    from seaplib.pruning import masks

    model = tiny_model()
    mask = masks.keep_all(models.geometry(model))
    mask.channels[0, :10] = False
    with pytest.raises(models.ModelError, match="pruned"):
        collect(pruning.prune(model, mask), tiny_tokenizer)


def test_impossible_choices_are_refused():
    for wrong in ({"samples": 0}, {"max_length": 1}, {"pooling": "mean"}, {"estimator": "online"}, {"batch_tokens": 0}):
        with pytest.raises(ValueError, match="Calibration: "):
            Calibration(**wrong)
    with pytest.raises(ValueError, match="pooling .*'token'"):
        Calibration(estimator="flap", pooling="prompt")
    with pytest.raises(TypeError, match="sampels"):
        Calibration(sampels=3)


def test_save_and_load(tiny_model, tiny_tokenizer, tmp_path):
    stats = collect(tiny_model("gqa"), tiny_tokenizer)
    stats.save(tmp_path)
    loaded = activations.ActivationStats.load(tmp_path)
    assert (loaded.geometry, loaded.count, loaded.provenance) == (stats.geometry, stats.count, stats.provenance)
    for name in stats.TENSORS:
        for module, tensor in getattr(stats, name).items():
            assert torch.equal(getattr(loaded, name)[module], tensor)
    assert repr(loaded) == repr(stats) and "mine" in repr(stats)


def test_half_precision_statistics_lose_nothing(tiny_model, tiny_tokenizer):
    """Sums run in float32 or better, whatever the activations are."""
    model = tiny_model("gqa").to(torch.bfloat16)
    stats = collect(model, tiny_tokenizer)
    encoded = tiny_tokenizer(list(TEXTS))["input_ids"]
    batched = collect(model, tiny_tokenizer, batch_tokens=1)
    samples = torch.cat([inputs_of(model, "down", 1, ids) for ids in encoded]).double()
    for ours, theirs in ((batched.mean, samples.mean(0)), (batched.var, samples.var(0, correction=0))):
        assert_close(ours["mlp"][1:], [theirs])
    assert stats.count == batched.count == len(samples)


def test_rows_left_out_add_nothing_whatever_they_hold():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) + 3
    left_out = torch.tensor([0, 17, 49])
    kept = torch.cat([x[1:17], x[18:49]]).double()
    x[left_out] = torch.tensor([[float("nan")], [float("inf")], [1e30]])
    before = x.clone()
    found = capture.Moments.of(x, left_out, 47)
    torch.testing.assert_close(found.mean, kept.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.m2 / found.count, kept.var(0, correction=0), rtol=1e-6, atol=0)
    assert torch.equal(x.nan_to_num(), before.nan_to_num()), "the activations themselves are left alone"


def cost(lengths: list[int], parts: list[list[int]]) -> int:
    return sum(max(lengths[i] for i in part) * len(part) + passes.PASS_TOKENS for part in parts)


def test_batches_are_the_cheapest_of_neighbours():
    """Against every way to cut the sorted texts."""
    draw = torch.Generator().manual_seed(0)
    for limit in (150, 300, 10**6):
        lengths = torch.randint(5, 200, (9,), generator=draw).tolist()
        order = sorted(range(9), key=lambda i: -lengths[i])
        options = []
        for cuts in range(2**8):
            ends = [i + 1 for i in range(8) if cuts >> i & 1] + [9]
            parts = [order[a:b] for a, b in zip([0, *ends], ends, strict=False)]
            if all(lengths[part[0]] * len(part) <= limit or len(part) == 1 for part in parts):
                options.append(cost(lengths, parts))
        assert cost(lengths, passes.partition(lengths, limit)) == min(options)
    assert passes.partition([], 100) == []


@pytest.mark.parametrize("batch_tokens", [1024, 8192])
def test_padding_stays_below_a_tenth_whatever_the_lengths(batch_tokens):
    draw = torch.Generator().manual_seed(0)
    exponents = torch.rand(25, generator=draw, dtype=torch.float64)
    spread = (5 * 400**exponents).long().tolist()  # 5 to 2,000 tokens
    for lengths in (spread, [5, 2000], list(range(5, 2001, 80))):
        padded = sum(max(lengths[i] for i in part) * len(part) for part in passes.partition(lengths, batch_tokens))
        assert padded < sum(lengths) / 0.9


def test_statistics_of_very_different_lengths_do_not_depend_on_order(tiny_model, tiny_tokenizer):
    model = tiny_model("gqa", max_position_embeddings=2048)
    words = " ".join(TEXTS * 60)
    texts = tuple(words[3 * i : 3 * i + int(3 * 500 ** (i / 11))] for i in range(12))
    one, other = collect(model, tiny_tokenizer, texts), collect(model, tiny_tokenizer, texts[::-1])
    alone = collect(model, tiny_tokenizer, texts, batch_tokens=1)
    for name in ("mean", "var", "second_moment"):
        for module in capture.UNITS:
            assert_close(getattr(other, name)[module], getattr(one, name)[module])
            assert_close(getattr(alone, name)[module], getattr(one, name)[module])


def test_batches_hold_every_text_once_within_the_budget():
    lengths = [3, 9, 1, 9, 40, 2, 5]
    encoded = passes.Encoded([[7] * n for n in lengths], list(range(7)), 0, False, False)
    seen = []
    for batch in passes.batches(encoded, "cpu", 20):
        assert batch.ids.numel() <= 20 or len(batch.rows) == 1
        assert batch.mask.sum(1).tolist() == [lengths[i] for i in batch.rows]
        assert torch.equal(batch.keep, batch.mask.bool())
        seen += batch.rows
    assert sorted(seen) == list(range(len(lengths)))
    assert [batch.rows for batch in passes.batches(encoded, "cpu", None)] == [[i] for i in range(len(lengths))]


def test_calibrate_computes_once_and_tells_models_apart(tiny_model, tiny_tokenizer, tiny_data_dir, monkeypatch):
    calls = []
    original = activations.collect
    monkeypatch.setattr(statistics, "collect", lambda *args, **kw: calls.append(args[2].task) or original(*args, **kw))
    choices = Calibration(samples=4)
    first = activations.calibrate(tiny_model(), tiny_tokenizer, ["piqa", "wikitext2"], choices)
    again = activations.calibrate(tiny_model(), tiny_tokenizer, ["piqa", "wikitext2"], choices)
    assert calls == ["piqa", "wikitext2"]
    assert torch.equal(first["piqa"].var["mlp"], again["piqa"].var["mlp"])
    other = activations.calibrate(tiny_model(seed=1), tiny_tokenizer, ["piqa"], choices)
    assert not torch.equal(first["piqa"].var["mlp"], other["piqa"].var["mlp"])
    more = activations.calibrate(tiny_model(), tiny_tokenizer, ["piqa"], Calibration(samples=5))
    assert set(first["piqa"].provenance["ids"]) < set(more["piqa"].provenance["ids"])
    assert len(calls) == 4


def test_calibrate_reads_the_weights_once_for_all_tasks_and_not_for_stored_ones(
    tiny_model, tiny_tokenizer, tiny_data_dir, monkeypatch
):
    read = []
    original = statistics._column_norms
    monkeypatch.setattr(statistics, "_column_norms", lambda weight: read.append(weight) or original(weight))
    model, choices = tiny_model(), Calibration(samples=4)
    stats = activations.calibrate(model, tiny_tokenizer, ["piqa", "wikitext2"], choices)
    assert len(read) == len(activations.UNITS) * models.geometry(model).layers
    activations.calibrate(model, tiny_tokenizer, ["piqa", "wikitext2"], choices)
    assert len(read) == len(activations.UNITS) * models.geometry(model).layers
    alone = collect(model, tiny_tokenizer)
    for one in stats.values():
        assert one.provenance["model"] == alone.provenance["model"]
        for module in activations.UNITS:
            assert torch.equal(one.weight_l1[module], alone.weight_l1[module])
            assert torch.equal(one.weight_l2sq[module], alone.weight_l2sq[module])


def test_weighted_mean_is_the_general_scores(tiny_model, tiny_tokenizer):
    model = tiny_model()
    a, b = collect(model, tiny_tokenizer, TEXTS[:3]), collect(model, tiny_tokenizer, TEXTS[3:])
    mean = activations.weighted_mean({"a": a, "b": b}, {"a": 3.0, "b": 2.0})
    torch.testing.assert_close(mean["mlp"], (3 * a.mean["mlp"] + 2 * b.mean["mlp"]) / 5)


def test_a_model_left_in_train_mode_is_measured_in_eval_mode_and_left_in_train_mode(tiny_model, tiny_tokenizer):
    """Two collects differed by 24%, and the store gave the dropped-out numbers to the model in eval mode."""
    model = tiny_model(attention_dropout=0.5)
    expected = collect(model, tiny_tokenizer)
    model.train()
    model.get_decoder().norm.eval()
    before = {name: module.training for name, module in model.named_modules()}
    found = collect(model, tiny_tokenizer)
    for module in expected.mean:
        assert torch.equal(found.mean[module], expected.mean[module])
    assert {name: module.training for name, module in model.named_modules()} == before


@pytest.mark.parametrize("mode", ["zero", "mask"])
def test_statistics_of_a_pruned_model_say_so(tiny_model, tiny_tokenizer, mode):
    model = tiny_model()
    assert "pruned" not in collect(model, tiny_tokenizer).provenance
    pruned = prune(model, random_mask(model), mode)
    assert collect(pruned, tiny_tokenizer).provenance["pruned"] == mode
