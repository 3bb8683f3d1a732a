"""A tuned ε drawn: the objective over ε, the path of the search, and where theory and Adam are."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .._figures import _COLORS, _GREY, _SHADE, _WIDTH, LABELS, _label_above

ADAM = 1e-8  # the usual ε of implementations of Adam


def draw_tuning(numbers: dict[str, Any]) -> Figure:
    """`curve` is the objective over `curve_epsilon`; `largest` the last ε of Assumption 3.3."""
    figure = Figure(figsize=(_WIDTH * 0.62, 2.9), layout="constrained")
    axes = figure.subplots()
    epsilon, curve = np.asarray(numbers["curve_epsilon"]), np.asarray(numbers["curve"])
    axes.plot(epsilon, curve, color=_COLORS[0], zorder=2)
    looked_at, there = (np.asarray(numbers["history"][key]) for key in ("epsilon", "objective"))
    axes.plot(
        looked_at, there, "o", ms=3.5, mfc="none", mew=0.8, color=_GREY, label="looked at", zorder=3
    )
    axes.set(xscale="log", xlim=(epsilon[0], epsilon[-1]), xlabel=r"$\varepsilon$")
    low, high = min(0, 1.05 * np.nanmin(curve)), 1.08 * np.nanmax(curve)
    axes.set_ylim(low, high if high > low else 1)  # an objective may be 0 for every ε
    axes.set_ylabel(LABELS[numbers["objective_name"]])
    where = axes.get_xaxis_transform()
    largest = numbers["largest"]
    if np.isfinite(largest):
        axes.axvspan(epsilon[0], largest, color=_SHADE, lw=0, zorder=0)
        middle = np.sqrt(epsilon[0] * largest)
        axes.text(middle, 0.06, "Assumption 3.3", transform=where, ha="center", fontsize=8)
    axes.axvline(ADAM, color=_COLORS[3], lw=0.8, ls=(0, (4, 2)), zorder=1)
    _label_above(axes, ADAM, r"Adam: $10^{-8}$")
    axes.legend(loc="lower right", handletextpad=0.2)
    best = float(numbers["epsilon"])
    if np.isfinite(best):
        axes.plot(best, numbers["objective"], "*", ms=9, color=_COLORS[3], clip_on=False, zorder=4)
        _label_above(axes, best, rf"$\varepsilon^* = {best:.4g}$")
    return figure
