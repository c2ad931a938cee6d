"""What the benchmarks wrote, as one table: figures/bench/*.csv → figures/bench/summary.md."""

from pathlib import Path

import pandas as pd

from seaplib import paths

GROUPS = {
    "calibration": "Calibration",
    "evaluation": "Evaluation",
    "decoding": "Decoding and switching",
    "selection": "Masks and embeddings",
    "gpu": "On a GPU",
}


def directory() -> Path:
    return paths.figures_dir() / "bench"


def summary(folder: Path) -> str:
    """The machine in a sentence, and every row that was measured: median, smallest to largest, target."""
    about = pd.read_csv(folder / "machine.csv", dtype=str, keep_default_na=False)
    lines = [", ".join(f"{name} {value}" for name, value in zip(about["what"], about["value"], strict=True)) + "."]
    lines += ["", "| | case | measured | median | min – max | target | met |", "|:--|:--|:--|--:|:--|:--|:--|"]
    for group, title in GROUPS.items():
        if not (folder / f"{group}.csv").exists():
            continue
        for r in pd.read_csv(folder / f"{group}.csv", keep_default_na=False).itertuples():
            low, high = (f"{value:.3g}" for value in (r.min, r.max))
            spread = f"{low} – {high}" if r.rounds > 1 else ""
            unit = "" if r.unit == "×" else f" {r.unit}"
            target = r.target.replace(">=", "≥").replace("<=", "≤")
            shown = f"{r.median:.3g}{'×' if r.unit == '×' else ''}{unit}"
            lines.append(f"| {title} | {r.case} | {r.quantity} | {shown} | {spread} | {target} | {r.met} |")
    return "\n".join(lines) + "\n"
