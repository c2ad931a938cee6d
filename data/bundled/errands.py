"""Items that ask how to do something, PIQA in kind: the way is known, the fact or rule decides the means.

As in ``knowledge``, the maker returns (key, row) or None, with the hub's columns and ``depth``.
"""

import random

from draw import balanced
from lore import CLASS_RULES, KINDS, TOOLS, WEATHER
from world import World, fact_key, rule_key

# (domain, relation, goal, way of solving): errands that need one fact.
ERRANDS = [
    ("species", "diet", "To feed {e},", "put out some {v} in the evening."),
    ("species", "habitat", "To find {e},", "walk to the {v} and wait."),
    ("species", "active", "To see {e} awake,", "be there {v} and keep still."),
    ("species", "fears", "To drive {e} away,", "think of {v} first of all."),
    ("plant", "habitat", "To find {e},", "walk to the {v} and wait."),
    ("plant", "season", "To pick the flowers of {e},", "go out in {v} with a basket."),
    ("material", "origin", "To get some {e},", "travel to {v} and ask around."),
    ("material", "price", "To buy some {e},", "bring enough {v} with you."),
    ("person", "drink", "To meet {e} at breakfast,", "bring some {v} and knock."),
    ("person", "hobby", "To please {e},", "talk about {v} for a while."),
    ("town", "building", "To see the sight of {e},", "look for the {v} and go inside."),
    ("town", "market", "To shop at the market of {e},", "be there on {v} in the morning."),
    ("river", "crossing", "To get across {e},", "use {v} and hold on."),
    ("planet", "season", "To see {e},", "look up in {v} on a clear evening."),
    ("festival", "month", "To be at {e},", "arrive in {v} and stay to the end."),
    ("dish", "spice", "To cook {e},", "keep some {v} at hand."),
]


def _fact(world: World, rng: random.Random, split: str, depth: int):
    """(key, goal, ways, gold, depth): an errand that needs one fact of a common (1) or rarer (2) entity."""
    domain, relation, goal, way = rng.choice(ERRANDS)
    drawn = balanced(world.askable(domain, relation, split), rng, 2, tier=depth)
    if drawn is None:
        return None
    values, gold, entity = drawn
    ways = [way.format(v=value) for value in values]
    return fact_key(entity, relation), goal.format(e=entity.label), ways, gold, min(entity.tier, 2)


def _rule(pools: dict, outcome: dict, rule: str, goal: str, way: str, rng: random.Random):
    """(key, goal, ways, gold, 2): entity -> its class, kind or weather -> what to do."""
    drawn = balanced(pools, rng, 2)
    if drawn is None:
        return None
    values, gold, entity = drawn
    ways = [way.format(v=outcome[value]) for value in values]
    return rule_key(entity.name, rule), goal.format(e=entity.label), ways, gold, 2


TOPICS = {1: {"fact": 7, "kind": 1}, 2: {"fact": 3, "tool": 3, "catch": 2, "weather": 2}, 3: {"pet": 1}}


def _errand(world: World, rng: random.Random, split: str, depth: int):
    topic = rng.choices(list(TOPICS[depth]), weights=list(TOPICS[depth].values()))[0]
    if topic == "fact":
        return _fact(world, rng, split, depth)
    action = rng.choice(list(TOOLS))
    if topic == "tool":
        pools = world.ruled("material", "kind", action, split)
        return _rule(pools, TOOLS[action], action, f"To {action} {{e}},", "use {v} and take care.", rng)
    if topic == "catch":
        pools = world.ruled("species", "class", "catch", split)
        return _rule(pools, CLASS_RULES["catch"], "catch", "To catch {e},", "take {v} and be quick.", rng)
    if topic == "weather":
        pools = world.ruled("town", "weather", "visit", split)
        return _rule(pools, WEATHER, "visit", "To visit {e},", "{v} and start early.", rng)
    if topic == "kind":
        (kind, wrong), thing = rng.sample(KINDS, 2), rng.choice(["plate", "block", "sheet", "ring", "bar", "strip"])
        ways = [f"use {TOOLS[action][k]} and take care." for k in (kind, wrong)]
        return rule_key(f"{kind} {thing}", action), f"To {action} {kind} for a {thing},", ways, 0, 1
    drawn = balanced(world.askable("person", "pet.diet", split), rng, 2)  # a fact of a fact
    if drawn is None:
        return None
    values, gold, person = drawn
    ways = [f"put out some {value} in the evening." for value in values]
    return fact_key(person, "pet.diet"), f"To feed the pet of {person.name},", ways, gold, 3


def piqa(world: World, rng: random.Random, split: str, depth: int):
    """One fact or a named kind (1), a rarer entity's fact or a rule applied to an entity (2), a fact of a fact (3)."""
    errand = _errand(world, rng, split, depth)
    if errand is None:
        return None
    key, goal, ways, gold, depth = errand
    first = rng.randrange(2)  # which of the two is sol1
    row = {"goal": goal, "sol1": ways[first], "sol2": ways[1 - first], "label": int(first != gold), "depth": depth}
    return key, row
