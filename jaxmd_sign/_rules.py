"""Update rules: how fast a weight moves under its gradient, and in which variable to follow it.

A rule brings its velocity (per unit of residual, so that it is finite where the residual
vanishes), a variable z for the non-dominating weight in which the residual clock is smooth, and
its potential. Everything else (trajectory, limit, KKT) is built from these. M is the depth of the
model β = u^M − v^M; the size of a gradient is g = a q w^{M−1}.
"""

import abc
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._checks import Numbers, as_positive
from ._extremes import amax, amin
from ._mirror import AbstractPotential, HyperbolicEntropy, PowerPotential
from ._smoothing import AbstractSmoothing, WithoutEpsilon, as_smoothing

Scale = Float[Array, "..."]


class AbstractRule(eqx.Module):
    """An update rule, element-wise in the weights."""

    has_epsilon: ClassVar[bool]

    @abc.abstractmethod
    def potential(self, delta: Float[Array, " d"], alpha: Scale, depth: int) -> AbstractPotential:
        """The potential whose mirror map gives this rule's dual; δ = ω^M."""

    @abc.abstractmethod
    def log_rate(self, c: Scale, w: Scale, depth: int) -> Scale:
        """-d log w / dt of a weight w ≥ 0 with gradient c w^{M−1}."""

    @abc.abstractmethod
    def unit_rate(self, a: Scale, q: Scale, w: Scale, depth: int) -> Scale:
        """h = |d log w / dt| / q of a weight with gradient a q w^{M−1}, finite at q = 0."""

    @abc.abstractmethod
    def encode(self, a: Scale, q: Scale, omega: Scale, depth: int) -> Scale:
        """The variable z that stands for a shrinking weight ω."""

    @abc.abstractmethod
    def decode(self, a: Scale, q: Scale, z: Scale, depth: int) -> Scale:
        """ω from z."""

    @abc.abstractmethod
    def encoded_rate(self, a: Scale, q: Scale, omega: Scale, S: Scale, depth: int) -> Scale:
        """dz/dt / q, where dq/dt = -q S."""

    @abc.abstractmethod
    def log_gate(self, a: Scale, q: Scale, w: Scale, depth: int) -> Scale:
        """log(a q w^{M−1} / ε): positive while the gradient is above ε (never without ε)."""

    @abc.abstractmethod
    def map_epsilon(self, change: Callable[[Scale], Array]) -> "AbstractRule":
        """The same rule with its ε (if it has one) spread over blocks or put in their units."""

    @abc.abstractmethod
    def slowness(self) -> Scale:
        """How slow the rule is as gradient flow, once gradients are small (up to a factor): ε."""

    @abc.abstractmethod
    def clock_layer(self, a: Float[Array, " k"], m: Scale, depth: int) -> Scale:
        """Width of the layer before m, the end of the clock σ, where rates bend."""

    @abc.abstractmethod
    def time_unit(self, weight: Scale, gradient: Scale) -> Scale:
        """The unit of time in which rates have their normal form."""

    def at(self, t: Scale) -> "AbstractRule":
        """The rule at time t."""
        return self

    @property
    def has_corner(self) -> bool:
        """Whether the velocity has a corner where a gate is 0."""
        return False

    @property
    def margin(self) -> float:
        """How much smaller than asked for the errors of steps must be on the clock."""
        return 3.0


class SmoothedSign(AbstractRule):
    r"""Smoothed sign descent (12): ẇ = −φ(g/ε), with φ(z) = z/(|z| + 1) by default.

    That is g/(|g| + ε), Adam without its averages.

    **Arguments:**

    - `epsilon`: the stability constant ε > 0, a scalar or one number per coordinate (d,); or a
        schedule, a function of time that gives one number, for `solve_trajectory` only.
    - `smoothing`: `"abs"`, `"sqrt"` (z/√(z² + 1), ε inside the root), `"tanh"`, `"clip"`, or any
        odd, increasing function φ(z) with φ'(0) > 0.

    **Raises:** `ValueError` for a bad ε or smoothing.

    !!! example
        >>> import jax
        >>> jax.vmap(SmoothedSign)(jax.numpy.array([0.1, 0.2])).epsilon.shape
        (2,)
    """

    epsilon: Scale
    smoothing: AbstractSmoothing
    schedule: Callable | None = eqx.field(static=True)
    has_epsilon = True

    def __init__(
        self,
        epsilon: Numbers | Callable,
        smoothing: str | Callable | AbstractSmoothing = "abs",
    ):
        scheduled = callable(epsilon)
        if scheduled and as_positive("epsilon", epsilon(0.0)).ndim:
            raise ValueError("epsilon as a schedule must give one number, but gives several.")
        self.epsilon = as_positive("epsilon", 1.0 if scheduled else epsilon)
        self.schedule = epsilon if scheduled else None
        self.smoothing = as_smoothing(smoothing)

    def at(self, t):
        if self.schedule is None:
            return self
        epsilon = jnp.asarray(self.schedule(t), self.epsilon.dtype) * self.epsilon
        return eqx.tree_at(lambda rule: rule.epsilon, self, epsilon)

    @property
    def has_corner(self):
        return self.smoothing.has_corner

    @property
    def margin(self):
        return self.smoothing.margin

    @property
    def _variable(self) -> AbstractSmoothing:
        return self.smoothing if self.schedule is None else WithoutEpsilon(self.smoothing)

    def potential(self, delta, alpha, depth):
        return PowerPotential(delta, depth)

    def log_rate(self, c, w, depth):
        steep = w ** (depth - 2) / self.epsilon
        return c * steep * self.smoothing.secant(jnp.abs(c) * w * steep)

    def unit_rate(self, a, q, w, depth):
        steep = a * w ** (depth - 2) / self.epsilon
        return steep * self.smoothing.secant(q * w * steep)

    def encode(self, a, q, omega, depth):
        return self._variable.encode(omega, a * q / self.epsilon, depth)

    def decode(self, a, q, z, depth):
        return self._variable.decode(z, a * q / self.epsilon, depth)

    def encoded_rate(self, a, q, omega, S, depth):
        return a / self.epsilon * self._variable.rate(omega, a * q / self.epsilon, S, depth)

    def log_gate(self, a, q, w, depth):
        gradient = a * q * w ** (depth - 1)
        moving = gradient > 0
        return jnp.where(moving, jnp.log(jnp.where(moving, gradient, 1) / self.epsilon), -jnp.inf)

    def map_epsilon(self, change):
        return eqx.tree_at(lambda rule: rule.epsilon, self, change(self.epsilon))

    def slowness(self):
        return self.epsilon

    def clock_layer(self, a, m, depth):
        smallest = amin(jnp.where(a > 0, a, jnp.inf))
        return amax(self.epsilon) / (depth * jnp.sum(a) * smallest * m ** (2 * depth - 2))

    def time_unit(self, weight, gradient):
        return weight


class GradientDescent(AbstractRule):
    r"""Gradient flow (71)–(72): u̇ = −c∘u, v̇ = c∘v, whose limit minimises hyperbolic entropy (11).

    For depth 2 only: deeper models have another potential.

    !!! example
        >>> GradientDescent()
        GradientDescent()
    """

    has_epsilon = False

    def potential(self, delta, alpha, depth):
        return HyperbolicEntropy(alpha)

    def log_rate(self, c, w, depth):
        return c

    def unit_rate(self, a, q, w, depth):
        return a

    def encode(self, a, q, omega, depth):
        return jnp.log(omega)

    def decode(self, a, q, z, depth):
        return jnp.exp(z)

    def encoded_rate(self, a, q, omega, S, depth):
        return -a

    def log_gate(self, a, q, w, depth):
        return jnp.full_like(a * w, -jnp.inf)

    def map_epsilon(self, change):
        return self

    def slowness(self):
        return jnp.ones(())

    def clock_layer(self, a, m, depth):
        return m

    def time_unit(self, weight, gradient):
        return weight / gradient
