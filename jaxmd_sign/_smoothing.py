"""Smoothings φ of the sign: element-wise, odd, increasing, with φ'(0) > 0.

A smoothing brings the secant φ(z)/z, finite at 0, and a variable for the shrinking weight ω in
which the residual clock is smooth. By default that is ψ_M(ω) (log ω for M = 2), which needs two
to three times the steps where κω^{M−1} passes 1; `abs` has a better one. To add a smoothing, add
a class here and its name to `SMOOTHINGS`; a user's own φ needs no class (`from_function`).
"""

import abc
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._omega import inverse_power_variable, inverse_shifted_power, power_variable, shifted_power


class AbstractSmoothing(eqx.Module):
    """φ, as its secant, and the variable z(ω, κ) of the shrinking weight; κ = aq/ε, M = depth.

    Parameters of a smoothing are static fields. `has_corner` says that φ has a corner at z = 1.
    """

    has_corner: ClassVar[bool] = False

    @abc.abstractmethod
    def secant(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """φ(z)/z for z ≥ 0."""

    def drag(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """1/φ(z) − 1/z for z > 0: a weight is 1 + z·drag times slower than under gradient flow."""
        safe = jnp.where(z > 0, z, 1)
        return jnp.where(z > 0, (1 / self.secant(safe) - 1) / safe, 0)

    def velocity(self, g: Float[Array, "..."], epsilon: Float[Array, "..."]) -> Float[Array, "..."]:
        """φ(g/ε), for g of either sign; its derivatives at g = 0 are finite."""
        z = g / epsilon
        return z * self.secant(jnp.abs(z))

    def encode(
        self, omega: Float[Array, "..."], kappa: Float[Array, "..."], depth: int
    ) -> Float[Array, "..."]:
        """The variable that stands for ω."""
        return power_variable(omega, depth)

    def decode(
        self, variable: Float[Array, "..."], kappa: Float[Array, "..."], depth: int
    ) -> Float[Array, "..."]:
        """ω from its variable."""
        return inverse_power_variable(variable, depth)

    def rate(
        self,
        omega: Float[Array, "..."],
        kappa: Float[Array, "..."],
        S: Float[Array, ""],
        depth: int,
    ) -> Float[Array, "..."]:
        """d(variable)/dt / κ, where dκ/dt = −κS."""
        return -self.secant(kappa * omega ** (depth - 1))


class Abs(AbstractSmoothing):
    """z/(|z| + 1): smoothed sign descent (12). R = κω + ψ_M(ω) has no corner: Ṙ = −κ(1 + Sω)."""

    def secant(self, z):
        return 1 / (1 + z)

    def drag(self, z):
        return jnp.ones_like(z)

    def velocity(self, g, epsilon):
        return g / (jnp.abs(g) + epsilon)  # one division, as in Adam

    def encode(self, omega, kappa, depth):
        return shifted_power(omega, kappa, depth)

    def decode(self, variable, kappa, depth):
        return inverse_shifted_power(variable, kappa, depth)

    def rate(self, omega, kappa, S, depth):
        return -(1 + S * omega)


class Sqrt(AbstractSmoothing):
    """z/√(z² + 1): ε inside the root, as Adam's `eps_root`."""

    def secant(self, z):
        return 1 / jnp.sqrt(1 + z**2)


class Tanh(AbstractSmoothing):
    """tanh z."""

    def secant(self, z):
        small = z < 1e-4
        safe = jnp.where(small, 1, z)
        return jnp.where(small, 1 - z**2 / 3, jnp.tanh(safe) / safe)


class Clip(AbstractSmoothing):
    """z clipped to [−1, 1]; steps end at its corner.

    Where a gradient passes ε that takes 3.6 to 11 times as many.
    """

    has_corner = True

    def secant(self, z):
        return 1 / jnp.maximum(1, z)


class WithoutEpsilon(AbstractSmoothing):
    """The same φ with a variable ψ_M(ω) that knows no ε: for an ε that changes with time."""

    smoothing: AbstractSmoothing

    def secant(self, z):
        return self.smoothing.secant(z)


class FromFunction(AbstractSmoothing):
    """A user's φ(z)."""

    phi: Callable[[Array], Array] = eqx.field(static=True)

    def secant(self, z):
        small = z < 1e-8
        safe = jnp.where(small, 1, z)
        slope = jax.grad(self.phi)(jnp.zeros((), z.dtype))
        return jnp.where(small, slope, jnp.vectorize(self.phi)(safe) / safe)


SMOOTHINGS: dict[str, AbstractSmoothing] = {
    "abs": Abs(),
    "sqrt": Sqrt(),
    "tanh": Tanh(),
    "clip": Clip(),
}


def as_smoothing(smoothing: str | Callable | AbstractSmoothing) -> AbstractSmoothing:
    """A smoothing by name, as it is, or from a function φ."""
    if isinstance(smoothing, AbstractSmoothing):
        return smoothing
    if isinstance(smoothing, str) and smoothing in SMOOTHINGS:
        return SMOOTHINGS[smoothing]
    if callable(smoothing):
        return FromFunction(smoothing)
    names = ", ".join(map(repr, SMOOTHINGS))
    raise ValueError(f"smoothing must be one of {names} or a function φ(z), but is {smoothing!r}.")
