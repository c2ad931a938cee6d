"""2SSP (arXiv 2501.17771, FabrizioSandri/2SSP; its code as in the copy majing2019/2SSP @147c820).

First go, in every MLP, the channels with the smallest activations h_j over a text,
s_j = mean over texts of ‖h_j‖₂; then N attention modules, each time the module whose removal raises
perplexity least, with

    N = round(L·G^{(|MLP| / |attention|) / α}),  α = 1.5,

and the MLPs' share such that both together make the sparsity G. A module removed whole is bypassed: its
output bias goes too. Sizes are the projections'; the published code counts norms too.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import nn
from tqdm.auto import tqdm

from ... import store
from ...activations.statistics import ActivationStats, calibrate
from ...models import identity, layers, likelihood
from ...models.passes import affordable, encode
from ...models.shapes import Geometry
from ...settings import Calibration
from ...texts import corpora
from ..allocation import checked
from ..apply import prune
from ..masks import PruningMask, keep_all
from ..selection import lowest

ALPHA = 1.5  # 2SSP's balance between its stages
SECOND_STAGE_TOKENS = 2048  # whose perplexity decides; a sample of this length in the published code


def _spec(model, tokenizer, corpus: corpora.Corpus, calibration: Calibration) -> dict:
    known = identity.specification(model, tokenizer)
    return known | {"corpus": corpus.fingerprint, "calibration": calibration.as_dict()}


def attention_modules(g: Geometry, sparsity: float, alpha: float = ALPHA) -> int:
    """How many attention modules 2SSP removes (its Eq. 5)."""
    if alpha <= 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    return round(g.layers * checked(sparsity) ** (g.mlp_parameters / g.attention_parameters / alpha))


def first_stage(stats: ActivationStats, sparsity: float, alpha: float = ALPHA) -> PruningMask:
    """2SSP's channels: the same number in every layer; ``stats`` were collected with ``pooling="norm"``.

    The mask's ``requested`` is the MLPs' part of the whole request. Raises ``ValueError`` where the attention
    modules alone exceed the request, or where the MLPs cannot make up the rest.
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
    model: nn.Module,
    first: PruningMask,
    count: int,
    encoded: list[list[int]],
    mode: str = "remove",
    progress: bool = True,
) -> list[int]:
    """The ``count`` layers whose attention goes, in the order in which it goes.

    Each time that attention module goes without which the model pruned by ``first`` has the lowest
    perplexity on the texts ``encoded`` (token ids); ties go by index. ``model`` stays as it is; with
    ``mode="mask"`` none of its weights is copied either.
    """
    pruned, gone = prune(model, first, mode, share=True), []
    context = layers.context_length(model)
    items = [[(ids[:1], ids[1:])] for ids in encoded if len(ids) > 1]
    if count and not items:
        raise ValueError("2SSP's second stage needs a text of at least two tokens")
    plan = likelihood.plan(items, context, affordable(layers.input_device(model), SECOND_STAGE_TOKENS), share=False)
    bar = tqdm(total=count, desc="2SSP, second stage", unit="attention", leave=False, disable=not progress)
    decoder_layers, hidden = layers.decoder_layers(pruned), first.geometry.hidden
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
    model: nn.Module,
    tokenizer,
    stats: ActivationStats,
    corpus: corpora.Corpus,
    sparsity: float,
    alpha: float = ALPHA,
    tokens: int = SECOND_STAGE_TOKENS,
    mode: str = "remove",
    progress: bool = True,
) -> PruningMask:
    """2SSP's mask: ``stats`` of ``corpus`` (``pooling="norm"``) choose channels, the first ``tokens`` tokens attention.

    Texts are taken in order, each with a context of its own, until they have so many tokens.
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


def stored_two_stage(
    model: nn.Module, tokenizer, general: str, calibration: Calibration, sparsity: float, mode: str
) -> PruningMask:
    """:func:`two_stage` on a ``general`` text drawn as ``calibrate`` draws it, asking the store first."""
    calibration = replace(calibration, pooling="norm")
    stats = calibrate(model, tokenizer, [general], calibration)[general]
    corpus = corpora.corpus(general, calibration.samples, calibration.seed)
    spec = _spec(model, tokenizer, corpus, calibration) | {"attention": model.config._attn_implementation}
    spec |= {"method": "2SSP", "sparsity": sparsity, "alpha": ALPHA, "tokens": SECOND_STAGE_TOKENS}
    make = partial(two_stage, model, tokenizer, stats, corpus, sparsity, mode=mode if mode == "mask" else "remove")
    return store.fetch("masks", spec, make, PruningMask)
