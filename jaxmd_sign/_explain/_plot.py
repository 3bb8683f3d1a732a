"""An explanation drawn: how far β is from the ℓ_p minimisers over p, and from the others."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .._figures import _COLORS, _DASHES, _GREY, _WIDTH
from ._api import Explanation

LABELS = {
    "l1": r"$\ell_1$",
    "l3/2": r"$\ell_{3/2}$",
    "l2": r"$\ell_2$",
    "lp_fitted": r"$\ell_p$",
    "hyperbolic_entropy": "hyperbolic entropy",
    "hyperbolic_entropy_fitted": "hyperbolic entropy, fitted",
}
_MARKED = {"l1": 1.0, "l3/2": 1.5, "l2": 2.0}


def _name_point(
    axes: Axes, label: str, p: float, distance: float, explanation: Explanation
) -> None:
    """Write beside a point where the curve is not: below a least one, under a rise or a fall."""
    sides = np.interp([p - 0.1, p + 0.1], explanation.p, explanation.distance)
    if np.all(sides >= distance) and p > 1:
        place, ha, va = (0, -7), "center", "top"
    elif sides[1] >= sides[0] or p == 1:
        place, ha, va = (7, -3), "left", "top" if p == 1 else "center"
    else:
        place, ha, va = (-6, -3), "right", "center"
    here = p, distance
    axes.annotate(label, here, place, textcoords="offset points", fontsize=8, ha=ha, va=va)


def draw_explanation(explanation: Explanation) -> Figure:
    """‖β − β_p*‖ over p, with ℓ₁, ℓ_{3/2}, ℓ₂ and the best p marked; a level for each other one."""
    figure = Figure(figsize=(_WIDTH * 0.62, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.plot(explanation.p, explanation.distance, color=_COLORS[0])
    levels = iter(zip(_COLORS[1:], _DASHES[1:], strict=False))
    for row in explanation.rows:
        at = row.parameter if row.potential == "lp_fitted" else _MARKED.get(row.potential)
        label = LABELS.get(row.potential, row.potential)
        if at is not None:
            fitted = row.potential == "lp_fitted"
            if fitted:
                label = rf"$p = {at:.3g}$"
            style = {"marker": "*", "ms": 9} if fitted else {"marker": "o", "ms": 4}
            axes.plot(at, row.distance, color=_COLORS[0], clip_on=False, zorder=3, **style)
            _name_point(axes, label, at, row.distance, explanation)
        elif np.isfinite(row.distance):
            color, dash = next(levels, (_GREY, "-"))
            axes.axhline(row.distance, color=color, ls=dash, lw=1, label=label, clip_on=False)
    axes.set(xlabel="$p$", xlim=(1, explanation.p[-1]))
    axes.set_ylabel(r"$\|\beta - \beta_p^*\| \,/\, \|\beta\|$")
    top = 1.1 * np.nanmax([*explanation.distance, *(row.distance for row in explanation.rows)])
    axes.set_ylim(-0.12 * top, top)  # names below points at 0 are not hidden by the axis
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=2)
    return figure
