"""Values between the steps of a solver, from three derivatives of the flow at both ends.

An explicit method of order 8 takes steps so long that its own interpolant, here of order 6, was
off by a hundred times the tolerance. A polynomial of degree 7 that has the value and three
derivatives of the flow at both ends of a step is as good as the step.
"""

from collections.abc import Callable
from math import comb, factorial

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

Jet = tuple[PyTree[Float[Array, "..."]], ...]


def jet(
    field: Callable[[Float[Array, ""], PyTree], PyTree],
    t: Float[Array, ""],
    y: PyTree[Float[Array, "..."]],
) -> Jet:
    """y, y′, y″ and y‴ of the flow dy/dt = field(t, y) at a point, by autodiff."""
    first = field(t, y)

    def along(*derivatives):
        """The field on the curve through (t, y) with these derivatives, over its parameter."""

        def at(s):
            parts = [s**k / factorial(k) for k in range(1, len(derivatives) + 1)]
            state = jax.tree.map(
                lambda leaf, *terms: leaf + sum(p * d for p, d in zip(parts, terms, strict=True)),
                y,
                *derivatives,
            )
            return field(t + s, state)

        return at

    def slope(curve):
        return lambda s: jax.jvp(curve, (s,), (jnp.ones_like(s),))[1]

    second = slope(along(first))(jnp.zeros_like(t))
    third = slope(slope(along(first, second)))(jnp.zeros_like(t))
    return y, first, second, third


class HermiteInterpolation(diffrax.AbstractLocalInterpolation):
    """The polynomial of degree 7 through the jets at both ends of a step."""

    t0: Float[Array, ""]
    t1: Float[Array, ""]
    start: Jet
    end: Jet

    def evaluate(self, t0, t1=None, left=True):
        if t1 is not None:
            ends = self.evaluate(t1), self.evaluate(t0)
            return jax.tree.map(lambda a, b: a - b, *ends)
        length = self.t1 - self.t0
        share = jnp.where(length > 0, (t0 - self.t0) / jnp.where(length > 0, length, 1), 0)
        weights = [*_weights(share, length), *_weights(1 - share, -length)]
        return jax.tree.map(
            lambda *leaves: sum(w * leaf for w, leaf in zip(weights, leaves, strict=True)),
            *self.start,
            *self.end,
        )


def _weights(share: Float[Array, ""], length: Float[Array, ""]) -> list[Float[Array, ""]]:
    """Of the derivatives at an end: 1 for one of them there, and 0 for all others at both ends."""
    return [
        (1 - share) ** 4
        * (length * share) ** j
        / factorial(j)
        * sum(comb(3 + m, m) * share**m for m in range(4 - j))
        for j in range(4)
    ]
