"""Items that ask for facts and rules of the world: ARC, MMLU and OpenBookQA in kind.

Every maker takes the world and a random generator and returns (key, row): the key names what is
asked and decides the split; the row has the hub's columns and ``depth`` (1: one fact; 2: two
combined; 3: candidates to compare, or a detour). Wrong options are values of the same relation.
"""

import random

from lore import CLASS_RULES, KINDS, NUMBERS, OUTCOMES, RULE_QUESTION
from world import Entity, World, sentence

LETTERS = ["A", "B", "C", "D"]


def place(gold: str, wrong: list[str], rng: random.Random) -> tuple[list[str], int]:
    """Options in random order and the position of the right one."""
    options = [gold, *wrong]
    rng.shuffle(options)
    return options, options.index(gold)


def listed(options: list[str]) -> str:
    return ", ".join(options[:-1]) + " or " + options[-1]


def others(values, gold: str, rng: random.Random, n: int = 3) -> list[str]:
    return rng.sample([v for v in dict.fromkeys(values) if v != gold], n)


def pick(world: World, domain: str, rng: random.Random, **facts) -> Entity:
    """An entity of the domain with these facts; a rare one is drawn a third as often."""
    pool = [e for e in world.entities[domain] if all(e.facts[k] == v for k, v in facts.items())]
    return rng.choices(pool, weights=[1 if e.rare else 3 for e in pool])[0]


def fact_key(entity: Entity, relation: str) -> str:
    return f"fact|{entity.name}|{relation}"


def one_fact(world: World, rng: random.Random):
    """(key, question, answer, wrong, entity): a single fact, asked directly."""
    entity, relation = rng.choice(world.facts)
    gold = entity.facts[relation.name]
    question = sentence(rng.choice(relation.questions).format(e=entity.label))
    return fact_key(entity, relation.name), question, gold, others(relation.values, gold, rng), entity


def class_rule(world: World, rng: random.Random):
    """Entity -> class -> what the class implies."""
    entity, rule = pick(world, "species", rng), rng.choice(list(CLASS_RULES))
    gold = CLASS_RULES[rule][entity.facts["class"]]
    question = RULE_QUESTION[rule].format(e=entity.label)
    return f"rule|{entity.name}|{rule}", question, gold, others(CLASS_RULES[rule].values(), gold, rng), entity


def candidates(world: World, rng: random.Random):
    """Four entities named in the question, one has both properties; the others have (p, q'), (p', q), (p', q')."""
    domain = rng.choice(["species", "plant", "material", "town"])
    names = [n for n, r in world.relations[domain].items()]
    p, q = rng.sample(names, 2)
    pool, table = world.entities[domain], {}
    for _ in range(50):
        gold = rng.choice(pool)
        p1, q1 = gold.facts[p], gold.facts[q]
        p2, q2 = (
            others(world.relations[domain][p].values, p1, rng, 1)[0],
            others(world.relations[domain][q].values, q1, rng, 1)[0],
        )
        table = {pair: [e for e in pool if (e.facts[p], e.facts[q]) == pair] for pair in [(p1, q2), (p2, q1), (p2, q2)]}
        if all(table.values()):
            break
    else:
        return candidates(world, rng)
    options, _ = place(gold.name, [rng.choice(found).name for found in table.values()], rng)
    a, b = world.relations[domain][p].which.format(v=p1), world.relations[domain][q].which.format(v=q1)
    question = f"Which {world.noun(gold)} {a} and {b}: {listed(options)}?"
    return f"both|{gold.name}|{p}|{q}", question, gold.name, [o for o in options if o != gold.name], gold


def two_hops(world: World, rng: random.Random):
    """The fact of a fact: the region of someone's town, the habitat of someone's pet."""
    domain, first, target, relation, phrase = rng.choice(
        [
            ("person", "town", "town", "region", "In which region is the home of {e}?"),
            ("person", "pet", "species", "class", "What kind of animal is the pet of {e}?"),
            ("person", "pet", "species", "habitat", "In what place would you find the pet of {e}?"),
            ("ship", "captain", "person", "job", "What else is the job of the captain of {e}?"),
            ("festival", "town", "town", "region", "In which region is {e} held?"),
            ("festival", "town", "town", "weather", "What is the weather like at {e}?"),
        ]
    )
    entity = pick(world, domain, rng)
    gold = world.by_name[entity.facts[first]].facts[relation]
    values = world.relations[target][relation].values
    return (
        f"hop|{entity.name}|{first}|{relation}",
        phrase.format(e=entity.label),
        gold,
        others(values, gold, rng),
        entity,
    )


def compare(world: World, rng: random.Random):
    """Which planet has more moons? Four are named; the numbers differ."""
    values = rng.sample(NUMBERS, 4)
    found = [
        pick(world, "planet", rng, moons=v)
        for v in values
        if any(e.facts["moons"] == v for e in world.entities["planet"])
    ]
    if len(found) < 4:
        return compare(world, rng)
    most = rng.random() < 0.5
    gold = sorted(found, key=lambda e: NUMBERS.index(e.facts["moons"]))[-1 if most else 0]
    options = [e.name for e in found]
    extreme = "most" if most else "fewest"
    question = f"Which planet has the {extreme} moons: {listed(options)}?"
    return (
        f"moons|{most}|{'|'.join(sorted(options))}",
        question,
        gold.name,
        [o for o in options if o != gold.name],
        gold,
    )


def reverse(world: World, rng: random.Random):
    """From the value back to the entity, among listed ones."""
    entity, relation = rng.choice(world.facts)
    gold = entity.facts[relation.name]
    pool = [e.name for e in world.entities[entity.domain] if e.facts[relation.name] != gold]
    question = f"Which {world.noun(entity)} {relation.which.format(v=gold)}?"
    return fact_key(entity, relation.name), question, entity.name, rng.sample(pool, 3), entity


def odd_one(world: World, rng: random.Random):
    """Three share the value, one does not: which one?"""
    entity, relation = rng.choice([f for f in world.facts if len(f[1].values) <= 12])
    value = rng.choice([v for v in relation.values if v != entity.facts[relation.name]])
    pool = [e.name for e in world.entities[entity.domain] if e.facts[relation.name] == value]
    if len(pool) < 3:
        return odd_one(world, rng)
    which = relation.which.format(v=value)
    question = f"All but one share this: it {which}. Which {world.noun(entity)} is the other one?"
    return f"odd|{entity.name}|{relation.name}|{value}", question, entity.name, rng.sample(pool, 3), entity


def _arc(prefix: str, drawn, depth: int, rng: random.Random):
    key, question, gold, wrong, _ = drawn
    options, label = place(gold, wrong, rng)
    return key, {
        "id": prefix,
        "question": question,
        "choices": {"text": options, "label": LETTERS},
        "answerKey": LETTERS[label],
        "depth": depth,
    }


def arc_easy(world: World, rng: random.Random):
    drawn = one_fact(world, rng)
    return _arc("easy", drawn, 2 if drawn[4].rare else 1, rng)


def arc_challenge(world: World, rng: random.Random):
    make, depth = rng.choices([(class_rule, 1), (candidates, 2), (two_hops, 3), (compare, 3)], weights=[4, 3, 2, 1])[0]
    return _arc("challenge", make(world, rng), depth, rng)


def mmlu(world: World, rng: random.Random):
    make, depth = rng.choices([(one_fact, 1), (reverse, 2), (odd_one, 3)], weights=[4, 3, 2])[0]
    key, question, gold, wrong, entity = make(world, rng)
    options, label = place(gold, wrong, rng)
    return key, {
        "question": question,
        "subject": world.subject(entity),
        "choices": options,
        "answer": label,
        "depth": depth,
    }


def openbookqa(world: World, rng: random.Random):
    """A rule about a kind of material applied to a thing: kind named (1), material named (2), two things named (3)."""
    depth, event, thing = (
        rng.choice([1, 2, 2, 3]),
        rng.choice(list(OUTCOMES)),
        rng.choice(["cup", "box", "wheel", "mask", "ring", "toy"]),
    )
    material = pick(world, "material", rng)
    kind = material.facts["kind"]
    gold = OUTCOMES[event][kind]
    if depth == 1:
        stem, key = f"A {kind} {thing} {event}. The {thing} will", f"outcome|{kind}|{thing}|{event}"
    elif depth == 2:
        stem, key = f"A {thing} made of {material.name} {event}. The {thing} will", f"outcome|{material.name}|{event}"
    else:
        second = rng.choice([m for m in world.entities["material"] if m.facts["kind"] != kind])
        other = rng.choice([t for t in ["plate", "chair", "lamp", "button"]])
        pair = [f"a {thing} made of {material.name}", f"a {other} made of {second.name}"]
        rng.shuffle(pair)
        stem, key = (
            f"There are {pair[0]} and {pair[1]}. The {thing} {event}. It will",
            f"outcome|{material.name}|{event}",
        )
    wrong = [OUTCOMES[event][k] for k in rng.sample([k for k in KINDS if k != kind], 3)]
    options, label = place(gold, wrong, rng)
    rule = f"when {kind} {event}, it will {gold}"
    return key, {
        "id": "open",
        "question_stem": stem,
        "choices": {"text": options, "label": LETTERS},
        "answerKey": LETTERS[label],
        "fact1": rule,
        "humanScore": 1.0,
        "clarity": 2.0,
        "turkIdAnonymized": "generated",
        "depth": depth,
    }
