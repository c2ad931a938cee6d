"""Table 5's wordings: each function takes a row in the hub's schema and returns (question, right answer) or a text.

A label that names none of a row's options is a ValueError.
"""

import re
from collections.abc import Sequence


def option(options: Sequence[str], label) -> str:
    """The option at position ``label``, counted from 0. ValueError where there is none (unlabelled rows: -1)."""
    try:
        number = int(label)
    except (TypeError, ValueError):
        number = -1
    if not 0 <= number < len(options):
        raise ValueError(f"label {label!r} names none of the {len(options)} options")
    return options[number]


def piqa(row: dict) -> tuple[str, str]:
    return row["goal"], option((row["sol1"], row["sol2"]), row["label"])


def winogrande(row: dict) -> tuple[str, str]:
    options = {"1": row["option1"], "2": row["option2"]}
    if str(row["answer"]) not in options:
        raise ValueError(f"answer {row['answer']!r} is neither '1' nor '2'")
    return row["sentence"], options[str(row["answer"])]


def winogrande_text(row: dict) -> str:
    sentence, right = winogrande(row)
    return sentence.replace("_", right, 1)


def _untagged(text: str) -> str:
    """WikiHow's ``[title]``, ``[step]``, … out of a HellaSwag string, as lm-eval does it."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ").strip()


def hellaswag(row: dict) -> tuple[str, str]:
    begun = row["ctx_b"][:1].upper() + row["ctx_b"][1:]
    return _untagged(f"{row['ctx_a']} {begun}"), _untagged(option(row["endings"], row["label"]))


def hellaswag_text(row: dict) -> str:
    context, ending = hellaswag(row)
    return context + ("" if ending[:1] in (",", ".", ";", ":", "!", "?") else " ") + ending


def _chosen(row: dict) -> str:
    letters, key = list(row["choices"]["label"]), row["answerKey"].strip()
    if key not in letters:
        raise ValueError(f"answerKey {key!r} is none of the options {', '.join(letters)}")
    return row["choices"]["text"][letters.index(key)]


def arc(row: dict) -> tuple[str, str]:
    return row["question"], _chosen(row)


def openbookqa(row: dict) -> tuple[str, str]:
    return row["question_stem"], _chosen(row)


def openbookqa_text(row: dict) -> str:
    fact = row["fact1"].strip()
    return " ".join([fact if fact.endswith((".", "!", "?")) else fact + ".", *openbookqa(row)])


def boolq(row: dict) -> tuple[str, str]:
    # SuperGLUE puts "Title -- " before the passage; Table 5 shows the passage without title
    passage = row["passage"].partition(" -- ")[2] or row["passage"]
    question = row["question"].strip().removesuffix("?") + "?"
    return f"{passage} {question}", option(("False", "True"), row["label"])


def gsm8k(row: dict) -> tuple[str, str]:
    # without calculator marks <<48/2=24>> and without the line "#### 72", as in Table 5
    steps = re.sub(r"<<.*?>>", "", row["answer"]).partition("####")[0]
    return row["question"], " ".join(steps.split())


def mmlu(row: dict) -> tuple[str, str]:
    return row["question"], option(row["choices"], row["answer"])
