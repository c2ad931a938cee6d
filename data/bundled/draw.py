"""How items are drawn so that their options alone say nothing.

The options come first, all values of one relation; which of them is right is then a fair draw; only
after that comes something about which it is true. Whoever sees the options only is at chance, by
construction and not by luck.
"""

import random
from collections import defaultdict

from world import Entity

LETTERS = ["A", "B", "C", "D"]


def balanced(pools: dict[str, list[Entity]], rng: random.Random, count: int = 4, tier: int | None = None):
    """(options in random order, position of the right one, an entity of its pool); None if there are too few values.

    The entity is of the ``tier`` wanted where the pool has one.
    """
    if len(pools) < count:
        return None
    options = rng.sample(sorted(pools), count)
    gold = rng.randrange(count)
    pool = pools[options[gold]]
    return options, gold, rng.choice([entity for entity in pool if entity.tier == tier] or pool)


def grid(entities: list[Entity], first: str, second: str, rng: random.Random) -> list[Entity] | None:
    """Four entities that share two values of each relation crosswise: each is the only one with its pair."""
    by_pair: dict[tuple, list] = {}
    for entity in entities:
        by_pair.setdefault((entity.facts[first], entity.facts[second]), []).append(entity)
    for _ in range(50):
        (p, q), (p2, q2) = rng.sample(sorted(by_pair), 2)
        cells = [(p, q), (p, q2), (p2, q), (p2, q2)]
        if p != p2 and q != q2 and all(cell in by_pair for cell in cells):
            return [rng.choice(by_pair[cell]) for cell in cells]
    return None


class Balance:
    """Admits an item unless one of its options, or a position, would be right more, or less, often than its share.

    Distinct items run out sooner for some answers than for others, which would make these the better guess.
    """

    def __init__(self):
        self._surplus: dict = defaultdict(int)  # times right × number of options − times offered

    def admits(self, options: list[str], gold: int) -> bool:
        after = {
            what: self._surplus[what] + (len(options) if i == gold else 0) - 1
            for i, option in enumerate(options)
            for what in (option, i)
        }
        if any(abs(value) > 2 * len(options) for value in after.values()):
            return False
        self._surplus.update(after)
        return True
