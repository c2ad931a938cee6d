"""Answers about what the model computes, and where: notebooks 01 to 03 and 05."""

import pandas as pd

from .. import claims, display_names


def hidden_states(by_layer: pd.DataFrame, by_task: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """Notebook 01: how much of the separation is vocabulary, whether it grows with depth, which tasks stand apart.

    ``by_layer`` is ``separability.by_layer``'s frame, ``by_task`` a silhouette per task (rows) and layer (columns).
    """
    curves = by_layer.pivot(index="layer", columns="measure", values=["value", "low", "chance"])
    silhouette, right = curves["value", "silhouette"], 100 * curves["value", "knn_accuracy"]
    best, last, chance = right.idxmax(), right.index.max(), 100 * curves["chance", "knn_accuracy"].iloc[0]
    worse = right.index[right < 100 * curves["low", "knn_accuracy"][best]]
    enough = worse.max() + 1 if len(worse) else 0
    apart, deeper = by_task.iloc[:, -1].sort_values(), claims.find(verdicts, "hidden-states-cluster")
    nearest, farthest = (display_names.task(apart.index[place]) for place in (0, -1))
    return (
        f"At the embeddings, a bag of words, the nearest neighbours already name the task of {right[0]:.1f}% of the "
        f"texts (chance {chance:.1f}%); from layer {enough} on about as many as at best (layer {best}, "
        f"{right[best]:.1f}%). The silhouette is {silhouette[0]:.2f} at the input, largest after layer "
        f"{silhouette.idxmax()} ({silhouette.max():.2f}) and {silhouette[last]:.2f} after the last; the deeper half "
        f"of the layers less the shallower half is {claims.estimate(deeper)} (*{deeper['verdict']}*). After the last "
        f"layer {farthest} stands most apart ({apart.iloc[-1]:.2f}) and {nearest} least ({apart.iloc[0]:.2f})."
    )


def norms(correlations: pd.DataFrame, shares: pd.DataFrame, top_share: float, verdicts: pd.DataFrame) -> str:
    """Notebook 02: per module, whether two halves of a task agree more than two tasks, and what they share.

    ``correlations``: module, layer, within, between, value; ``shares``: within, between, a row per module.
    """
    lines = []
    for module, text, name in (("mlp", "MLP channels", "norms"), ("attention", "Heads", "attention-norms")):
        part, share = correlations[correlations["module"] == module].set_index("layer"), shares.loc[module]
        found, layers = claims.find(verdicts, f"{name}-tell-tasks-apart"), part["value"]
        lines.append(
            f"{text}: the halves of a task correlate at {part['within'].mean():.3f}, halves of two tasks at "
            f"{part['between'].mean():.3f}, a difference of {claims.estimate(found)} (*{found['verdict']}*), largest "
            f"in layer {layers.idxmax()} and smallest in layer {layers.idxmin()}. Of the strongest {top_share:.0%} of "
            f"dimensions {share['within']:.0%} return in the task's other half and {share['between']:.0%} in another's."
        )
    return "\n\n".join(lines)


def remove_tests(curves: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """Notebook 03: which layer costs most and least by each task's usual metric, and the early half against the deep.

    ``curves`` is ``summaries.remove_tests``.
    """
    lines = []
    for task, rows in curves[curves["primary"]].groupby("task", sort=False):
        by, whole = 100 * rows.groupby("layer")["drop"].mean(), rows[rows["ratio"] == rows["ratio"].max()]
        free, share = (whole["drop"] <= 2 * whole["stderr"]).sum(), display_names.sparsity(whole["ratio"].iloc[0])
        dense, guessing = (100 * rows[name].iloc[0] for name in ("dense", "chance"))
        line = (
            f"{display_names.task(task)} (dense {dense:.1f}%, guessing {guessing:.0f}%): pruning one layer costs most "
            f"in layer {by.idxmax()} ({by.max():.1f} points, mean over the shares) and least in layer {by.idxmin()} "
            f"({by.min():.1f}). Losing {share} of a layer costs at most two standard errors in {free} of {len(by)}."
        )
        claim_id = f"early-layers-matter-{display_names.base_task(task)}"
        for row in verdicts[verdicts["claim_id"] == claim_id].itertuples():
            line += f" The early half of the layers against the deep half: {claims.estimate(row)} (*{row.verdict}*)."
        lines.append(line)
    return "\n\n".join(lines)


def task_classifier(summary: pd.DataFrame, bare: str, random: str, needed: float, routed: pd.Series) -> str:
    """Notebook 05: accuracy with all words, without the template's, with random embeddings; and what a router does.

    ``summary``: input, accuracy, low, high, chance; ``bare`` and ``random`` name inputs; ``routed``: coverage,
    accuracy of the router at its threshold.
    """
    rows = summary.set_index("input")
    cells = {row.Index: f"{row.accuracy:.1%} [{row.low:.1%}, {row.high:.1%}]" for row in rows.itertuples()}
    full, of_all = rows.loc["all words"], rows[rows.index.str.startswith("all words")]
    best, enough = of_all["accuracy"].idxmax(), "enough" if full["accuracy"] >= needed else "not enough"
    text = (
        f"A linear layer on layer-0 embeddings names the task of {cells['all words']} of the held-out prompts (chance "
        f"{full['chance']:.0%}, the paper 93%), {enough} for routing, which asks for {needed:.0%}. Without the words "
        f"of the templates it is {cells[bare]}; with random embeddings in place of the model's it is {cells[random]}, "
        "and as far as that is as good, it is the tokens that tell tasks apart and nothing that the model has learnt. "
    )
    if best != "all words":
        text += f"Of {len(of_all)} tables the best is {best.removeprefix('all words, ')}: {cells[best]}. "
    return text + (
        f"A router that holds back what it is not sure of routes {routed['coverage']:.1%} of the prompts, and "
        f"{routed['accuracy']:.1%} of those to the right expert."
    )
