"""General text: articles, surveys, rules and stories that state the world's facts in running prose.

No document has the form of a task. A person's or an animal's facts appear in several wordings; the
entity is named in the first sentence and often only "it" afterwards.
"""

import random

from lore import CLASS_RULES, COLOURS, KINDS, OUTCOMES, RULE_PROSE, TOOLS, WEATHER
from reading import FRAMES
from stories import SCRIPTS, SPOTS
from world import World, sentence

OPENINGS = [
    "Here is what is known.",
    "Travellers tell the following.",
    "An old book says this.",
    "Little is certain, but this is.",
    "Many have written about it.",
]


def _article(world: World, rng: random.Random) -> list[str]:
    domain = rng.choices(
        list(world.entities), weights=[len(world.entities[d]) * len(world.relations[d]) for d in world.entities]
    )[0]
    pool = world.entities[domain]
    entity = rng.choices(pool, weights=[1 if e.rare else 3 for e in pool])[0]
    lines = []
    relations = list(world.relations[domain].values())
    rng.shuffle(relations)
    for i, relation in enumerate(relations):
        label = entity.label if i == 0 or domain == "person" or rng.random() < 0.6 else "it"
        lines.append(sentence(rng.choice(relation.prose).format(e=label, v=entity.facts[relation.name])))
    if domain == "species" and rng.random() < 0.3:
        lines.append(_class_rule(entity.facts["class"], rng))
    return lines


def _class_rule(kind: str, rng: random.Random) -> str:
    rule = rng.choice(list(RULE_PROSE))
    return rng.choice(RULE_PROSE[rule]).format(c=kind, v=CLASS_RULES[rule][kind])


def _survey(world: World, rng: random.Random) -> list[str]:
    """One relation, several entities: the same kind of fact in a row."""
    lines = [rng.choice(OPENINGS)]
    for _ in range(rng.randint(5, 9)):
        entity, relation = rng.choice(world.facts)
        if entity.rare and rng.random() < 0.6:
            continue
        lines.append(sentence(rng.choice(relation.prose).format(e=entity.label, v=entity.facts[relation.name])))
    return lines


def _rules(world: World, rng: random.Random) -> list[str]:
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
    hero, friend = rng.sample(world.entities["person"], 2)
    activity, x, y = rng.choice(list(SCRIPTS)), rng.choice(COLOURS), rng.choice(SPOTS)
    lines = [f"One day in {rng.choice(world.entities['town']).name} {hero.name} is {activity} with {friend.name}."]
    start = rng.randrange(3)
    lines += [
        sentence(f"{rng.choice([hero.name, hero.name, 'then ' + hero.name])} {step.format(x=x, y=y)}.")
        for step in (SCRIPTS[activity][:1] + SCRIPTS[activity][1 + start :])
    ]
    frame, first, second = rng.choice(FRAMES)
    cue, who = rng.choice([(first, hero), (second, friend)])
    lines.append(frame.replace("_", who.name).format(a=hero.name, b=friend.name, c=cue))
    return lines


def document(world: World, rng: random.Random) -> str:
    """One document of 40 to 150 words."""
    make = rng.choices([_article, _survey, _rules, _story], weights=[6, 4, 1, 2])[0]
    lines = make(world, rng)
    if make is _article:
        lines += _article(world, rng)
    return " ".join(lines)
