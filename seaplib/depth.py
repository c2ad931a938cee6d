"""Layers and attention modules removed whole: ShortGPT and 2SSP.

ShortGPT (arXiv 2403.03853): a layer's block influence is how far it turns the residual stream x,

    BI_ℓ = 1 − mean over tokens of cos(x_ℓ, x_ℓ₊₁),

and the layers of least influence go. 2SSP (arXiv 2501.17771, FabrizioSandri/2SSP; its code as in the
copy majing2019/2SSP @147c820): first, in every MLP, the channels whose activations h_j over a text
are smallest, s_j = mean over texts of ‖h_j‖₂; then N attention modules,
each time the one whose removal raises perplexity least, with

    N = round(L·G^{(|MLP| / |attention|) / α}),  α = 1.5,

and the MLPs' share such that both together make the sparsity G. What is removed whole is bypassed:
its output bias goes too. Sizes are those of the projections; the published code counts norms too.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from tqdm.auto import tqdm

from . import corpora, layers, likelihood, models, store
from .activations import ActivationStats, calibrate
from .batching import affordable, batches
from .encoding import encode
from .hidden_states import residual_stream
from .masks import PruningMask, keep_all, lowest
from .pruning import Variant, prune
from .settings import Calibration
from .shapes import Geometry

ALPHA = 1.5  # 2SSP's balance between its stages
SECOND_STAGE_TOKENS = 2048  # of the text whose perplexity decides; one sample of this length in the published code


@dataclass(frozen=True)
class BlockInfluence:
    """``values`` float64 [layers]: BI of every layer; ``count`` token positions were averaged."""

    geometry: Geometry
    values: torch.Tensor
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
    model, tokenizer, corpus: corpora.Corpus, calibration: Calibration | None = None, progress: bool = True
) -> BlockInfluence:
    """Block influence of every layer on a corpus' first ``calibration.samples`` texts, in one pass.

    Raises ``ValueError`` where hidden states are not finite, and for a post-norm model, whose layers
    are not the identity without their modules.
    """
    calibration = calibration or Calibration(samples=max(len(corpus), 1))
    shape, decoder_layers = models.geometry(model), models.decoder_layers(model)
    if not all(map(layers.is_bypassable, decoder_layers)):
        raise ValueError("this model's norms stand on the residual stream (post-norm), so no mask can remove a layer")
    texts = corpus.first(calibration.samples)
    encoded = encode(model, tokenizer, texts.texts, calibration.max_length).ids
    skip = not calibration.bos and all(ids[0] == tokenizer.bos_token_id for ids in encoded)
    total, before, keep = torch.zeros(shape.layers, dtype=torch.float64), None, None

    def read(layer: int, x: torch.Tensor) -> None:
        nonlocal before
        x = x[keep.to(x.device)]
        x = x if x.dtype == torch.float64 else x.float()
        if layer:
            cosine = torch.nn.functional.cosine_similarity(before.to(x.device), x, dim=-1)
            total[layer - 1] += cosine.double().sum().cpu()
        before = x

    count, device = 0, models.input_device(model)
    bar = tqdm(total=len(encoded), desc=f"block influence on {corpus.task}", leave=False, disable=not progress)
    with torch.inference_mode(), residual_stream(model, read), bar:
        for ids, mask, rows in batches(encoded, calibration.batch_tokens, device):
            keep = mask.bool()
            if skip:
                keep[:, 0] = False
            count += int(keep.sum())
            models.decoder(model)(input_ids=ids, attention_mask=mask, use_cache=False)
            bar.update(len(rows))
    if not count:
        raise ValueError("every text consists of the BOS token alone, so nothing is left without it")
    if not torch.isfinite(total).all():
        raise ValueError(f"{corpus.task}: the model's hidden states are not finite (NaN or Inf)")
    provenance = {"task": corpus.task, "model": models.fingerprint(model), "corpus": texts.fingerprint}
    return BlockInfluence(shape, 1 - total / count, count, provenance | {"calibration": calibration.as_dict()})


def influence(model, tokenizer, task: str, calibration: Calibration | None = None) -> BlockInfluence:
    """:func:`measure_influence` on a task's corpus drawn as ``calibrate`` draws it, asking the store first."""
    calibration = calibration or Calibration()
    corpus = corpora.corpus(task, calibration.samples, calibration.seed)
    make = partial(measure_influence, model, tokenizer, corpus, calibration)
    return store.fetch("influence", _spec(model, tokenizer, corpus, calibration), make, BlockInfluence)


def _spec(model, tokenizer, corpus: corpora.Corpus, calibration: Calibration) -> dict:
    return {
        "model": models.fingerprint(model),
        "tokenizer": models.tokenizer_fingerprint(tokenizer),
        "corpus": corpus.fingerprint,
        "calibration": calibration.as_dict(),
    }


def _checked(sparsity: float) -> float:
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must lie in [0, 1), got {sparsity}")
    return sparsity


def shortgpt(block: BlockInfluence, sparsity: float) -> PruningMask:
    """Without the layers of least influence, their number the one nearest the budget (half a layer goes up).

    ``achieved`` is a multiple of one layer's share, so it can miss the request by half of that; one
    layer always stays.
    """
    g = block.geometry
    count = min(int(_checked(sparsity) * g.layers + 0.5), g.layers - 1)
    stays = lowest(block.values, count)
    heads, channels = stays[:, None].repeat(1, g.heads), stays[:, None].repeat(1, g.channels)
    about = {"score": "BI", "calibration": block.provenance.get("task", "?"), "requested": sparsity}
    return PruningMask(g, heads, channels, about | {"allocation": "layers", "budget": "nearest"}, bypass=True)


def attention_modules(g: Geometry, sparsity: float, alpha: float = ALPHA) -> int:
    """How many attention modules 2SSP removes (its Eq. 5)."""
    if alpha <= 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    return round(g.layers * _checked(sparsity) ** (g.mlp_parameters / g.attention_parameters / alpha))


def first_stage(stats: ActivationStats, sparsity: float, alpha: float = ALPHA) -> PruningMask:
    """2SSP's channels: the same number in every layer; ``stats`` were collected with ``pooling="norm"``.

    Its ``requested`` is the MLPs' part of the whole request. Raises ``ValueError`` where the attention
    modules alone exceed the request, or the MLPs together cannot make up the rest of it.
    """
    if stats.provenance.get("calibration", {}).get("pooling") != "norm":
        raise ValueError("2SSP ranks channels by their norms: collect the statistics with pooling='norm'")
    g = stats.geometry
    rest = sparsity * g.projection_parameters - attention_modules(g, sparsity, alpha) * g.attention_parameters
    share = rest / (g.layers * g.mlp_parameters)
    gone = round(share * g.channels)
    if not 0 <= gone < g.channels:
        raise ValueError(
            f"2SSP cannot reach {sparsity:.0%} here: its attention modules leave {share:.0%} of every MLP to remove; "
            "choose another sparsity or alpha"
        )
    channels = torch.stack([lowest(row, gone) for row in stats.mean["mlp"]])
    about = {"score": "norm", "calibration": stats.provenance.get("task", "?")}
    about |= {"requested": rest / g.projection_parameters, "allocation": "uniform", "budget": "nearest"}
    return replace(keep_all(g), channels=channels, provenance=about)


@torch.inference_mode()
def second_stage(
    model,
    first: PruningMask,
    count: int,
    encoded: list[list[int]],
    mode: str = "remove",
    progress: bool = True,
) -> list[int]:
    """The ``count`` layers whose attention goes, in the order in which it goes.

    Each time it is the one without which the model pruned by ``first`` has the lowest perplexity on
    the texts ``encoded`` (token ids); ties go by index. ``model`` itself is not touched; with
    ``mode="mask"`` no weight of it is copied either.
    """
    pruned, gone = prune(model, first, mode), []
    context = models.context_length(model)
    items = [[(ids[:1], ids[1:])] for ids in encoded if len(ids) > 1]
    if count and not items:
        raise ValueError("2SSP's second stage needs a text of at least two tokens")
    plan = likelihood.plan(items, context, affordable(models.input_device(model), SECOND_STAGE_TOKENS), share=False)
    bar = tqdm(total=count, desc="2SSP, second stage", unit="attention", leave=False, disable=not progress)
    decoder_layers, hidden = models.decoder_layers(pruned), first.geometry.hidden
    with bar:
        for _ in range(count):
            losses = {}
            for index in (i for i in range(len(decoder_layers)) if i not in gone):
                with layers.without_attention(decoder_layers[index], index, hidden):
                    losses[index] = -float(likelihood.score(pruned, plan)[0].sum())
            gone.append(min(losses, key=losses.get))
            layers.empty(decoder_layers[gone[-1]], "attention", gone[-1], hidden, None)
            bar.update()
    return gone


def two_stage(
    model,
    tokenizer,
    stats: ActivationStats,
    corpus: corpora.Corpus,
    sparsity: float,
    alpha: float = ALPHA,
    tokens: int = SECOND_STAGE_TOKENS,
    mode: str = "remove",
    progress: bool = True,
) -> PruningMask:
    """2SSP's mask: ``stats`` of ``corpus`` (``pooling="norm"``) choose channels, its first ``tokens`` tokens attention.

    The texts are taken in their order, each with its own context, until they have that many tokens.
    ``mode`` is how the second stage applies the first (:func:`second_stage`).
    """
    first = first_stage(stats, sparsity, alpha)
    encoded = encode(model, tokenizer, corpus.texts, tokens).ids
    chosen, room = [], tokens
    for ids in encoded:
        chosen.append(ids[:room])
        room -= len(chosen[-1])
        if room < 2:
            break
    count = attention_modules(first.geometry, sparsity, alpha)
    gone = second_stage(model, first, count, chosen, mode, progress)
    heads = first.heads.clone()
    heads[gone] = False
    about = first.provenance | {"requested": sparsity, "allocation": "two stages", "attention_removed": gone}
    return PruningMask(first.geometry, heads, first.channels, about | {"alpha": alpha, "tokens": tokens}, bypass=True)


@dataclass(frozen=True)
class DepthMethod:
    """A row of a table whose mask is made by one of this module's functions; labelled as a ``Method`` is."""

    name: str
    score: str
    allocation: str

    def label(self, seed: int) -> dict:
        about = {"method": self.name, "score": self.score, "allocation": self.allocation, "budget": "nearest"}
        return about | {"calibration": "general", "calibration_seed": seed}


SHORTGPT = DepthMethod("ShortGPT", "BI", "layers")
TWO_STAGE = DepthMethod("2SSP", "norm", "two stages")
DEPTH = (SHORTGPT, TWO_STAGE)


def variants(
    model,
    tokenizer,
    sparsities: Iterable[float],
    general: str,
    calibration: Calibration | None = None,
    methods: Iterable[DepthMethod] = DEPTH,
    mode: str = "remove",
) -> list[Variant]:
    """One variant per method and sparsity, calibrated on the ``general`` text; statistics and masks are stored.

    ``mode`` is how each mask is applied (``prune``): "mask" where the model fits in memory only once.
    """
    calibration = calibration or Calibration()
    out = []
    for method in methods:
        for sparsity in sparsities:
            if method == SHORTGPT:
                mask = shortgpt(influence(model, tokenizer, general, calibration), sparsity)
            else:
                mask = _stored_two_stage(model, tokenizer, general, calibration, sparsity, mode)
            out.append(Variant(method.label(calibration.seed), mask, mode))
    return out


def _stored_two_stage(
    model, tokenizer, general: str, calibration: Calibration, sparsity: float, mode: str
) -> PruningMask:
    calibration = replace(calibration, pooling="norm")
    stats = calibrate(model, tokenizer, [general], calibration)[general]
    corpus = corpora.corpus(general, calibration.samples, calibration.seed)
    spec = _spec(model, tokenizer, corpus, calibration) | {"attention": model.config._attn_implementation}
    spec |= {"method": "2SSP", "sparsity": sparsity, "alpha": ALPHA, "tokens": SECOND_STAGE_TOKENS}
    make = partial(two_stage, model, tokenizer, stats, corpus, sparsity, mode=mode if mode == "mask" else "remove")
    return store.fetch("masks", spec, make, PruningMask)
