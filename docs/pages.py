"""Tables and numbers of the pages come from files; this program copies them anew into the pages.

    python docs/pages.py           rewrite what is out of date (make docs)
    python docs/pages.py --check   only name the pages that are out of date; exit status 1 if there are any

Two kinds of marks, which a reader of the rendered page does not see:

- a block, by cog: a comment with, say, ``print(table("figures/bench/targets.md"))`` between cog's brackets, the
  block, and cog's end mark in a comment;
- a number in a sentence: ``2.7 [0.9, 4.6]<!-- behind(0.5, "SEAP, s_F", "FLAP, s_F") -->``. The comment calls a
  function of this module. ``ahead``, ``behind``, ``level``, ``uncorrected``, ``claimed`` and ``estimate`` fail where
  the finding is no longer what the sentence says, so that no number is refreshed under a sentence that has become
  wrong.

Tables are those of ``figures/embedded_full`` unless a call names another profile.
"""

import argparse
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from api import reference, rooms  # noqa: F401 (called by pages)
from cogapp.cogapp import Cog, CogError
from scipy.stats import norm

from seaplib.evaluation import comparison
from seaplib.input_sparsity import rule
from seaplib.reports import display_names, published, summaries, tables
from seaplib.runner import plan

ROOT = Path(__file__).resolve().parents[1]
PROFILE = "embedded_full"
#: a number, with an interval or not, or a question mark that waits for the first; then the comment
QUOTED = re.compile(r"(?:[−+]?\d[\d.,]*(?: \[[^\]\n]*\])?|\?)(?P<mark><!-- (?P<call>[a-z_]+\(.*?\)) -->)")
LEVEL = 0.05  # of Holm's corrected p-values
INTEGER = r"-?(0|[1-9]\d*)"
NUMBER = INTEGER + r"(\.\d+)?(e[+-]?\d+)?"
#: the README's rows: method → its allocation, where that is not the paper's
SUMMARY = dict.fromkeys(("dense", "random", "magnitude", "Wanda-sp", "FLAP", "SEAP", "SEAP-gen"), "logistic")
SUMMARY |= {"dense": "none", "FLAP as published": "adaptive", "FLAP-energy": "energy", "SEAP-energy": "energy"}
#: the rows of comparisons that are meant where a call does not say otherwise
USUAL = {"task": "all", "allocation": comparison.POOLED, "recipe": comparison.POOLED, "base": comparison.POOLED}
TEXTS = {"general": "general text", "task": "the task's own", "all": "all tasks'", "none": "–"}


class PageError(ValueError):
    """A mark that cannot be filled; the message names the page and the line."""


def names() -> list[str]:
    """The pages, as paths from the project's root."""
    files = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("data/bundled/*.md"))]
    return [file.relative_to(ROOT).as_posix() for file in files]


def refreshed(text: str, name: str = "page") -> str:
    """``text`` with its blocks and numbers as the files have them. :class:`PageError` for a mark that fails."""
    cog = Cog()
    cog.options.print_output = True
    cog.options.prologue = "from pages import *"
    try:
        text = cog.process_string(text, name)
    except CogError as error:
        raise PageError(str(error).strip()) from error
    except SyntaxError as error:
        raise PageError(f"{name}: {error}") from error

    def filled(found: re.Match) -> str:
        try:
            return eval(found["call"], globals()) + found["mark"]
        except Exception as error:
            line = text.count("\n", 0, found.start()) + 1
            raise PageError(f"{name}:{line}: {found['call']}: {error}") from error

    return QUOTED.sub(filled, text)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Copy tables and numbers into the pages.")
    parser.add_argument("--check", action="store_true", help="name the pages that are out of date, and change none")
    check = parser.parse_args(arguments).check
    before = {name: (ROOT / name).read_text("utf-8") for name in names()}
    try:
        after = {name: refreshed(text, name) for name, text in before.items()}  # all pages, before any is written
    except PageError as error:
        print(error, file=sys.stderr)
        return 2
    stale = [name for name in before if before[name] != after[name]]
    for name in stale:
        if not check:
            (ROOT / name).write_text(after[name], "utf-8")
        print(f"{name}: {'out of date; run: make docs' if check else 'refreshed'}")
    return int(check and bool(stale))


# --- blocks -------------------------------------------------------------------------------------------


def table(file: str) -> str:
    """A file, named from the project's root: a csv as a Markdown table, other text as it is."""
    path = ROOT / file
    if path.suffix != ".csv":
        return path.read_text("utf-8").strip()
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)  # as text: a whole number beside a gap stays whole
    return tables.markdown(pd.DataFrame({name: _column(frame[name]) for name in frame}))


def _column(cells: Iterable[str]) -> list[str]:
    """Three decimals for a column of numbers that are not all whole; other columns unchanged."""
    written = [cell for cell in cells if cell]
    if all(re.fullmatch(INTEGER, cell) for cell in written) or not all(re.fullmatch(NUMBER, cell) for cell in written):
        return list(cells)
    return [f"{round(float(cell), 3) + 0.0:.3f}" if cell else "" for cell in cells]  # + 0.0: no -0.000


def bench(group: str) -> str:
    """A group of the benchmarks: median of the rounds, smallest and largest; before it the machine."""
    frame = pd.read_csv(ROOT / "figures" / "bench" / f"{group}.csv", keep_default_na=False)
    about = pd.read_csv(ROOT / "figures" / "bench" / "machine.csv", dtype=str).query("group == @group")
    shown = frame[["case", "quantity"]].assign(
        median=[f"{row.median:.3g}{row.unit if row.unit == '×' else f' {row.unit}'}" for row in frame.itertuples()],
        rounds=[f"{row.min:.3g} – {row.max:.3g}" for row in frame.itertuples()],
    )
    said = ", ".join(f"{row.what} {row.value}" for row in about.itertuples())
    return f"{said}.\n\n" + tables.markdown(shown.rename(columns={"rounds": "smallest – largest"}))


def summary() -> str:
    """The averages of Table 1 with half of their 95% intervals, by accuracy and by exact match; the paper's beside."""
    frame = pd.concat([read("table1_zero_shot"), read("beyond")])
    frame = frame[frame["method"].map(SUMMARY).eq(frame["allocation"]) & (frame["budget"] != "floor")]
    keys = ["method", "score", "requested_sparsity", "calibration_seed", "task", "metric"]
    frame = frame.drop_duplicates(keys)
    exact = frame[frame["metric"] == "exact_match"].assign(primary=True)
    with_paper = published.with_published(frame, published.published("table1_zero_shot"))
    ours, papers = {}, {}
    sparsities = frame[frame["method"] != "dense"].groupby("method")["requested_sparsity"].agg(set)
    for head, part in (("accuracy", with_paper), ("exact match", exact)):
        means = summaries.summary(part)
        means = means[means["task"] == tables.AVERAGE]
        for sparsity in sorted(set.intersection(*sparsities)):  # at which every row was run
            rows, share = means[means["requested_sparsity"].isin((0.0, sparsity))], display_names.sparsity(sparsity)
            rows = rows.set_index("label")
            values, halves = 100 * rows["value"], 196 * rows["stderr"]
            ours[f"{head}, {share}"] = values.map("{:.1f}".format) + halves.map(" ± {:.1f}".format)
            if "published" in rows and rows["published"].notna().sum() > 1:
                papers[f"paper, {share}"] = (100 * rows["published"]).map("{:.1f}".format).replace("nan", "–")
    texts = frame.assign(label=display_names.variants(frame)).groupby("label")["calibration"].first().map(TEXTS)
    shown = pd.DataFrame({"calibrated on": texts} | ours | papers).loc[display_names.variant_order(means)]
    text = tables.markdown(shown.rename_axis("method").reset_index())
    return re.sub(r" {2,}\|", " |", re.sub(r"-{3,}", "--", text))  # the README is to be short


def differences(name: str, pairs: dict[tuple[str, str], str], metrics=("primary", "exact_match"), **where) -> str:
    """Paired differences in points with 95% intervals, a column per sparsity; bold where an interval excludes 0.

    ``pairs`` maps (a, b), as the table ``name`` has them, to the words for "a minus b".
    """
    rows = []
    for (a, b), words in pairs.items():
        for metric in metrics:
            row = {"difference": words, "by": display_names.metric(metric)}
            for each in _rows(name, a, b, metric=metric, **where).sort_values("requested_sparsity").itertuples():
                mark = "**" if each.low > 0 or each.high < 0 else ""
                cell = f"{mark}{_signed(each.difference, each.low, each.high)}{mark}"
                row[display_names.sparsity(each.requested_sparsity)] = cell
            rows.append(row)
    return tables.markdown(pd.DataFrame(rows))


def notebooks() -> str:
    """The notebooks, their questions, and the figures and tables of the paper that they make."""
    rows = []
    for name, declared in plan.read()[1].items():
        made = [re.match(r"(fig|table)(\d+)_", product) for product in (*declared.figures, *declared.tables)]
        made = dict.fromkeys(f"{'Fig.' if found[1] == 'fig' else 'Table'} {found[2]}" for found in made if found)
        rows.append({"notebook": name, "question": declared.title, "in the paper": ", ".join(made) or tables.MISSING})
    text = tables.markdown(pd.DataFrame(rows))  # in which nothing is a link: cells may come from anywhere
    return re.sub(r"^\| (\S+\d_\w+)", r"| [`\1`](../notebooks/\1.ipynb)", text, flags=re.MULTILINE)


def sparse_inputs() -> str:
    """The criteria and transformations of sparse inputs, with their definitions."""
    kinds = {"criterion": rule.CRITERIA, "transformation": rule.TRANSFORMATIONS}
    rows = [(kind, name, said) for kind, entries in kinds.items() for name, said in entries.items()]
    frame = pd.DataFrame(rows, columns=["field", "value", "is"])
    return tables.markdown(frame)


def profiles() -> str:
    """The profiles of ``papermill_runs.yaml`` in their own words."""
    rows = [{"profile": f"`{name}`", "what it runs": about.description} for name, about in plan.read()[0].items()]
    return tables.markdown(pd.DataFrame(rows))


# --- numbers in sentences -----------------------------------------------------------------------------


def ahead(sparsity: float, a: str, b: str, name: str = "zero_shot_comparisons", **where) -> str:
    """By how many points a is ahead of b, with the interval. ValueError where the interval does not lie above 0.

    Also where Holm's correction (:func:`corrected`) does not leave that standing: the pages say that it does.
    """
    found = _row(name, a, b, sparsity, where)
    if not found.low > 0:
        raise ValueError(f"a is not ahead: {_signed(found.difference, found.low, found.high)}; rewrite the sentence")
    _check_stands(name, found, where)
    return _plain(found.difference, found.low, found.high)


def behind(sparsity: float, a: str, b: str, name: str = "zero_shot_comparisons", **where) -> str:
    """By how many points a is behind b, with the interval. ValueError where the interval does not lie below 0.

    Also where Holm's correction does not leave that standing.
    """
    found = _row(name, a, b, sparsity, where)
    if not found.high < 0:
        raise ValueError(f"a is not behind: {_signed(found.difference, found.low, found.high)}; rewrite the sentence")
    _check_stands(name, found, where)
    return _plain(-found.difference, -found.high, -found.low)


def corrected(name: str, found, where: dict) -> float:
    """The p-value of a row, with Holm's correction for the rows of its kind, which is what a page chooses from.

    Of one kind are the rows by one metric, over all tasks or of single tasks, pooled or not. Where no draw contradicted
    a difference, its p-value is the bootstrap's smallest, 2/(draws + 1): times hundreds of rows that would let nothing
    stand, so that the normal distribution with the interval's width gives the value.
    """
    rows = _where(read(name), {"metric": found.metric})
    for column, value in USUAL.items():
        if column in rows:
            whole = {value, comparison.POOLED}
            rows = rows[rows[column].isin(whole) == (where.get(column, value) in whole)]
    normal = 2 * norm.sf(rows["difference"].abs() * 2 * norm.ppf(0.975) / (rows["high"] - rows["low"]))
    smallest = rows["p"].where(rows["p"] > rows["p"].min(), np.minimum(normal, rows["p"]))
    return dict(zip(rows.index, comparison.holm(smallest), strict=True))[found.Index]


def _check_stands(name: str, found, where: dict) -> None:
    if not (p := corrected(name, found, where)) < LEVEL:
        raise ValueError(f"Holm's correction does not leave it standing (p = {p:.2g}); rewrite the sentence")


def level(sparsity: float, a: str, b: str, name: str = "zero_shot_comparisons", **where) -> str:
    """a minus b in points, with the interval. ValueError where the interval excludes 0."""
    found = _row(name, a, b, sparsity, where)
    if found.low > 0 or found.high < 0:
        raise ValueError(f"decided: {_signed(found.difference, found.low, found.high)}; rewrite the sentence")
    return _signed(found.difference, found.low, found.high)


def uncorrected(sparsity: float, a: str, b: str, name: str = "zero_shot_comparisons", **where) -> str:
    """a minus b in points, with an interval off 0 that Holm's correction does not leave standing; else ValueError."""
    found = _row(name, a, b, sparsity, where)
    p = corrected(name, found, where)
    if (found.low <= 0 <= found.high) or p < LEVEL:
        said = f"{_signed(found.difference, found.low, found.high)}, p = {p:.2g}"
        raise ValueError(f"undecided, or standing after Holm's correction: {said}; rewrite the sentence")
    return _signed(found.difference, found.low, found.high)


def pairs(name: str = "zero_shot_comparisons") -> str:
    """How many items a comparison over all tasks is about."""
    return _text(read(name)["n"].max(), 0)


def number(name: str, /, column: str, decimals: int = 0, times: float = 1, **where) -> str:
    """A cell of a table, times ``times``; ``where`` names its row."""
    return _text(times * _one(name, where)[column], decimals)


def estimate(
    name: str,
    /,
    column: str = "value",
    decimals: int = 2,
    times: float = 1,
    bounds: str = "",
    above: float | None = None,
    below: float | None = None,
    **where,
) -> str:
    """A cell with its interval, from the columns ``<bounds>low`` and ``<bounds>high``; ``where`` names the row.

    ValueError where the interval does not lie above ``above`` and below ``below``, which the sentence says.
    """
    row = _one(name, where)
    low, high = sorted(times * row[f"{bounds}{end}"] for end in ("low", "high"))
    if (above is not None and low <= above) or (below is not None and high >= below):
        raise ValueError(f"the interval is [{low}, {high}]; rewrite the sentence")
    value, low, high = (_text(each, decimals) for each in (times * row[column], low, high))
    return f"{value} [{low}, {high}]"


def claimed(claim_id: str, decimals: int = 1, verdict: str = comparison.HOLDS) -> str:
    """What the scorecard has of a claim, with its interval. ValueError where its verdict is another.

    Also where Holm's correction within the scorecard's part or notebook does not leave a decided verdict standing.
    """
    both = pd.concat([read("scorecard_paper"), read("scorecard")], ignore_index=True)
    row = _row_of(both, "the scorecard", {"claim_id": claim_id})
    stands = verdict == comparison.UNDECIDED or not row["p_holm"] >= LEVEL
    if row["verdict"] != verdict or not stands:
        raise ValueError(f"{row['verdict']}, p = {row['p_holm']:.2g}; rewrite the sentence")
    value, low, high = (_text(row[each], decimals) for each in ("measured", "low", "high"))
    return f"{value} [{low}, {high}]"


def _one(name: str, where: dict) -> pd.Series:
    return _row_of(read(name), name, where)


def _row_of(frame: pd.DataFrame, name: str, where: dict) -> pd.Series:
    rows = _where(frame, where)
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows of {name} are so, not one")
    return rows.iloc[0]


@cache
def read(name: str, profile: str = PROFILE) -> pd.DataFrame:
    """An exported table."""
    return pd.read_csv(ROOT / "figures" / profile / f"{name}.csv")


def _where(frame: pd.DataFrame, where: dict) -> pd.DataFrame:
    """The rows whose columns have these values."""
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame


def _rows(name: str, a: str, b: str, metric: str = "primary", **where) -> pd.DataFrame:
    """The comparisons of a with b, over all tasks and pooled unless ``where`` says otherwise."""
    frame = read(name)
    where = {column: value for column, value in USUAL.items() if column in frame} | where
    found = _where(frame, {"a": a, "b": b, "metric": metric} | where)
    if found.empty:
        raise ValueError(f"{name} compares no {a!r} with {b!r} by {metric}, {where}")
    return found


def _row(name: str, a: str, b: str, sparsity: float, where: dict):
    rows = _rows(name, a, b, **where)
    (found,) = rows[rows["requested_sparsity"] == sparsity].itertuples()
    return found


def _text(value: float, decimals: int) -> str:
    return f"{round(value, decimals) + 0.0:,.{decimals}f}".replace("-", "−")  # + 0.0: no −0


def _plain(difference: float, low: float, high: float) -> str:
    value, low, high = (_text(100 * each, 1) for each in (difference, low, high))
    return f"{value} [{low}, {high}]"


def _signed(difference: float, low: float, high: float) -> str:
    lost = (low > 0 and round(100 * low, 1) == 0) or (high < 0 and round(100 * high, 1) == 0)
    texts = [_text(100 * each, 2 if lost else 1) for each in (difference, low, high)]  # an end off 0 does not read 0.0
    value, low, high = (text if text[0] == "−" or text == "0.0" else f"+{text}" for text in texts)
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    sys.exit(main())
