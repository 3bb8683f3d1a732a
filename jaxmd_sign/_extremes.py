"""Largest and smallest values, NaN wherever one of the values is: as NumPy has it.

XLA's reductions on a CPU (jax 0.10) pass over NaN in arrays of more than a few thousand entries, so
that in a large batch what went wrong would look like what went well. `make lint` forbids them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num, PyTree


def amax(
    x: Num[Array, "..."],
    axis: int | tuple[int, ...] | None = None,
    *,
    where: Bool[Array, "..."] | None = None,
    initial: int | float | None = None,
) -> Float[Array, "..."]:
    """The largest along the axis."""
    found = jnp.max(x, axis, where=where, initial=initial)  # noqa: TID251
    return _unless_nan(found, x, axis, where)


def amin(
    x: Num[Array, "..."],
    axis: int | tuple[int, ...] | None = None,
    *,
    where: Bool[Array, "..."] | None = None,
    initial: int | float | None = None,
) -> Float[Array, "..."]:
    """The smallest along the axis."""
    found = jnp.min(x, axis, where=where, initial=initial)  # noqa: TID251
    return _unless_nan(found, x, axis, where)


def _unless_nan(found, x, axis, where):
    return jnp.where(jnp.any(jnp.isnan(x), axis, where=where), jnp.nan, found)


def max_norm(tree: PyTree[Float[Array, "..."]]) -> Float[Array, ""]:
    """The largest absolute value, ∞ if one is not a number.

    So a step or an iteration that overflows is taken back like any other that errs: after a NaN,
    Diffrax's controller makes the next step NaN too, and never gets away from it.
    """
    sizes = [amax(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]
    size = amax(jnp.stack(sizes))
    return jnp.where(jnp.isnan(size), jnp.inf, size)
