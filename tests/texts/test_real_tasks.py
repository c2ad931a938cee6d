"""The paper's tasks on their real data, from local files in the hub's schema: as lm-eval scores them, and in full.

A tiny random model is at chance; what is shown is the path from the files to the numbers.
"""

import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lm_eval_alone import stock

from seaplib import evaluation, settings
from seaplib.settings import Evaluation
from seaplib.texts import lm_eval, tasks
from seaplib.texts import rows as corpora

pytestmark = pytest.mark.unit

#: test items of each task, and the version of lm-eval's configuration
SIZES = {
    "winogrande": 1267,
    "openbookqa": 500,
    "hellaswag": 10042,
    "piqa": 1838,
    "arc_challenge": 1172,
    "arc_easy": 2376,
    "boolq": 3270,
    "mmlu": 14042,
}
VERSIONS = {name: "1.0" for name in SIZES} | {"boolq": "2.0"}
CONTEXT = 1024


@pytest.fixture
def at_hand(real_data_dir):
    """Skips a task whose test rows are not among the real data sets (ARC-Easy, perhaps)."""

    def rows(name: str) -> corpora.Rows:
        try:
            return corpora.read_rows(name, "test")
        except FileNotFoundError as error:
            pytest.skip(f"data not at hand: {error}")

    return rows


@pytest.mark.parametrize("name", [*SIZES, "gsm8k"])
def test_forty_items_score_as_lm_eval_alone_scores_them(
    tiny_model, tiny_tokenizer, at_hand, tmp_path, monkeypatch, name
):
    from lm_eval.models.huggingface import HFLM

    found = at_hand(name)
    if name == "mmlu":  # lm-eval's task of one subject, which is the one whose file we start from
        found = found.take([i for i, row in enumerate(found) if row["subject"] == "anatomy"])
    found = found.take(range(3 if name == "gsm8k" else 40))
    folder = tmp_path / "data" / tasks.get(name).test.local[0]
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test", "dev"):
        pq.write_table(found.table, folder / f"{split}.parquet")
    monkeypatch.setenv("SEAP_DATA_DIR", str(tmp_path / "data"))

    model = tiny_model("gqa", max_position_embeddings=CONTEXT)
    lm = HFLM(model, tokenizer=tiny_tokenizer, batch_size=8)
    expected = stock(name, tmp_path / "data", tmp_path, lm)["results"]
    frame = evaluation.evaluate(model, tiny_tokenizer, [name], progress=False).set_index("metric")
    keys = [key for key in expected if "stderr" not in key and not key.endswith(",strict-match")]
    offered = {key.partition(",")[0]: expected[key] for key in keys}
    compared = [metric for metric in settings.METRICS if metric in offered]
    assert tasks.get(name).metric in compared
    for metric in compared:
        assert frame.value[metric] == pytest.approx(offered[metric], abs=1e-12), metric
    assert (frame.n == len(found)).all()


def test_mmlu_is_its_57_subjects(at_hand):
    """Word for word the prompts and options of lm-eval's 57 tasks, which are named and read by the same rules."""
    rows = at_hand("mmlu")
    subject = np.array([row["subject"] for row in rows])
    names = lm_eval.members("mmlu")
    assert len(names) == len(set(subject)) == 57 and len(rows) == SIZES["mmlu"]
    for name in names:
        part = name.removeprefix("mmlu_")
        whole = rows.take(np.flatnonzero(subject == part))
        one = corpora.read_rows(name, "test")
        assert one.source["config"] == part and len(one) == len(whole)
        assert _requests("mmlu", whole.table) == _requests(name, one.table)


def _requests(name: str, table: pa.Table) -> list:
    task, _ = lm_eval.harness_task(tasks.get(name), table)
    made = []
    for doc in task.eval_docs:
        context = task.fewshot_context(doc, num_fewshot=0)
        made.append([request.args for request in task.construct_requests(doc, context)] + [task.doc_to_target(doc)])
    return made


@pytest.mark.long
def test_every_item_is_scored(tiny_model, tiny_tokenizer, real_data_dir, record_property):
    """All seven tasks of Table 1 and MMLU in full: number of items, task version, metric."""
    present = [name for name in SIZES if _present(name)]
    assert set(SIZES) - set(present) <= {"arc_easy"}
    model, lines = tiny_model("gqa", max_position_embeddings=CONTEXT), []
    for name in present:
        begun = time.perf_counter()
        frame = evaluation.evaluate(model, tiny_tokenizer, [name], settings=Evaluation(), progress=False)
        minutes = (time.perf_counter() - begun) / 60
        row = frame[frame.primary].iloc[0]
        shown = ["task", "metric", "task_version", "n", "value", "stderr", "chance", "truncated"]
        lines.append(row[shown].to_dict() | {"minutes": round(minutes, 2)})
        assert (frame.n == SIZES[name]).all() and (frame.task_version == VERSIONS[name]).all(), name
        assert row.metric == tasks.get(name).metric and np.isfinite(frame.value).all()
    shown = pd.DataFrame(lines).to_string(index=False)
    record_property("tasks", shown)
    print(f"\n{shown}")


def _present(name: str) -> bool:
    try:
        return len(corpora.read_rows(name, "test")) > 0
    except FileNotFoundError:
        return False
