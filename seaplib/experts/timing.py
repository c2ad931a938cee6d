"""Seconds that each system takes for a stream of requests of several tasks, and the length at which routing pays.

    seconds(n) = route + P(switch) · switch + prefill + n · token
    n* = (overhead of routed experts over the dense model at n = 0) / (token_dense − token_expert)

Every request is answered by all systems in turn, and each turn starts with another system. A machine that is slow
for a while thus slows all systems, and ratios compare times of the same request. From n* generated tokens on, a
request is answered sooner than by the dense model; n* is infinite where an expert's token is no faster.
"""

import time
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from ..evaluation import bootstrap, comparison, speed
from ..models import layers
from .cache import WHOLE
from .model import ExpertModel
from .router import GENERAL
from .variants import ROUTED, TRUE, Route

NO_TIME = {"tokens": np.nan, "low": np.nan, "high": np.nan}
FEWEST = 5  # turns from which there is an interval over them
#: stream, place of the room among the rooms, reference, null value of the ratio, claim
CLAIMS = [
    ("mixed", 0, WHOLE, 1.0, "With the most room, routed experts answer a mixed stream faster than the dense model"),
    ("mixed", -1, WHOLE, 1.0, "With the least room, routed experts answer a mixed stream faster than the dense model"),
    ("bursts", -1, WHOLE, 1.0, "With the least room, routed experts answer bursts faster than the dense model"),
    ("batches", 0, WHOLE, 1.0, "With the most room, routed experts answer mixed batches faster than the dense model"),
    ("mixed", 0, GENERAL, 0.95, "With the most room, routed experts reach 95% of the general mask's throughput"),
]
PARTS = ("route", "switch", "prefill", "decode")


def stream(requests: pd.DataFrame, burst: int = 1, seed: int = 0) -> pd.DataFrame:
    """``requests`` (columns task, text) in an order drawn by ``seed``, in bursts of ``burst`` requests of a task.

    With ``burst`` 1 the order is random; the last burst of a task may be shorter.
    """
    if burst < 1:
        raise ValueError(f"a burst has at least one request, got {burst}")
    draw = np.random.default_rng(seed)
    runs = []
    for _, part in requests.groupby("task", sort=False):
        places = draw.permutation(part.index.to_numpy())
        runs += [places[start : start + burst] for start in range(0, len(places), burst)]
    order = np.concatenate([runs[place] for place in draw.permutation(len(runs))])
    return requests.loc[order].reset_index(drop=True)


def room(experts: int) -> str:
    """How much room there is for experts in memory, in words; 0: for all."""
    return f"room for {experts or 'all'}"


def systems(experts: ExpertModel, rooms: Sequence[int]) -> dict[str, Route]:
    """Who is timed: the dense model, the general mask, the true task's expert, and routed experts with each room."""
    found = {WHOLE: Route(experts, WHOLE)}
    found[GENERAL] = Route(experts.beside(experts.cache.sizes[GENERAL]), GENERAL)
    found[TRUE] = Route(experts.beside(experts.cache.room(rooms[0])), "task")
    return found | {f"{ROUTED}, {room(n)}": Route(experts.beside(experts.cache.room(n)), "router") for n in rooms}


def orders(
    requests: pd.DataFrame, burst: int, batch: int, batch_rounds: int, seed: int = 0
) -> dict[str, tuple[pd.DataFrame, int]]:
    """The streams of a study, and how many requests of each are answered together.

    "mixed" is in random order, "bursts" in bursts of a task, "batches" are mixed and answered ``batch`` at a time,
    ``batch_rounds`` times in other orders.
    """
    shuffled = [stream(requests, 1, seed + 1 + turn) for turn in range(batch_rounds)]
    single = {"mixed": (stream(requests, 1, seed), 1), "bursts": (stream(requests, burst, seed), 1)}
    return single | {"batches": (pd.concat(shuffled, ignore_index=True), batch)}


def held_bytes(chosen: Mapping[str, Route]) -> dict[str, int]:
    """Bytes of weights that each system holds: the dense model's, and its experts' own. ValueError beyond a budget."""
    for name, route in chosen.items():
        if route.experts.cache.held_bytes > route.experts.cache.budget_bytes:
            raise ValueError(f"{name} holds more than its budget of {route.experts.cache.budget_bytes:,} bytes")
    return {
        name: speed.parameter_bytes(route.experts.dense) + route.experts.cache.held_bytes
        for name, route in chosen.items()
    }


def time_stream(
    systems: Mapping[str, Route],
    requests: pd.DataFrame,
    new_tokens: int = 16,
    batch: int = 1,
    max_prompt: int = 256,
    progress: bool = True,
) -> pd.DataFrame:
    """Seconds that every system takes for every ``batch`` of a stream, greedy, ``new_tokens`` each.

    A row per turn and system: requests (how many), experts (that answered), switches (experts cut out
    anew), and seconds of each of :data:`PARTS`. Routing looks up and classifies the prompts'
    embeddings; it takes no time where no router decides. Prompts keep their last ``max_prompt`` tokens. Before the
    first turn every system has answered a batch and cut out the experts that it has room for.
    """
    if not systems:
        raise ValueError("no systems to time")
    if min(new_tokens, batch, max_prompt) < 1:
        raise ValueError("new_tokens, batch and max_prompt must be at least 1")
    names, rows = list(systems), []
    tokenizer = systems[names[0]].experts.tokenizer
    encoded = [ids[-max_prompt:] for ids in tokenizer(requests["text"].tolist())["input_ids"]]
    turns = [range(start, min(start + batch, len(encoded))) for start in range(0, len(encoded), batch)]
    for route in systems.values():
        fixed = route.way if route.way in route.experts.masks else None
        for name in [fixed] if fixed else route.experts.masks if route.way != "dense" else ():
            route.experts.expert(name)
        _answer(route, requests, encoded, turns[0], new_tokens)
    for turn, places in enumerate(tqdm(turns, desc="stream", unit="turn", leave=False, disable=not progress)):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            found = _answer(systems[name], requests, encoded, places, new_tokens)
            rows.append({"turn": turn, "system": name, "requests": len(places), "new_tokens": new_tokens} | found)
    first = systems[names[0]].experts.dense
    return pd.DataFrame(rows).assign(**speed.conditions(first))


def _answer(route: Route, requests: pd.DataFrame, encoded: Sequence[list[int]], places: range, new_tokens: int) -> dict:
    """A batch answered by a system: the prompts of an expert together, padded on the left."""
    experts, device = route.experts, layers.input_device(route.experts)
    cut, spent = sum(experts.cache.built.values()), dict.fromkeys(PARTS, 0.0)
    if route.way in ("router", "forced"):
        start = time.perf_counter()
        chosen = experts.route([encoded[place] for place in places], always=route.way == "forced")
        spent["route"] = time.perf_counter() - start
    else:
        asked = requests.iloc[list(places)]
        chosen = [route.choose(row.task, [row.text])[0] for row in asked.itertuples()]
    groups = experts.cache.grouped(chosen)
    for name, mine in groups.items():
        ids = [encoded[places[place]] for place in mine]
        longest = max(map(len, ids))
        prompt = torch.tensor([[0] * (longest - len(row)) + row for row in ids], device=device)
        start = time.perf_counter()
        model = experts.expert(name)
        spent["switch"] += time.perf_counter() - start
        run = speed.generate(model, prompt, new_tokens)
        spent["prefill"] += run.prefill_seconds
        spent["decode"] += run.decode_seconds
    switches = sum(experts.cache.built.values()) - cut
    return {"experts": len(groups), "switches": switches} | {f"{part}_seconds": spent[part] for part in PARTS}


def costs(timed: pd.DataFrame) -> pd.DataFrame:
    """Seconds of a request by system: routing, a switch (and switches per request), prefill, a token.

    Medians over turns of :func:`time_stream` with a request each. ``start`` is all that comes before
    the first decoding step.
    """
    if (timed["requests"] != 1).any():
        raise ValueError("costs of a request come from a stream with a single request a turn")
    rows = []
    for system, part in timed.groupby("system", sort=False):
        cut = part[part["switches"] > 0]
        row = {"system": system, "route": part["route_seconds"].median()}
        row |= {"switch": (cut["switch_seconds"] / cut["switches"]).median() if len(cut) else 0.0}
        row |= {"switches": part["switches"].mean(), "prefill": part["prefill_seconds"].median()}
        row["token"] = (part["decode_seconds"] / part["new_tokens"]).median()
        row["start"] = row["route"] + row["switches"] * row["switch"] + row["prefill"]
        rows.append(row)
    return pd.DataFrame(rows).set_index("system")


def curve(timed: pd.DataFrame, tokens: Sequence[int]) -> pd.DataFrame:
    """Seconds of a request with so many generated ``tokens`` by every system, and their ratio to the dense model's."""
    each, rows = costs(timed), []
    for system, cost in each.iterrows():
        for n in tokens:
            seconds, theirs = (row["start"] + n * row["token"] for row in (cost, each.loc["dense"]))
            rows.append({"system": system, "tokens": int(n), "seconds": seconds, "ratio": seconds / theirs})
    return pd.DataFrame(rows)


def break_even(timed: pd.DataFrame, system: str, draws: int = bootstrap.FEW_DRAWS, seed: int = 0) -> dict:
    """n*, the generated tokens from which ``system`` answers a request sooner than the dense model.

    Keys: tokens, low, high (95%, over turns).

    0 where the system is sooner from the first token on; infinite where it never is.
    """
    costs(timed)  # raises where turns have several requests
    turns = timed["turn"].nunique()
    chosen = np.concatenate([np.arange(turns)[None], bootstrap.places(turns, draws, seed)])  # first as they were
    start, token = zip(*(_drawn(timed, name, chosen) for name in (system, "dense")), strict=True)
    overhead, saved = start[0] - start[1], token[1] - token[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        tokens = np.where(
            saved > 0, np.maximum(overhead, 0) / saved, np.where((overhead <= 0) & (saved == 0), 0, np.inf)
        )
    low, high = bootstrap.interval(tokens[1:], "closest_observation")
    return {"tokens": float(tokens[0]), "low": float(low), "high": float(high)}


def _drawn(timed: pd.DataFrame, system: str, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``start`` and ``token`` of :func:`costs` for a system and every row of turns ``chosen`` [draws, turns]."""
    part = timed[timed["system"] == system].sort_values("turn")
    route, prefill = (np.median(part[f"{name}_seconds"].to_numpy()[chosen], axis=1) for name in ("route", "prefill"))
    token = np.median((part["decode_seconds"] / part["new_tokens"]).to_numpy()[chosen], axis=1)
    cut = part["switches"].to_numpy()[chosen]
    each = np.where(cut > 0, part["switch_seconds"].to_numpy()[chosen] / np.maximum(cut, 1), np.nan)
    some = (cut > 0).any(axis=1)
    switch = np.zeros(len(chosen))
    switch[some] = np.nanmedian(each[some], axis=1) if some.any() else 0
    return route + cut.mean(axis=1) * switch + prefill, token


def made_of(timed: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """:func:`costs` of the streams with a request a turn, in milliseconds; a row per subject, stream and system.

    ``timed`` maps subject and stream to :func:`time_stream`'s frames. ``switch_steps`` is a switch in decoding steps of
    the dense model.
    """
    parts = []
    for (subject, way), frame in timed.items():
        if (frame["requests"] == 1).all():
            cost = costs(frame)
            found = (1000 * cost[["route", "switch", "prefill", "token"]]).add_suffix("_ms")
            found["switches"], found["switch_steps"] = cost["switches"], cost["switch"] / cost.loc[WHOLE, "token"]
            parts.append(found.assign(subject=subject, stream=way).reset_index())
    return pd.concat(parts).set_index(["subject", "stream", "system"])


def worth(
    timed: Mapping[tuple[str, str], pd.DataFrame],
    held: Mapping[tuple[str, str], int],
    draws: int = bootstrap.DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """What every system takes in every stream, a row each: ``throughput``'s columns, method, bytes, break-even.

    ``timed`` maps subject and stream to frames of :func:`time_stream`, ``held`` subject and system to
    :func:`held_bytes`. Streams with a request a turn have :func:`made_of`'s columns too, and ``break_even``,
    ``break_even_low``, ``break_even_high`` against the dense model.
    """
    each, rows = made_of(timed), []
    for (subject, way), frame in timed.items():
        for row in throughput(frame, draws=draws, seed=seed).to_dict("records"):
            system, even = row["system"], NO_TIME
            row |= {"subject": subject, "stream": way, "method": system.partition(", room")[0]}
            row["bytes"] = held[subject, system]
            if (frame["requests"] == 1).all():
                row |= each.loc[(subject, way, system)].drop("switches").to_dict()
                even = even if system == WHOLE else break_even(frame, system, min(draws, 500), seed)
            row |= {f"break_even_{name}".removesuffix("_tokens"): value for name, value in even.items()}
            rows.append(row)
    return pd.DataFrame(rows)


def tests(
    timed: Mapping[str, pd.DataFrame], rooms: Sequence[int], draws: int = bootstrap.DRAWS, seed: int = 0
) -> list[dict]:
    """:data:`CLAIMS` tested on the streams (name → frame of :func:`time_stream`) of one model.

    Keys: claim, null, ratio, low, high (as in ``throughput``), n (turns), p and p_floor (Wilcoxon's, against ratio 1;
    NaN for another null value).
    """
    rows, single = [], rooms[0] == rooms[-1]
    for way, place, reference, null, claim in CLAIMS:
        if single and (way, place) == ("mixed", -1):
            continue
        frame, system = timed[way], f"{ROUTED}, {room(rooms[place])}"
        whole = throughput(frame, reference, draws, seed).set_index("system").loc[system]
        turns = _seconds(frame)
        found = comparison.rounds(turns[reference], turns[system], seed) | {"claim": claim, "null": null}
        found |= {"p": found["p"] if null == 1 else np.nan}
        rows.append(found | whole[["ratio", "low", "high"]].to_dict())
    return rows


def _seconds(timed: pd.DataFrame) -> pd.DataFrame:
    """All seconds of every turn (rows) and system (columns)."""
    whole = timed.assign(all=timed[[f"{part}_seconds" for part in PARTS]].sum(axis=1))
    return whole.pivot(index="turn", columns="system", values="all")


def throughput(
    timed: pd.DataFrame, reference: str = "dense", draws: int = bootstrap.DRAWS, seed: int = 0
) -> pd.DataFrame:
    """Generated tokens per second of every system over the whole stream, and its ratio to the reference's.

    ``low``-``high`` is the ratio's 95% bootstrap interval over turns (NaN below :data:`FEWEST` of them),
    ``switches`` per request.
    """
    seconds = timed.assign(all=timed[[f"{part}_seconds" for part in PARTS]].sum(axis=1))
    table = _seconds(timed)
    if reference not in table:
        raise ValueError(f"the reference is one of {', '.join(table)}, got {reference!r}")
    chosen = bootstrap.places(len(table), draws, seed)
    drawn = {name: table[name].to_numpy()[chosen].sum(axis=1) for name in table}
    rows = []
    for name, part in seconds.groupby("system", sort=False):
        written = (part["requests"] * part["new_tokens"]).sum()
        enough = len(table) >= FEWEST
        low, high = bootstrap.interval(drawn[reference] / drawn[name]) if enough else (np.nan, np.nan)
        row = {"system": name, "tokens_per_second": written / part["all"].sum(), "ratio": 0.0, "low": low, "high": high}
        row["ratio"] = table[reference].sum() / table[name].sum()
        row |= {"switches": part["switches"].sum() / part["requests"].sum(), "experts": part["experts"].mean()}
        rows.append(row | {"requests": int(part["requests"].sum()), "turns": len(part)})
    return pd.DataFrame(rows)
