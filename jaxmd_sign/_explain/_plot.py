"""An explanation drawn: how far β is from the ℓ_p minimisers over p, and from the others."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

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


_PLACES = [
    ((0, -7), "center", "top"),
    ((7, -3), "left", "top"),
    ((-6, -3), "right", "top"),
    ((7, 3), "left", "bottom"),
    ((-6, 3), "right", "bottom"),
    ((0, 7), "center", "bottom"),
]


def _name_point(axes: Axes, label: str, p: float, distance: float) -> None:
    """Write beside a point, in the first place that is free: no line and no name runs through."""
    name = axes.annotate(label, (p, distance), (0, 0), textcoords="offset points", fontsize=8)
    name.set_path_effects([withStroke(linewidth=2, foreground="white")])  # if no place is free
    for place, ha, va in _PLACES:
        name.xyann = place
        name.set(ha=ha, va=va)
        if _is_free(axes, name):
            return


def _is_free(axes: Axes, name: Text) -> bool:
    box, frame = name.get_window_extent(), axes.bbox
    others = [text.get_window_extent() for text in axes.texts if text is not name]
    paths = [line.get_transform().transform_path(line.get_path()) for line in axes.lines]
    inside = frame.x0 < box.x0 < box.x1 < frame.x1 and frame.y0 < box.y0 < box.y1 < frame.y1
    struck = any(path.intersects_bbox(box, filled=False) for path in paths)
    return bool(inside) and not struck and not any(box.overlaps(other) for other in others)


def draw_explanation(explanation: Explanation) -> Figure:
    """‖β − β_p*‖ over p, with ℓ₁, ℓ_{3/2}, ℓ₂ and the best p marked; a level for each other one."""
    figure = Figure(figsize=(_WIDTH * 0.62, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.plot(explanation.p, explanation.distance, color=_COLORS[0])
    looks, points = _looks(explanation), {}
    for row in explanation.rows:
        if not np.isfinite(row.distance):
            continue
        at = row.parameter if row.potential == "lp_fitted" else _MARKED.get(row.potential)
        label = LABELS.get(row.potential, row.potential)
        if at is not None:
            fitted = row.potential == "lp_fitted"
            if fitted:
                label = rf"$p = {at:.3g}$"
            style = {"marker": "*", "ms": 9} if fitted else {"marker": "o", "ms": 4}
            axes.plot(at, row.distance, color=_COLORS[0], clip_on=False, zorder=3, **style)
            points[label] = at, row.distance
        else:
            color, dash = looks.get(row.potential, (_GREY, "-"))
            axes.axhline(row.distance, color=color, ls=dash, lw=1, label=label, clip_on=False)
    axes.set(xlabel="$p$", xlim=(1, explanation.p[-1]))
    axes.set_ylabel(r"$\|\beta - \beta_p^*\| \,/\, \|\beta\|$")
    top = 1.1 * np.nanmax([*explanation.distance, *(row.distance for row in explanation.rows)])
    axes.set_ylim(-0.12 * top, top)  # names below points at 0 are not hidden by the axis
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=2)
    figure.draw_without_rendering()  # names are put where there is room, so all else must be there
    for label, point in points.items():
        _name_point(axes, label, *point)
    return figure


def _looks(explanation: Explanation) -> dict[str, tuple[Any, Any]]:
    """Colour and dashes of each level, not by rank: the same potential has the same everywhere."""
    own = sorted({row.potential for row in explanation.rows} - set(LABELS))
    names = ["hyperbolic_entropy", "hyperbolic_entropy_fitted", *own]
    return dict(zip(names, zip(_COLORS[1:], _DASHES[1:], strict=True), strict=False))
