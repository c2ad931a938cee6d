"""Offline and online give the same numbers: rows of the hub's cache and of a local directory, through to accuracies."""

import gzip
import json
import os
import subprocess
import sys

import datasets
import pandas as pd
import pytest
from datasets.packaged_modules.parquet.parquet import Parquet
from lm_eval_alone import sciq

pytestmark = pytest.mark.unit

# task: hub id, config, folder in a data directory
SETS = {
    "piqa": ("baber/piqa", None, "piqa"),
    "arc_easy": ("allenai/ai2_arc", "ARC-Easy", "ai2_arc/ARC-Easy"),
    "winogrande": ("allenai/winogrande", "winogrande_xl", "winogrande/winogrande_xl"),
    "wikitext2": ("Salesforce/wikitext", "wikitext-2-raw-v1", "wikitext/wikitext-2-raw-v1"),
    "sciq": ("allenai/sciq", None, "sciq"),
}

READ = """
import json, sys
import seaplib
from seaplib import store
from seaplib.evaluation import lm_eval
from seaplib.texts import corpora, rows
from seaplib.settings import Evaluation
model, tokenizer = seaplib.load(sys.argv[1], device="cpu")
bench, found = lm_eval.Bench(model, tokenizer, Evaluation(items=9)), {}
for name in sys.argv[2:]:
    if name != "c4":
        found[f"{name} test"] = [store.digest(list(rows.read_rows(name, "test"))), rows.read_rows(name, "test").ids]
    found[f"{name} corpus"] = [corpora.corpus(name, 7, seed=1).fingerprint, corpora.corpus(name).source["data"]]
    if name not in ("wikitext2", "c4"):
        requests = [request.args for item in bench.prepared(name).instances for request in item]
        found[name] = [bench.identity(name), store.digest(requests)]
        frame = seaplib.evaluate(model, tokenizer, [name], settings=Evaluation(items=9), progress=False)
        found[f"{name} scores"] = frame[["metric", "value", "stderr", "n", "task_version", "truncated"]].to_dict("list")
print("FOUND" + json.dumps(found, default=str))
"""


def cached(cache, name: str, config: str | None, files: dict) -> None:
    """A data set in the cache of ``datasets``, as a load from the hub leaves it."""
    folder, config = cache / name.replace("/", "___"), config or "default"
    named = {"dataset_name": name.partition("/")[2], "config_name": config, "hash": "0" * 40}
    builder = Parquet(cache_dir=str(cache / "made"), data_files=files, **named)
    builder.download_and_prepare()
    (folder / config).mkdir(parents=True)
    os.rename(os.path.dirname(builder.cache_dir), folder / config / "0.0.0")


@pytest.fixture
def places(tiny_data_dir, tiny_model, tiny_tokenizer, tmp_path):
    """A saved model, a directory with data sets, an offline cache of the same, and where C4's file is."""
    (tiny_data_dir / "sciq").mkdir()
    for split, n in {"train": 20, "validation": 4, "test": 12}.items():
        sciq(split, n).to_parquet(tiny_data_dir / "sciq" / f"{split}.parquet", index=False)
    hub = tmp_path / "hub"
    for name, config, folder in SETS.values():
        files = {}
        for file in (tiny_data_dir / folder).glob("*.parquet"):
            data = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "read"))
            if "label" in data.features:  # the hub names its classes, a plain file does not
                data = data.cast_column("label", datasets.ClassLabel(names=["first", "second"]))
            files[file.stem] = str(tmp_path / "typed" / folder / file.name)
            os.makedirs(os.path.dirname(files[file.stem]), exist_ok=True)
            data.to_parquet(files[file.stem])
        cached(hub, name, config, files)
    documents = [{"text": f"Document {i} of the web.", "url": "", "timestamp": ""} for i in range(9)]
    (tiny_data_dir / "c4_sample").mkdir()
    pd.DataFrame(documents).to_parquet(tiny_data_dir / "c4_sample" / "train.parquet")
    c4 = tmp_path / "work" / "allenai" / "c4" / "en" / "c4-train.00000-of-01024.json.gz"
    c4.parent.mkdir(parents=True)
    c4.write_bytes(gzip.compress("\n".join(map(json.dumps, documents)).encode()))
    tiny_model("gqa").save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path


def read(places, names, **environment) -> dict:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SEAP_DATA", "HF_"))}
    kept |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(places / "home"), **environment}
    command = [sys.executable, "-c", READ, str(places / "model"), *names]
    done = subprocess.run(command, capture_output=True, text=True, env=kept, cwd=places / "work")
    said = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert said, done.stderr[-2000:]
    return json.loads(said[0].removeprefix("FOUND"))


@pytest.mark.slow
def test_the_hubs_cache_and_a_local_directory_give_the_same_numbers(places):
    names = [*SETS, "c4"]
    stores = [{"SEAP_STORE_DIR": str(places / f"store{i}")} for i in (0, 1)]
    online = read(places, names, HF_DATASETS_CACHE=str(places / "hub"), **stores[0])
    local = read(places, names, SEAP_DATA_DIR=str(places / "data"), **stores[1])
    for name in names:
        assert [found[f"{name} corpus"][1] for found in (online, local)] == ["hub", "local"]
        online[f"{name} corpus"].pop(), local[f"{name} corpus"].pop()
    assert online == local, "rows, ids, corpora, requests, store keys, scores"
    assert online["piqa scores"]["n"] == [9, 9, 9]
