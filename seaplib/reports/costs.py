"""Tables of what pruned models and routed experts cost: speed, bytes, and the length at which routing pays."""

import numpy as np
import pandas as pd

from ..evaluation import bootstrap
from . import display_names, summaries
from .tables import AVERAGE, MISSING, points

STREAMS = ("mixed", "bursts", "batches")


def speed_rows(compared: pd.DataFrame, achieved: dict[tuple[str, str], float]) -> pd.DataFrame:
    """``speed.compare_speed`` of several models (column ``model``), named "method, sparsity", with what was pruned.

    Adds method, requested_sparsity, achieved_sparsity (from ``achieved`` by model and name, else as requested) and
    bytes_ratio (dense over pruned).
    """
    named = compared["name"].str.split(", ", expand=True).reindex(columns=[0, 1])
    requested = named[1].fillna("0%").str.rstrip("%").astype(float) / 100
    keys = zip(compared["model"], compared["name"], requested, strict=True)
    dense = compared[compared["name"] == "Dense"].groupby("model")["parameter_bytes"].first()
    return compared.assign(
        method=named[0],
        requested_sparsity=requested,
        achieved_sparsity=[achieved.get((model, name), asked) for model, name, asked in keys],
        bytes_ratio=compared["model"].map(dense) / compared["parameter_bytes"],
    )


def inference_speed(rows: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """The form of the paper's Table 2: decoding speed, speed-up with its interval, bytes, and the paper's speed-up.

    Takes the frame of :func:`speed_rows` and the published table of one model.
    """
    decode = rows[rows["measure"] == "decode"]
    prefill = rows[rows["measure"] == "prefill"].set_index(["model", "name"])["ratio"]
    printed = paper[paper["metric"] == "speedup"]
    printed = {(row.method.lower(), row.requested_sparsity): f"×{row.value:.2f}" for row in printed.itertuples()}
    return pd.DataFrame(
        {
            "Model": decode["model"],
            "Sparsity": decode["requested_sparsity"].map(display_names.sparsity),
            "Method": decode["method"],
            "Tokens/s": decode["tokens_per_second"].map("{:.1f}".format),
            "Up": [f"×{r.ratio:.2f} [{r.ratio_low:.2f}, {r.ratio_high:.2f}]" for r in decode.itertuples()],
            "Prefill up": [f"×{prefill[r.model, r.name]:.2f}" for r in decode.itertuples()],
            "MiB": (decode["parameter_bytes"] / 2**20).map("{:.1f}".format),
            "Bytes ratio": decode["bytes_ratio"].map("×{:.2f}".format),
            f"paper: up ({paper['model'].iloc[0]})": [
                printed.get((r.method.lower(), r.requested_sparsity), MISSING) for r in decode.itertuples()
            ],
        }
    )


def routing_averages(results: pd.DataFrame) -> pd.DataFrame:
    """Averages over tasks by system, ``kind`` of tasks and reported metric: ``summary``'s columns, low, high."""
    parts = []
    for kind, part in results.groupby("kind"):
        for metric in bootstrap.measured(part):
            means = summaries.summary(bootstrap.of_metric(part, metric).assign(primary=True))
            parts.append(means.assign(kind=kind, metric=display_names.metric(metric)))
    averages = pd.concat(parts, ignore_index=True)
    averages = averages[averages["task"] == AVERAGE]
    half = bootstrap.Z * averages["stderr"]
    return averages.assign(low=averages["value"] - half, high=averages["value"] + half).reset_index(drop=True)


def routing(averages: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    """:func:`routing_averages` for reading: a row per sparsity and system, in this ``order`` of systems."""
    cells = averages.assign(
        cell=[f"{100 * r.value:.1f} ± {100 * r.stderr:.1f}" for r in averages.itertuples()],
        column=averages["kind"] + " tasks, " + averages["metric"],
        rank=averages["method"].map({name: place for place, name in enumerate(order)}),
    )
    wide = cells.pivot(index=["requested_sparsity", "rank", "method"], columns="column", values="cell").sort_index()
    wide = wide.reset_index().drop(columns="rank").rename_axis(columns=None)
    wide["requested_sparsity"] = wide["requested_sparsity"].map(display_names.sparsity)
    return wide.rename(columns={"requested_sparsity": "Sparsity", "method": "System"})


def routing_comparisons(contrasts: pd.DataFrame) -> pd.DataFrame:
    """``experts.variants.contrasts`` for reading, by accuracy."""
    rows = contrasts[contrasts["metric"] == bootstrap.PRIMARY]
    shown = rows[["requested_sparsity", "kind", "a", "b"]].assign(difference=points(rows))
    shown["requested_sparsity"] = shown["requested_sparsity"].map(display_names.sparsity)
    return shown.assign(verdict=rows["verdict"])


def routing_worth(worth: pd.DataFrame) -> pd.DataFrame:
    """``experts.timing.worth`` with accuracies for reading: a row per model and system; "∞" is never."""
    shown = []
    for (subject, system), part in worth.groupby(["subject", "system"], sort=False):
        ways, row = part.set_index("stream"), {"Model": subject, "System": system}
        mixed = ways.loc["mixed"]
        for kind in ("known", "unseen"):
            value = mixed[f"accuracy_{kind}"]
            row[f"Accuracy, {kind}"] = MISSING if pd.isna(value) else f"{100 * value:.1f}"
        for way in STREAMS:
            ratio, low, high = ways.loc[way, ["ratio", "low", "high"]]
            row[f"Speed, {way}"] = f"×{ratio:.2f}" + ("" if pd.isna(low) else f" [{low:.2f}, {high:.2f}]")
        row |= {"MiB": f"{mixed['bytes'] / 2**20:.1f}", "Route, ms": f"{mixed['route_ms']:.2f}"}
        switch = f"{mixed['switch_ms']:.1f} ms, {mixed['switch_steps']:.1f} steps"
        row["Switch"] = switch if mixed["switch_ms"] else MISSING
        row["Break-even, tokens"] = MISSING if system == "dense" else _tokens(mixed)
        shown.append(row)
    return pd.DataFrame(shown)


def _tokens(mixed: pd.Series) -> str:
    ends = mixed[["break_even", "break_even_low", "break_even_high"]]
    value, low, high = (f"{end:.0f}" if np.isfinite(end) else "∞" for end in ends)
    return f"{value} [{low}, {high}]"


def sparse_products(products: pd.DataFrame) -> pd.DataFrame:
    """``input_sparsity.products.beside_dense`` for reading: milliseconds, speed-up with its quartiles, bound."""
    speedups = products[["speedup", "low", "high"]].itertuples(index=False)
    return pd.DataFrame(
        {
            "matrix (out×in)": products["shape"],
            "tokens": products["tokens"],
            "pattern": products["pattern"],
            "kernel": products["kernel"],
            "dense, ms": (1e3 * products["dense_seconds"]).map("{:.3g}".format),
            "sparse, ms": [MISSING if pd.isna(s) else f"{1e3 * s:.3g}" for s in products["seconds"]],
            "speed-up": [
                MISSING if pd.isna(up) else f"×{up:.2f} [{low:.2f}, {high:.2f}]" for up, low, high in speedups
            ],
            "bound": products["bound"].map("×{:.2f}".format),
        }
    )
