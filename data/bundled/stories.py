"""Items that are about a course of events: HellaSwag and GSM8K in kind.

As in ``knowledge``, every maker returns (key, row) with the hub's columns and ``depth``.
"""

import random

from knowledge import others, pick, place
from lore import COLOURS, OUTCOMES, TOOLS
from world import World

# --- HellaSwag: what happens next ------------------------------------------------------------------

SPOTS = ["window", "door", "stairs", "fence", "bench", "wall", "gate", "shed"]
# Steps of everyday doings; {x} is a colour and {y} a spot, named early and needed again later.
SCRIPTS = {
    "baking bread": [
        "takes the {x} bowl and stands by the {y}",
        "mixes flour with water",
        "kneads the dough in the {x} bowl",
        "lets the dough rest by the {y}",
        "puts the dough into the oven",
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
        "paints the wall {x}",
        "waits for the wall to dry",
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


def hellaswag(world: World, rng: random.Random):
    """The next step among other steps (1), among wrong things or places (2), or what suits a material (3)."""
    person, depth = rng.choice(world.entities["person"]).name, rng.choice([1, 2, 2, 3])
    if depth == 3:
        return _tool_story(world, rng, person)
    activity = rng.choice(list(SCRIPTS))
    x, y = rng.choice(COLOURS), rng.choice(SPOTS)
    steps = SCRIPTS[activity]
    slots = [i for i, step in enumerate(steps) if i and ("{x}" in step or "{y}" in step)]
    n = rng.choice(slots) if depth == 2 else rng.randrange(1, len(steps))
    gold = steps[n].format(x=x, y=y) + "."
    if depth == 1:
        wrong = [steps[i].format(x=x, y=y) + "." for i in rng.sample([i for i in range(len(steps)) if i != n], 3)]
    elif "{x}" in steps[n]:
        wrong = [steps[n].format(x=v, y=y) + "." for v in others(COLOURS, x, rng)]
    else:
        wrong = [steps[n].format(x=x, y=v) + "." for v in others(SPOTS, y, rng)]
    before = [f"{person} {steps[0].format(x=x, y=y)}."]
    before += [f"Then {person} {steps[i].format(x=x, y=y)}." for i in range(1, n)]
    return f"script|{activity}|{n}|{x}|{y}", _hellaswag(activity, before, person, gold, wrong, depth, rng)


def _tool_story(world: World, rng: random.Random, person: str):
    material = pick(world, "material", rng)
    kind = material.facts["kind"]
    if rng.random() < 0.5:
        action = rng.choice(list(TOOLS))
        before, table, shape = (
            [f"{person} wants to {action} {material.name}."],
            TOOLS[action],
            "takes {v} from the shelf.",
        )
        key = f"tool|{material.name}|{action}"
    else:
        action = rng.choice(list(OUTCOMES))
        thing = rng.choice(["cup", "box", "wheel", "mask"])
        before, table, shape = (
            [f"The {thing} of {person} is made of {material.name}. It {action}."],
            OUTCOMES[action],
            "sees it {v}.",
        )
        key = f"outcome|{material.name}|{action}"
    gold = shape.format(v=table[kind])
    wrong = [shape.format(v=v) for v in others(table.values(), table[kind], rng)]
    return key, _hellaswag("working", before, person, gold, wrong, 3, rng)


def _hellaswag(activity, before, person, gold, wrong, depth, rng) -> dict:
    endings, label = place(gold, wrong, rng)
    ctx_a, ctx_b = " ".join(before), f"Then {person}"
    return {
        "ind": 0,
        "activity_label": activity.capitalize(),
        "ctx_a": ctx_a,
        "ctx_b": ctx_b,
        "ctx": f"{ctx_a} {ctx_b}",
        "endings": endings,
        "source_id": f"script~{activity}",
        "split": "",
        "split_type": "indomain",
        "label": str(label),
        "depth": depth,
    }


# --- GSM8K: sums in words --------------------------------------------------------------------------

GOODS = ["apples", "nuts", "eggs", "coins", "shells", "candles", "cups", "nails"]
MORE, LESS = ["finds {n} more", "buys {n} more", "is given {n} more"], ["loses {n}", "sells {n}", "gives away {n}"]


def gsm8k(world: World, rng: random.Random):
    """One to three sums below 40. Wrong options are correct sums of the wrong things: only the question tells."""
    depth = rng.choice([1, 2, 2, 3])
    person, goods = rng.choice(world.entities["person"]).name, rng.choice(GOODS)
    while True:
        start, terms = rng.randint(3, 20), [rng.choice([-1, 1]) * rng.randint(2, 9) for _ in range(depth)]
        variants = _variants(start, terms)
        if variants:
            break
    story = [f"{person} has {start} {goods}."]
    for i, term in enumerate(terms):
        phrase = rng.choice(MORE if term > 0 else LESS).format(n=abs(term))
        story.append(f"{person if i == 0 else 'Then ' + person} {phrase}.")
    question = " ".join(story) + f" How many {goods} does {person} have?"
    worked = [_worked(start, variant, marks=False) for variant in variants]
    options, label = place(worked[0], worked[1:], rng)
    key = f"sum|{start}|{'|'.join(map(str, terms))}"
    return key, {
        "question": question,
        "answer": _worked(start, terms, marks=True),
        "choices": options,
        "label": label,
        "depth": depth,
    }


def _variants(start: int, terms: list[int]) -> list[list[int]] | None:
    """The terms and three wrong versions, each differing by a sign or a number as often as the right one (2 x 2)."""
    flipped = [-terms[0], *terms[1:]]
    if len(terms) == 1:
        shift = 1 if abs(terms[0]) % 2 else -1
        other = [terms[0] + shift]
        rows = [terms, flipped, other, [-other[0]]]
    else:
        last = [*terms[:-1], -terms[-1]]
        rows = [terms, flipped, last, [*flipped[:-1], -terms[-1]]]
    for row in rows:
        total = start
        for term in row:
            total += term
            if not 0 <= total < 40:
                return None
    return rows if len({tuple(r) for r in rows}) == 4 else None


def _worked(start: int, terms: list[int], marks: bool) -> str:
    lines, total = [], start
    for term in terms:
        left = f"{total} {'+' if term > 0 else '-'} {abs(term)}"
        total += term
        mark = f"<<{left.replace(' ', '')}={total}>>" if marks else ""
        lines.append(f"{left} = {mark}{total}.")
    return "\n".join([*lines, f"#### {total}"]) if marks else " ".join(lines)
