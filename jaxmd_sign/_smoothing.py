"""Smoothings φ of the sign: element-wise, odd, increasing, with φ'(0) > 0.

A smoothing brings the secant φ(z)/z, finite at 0, and a variable for the shrinking weight ω in
which the residual clock is smooth. By default that is ψ_M(ω) (log ω for M = 2), which needs two
to three times the steps where κω^{M−1} passes 1, and whose corner there a long step may overlook.
`abs` has a better one, and for M = 2 `sqrt` and `tanh` as well. To add a smoothing, add a class
here and its name to `SMOOTHINGS`; a user's own φ needs no class (`FromFunction`).
"""

import abc
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._omega import inverse_power_variable, inverse_shifted_power, power_variable, shifted_power


class AbstractSmoothing(eqx.Module):
    """φ, as its secant, and the variable z(ω, κ) of the shrinking weight; κ = aq/ε, M = depth.

    Parameters of a smoothing are static fields. `has_corner` says that φ has a corner at z = 1.
    Where φ bends within less than a step, one error in a hundred is underestimated, by up to ten
    times: `margin` is a factor between the tolerance of a limit and that of its steps.
    """

    has_corner: ClassVar[bool] = False
    margin: ClassVar[float] = 30.0

    @abc.abstractmethod
    def secant(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """φ(z)/z for z ≥ 0."""

    def slowing(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """z/φ(z): how many times slower a weight is than under gradient flow."""
        return 1 / self.secant(z)

    def drag(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """1/φ(z) − 1/z for z > 0: a weight is 1 + z·drag times slower than under gradient flow."""
        safe = jnp.where(z > 0, z, 1)
        return jnp.where(z > 0, (self.slowing(safe) - 1) / safe, 0)

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

    margin: ClassVar[float] = 3.0  # it bends slowly

    def secant(self, z):
        return 1 / self.slowing(z)

    def slowing(self, z):
        return 1 + z

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


class _Straightened(AbstractSmoothing):
    """With a variable that has no corner for M = 2: R = log ω + D(κω), D the integral of the drag.

    Ṙ = −κ(1 + Sω·drag(κω)), as for `abs`, where the drag is 1 and D(z) = z.
    """

    @abc.abstractmethod
    def slack(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """D(z) = ∫ drag from 0."""

    @abc.abstractmethod
    def inverse_slack(self, level: Float[Array, "..."]) -> Float[Array, "..."]:
        """z with log z + D(z) = level, for levels from −40."""

    def encode(self, omega, kappa, depth):
        if depth > 2:
            return super().encode(omega, kappa, depth)
        return jnp.log(omega) + self.slack(kappa * omega)

    def decode(self, variable, kappa, depth):
        if depth > 2:
            return super().decode(variable, kappa, depth)

        @jax.custom_jvp
        def inverse(R, kappa):
            safe = jnp.where(kappa > 0, kappa, 1)
            level = R + jnp.log(safe)
            # Below it is ω = exp R to the last bit.
            bent = (kappa > 0) & (level > -40)
            return jnp.where(bent, self.inverse_slack(jnp.maximum(level, -40)) / safe, jnp.exp(R))

        @inverse.defjvp
        def _(primals, tangents):
            (R, kappa), (dR, dkappa) = primals, tangents
            omega = inverse(R, kappa)
            z = kappa * omega
            drag = self.drag(z)
            return omega, omega * (dR - omega * drag * dkappa) / (1 + z * drag)

        return inverse(variable, jnp.asarray(kappa, jnp.result_type(variable)))

    def rate(self, omega, kappa, S, depth):
        if depth > 2:
            return super().rate(omega, kappa, S, depth)
        return -(1 + S * omega * self.drag(kappa * omega))


class Sqrt(_Straightened):
    """z/√(z² + 1): ε inside the root, as Adam's `eps_root`."""

    def secant(self, z):
        return 1 / self.slowing(z)

    def slowing(self, z):
        return jnp.sqrt(1 + z**2)

    def drag(self, z):
        return z / (1 + jnp.sqrt(1 + z**2))

    def slack(self, z):
        rise = z * self.drag(z)  # √(1 + z²) − 1
        return rise - jnp.log1p(rise / 2)

    def inverse_slack(self, level):
        # Newton in log z, convex: after a step it comes down to the root.
        log_z = jnp.where(level > 0.5, jnp.log(jnp.maximum(level, 0.5) + 0.3), level)
        for _ in range(5):
            z = jnp.exp(log_z)
            log_z = log_z - (log_z + self.slack(z) - level) * self.secant(z)
        return jnp.exp(log_z)


class Tanh(_Straightened):
    """tanh z."""

    def secant(self, z):
        small = z < 1e-4
        safe = jnp.where(small, 1, z)
        return jnp.where(small, 1 - z**2 / 3, jnp.tanh(safe) / safe)

    def drag(self, z):
        small = z < 0.03
        safe = jnp.where(small, 1, z)
        series = z / 3 * (1 - z**2 / 15 * (1 - 2 * z**2 / 21))
        return jnp.where(small, series, 1 / jnp.tanh(safe) - 1 / safe)

    def slack(self, z):
        small = z < 0.03
        safe = jnp.where(small, 1, z)
        series = z**2 / 6 * (1 - z**2 / 30 * (1 - 4 * z**2 / 63))
        return jnp.where(small, series, safe + jnp.log(-jnp.expm1(-2 * safe) / (2 * safe)))

    def inverse_slack(self, level):
        high = level > 20
        return jnp.where(
            high, level + jnp.log(2.0), jnp.arcsinh(jnp.exp(jnp.where(high, 0, level)))
        )


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
        wrong = _what_is_wrong(smoothing)
        if wrong:
            raise ValueError(
                "smoothing must be an odd, increasing function φ(z) of one number with φ'(0) > 0, "
                f"but {wrong}."
            )
        return FromFunction(smoothing)
    names = ", ".join(map(repr, SMOOTHINGS))
    raise ValueError(f"smoothing must be one of {names} or a function φ(z), but is {smoothing!r}.")


def _what_is_wrong(phi: Callable) -> str | None:
    """With a function as φ, as far as some points of it show."""
    z = np.geomspace(1e-3, 1e3, 25)
    try:
        with jax.ensure_compile_time_eval():
            slope = float(jax.grad(phi)(0.0))
            above, below = (np.asarray(jax.vmap(phi)(side * z)) for side in (1, -1))
    except (TypeError, ValueError) as error:
        return "JAX cannot differentiate it: " + str(error).splitlines()[0].rstrip(".")
    if not 0 < slope < np.inf:
        return f"φ'(0) is {slope:g}"
    odd = np.abs(above + below) <= 1e-3 * np.abs(above)
    if not np.all(odd):
        i = np.argmin(odd)
        return f"φ({z[i]:.3g}) is {above[i]:.3g} and φ(−{z[i]:.3g}) is {below[i]:.3g}"
    rising = np.diff(above) >= -1e-3 * np.abs(above[1:])
    if not np.all(rising):
        i = np.argmin(rising)
        return f"it falls between {z[i]:.3g} and {z[i + 1]:.3g}"
    return None
