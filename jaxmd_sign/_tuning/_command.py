"""`jaxmd-sign tune`: from words to a tuned ε, and back to numbers and words."""

from typing import Any

import numpy as np
from rich.console import Console

from .._assumptions import check_assumptions
from .._figures import PLOT_KINDS, save_plot
from .._files import check_file
from .._problem import Problem
from .._report import format_number, number_table, sentence
from .._results import RESULTS
from .._sweep._api import sweep
from ._api import tune_epsilon
from ._plot import ADAM, draw_tuning
from ._tune import Tuning

_ANSWERS = RESULTS.at_lower_bound, RESULTS.at_upper_bound, RESULTS.several_minima  # with an ε*
_CURVE = 240


def tune_command(
    problem: Problem,
    alpha: float,
    objective: str,
    *,
    bounds: str | None,
    figure: str | None,
    max_steps: int | None,
    **settings: Any,
) -> tuple[dict[str, Any], bool]:
    """The numbers under their names, and whether there is an answer."""
    check_file("plot", figure, *PLOT_KINDS)
    if figure is not None and settings["per"] != "problem":
        raise ValueError('plot shows one epsilon. Use it with per "problem".')
    settings |= {} if max_steps is None else {"max_steps": max_steps}
    tuning = tune_epsilon(problem, alpha, objective=objective, bounds=_bounds(bounds), **settings)
    numbers = {"alpha": alpha, "objective_name": objective, **_numbers(tuning)}
    if figure is not None:
        drawn = numbers | _curve(problem, alpha, objective, tuning, settings)
        save_plot(lambda: draw_tuning(drawn), figure)
    successful = tuning.result == RESULTS.successful
    return numbers, bool(successful) or any(bool(tuning.result == one) for one in _ANSWERS)


def _bounds(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        raise ValueError(f"bounds must be LO:HI, e.g. 1e-6:10, but is {text!r}.") from None
    return low, high


def _numbers(tuning: Tuning) -> dict[str, Any]:
    history = {name: np.asarray(value) for name, value in tuning.history.items()}
    looked_at = np.isfinite(history["epsilon"].reshape(len(history["objective"]), -1)[:, 0])
    return {
        "epsilon": tuning.epsilon,
        "objective": tuning.objective,
        "gradient": tuning.gradient,
        "curvature": tuning.curvature,
        "history": {name: value[looked_at] for name, value in history.items()},
        "assumptions": vars(tuning.assumptions),
        "result": sentence(tuning.result),
        "stats": tuning.stats,
    }


def _curve(
    problem: Problem, alpha: float, objective: str, tuning: Tuning, settings: dict[str, Any]
) -> dict[str, Any]:
    """The objective from below Adam's ε to the last that was looked at, by a sweep."""
    looked_at = np.asarray(tuning.history["epsilon"])
    low = min(ADAM / 3, float(np.nanmin(looked_at)))
    epsilon = np.geomspace(low, float(np.nanmax(looked_at)), _CURVE)
    how = {name: settings[name] for name in ("smoothing", "depth")}
    found = sweep(problem, epsilon, alpha, variables=[objective], **how)
    one = check_assumptions(problem, 1.0, alpha)
    return {
        "curve_epsilon": epsilon,
        "curve": found[objective].values[:, 0],
        "largest": 1 / (1 - float(one.epsilon_margin)),
    }


def print_tuning(numbers: dict[str, Any], title: str, console: Console) -> None:
    """ε* and what is known of it, in a table; then the sentence of the result."""
    name, stats = numbers["objective_name"], numbers["stats"]
    console.print(f"[bold]The best ε[/bold] on {title}: least {name}", highlight=False)
    table = number_table("quantity", "value")
    epsilon, gradient = np.asarray(numbers["epsilon"]), np.asarray(numbers["gradient"])
    found = bool(np.all(np.isfinite(epsilon)))
    if epsilon.ndim == 0:
        rows = {
            "ε*": f"{epsilon:.7g}",
            name: f"{numbers['objective']:.6g}",
            "slope of its smooth form in log ε": f"{gradient:.3g}",
            "curvature": format_number(numbers["curvature"]),  # none beside a failure
        }
    else:
        rows = {
            "ε*, least to largest": f"{epsilon.min():.6g} … {epsilon.max():.6g}",
            name: f"{numbers['objective']:.6g}",
            "largest slope in log ε": f"{np.max(np.abs(gradient)):.3g}",
        }
    rows["Assumption 3.3 holds there"] = "yes" if numbers["assumptions"]["smallness"] else "no"
    for quantity, value in rows.items():
        table.add_row(quantity, value if found else "–")  # all of them are of ε*
    table.add_row("solves, each with its derivative", str(int(stats["num_solves"])))
    if stats["num_failed"]:
        table.add_row("of which failed", str(int(stats["num_failed"])))
    console.print(table)
    minimum = "A minimum inside the bounds."
    console.print(minimum if numbers["result"] == "successful" else numbers["result"])
