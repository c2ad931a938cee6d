"""Sparse inputs in a model: a plan made once, applied while a context is open, evaluated like a mask.

``sparsity_plan`` decides (which inputs, with which channel weights, thresholds, scales), ``sparsified`` applies
it and puts the model back exactly, ``SparsityPlan.apply`` gives the evaluation a copy. Weights are
never written to: activations are made sparse by hooks, sparse weights stand in for the originals.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .. import files, store
from ..models import architectures
from ..models.layers import decoder_layers, gate_activation, linear_layers, matrix, parameters, shape
from ..models.offloading import copy_of, runs_on, stand_in, tensor
from ..models.state import note, pruned, state
from ..settings import Calibration, expect
from ..texts import corpora
from .rule import InputSparsity
from .sparsifier import Sparsifier, sparse_weight
from .statistics import GATE, collect_inputs, learn


@dataclass(frozen=True)
class SparsityPlan:
    """A rule made concrete for a model: a :class:`Sparsifier` for every input that the rule applies to.

    ``inputs``: "<layer>.<role>" → Sparsifier, empty where the rule keeps everything; ``shapes``: the
    same keys → (out, in) of the layer. ``skipped`` is the share of the decoder layers' projections
    whose multiplications meet a zero. To ``evaluate`` and ``perplexity`` a plan is a variant.
    """

    rule: InputSparsity
    inputs: dict[str, Sparsifier]
    shapes: dict[str, tuple[int, int]]
    skipped: float
    skipped_model: float
    calibration: str = "none"
    calibration_seed: int | None = None
    tasks: tuple[str, ...] | None = field(default=None, compare=False)

    @property
    def label(self) -> dict:
        """Columns of its result rows; achieved are shares of the multiplications, as a mask's are of the weights."""
        rule = self.rule
        return {
            "method": f"sparse {rule.of}",
            "score": rule.criterion,
            "allocation": "uniform",
            "budget": "per token" if rule.exact else "per layer",
            "requested_sparsity": rule.ratio,
            "achieved_sparsity": self.skipped,
            "achieved_model_sparsity": self.skipped_model,
            "calibration": self.calibration,
            "calibration_seed": pd.NA if self.calibration_seed is None else self.calibration_seed,
            "pattern": str(rule.pattern),
            "transformation": rule.transformation,
            "targets": rule.targets,
            "layers": "all" if rule.layers is None else ",".join(map(str, rule.layers)),
            "preset": rule.preset,
        }

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps([asdict(self.rule), sorted(self.shapes.items())]).encode())
        for key, sparsifier in sorted(self.inputs.items()):
            digest.update(f"{key}{sparsifier.threshold}".encode())
            for name, value in _tensors(sparsifier).items():
                digest.update(name.encode() + value.double().contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()[:32]

    def __repr__(self) -> str:
        rule = self.rule
        about = ", ".join([rule.of, str(rule.pattern), rule.criterion, rule.transformation, rule.targets])
        return f"SparsityPlan({about}: {len(self.inputs)} inputs, {self.skipped:.1%} of multiplications skipped)"

    def apply(self, model):
        """A copy of ``model`` that keeps this sparsity; it shares every weight that stays as it is."""
        check(model, self)
        sparse = copy_of(model)
        _install(sparse, self, ExitStack())
        return sparse

    def save(self, directory: Path) -> None:
        tensors = files.flat({key: _tensors(sparsifier) for key, sparsifier in self.inputs.items()}, "/")
        facts = {name: value for name, value in vars(self).items() if name not in ("rule", "inputs")}
        facts |= {"rule": asdict(self.rule), "thresholds": {key: s.threshold for key, s in self.inputs.items()}}
        files.save(directory, "plan", tensors, facts)

    @classmethod
    @files.loader("sparsity plan")
    def load(cls, directory: Path) -> "SparsityPlan":
        tensors, facts = files.load(directory, "plan")
        rule, groups = InputSparsity(**facts.pop("rule")), files.grouped(tensors, "/")
        thresholds = facts.pop("thresholds")
        inputs = {key: Sparsifier(rule, threshold=t, **groups.get(key, {})) for key, t in thresholds.items()}
        facts["shapes"] = {key: tuple(sizes) for key, sizes in facts["shapes"].items()}
        facts["tasks"] = tuple(facts["tasks"]) if facts["tasks"] else None
        return cls(rule, inputs, **facts)


def _tensors(sparsifier: Sparsifier) -> dict[str, Float[Tensor, " dim"]]:
    found = {name: getattr(sparsifier, name) for name in Sparsifier.TENSORS}
    return {name: value for name, value in found.items() if value is not None}


def sparsity_plan(
    model,
    rule: InputSparsity,
    tokenizer=None,
    corpus: corpora.Corpus | None = None,
    calibration: Calibration | None = None,
    progress: bool = True,
) -> SparsityPlan:
    """Make ``rule`` concrete for ``model``; what it takes from calibration comes from ``corpus``.

    ``calibration`` says how many of the texts, and how; by default all of them. Statistics and fits
    are asked of the store first. Raises ValueError where the model lacks a target or a layer, where
    M does not divide a width, and where calibration is needed and there is none.
    """
    expect(rule, InputSparsity, "the rule")
    modules = targets(model, rule)
    shapes = {key: shape(module) for key, module in modules.items()}
    saved, whole = _skipped(rule, shapes), parameters(model)
    total = sum({id(m): m.weight.numel() for m in linear_layers(model).values()}.values())
    made = SparsityPlan(rule, {}, shapes, saved / total, saved / whole)
    if not (any(rule.removed(width) for _, width in shapes.values()) if rule.exact else rule.ratio > 0):
        return made  # N = M, or a ratio that takes nothing: there is nothing to do, and nothing to repair
    needed = rule.from_calibration
    if needed and (corpus is None or tokenizer is None):
        raise ValueError(
            f"{', '.join(sorted(needed))} needs calibration text: give sparsity_plan() a tokenizer and a corpus"
        )
    if not needed:
        return replace(made, inputs={key: _sparsifier(rule, key, module, None) for key, module in modules.items()})
    calibration = calibration or Calibration(samples=max(len(corpus), 1))
    stats = collect_inputs(model, tokenizer, corpus, calibration, progress)
    made = replace(made, calibration=corpus.task, calibration_seed=calibration.seed)
    made = replace(made, inputs={key: _sparsifier(rule, key, module, stats) for key, module in modules.items()})
    if not rule.parts & {"shift", "scale"}:
        return made

    def fit() -> SparsityPlan:
        return replace(made, inputs=learn(model, tokenizer, corpus, calibration, made.inputs, progress))

    return store.fetch("sparsity_plan", stats.provenance | {"plan": made.fingerprint}, fit, SparsityPlan)


def targets(model, rule: InputSparsity) -> dict[str, nn.Module]:
    """ "<layer>.<role>" → linear layer, for the rule's roles and layers. ValueError where something is not there."""
    found, done = linear_layers(model), state(model)
    if pruned(model) in ("zero", "mask") and not (done.mask is not None and bool(done.mask.channels.all())):
        raise ValueError("the removed channels are still there as zeros, and would count; prune with mode='remove'")
    here, count = {role for _, role in found}, len(decoder_layers(model))
    absent = [role for role in rule.roles if role not in here]
    named = [role for role in absent if role in rule.targets.split("+")]
    if named or len(absent) == len(rule.roles):
        kind, roles = model.config.model_type, ", ".join(role for role in architectures.ROLES if role in here)
        raise ValueError(f"a {kind} model has no {(named or absent)[0]!r}; it has {roles}")
    wrong = [layer for layer in rule.layers or () if not 0 <= layer < count]
    if wrong:
        raise ValueError(f"there is no layer {wrong[0]}: the model has layers 0 to {count - 1}")
    chosen, seen = {}, {}
    for (layer, role), module in found.items():
        if rule.layers is not None and layer not in rule.layers:
            continue
        seen.setdefault(id(module), []).append(role)
        if role in rule.roles and module not in chosen.values():
            chosen[f"{layer}.{role}"] = module
    for key, module in chosen.items():
        together = seen[id(module)]
        if not set(together) <= set(rule.roles):
            raise ValueError(f"{', '.join(together)} are a single projection in this model; name all of them, or none")
        width = shape(module)[1]
        if rule.nm and width % rule.nm[1]:
            raise ValueError(f"{rule.pattern}: {rule.nm[1]} does not divide the width {width} of {key}")
    if rule.criterion == "cats" and "gate" not in here:
        raise ValueError(f"cats needs an MLP with a gate, which a {model.config.model_type} model does not have")
    if not chosen:
        raise ValueError("the rule applies to no linear layer of this model")
    return chosen


def _skipped(rule: InputSparsity, shapes: dict[str, tuple[int, int]]) -> int | float:
    """Multiplications per token that meet a zero, on average.

    Where CATS closes a gate, up (as large as down) need not be computed either.
    """
    if rule.of == "weights":
        return sum(rule.ratio * out * width for out, width in shapes.values())
    if rule.exact:
        return sum(out * rule.removed(width) for out, width in shapes.values())
    return sum(out * rule.ratio * width for out, width in shapes.values()) * (2 if rule.criterion == "cats" else 1)


def _sparsifier(rule: InputSparsity, key: str, module: nn.Module, stats) -> Sparsifier:
    """An input's sparsifier: ``rule`` with the weights' and the calibration's part in it."""
    weight, original = matrix(module).detach().float(), rule.preset == "original"
    if rule.criterion in ("teal", "cats"):
        read = key if rule.criterion == "teal" else f"{key.split('.')[0]}.{GATE}"
        return Sparsifier(rule, threshold=stats.threshold(read, rule.ratio))
    column_max = weight.abs().amax(0) if "scaling" in rule.parts else None
    if rule.criterion == "wina":
        return Sparsifier(rule, channel=weight.norm(dim=0))
    if original:
        return Sparsifier(rule, column_max=column_max)
    if rule.criterion == "cosine":
        return Sparsifier(rule, channel=stats.second_moment[key].sqrt().float())
    if column_max is not None:  # |x| / s
        return Sparsifier(rule, channel=(column_max.clamp(min=1e-8).cpu() / stats.largest[key].clamp(min=1e-20)).sqrt())
    return Sparsifier(rule)


def check(model, plan: SparsityPlan) -> None:
    """ValueError unless ``plan`` was made for a model of these shapes and nothing of it is sparse yet."""
    found = {f"{layer}.{role}": module for (layer, role), module in linear_layers(model).items()}
    for key, planned in plan.shapes.items():
        here = shape(found[key]) if key in found else None
        if here != tuple(planned):
            raise ValueError(f"the plan was made for another model: {key} is {planned} there and {here} here")
    taken = set(_marks(plan)) & set(state(model).sparse)
    if taken:
        raise ValueError(f"{min(taken)} is sparse already; leave the context that made it sparse")


@contextmanager
def sparsified(model, plan: SparsityPlan) -> Iterator[nn.Module]:
    """``model`` with the plan's sparsity while the context is open, and exactly as before after it.

    Also after an error. Contexts may be nested where their targets differ. The model's fingerprint
    changes with it, so nothing that is stored is mistaken for the dense model's.
    """
    check(model, plan)
    with ExitStack() as undo:
        _install(model, plan, undo)
        yield model


def _marks(plan: SparsityPlan) -> list[str]:
    return [f"{plan.rule.of} {key}" for key in plan.inputs]


def _install(model, plan: SparsityPlan, undo: ExitStack) -> None:
    """Put hooks and stand-ins in place; ``undo`` takes all of them out again."""
    rule, found = plan.rule, linear_layers(model)
    before = state(model).sparse
    undo.callback(note, model, sparse=before)
    note(model, sparse=before | dict.fromkeys(_marks(plan), plan.fingerprint))
    layers = decoder_layers(model)
    for key, sparsifier in plan.inputs.items():
        layer, role = key.split(".")
        module = found[int(layer), role]
        if rule.of == "weights":
            sparse = sparse_weight(matrix(module).detach(), rule)
            sparse = sparse if isinstance(module, nn.Linear) else sparse.T.contiguous()
            undo.callback(stand_in(module, "weight", sparse))
        elif rule.criterion == "cats":
            gate, act = found[int(layer), "gate"], gate_activation(layers[int(layer)])
            width = shape(module)[1]
            undo.callback(gate.register_forward_hook(CloseGate(act, sparsifier.threshold, width)).remove)
        else:
            here = {name: value.to(runs_on(module)) for name, value in _tensors(sparsifier).items()}
            undo.callback(module.register_forward_pre_hook(SparseInput(replace(sparsifier, **here))).remove)
            if rule.preset == "original" and module.bias is not None:
                undo.callback(stand_in(module, "bias", torch.zeros_like(tensor(module, "bias"))))


@dataclass
class SparseInput:
    """Forward pre-hook of a linear layer: its input made sparse."""

    sparsifier: Sparsifier

    def __call__(self, module, args):
        return (self.sparsifier(args[0]), *args[1:])


@dataclass
class CloseGate:
    """Forward hook of ``gate`` (CATS): 0 where |act(gate)| does not pass the threshold, and act(0) is 0.

    ``width``: MLP channels; a fused gate and up has twice as many outputs, the gate first.
    """

    act: nn.Module
    threshold: float
    width: int

    def closed(self, out: Float[Tensor, "*tokens out"]) -> Bool[Tensor, "*tokens width"]:
        """bool [..., width]: the channels that are shut."""
        return self.act(out[..., : self.width]).abs() <= self.threshold

    def __call__(self, module, args, out):
        gate = out[..., : self.width].masked_fill(self.closed(out), 0)
        return torch.cat([gate, out[..., self.width :]], dim=-1) if out.shape[-1] > self.width else gate
