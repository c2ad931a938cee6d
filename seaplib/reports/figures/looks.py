"""The look of every series that is not a task: a method has one colour and one marker in every figure.

Methods of a family share a hue; within it they differ by shade and marker, and no two methods share a marker, so
that they stay apart in grey. Score and compensation are told by the marker's fill. Hues of two families are at
least 15 apart in CIELAB, also as people with protanopia or deuteranopia see them.
"""

import itertools
import re
import zlib
from collections.abc import Collection, Iterable
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from .. import display_names
from .style import DENSE, DENSE_LINE, DOUBLE, PALE, PALETTE, mark, styled


class Look(NamedTuple):
    """Colour and marker of a method; ``scores`` are those that it comes with, the usual one first."""

    color: str
    marker: str | tuple
    scores: tuple[str, ...] = ()


F, W, BOTH = ("s_F",), ("s_W",), ("s_F", "s_W")
#: the row of a table whose method is any, with the first layer left alone
FIRST_LAYER = "firstlayer"
#: family → key of a method → its look
FAMILIES = {
    "dense model": {"dense": Look(DENSE, "|")},
    "controls": {
        "random": Look("#8c8c8c", "x"),
        "magnitude": Look("#a0a0a0", "+"),
        FIRST_LAYER: Look("#b4b4b4", "1"),
    },
    "general text": {
        "wanda": Look("#7db3f7", "<", W),
        "wandasp": Look("#3a84e0", "v", W),
        "flap": Look("#1c62bd", "^", F),
        "flapaspublished": Look("#5b9ef2", ">", F),
    },
    "experts": {"seap": Look("#d13a00", "o", BOTH), "scorefusion": Look("#b83200", "p", BOTH)},
    "general mask": {"seapgen": Look("#257d47", "s", BOTH)},
    "our allocation": {
        "flapenergy": Look("#6f2460", "*", F),
        "seapenergy": Look("#872f76", "D", BOTH),
        "seapgenenergy": Look("#a24990", "P", F),
    },
    "whole layers, others": {
        "shortgpt": Look("#c4ae54", "X"),
        "2ssp": Look("#d0bc6c", "h"),
        "griffin": Look("#dac983", "d"),
    },
}
METHODS = {name: look for family in FAMILIES.values() for name, look in family.items()}
#: methods that come with a compensation too
COMPENSATED = ("wandasp", "flap", "seap", "seapgen", "seapenergy")
#: rows of routed experts (notebook 12) → whose look they have
ALIASES = {"experts": "seap", "general": "seapgen"}
#: looks of methods that belong to no family
SPARE = [Look(color, (n, 1, 0)) for n in (4, 6, 5, 3) for color in ("#f2a0c8", "#00a3a3", "#7a4b1e")]
WHITE = {"markerfacecoloralt": "white"}
#: score and compensation → fill of the marker
FILLS = {
    ("s_F", ""): {},
    ("s_W", ""): {"markerfacecolor": "white"},
    ("s_F", "bias"): {"fillstyle": "bottom"} | WHITE,
    ("s_W", "bias"): {"fillstyle": "top"} | WHITE,
    ("s_F", "least squares"): {"fillstyle": "left"} | WHITE,
    ("s_W", "least squares"): {"fillstyle": "right"} | WHITE,
}
LABEL = re.compile(r"(?P<name>[^+(,]+)(\+(?P<compensation>[^(,]+))?(\((?P<score>[^)]*)\))?(, (?P<details>.*))?")

#: kind of allocation → colour and marker; the protection of layers is told by line and fill
ALLOCATIONS = {
    "uniform": ("#8c8c8c", "o"),
    "adaptive": (METHODS["flap"].color, "^"),
    "energy": (METHODS["seapenergy"].color, "D"),
    "logistic": (METHODS["seap"].color, "s"),
    display_names.AUTHORS_CODE: ("#c4ae54", "X"),
}
#: are the first layers left alone, are the last → line and fill
PROTECTIONS = {
    (False, False): {"linestyle": "-"},
    (False, True): {"linestyle": "--", "markerfacecolor": "white"},
    (True, False): {"linestyle": ":", "fillstyle": "left"} | WHITE,
    (True, True): {"linestyle": "-.", "fillstyle": "right"} | WHITE,
}

#: series that are neither methods, allocations nor tasks, by name or by its last or first word → place in palette
#: and markers
SERIES = {
    "accuracy": 0, "exact match": 1, "accuracy (normalised)": 9,
    "heads": 2, "attention": 2, "channels": 4, "mlp": 4,
    "known": 0, "unseen": 1, "all words": 0, "without": 1,
    "activations": 0, "weights": 1, "repairs": 2, "criteria": 3, "neighbours": 4, "targets": 5,
    "8:16": 0, "wt": 1, "PTS": 2, "VAR": 3, "shift": 4, "scaling": 5, "2:4": 7, "learnable": 9,
}  # fmt: skip


def variant_styles(labels: Iterable[str]) -> dict[str, dict]:
    """Colour, marker and fill of every label of a method (``display_names.variants``), the same in every figure."""
    parts = {label: _parts(label) for label in labels}
    spare = _spare([name for name, *_ in parts.values() if name not in METHODS])
    return {label: _look(*part, spare) for label, part in parts.items()}


def _parts(label: str) -> tuple[str, str, str]:
    """Key of the method, score and compensation that a label names."""
    found = LABEL.match(label)
    if found is None:
        return display_names.method_key(label), "", ""
    first_layer = display_names.FIRST_LAYER in (found["details"] or "")
    name = FIRST_LAYER if first_layer else display_names.method_key(found["name"])
    return ALIASES.get(name, name), (found["score"] or "").strip("$"), (found["compensation"] or "").strip()


def _look(name: str, score: str, compensation: str, spare: dict[str, Look]) -> dict:
    look = METHODS.get(name) or spare[name]
    usual = look.scores[0] if look.scores else "s_F"
    fill = FILLS.get((score if score in BOTH else usual, compensation), {})
    return {"color": look.color, "marker": look.marker} | fill


def _spare(names: Iterable[str]) -> dict[str, Look]:
    """A spare look for every unknown name: it follows from the letters, or is the next that is free in this figure."""
    taken: dict[int, str] = {}
    for name in sorted(set(names)):
        start = zlib.crc32(name.encode())
        places = [(start + step) % len(SPARE) for step in range(len(SPARE))]
        taken[next((place for place in places if place not in taken), places[0])] = name
    return {name: SPARE[place] for place, name in taken.items()}


def allocation_styles(names: Collection[str]) -> dict[str, dict]:
    """Colour, marker, fill and line of every allocation, as results name them ("uniform, protect 0+2")."""
    looks, unknown = {}, [name for name in names if display_names.allocation_kind(name) not in ALLOCATIONS]
    spare = _spare(unknown)
    for name in names:
        kind, protected = display_names.allocation_kind(name), display_names.protection(name)
        color, marker = ALLOCATIONS[kind] if kind in ALLOCATIONS else spare[name][:2]
        looks[name] = {"color": color, "marker": marker} | PROTECTIONS[protected[0] > 0, protected[1] > 0]
    return looks


def allocation_legend(fig: Figure, names: Collection[str], dense: bool = False) -> None:
    """One legend below all panels: kinds of allocation by colour and marker; below, protection by line and fill.

    With ``dense`` the dashed line of the dense model stands there too.
    """
    looks = allocation_styles(names)
    kinds, protections = {}, {}
    for name, look in looks.items():
        kinds.setdefault(display_names.allocation_kind(name), {key: look[key] for key in ("color", "marker")})
        protection = {key: value for key, value in look.items() if key not in ("color", "marker")}
        protections.setdefault(display_names.protection_words(name), protection)
    with_line = {"color": "0.35", "marker": "o"}
    handles = [plt.Line2D([], [], linestyle="", label=kind, **look) for kind, look in kinds.items()]
    lines = [plt.Line2D([], [], **with_line | look, label=words) for words, look in protections.items()]
    lines += [plt.Line2D([], [], **DENSE_LINE, label="dense model")] * dense
    if fig.get_figwidth() < DOUBLE:
        fig.legend(handles=handles + lines, loc="outside lower center", ncols=2, handlelength=2.6)
        return
    blank = plt.Line2D([], [], linestyle="", label=" ")
    pairs = itertools.zip_longest(handles, lines, fillvalue=blank)  # a legend is filled column by column
    both, columns = list(itertools.chain.from_iterable(pairs)), max(len(handles), len(lines))
    fig.legend(handles=both, loc="outside lower center", ncols=columns, handlelength=2.6)


def series_styles(names: Iterable[str]) -> dict[str, dict]:
    """Colour and marker of series such as metrics, modules and rules; unknown names take the first free places."""
    names = list(dict.fromkeys(names))
    places: dict[str, int] = {}
    for name in names:
        words = (name, name.rpartition(" ")[2], name.partition(" ")[0])
        place = next((SERIES[word] for word in words if word in SERIES), None)
        if place is not None and place not in places.values():
            places[name] = place
    free = [place for place in range(len(PALETTE)) if place not in places.values()]
    places |= dict(zip((name for name in names if name not in places), free * len(names), strict=False))
    return {name: mark(places[name]) for name in names}


@styled
def method_sheet() -> Figure:
    """Colour and marker of every method, by family: without a score, and with each score and compensation."""
    cells = [("", ""), *((score, how) for how in ("", "bias", "least squares") for score in BOTH)]
    at = dict(zip(cells, (0, 1, 1.7, 3, 3.7, 5, 5.7), strict=True))
    fig, ax = plt.subplots(figsize=(0.8 * DOUBLE, 0.18 * (len(METHODS) + 2)))
    for line, name in enumerate(METHODS):
        title = display_names.FIRST_LAYER.capitalize() if name == FIRST_LAYER else display_names.METHODS[name]
        ax.text(-0.6, line, title, ha="right", va="center", fontsize=7)
        for score, how in cells:
            if score in (METHODS[name].scores or ("",)) and (not how or name in COMPENSATED):
                ax.plot(at[score, how], line, linestyle="", markersize=5, **_look(name, score, how, {}))
    line = 0
    for family, members in FAMILIES.items():
        ax.text(-5.4, line, family, va="center", fontweight="bold", fontsize=7)
        line += len(members)
        ax.axhline(line - 0.5, color=PALE, linewidth=0.6)
    for x, how in ((1.35, "as it is"), (3.35, "+bias"), (5.35, "+least squares")):
        ax.text(x, -1.6, how, ha="center", va="center", fontsize=7)
    for (score, _), x in at.items():
        ax.text(x, -0.8, display_names.SCORES.get(score, "no score"), ha="center", va="center", fontsize=7)
    ax.set(xlim=(-5.5, 6.3), ylim=(len(METHODS) - 0.4, -2))
    ax.set_axis_off()
    return fig
