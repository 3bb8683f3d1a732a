"""The numbers behind Figures 1-3 of the source, and the command that writes them all."""

import importlib.metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import __version__
from ._assumptions import check_assumptions
from ._beyond import beyond_numbers, beyond_report
from ._data import random_block_problem
from ._figures import draw, save
from ._files import fill_folder
from ._flow import solve_trajectory
from ._kkt import bregman, bregman_minimizer, kkt
from ._limit import Limit, solve_limit
from ._mirror import PowerPotential
from ._problem import Problem
from ._report import to_json
from ._results import RESULTS, worst
from ._rules import GradientDescent, SmoothedSign
from ._sparse import sparse_numbers, sparse_report

# Figure 1: one random block whose coordinates have both signs.
_SEED, _BLOCK_SIZE, _ALPHA = 3, 6, 0.05
_STAGE_EPSILONS, _STAGE_TIMES = (0.001, 0.05), (0.0, 0.8, 401)

# Figures 2 and 3: the worked example, inside Assumption 3.3 for ε ≤ 0.0175.
_EXAMPLE_X, _EXAMPLE_Y, _EXAMPLE_ALPHA = np.array([[1.3, 0.7]]), np.array([1.0]), 0.05
_PLANE_EPSILONS, _LEVEL_EPSILON = (0.001, 0.03, 0.1, 0.3), 0.1
_EPSILONS = (1e-4, 1e2, 121)


class SolveError(Exception):
    """A solve of `reproduce` failed; the message names the case and the remedy."""


def reproduce(out: str | Path, *, beyond: bool = False, sparse: bool = False) -> list[Path]:
    r"""Write Figures 1-3 as PNG and PDF and `summary.json`, which holds every number in them.

    **Arguments:**

    - `out`: folder to write to, made if it does not exist. Files appear there when complete.
    - `beyond`: also the KKT error over ε for depths 2, 3, 4 and every smoothing: a figure, and
        what is seen as a table in `beyond.md`.
    - `sparse`: also sparse regression, gradient descent over α beside smoothed sign descent over
        ε: a figure, and `sparse.md`.

    **Returns:** the paths written.

    **Raises:** `ValueError` if the folder cannot be written; `SolveError` if a solve failed.
    """
    return fill_folder(out, lambda folder: _write(folder, beyond, sparse))


def _write(folder: Path, beyond: bool, sparse: bool) -> None:
    example = example_numbers()
    numbers = {"figure1": stage_numbers(), "figure2": plane_numbers(example)}
    numbers |= {"figure3": example}
    studies = {
        "beyond": (beyond, beyond_numbers, beyond_report),
        "sparse": (sparse, sparse_numbers, sparse_report),
    }
    for name, (wanted, measure, report) in studies.items():
        if wanted:
            numbers[name] = measure()
            if numbers[name]["failed"]:
                raise SolveError(f"{name}: {numbers[name]['failed']} solves failed.")
            (folder / f"{name}.md").write_text(report(numbers[name]), "utf-8")
    for figure in numbers:
        save(draw(figure, numbers[figure]), folder / figure)
    numbers["versions"] = _versions()
    (folder / "summary.json").write_text(to_json(numbers, indent=1) + "\n", "utf-8")


def stage_numbers() -> dict[str, Any]:
    """Figure 1: β and θ of every coordinate in time, with T₁ and T₂, for two ε."""
    problem = random_block_problem(jax.random.key(_SEED), 1, _BLOCK_SIZE)
    ts, epsilons = np.linspace(*_STAGE_TIMES), np.array(_STAGE_EPSILONS)

    def solve(epsilon):
        flow = solve_trajectory(problem, SmoothedSign(epsilon), _ALPHA, ts=ts)
        return flow, solve_limit(problem, SmoothedSign(epsilon), _ALPHA)

    flows, limits = jax.vmap(solve)(epsilons)
    _require(flows.result, "Figure 1 (trajectories)")
    _require(limits.result, "Figure 1 (limits)")
    assumptions = jax.vmap(lambda e: check_assumptions(problem, e, _ALPHA))(epsilons)
    return {
        "seed": _SEED,
        "x": problem.X[0],
        "y": problem.y[0],
        "alpha": _ALPHA,
        "epsilon": epsilons,
        "smallness_margin": assumptions.smallness_margin,
        "ts": ts,
        "beta": flows.beta,
        "dual": flows.dual,
        "dual_limit": limits.dual,
        "dual_level": jnp.sqrt(jnp.abs(problem.y[0]) / jnp.sum(jnp.abs(problem.X[0]))),
        "warmup_end": flows.warmup_end[:, 0],
        "sign_end": flows.sign_end,
    }


def example_numbers() -> dict[str, Any]:
    """Figure 3: D at the limit, at the minimiser and at GD's limit, and the KKT error, by ε."""
    problem = Problem(_EXAMPLE_X, _EXAMPLE_Y)
    descent = solve_limit(problem, GradientDescent(), _EXAMPLE_ALPHA)
    _require(descent.result, "Figure 3 (gradient descent)")
    low, high, count = _EPSILONS
    zero = _zero_kkt_error(problem, low, high, count)
    marked = (*_PLANE_EPSILONS, zero)
    epsilons = np.sort([*np.geomspace(low, high, count - len(marked)), *marked])
    limits = _limits(problem, epsilons)  # as many as before: compiled once
    assert isinstance(limits.potential, PowerPotential)

    @jax.vmap
    def compare(limit):
        minimizer = bregman_minimizer(problem, limit)
        points = (limit.beta, minimizer, descent.beta)
        return minimizer, [bregman(limit, beta) for beta in points], kkt(problem, limit)

    minimizer, (at_limit, floor, at_descent), conditions = compare(limits)
    margin = check_assumptions(problem, 1.0, _EXAMPLE_ALPHA).epsilon_margin  # 1 − 1/(largest ε)
    return {
        "x": problem.X[0],
        "y": problem.y[0],
        "alpha": _EXAMPLE_ALPHA,
        "epsilon": epsilons,
        "epsilon_assumption_3_3": 1 / (1 - margin),
        "epsilon_zero_kkt_error": zero,
        "beta": limits.beta,
        "dual_reference": limits.dual_reference,
        "delta": limits.potential.delta,
        "minimizer": minimizer,
        "beta_gradient_descent": descent.beta,
        "bregman": at_limit,
        "bregman_minimum": floor,
        "bregman_gradient_descent": at_descent,
        "kkt_error": conditions.error,
        "kkt_relative_error": conditions.relative_error,
    }


def plane_numbers(example: dict[str, Any]) -> dict[str, Any]:
    """Figure 2: paths of β in the plane, and level sets of D = Φ_δ(β) − ⟨θ_ref, β⟩ + constant."""
    problem = Problem(_EXAMPLE_X, _EXAMPLE_Y)
    epsilons = np.array(_PLANE_EPSILONS)
    flows = jax.vmap(lambda e: solve_trajectory(problem, SmoothedSign(e), _EXAMPLE_ALPHA))(epsilons)
    descent = solve_trajectory(problem, GradientDescent(), _EXAMPLE_ALPHA)
    _require(flows.result, "Figure 2 (trajectories)")
    _require(descent.result, "Figure 2 (gradient flow)")
    ends = np.searchsorted(example["epsilon"], epsilons)
    level = int(np.searchsorted(example["epsilon"], _LEVEL_EPSILON))
    return {
        "x": problem.X[0],
        "y": problem.y[0],
        "alpha": _EXAMPLE_ALPHA,
        "epsilon": epsilons,
        "ts": flows.ts,
        "beta": flows.beta,
        "beta_limit": example["beta"][ends],
        "ts_gradient_descent": descent.ts,
        "beta_gradient_descent": descent.beta,
        "beta_limit_gradient_descent": example["beta_gradient_descent"],
        "minimizer": example["minimizer"][level],
        "bregman_epsilon": _LEVEL_EPSILON,
        "bregman_delta": example["delta"][level],
        "bregman_dual_reference": example["dual_reference"][level],
        "bregman_constant": -PowerPotential(jnp.full(2, _EXAMPLE_ALPHA**2))(jnp.zeros(2)),
        "bregman_minimum": example["bregman_minimum"][level],
    }


def _limits(problem: Problem, epsilons: np.ndarray) -> Limit:
    limits = jax.vmap(lambda e: solve_limit(problem, SmoothedSign(e), _EXAMPLE_ALPHA))(epsilons)
    _require(limits.result, "Figure 3 (limits)")
    return limits


def _zero_kkt_error(problem: Problem, low: float, high: float, count: int) -> float:
    """ε of zero KKT error: where its signed form E (§3.3.2, two columns) changes sign."""
    x = np.asarray(problem.X[0])
    for _ in range(3):  # each time the bracket shrinks to a cell of the grid
        epsilons = np.geomspace(low, high, count)
        limits = _limits(problem, epsilons)
        growth = np.abs(limits.dual) - np.abs(limits.dual_reference)
        signed = (x[0] * growth[:, 1] - x[1] * growth[:, 0]) / np.linalg.norm(x)
        cell = int(np.argmax(signed < 0))
        low, high = epsilons[cell - 1], epsilons[cell]
    return float(low - signed[cell - 1] * (high - low) / (signed[cell] - signed[cell - 1]))


def _require(result: RESULTS, case: str) -> None:
    sentence = RESULTS[worst(result)]
    if sentence:
        raise SolveError(f"{case}: {sentence}")


def _versions() -> dict[str, str]:
    names = ("jax", "diffrax", "equinox", "numpy", "matplotlib")
    versions = {name: importlib.metadata.version(name) for name in names}
    return {"jaxmd-sign": __version__} | versions
