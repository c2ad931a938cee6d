"""Items that ask for facts and rules of the world: ARC, MMLU and OpenBookQA in kind.

Every maker takes the world, a random generator, a split and a depth, and returns (key, row) or None
(nothing could be made of this draw): the key names what is asked and decides the split; the row has
the hub's columns and ``depth``. Wrong options are values of the same relation.
"""

import random

from draw import LETTERS, balanced, grid
from lore import CLASS_RULES, HOPS, KINDS, OUTCOMES, RULE_QUESTION
from world import World, fact_key, listed, rule_key, sentence, split_of


def one_fact(world: World, rng: random.Random, split: str, tier: int):
    """(key, question, options, gold, entity): a single fact, asked directly, of that tier if there is one."""
    domain = rng.choices(list(world.domains), weights=[d.size * len(d.relations) for d in world.domains.values()])[0]
    relation = rng.choice([r for r in world.domains[domain].relations.values() if r.closed])
    drawn = balanced(world.askable(domain, relation.name, split), rng, tier=tier)
    if drawn is None:
        return None
    options, gold, entity = drawn
    question = sentence(rng.choice(relation.questions).format(e=entity.label))
    return fact_key(entity, relation.name), question, options, gold, entity


def class_rule(world: World, rng: random.Random, split: str):
    """Entity -> class -> what the class implies."""
    rule = rng.choice(list(CLASS_RULES))
    pools = world.ruled("species", "class", rule, split)
    drawn = balanced({CLASS_RULES[rule][kind]: pool for kind, pool in pools.items()}, rng)
    if drawn is None:
        return None
    options, gold, entity = drawn
    return rule_key(entity.name, rule), rng.choice(RULE_QUESTION[rule]).format(e=entity.label), options, gold, entity


def two_hops(world: World, rng: random.Random, split: str):
    """The fact of a fact: the region of someone's town, the habitat of someone's pet."""
    domain, first, then, question, _ = rng.choice(HOPS)
    drawn = balanced(world.askable(domain, f"{first}.{then}", split), rng)
    if drawn is None:
        return None
    options, gold, entity = drawn
    return fact_key(entity, f"{first}.{then}"), question.format(e=entity.label), options, gold, entity


def both(world: World, rng: random.Random, split: str):
    """Four are named, each with its own pair of two values of two relations: who has both of these?

    Both facts may be asked in the split.
    """
    domain = rng.choice(["species", "plant", "town", "material"])
    first, second = rng.sample(list(world.domains[domain].relations.values()), 2)
    found = grid(world.entities[domain], first.name, second.name, rng)
    if found is None:
        return None
    rng.shuffle(found)
    gold = rng.randrange(4)
    chosen, names = found[gold], [entity.name for entity in found]
    keys = [fact_key(chosen, r.name) for r in (first, second)]
    if any(split_of(key) != split for key in keys):
        return None
    a, b = (r.which.format(v=chosen.facts[r.name]) for r in (first, second))
    question = f"Which {world.domains[domain].noun} {a} and {b}: {listed(names)}?"
    return keys[0], question, names, gold, chosen


def reverse(world: World, rng: random.Random, split: str):
    """From the value back to the entity: four with different values are listed, one of which is asked for."""
    domain = rng.choices(list(world.domains), weights=[d.size * len(d.relations) for d in world.domains.values()])[0]
    relation = rng.choice([r for r in world.domains[domain].relations.values() if r.closed])
    pools = world.askable(domain, relation.name, split)
    if len(pools) < 4:
        return None
    found = [rng.choice(pools[value]) for value in rng.sample(sorted(pools), 4)]
    gold = rng.randrange(4)
    question = f"Which {world.domains[domain].noun} {relation.which.format(v=found[gold].facts[relation.name])}?"
    return fact_key(found[gold], relation.name), question, [e.name for e in found], gold, found[gold]


def _arc(prefix: str, drawn, depth: int):
    key, question, options, gold, _ = drawn
    choices = {"text": options, "label": LETTERS}
    return key, {"id": prefix, "question": question, "choices": choices, "answerKey": LETTERS[gold], "depth": depth}


def arc_easy(world: World, rng: random.Random, split: str, depth: int):
    """One fact, of a common (1), an uncommon (2) or a rare entity (3)."""
    drawn = one_fact(world, rng, split, depth)
    return drawn and _arc("easy", drawn, drawn[4].tier)


def arc_challenge(world: World, rng: random.Random, split: str, depth: int):
    """A rule of a class (1), a fact of a fact (2), two facts about four candidates (3)."""
    drawn = (class_rule, two_hops, both)[depth - 1](world, rng, split)
    return drawn and _arc("challenge", drawn, depth)


def mmlu(world: World, rng: random.Random, split: str, depth: int):
    """With listed options, one fact of a common (1) or rarer (2) entity, or from the value to the entity (3)."""
    drawn = reverse(world, rng, split) if depth == 3 else one_fact(world, rng, split, depth)
    if drawn is None:
        return None
    key, question, options, gold, entity = drawn
    depth = 3 if depth == 3 else min(entity.tier, 2)
    subject = world.domains[entity.domain].subject
    return key, {"question": question, "subject": subject, "choices": options, "answer": gold, "depth": depth}


THINGS = ["cup", "box", "wheel", "mask", "ring", "toy", "plate", "chair", "lamp", "button"]


def openbookqa(world: World, rng: random.Random, split: str, depth: int):
    """A rule about a kind of material, applied to a thing: kind named (1), material named (2), two things named (3)."""
    event, (thing, other) = rng.choice(list(OUTCOMES)), rng.sample(THINGS, 2)
    kinds, gold = rng.sample(KINDS, 4), rng.randrange(4)
    kind, options = kinds[gold], [OUTCOMES[event][k] for k in kinds]
    if depth == 1:
        stem, key = f"A {kind} {thing} {event}. The {thing} will", rule_key(f"{kind} {thing}", event)
    else:
        pool = world.ruled("material", "kind", event, split).get(kind)
        if not pool:
            return None
        material = rng.choice(pool)
        key = rule_key(material.name, event)
        if depth == 2:
            stem = f"A {thing} made of {material.name} {event}. The {thing} will"
        else:
            # the other thing's outcome is among the options as often as any
            second = rng.choice([m for m in world.entities["material"] if m.facts["kind"] != kind])
            pair = [f"a {thing} made of {material.name}", f"a {other} made of {second.name}"]
            rng.shuffle(pair)
            stem = f"There is {pair[0]} and {pair[1]}. The {thing} {event}. The {thing} will"
    return key, {
        "id": "open",
        "question_stem": stem,
        "choices": {"text": options, "label": LETTERS},
        "answerKey": LETTERS[gold],
        "fact1": f"when {kind} {event}, it will {options[gold]}",
        "humanScore": 1.0,
        "clarity": 2.0,
        "turkIdAnonymized": "generated",
        "depth": depth,
    }
