"""`jaxmd-sign train`: one run against the flow, or the study."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
from rich.console import Console

from .._figures import save
from .._files import fill_folder
from .._kkt import kkt, safe_norm
from .._limit import solve_limit
from .._problem import Problem
from .._report import coordinate_table, format_number, number_table, sentence, to_json
from .._rules import GradientDescent, SmoothedSign
from ._names import make_optimizer
from ._plot import draw_study
from ._study import study_numbers
from ._train import train
from ._words import study_report

_TINY = 1e-8  # the ε that stands for none: sign descent


def train_report(
    problem: Problem,
    optimizer: str,
    learning_rate: float,
    alpha: float,
    num_steps: int,
    *,
    record_every: int | None,
    depth: int,
    tol: float | None,
    **options: Any,
) -> dict[str, Any]:
    """One run, and the limit of the flow that it follows: of its own ε, or of sign or GD."""
    made = make_optimizer(optimizer, learning_rate, **options)
    rule, name = _flow_of(optimizer, options)
    if isinstance(rule, GradientDescent) and depth != 2:
        raise ValueError(f"depth: the limit of {name}, that of {optimizer}, is known for 2 only.")
    settings = {"record_every": record_every, "depth": depth, "tol": tol}
    run = jax.jit(lambda: train(problem, made, alpha, num_steps, **settings))()
    limit = solve_limit(problem, rule, alpha, depth=depth)
    # The end of GD is measured by the divergence of GD.
    places = (lambda at: (at.beta, at.residual)), limit, (run.beta, run.limit.residual)
    end = eqx.tree_at(*places) if isinstance(rule, GradientDescent) else run.limit
    result = sentence(run.result)
    return {
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "options": {key: value for key, value in options.items() if value is not None},
        "alpha": alpha,
        "depth": depth,
        "num_examples": problem.num_examples,
        "num_features": problem.num_features,
        "result": result,
        "num_steps": run.num_steps,
        "diverged_at": run.diverged_at,
        "loss": run.loss,
        "beta": run.beta,
        "u": run.u,
        "v": run.v,
        "kkt": vars(kkt(problem, end)),
        "history": {"steps": run.history.steps, "loss": run.history.loss, "beta": run.history.beta},
        "flow": {
            "name": name,
            "result": sentence(limit.result),
            "beta": limit.beta,
            "kkt": vars(kkt(problem, limit)),
        },
        "distance_to_flow": safe_norm(run.beta - limit.beta),
    }


def _flow_of(optimizer: str, options: dict[str, Any]) -> tuple[Any, str]:
    """The flow that small steps of an optimiser without memory follow."""
    if optimizer in ("sgd", "adabelief"):  # which divides by how far g is from its mean: by ε
        return GradientDescent(), "gradient flow"
    epsilon, smoothing = options.get("epsilon"), options.get("smoothing") or "abs"
    epsilon = _TINY if epsilon is None else epsilon
    root = options.get("eps_root") or 0.0
    if optimizer == "rmsprop" and options.get("eps_in_sqrt") is not False:
        epsilon, root = 0.0, epsilon
    if root**0.5 > epsilon:
        epsilon, smoothing = root**0.5, "sqrt"  # g/√(g² + ε²)
    kind = "" if smoothing == "abs" else f"{smoothing} "
    return SmoothedSign(epsilon, smoothing), f"{kind}smoothed sign descent, ε = {epsilon:g}"


def failures(report: dict[str, Any]) -> list[str]:
    """What failed, with the remedy: one sentence each."""
    case = f"{report['optimizer']} at learning_rate = {report['learning_rate']:g}"
    if report["diverged_at"] >= 0:
        case += f", step {int(report['diverged_at'])}"
    flow = report["flow"]
    outcomes = {case: report["result"], f"limit of {flow['name']}": flow["result"]}
    return [f"{what}: {said}" for what, said in outcomes.items() if said != "successful"]


def print_training(report: dict[str, Any], title: str, console: Console) -> None:
    """The report as tables that fit 80 columns."""
    options = ", ".join(f"{key} = {value}" for key, value in report["options"].items())
    console.print(
        f"[bold]{report['optimizer']}[/bold] on {title}, learning rate "
        f"{report['learning_rate']:g}{', ' if options else ''}{options}, α = {report['alpha']:g}",
        highlight=False,
    )
    console.print(f"against the limit of {report['flow']['name']}", highlight=False)
    run, flow = report["kkt"], report["flow"]["kkt"]
    table = number_table("quantity", "run", "flow")
    table.add_row("KKT error ‖e‖", *(format_number(one["error"]) for one in (run, flow)))
    table.add_row("‖Xβ − y‖", *(format_number(one["feasibility"]) for one in (run, flow)))
    table.add_row("distance ‖β − β_flow‖", format_number(report["distance_to_flow"]), "")
    table.add_row("steps", f"{int(report['num_steps'])}", "")
    console.print(table)
    columns = {"β": report["beta"], "β of the flow": report["flow"]["beta"]}
    console.print(coordinate_table(report["beta"], columns))


def study(out: str) -> list[Path]:
    """Write the study to a folder: figure, words and numbers; the paths."""

    def write(folder: Path) -> None:
        numbers = study_numbers()
        save(draw_study(numbers), folder / "study")
        (folder / "study.md").write_text(study_report(numbers), "utf-8")
        (folder / "summary.json").write_text(to_json(numbers, indent=1) + "\n", "utf-8")

    return fill_folder(out, write)
