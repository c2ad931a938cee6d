"""Answers about accuracy: notebooks 06, 07, 18, 19, and the scorecard."""

import pandas as pd

from ...evaluation import comparison
from .. import claims, display_names, summaries


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
        "SEAP less FLAP, which reads the general text:",
    )
    return text + _said(verdicts, "Expert masks beat the general mask (s_F)", "Experts less the general mask:")


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
        "Our allocation less SEAP's logistic:",
    )
    text += _said(
        verdicts,
        "Our allocation beats leaving the first layer alone",
        "Our allocation less leaving the first layer alone:",
    )
    text += _said(
        verdicts,
        "Least squares beats no compensation (SEAP, logistic)",
        "Least squares less no compensation, under the paper's allocation:",
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
    return f"{subject} {', '.join(parts)}. " if parts else ""


def tally(verdicts: pd.DataFrame) -> str:
    """How many claims hold, are reversed, are undecided."""
    counts = verdicts["verdict"].value_counts()
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
