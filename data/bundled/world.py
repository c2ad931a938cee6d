"""The bundled world: invented entities and the facts about them.

One seed fixes everything. A *fact* is (entity, relation, value); every relation carries its prose
and its questions, so that general text and all tasks speak of the world in the same words.
"""

import hashlib
import random
from dataclasses import dataclass, field
from itertools import product

from lore import Relation, domains

SEED = 20250307


@dataclass(frozen=True)
class Entity:
    """A named thing; rare ones are written about four times less often."""

    name: str
    domain: str
    label: str  # as it stands in a sentence: "the Velka"
    rare: bool
    facts: dict = field(hash=False, compare=False)


def _names(rng: random.Random, count: int) -> list[str]:
    """Distinct names of an open and a closed syllable: so few syllables that a small tokenizer has one token a name."""
    opening = [c + v for c in "BDFGKLMNPRSTVZ" for v in "aeiou"]
    closing = [c + v + end for c in "bdglmnrtvz" for v in "aeiou" for end in ("k", "l", "n", "r", "s", "th")]
    names = [first + last for first, last in product(rng.sample(opening, 24), rng.sample(closing, 24))]
    return rng.sample(names, count)


class World:
    """All entities by domain, and all facts as a list of (entity, relation)."""

    def __init__(self, seed: int = SEED):
        rng = random.Random(seed)
        sizes = {domain: spec[0] for domain, spec in domains([], [], []).items()}
        names = _names(rng, sum(sizes.values()))
        named = {}
        for domain, size in sizes.items():
            named[domain], names = names[:size], names[size:]
        self.spec = domains(named["person"], named["town"], named["species"])
        self.entities: dict[str, list[Entity]] = {}
        self.by_name: dict[str, Entity] = {}
        self.relations: dict[str, dict[str, Relation]] = {}
        for domain, (_, label, _, _, relations) in self.spec.items():
            self.relations[domain] = {relation.name: relation for relation in relations}
            self.entities[domain] = []
            for i, name in enumerate(named[domain]):
                facts = {relation.name: rng.choice(relation.values) for relation in relations}
                self.entities[domain].append(Entity(name, domain, label.format(name), i % 4 == 3, facts))
            self.by_name.update({entity.name: entity for entity in self.entities[domain]})
        self.facts = [
            (e, r) for domain in self.spec for e in self.entities[domain] for r in self.relations[domain].values()
        ]

    def noun(self, entity: Entity) -> str:
        return self.spec[entity.domain][2]

    def subject(self, entity: Entity) -> str:
        return self.spec[entity.domain][3]


def sentence(text: str) -> str:
    """First letter in upper case; the rest as it is (names keep theirs)."""
    return text[:1].upper() + text[1:]


def split_of(key: str) -> str:
    """Where an item belongs is decided by a hash of what it asks: 22% test, 5% validation, the rest train."""
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100
    return "test" if bucket < 22 else "validation" if bucket < 27 else "train"
