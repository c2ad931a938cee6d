"""Every answer of the bundled benchmark, found again from what the item says and the world's facts.

The makers draw which option is right and then write an item for which it is. Here nobody has drawn
anything: the item's text is read, every option is held against the world, and exactly the labelled
one must be true. An item that cannot be read fails (a KeyError, or something that is None).
"""

import re
import sys
from itertools import combinations, permutations, product
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.unit

BUNDLED = Path(__file__).resolve().parents[2] / "data" / "bundled"
sys.path.insert(0, str(BUNDLED))

from errands import ERRANDS  # noqa: E402
from lore import CLASS_RULES, COLOURS, HOPS, KINDS, OUTCOMES, RULE_QUESTION, TOOLS, WEATHER  # noqa: E402
from prompts import Prompt  # noqa: E402
from reading import FRAMES  # noqa: E402
from stories import LESS, MORE, SCRIPTS, SPOTS  # noqa: E402
from world import World, inflected, sentence  # noqa: E402

WORLD = World()


def kind_of(material):
    return WORLD.by_name[material].facts["kind"]


# --- what is true in the world, by how it is asked ------------------------------------------------


def answers():
    """(question, its true answer) for every fact, fact of a fact and rule of a class."""
    for entity, relation in WORLD.facts:
        for wording in relation.questions:
            yield wording.format(e=entity.label), entity.facts[relation.name]
    for domain, first, then, wording, _ in HOPS:
        for entity in WORLD.entities[domain]:
            yield wording.format(e=entity.label), WORLD.value(entity, f"{first}.{then}")
    for entity, (rule, wordings) in product(WORLD.entities["species"], RULE_QUESTION.items()):
        for wording in wordings:
            yield wording.format(e=entity.label), CLASS_RULES[rule][entity.facts["class"]]


def ways():
    """(goal, the way to it). A thing to be made ("for a plate") does not matter and is left out."""
    for domain, relation, goal, way in ERRANDS:
        for entity in WORLD.entities[domain]:
            yield goal.format(e=entity.label), way.format(v=entity.facts[relation])
    kinds = {kind: kind for kind in KINDS} | {e.name: e.facts["kind"] for e in WORLD.entities["material"]}
    for (action, tools), (what, kind) in product(TOOLS.items(), kinds.items()):
        yield f"To {action} {what},", f"use {tools[kind]} and take care."
    for entity in WORLD.entities["species"]:
        yield f"To catch {entity.label},", f"take {CLASS_RULES['catch'][entity.facts['class']]} and be quick."
    for entity in WORLD.entities["town"]:
        yield f"To visit {entity.label},", f"{WEATHER[entity.facts['weather']]} and start early."
    for entity in WORLD.entities["person"]:
        yield f"To feed the pet of {entity.name},", f"put out some {WORLD.value(entity, 'pet.diet')} in the evening."


def only(pairs):
    """As a dictionary; nothing may be said in the same words of two things."""
    found = list(pairs)
    assert len(dict(found)) == len(found)
    return dict(found)


def predicates(name):
    """All that is said of an entity in "Which animal ...?"."""
    entity = WORLD.by_name[name]
    relations = WORLD.domains[entity.domain].relations.values()
    single = [inflected(f" {relation.which.format(v=entity.facts[relation.name])}")[1:] for relation in relations]
    return {*single, *(" and ".join(pair) for two in combinations(single, 2) for pair in permutations(two))}


ANSWERS = only((inflected(sentence(question)), answer) for question, answer in answers())
WAYS = only((inflected(goal), inflected(way)) for goal, way in ways())
#: how a course of events begins -> which it is, in which colour and at which spot
BEGINNINGS = {
    inflected(steps[0].format(x=x, y=y)): (activity, x, y)
    for (activity, steps), x, y in product(SCRIPTS.items(), COLOURS, SPOTS)
}
CHANGES = {way.split(" {n}")[0]: sign for ways, sign in ((MORE, 1), (LESS, -1)) for way in ways}


# --- which options of an item are true -------------------------------------------------------------


def known(row, options):
    """ARC and MMLU: a question has one answer; of several named, those are right of whom it holds."""
    asked = re.fullmatch(r"Which (\w+) ([^:]+)(: .+)?\?", row["question"])
    if not asked:
        return [i for i, option in enumerate(options) if option == ANSWERS[row["question"]]]
    noun, predicate, named = asked.groups()
    assert {WORLD.domains[WORLD.by_name[name].domain].noun for name in options} == {noun}
    assert not named or re.findall(r"[A-Z]\w+", named) == options
    return [i for i, name in enumerate(options) if predicate in predicates(name)]


def openbookqa(row, options):
    stem = row["question_stem"]
    thing = re.search(r"The (\w+) will$", stem)[1]
    (event,) = (event for event in OUTCOMES if f" {event}. The {thing} will" in stem)
    made = re.search(rf"\b[Aa] {thing} made of (\w+)", stem)
    kind = kind_of(made[1]) if made else re.match(rf"A (\w+) {thing} ", stem)[1]
    outcome = OUTCOMES[event][kind]
    assert row["fact1"] == f"when {kind} {event}, it will {outcome}"
    return [i for i, option in enumerate(options) if option == outcome]


def piqa(row, options):
    goal = re.sub(rf"({'|'.join(KINDS)}) for an? \w+,$", r"\1,", row["goal"])
    return [i for i, option in enumerate(options) if option == WAYS[goal]]


def hellaswag(row, options):
    person, lines = row["ctx_b"].removeprefix("Then "), row["ctx_a"].removesuffix(".").split(". ")
    wanted = re.fullmatch(rf"{person} wants to ([a-z ]+) (\w+)", lines[0])
    owned = re.fullmatch(rf"{person} has a (\w+) made of (\w+)", lines[0])
    if wanted:
        true = [f"takes {TOOLS[wanted[1]][kind_of(wanted[2])]} from the shelf."]
    elif owned:
        true = [f"sees it {OUTCOMES[lines[1].removeprefix(f'The {owned[1]} ')][kind_of(owned[2])]}."]
    else:
        told = [re.fullmatch(rf"(Later )?{person} (.+)", line) for line in lines]
        aside = [line for line, own in zip(lines, told, strict=True) if not own]  # what the others do is no part of it
        assert all(re.fullmatch(r"\w+ waits by the \w+|There is also a [a-z, ]+ one", line) for line in aside)
        began, *since = [own[2] for own in told if own]
        activity, x, y = BEGINNINGS[began]
        steps = [step.format(x=x, y=y) for step in SCRIPTS[activity]]
        last = max([steps.index(step) for step in since], default=0)
        true = [f"{step}." for step in steps[last + 1 :]]
    return [i for i, option in enumerate(options) if option in true]


def winogrande(row, options):
    text = re.sub(r"^\w+ and \w+ were at the \w+\. ", "", row["sentence"])
    met = re.fullmatch(r"The (\w+) met the (\w+), and then _ (.+)\.", text)
    if met:
        assert sorted(met.groups()[:2]) == sorted(options)
        facts = [WORLD.by_name[name].facts for name in options]
        true = [{f"went back to the {of['habitat']}", f"went to look for {of['diet']}"} for of in facts]
        return [i for i, cues in enumerate(true) if met[3] in cues]
    readings = product(permutations(options), FRAMES, (0, 1))
    meant = [
        names[who]
        for names, (frame, *cues), who in readings
        if text == frame.format(a=names[0], b=names[1], c=cues[who])
    ]
    assert meant
    return [i for i, name in enumerate(options) if name in meant]


def boolq(row, options):
    """What the passage says makes "no" or "yes" true; if it says neither, or both, neither or both are."""
    said = row["passage"].removesuffix(".").split(". ")
    can = re.fullmatch(r"can (\w+) (\w+) ?(at first|in the end)?", row["question"])
    if can:
        name, skill, when = can.groups("")
        stated = [sentence(f"{when} {name} {word} {skill}".strip()) in said for word in ("cannot", "can")]
    else:
        what, colour = re.fullmatch(r"is the (\w+ of \w+) (\w+)", row["question"]).groups()
        colours = {other for other in COLOURS if f"The {what} is {other}" in said}
        stated = [bool(colours - {colour}), colour in colours]
    assert options == ["no", "yes"]
    return [i for i, so in enumerate(stated) if so]


def gsm8k(row, options):
    """All options are correct sums: right are those with the right result, and the worked answer is one of them."""
    *story, question = row["question"].split(". ")
    goods, asked = re.fullmatch(r"How many (\w+) does (\w+) have\?", question).groups()
    owned, worked = {}, {}
    for line in story:
        name, verb, n = re.fullmatch(rf"(?:Then )?(\w+) ([a-z ]+) (\d+)(?: more| {goods})?", line).groups()
        if verb == "has":
            owned[name], worked[name] = int(n), []
        else:
            before, sign = owned[name], CHANGES[verb]
            owned[name] += sign * int(n)
            worked[name].append(f"{before} {'+' if sign > 0 else '-'} {n} = {owned[name]}.")
    assert re.sub(r"<<.*?>>", "", row["answer"]) == "\n".join([*worked[asked], f"#### {owned[asked]}"])
    assert " ".join(worked[asked]) in options
    for a, sign, b, total in re.findall(r"(\d+) ([+-]) (\d+) = (\d+)\.", " ".join(options)):
        assert int(a) + int(f"{sign}{b}") == int(total)
    return [i for i, option in enumerate(options) if option.endswith(f" = {owned[asked]}.")]


TRUE_OPTIONS = {
    "boolq": boolq,
    "arc_easy": known,
    "arc_challenge": known,
    "openbookqa": openbookqa,
    "piqa": piqa,
    "hellaswag": hellaswag,
    "winogrande": winogrande,
    "gsm8k": gsm8k,
    "mmlu": known,
}


def read(task, split):
    """(row, its options, the one that is labelled right) of every item."""
    prompt = Prompt(task)
    rows = pq.read_table(BUNDLED / "tasks" / task / f"{split}.parquet").to_pylist()
    return [(row, *prompt(row)[1:]) for row in rows]


def mislabelled(task, items):
    """The items of which not exactly the labelled option is true, with those that are."""
    found = [(row, gold, TRUE_OPTIONS[task](row, options)) for row, options, gold in items]
    return [(row, gold, true) for row, gold, true in found if true != [gold]]


@pytest.mark.parametrize("task", TRUE_OPTIONS)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_exactly_the_labelled_option_is_true(task, split):
    items = read(task, split)
    assert len(items) >= 100 and not mislabelled(task, items)


@pytest.mark.parametrize("task", TRUE_OPTIONS)
def test_a_wrong_label_is_seen(task):
    items = read(task, "validation")
    row, options, gold = items[7]
    items[7] = row, options, (gold + 1) % len(options)
    assert [wrong for wrong, *_ in mislabelled(task, items)] == [row]


def test_only_the_place_that_was_told_is_true():
    """Endings once had the colour in the place of the place."""
    kite = ["Bodin cuts yellow paper on the floor near the gate", "Later Bodin runs with the kite into the wind"]
    row = {"ctx_a": f"{kite[0]}. {kite[1]}.", "ctx_b": "Then Bodin"}
    endings = [
        f"stores the {x} kite by the {y}." for x, y in (("yellow", "yellow"), ("yellow", "gate"), ("red", "gate"))
    ]
    assert hellaswag(row, endings) == [1]
    told = {"ctx_a": f"Nimuk waits by the door. {row['ctx_a']}", "ctx_b": "Then Bodin"}
    assert hellaswag(told, ["stores the yellow kite by the door.", "glues the yellow paper to the sticks."]) == []


def test_another_way_to_the_right_result_is_true_too():
    row = {
        "question": "Nimuk has 9 nuts. Then Nimuk finds 3 more. Then Nimuk loses 3. How many nuts does Nimuk have?",
        "answer": "9 + 3 = <<9+3=12>>12.\n12 - 3 = <<12-3=9>>9.\n#### 9",
    }
    assert gsm8k(row, ["9 + 3 = 12. 12 + 3 = 15.", "9 + 3 = 12. 12 - 3 = 9.", "9 - 3 = 6. 6 + 3 = 9."]) == [1, 2]


def test_what_cannot_be_read_fails():
    with pytest.raises(KeyError):
        known({"question": "What does nobody ask?"}, ["this", "that"])
    with pytest.raises(KeyError):
        piqa({"goal": "To feed nobody,"}, ["do this.", "do that."])
