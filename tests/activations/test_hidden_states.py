"""Hidden states against a prompt-by-prompt reference, and their embeddings."""

import numpy as np
import pytest
import torch

from seaplib.activations.hidden_states import HiddenStates, embed, hidden_states
from seaplib.models.passes import residual_stream
from seaplib.texts.corpora import Corpus

pytestmark = pytest.mark.unit
TEXTS = {
    "piqa": ("To dry a wet towel, hang it on a line in the warm sun.", "A kettle is used to boil water."),
    "gsm8k": ("There are 12 apples and 5 pears.", "Anna gave the heavy box to Ben because she was tired.", "so"),
}


@pytest.fixture
def corpora():
    return {task: Corpus(task, texts, tuple(f"{task}-{i}" for i in range(len(texts))), {"data": "test", "dataset": "-"})
            for task, texts in TEXTS.items()}  # fmt: skip


def reference(model, tokenizer, text: str) -> torch.Tensor:
    """[layers + 1, tokens, hidden] of one text alone, unpadded; the last entry after the final norm."""
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.inference_mode():
        return torch.cat(model.model(ids, output_hidden_states=True).hidden_states)


@pytest.mark.parametrize("kind", ["mha", "gqa"])
@pytest.mark.parametrize("batch_tokens", [8192, 40, 1])
def test_means_equal_a_loop_over_prompts_however_batched(tiny_model, tiny_tokenizer, corpora, kind, batch_tokens):
    model = tiny_model(kind)
    states = hidden_states(model, tiny_tokenizer, corpora, batch_tokens=batch_tokens, progress=False)
    assert states.labels.tolist() == ["piqa"] * 2 + ["gsm8k"] * 3
    assert states.ids.tolist() == ["piqa-0", "piqa-1", "gsm8k-0", "gsm8k-1", "gsm8k-2"]
    assert states.vectors.shape == (5, 3, 32) and states.vectors.dtype == np.float32
    for vector, text in zip(states.vectors, [*TEXTS["piqa"], *TEXTS["gsm8k"]], strict=True):
        expected = reference(model, tiny_tokenizer, text).mean(dim=1)
        np.testing.assert_allclose(vector[:-1], expected[:-1], atol=2e-5)
        assert not np.allclose(vector[-1], expected[-1], atol=1e-2)  # before the final norm


def test_last_token_and_the_layer_before_the_final_norm(tiny_model, tiny_tokenizer, corpora):
    model = tiny_model()
    states = hidden_states(model, tiny_tokenizer, corpora, pooling="last", progress=False)
    for vector, text in zip(states.vectors, [*TEXTS["piqa"], *TEXTS["gsm8k"]], strict=True):
        expected = reference(model, tiny_tokenizer, text)[:, -1]
        np.testing.assert_allclose(vector[:-1], expected[:-1], atol=2e-5)
        with torch.inference_mode():
            np.testing.assert_allclose(model.model.norm(torch.tensor(vector[-1])), expected[-1], atol=2e-5)


def test_without_bos_the_first_position_does_not_count(tiny_model, tiny_tokenizer, corpora):
    model = tiny_model()
    states = hidden_states(model, tiny_tokenizer, corpora, bos=False, progress=False)
    expected = reference(model, tiny_tokenizer, TEXTS["piqa"][0])[:, 1:].mean(dim=1)
    np.testing.assert_allclose(states.vectors[0, :-1], expected[:-1], atol=2e-5)


def test_hooks_are_gone_after_an_error(tiny_model):
    model = tiny_model()
    with pytest.raises(RuntimeError, match="stop"), residual_stream(model, lambda *_: None):
        assert len(model.model.layers[0]._forward_pre_hooks) == 1
        raise RuntimeError("stop")
    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in model.model.layers)


def test_bad_input_is_refused_in_one_line(tiny_model, tiny_tokenizer, corpora):
    with pytest.raises(ValueError, match="median"):
        hidden_states(tiny_model(), tiny_tokenizer, corpora, pooling="median")
    with pytest.raises(ValueError, match="no texts"):
        hidden_states(tiny_model(), tiny_tokenizer, {})
    with pytest.raises(ValueError, match="method is one of umap, tsne, pca"):
        embed(clusters(), method="umapp", progress=False)
    broken = tiny_model()
    broken.model.layers[0].mlp.down_proj.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        hidden_states(broken, tiny_tokenizer, corpora, progress=False)


def clusters(n: int = 20, gap: float = 8.0) -> HiddenStates:
    """Two tasks that coincide in layer 0 and lie ``gap`` standard deviations apart in layer 1."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2 * n, 2, 6)).astype(np.float32)
    vectors[n:, 1] += gap
    return HiddenStates(vectors, np.array(["a"] * n + ["b"] * n), np.arange(2 * n).astype(str), {"model": "none"})


def test_states_save_load_and_print(tmp_path):
    states = clusters()
    states.save(tmp_path)
    loaded = HiddenStates.load(tmp_path)
    np.testing.assert_array_equal(loaded.vectors, states.vectors)
    np.testing.assert_array_equal(loaded.labels, states.labels)
    assert loaded.provenance == states.provenance and loaded.tasks == ["a", "b"]
    assert repr(loaded) == "HiddenStates(40 prompts, 1 layers and embeddings, 6 dimensions: a, b)"


def test_standardised_states_survive_a_constant_and_a_massive_dimension():
    states = clusters()
    states.vectors[:, 0, 0] = 3.0
    states.vectors[:, 0, 1] *= 1e4
    z = states.standardised(0)
    assert (z[:, 0] == 0).all()
    np.testing.assert_allclose(z[:, 1:].std(axis=0), 1)


@pytest.mark.parametrize("method", ["pca", "tsne", pytest.param("umap", marks=pytest.mark.slow)])  # compiles first
def test_embeddings_show_the_clusters_and_repeat(method):
    states = clusters()
    frame = embed(states, method=method, seed=1, progress=False)
    assert list(frame) == ["layer", "id", "task", "x", "y"] and len(frame) == 80
    layer = frame[frame["layer"] == 1]
    centres = layer.groupby("task")[["x", "y"]].mean()
    spread = layer.groupby("task")[["x", "y"]].std().max().max()
    assert np.linalg.norm(centres.loc["a"] - centres.loc["b"]) > 2 * spread
    again = embed(states, layers=[1], method=method, seed=1, progress=False)
    np.testing.assert_array_equal(again[["x", "y"]], layer[["x", "y"]])


def test_texts_without_tokens_are_skipped_with_their_labels_and_ids(tiny_model, tiny_tokenizer):
    texts = {"a": ("the otter", ""), "b": ("", "grey stone")}
    both = {task: Corpus(task, own, tuple(f"{task}{i}" for i in range(2)), {}) for task, own in texts.items()}
    with pytest.warns(UserWarning, match="2 of 4"):
        states = hidden_states(tiny_model(), tiny_tokenizer, both, progress=False)
    assert states.ids.tolist() == ["a0", "b1"] and states.labels.tolist() == ["a", "b"]
    assert states.provenance["skipped"] == 2 and len(states) == 2
