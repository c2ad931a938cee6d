"""The rules of a study of sparse inputs, by name, and which two of them are compared with which claim (notebook 11).

Nothing here needs torch. A rule is named as in LLM_activation_pruning's tables: "8:16", "0.5 wt" (weights), "8:16 PTS".
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .rule import InputSparsity

#: pairs that LLM_activation_pruning's tables say something about
PUBLISHED = (
    ("8:16", "2:4"), ("8:16 VAR", "8:16"), ("8:16 PTS", "8:16"),
    ("2:4", "2:4 wt"), ("8:16", "8:16 wt"), ("0.5", "0.5 wt"),
    ("8:16 (attention)", "8:16"), ("8:16 (mlp)", "8:16"), ("2:4 (attention)", "2:4"), ("2:4 (mlp)", "2:4"),
)  # fmt: skip
SPELLED = {"var": "VAR", "pts": "PTS"}
MODULES = {"attention": "attention's", "mlp": "the MLP's"}


@dataclass(frozen=True)
class Grid:
    """Patterns, repairs, criteria and targets of a study; each choice is a rule for itself.

    ``patterns`` (N:M) and ``ratios`` are applied to activations and to weights; ``repairs`` and ``criteria`` at the
    pattern ``base``; ``neighbours``, newer methods, at ``neighbour_ratio``; ``targets`` under ``target_patterns``.
    """

    patterns: Sequence[str]
    ratios: Sequence[float]
    base: str
    repairs: Sequence[str]
    criteria: Sequence[str]
    neighbours: Sequence[str]
    neighbour_ratio: float
    targets: Sequence[str]
    target_patterns: Sequence[str]

    @property
    def blocks(self) -> dict[str, dict[str, InputSparsity]]:
        """Block of the tables → name → rule."""
        everywhere = [*self.patterns, *self.ratios]
        blocks = {
            "activations": {str(p): InputSparsity(p) for p in everywhere},
            "weights": {f"{p} wt": InputSparsity(p, of="weights") for p in everywhere},
            "repairs": {self.repaired(t): InputSparsity(self.base, transformation=t) for t in self.repairs},
            "criteria": {f"{self.base} {c}": InputSparsity(self.base, criterion=c) for c in self.criteria},
            "neighbours": {self._newer(c): InputSparsity(self.neighbour_ratio, criterion=c) for c in self.neighbours},
        }
        aimed = [(p, where) for where in self.targets for p in self.target_patterns]
        blocks["targets"] = {}
        for p, where in aimed:
            blocks["targets"][f"{p} ({where})"] = InputSparsity(p, targets=where)
            blocks["targets"][f"{p} wt ({where})"] = InputSparsity(p, of="weights", targets=where)
        return blocks

    @property
    def rules(self) -> dict[str, InputSparsity]:
        """Name → rule, in the order of the blocks."""
        return {name: rule for rules in self.blocks.values() for name, rule in rules.items()}

    @property
    def shown(self) -> list[str]:
        """The rules whose output errors are shown: the first pattern, ``base``, its weights, its single repairs."""
        single = [self.repaired(t) for t in self.repairs if "+" not in t]
        names = dict.fromkeys([str(self.patterns[0]), self.base, f"{self.base} wt", *single])
        return [name for name in names if name in self.rules]

    @property
    def pairs(self) -> dict[tuple[str, str], str]:
        """(a, b) → the claim that rule a loses less than b; those of :data:`PUBLISHED` first."""
        found = {
            (str(p), f"{p} wt"): f"At {p}, sparse activations lose less than sparse weights"
            for p in [*self.patterns, *self.ratios]
            if p not in (0.0, 1.0)
        }
        found["8:16", "2:4"] = "8:16 loses less than 2:4 (activations)"
        for where in self.targets:
            for p in self.target_patterns:
                inputs = f"{MODULES.get(where, where)} inputs alone lose less than all inputs"
                found[f"{p} ({where})", str(p)] = f"At {p}, {inputs}"
        for t in self.repairs:
            found[self.repaired(t), self.base] = f"{spelled(t)} repairs part of what {self.base} breaks"
        for c in self.criteria:
            text = f"Choosing by {c} loses less than by magnitude at {self.base}"
            found[f"{self.base} {c}", self.base] = text
        for c in self.neighbours:
            if c != "cats":
                text = f"{c.upper()} loses less than plain magnitude at {self.neighbour_ratio}"
                found[self._newer(c), str(self.neighbour_ratio)] = text
        known = {pair: text for pair, text in found.items() if set(pair) <= set(self.rules)}
        return dict(sorted(known.items(), key=lambda item: item[0] not in PUBLISHED))

    def repaired(self, transformation: str) -> str:
        """The name of ``base`` with a repair."""
        return f"{self.base} {spelled(transformation)}"

    def _newer(self, criterion: str) -> str:
        return f"{self.neighbour_ratio} {criterion.upper()}"


def spelled(transformation: str) -> str:
    """A transformation as the published tables write it: "pts+var" → "PTS+VAR"."""
    return "+".join(SPELLED.get(part, part) for part in transformation.split("+"))
