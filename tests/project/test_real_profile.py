"""A laptop-size real model's profile from an offline hub cache and local data, the network blocked (``long``).

The model is random, so that accuracies are at chance; shown are the path, the task versions and the metrics.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import hub_cache
import pandas as pd
import pytest
import yaml

from seaplib import paths
from seaplib.texts import tasks

MODEL = "HuggingFaceTB/SmolLM2-135M"
VOCABULARY = 49152
#: ARC-Easy is left out where it is not in the data directory
TASKS = ["winogrande", "openbookqa", "hellaswag", "piqa", "arc_challenge", "arc_easy", "boolq"]
#: the profile at 50 items a task, and what was reduced beside them so that one core is enough
SMALLER = {
    "extends": "smollm2_135m",
    "offline": True,
    "parameters": {"items": 50, "samples": 8, "sparsities": [0.5], "draws": 500},
    "notebooks": {
        "03": {"items": 50, "ratios": [1.0]},
        "05": {"prompts_per_class": 200},
        "08": {"presets": ["flap128"], "window_tokens": 2048},
    },
    "skip": ["09", "10", "11", "12", "13", "14", "15", "16", "17", "20"],
}
#: starts a command in a network of its own, which has the loopback device (kernels need it) and nothing else
ALONE = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sh", b"lo", 0x41))
assert [name for _, name in socket.if_nameindex()] == ["lo"]
os.execvp(sys.argv[1], sys.argv[1:])
"""


def blocked(command: list[str]) -> list[str]:
    """The command without a network where the system allows that, else as it is (the environment says offline)."""
    apart = ["unshare", "--net", "--map-root-user"]
    if shutil.which("unshare") and subprocess.run([*apart, "true"], capture_output=True).returncode == 0:
        return [*apart, sys.executable, "-c", ALONE, *command]
    return command


@pytest.fixture
def project(real_data_dir, tmp_path) -> tuple[Path, dict]:
    """A project with the profile ``laptop``, and the environment to run it in."""
    tokenizer = hub_cache.byte_level_tokenizer(real_data_dir, VOCABULARY)
    hub_cache.put(tmp_path / "home", MODEL, hub_cache.smollm2_135m(VOCABULARY), tokenizer)
    root = tmp_path / "project"
    shutil.copytree(paths.notebooks_dir(), root / "notebooks")
    (root / "data").mkdir()
    for place in (paths.bundled_dir(), paths.published_dir()):
        (root / "data" / place.name).symlink_to(place)
    runs = yaml.safe_load((paths.root() / "papermill_runs.yaml").read_text())
    chosen = [t for t in TASKS if (real_data_dir / tasks.get(t).test.local[0]).is_dir()]
    runs["profiles"]["laptop"] = SMALLER | {"parameters": SMALLER["parameters"] | {"tasks": chosen}}
    (root / "papermill_runs.yaml").write_text(yaml.safe_dump(runs, sort_keys=False))
    package = str(paths.root())
    places = {"SEAP_ROOT": str(root), "SEAP_DATA_DIR": str(real_data_dir.resolve())}
    return root, hub_cache.environment(tmp_path / "home", PYTHONPATH=package, **places)


@pytest.mark.long
def test_the_laptop_profile_runs_without_a_network(project):
    root, environment = project
    command = blocked([sys.executable, "-m", "seaplib", "reproduce", "--profile", "laptop"])
    done = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True)
    record = json.loads((root / "data/runs/laptop/record.json").read_text())
    print({name: (entry["status"], entry.get("seconds"), entry.get("error")) for name, entry in record.items()})
    assert done.returncode == 0, done.stdout
    assert [name[:2] for name in sorted(record)] == ["00", "01", "02", "03", "04", "05", "06", "07", "08", "99"]
    figures = root / "figures/laptop"
    frame = pd.read_csv(figures / "table1_zero_shot.csv", dtype={"task_version": str})
    chosen = yaml.safe_load((root / "papermill_runs.yaml").read_text())["profiles"]["laptop"]["parameters"]["tasks"]
    assert set(frame["task"]) == set(chosen) and (frame["n"] == 50).all() and set(frame["model"]) == {MODEL}
    primary = frame[frame["primary"]]
    assert all(row.metric == tasks.get(row.task).metric for row in primary.itertuples())
    assert frame["task_version"].notna().all()
    dense = primary[primary["method"] == "dense"]
    assert (abs(dense["value"] - dense["chance"]) <= 4 * dense["stderr"]).all(), "a random model knows nothing"
    pruned = frame[frame["method"] != "dense"]
    exact = pruned[(pruned["budget"] != "floor") & (pruned["method"] != "FLAP as published")]
    assert (abs(exact["achieved_sparsity"] - 0.5) < 0.005).all()
    beside = pd.read_csv(figures / "table1_reproduction.csv")
    assert (beside["within_2_se"] == "another model").all() and beside["difference"].isna().all()
    perplexity = pd.read_csv(figures / "perplexity.csv")
    assert (perplexity["bits_per_byte"] > 1).all() and set(perplexity["dataset"]) == {"wikitext2"}
    assert not pd.read_csv(figures / "scorecard.csv").empty
    assert os.listdir(root / "data/store")
