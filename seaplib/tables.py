"""Result frames as tables: csv with everything, LaTeX (booktabs) and Markdown for reading.

The csv is always the full tidy frame. LaTeX and Markdown show the frame itself or a ``display``
frame of text cells made from it, in which ``**x**`` marks the best entry and ``<ins>x</ins>``
(underlined) the second best. The papers' numbers come from ``data/published``.
"""

import difflib
import math
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

from . import labels, paths

FLOATS = "%.6g"
AVERAGE = "average"
MISSING = "–"
WIDE = 40  # characters from which a LaTeX column is a paragraph
_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_TEX |= {char: "\\" + char for char in "{}$&#_%"}
_TEX |= {"≥": r"$\geq$", "≤": r"$\leq$", "→": r"$\to$", "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "∞": r"$\infty$"}
_TEX |= {"ρ": r"$\rho$", "σ": r"$\sigma$", "μ": r"$\mu$", "α": r"$\alpha$", "ℓ": r"$\ell$", "Δ": r"$\Delta$"}
_MATH = re.compile(r"(\$[A-Za-z\\][^$\s]*\$)")


def save(
    frame: pd.DataFrame, name: str, profile: str, caption: str = "", display: pd.DataFrame | None = None
) -> list[Path]:
    """Write ``figures/<profile>/<name>.csv``, ``.tex`` and ``.md``, each atomically; their paths.

    ``frame`` is tidy and goes to the csv whole, floats with six significant digits; ``display``
    (default: ``frame``) is what the other two show. An index that has names counts as columns.
    """
    frame = _flat(frame)
    shown = frame if display is None else _flat(display)
    folder = paths.figures_dir(profile)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "csv": frame.to_csv(index=False, float_format=FLOATS, lineterminator="\n"),
        "tex": latex(shown, name, caption),
        "md": (f"{caption}\n\n" if caption else "") + markdown(shown) + "\n",
    }
    written = []
    for suffix, text in texts.items():
        path = folder / f"{name}.{suffix}"
        partial = folder / f".{name}.{suffix}.{os.getpid()}"
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, path)
        written.append(path)
    return written


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a GitHub-flavoured Markdown table."""
    cells = _cells(frame).map(lambda text: re.sub(r"\s*\n\s*", "<br>", text.strip()).replace("|", r"\|"))
    cells.columns = [str(column).replace("|", r"\|") for column in cells.columns]
    return cells.to_markdown(index=False, disable_numparse=True)


def show(frame: pd.DataFrame):
    """A display frame as a notebook shows it, with its marks rendered."""
    from IPython.display import Markdown

    return Markdown(markdown(_flat(frame)))


def latex(frame: pd.DataFrame, name: str, caption: str = "") -> str:
    r"""A frame as a LaTeX ``table`` (package booktabs), labelled ``tab:<name>``.

    A first cell that repeats the one above stays empty, and a new one starts a ``\midrule`` group,
    if the first column repeats at all. Long text becomes a paragraph column.
    """
    cells = _cells(frame)
    wide = [len(cells) > 0 and cells.iloc[:, place].str.len().max() > WIDE for place in range(cells.shape[1])]
    paragraph = f"p{{{0.8 / max(sum(wide), 1):.2g}\\linewidth}}"
    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes]
    layout = "".join(paragraph if w else "r" if n else "l" for w, n in zip(wide, numeric, strict=True))
    first = cells.iloc[:, 0]
    cells = cells.map(_tex)
    if first.duplicated().any():
        again = first.eq(first.shift())
        starts = cells.iloc[:, 0].where(cells.index == cells.index[0], "\\midrule\n" + cells.iloc[:, 0])
        cells.isetitem(0, starts.mask(again, ""))
    cells.columns = [_tex(str(column)) for column in cells.columns]
    caption = _tex(caption) if caption else None
    body = cells.to_latex(
        index=False, escape=False, column_format=layout, caption=caption, label=f"tab:{name}", position="t"
    )
    start = "\\begin{table}[t]\n"
    return "% needs \\usepackage{booktabs}\n" + body.replace(start, start + "\\centering\\small\n", 1)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean over calibration seeds per variant, sparsity and task, and over tasks (task ``average``).

    The variance of a mean is that of its items (shared by the seeds, so not divided by their
    number) plus the variance between k seeds over k; tasks are independent, so the average of T
    tasks has standard error sqrt(Σ se²)/T. Only a frame's primary metrics count. A variant that
    lacks a task of the frame has no average.

    Returns requested_sparsity, method, score, label, task, value, stderr, seeds [and published].
    """
    models = sorted(frame["model"].unique()) if "model" in frame else []
    if len(models) > 1:
        raise ValueError(f"one model at a time: filter the frame, which has {', '.join(models)}")
    frame = frame[frame["primary"].astype(bool)] if "primary" in frame else frame
    frame = frame.assign(label=labels.variants(frame))
    keys = ["requested_sparsity", "method", *(["score"] if "score" in frame else []), "label"]
    rows = []
    for key, cell in frame.groupby([*keys, "task"], sort=False):
        between = cell["value"].var(ddof=1) / len(cell) if len(cell) > 1 else 0.0
        row = dict(zip([*keys, "task"], key, strict=True))
        row |= {"value": cell["value"].mean(), "stderr": math.sqrt((cell["stderr"] ** 2).mean() + between)}
        row["seeds"] = len(cell)
        if "published" in cell:
            row["published"] = cell["published"].mean()
        rows.append(row)
    means = pd.DataFrame(rows)
    tasks = labels.task_order(means["task"])
    averages = []
    for key, variant in means.groupby(keys, sort=False):
        row = dict(zip(keys, key, strict=True)) | {"task": AVERAGE, "seeds": variant["seeds"].min()}
        complete = len(variant) == len(tasks)
        row["value"] = variant["value"].mean() if complete else np.nan
        row["stderr"] = math.sqrt((variant["stderr"] ** 2).sum()) / len(tasks) if complete else np.nan
        if "published" in variant:
            row["published"] = variant["published"].mean()
        averages.append(row)
    return pd.concat([means, pd.DataFrame(averages)], ignore_index=True)


def by_allocation(frame: pd.DataFrame) -> pd.DataFrame:
    """Averages over tasks under each sparsity allocation (Table 3): ``summary``'s columns and ``allocation``.

    The dense model is a row of allocation ``none``.
    """
    frame = frame.assign(allocation=frame["allocation"].where(frame["requested_sparsity"] > 0, "none"))
    parts = {name: summary(part) for name, part in frame.groupby("allocation", sort=False)}
    means = pd.concat([part.assign(allocation=name) for name, part in parts.items()], ignore_index=True)
    return means[means["task"] == AVERAGE].reset_index(drop=True)


def sparsity_settings(means: pd.DataFrame, digits: int = 1) -> pd.DataFrame:
    """The form of the paper's Table 3: rows sparsity × method, a column of averages per allocation.

    Takes the frame of ``by_allocation``; the best of every row is bold, the second underlined.
    """
    names = [name for name in means["allocation"].unique() if name != "none"]
    order, blocks = labels.variant_order(means), []
    for sparsity, block in means.groupby("requested_sparsity"):
        wide = block.pivot(index="label", columns="allocation", values="value")
        if not sparsity:
            wide = wide.rename(columns={"none": names[0]})
        wide = wide.reindex(columns=names).loc[[label for label in order if label in wide.index]]
        shown = (100 * wide).apply(_marked, axis=1, digits=digits)
        blocks.append(_with_heads(shown, sparsity))
    return pd.concat(blocks, ignore_index=True)


def zero_shot(frame: pd.DataFrame, digits: int = 1) -> pd.DataFrame:
    """The form of the paper's Tables 1 and 4: rows sparsity × method, columns tasks and average.

    Takes the frame of ``evaluate``; cells are percentages, with the best of every sparsity bold
    and the second best underlined. With a column ``published`` (``with_published``), the paper's
    average over the tasks that both have stands last.
    """
    means = summary(frame)
    tasks = labels.task_order(task for task in means["task"].unique() if task != AVERAGE)
    order = labels.variant_order(means)
    blocks = []
    for sparsity, block in means.groupby("requested_sparsity"):
        wide = block.pivot(index="label", columns="task", values="value").reindex(columns=[*tasks, AVERAGE])
        wide = wide.loc[[label for label in order if label in wide.index]]
        shown = (100 * wide).apply(_marked, digits=digits)
        if "published" in block:
            paper = block[block["task"] == AVERAGE].set_index("label")["published"].reindex(wide.index)
            shown["paper, same tasks"] = _plain(100 * paper, digits)
        blocks.append(_with_heads(shown, sparsity))
    names = {task: labels.task(task) for task in tasks} | {AVERAGE: "Average"}
    return pd.concat(blocks, ignore_index=True).rename(columns=names)


def published(name: str) -> pd.DataFrame:
    """The paper's numbers of ``data/published/<name>.csv``, as printed there (column ``unit``)."""
    path = paths.published_dir() / f"{name}.csv"
    if not path.exists():
        known = sorted(file.stem for file in paths.published_dir().glob("*.csv"))
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"
        raise FileNotFoundError(f"no published table {name!r}: {hint}")
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def with_published(frame: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """``frame`` and, beside every measured value, the paper's in the same unit (column ``published``).

    Rows meet on method, score, allocation, sparsity and task, as far as both frames have them; a
    bundled task meets the task it mirrors. The paper's model is in ``published_model``: the two
    numbers are about different models unless it says otherwise.
    """
    by = [c for c in ("method", "score", "allocation", "requested_sparsity", "task") if c in frame and c in published]
    paper = _keys(published, by).join(published[["model", "value", "unit"]])
    paper["value"] = paper["value"].where(paper["unit"] != "percent", paper["value"] / 100)
    paper = paper.drop(columns="unit").rename(columns={"value": "published", "model": "published_model"})
    merged = _keys(frame, by).merge(paper, on=by, how="left", validate="many_to_one")
    return frame.assign(published=merged["published"].values, published_model=merged["published_model"].values)


def _keys(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The columns ``by`` in the one spelling that makes equal things equal."""
    keys = frame[by].copy()
    keys["method"] = keys["method"].map(labels.method_key)
    for column in {"score", "allocation"} & set(by):
        keys[column] = keys[column].where(keys["method"] != "dense", "").fillna("").replace({"none": "", "-": ""})
    if "task" in by:
        keys["task"] = keys["task"].map(labels.base_task)
    if "requested_sparsity" in by:
        keys["requested_sparsity"] = keys["requested_sparsity"].astype(float).round(6)
    return keys


def _marked(column: pd.Series, digits: int) -> pd.Series:
    """Numbers as text, the largest bold and the next largest underlined, compared as displayed."""
    texts = _plain(column, digits)
    ranked = sorted({float(text) for text in texts if text != MISSING}, reverse=True)
    if len(column.dropna()) < 2:
        return texts
    marks = dict(zip((f"{value:.{digits}f}" for value in ranked), ("**{}**", "<ins>{}</ins>"), strict=False))
    return texts.map(lambda text: marks.get(text, "{}").format(text))


def _plain(column: pd.Series, digits: int) -> pd.Series:
    return column.map(lambda value: MISSING if pd.isna(value) else f"{value:.{digits}f}")


def _with_heads(shown: pd.DataFrame, sparsity: float) -> pd.DataFrame:
    shown.insert(0, "Sparsity", labels.sparsity(sparsity))
    shown.insert(1, "Method", shown.index)
    return shown


def _flat(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.reset_index() if any(frame.index.names) else frame.reset_index(drop=True)


def _cells(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype(object).map(_cell)


def _cell(value) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA:
        return MISSING
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def _tex(text: str) -> str:
    """Text for LaTeX: marks become commands, ``$…$`` without spaces stays mathematics, the rest is escaped."""
    for pattern, command in ((r"\*\*(.*)\*\*", r"\textbf"), (r"<ins>(.*)</ins>", r"\underline")):
        if match := re.fullmatch(pattern, text):
            return f"{command}{{{_tex(match[1])}}}"
    parts = _MATH.split(re.sub(r"\s*\n\s*", " ", text))
    return "".join(part if i % 2 else "".join(_TEX.get(c, c) for c in part) for i, part in enumerate(parts))
