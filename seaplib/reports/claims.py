"""Claims of the paper, a row each: the estimate, its interval, and the verdict.

A notebook saves its rows as ``claims_<topic>``; the scorecard gathers them. The verdict follows from the
interval alone: *holds* where the interval lies beyond the null value in the claimed direction, *does not
hold* where it lies beyond in the other direction, *undecided* where it contains the null value.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from .. import paths
from ..evaluation import comparison

COLUMNS = (
    "claim_id", "claim", "measured", "low", "high", "null", "direction",
    "unit", "n", "p_value", "verdict", "paper", "where",
)  # fmt: skip
DECIMALS = 10  # of measured, low and high: sums of floats that cancel leave 1e-17 where there is nothing


def claim(
    claim_id: str,
    text: str,
    measured: float,
    low: float,
    high: float,
    *,
    direction: int = 1,
    null: float = 0.0,
    unit: str = "",
    n: int | None = None,
    p_value: float = np.nan,
    paper: str = "",
    where: str = "",
) -> dict:
    """A claim as a row. ``direction`` is +1 if the claim says ``measured`` lies above ``null``, −1 if below.

    ``low`` and ``high`` bound the 95% interval of ``measured``; ``p_value`` is two-sided against
    ``null`` (NaN: not tested); ``paper`` says what the paper reports, ``where`` names the product.
    ``measured``, ``low`` and ``high`` are rounded to ``DECIMALS``, and the verdict is that of the rounded interval.
    """
    if direction not in (1, -1):
        raise ValueError(f"direction is 1 or -1, got {direction}")
    measured, low, high = (round(float(value), DECIMALS) + 0.0 for value in (measured, low, high))  # + 0.0: no -0
    verdict = comparison.verdict(low - null, high - null, direction)
    values = (claim_id, text, measured, low, high, null, direction, unit, n, p_value, verdict, paper, where)
    return dict(zip(COLUMNS, values, strict=True))


def points(claim_id: str, text: str, found: Mapping, **about) -> dict:
    """The :func:`claim` on a paired difference in points; ``found`` is a result or a row of ``comparison``'s."""
    estimate = (100 * found[key] for key in ("difference", "low", "high"))
    return claim(claim_id, text, *estimate, unit="points", n=found["n"], p_value=found["p"], **about)


def frame(rows: list[dict]) -> pd.DataFrame:
    """Rows of :func:`claim` as a data frame."""
    return pd.DataFrame(rows, columns=list(COLUMNS))


def report(rows: pd.DataFrame):
    """Rows of :func:`frame` as sentences for a notebook, from the numbers alone."""
    from IPython.display import Markdown

    lines = []
    for row in rows.itertuples():
        tested = f", p = {row.p_value:.2g}" if row.p_value == row.p_value else ""
        size = f", n = {row.n:g}" if row.n == row.n and row.n is not None else ""
        against = f" against {row.null:g}" if row.null else ""
        sign = "" if row.null else "+"
        interval = f"{row.measured:{sign}.3g} [{row.low:{sign}.3g}, {row.high:{sign}.3g}] {row.unit}".strip()
        lines.append(f"- **{row.verdict}**: {row.claim} ({interval}{against}{size}{tested})")
    return Markdown("\n".join(lines))


def gather(profile: str) -> pd.DataFrame:
    """All ``claims_*`` tables of a profile, with Holm-corrected p-values over all tested claims.

    Raises ``FileNotFoundError`` where no notebook has saved any.
    """
    files = sorted(paths.figures_dir(profile).glob("claims_*.csv"))
    if not files:
        raise FileNotFoundError(f"profile {profile} has no claims yet; run its other notebooks first")
    rows = pd.concat([pd.read_csv(file, dtype={"claim_id": str}) for file in files], ignore_index=True)
    tested = rows["p_value"].notna()
    rows["p_holm"] = np.nan
    if tested.any():
        rows.loc[tested, "p_holm"] = comparison.holm(rows.loc[tested, "p_value"].to_numpy())
    in_order = rows["claim_id"].map(lambda name: tuple(map(int, name.split("."))))  # 07.2 before 07.10
    return rows.iloc[in_order.argsort(kind="stable")].reset_index(drop=True)
