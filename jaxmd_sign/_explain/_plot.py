"""An explanation drawn: how far β is from the ℓ_p minimisers over p, and from the others."""

import numpy as np
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
            place = (11, -3) if fitted else (6, -9)
            axes.annotate(label, (at, row.distance), place, textcoords="offset points", fontsize=8)
        elif np.isfinite(row.distance):
            color, dash = next(levels, (_GREY, "-"))
            axes.axhline(row.distance, color=color, ls=dash, lw=1, label=label, clip_on=False)
    axes.set(xlabel="$p$", xlim=(1, explanation.p[-1]))
    axes.set_ylabel(r"$\|\beta - \beta_p^*\| \,/\, \|\beta\|$")
    top = 1.1 * np.nanmax(explanation.distance)
    axes.set_ylim(-0.03 * top, top)  # a level of 0 is not hidden by the axis
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.06))
    return figure
