"""lm-eval by itself over local rows, and rows of a task that only lm-eval knows."""

import pandas as pd
from conftest import SENTENCES

from seaplib.texts import tasks


def stock(name: str, data_dir, tmp_path, lm, **options) -> dict:
    """lm-eval by itself: its own task, parquet files instead of the hub, its own scoring."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    task = tasks.get(name)
    found = [data_dir / task.test.local[0] / f"{split}.parquet" for split in ("train", "validation", "test", "dev")]
    files = {file.stem: str(file) for file in found if file.exists()}
    folder = tmp_path / f"stock_{name}"
    folder.mkdir()
    config = [f"include: {task.config_file()}", f"task: stock_{name}", "dataset_path: parquet", "dataset_name: null"]
    config += ["dataset_kwargs:", f"  cache_dir: {tmp_path / 'cache'}", "  data_files:"]
    config += [f"    {s}: {file}" for s, file in files.items()]
    (folder / "task.yaml").write_text("\n".join(config))
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(lm, tasks=[f"stock_{name}"], num_fewshot=0, task_manager=manager, **options)
    return {"results": found["results"][f"stock_{name}"], "samples": found["samples"][f"stock_{name}"]}


def sciq(split: str, n: int) -> pd.DataFrame:
    answers = ["otter", "copper", "stone", "kettle"]
    others = {f"distractor{j}": [answers[(i + j) % 4] for i in range(n)] for j in (1, 2, 3)}
    questions = [f"What is number {i} of the {split}?" for i in range(n)]
    right = [answers[i % 4] for i in range(n)]
    support = ["" if i % 3 == 0 else f" {SENTENCES[i % 7]}" for i in range(n)]
    return pd.DataFrame({"question": questions, "correct_answer": right, "support": support} | others)
