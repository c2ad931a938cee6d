"""A model that answers every prompt with the expert for the prompt's task: :class:`ExpertModel`.

The dense model is in memory once (:mod:`seaplib.experts.cache`), a router names the expert
(:mod:`seaplib.experts.router`), the prompts of a batch are grouped by expert, and results come in order.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from .. import files, paths, store
from ..activations.covariances import Covariances, WeightedCovariances
from ..evaluation.accuracy import name_of
from ..evaluation.lm_eval import Bench, Prepared
from ..models import architectures, identity
from ..models.loading import load
from ..models.state import ModelState, state
from ..pruning.masks import PruningMask
from .cache import WHOLE, ExpertCache
from .router import GENERAL, Router, embed_ids

MEANS = "compensation.safetensors"


class ExpertModel(nn.Module):
    """A causal language model that answers every prompt with the expert that the router chooses.

    ``masks`` maps experts (named by the task whose corpus made them) and ``general`` to masks of ``model``;
    the model stays as it is. ``budget_bytes`` bounds the experts' own tensors (default: room for all);
    ``compensation`` maps experts to the compensation that :func:`seaplib.prune` takes. Raises ``ValueError`` as
    :class:`~seaplib.experts.cache.ExpertCache` does, for the router of another model, and for a router that
    names an expert without a mask.

    ``forward`` and ``generate`` take ``experts``, a name for all rows or a name per row; ``"dense"`` is a name
    too. Without ``experts`` the names of :meth:`using` count, else the router decides from the row's tokens.
    """

    def __init__(
        self,
        model,
        tokenizer,
        masks: Mapping[str, PruningMask],
        router: Router | None = None,
        budget_bytes: int | None = None,
        compensation: Mapping[str, dict] | None = None,
        provenance: dict | None = None,
    ):
        super().__init__()
        if state(model).sparse:
            raise ValueError("the model's inputs are sparse already; experts are cut from the dense model")
        wanted = {*router.classes, GENERAL} if router else set()
        if lacking := sorted(wanted - set(masks)):
            raise ValueError(f"the router may answer {', '.join(lacking)}, for which there is no mask")
        if router and len(router.mean) != (width := model.get_input_embeddings().weight.shape[1]):
            raise ValueError(f"the router reads {len(router.mean)} dimensions, the model's embeddings have {width}")
        for name in masks:
            paths.name(name, "the expert")  # of a folder, when it is saved
        self.cache = ExpertCache(model, masks, budget_bytes, compensation)
        self.dense, self.tokenizer, self.router = model, tokenizer, router
        self.provenance = dict(provenance or {})
        self.chosen: str | Sequence[str] | None = None  # set by ``using``

    def beside(self, budget_bytes: int | None = None) -> "ExpertModel":
        """An ExpertModel of the same dense model, masks and router, with an expert cache of its own."""
        masks, means = self.cache.masks, self.cache.compensation
        return ExpertModel(self.dense, self.tokenizer, masks, self.router, budget_bytes, means, self.provenance)

    # --- what a causal language model has ---------------------------------------------------------

    config = property(lambda self: self.dense.config)
    generation_config = property(lambda self: self.dense.generation_config)
    device = property(lambda self: self.dense.device)
    dtype = property(lambda self: self.dense.dtype)

    def get_input_embeddings(self) -> nn.Module:
        return self.dense.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.dense.get_output_embeddings()

    def get_decoder(self) -> "Undecided":
        return Undecided(self.dense)

    def tie_weights(self) -> None:
        """Nothing to do: what is tied in the dense model is tied in its experts."""

    def _apply(self, *args, **kwargs):
        moved = super()._apply(*args, **kwargs)  # .to(...), .half(): experts are cut anew from what the model is then
        self.cache.clear()
        self.cache.budget_bytes = self.cache.budget_bytes
        return moved

    @property
    def masks(self) -> dict[str, PruningMask]:
        return self.cache.masks

    def expert(self, name: str):
        """The model of an expert, an ordinary pruned model; ``"dense"``: the dense model."""
        return self.cache[name]

    # --- who answers ------------------------------------------------------------------------------

    def choose(self, texts: Sequence[str], always: bool = False) -> list[str]:
        """The expert of every prompt, as the router decides; ``general`` for a prompt without a token.

        With ``always``, the likeliest expert, however unlikely.
        """
        return self.route(self.tokenizer(list(texts), add_special_tokens=False)["input_ids"], always)

    def route(self, encoded: Sequence[Sequence[int]], always: bool = False) -> list[str]:
        """:meth:`choose` for token ids; special tokens do not count."""
        if self.router is None:
            raise ValueError(f"there is no router: name the experts, of {WHOLE}, {', '.join(self.masks)}")
        special = set(self.tokenizer.all_special_ids)
        encoded = [[token for token in ids if token not in special] for ids in encoded]
        router = self.router.at(0.0) if always else self.router
        names, _ = router.decide(embed_ids(self.dense, encoded))
        return [str(name) if ids else GENERAL for name, ids in zip(names, encoded, strict=True)]

    def answering(self, encoded: Sequence[Sequence[int]]) -> list[str]:
        """The experts that answer prompts of these token ids now: those of :meth:`using`, else the router's."""
        if self.chosen is None:
            return self.route(encoded)
        names = [self.chosen] * len(encoded) if isinstance(self.chosen, str) else list(self.chosen)
        if len(names) != len(encoded):
            raise ValueError(f"{len(names)} experts are named for {len(encoded)} prompts")
        return names

    @contextmanager
    def using(self, experts: str | Sequence[str] | None) -> Iterator["ExpertModel"]:
        """While the context is open, these experts answer: an expert for all rows, or an expert per row."""
        before = self.chosen
        self.cache.check([experts] if isinstance(experts, str) else experts or [])
        self.chosen = experts
        try:
            yield self
        finally:
            self.chosen = before

    def _groups(self, ids: torch.Tensor, mask: torch.Tensor | None, experts) -> dict[str, list[int]]:
        """Expert → its rows."""
        with self.using(self.chosen if experts is None else experts):
            if self.chosen is None and mask is not None and mask.dim() != 2:
                raise ValueError("routing tells padding from an attention mask [batch, tokens]; or name the experts")
            routed = self.chosen is None and mask is not None
            keep = mask[:, -ids.shape[1] :].bool() if routed else torch.ones_like(ids, dtype=torch.bool)
            rows = [row[kept].tolist() for row, kept in zip(ids, keep, strict=True)]
            return self.cache.grouped(self.answering(rows))

    # --- running ----------------------------------------------------------------------------------

    def forward(self, input_ids, attention_mask=None, experts=None, past_key_values=None, **options):
        """Logits of every row by the row's expert, in order.

        A KV cache belongs to an expert: a batch with a cache has a single expert, and that expert answers
        everything continued on the cache.
        """
        answering = getattr(past_key_values, "filled_by_expert", None)
        if answering is None and past_key_values is not None and past_key_values.get_seq_length():
            raise ValueError("the KV cache was filled by another model; begin the cache with this ExpertModel")
        groups = self._groups(input_ids, attention_mask, answering or experts)
        if len(groups) == 1:
            (name,) = groups
            if past_key_values is not None:
                past_key_values.filled_by_expert = name
            return self.expert(name)(
                input_ids=input_ids, attention_mask=attention_mask, past_key_values=past_key_values, **options
            )
        if past_key_values is not None or "labels" in options:
            raise ValueError(f"a batch for several experts ({', '.join(groups)}) has neither one cache nor one loss")
        logits = []
        for name, rows in groups.items():
            part = {key: _of(value, rows, len(input_ids)) for key, value in options.items()} | {"use_cache": False}
            mask = None if attention_mask is None else attention_mask[rows]
            logits.append(self.expert(name)(input_ids=input_ids[rows], attention_mask=mask, **part).logits)
        return CausalLMOutputWithPast(logits=_in_order(logits, groups))

    @torch.no_grad()
    def generate(self, input_ids=None, attention_mask=None, experts=None, inputs=None, **options):
        """``transformers``' generation by every prompt's own expert: ids [rows, tokens], in order, padded on the right.

        Prompts are padded on the left, as always for generation.
        """
        ids = inputs if input_ids is None else input_ids
        groups = self._groups(ids, attention_mask, experts)
        if len(groups) > 1 and options.get("return_dict_in_generate"):
            raise ValueError(f"a batch for several experts ({', '.join(groups)}) gives token ids alone")
        written = []
        for name, rows in groups.items():
            mask = None if attention_mask is None else attention_mask[rows]
            written.append(self.expert(name).generate(ids[rows], attention_mask=mask, **options))
        return written[0] if len(groups) == 1 else _in_order(_padded(written, self._padding(options)), groups)

    def _padding(self, options: dict) -> int:
        stop = self.generation_config.eos_token_id
        stops = stop if isinstance(stop, list) else [stop]
        known = (options.get("pad_token_id"), self.generation_config.pad_token_id, *stops, 0)
        return next(token for token in known if token is not None)

    # --- evaluation and identity ------------------------------------------------------------------

    def answer(self, bench: Bench, prepared: Prepared) -> pd.DataFrame:
        """Item results: every item is scored by the expert of its prompt."""
        encoded = self.tokenizer(prepared.prompts, add_special_tokens=False)["input_ids"]
        return self.answer_by(self.answering(encoded), bench, prepared)

    def answer_by(self, names: Sequence[str], bench: Bench, prepared: Prepared) -> pd.DataFrame:
        """Item results where ``names`` holds the expert of every item, an expert after the other."""
        groups = self.cache.grouped(names).items()
        return bench.divided(prepared, ((self.expert(name), places) for name, places in groups))

    @property
    def fingerprint(self) -> str:
        """Hash of what is done to the dense model, and of the router."""
        return store.digest([self.cache.fingerprints, self.router and self.router.fingerprint])

    @property
    def label(self) -> dict:
        """The columns that name the result rows; the achieved sparsity is the mean over experts."""
        masks, first = list(self.masks.values()), next(iter(self.masks.values())).provenance
        asked = {mask.requested for mask in masks}
        known = {key: str(first[key]) for key in ("score", "allocation", "budget") if key in first}
        sizes = {"requested_sparsity": asked.pop() if len(asked) == 1 and None not in asked else np.nan}
        sizes |= {"achieved_sparsity": float(np.mean([mask.achieved for mask in masks]))}
        sizes |= {"achieved_model_sparsity": float(np.mean([mask.achieved_model for mask in masks]))}
        return {"method": "routed experts", "calibration": "task"} | known | sizes

    @property
    def seaplib_state(self) -> ModelState:
        """The dense model's state, and what :func:`seaplib.models.fingerprint` tells the experts and the choice by."""
        dense = state(self.dense)
        done = [dense.applied] if dense.applied else []  # to the dense model, such as a context's sparse inputs
        return replace(dense, applied=store.digest([self.fingerprint, self.chosen, *done]), label=self.label)

    def __repr__(self) -> str:
        router = "no router" if self.router is None else repr(self.router)
        mib = [value / 2**20 for value in (self.cache.held_bytes, self.cache.budget_bytes)]
        held = f"{len(self.cache.held)} in memory, {mib[0]:.1f} of {mib[1]:.1f} MiB"
        return f"ExpertModel({type(self.dense).__name__}, {len(self.masks)} experts, {held}; {router})"

    def save(self, directory: str | Path) -> Path:
        """Write masks, router, compensation, provenance and the dense model's name into a directory; no weights."""
        directory = Path(directory)
        compensation = self.cache.compensation.items()
        if mixed := [name for name, added in compensation if isinstance(added, WeightedCovariances)]:
            raise ValueError(f"{mixed[0]}: covariances of several corpora are not saved; save the pruned model instead")
        for name, mask in self.masks.items():
            mask.save(directory / "masks" / name)
        for name, added in compensation:
            folder = directory / "masks" / name
            (folder / MEANS).unlink(missing_ok=True)  # an earlier save's
            if isinstance(added, Covariances):
                added.save(folder)
            else:
                save_file({module: mean.contiguous() for module, mean in added.items()}, folder / MEANS)
        if self.router:
            self.router.save(directory / "router")
        about = {
            "model": _reference(self.dense),
            "fingerprint": identity.fingerprint(self.dense),
            "tokenizer": identity.tokenizer_fingerprint(self.tokenizer),
            "experts": list(self.masks),
            "compensated": sorted(self.cache.compensation),
            "router": self.router is not None,
            "budget_bytes": self.cache.budget_bytes,
            "provenance": self.provenance,
        }
        (directory / "experts.json").write_text(json.dumps(about, indent=1))
        return directory

    @classmethod
    @files.loader("ExpertModel")
    def _described(cls, directory: Path) -> dict:
        """What ``experts.json`` says."""
        return json.loads((directory / "experts.json").read_text())

    @classmethod
    def load(cls, directory: str | Path, model=None, tokenizer=None, verify: bool = True, **loading) -> "ExpertModel":
        """Read what :meth:`save` wrote, around ``model`` and ``tokenizer``, or else around the model named there.

        ``loading`` goes to :func:`seaplib.load`. ValueError where model or tokenizer differ from those at saving;
        ``verify=False`` takes another model of the same shape (of another dtype, say).
        """
        if (model is None) != (tokenizer is None):
            raise ValueError("give both the model and its tokenizer, or neither")
        directory = Path(directory)
        about = cls._described(directory)
        if model is None:
            model, tokenizer = load(about["model"], **loading)
        here = {"fingerprint": identity.fingerprint(model), "tokenizer": identity.tokenizer_fingerprint(tokenizer)}
        if verify and (other := [what for what, value in here.items() if value != about[what]]):
            what = "weights" if other[0] == "fingerprint" else "tokenizer"
            raise ValueError(f"{directory} was made with {about['model']}, and this model has other {what}")
        masks = {name: PruningMask.load(directory / "masks" / name) for name in about["experts"]}
        held = {name: directory / "masks" / name / MEANS for name in about["compensated"]}
        means = {k: load_file(f) if f.is_file() else Covariances.load(f.parent) for k, f in held.items()}
        router = Router.load(directory / "router") if about["router"] else None
        return cls(model, tokenizer, masks, router, about["budget_bytes"], means, about["provenance"])


class Undecided(nn.Module):
    """Stands for the decoder of an :class:`ExpertModel`: without a prompt no expert, so no decoder, is known.

    Even what every module has (parameters, hooks) is missing, so that any use raises the same error.
    """

    __repr__ = object.__repr__

    def __init__(self, dense: nn.Module):  # not the base class's, which would make an empty module
        self.get_input_embeddings = dense.get_input_embeddings

    def __getattr__(self, name: str):
        raise architectures.ModelError("an ExpertModel has a decoder per expert; ask for an expert: .expert(name)")

    def __call__(self, *args, **kwargs):
        return self.__getattr__("__call__")


def _reference(model) -> str:
    """The name by which :func:`seaplib.load` loads this model again: "bundled", a hub id, or a whole path."""
    name, path = name_of(model), model.config._name_or_path
    return name if name == "bundled" or not Path(path).exists() else str(Path(path).resolve())


def _of(value, rows: list[int], batch: int):
    """The chosen rows of an option that has a row per prompt; any other option as it is."""
    return value[rows] if torch.is_tensor(value) and value.dim() and len(value) == batch else value


def _padded(written: list[torch.Tensor], padding: int) -> list[torch.Tensor]:
    longest = max(ids.shape[1] for ids in written)
    return [nn.functional.pad(ids, (0, longest - ids.shape[1]), value=padding) for ids in written]


def _in_order(parts: list[torch.Tensor], groups: Mapping[str, list[int]]) -> torch.Tensor:
    """Rows of the groups' tensors in the batch's order; several rows for a prompt stay together."""
    places = [place for rows in groups.values() for place in rows]
    whole = torch.cat(parts)
    each = whole.unflatten(0, (len(places), -1))
    return each[torch.argsort(torch.tensor(places)).to(whole.device)].flatten(0, 1)
