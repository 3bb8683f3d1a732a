"""A certificate drawn: the margins of its rows, and stages and errors of the first block."""

import io
import re
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

from .._figures import _COLORS, _DASHES, _GREY, _SHADE, _STYLE, _WIDTH
from . import _bounds
from ._claims import ASSUMED
from ._verdicts import Row

_LOOKS: dict[str, dict[str, Any]] = {
    "claim": {"marker": "o", "ms": 3.7, "color": _COLORS[0]},
    "violated claim": {"marker": "o", "ms": 3.7, "color": _COLORS[3]},
    "assumption: negative where it fails": {
        "marker": "s", "ms": 4, "mfc": "white", "color": _GREY
    },
}  # fmt: skip
_SPELLED: dict[Any, Any] = _STYLE | {"font.family": ["STIXGeneral", "DejaVu Sans"]}  # U₀, T₁


def draw_margins(rows: Sequence[Row], slack: float) -> Figure:
    """A line and a dot for each row, on an axis linear up to the slack and logarithmic beyond."""
    shown = [row for row in rows if np.isfinite(row.margin)][::-1]
    with mpl.rc_context(_SPELLED):
        figure = Figure(figsize=(_WIDTH, 0.19 * len(shown) + 0.8), layout="constrained")
        axes = figure.subplots()
        axes.axvspan(-slack, slack, color=_SHADE, lw=0, label="slack for rounding")
        kinds = np.array([_kind(row) for row in shown])
        margins = np.array([row.margin for row in shown])
        for kind, look in _LOOKS.items():
            places = np.flatnonzero(kinds == kind)
            if places.size:
                axes.hlines(places, 0, margins[places], colors=look["color"], lw=1.3)
                points = {"ls": "none", "zorder": 3, "clip_on": False}
                axes.plot(margins[places], places, label=kind, **points, **look)
        axes.set_yticks(np.arange(len(shown)), [row.claim for row in shown])
        axes.axvline(0, color=_GREY, lw=0.7)
        axes.set_xscale("symlog", linthresh=slack)
        locator = SymmetricalLogLocator(base=10, linthresh=slack)
        locator.set_params(numticks=10)
        axes.xaxis.set_major_locator(locator)
        axes.set_ylim(-0.7, len(shown) - 0.3)
        axes.set_xlabel("smallest margin: of a claim, negative beyond the slack is a violation")
        figure.legend(loc="outside lower right", ncols=2)
    return figure


def _kind(row: Row) -> str:
    """Where an assumption fails nothing is violated: the claims that need it do not apply."""
    if row.claim in ASSUMED:
        return "assumption: negative where it fails"
    return "violated claim" if row.violations else "claim"


def draw_stages(evidence: dict[str, Any]) -> Figure:
    """Weights of the first block against time, in its units, with the ends of the stages."""
    solved = evidence["case"].sign
    points, saved = solved.path.points, np.asarray(solved.path.saved)
    live = np.flatnonzero(np.asarray(solved.a) > 0)
    ends, warmup = np.asarray(solved.path.sign.t)[live], float(solved.path.warmup.t)
    t = np.asarray(points.t)[saved]
    last = 1.5 * ends.max() if ends.max() > 0 else t[-1]
    with mpl.rc_context(_SPELLED):
        figure = Figure(figsize=(_WIDTH, 2.9), layout="constrained")
        axes = figure.subplots()
        axes.axvspan(0, warmup, color=_SHADE, lw=0, zorder=0, label="warm-up, to $T_1$")
        for place, (i, end) in enumerate(zip(live, ends, strict=True)):
            color, dash = _COLORS[place % len(_COLORS)], _DASHES[place % len(_DASHES)]
            w, omega = np.asarray(points.w)[saved, i], np.asarray(points.omega)[saved, i]
            axes.plot(t, w, color=color, ls=dash, label=rf"$|\theta_{{{i + 1}}}|$")
            axes.plot(t, omega, color=color, ls=dash, lw=0.6)
            if 0 < end <= last:
                axes.plot(end, np.interp(end, t, w), "o", color=color, ms=3.5)
        axes.set_xlim(0, last)
        axes.set_ylim(0)
        axes.set_xlabel(r"$t$ in units of the first block; dots: $T_2$ of each column")
        axes.set_ylabel(r"weights $w = |\theta|$; thin: $\omega$")
        figure.legend(loc="outside right upper")
    return figure


def draw_errors(evidence: dict[str, Any]) -> Figure:
    """‖e‖ of the first block over the interval of Assumption 3.3, between −V₀ and U₀."""
    solved, others = evidence["case"].sign, np.asarray(evidence["others"])
    a = np.sort(np.asarray(solved.a))[::-1]
    with mpl.rc_context(_SPELLED):
        figure = Figure(figsize=(_WIDTH, 2.9), layout="constrained")
        axes = figure.subplots()
        axes.plot(others, np.asarray(evidence["errors"]), color=_COLORS[0], label=r"$\|e\|$")
        if np.sum(a > 0) == 2:
            epsilons = others / evidence["unit"]
            known = [jnp.asarray(v) for v in (a[0], a[1], solved.Y, epsilons, solved.alpha)]
            above, below = _bounds.upper_before(*known), -_bounds.lower_before(*known)
            for bound, name, i in ((above, "$U_0$", 1), (below, "$-V_0$", 3)):
                color, dash = _COLORS[i], _DASHES[i]
                axes.plot(others, np.asarray(bound), color=color, ls=dash, label=name)
            axes.axhline(0, color=_GREY, lw=0.7, zorder=1)
        axes.set_xscale("log")
        axes.set_xlim(others[0], others[-1])
        axes.set_xlabel(r"$\varepsilon$, three decades up to the bound of Assumption 3.3")
        axes.set_ylabel("KKT error, units of the first block")
        figure.legend(loc="outside right upper")
    return figure


def as_svg(figure: Figure) -> str:
    """Inline SVG, without the metadata, which holds addresses."""
    file = io.StringIO()
    with mpl.rc_context(_SPELLED):
        figure.savefig(file, format="svg")
    text = re.sub(r"<metadata>.*?</metadata>", "", file.getvalue(), flags=re.DOTALL)
    return text[text.index("<svg") :]
