"""Figures that a reader moves in the Lab. Where no kernel listens, as in a batch run, they stay as they start."""

import pandas as pd
from matplotlib.figure import Figure

from ...pruning import allocation
from .pruning import allocation_curves


def allocation_sliders(layers: int, x0: float = 0.3, k: float = 1.0, protect_last: int = 2):
    """Sliders of G, x₀ and k above the logistic curve that they give a model of so many ``layers`` (Eqs. 16-17).

    The figure is displayed by the widget, since figures are closed for pyplot.
    """
    import ipywidgets

    def draw(G: float, x0: float, k: float) -> Figure:
        ratios = allocation.logistic(G, x0, k, protect_last=protect_last).ratios(layers)["all"]
        fig = allocation_curves(
            pd.DataFrame({"layer": range(layers), "ratio": ratios, "allocation": "logistic", "sparsity": G})
        )
        fig.axes[0].set_ylim(-0.02, 1.02)  # the same for all, so that a move is seen
        return fig

    def slider(value: float, largest: float, step: float) -> ipywidgets.FloatSlider:
        return ipywidgets.FloatSlider(value, min=0.0, max=largest, step=step, continuous_update=False)

    ceiling = round((layers - protect_last) / layers - 0.05, 2)  # what the unprotected layers can give
    chosen = {"G": slider(min(0.5, ceiling), ceiling, 0.05), "x0": slider(x0, 1.0, 0.05), "k": slider(k, 20.0, 0.5)}
    return ipywidgets.interactive(draw, {"auto_display": True}, **chosen)
