"""Files and values with errors drawn by hypothesis: a line of ours, or a result; never another exception."""

import json
import shutil
from dataclasses import fields

import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import seaplib
from seaplib import models
from seaplib.models.shapes import Geometry
from seaplib.pruning import masks
from seaplib.runner import parameters, plan

pytestmark = pytest.mark.slow

SETTINGS = (seaplib.Calibration, seaplib.Evaluation, seaplib.Pruning, seaplib.Routing)
#: values as JSON and YAML have them
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))


@st.composite
def damages(draw, longest: int = 2**16):
    """A function of bytes: some are changed, left out, repeated or cut off."""
    kind = draw(st.sampled_from(("flip", "cut", "leave out", "repeat", "insert")))
    place, length = draw(st.integers(0, longest)), draw(st.integers(1, 40))
    added = draw(st.binary(min_size=1, max_size=8))

    def damage(content: bytes) -> bytes:
        start = place % max(len(content), 1)
        before, part, after = content[:start], content[start : start + length], content[start + length :]
        changed = {"flip": bytes(255 - byte for byte in part), "leave out": b"", "repeat": part + part}
        return before if kind == "cut" else before + changed.get(kind, added + part) + after

    return damage


@given(st.sampled_from(SETTINGS), st.data())
@settings(max_examples=300)
def test_settings_of_any_value(kind, data):
    chosen = data.draw(st.lists(st.sampled_from([field.name for field in fields(kind)]), min_size=1, max_size=3))
    try:
        made = kind(**{name: data.draw(VALUES) for name in chosen})
    except ValueError as error:
        assert kind.__name__ in str(error) and "\n" not in str(error)
    else:
        assert kind(**made.as_dict()) == made


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of two notebooks; returns a writer of its papermill_runs.yaml."""
    (tmp_path / "notebooks").mkdir()
    cells = [
        {"cell_type": "code", "source": "samples = 8\nitems = 5  # a comment", "metadata": {"tags": ["parameters"]}}
    ]
    for name in ("00_one", "01_two"):
        body = {"cells": [cell | {"outputs": [], "execution_count": None} for cell in cells], "metadata": {}}
        text = json.dumps(body | {"nbformat": 4, "nbformat_minor": 4})
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text(text)
    monkeypatch.setenv("SEAP_ROOT", str(tmp_path))
    return (tmp_path / "papermill_runs.yaml").write_bytes


GOOD = {
    "profiles": {
        "p": {"description": "One.", "jobs": 2, "parameters": {"samples": 4}},
        "q": {"extends": "p", "notebooks": {"01": {"items": 3}}, "skip": ["00"]},
    },
    "notebooks": {"00_one": {"title": "One", "tables": ["t"]}, "01_two": {"title": "Two", "needs": ["00_one"]}},
}


def planned() -> None:
    """Both profiles planned; a PlanError is as good."""
    for profile in ("p", "q", None):
        try:
            assert plan.load(profile).notebooks is not None
        except parameters.PlanError as error:
            assert str(error) and "\n" not in str(error)


@given(damage=damages(600))
@settings(max_examples=200)
def test_a_damaged_yaml_file(project, damage):
    project(damage(yaml.safe_dump(GOOD).encode()))
    planned()


@given(place=st.integers(0, 30), value=VALUES)
@settings(max_examples=200)
def test_a_yaml_file_with_any_value_in_any_place(project, place, value):
    project(yaml.safe_dump(replaced(GOOD, place, value)).encode())
    planned()


def replaced(content, place: int, value):
    """``content`` with ``value`` in the place-th of its places, counted in depth."""
    paths = []

    def walk(node, path):
        paths.append(path)
        for key, inner in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            walk(inner, (*path, key))

    walk(content, ())
    path = paths[place % len(paths)]
    made = json.loads(json.dumps(content))
    if not path:
        return value
    node = made
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return made


@given(damage=damages(3000), suffix=st.sampled_from(("parquet", "csv", "json", "jsonl")))
@settings(max_examples=200)
def test_a_damaged_file_of_texts(tmp_path, damage, suffix):
    rows = pd.DataFrame({"question": [f"Where is {n}?" for n in range(30)], "answer": [f"in {n}" for n in range(30)]})
    file = tmp_path / f"mine.{suffix}"
    writers = {"parquet": rows.to_parquet, "csv": lambda path: rows.to_csv(path, index=False)}
    writers |= {"json": lambda path: rows.to_json(path, orient="records")}
    writers |= {"jsonl": lambda path: rows.to_json(path, orient="records", lines=True)}
    writers[suffix](file)
    file.write_bytes(damage(file.read_bytes()))
    try:
        corpus = seaplib.corpus(file)
    except ValueError as error:
        assert "mine" in str(error) and "\n" not in str(error)
    else:
        assert all(isinstance(text, str) and text.strip() for text in corpus.texts)


@given(damage=damages(400), name=st.sampled_from(("mask.safetensors", "mask.json")))
@settings(max_examples=200)
def test_a_damaged_mask(tmp_path, damage, name):
    shape = Geometry(layers=2, hidden=8, heads=4, kv_heads=2, head_dim=2, channels=6, model_parameters=10**4)
    masks.keep_all(shape).save(tmp_path)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    try:
        mask = seaplib.PruningMask.load(tmp_path)
    except ValueError as error:
        assert "mask" in str(error) and "\n" not in str(error)
    else:
        assert mask.heads.dtype == mask.channels.dtype == torch.bool


@pytest.fixture
def checkpoint(tmp_path, tiny_model, tiny_tokenizer):
    seaplib.save_pretrained(tiny_model("gqa"), tiny_tokenizer, tmp_path / "whole")
    return tmp_path / "whole"


def loaded(folder) -> None:
    """A model and a tokenizer that work together, or a ModelError."""
    try:
        model, tokenizer = seaplib.load(folder)
        stats = seaplib.collect(model, tokenizer, seaplib.corpus(["The otter lives in the river."]), progress=False)
        assert stats.count
    except ValueError as error:
        assert str(error) and "\n" not in str(error)


@given(damage=damages(6000), name=st.sampled_from(("model.safetensors", "tokenizer.json", "config.json")))
@settings(max_examples=60)
def test_a_damaged_checkpoint(checkpoint, damage, name):
    folder = checkpoint.with_name("damaged")
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    header = (folder / name).read_bytes()[:6000]  # of the weights: their header, which names and places them
    (folder / name).write_bytes(damage(header) + (folder / name).read_bytes()[6000:])
    loaded(folder)


@given(st.data())
@settings(max_examples=80)
def test_a_checkpoint_with_any_value_in_any_place_of_its_configuration(checkpoint, data):
    folder = checkpoint.with_name("changed")
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    known = json.loads((folder / "config.json").read_text("utf-8"))
    key = data.draw(st.sampled_from(sorted(known)))
    value = data.draw(VALUES | st.integers(-2, 400))
    (folder / "config.json").write_text(json.dumps(known | {key: value}), "utf-8")
    loaded(folder)


def test_the_undamaged_files_are_good(project, checkpoint, tmp_path):
    project(yaml.safe_dump(GOOD).encode())
    assert [notebook.name for notebook in plan.load("p").notebooks] == ["00_one", "01_two"]
    assert models.geometry(seaplib.load(checkpoint)[0]).layers == 2
