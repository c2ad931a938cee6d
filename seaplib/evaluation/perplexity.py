"""Perplexity by windows over running text.

    PPL = exp(−(1/T) Σ_t log p(x_t | x_<t within its window)),   bits per byte = Σ_t −log₂ p / bytes

The rows of a test split are joined by blank lines and tokenised as a single text, as GPTQ, Wanda, FLAP
and SEAP's published code do. A last window that the text does not fill is dropped. A preset, declared in
``settings.PRESETS``, says which windows there are and which of their tokens count, because published
numbers differ in exactly this.
Perplexity depends on the tokenizer; bits per byte do not.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from tqdm.auto import tqdm

from .. import store
from ..models import identity, layers, likelihood, passes
from ..settings import PRESETS, suggestion, whole
from ..texts import rows, tasks
from ..texts.corpora import Corpus
from . import accuracy, bootstrap

JOIN = "\n\n"
MEASURED = ("start", "nll", "tokens", "bytes")


def perplexity(
    model,
    tokenizer,
    task: str | Corpus = "wikitext2",
    preset: str = "2048",
    variants: Iterable | None = None,
    samples: int | None = None,
    seed: int = 0,
    bos: str = "text",
    batch_tokens: int = 8192,
    progress: bool = True,
) -> pd.DataFrame:
    """Perplexity of ``variants`` (as in ``evaluate``) on a task's test text, or on a Corpus: a row per variant.

    A window longer than the model's context is cut to it, and the ``preset`` column says so.
    ``samples`` limits the number of windows, drawn by ``seed``. ``bos``: "text" puts BOS where the
    tokenizer does, once at the beginning (as published); "window" begins every window with it in
    place of its first token; "none" leaves it out.

    Columns: model, the label's, dataset, data_version, split, preset, window, stride (0: random
    starts), samples, bos, perplexity, low, high (95% over windows), bits_per_byte, nll (nats per
    token), nll_stderr, tokens, bytes. Raises ValueError for an unknown preset, a task without
    running text, a text shorter than one window, or a variant that makes no single model (GRIFFIN, routed experts).
    """
    found = by_window(model, tokenizer, task, preset, variants, samples, seed, bos, batch_tokens, progress)
    described = [column for column in found.columns if column not in ("variant", *MEASURED)]
    rows = [cell.iloc[0][described].to_dict() | summarise(cell) for _, cell in found.groupby("variant", sort=False)]
    return pd.DataFrame(rows).astype({"calibration_seed": "Int64"})


def by_window(
    model,
    tokenizer,
    task: str | Corpus = "wikitext2",
    preset: str = "2048",
    variants: Iterable | None = None,
    samples: int | None = None,
    seed: int = 0,
    bos: str = "text",
    batch_tokens: int = 8192,
    progress: bool = True,
) -> pd.DataFrame:
    """Negative log-likelihood by variant and window, from which ``perplexity`` and paired comparisons are made.

    Columns: variant (its place in ``variants``, or "dense"), the columns that describe variant and
    windows, start (of the window, in tokens), nll (summed, nats), tokens and bytes scored.
    """
    windows = Windows(model, tokenizer, task, preset, samples, seed, bos)
    chosen = list(variants) if variants is not None else [None]
    for variant in chosen:
        accuracy.check_variant(variant)
    known = {"model": identity.fingerprint(model), "attention": model.config._attn_implementation} | windows.identity
    frames = []
    for place, variant in enumerate(
        tqdm(chosen, desc=f"perplexity on {windows.label['dataset']}", leave=False, disable=not progress)
    ):

        def measure(variant=variant):
            pruned = accuracy.pruned(variant, model)
            return windows.measure(pruned, passes.affordable(layers.input_device(pruned), batch_tokens))

        spec = known | {"variant": None if variant is None else variant.fingerprint}
        label = accuracy.label_of(model, variant)
        columns = {"variant": "dense" if variant is None else str(place), "model": accuracy.name_of(model)}
        measured = store.fetch("perplexity", spec, measure, pd.DataFrame, (variant, model))
        columns |= label | windows.label
        frames.append(measured.assign(**columns)[[*columns, *MEASURED]])
    return pd.concat(frames, ignore_index=True).astype({"calibration_seed": "Int64"})


def compare(windows: pd.DataFrame, a: Mapping, b: Mapping, draws: int = bootstrap.DRAWS, seed: int = 0) -> dict:
    """Ratio of the perplexities of a and b on the windows that both have; ``windows`` is ``by_window``'s frame.

    ``a`` and ``b`` map columns to the values of either side. Where a side has several variants (seeds,
    experts), their nll is averaged per window, so that the perplexity is the variants' geometric mean.
    The interval is a percentile bootstrap over windows, a window keeping its results on both sides.

    Returns ratio, low, high (95%), perplexity_a, perplexity_b, p (two-sided, of ratio 1), p_floor, n (windows).
    Raises ValueError where a side is empty or the sides share no window.
    """
    nll = pd.DataFrame({name: _mean_nll(windows, side) for name, side in (("a", a), ("b", b))}).dropna()
    if nll.empty:
        raise ValueError(f"{dict(a)} and {dict(b)} share no window")
    difference = (nll["a"] - nll["b"]).to_numpy()
    drawn = bootstrap.means(difference, draws, seed)
    low, high = np.exp(bootstrap.interval(drawn)).tolist()
    values = {f"perplexity_{name}": math.exp(nll[name].mean()) for name in nll}
    found = {"ratio": math.exp(difference.mean()), "low": low, "high": high} | values
    return found | {"p": bootstrap.p_value(drawn), "p_floor": bootstrap.p_floor(draws), "n": len(nll)}


def contrasts(
    windows: pd.DataFrame, pairs: Mapping[tuple, str], sparsities: Iterable[float], draws: int = bootstrap.DRAWS
) -> pd.DataFrame:
    """:func:`compare` of pairs of methods (with ``name`` and ``score``; None: the dense model) at every sparsity.

    ``pairs`` maps them to the claim that the first costs more. Columns: requested_sparsity, claim, a, b (method and
    score), the keys of ``compare``.
    """
    rows = []
    for (a, b), claim in pairs.items():
        for sparsity in sparsities:
            sides = [
                {"method": one.name, "score": one.score, "requested_sparsity": sparsity} if one else {"method": "dense"}
                for one in (a, b)
            ]
            names = (", ".join([side["method"], side["score"]]) if len(side) > 1 else "dense" for side in sides)
            head = {"requested_sparsity": sparsity, "claim": claim} | dict(zip("ab", names, strict=True))
            rows.append(head | compare(windows, *sides, draws))
    return pd.DataFrame(rows)


def _mean_nll(windows: pd.DataFrame, wanted: Mapping) -> pd.Series:
    """Nats per token of every window (all have equally many tokens), averaged over the variants that fit."""
    chosen = windows
    for column, value in wanted.items():
        chosen = chosen[chosen[column] == value]
    if chosen.empty:
        raise ValueError(f"no windows of {dict(wanted)}")
    return (chosen["nll"] / chosen["tokens"]).groupby([chosen["preset"], chosen["start"]]).mean()


def summarise(windows: pd.DataFrame) -> dict:
    """Perplexity, its interval and bits per byte from sums per window: ``nll`` (nats), ``tokens``, ``bytes``.

    The interval takes windows as the independent units: mean ± ``bootstrap.Z`` standard errors in nats.
    """
    if windows["nll"].isna().any():
        raise ValueError(passes.DAMAGED)
    total, tokens, size = windows["nll"].sum(), int(windows["tokens"].sum()), int(windows["bytes"].sum())
    mean, n = total / tokens, len(windows)
    error = (windows["nll"] / windows["tokens"]).std(ddof=1) / math.sqrt(n) if n > 1 else math.nan
    return {
        "perplexity": math.exp(mean),
        "low": math.exp(mean - bootstrap.Z * error),
        "high": math.exp(mean + bootstrap.Z * error),
        "bits_per_byte": total / math.log(2) / size,
        "nll": mean,
        "nll_stderr": error,
        "tokens": tokens,
        "bytes": size,
    }


class Windows:
    """A tokenised text and its windows, which all variants share: token ids, starts, identity and label."""

    def __init__(self, model, tokenizer, task: str | Corpus, preset: str, samples: int | None, seed: int, bos: str):
        if preset not in PRESETS:
            raise ValueError(f"unknown perplexity preset {preset!r}{suggestion(preset, PRESETS)}")
        if bos not in ("text", "window", "none"):
            raise ValueError(f"bos is 'text', 'window' or 'none', got {bos!r}")
        if bos == "window" and tokenizer.bos_token_id is None:
            raise ValueError("the tokenizer has no BOS token to begin a window with")
        whole(seed, 0, "seed")
        if samples is not None:
            whole(samples, 1, "samples")
        layers.check_vocabulary(model, tokenizer)
        task, text, source = _running_text(task)
        self.ids, self.ends = _tokenise(tokenizer, text, bos == "text")
        self.bos = tokenizer.bos_token_id if bos == "window" else None
        begins_with_bos = bos == "text" and self.ids[0] == tokenizer.bos_token_id

        shape, context = PRESETS[preset], layers.context_length(model)
        self.window = min(shape.window, context)
        self.scored = min(shape.scored or self.window, self.window - 1)
        places = len(self.ids) - self.window
        if places < 0:
            raise ValueError(f"{task}: a text of {len(self.ids)} tokens does not fill a window of {self.window}")
        draw = np.random.default_rng(seed)
        if shape.random:
            self.starts = np.sort(draw.permutation(places + 1)[: samples or shape.random])
        else:
            self.starts = np.arange(0, places + 1, self.window)
            if samples is not None:
                self.starts = np.sort(draw.permutation(self.starts)[:samples])
        content = store.digest(text)
        self.identity = {
            "text": content,
            "tokenizer": identity.tokenizer_fingerprint(tokenizer),
            "window": self.window,
            "scored": self.scored,
            "starts": self.starts,
            "bos": bos,
        }
        self.label = {
            "dataset": task,
            "data_version": f"{source['config'] or source['data']}@{content[:8]}",
            "split": "+".join(source["splits"]),
            "preset": preset if self.window == shape.window else f"{preset}, cut to the context of {context}",
            "window": self.window,
            "stride": 0 if shape.random else self.window,
            "samples": len(self.starts),
            "bos": {"window": "every window", "none": "none"}.get(bos, "start of text" if begins_with_bos else "none"),
        }

    def measure(self, model, batch_tokens: int) -> pd.DataFrame:
        """Per window: start, summed negative log-likelihood (nats, float64), tokens and bytes scored."""
        sums = [likelihood.token_logprobs(model, batch)[0].double() for batch in self._batches(batch_tokens)]
        nll = -torch.cat([part.cpu() for part in sums]).reshape(len(self.starts), self.scored).sum(1)
        last = self.starts + self.window - 1
        size = self.ends[last] - self.ends[last - self.scored]
        return pd.DataFrame({"start": self.starts, "nll": nll.numpy(), "tokens": self.scored, "bytes": size})

    def _batches(self, batch_tokens: int) -> Iterator[likelihood.Batch]:
        columns = torch.arange(self.window - 1 - self.scored, self.window - 1)
        for starts in torch.from_numpy(self.starts).split(max(1, batch_tokens // self.window)):
            ids = torch.from_numpy(self.ids)[starts[:, None] + torch.arange(self.window)]
            if self.bos is not None:
                ids[:, 0] = self.bos
            rows = torch.arange(len(starts)).repeat_interleave(self.scored)
            column = columns.repeat(len(starts))
            yield likelihood.Batch(
                ids=ids[:, :-1],
                positions=None,
                branches=None,
                row=rows,
                column=column,
                target=ids[rows, column + 1],
                owner=rows,
            )


def _running_text(task: str | Corpus) -> tuple[str, str, dict]:
    """Name, text and source of a plain task's test rows, or of texts of one's own. ValueError for any other task."""
    if isinstance(task, Corpus):
        about = {"config": None, "data": task.source.get("data", "own"), "splits": ["own texts"]}
        return task.task, JOIN.join(task.texts), about
    if not (tasks.get(task).plain and tasks.get(task).test):
        plain = ", ".join(name for name in tasks.names(scored=False) if tasks.get(name).test)
        raise ValueError(f"{task} has no running text to measure perplexity on; give a Corpus, or one of {plain}")
    found = rows.read_rows(task, "test")
    return task, JOIN.join(row["text"] for row in found), found.source


def _tokenise(tokenizer, text: str, special: bool) -> tuple[Int[np.ndarray, " tokens"], Int[np.ndarray, " tokens"]]:
    """Token ids of the whole text, and after each token the number of bytes of the text that are covered."""
    logger = logging.getLogger("transformers.tokenization_utils_base")
    level = logger.level
    logger.setLevel(logging.ERROR)  # the text is meant to be longer than the model's context
    try:
        encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=tokenizer.is_fast)
    finally:
        logger.setLevel(level)
    ids = np.array(encoded["input_ids"], dtype=np.int64)
    if not tokenizer.is_fast:  # no offsets: every token is given the same share of the bytes
        return ids, np.round(np.linspace(0, len(text.encode()), len(ids) + 1)[1:]).astype(np.int64)
    widths = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    widths = 1 + (widths > 0x7F) + (widths > 0x7FF) + (widths > 0xFFFF)  # bytes per character in UTF-8
    covered = np.concatenate([[0], np.cumsum(widths)])
    ends = np.array([end for _, end in encoded["offset_mapping"]])
    return ids, covered[np.maximum.accumulate(ends)]
