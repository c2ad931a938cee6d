"""What the benchmarks wrote, as tables: figures/bench/*.csv → summary.md, and targets.md for docs/performance.md."""

from pathlib import Path

import pandas as pd

from seaplib import paths

GROUPS = {
    "calibration": "Calibration",
    "evaluation": "Evaluation",
    "decoding": "Decoding and switching",
    "selection": "Masks and embeddings",
    "safety": "Being sure",
    "gpu": "On a GPU",
}


def directory() -> Path:
    return paths.figures_dir() / "bench"


def write(folder: Path) -> None:
    """Both tables anew: ``summary.md`` with every row, ``targets.md`` with what has a target or was published."""
    (folder / "summary.md").write_text(table(folder), "utf-8")
    (folder / "targets.md").write_text(table(folder, targets=True), "utf-8")


def machines(about: pd.DataFrame) -> list[str]:
    """A line per machine on which groups were measured, with their titles where there are several."""
    found = {}
    for group, part in about.groupby("group", sort=False):
        said = ", ".join(f"{name} {value}" for name, value in zip(part["what"], part["value"], strict=True))
        found.setdefault(said, []).append(GROUPS[group])
    return [f"{', '.join(titles)}: {said}." if len(found) > 1 else f"{said}." for said, titles in found.items()]


def table(folder: Path, targets: bool = False) -> str:
    """The machine in a sentence, and the rows that were measured: median, smallest to largest, target."""
    lines = machines(pd.read_csv(folder / "machine.csv", dtype=str, keep_default_na=False))
    lines += ["", "| | case | measured | median | min – max | target | met |", "|:--|:--|:--|--:|:--|:--|:--|"]
    for group, title in GROUPS.items():
        if not (folder / f"{group}.csv").exists():
            continue
        for r in pd.read_csv(folder / f"{group}.csv", keep_default_na=False).itertuples():
            published = getattr(r, "published", "")
            if targets and not (r.target or published):
                continue
            quantity = f"{r.quantity} (published for {published})" if published else r.quantity
            low, high = (f"{value:.3g}" for value in (r.min, r.max))
            spread = f"{low} – {high}" if r.rounds > 1 else ""
            unit = "" if r.unit == "×" else f" {r.unit}"
            target = r.target.replace(">=", "≥").replace("<=", "≤")
            shown = f"{r.median:.3g}{'×' if r.unit == '×' else ''}{unit}"
            lines.append(f"| {title} | {r.case} | {quantity} | {shown} | {spread} | {target} | {r.met} |")
    return "\n".join(lines) + "\n"
