"""W4: limits on a general X, real and random, against solvers of the whole system.

They are told when to stop, by `tests/reference.py`, and are spared the finish that a sweep finds
too: the convex problem at whose solution gradient flow slowed by ε ends.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import diffrax
import jax
import numpy as np
from scipy.integrate import solve_ivp

import jaxmd_sign as jms

from .contest import Effort, Solver, contest, in_turns
from .peers import SOME
from .peers._cores import num_cores
from .peers.general import SOLVERS, Flow
from .truth import ref

ALPHA, NEEDED, SETTLED = 0.05, 1e-5, 1e-3
DATA = Path(__file__).parents[1] / "tests" / "data" / "diabetes30_quadratic.csv"


def real(quick: bool) -> dict[str, Any]:
    """Diabetes data, 30 × 64: weights vanish and grow back, which only logarithms follow."""
    return against_peers(jms.load_problem(DATA), True, quick)


def gaussian(quick: bool) -> dict[str, Any]:
    """40 × 100, five coefficients not 0."""
    problem = jms.random_sparse_problem(jax.random.key(0), 40, 100, 5)
    return against_peers(problem, False, quick)


def against_peers(problem: jms.Problem, in_logs: bool, quick: bool) -> dict[str, Any]:
    """256 values of ε in [1e-3, 1], every variable of a sweep."""
    effort = Effort(64, 4, 0.2, 2) if quick else Effort(256, 16, 1.5, 5)
    X, y = np.asarray(problem.X), np.asarray(problem.y)
    epsilon, some = _epsilons(effort)
    with ProcessPoolExecutor(num_cores(), get_context("spawn")) as pool:
        found = list(pool.map(partial(_reference, X, y), some))
    true, times = np.array([beta for beta, _ in found]), np.array([end for _, end in found])
    order = np.argsort(some)
    ends = np.exp(np.interp(np.log(epsilon), np.log(some[order]), np.log(times[order])))
    flow = Flow(X.T @ X, X.T @ y, epsilon, ends, ALPHA, in_logs)

    def ours(variables, count, rtol):
        found = jms.sweep(
            problem, epsilon[:count], ALPHA, rtol=max(rtol, 1e-8), variables=variables
        )
        return np.asarray(found.beta)[:, 0]

    def theirs(solve, count, rtol):
        return solve(flow.take(slice(count)), rtol)

    def errors(found):
        if found.shape[1] != X.shape[1]:  # peers' logarithms, of those that are checked
            found = np.array([finished(X, y, one) for one in found[: len(true)]])
        right = true[: len(found)]
        found = found[: len(right)]
        return np.max(np.abs(found - right), axis=1) / np.max(np.abs(right), axis=1)

    solvers = {
        "jaxmd_sign": Solver(partial(ours, ["beta"])),
        "jaxmd_sign, every variable": Solver(partial(ours, None), like="jaxmd_sign"),
        "jaxmd_sign, with d/dε": Solver(
            partial(ours, ["beta", "kkt_error_slope"]), like="jaxmd_sign"
        ),
    } | {
        name: Solver(partial(theirs, solve))
        for name, solve in SOLVERS.items()
        if not quick or name in SOME
    }
    rows = contest(solvers, errors, NEEDED, effort, unit=1e3)
    found = jms.sweep(problem, epsilon, ALPHA, rtol=rows["jaxmd_sign"]["rtol"])
    rows["jaxmd_sign"]["steps"] = float(found.num_steps.mean())
    return {"unit": "ms a case", "needed": NEEDED, "rows": rows}


def one_limit(quick: bool) -> dict[str, Any]:
    """`solve_limit` at its default tolerance, with d/dε, and as Diffrax does it."""
    epsilon, rows = 1e-2, {}
    problems = {
        "diabetes 30 × 64": jms.load_problem(DATA),
        "Gaussian 40 × 100": jms.random_sparse_problem(jax.random.key(0), 40, 100, 5),
    }
    for data, problem in problems.items():

        def value(epsilon, adjoint=None, problem=problem):
            rule = jms.SmoothedSign(epsilon)
            return jms.solve_limit(problem, rule, ALPHA, adjoint=adjoint).beta

        functions = {
            data: jax.jit(value),
            f"{data}, with d/dε": jax.jit(lambda e, f=value: jax.jvp(f, (e,), (1.0,))),
            f"{data}, in Diffrax": jax.jit(partial(value, adjoint=diffrax.ForwardMode())),
        }
        runs = {name: partial(_blocked, function) for name, function in functions.items()}
        found = in_turns({n: partial(run, epsilon) for n, run in runs.items()}, 3, 1e3)
        true = ref.general_limit(problem.X, problem.y, epsilon, ALPHA, rtol=1e-12)
        for name in (data, f"{data}, in Diffrax"):
            wrong = np.max(np.abs(runs[name](epsilon) - true)) / np.max(np.abs(true))
            found[name]["error"] = float(wrong)
        apart = 1e-4 * epsilon
        sides = [runs[data](epsilon + side * apart) for side in (1, -1)]
        difference = (sides[0] - sides[1]) / (2 * apart)
        slope = runs[f"{data}, with d/dε"](epsilon)[1]
        wrong = np.max(np.abs(slope - difference)) / np.max(np.abs(difference))
        found[f"{data}, with d/dε"]["error"] = float(wrong)
        rows |= found
    return {"unit": "ms a limit", "rows": rows}


def _blocked(function, epsilon):
    return jax.tree.map(np.asarray, jax.block_until_ready(function(epsilon)))


def _epsilons(effort: Effort) -> tuple[np.ndarray, np.ndarray]:
    """All, in an order whose beginnings are spread over the interval; and those checked."""
    epsilon = np.geomspace(1e-3, 1, effort.cases)
    some = np.unique(np.linspace(0, effort.cases - 1, effort.checked).astype(int))
    rng = np.random.default_rng(0)
    order = [*rng.permutation(some), *rng.permutation(np.setdiff1d(np.arange(effort.cases), some))]
    return epsilon[order], epsilon[order[: len(some)]]


def _reference(X: np.ndarray, y: np.ndarray, epsilon: float) -> tuple[np.ndarray, float]:
    """β_∞ by the tests' reference, and when the others may stop."""
    return ref.general_limit(X, y, epsilon, ALPHA, rtol=1e-9), end_time(X, y, epsilon)


def end_time(X: np.ndarray, y: np.ndarray, epsilon: float) -> float:
    """When every gradient is below `SETTLED` ε, by SciPy."""
    correlations, velocity, jacobian = ref._general_system(X, y, epsilon)

    def above(time, logs):
        c, weights = correlations(logs)
        return np.max(np.abs(c) * weights) / epsilon - SETTLED

    above.terminal = True
    start = np.full(2 * X.shape[1], np.log(ALPHA))
    options = {"method": "LSODA", "jac": jacobian, "rtol": 1e-6, "atol": 1e-6}
    return solve_ivp(velocity, (0, 1e9), start, events=above, **options).t[-1]


def finished(X: np.ndarray, y: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """β at the end of gradient flow slowed by ε from these log u, log v."""
    if not np.isfinite(logs).all():
        return np.full(X.shape[1], np.nan)
    logs, side = logs.reshape(2, -1), np.array([[-1.0], [1.0]])

    def weights(nu):
        return np.exp(logs + side * (X.T @ nu))

    def residual(nu):
        u, v = weights(nu)
        return X @ (u**2 - v**2) - y

    def slope(nu):
        return -2 * X * np.sum(weights(nu) ** 2, axis=0) @ X.T

    u, v = weights(ref._root(residual, slope, np.zeros(y.size)))
    return u**2 - v**2
