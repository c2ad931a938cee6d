"""ShortGPT (arXiv 2403.03853): the layers of least block influence are removed whole.

A layer's block influence is how far it turns the residual stream x,

    BI_ℓ = 1 − mean over tokens of cos(x_ℓ, x_ℓ₊₁).

A removed layer is bypassed: its output biases go too.
"""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ... import store
from ...models import identity, layers
from ...models.passes import batches, encode, real, residual_stream
from ...models.shapes import Geometry
from ...settings import Calibration
from ...texts import corpora
from ..allocation import checked
from ..masks import PruningMask
from ..selection import lowest
from .two_ssp import _spec


@dataclass(frozen=True)
class BlockInfluence:
    """Block influence ``values`` of every layer, float64; ``count`` token positions were averaged."""

    geometry: Geometry
    values: Float[Tensor, " layers"]
    count: int
    provenance: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        order = ", ".join(map(str, torch.argsort(self.values, stable=True)[:4].tolist()))
        return f"BlockInfluence({self.provenance.get('task', '?')}: {self.count:,} tokens, least in layers {order})"

    def save(self, directory: Path) -> None:
        about = {"geometry": self.geometry.as_dict(), "values": self.values.tolist(), "count": self.count}
        (Path(directory) / "influence.json").write_text(json.dumps(about | {"provenance": self.provenance}, indent=1))

    @classmethod
    def load(cls, directory: Path) -> "BlockInfluence":
        about = json.loads((Path(directory) / "influence.json").read_text())
        values = torch.tensor(about["values"], dtype=torch.float64)
        return cls(Geometry(**about["geometry"]), values, about["count"], about["provenance"])


def measure_influence(
    model: nn.Module, tokenizer, corpus: corpora.Corpus, calibration: Calibration | None = None, progress: bool = True
) -> BlockInfluence:
    """Block influence of every layer on the first ``calibration.samples`` texts of a corpus, in a single pass.

    Raises ``ValueError`` where hidden states are not finite, and for a post-norm model, whose layers
    are not the identity without their modules.
    """
    calibration = calibration or Calibration(samples=max(len(corpus), 1))
    shape, decoder_layers = layers.geometry(model), layers.decoder_layers(model)
    if not all(map(layers.is_bypassable, decoder_layers)):
        raise ValueError("this model's norms stand on the residual stream (post-norm), so no mask can remove a layer")
    texts = corpus.first(calibration.samples)
    encoded = encode(model, tokenizer, texts.texts, calibration.max_length, calibration.bos)
    total, before, keep = torch.zeros(shape.layers, dtype=torch.float64), None, None

    def read(layer: int, x: Float[Tensor, "batch tokens hidden"]) -> None:
        nonlocal before
        x = real(x, keep)
        x = x if x.dtype == torch.float64 else x.float()
        if layer:
            cosine = torch.nn.functional.cosine_similarity(before.to(x.device), x, dim=-1)
            total[layer - 1] += cosine.double().sum().cpu()
        before = x

    count, described = 0, f"block influence on {corpus.task}"
    with residual_stream(model, read):
        for batch in batches(encoded, layers.input_device(model), calibration.batch_tokens, described, progress):
            keep = batch.keep
            count += int(keep.sum())
            batch.run(model)
    if not torch.isfinite(total).all():
        raise ValueError(f"{corpus.task}: the model's hidden states are not finite (NaN or Inf)")
    provenance = {"task": corpus.task, "model": identity.fingerprint(model), "corpus": texts.fingerprint}
    return BlockInfluence(shape, 1 - total / count, count, provenance | {"calibration": calibration.as_dict()})


def influence(model: nn.Module, tokenizer, task: str, calibration: Calibration | None = None) -> BlockInfluence:
    """:func:`measure_influence` on a task's corpus drawn as ``calibrate`` draws it, asking the store first."""
    calibration = calibration or Calibration()
    corpus = corpora.corpus(task, calibration.samples, calibration.seed)
    make = partial(measure_influence, model, tokenizer, corpus, calibration)
    return store.fetch("influence", _spec(model, tokenizer, corpus, calibration), make, BlockInfluence)


def shortgpt(block: BlockInfluence, sparsity: float) -> PruningMask:
    """The mask without the layers of least influence; their number is nearest the budget (half a layer goes up).

    ``achieved`` is a multiple of a layer's share and can miss the request by half that share. At least one
    layer stays.
    """
    g = block.geometry
    count = min(int(checked(sparsity) * g.layers + 0.5), g.layers - 1)
    stays = lowest(block.values, count)
    heads, channels = stays[:, None].repeat(1, g.heads), stays[:, None].repeat(1, g.channels)
    about = {"score": "BI", "calibration": block.provenance.get("task", "?"), "requested": sparsity}
    return PruningMask(g, heads, channels, about | {"allocation": "layers", "budget": "nearest"}, bypass=True)
