"""2SSP: both stages against loops."""

import math
from dataclasses import replace

import pytest
import reference
import torch
from pruned import CORPUS, TEXTS

from seaplib import activations, models
from seaplib.models import layers
from seaplib.pruning.apply import prune
from seaplib.pruning.baselines import two_ssp
from seaplib.settings import Calibration

pytestmark = pytest.mark.unit
KINDS = ("mha", "gqa")


@pytest.fixture
def ids():
    return torch.randint(3, 250, (2, 11), generator=torch.Generator().manual_seed(0))


def norms(model, tokenizer, **options) -> activations.ActivationStats:
    return activations.collect(model, tokenizer, CORPUS, Calibration(pooling="norm", **options), progress=False)


@torch.no_grad()
def slow_norms(model, tokenizer, skip: int = 0) -> list[list[float]]:
    """Mean over texts of each channel's L2 norm over the text's tokens, per layer."""
    out = []
    for layer in models.decoder_layers(model):
        seen = []
        handle = layer.mlp.down_proj.register_forward_pre_hook(lambda _, args, to=seen: to.append(args[0][0]))
        for text in TEXTS:
            model(torch.tensor([tokenizer(text)["input_ids"]]))
        handle.remove()
        rows = [[math.sqrt(math.fsum(v * v for v in c)) for c in x[skip:].T.tolist()] for x in seen]
        out.append([math.fsum(column) / len(rows) for column in zip(*rows, strict=True)])
    return out


@pytest.mark.parametrize("batch_tokens", [8192, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_channel_norms_equal_the_slow_ones(tiny_model, tiny_tokenizer, kind, batch_tokens):
    model = tiny_model(kind)
    for bos in (True, False):
        stats = norms(model, tiny_tokenizer, batch_tokens=batch_tokens, bos=bos)
        expected = torch.tensor(slow_norms(model, tiny_tokenizer, skip=0 if bos else 1)).double()
        torch.testing.assert_close(stats.mean["mlp"], expected, rtol=1e-5, atol=1e-6)
        assert stats.count == len(TEXTS)


def test_norms_are_not_scores(tiny_model, tiny_tokenizer, tmp_path):
    from seaplib.pruning.scores import score

    model = tiny_model()
    stats = norms(model, tiny_tokenizer)
    stats.save(tmp_path)
    for made in (stats, activations.ActivationStats.load(tmp_path)):
        with pytest.raises(ValueError, match="pooling"):
            score(made)
    with pytest.raises(ValueError, match="norm"):
        two_ssp.first_stage(activations.collect(model, tiny_tokenizer, CORPUS, progress=False), 0.3)


def test_the_balance_between_the_stages_by_hand():
    """Llama-2-7B: |MLP| = 3·4096·11008, |attention| = 4·4096², so the exponent is 2.0156/1.5."""
    llama = models.Geometry(32, 4096, 32, 32, 128, 11008, model_parameters=6_738_415_616)
    exponent = 3 * 11008 / (4 * 4096) / 1.5
    for sparsity, expected in ((0.25, 32 * 0.25**exponent), (0.5, 32 * 0.5**exponent)):
        assert two_ssp.attention_modules(llama, sparsity) == round(expected)
    assert [two_ssp.attention_modules(llama, s) for s in (0.0, 0.25, 0.375, 0.5)] == [0, 5, 9, 13]
    with pytest.raises(ValueError, match="alpha"):
        two_ssp.attention_modules(llama, 0.5, alpha=0.0)


@torch.no_grad()
def slow_second_stage(model, first, count, texts) -> list[int]:
    """Perplexity of a model that is pruned anew for every candidate, with Hugging Face's own loss."""
    gone = []
    for _ in range(count):
        best, lowest = None, math.inf
        for candidate in range(first.geometry.layers):
            if candidate in gone:
                continue
            heads = first.heads.clone()
            heads[[*gone, candidate]] = False
            pruned = prune(model, replace(first, heads=heads, bypass=True))
            nll = sum(float(pruned(ids, labels=ids).loss) * (ids.shape[1] - 1) for ids in texts)
            if nll < lowest:
                best, lowest = candidate, nll
        gone.append(best)
    return gone


@pytest.mark.parametrize("kind", KINDS)
def test_two_stages_equal_the_slow_ones(tiny_model, tiny_tokenizer, kind):
    model = tiny_model(kind, num_hidden_layers=5)
    before = models.fingerprint(model)
    g, stats = models.geometry(model), norms(model, tiny_tokenizer)
    count = two_ssp.attention_modules(g, 0.5)
    mask = two_ssp.two_stage(model, tiny_tokenizer, stats, CORPUS, 0.5, progress=False)
    assert count >= 2 and not mask.heads[mask.provenance["attention_removed"]].any()
    # the first stage: an equal share of every MLP makes up what attention leaves
    rest = 0.5 * g.projection_parameters - count * g.attention_parameters
    gone = round(rest / g.layers / g.channel_parameters)
    for row, kept in zip(slow_norms(model, tiny_tokenizer), mask.channels.tolist(), strict=True):
        assert kept == reference.keep(row, gone)
    texts = [torch.tensor([ids]) for ids in tiny_tokenizer(list(TEXTS))["input_ids"]]
    first = two_ssp.first_stage(stats, 0.5)
    assert slow_second_stage(model, first, count, texts) == mask.provenance["attention_removed"]
    assert mask.heads.all(1).sum() == g.layers - count
    frugal = two_ssp.two_stage(model, tiny_tokenizer, stats, CORPUS, 0.5, mode="mask", progress=False)
    assert frugal.fingerprint == mask.fingerprint, "no weight copied, the same mask"
    half_a_channel = 0.5 * g.layers * g.channel_parameters / g.projection_parameters
    assert mask.achieved == pytest.approx(0.5, abs=half_a_channel + 1e-9) and mask.requested == 0.5
    assert models.fingerprint(model) == before and not layers.emptied(models.decoder_layers(model)[0])


@pytest.mark.parametrize("case", ["gpt2", "opt", "gpt_neox", "phi3", "gemma2", "opt_post_norm"])
def test_two_stages_on_other_architectures(any_model, tiny_tokenizer, ids, case):
    model = any_model(case)
    stats = norms(model, tiny_tokenizer)
    mask = two_ssp.two_stage(model, tiny_tokenizer, stats, CORPUS, 0.5, progress=False)
    assert mask.provenance["attention_removed"] and mask.bypass
    with torch.no_grad():
        outputs = [prune(model, mask, mode)(ids).logits for mode in ("remove", "zero", "mask")]
    for out in outputs[1:]:
        torch.testing.assert_close(out, outputs[0], rtol=0, atol=1e-5)


def test_the_second_stage_reads_no_more_than_its_tokens(tiny_model, tiny_tokenizer, monkeypatch):
    model, seen = tiny_model(num_hidden_layers=3), []
    real = two_ssp.second_stage
    monkeypatch.setattr(two_ssp, "second_stage", lambda *args: seen.append(args[3]) or real(*args))
    two_ssp.two_stage(model, tiny_tokenizer, norms(model, tiny_tokenizer), CORPUS, 0.5, tokens=12, progress=False)
    whole = tiny_tokenizer(list(TEXTS))["input_ids"]
    flat = [i for ids in seen[0] for i in ids]
    assert len(flat) == 12 and seen[0][0] == whole[0][: len(seen[0][0])]


def test_what_two_stages_cannot_reach_is_refused(tiny_model, tiny_tokenizer):
    stats = norms(tiny_model(), tiny_tokenizer)
    for sparsity, alpha in ((0.99, 0.01), (0.2, 1000.0)):
        with pytest.raises(ValueError, match="2SSP"):
            two_ssp.first_stage(stats, sparsity, alpha)
