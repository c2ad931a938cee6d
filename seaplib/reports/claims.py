"""Claims, a row each: the sentence, the estimate with its interval, and the verdict.

A notebook saves its rows as ``claims_<notebook>``; :func:`gather` brings the tables of a profile together in two
parts: the paper's own claims (:mod:`.paper_claims`), and what else was tested. A claim's id is words: its name, and
behind it the sparsity and the metric, ``logistic-beats-uniform/50%/accuracy``; it is the same in every profile.

The verdict follows from the interval alone (:func:`seaplib.evaluation.comparison.verdict`). Whether it survives
Holm's correction is marked where claims stand together.
"""

import csv
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from .. import paths
from ..evaluation import bootstrap, comparison
from ..settings import suggestion
from . import display_names, published, tables
from .paper_claims import PAPER_CLAIMS

COLUMNS = (
    "claim_id", "part", "claim", "measured", "low", "high", "null", "direction",
    "unit", "n", "p_value", "p_floor", "verdict", "paper", "where",
)  # fmt: skip
DECIMALS = 10  # of measured, low and high: sums of floats that cancel leave 1e-17 where there is nothing
PAPER, FURTHER = "paper", "further"  # the two parts of the scorecard
NOT_TESTED = "not tested here"
LEVEL = 0.05  # of Holm's correction
MARK = " †"  # behind a verdict that does not survive it
COUNTER = re.compile(r"\d\d\.\d+")  # what an id was in older layouts
#: product of an older layout → the products that hold its claims now
OLDER_PRODUCTS = {
    "claims_hidden_states": ("claims_hidden_state_clustering",),
    "claims_norms": ("claims_norm_heatmaps",),
    "claims_remove_tests": ("claims_layer_remove_tests",),
    "claims_speed": ("claims_inference_speed",),
    "claims_routing": ("claims_routing_experts",),
    "claims_open_questions": (
        "claims_expert_transfer", "claims_expert_or_general", "claims_synthetic_text", "claims_calibration_size",
        "claims_logistic_curve",
    ),
}  # fmt: skip


def claim(
    text: str,
    measured: float,
    low: float,
    high: float,
    *,
    name: str = "",
    sparsity: float | None = None,
    metric: str = "",
    direction: int = 1,
    null: float = 0.0,
    unit: str = "",
    n: int | None = None,
    p_value: float = np.nan,
    p_floor: float = np.nan,
    paper: str = "",
    where: str = "",
) -> dict:
    """A claim as a row. ``direction`` is +1 if the claim says ``measured`` lies above ``null``, −1 if below.

    ``low`` and ``high`` bound the 95% interval of ``measured``; ``p_value`` is two-sided against ``null`` (NaN: not
    tested) and cannot fall below ``p_floor`` (NaN: no bound); ``paper`` says what the paper reports, ``where`` names
    the product. The id is ``name`` (by default the words of ``text``), then ``sparsity`` and ``metric``, which are
    also said behind ``text``. ``measured``, ``low`` and ``high`` are rounded to ``DECIMALS``, and the verdict is that
    of the rounded interval.
    """
    if direction not in (1, -1):
        raise ValueError(f"direction is 1 or -1, got {direction}")
    claim_id = _id(name or text, sparsity, metric)
    if sparsity is not None:
        text += f" at {display_names.sparsity(sparsity)}"
    if metric:
        text += f", by {display_names.metric(metric)}"
    measured, low, high = (round(float(value), DECIMALS) + 0.0 for value in (measured, low, high))  # + 0.0: no -0
    verdict = comparison.verdict(low - null, high - null, direction)
    values = (claim_id, FURTHER, text, measured, low, high, null, direction, unit, n, p_value, p_floor, verdict)
    return dict(zip(COLUMNS, (*values, paper, where), strict=True))


def points(text: str, found: Mapping, **about) -> dict:
    """The :func:`claim` on a paired difference in points; ``found`` is a result or a row of ``comparison``'s."""
    estimate = (100 * found[key] for key in ("difference", "low", "high"))
    return claim(text, *estimate, **{"unit": "points", "p_value": found["p"]} | _sizes(found) | about)


def of_means(values: Mapping[str, np.ndarray], where: str, draws: int, seed: int = 0, **about) -> list[dict]:
    """A claim per sentence: the mean of the sentence's ``values``, one for each task or prompt, lies above 0.

    The bootstrap draws the values, which are few: take its interval as a guide. ``about`` goes to every claim.
    """
    rows = []
    for text, each in values.items():
        found = bootstrap.estimate(each.mean(), bootstrap.means(each, draws, seed))
        rows.append(claim(text, **found, n=len(each), p_floor=bootstrap.p_floor(draws), where=where, **about))
    return rows


def times(text: str, found: Mapping, **about) -> dict:
    """The :func:`claim` on a ratio, by default above 1; ``found`` holds ratio, low, high, p, n and p_floor if known."""
    estimate = (found[key] for key in ("ratio", "low", "high"))
    return claim(text, *estimate, **{"null": 1.0, "unit": "×", "p_value": found["p"]} | _sizes(found) | about)


def of_contrasts(contrasts: pd.DataFrame, where: str, **about) -> list[dict]:
    """The :func:`points` of every row of ``comparison.contrasts`` or ``crossed`` that tests a claim, in their order.

    ``about`` goes to every claim. Choose the rows first: those over all tasks, or the pooled ones.
    """
    return [
        points(row["claim"], row, sparsity=row["requested_sparsity"], metric=row["metric"], where=where, **about)
        for row in contrasts.to_dict("records")
        if row["claim"]
    ]


def of_paper(
    name: str,
    measured: float,
    low: float,
    high: float,
    *,
    model: str,
    n: int | None = None,
    p_value: float = np.nan,
    p_floor: float = np.nan,
    where: str = "",
) -> dict:
    """A claim of the paper as a row; sentence, null value and the paper's number are those of ``PAPER_CLAIMS[name]``.

    A claim that is bound to models reads "not tested here" unless ``model`` is one of them; the estimate stands
    beside it all the same. KeyError where the paper claims nothing of that name.
    """
    if name not in PAPER_CLAIMS:
        raise KeyError(f"the paper has no claim {name!r}{suggestion(name, PAPER_CLAIMS)}")
    about = PAPER_CLAIMS[name]
    facts = {"null": about.null, "direction": about.direction, "unit": about.unit, "paper": about.paper}
    sizes = {"n": n, "p_value": p_value, "p_floor": p_floor, "where": where}
    row = claim(about.sentence, measured, low, high, name=name, **facts, **sizes) | {"part": PAPER}
    if about.models and published.paper_model(model) not in about.models:
        row["verdict"] = NOT_TESTED
    return row


def of_paper_points(name: str, found: Mapping, **about) -> dict:
    """:func:`of_paper` of a paired difference in points; ``found`` as in :func:`points`."""
    estimate = (100 * found[key] for key in ("difference", "low", "high"))
    return of_paper(name, *estimate, **{"p_value": found["p"]} | _sizes(found) | about)


def _sizes(found: Mapping) -> dict:
    return {"n": found["n"], "p_floor": found.get("p_floor", np.nan)}


def frame(rows: Iterable[dict]) -> pd.DataFrame:
    """Rows of :func:`claim` and :func:`of_paper` as a data frame."""
    return pd.DataFrame(list(rows), columns=list(COLUMNS))


def save(rows: Iterable[dict], notebook: str, profile: str) -> pd.DataFrame:
    """Save a notebook's claims as the product ``claims_<notebook without its number>``, the paper's claims first.

    Returns the rows as a data frame.

    ValueError where two claims have one id.
    """
    rows = frame(sorted(rows, key=lambda row: row["part"] != PAPER)).assign(notebook=notebook)
    if double := rows.loc[rows["claim_id"].duplicated(), "claim_id"].tolist():
        raise ValueError(f"two claims are named {double[0]!r}; give one of them another name")
    number, _, topic = notebook.partition("_")
    tables.save(rows, f"claims_{topic}", profile, f"Claims tested in notebook {number}.", display=table(rows))
    return rows


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Claims for reading: sentence, estimate, what is claimed, the paper's number, n, p, verdict.

    With Holm's correction (column ``p_holm``), p is the corrected value, and a verdict that does not survive it has
    a mark.
    """
    rows = rows.reset_index(drop=True)
    holm = "p_holm" in rows
    shown = {
        "claim": rows["claim"],
        "the paper": rows["paper"].fillna("").replace("", tables.MISSING),
        "measured [95%]": [estimate(row) for row in rows.itertuples()],
        "claimed": [f"{'above' if row.direction > 0 else 'below'} {row.null:g}" for row in rows.itertuples()],
        "n": [tables.MISSING if pd.isna(n) else f"{n:.0f}" for n in rows["n"]],
        "p (Holm)" if holm else "p": [p_text(row, holm) for row in rows.itertuples()],
        "verdict": marked(rows) if holm else rows["verdict"],
    }
    return pd.DataFrame(shown)


def estimate(row) -> str:
    """A claim's estimate with interval and unit: "+1.2 [+0.3, +2.0] points"; signs where the null value is 0."""
    if pd.isna(row.measured):
        return tables.MISSING
    sign = "" if row.null else "+"
    unit = "" if pd.isna(row.unit) else row.unit
    interval = "" if row.low == row.high or pd.isna(row.low) else f" [{row.low:{sign}.3g}, {row.high:{sign}.3g}]"
    return f"{row.measured:{sign}.3g}{interval} {unit}".strip()


def p_text(row, holm: bool = False) -> str:
    """A claim's p-value, with "≤" where the bootstrap could not have given a smaller value."""
    p = row.p_holm if holm else row.p_value
    if pd.isna(p):
        return tables.MISSING
    at_floor = not pd.isna(row.p_floor) and row.p_value <= row.p_floor * (1 + 1e-4)  # csv keeps six digits
    return f"{'≤ ' if at_floor and p < 1 else ''}{p:.2g}"


def marked(rows: pd.DataFrame) -> list[str]:
    """Verdicts, with ``MARK`` behind those that Holm's correction (column ``p_holm``) does not leave standing."""
    decided = rows["verdict"].isin([comparison.HOLDS, comparison.REVERSED])
    lost = decided & (rows["p_holm"] >= LEVEL)
    return [verdict + MARK * mark for verdict, mark in zip(rows["verdict"], lost, strict=True)]


def gather(profile: str) -> pd.DataFrame:
    """All claims of a profile: the paper's in the order of ``PAPER_CLAIMS``, then the others by notebook.

    Column ``p_holm`` is Holm's correction within the paper's claims, and within each notebook's others. A claim of
    the paper whose notebook was not run has no estimate and reads "not tested here". Raises ``FileNotFoundError``
    where no notebook has saved any, ValueError for a table of an older layout and for an id that stands twice.
    """
    files = sorted(paths.figures_dir(profile).glob("claims_*.csv"))
    if not files:
        raise FileNotFoundError(f"profile {profile} has no claims yet; run its other notebooks first")
    rows = pd.concat([_read(file) for file in files], ignore_index=True)
    if double := rows.loc[rows["claim_id"].duplicated(), "claim_id"].tolist():
        where = rows.loc[rows["claim_id"] == double[0], "notebook"]
        raise ValueError(f"the claim {double[0]!r} stands twice, in {' and '.join(sorted(where))}")
    absent = [name for name in PAPER_CLAIMS if name not in set(rows["claim_id"])]
    rows = pd.concat([rows, pd.DataFrame([_absent(name) for name in absent])], ignore_index=True)
    order = {name: place for place, name in enumerate(PAPER_CLAIMS)}
    rank = [(row.part != PAPER, order.get(row.claim_id, -1), row.notebook) for row in rows.itertuples()]
    rows = rows.iloc[sorted(range(len(rows)), key=rank.__getitem__)].reset_index(drop=True)
    family = rows["notebook"].where(rows["part"] == FURTHER, PAPER)
    untested = rows["verdict"] == NOT_TESTED
    corrected = rows["p_value"].mask(untested).groupby(family).transform(lambda values: comparison.holm(values))
    return rows.assign(p_holm=corrected)


def _read(file: Path) -> pd.DataFrame:
    rows = pd.read_csv(file, dtype={"claim_id": str})
    if missing := {"notebook", *COLUMNS} - set(rows):
        now = OLDER_PRODUCTS.get(file.stem, (file.stem,))
        raise ValueError(
            f"{file.name} is of an older layout (it lacks {sorted(missing)[0]!r}); remove its files and make "
            f"{', '.join(now)} with: python -m seaplib reproduce --profile {file.parent.name}"
        )
    return rows


def _absent(name: str) -> dict:
    """The row of a claim of the paper that no notebook of the profile has tested."""
    about = PAPER_CLAIMS[name]
    row = of_paper(name, *3 * [np.nan], model="")
    return row | {"verdict": NOT_TESTED, "notebook": about.notebook}


def find(rows: pd.DataFrame, claim_id: str) -> pd.Series:
    """The claim of that id. KeyError, with the new name where the id is a counter of an older layout."""
    _refuse_counter(claim_id)
    found = rows[rows["claim_id"] == claim_id]
    if found.empty:
        raise KeyError(f"there is no claim {claim_id!r}{suggestion(claim_id, rows['claim_id'])}")
    return found.iloc[0]


def _id(name: str, sparsity: float | None, metric: str) -> str:
    _refuse_counter(name)
    words = re.sub(r"[^a-z0-9%.]+", "-", name.lower().replace("$", "")).strip("-.")
    if not re.search("[a-z]", words):
        raise ValueError(f"a claim is named by words, got {name!r}")
    parts = [words, display_names.sparsity(sparsity) if sparsity is not None else ""]
    parts.append(display_names.metric(metric).replace(" ", "-") if metric else "")
    return "/".join(part for part in parts if part)


def _refuse_counter(name: str) -> None:
    if COUNTER.fullmatch(str(name)):
        now = [f"{new!r} ({profile})" for profile, new in older_ids().get(name, {}).items()]
        named = f"it is now {' or '.join(now)}" if now else "99_scorecard lists the names"
        raise KeyError(f"{name!r} is a counter of an older layout, ids are words; {named}")


@cache
def older_ids() -> dict[str, dict[str, str]]:
    """Counter of the older layout → profile → the claim's id."""
    found: dict[str, dict[str, str]] = {}
    with open(Path(__file__).with_name("older_claim_ids.csv"), encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["counter"], {})[row["profile"]] = row["claim_id"]
    return found
