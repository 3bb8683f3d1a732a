"""From an objective to the best ε: the sweep and search, the descent, and what to say of both."""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from .._assumptions import Assumptions, check_assumptions
from .._extremes import amax, amin
from .._limit import solve_limit
from .._linear import in_turn
from .._problem import Dense, Problem
from .._results import RESULTS, check, combine, from_codes
from ._descent import Descended, descend
from ._objectives import Objective, as_objective
from ._search import NUM_SWEEP, Found, Sample, count_minima, search

_NOISE = 100  # times rtol: less than this says nothing


class Options(NamedTuple):
    """How each limit is solved, and what has an ε of its own."""

    depth: int
    rtol: float
    max_steps: int | None
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
        epsilon = jnp.exp(_spread(t, group, options.per))
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
        value, slope, aux = jax.jvp(common, (t,), (jnp.ones_like(t),), has_aux=True)
        return Sample(t, value, slope, aux)

    searched = {"num_solves": jnp.zeros((), int), "num_failed": jnp.zeros((), int)}
    if start is None:
        general = isinstance(problem.data, Dense)
        found = search(partial(in_turn, sample) if general else jax.vmap(sample), *box)
        if options.per == "problem":
            return _from_search(problem, alpha, goal, found, options.rtol)
        searched = _counts(found)
        start = jnp.broadcast_to(found.t, (num_groups,))
    else:
        start = jnp.zeros(num_groups, start.dtype).at[group].set(jnp.log(start))

    def is_zero(value, size):
        return jnp.abs(goal.level(value)) <= _noise(goal, size, options.rtol)

    low, high = box
    descended = descend(at, jnp.clip(start, low, high), low, high, is_zero, options.rtol)
    return _from_descent(problem, alpha, goal, box, group, searched, descended, options)


def _from_search(
    problem: Problem, alpha: Array, goal: Objective, found: Found, rtol: float
) -> Tuning:
    samples = found.samples
    sweep = _at(samples, slice(NUM_SWEEP))
    (t, value, slope, curvature), jump, at_low, at_high = _best(found, goal, rtol)
    levels, level = _finite(goal.level(sweep.value)), goal.level(value)
    num_minima = count_minima(found, _NOISE * rtol * jnp.nanmax(_finite(jnp.abs(sweep.value))))
    counts = _counts(found)
    flat = jnp.nanmax(levels) - jnp.fmin(jnp.nanmin(levels), level) <= jnp.nanmax(
        _finite(_noise(goal, sweep.aux[0], rtol))
    )
    failures = _of_failures(found, t, slope)
    result = combine(
        failures,
        check(jnp.isfinite(level), RESULTS.not_finite),
        check(~flat, RESULTS.flat_objective),
        check(~at_low, RESULTS.at_lower_bound),
        check(~at_high, RESULTS.at_upper_bound),
        check(found.converged & ~jump, RESULTS.search_not_converged),
        check(num_minima <= 1, RESULTS.several_minima),
    )
    unknown = (failures != RESULTS.successful) & (failures != RESULTS.search_not_converged)
    nowhere = flat | unknown
    t, value = (jnp.where(nowhere, jnp.nan, x) for x in (t, value))
    epsilon = jnp.exp(t)
    return Tuning(
        epsilon=epsilon,
        objective=goal.value(value),
        gradient=slope,
        curvature=curvature,
        history={"epsilon": jnp.exp(samples.t), "objective": goal.value(samples.value)},
        assumptions=check_assumptions(problem, epsilon, alpha),
        result=result,
        stats=counts | {"num_minima": num_minima},
    )


def _best(
    found: Found, goal: Objective, rtol: float
) -> tuple[tuple[Array, ...], Array, Array, Array]:
    """t, value, slope and curvature; whether they are beside a jump, and whether at a bound."""
    samples = found.samples
    least = _at(samples, _least(samples.value))

    def less(value, other: Sample):
        """Whether a value is less than that of a sample, by more than noise."""
        return goal.level(value) < goal.level(other.value) - _noise(goal, other.aux[0], rtol)

    def instead(chosen, of: Sample, best):
        return jax.tree.map(partial(jnp.where, chosen), (of.t, of.value, of.slope, jnp.nan), best)

    # Beside a jump, the bracket may hold a minimum that is none of the whole.
    best = found.t, found.value, found.slope, found.curvature
    jump = goal.level(least.value) < goal.level(found.value) - _noise(goal, least.aux[0], rtol)
    best = instead(jump, least, best)
    # What is no better than a bound is that bound.
    first, last = _at(samples, 0), _at(samples, NUM_SWEEP - 1)
    at_low, at_high = (jnp.isfinite(end.value) & ~less(best[1], end) for end in (first, last))
    return instead(at_high, last, instead(at_low, first, best)), jump, at_low, at_high


def _of_failures(found: Found, t: Array, slope: Array) -> RESULTS:
    """What the solves that failed say of the best: if all did, or if it is only next to them."""
    samples, codes = found.samples, found.samples.aux[1]
    used = jnp.arange(samples.t.size) < found.num_samples
    usable = used & jnp.isfinite(samples.value) & jnp.isfinite(samples.slope)
    lowest = amin(samples.t, where=usable, initial=jnp.inf)
    highest = amax(samples.t, where=usable, initial=-jnp.inf)
    low, high = samples.t[0], samples.t[NUM_SWEEP - 1]
    margin = 1e-3 * (high - low)
    hidden = ((slope > 0) & (t < lowest + margin) & (lowest > low + margin)) | (
        (slope < 0) & (t > highest - margin) & (highest < high - margin)
    )
    of_sweep = used & (jnp.arange(samples.t.size) < NUM_SWEEP)
    failures = from_codes(jnp.where(of_sweep & ~usable, codes, 0))
    failures = combine(failures, check(~hidden, RESULTS.search_not_converged))
    return RESULTS.where(~jnp.any(usable) | hidden, failures, RESULTS.successful)


def _at(samples: Sample, which) -> Sample:
    return jax.tree.map(lambda part: part[which], samples)


def _noise(goal: Objective, size: Array, rtol: float) -> Array:
    """What says nothing, of a level beside this size."""
    return _NOISE * rtol * goal.level(size)


def _finite(x: Array) -> Array:
    return jnp.where(jnp.isfinite(x), x, jnp.nan)


def _least(values: Float[Array, " N"]) -> Int[Array, ""]:
    return jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))


def _counts(found: Found) -> dict[str, Int[Array, ""]]:
    samples = found.samples
    used = jnp.arange(samples.t.size) < found.num_samples
    failed = used & ~(jnp.isfinite(samples.value) & jnp.isfinite(samples.slope))
    return {"num_solves": jnp.sum(used), "num_failed": jnp.sum(failed)}


def _spread(t: Float[Array, "*N m"], group: Int[Array, " d"], per: str) -> Float[Array, "..."]:
    """One number for the problem, or one for each coordinate."""
    return t[..., 0] if per == "problem" else t[..., group]


def _from_descent(
    problem: Problem,
    alpha: Array,
    goal: Objective,
    box: tuple[Array, Array],
    group: Int[Array, " d"],
    searched: dict[str, Array],
    found: Descended,
    options: Options,
) -> Tuning:
    """`searched` counts the solves that the start took."""
    low, high = box
    margin = 1e-3 * (high - low)  # the box itself is never reached
    noise = (_NOISE * options.rtol) ** 2 * found.size
    # Small steps end the descent, on a plateau as well.
    at_low = (found.t < low + margin) & (found.gradient > 0)
    at_high = (found.t > high - margin) & (found.gradient < 0)
    flat = jnp.abs(found.gradient) <= jnp.sqrt(options.rtol) / 10 * jnp.abs(found.value)
    still = found.is_zero | jnp.all(flat | at_low | at_high)
    result = combine(
        from_codes(found.code),
        check(jnp.isfinite(found.value), RESULTS.not_finite),
        check(jnp.any(jnp.abs(found.first_gradient) > noise), RESULTS.flat_objective),
        check(~jnp.any(at_low), RESULTS.at_lower_bound),
        check(~jnp.any(at_high), RESULTS.at_upper_bound),
        check(found.converged & still, RESULTS.search_not_converged),
    )
    lost = (result == RESULTS.flat_objective) | ~jnp.isfinite(found.value)
    epsilon = jnp.exp(_spread(jnp.where(lost, jnp.nan, found.t), group, options.per))
    gradient = found.gradient
    return Tuning(
        epsilon=epsilon,
        objective=goal.value(jnp.where(lost, jnp.nan, found.value)),
        gradient=gradient[0] if options.per == "problem" else gradient,
        curvature=jnp.asarray(jnp.nan, found.value.dtype),
        history={
            "epsilon": jnp.exp(_spread(found.points, group, options.per)),
            "objective": goal.value(found.values),
        },
        assumptions=check_assumptions(problem, epsilon, alpha),
        result=result,
        stats={
            "num_solves": searched["num_solves"] + found.num_evaluations,
            "num_failed": searched["num_failed"],
            "num_minima": jnp.zeros((), int),
        },
    )
