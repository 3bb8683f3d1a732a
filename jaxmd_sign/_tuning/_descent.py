"""The best of several numbers: a quasi-Newton method over t = log ε from one start, in a box."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int

from .._extremes import amax

MOST_EVALUATIONS = 400
_EDGE = 1e-2  # of the box: nearer to a bound the map into it is so flat that nothing moves


class Descended(NamedTuple):
    """Where the method ended, and the best point after each evaluation, NaN after the last."""

    t: Float[Array, " m"]
    value: Float[Array, ""]
    gradient: Float[Array, " m"]
    first_gradient: Float[Array, " m"]
    size: Float[Array, ""]
    code: Int[Array, ""]
    converged: Bool[Array, ""]
    is_zero: Bool[Array, ""]
    points: Float[Array, "N m"]
    values: Float[Array, " N"]
    num_evaluations: Int[Array, ""]


def descend(
    function: Callable[[Float[Array, " m"]], tuple[Array, tuple[Array, Array]]],
    start: Float[Array, " m"],
    low: Float[Array, ""],
    high: Float[Array, ""],
    is_zero: Callable[[Float[Array, ""], Float[Array, ""]], Bool[Array, ""]],
    rtol: float,
) -> Descended:
    """A local minimum of `function`, which also returns the size and the code of a solve.

    It stops where the value `is_zero` beside its size: no norm can be less. The first evaluation
    gives the unit of values in which the first step is of length 1, so that it leaves a plateau.
    """
    solver = optx.LBFGS(rtol=rtol, atol=rtol**2)

    def in_box(s):
        # From the nearer bound, so that its derivative is never rounded to 0.
        part = (high - low) * jax.nn.sigmoid(-jnp.abs(s))
        return jnp.where(s < 0, low + part, high - part)

    def wrapped(s, unit):
        value, aux = function(in_box(s))
        return jnp.where(jnp.isfinite(value), value / unit, jnp.inf), aux

    part = jnp.clip((start - low) / (high - low), _EDGE, 1 - _EDGE)
    s = first_s = jnp.log(part / (1 - part))
    unit = jnp.ones_like(low)
    value_struct, aux_struct = eqx.filter_eval_shape(wrapped, s, unit)
    state = solver.init(wrapped, s, unit, {}, value_struct, aux_struct, frozenset())
    arrays, rest = eqx.partition(state, eqx.is_array)
    first_arrays = arrays
    points = jnp.full((MOST_EVALUATIONS, start.size), jnp.nan, start.dtype)
    values = jnp.full(MOST_EVALUATIONS, jnp.nan, start.dtype)

    def body(carry):
        s, arrays, points, values, count, first, unit, _ = carry
        state = eqx.combine(arrays, rest)
        s, state, _ = solver.step(wrapped, s, unit, {}, state, frozenset())
        value, size = unit * state.f_info.f, state.aux[0]
        points = points.at[count].set(in_box(s))
        values = values.at[count].set(value)
        done, result = solver.terminate(wrapped, s, unit, {}, state, frozenset())
        ended = done | (result != optx.RESULTS.successful) | is_zero(value, size)
        arrays, _ = eqx.partition(state, eqx.is_array)
        # Again from the start, in its unit.
        begun = (count > 0) | ended
        slope = amax(jnp.abs(state.f_info.grad))
        first = jnp.where(count == 0, state.f_info.grad, first)
        unit = jnp.where(begun, unit, jnp.maximum(slope, rtol * size))
        s, arrays = jax.tree.map(
            lambda new, old: jnp.where(begun, new, old), (s, arrays), (first_s, first_arrays)
        )
        return s, arrays, points, values, count + 1, first, unit, ended

    count, none = jnp.zeros((), int), jnp.zeros_like(s)
    carry = (s, arrays, points, values, count, none, unit, jnp.array(False))
    s, arrays, points, values, count, first, unit, ended = jax.lax.while_loop(
        lambda carry: ~carry[-1] & (carry[4] < MOST_EVALUATIONS), body, carry
    )
    state = eqx.combine(arrays, rest)
    info, (size, code) = state.f_info, state.aux
    pace = jax.grad(lambda s: jnp.sum(in_box(s)))
    return Descended(
        t=in_box(s),
        value=unit * info.f,
        gradient=unit * info.grad / pace(s),
        first_gradient=first / pace(first_s),
        size=size,
        code=code,
        converged=ended,
        is_zero=is_zero(unit * info.f, size),
        points=points,
        values=values,
        num_evaluations=count,
    )
