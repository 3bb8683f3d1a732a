"""A sweep drawn: KKT error and Bregman gap over ε, a line for each α or a map of both."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .._figures import _WIDTH, LABELS, PLOT_KINDS
from .._files import check_file

_SHOWN = ("kkt_error", "bregman_gap")
_MOST_LINES = 8
_MAP, _MARK = "viridis", "#D55E00"
_SYMBOLS = {"epsilon": r"\varepsilon", "alpha": r"\alpha"}


def check_plot(path: str | None, variables: Sequence[str] | None) -> None:
    """`ValueError` before a sweep rather than after it."""
    check_file("plot", path, *PLOT_KINDS)
    if path is not None and variables is not None and not set(_SHOWN) & set(variables):
        raise ValueError(f"plot needs one of the variables {', '.join(_SHOWN)}.")


def draw_sweep(dataset: xr.Dataset) -> Figure:
    """A panel for each of KKT error and gap that is there; over α where there is but one ε."""
    names = [name for name in _SHOWN if name in dataset]
    over, each = ("alpha", "epsilon") if dataset.sizes["epsilon"] == 1 else ("epsilon", "alpha")
    draw = _lines if dataset.sizes[each] <= _MOST_LINES else _map
    figure = Figure(figsize=(_WIDTH if len(names) > 1 else _WIDTH / 2, 2.7), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        draw(axes, dataset[name].transpose(over, each), name)
        axes.set(xscale="log", xlabel=f"${_SYMBOLS[over]}$")
        if over == "alpha":
            _in_short(axes.xaxis)
        if dataset.sizes[over] > 1:
            axes.set_xlim(dataset[over].min(), dataset[over].max())
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(handles), 5))
    return figure


def _lines(axes: Axes, values: xr.DataArray, name: str) -> None:
    """A line over the first axis for each of the second, dark to light, with a dot where least."""
    over, each = values.dims
    x, parameters = values[over].values, values[each].values
    order = np.argsort(x)
    shades = mpl.colormaps[_MAP](np.linspace(0, 0.88, len(parameters)))
    best = _least(values.values)
    for i, color in zip(np.argsort(parameters), shades, strict=True):
        line, at = values.values[:, i], best[i]
        label = f"${_SYMBOLS[str(each)]} = {parameters[i]:g}$"
        axes.plot(x[order], line[order], color=color, label=label)
        if at >= 0:
            axes.plot(x[at], line[at], "o", color=color, ms=4, clip_on=False)
    axes.plot([], [], "o", color="0.35", ms=4, label=f"least over ${_SYMBOLS[str(over)]}$")
    axes.set_ylabel(LABELS[name])
    axes.set_ylim(0)


def _map(axes: Axes, found: xr.DataArray, name: str) -> None:
    """Values over ε and α as colours, with a line where they are least over ε."""
    epsilon, alpha, values = found.epsilon.values, found.alpha.values, found.values
    columns, rows = np.argsort(epsilon), np.argsort(alpha)
    sheet = axes.pcolormesh(
        _edges(epsilon[columns]),
        _edges(alpha[rows]),
        values[np.ix_(columns, rows)].T,
        cmap=_MAP,
        rasterized=True,
    )
    axes.figure.colorbar(sheet, ax=axes, label=LABELS[name])
    best = _least(values)[rows]
    there = best >= 0
    axes.plot(
        epsilon[best[there]], alpha[rows][there], color=_MARK, label=r"least over $\varepsilon$"
    )
    axes.set(yscale="log", ylabel=r"$\alpha$", ylim=(np.min(alpha), np.max(alpha)))
    _in_short(axes.yaxis)


def _in_short(axis: Axis) -> None:
    """Numbers of a decade or two, rather than powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _edges(centres: np.ndarray) -> np.ndarray:
    """Edges of cells around log-spaced centres."""
    logs = np.log(centres)
    middle = (logs[1:] + logs[:-1]) / 2
    half = (logs[1:] - logs[:-1]) / 2 if len(logs) > 1 else np.array([0.1])
    return np.exp([logs[0] - half[0], *middle, logs[-1] + half[-1]])


def _least(values: np.ndarray) -> np.ndarray:
    """Index of the least value of each column, −1 where all of them failed."""
    filled = np.where(np.isnan(values), np.inf, values)
    best = np.argmin(filled, axis=0)
    return np.where(np.isinf(np.min(filled, axis=0)), -1, best)
