"""How tasks, methods and variants are written in figures and tables, and in which order they stand.

Names in result frames are identifiers (``mini_arc_easy``, ``seap_gen``); readers get the papers'
spelling. An unknown name is shown as it is, after the known names.
"""

import re
from collections.abc import Collection, Mapping

import pandas as pd

from ..settings import ALLOCATIONS, METRICS

#: task → how it is written; the order is the order of rows, columns and colours
TASKS = {
    "boolq": "BoolQ",
    "arc_easy": "ARC-e",
    "arc_challenge": "ARC-c",
    "openbookqa": "OBQA",
    "piqa": "PIQA",
    "hellaswag": "HellaSwag",
    "winogrande": "WinoGrande",
    "gsm8k": "GSM8K",
    "mmlu": "MMLU",
    "wikitext2": "WikiText-2",
    "c4": "C4",
}
TASK_ALIASES = {"wikitext": "wikitext2", "arc": "arc_challenge", "ai2_arc": "arc_challenge"}
METHODS = {
    "dense": "Dense",
    "random": "Random",
    "magnitude": "Magnitude",
    "wanda": "Wanda",
    "wandasp": "Wanda-sp",
    "flap": "FLAP",
    "flapaspublished": "FLAP as published",
    "flapenergy": "FLAP-energy",
    "shortgpt": "ShortGPT",
    "2ssp": "2SSP",
    "scorefusion": "Score fusion",
    "griffin": "GRIFFIN",
    "seap": "SEAP",
    "seapgen": "SEAP-gen",
    "seapenergy": "SEAP-energy",
    "seapgenenergy": "SEAP-gen-energy",
}
SCORES = {"s_F": "$s_F$", "s_W": "$s_W$"}
#: method → the score that the method's name says, so that a label does not
SAID = {"random": "random", "magnitude": "magnitude", "shortgpt": "BI", "2ssp": "norm", "griffin": "prompt"}
NO_SCORE = ("none", "–")  # of the dense model; missing from a table
MINI = "mini_"
#: columns that tell two variants of the same method and score apart, in the order they are named
DETAILS = ("allocation", "budget", "kv_unit", "compensation", "mode", "calibration")
#: detail → identifier in result frames → how it is written
WORDS = {
    "budget": {"parameters": "exact budget", "floor": "floor budget"},
    "kv_unit": {"group": "whole KV groups", "query": "query heads of every KV group"},
    "compensation": {"none": "no compensation", "mean": "mean compensation"},
    "mode": {"remove": "units removed", "zero": "units set to zero", "mask": "units masked"},
    "calibration": {"task": "task text", "general": "general text", "all": "all tasks' texts", "fused": "both texts"},
}
FIRST_LAYER = "first layer left alone"
AUTHORS_CODE = "authors' code"  # the allocation of the published code
COUNTS = {2: "two", 3: "three", 4: "four"}
_PROTECT = re.compile(r", protect (\d+)\+(\d+)$")  # behind an allocation's name: layers protected, first + last


def base_task(task: str) -> str:
    """``mini_piqa`` → ``piqa``: the task that a bundled task mirrors, under its usual name."""
    base = str(task).removeprefix(MINI)
    return TASK_ALIASES.get(base, base)


def task(name: str) -> str:
    """``piqa`` → PIQA, ``mini_piqa`` → mini-PIQA: a bundled task is never shown as the real task."""
    text = TASKS.get(base_task(name), str(name).removeprefix(MINI))
    return f"mini-{text}" if str(name).startswith(MINI) else text


def task_order(names) -> list[str]:
    """Unique names in the order of ``TASKS``, unknown names behind in the order of appearance."""
    known = list(TASKS)
    names = list(dict.fromkeys(names))
    return sorted(names, key=lambda name: known.index(base_task(name)) if base_task(name) in known else len(known))


def metric(name: str) -> str:
    """``exact_match`` → exact match."""
    if name == "primary":
        return "accuracy"
    return METRICS[name].title if name in METRICS else name


def method_key(name: str) -> str:
    """A spelling-blind key: ``Wanda-sp``, ``wanda_sp`` and ``WandA-sp`` are the same method."""
    return "".join(c for c in str(name).lower() if c.isalnum())


def method(name: str) -> str:
    """``wanda_sp`` → Wanda-sp, ``flap+bias`` → FLAP+bias."""
    base, plus, suffix = str(name).partition("+")
    return METHODS.get(method_key(base), base) + plus + suffix


def method_rank(name: str) -> int:
    """Place among the methods, by the longest known name that ``name`` starts with."""
    key = method_key(name)
    known = [place for place, other in enumerate(METHODS) if key.startswith(other)]
    return max(known, key=lambda place: len(list(METHODS)[place]), default=len(METHODS))


def variants(frame: pd.DataFrame) -> pd.Series:
    """One label per row: method, score, and whatever else is needed to tell two variants apart.

    A detail (allocation, budget, calibration text, …) is named only for a method that occurs with
    two of them at the same sparsity on the same task; so nothing different is ever averaged.
    """
    label = frame["method"].map(method)
    if "score" in frame:
        scores = [_score(*names) for names in zip(frame["method"], frame["score"], strict=True)]
        label = label + pd.Series(scores, index=frame.index, dtype=label.dtype)
    cell = [frame[column] for column in ("requested_sparsity", "task") if column in frame]
    for detail in DETAILS:
        if detail in frame:
            values = frame[detail].astype(str).map(lambda value, detail=detail: in_words(detail, value))
            differs = values.groupby([label, *cell]).transform("nunique") > 1
            differs = differs.groupby(label).transform("any")
            label = label.where(~differs, label + ", " + values)
    return label


def in_words(detail: str, value: str) -> str:
    """A detail of a variant as readers get it: ``budget`` ``floor`` → floor budget."""
    if detail == "allocation":
        return allocation(value)
    name, colon, text = value.partition(": ")
    words = WORDS.get(detail, {}).get(name, task(name) if detail == "calibration" else name)
    return words + colon + (task(text) if text else "")


def allocation(name: str) -> str:
    """``logistic, protect 0+0`` → logistic, no layer protected; a usual protection is not named."""
    return f"{allocation_kind(name)}, {protection_words(name)}" if _PROTECT.search(name) else name


def allocation_kind(name: str) -> str:
    """``uniform, protect 0+2`` → uniform."""
    return _PROTECT.sub("", str(name))


def protection(name: str) -> tuple[int, int]:
    """Layers that an allocation leaves alone, first and last: as its name says, or else by default."""
    if found := _PROTECT.search(str(name)):
        return int(found[1]), int(found[2])
    if name == AUTHORS_CODE:
        return 2, 2
    return 0, ALLOCATIONS[name].protect_last if name in ALLOCATIONS else 0


def protection_words(name: str) -> str:
    """``uniform, protect 0+2`` → last two layers protected."""
    first, last = protection(name)
    if not first and not last:
        return "no layer protected"
    if not last:
        return FIRST_LAYER if first == 1 else f"first {_layers(first)} left alone"
    if first == last:
        return f"first and last {_layers(last)} protected"
    return f"first {_layers(first)} and last {_layers(last)} protected" if first else f"last {_layers(last)} protected"


def _layers(count: int) -> str:
    return "layer" if count == 1 else f"{COUNTS.get(count, count)} layers"


def _score(method: str, score: str) -> str:
    """A score as it follows a method's name in a label; empty for no score, and where the name says the score."""
    if pd.isna(score) or score in (*NO_SCORE, SAID.get(method_key(str(method).partition("+")[0]))):
        return ""
    return f" ({SCORES.get(score, score)})"


def variant_order(frame: pd.DataFrame) -> list[str]:
    """Unique labels: dense, controls, baselines, SEAP; within a method by score and detail."""
    ranks = frame.assign(_rank=frame["method"].map(method_rank))
    return list(dict.fromkeys(ranks.sort_values(["_rank", "label"], kind="stable")["label"]))


def sparsity(value: float) -> str:
    return f"{100 * float(value):g}%"


def pairs(methods: Mapping[tuple, str], known: Collection[str]) -> dict[tuple[str, str], str]:
    """Pairs of methods (``name``, ``score``) as pairs of labels; pairs with a label not in ``known`` are left out."""
    both = [pd.DataFrame([{"method": one.name, "score": one.score} for one in pair]) for pair in methods]
    named = {tuple(variants(frame)): text for frame, text in zip(both, methods.values(), strict=True)}
    return {pair: text for pair, text in named.items() if set(pair) <= set(known)}
