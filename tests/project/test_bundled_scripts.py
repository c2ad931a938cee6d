"""The programs that make the bundled data and model: what they refuse, what a stopped run leaves, where things go."""

import csv
import json
import os
import shutil
import sys
from functools import cache
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.unit

BUNDLED = Path(__file__).resolve().parents[2] / "data" / "bundled"
sys.path.insert(0, str(BUNDLED))

import card  # noqa: E402
import check  # noqa: E402
import generate  # noqa: E402
import train  # noqa: E402

GEOMETRY = train.GEOMETRY
TINY = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2)
STEPS, STOPPED = 9, 5  # the eighth step is a long one
OPTIONS = f"--tokens {STEPS * train.STEP_TOKENS} --vocabulary 512 --threads 1 --precision fp32 --no-compile".split()


def refused(run, given: list, capsys) -> str:
    """What argparse says about a command line."""
    with pytest.raises(SystemExit) as stop:
        run([str(word) for word in given])
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


# --- train.py


@pytest.fixture(autouse=True)
def no_training_of_the_bundled_model(tmp_path_factory, monkeypatch):
    """The default output is a folder of the test's; the model is tiny."""
    place = tmp_path_factory.mktemp("bundled")
    monkeypatch.setattr(train, "HERE", place)
    monkeypatch.setattr(train, "SHIPPED", place / "model")
    monkeypatch.setattr(train, "GEOMETRY", TINY)
    monkeypatch.setattr(train, "train_tokenizer", tokenizer)
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0)


tokenizer = cache(train.train_tokenizer)


def stop_after(step: int, monkeypatch) -> None:
    """Ctrl-C right after that step's checkpoint."""
    save = train.Checkpoint.save

    def saved(self, at, **state):
        save(self, at, **state)
        if at == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(train.Checkpoint, "save", saved)


def losses(folder: Path) -> list[list[str]]:
    """The training log without its times."""
    with open(folder / "training_log.csv", newline="") as file:
        return [row[:3] for row in csv.reader(file)]


@pytest.fixture
def stopped(tmp_path, monkeypatch, capsys) -> Path:
    """The output of a run that was stopped."""
    output = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        stop_after(STOPPED, patch)
        assert train.main([*OPTIONS, "--output", str(output)]) == 130
    said = capsys.readouterr()
    where = "9 steps of 4096 tokens on cpu in fp32, threads: 1, not compiled\n"
    assert said.out == f"{where}checkpoint: {output}.training/checkpoint.pt\nmodel: {output}\n"
    last = "train.py: interrupted; the last checkpoint is of step 5; the same command goes on from there"
    assert said.err.splitlines()[-1] == last and not output.exists()
    return output


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, stopped, capsys):
    someones = tmp_path / "stopped.new"
    someones.mkdir()
    (someones / "note").write_text("mine")
    assert train.main([*OPTIONS, "--output", str(stopped)]) == 0
    assert "fp32, threads: 1, not compiled, going on after step 5\n" in capsys.readouterr().out
    assert train.main([*OPTIONS, "--output", str(tmp_path / "whole")]) == 0
    names = {file.name for file in stopped.iterdir()}
    assert names == {file.name for file in (tmp_path / "whole").iterdir()}
    assert {"model.safetensors", "tokenizer.json", "training_log.csv"} <= names
    for name in names - {"training_log.csv"}:
        assert (stopped / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert losses(stopped) == losses(tmp_path / "whole") and losses(stopped)[-1][:2] == ["9", "36864"]
    assert (someones / "note").read_text() == "mine" and not list(tmp_path.glob("*.training"))
    assert not list(train.HERE.iterdir())


@pytest.mark.slow
def test_a_checkpoint_of_other_options_is_kept_and_said(tmp_path, stopped, capsys):
    file = Path(f"{stopped}.training") / "checkpoint.pt"
    before = file.read_bytes()
    assert train.main([*OPTIONS, "--output", str(stopped), "--seed", "1", "--matrix-lr", "0.01"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{file} is of a run with --seed 0 --matrix-lr 0.02, not --seed 1 --matrix-lr 0.01: delete it" in line
    others = "--vocabulary 600", "--other-lr 1", "--weight-decay 1", "--precision bf16", "--tokens 8192"
    for option in (*others, "--threads 2", "--compile"):
        assert train.main([*OPTIONS, "--output", str(stopped), *option.split()]) == 2
        assert f", not {option}" in capsys.readouterr().err
    for damaged in (before[: len(before) // 2], b"", b"no checkpoint"):
        file.write_bytes(damaged)
        assert train.main([*OPTIONS, "--output", str(stopped)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{file} is no checkpoint of this program, or damaged: delete it" in line
        assert file.read_bytes() == damaged


def test_the_defaults_are_those_of_the_bundled_model(tmp_path, monkeypatch):
    """Also where the processor has matrix units."""
    monkeypatch.setattr(train, "fast_bf16", lambda device: True)
    monkeypatch.setattr(train.shutil, "which", lambda name: name)
    defaults = vars(train.arguments(["--output", str(tmp_path)]))
    log = pd.read_csv(BUNDLED / "training_log.csv")
    assert defaults["tokens"] // train.STEP_TOKENS == log["step"].iloc[-1] and defaults["vocabulary"] == 2304
    assert [defaults[name] for name in ("device", "threads", "precision", "compile")] == ["cpu", 1, "fp32", True]
    card = " ".join((BUNDLED / "MODEL_CARD.md").read_text("utf-8").split())
    said = "Muon {matrix_lr} with weight decay {weight_decay} for matrices, AdamW {other_lr} for the rest"
    assert said.format_map(defaults) in card and defaults["seed"] == 0
    assert train.arguments(["--precision", "auto"]).precision == "bf16"


@pytest.fixture
def begin(tmp_path, monkeypatch, capsys):
    """``begin(steps)``: the running loss after each of the first steps of the default command, and its log."""
    monkeypatch.setattr(train, "GEOMETRY", GEOMETRY)
    threads, losses, log = [], [], []
    monkeypatch.setattr(train.torch, "set_num_threads", threads.append)

    def run(steps: int) -> tuple[list[float], list]:
        def stop(self, at, **state):
            losses.append(state["running"])
            log[:] = state["log"]
            if at >= steps:
                raise KeyboardInterrupt

        monkeypatch.setattr(train.Checkpoint, "save", stop)
        assert train.main(["--no-compile", "--output", str(tmp_path / "again")]) == 130
        assert threads == [1] and "in fp32, threads: 1, not compiled\n" in capsys.readouterr().out
        return losses, log

    return run


@pytest.mark.slow
def test_the_default_command_begins_as_the_bundled_model_did(begin):
    """The first steps' running loss, but for rounding: program, text, tokenizer and optimizers are still the same."""
    assert begin(2)[0] == pytest.approx([7.79287, 7.79239], abs=1e-4)  # these lead to the loss logged at step 20


@pytest.mark.long
def test_the_default_command_reaches_the_first_loss_in_the_log(begin):
    first = pd.read_csv(BUNDLED / "training_log.csv").iloc[0]
    _, log = begin(int(first["step"]))
    step, tokens, loss, *_ = log[-1]
    assert (step, tokens) == (first["step"], first["tokens"]) and abs(loss - first["loss"]) < 0.001  # other text: 0.005


def test_a_checkpoint_is_never_before_a_long_step(tmp_path, monkeypatch, capsys):
    """What is compiled first is compiled for that shape alone: short steps, in a run that goes on, too."""
    saved = []
    monkeypatch.setattr(train.Checkpoint, "save", lambda self, at, **state: saved.append(at))
    assert train.main([*OPTIONS, "--output", str(tmp_path / "model")]) == 0
    assert saved == [1, 2, 3, 4, 5, 6, 8, 9] and train.shape(7, STEPS)[1] == train.LONG > train.shape(8, STEPS)[1]


def test_without_a_compiler(tmp_path, monkeypatch, capsys):
    given = ["--output", str(tmp_path / "model")]
    monkeypatch.setattr(train.shutil, "which", lambda name: None)
    assert "no g++ to compile with: install it, or say --no-compile" in refused(train.arguments, given, capsys)
    assert not list(tmp_path.iterdir())
    assert not train.arguments([*given, "--no-compile"]).compile and capsys.readouterr().err == ""


def test_the_bundled_models_log_stands_beside_it(monkeypatch, capsys):
    """And a checkpoint is written after the first step, the next ones by the clock."""
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 3600)
    steps, save = [], train.Checkpoint.save
    monkeypatch.setattr(train.Checkpoint, "save", lambda self, at, **state: (steps.append(at), save(self, at, **state)))
    assert train.main([*OPTIONS, "--tokens", "8192"]) == 0
    assert steps == [1] and losses(train.HERE)[-1][:2] == ["2", "8192"]
    assert {file.name for file in train.HERE.iterdir()} == {"model", "training_log.csv"}
    assert (train.SHIPPED / "model.safetensors").exists() and not (train.SHIPPED / "training_log.csv").exists()


def test_stopped_before_the_first_checkpoint(monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train_tokenizer", stop)
    assert train.main(OPTIONS) == 130
    assert (
        capsys.readouterr().err == "train.py: interrupted; there is no checkpoint yet; the same command begins again\n"
    )


@pytest.mark.parametrize(
    "given",
    ["--tokens 4095", "--tokens 0", "--tokens -1", "--threads -1", "--vocabulary 511", "--seed -1", "--other-lr nan"],
)
def test_numbers_that_no_training_can_have(given, capsys):
    assert f"{given.split()[0]} must be at least" in refused(train.main, given.split(), capsys)
    assert not list(train.HERE.iterdir())


@pytest.mark.parametrize(
    "given, said",
    [
        ("--threads 100000", "--threads must be at most 1024"),
        ("--vocabulary 99999999999999", "--vocabulary must be at most 65536"),
        ("--output=", "--output names no folder"),
    ],
)
def test_what_would_end_in_a_crash_or_in_this_folder(given, said, capsys):
    assert said in refused(train.main, given.split(), capsys)
    assert not list(train.HERE.iterdir())


@pytest.mark.skipif(train.torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(capsys):
    assert "PyTorch sees no GPU here" in refused(train.main, ["--device", "cuda"], capsys)


def test_outputs_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert "is a file; name a folder" in refused(train.main, ["--output", tmp_path / "file"], capsys)
    assert "cannot write to --output" in refused(train.main, ["--output", tmp_path / "file" / "model"], capsys)
    (tmp_path / "model.training").write_text("mine")
    assert "cannot write to --output" in refused(train.main, ["--output", tmp_path / "model"], capsys)
    assert (tmp_path / "file").read_text() == (tmp_path / "model.training").read_text() == "mine"


def test_outputs_have_their_own_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = [train.arguments(["--output", name]).work for name in ("one", "two", "./one/")]
    assert places == [tmp_path / "one.training", tmp_path / "two.training", tmp_path / "one.training"]
    ignored = (BUNDLED.parents[1] / ".gitignore").read_text().splitlines()
    assert f"data/bundled/{train.arguments([]).work.name}/" in ignored


# --- generate.py


def test_data_are_written_to_a_folder(tmp_path, monkeypatch, capsys):
    assert generate.arguments([]) == BUNDLED / "tasks"
    monkeypatch.chdir(tmp_path)
    assert generate.arguments(["new/place"]) == tmp_path / "new" / "place"
    (tmp_path / "file").write_text("mine")
    assert "is a file; name a folder" in refused(generate.arguments, ["file"], capsys)
    assert "is a file; name a folder" in refused(generate.arguments, ["file/tasks"], capsys)


def test_an_interrupted_file_is_the_one_before(tmp_path, monkeypatch):
    file = tmp_path / "task" / "test.parquet"
    generate.write(file, [{"text": "old"}])

    def stop(table, path, **_):
        Path(path).write_bytes(b"PAR1")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(generate.pq, "write_table", stop)
        generate.write(file, [{"text": "new"}])
    assert pq.read_table(file).to_pylist() == [{"text": "old"}]
    generate.write(file, [{"text": "new"}])
    assert pq.read_table(file).to_pylist() == [{"text": "new"}] and os.listdir(file.parent) == ["test.parquet"]


# --- check.py and card.py


@pytest.mark.parametrize("program, option", [(check, "--model"), (card, "--retrained")])
def test_there_must_be_items_and_a_model(program, option, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check, "evaluate", lambda *_, **__: pytest.fail("evaluated before all is known to be there"))
    monkeypatch.chdir(tmp_path)
    for items in ("0", "-1"):
        assert "--items must be at least 1" in refused(program.main, ["--items", items], capsys)
    assert "there is no folder absent" in refused(program.main, [option, "absent"], capsys)
    (tmp_path / "empty").mkdir()
    assert "config.json" in refused(program.main, [option, "empty"], capsys)
    shutil.copytree(BUNDLED / "model", tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 9}))
    assert "9 layers" in refused(program.main, [option, "other"], capsys)


def test_a_task_named_twice_counts_once(monkeypatch, capsys):
    asked = []

    def evaluate(model, tokenizer, task, limit):
        asked.append(task)
        return pd.DataFrame(dict(task=task, depth=1, acc=[1.0] * limit, exact_match=0.0, chance=0.5))

    monkeypatch.setattr(check, "evaluate", evaluate)
    monkeypatch.setattr(check, "score_options", lambda model, tokenizer, pairs: [(0.0, True)] * len(pairs))
    check.main("--model bundled --items 3 --tasks piqa boolq piqa".split())
    assert asked == ["piqa", "boolq"]
    assert "general-text perplexity 1.0 over" in capsys.readouterr().out


def test_the_card_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    items = pd.DataFrame(dict(task=list(generate.MAKERS), depth=1, acc=1.0, exact_match=1.0, chance=0.5))
    measured = pd.DataFrame(dict(layer=[-1, 0], residual_norm=1.0, acc=0.5, exact_match=0.5))
    monkeypatch.setattr(card, "HERE", tmp_path)
    monkeypatch.setattr(card, "answered", lambda *_: items)
    monkeypatch.setattr(card, "benchmark", lambda items: items)
    monkeypatch.setattr(check, "vocabulary", lambda: pd.DataFrame(dict(task=["piqa"], boolq=[0.123])))
    monkeypatch.setattr(card, "layers", lambda *_: measured)
    shutil.copy(BUNDLED / "training_log.csv", tmp_path)

    def fail(*_):
        raise RuntimeError("half way")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="half way"):
        patch.setattr(card, "at_random", fail)
        card.main([])
    assert os.listdir(tmp_path) == ["training_log.csv"]
    monkeypatch.setattr(card, "at_random", lambda *_: measured)
    card.main(["--retrained", "bundled", "bundled"])
    tables = {"benchmark.csv", "vocabulary.csv", "questions.csv", "retrained.csv", "layers.csv", "random.csv"}
    assert set(os.listdir(tmp_path)) == {*tables, "model_card.png", "training_log.csv"}
    assert (tmp_path / "vocabulary.csv").read_text() == "task,boolq\npiqa,0.12\n"
    runs = pd.read_csv(tmp_path / "retrained.csv").groupby("run")
    assert {run: len(rows) for run, rows in runs} == dict.fromkeys((1, 2), 2 * len(generate.MAKERS))
