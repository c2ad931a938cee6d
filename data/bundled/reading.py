"""Items that are about the text in front of the reader: BoolQ and WinoGrande in kind.

As in ``knowledge``, every maker returns (key, row) with the hub's columns and ``depth``.
"""

import random

from knowledge import fact_key, others, pick, place
from lore import COLOURS
from world import World

# --- BoolQ: what the passage says of someone, not what is known of them ----------------------------

SKILLS = ["swim", "sing", "cook", "read", "dance", "climb", "fish", "paint", "ride", "sew"]
THINGS = ["rope", "lamp", "knife", "map", "coat", "basket", "book", "bell", "spoon", "key"]


def boolq(world: World, rng: random.Random):
    """Retrieve a polarity (1), among statements about the same skill or person (2), or compare a value (3)."""
    depth = rng.choice([1, 1, 2, 2, 3])
    names = [e.name for e in rng.sample(world.entities["person"], 3)]
    label = rng.random() < 0.5
    if depth == 3:
        thing = rng.choice(THINGS)
        colours = dict(zip(names[:2], rng.sample(COLOURS, 2), strict=True))
        lines = [f"The {thing} of {name} is {colour}." for name, colour in colours.items()]
        asked = rng.choice(names[:2])
        wrong = (
            others(COLOURS, colours[asked], rng, 1)[0] if rng.random() < 0.5 else colours[names[1 - names.index(asked)]]
        )
        question = f"is the {thing} of {asked} {colours[asked] if label else wrong}"
    else:
        pairs = [(name, skill) for name in names[: depth + 1] for skill in rng.sample(SKILLS, depth)]
        if depth == 2:
            shared = rng.choice(SKILLS)
            rest = rng.sample([s for s in SKILLS if s != shared], 2)
            pairs = [(names[0], shared), (names[1], shared), (names[0], rest[0]), (names[1], rest[1])]
        rng.shuffle(pairs)
        asked = rng.choice(pairs)
        says = {pair: rng.random() < 0.5 for pair in pairs}
        says[asked] = label
        lines = [f"{name} {'can' if yes else 'cannot'} {skill}." for (name, skill), yes in says.items()]
        question = f"can {asked[0]} {asked[1]}"
    rng.shuffle(lines)
    passage = " ".join(lines)
    return f"boolq|{passage}|{question}", {
        "question": question,
        "passage": passage,
        "idx": 0,
        "label": int(label),
        "depth": depth,
    }


# --- WinoGrande: who is meant ---------------------------------------------------------------------

# (sentence, what makes it the first name, what makes it the second)
FRAMES = [
    ("{a} lent {b} some money because _ {c}.", "had plenty", "had none"),
    ("{a} thanked {b} because _ {c}.", "got help", "gave help"),
    ("{a} asked {b} for directions because _ {c}.", "was lost", "knew the way"),
    ("{a} could not lift {b} because _ {c}.", "was weak", "was heavy"),
    ("{a} followed {b} because _ {c}.", "came later", "went ahead"),
    ("{a} taught {b} to swim because _ {c}.", "was a good teacher", "was a beginner"),
    ("{a} sold a boat to {b} because _ {c}.", "needed money", "wanted to sail"),
    ("{a} hid from {b} because _ {c}.", "was afraid", "was angry"),
    ("{a} lost the race to {b} because _ {c}.", "was slow", "was fast"),
    ("{a} visited {b} because _ {c}.", "was lonely", "was ill"),
    ("{a} paid {b} for the work, so _ {c}.", "spent money", "earned money"),
    ("{a} gave {b} the last cake, so _ {c}.", "stayed hungry", "was full"),
    ("{a} woke {b} before dawn, so _ {c}.", "heard complaints", "was tired all day"),
    ("{a} told {b} a secret, so _ {c}.", "felt relieved", "learned something"),
    ("{a} stood behind {b}, so _ {c}.", "saw little", "saw everything"),
    ("{a} won the game against {b}, so _ {c}.", "was proud", "was sad"),
    ("{a} carried the bags of {b}, so _ {c}.", "got tired", "walked freely"),
    ("{a} borrowed a lamp from {b}, so _ {c}.", "had light", "sat in the dark"),
    ("{a} forgot to meet {b}, so _ {c}.", "said sorry", "waited in vain"),
    ("{a} painted a picture of {b}, so _ {c}.", "held the brush", "sat still"),
]


def winogrande(world: World, rng: random.Random):
    """A cue that fits one role (1), after a sentence that names both (2), or a fact about one of two animals (3)."""
    depth = rng.choice([1, 1, 2, 3])
    if depth == 3:
        relation, cue = rng.choice([("habitat", "went back to the {v}"), ("diet", "went to look for {v}")])
        first = pick(world, "species", rng)
        value = first.facts[relation]
        second = rng.choice([e for e in world.entities["species"] if e.facts[relation] != value])
        pair = [first, second]
        rng.shuffle(pair)
        text = f"The {pair[0].name} met the {pair[1].name}, and then _ {cue.format(v=value)}."
        gold, key = pair.index(first), fact_key(first, relation)
    else:
        pair = rng.sample(world.entities["person"], 2)
        frame, gold = rng.choice(FRAMES), rng.randrange(2)
        names = [e.name for e in pair]
        text = frame[0].format(a=names[0], b=names[1], c=frame[1 + gold])
        if depth == 2:
            place_ = rng.choice(["market", "harbour", "mill", "garden", "bridge"])
            text = f"{names[1]} and {names[0]} were at the {place_}. {text}"
        key = f"wino|{frame[0]}|{'|'.join(sorted(names))}"
    options, label = place(pair[gold].name, [pair[1 - gold].name], rng)
    return key, {
        "sentence": text,
        "option1": options[0],
        "option2": options[1],
        "answer": str(label + 1),
        "depth": depth,
    }
