"""The ε that is best for an objective: the function that users call."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._block import block_units
from .._checks import (
    Numbers,
    as_positive,
    is_traced,
    matches_coordinates,
    usable_rtol,
    usable_steps,
)
from .._extremes import amax
from .._inputs import prepare
from .._limit import Limit
from .._problem import Blocks, Problem
from .._rules import SmoothedSign
from ._objectives import as_objective
from ._tune import Options, Tuning, tune

_REACH = 1e-6, 1e3  # of the largest gradient at the end of the flow
_PER = ("problem", "block", "coordinate")


def tune_epsilon(
    problem: Problem,
    alpha: Numbers,
    *,
    epsilon0: Numbers | None = None,
    objective: str | Callable[[Problem, Limit], Array] = "kkt_error",
    bounds: Sequence[Numbers] | None = None,
    per: str = "problem",
    smoothing: str | Callable[..., Any] = "abs",
    depth: int = 2,
    rtol: float | None = None,
    max_steps: int | None = None,
) -> Tuning:
    r"""The ε that minimises the KKT error (15), the gap to the minimiser, or a function of yours.

    One ε is found by a coarse sweep over log ε and then by value and slope in the bracket that
    promises most, about forty limits in all, to all the digits that they have. An ε per block or
    coordinate is found by a quasi-Newton method from there, with reverse-mode gradients.

    **Arguments:**

    - `problem`: a `Problem` with X (n, d). Batch with `jax.vmap`, all in one compiled call.
    - `alpha`: initial weights α > 0, a scalar or one number per coordinate (d,).
    - `epsilon0`: where to start instead of the sweep, a scalar or (d,): finds a local minimum.
    - `objective`: `"kkt_error"`, `"bregman_gap"`, `"distance_to_minimizer"`, or a function
        `(problem, limit) -> scalar` of yours that JAX can differentiate.
    - `bounds`: least and largest ε. By default from far below to far above every gradient.
    - `per`: one ε for the `"problem"`, for each `"block"` or for each `"coordinate"`.
    - `smoothing`, `depth`: of the rule and the model.
    - `rtol`: of each limit; by default 1e-10 for blocks, 1e-6 for another X, 1e-5 in float32.
    - `max_steps`: most solver steps of each limit and block, by default as for `solve_limit`.

    **Returns:** a `Tuning`.

    **Raises:** `ValueError` for bad concrete arguments.

    !!! example
        >>> tuned = tune_epsilon(Problem([[1.3, 0.7]], [1.0]), 0.05)
        >>> tuned.epsilon.round(7), bool(tuned.objective < 1e-9)
        (Array(0.2095791, dtype=float64), True)
    """
    rule, alpha = prepare(problem, SmoothedSign(1.0, smoothing), alpha, depth)
    as_objective(objective)
    if not is_traced(problem.y) and not bool(jnp.any(problem.y != 0)):
        raise ValueError("y is 0, and the limit too for every epsilon: there is none to choose.")
    group = _groups(problem, per)
    box = _usable_bounds(problem, bounds, depth)
    start = None if epsilon0 is None else _usable_start(problem, epsilon0, group)
    if bounds is not None and start is not None and not is_traced(bounds, start):
        inside = (box[0] <= jnp.log(start)) & (jnp.log(start) <= box[1])
        if not bool(jnp.all(inside)):
            raise ValueError("epsilon0 lies outside bounds. Widen them, or start within them.")
    options = Options(
        depth=depth,
        rtol=_usable_rtol(problem, rtol),
        max_steps=None if max_steps is None else usable_steps(max_steps),
        per=per,
    )
    return tune(problem, rule, alpha, objective, group, box, start, options)


def _usable_rtol(problem: Problem, rtol: float | None) -> float:
    if rtol is None and problem.dtype == jnp.float64:
        rtol = 1e-10 if isinstance(problem.data, Blocks) else 1e-6
    return usable_rtol(rtol, problem.dtype)


def _groups(problem: Problem, per: str) -> Int[Array, " d"]:
    """The number of the ε that each coordinate has."""
    d = problem.num_features
    if per == "coordinate":
        return jnp.arange(d)
    if per == "block":
        if not isinstance(problem.data, Blocks):
            raise ValueError('per="block" needs a block-diagonal X. Use "problem" or "coordinate".')
        n, k = problem.data.x.shape
        number = jnp.broadcast_to(jnp.arange(n)[:, None], (n, k)).astype(problem.dtype)
        return problem.data.scatter(number, 0).astype(int)
    if per != "problem":
        raise ValueError(f"per must be one of {', '.join(map(repr, _PER))}, but is {per!r}.")
    return jnp.zeros(d, int)


def _usable_bounds(
    problem: Problem, bounds: Sequence[Numbers] | None, depth: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Logarithms of the least and the largest ε."""
    if bounds is None:
        gradient = _largest_gradient(problem, depth)
        return jnp.log(_REACH[0] * gradient), jnp.log(_REACH[1] * gradient)
    if is_traced(bounds):
        low, high = bounds
    else:
        try:
            low, high = np.asarray(bounds, float)
            usable = 0 < low < high < np.inf
        except (TypeError, ValueError):
            usable = False
        if not usable:
            raise ValueError(
                "bounds must be two numbers, 0 < least < largest epsilon, but is "
                f"{bounds!r}. Leave it out for bounds that suit the data."
            )
    return jnp.log(jnp.asarray(low, problem.dtype)), jnp.log(jnp.asarray(high, problem.dtype))


def _largest_gradient(problem: Problem, depth: int) -> Float[Array, ""]:
    """Of the weights at the end of the flow, were its residual still y."""
    data, y = problem.data, problem.y
    if isinstance(data, Blocks):
        return amax(jnp.where(y == 0, 0, block_units(data.x, y, depth).gradient))
    pull = jnp.abs(problem.X.T @ y)
    beta = jnp.sum(y**2) / jnp.sum(pull)
    return amax(pull) * beta ** (1 - 1 / depth)


def _usable_start(
    problem: Problem, epsilon0: Numbers, group: Int[Array, " d"]
) -> Float[Array, " d"]:
    start = as_positive("epsilon0", epsilon0, problem.dtype)
    matches_coordinates("epsilon0", start, problem.num_features)
    if start.ndim and not is_traced(start, group):
        first = jnp.zeros(problem.num_features).at[group[::-1]].set(start[::-1])
        if not bool(jnp.all(first[group] == start)):
            raise ValueError(
                "epsilon0 differs between coordinates that share one epsilon. Give a scalar, or "
                'tune with per="coordinate".'
            )
    return jnp.broadcast_to(start, (problem.num_features,))
