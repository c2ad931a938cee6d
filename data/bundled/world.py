"""The bundled world: invented entities and the facts about them.

One seed fixes everything. A *fact* is (entity, relation, value); every relation carries its prose
and its questions, so that general text and all tasks speak of the world in the same words.
"""

import hashlib
import random
import re
from dataclasses import dataclass, field
from functools import cache
from itertools import product

from lore import Domain, domains

SEED = 20250307
#: how often a common, an uncommon and a rare entity is written about; the place of a weight is the tier
TIERS = {1: 9, 2: 3, 3: 1}


#: what the syllables would make and the real world has
REAL = set("Boris Karel Koran Labor Lamer Lazar Lenin Libor Linen Luton Muzak Paris Sumer".split())


@dataclass(frozen=True)
class Entity:
    """A named thing of a domain; the higher its tier, the less is written about it."""

    name: str
    domain: str
    label: str  # as it stands in a sentence: "the Velka"
    tier: int
    facts: dict = field(hash=False, compare=False)

    @property
    def weight(self) -> int:
        return TIERS[self.tier]


def _names(rng: random.Random, count: int) -> list[str]:
    """Distinct names of an open and a closed syllable: so few syllables that a small tokenizer has one token a name."""
    opening = [c + v for c in "BDFGKLMNPRSTVZ" for v in "aeiou"]
    closing = [c + v + end for c in "bdglmnrtvz" for v in "aeiou" for end in ("k", "l", "n", "r", "s", "th")]
    names = [first + last for first, last in product(rng.sample(opening, 30), rng.sample(closing, 30))]
    return rng.sample([name for name in names if name not in REAL], count)


def _spread(values: tuple, count: int, rng: random.Random) -> list:
    """``count`` values in random order, each equally often: no value is the likelier answer."""
    dealt = [values[i % len(values)] for i in range(count)]
    rng.shuffle(dealt)
    return dealt


class World:
    """All entities by domain, and all facts as a list of (entity, relation)."""

    def __init__(self, seed: int = SEED):
        rng = random.Random(seed)
        sizes = {name: domain.size for name, domain in domains([], [], []).items()}
        names = _names(rng, sum(sizes.values()))
        named = {}
        for domain, size in sizes.items():
            named[domain], names = names[:size], names[size:]
        self.domains: dict[str, Domain] = domains(named["person"], named["town"], named["species"])
        self.entities: dict[str, list[Entity]] = {}
        for name, domain in self.domains.items():
            columns = {r.name: _spread(r.values, domain.size, rng) for r in domain.relations.values()}
            self.entities[name] = [
                Entity(
                    word,
                    name,
                    domain.label.format(word),
                    1 if i % 10 < 5 else 2 if i % 10 < 8 else 3,
                    {relation: column[i] for relation, column in columns.items()},
                )
                for i, word in enumerate(named[name])
            ]
        self.by_name = {entity.name: entity for group in self.entities.values() for entity in group}
        self.facts = [
            (e, r) for name in self.entities for e in self.entities[name] for r in self.domains[name].relations.values()
        ]

    def pick(self, domain: str, rng: random.Random) -> Entity:
        """An entity of the domain, common ones more often."""
        pool = self.entities[domain]
        return rng.choices(pool, weights=[e.weight for e in pool])[0]

    @cache  # noqa: B019 (worlds live as long as the process)
    def askable(self, domain: str, asked: str, split: str) -> dict[str, list[Entity]]:
        """value -> entities about which a relation, or a relation of a relation ("town.region"), may be asked."""
        found: dict[str, list[Entity]] = {}
        for entity in self.entities[domain]:
            if split_of(fact_key(entity, asked)) == split:
                found.setdefault(self.value(entity, asked), []).append(entity)
        return found

    @cache  # noqa: B019
    def ruled(self, domain: str, relation: str, rule: str, split: str) -> dict[str, list[Entity]]:
        """value -> entities to which a rule that goes by their value of the relation may be applied in a question."""
        found: dict[str, list[Entity]] = {}
        for entity in self.entities[domain]:
            if split_of(rule_key(entity.name, rule)) == split:
                found.setdefault(entity.facts[relation], []).append(entity)
        return found

    def value(self, entity: Entity, asked: str) -> str:
        """The value of a relation, or of a relation of a relation ("town.region")."""
        first, _, then = asked.partition(".")
        value = entity.facts[first]
        return self.by_name[value].facts[then] if then else value


def fact_key(entity: Entity, asked: str) -> str:
    """What a question about one fact, or about a fact of a fact, asks."""
    return f"fact|{entity.name}|{asked}"


def rule_key(name: str, rule: str) -> str:
    """What a question asks that needs a rule ("cut", "winter") and what it is applied to; the same in all tasks."""
    return f"rule|{name}|{rule}"


def sentence(text: str) -> str:
    """First letter in upper case; the rest as it is (names keep theirs)."""
    return text[:1].upper() + text[1:]


def inflected(text: str) -> str:
    """The article "a" becomes "an" before a vowel: wordings have "a" before whatever value is filled in."""
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def listed(options: list[str], word: str = "or") -> str:
    return f"{', '.join(options[:-1])} {word} {options[-1]}"


@cache
def split_of(key: str) -> str:
    """Where an item belongs is decided by a hash of what it asks: 22% test, 8% validation, the rest train."""
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100
    return "test" if bucket < 22 else "validation" if bucket < 30 else "train"
