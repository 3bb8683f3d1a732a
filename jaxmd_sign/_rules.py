"""Update rules: how fast a weight moves under its gradient, and in which variable to follow it.

A rule brings its velocity (per unit of residual, so that it is finite where the residual
vanishes) and a variable z for the non-dominating weight in which the residual clock is smooth.
Everything else (trajectory, limit, KKT) is built from these.
"""

import abc
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._checks import Numbers, as_positive
from ._mirror import AbstractPotential, HyperbolicEntropy, PowerPotential
from ._omega import inverse_shifted_log


class AbstractRule(eqx.Module):
    """An update rule, element-wise in the weights. g = a q w is the size of a gradient."""

    has_epsilon: ClassVar[bool]

    @abc.abstractmethod
    def potential(self, delta: Float[Array, " d"], alpha: Float[Array, "..."]) -> AbstractPotential:
        """The potential whose mirror map gives this rule's dual; δ = ω²."""

    @abc.abstractmethod
    def log_rate(self, c: Float[Array, "..."], w: Float[Array, "..."]) -> Float[Array, "..."]:
        """-d log w / dt of a weight w ≥ 0 with gradient c w."""

    @abc.abstractmethod
    def unit_rate(
        self, a: Float[Array, "..."], q: Float[Array, "..."], w: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        """h = |d log w / dt| / q of a weight with gradient a q w, finite at q = 0."""

    @abc.abstractmethod
    def encode(
        self, a: Float[Array, "..."], q: Float[Array, "..."], omega: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        """The variable z that stands for a shrinking weight ω."""

    @abc.abstractmethod
    def decode(
        self, a: Float[Array, "..."], q: Float[Array, "..."], z: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        """ω from z."""

    @abc.abstractmethod
    def encoded_rate(
        self, a: Float[Array, "..."], omega: Float[Array, "..."], S: Float[Array, ""]
    ) -> Float[Array, "..."]:
        """dz/dt / q, where dq/dt = -q S."""

    @abc.abstractmethod
    def log_gate(
        self, a: Float[Array, "..."], q: Float[Array, "..."], w: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        """log(a q w / ε): positive while the gradient is above ε (never for a rule without ε)."""

    @abc.abstractmethod
    def map_epsilon(self, change: Callable[[Float[Array, "..."]], Array]) -> "AbstractRule":
        """The same rule with its ε (if it has one) spread over blocks or put in their units."""

    @abc.abstractmethod
    def clock_layer(self, a: Float[Array, " k"], m: Float[Array, ""]) -> Float[Array, ""]:
        """Width of the layer before m, the end of the clock σ, where rates bend."""

    @abc.abstractmethod
    def time_unit(
        self, weight: Float[Array, "..."], gradient: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        """The unit of time in which rates have their normal form."""


class SmoothedSign(AbstractRule):
    r"""Smoothed sign descent (12): ẇ = −g/(|g| + ε), Adam without its averages.

    **Arguments:**

    - `epsilon`: the stability constant ε > 0, a scalar or one number per coordinate (d,).

    The shrinking weight is followed in R = κω + log ω, κ = aq/ε, which has no corner where its
    gradient passes ε; its rate is dR/dt = −κ(1 + Sω).

    !!! example
        >>> import jax
        >>> jax.vmap(SmoothedSign)(jax.numpy.array([0.1, 0.2])).epsilon.shape
        (2,)
    """

    epsilon: Float[Array, "..."]
    has_epsilon = True

    def __init__(self, epsilon: Numbers):
        self.epsilon = as_positive("epsilon", epsilon)

    def potential(self, delta, alpha):
        return PowerPotential(delta)

    def log_rate(self, c, w):
        return c / (jnp.abs(c) * w + self.epsilon)

    def unit_rate(self, a, q, w):
        return a / (a * q * w + self.epsilon)

    def encode(self, a, q, omega):
        return a * q / self.epsilon * omega + jnp.log(omega)

    def decode(self, a, q, z):
        return inverse_shifted_log(z, a * q / self.epsilon)

    def encoded_rate(self, a, omega, S):
        return -a / self.epsilon * (1 + S * omega)

    def log_gate(self, a, q, w):
        gradient = a * q * w
        moving = gradient > 0
        return jnp.where(moving, jnp.log(jnp.where(moving, gradient, 1) / self.epsilon), -jnp.inf)

    def map_epsilon(self, change):
        return eqx.tree_at(lambda rule: rule.epsilon, self, change(self.epsilon))

    def clock_layer(self, a, m):
        smallest = jnp.min(jnp.where(a > 0, a, jnp.inf))
        return jnp.max(self.epsilon) / (2 * jnp.sum(a) * smallest * m**2)

    def time_unit(self, weight, gradient):
        return weight


class GradientDescent(AbstractRule):
    r"""Gradient flow (71)–(72): u̇ = −c∘u, v̇ = c∘v, whose limit minimises hyperbolic entropy (11).

    !!! example
        >>> GradientDescent()
        GradientDescent()
    """

    has_epsilon = False

    def potential(self, delta, alpha):
        return HyperbolicEntropy(alpha)

    def log_rate(self, c, w):
        return c

    def unit_rate(self, a, q, w):
        return a

    def encode(self, a, q, omega):
        return jnp.log(omega)

    def decode(self, a, q, z):
        return jnp.exp(z)

    def encoded_rate(self, a, omega, S):
        return -a

    def log_gate(self, a, q, w):
        return jnp.full_like(a * w, -jnp.inf)

    def map_epsilon(self, change):
        return self

    def clock_layer(self, a, m):
        return m

    def time_unit(self, weight, gradient):
        return weight / gradient
