"""GRIFFIN: MLP channels chosen by the prompt itself, for the generation that follows it (arXiv 2404.01365).

The prompt runs through the dense model. From the prompt's MLP activations Z [tokens, channels] each layer takes

    s = (‖Z̄_·1‖₂, …, ‖Z̄_·C‖₂),   Z̄ = Z with every token's row scaled to norm 1,

and the k channels with the largest s serve all tokens generated after the prompt. Attention stays whole.

GRIFFIN prunes no model: every prompt has channels of its own, all weights stay in memory, and the prompt
costs as much as under the dense model. The number of *active* parameters falls while generating; that
number is reported, and the memory saved is 0. Channels are set to zero (the same result as smaller
matrices, to rounding), so nothing here gets faster. In a batch each sequence keeps its own channels, as if
the sequence were alone; the published code (hdong920/GRIFFIN @48dc8ec) takes a single sequence at a time.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...models import layers, likelihood, passes
from ...models.layers import emptied
from ...models.shapes import Geometry
from ...models.state import note, state
from ..allocation import checked

#: how :class:`Prompted` scores, which beside Table 1's rows is another protocol
PROTOCOL = "prompt dense; its last token and the answer with the channels that the tokens before chose"


def statistic(
    activations: Float[Tensor, "batch tokens channels"], keep: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch channels"]:
    """s of ``activations`` at the positions ``keep``; a token whose activations are all 0 adds nothing."""
    x = activations if activations.dtype == torch.float64 else activations.float()
    norm = x.norm(dim=-1, keepdim=True)
    rows = torch.where((norm > 0) & keep.unsqueeze(-1), x / norm, 0)
    return rows.norm(dim=1)


def largest_sparsity(geometry: Geometry) -> float:
    """The largest share of the projections' parameters that can be inactive: all but a channel of every layer."""
    return inactive_share(geometry, 1)


def active_channels(geometry: Geometry, sparsity: float) -> int:
    """k: with k channels a layer, the inactive share of the projections' parameters is nearest ``sparsity``.

    Raises ``ValueError`` where the MLPs do not have so many parameters.
    """
    gone = round(checked(sparsity) * geometry.projection_parameters / (geometry.layers * geometry.channel_parameters))
    if gone >= geometry.channels:
        raise ValueError(
            f"GRIFFIN touches MLPs only: {sparsity:.0%} cannot be inactive here, "
            f"the largest possible is {largest_sparsity(geometry):.1%}"
        )
    return geometry.channels - gone


def inactive_share(geometry: Geometry, channels: int) -> float:
    """Share of the projections' parameters that is inactive while generating with ``channels`` per layer."""
    off = geometry.layers * (geometry.channels - channels) * geometry.channel_parameters
    return off / geometry.projection_parameters


class Selection:
    """The channels that the current prompts chose, as :func:`griffin` yields them.

    ``chosen[layer]`` is bool [batch, channels] after a prompt has run. Without ``prompt``, the first pass
    with an empty KV cache is the prompt, and all passes on that cache are generation. With ``prompt``
    [batch], that many leading positions of the next passes are the prompt, and the positions behind them
    are generation within the same pass.
    """

    def __init__(self, geometry: Geometry, channels: int):
        self.geometry, self.channels = geometry, channels
        self.chosen: dict[int, Bool[Tensor, "batch channels"]] = {}
        self.prompt: Int[Tensor, " batch"] | None = None
        self._shape: tuple[int, int] = (0, 0)
        self._generating = False
        self._keep: Bool[Tensor, "batch tokens"] | None = None

    @property
    def active_parameters(self) -> int:
        """Parameters that a generated token is computed with; the inactive parameters stay in memory too."""
        g = self.geometry
        return g.model_parameters - g.layers * (g.channels - self.channels) * g.channel_parameters

    def start(self, ids: Int[Tensor, "batch tokens"], mask, cache, use_cache: bool | None) -> None:
        """Note whether the pass that begins is prompt or generation, and which positions are padding."""
        self._shape = tuple(ids.shape)
        places = torch.arange(ids.shape[1], device=ids.device)
        if self.prompt is not None:
            if len(self.prompt) != len(ids) or int(self.prompt.min()) < 1 or int(self.prompt.max()) > ids.shape[1]:
                raise ValueError("every sequence needs a prompt of at least one token for GRIFFIN to choose from")
            self._keep, self._generating = places < self.prompt.to(ids.device)[:, None], False
            return
        if use_cache is False:
            raise ValueError("GRIFFIN acts between a prompt and what is generated on its KV cache; leave the cache on")
        self._generating = cache is not None and int(cache.get_seq_length()) > 0
        if self._generating and len(next(iter(self.chosen.values()), ())) != len(ids):
            raise ValueError("the prompt of this generation was not run inside the GRIFFIN context")
        if self._generating:
            return
        if mask is not None and not (torch.is_tensor(mask) and mask.dim() == 2):
            raise ValueError("GRIFFIN tells padding from an attention mask [batch, tokens]; use the dynamic cache")
        whole = torch.ones(self._shape, dtype=torch.bool, device=ids.device)
        self._keep = whole if mask is None else mask.bool()[:, -ids.shape[1] :]

    def through(self, layer: int, x: Float[Tensor, "*positions channels"]) -> Float[Tensor, "*positions channels"]:
        """Activations ``x`` of a layer's MLP, zero in the channels that the prompt did not choose."""
        flat = x.dim() == 2  # OPT's MLP sees all positions in one row
        x = x.unflatten(0, self._shape) if flat else x
        if self._generating:
            x = x * self.chosen[layer].to(x.device)[:, None]
        else:
            keep = self._keep.to(x.device)
            best = torch.argsort(statistic(x, keep), dim=-1, descending=True, stable=True)[:, : self.channels]
            chosen = torch.zeros(len(x), x.shape[-1], dtype=torch.bool, device=x.device).scatter_(1, best, True)
            self.chosen[layer] = chosen
            if self.prompt is not None:
                x = x * (chosen[:, None] | keep[..., None])
        return x.flatten(0, 1) if flat else x


@contextmanager
def griffin(model: nn.Module, channels: int) -> Iterator[Selection]:
    """While the context is open, ``model`` generates with the ``channels`` per layer that each prompt chooses.

    Works with ``model.generate``, and with passes on a KV cache that were begun inside the context.
    Afterwards, also after an error, the model is exactly as before. The model's fingerprint changes with
    the context, so stored results are never mistaken for the dense model's.
    """
    shape = layers.geometry(model)
    if not 1 <= channels <= shape.channels:
        raise ValueError(f"channels must lie between 1 and {shape.channels}, got {channels}")
    before = state(model).sparse
    if "griffin" in before:
        raise ValueError("GRIFFIN is at work already; leave the context that made it so")
    selection = Selection(shape, channels)

    def begin(module, args, kwargs):
        ids = args[0] if args else kwargs.get("input_ids")
        if ids is None:
            raise ValueError("GRIFFIN follows token ids; run the model on input_ids, not on embeddings")
        cache = kwargs.get("past_key_values")
        selection.start(ids, kwargs.get("attention_mask"), cache, kwargs.get("use_cache"))

    def choose(index, module, args):
        return (selection.through(index, args[0]), *args[1:])

    with ExitStack() as undo:
        undo.callback(note, model, sparse=before)
        note(model, sparse=before | {"griffin": channels})
        undo.callback(layers.decoder(model).register_forward_pre_hook(begin, with_kwargs=True).remove)
        for index, layer in enumerate(layers.decoder_layers(model)):
            if "mlp" not in emptied(layer):
                down = layers.linear(layer, "down")
                undo.callback(down.register_forward_pre_hook(partial(choose, index)).remove)
        yield selection


@dataclass(frozen=True)
class Griffin:
    """GRIFFIN as a variant for :func:`seaplib.evaluate`, in place of a mask.

    ``sparsity`` is the share of the projections' parameters that is inactive while generating; a ValueError
    says where the MLPs do not have so many. Nothing is removed, so both achieved sparsities of the label are 0;
    ``inactive_sparsity``, a column that other rows do not have, is what a generated token does without.
    """

    geometry: Geometry
    sparsity: float
    tasks: tuple[str, ...] | None = None

    def __post_init__(self):
        active_channels(self.geometry, self.sparsity)

    @property
    def channels(self) -> int:
        """Active channels of every layer."""
        return active_channels(self.geometry, self.sparsity)

    @property
    def label(self) -> dict:
        """The columns that name GRIFFIN's rows."""
        return {
            "method": "GRIFFIN",
            "score": "prompt",
            "allocation": "uniform",
            "budget": "active",
            "requested_sparsity": self.sparsity,
            "calibration": "prompt",
            "inactive_sparsity": inactive_share(self.geometry, self.channels),
        }

    @property
    def fingerprint(self) -> str:
        """What is done to a model, for the store."""
        return f"griffin {self.channels}"

    def apply(self, model: nn.Module) -> "Prompted":
        """``model`` under GRIFFIN. ValueError where the channels were counted for a model of another shape."""
        if (here := layers.geometry(model)) != self.geometry:
            raise ValueError(f"GRIFFIN's channels were counted for another model: {self.geometry} against {here}")
        return Prompted(model, self.channels)


@dataclass(frozen=True)
class Prompted:
    """A model under GRIFFIN for the evaluation, which it answers by the protocol :data:`PROTOCOL`.

    Every option of an item is scored by itself. As the published code does for classification, the last
    token of the context belongs to generation: otherwise an answer's first token, often the only token, would
    be the dense model's. Answers that are written are generated on the dense prompt's cache. Raises
    ``ValueError`` for a context of one token, which leaves no prompt to choose from.
    """

    model: nn.Module
    channels: int

    def answer(self, bench, prepared) -> pd.DataFrame:
        """Item results of the prepared requests of a task."""
        with griffin(self.model, self.channels) as selection:
            if not prepared.batches:
                return bench.written(prepared, self.model)
            return bench.measured(prepared, *option_scores(bench, prepared, selection))


def option_scores(
    bench, prepared, selection: Selection
) -> tuple[Float[np.ndarray, " requests"], Bool[np.ndarray, " requests"]]:
    """Log-probability of every request, and whether the request is the greedy continuation; a request a row."""
    requests = bench.requests(prepared.instances)
    tokens = passes.affordable(layers.input_device(bench.model), bench.settings.batch_tokens)
    total = sum(map(len, requests))
    sums, greedy = np.zeros(total), np.ones(total, dtype=bool)
    for batch in likelihood.plan(requests, bench.max_length, tokens, share=False):
        # the first column asked for reads the context's last token: what stands before it is the prompt
        first = torch.full((len(batch.ids),), batch.ids.shape[1]).scatter_reduce(0, batch.row, batch.column, "amin")
        selection.prompt = first
        logprob, likeliest = likelihood.token_logprobs(bench.model, batch)
        np.add.at(sums, batch.owner.numpy(), logprob.double().cpu().numpy())
        np.logical_and.at(greedy, batch.owner.numpy(), likeliest.cpu().numpy())
    if np.isnan(sums).any():
        raise ValueError(passes.DAMAGED)
    return sums, greedy
