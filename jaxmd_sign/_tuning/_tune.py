"""From an objective to the best ε: the sweep and search, the descent, and what to say of both."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from .._assumptions import Assumptions, check_assumptions
from .._limit import solve_limit
from .._problem import Problem
from .._results import RESULTS, check, combine
from ._descent import Descended, descend
from ._objectives import Objective, as_objective
from ._search import NUM_SWEEP, Found, Sample, count_minima, search

_NOISE = 100  # times rtol: less than this says nothing

At = Callable[[Float[Array, " m"]], tuple[Array, tuple[Array, Array]]]


class Options(NamedTuple):
    """How each limit is solved, and what has an ε of its own."""

    depth: int
    rtol: float
    max_steps: int
    per: str


class Tuning(eqx.Module):
    """The best ε, and how it was found.

    - `epsilon`: ε*, a scalar, or shape (d,) if it was tuned per block or coordinate.
    - `objective`: the value of the objective there.
    - `gradient`, `curvature`: first and second derivative of its smooth form (½‖·‖² of a norm) in
        log ε; per coordinate or block, the gradient has their shape and the curvature is NaN.
    - `history`: every ε looked at, in order, with `objective` there; NaN after the last.
    - `assumptions`: where ε* stands with the assumptions of the source.
    - `result`: `successful` for a minimum inside the bounds; else `RESULTS[result]` says what is
        there instead. Where a solve failed, or no ε is better than another, ε* is NaN.
    - `stats`: `num_solves` (of which each gave value and derivative), `num_failed`, `num_minima`.
    """

    epsilon: Float[Array, "..."]
    objective: Float[Array, ""]
    gradient: Float[Array, "..."]
    curvature: Float[Array, ""]
    history: dict[str, Array]
    assumptions: Assumptions
    result: RESULTS
    stats: dict[str, Int[Array, ""]]


@eqx.filter_jit
def tune(problem, rule, alpha, objective, group, box, start, options: Options) -> Tuning:
    """As `tune_epsilon`, of arguments that are fit for use."""
    goal = as_objective(objective)
    num_groups = {
        "problem": 1, "block": problem.num_examples, "coordinate": problem.num_features
    }[options.per]  # fmt: skip

    def at(t: Float[Array, " m"]):
        """The smooth objective at these log ε; the size that it is small beside, and a code."""
        epsilon = jnp.exp(t[0] if num_groups == 1 else t[group])
        limit = solve_limit(
            problem,
            rule.map_epsilon(lambda _: epsilon),
            alpha,
            depth=options.depth,
            rtol=options.rtol,
            max_steps=options.max_steps,
        )
        value, size = goal.smooth(problem, limit)
        return value, (lax.stop_gradient(size), jnp.asarray(limit.result._value))

    def common(t):
        return at(jnp.broadcast_to(t, (num_groups,)))

    def sample(t):
        value, slope, (size, code) = jax.jvp(common, (t,), (jnp.ones_like(t),), has_aux=True)
        return Sample(t, value, slope, size, code)

    searched = None
    if start is None:
        found = search(jax.vmap(sample), *box)
        searched = _from_search(problem, alpha, goal, found, options.rtol)
        if num_groups == 1:
            return searched
        start = jnp.broadcast_to(found.t, (num_groups,))
    else:
        start = jnp.zeros(num_groups, start.dtype).at[group].set(jnp.log(start))

    def is_zero(value, size):
        return goal.level(value) <= _NOISE * options.rtol * goal.level(size)

    low, high = box
    descended = descend(at, jnp.clip(start, low, high), low, high, is_zero, options.rtol)
    return _from_descent(problem, alpha, goal, box, group, searched, descended, options)


def _from_search(
    problem: Problem, alpha: Array, goal: Objective, found: Found, rtol: float
) -> Tuning:
    samples = found.samples
    sweep = jax.tree.map(lambda part: part[:NUM_SWEEP], samples)
    levels, level = goal.level(sweep.value), goal.level(found.value)
    noise = _NOISE * rtol * jnp.nanmax(goal.level(sweep.size))
    num_minima = count_minima(found, _NOISE * rtol * jnp.nanmax(jnp.abs(sweep.value)))
    used = jnp.arange(samples.t.size) < 3 * found.num_rounds
    failed = used & ~(jnp.isfinite(samples.value) & jnp.isfinite(samples.slope))
    solved = jnp.any(used & ~failed)
    flat = solved & (jnp.nanmax(levels) - jnp.fmin(jnp.nanmin(levels), level) <= noise)
    result = combine(
        RESULTS.where(solved, RESULTS.successful, _first_failure(samples.code)),
        check(jnp.isfinite(level), RESULTS.not_finite),
        check(~flat, RESULTS.flat_objective),
        check(~(levels[0] - level <= noise), RESULTS.at_lower_bound),
        check(~(levels[-1] - level <= noise), RESULTS.at_upper_bound),
        check(found.converged, RESULTS.search_not_converged),
        check(num_minima <= 1, RESULTS.several_minima),
    )
    epsilon = jnp.exp(jnp.where(flat, jnp.nan, found.t))
    return Tuning(
        epsilon=epsilon,
        objective=goal.value(found.value),
        gradient=found.slope,
        curvature=found.curvature,
        history={"epsilon": jnp.exp(samples.t), "objective": goal.value(samples.value)},
        assumptions=check_assumptions(problem, epsilon, alpha),
        result=result,
        stats={
            "num_solves": jnp.sum(used),
            "num_failed": jnp.sum(failed),
            "num_minima": num_minima,
        },
    )


def _first_failure(code: Int[Array, " N"]) -> RESULTS:
    first = code[jnp.argmax(code != 0)]
    return eqx.tree_at(lambda result: result._value, RESULTS.not_finite, first)


def _from_descent(
    problem: Problem,
    alpha: Array,
    goal: Objective,
    box: tuple[Array, Array],
    group: Int[Array, " d"],
    searched: Tuning | None,
    found: Descended,
    options: Options,
) -> Tuning:
    """`searched` is how the start was found, if it was."""
    low, high = box
    margin = 1e-3 * (high - low)  # the box itself is never reached
    code = eqx.tree_at(lambda result: result._value, RESULTS.not_finite, found.code)
    noise = (_NOISE * options.rtol) ** 2 * found.size
    result = combine(
        code,
        check(jnp.isfinite(found.value), RESULTS.not_finite),
        check(jnp.any(jnp.abs(found.first_gradient) > noise), RESULTS.flat_objective),
        check(jnp.all(found.t > low + margin), RESULTS.at_lower_bound),
        check(jnp.all(found.t < high - margin), RESULTS.at_upper_bound),
        check(found.converged, RESULTS.search_not_converged),
    )
    lost = (result == RESULTS.flat_objective) | ~jnp.isfinite(found.value)
    t = jnp.where(lost, jnp.nan, found.t)
    epsilon = jnp.exp(t[0] if options.per == "problem" else t[group])
    per_coordinate = found.points[:, 0] if options.per == "problem" else found.points[:, group]
    history = {"epsilon": jnp.exp(per_coordinate), "objective": goal.value(found.values)}
    solves = found.num_evaluations
    if searched is not None:
        solves = solves + searched.stats["num_solves"]
    none = jnp.zeros((), int)
    return Tuning(
        epsilon=epsilon,
        objective=goal.value(jnp.where(lost, jnp.nan, found.value)),
        gradient=found.gradient[0] if options.per == "problem" else found.gradient,
        curvature=jnp.asarray(jnp.nan, found.value.dtype),
        history=history,
        assumptions=check_assumptions(problem, epsilon, alpha),
        result=result,
        stats={"num_solves": solves, "num_failed": none, "num_minima": none},
    )
