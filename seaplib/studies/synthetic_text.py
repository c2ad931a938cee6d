"""More calibration text from little: continuations by the model itself, and recombined training items.

A text is cut in the middle of its words. *Continued*: the model writes on from the first half, sampled from
p(x_t | x_<t), until it ends the text. *Recombined*: the first half of a text and the second half of another text.
*Real*: further training items, the upper bound (where the training set is a generator's, so are they). Corpora
are compared at equal numbers of tokens: :func:`enlarged` adds texts as long as they fit.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from ..activations.statistics import ActivationStats, merge
from ..evaluation import bootstrap, comparison
from ..pruning.apply import Variant
from ..pruning.methods import Method
from ..pruning.scores import score
from ..reports import display_names, tables
from ..reports.claims import points
from ..texts.corpora import Corpus
from ..texts.tasks import experts
from . import common
from .common import lengths
from .continuations import continue_texts, halves

KINDS = ("real", "recombined", "continued")
BASE = "base only"
ROUNDS = 16  # of new texts; a kind that has not filled its budget by then is refused


def recombine(corpus: Corpus, seed: int) -> Corpus:
    """As many texts as ``corpus`` has: the first half of each, and the second half of another text.

    ValueError for fewer than two texts.
    """
    n = len(corpus)
    if n < 2:
        raise ValueError(f"{corpus.task}: a single text cannot be recombined; calibrate on two or more")
    order = np.random.default_rng([seed, 1]).permutation(n)  # a cycle through all texts: none meets itself
    other = dict(zip(order.tolist(), np.roll(order, -1).tolist(), strict=True))
    parts = [halves(text) for text in corpus.texts]
    texts = tuple(parts[i][0] + parts[other[i]][1] for i in range(n))
    ids = tuple(f"{corpus.ids[i]}+{corpus.ids[other[i]]}" for i in range(n))
    return Corpus(corpus.task, texts, ids, corpus.source | {"wording": "recombined", "seed": seed})


def enlarged(
    model, tokenizer, drawn: Corpus, texts: int, times: float, kind: str, seed: int, new_tokens: int = 40
) -> tuple[Corpus, Corpus]:
    """The first ``texts`` of ``drawn``, and more of a ``kind``: up to ``times`` their tokens in all.

    ``drawn`` is a whole training corpus in the order of a calibration seed; ``seed`` is that of the synthesis.

    Returns the base and the added texts. New texts are taken as they come, except texts that would exceed the budget,
    until no text of a whole round fits. A text may come twice where the model repeats itself. ValueError for an
    unknown kind, and where new texts leave more than a tenth of the budget (and than a text of the base) unused.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)}, got {kind!r}")
    if times <= 1:
        raise ValueError(f"times is how many times as many tokens there shall be, more than 1; got {times}")
    base = drawn.first(texts)
    counted = lengths(tokenizer, base)
    budget = round((times - 1) * sum(counted))
    rounds = _rounds(model, tokenizer, drawn, base, kind, seed, new_tokens, math.ceil(times))
    added, ids, left = [], [], budget
    for _, more in zip(range(ROUNDS), rounds, strict=False):
        fits = False
        for text, name, length in zip(more.texts, more.ids, lengths(tokenizer, more), strict=True):
            if text.strip() and length <= left:
                added, ids, left, fits = [*added, text], [*ids, name], left - length, True
        if not fits:
            break
    if left > max(0.1 * budget, max(counted)):
        hint = "start from fewer texts or enlarge them less"
        raise ValueError(f"{drawn.task}: {kind} texts fill {budget - left} of {budget} tokens; {hint}")
    source = base.source | {"wording": kind, "samples": len(added)}
    return base, Corpus(drawn.task, tuple(added), tuple(ids), source)


def _rounds(
    model, tokenizer, drawn: Corpus, base: Corpus, kind: str, seed: int, new_tokens: int, copies: int
) -> Iterator[Corpus]:
    """New texts of a kind: first ``copies`` times as many as the base has (the model writes them in a single batch)."""
    if kind == "real":
        for start in range(len(base), len(drawn), copies * len(base)):
            part = slice(start, start + copies * len(base))
            yield Corpus(drawn.task, drawn.texts[part], drawn.ids[part], drawn.source)
        return
    for number in range(seed * ROUNDS, (seed + 1) * ROUNDS):
        if kind == "continued":
            copies = copies if number == seed * ROUNDS else 1  # what is still missing is little
            again = Corpus(base.task, base.texts * copies, base.ids * copies, base.source)
            yield continue_texts(model, tokenizer, again, number, new_tokens)
        else:
            made = [recombine(base, number * copies + copy) for copy in range(copies)]
            texts, ids = (tuple(entry for part in made for entry in getattr(part, name)) for name in ("texts", "ids"))
            yield Corpus(base.task, texts, ids, made[0].source)


# --- the study: one expert per corpus, kind of text and seed ---------------------------------------

#: (kind, what it is compared with) → the claim's name, its sentence, and its direction
CLAIMS = {
    ("real", BASE): ("real-text-helps", "Further real items help a small corpus", 1),
    ("recombined", BASE): ("recombined-text-helps", "Recombined items help a small corpus", 1),
    ("continued", BASE): ("continued-text-helps", "The model's own continuations help a small corpus", 1),
    ("recombined", "real"): ("recombined-text-falls-short", "Recombined items fall short of as much real text", -1),
    ("continued", "real"): ("continued-text-falls-short", "Continuations fall short of as much real text", -1),
}
WORDS = {
    BASE: "the small corpus alone",
    "real": "further real items",
    "recombined": "recombined items",
    "continued": "the model's continuations",
}


def made(
    model, tokenizer, tasks: Sequence[str], seeds: Sequence[int], texts: int, times: float, new_tokens: int
) -> dict[tuple[str, str, int], Corpus]:
    """(corpus, kind, seed) → what is added to the base of ``texts`` texts; kind BASE is the base itself."""
    names, out = experts(tasks), {}
    drawn = common.draws(names, seeds)
    for name, kind, seed in product(names, KINDS, seeds):
        base, added = enlarged(model, tokenizer, drawn[name, seed], texts, times, kind, seed, new_tokens)
        out |= {(name, BASE, seed): base, (name, kind, seed): added}
    return out


def counted(tokenizer, texts: Mapping[tuple[str, str, int], Corpus]) -> pd.DataFrame:
    """How much text there is of each kind, in means over corpora and seeds, for reading."""
    rows = [
        (WORDS[kind], len(own), sum(lengths(tokenizer, own)), len(set(own.texts)) / len(own))
        for (_, kind, _), own in texts.items()
    ]
    columns = ["text", "texts", "tokens", "different"]
    means = pd.DataFrame(rows, columns=columns).groupby("text", sort=False).mean()
    means["different"] = [f"{100 * share:.0f}%" for share in means["different"]]
    return means.round(1).reset_index()


def examples(texts: Mapping[tuple[str, str, int], Corpus]) -> pd.DataFrame:
    """The first text of each kind, of the first corpus and seed."""
    name, _, seed = next(iter(texts))
    return pd.DataFrame([{"text": words, "example": texts[name, kind, seed].texts[0]} for kind, words in WORDS.items()])


def variants(
    stats: Mapping[tuple[str, str, int], ActivationStats],
    tasks: Sequence[str],
    sparsities: Iterable[float],
    method: Method,
    mode: str = "remove",
) -> list[Variant]:
    """One expert per sparsity, corpus, kind and seed, answering the corpus' tasks; columns ``text`` and ``corpus``.

    ``stats`` are those of :func:`made`: base and addition run through the model once and are merged here.
    """
    served, out = experts(tasks), []
    for sparsity, (name, kind, seed) in product(sparsities, stats):
        parts = [stats[name, key, seed] for key in dict.fromkeys((BASE, kind))]
        scores = score(merge(parts), method.score)
        out.append(common.variant(method, scores, sparsity, seed, served[name], mode, text=kind, corpus=name))
    return out


def compared(items: pd.DataFrame, draws: int = bootstrap.DRAWS) -> pd.DataFrame:
    """The pairs of :data:`CLAIMS` at every sparsity by every metric: method, against, and ``compare``'s columns."""
    parts = {sparsity: part for sparsity, part in items.groupby("requested_sparsity")}
    rows = [
        {"method": a, "against": b, "requested_sparsity": sparsity, "metric": metric}
        | comparison.compare(parts[sparsity], {"text": a}, {"text": b}, metric, draws)
        for sparsity, (a, b), metric in product(parts, CLAIMS, bootstrap.measured(items))
    ]
    return pd.DataFrame(rows).drop(columns="p_mcnemar")


def claims(table: pd.DataFrame) -> list[dict]:
    """The claims of :func:`compared`'s rows."""
    rows = []
    for row in table.to_dict("records"):
        name, text, direction = CLAIMS[row["method"], row["against"]]
        about = {"sparsity": row["requested_sparsity"], "metric": row["metric"], "direction": direction}
        rows.append(points(text, row, name=name, where="data_synthesis", **about))
    return rows


def display(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`compared`'s rows for reading."""
    shown = {
        "sparsity": table["requested_sparsity"].map(display_names.sparsity),
        "text": table["method"].map(WORDS),
        "against": table["against"].map(WORDS),
        "metric": table["metric"].map(display_names.metric),
        "difference, points [95%]": tables.points(table),
        "p": table["p"].map("{:.2g}".format),
    }
    return pd.DataFrame(shown)


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`compared`'s rows as ``figures.effects`` takes them: in points, with columns row and panel."""
    found = table.assign(**{name: 100 * table[name] for name in ("difference", "low", "high")})
    rows = [f"{WORDS[a]}\nagainst {WORDS[b]}" for a, b in zip(found["method"], found["against"], strict=True)]
    return found.assign(row=rows, panel=found["requested_sparsity"].map(display_names.sparsity))


def answer(verdicts: pd.DataFrame, sparsity: float, texts: int, times: float) -> str:
    """What further text of each kind is worth at ``sparsity``, a sentence a kind."""
    at = display_names.sparsity(sparsity)
    lines = []
    for kind in KINDS:
        where = f"at {at}, added to {texts} texts a task up to {times:g} times their tokens, " if kind == "real" else ""
        what = where + WORDS[kind]
        said = {
            comparison.HOLDS: f"{what} help",
            comparison.REVERSED: f"{what} do harm",
            comparison.UNDECIDED: f"{what} change nothing that these items can show",
        }
        line = common.told(verdicts, f"{CLAIMS[kind, BASE][0]}/{at}", said)
        if kind != "real":
            short = {
                comparison.HOLDS: "they fall short of real items",
                comparison.REVERSED: "they do better than real items",
                comparison.UNDECIDED: "how they compare with real items stays open",
            }
            line += "; " + common.told(verdicts, f"{CLAIMS[kind, 'real'][0]}/{at}", short)
        lines.append(common.sentence(line))
    return " ".join(lines)
