"""Streams of requests: their order, what each system is charged for, and the break-even, by a clock of our own."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from pruned import masks_of, router_of

from seaplib.evaluation import speed
from seaplib.experts import timing, variants
from seaplib.experts.model import ExpertModel
from seaplib.experts.router import GENERAL
from seaplib.experts.variants import Route
from seaplib.pruning import apply

pytestmark = pytest.mark.unit


def asked(tasks=("piqa", "winogrande"), each: int = 4) -> pd.DataFrame:
    texts = {"piqa": "How do you boil {} cups?", "winogrande": "Anna gave the box {} to Ben"}
    return pd.DataFrame([{"task": task, "text": texts[task].format(i)} for task in tasks for i in range(each)])


def test_a_stream_has_every_request_once_in_bursts_of_a_length():
    frame = asked(each=6)
    mixed, bursts = timing.stream(frame, seed=1), timing.stream(frame, burst=4, seed=1)
    for found in (mixed, bursts):
        assert sorted(found["text"]) == sorted(frame["text"])
        assert found.equals(timing.stream(frame, 1 if found is mixed else 4, seed=1))
    assert not mixed["text"].equals(timing.stream(frame, seed=2)["text"])
    changes = (bursts["task"] != bursts["task"].shift()).sum()
    assert changes <= 4 < (mixed["task"] != mixed["task"].shift()).sum(), "bursts of 4 and 2, twice"
    with pytest.raises(ValueError, match="got 0"):
        timing.stream(frame, 0)


class Clock:
    """Time that moves when work is done: a token costs what a model has parameters, cutting out an expert 1000."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def watch(self, monkeypatch, experts):
        prune, route, generate = apply.prune, ExpertModel.route, speed.generate

        def timed(work, seconds):
            def wrapped(*args, **kwargs):
                self.now += seconds
                return work(*args, **kwargs)

            return wrapped

        def run(model, prompt, new_tokens, *args):
            found = generate(model, prompt, new_tokens, *args)
            size = sum(p.numel() for p in model.parameters())
            return speed.Run(float(size * prompt.numel()), float(size * new_tokens), found.tokens, 0, float("nan"))

        monkeypatch.setattr(apply, "prune", timed(prune, 1000.0))
        monkeypatch.setattr(ExpertModel, "route", timed(route, 7.0))
        monkeypatch.setattr(speed, "generate", run)


@pytest.fixture
def timed(tiny_model, tiny_tokenizer, monkeypatch):
    """Systems over one model: (frame of a stream, parameters by system, the systems)."""
    model = tiny_model("gqa")
    experts = ExpertModel(model, tiny_tokenizer, masks_of(model), router_of(model, tiny_tokenizer))
    systems = {
        "dense": Route(experts, "dense"),
        "general": Route(experts.beside(experts.cache.sizes[GENERAL]), GENERAL),
        "true": Route(experts.beside(), "task"),
        "routed, all": Route(experts.beside(), "router"),
        "routed, one": Route(experts.beside(experts.cache.room(1)), "router"),
    }
    Clock(monkeypatch).watch(monkeypatch, experts)

    def run(requests, **options):
        return timing.time_stream(systems, requests, 3, progress=False, **options)

    return run, systems


def test_every_system_is_charged_for_what_it_does(timed):
    run, systems = timed
    requests = asked().iloc[[0, 4, 1, 5, 6, 2]].reset_index(drop=True)  # piqa and winogrande in turn, then two in a row
    frame = run(requests)
    assert len(frame) == 6 * len(systems) and (frame["requests"] == 1).all()
    cost = timing.costs(frame)
    assert (cost["route"] == [0, 0, 0, 7, 7]).all()
    chosen = systems["routed, one"].experts.choose(requests["text"])
    changes = sum(a != b for a, b in zip([chosen[0], *chosen], chosen, strict=False))
    assert frame[frame["system"] == "routed, one"]["switches"].sum() == changes > 0
    assert cost.loc["routed, one", "switch"] == 1000 and cost.loc["routed, one", "switches"] == changes / 6
    assert (cost["switches"].drop("routed, one") == 0).all(), "the rest were made before the first turn"
    model = systems["dense"].experts.dense
    assert cost.loc["dense", "token"] == sum(p.numel() for p in model.parameters())
    assert cost.loc["general", "token"] < cost.loc["dense", "token"]
    start = cost.loc["routed, one"]
    assert start["start"] == start["route"] + start["switches"] * start["switch"] + start["prefill"]


def test_a_batch_is_split_by_expert(timed):
    run, systems = timed
    requests = asked().sample(frac=1, random_state=0).reset_index(drop=True)
    frame = run(requests, batch=5).set_index(["turn", "system"])
    assert frame["requests"].groupby("turn").first().tolist() == [5, 3]
    assert (frame.xs("dense", level="system")["experts"] == 1).all()
    assert (frame.xs("true", level="system")["experts"] == 2).all()
    with pytest.raises(ValueError, match="request"):
        timing.costs(frame.reset_index())
    speeds = timing.throughput(frame.reset_index(), draws=50).set_index("system")
    assert speeds.loc["dense", "ratio"] == 1 and np.isnan(speeds.loc["dense", "low"]), "two turns are no interval"
    assert speeds.loc["dense", "requests"] == 8 and speeds.loc["dense", "turns"] == 2
    with pytest.raises(ValueError, match="nobody"):
        timing.throughput(frame.reset_index(), "nobody")


def made(dense=(0.01, 0.004), routed=(0.01, 0.002), route=0.001, switch=0.018, share=0.5, turns=8) -> pd.DataFrame:
    rows = []
    for turn in range(turns):
        cut = turn < share * turns
        for system, (prefill, token) in {"dense": dense, "routed": routed}.items():
            row = {"turn": turn, "system": system, "requests": 1, "new_tokens": 5, "experts": 1}
            row |= {"prefill_seconds": prefill, "decode_seconds": 5 * token}
            own = system == "routed"
            row |= {
                "route_seconds": route * own,
                "switches": int(cut and own),
                "switch_seconds": switch * (cut and own),
            }
            rows.append(row)
    return pd.DataFrame(rows)


def test_break_even_by_hand():
    found = timing.break_even(made(), "routed", draws=200)
    assert found["tokens"] == pytest.approx(5) and found["low"] < 5 < found["high"]
    certain = timing.break_even(made(share=1.0), "routed", draws=20)
    assert certain["tokens"] == pytest.approx(9.5) == certain["low"] == certain["high"]
    assert timing.break_even(made(routed=(0.01, 0.004)), "routed", draws=5)["tokens"] == math.inf
    assert timing.break_even(made(routed=(0.01, 0.005)), "routed", draws=5)["high"] == math.inf
    assert timing.break_even(made(routed=(0.0, 0.002), share=0.0), "routed", draws=5)["tokens"] == 0
    # sooner at first, later by every token: that it pays from some number of tokens on would be wrong
    assert timing.break_even(made(routed=(0.0, 0.005), share=0.0), "routed", draws=5)["tokens"] == math.inf


def test_throughput_by_hand():
    speeds = timing.throughput(made(), draws=200).set_index("system")
    assert speeds.loc["dense", ["ratio", "low", "high"]].tolist() == [1, 1, 1]
    assert speeds.loc["dense", "tokens_per_second"] == pytest.approx(5 / 0.03)
    assert speeds.loc["routed", "ratio"] == pytest.approx(0.03 / 0.03) and speeds.loc["routed", "switches"] == 0.5
    assert speeds.loc["routed", "low"] < 1 < speeds.loc["routed", "high"]


def test_the_curve_crosses_one_at_the_break_even():
    frame = made()
    lines = timing.curve(frame, [1, 5, 10, 1000]).set_index(["system", "tokens"])
    assert (lines.loc["dense", "ratio"] == 1).all()
    assert lines.loc[("routed", 5), "ratio"] == pytest.approx(1) and lines.loc[("routed", 1), "ratio"] > 1
    assert lines.loc[("routed", 10), "seconds"] == pytest.approx(0.01 + 0.001 + 0.009 + 10 * 0.002)
    assert lines.loc[("routed", 1000), "ratio"] == pytest.approx(0.5, abs=0.01)


def test_a_study_of_streams_from_systems_to_what_they_are_worth(timed):
    experts = timed[1]["dense"].experts
    systems = timing.systems(experts, [0, 1])
    assert list(systems) == [
        "dense",
        GENERAL,
        variants.TRUE,
        "experts, routed, room for all",
        "experts, routed, room for 1",
    ]
    orders = timing.orders(asked(), burst=2, batch=3, batch_rounds=2)
    assert {way: (len(frame), together) for way, (frame, together) in orders.items()} == {
        "mixed": (8, 1), "bursts": (8, 1), "batches": (16, 3)
    }  # fmt: skip
    frames = {
        ("tiny", way): timing.time_stream(systems, frame, 3, together, progress=False)
        for way, (frame, together) in orders.items()
    }
    held = timing.held_bytes(systems)
    dense = speed.parameter_bytes(experts.dense)
    assert held["dense"] == dense < held["experts, routed, room for 1"] < held["experts, routed, room for all"]
    worth = timing.worth(frames, {("tiny", name): size for name, size in held.items()}, draws=50)
    assert worth.groupby("stream").size().tolist() == [5, 5, 5]
    mixed = worth[worth["stream"] == "mixed"].set_index("system")
    assert mixed["method"].tolist()[-2:] == ["experts, routed"] * 2 and np.isnan(mixed.loc["dense", "break_even"])
    assert mixed.loc["experts, routed, room for 1", "switch_ms"] == 1e6 and mixed.loc[GENERAL, "route_ms"] == 0
    assert worth.loc[worth["stream"] == "batches", ["route_ms", "break_even"]].isna().all(axis=None)
    tested = timing.tests({way: frame for (_, way), frame in frames.items()}, [0, 1], draws=50)
    assert [found["n"] for found in tested] == [8, 8, 8, 6, 8] and tested[0]["ratio"] > 1
    assert np.isnan(tested[-1]["p"]) and tested[-1]["null"] == 0.95
    single = timing.tests({way: frame for (_, way), frame in frames.items()}, [1], draws=50)
    assert len(single) == 4, "with one room there is no other"


def test_more_than_the_budget_is_refused(timed):
    route = timed[1]["routed, all"]
    route.experts.expert(GENERAL)
    route.experts.cache._budget = 0
    with pytest.raises(ValueError, match="all"):
        timing.held_bytes({"all": route})


def test_impossible_requests_are_refused(timed):
    run, _ = timed
    with pytest.raises(ValueError, match="systems"):
        timing.time_stream({}, asked())
    with pytest.raises(ValueError, match="batch"):
        run(asked(), batch=0)


def test_prompts_keep_their_end(timed, monkeypatch):
    run, systems = timed
    seen = []
    inner = speed.generate
    monkeypatch.setattr(speed, "generate", lambda m, prompt, *a: seen.append(prompt) or inner(m, prompt, *a))
    requests = asked(each=1)
    run(requests, max_prompt=3)
    tokenizer = systems["dense"].experts.tokenizer
    wanted = torch.tensor([tokenizer(requests["text"][0])["input_ids"][-3:]])
    assert all(prompt.shape == (1, 3) for prompt in seen) and any(torch.equal(prompt, wanted) for prompt in seen)
    assert np.isfinite(timing.costs(run(requests))).all(axis=None)
