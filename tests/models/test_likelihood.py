"""Shared forward passes give what separate ones give, whatever the batches."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GPTNeoXConfig, MistralConfig, Qwen2Config

from seaplib.models import likelihood

pytestmark = pytest.mark.unit


def slow(model, requests, max_length):
    """One request at a time, the whole vocabulary at every position."""
    sums, greedy = [], []
    for context, continuation in requests:
        ids = torch.tensor([[*context, *continuation][-(max_length + 1) :]])
        with torch.inference_mode():
            logprobs = model(ids[:, :-1]).logits.float().log_softmax(-1)[0, -len(continuation) :]
        target = ids[0, -len(continuation) :]
        sums.append(logprobs.gather(1, target[:, None]).sum().item())
        greedy.append(bool((logprobs.argmax(-1) == target).all()))
    return np.array(sums), np.array(greedy)


def items(seed=0, vocabulary=300):
    """Multiple-choice items: shared contexts, single-token options, WinoGrande's kind, long ones."""
    draw = np.random.default_rng(seed)

    def ids(n):
        return draw.integers(3, vocabulary, n).tolist()

    made = []
    for n in (5, 30, 30, 44, 61):
        context = [1, *ids(n)]
        made.append([(context, ids(k)) for k in (3, 7, 4, 9)])
        made.append([(context, ids(1)) for _ in range(4)])
        made.append([(context, [7, 8]), (context, [7, 8, 9])])
        tail = ids(6)
        made.append([(context + ids(2), tail), (context + ids(3), tail)])  # options in the context
    made.append([(ids(9), ids(30)), (ids(9), ids(30))])  # nothing in common
    return made


def flat(made):
    return [request for item in made for request in item]


@pytest.mark.parametrize("kind", ["mha", "gqa"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_shared_equals_separate(tiny_model, kind, attention):
    model = tiny_model(kind, attn_implementation=attention)
    made = items()
    expected, expected_greedy = slow(model, flat(made), 256)
    for share in (True, False):
        sums, greedy = likelihood.score(model, likelihood.plan(made, 256, 500, share))
        np.testing.assert_allclose(sums, expected, atol=1e-4)
        assert (greedy == expected_greedy).all()


def test_greedy_continuations_are_recognised(tiny_model):
    model = tiny_model()
    context = [1, 50, 60, 70]
    answer = model.generate(torch.tensor([context]), max_new_tokens=4, do_sample=False, eos_token_id=[399])[
        0, 4:
    ].tolist()
    other = [*answer[:-1], answer[-1] ^ 1]
    batches = likelihood.plan([[(context, answer), (context, other), (context, answer[:1])]], 256, 500)
    assert batches[0].branches is not None
    assert likelihood.score(model, batches)[1].tolist() == [True, False, True]


def test_independent_of_batch_size_and_order(tiny_model):
    model, made = tiny_model(), items()
    reference = likelihood.score(model, likelihood.plan(made, 256, 10**6))[0]
    for batch_tokens in (1, 64, 300, 4000):
        np.testing.assert_allclose(
            likelihood.score(model, likelihood.plan(made, 256, batch_tokens))[0], reference, atol=2e-5
        )
    turned = likelihood.score(model, likelihood.plan(made[::-1], 256, 300))[0]
    back = np.concatenate(np.split(turned, np.cumsum([len(item) for item in made[::-1]]))[-2::-1])
    np.testing.assert_allclose(back, reference, atol=2e-5)


def test_sharing_saves_tokens_and_single_tokens_need_no_mask():
    made = [[([1] * 50, [5]), ([1] * 50, [6]), ([1] * 50, [7])], [([2] * 30, [3, 4, 5]), ([2] * 30, [6, 7, 8])]]
    shared, separate = likelihood.plan(made, 256, 10**4), likelihood.plan(made, 256, 10**4, share=False)
    assert sum(b.ids.numel() for b in shared) == 50 + 30 + 2 + 2
    assert sum(b.ids.numel() for b in separate) == 3 * 50 + 2 * 32, "lengths apart, so nothing is padding"
    assert [b.branches is None for b in shared] == [True, False]


def test_truncation_is_from_the_left(tiny_model):
    model = tiny_model(max_position_embeddings=24)
    made = items()
    made = [[(context, continuation[:20]) for context, continuation in item] for item in made]
    expected, _ = slow(model, flat(made), 24)
    sums, _ = likelihood.score(model, likelihood.plan(made, 24, 300))
    np.testing.assert_allclose(sums, expected, atol=1e-4)
    assert likelihood.truncated(([1] * 20, [2] * 6), 24) and not likelihood.truncated(([1] * 20, [2] * 5), 24)


def test_impossible_requests():
    with pytest.raises(ValueError, match="token"):
        likelihood.plan([[([1], [])]], 10, 100)
    with pytest.raises(ValueError, match="11 .*10"):
        likelihood.plan([[([1], [2] * 11)]], 10, 100)


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 400,
}


@pytest.mark.parametrize(
    "config",
    [
        GPTNeoXConfig(**SMALL),
        Qwen2Config(**SMALL, num_key_value_heads=2),
        MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=16),
        Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=8, sliding_window=16),  # caps its logits too
    ],
    ids=lambda config: config.model_type,
)
def test_other_architectures_share_too(config):
    torch.manual_seed(0)
    config.initializer_range = 0.2
    model = AutoModelForCausalLM.from_config(config).eval()
    made = items()
    expected, _ = slow(model, flat(made), 256)
    window = getattr(config, "sliding_window", None)
    sums, _ = likelihood.score(model, likelihood.plan(made, 256, 500, window=window))
    np.testing.assert_allclose(sums, expected, atol=1e-4)
