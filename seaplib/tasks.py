"""The task registry: where a task's rows are, how they are worded, how lm-eval scores them.

A task has two roles, each with its own source. The rows of ``train`` make calibration texts in the
formats of the paper's Table 5; the rows of ``test`` are what lm-eval scores. Rows come from the
bundled world (``mini_`` tasks), else from ``SEAP_DATA_DIR`` if that is set (one folder per data set,
a folder per config below it, ``<split>.parquet``), else from the Hugging Face hub or its cache.

Wordings are functions of one row. To add a task, ``register`` a ``Task``; nothing else names tasks.
"""

import difflib
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import paths


@dataclass(frozen=True)
class Source:
    """Rows of one role: a hub data set, its config and splits, and the same thing on this disk."""

    path: str  # hub id; "bundled" for the generated world
    config: str | None
    splits: tuple[str, ...]
    local: tuple[str, ...]  # folders to look in, the first that has the split counts
    columns: tuple[str, ...] = ("text",)  # what the wording needs
    data_files: str | None = None  # one file of a hub data set too large to load whole


@dataclass(frozen=True)
class Task:
    """One task: two sources, its wording, and its lm-eval configuration.

    ``pair(row)`` is (question, right answer), which also identifies an item; ``wording(row)`` is
    Table 5's format where that is more than question + answer. ``metric`` is the one the paper's
    tables report (design: WinoGrande, BoolQ, ARC-easy acc; OpenBookQA, HellaSwag, PIQA, ARC-challenge
    acc_norm). ``expert`` names the task whose corpus makes this task's expert mask. A task without
    ``pair`` is plain text: its ``text`` column holds its documents, and it is not scored by lm-eval.
    """

    name: str
    train: Source
    test: Source | None = None
    pair: Callable[[dict], tuple[str, str]] | None = None
    wording: Callable[[dict], str] | None = None
    lm_eval: str | None = None  # YAML below lm-eval's task directory (bundled: data/bundled/lm_eval)
    changes: dict = field(default_factory=dict)  # what differs from that YAML
    metric: str | None = None  # "acc", "acc_norm" or "exact_match"
    expert: str = ""  # itself, where nothing is said

    def __post_init__(self):
        object.__setattr__(self, "expert", self.expert or self.name)

    def text(self, row: dict) -> str:
        """A calibration text in Table 5's format, answer included."""
        if self.pair is None:
            return row["text"]
        return self.wording(row) if self.wording else " ".join(self.pair(row))

    def question(self, row: dict) -> str:
        """The prompt without its answer."""
        return self.pair(row)[0] if self.pair else row["text"]

    @property
    def bundled(self) -> bool:
        return self.train.path == "bundled"

    def config_file(self) -> Path:
        """The YAML by which lm-eval scores this task. ValueError for plain text."""
        if self.lm_eval is None:
            raise ValueError(f"{self.name} is plain text: it has a perplexity, not an accuracy")
        if self.bundled:
            return paths.bundled_dir() / "lm_eval" / self.lm_eval
        return Path(importlib.util.find_spec("lm_eval").submodule_search_locations[0]) / "tasks" / self.lm_eval


# --- wordings -----------------------------------------------------------------------------------


def _piqa(row: dict) -> tuple[str, str]:
    return row["goal"], row[("sol1", "sol2")[int(row["label"])]]


def _winogrande(row: dict) -> tuple[str, str]:
    return row["sentence"], row["option" + str(row["answer"])]


def _winogrande_text(row: dict) -> str:
    sentence, option = _winogrande(row)
    return sentence.replace("_", option, 1)


def _untagged(text: str) -> str:
    """WikiHow's ``[title]``, ``[step]``, … out of a HellaSwag string, as lm-eval does it."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ").strip()


def _hellaswag(row: dict) -> tuple[str, str]:
    begun = row["ctx_b"][:1].upper() + row["ctx_b"][1:]
    return _untagged(f"{row['ctx_a']} {begun}"), _untagged(row["endings"][int(row["label"])])


def _hellaswag_text(row: dict) -> str:
    context, ending = _hellaswag(row)
    return context + ("" if ending[:1] in (",", ".", ";", ":", "!", "?") else " ") + ending


def _chosen(row: dict) -> str:
    return row["choices"]["text"][list(row["choices"]["label"]).index(row["answerKey"].strip())]


def _arc(row: dict) -> tuple[str, str]:
    return row["question"], _chosen(row)


def _openbookqa(row: dict) -> tuple[str, str]:
    return row["question_stem"], _chosen(row)


def _openbookqa_text(row: dict) -> str:
    fact = row["fact1"].strip()
    return " ".join([fact if fact.endswith((".", "!", "?")) else fact + ".", *_openbookqa(row)])


def _boolq(row: dict) -> tuple[str, str]:
    # SuperGLUE puts "Title -- " before the passage; Table 5 has the passage alone
    passage = row["passage"].partition(" -- ")[2] or row["passage"]
    question = row["question"].strip().removesuffix("?") + "?"
    return f"{passage} {question}", str(bool(int(row["label"])))


def _gsm8k(row: dict) -> tuple[str, str]:
    # without calculator marks <<48/2=24>> and without the line "#### 72", as in Table 5
    steps = re.sub(r"<<.*?>>", "", row["answer"]).partition("####")[0]
    return row["question"], " ".join(steps.split())


def _mmlu(row: dict) -> tuple[str, str]:
    return row["question"], row["choices"][int(row["answer"])]


# --- registry -----------------------------------------------------------------------------------

_REGISTRY: dict[str, Task] = {}
_MMLU_DESCRIPTION = "The following are multiple choice questions (with answers) about"


def register(task: Task) -> Task:
    """Add a task. ValueError if its name is taken."""
    if task.name in _REGISTRY:
        raise ValueError(f"a task named {task.name!r} is registered already")
    _REGISTRY[task.name] = task
    return task


def names(scored: bool | None = None) -> list[str]:
    """Names of all tasks; only of those that lm-eval scores, or only of plain texts, if asked."""
    return [name for name, task in _REGISTRY.items() if scored is None or scored == (task.lm_eval is not None)]


def get(name: str) -> Task:
    """The task of that name. ValueError with the nearest right name if there is none."""
    if name not in _REGISTRY:
        near = difflib.get_close_matches(str(name), _REGISTRY, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known tasks: {', '.join(_REGISTRY)}"
        raise ValueError(f"unknown task {name!r}; {hint}")
    return _REGISTRY[name]


def _sources(path, config, local, columns, train=("train",), test="test") -> dict:
    return {
        "train": Source(path, config, train, (local,), columns),
        "test": Source(path, config, (test,), (local,), columns),
    }


_ARC = ("question", "choices", "answerKey")
_OPENBOOKQA = ("question_stem", "choices", "answerKey")
_HELLASWAG = ("ctx_a", "ctx_b", "endings", "label")

_LAST_NUMBER = [
    {
        "name": "flexible-extract",
        "filter": [
            {"function": "regex", "group_select": -1, "regex_pattern": r"(-?[$0-9.,]{2,})|(-?[0-9]+)"},
            {"function": "take_first"},
        ],
    }
]

_SCORED = (
    Task(
        "boolq",
        **_sources("aps/super_glue", "boolq", "super_glue/boolq", ("question", "passage", "label"), test="validation"),
        pair=_boolq,
        lm_eval="super_glue/boolq/default.yaml",
        metric="acc",
    ),
    Task(
        "arc_easy",
        **_sources("allenai/ai2_arc", "ARC-Easy", "ai2_arc/ARC-Easy", _ARC),
        pair=_arc,
        lm_eval="arc/arc_easy.yaml",
        metric="acc",
        expert="arc_challenge",
    ),
    Task(
        "arc_challenge",
        **_sources("allenai/ai2_arc", "ARC-Challenge", "ai2_arc/ARC-Challenge", _ARC),
        pair=_arc,
        lm_eval="arc/arc_challenge.yaml",
        metric="acc_norm",
    ),
    Task(
        "openbookqa",  # calibrated on the config that has the fact, tested on the one that has not
        Source("allenai/openbookqa", "additional", ("train",), ("openbookqa/additional",), (*_OPENBOOKQA, "fact1")),
        Source("allenai/openbookqa", "main", ("test",), ("openbookqa/main",), _OPENBOOKQA),
        pair=_openbookqa,
        wording=_openbookqa_text,
        lm_eval="openbookqa/openbookqa.yaml",
        metric="acc_norm",
    ),
    Task(
        "piqa",
        **_sources("baber/piqa", None, "piqa", ("goal", "sol1", "sol2", "label"), test="validation"),
        pair=_piqa,
        lm_eval="piqa/piqa.yaml",
        metric="acc_norm",
    ),
    Task(
        "hellaswag",  # on disk, a sample of the training split is accepted where the whole is not at hand
        Source("Rowan/hellaswag", None, ("train",), ("hellaswag", "hellaswag_train-subset"), _HELLASWAG),
        Source("Rowan/hellaswag", None, ("validation",), ("hellaswag",), _HELLASWAG),
        pair=_hellaswag,
        wording=_hellaswag_text,
        lm_eval="hellaswag/hellaswag.yaml",
        metric="acc_norm",
    ),
    Task(
        "winogrande",
        **_sources(
            "allenai/winogrande",
            "winogrande_xl",
            "winogrande/winogrande_xl",
            ("sentence", "option1", "option2", "answer"),
            test="validation",
        ),
        pair=_winogrande,
        wording=_winogrande_text,
        lm_eval="winogrande/default.yaml",
        metric="acc",
    ),
    Task(
        "gsm8k",
        **_sources("openai/gsm8k", "main", "gsm8k/main", ("question", "answer")),
        pair=_gsm8k,
        lm_eval="gsm8k/gsm8k.yaml",
        # zero-shot, nobody has shown the model to write "#### 72": the last number counts ("flexible-extract")
        changes={"filter_list": _LAST_NUMBER},
        metric="exact_match",
    ),
    Task(
        "mmlu",
        **_sources("cais/mmlu", "all", "mmlu/all", ("question", "subject", "choices", "answer"), ("dev", "validation")),
        pair=_mmlu,
        # lm-eval has a task for each subject; they differ in the description alone
        lm_eval="mmlu/default/mmlu_anatomy.yaml",
        changes={"description": f"{_MMLU_DESCRIPTION} {{{{subject | replace('_', ' ')}}}}.\n\n"},
        metric="acc",
    ),
)
for _task in _SCORED:
    register(_task)
for _task in _SCORED:  # the generated world mirrors each of them, in the same schema
    register(
        replace(
            _task,
            name=f"mini_{_task.name}",
            train=replace(_task.train, path="bundled", config=None, splits=("train",), local=(_task.name,)),
            test=replace(_task.test, path="bundled", config=None, splits=("test",), local=(_task.name,)),
            lm_eval=f"mini_{_task.name}.yaml",
            changes={},
            expert=f"mini_{_task.expert}",
        )
    )

_RAW = "wikitext-2-raw-v1"  # not wikitext-2-v1, whose rare words are <unk>
_FOLDER = f"wikitext/{_RAW}"
register(
    Task(
        "wikitext2",
        Source("Salesforce/wikitext", _RAW, ("train",), (_FOLDER, f"{_FOLDER}-train-slice")),
        Source("Salesforce/wikitext", _RAW, ("test",), (_FOLDER,)),
    )
)
register(
    Task(
        "mini_wikitext",
        Source("bundled", None, ("train",), ("wikitext",)),
        Source("bundled", None, ("test",), ("wikitext",)),
    )
)
register(
    Task("c4", Source("allenai/c4", None, ("train",), ("c4_sample",), ("text",), "en/c4-train.00000-of-01024.json.gz"))
)
