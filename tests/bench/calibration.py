"""Calibration: 25 texts of each of eight tasks, against the plain way; hooks' cost; precision; memory."""

import sys
from contextlib import nullcontext

import pandas as pd
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from seaplib import activations
from seaplib.activations import capture
from seaplib.models import layers, passes
from seaplib.pruning import allocation, scores, selection
from seaplib.settings import Calibration
from seaplib.texts import corpora

from . import common, plain

ROUNDS = {"30M": 3, "160M": 2}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TARGETS = {"fp32": ">= 4.5", "bf16": ">= 12"}
#: the model of the memory rows, texts of a task there, and how many times as many must not need more
MEMORY_SIZE, MORE_TEXTS = "30M", 8


def tokenizer() -> PreTrainedTokenizerFast:
    """One word, one token: texts of given lengths are written as words."""
    words = {"<pad>": 0, "<s>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, common.VOCABULARY)}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", pad_token="<pad>")


def texts(repeat: int = 1) -> list[corpora.Corpus]:
    """Eight corpora of random words, as long as real calibration texts are (lengths.csv)."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for task, group in pd.read_csv(common.LENGTHS).groupby("task", sort=False):
        written = []
        for length in list(group["tokens"]) * repeat:
            ids = torch.randint(3, common.VOCABULARY, (length - 1,), generator=generator).tolist()
            written.append(" ".join(["<s>", *(f"w{i}" for i in ids)]))
        found.append(corpora.Corpus(task, tuple(written), tuple(map(str, range(len(written)))), {}))
    return found


def whole(ids: list[list[int]]) -> passes.Encoded:
    """Token ids as they are: nothing skipped, nothing cut."""
    return passes.Encoded(ids, list(range(len(ids))), 0, True, False)


@torch.inference_mode()
def run_batches(model, encoded: list[list[list[int]]], hooks: bool) -> None:
    """The batched passes of every task alone, with or without hooks."""
    device = layers.input_device(model)
    for task in encoded:
        with capture.capture(model) if hooks else nullcontext():
            for batch in passes.batches(whole(task), device, Calibration.batch_tokens):
                batch.run(model)


def collect(model, words, tasks) -> dict[str, activations.ActivationStats]:
    """As ``activations.calibrate`` does it, without the store."""
    weights = activations.Weights(model)
    return {one.task: activations.collect(model, words, one, progress=False, weights=weights) for one in tasks}


def padding(encoded: list[list[list[int]]], device="cpu") -> float:
    """Share of the batches' tokens that is padding."""
    cut = (batch for task in encoded for batch in passes.batches(whole(task), device, Calibration.batch_tokens))
    padded = [batch.ids.numel() for batch in cut]
    return 1 - sum(len(ids) for task in encoded for ids in task) / sum(padded)


def rows(size: str, device: str = "cpu", targets: dict[str, str] = TARGETS) -> list[dict]:
    """Rows of one model in both precisions."""
    words, tasks = tokenizer(), texts()
    encoded = [words(list(one.texts))["input_ids"] for one in tasks]
    flat = [ids for task in encoded for ids in task]
    found, statistics = [], {}
    for name, dtype in DTYPES.items():
        model = common.llama(size, dtype).to(device)
        case = f"{size}, {name}, {device}"
        calls = {
            "plain": lambda model=model: plain.calibrate(model, flat),
            "collect": lambda model=model: collect(model, words, tasks),
            "hooked": lambda model=model: run_batches(model, encoded, hooks=True),
            "bare": lambda model=model: run_batches(model, encoded, hooks=False),
        }
        for warm in ("collect", "bare"):
            calls[warm]()
        seconds = common.in_turn(calls, ROUNDS[size], warm_up=False)
        found += [
            common.row(case, "plain / calibration", seconds["plain"] / seconds["collect"], target=targets[name]),
            common.row(case, "plain / batched pass alone", seconds["plain"] / seconds["bare"]),
            common.row(case, "with hooks / without", seconds["hooked"] / seconds["bare"], target="<= 1.15"),
            common.row(case, "calibration", seconds["collect"], "s"),
        ]
        statistics[name] = collect(model, words, tasks)
    return found + precision(size, statistics["fp32"], statistics["bf16"])


def precision(size: str, exact: dict, half: dict) -> list[dict]:
    """How far half precision moves statistics per unit, and the masks that follow from them."""
    within, differences, same, units = [], [], 0, 0
    for task in exact:
        for module in capture.UNITS:
            a, b = exact[task].second_moment[module], half[task].second_moment[module]
            differences.append(((b - a).abs() / a).flatten())
        chosen = [selection.select(scores.score(s[task], "s_F"), allocation.logistic(0.5)) for s in (exact, half)]
        for module in ("heads", "channels"):
            a, b = (getattr(mask, module) for mask in chosen)
            same, units = same + int((a == b).sum()), units + a.numel()
    differences = torch.cat(differences)
    within = float((differences <= 0.01).double().mean())
    return [
        common.row(f"{size}, bf16 against fp32", "units whose mean square is within 1%", 100 * within, "%", ">= 100"),
        common.row(f"{size}, bf16 against fp32", "mean squares, median difference", 100 * differences.median(), "%"),
        common.row(f"{size}, bf16 against fp32", "same decision (s_F, 50%)", 100 * same / units, "%", ">= 98"),
    ]


def memory() -> list[dict]:
    """Peaks beyond what the process took before the model was made: the pass alone, and calibration."""
    peaks = {what: common.peak_of("tests.bench.calibration", what) for what in ("pass", "collect", "more")}
    case = f"{MEMORY_SIZE}, fp32, cpu"
    growth = peaks["more"] / peaks["collect"]
    return [
        common.row(case, "peak memory / model and the largest batch", peaks["collect"] / peaks["pass"], "×", "<= 1.1"),
        common.row(case, f"peak memory with {MORE_TEXTS}× the texts / with the texts", growth, "×", "<= 1.1"),
    ]


def measure(what: str) -> None:
    """In a process of its own: run, and print the peak."""
    words, tasks = tokenizer(), texts(MORE_TEXTS if what == "more" else 1)
    encoded = [words(list(one.texts))["input_ids"] for one in tasks]
    before = common.resident_bytes()
    model = common.llama(MEMORY_SIZE)
    common.forget_peak()
    if what == "pass":
        every = [b for task in encoded for b in passes.batches(whole(task), "cpu", Calibration.batch_tokens)]
        max(every, key=lambda batch: batch.ids.numel()).run(model)
    else:
        collect(model, words, tasks)
    print(common.peak_bytes() - before)


def run() -> list[dict]:
    encoded = [tokenizer()(list(one.texts))["input_ids"] for one in texts()]
    spread = [[[7] * int(5 * 400 ** (i / 199)) for i in range(200)]]  # 5 to 2,000 tokens
    found = [
        common.row("8 × 25 texts", "padding in batches", 100 * padding(encoded), "%", "<= 10"),
        common.row("200 texts of 5 to 2,000 tokens", "padding in batches", 100 * padding(spread), "%", "<= 10"),
    ]
    for size in ROUNDS:
        found += rows(size)
    return found + memory()


if __name__ == "__main__":
    measure(sys.argv[1])
