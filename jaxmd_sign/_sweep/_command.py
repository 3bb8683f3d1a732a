"""`jaxmd-sign sweep`: from words to a sweep into a store, and back to a line of words."""

from typing import Any

import numpy as np

from .._figures import save_plot
from .._files import as_path
from .._problem import Problem
from ._api import MAX_STEPS, Outcome, run_sweep
from ._cluster import cluster
from ._plot import check_plot, draw_sweep
from ._progress import rate
from ._status import failures
from ._variables import CODES

_MOST = 10_000_000


def sweep_command(
    problem: Problem,
    epsilon: str,
    alpha: str,
    out: str,
    *,
    variables: str | None,
    figure: str | None,
    scheduler: str | None,
    workers: int | None,
    max_steps: int | None,
    **settings: Any,
) -> tuple[str, str | None]:
    """Sweep and plot: the line that sums it up, and what failed (None: nothing did)."""
    names = None if variables is None else [name.strip() for name in variables.split(",")]
    as_path("out", out, "the path of a Zarr store")
    check_plot(figure, names)
    axes = values("epsilon", epsilon), values("alpha", alpha)
    settings |= {"variables": names, "product": True}
    settings["max_steps"] = MAX_STEPS if max_steps is None else max_steps
    with cluster(scheduler, workers) as client:
        outcome = run_sweep(problem, *axes, store=out, client=client, chunk_size=None, **settings)
    if figure is not None:
        save_plot(lambda: draw_sweep(outcome.dataset), figure)
    return summary(outcome), complaint(outcome)


def values(name: str, text: str) -> np.ndarray:
    """`LO:HI:N`, N numbers from LO to HI of one ratio, or one number."""
    try:
        parts = text.split(":")
        if len(parts) == 1:
            return np.array([float(text)])
        low, high, count = float(parts[0]), float(parts[1]), int(parts[2])
        usable = len(parts) == 3 and 0 < low < np.inf and 0 < high < np.inf and 0 < count <= _MOST
        usable &= (count == 1) == (low == high)
    except (ValueError, IndexError):
        usable = False
    if not usable:
        raise ValueError(
            f"{name} must be a positive number, or LO:HI:N for N numbers from LO to HI evenly "
            f"spaced in the logarithm, e.g. 1e-4:1e-1:50, but is {text!r}."
        )
    return np.geomspace(low, high, count)


def summary(outcome: Outcome) -> str:
    """Cases, failures by reason, seconds, cases/s."""
    total = outcome.total["cases"]
    line = f"{total:,} cases, {failures(outcome.total['failed'])} failed"
    if outcome.solved < total:
        line += f", {total - outcome.solved:,} of them there before"
    if outcome.solved:
        line += f", {outcome.seconds:.1f} s, {rate(outcome.solved, outcome.seconds)}"
    return line


def complaint(outcome: Outcome) -> str | None:
    """How many cases failed, the first of them and the remedy."""
    if outcome.total["first"] is None:
        return None
    place, reason = outcome.total["first"]
    _, epsilon, alpha = outcome.plan.cases(np.array([place]))
    failed = sum(outcome.total["failed"].values())
    return (
        f"{failed:,} of {outcome.total['cases']:,} cases failed; the first is epsilon = "
        f"{epsilon[0]:g}, alpha = {alpha[0]:g}: {CODES[reason].sentence}"
    )
