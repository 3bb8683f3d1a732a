"""Figures 1-3 and the one beyond drawn from their numbers, for print at full text width (6.75 in).

Matplotlib's objects only: no pyplot, no global setting. Colours are those of Okabe and Ito; line
styles and markers tell the lines apart without them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator

_STYLE: dict[Any, Any] = {
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
}
_WIDTH = 6.75
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
_DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)), (0, (3, 1)))
_MARKERS = "osD^vP"
_NEAR = (0.46, 0.78, 0.0, 0.54)  # the part of Figure 2 where the paths end
_SHADE, _GREY = "0.92", "0.35"
PLOT_KINDS = (".png", ".pdf", ".svg")
LABELS = {
    "kkt_error": r"KKT error $\|e\|$",
    "bregman_gap": r"gap $D(\beta_\infty) - D(\beta^*)$",
    "distance_to_minimizer": r"distance $\|\beta_\infty - \beta^*\|$",
}


def draw(name: str, numbers: dict[str, Any]) -> Figure:
    """The figure of that name from its numbers."""
    values = {key: np.asarray(value) for key, value in numbers.items() if key != "rows"}
    with mpl.rc_context(_STYLE):
        return _FIGURES[name](values)


def save(figure: Figure, path: Path) -> None:
    """The figure as PNG and PDF, byte for byte the same on every run."""
    with mpl.rc_context(_STYLE):
        figure.savefig(path.with_suffix(".png"))
        figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})


def save_plot(draw: Callable[[], Figure], path: str) -> None:
    """Draw in the house style and save where a user asked for it."""
    with mpl.rc_context(_STYLE):
        try:
            draw().savefig(path)
        except OSError as error:
            raise ValueError(f"plot: cannot write {path} ({error.strerror or error}).") from None


def _figure1(values: dict[str, np.ndarray]) -> Figure:
    """Rows β(t) and θ(t), one column for each ε."""
    figure = Figure(figsize=(_WIDTH, 4.2), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey="row")
    for column, epsilon in enumerate(values["epsilon"]):
        for axes, name in zip(grid[:, column], ("beta", "dual"), strict=True):
            _stages(axes, values, column)
            _coordinates(axes, values, column, name)
        top, bottom = grid[:, column]
        top.text(0.11, 0.9, rf"$\varepsilon = {epsilon:g}$", transform=top.transAxes, va="center")
        _label_above(top, values["warmup_end"][column], "$T_1$")
        _label_above(top, np.min(values["sign_end"][column]), "$T_2$")
        for level in (-values["dual_level"], values["dual_level"]):
            bottom.axhline(level, color=_GREY, lw=0.7, ls=(0, (1, 2)), zorder=1)
        bottom.set_xlabel("time $t$")
    level = (0.08, float(values["dual_level"]))
    grid[1, 0].annotate(
        r"$(|y|\,/\,\|x\|_1)^{1/2}$",
        level,
        (0, -4),
        textcoords="offset points",
        va="top",
        fontsize=8,
    )
    grid[0, 0].set_ylabel(r"$\beta_i(t)$")
    grid[1, 0].set_ylabel(r"$\theta_i(t)$")
    bottom.xaxis.set_major_locator(MultipleLocator(0.2))
    figure.legend(handles=_keys(values["x"]), loc="outside lower center", ncols=len(values["x"]))
    return figure


def _stages(axes: Axes, values: dict[str, np.ndarray], column: int) -> None:
    """Shades for the warm-up, up to T₁, and for the convergence stage, from the earliest T₂."""
    ts, warmup = values["ts"], values["warmup_end"][column]
    sign = np.min(values["sign_end"][column])
    for start, end in ((ts[0], warmup), (sign, ts[-1])):
        axes.axvspan(start, end, color=_SHADE, lw=0, zorder=0)
    for time in (warmup, sign):
        axes.axvline(time, color=_GREY, lw=0.7, zorder=1)
    axes.set_xlim(ts[0], ts[-1])


def _coordinates(axes: Axes, values: dict[str, np.ndarray], column: int, name: str) -> None:
    """One line for each coordinate, with a marker at its own T₂."""
    ts = values["ts"]
    for i, key in enumerate(_keys(values["x"])):
        line, end = values[name][column, :, i], values["sign_end"][column, i]
        axes.plot(ts, line, color=key.get_color(), ls=_DASHES[i])
        axes.plot(end, np.interp(end, ts, line), _MARKERS[i], color=key.get_color(), ms=3.5)


def _keys(x: np.ndarray) -> list[Line2D]:
    """Legend entries of the coordinates."""
    return [
        Line2D(
            [],
            [],
            color=_COLORS[i],
            ls=_DASHES[i],
            marker=_MARKERS[i],
            ms=3.5,
            label=f"$x_{i + 1} = {entry:.2f}$",
        )
        for i, entry in enumerate(x)
    ]


def _figure2(values: dict[str, np.ndarray]) -> Figure:
    """The plane of β, and the part of it where the paths end."""
    figure = Figure(figsize=(_WIDTH, 3.75), layout="constrained")
    whole, near = figure.subplots(1, 2)
    least = values["bregman_minimum"]
    _plane(whole, values, (-0.02, 0.86, -0.02, 0.86), least * np.arange(1, 10) / 4)
    ends = np.vstack([values["beta_limit"], values["beta_limit_gradient_descent"]])
    _plane(near, values, _NEAR, np.sort([least, *_bregman(values, *ends.T)]))
    left, right, bottom, top = _NEAR
    frame = (left, bottom, right - left, top - bottom)
    whole.indicate_inset(frame, edgecolor=_GREY, alpha=1, lw=0.7)
    whole.xaxis.set_major_locator(MultipleLocator(0.2))
    whole.yaxis.set_major_locator(MultipleLocator(0.2))
    handles, labels = near.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _plane(
    axes: Axes, values: dict[str, np.ndarray], limits: tuple[float, ...], levels: np.ndarray
) -> None:
    """Paths of β, their ends, interpolators, minimiser and level sets of D within `limits`."""
    left, right, bottom, top = limits
    horizontal, vertical = np.linspace(left, right, 401), np.linspace(bottom, top, 401)
    divergence = _bregman(values, *np.meshgrid(horizontal, vertical))
    axes.contour(horizontal, vertical, divergence, levels, colors="0.7", linewidths=0.7)
    names = [rf"$\varepsilon = {epsilon:g}$" for epsilon in values["epsilon"]]
    paths = [*values["beta"], values["beta_gradient_descent"]]
    for i, (path, name) in enumerate(zip(paths, [*names, "gradient flow"], strict=True)):
        style = {"color": _COLORS[i], "ls": _DASHES[i], "marker": _MARKERS[i], "ms": 4}
        axes.plot(*path.T, markevery=[-1], label=name, **style)
    axes.plot(*values["minimizer"], "*", color="k", ms=8, mew=0, zorder=4, label=r"$\beta^*$")
    x, y = values["x"], values["y"]
    line = (y - x[0] * horizontal) / x[1]
    axes.plot(horizontal, line, color="k", lw=0.8, zorder=1.5, label=r"$X\beta = y$")
    label = rf"level sets of $D$, $\varepsilon = {values['bregman_epsilon']:g}$"
    axes.plot([], [], color="0.7", lw=0.7, label=label)
    axes.set(xlim=(left, right), ylim=(bottom, top), box_aspect=1)
    axes.set(xlabel=r"$\beta_1$", ylabel=r"$\beta_2$")


def _bregman(values: dict[str, np.ndarray], first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """D of Thm 3.9 for `bregman_epsilon`, at points of the plane."""
    total = values["bregman_constant"]
    for i, beta in enumerate((first, second)):
        power = (np.abs(beta) + values["bregman_delta"][i]) ** 1.5
        total = total + 2 / 3 * power - values["bregman_dual_reference"][i] * beta
    return total


def _figure3(values: dict[str, np.ndarray]) -> Figure:
    """D and the KKT error against ε."""
    figure = Figure(figsize=(_WIDTH, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, label, i in (
        ("bregman", r"$D(\beta_\infty)$", 0),
        ("bregman_gradient_descent", r"$D(\beta_{\mathrm{GD}})$", 3),
        ("bregman_minimum", r"$D(\beta^*)$", 2),
    ):
        style = {"color": _COLORS[i], "ls": _DASHES[i], "label": label}
        left.plot(values["epsilon"], values[name], **style)
    right.plot(values["epsilon"], values["kkt_error"], color=_COLORS[0])
    left.legend(loc="upper right")
    left.set_ylabel("divergence $D$")
    right.set_ylabel(r"KKT error $\|e\|$")
    right.set_ylim(0)
    for axes, height in ((left, 0.2), (right, 0.1)):
        _epsilon_axis(axes, values, height)
    return figure


def _epsilon_axis(axes: Axes, values: dict[str, np.ndarray], height: float) -> None:
    """ε from left to right, the range of Assumption 3.3 and the ε of zero KKT error marked."""
    low, high = values["epsilon"][[0, -1]]
    largest, zero = (
        float(values[name]) for name in ("epsilon_assumption_3_3", "epsilon_zero_kkt_error")
    )
    axes.set(xscale="log", xlim=(low, high), xlabel=r"$\varepsilon$")
    axes.axvspan(low, largest, color=_SHADE, lw=0, zorder=0)
    middle = (np.sqrt(low * largest), height)
    where = axes.get_xaxis_transform()
    axes.text(*middle, "Assumption 3.3", transform=where, ha="center", va="center", fontsize=8)
    axes.axvline(zero, color=_GREY, lw=0.7, zorder=1)
    _label_above(axes, zero, rf"$\varepsilon^* = {zero:.4f}$")


def _label_above(axes: Axes, x: float, label: str) -> None:
    """A label on top of the axes, over the line at x."""
    axes.annotate(
        label,
        (x, 1),
        (0, 2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8,
    )


def _beyond(values: dict[str, np.ndarray]) -> Figure:
    """KKT error and gap against ε: a column for each depth, a line for each smoothing."""
    depths = np.unique(values["depth"])
    figure = Figure(figsize=(_WIDTH, 3.9), layout="constrained")
    grid = figure.subplots(2, len(depths), sharex=True, sharey="row")
    low, high = values["epsilon"][[0, -1]]
    # Not the ends of the axis, where labels of neighbours would meet.
    decades = 10.0 ** np.arange(np.ceil(np.log10(low)) + 1, np.log10(high), 2)
    for column, depth in zip(grid.T, depths, strict=True):
        chosen = np.flatnonzero(values["depth"] == depth)
        largest = values["epsilon_assumption_3_3"][chosen[0]]
        for axes, name in zip(column, ("kkt_error", "bregman_gap"), strict=True):
            axes.axvspan(low, largest, color=_SHADE, lw=0, zorder=0)
            for i, k in enumerate(chosen):
                style = {"color": _COLORS[i], "ls": _DASHES[i], "label": values["smoothing"][k]}
                axes.plot(values["epsilon"], values[name][k], **style)
        column[0].set_title(f"$M = {depth}$")
        column[1].set(xscale="log", xlim=(low, high), xlabel=r"$\varepsilon$")
        column[1].set_xticks(decades)
    middle = np.sqrt(low * np.min(values["epsilon_assumption_3_3"][values["depth"] == depths[0]]))
    where = {"transform": grid[0, 0].get_xaxis_transform(), "ha": "center", "va": "center"}
    grid[0, 0].text(middle, 0.1, "Assumption 3.3", fontsize=8, **where)
    grid[0, 0].set_ylim(0)
    grid[0, 0].set_ylabel(r"KKT error $\|e\|$")
    gap = values["bregman_gap"]
    # The gap falls to 0 where the error does; how far a curve gets there is chance of the grid.
    grid[1, 0].set(yscale="log", ylim=(1e-3 * np.max(gap), 3 * np.max(gap)))
    grid[1, 0].set_ylabel(r"gap $D(\beta_\infty) - D(\beta^*)$")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _sparse(values: dict[str, np.ndarray]) -> Figure:
    """Test error and ℓ₁ excess: gradient descent against α, smoothed sign descent against ε."""
    figure = Figure(figsize=(_WIDTH, 4.4), layout="constrained")
    grid = figure.subplots(2, 2, sharex="col", sharey="row")
    alphas, epsilons = values["alpha"], values["epsilon"]
    for axes, name in zip(grid, ("test_error", "l1_excess"), strict=True):
        descent = values[f"{name}_gradient_descent"]
        _band(axes[0], alphas, descent, 3, "gradient descent")
        for k, alpha in enumerate(values["alpha_smoothed_sign"]):
            label = rf"sign descent, $\alpha = {alpha:g}$"
            _band(axes[1], epsilons, values[f"{name}_smoothed_sign"][:, :, k], k, label)
            same = np.median(values[f"{name}_gradient_descent_same_alpha"][:, k])
            axes[1].plot(epsilons[-1], same, "<", color=_COLORS[k], ms=5, clip_on=False)
        levels = np.median(values[f"{name}_norm"], axis=0)
        for one in axes:
            for level, power, style in zip(levels, ("3/2", "2"), ((1, 2), (4, 2)), strict=True):
                label = rf"least $\ell_{{{power}}}$ norm"
                one.axhline(level, color=_GREY, lw=0.8, ls=(0, style), label=label, zorder=1)
    grid[0, 0].set_ylabel(r"test error $\|\beta-\beta^\circ\|^2/\|\beta^\circ\|^2$")
    grid[1, 0].set_ylabel(r"$\ell_1$ excess")
    for axes, x, label in (
        (grid[1, 0], alphas, r"$\alpha$"),
        (grid[1, 1], epsilons, r"$\varepsilon$"),
    ):
        axes.set(xscale="log", xlim=(x[0], x[-1]), xlabel=label)
    for axes in grid[:, 0]:
        axes.set_ylim(0)
    at_end = {"color": _GREY, "marker": "<", "ls": "", "ms": 5}
    grid[0, 1].plot([], [], label=r"gradient descent with that $\alpha$", **at_end)
    lines = {}
    for one in grid[0]:
        handles, labels = one.get_legend_handles_labels()
        lines |= dict(zip(labels, handles, strict=True))
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=3)
    return figure


def _band(axes: Axes, x: np.ndarray, values: np.ndarray, index: int, label: str) -> None:
    """The median over the first axis, and its range."""
    color = _COLORS[index]
    low, high = np.min(values, axis=0), np.max(values, axis=0)
    axes.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
    axes.plot(x, np.median(values, axis=0), color=color, ls=_DASHES[index], label=label)


_FIGURES = {
    "figure1": _figure1,
    "figure2": _figure2,
    "figure3": _figure3,
    "beyond": _beyond,
    "sparse": _sparse,
}
