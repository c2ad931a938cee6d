"""The work that each notebook gives a model, counted from the notebook's parameters: the basis of an estimate.

A :class:`Pass` is a number of tokens through the decoder under one variant. Passes with equal keys are
the same work, which the store keeps. Token counts come from the sizes of the data sets and the mean
length of their texts in characters, measured on 400 rows of each data set in the wordings of
:mod:`seaplib.texts.formats` and lm-eval. The rows of ARC-Easy were not at hand: its lengths are four
fifths of ARC-Challenge's.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ..settings import PRESETS
from ..texts.tasks import experts
from .parameters import sparsities_of

CHARACTERS = 4.0  # per token; English text under vocabularies of 30,000 to 150,000 types
OUTPUTS = 1 / 3  # largest share of a Llama-like layer's projections that belongs to the output projections
ASKED = 0.2  # share of an item's tokens that belong to an answer, so that the LM head is computed


@dataclass(frozen=True)
class Size:
    """A data set's test items and calibration texts, and their mean lengths."""

    items: int
    item_characters: float  # a beginning that several answers share counts once
    text_characters: float
    texts: int


SIZES = {
    "boolq": Size(3270, 661, 647, 9427),
    "arc_easy": Size(2376, 208, 123, 2251),
    "arc_challenge": Size(1172, 260, 153, 1119),
    "openbookqa": Size(500, 121, 133, 4957),
    "piqa": Size(1838, 226, 137, 16113),
    "hellaswag": Size(10042, 766, 327, 39905),
    "winogrande": Size(1267, 136, 106, 40398),
    "gsm8k": Size(1319, 257, 467, 7473),
    "mmlu": Size(14042, 539, 299, 1816),
    "wikitext2": Size(1, 1294336, 2107, 6000),  # the test is a single text
    "c4": Size(0, 0, 2114, 10**6),
}
UNKNOWN = Size(2000, 300, 300, 2000)  # assumed of a task that SIZES lacks
#: notebooks that hold a single pruned copy at once
ONE_COPY = ("06", "07", "08", "10", "13", "14", "15", "16", "17", "18", "19", "20")


@dataclass(frozen=True)
class Pass:
    """Tokens through a decoder."""

    key: tuple
    tokens: float = 0.0
    length: float = 100.0  # mean number of tokens of a text, which attention sees
    kept: float = 1.0  # share of the projections that the variant has left
    head: float = 0.0  # share of the tokens at which the LM head is computed
    steps: int = 0  # decoding steps, of one token each


def size(task: str) -> Size:
    return SIZES.get(task, UNKNOWN)


def items(task: str, wanted: int | None) -> int:
    """The number of a task's test items that are answered."""
    return size(task).items if wanted is None else min(wanted, size(task).items)


def passes(notebook: str, parameters: dict) -> list[Pass] | None:
    """A notebook's passes through its model; None for a notebook without a rule in this module."""
    rule = _RULES.get(notebook)
    return None if rule is None else rule(parameters)


def loads_model(notebook: str) -> bool:
    """Whether a notebook needs more of a model than its tokenizer."""
    return notebook not in ("00_task_corpora", "99_scorecard")


def copies(notebook: str, parameters: dict) -> float:
    """Projections of pruned copies held at once, as a share of the dense model's projections."""
    G = sparsities_of(parameters) or [0.5]
    if notebook[:2] in ONE_COPY:
        refitted = OUTPUTS if parameters.get("least_squares") else 0.0
        least = 0.0 if "remove_ratio" in parameters else min(G)  # a remove test leaves nearly everything
        return refitted if parameters.get("mode") == "mask" else 1 - least
    if notebook[:2] == "04":  # with zeros, then pruned, then loaded again: one at a time
        return 1.0
    if notebook[:2] == "09":  # all models take turns: Wanda, FLAP twice and SEAP-gen at every sparsity
        return sum(1 + 3 * (1 - sparsity) for sparsity in G)
    if notebook[:2] == "12":  # systems with experts of their own: general mask, true task's expert, router's expert
        rooms = [room or len(experts(parameters["tasks"])) + 1 for room in parameters["rooms"]]
        return (1 + rooms[0] + sum(rooms)) * (1 - max(G))
    return 0.0


def _calibrate(corpora: Iterable[str], samples: int, seed: int, kind: str = "statistics") -> list[Pass]:
    each = []
    for name in corpora:
        length = size(name).text_characters / CHARACTERS
        texts = min(samples, size(name).texts)
        each.append(Pass((kind, name, samples, seed), texts * length, length))
    return each


def _evaluate(tasks: Iterable[str], wanted: int | None, variant, kept: float = 1.0) -> list[Pass]:
    each = []
    for task in tasks:
        n, length = items(task, wanted), size(task).item_characters / CHARACTERS
        each.append(Pass(("items", task, n, variant), n * length, length, kept, ASKED))
    return each


def _read(general: str, preset: str, window_tokens: int | None, variant, kept: float = 1.0) -> Pass:
    shape, whole = PRESETS[preset], size(general).item_characters / CHARACTERS or 300_000
    tokens = shape.random * shape.window if shape.random else whole
    tokens = min(tokens, window_tokens or tokens)
    head = (shape.scored or shape.window) / shape.window
    return Pass(("perplexity", general, preset, variant), tokens, shape.window, kept, head)


def _corpora(p: dict) -> list[str]:
    return list(dict.fromkeys([*experts(p["tasks"]), p["general"]]))


def _calibrate_all(p: dict, seed: int) -> list[Pass]:
    """The statistics of experts and general text, and the running statistics of the general text for FLAP."""
    found = _calibrate(_corpora(p), p["samples"], seed)
    return found + _calibrate([p["general"]], p["samples"], seed, "running statistics")


def _kept(p: dict, sparsity: float) -> float:
    return 1.0 if p.get("mode") == "mask" else 1 - sparsity


def _hidden_states(p: dict) -> list[Pass]:
    return _calibrate(experts(p["tasks"]), p["samples"], p["seed"], "hidden states")


def _norms(p: dict) -> list[Pass]:
    return _calibrate(experts(p["tasks"]), p["samples"], p["seed"], "norms")


def _remove_tests(p: dict) -> list[Pass]:
    pair, found = [p["first_task"], p["second_task"]], []
    found += _calibrate(experts(pair), p["samples"], p["seed"])
    found += _evaluate(pair, p["items"], "dense")
    for layer in range(p["layers"]):
        for ratio in p["ratios"]:
            found += _evaluate(pair, p["items"], ("layer", layer, ratio, p["samples"]), 1 - ratio / p["layers"])
    return found


def _pruning(p: dict) -> list[Pass]:
    return [work for seed in (p["seed"], p["seed"] + 1) for work in _calibrate(_corpora(p), p["samples"], seed)]


def _scored(p: dict, recipes_of) -> list[Pass]:
    """Calibration and evaluation of methods: ``recipes_of(seed)`` gives (methods, sparsities) pairs."""
    found = _evaluate(p["tasks"], p["items"], "dense")
    for seed in p["seeds"]:
        found += _calibrate_all(p, seed)
        if p.get("least_squares"):
            found += _calibrate(_corpora(p), p["samples"], seed, "covariances")
        for methods, wanted in recipes_of(seed):
            for method in methods:
                for G in wanted:
                    variant = (method, G, seed, p["samples"])
                    found += _evaluate(p["tasks"], p["items"], variant, _kept(p, G))
    return list({work.key: work for work in found}.values())  # a recipe may stand in two tables


def _zero_shot(p: dict) -> list[Pass]:
    from ..pruning import methods

    main = methods.PAPER + methods.CONTROLS
    varied = methods.COMPENSATED + methods.UNPROTECTED + methods.FLOOR if p["variations"] else ()
    return _scored(p, lambda seed: [(main + (varied if seed == p["seeds"][0] else ()), p["sparsities"])])


def _other_methods(p: dict) -> list[Pass]:
    """The rows of Table 1 that stand beside, and every other method; a prompt's own channels (GRIFFIN) as a variant."""
    from ..pruning import methods

    beside = (methods.RANDOM, methods.WANDA_SP, methods.FLAP, methods.SEAP_F, methods.SEAP_W)
    found = _scored(p, lambda seed: [((*beside, *p["other_methods"], *p["other_general"]), p["sparsities"])])
    for seed in p["seeds"]:
        found += _calibrate([p["general"]], p["samples"], seed, "block influence")
    return found


def _beyond(p: dict) -> list[Pass]:
    from ..pruning import methods

    return _scored(p, lambda seed: [(_without_least_squares(methods.BEYOND, p), p["sparsities"])])


def _without_least_squares(methods: tuple, p: dict) -> tuple:
    return tuple(method for method in methods if p["least_squares"] or method.compensation != "least squares")


def _settings(p: dict) -> list[Pass]:
    from ..pruning import methods

    recipes = methods.FULL_GRID if p["full_grid"] else methods.TABLE_3
    plain = [method for method in recipes if not method.protect_last]
    recipes += _without_least_squares(methods.BESIDE_3, p)
    further = sorted(set(p["unprotected_sparsities"]) - set(p["sparsities"]))
    return _scored(p, lambda seed: [(recipes, p["sparsities"]), (plain, further)])


def _perplexity(p: dict) -> list[Pass]:
    from ..pruning import methods

    found = _calibrate_all(p, p["seed"])
    read = p.get("text_task") or p["general"]
    for preset in p["presets"]:
        found.append(_read(read, preset, p["window_tokens"], "dense"))
        for method in methods.PAPER + methods.CONTROLS:
            for G in p["sparsities"]:
                for task in experts(p["tasks"]) if method.calibration == "task" else [None]:
                    variant = (method, G, p["seed"], task)
                    found.append(_read(read, preset, p["window_tokens"], variant, _kept(p, G)))
    return found


def _speed(p: dict) -> list[Pass]:
    found = _calibrate_all(p, p["seed"])
    turns = p["rounds"] + p["warmup"]
    for kept in [1.0, *(share for G in p["sparsities"] for share in (1.0, 1 - G, 1 - G, 1 - G))]:
        key = ("speed", len(found), kept)
        found.append(Pass(key, turns * p["prompt_tokens"], p["prompt_tokens"], kept, steps=turns * p["new_tokens"]))
    return found


def _generation(p: dict) -> list[Pass]:
    found = _calibrate(_corpora(p), p["samples"], p["seed"])
    prompts = len(p["prompts"]) if p["prompts"] else p["prompt_count"]
    for place, kept in enumerate([1.0, *(_kept(p, G) for G in p["sparsities"] for _ in range(2))]):
        found.append(Pass(("text", place), 2 * prompts * p["new_tokens"], 50, kept, 1.0, prompts * p["new_tokens"]))
    return found


def _routing(p: dict) -> list[Pass]:
    tasks, systems = [*p["tasks"], *p["unseen_tasks"]], 2 + len(p["rooms"])
    found = _evaluate(tasks, p["items"], "dense")
    for seed in p["seeds"]:
        found += _calibrate(_corpora(p), p["samples"], seed)
        for G in p["sparsities"]:
            for way in ("general", "task", "router", "forced", "random"):
                found += _evaluate(tasks, p["items"], (way, G, seed, p["samples"]), 1 - G)
    asked = len(p["tasks"]) * p["stream_requests"]
    for order in ("mixed", "bursts", "batches"):
        for kept, times in ((1.0, 1), (1 - max(p["sparsities"]), systems)):
            turns = times * asked
            found.append(Pass(("stream", order, kept), turns * 50, 50, kept, steps=turns * p["new_tokens"]))
    return found


def _sparse_inputs(p: dict) -> list[Pass]:
    """Every rule is calibrated, answers the items and reads the general text."""
    patterns = [*p["patterns"], *p["ratios"]]
    rules = [(of, pattern) for pattern in patterns for of in ("activations", "weights")]
    rules += [(kind, choice) for kind in ("repairs", "criteria", "neighbours") for choice in p[kind]]
    rules += [
        (of, where, pattern) for where in p["targets"] for pattern in p["target_patterns"] for of in ("act", "wt")
    ]
    found = []
    for rule in ["dense", *rules]:
        if rule != "dense":
            found += _calibrate([p["general"]], p["samples"], p["seed"], ("inputs", rule))
        found += _evaluate(p["tasks"], p["items"], rule)
        found += [_read(p["general"], preset, p["window_tokens"], rule) for preset in p["presets"]]
    return found


def _beginnings(corpora: Iterable[str], tokens: int, pieces: Iterable[float], seeds: Iterable[int]) -> list[Pass]:
    """Calibration by tokens: the pieces of a draw up to these multiples of ``tokens``, each stored by itself."""
    found, ends = [], [0.0, *pieces]
    for name in corpora:
        length = size(name).text_characters / CHARACTERS
        for seed in seeds:
            for start, end in zip(ends, ends[1:], strict=False):
                key = ("statistics", name, "tokens", start * tokens, end * tokens, seed)
                found.append(Pass(key, (end - start) * tokens, length))
    return found


def _evaluated(p: dict, cells: Iterable[tuple], wanted: str = "items") -> list[Pass]:
    """The tasks under the masks of every cell (…, sparsity) of a study, for every calibration seed."""
    each = [(*cell, seed) for cell in cells for seed in p["seeds"]]
    return [work for cell in each for work in _evaluate(p["tasks"], p[wanted], cell, _kept(p, cell[-2]))]


def _expert_transfer(p: dict) -> list[Pass]:
    """Every corpus' expert, the general text's mask and the general mask on all tasks; each task left out once."""
    corpora, count = _corpora(p), len(experts(p["tasks"])) + 1
    found = _evaluate(p["tasks"], p["items"], "dense") + _beginnings(corpora, p["tokens"], (1 / count, 1), p["seeds"])
    rows = [*corpora, "all corpora", "all but the task's"]
    return found + _evaluated(p, [("calibrated on", row, p["sparsity"]) for row in rows])


def _expert_or_general(p: dict) -> list[Pass]:
    """Ten cells of amount and mixture; the general text needs no more than its own share."""
    corpora = list(experts(p["tasks"]))
    count = len(corpora) + 1
    found = _beginnings(corpora, p["tokens"], (1 / count, 1, count), p["seeds"])
    found += _beginnings([p["general"]], p["tokens"], (1 / count, 1), p["seeds"])
    return found + _evaluated(p, [("cell", cell, G) for cell in range(10) for G in p["sparsities"]])


def _synthetic_text(p: dict) -> list[Pass]:
    """Writing continuations, calibration on the base and three additions, and four kinds of experts."""
    found = []
    for name in experts(p["tasks"]):
        length = size(name).text_characters / CHARACTERS
        for seed in p["seeds"]:
            tokens = p["base_texts"] * length * (1 + 3 * (p["times"] - 1))
            found.append(Pass(("statistics", name, "enlarged", p["base_texts"], p["times"], seed), tokens, length))
            written = round(p["base_texts"] * p["times"] * p["new_tokens"])
            found.append(Pass(("synthetic", name, written, seed), written, length, steps=p["new_tokens"]))
    return found + _evaluated(p, [("text", kind, G) for kind in range(4) for G in p["sparsities"]])


def _calibration_size(p: dict) -> list[Pass]:
    """One pass over a pool of texts, and an expert per size."""
    found = _evaluate(p["tasks"], p["items"], "dense")
    for name in experts(p["tasks"]):
        length, texts = size(name).text_characters / CHARACTERS, min(p["pool"], size(name).texts)
        found.append(Pass(("statistics", name, "parts", p["part_texts"], texts), texts * length, length))
    return found + _evaluated(p, [("texts", n, p["sparsity"]) for n in p["sizes"]])


def _logistic_curve(p: dict) -> list[Pass]:
    """Experts of the first seed under every curve, and remove tests of every layer for every seed."""
    corpora = experts(p["tasks"])
    found = _evaluate(p["tasks"], p["items"], "dense")
    found += _beginnings(corpora, p["tokens"], (1 / (len(corpora) + 1), 1), p["seeds"])
    curves = {(0.3, 1.0)} | {(x0, k) for x0 in p["x0_grid"] for k in p["k_grid"]}
    first = p | {"seeds": p["seeds"][:1]}
    found += _evaluated(first, [("curve", curve, G) for curve in curves for G in p["sparsities"]], "grid_items")
    share = p["remove_ratio"] / p["layers"]
    return found + _evaluated(p, [("layer", layer, p["remove_ratio"], share) for layer in range(p["layers"])])


def _other_models(p: dict) -> list[Pass]:
    """Experts, general mask, general text and random units on the notebook's first model."""
    found = _evaluate(p["tasks"], p["items"], "dense")
    for seed in p["seeds"]:
        found += _calibrate(_corpora(p), p["samples"], seed)
    return found + _evaluated(p, [("protocol", method, p["sparsity"]) for method in range(4)])


#: notebook → the function that counts its passes
_RULES = {
    "00_task_corpora": lambda p: [],
    "01_hidden_state_clustering": _hidden_states,
    "02_norm_heatmaps": _norms,
    "03_layer_remove_tests": _remove_tests,
    "04_pruning": _pruning,
    "05_task_classifier": lambda p: [],  # embeddings are looked up, nothing is computed
    "06_zero_shot": _zero_shot,
    "07_sparsity_settings": _settings,
    "08_perplexity": _perplexity,
    "09_inference_speed": _speed,
    "10_generation": _generation,
    "11_activation_sparsity": _sparse_inputs,
    "12_routing_experts": _routing,
    "13_expert_transfer": _expert_transfer,
    "14_expert_or_general": _expert_or_general,
    "15_synthetic_text": _synthetic_text,
    "16_calibration_size": _calibration_size,
    "17_logistic_curve": _logistic_curve,
    "18_other_methods": _other_methods,
    "19_beyond_the_paper": _beyond,
    "20_other_models": _other_models,
    "99_scorecard": lambda p: [],
}
