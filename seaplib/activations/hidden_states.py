"""Hidden states h(P) of prompts, layer by layer (Fig. 1), and their two-dimensional embeddings.

A prompt's state after layer ℓ is the mean over its tokens (or its last token) of the residual
stream there; layer 0 is what enters the first layer, the embeddings. The final norm, which belongs
to the LM head, is not applied.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, Shaped
from safetensors.numpy import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from .. import files
from ..models import identity, layers
from ..models.passes import batches, encode, residual_stream
from ..texts.corpora import Corpus

POOLINGS = ("mean", "last")
METHODS = ("umap", "tsne", "pca")
MAX_LENGTH = 2048  # tokens of a text


@dataclass(frozen=True)
class HiddenStates:
    """Pooled states of N prompts: ``vectors`` float32 [N, layers + 1, hidden], a task and an id for each."""

    vectors: Float32[np.ndarray, "prompts states hidden"]
    labels: Shaped[np.ndarray, " prompts"]  # task names
    ids: Shaped[np.ndarray, " prompts"]  # row ids
    provenance: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.vectors)

    def __repr__(self) -> str:
        _, layers, hidden = self.vectors.shape
        tasks = ", ".join(self.tasks)
        return f"HiddenStates({len(self)} prompts, {layers - 1} layers and embeddings, {hidden} dimensions: {tasks})"

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(self.labels.tolist()))

    @property
    def layers(self) -> range:
        return range(self.vectors.shape[1])

    def standardised(self, layer: int) -> Float64[np.ndarray, "prompts hidden"]:
        """A layer's states [N, hidden] with mean 0 and variance 1 in every dimension (0 in a constant one).

        Otherwise distances would be those of the few dimensions with massive activations.
        """
        x = self.vectors[:, layer].astype(np.float64)
        scale = x.std(axis=0)
        return np.divide(x - x.mean(axis=0), scale, out=np.zeros_like(x), where=scale > 1e-12)

    def save(self, directory: Path) -> None:
        save_file({"vectors": np.ascontiguousarray(self.vectors)}, Path(directory) / "vectors.safetensors")
        about = {"labels": self.labels.tolist(), "ids": self.ids.tolist(), "provenance": self.provenance}
        (Path(directory) / "states.json").write_text(json.dumps(about), encoding="utf-8")

    @classmethod
    @files.loader("set of hidden states")
    def load(cls, directory: Path) -> "HiddenStates":
        about = json.loads((Path(directory) / "states.json").read_text(encoding="utf-8"))
        vectors = load_file(Path(directory) / "vectors.safetensors")["vectors"]
        return cls(vectors, np.array(about["labels"]), np.array(about["ids"]), about["provenance"])


def hidden_states(
    model,
    tokenizer,
    corpora: Mapping[str, Corpus],
    pooling: str = "mean",
    bos: bool = True,
    batch_tokens: int = 8192,
    progress: bool = True,
) -> HiddenStates:
    """Pooled :class:`HiddenStates` of all texts of every task's corpus: a vector per prompt and layer.

    ``pooling="mean"`` averages a prompt's tokens (padding excluded), ``"last"`` takes the last token.
    ``bos=False`` leaves the BOS position out of the mean: its state is the same for every prompt,
    so its share tells the prompt's length. Only pooled vectors are kept, never all tokens. Texts that
    tokenise to nothing are skipped and counted.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling is one of {', '.join(POOLINGS)}, got {pooling!r}")
    texts = [text for corpus in corpora.values() for text in corpus.texts]
    if not texts:
        raise ValueError("no texts: every corpus is empty")
    encoded = encode(model, tokenizer, texts, MAX_LENGTH, bos)
    kept, shape = encoded.kept, (len(encoded.ids), len(layers.decoder_layers(model)) + 1, model.config.hidden_size)
    vectors = np.empty(shape, dtype=np.float32)
    rows, weight = [], None  # of the batch that is running

    def pool(layer: int, x: Tensor) -> None:
        vectors[rows, layer] = torch.einsum("bt,bth->bh", weight.to(x.device), x.float()).cpu().numpy()

    with residual_stream(model, pool):
        for batch in batches(encoded, layers.input_device(model), batch_tokens, "hidden states", progress):
            rows, weight = batch.rows, _pooling_weights(batch.mask, batch.keep, pooling)
            batch.run(model)
    if not np.isfinite(vectors).all():
        raise ValueError("the model's hidden states are not finite (NaN or Inf)")
    provenance = {
        "model": identity.fingerprint(model),
        "corpora": {task: corpus.fingerprint for task, corpus in corpora.items()},
        "pooling": pooling,
        "bos": bos,
        "max_length": MAX_LENGTH,
        "tokens": sum(map(len, encoded.ids)),
        "truncated": encoded.truncated,
        "skipped": len(texts) - len(kept),
    }
    labels = np.array([task for task, corpus in corpora.items() for _ in corpus.texts])
    ids = np.array([i for corpus in corpora.values() for i in corpus.ids])
    return HiddenStates(vectors, labels[kept], ids[kept], provenance)


def _pooling_weights(
    mask: Int[Tensor, "batch tokens"], keep: Bool[Tensor, "batch tokens"], pooling: str
) -> Float[Tensor, "batch tokens"]:
    """Weights [batch, tokens] that sum to 1 over the positions that count."""
    if pooling == "last":
        return torch.nn.functional.one_hot(mask.sum(1) - 1, mask.shape[1]).float()
    weight = keep.float()
    return weight / weight.sum(1, keepdim=True)


def embed(
    states: HiddenStates, layers=None, method: str = "umap", seed: int = 0, progress: bool = True, **options
) -> pd.DataFrame:
    """Two-dimensional embeddings of standardised states, each layer by itself: layer, id, task, x, y.

    ``method`` is ``umap``, ``tsne`` or ``pca``; ``options`` go to its class. All start from the
    same seed and the PCA of the layer, so that a rerun gives the same picture. Distances between
    clusters of UMAP and t-SNE mean little: measure with ``separability``.
    """
    frames = []
    for layer in tqdm(list(states.layers if layers is None else layers), desc=method, unit="layer", leave=False,
                      disable=not progress):  # fmt: skip
        points = _reducer(method, len(states), seed, options).fit_transform(states.standardised(layer))
        frame = pd.DataFrame({"layer": layer, "id": states.ids, "task": states.labels})
        frames.append(frame.assign(x=points[:, 0].astype(float), y=points[:, 1].astype(float)))
    return pd.concat(frames, ignore_index=True)


def _reducer(method: str, n: int, seed: int, options: dict):
    if method == "umap":
        import umap  # takes seconds to import

        defaults = {"n_neighbors": min(15, n - 1), "init": "pca", "n_jobs": 1}
        return umap.UMAP(random_state=seed, **defaults | options)
    if method == "tsne":
        from sklearn.manifold import TSNE

        return TSNE(random_state=seed, **{"perplexity": min(30, (n - 1) / 3), "init": "pca"} | options)
    if method == "pca":
        from sklearn.decomposition import PCA

        return PCA(n_components=2, random_state=seed, **options)
    raise ValueError(f"method is one of {', '.join(METHODS)}, got {method!r}")
