"""The potentials that may explain a β: one table, with what is fitted in each.

To add one, add a line to `FAMILIES` or `NORMS`; a user's own is an even, convex function φ(b) of
one coordinate, which `FromFunction` makes a potential of.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .._mirror import AbstractPotential, HyperbolicEntropy, inverse_mirror_map


class PowerNorm(AbstractPotential):
    r"""Φ_p(β) = (1/p) Σ |β_i|^p, p > 1: what minimising ‖β‖_p minimises."""

    p: Float[Array, ""]

    def __call__(self, beta):
        return jnp.sum(_power(beta, self.p)) / self.p

    def conjugate(self, theta):
        q = self.p / (self.p - 1)
        return jnp.sum(_power(theta, q)) / q

    def divergence(self, theta, theta0):
        return _by_definition(self, theta, theta0)


class FromFunction(AbstractPotential):
    """Φ(β) = Σ φ(β_i) for an even, convex φ; ∇Φ* by inverting φ'."""

    phi: Callable[[Array], Array] = eqx.field(static=True)

    def __call__(self, beta):
        return jnp.sum(jax.vmap(self.phi)(beta))

    def conjugate(self, theta):
        @jax.custom_jvp
        def value(theta):
            beta = _inverse_slope(self.phi, theta)
            return jnp.sum(theta * beta) - self(beta)

        @value.defjvp
        def _(primals, tangents):
            (theta,), (move,) = primals, tangents
            return value(theta), jnp.sum(_inverse_slope(self.phi, theta) * move)

        return value(theta)

    def divergence(self, theta, theta0):
        return _by_definition(self, theta, theta0)


def _power(x: Float[Array, " d"], p: Float[Array, ""]) -> Float[Array, " d"]:
    """|x|^p with derivative 0 at 0."""
    zero = x == 0
    size = jnp.where(zero, 1, x * jnp.sign(x))
    return jnp.where(zero, 0, size**p)


def _by_definition(potential: AbstractPotential, theta, theta0) -> Float[Array, ""]:
    beta, beta0 = (inverse_mirror_map(potential, point) for point in (theta, theta0))
    return potential(beta) - potential(beta0) - jnp.sum(theta0 * (beta - beta0))


def _inverse_slope(phi: Callable[[Array], Array], theta: Float[Array, " d"]) -> Float[Array, " d"]:
    """b with φ'(b) = θ, by bisection in log |b|; its derivative is 1/φ''(b), or 0 without one."""
    slope = jax.grad(phi)

    def one(theta: Float[Array, ""]) -> Float[Array, ""]:
        size = jnp.abs(theta)

        def halve(_, bracket):
            low, high = bracket
            middle = (low + high) / 2
            below = slope(jnp.exp(middle)) < size
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        reach = jnp.asarray(80.0, theta.dtype)
        low, _ = lax.fori_loop(0, 64, halve, (-reach, reach))
        return jnp.where(size == 0, 0, jnp.sign(theta) * jnp.exp(low))

    @jax.custom_jvp
    def inverse(theta):
        return jax.vmap(one)(theta)

    @inverse.defjvp
    def _(primals, tangents):
        (theta,), (move,) = primals, tangents
        beta = inverse(theta)
        bend = jax.vmap(jax.grad(slope))(beta)
        bent = (bend > 0) & jnp.isfinite(bend)  # at 0 it may be 0, ∞ or none
        return beta, jnp.where(bent, move / jnp.where(bent, bend, 1), 0)

    return inverse(theta)


class Family(NamedTuple):
    """Potentials with one parameter, `shift` + e^t, e^t in some bounds times ‖β‖_∞ ^ `unit`."""

    potential: Callable[[Array], AbstractPotential]
    bounds: tuple[float, float]
    shift: float = 0.0
    unit: float = 0.0


FAMILIES = {
    "lp": Family(PowerNorm, (0.05, 2.0), shift=1.0),
    "hyperbolic_entropy": Family(HyperbolicEntropy, (1e-4, 30.0), unit=0.5),
}
"""What is fitted: p from 1.05 to 3, α from 1e-4 to 30 times √‖β‖_∞."""

NORMS = {"l3/2": 1.5, "l2": 2.0}
"""p of what has no parameter; ℓ₁, which has no mirror map, is a linear program of its own."""
