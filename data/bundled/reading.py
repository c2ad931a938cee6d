"""Items that are about the text in front of the reader: BoolQ and WinoGrande in kind.

As in ``knowledge``, every maker returns (key, row) or None, with the hub's columns and ``depth``.
"""

import random

from draw import balanced
from lore import COLOURS
from world import World, sentence

# --- BoolQ: what the passage says of someone, not what is known of them ----------------------------

SKILLS = ["swim", "sing", "cook", "read", "dance", "climb", "fish", "paint", "ride", "sew"]
THINGS = ["rope", "lamp", "knife", "map", "coat", "basket", "book", "bell", "spoon", "key"]
TIMES = ["at first", "in the end"]


def boolq(world: World, rng: random.Random, split: str, depth: int):
    """When someone could do something (1), which of two people can (2), whether a thing has a colour (3).

    A passage says once that someone can and once that someone cannot, or names two colours: alone it is no hint.
    """
    names, skill = [e.name for e in rng.sample(world.entities["person"], 2)], rng.choice(SKILLS)
    label, asked = rng.random() < 0.5, rng.randrange(2)
    mood = ["can", "cannot"] if label == (asked == 0) else ["cannot", "can"]
    if depth == 1:
        lines = [sentence(f"{time} {names[0]} {says} {skill}.") for time, says in zip(TIMES, mood, strict=True)]
        question = f"can {names[0]} {skill} {TIMES[asked]}"
    elif depth == 2:
        lines = [f"{name} {says} {skill}." for name, says in zip(names, mood, strict=True)]
        rng.shuffle(lines)
        question = f"can {names[asked]} {skill}"
    else:
        thing, colours = rng.choice(THINGS), rng.sample(COLOURS, 2)
        lines = [f"The {thing} of {name} is {colour}." for name, colour in zip(names, colours, strict=True)]
        question = f"is the {thing} of {names[asked]} {colours[asked if label else 1 - asked]}"
    passage = " ".join(lines)
    row = {"question": question, "passage": passage, "idx": 0, "label": int(label), "depth": depth}
    return f"boolq|{'|'.join(sorted(lines))}", row


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


def winogrande(world: World, rng: random.Random, split: str, depth: int):
    """A cue that fits one role (1), after a sentence that names both (2), or a fact about one of two animals (3)."""
    if depth == 3:
        relation, cue = rng.choice([("habitat", "went back to the {v}"), ("diet", "went to look for {v}")])
        drawn = balanced(world.askable("species", relation, split), rng, 2)
        if drawn is None:
            return None
        values, gold, first = drawn
        second = rng.choice(world.askable("species", relation, split)[values[1 - gold]])
        pair = [first.name, second.name] if gold == 0 else [second.name, first.name]
        text = f"The {pair[0]} met the {pair[1]}, and then _ {cue.format(v=first.facts[relation])}."
        key = f"fact|{first.name}|{relation}"
    else:
        pair = [e.name for e in rng.sample(world.entities["person"], 2)]
        frame, gold = rng.choice(FRAMES), rng.randrange(2)
        text = frame[0].format(a=pair[0], b=pair[1], c=frame[1 + gold])
        if depth == 2:
            place, both = rng.choice(["market", "harbour", "mill", "garden", "bridge"]), rng.sample(pair, 2)
            text = f"{both[0]} and {both[1]} were at the {place}. {text}"
        key = f"wino|{frame[0]}|{'|'.join(sorted(pair))}"
    first = rng.randrange(2)  # which of the two is option1
    options = [pair[first], pair[1 - first]]
    return key, {
        "sentence": text,
        "option1": options[0],
        "option2": options[1],
        "answer": str(options.index(pair[gold]) + 1),
        "depth": depth,
    }
