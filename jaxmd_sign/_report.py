"""What `jaxmd-sign limit` says of one case: a dictionary, as JSON or as tables."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.console import Console, Group
from rich.table import Table

from ._assumptions import check_assumptions
from ._flow import solve_trajectory
from ._kkt import bregman, kkt, minimize_divergence, safe_norm
from ._limit import Limit, solve_limit
from ._problem import Problem
from ._results import RESULTS
from ._rules import SmoothedSign
from ._threads import as_here

_MOST_ROWS = 12


def limit_report(
    problem: Problem, epsilon: float, alpha: float, reference: str, max_steps: int | None
) -> dict[str, Any]:
    """One limit with KKT residual, minimiser, stage times and assumptions, under their names.

    `result` is "successful" or a sentence with the remedy; then the numbers are NaN. The stages
    have their own `trajectory["result"]`.
    """
    rule = SmoothedSign(epsilon)
    options: dict[str, Any] = {} if max_steps is None else {"max_steps": max_steps}
    with ThreadPoolExecutor(1) as pool:  # most of the time goes into compiling both
        # One time is saved, for the stages only: a large problem in full would not fit in memory.
        stages = pool.submit(
            as_here(solve_trajectory), problem, rule, alpha, ts=np.zeros(1), **options
        )
        limit = solve_limit(problem, rule, alpha, reference=reference, **options)
        about_limit = _about(problem, limit)
        assumptions = jax.jit(check_assumptions)(problem, epsilon, alpha)
    flow = stages.result()
    return {
        "epsilon": epsilon,
        "alpha": alpha,
        "reference": reference,
        "num_examples": problem.num_examples,
        "num_features": problem.num_features,
        "is_block_diagonal": problem.is_block_diagonal,
        "result": sentence(limit.result),
        "beta": limit.beta,
        "dual": limit.dual,
        "dual_reference": limit.dual_reference,
        "residual": limit.residual,
        **about_limit,
        "warmup_end": flow.warmup_end,
        "sign_end": flow.sign_end,
        "t_end": flow.t_end,
        "stats": limit.stats,
        "trajectory": {"result": sentence(flow.result), "stats": flow.stats},
        "assumptions": vars(assumptions),
    }


@eqx.filter_jit
def _about(problem: Problem, limit: Limit) -> dict[str, Any]:
    """What D says of a limit: one program, with one solve for its minimiser."""
    dual = minimize_divergence(problem, limit)
    return {
        "kkt": vars(kkt(problem, limit)),
        "bregman": bregman(limit, limit.beta),
        "bregman_gap": limit.potential.divergence(limit.dual, dual.theta),
        "minimizer": dual.beta,
        "distance_to_minimizer": safe_norm(limit.beta - dual.beta),
    }


def sentence(result: RESULTS) -> str:
    """`successful`, or what failed with the remedy."""
    return " ".join(RESULTS[result].split()) or "successful"


def failures(report: dict[str, Any]) -> list[str]:
    """What failed, with the remedy: one sentence each."""
    outcomes = {"limit": report["result"], "stage times": report["trajectory"]["result"]}
    if report["result"] == "successful" and not np.all(np.isfinite(report["minimizer"])):
        outcomes["minimiser"] = sentence(RESULTS.dual_not_converged)
    case = f"epsilon = {report['epsilon']:g}, alpha = {report['alpha']:g}"
    return [
        f"{what} at {case}: {sentence}"
        for what, sentence in outcomes.items()
        if sentence != "successful"
    ]


def to_json(value: Any, indent: int | None = None) -> str:
    """Strict JSON of nested dictionaries, lists and arrays: what is not finite becomes null."""
    return json.dumps(_plain(value), allow_nan=False, ensure_ascii=False, indent=indent)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        value = np.asarray(value).tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_report(report: dict[str, Any], title: str, console: Console) -> None:
    """The report as tables that fit 80 columns."""
    kind = "block-diagonal X" if report["is_block_diagonal"] else "general X"
    n, d = report["num_examples"], report["num_features"]
    console.print(f"[bold]Limit of smoothed sign descent[/bold] on {title}", highlight=False)
    case = f"{kind} ({n} × {d}), ε = {report['epsilon']:g}, α = {report['alpha']:g}"
    console.print(f"{case}, D measured from {report['reference']}", highlight=False)
    console.print(Group(_numbers(report), _assumptions(report), _coordinates(report)))


def _numbers(report: dict[str, Any]) -> Table:
    conditions, steps = report["kkt"], np.sum(report["stats"]["num_steps"])
    rows = [
        ("KKT error ‖e‖", conditions["error"]),
        ("relative to ‖θ∞ − θ_ref‖", conditions["relative_error"]),
        ("feasibility ‖Xβ∞ − y‖", conditions["feasibility"]),
        ("D(β∞)", report["bregman"]),
        ("gap D(β∞) − D(β*)", report["bregman_gap"]),
        ("distance ‖β∞ − β*‖", report["distance_to_minimizer"]),
        ("warm-up ends, latest T₁", np.max(report["warmup_end"])),
        ("sign stage ends, earliest T₂", np.min(report["sign_end"])),
        ("time to a small residual", report["t_end"]),
    ]
    table = number_table("quantity", "value")
    for name, value in rows:
        table.add_row(name, format_number(value))
    table.add_row("solver steps", f"{int(steps)}")
    return table


def _assumptions(report: dict[str, Any]) -> Table:
    values = report["assumptions"]
    table = number_table("assumption", "holds", "margin")
    for name, text in (
        ("structure", "3.2 disjoint rows, labels ≠ 0"),
        ("smallness", "3.3 ε and α small"),
        ("pairs", "3.8 two columns a block"),
    ):
        holds = "yes" if values[name] else "no"
        table.add_row(text, holds, format_number(values[f"{name}_margin"]))
    return table


def _coordinates(report: dict[str, Any]) -> Table:
    names = {
        "β∞": "beta", "β*": "minimizer", "θ∞": "dual", "T₁": "warmup_end", "T₂": "sign_end"
    }  # fmt: skip
    columns = {title: report[name] for title, name in names.items()}
    return coordinate_table(report["beta"], columns)


def coordinate_table(beta: Any, columns: dict[str, Any]) -> Table:
    """A row for each coordinate, or for those of the largest |β| where there are many."""
    d = len(beta)
    shown = np.sort(np.argsort(-np.abs(np.asarray(beta)), stable=True)[:_MOST_ROWS])
    table = number_table("i", *columns)
    if d > len(shown):
        table.caption = f"The {len(shown)} largest of {d} coordinates; --json has all."
    arrays = [np.asarray(column) for column in columns.values()]
    for i in shown:
        table.add_row(str(i), *(format_number(array[i]) for array in arrays))
    return table


def number_table(first: str, *others: str) -> Table:
    """An empty table, numbers to the right."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def format_number(value: Any) -> str:
    """Six digits, or a dash for what is not finite."""
    return f"{float(value):.6g}" if jnp.isfinite(value) else "–"
