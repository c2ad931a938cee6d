"""Measure the bundled model for its card: ``python data/bundled/card.py [--retrained folder ...]``.

Writes beside itself ``benchmark.csv`` (all test items by task and depth, beside chance and the five
shortcuts), ``vocabulary.csv`` (words that tasks share), ``questions.csv`` (how many questions are
distinct), ``layers.csv`` (what each layer writes, and what is left without it), ``random.csv`` (half
removed at random), with ``--retrained`` also ``retrained.csv`` (other training runs against this
one), and ``model_card.png``, which shows the layers and the training log. Nothing is written before
everything is measured.
"""

import argparse
from pathlib import Path

import check
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from generate import MAKERS
from prompts import Prompt
from tqdm.auto import tqdm

import seaplib
from seaplib.pruning.scores import score
from seaplib.pruning.selection import select
from seaplib.reports.figures import style

HERE = Path(__file__).parent


def write(table: pd.DataFrame, name: str, digits: int = 3) -> None:
    table.round(digits).to_csv(HERE / name, index=False, lineterminator="\n")
    print(f"{name}\n{table.round(digits).to_string(index=False)}\n", flush=True)


def answered(model, tokenizer, items: int | None = None) -> pd.DataFrame:
    """One row per test item of all tasks, the first ``items`` of each."""
    bar = tqdm(MAKERS, desc="answering", leave=False)
    return pd.concat([check.evaluate(model, tokenizer, task, limit=items) for task in bar], ignore_index=True)


def benchmark(items: pd.DataFrame) -> pd.DataFrame:
    """By task and depth, and over all depths ("all"): n, accuracy, exact match, chance, the five shortcuts."""
    fooled = pd.concat([check.shortcuts(task) for task in MAKERS], ignore_index=True)
    measures = {**check.MEASURES, **{name: (name, "mean") for name in check.SHORTCUTS}}
    both = pd.concat([items, fooled], axis=1).astype({"depth": str})
    both["task"] = pd.Categorical(both["task"], list(MAKERS))
    groups = pd.concat([both, both.assign(depth="all")]).groupby(["task", "depth"], observed=True)
    return groups.agg(**measures).reset_index()


def retrained(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Two models on the same items: difference of accuracy and exact match, in its standard errors.

    The standard error is that of the mean of paired differences over items. It takes both models as given:
    what differs between training runs comes on top.
    """
    rows = []
    for task in MAKERS:
        a, b = (run[run["task"] == task].reset_index() for run in (first, second))
        for metric in ("acc", "exact_match"):
            difference = b[metric] - a[metric]
            error = max(difference.std(ddof=1) / np.sqrt(len(difference)), 1e-12)
            means = dict(n=len(a), shipped=a[metric].mean(), retrained=b[metric].mean(), difference=difference.mean())
            rows.append(
                dict(task=task, metric=metric, **means, standard_error=error, in_errors=difference.mean() / error)
            )
    return pd.DataFrame(rows)


def norms(model, tokenizer, prompts: int = 20) -> list[float]:
    """Mean Euclidean norm of the residual stream over the tokens of test prompts: embeddings, then after each layer.

    What the layers wrote before the final normalisation, from the inputs of the next; <bos> is left out.
    """
    inputs: list[list[torch.Tensor]] = [[] for _ in range(len(model.model.layers) + 1)]
    watched = [*model.model.layers, model.model.norm]
    hooks = [
        module.register_forward_pre_hook(lambda _, args, at=at: inputs[at].append(args[0][0, 1:].norm(dim=-1)))
        for at, module in enumerate(watched)
    ]
    try:
        with torch.inference_mode():
            for task in MAKERS:
                prompt = Prompt(task)
                for row in check.read(task)[:prompts]:
                    model(input_ids=tokenizer(prompt(row)[0], return_tensors="pt").input_ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(found).mean().item() for found in inputs]


def layers(model, tokenizer, items: int) -> pd.DataFrame:
    """One row per layer and one for the whole model (layer −1): accuracy, exact match, residual norm after it."""
    whole, rows = model.model.layers, []
    written = norms(model, tokenizer)
    try:
        for gone in tqdm(range(-1, len(whole)), desc="without a layer"):
            model.model.layers = torch.nn.ModuleList(layer for i, layer in enumerate(whole) if i != gone)
            model.config.num_hidden_layers = len(model.model.layers)
            found = answered(model, tokenizer, items)[["acc", "exact_match"]].mean()
            rows.append(dict(layer=gone, residual_norm=written[gone + 1], **found))
    finally:
        model.model.layers, model.config.num_hidden_layers = whole, len(whole)
    return pd.DataFrame(rows)


def at_random(model, tokenizer, items: int, seeds: int = 3) -> pd.DataFrame:
    """What is left with half of all heads and channels removed at random, uniformly, by seed; the whole model first."""
    stats = seaplib.collect(model, tokenizer, seaplib.corpus("mini_wikitext"))
    variants = {"whole": model}
    for seed in range(seeds):
        mask = select(score(stats, "random", seed=seed), seaplib.uniform(0.5))
        variants[f"seed {seed}"] = seaplib.prune(model, mask, mode="zero")
    return pd.DataFrame(
        dict(model=name, **answered(variant, tokenizer, items)[["acc", "exact_match"]].mean())
        for name, variant in variants.items()
    )


def draw(log: pd.DataFrame, measured: pd.DataFrame, path: Path) -> None:
    with style.style():
        fig, (training, removal, norm) = plt.subplots(1, 3, figsize=(style.DOUBLE, 2.1))
        training.plot(log["tokens"] / 1e6, log["loss"])
        training.set(xlabel="training tokens (millions)", ylabel="loss (weighted)", title="training", yscale="log")
        training.set_yticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"], minor=False)
        training.minorticks_off()
        dense, each = measured[measured["layer"] < 0].iloc[0], measured[measured["layer"] >= 0]
        for column, label, marker in (("acc", "accuracy", "o"), ("exact_match", "exact match", "s")):
            (line,) = removal.plot(each["layer"], 100 * each[column], marker=marker, label=label)
            removal.axhline(100 * dense[column], color=line.get_color(), linestyle=":")
        removal.set(xlabel="layer taken out", ylabel="mean of nine tasks (%)", title="without a layer (dotted: whole)")
        removal.set(xticks=list(each["layer"]), ylim=(0, 100))
        removal.legend(loc="lower right")
        norm.bar(measured["layer"], measured["residual_norm"], color=style.DENSE)
        norm.set(xlabel="after layer (−1: embeddings)", ylabel="mean norm", title="residual stream")
        fig.savefig(path, dpi=200)
        plt.close(fig)


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=200, help="test items per task for what is pruned (%(default)s)")
    parser.add_argument(
        "--retrained", nargs="+", default=[], metavar="FOLDER", help="models of other trainings, compared on all items"
    )
    args = parser.parse_args(given)
    if args.items < 1:
        parser.error("--items must be at least 1")
    log = pd.read_csv(HERE / "training_log.csv")
    others = [check.load(parser, folder) for folder in args.retrained]
    model, tokenizer = check.load(parser, "bundled")
    items = answered(model, tokenizer)
    tables = {
        "benchmark.csv": benchmark(items),
        "vocabulary.csv": check.vocabulary(),
        "questions.csv": check.questions(),
    }
    if others:
        runs = {run: retrained(items, answered(*other)) for run, other in enumerate(others, start=1)}
        tables["retrained.csv"] = pd.concat(runs, names=["run"]).reset_index("run")
    tables["layers.csv"] = layers(model, tokenizer, args.items)
    tables["random.csv"] = at_random(model, tokenizer, args.items)
    draw(log, tables["layers.csv"], HERE / "model_card.png")
    for name, table in tables.items():
        write(table, name, digits=2 if name == "vocabulary.csv" else 3)


if __name__ == "__main__":
    main()
