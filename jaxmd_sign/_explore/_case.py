"""What the explorer shows, as pure functions from numbers to arrays: a case, and a curve over ε.

Everything comes from the package's own solvers; depth and smoothing are static, all else is traced.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._assumptions import Assumptions, check_assumptions
from .._extremes import amax
from .._flow import Trajectory, solve_trajectory
from .._kkt import KKT, bregman, bregman_gap, bregman_minimizer, kkt
from .._limit import Limit, solve_limit
from .._problem import Problem
from .._rules import SmoothedSign

EPSILONS = np.logspace(-6, 1, 57)
"""Where the KKT error is drawn: eight values of ε in a factor of ten."""

RTOL = 1e-6  # finer than a picture shows
MAX_STEPS = 4096  # a page must answer: what needs more is shown as failed
_NEAR, _FAR, _POINTS = -0.08, 1.12, 41  # of the plane, in units of |y| / max |x|


class Case(NamedTuple):
    """One case: its flow, its limit, and D over a part of the plane.

    - `plane`: β₁ and β₂ of a grid, shape (2, p).
    - `divergence`: D on that grid, shape (p, p), a row for each β₂.
    - `level`, `minimum`: D(β_∞), D(β*).
    """

    trajectory: Trajectory
    limit: Limit
    conditions: KKT
    minimizer: Float[Array, "2"]
    gap: Float[Array, ""]
    plane: Float[Array, "2 p"]
    divergence: Float[Array, "p p"]
    level: Float[Array, ""]
    minimum: Float[Array, ""]
    assumptions: Assumptions


def solve_case(
    problem: Problem,
    epsilon: Float[Array, ""],
    alpha: Float[Array, ""],
    *,
    depth: int,
    smoothing: str,
) -> Case:
    """Flow and limit of a block of two columns. D is measured from 0⁺."""
    rule = SmoothedSign(epsilon, smoothing)
    options: dict[str, Any] = {"depth": depth, "rtol": RTOL, "max_steps": MAX_STEPS}
    limit = solve_limit(problem, rule, alpha, **options)
    minimizer, axes = bregman_minimizer(problem, limit), _plane(problem)
    points = jnp.stack(jnp.meshgrid(*axes), axis=-1)
    return Case(
        trajectory=solve_trajectory(problem, rule, alpha, **options),
        limit=limit,
        conditions=kkt(problem, limit),
        minimizer=minimizer,
        gap=bregman_gap(problem, limit),
        plane=axes,
        divergence=jax.vmap(jax.vmap(lambda beta: bregman(limit, beta)))(points),
        level=bregman(limit, limit.beta),
        minimum=bregman(limit, minimizer),
        assumptions=check_assumptions(problem, epsilon, alpha),
    )


def _plane(problem: Problem) -> Float[Array, "2 p"]:
    """The axes of a square that holds the whole path, whatever ε, α, depth and smoothing are.

    By Lemma A.2 the larger |x| has the larger |β|, which interpolation keeps below |y| / max |x|.
    """
    x = problem.X[0]
    size = jnp.abs(problem.y[0]) / amax(jnp.abs(x))
    signs = jnp.where(x * problem.y[0] < 0, -1, 1)
    return signs[:, None] * size * jnp.linspace(_NEAR, _FAR, _POINTS, dtype=problem.dtype)


def error_curve(
    problem: Problem, alpha: Float[Array, ""], *, depth: int, smoothing: str
) -> Float[Array, " m"]:
    """The KKT error at each of `EPSILONS`, with the sign of e across x; NaN where a limit failed.

    e is a multiple of (−x₂, x₁). Where its sign changes, the error is 0 in between.
    """
    options: dict[str, Any] = {"depth": depth, "rtol": RTOL, "max_steps": MAX_STEPS}
    x = problem.X[0]
    across = jnp.stack([-x[1], x[0]])

    def error(epsilon):
        limit = solve_limit(problem, SmoothedSign(epsilon, smoothing), alpha, **options)
        conditions = kkt(problem, limit)
        return jnp.sign(jnp.sum(across * conditions.stationarity)) * conditions.error

    return jax.vmap(error)(jnp.asarray(EPSILONS, problem.dtype))
