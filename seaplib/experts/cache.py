"""A dense model in memory, and experts cut out of it on demand, within a number of bytes.

:func:`seaplib.prune` makes an expert by removal: the expert has smaller projections of its own and shares with
the dense model embeddings, norms, LM head and every projection that the mask leaves whole. Experts are kept as
long as their own tensors fit; the least recently used expert goes first.
"""

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property

from torch import nn

from ..models import layers
from ..models.state import state
from ..pruning import apply
from ..pruning.masks import PruningMask

WHOLE = "dense"


class ExpertCache:
    """Expert → model, made from ``model`` and ``masks`` on demand; ``"dense"`` is the dense model.

    ``budget_bytes`` bounds the experts' own tensors (None: room for all), before an expert is cut out
    and after. ``compensation`` maps some of the experts to what :func:`seaplib.prune` takes. Raises
    ValueError for masks of another model, and a budget that the largest expert exceeds.
    """

    def __init__(
        self,
        model,
        masks: Mapping[str, PruningMask],
        budget_bytes: int | None = None,
        compensation: Mapping[str, dict] | None = None,
    ):
        if state(model).mask is not None:
            raise ValueError("the model is already pruned; experts are cut from the dense model")
        here = layers.geometry(model)
        if not masks:
            raise ValueError("experts need at least one mask")
        for name, mask in masks.items():
            if name == WHOLE:
                raise ValueError(f"{WHOLE!r} is the model itself; give the mask another name")
            if mask.geometry != here:
                raise ValueError(f"the mask of {name!r} was made for another model: {mask.geometry} against {here}")
        if unknown := sorted(set(compensation or {}) - set(masks)):
            raise ValueError(f"compensation for {', '.join(unknown)}, for which there is no mask")
        self.model, self.masks, self.compensation = model, dict(masks), dict(compensation or {})
        self.built = Counter()  # expert → how often it was cut out
        self._kept: OrderedDict[str, nn.Module] = OrderedDict()
        self.clear()
        self.budget_bytes = sum(self.sizes.values()) if budget_bytes is None else budget_bytes

    def clear(self) -> None:
        """Drop all experts and measure their sizes anew: after the dense model was moved or cast."""
        self._kept.clear()
        self.sizes = {name: own_bytes(self.model, mask, name in self.compensation) for name, mask in self.masks.items()}

    @property
    def budget_bytes(self) -> int:
        """Room for the experts' own tensors.

        A smaller budget drops experts that no longer fit. ValueError where the largest expert does not fit.
        """
        return self._budget

    @budget_bytes.setter
    def budget_bytes(self, value: int) -> None:
        largest = max(self.sizes, key=self.sizes.get)
        if value < self.sizes[largest]:
            raise ValueError(
                f"a budget of {value:,} bytes is smaller than an expert: {largest} takes {self.sizes[largest]:,}"
            )
        self._budget = value
        self._make_room(0)

    def room(self, experts: int) -> int:
        """Bytes that hold any ``experts`` of the experts at once; 0: all experts."""
        largest = sorted(self.sizes.values(), reverse=True)
        return sum(largest[: experts or None])

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Expert → hash of how it is cut out of the dense model."""
        return {name: apply.identity(mask, "remove", self.compensation.get(name)) for name, mask in self.masks.items()}

    @property
    def held(self) -> list[str]:
        """Experts in memory, the least recently used first."""
        return list(self._kept)

    @property
    def held_bytes(self) -> int:
        """Bytes in memory beside the dense model's, counted over the storages of parameters."""
        shared = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        storages = [p.untyped_storage() for expert in self._kept.values() for p in expert.parameters()]
        return sum({s.data_ptr(): s.nbytes() for s in storages if s.data_ptr() not in shared}.values())

    def __repr__(self) -> str:
        kept = f"{len(self._kept)} of {len(self.masks)} experts in memory ({', '.join(self._kept) or 'none'})"
        return f"ExpertCache({kept}, {self.held_bytes:,} of {self.budget_bytes:,} bytes)"

    def check(self, names: Sequence[str]) -> None:
        """ValueError for the name of no expert."""
        if unknown := [name for name in names if name != WHOLE and name not in self.masks]:
            raise ValueError(f"there is no expert {unknown[0]!r}; known: {WHOLE}, {', '.join(self.masks)}")

    def __getitem__(self, name: str):
        """The expert's model, from memory or cut out now, after other experts have made room."""
        if name == WHOLE:
            return self.model
        self.check([name])
        if name not in self._kept:
            self._make_room(self.sizes[name])
            added = self.compensation.get(name)
            self._kept[name] = apply.prune(self.model, self.masks[name], "remove", added, share=True)
            self.built[name] += 1
        self._kept.move_to_end(name)
        return self._kept[name]

    def _make_room(self, needed: int) -> None:
        while self._kept and sum(self.sizes[name] for name in self._kept) + needed > self._budget:
            self._kept.popitem(last=False)

    def grouped(self, names: Sequence[str]) -> dict[str, list[int]]:
        """Expert → the places at which it is named; experts in memory come first, so that none goes before its use."""
        self.check(names)
        order = sorted(dict.fromkeys(names), key=lambda name: name != WHOLE and name not in self._kept)
        return {expert: [place for place, name in enumerate(names) if name == expert] for expert in order}


def own_bytes(model, mask: PruningMask, compensated: bool = False) -> int:
    """Bytes that an expert takes beside the dense model, known before the expert is cut out."""
    total, width = 0, model.dtype.itemsize
    for index, layer in enumerate(layers.decoder_layers(model)):
        counts = dict.fromkeys(("q", "o"), int(mask.heads[index].sum()) * mask.geometry.head_dim)
        counts |= dict.fromkeys(("k", "v"), int(mask.kv_heads[index].sum()) * mask.geometry.head_dim)
        counts |= dict.fromkeys(("gate", "up", "down"), int(mask.channels[index].sum()))
        for roles in layers.projections(layer):
            output, projection = layers.is_output(roles[0]), layers.linear(layer, roles[0])
            (out, into), left = layers.shape(projection), sum(counts[role] for role in roles)
            if left == (into if output else out):
                continue  # the dense model's own
            added = compensated and output
            if left:
                biased = added or projection.bias is not None
                total += (out * left + out * biased if output else left * into + left * biased) * width
            elif added and not mask.bypass:
                total += out * width  # the bias of an emptied module
    return total
