"""Which two methods, allocations or compensations a notebook compares, and the claim that each comparison tests.

A pair (a, b) maps to the sentence "a is better than b" in words; an empty sentence is compared and not claimed.
"""

from dataclasses import replace

from .methods import (
    BEYOND,
    DEPTH,
    ENERGY_F,
    FIRST_LAYER,
    FLAP,
    FLAP_ENERGY,
    FLAP_PUBLISHED,
    FUSED_F,
    FUSED_W,
    GENERAL_F,
    GENERAL_W,
    MAGNITUDE,
    PAPER,
    RANDOM,
    SEAP_F,
    SEAP_W,
    WANDA_SP,
    DepthMethod,
    Method,
)  # fmt: skip

Pairs = dict[tuple[Method | DepthMethod, Method | DepthMethod], str]

#: what a task's own calibration text is worth: the paper's rows among themselves
BY_TEXT: Pairs = {
    (SEAP_F, FLAP): "Task-calibrated beats general-text-calibrated (SEAP over FLAP, s_F)",
    (SEAP_W, WANDA_SP): "Task-calibrated beats general-text-calibrated (SEAP over Wanda-sp, s_W)",
    (GENERAL_F, FLAP): "All tasks' texts beat general text alone (SEAP-gen over FLAP, s_F)",
    (GENERAL_W, WANDA_SP): "All tasks' texts beat general text alone (SEAP-gen over Wanda-sp, s_W)",
    (SEAP_F, GENERAL_F): "Expert masks beat the general mask (s_F)",
    (SEAP_W, GENERAL_W): "Expert masks beat the general mask (s_W)",
}
AGAINST_CONTROLS: Pairs = {
    (SEAP_F, RANDOM): "SEAP (s_F) beats removing units at random",
    (SEAP_F, MAGNITUDE): "SEAP (s_F) beats removing the smallest weights",
}
#: Table 1: notebook 06
TABLE_1: Pairs = (
    BY_TEXT
    | AGAINST_CONTROLS
    | {
        (SEAP_F, FLAP_PUBLISHED): "SEAP (s_F) beats FLAP as published",
        (FLAP, RANDOM): "FLAP (general text) beats removing units at random",
        (WANDA_SP, RANDOM): "Wanda-sp (general text) beats removing units at random",
        (GENERAL_F, RANDOM): "",
        (GENERAL_F, MAGNITUDE): "",
    }
)
#: each variation of a row of Table 1 against its original
VARIATIONS: Pairs = {(replace(one, compensation="mean"), one): "" for one in PAPER} | {
    (one, replace(one, protect_last=0)): "Protecting the last two layers helps (SEAP, s_F)" if one == SEAP_F else ""
    for one in (FLAP, SEAP_F, GENERAL_F)
}
#: our allocation, and its control
BEYOND_PAPER: Pairs = {
    (ENERGY_F, SEAP_F): "Our allocation (energy) beats SEAP's logistic at equal parameters",
    (FLAP_ENERGY, FLAP): "Our allocation (energy) beats logistic for FLAP's scores at equal parameters",
    (ENERGY_F, FLAP): "SEAP's scores under our allocation beat FLAP",
    (ENERGY_F, FLAP_ENERGY): "A task's own text beats general text under our allocation (s_F)",
    (ENERGY_F, FIRST_LAYER): "Our allocation beats leaving the first layer alone (control)",
}
#: Table 3: notebook 07. Names of allocations, as results have them
ALLOCATIONS = {
    ("logistic", "uniform"): "Logistic allocation beats uniform",
    ("logistic", "adaptive"): "Logistic allocation beats adaptive",
    ("logistic", "uniform, protect 0+2"): "Logistic beats uniform with the same layers protected (control)",
    ("logistic, protect 0+0", "uniform"): "Logistic beats uniform, neither protecting a layer",
    ("logistic", "logistic, protect 0+0"): "Protecting the last layers helps logistic",
    ("uniform, protect 0+2", "uniform"): "Protecting the last layers helps uniform",
    ("energy", "logistic"): "Our allocation (energy) beats logistic, every method",
    ("energy", "logistic, protect 0+0"): "Our allocation beats logistic, neither protecting a layer",
    ("energy", "adaptive"): "Our allocation beats adaptive",
    ("energy", "uniform, protect 1+0"): "Our allocation beats uniform with the first layer left alone (control)",
}
#: kinds of compensation, as suffixes of methods' names have them
COMPENSATIONS = {
    ("least squares", "bias"): "Least squares beats mean compensation",
    ("least squares", "none"): "Least squares beats no compensation",
    ("bias", "none"): "Mean compensation beats none",
}
#: two methods under one allocation
UNDER_ONE_ALLOCATION: Pairs = {
    pair: f"{text}, mean over allocations" for pair, text in (BY_TEXT | AGAINST_CONTROLS).items()
}
#: perplexity, notebook 08: the first costs more; None is the dense model
PERPLEXITY = {
    (GENERAL_F, FLAP): "SEAP-gen (s_F) costs more perplexity than FLAP",
    (GENERAL_W, WANDA_SP): "SEAP-gen (s_W) costs more perplexity than Wanda-sp",
    (SEAP_F, FLAP): "SEAP (s_F, mean of experts) costs more perplexity than FLAP",
    (SEAP_W, WANDA_SP): "SEAP (s_W, mean of experts) costs more perplexity than Wanda-sp",
    (GENERAL_F, None): "SEAP-gen (s_F) costs perplexity against the dense model",
    (FLAP, None): "FLAP costs perplexity against the dense model",
}


def other_methods(names, texts=()) -> Pairs:
    """SEAP against the other methods of these ``names``, and against FLAP and Wanda-sp on further general ``texts``.

    Methods that remove layers also stand against FLAP and random units (notebook 18).
    """
    whole = [one for one in DEPTH if one.name in names]
    pairs: Pairs = {(SEAP_F, one): f"SEAP (s_F) beats {one.name}" for one in whole}
    if FUSED_F.name in names:
        pairs |= {
            (seap, one): f"SEAP ({one.score}) beats {one.name}" for seap, one in ((SEAP_F, FUSED_F), (SEAP_W, FUSED_W))
        }
    for text in texts:
        pairs |= {
            (seap, one.on(text)): f"SEAP ({one.score}) beats {one.name} on {text}"
            for seap, one in ((SEAP_W, WANDA_SP), (SEAP_F, FLAP))
        }
    pairs |= {(one, FLAP): "" for one in (*whole, *([FUSED_F] if FUSED_F.name in names else []))}
    return pairs | {(one, RANDOM): "" for one in whole}


def beyond(least_squares: bool = True) -> Pairs:
    """:data:`BEYOND_PAPER` and, with ``least_squares``, each compensation against none, the mean's, SEAP and FLAP."""
    pairs = dict(BEYOND_PAPER)
    for one in BEYOND if least_squares else ():
        if one.compensation == "least squares":
            where = f"(SEAP, {one.allocation})"
            pairs[one, replace(one, compensation="mean")] = f"Least squares beats mean compensation {where}"
            pairs[one, replace(one, compensation="none")] = f"Least squares beats no compensation {where}"
            pairs[one, SEAP_F] = f"Least squares under {one.allocation} allocation beats SEAP as in the paper"
            pairs[one, FLAP] = f"SEAP with least squares under {one.allocation} allocation beats FLAP"
    return pairs
