"""Measure the bundled model for its card: ``python data/bundled/card.py``.

Writes beside itself ``benchmark.csv`` (by task and depth), ``shortcuts.csv`` (the predictors that do
not understand the question), ``layers.csv`` (what each layer writes, and what is left without it) and
``model_card.png``, which shows the last of these and the training log.
"""

import argparse
from pathlib import Path

import check
import matplotlib.pyplot as plt
import pandas as pd
import torch
from generate import MAKERS
from prompts import Prompt
from tqdm.auto import tqdm

import seaplib
from seaplib import figure_style, labels
from seaplib.masks import select
from seaplib.scores import score

HERE = Path(__file__).parent
MEASURES = dict(n=("acc", "size"), acc=("acc", "mean"), exact_match=("exact_match", "mean"), chance=("chance", "mean"))


def answered(model, tokenizer, items: int | None) -> pd.DataFrame:
    return pd.concat([check.evaluate(model, tokenizer, task, limit=items) for task in MAKERS], ignore_index=True)


def norms(model, tokenizer, prompts: int = 20) -> list[float]:
    """Mean Euclidean norm of the residual stream over the tokens of test prompts: embeddings, then after each layer.

    What the layers wrote before the final normalisation, from the inputs of the next.
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
    return pd.DataFrame(rows).round(4)


def at_random(model, tokenizer, items: int, seeds: int = 3) -> pd.DataFrame:
    """Exact match with half of all heads and channels removed at random, uniformly, by seed."""
    stats, rows = seaplib.collect(model, tokenizer, "mini_wikitext"), []
    for seed in range(seeds):
        pruned = seaplib.prune(model, select(score(stats, "random", seed=seed), seaplib.uniform(0.5)), mode="zero")
        rows.append(dict(seed=seed, **answered(pruned, tokenizer, items)[["acc", "exact_match"]].mean()))
    return pd.DataFrame(rows)


def draw(log: pd.DataFrame, measured: pd.DataFrame, path: Path) -> None:
    with figure_style.style():
        fig, (training, removal, norm) = plt.subplots(1, 3, figsize=(figure_style.DOUBLE, 2.1))
        training.plot(log["tokens"] / 1e6, log["loss"])
        training.set(xlabel="training tokens (millions)", ylabel="loss (weighted)", title="training", yscale="log")
        dense, each = measured[measured["layer"] < 0].iloc[0], measured[measured["layer"] >= 0]
        for column, label, marker in (("acc", "accuracy", "o"), ("exact_match", "exact match", "s")):
            (line,) = removal.plot(each["layer"], 100 * each[column], marker=marker, label=label)
            removal.axhline(100 * dense[column], color=line.get_color(), linestyle=":")
        removal.set(xlabel="layer taken out", ylabel="mean of nine tasks (%)", title="without a layer (dotted: whole)")
        removal.legend()
        norm.bar(measured["layer"], measured["residual_norm"], color=figure_style.DENSE)
        norm.set(xlabel="after layer (−1: embeddings)", ylabel="mean norm", title="residual stream")
        fig.savefig(path, dpi=200)
        plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100, help="test items per task for what is pruned (%(default)s)")
    args = parser.parse_args()
    model, tokenizer = seaplib.load("bundled")
    items = answered(model, tokenizer, None)
    by_depth = items.groupby(["task", "depth"]).agg(**MEASURES).round(3).reset_index()
    by_depth.to_csv(HERE / "benchmark.csv", index=False, lineterminator="\n")
    whole = items.groupby("task", sort=False).agg(**MEASURES)
    shortcuts = whole.join(pd.DataFrame({task: check.shortcuts(task) for task in MAKERS}).T).round(3)
    shortcuts.to_csv(HERE / "shortcuts.csv", lineterminator="\n")
    print(shortcuts.rename(index=labels.task).to_markdown())
    measured = layers(model, tokenizer, args.items)
    measured.to_csv(HERE / "layers.csv", index=False, lineterminator="\n")
    print(measured.to_markdown(index=False))
    print(at_random(model, tokenizer, args.items).round(3).to_markdown(index=False))
    draw(pd.read_csv(HERE / "training_log.csv"), measured, HERE / "model_card.png")


if __name__ == "__main__":
    main()
