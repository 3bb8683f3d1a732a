"""The best of several numbers: a quasi-Newton method over t = log ε from one start, in a box."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int

MOST_EVALUATIONS = 400


class Descended(NamedTuple):
    """Where the method ended, and the best point after each evaluation, NaN after the last."""

    t: Float[Array, " m"]
    value: Float[Array, ""]
    gradient: Float[Array, " m"]
    first_gradient: Float[Array, " m"]
    size: Float[Array, ""]
    code: Int[Array, ""]
    converged: Bool[Array, ""]
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

    It stops where the value `is_zero` beside its size: no norm can be less.
    """
    solver = optx.LBFGS(rtol=rtol, atol=rtol**2)

    def in_box(s):
        return low + (high - low) * jax.nn.sigmoid(s)

    def wrapped(s, args):
        del args
        value, aux = function(in_box(s))
        return jnp.where(jnp.isfinite(value), value, jnp.inf), aux

    edge = 1e-6
    part = jnp.clip((start - low) / (high - low), edge, 1 - edge)
    s = jnp.log(part / (1 - part))
    value_struct, aux_struct = eqx.filter_eval_shape(wrapped, s, None)
    state = solver.init(wrapped, s, None, {}, value_struct, aux_struct, frozenset())
    arrays, rest = eqx.partition(state, eqx.is_array)
    points = jnp.full((MOST_EVALUATIONS, start.size), jnp.nan, start.dtype)
    values = jnp.full(MOST_EVALUATIONS, jnp.nan, start.dtype)

    def body(carry):
        s, arrays, points, values, count, first, _ = carry
        state = eqx.combine(arrays, rest)
        s, state, _ = solver.step(wrapped, s, None, {}, state, frozenset())
        points = points.at[count].set(in_box(s))
        values = values.at[count].set(state.f_info.f)
        first = jnp.where(count == 0, state.f_info.grad, first)
        done, result = solver.terminate(wrapped, s, None, {}, state, frozenset())
        ended = done | (result != optx.RESULTS.successful) | is_zero(state.f_info.f, state.aux[0])
        arrays, _ = eqx.partition(state, eqx.is_array)
        return s, arrays, points, values, count + 1, first, ended

    carry = (s, arrays, points, values, jnp.zeros((), int), jnp.zeros_like(s), jnp.array(False))
    s, arrays, points, values, count, first, ended = jax.lax.while_loop(
        lambda carry: ~carry[-1] & (carry[-3] < MOST_EVALUATIONS), body, carry
    )
    state = eqx.combine(arrays, rest)
    info, (size, code) = state.f_info, state.aux
    pace = jax.grad(lambda s: jnp.sum(in_box(s)))
    return Descended(
        t=in_box(s),
        value=info.f,
        gradient=info.grad / pace(s),
        first_gradient=first,
        size=size,
        code=code,
        converged=ended,
        points=points,
        values=values,
        num_evaluations=count,
    )
