"""The task registry: the sources of a task's rows, their wording, and the lm-eval configuration that scores them.

A task has two roles, each with its own source. The rows of ``train`` make calibration texts in the
formats of the paper's Table 5; lm-eval scores the rows of ``test``. Rows come from the bundled world
(``mini_`` tasks), else from ``SEAP_DATA_DIR`` if that is set (a folder per data set, in it a folder
per config, in that ``<split>.parquet``), else from the Hugging Face hub or its cache.

Any other lm-eval task is found by its name, without registration: scored zero-shot as lm-eval's file
says, and worded for calibration by the templates in that file, where it has a training split.

- Hub: the task's ``dataset_path``, ``dataset_name`` and ``dataset_kwargs``. On this disk: the folder
  named by the last part of ``dataset_path``, and in it the folder ``dataset_name`` if the task has
  one (``allenai/sciq`` → ``sciq``; ``nyu-mll/glue``, ``cola`` → ``glue/cola``). Where
  ``dataset_path`` is a file format (json, csv, parquet, text), the folder has the task's name.
- Calibration rows: ``training_split``. Test rows: ``test_split``, else ``validation_split``.
- Metric: the first of :data:`seaplib.settings.METRICS` that ``metric_list`` has.
- Groups and tags are refused, and their members named, so that no average hides the tasks that were
  run; ``mmlu`` is registered and stands for its 57 subjects, over the single config ``all``.

To add a task of your own, ``register`` a ``Task``. Two other modules name tasks, and neither must: without an entry
in ``reports.display_names.TASKS`` a task is shown by its name, behind the others; without an entry in
``runner.workload.SIZES`` an estimate assumes a size, and says so.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from .. import paths
from ..settings import METRICS, nearest
from . import formats, lm_eval

#: what a YAML names as its data set where it names the format of files
FORMATS = ("json", "csv", "parquet", "text")


@dataclass(frozen=True)
class Source:
    """Rows of one role: a hub data set with config and splits, and the same data set on this disk."""

    path: str  # hub id; "bundled" for the generated world
    config: str | None
    splits: tuple[str, ...]
    local: tuple[str, ...]  # folders to look in; the first folder that has the split counts
    columns: tuple[str, ...] = ("text",)  # that the wording needs
    options: dict = field(default_factory=dict)  # for load_dataset: a single file of a large data set, say

    @property
    def says_where(self) -> bool:
        """Whether the source itself names its data files, as a YAML of one's own may."""
        return self.path in FORMATS and "data_files" in self.options


@dataclass(frozen=True)
class Task:
    """A task: two sources, a wording and an lm-eval configuration.

    ``train`` is None for a task without a training split, which can be scored and not calibrated on.
    ``pair(row)`` is (question, right answer), which also identifies an item; ``wording(row)`` is
    Table 5's format where that is more than question + answer. ``metric`` is the metric of the paper's
    tables (WinoGrande, BoolQ, ARC-easy acc; OpenBookQA, HellaSwag, PIQA, ARC-challenge acc_norm).
    ``expert`` names the task whose corpus makes this task's expert mask. ``lm_eval`` is the path of a YAML
    below lm-eval's task directory (of a bundled task: below data/bundled/lm_eval), or an absolute path to a
    YAML of your own, which may ``include`` one of lm-eval's. A task without ``pair`` is
    worded by its lm-eval configuration. A task without either is plain text: the ``text`` column holds
    documents, which have a perplexity instead of an accuracy.
    """

    name: str
    train: Source | None
    test: Source | None = None
    pair: Callable[[dict], tuple[str, str]] | None = None
    wording: Callable[[dict], str] | None = None
    lm_eval: str | None = None
    changes: dict = field(default_factory=dict)  # entries that replace those of the YAML
    metric: str | None = None  # of settings.METRICS
    expert: str = ""  # by default the task itself

    def __post_init__(self):
        object.__setattr__(self, "expert", self.expert or self.name)
        for value, what in ((self.name, "the task"), (self.expert, "the expert")):
            paths.name(value, what)
        if self.metric is not None and self.metric not in METRICS:
            raise ValueError(f"{self.name}: metric {self.metric!r} is not kept; known: {', '.join(METRICS)}")

    def text(self, row: dict) -> str:
        """A calibration text in Table 5's format, answer included."""
        return self.wording(row) if self.wording else " ".join(self.pair(row))

    def question(self, row: dict) -> str:
        """The prompt without the answer."""
        return self.pair(row)[0]

    @property
    def plain(self) -> bool:
        """Whether the task is running text."""
        return self.lm_eval is None

    @property
    def bundled(self) -> bool:
        return (self.train or self.test).path == "bundled"

    def config_file(self) -> Path:
        """The YAML by which lm-eval scores the task. ValueError for plain text."""
        if self.plain:
            raise ValueError(f"{self.name} is plain text: it has a perplexity, not an accuracy")
        if self.bundled:
            return paths.bundled_dir() / "lm_eval" / self.lm_eval
        return lm_eval.directory() / self.lm_eval


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
    """Names of the registered tasks; ``scored``: of those that lm-eval scores (True) or of plain texts (False)."""
    return [name for name, task in _REGISTRY.items() if scored is None or scored != task.plain]


def get(name: str) -> Task:
    """The registered task of that name, or else lm-eval's; for the path of a YAML, the task that it defines.

    ValueError with the nearest known name for none of these.
    """
    if name in _REGISTRY:
        return _REGISTRY[name]
    if name.endswith((".yaml", ".yml")):
        return own(Path(name))
    if name in lm_eval.index().tasks:
        return stock(name)
    if (members := lm_eval.members(name)) or name in lm_eval.index().groups:
        shown = ": " + ", ".join(members[:5]) + (f", … ({len(members)})" if len(members) > 5 else "") if members else ""
        raise ValueError(f"{name!r} is a group of lm-eval tasks; name its tasks{shown}")
    if near := nearest(name, _REGISTRY) or nearest(name, lm_eval.index().tasks):
        raise ValueError(f"unknown task {name!r}; did you mean {near!r}?")
    raise ValueError(f"unknown task {name!r}; known tasks: {', '.join(_REGISTRY)}, and lm-eval's")


@lru_cache(maxsize=256)
def stock(name: str) -> Task:
    """lm-eval's task of that name, by the rules above. ValueError with the reason where seaplib cannot score it."""
    file = lm_eval.index().tasks[name]
    return _defined(name, file.relative_to(lm_eval.directory()).as_posix(), lm_eval.config(file))


def own(file: Path) -> Task:
    """The task that a YAML of your own defines, registered under the name in it, or else the file's.

    Paths of data files in it are taken from the YAML's folder where they are there. FileNotFoundError without the
    file; ValueError where the name is another task's, and as :func:`stock`.
    """
    file = file.expanduser().resolve()
    if not file.is_file():
        raise FileNotFoundError(f"there is no task file {file}")
    config = lm_eval.config(file)
    name = config.get("task") if isinstance(config.get("task"), str) else file.stem
    check_free(name, file)
    options = dict(config.get("dataset_kwargs") or {})
    if "data_files" in options:
        options["data_files"] = _beside(file.parent, options["data_files"])
    _REGISTRY[name] = _defined(name, str(file), config | {"dataset_kwargs": options})
    return _REGISTRY[name]


def check_free(name: str, file: Path) -> None:
    """ValueError where ``name`` is not that of the task which the YAML ``file`` defines, but another's."""
    if (name in _REGISTRY and _REGISTRY[name].lm_eval != str(file)) or name in lm_eval.index().tasks:
        raise ValueError(f"{file}: there is another task named {name!r}; give yours a name of its own")


def _beside(folder: Path, files):
    """Data files of a YAML, whole where they lie in its folder."""
    if isinstance(files, dict):
        return {split: _beside(folder, part) for split, part in files.items()}
    if isinstance(files, list):
        return [_beside(folder, part) for part in files]
    return str(folder / files) if (folder / files).exists() else files


def _defined(name: str, lm_eval_file: str, config: dict) -> Task:
    """The task that an lm-eval configuration defines, if it can be scored."""
    offered = lm_eval.metrics(config)
    test, kept = config.get("test_split") or config.get("validation_split"), METRICS
    reasons = {
        "is written in Python": "class" in config,
        "makes its own data": "custom_dataset" in config or not config.get("dataset_path"),
        "needs images or sound": "doc_to_image" in config or "doc_to_audio" in config,
        "is worded by promptsource": bool(config.get("use_prompt")),
        "draws several answers to an item": config.get("repeats", 1) != 1,
        "has neither a test nor a validation split": test is None,
        f"offers {', '.join(offered) or 'no metric'}, none of {', '.join(kept)}": not set(offered) & set(kept),
    }
    for reason, true in reasons.items():
        if true:
            near = nearest(name, _REGISTRY)
            hint = f"; did you mean {near!r}?" if near else ""
            raise ValueError(f"lm-eval's task {name!r} {reason}, which seaplib does not score{hint}")
    path, part, options = config["dataset_path"], config.get("dataset_name"), dict(config.get("dataset_kwargs") or {})
    options.pop("trust_remote_code", None)  # datasets runs no code from the hub any more
    folder = name if path in FORMATS else path.rstrip("/").rpartition("/")[2]
    columns = lm_eval.columns(config)
    train, test = (
        Source(path, part, (split,), (f"{folder}/{part}" if part else folder,), columns, options) if split else None
        for split in (config.get("training_split"), test)
    )
    metric = next(metric for metric in kept if metric in offered)
    return Task(name, train, test, lm_eval=lm_eval_file, metric=metric)


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
        pair=formats.boolq,
        lm_eval="super_glue/boolq/default.yaml",
        metric="acc",
    ),
    Task(
        "arc_easy",
        **_sources("allenai/ai2_arc", "ARC-Easy", "ai2_arc/ARC-Easy", _ARC),
        pair=formats.arc,
        lm_eval="arc/arc_easy.yaml",
        metric="acc",
        expert="arc_challenge",
    ),
    Task(
        "arc_challenge",
        **_sources("allenai/ai2_arc", "ARC-Challenge", "ai2_arc/ARC-Challenge", _ARC),
        pair=formats.arc,
        lm_eval="arc/arc_challenge.yaml",
        metric="acc_norm",
    ),
    Task(
        "openbookqa",  # calibrated on the config with the fact, tested on the config without
        Source("allenai/openbookqa", "additional", ("train",), ("openbookqa/additional",), (*_OPENBOOKQA, "fact1")),
        Source("allenai/openbookqa", "main", ("test",), ("openbookqa/main",), _OPENBOOKQA),
        pair=formats.openbookqa,
        wording=formats.openbookqa_text,
        lm_eval="openbookqa/openbookqa.yaml",
        metric="acc_norm",
    ),
    Task(
        "piqa",
        **_sources("baber/piqa", None, "piqa", ("goal", "sol1", "sol2", "label"), test="validation"),
        pair=formats.piqa,
        lm_eval="piqa/piqa.yaml",
        metric="acc_norm",
    ),
    Task(
        "hellaswag",  # on disk, a sample of the training split is accepted where the whole is not at hand
        Source("Rowan/hellaswag", None, ("train",), ("hellaswag", "hellaswag_train-subset"), _HELLASWAG),
        Source("Rowan/hellaswag", None, ("validation",), ("hellaswag",), _HELLASWAG),
        pair=formats.hellaswag,
        wording=formats.hellaswag_text,
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
        pair=formats.winogrande,
        wording=formats.winogrande_text,
        lm_eval="winogrande/default.yaml",
        metric="acc",
    ),
    Task(
        "gsm8k",
        **_sources("openai/gsm8k", "main", "gsm8k/main", ("question", "answer")),
        pair=formats.gsm8k,
        lm_eval="gsm8k/gsm8k.yaml",
        # zero-shot, nobody has shown the model to write "#### 72": the last number counts ("flexible-extract")
        changes={"filter_list": _LAST_NUMBER},
        metric="exact_match",
    ),
    Task(
        "mmlu",
        **_sources("cais/mmlu", "all", "mmlu/all", ("question", "subject", "choices", "answer"), ("dev", "validation")),
        pair=formats.mmlu,
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
_C4 = {"data_files": "en/c4-train.00000-of-01024.json.gz"}  # the shard that Wanda and FLAP draw from
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
register(Task("c4", Source("allenai/c4", None, ("train",), ("c4_sample",), options=_C4)))


def experts(tasks: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Corpus of an expert mask → the tasks that the expert answers, in the order given."""
    served: dict[str, tuple[str, ...]] = {}
    for task in tasks:
        name = get(task).expert
        served[name] = (*served.get(name, ()), task)
    return served
