"""Items that ask how to do something, PIQA in kind: the way is known, the fact or rule decides the means.

As in ``knowledge``, the maker returns (key, row) with the hub's columns and ``depth``.
"""

import random

from knowledge import fact_key, others, pick, place
from lore import CLASS_RULES, TOOLS, WEATHER
from world import World

# (domain, relation, goal, way of solving): errands that need one fact.
ERRANDS = [
    ("species", "diet", "To feed {e},", "put out some {v} in the evening."),
    ("species", "habitat", "To find {e},", "walk to the {v} and wait."),
    ("species", "active", "To see {e} awake,", "be there {v} and keep still."),
    ("plant", "habitat", "To find {e},", "walk to the {v} and wait."),
    ("plant", "season", "To pick the flowers of {e},", "go out in {v} with a basket."),
    ("material", "origin", "To get some {e},", "travel to {v} and ask around."),
    ("person", "town", "To meet {e},", "travel to {v} and ask around."),
    ("person", "hobby", "To please {e},", "talk about {v} for a while."),
    ("town", "building", "To see the sight of {e},", "look for the {v} and go inside."),
    ("planet", "season", "To see {e},", "look up in {v} on a clear evening."),
    ("festival", "month", "To be at {e},", "arrive in {v} and stay a week."),
]


def _piqa_ask(world: World, rng: random.Random):
    """(key, goal, way of solving with {v}, right value, wrong value, depth)."""
    topic = rng.choice(["tool", "tool", "lookup", "lookup", "lookup", "lookup", "catch", "pet", "weather", "kind"])
    if topic in ("tool", "kind"):
        action, material = rng.choice(list(TOOLS)), pick(world, "material", rng)
        kind, thing = material.facts["kind"], rng.choice(["plate", "block", "sheet", "ring", "bar", "strip"])
        gold, key = TOOLS[action][kind], f"tool|{material.name}|{action}"
        goal = f"To {action} {material.name},"
        if topic == "kind":
            goal, key = f"To {action} {kind} for a {thing},", f"tool|{kind}|{action}|{thing}"
        return (
            key,
            goal,
            "use {v} and take your time.",
            gold,
            others(TOOLS[action].values(), gold, rng, 1)[0],
            1 if topic == "kind" else 2,
        )
    if topic == "lookup":
        domain, relation, goal, way = rng.choice(ERRANDS)
        entity = pick(world, domain, rng)
        gold = entity.facts[relation]
        return (
            fact_key(entity, relation),
            goal.format(e=entity.label),
            way,
            gold,
            others(world.relations[domain][relation].values, gold, rng, 1)[0],
            1,
        )
    if topic == "catch":
        animal = pick(world, "species", rng)
        gold = CLASS_RULES["catch"][animal.facts["class"]]
        return (
            f"rule|{animal.name}|catch",
            f"To catch {animal.label},",
            "take {v} and be quick.",
            gold,
            others(CLASS_RULES["catch"].values(), gold, rng, 1)[0],
            2,
        )
    if topic == "pet":
        person = pick(world, "person", rng)
        gold = world.by_name[person.facts["pet"]].facts["diet"]
        return (
            f"hop|{person.name}|pet|diet",
            f"To feed the pet of {person.name},",
            "put out some {v} in the evening.",
            gold,
            others(world.relations["species"]["diet"].values, gold, rng, 1)[0],
            3,
        )
    town = pick(world, "town", rng)
    gold = WEATHER[town.facts["weather"]]
    return (
        f"visit|{town.name}",
        f"To visit {town.name},",
        "{v} and start early.",
        gold,
        others(WEATHER.values(), gold, rng, 1)[0],
        2,
    )


def piqa(world: World, rng: random.Random):
    key, goal, way, gold, wrong, depth = _piqa_ask(world, rng)
    options, label = place(way.format(v=gold), [way.format(v=wrong)], rng)
    return key, {"goal": goal, "sol1": options[0], "sol2": options[1], "label": label, "depth": depth}
