"""Score a bundled model on the bundled benchmark, beside what shortcuts reach: ``python data/bundled/check.py``.

Accuracy and exact match (is the right option the greedy continuation?) by task and depth, with n,
chance, and five predictors that do not understand the question (``shortcuts``).
"""

import argparse
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pandas as pd
import torch
from generate import MAKERS
from prompts import Prompt
from scipy.stats import binom
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression

import seaplib
from seaplib.models.architectures import ModelError

HERE = Path(__file__).parent
MEASURES = dict(n=("acc", "size"), acc=("acc", "mean"), exact_match=("exact_match", "mean"), chance=("chance", "mean"))
SHORTCUTS = ("longest", "frequent", "position", "blind", "words")


def load(parser: argparse.ArgumentParser, name: str):
    """(model, tokenizer), on the CPU, of a folder or "bundled"; where there is none, the error of ``parser``."""
    if name != "bundled" and not Path(name).is_dir():  # nothing is looked for on the hub
        parser.error(f"there is no folder {name}; name one that holds a model, or say bundled")
    try:
        return seaplib.load(name, device="cpu")
    except ModelError as error:
        parser.error(str(error))


def read(task: str, split: str = "test") -> list[dict]:
    return pd.read_parquet(HERE / "tasks" / task / f"{split}.parquet", dtype_backend="pyarrow").to_dict("records")


def score_options(
    model, tokenizer, pairs: list[tuple[str, str]], batch_tokens: int = 16384
) -> list[tuple[float, bool]]:
    """(log-likelihood of the continuation, is it the greedy one) for each (context, continuation)."""
    encoded = [(len(tokenizer(c).input_ids), tokenizer(c + t).input_ids) for c, t in pairs]
    order, scores, at = sorted(range(len(pairs)), key=lambda i: len(encoded[i][1])), [None] * len(pairs), 0
    while at < len(order):
        size = max(1, batch_tokens // len(encoded[order[min(at + 200, len(order) - 1)]][1]))
        batch = order[at : at + size]
        at += size
        longest = len(encoded[batch[-1]][1])
        ids = torch.tensor([encoded[i][1] + [tokenizer.pad_token_id] * (longest - len(encoded[i][1])) for i in batch])
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
        for row, i in enumerate(batch):
            start, tokens = encoded[i]
            target = torch.tensor(tokens[start:])
            part = logits[row, start - 1 : len(tokens) - 1]
            scores[i] = (part.gather(1, target[:, None]).sum().item(), bool((part.argmax(-1) == target).all()))
    return scores


def evaluate(model, tokenizer, task: str, split: str = "test", limit: int | None = None) -> pd.DataFrame:
    """One row per item: depth, acc, exact_match, chance."""
    prompt, rows = Prompt(task), read(task, split)[:limit]
    asked = [prompt(row) for row in rows]
    scores = iter(
        score_options(
            model, tokenizer, [(context, f" {option}") for context, options, _ in asked for option in options]
        )
    )
    out = []
    for row, (_, options, gold) in zip(rows, asked, strict=True):
        each = [next(scores) for _ in options]
        best = max(range(len(options)), key=lambda i: each[i][0])
        out.append(
            dict(
                task=task,
                depth=row["depth"],
                acc=float(best == gold),
                exact_match=float(each[gold][1]),
                chance=1 / len(options),
            )
        )
    return pd.DataFrame(out)


def shortcuts(task: str) -> pd.DataFrame:
    """Which test items five predictors get right that do not understand the question: one row per item, in order.

    They are fitted on the training items.
    longest: the longest option; frequent: the one that was right most often of the times it was
    offered; position: the commonest position; blind: a logistic regression on the words and pairs of
    words of an option, without its question; words: another one that also sees, as a bag, which words
    option and question share and, where all items have the same options, the words of the question.
    """
    prompt = Prompt(task)
    train, test = ([prompt(row) for row in read(task, split)] for split in ("train", "test"))
    right = pd.Series([options[gold] for _, options, gold in train]).value_counts()
    offered = pd.Series([option for _, options, _ in train for option in options]).value_counts()
    rate = {option: right.get(option, 0) / count for option, count in offered.items()}
    positions = pd.Series([gold for _, _, gold in train]).value_counts()
    same = len({tuple(options) for _, options, _ in train}) == 1

    def pairs(option: str) -> Counter:
        words = option.split()
        return Counter(words + [" ".join(pair) for pair in pairwise(words)])

    def bag(option: str, context: str) -> Counter:
        seen = Counter(context.replace("?", " ").replace(".", " ").split())
        own = Counter(option.rstrip(".").split())
        found = pairs(option) + Counter({f"both: {word}": seen[word] for word in own if word in seen})
        found["shared"] = sum(word in seen for word in own)
        return found + Counter({f"{option}: {word}": n for word, n in seen.items()}) if same else found

    def fitted(features) -> list[bool]:
        vectors = DictVectorizer()
        x = vectors.fit_transform([features(o, context) for context, options, _ in train for o in options])
        y = [i == gold for _, options, gold in train for i in range(len(options))]
        model = LogisticRegression(max_iter=1000, C=0.3).fit(x, y)
        value = model.decision_function(vectors.transform([features(o, c) for c, options, _ in test for o in options]))
        return list(value.reshape(len(test), -1).argmax(1) == [gold for *_, gold in test])

    def hits(value) -> list[bool]:
        return [max(range(len(o)), key=lambda i: value(o, i)) == gold for _, o, gold in test]

    found = (
        hits(lambda options, i: len(options[i])),
        hits(lambda options, i: rate.get(options[i], 0)),
        hits(lambda options, i: positions.get(i, 0)),
        fitted(lambda option, context: pairs(option)),
        fitted(bag),
    )
    return pd.DataFrame(dict(zip(SHORTCUTS, found, strict=True))).astype(float)


def vocabulary() -> pd.DataFrame:
    """Share of the words of one task's test prompts and options (row) that another's (column) has too."""
    words = {}
    for task in MAKERS:
        prompt = Prompt(task)
        asked = [prompt(row) for row in read(task)]
        words[task] = set(re.findall(r"\w+", " ".join(" ".join([context, *options]) for context, options, _ in asked)))
    words["wikitext"] = set(re.findall(r"\w+", " ".join(row["text"] for row in read("wikitext"))))
    rows = [
        {"task": a, "words": len(own), **{b: len(own & w) / len(own) for b, w in words.items()}}
        for a, own in words.items()
    ]
    return pd.DataFrame(rows)


def questions() -> pd.DataFrame:
    """How many different questions the test items of a task and depth ask: items that share one are not independent.

    A question is what is asked, whatever the wrong options. One fact, or one rule and what it is applied to, is
    one question in all wordings and stories: the name asked about, and what is right.
    """
    fact = r"^(?!Which ).*[a-z] ([A-Z]\w+)"
    rule = r"(\w+) made of (\w+)\b.* The \1 |wants to [a-z ]+ ([A-Z]\w+)"
    about = dict(arc_easy=fact, arc_challenge=fact, mmlu=fact, openbookqa=rule, hellaswag=rule)
    items = []
    for task in MAKERS:
        prompt = Prompt(task)
        for row in sorted(read(task), key=lambda row: row["depth"]):
            _, options, gold = prompt(row)
            right, depth = options[gold], row["depth"]
            columns = ("passage", "question", "question_stem", "goal", "sentence", "ctx")
            asked = " ".join(row[column] for column in columns if column in row)
            named = task in about and re.search(about[task], asked)
            if named:
                asked = f"{named[named.lastindex]}: {right}"
            elif (task, depth) == ("hellaswag", 1):  # what belongs to what has begun
                asked = right
            elif (task, depth) == ("winogrande", 3):  # of whom the cue is true
                asked = f"{right}: {asked.split(' _ ')[1]}"
            elif (task, depth) == ("mmlu", 3):  # of whom it is true
                asked = f"{asked} {right}"
            items.append(dict(task=task, depth=depth, question=asked))
    groups = pd.DataFrame(items).groupby(["task", "depth"], sort=False)["question"]
    return groups.agg(items="size", questions="nunique").reset_index()


def chance_interval(n: int, chance: float, tests: int = 1) -> tuple[float, float]:
    """Between which accuracies a guesser ends with 95% probability, in all of ``tests`` tests together (Bonferroni)."""
    tail = 0.025 / tests
    return float(binom.ppf(tail, n, chance) / n), float(binom.ppf(1 - tail, n, chance) / n)


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(HERE / "model"), help="folder of a model (default: the bundled one's)")
    parser.add_argument("--items", type=int, help="test items per task (default: all)")
    parser.add_argument("--tasks", nargs="+", default=list(MAKERS), choices=list(MAKERS), help="(default: all)")
    parser.add_argument("--shortcuts", action="store_true", help="also what the five shortcut predictors reach")
    args = parser.parse_args(given)
    if args.items is not None and args.items < 1:
        parser.error("--items must be at least 1")
    tasks = list(dict.fromkeys(args.tasks))  # one named twice counts once in the average
    model, tokenizer = load(parser, args.model)
    frames = [evaluate(model, tokenizer, task, limit=args.items) for task in tasks]
    items = pd.concat(frames)
    print(items.groupby(["task", "depth"]).agg(**MEASURES).round(3).reset_index().to_string(index=False))
    table = items.groupby("task", sort=False).agg(**MEASURES)
    if args.shortcuts:
        table = table.join(pd.DataFrame({task: shortcuts(task).mean() for task in tasks}).T)
    print(table.round(3).to_string())
    print("average", table[["acc", "exact_match"]].mean().round(3).to_dict())
    texts = pd.read_parquet(HERE / "tasks" / "wikitext" / "test.parquet")["text"]
    scores = score_options(model, tokenizer, [("", text) for text in texts])
    tokens = sum(len(tokenizer(text, add_special_tokens=False).input_ids) for text in texts)
    print(
        "general-text perplexity",
        round(2.718281828 ** (-sum(s for s, _ in scores) / tokens), 3),
        "over",
        tokens,
        "tokens",
    )


if __name__ == "__main__":
    main()
