"""The figure of the study."""

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .._figures import _COLORS, _GREY, _MARKERS, _SHADE, _STYLE, _WIDTH

_ERROR = r"KKT error $\|e\|$"


def draw_study(numbers: dict[str, Any]) -> Figure:
    """KKT error over ε for step sizes and for optimisers, and its distance from the flow over η."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 3.2), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        middle.sharey(left)
        sign, *others = numbers["families"]
        shown = [family for family in others if family["name"] != "Adam (0, 0)"]
        for i, curve in enumerate(sign["curves"]):
            _points(left, numbers, curve, i)
        for i, family in enumerate(shown):
            _points(middle, numbers, family["curves"][-1], i)
        for axes in (left, middle):
            _over_epsilon(axes, numbers)
        where = {"transform": middle.get_xaxis_transform(), "ha": "center", "va": "center"}
        center = np.sqrt(numbers["epsilon"][0] * numbers["epsilon_assumption_3_3"])
        middle.text(center, 0.08, "Assumption 3.3", fontsize=8, **where)
        left.set_ylabel(_ERROR)
        left.set_title("smoothed sign descent")
        eta = others[0]["curves"][0]["learning_rate"]
        middle.set_title(rf"with memory, $\eta = {_power(eta)}$")
        middle.tick_params(labelleft=False)
        _over_rates(right, numbers, [sign, *shown])
        _legends(figure, left, sign, shown)
        return figure


def _points(axes: Axes, numbers: dict[str, Any], curve: dict[str, Any], i: int) -> None:
    """One curve over ε: runs that have converged filled, the others hollow."""
    ok, error = np.asarray(curve["converged"]), np.asarray(curve["kkt_error"])
    style = {"color": _COLORS[i], "marker": _MARKERS[i], "ms": 2.6, "ls": "", "mew": 0.5}
    axes.plot(numbers["epsilon"][ok], error[ok], **style)
    axes.plot(numbers["epsilon"][~ok], error[~ok], **style, mfc="white", alpha=0.6)


def _over_epsilon(axes: Axes, numbers: dict[str, Any]) -> None:
    epsilon = numbers["epsilon"]
    axes.plot(epsilon, numbers["flow"]["kkt_error"], color="k", lw=0.9, zorder=1.5)
    level = numbers["gradient_descent"]["kkt_error"]
    axes.axhline(level, color=_GREY, lw=0.8, ls=(0, (1, 1.5)), zorder=1)
    axes.axvspan(epsilon[0], numbers["epsilon_assumption_3_3"], color=_SHADE, lw=0, zorder=0)
    axes.set(xscale="log", xlim=epsilon[[0, -1]], ylim=(0, 0.36), xlabel=r"$\varepsilon$")
    axes.set_xticks([1e-3, 1e-1, 1e1])


def _over_rates(axes: Axes, numbers: dict[str, Any], families: list[dict[str, Any]]) -> None:
    """How far the KKT error is from that of the flow, at one ε."""
    rates = numbers["rates"]
    for i, family in enumerate(families):
        found = family["over_rates"]
        ok = np.asarray(found["converged"])
        color, marker = ("k", ".") if i == 0 else (_COLORS[i - 1], _MARKERS[i - 1])
        axes.plot(rates[ok], np.asarray(found["from_flow"])[ok], color=color, lw=0.9,
                  marker=marker, ms=3 if i else 4)  # fmt: skip
    middle, guide = len(rates) // 2, 5e-6 * rates / rates[-1]
    axes.plot(rates, guide, color=_GREY, lw=0.6, ls=(0, (5, 1.5)))
    axes.annotate(
        "slope 1", (rates[middle], guide[middle]), (5, -5), textcoords="offset points", fontsize=8
    )
    axes.set(xscale="log", yscale="log", xlabel=r"step size $\eta$")
    axes.set_ylabel(r"$|\,\|e\| - \|e\|_{\mathrm{flow}}|$")
    axes.set_title(rf"towards the flow, $\varepsilon = {numbers['rate_epsilon']:g}$")


def _legends(figure: Figure, left: Axes, sign: dict[str, Any], shown: list[dict[str, Any]]) -> None:
    """One legend for the step sizes inside their panel, one below for the optimisers."""

    def marked(i: int, label: str) -> Line2D:
        return Line2D([], [], color=_COLORS[i], marker=_MARKERS[i], ms=3, ls="", label=label)

    rates = [
        marked(i, rf"$\eta = {_power(curve['learning_rate'])}$")
        for i, curve in enumerate(sign["curves"])
    ]
    left.legend(handles=rates, loc="lower left", handlelength=0.8, borderaxespad=0.2)
    names = [marked(i, _math(family["name"])) for i, family in enumerate(shown)]
    lines = [
        Line2D([], [], color="k", lw=0.9, marker=".", label="smoothed sign"),
        Line2D([], [], color="k", lw=0.9, label="flow"),
        Line2D([], [], color=_GREY, lw=0.8, ls=(0, (1, 1.5)), label="GD's point"),
        Line2D([], [], color=_GREY, marker="o", ms=3, ls="", mfc="white", label="not converged"),
    ]
    figure.legend(
        handles=[*names, *lines],
        loc="outside lower center",
        ncols=5,
        columnspacing=1.2,
        handlelength=1.8,
        handletextpad=0.5,
    )


def _power(value: float) -> str:
    return rf"10^{{{round(np.log10(value))}}}"


def _math(name: str) -> str:
    return name.replace("ε", r"$\varepsilon$")
