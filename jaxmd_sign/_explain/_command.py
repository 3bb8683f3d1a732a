"""`jaxmd-sign explain`: a limit, and which potential explains it."""

from typing import Any

from rich.console import Console

from .._figures import PLOT_KINDS, save_plot
from .._files import check_file
from .._limit import solve_limit
from .._problem import Problem
from .._report import number_table, sentence
from .._rules import GradientDescent, SmoothedSign
from ._api import Explanation, explain
from ._plot import draw_explanation

_WORDS = {
    "l1": "ℓ₁",
    "l3/2": "ℓ_{3/2}",
    "l2": "ℓ₂",
    "lp_fitted": "ℓ_p, p fitted",
    "hyperbolic_entropy": "hyperbolic entropy, this α",
    "hyperbolic_entropy_fitted": "hyperbolic entropy, α fitted",
}


def explain_command(
    problem: Problem,
    epsilon: float | None,
    alpha: float,
    *,
    gradient_descent: bool,
    figure: str | None,
) -> tuple[dict[str, Any], bool]:
    """The numbers under their names, and whether the limit was found."""
    if (epsilon is None) != gradient_descent:
        raise ValueError("epsilon: give either --epsilon E or --gradient-descent.")
    check_file("plot", figure, *PLOT_KINDS)
    rule = GradientDescent() if epsilon is None else SmoothedSign(epsilon)
    limit = solve_limit(problem, rule, alpha)
    numbers = {"epsilon": epsilon, "alpha": alpha, "result": sentence(limit.result)}
    if numbers["result"] != "successful":
        return numbers, False
    found = explain(problem, limit.beta, alpha=alpha)
    if figure is not None:
        save_plot(lambda: draw_explanation(found), figure)
    return numbers | _numbers(found) | {"beta": limit.beta}, True


def _numbers(found: Explanation) -> dict[str, Any]:
    rows = [row._asdict() for row in found.rows]
    return {"rows": rows, "p": found.p, "distance": found.distance}


def print_explanation(numbers: dict[str, Any], title: str, console: Console) -> None:
    """The ranking as a table of 80 columns, and what it says."""
    rule = "gradient descent" if numbers["epsilon"] is None else f"ε = {numbers['epsilon']:g}"
    console.print(
        f"[bold]What explains the limit[/bold] on {title}, {rule}, α = {numbers['alpha']:g}",
        highlight=False,
    )
    table = number_table("potential", "p or α", "distance", "KKT error", "gap")
    for row in numbers["rows"]:
        has_none = row["parameter"] != row["parameter"]
        table.add_row(
            _WORDS.get(row["potential"], row["potential"]),
            "" if has_none else f"{row['parameter']:.5g}",
            *(f"{row[name]:.3g}" for name in ("distance", "kkt_error", "gap")),
        )
    table.caption = "Distance of β from each minimiser, and KKT error, both relative."
    console.print(table)
    for row in numbers["rows"]:
        if row["note"] not in ("", "fitted"):
            console.print(f"{_WORDS.get(row['potential'], row['potential'])}: {row['note']}.")
