"""GRIFFIN: its statistic by hand, its protocol against two passes on a KV cache, the model untouched."""

import math

import pandas as pd
import pytest
import torch
from conftest import ARCHITECTURE_CASES
from pruned import random_mask

from seaplib import evaluation, models
from seaplib.evaluation import lm_eval
from seaplib.models import likelihood
from seaplib.pruning import methods
from seaplib.pruning.apply import prune
from seaplib.pruning.baselines import griffin
from seaplib.settings import Evaluation

pytestmark = pytest.mark.unit
KINDS = ("mha", "gqa")


@pytest.fixture
def ids():
    return torch.randint(3, 250, (2, 11), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def by_hand(model, prompt: torch.Tensor, channels: int) -> list[set[int]]:
    """The channels each layer keeps for one prompt [tokens], with loops."""
    kept = []
    for layer in models.decoder_layers(model):
        seen = []
        handle = models.linear(layer, "down").register_forward_pre_hook(lambda _, args, to=seen: to.append(args[0]))
        model(prompt[None])
        handle.remove()
        rows = seen[0].reshape(len(prompt), -1).tolist()
        unit = [[v / math.sqrt(math.fsum(x * x for x in row)) for v in row] for row in rows]
        s = [math.sqrt(math.fsum(v * v for v in column)) for column in zip(*unit, strict=True)]
        kept.append(set(sorted(range(len(s)), key=lambda i: -s[i])[:channels]))
    return kept


def chosen(selection, row: int) -> list[set[int]]:
    return [set(selection.chosen[layer][row].nonzero().flatten().tolist()) for layer in sorted(selection.chosen)]


@torch.no_grad()
def smaller(model, kept: list[set[int]]):
    """The same model with only these channels: the reference for everything after the prompt."""
    from seaplib.pruning import masks

    mask = masks.keep_all(models.geometry(model))
    for layer, stay in enumerate(kept):
        mask.channels[layer] = False
        mask.channels[layer, list(stay)] = True
    return prune(model, mask)


# ---- the statistic -------------------------------------------------------------------------------------------------


def test_the_statistic_by_hand():
    z = torch.tensor([[[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]], [[1.0, 0.0], [5.0, 5.0], [9.0, 9.0]]])
    keep = torch.tensor([[True, True, True], [True, True, False]])
    expected = [[0.6, math.sqrt(0.8**2 + 1)], [math.sqrt(1 + 0.5), math.sqrt(0.5)]]
    torch.testing.assert_close(griffin.statistic(z, keep), torch.tensor(expected))


@pytest.mark.parametrize("case", ARCHITECTURE_CASES)
def test_a_prompt_chooses_its_channels_and_stays_dense(any_model, ids, case):
    model = any_model(case)
    with torch.no_grad(), griffin.griffin(model, 20) as selection:
        inside = model(ids, use_cache=True).logits
    with torch.no_grad():
        torch.testing.assert_close(inside, model(ids).logits, rtol=0, atol=1e-6)
    for row in range(2):
        assert chosen(selection, row) == by_hand(model, ids[row], 20)
    assert chosen(selection, 0) != chosen(selection, 1), "every prompt has channels of its own"


# ---- generation ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def reference_generation(model, prompt: torch.Tensor, channels: int, steps: int) -> list[int]:
    """The prompt through the dense model, the rest token by token on its cache through a smaller one."""
    small = smaller(model, by_hand(model, prompt, channels))
    first = model(prompt[None], use_cache=True)
    cache, out = first.past_key_values, [int(first.logits[0, -1].argmax())]
    for _ in range(steps - 1):
        step = small(torch.tensor([[out[-1]]]), past_key_values=cache, use_cache=True)
        out.append(int(step.logits[0, -1].argmax()))
    return out


@pytest.mark.parametrize("case", ["mha", "gqa", "gpt2", "opt", "gpt_neox", "gemma3_text", "phi3"])
def test_generation_equals_a_smaller_model_on_the_dense_prompts_cache(any_model, tiny_model, ids, case):
    model = tiny_model(case) if case in KINDS else any_model(case)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with griffin.griffin(model, 12):
        both = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[:, 11:].tolist()
    expected = [reference_generation(model, row, 12, 6) for row in ids]
    assert both == expected, "each sequence of a batch generates as if it were alone"
    dense = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[:, 11:].tolist()
    assert [row[0] for row in both] == [row[0] for row in dense] and both != dense


@pytest.mark.parametrize("kind", KINDS)
def test_padding_has_no_part_in_the_choice(tiny_model, ids, kind):
    model = tiny_model(kind)
    padded, mask = torch.cat([torch.zeros(2, 3, dtype=torch.long), ids], 1), torch.ones(2, 14, dtype=torch.long)
    mask[:, :3] = 0
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with griffin.griffin(model, 12) as selection:
        left = model.generate(padded, attention_mask=mask, **options)[:, 14:]
        kept = chosen(selection, 0)
        plain = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[:, 11:]
    assert torch.equal(left, plain) and kept == by_hand(model, ids[0], 12)


def test_all_channels_are_the_dense_model(tiny_model, ids):
    model = tiny_model("gqa")
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    with griffin.griffin(model, 48):
        inside = model.generate(ids, **options)
    assert torch.equal(inside, model.generate(ids, **options))


# ---- the context ---------------------------------------------------------------------------------------------------


def test_the_model_is_as_before_also_after_an_error(tiny_model, tiny_tokenizer, ids, tmp_path):
    from seaplib.pruning import checkpoints

    model = tiny_model()
    before = models.fingerprint(model)
    with pytest.raises(RuntimeError, match="stop"), griffin.griffin(model, 10):
        assert models.fingerprint(model) != before
        with pytest.raises(ValueError, match="sparse"):
            prune(model, random_mask(model))
        with pytest.raises(ValueError, match="sparse"):
            checkpoints.save_pretrained(model, tiny_tokenizer, tmp_path)
        with pytest.raises(ValueError, match="GRIFFIN"), griffin.griffin(model, 9):
            pass
        raise RuntimeError("stop")
    assert models.fingerprint(model) == before
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    with pytest.raises(ValueError, match="48"), griffin.griffin(model, 0):
        pass


def test_passes_that_are_no_generation_are_refused(tiny_model, ids):
    model = tiny_model()
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
    with torch.no_grad(), griffin.griffin(model, 10):
        with pytest.raises(ValueError, match="cache"):
            model(ids, use_cache=False)
        with pytest.raises(ValueError, match="input_ids"):
            model(inputs_embeds=torch.zeros(1, 3, 32))
        with pytest.raises(ValueError, match="context"):
            model(ids[:, :1], past_key_values=cache, use_cache=True)


def test_active_parameters_are_counted_and_nothing_is_saved(tiny_model):
    model = tiny_model("gqa")
    g = models.geometry(model)
    for sparsity in (0.0, 0.2, 0.5):
        k = griffin.active_channels(g, sparsity)
        assert griffin.inactive_share(g, k) == pytest.approx(sparsity, abs=0.5 / g.channels)
        with griffin.griffin(model, k) as selection:
            off = sum(p.numel() for p in model.parameters()) - selection.active_parameters
        assert off == 2 * (48 - k) * 3 * 32
    named = evaluation.label_of(model, griffin.Griffin(g, 0.5))
    assert named["achieved_sparsity"] == named["achieved_model_sparsity"] == 0 and named["budget"] == "active"
    assert named["inactive_sparsity"] == pytest.approx(0.5, abs=0.02)
    with pytest.raises(ValueError, match="90%"):
        griffin.Griffin(g, 0.9)
    with pytest.raises(ValueError, match="sparsity"):
        griffin.active_channels(g, 1.0)


# ---- evaluation ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def slow_scores(model, context: list[int], answer: list[int], channels: int) -> tuple[float, bool]:
    """Two passes: the context but for its last token, dense; then that token and the answer, smaller, on the cache."""
    prompt = torch.tensor(context[:-1])
    small = smaller(model, by_hand(model, prompt, channels))
    cache = model(prompt[None], use_cache=True).past_key_values
    rest = torch.tensor([[context[-1], *answer[:-1]]])
    logprobs = small(rest, past_key_values=cache, use_cache=True).logits[0].log_softmax(-1)
    total = sum(float(logprobs[i, token]) for i, token in enumerate(answer))
    return total, logprobs.argmax(-1).tolist() == answer


@pytest.mark.parametrize("kind", KINDS)
def test_options_are_scored_as_in_two_passes(tiny_model, tiny_tokenizer, tiny_data_dir, kind):
    model = tiny_model(kind)
    for name in ("piqa", "winogrande"):
        bench = lm_eval.Bench(model, tiny_tokenizer, Evaluation(items=3))
        prepared = bench.prepared(name)
        with griffin.griffin(model, 15) as selection:
            sums, greedy = griffin.option_scores(bench, prepared, selection)
        flat = [request for item in bench.requests(prepared.instances) for request in item]
        expected = [slow_scores(model, *map(list, request), 15) for request in flat]
        assert sums.tolist() == pytest.approx([total for total, _ in expected], abs=1e-4)
        assert greedy.tolist() == [same for _, same in expected]
        assert sums.tolist() != pytest.approx(likelihood.score(model, prepared.batches)[0].tolist(), abs=1e-3)


def test_rows_stand_beside_table_1(tiny_model, tiny_tokenizer, tiny_data_dir):
    model = tiny_model("gqa")
    before = models.fingerprint(model)
    settings = Evaluation(items=5)
    prompted = [griffin.Griffin(models.geometry(model), sparsity) for sparsity in (0.0, 0.3)]
    asked = (model, tiny_tokenizer, ["piqa", "arc_easy"])
    items = evaluation.evaluate_items(*asked, prompted, settings, progress=False)
    plain = evaluation.evaluate_items(*asked, None, settings, progress=False)
    assert [column for column in items if column != "inactive_sparsity"] == list(plain.columns)
    assert set(methods.FLAP.label(0)) <= set(items.columns)
    columns = ["task", "metric", "doc_id", "value"]
    everything_on = items[items["requested_sparsity"] == 0][columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(everything_on, plain[columns], check_dtype=False)
    again = evaluation.evaluate_items(*asked, prompted, settings, progress=False)
    pd.testing.assert_frame_equal(again, items)
    rows = evaluation.aggregate(pd.concat([plain, items], ignore_index=True), "tiny")
    assert set(rows["method"]) == {"dense", "GRIFFIN"} and len(rows) == len(rows.drop_duplicates())
    assert rows["inactive_sparsity"].isna().tolist() == (rows["method"] == "dense").tolist()
    assert models.fingerprint(model) == before


def test_one_token_is_no_prompt(tiny_model, tiny_tokenizer):
    model = tiny_model()
    ids = torch.tensor([[1, 5, 6]])
    with torch.no_grad(), griffin.griffin(model, 10) as selection:
        selection.prompt = torch.tensor([0])
        with pytest.raises(ValueError, match="token"):
            models.decoder(model)(input_ids=ids, use_cache=False)


def test_a_variant_counted_for_another_model_is_refused(tiny_model):
    counted = griffin.Griffin(models.geometry(tiny_model("gqa")), 0.3)
    with pytest.raises(ValueError, match="Geometry"):
        counted.apply(tiny_model("mha"))
