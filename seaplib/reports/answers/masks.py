"""Answers of notebooks 00, 04 and 10: texts, masks, generated text."""

import pandas as pd

from .. import display_names


def corpora(statistics: pd.DataFrame, overlap: pd.DataFrame) -> str:
    """Notebook 00: which texts, how long, how much vocabulary they share.

    Takes the frames of ``words.describe`` and, at equal numbers of texts, of ``words.overlap``.
    """
    texts = statistics["texts"]
    each = " to ".join(f"{n}" for n in sorted({texts.min(), texts.max()}))
    origin = " and ".join(sorted({data.partition(":")[0] for data in statistics["data"]}))
    lengths = statistics.set_index("task")["tokens_median"].sort_values()
    short, long = (f"{display_names.task(task)} ({lengths[task]:.0f} tokens)" for task in lengths.index[[0, -1]])
    told = [
        f"On {texts.sum():,} training texts of {origin} data, {each} a corpus.",
        f"The median text is shortest in {short} and longest in {long}.",
    ]
    pairs = overlap[overlap["task_a"] != overlap["task_b"]].sort_values("overlap")
    if len(pairs):
        least, most = (
            f"{display_names.task(row['task_a'])} and {display_names.task(row['task_b'])} ({row['overlap']:.0%})"
            for row in (pairs.iloc[0], pairs.iloc[-1])
        )
        told.append(f"Of the words of two corpora together, most are shared by {most}, fewest by {least}.")
    lines = [
        f"- Training rows left out because the test repeats them: {statistics['left_out'].sum()}",
        f"- Texts longer than the context: {statistics['truncated'].sum()}",
    ]
    return "\n".join([" ".join(told), "", *lines])


def pruning(shares: pd.DataFrame, budgets: pd.DataFrame, gaps: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """Notebook 04: what goes from which layer, how much is saved, whether tasks keep different units.

    Takes the frames of ``inspection.layer_shares``, ``budgets`` (those of one model) and ``gaps``, and the claims about
    the gaps, a row per module in their order.
    """
    largest = shares["sparsity"].max()
    at = shares[shares["sparsity"] == largest]
    curve = at[at["allocation"] == next(name for name in at["allocation"] if name.startswith("logistic"))]
    taken = curve.loc[curve["ratio"] > 0, "ratio"]
    spared = f", and takes nothing of the other {len(curve) - len(taken)}" if len(taken) < len(curve) else ""
    modules = gaps.groupby("module", sort=False)[["other", "same", "chance"]].mean()
    other = " and ".join(f"{share:.0%} of the {module}" for module, share in modules["other"].items())
    same, chance = (" and ".join(f"{share:.0%}" for share in modules[column]) for column in ("same", "chance"))
    found = zip(modules.index, verdicts["verdict"], strict=True)
    told = [
        _budget(budgets[budgets["requested"] == largest]),
        f"The logistic allocation spreads it over {len(taken)} layers, from {taken.iloc[0]:.0%} of the first to "
        f"{taken.iloc[-1]:.0%} of the last{spared}.",
        f"Two tasks' experts share {other} that either of them keeps, two masks of one task {same}, independent masks "
        f"{chance}: that tasks keep {' and '.join(f'different {module} *{verdict}*' for module, verdict in found)}.",
    ]
    lines = [f"- {_budget(at)}" for sparsity, at in budgets.groupby("requested") if sparsity != largest]
    return "\n".join([" ".join(told), "", *lines])


def _budget(at: pd.DataFrame) -> str:
    """What each rule removes at one requested sparsity."""
    at = at[at["kv_unit"] == "group"]
    names = {"parameters": "the carried budget", "floor": "the paper's floor"}
    said = []
    for row in at.itertuples():
        rule = names[row.budget] if row.allocation.startswith("logistic") else "the published code"
        said.append(f"{rule} removes {row.achieved:.1%}")
    asked = display_names.sparsity(at["requested"].iloc[0])
    return (
        f"Asked for {asked} of the projections, {', '.join(said)}; of the whole model at most {at['model'].max():.1%}, "
        "since embeddings and LM head stay."
    )


def generation(summary: pd.DataFrame) -> str:
    """Notebook 10: how far each pruned model's text is from the dense model's. Takes ``generation.summary``'s frame."""
    dense = summary[summary["method"] == "dense"].iloc[0]
    told = []
    for sparsity, at in summary[summary["method"] != "dense"].groupby("requested_sparsity"):
        kept = " and ".join(f"for {row.agreement:.0%} of a text by {row.label}" for row in at.itertuples())
        times = " and ".join(f"{row.perplexity / dense.perplexity:.1f}" for row in at.itertuples())
        told.append(
            f"At {display_names.sparsity(sparsity)} the dense model's words are kept to {kept}; the dense model finds "
            f"the texts {times} times as perplexing as its own."
        )
    lines = []
    for row in summary.itertuples():
        loops = row.method != "dense" and row.repetition - dense.repetition > 2 * row.repetition_stderr > 0
        at = f" at {display_names.sparsity(row.requested_sparsity)}" if row.requested_sparsity else ""
        lines.append(
            f"- {row.label}{at}: perplexity {row.perplexity:.2f}, repetition {row.repetition:.2f}"
            f"{' (**more than dense**)' if loops else ''}, known sentences {row.known_sentences:.0%}"
        )
    return "\n".join([" ".join(told), "", *lines])
