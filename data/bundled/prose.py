"""General text: articles, surveys, rules and stories that state the world's facts in running prose.

No document has the form of a task. Facts appear in several wordings; the entity is named in the
first sentence and often only "it" afterwards. Every fact may be stated, also one that a test asks
for; what follows from several facts (a fact of a fact, who of several) is stated only where the
training split may ask for it.
"""

import random

from lore import CLASS_RULES, COLOURS, HOPS, KINDS, OUTCOMES, RULE_PROSE, TOOLS, WEATHER
from reading import FRAMES, SKILLS, THINGS
from stories import SCRIPTS, SPOTS, script_key
from world import World, fact_key, inflected, listed, sentence, split_of

OPENINGS = [
    "Here is what is known.",
    "Travellers tell the following.",
    "An old book says this.",
    "Little is certain, but this is.",
    "Many have written about it.",
]


def _trained(key: str) -> bool:
    return split_of(key) == "train"


def _article(world: World, rng: random.Random) -> list[str]:
    """All that is known of one entity, in any order."""
    weights = [d.size * len(d.relations) for d in world.domains.values()]
    domain = rng.choices(list(world.domains), weights=weights)[0]
    entity, lines = world.pick(domain, rng), []
    relations = list(world.domains[domain].relations.values())
    rng.shuffle(relations)
    for i, relation in enumerate(relations):
        label = entity.label if i == 0 or domain == "person" or rng.random() < 0.6 else "it"
        lines.append(sentence(rng.choice(relation.prose).format(e=label, v=entity.facts[relation.name])))
    for of, first, then, _, prose in HOPS:
        if of == domain and _trained(fact_key(entity, f"{first}.{then}")) and rng.random() < 0.4:
            lines.append(sentence(prose.format(e=entity.label, v=world.value(entity, f"{first}.{then}"))))
    if domain == "species" and rng.random() < 0.3:
        lines.append(_class_rule(entity.facts["class"], rng))
    return lines


def _class_rule(kind: str, rng: random.Random) -> str:
    rule = rng.choice(list(RULE_PROSE))
    return rng.choice(RULE_PROSE[rule]).format(c=kind, v=CLASS_RULES[rule][kind])


def _survey(world: World, rng: random.Random) -> list[str]:
    """One fact each of several entities."""
    lines = [rng.choice(OPENINGS)]
    for _ in range(rng.randint(5, 9)):
        domain = rng.choices(list(world.domains), weights=[d.size for d in world.domains.values()])[0]
        entity, relation = world.pick(domain, rng), rng.choice(list(world.domains[domain].relations.values()))
        lines.append(sentence(rng.choice(relation.prose).format(e=entity.label, v=entity.facts[relation.name])))
    return lines


def _contrasts(world: World, rng: random.Random) -> list[str]:
    """Who of several: the one with the value, among others without it."""
    lines = []
    for _ in range(rng.randint(3, 5)):
        domain = rng.choice(list(world.domains))
        relation = rng.choice([r for r in world.domains[domain].relations.values() if r.closed])
        entity = world.pick(domain, rng)
        value = entity.facts[relation.name]
        others = [e for e in world.entities[domain] if e.facts[relation.name] != value]
        if not _trained(fact_key(entity, relation.name)):
            continue
        group = rng.sample(others, rng.randint(1, 3)) + [entity]
        rng.shuffle(group)
        among = listed([e.name for e in group], "and")
        lines.append(f"Of {among}, only {entity.name} {relation.which.format(v=value)}.")
    return lines or _contrasts(world, rng)


def _rules(world: World, rng: random.Random) -> list[str]:
    """What holds for classes of animals, kinds of material, tools and weathers."""
    lines = []
    for _ in range(rng.randint(4, 7)):
        topic = rng.randrange(4)
        if topic == 0:
            lines.append(_class_rule(rng.choice(list(CLASS_RULES["cover"])), rng))
        elif topic == 1:
            event, kind = rng.choice(list(OUTCOMES)), rng.choice(KINDS)
            lines.append(f"When {kind} {event}, it will {OUTCOMES[event][kind]}.")
        elif topic == 2:
            action, kind = rng.choice(list(TOOLS)), rng.choice(KINDS)
            lines.append(f"People who {action} {kind} use {TOOLS[action][kind]}.")
        else:
            weather = rng.choice(list(WEATHER))
            lines.append(f"Where it is {weather}, {WEATHER[weather]}.")
    return lines


def _story(world: World, rng: random.Random) -> list[str]:
    """Two people, a course of events, and a sentence about the two."""
    hero, friend = rng.sample(world.entities["person"], 2)
    activity, x, y = rng.choice(list(SCRIPTS)), rng.choice(COLOURS), rng.choice(SPOTS)
    frame, first, second = rng.choice(FRAMES)
    asked = f"wino|{frame}|{'|'.join(sorted([hero.name, friend.name]))}"
    if not (_trained(script_key(activity, x, y)) and _trained(asked)):
        return _story(world, rng)
    lines = [f"One day in {rng.choice(world.entities['town']).name} {hero.name} is {activity} with {friend.name}."]
    lines += [
        sentence(f"{rng.choice([hero.name, hero.name, 'then ' + hero.name])} {step.format(x=x, y=y)}.")
        for step in SCRIPTS[activity]
    ]
    cue, who = rng.choice([(first, hero), (second, friend)])
    lines.append(frame.replace("_", who.name).format(a=hero.name, b=friend.name, c=cue))
    return lines


def _hearsay(world: World, rng: random.Random) -> list[str]:
    """Who can do what, which thing has which colour; then most of it again, and what is true of it and what is not.

    Nothing of it can be known beforehand, so whoever predicts the second half looks back at the first.
    """
    names = [e.name for e in rng.sample(world.entities["person"], rng.randint(2, 4))]
    claims = {(f"{name} {{}} {skill}", "can", "cannot") for name in names for skill in rng.sample(SKILLS, 2)}
    claims |= {(f"the {rng.choice(THINGS)} of {name} is {{}}", *rng.sample(COLOURS, 2)) for name in names}
    claims = [(claim, *rng.sample(values, 2)) for claim, *values in sorted(claims)]
    rng.shuffle(claims)
    lines = [f"{claim.format(right)}." for claim, right, _ in claims]
    lines += [rng.choice(["Here it is again.", "Once more.", "It was said before."])]
    rng.shuffle(claims)
    for claim, right, wrong in claims[: rng.randint(4, 8)]:
        way = rng.randrange(4)
        if way < 2:
            lines.append(f"{claim.format(right)}.")
        else:
            said = claim.format(right if way == 2 else wrong)
            lines.append(f"It is {'true' if way == 2 else 'not true'} that {said}.")
    return [sentence(line) for line in lines]


MAKERS = {_article: 6, _survey: 4, _contrasts: 2, _rules: 1, _story: 2, _hearsay: 5}


def document(world: World, rng: random.Random) -> str:
    """One document of 40 to 150 words."""
    make = rng.choices(list(MAKERS), weights=list(MAKERS.values()))[0]
    lines = make(world, rng)
    if make is _article:
        lines += _article(world, rng)
    return inflected(" ".join(lines))
