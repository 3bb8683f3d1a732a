"""The results as one figure: peers and scaling curves."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from jaxmd_sign._figures import save_plot

_CURVES = {
    "cases": "cases",
    "blocks": "blocks",
    "epsilon": r"$\varepsilon$",
    "columns": "columns of the block",
    "cores": "cores",
}


def draw(results: dict[str, Any], path: Path) -> None:
    """Into a file."""
    save_plot(partial(_figure, results), str(path))


def _figure(results: dict[str, Any]) -> Figure:
    parts = {name: part for name, part in results["parts"].items() if "skipped" not in part}
    figure = Figure(figsize=(6.75, 11.5), layout="constrained")
    grid = figure.subplots(5, 3)
    grids = iter(grid.ravel())
    for name in ("W1", "W2", "W3", "W4 real", "W4 Gaussian", "W5", "W6"):
        axes = next(grids)
        if name in parts:
            _bars(axes, name, parts[name])
    for name, label in _CURVES.items():
        axes = next(grids)
        if name in parts:
            _curve(axes, label, parts[name])
    if "roofline" in parts:
        _roofline(next(grids), parts["roofline"])
    for axes in grids:
        axes.remove()
    return figure


def _bars(axes: Axes, name: str, part: dict[str, Any]) -> None:
    rows = {who: row for who, row in part["rows"].items() if "median" in row}
    names = list(rows)[::-1]
    values = [rows[who]["median"] for who in names]
    low = [rows[who]["median"] - rows[who]["least"] for who in names]
    high = [rows[who]["most"] - rows[who]["median"] for who in names]
    colors = ["#0072B2" if who.startswith("jaxmd") else "0.7" for who in names]
    axes.barh(range(len(names)), values, xerr=(low, high), color=colors, error_kw={"lw": 0.8})
    axes.set_yticks(range(len(names)), names, fontsize=5.5)
    axes.set_xscale("log")
    axes.set_xlim(left=10 ** np.floor(np.log10(min(values) / 1.5)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(f"{name}, {part['unit']}", fontsize=8)


def _roofline(axes: Axes, part: dict[str, Any]) -> None:
    """Where a step of the engine lies below the peaks of flops, of divisions and of memory."""
    counts, peaks = part["counts_a_step_and_lane"], part["peaks_billions_a_second"]
    flops, divisions, memory = (peaks[name]["median"] for name in ("flops", "divisions", "bytes"))
    intensity = np.array([1e-2, flops / memory, 1e2])
    divided = divisions * counts["flops"] / counts["divisions"]
    axes.plot(intensity, np.minimum(flops, memory * intensity), "0.3")
    axes.axhline(divided, color="0.3", lw=0.8, ls="--")
    for text, at in (("flops", (12, flops)), ("divisions", (3, divided)), ("memory", (0.15, 2))):
        axes.annotate(text, at, (0, 2), textcoords="offset points", fontsize=6)
    rate = counts["flops"] / part["ns_a_step_and_lane"]["median"]
    axes.plot(part["flops_a_byte"], rate, "o", color="#0072B2", ms=5)
    axes.set(xscale="log", yscale="log", xlabel="flops a byte")
    axes.set_title(r"$10^9$ flops a second", fontsize=8)


def _curve(axes: Axes, label: str, part: dict[str, Any]) -> None:
    rows = part["rows"]
    sizes = [float(size) for size in rows]
    values = [row["median"] for row in rows.values()]
    low = [row["median"] - row["least"] for row in rows.values()]
    high = [row["most"] - row["median"] for row in rows.values()]
    axes.errorbar(sizes, values, yerr=(low, high), color="#0072B2", marker="o", ms=3)
    if len(sizes) > 2:
        axes.set_xscale("log")
    else:
        axes.set_xticks(sizes)
    if max(values) > 10 * min(values):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(label)
    axes.set_title(part["unit"], fontsize=8)
