"""The bundled world: reproducible, disjoint, balanced, in the hub's schemas, and small enough to ship."""

import hashlib
import json
import re
import sys
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.unit

BUNDLED = Path(__file__).resolve().parents[2] / "data" / "bundled"
sys.path.insert(0, str(BUNDLED))

import check  # noqa: E402
import generate  # noqa: E402
import prose  # noqa: E402
import stories  # noqa: E402
from lore import HOPS, OUTCOMES, TOOLS  # noqa: E402
from prompts import Prompt  # noqa: E402
from world import World, fact_key, inflected, sentence, split_of  # noqa: E402

TASKS = list(generate.MAKERS)
SPLITS = tuple(generate.SIZES)
ITEMS = 50  # of every task that the model answers here; the card has all of them
FITTED = ["blind", "words"]  # the shortcuts that are fitted, not counted
CHOICES = "struct<label: list<element: string>, text: list<element: string>>"
# The hub's columns and types; ``depth`` (and GSM8K's options) are ours.
SCHEMAS = {
    "boolq": dict(question="string", passage="string", idx="int32", label="int64"),
    "arc_easy": dict(id="string", question="string", choices=CHOICES, answerKey="string"),
    "arc_challenge": dict(id="string", question="string", choices=CHOICES, answerKey="string"),
    "openbookqa": dict(
        id="string",
        question_stem="string",
        choices=CHOICES,
        answerKey="string",
        fact1="string",
        humanScore="float",
        clarity="float",
        turkIdAnonymized="string",
    ),
    "piqa": dict(goal="string", sol1="string", sol2="string", label="int64"),
    "hellaswag": dict(
        ind="int32",
        activity_label="string",
        ctx_a="string",
        ctx_b="string",
        ctx="string",
        endings="list<element: string>",
        source_id="string",
        split="string",
        split_type="string",
        label="string",
    ),
    "winogrande": dict(sentence="string", option1="string", option2="string", answer="string"),
    "gsm8k": dict(question="string", answer="string"),
    "mmlu": dict(question="string", subject="string", choices="list<element: string>", answer="int64"),
    "wikitext": dict(text="string"),
}


def rows(task, split):
    return pq.read_table(BUNDLED / "tasks" / task / f"{split}.parquet").to_pylist()


def written_by(file):
    """The version of Arrow in a file's metadata; another one may write the same rows in other bytes."""
    return re.search(r"version (\S+)", pq.read_metadata(file).created_by)[1]


def digest(data):
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


@pytest.mark.slow
def test_the_generator_writes_the_same_rows_and_the_same_bytes(tmp_path):
    generate.main(tmp_path)
    for file in sorted((BUNDLED / "tasks").glob("*/*.parquet")):
        fresh = tmp_path / file.relative_to(BUNDLED / "tasks")
        assert digest(pq.read_table(fresh).to_pylist()) == digest(pq.read_table(file).to_pylist()), file.parent.name
        if pa.__version__ == written_by(file):
            assert fresh.read_bytes() == file.read_bytes(), file.parent.name
    assert len(list(tmp_path.glob("*/*.parquet"))) == 3 * len(SCHEMAS)
    again = tmp_path / "again"
    world = World()
    generate.write(again / "test.parquet", generate.rows(world, "boolq", "test"))
    assert (again / "test.parquet").read_bytes() == (tmp_path / "boolq" / "test.parquet").read_bytes()


@pytest.mark.parametrize("task", SCHEMAS)
def test_columns_are_the_hubs(task):
    schema = pq.read_schema(BUNDLED / "tasks" / task / "test.parquet")
    found = {name: str(schema.field(name).type) for name in schema.names}
    extra = set(found) - set(SCHEMAS[task])
    assert extra <= {"depth", "choices", "label"}, extra
    for name, kind in SCHEMAS[task].items():
        wanted = kind.replace("struct<label: list<element: string>, text: list<element: string>>", "struct")
        assert found[name] == kind or found[name].startswith(wanted), (name, found[name])


@pytest.mark.parametrize("task", TASKS)
def test_nothing_asked_in_the_test_is_asked_in_training(task):
    train = {generate.identity(row) for row in rows(task, "train")}
    test = [generate.identity(row) for row in rows(task, "test")]
    assert len(train) >= 500 and len(test) == len(set(test)) >= 500
    assert not train & set(test)
    world, rng = World(), generate.generator("a stream of the trainer")
    stream = generate.items(world, task, "train", rng)
    fresh = {generate.identity(next(stream)) for _ in range(2000)}
    assert not fresh & set(test) and len(fresh - train) > 0


def test_general_text_says_nothing_that_only_a_test_may_ask():
    """Facts may be stated; what follows from several, or who of several it is, only where training asks for it."""
    world, rng = World(), generate.generator("general text in a test")
    text = " ".join(prose.document(world, rng) for _ in range(4000))
    hops = {"train": 0, "test": 0, "validation": 0}
    for domain, first, then, _, wording in HOPS:
        for entity in world.entities[domain]:
            stated = inflected(sentence(wording.format(e=entity.label, v=world.value(entity, f"{first}.{then}"))))
            hops[split_of(fact_key(entity, f"{first}.{then}"))] += text.count(stated)
    assert hops["train"] > 100 and not hops["test"] and not hops["validation"], hops
    contrasts = {"train": 0, "test": 0, "validation": 0}
    for entity, relation in world.facts:
        stated = inflected(f", only {entity.name} {relation.which.format(v=entity.facts[relation.name])}.")
        contrasts[split_of(fact_key(entity, relation.name))] += text.count(stated)
    assert contrasts["train"] > 100 and not contrasts["test"] and not contrasts["validation"], contrasts
    for task in TASKS:
        prompt = Prompt(task)
        asked = [prompt(row) for row in rows(task, "test")]
        assert not [context for context, *_ in asked if context in text]
        if task == "hellaswag":  # a course of events is told whole: those of the test are never told
            assert not [c for c, options, gold in asked if c.split(": ", 1)[1] + f" {options[gold]}" in text]


@pytest.mark.parametrize("task", TASKS)
def test_right_answers_are_spread_evenly(task):
    prompt = Prompt(task)
    asked = [prompt(row) for row in rows(task, "test")]
    count = len(asked[0][1])
    low, high = check.chance_interval(len(asked), 1 / count, tests=count)
    for position in range(count):
        assert low <= sum(gold == position for _, _, gold in asked) / len(asked) <= high, position
    assert all(len(set(options)) == len(options) == count for _, options, _ in asked)


@cache
def shortcuts(task):
    return check.shortcuts(task)


@pytest.mark.parametrize("task", TASKS)
def test_shortcuts_are_at_chance(task):
    """Longest option, option frequency, position, options without their question, bags of shared words."""
    reached = shortcuts(task).mean()
    chance = 1 / len(Prompt(task)(rows(task, "test")[0])[1])
    low, high = check.chance_interval(len(rows(task, "test")), chance, tests=len(TASKS) * len(reached))
    assert tuple(reached.index) == check.SHORTCUTS and reached.between(low, high).all(), reached


def test_a_shortcut_would_be_seen(monkeypatch):
    """The same predictors on options that give the answer away."""
    told = [("who?", ["it is red", "it is blue"], 0), ("who?", ["it is blue", "it is red indeed"], 1)] * 60
    monkeypatch.setattr(check, "read", lambda task, split="test": told)
    monkeypatch.setattr(check, "Prompt", lambda task: lambda row: row)
    reached = check.shortcuts("any").mean()
    assert reached["frequent"] == reached["blind"] == reached["words"] == 1


@pytest.mark.parametrize("task", TASKS)
def test_prompts_are_what_lm_eval_renders(task):
    from lm_eval.utils import apply_template

    prompt = Prompt(task)
    for row in rows(task, "validation")[:20]:
        context, options, gold = prompt(row)
        assert context == apply_template(prompt.config["doc_to_text"], row)
        assert context == context.rstrip() and 0 <= gold < len(options)
        assert all(option == option.strip() for option in options)


def test_what_a_rule_is_asked_of_has_one_split_in_all_tasks():
    """Who cuts what with what, who catches what, what happens to what: PIQA, HellaSwag, OpenBookQA, ARC-Challenge."""
    names = "|".join(e.name for domain in ("species", "material") for e in World().entities[domain])
    wordings = {rule: [rule] for rule in OUTCOMES} | {rule: [f"o {rule} "] for rule in TOOLS}
    wordings["catch"] = ["catch", "caught"]
    asked: dict[tuple, dict[str, set]] = {}
    for task in ("piqa", "hellaswag", "openbookqa", "arc_challenge"):
        prompt = Prompt(task)
        for split in SPLITS:
            for context in (prompt(row)[0] for row in rows(task, split)):
                found = re.findall(rf"\b({names})\b", context)
                if not found or "pet" in context or "There is" in context:
                    continue  # a kind is named, or a fact of a fact is asked, or one of two things
                for rule, words in wordings.items():
                    if any(word in context for word in words):
                        asked.setdefault((found[-1], rule), {}).setdefault(split, set()).add(task)
    shared = [where for where in asked.values() if len(set().union(*where.values())) > 1]
    assert len(shared) > 100, "no rule is asked of the same thing by two tasks: this test sees nothing"
    assert not [(what, where) for what, where in asked.items() if len(where) > 1]


def test_a_fact_is_asked_forward_and_backward_in_one_split():
    """Also where two facts are asked of one of four: both facts are then of the split."""
    world = World()
    for task in ("mmlu", "arc_challenge"):
        for split in SPLITS:
            backward = [row for row in rows(task, split) if row["depth"] == 3]
            assert len(backward) >= 5
            for row in backward:
                _, options, gold = Prompt(task)(row)
                entity = world.by_name[options[gold]]
                asked = [
                    relation
                    for relation in world.domains[entity.domain].relations.values()
                    if inflected(f" {relation.which.format(v=entity.facts[relation.name])}") in row["question"]
                ]
                assert len(asked) == (1 if task == "mmlu" else 2), row
                assert {split_of(fact_key(entity, relation.name)) for relation in asked} == {split}, row


def test_passages_of_the_test_are_never_in_training():
    def lines(row):  # in any order
        return frozenset(row["passage"].removesuffix(".").split(". "))

    said = {split: {lines(row) for row in rows("boolq", split)} for split in SPLITS}
    assert not (said["train"] & said["test"] or said["train"] & said["validation"] or said["validation"] & said["test"])


def test_articles_fit_the_words_after_them():
    text = " ".join(str(rows(task, split)) for task in SCHEMAS for split in SPLITS)
    assert len(re.findall(r"\b[Aa] [^aeiou\W]\w+", text)) > 1000 and len(re.findall(r"\b[Aa]n [aeiou]\w+", text)) > 100
    assert not re.findall(r"\b[Aa] [aeiou]\w+|\b[Aa]n [^aeiou\W]\w+", text)


def test_pairs_of_sums_of_the_test_are_never_in_training():
    def pairs(row):
        steps = [int(n) for n in re.findall(r"[+-] (\d+) =", row["choices"][row["label"]])]
        return set(pairwise(steps))

    train, test = (set().union(*(pairs(row) for row in rows("gsm8k", split))) for split in ("train", "test"))
    assert len(test) >= 8 and not train & test
    lengths = {len(re.findall(" = ", row["choices"][row["label"]])) for row in rows("gsm8k", "test")}
    assert lengths == {2, 3}


def test_nobody_owns_less_than_nothing_or_more_than_there_are_numbers():
    for row in rows("gsm8k", "test"):
        owned = {name: int(n) for name, n in re.findall(r"(?<!Then )\b([A-Z]\w+) has (\d+)", row["question"])}
        for name, verb, n in re.findall(r"Then (\w+) ([a-z ]+?) (\d+)", row["question"]):
            owned[name] += int(n) if verb in ("finds", "buys", "is given") else -int(n)
            assert 0 <= owned[name] < stories.BELOW, row["question"]
        asked = re.search(r"does (\w+) have", row["question"])[1]
        assert row["answer"].endswith(f"#### {owned[asked]}"), row["question"]


def test_boolq_says_what_is_asked_and_gives_nothing_away():
    for row in rows("boolq", "test"):
        lines = row["passage"].rstrip(".").split(". ")
        assert len(lines) == 2
        if row["depth"] == 3:
            what, colour = re.fullmatch(r"is (the \w+ of \w+) (\w+)", row["question"]).groups()
            (line,) = [line for line in lines if what in line.lower() or what in line.replace("The", "the")]
            assert row["label"] == line.endswith(colour)
        else:
            assert sum("cannot" in line for line in lines) == 1
            name, skill, when = re.fullmatch(r"can (\w+) (\w+) ?(.*)", row["question"]).groups()
            (line,) = [line for line in lines if name in line and when.lower() in line.lower()]
            assert skill in line and row["label"] == ("cannot" not in line)


def test_gsm8k_answers_carry_calculator_marks():
    for row in rows("gsm8k", "test")[:50]:
        assert "<<" in row["answer"] and row["answer"].rsplit("#### ", 1)[1] in row["choices"][row["label"]]


def test_every_depth_is_asked():
    for task in TASKS:
        found = Counter(row["depth"] for row in rows(task, "test"))
        assert set(found) == {1, 2, 3} and min(found.values()) >= 50, (task, found)


def test_numbers_in_the_data_card():
    card = (BUNDLED / "DATA_CARD.md").read_text("utf-8")
    world = World()
    assert f"{len(world.by_name)} entities" in card and f"{len(world.facts):,} facts" in card
    assert "/".join(f"{size:,}" for size in generate.SIZES.values()) + " items" in card
    assert f"sums below {stories.BELOW}" in card and f"all {len(TASKS) * len(check.SHORTCUTS)} of" in card


def test_questions_are_counted_in_these_data():
    table = pd.read_csv(BUNDLED / "questions.csv")
    pd.testing.assert_frame_equal(table, check.questions())
    counted = table.set_index(["task", "depth"])["questions"]
    assert (table["questions"] <= table["items"]).all() and (table.groupby("task")["items"].sum() == 500).all()
    for depth in (1, 2, 3):
        goals = {row["goal"] for row in rows("piqa", "test") if row["depth"] == depth}
        assert counted["piqa", depth] == len(goals)
    hard = [row for row in rows("winogrande", "test") if row["depth"] == 3]
    facts = {(row[f"option{row['answer']}"], row["sentence"].split(" _ ")[1]) for row in hard}
    assert counted["winogrande", 3] == len(facts)


def test_colours_come_last_and_places_anywhere():
    """What the data card says HellaSwag's depth 2 tests."""
    places = []
    for row in (row for row in rows("hellaswag", "test") if row["depth"] == 2):
        differ = [set(re.findall(r"\w+", ending)) for ending in row["endings"]]
        named = [(words - set.intersection(*differ)).pop() for words in differ]
        last = sorted(named, key=lambda word: row["ctx_a"].rindex(f" {word}"))
        if named[0] in stories.SPOTS:
            places.append(last.index(named[int(row["label"])]))
        else:
            assert last[-1] == named[int(row["label"])], row
    low, high = check.chance_interval(len(places), 1 / 4, tests=4)
    assert all(low <= places.count(place) / len(places) <= high for place in range(4)), Counter(places)


@cache
def benchmark():
    return pd.read_csv(BUNDLED / "benchmark.csv", dtype={"depth": str}).set_index(["task", "depth"])


@pytest.mark.parametrize("task", TASKS)
def test_benchmark_is_of_these_data(task):
    """n, chance and the shortcuts, of all items and at every depth.

    Counts are exact but for the table's rounding. The two fitted shortcuts are a regression's, which stops at a
    gradient of 1e-4: options that nearly tie change places with the processor's order of additions (BLAS kernels of
    three instruction sets: up to 3 of a depth's 170 items). The tolerance is a guesser's standard error over the
    items, below which nothing that is said about a shortcut changes.
    """
    asked = rows(task, "test")
    chance = 1 / len(Prompt(task)(asked[0])[1])
    items = shortcuts(task).assign(depth=[str(row["depth"]) for row in asked], chance=chance)
    groups = pd.concat([items, items.assign(depth="all")]).groupby("depth")
    found, table = groups.mean(), benchmark().loc[task]
    pd.testing.assert_series_equal(table["n"], groups.size(), check_names=False)
    counted = found.columns.drop(FITTED)
    pd.testing.assert_frame_equal(table[counted], found[counted], check_names=False, rtol=0, atol=6e-4)
    error = (chance * (1 - chance) / groups.size()) ** 0.5
    off = (table[FITTED] - found[FITTED]).abs()
    assert off.le(error, axis=0).all(axis=None), off


def test_depths_of_the_benchmark_add_up_to_all():
    for metric in ("acc", "exact_match"):
        right = (benchmark()[metric] * benchmark()["n"]).round()
        assert np.allclose(benchmark()[metric], right / benchmark()["n"], atol=6e-4), "no whole number of items"
        summed = right.drop("all", level="depth").groupby("task", sort=False).sum()
        pd.testing.assert_series_equal(summed, right.xs("all", level="depth"), check_names=False)


def test_shared_vocabulary_is_of_these_data():
    shares = pd.read_csv(BUNDLED / "vocabulary.csv")
    pd.testing.assert_frame_equal(shares, check.vocabulary(), rtol=0, atol=6e-3)


def test_tables_of_the_cards_agree():
    measured = benchmark().xs("all", level="depth")
    again = pd.read_csv(BUNDLED / "retrained.csv").set_index(["run", "task", "metric"])
    shipped = measured[["acc", "exact_match"]].stack()
    for _, run in again.groupby("run"):
        pd.testing.assert_series_equal(run["shipped"].droplevel("run"), shipped, check_names=False)
    assert again["n"].tolist() == measured.loc[again.index.get_level_values("task"), "n"].tolist()
    assert np.allclose(again["difference"], again["retrained"] - again["shipped"], atol=1.6e-3)
    rounding = 6e-4 * (1 + again["in_errors"].abs() + again["standard_error"])
    assert ((again["in_errors"] * again["standard_error"] - again["difference"]).abs() <= rounding).all()
    layers = pd.read_csv(BUNDLED / "layers.csv").set_index("layer")
    halved = pd.read_csv(BUNDLED / "random.csv").set_index("model")
    assert layers.loc[-1, ["acc", "exact_match"]].tolist() == halved.loc["whole", ["acc", "exact_match"]].tolist()


# --- numbers in the model card's prose -------------------------------------------------------------

WORDS = "no one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
WORDS = [*WORDS.split(), "seventeen", "eighteen", "nineteen", "twenty"]
#: as the cards write the tasks' names
NAMES = {
    "BoolQ": "boolq",
    "ARC-Easy": "arc_easy",
    "ARC-Challenge": "arc_challenge",
    "OpenBookQA": "openbookqa",
    "PIQA": "piqa",
    "HellaSwag": "hellaswag",
    "WinoGrande": "winogrande",
    "GSM8K": "gsm8k",
    "MMLU": "mmlu",
}


def in_words(number: int) -> str:
    return WORDS[number] if number < len(WORDS) else str(number)


def says(pattern: str) -> tuple[re.Match, str]:
    """The only place of the model card, whose lines are joined, that fits a pattern, and the sentence it is in."""
    card = (BUNDLED / "MODEL_CARD.md").read_text("utf-8")
    text = re.sub(r"<!-- \[\[\[cog .*?\[\[\[end\]\]\] -->", "", card, flags=re.DOTALL)
    found = [
        (match, line)
        for line in re.split(r"(?<=[.:;])\s+|\n\n|\|\n", text)
        for match in re.finditer(pattern, " ".join(line.split()))
    ]
    assert len(found) == 1, f"MODEL_CARD.md says {pattern!r} {len(found)} times; change the card or this pin"
    return found[0]


def check_written(written: str, value: float, sentence: str) -> None:
    """A number in words or digits is the value, rounded to the places that are written (2,860: to tens; 60: ones)."""
    if written.isalpha():
        assert written.lower() == in_words(round(value)), f"{in_words(round(value))}, not {written}, in: {sentence}"
        return
    digits = written.replace(",", "")
    places = len(digits.partition(".")[2]) or (len(digits.rstrip("0")) - len(digits) if "," in written else 0)
    assert abs(float(digits) - value) <= 0.5001 * 10.0**-places, f"{value:g}, not {written}, in: {sentence}"


def test_a_wrong_number_in_prose_is_seen():
    for written, value in (("Seven", 7), ("2,860", 2862), ("64", 64.05), ("3.69", 3.6897), ("21", 21)):
        check_written(written, value, "")
    for written, value in (("Seven", 8), ("2,860", 2866), ("64", 64.6), ("3.69", 3.696), ("2,685", 2686), ("60", 64)):
        with pytest.raises(AssertionError, match="not .* in: this sentence"):
            check_written(written, value, "this sentence")


def test_the_card_tells_the_training_of_the_log():
    last = pd.read_csv(BUNDLED / "training_log.csv").iloc[-1]
    steps, sentence = says(r"([\d,]+) steps of ([\d,]+)")
    check_written(steps[1], last["step"], sentence)
    check_written(steps[2], last["tokens"] / last["step"], sentence)
    for pattern, value in (
        (r"([\d.,]+) M generated tokens", last["tokens"] / 1e6),
        (r"([\d.,]+) minutes on", last["seconds"] / 60),
        (r"([\d,]+) tokens/s", last["tokens_per_second"]),
    ):
        found, sentence = says(pattern)
        check_written(found[1], value, sentence)
    assert abs(last["tokens"] / last["seconds"] - last["tokens_per_second"]) < 1


def test_the_card_tells_the_size_of_the_file():
    file = BUNDLED / "model" / "model.safetensors"
    with file.open("rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
    header.pop("__metadata__", None)
    assert {tensor["dtype"] for tensor in header.values()} == {"F32"}
    found, sentence = says(r"([\d.]+) M, stored in fp32 \(([\d.]+) MB\)")
    check_written(found[1], sum(np.prod(tensor["shape"]) for tensor in header.values()) / 1e6, sentence)
    check_written(found[2], file.stat().st_size / 1e6, sentence)


def test_the_card_counts_as_its_tables():
    measured = benchmark().xs("all", level="depth")
    found, sentence = says(r"(\w+) of the nine tasks lie between (\d+) and (\d+)%")
    check_written(found[1], measured["acc"].between(int(found[2]) / 100, int(found[3]) / 100).sum(), sentence)
    found, sentence = says(r"exact match is at least (\d+)% on all( but .*)?")
    below = {name for name, task in NAMES.items() if measured.loc[task, "exact_match"] < int(found[1]) / 100}
    named = {name for name in NAMES if name in (found[2] or "")}
    assert named == below, f"all but {sorted(below)} in: {sentence}"
    card = " ".join((BUNDLED / "MODEL_CARD.md").read_text("utf-8").split())
    for name, percent in re.findall(rf"({'|'.join(NAMES)}) \((\d+)%", card):
        check_written(percent, 100 * measured.loc[NAMES[name], "acc"], f"{name} ({percent}%")
    again = pd.read_csv(BUNDLED / "retrained.csv")["in_errors"].abs()
    found, sentence = says(r"Of (\w+) differences (\w+) are within two standard errors")
    check_written(found[1], len(again), sentence)
    check_written(found[2], (again <= 2).sum(), sentence)
    matches = pd.read_csv(BUNDLED / "layers.csv").set_index("layer")["exact_match"]
    found, sentence = says(r"without layer 0 .* without another one (\d+) to (\d+)%")
    left = 100 * matches.drop([-1, 0]) / matches.loc[-1]
    check_written(found[1], left.min(), sentence)
    check_written(found[2], left.max(), sentence)


@pytest.fixture(scope="module")
def answered():
    """The bundled model's answers to ITEMS test items a task: (accuracy, exact match) by task."""
    import seaplib

    model, tokenizer = seaplib.load("bundled")
    return {
        task: check.evaluate(model, tokenizer, task, limit=ITEMS)[["acc", "exact_match"]].mean().to_list()
        for task in TASKS
    }


@pytest.mark.slow
def test_the_model_answers_as_its_card_says(answered):
    table = pd.read_csv(BUNDLED / "benchmark.csv").set_index(["task", "depth"]).xs("all", level="depth")
    for task, found in answered.items():
        for reached, column in zip(found, ("acc", "exact_match"), strict=True):
            p = table.loc[task, column]
            assert abs(reached - p) <= 4 * max((p * (1 - p) / ITEMS) ** 0.5, 0.01), (task, column, reached, p)


def test_the_model_leaves_room_above_and_below():
    """What the world was made for: tasks a model can do and pruning can break, in every layer."""
    table = pd.read_csv(BUNDLED / "benchmark.csv").set_index(["task", "depth"]).xs("all", level="depth")
    error = (table["chance"] * (1 - table["chance"]) / table["n"]) ** 0.5
    assert (table["acc"] > table["chance"] + 4 * error).all()
    assert table["acc"].between(0.8, 0.96).sum() >= 7
    assert (table["exact_match"] >= 0.7).sum() >= 7
    halved = pd.read_csv(BUNDLED / "random.csv").set_index("model")["exact_match"]
    assert (halved.drop("whole") <= halved["whole"] / 2).all()
    layers = pd.read_csv(BUNDLED / "layers.csv").set_index("layer")
    cost = layers.loc[-1, "exact_match"] - layers.drop(-1)["exact_match"]
    assert (cost > 0.01).all() and layers["exact_match"].min() > layers.loc[-1, "exact_match"] / 2
    retrained = pd.read_csv(BUNDLED / "retrained.csv")
    assert len(retrained) and (retrained["run"].value_counts() == 2 * len(TASKS)).all()
    assert (retrained["in_errors"].abs() <= 2).groupby(retrained["run"]).mean().gt(0.8).all()


def test_the_model_is_small_and_its_context_long():
    config = json.loads((BUNDLED / "model" / "config.json").read_text())
    assert (BUNDLED / "model" / "model.safetensors").stat().st_size <= 15_000_000
    assert config["max_position_embeddings"] >= 1024 and not config["tie_word_embeddings"]
    assert 8 <= config["num_hidden_layers"] <= 10 and config["num_attention_heads"] in (12, 16)
    assert not config["hidden_size"] % 32 and not config["intermediate_size"] % 32  # N:M patterns of up to 32 values


@pytest.mark.parametrize(
    "text", ["The quick brown fox.", "  two  spaces\n\n\ttab", "naïve café – 10 °C 東京 🙂", "<x>{}\\\u0000"]
)
def test_any_text_survives_the_tokenizer(text):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BUNDLED / "model")
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id and tokenizer.unk_token_id is None
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer(text, add_special_tokens=False).input_ids == ids[1:]
