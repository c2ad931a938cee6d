"""The sentences in which a notebook answers its question, computed from its numbers."""

import pandas as pd

from ..evaluation import comparison
from . import claims, display_names, summaries


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


def percent(row) -> str:
    """A ratio with its interval in percent: "97.4% [96.1, 98.6]"."""
    return f"{100 * row['ratio']:.1f}% [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def zero_shot(kept: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """Notebook 06: what SEAP keeps (``paper_tests.retention``), and what its text and its experts contribute."""
    shares = kept[kept["method"] == "SEAP"].to_dict("records")
    text = "Of the dense model's average accuracy SEAP keeps "
    text += ", ".join(f"{percent(row)} at {display_names.sparsity(row['requested_sparsity'])}" for row in shares) + ". "
    text += _said(
        verdicts,
        "Task-calibrated beats general-text-calibrated (SEAP over FLAP, s_F)",
        "Against FLAP, which has the general text",
    )
    return text + _said(verdicts, "Expert masks beat the general mask (s_F)", "Against its own general mask")


def sparsity_settings(means: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """Notebook 07: logistic against uniform and adaptive, the controls, and each method's best allocation."""
    text = _said(
        verdicts, "Logistic allocation beats uniform", "Logistic less uniform allocation, over the paper's methods:"
    )
    text += _said(verdicts, "Logistic beats uniform with the same layers protected", "With the same layers protected:")
    text += _said(verdicts, "Logistic allocation beats adaptive", "Logistic less adaptive:")
    named = means[(means["method"] != "FLAP as published") & ~means["label"].str.contains("+", regex=False)]
    for sparsity, at in named[named["requested_sparsity"] > 0].groupby("requested_sparsity"):
        best = at.loc[at.groupby("label")["value"].idxmax()]
        listed = ", ".join(
            f"{row.label}, {display_names.allocation(row.allocation)} ({100 * row.value:.1f}%)"
            for row in best.itertuples()
        )
        text += f"\n\nBest allocation at {display_names.sparsity(sparsity)}: {listed}."
    return text + f"\n\nOf {len(verdicts)} claims here: {tally(verdicts)}."


def other_methods(results: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """Notebook 18: the best method of every sparsity by average accuracy, and what SEAP was shown to beat."""
    averages = summaries.summary(results).query("task == 'average'")
    lines = []
    for sparsity, block in averages[averages["requested_sparsity"] > 0].groupby("requested_sparsity"):
        ranked = block.sort_values("value", ascending=False)
        best, worst = ranked.iloc[0], ranked.iloc[-1]
        lines.append(
            f"At {display_names.sparsity(sparsity)} {best['label']} has the highest average accuracy "
            f"({100 * best['value']:.1f}%) and {worst['label']} the lowest ({100 * worst['value']:.1f}%)."
        )
    for verdict, said in ((comparison.HOLDS, "is shown to beat"), (comparison.REVERSED, "is shown to fall behind")):
        named = verdicts.loc[verdicts["verdict"] == verdict, "claim"]
        named = [text.partition(" beats ")[0] + f" {said} " + text.partition(" beats ")[2] for text in named]
        lines.append(f"{'; '.join(named) or f'No method of them SEAP {said}'}.")
    return "\n\n".join(lines)


def beyond(verdicts: pd.DataFrame) -> str:
    """Notebook 19: our allocation and least squares, each against the paper's rule."""
    text = _said(
        verdicts,
        "Our allocation (energy) beats SEAP's logistic",
        "Against SEAP's logistic allocation, ours changes accuracy:",
    )
    text += _said(
        verdicts, "Our allocation beats leaving the first layer alone", "Beyond leaving the first layer alone,"
    )
    text += _said(
        verdicts,
        "Least squares beats no compensation (SEAP, logistic)",
        "Under the paper's allocation least squares changes accuracy:",
    )
    return text + f"\n\nOf {len(verdicts)} claims here: {tally(verdicts)}."


def scorecard(rows: pd.DataFrame) -> str:
    """Notebook 99: how the paper's claims fall, which are reversed, and how the others do."""
    paper, further = (rows[rows["part"] == part] for part in (claims.PAPER, claims.FURTHER))
    standing = pd.Series(claims.marked(paper), index=paper.index)
    text = f"Of the paper's {len(paper)} claims: {tally(paper)}. "
    for verdict, said in ((comparison.HOLDS, "hold"), (comparison.REVERSED, "are reversed")):
        named = paper.loc[standing == verdict, "claim"]
        text += f"\n\nAfter Holm's correction {said}: {'; '.join(named) or 'none'}."
    return text + f"\n\nOf the {len(further)} others: {tally(further)}."


def _said(verdicts: pd.DataFrame, sentence: str, subject: str) -> str:
    """The accuracy of a claim at every sparsity, as a sentence."""
    rows = verdicts[verdicts["claim"].str.startswith(sentence) & verdicts["claim_id"].str.endswith("/accuracy")]
    parts = [f"{claims.estimate(row)} at {row.claim_id.split('/')[1]} (*{row.verdict}*)" for row in rows.itertuples()]
    return f"{subject} it is {', '.join(parts)}. " if parts else ""


def tally(verdicts: pd.DataFrame) -> str:
    """How many claims hold, are reversed, are undecided."""
    counts = verdicts["verdict"].value_counts()
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
