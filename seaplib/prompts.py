"""lm-eval's wording of rows: its own task object over rows in memory, and the texts its templates make.

What is scored (``harness``) and what a task without a wording of ours is calibrated on (``corpora``)
come from the same object, so that a calibration text is an item's prompt and its right answer.
"""

import logging
import os.path
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import pyarrow as pa

from . import tasks, wordings

_PLACE = "seaplib_row"  # a column that says which row a document was made from


def harness_task(name: str, table: pa.Table):
    """lm-eval's task of that name over exactly these rows, zero-shot, exact match beside accuracy.

    Returns it and, for each of its documents, the number of the row it was made from: some tasks leave
    rows out while they prepare them. ValueError where the rows do not fit the task's templates.
    """
    import datasets
    from lm_eval import utils
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of models and rows handed over in memory
    if not hasattr(utils.env.from_string, "cache_info"):  # it compiles a task's template anew for every item
        utils.env.from_string = lru_cache(utils.env.from_string)
    task = tasks.get(name)
    config = load_yaml(task.config_file()) | task.changes
    for key in ("tag", "group", "training_split", "validation_split", "fewshot_split", "fewshot_config"):
        config.pop(key, None)
    if config.get("metric_list"):  # the others are not reported, and some are fetched from the hub
        config["metric_list"] = [metric for metric in config["metric_list"] if metric["metric"] in tasks.METRICS]
        if config["output_type"] == "multiple_choice" and "exact_match" not in _measured(config):
            exact = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
            config["metric_list"].append(exact)
    data = datasets.Dataset(datasets.table.InMemoryTable(table))
    with _understood(name, table):
        data, places = _processed(data, config.pop("process_docs", None))
        splits = datasets.DatasetDict({"test": data})
        made = ConfigurableTask(
            config=config | {"task": name, "test_split": "test", "num_fewshot": 0, "custom_dataset": lambda **_: splits}
        )
    for field in ("doc_to_text", "doc_to_target", "doc_to_choice"):  # lm-eval compiles a template at every call
        setattr(made, field, _remembered(getattr(made, field)))
    return made, places


def rendered(name: str, table: pa.Table) -> Iterator[tuple[int, str, str, str]]:
    """Number of the row, question, right answer and the whole text, for each of a task's documents.

    The text is lm-eval's own example: doc_to_text, target_delimiter and the right choice or target (of
    several targets the first), without description. Where the options stand in the prompt (WinoGrande's
    kind), the question is what all of them begin with. ValueError for a row without a right answer.
    """
    made, places = harness_task(name, table)
    for place, doc in zip(places, made.eval_docs, strict=True):
        with _understood(f"{name}: row {place}", table):
            yield place, *_example(made, doc)


def contexts(name: str, table: pa.Table) -> Iterator[tuple[int, str]]:
    """Number of the row and what lm-eval asks the model, zero-shot, for each of a task's documents.

    Where the options stand in the prompt (WinoGrande's kind), it is what all of them begin with.
    """
    made, places = harness_task(name, table)
    for place, doc in zip(places, made.eval_docs, strict=True):
        with _understood(f"{name}: row {place}", table):
            asked = made.fewshot_context(doc, num_fewshot=0, gen_prefix=made.doc_to_prefix(doc))
            yield place, asked if isinstance(asked, str) else os.path.commonprefix(asked)


def _example(made, doc: dict) -> tuple[str, str, str]:
    text, prefix, delimiter = made.doc_to_text(doc), made.doc_to_prefix(doc), made.config.target_delimiter
    choices = made.doc_to_choice(doc) if made.config.doc_to_choice is not None else None
    answers = targets(made, doc) if made.OUTPUT_TYPE == "multiple_choice" else made.doc_to_target(doc)
    answer = answers[0] if isinstance(answers, list) else answers
    if made.multiple_input:
        question, right = os.path.commonprefix(choices), choices[answer] + delimiter + str(made.doc_to_target(doc))
        return question, right[len(question) :], right
    if made.OUTPUT_TYPE == "loglikelihood":  # scored as it is written
        delimiter = ""
    if choices is not None and isinstance(answer, int):
        answer = wordings.option(choices, answer)
    question, whole = (
        "".join(part.to_text() for part in made.build_qa_turn(q=text, gen_prefix=prefix, tgt_delim=delimiter, **more))
        for more in ({}, {"a": str(answer), "few_delim": ""})
    )
    return question, str(answer), whole


def targets(made, doc: dict) -> list[int]:
    """The right options of a multiple-choice document, as numbers. ValueError where one is not among its options.

    lm-eval itself warns there, and counts every answer as wrong.
    """
    choices = made.doc_to_choice(doc)
    found = made.doc_to_text(doc) if made.multiple_input else made.doc_to_target(doc)
    found = found if isinstance(found, list) else [found]
    numbers = [choices.index(one) if isinstance(one, str) and one in choices else one for one in found]
    for number in numbers:
        wordings.option(choices, number if isinstance(number, int) else None)
    if not numbers:
        raise ValueError("no option is right")
    return numbers


def _measured(config: dict) -> set:
    return {metric["metric"] for metric in config["metric_list"]}


def _processed(data, process) -> tuple:
    """``process(data)`` and the row of each of its documents. ValueError where these cannot be told."""
    import datasets

    if process is None:
        return data, range(len(data))
    shown = datasets.are_progress_bars_disabled() is False
    datasets.disable_progress_bars()
    try:
        made = process(data)
        if len(made) == len(data):
            return made, range(len(data))
        made = process(data.add_column(_PLACE, list(range(len(data)))))  # rows were left out: which?
    finally:
        if shown:
            datasets.enable_progress_bars()
    if _PLACE not in made.column_names:
        raise ValueError("lm-eval drops items while it prepares them, so that ids would be lost")
    return made.remove_columns(_PLACE), list(made[_PLACE])


@contextmanager
def _understood(where: str, table: pa.Table) -> Iterator[None]:
    """Whatever a task's templates or functions raise about rows that they do not fit, as one line."""
    try:
        yield
    except Exception as error:  # jinja's, KeyError, IndexError, TypeError, AttributeError, …
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
        columns = ", ".join(name for name in table.column_names)
        raise ValueError(f"{where} does not fit lm-eval's task ({reason}); columns: {columns}") from error


def _remembered(function):
    """``function(doc)`` computed once per document, which is kept, so that its id stays its own."""
    known = {}

    def remembered(doc, *args):
        if args:
            return function(doc, *args)
        if id(doc) not in known:
            known[id(doc)] = doc, function(doc)
        return known[id(doc)][1]

    return remembered
