"""Measured beside published numbers: is the model the paper's, and do the numbers agree?

Both numbers are about the same test items only if the model is the paper's, so a difference is taken
then and only then. The dense rows come first: where the dense model is already
off, the protocol differs from the paper's and the rows below compare two protocols, not two methods.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from .. import paths
from ..settings import suggestion
from . import display_names, tables

#: the paper's models → the published table of their zero-shot accuracies
ZERO_SHOT = {"Llama-2-7B": "table1_zero_shot", "Llama-2-13B": "table4_zero_shot"}
OTHER = "another model"
AGREE, DISAGREE = "yes", "no"


def paper_model(name: str) -> str | None:
    """The paper's name of a hub id or directory (``meta-llama/Llama-2-7b-hf``), None if it is another model."""
    key = display_names.method_key(Path(str(name)).name)
    return next((known for known in ZERO_SHOT if key in (base := display_names.method_key(known), f"{base}hf")), None)


def zero_shot(name: str, other: str = "table1_zero_shot") -> pd.DataFrame:
    """The published zero-shot accuracies of this model; table ``other`` if the paper has none of the model."""
    return published(ZERO_SHOT.get(paper_model(name), other))


def beside(frame: pd.DataFrame, model: str, published_model: str | None = None) -> pd.DataFrame:
    """Rows of ``frame`` (value, stderr, published, …) that have a published number, the dense model's first.

    Adds ``published_model``, ``difference`` (measured − published) and ``within_2_se`` ("yes", "no", or
    "another model"): |difference| ≤ 2 standard errors of the measured number, which cover items (and
    calibration seeds), not the variation of the published number. ``published_model``
    names the model of the published numbers where ``frame`` has no such column.
    """
    found = frame[frame["published"].notna()].copy()
    if "published_model" not in found:
        found["published_model"] = published_model
    named = paper_model(model)
    own = (found["published_model"] == named) | ((found["published_model"] == "Llama-2") & (named is not None))
    difference = (found["value"] - found["published"]).where(own)
    within = np.where(difference.abs() <= 2 * found["stderr"] + 1e-12, AGREE, DISAGREE)
    within = (
        pd.Series(within, index=found.index).where(own, OTHER).where(~own | found["stderr"].notna(), tables.MISSING)
    )
    found = found.assign(model=model, difference=difference, within_2_se=within)
    if "method" not in found:
        return found
    ranked = found.assign(_rank=found["method"].map(display_names.method_rank), _dense=found["method"] != "dense")
    return ranked.sort_values(["_dense", "requested_sparsity", "_rank"], kind="stable").drop(
        columns=["_rank", "_dense"]
    )


def display(found: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """``beside``'s rows for reading: ``columns`` (column → heading) name a row; the numbers, in percent, follow."""
    shown = pd.DataFrame({heading: found[column] for column, heading in columns.items()})
    if "allocation" in columns:
        shown[columns["allocation"]] = found["allocation"].map(display_names.allocation)
    for column in ("published", "value", "stderr", "difference"):
        sign = "+" if column == "difference" else ""
        text = (100 * found[column]).map(f"{{:{sign}.2f}}".format)
        shown["measured" if column == "value" else "s.e." if column == "stderr" else column] = text.replace("nan", "–")
    return shown.assign(**{"within 2 s.e.": found["within_2_se"]}).replace({"+nan": "–"}).reset_index(drop=True)


def verdict(found: pd.DataFrame) -> str:
    """One sentence: does the dense model agree, and how many of the other rows do."""
    if (found["within_2_se"] == OTHER).all():
        models = ", ".join(sorted(set(found["published_model"].astype(str)))) or "no model"
        return f"The published numbers are about {models}: another model, so no difference is taken."
    is_dense = found["method"] == "dense"
    counts = [(found.loc[rows, "within_2_se"] == AGREE).sum() for rows in (is_dense, ~is_dense)]
    text = f"Dense: {counts[0]} of {is_dense.sum()} numbers within two standard errors of the published ones; pruned: "
    text += f"{counts[1]} of {(~is_dense).sum()}."
    if counts[0] < is_dense.sum():
        text += " **The dense model is off, so that the rows below it compare protocols as well as methods.**"
    return text


def task_classifier(found: pd.DataFrame, model: str) -> pd.DataFrame:
    """Results of classifiers (input, class, metric, value, n) and, for "all words", the paper's Table 6 beside them.

    Adds published, difference and within_2_se (:func:`beside`) for accuracy and recall, whose standard errors are
    binomial.
    """
    printed = published("table6_task_classifier")
    keys = [printed["class"].map(display_names.base_task), printed["metric"]]
    values = printed.set_index(keys)["value"]
    mine = list(zip(found["class"].map(display_names.base_task), found["metric"], strict=True))
    result = found.assign(published=values.reindex(mine).to_numpy())
    result.loc[result["input"] != "all words", "published"] = np.nan  # the paper has no such row
    n = result["n"].where(result["metric"].isin(["recall", "accuracy"]))
    stderr = (result["value"] * (1 - result["value"]) / n) ** 0.5
    compared = beside(result.assign(stderr=stderr), model, "Llama-2")
    names = ["difference", "within_2_se"]
    return result.assign(model=model, **{name: compared[name].reindex(result.index) for name in names})


def published(name: str) -> pd.DataFrame:
    """The paper's numbers of ``data/published/<name>.csv``, as printed there (column ``unit``)."""
    path = paths.published_dir() / f"{name}.csv"
    if not path.exists():
        known = sorted(file.stem for file in paths.published_dir().glob("*.csv"))
        raise FileNotFoundError(f"no published table {name!r}{suggestion(name, known)}")
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def with_published(frame: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """``frame`` and, beside every measured value, the paper's in the same unit (column ``published``).

    Rows meet on method, score, allocation, sparsity and task, as far as both frames have them; a
    bundled task meets the task it mirrors. The paper's model is in ``published_model``: the two
    numbers are about different models unless both names agree.
    """
    by = [c for c in ("method", "score", "allocation", "requested_sparsity", "task") if c in frame and c in published]
    paper = _keys(published, by).join(published[["model", "value", "unit"]])
    paper["value"] = paper["value"].where(paper["unit"] != "percent", paper["value"] / 100)
    paper = paper.drop(columns="unit").rename(columns={"value": "published", "model": "published_model"})
    merged = _keys(frame, by).merge(paper, on=by, how="left", validate="many_to_one")
    return frame.assign(published=merged["published"].values, published_model=merged["published_model"].values)


def _keys(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The columns ``by``, spelled so that equal things are equal."""
    keys = frame[by].copy()
    keys["method"] = keys["method"].map(display_names.method_key)
    for column in {"score", "allocation"} & set(by):
        keys[column] = keys[column].where(keys["method"] != "dense", "").fillna("").replace({"none": "", "-": ""})
    if "task" in by:
        keys["task"] = keys["task"].map(display_names.base_task)
    if "requested_sparsity" in by:
        keys["requested_sparsity"] = keys["requested_sparsity"].astype(float).round(6)
    return keys


class SparseInputs:
    """The published numbers of sparse inputs (LLM_activation_pruning), by rule, model and task.

    A rule is (method, pattern, transformation, targets), as in the columns of :func:`rule_key`. A number whose row
    cannot be what its label says (column ``flag`` of the file) is in doubt and is shown with †.
    """

    DOUBT = "†"

    def __init__(self, name: str):
        rows = published(name).query("metric in ('perplexity', 'acc')")
        rows = rows.replace({"targets": {"qkv": "q+k+v", "qkvo": "attention"}})
        rows["transformation"] = rows["transformation"].str.lower()
        rows = rows.fillna(dict.fromkeys(self.KEYS, "none"))
        rows.loc[rows["method"] == "Dense", "targets"] = "none"
        each = rows.drop_duplicates([*self.KEYS, "model", "task"]).set_index([*self.KEYS, "model", "task"])
        self.values = each["value"].to_dict()
        self.models = list(dict.fromkeys(rows["model"]))
        flagged = rows.loc[rows["flag"].notna(), [*self.KEYS, "model"]]
        self.doubted = set(flagged.itertuples(index=False, name=None))

    KEYS = ("method", "pattern", "transformation", "targets")

    def __repr__(self) -> str:
        return (
            f"SparseInputs({len(self.values)} numbers of {len(self.models)} models, {len(self.doubted)} rows in doubt)"
        )

    def mean(self, rule: tuple | None, model: str, tasks: Sequence[str]) -> float:
        """The mean number of a rule over ``tasks``; NaN where one of them is missing, and for no rule."""
        return float(np.mean([self.values.get((*(rule or ()), model, task), np.nan) for task in tasks]))

    def text(self, rule: tuple | None, model: str, *groups: Sequence[str]) -> str:
        """The mean over each group of tasks, "6.943 · 0.75", marked where in doubt; a dash where there is none."""
        numbers = [self.mean(rule, model, tasks) for tasks in groups]
        if np.isnan(numbers).all():
            return tables.MISSING
        shown = " · ".join(tables.MISSING if np.isnan(number) else f"{number:.4g}" for number in numbers)
        return shown + self.DOUBT * (rule is not None and (*rule, model) in self.doubted)

    def quote(self, a: tuple | None, b: tuple | None, tasks: Sequence[str]) -> str:
        """Both rules' numbers on every model that has both: "Llama 6.9 against 7.1; …"; empty where there is none."""
        said = []
        for model in self.models:
            numbers = [self.mean(rule, model, tasks) for rule in (a, b)]
            if not np.isnan(numbers).any():
                mark = self.DOUBT * bool({(*a, model), (*b, model)} & self.doubted)
                said.append(f"{model} {numbers[0]:.4g} against {numbers[1]:.4g}{mark}")
        return "; ".join(said)


def rule_key(row: Mapping) -> tuple | None:
    """The published tables' rule of a result row: method, pattern, transformation, targets, with Dense for no rule.

    None for a criterion other than magnitude, which they do not have.
    """
    if row["criterion"] not in ("none", "magnitude"):
        return None
    method = row["method"].replace("sparse ", "").replace("dense", "Dense")
    return (method, str(row["pattern"]), row["transformation"], row["targets"])


def sparse_input_quotes(
    pairs: Iterable[tuple[str, str]], summary: pd.DataFrame, said: SparseInputs, tasks: Sequence[str]
) -> list[str]:
    """For each pair of rules what was published: perplexities, then mean accuracies over ``tasks``.

    Repairs were published for attention's inputs alone, and stand beside the same pattern there.
    """
    keys, quotes = {row["rule"]: rule_key(row) for row in summary.to_dict("records")}, []
    for a, b in pairs:
        first, second = keys[a], keys[b]
        if first and first[2] != "none":
            first, second = (*first[:3], "attention"), (*first[:2], "none", "attention")
        quotes += [said.quote(first, second, of) for of in (["wikitext2"], tasks)]
    return quotes


def sparse_inputs(summary: pd.DataFrame, accuracy: pd.DataFrame, said: SparseInputs, model: str) -> pd.DataFrame:
    """The form of the published tables: a row per rule, perplexities and accuracies, those of ``model`` beside them.

    ``summary``: rule, achieved_sparsity, ``ppl …`` columns, and those of :func:`rule_key`; ``accuracy`` is a row per
    rule and a column per task.
    """
    rows = []
    for row in summary.to_dict("records"):
        key = rule_key(row)
        line = {
            "Pruning": "none" if row["rule"] == "dense" else row["rule"],
            "skipped": f"{row['achieved_sparsity']:.0%}",
        }
        line |= {name: f"{row[name]:.4g}" for name in summary if name.startswith("ppl ")}
        line |= {display_names.task(task): f"{accuracy.loc[row['rule'], task]:.3f}" for task in accuracy}
        for task in ("wikitext2", *map(display_names.base_task, accuracy)):
            line[f"published: {display_names.task(task)}"] = said.text(key, model, [task])
        rows.append(line)
    return pd.DataFrame(rows)


def sparse_inputs_by_model(summary: pd.DataFrame, said: SparseInputs, tasks: Sequence[str]) -> pd.DataFrame:
    """Every published model in two numbers, perplexity and mean accuracy over ``tasks``, beside ours."""
    rows = []
    for row in summary.to_dict("records"):
        key = rule_key(row)
        here = f"{row['perplexity']:.4g} · {row['accuracy']:.3f}"
        line = {"Pruning": "none" if row["rule"] == "dense" else row["rule"], "here": here}
        line |= {model: said.text(key, model, ["wikitext2"], tasks) for model in said.models}
        rows.append(line)
    shown = pd.DataFrame(rows)
    return shown[(shown[said.models] != tables.MISSING).any(axis=1)]
