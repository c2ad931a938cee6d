"""Answers about what pruning costs and saves: perplexity, speed, sparse inputs, routing (notebooks 08, 09, 11, 12)."""

import numpy as np
import pandas as pd

from ...evaluation import comparison
from .. import claims, display_names
from .accuracy import tally


def perplexity(shown: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """Notebook 08: the dense perplexity, the gentlest and the harshest method, and the claims about SEAP-gen.

    ``shown`` is ``summaries.perplexity`` at one preset.
    """
    dense, lines = shown.loc[shown["requested_sparsity"] == 0, "perplexity"].iloc[0], []
    for sparsity, block in shown[shown["requested_sparsity"] > 0].groupby("requested_sparsity"):
        best, worst = block.iloc[0], block.iloc[-1]
        lines.append(
            f"At {display_names.sparsity(sparsity)} the dense perplexity of {dense:.3g} becomes "
            f"{best['perplexity']:.3g} with the gentlest method ({best['label']}) and "
            f"{worst['perplexity']:.3g} with the harshest ({worst['label']})."
        )
    text = " ".join(lines)
    for row in verdicts[verdicts["claim"].str.contains("SEAP-gen.*FLAP")].itertuples():
        text += f"\n- {row.claim}: {claims.estimate(row)} (*{row.verdict}*)"
    return text.replace("\n", "\n\n", 1)


def inference_speed(rows: pd.DataFrame, minutes: float) -> str:
    """Notebook 09: per model what SEAP-gen gains at its largest sparsity, and of what the bytes would allow.

    ``rows`` is ``costs.speed_rows``; ``minutes`` are those of one pruning.
    """
    decode, lines = rows[rows["measure"] == "decode"], []
    for subject, part in decode[decode["method"] == "SEAP-gen"].groupby("model", sort=False):
        best = part.loc[part["requested_sparsity"].idxmax()]
        share, sparsity = (best["ratio"] - 1) / (best["bytes_ratio"] - 1), best["requested_sparsity"]
        lines.append(
            f"{subject}: at {display_names.sparsity(sparsity)} SEAP-gen has {1 / best['bytes_ratio']:.0%} of the bytes "
            f"and decodes ×{best['ratio']:.2f} [{best['ratio_low']:.2f}, {best['ratio_high']:.2f}] as fast as the "
            f"dense model, {share:.0%} of what the bytes would allow."
        )
    wanda = decode.loc[decode["method"] == "Wanda", "ratio"]
    lines.append(
        f"Unstructured Wanda, which only writes zeros, decodes ×{wanda.min():.2f} to ×{wanda.max():.2f} as fast. "
        f"Calibrating and pruning the profile's model takes {60 * minutes:.3g} seconds."
    )
    return " ".join(lines)


def sparse_inputs(summary: pd.DataFrame, products: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """Notebook 11: whether activations or weights take zeros better, the gentlest repair, and where a kernel gains.

    ``summary``: block, rule, perplexity; ``products`` is ``input_sparsity.products.beside_dense``.
    """
    table = summary.set_index("rule")
    times = table["perplexity"] / table.loc["dense", "perplexity"]
    names = table.index[table["block"] == "activations"]
    sides = [f"×{times[name]:.3g} against ×{times[f'{name} wt']:.3g} at {name}" for name in names]
    text = f"Sparse activations against sparse weights, perplexity over the dense model's: {', '.join(sides)}. "
    repairs = times[table["block"] == "repairs"].sort_values()
    if len(repairs):
        text += f"The gentlest repair is {repairs.index[0]} (×{repairs.iloc[0]:.3g}), "
        text += f"the harshest {repairs.index[-1]} (×{repairs.iloc[-1]:.3g}). "
    gathered = products[products["kernel"] == "select + gather"].groupby("shape", sort=False)
    wins = {shape: ", ".join(part.loc[part["speedup"] > 1, "pattern"]) or "nothing" for shape, part in gathered}
    if wins:
        text += "For one token, choosing and gathering beats the dense product at "
        text += "; ".join(f"{won} ({shape})" for shape, won in wins.items()) + ". "
    return text + f"\n\nOf {len(verdicts)} claims that were published elsewhere: {tally(verdicts)}."


def routing(contrasts: pd.DataFrame, worth: pd.DataFrame, requests: pd.DataFrame) -> str:
    """Notebook 12: what routed experts bring and cost beside one general mask, on the last model that was timed.

    ``contrasts``: ``experts.variants.contrasts``; ``worth``: ``experts.timing.worth``; ``requests``: kind, chosen.
    """
    sparsity = contrasts["requested_sparsity"].max()
    at = contrasts[(contrasts["requested_sparsity"] == sparsity) & (contrasts["metric"] == "primary")]
    at = at[at["a"] == "experts, routed"].set_index(["kind", "b"])
    gain, lost, unseen = at.loc[("known", "general")], at.loc[("known", "dense")], at.loc[("unseen", "general")]
    answer = {comparison.HOLDS: "Yes", comparison.REVERSED: "No"}.get(gain["verdict"], "Not shown")
    last = worth[(worth["subject"] == worth["subject"].iloc[-1]) & (worth["stream"] == "mixed")].set_index("system")
    routed = last[last.index.str.startswith("experts, routed")]
    speeds = [f"{ratio / last.loc['general', 'ratio']:.0%}" for ratio in routed["ratio"]]
    rooms = routed.index.str.removeprefix("experts, routed, ")
    ends = [f"{tokens:.0f}" if np.isfinite(tokens) else "no number of" for tokens in routed["break_even"]]
    held = (requests.loc[requests["kind"] == "unseen", "chosen"] == "general").mean()
    tight = routed.iloc[-1]
    return (
        f"**{answer}**, by accuracy on known tasks: at {display_names.sparsity(sparsity)} routed experts are "
        f"{_points(gain)} from one general mask. In a mixed stream they reach {' and '.join(speeds)} of its throughput "
        f"({' and '.join(rooms)}), and a request pays against the dense model from {' and '.join(ends)} generated "
        f"tokens on, at {_points(lost)} of accuracy. Of the requests of tasks that the router never saw it holds back "
        f"{held:.0%}; over all of them routed experts are {_points(unseen)} from the general mask. Routing takes "
        f"{tight['route_ms']:.2f} ms and cutting out an expert {tight['switch_ms']:.0f} ms, "
        f"{tight['switch_steps']:.1f} decoding steps of the dense model."
    )


def _points(found: pd.Series) -> str:
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * found['difference']:+.1f} points [{low:+.1f}, {high:+.1f}]"
