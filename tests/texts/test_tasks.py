"""The registry: wordings against Table 5's examples, names, and lm-eval configurations."""

import subprocess
import sys
from dataclasses import replace

import pytest
import yaml

from seaplib import settings
from seaplib.texts import tasks

pytestmark = pytest.mark.unit

# rows of the real data sets, with Table 5's texts as the rows give them (the paper corrects spelling by hand)
EXAMPLES = {
    "hellaswag": (
        {
            "ctx_a": "Then, a woman wearing winter clothes smiles.",
            "ctx_b": "then",
            "endings": ["he drives.", ", the man continues removing the snow on his car."],
            "label": "1",
        },
        "Then, a woman wearing winter clothes smiles. Then",
        "Then, a woman wearing winter clothes smiles. Then, the man continues removing the snow on his car.",
    ),
    "piqa": (
        {"goal": "How do I boil an egg?", "sol1": "In water.", "sol2": "In sand.", "label": 0},
        "How do I boil an egg?",
        "How do I boil an egg? In water.",
    ),
    "openbookqa": (
        {
            "question_stem": "The sun is responsible for",
            "choices": {"text": ["puppies", "plants sprouting, blooming and wilting"], "label": ["A", "B"]},
            "answerKey": "B",
            "fact1": "the sun is the source of energy for physical cycles on Earth",
        },
        "The sun is responsible for",
        "the sun is the source of energy for physical cycles on Earth. "
        "The sun is responsible for plants sprouting, blooming and wilting",
    ),
    "winogrande": (
        {
            "sentence": "Katrina could afford a new car while Monica did not, since _ had a high paying job.",
            "option1": "Katrina",
            "option2": "Monica",
            "answer": "1",
        },
        "Katrina could afford a new car while Monica did not, since _ had a high paying job.",
        "Katrina could afford a new car while Monica did not, since Katrina had a high paying job.",
    ),
    "arc_challenge": (
        {
            "question": "Which best explains why there were more chipmunks?",
            "choices": {"text": ["Shady areas increased.", "Food sources increased."], "label": ["1", "2"]},
            "answerKey": "2",
        },
        "Which best explains why there were more chipmunks?",
        "Which best explains why there were more chipmunks? Food sources increased.",
    ),
    "gsm8k": (
        {
            "question": "How many clips?",
            "answer": "Natalia sold 48/2 = <<48/2=24>>24 in May.\nShe sold 48+24 = <<48+24=72>>72 clips.\n#### 72",
        },
        "How many clips?",
        "How many clips? Natalia sold 48/2 = 24 in May. She sold 48+24 = 72 clips.",
    ),
    "boolq": (
        {
            "passage": "Ethanol fuel -- All biomass goes through some of these steps -- it is grown.",
            "question": "does ethanol take more energy make that produces",
            "label": 0,
        },
        "All biomass goes through some of these steps -- it is grown. "
        "does ethanol take more energy make that produces?",
        "All biomass goes through some of these steps -- it is grown. "
        "does ethanol take more energy make that produces? False",
    ),
    "mmlu": (
        {"question": "2 + 2 =", "subject": "arithmetic", "choices": ["3", "4", "5", "6"], "answer": 1},
        "2 + 2 =",
        "2 + 2 = 4",
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_wordings_are_those_of_table_5(name):
    row, question, text = EXAMPLES[name]
    for task in (tasks.get(name), tasks.get(f"mini_{name}")):  # the generated world has the same schema
        assert task.question(row) == question
        assert task.text(row) == text


def test_wikihow_tags_do_not_reach_a_corpus():
    row = {"ctx_a": "[header] How to rest [title] Sit down.", "ctx_b": "", "endings": ["[step] Breathe."], "label": "0"}
    assert tasks.get("hellaswag").text(row) == "How to rest. Sit down. Breathe."


def test_metrics_are_those_of_the_papers_tables():
    metrics = {name: tasks.get(name).metric for name in tasks.names(scored=True)}
    assert {name for name, metric in metrics.items() if metric == "acc"} >= {"winogrande", "boolq", "arc_easy", "mmlu"}
    assert {n for n in metrics if metrics[n] == "acc_norm"} >= {"openbookqa", "hellaswag", "piqa", "arc_challenge"}
    assert metrics["gsm8k"] == "exact_match"
    for name in list(metrics):
        assert metrics[name] == metrics[f"mini_{name.removeprefix('mini_')}"]


def test_arc_is_one_expert():
    assert tasks.get("arc_easy").expert == tasks.get("arc_challenge").expert == "arc_challenge"
    assert tasks.get("mini_arc_easy").expert == "mini_arc_challenge"
    assert tasks.get("piqa").expert == "piqa"


def test_a_tasks_metric_is_one_that_is_kept():
    assert all(tasks.get(name).metric in settings.METRICS for name in tasks.names(scored=True))
    with pytest.raises(ValueError, match="brier_score"):
        replace(tasks.get("piqa"), metric="brier_score")


def test_unknown_and_taken_names():
    with pytest.raises(ValueError, match="'piqqa'.*'piqa'"):
        tasks.get("piqqa")
    with pytest.raises(ValueError, match="boolq"):
        tasks.get("qqqqqqqq")
    with pytest.raises(ValueError, match="piqa"):
        tasks.register(tasks.get("piqa"))


def test_plain_text_has_no_accuracy():
    assert {"wikitext2", "mini_wikitext", "c4"} == set(tasks.names(scored=False))
    with pytest.raises(ValueError, match="perplexity"):
        tasks.get("wikitext2").config_file()


def test_configurations_belong_to_the_named_tasks():
    for name in tasks.names(scored=True):
        task = tasks.get(name)
        if not task.bundled:
            text = task.config_file().read_text()
            assert f"task: {name}" in text or name == "boolq" and "task: boolq" in text or name == "mmlu", name


def test_one_mmlu_task_words_its_prompts_as_the_57_do():
    from jinja2 import Template

    task = tasks.get("mmlu")
    files = [f for f in task.config_file().parent.glob("mmlu_*.yaml")]
    assert len(files) == 57
    for file in files:
        config = yaml.safe_load(file.read_text())
        assert (
            Template(task.changes["description"], keep_trailing_newline=True).render(subject=config["dataset_name"])
            == config["description"]
        ), file.name


def test_registry_needs_no_heavy_import():
    """The runner reads it before every run; ``-m`` is how Python starts the runner."""
    heavy = "{'torch', 'lm_eval', 'datasets', 'transformers'} & set(sys.modules)"
    code = "import sys; sys.argv, sys.orig_argv = ['-m'], ['-m', 'seaplib']; "
    code += f"import seaplib.texts.tasks; print(sorted({heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
