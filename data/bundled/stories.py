"""Items that are about a course of events: HellaSwag and GSM8K in kind.

As in ``knowledge``, every maker returns (key, row) or None, with the hub's columns and ``depth``.
"""

import random
from itertools import pairwise

from draw import balanced
from lore import COLOURS, OUTCOMES, TOOLS
from world import World, listed, rule_key, split_of

# --- HellaSwag: what happens next ------------------------------------------------------------------

SPOTS = ["window", "door", "ladder", "fence", "bench", "wall", "gate", "shed"]
# Steps of everyday doings; {x} is a colour and {y} a spot, named early and needed again later.
SCRIPTS = {
    "baking bread": [
        "takes the {x} bowl and stands by the {y}",
        "mixes flour and eggs",
        "kneads the dough in the {x} bowl",
        "lets the dough rest by the {y}",
        "slides the dough into the oven",
        "carries the warm bread to the {y}",
    ],
    "washing clothes": [
        "brings a {x} basket to the {y}",
        "fills a tub with water",
        "rubs the clothes with soap",
        "puts the wet clothes into the {x} basket",
        "hangs the clothes to dry near the {y}",
        "folds the dry clothes",
    ],
    "fishing": [
        "packs a {x} bag and leaves by the {y}",
        "walks down to the water",
        "throws the line into the water",
        "pulls a fish out of the water",
        "puts the fish into the {x} bag",
        "comes home and sits down by the {y}",
    ],
    "planting a tree": [
        "carries a {x} pot to the {y}",
        "digs a deep hole near the {y}",
        "takes the young tree out of the {x} pot",
        "sets the roots into the hole",
        "covers the roots with earth",
        "pours water from the {x} pot",
    ],
    "painting a room": [
        "opens the {x} paint and starts at the {y}",
        "dips the brush into the paint",
        "paints the room {x}",
        "waits for the room to dry",
        "paints the frame around the {y}",
        "cleans the brush",
    ],
    "mending a boat": [
        "drags the {x} boat to the {y}",
        "looks for the leak",
        "hammers a new board over the leak",
        "fills the gaps with tar",
        "paints the board {x}",
        "pushes the {x} boat back into the water",
    ],
    "writing a letter": [
        "sits down by the {y} with a {x} pen",
        "thinks of the first words",
        "fills the page with the {x} pen",
        "folds the page",
        "seals the letter with wax",
        "hands the letter out by the {y}",
    ],
    "making tea": [
        "brings a {x} kettle to the {y}",
        "stacks dry wood in the hearth",
        "lights the wood with a match",
        "waits until the {x} kettle sings",
        "pours the tea",
        "drinks the tea by the {y}",
    ],
    "riding a horse": [
        "leads the {x} horse out to the {y}",
        "puts the saddle on the {x} horse",
        "climbs into the saddle",
        "rides along the river",
        "brings the {x} horse back",
        "ties the horse to the {y}",
    ],
    "knitting a scarf": [
        "buys {x} wool and sits by the {y}",
        "winds the wool into a ball",
        "begins the first row",
        "knits until the ball is used up",
        "wraps the {x} scarf round the neck",
        "shows the scarf to friends at the {y}",
    ],
    "keeping bees": [
        "puts on a {x} hat and goes to the {y}",
        "blows smoke into the hive",
        "lifts the lid of the hive",
        "takes out the honey",
        "closes the lid of the hive",
        "hangs the {x} hat by the {y}",
    ],
    "building a kite": [
        "cuts {x} paper on the floor near the {y}",
        "ties two sticks into a cross",
        "glues the {x} paper to the sticks",
        "fixes a long string",
        "runs with the kite into the wind",
        "stores the {x} kite by the {y}",
    ],
}


def _content(step: str) -> set[str]:
    small = {"with", "into", "from", "near", "over"}
    return {word for word in step.split() if len(word) > 3 and "{" not in word} - small


_FIRST_WORDS = set().union(*(_content(steps[0]) for steps in SCRIPTS.values()))
#: later steps that share no word with the beginning of any script: only who knows the script can tell
TELLING = {
    activity: [step for step in steps[1:] if "{" not in step and not _content(step) & _FIRST_WORDS]
    for activity, steps in SCRIPTS.items()
}


def hellaswag(world: World, rng: random.Random, split: str, depth: int):
    """What belongs to what has begun (1), which colour or whose place it was (2), what suits a material (3).

    Wrong endings are later steps of other scripts, or name another colour or place that the context
    names too: which words an ending shares with the context is no hint. Other colours come before the
    right one; other people's places before or after it, by a fair draw.
    """
    person, *others = (e.name for e in rng.sample(world.entities["person"], 4))
    around, later = [], []
    if depth == 3:
        return _workshop(world, rng, split, person)
    gold = rng.randrange(4)
    if depth == 1:
        offered = rng.sample(sorted(TELLING), 4)
        activity, x, y = offered[gold], rng.choice(COLOURS), rng.choice(SPOTS)
        endings = [rng.choice(TELLING[other]) for other in offered]
    else:
        activity, colours, spots = rng.choice(sorted(SCRIPTS)), rng.sample(COLOURS, 4), rng.sample(SPOTS, 4)
        steps, x, y = SCRIPTS[activity], colours[gold], spots[gold]
        n = rng.choice([i for i, step in enumerate(steps) if i and ("{x}" in step or "{y}" in step)])
        if "{x}" in steps[n]:
            endings = [steps[n].format(x=colour, y=y) for colour in colours]
            around = [f"There is also {listed([f'a {colour} one' for colour in colours if colour != x], 'and')}."]
        else:
            endings = [steps[n].format(y=spot) for spot in spots]
            elsewhere = [spot for spot in spots if spot != y]
            around = [f"{other} waits by the {spot}." for other, spot in zip(others, elsewhere, strict=True)]
        later = [f"Later {person} {steps[n - 1].format(x=x, y=y)}."] if n > 1 else []
    # the sentence about other colours comes first
    begun = rng.randint(0, len(around)) if len(around) > 1 else len(around)
    context = [*around[:begun], f"{person} {SCRIPTS[activity][0].format(x=x, y=y)}.", *around[begun:], *later]
    label = activity if depth == 2 else "one day"
    return script_key(activity, x, y), _hellaswag(label, context, person, endings, gold, depth)


def script_key(activity: str, x: str, y: str) -> str:
    """Diagonals of the square colours × spots: every colour and every spot is equally often in every split."""
    return f"script|{activity}|{(COLOURS.index(x) + SPOTS.index(y)) % len(COLOURS)}"


def _workshop(world: World, rng: random.Random, split: str, person: str):
    """What someone takes to a material, or sees happen to a thing made of it."""
    if rng.random() < 0.5:
        rule = rng.choice(list(TOOLS))
        table, ending, begun = TOOLS[rule], "takes {v} from the shelf", f"wants to {rule} {{m}}"
    else:
        rule, thing = rng.choice(list(OUTCOMES)), rng.choice(["cup", "box", "wheel", "mask"])
        table, ending, begun = OUTCOMES[rule], "sees it {v}", f"has a {thing} made of {{m}}. The {thing} {rule}"
    pools = world.ruled("material", "kind", rule, split)
    drawn = balanced({table[kind]: pool for kind, pool in pools.items()}, rng)
    if drawn is None:
        return None
    values, gold, material = drawn
    before, endings = [f"{person} {begun.format(m=material.name)}."], [ending.format(v=value) for value in values]
    return rule_key(material.name, rule), _hellaswag("one day", before, person, endings, gold, 3)


def _hellaswag(activity, before, person, endings, gold, depth) -> dict:
    ctx_a, ctx_b = " ".join(before), f"Then {person}"
    return {
        "ind": 0,
        "activity_label": activity.capitalize(),
        "ctx_a": ctx_a,
        "ctx_b": ctx_b,
        "ctx": f"{ctx_a} {ctx_b}",
        "endings": [f"{ending}." for ending in endings],
        "source_id": f"script~{activity}",
        "split": "",
        "split_type": "indomain",
        "label": str(gold),
        "depth": depth,
    }


# --- GSM8K: sums in words --------------------------------------------------------------------------

GOODS = ["apples", "nuts", "eggs", "coins", "shells", "candles", "cups", "nails"]
MORE, LESS = ["finds {n} more", "buys {n} more", "is given {n} more"], ["loses {n}", "sells {n}", "gives away {n}"]
BELOW = 40  # every number that occurs


def pair_key(first: int, second: int) -> str:
    """What two sums in a row ask. Three in a row hold two such pairs, which must share a split."""
    return f"sums|{abs(first)}|{abs(second)}"


def gsm8k(world: World, rng: random.Random, split: str, depth: int):
    """Two sums (1), three sums (2), two of the right one of two people (3). All options are correct sums;
    only one has the right result.

    The options are the four combinations of two choices (two signs, or a sign and whose start), any
    of which the story could have asked for: only the story tells.
    """
    names, goods = [e.name for e in rng.sample(world.entities["person"], 2)], rng.choice(GOODS)
    starts = rng.sample(range(3, 26), 2)
    terms = [rng.choice([-1, 1]) * rng.randint(2, 9) for _ in range(3 if depth == 2 else 2)]
    keys = [pair_key(*pair) for pair in pairwise(terms)]
    if any(split_of(key) != split for key in keys):
        return None
    *before, first, last = terms
    if depth == 3:
        sums = [(start, [first, sign * last]) for start in starts for sign in (-1, 1)]
    else:
        sums = [(starts[0], [*before, a * first, b * last]) for a in (-1, 1) for b in (-1, 1)]
    others = rng.choice([-1, 1]) * rng.randint(2, 9)  # what happens to the other person
    told_sums = [*sums, *((start, [others]) for start in starts if depth == 3)]
    if any(not 0 <= total < BELOW for start, steps in told_sums for total in _totals(start, steps)):
        return None
    rng.shuffle(sums)
    gold = rng.randrange(4)
    start, steps = sums[gold]
    if [_totals(*each)[-1] for each in sums].count(_totals(start, steps)[-1]) > 1:
        return None
    story = [f"{names[0]} has {start} {goods}."]
    told = [_change(names[0], term, rng) for term in steps]
    if depth == 3:
        story.append(f"{names[1]} has {next(s for s in starts if s != start)} {goods}.")
        rng.shuffle(story)
        told.insert(rng.randrange(3), _change(names[1], others, rng))
    question = " ".join(story + told) + f" How many {goods} does {names[0]} have?"
    return keys[0], {
        "question": question,
        "answer": _worked(start, steps, marks=True),
        "choices": [_worked(*each, marks=False) for each in sums],
        "label": gold,
        "depth": depth,
    }


def _change(name: str, term: int, rng: random.Random) -> str:
    return f"Then {name} {rng.choice(MORE if term > 0 else LESS).format(n=abs(term))}."


def _totals(start: int, terms: list[int]) -> list[int]:
    return [start + sum(terms[: i + 1]) for i in range(len(terms))]


def _worked(start: int, terms: list[int], marks: bool) -> str:
    lines, total = [], start
    for term in terms:
        left = f"{total} {'+' if term > 0 else '-'} {abs(term)}"
        total += term
        mark = f"<<{left.replace(' ', '')}={total}>>" if marks else ""
        lines.append(f"{left} = {mark}{total}.")
    return "\n".join([*lines, f"#### {total}"]) if marks else " ".join(lines)
