"""The inverse of R = κω + ψ_M(ω), ψ_M(ω) = log ω or ω^{2−M}/(2−M): smooth where ω has a corner.

For depth M = 2 it is a real Wright omega function, which JAX lacks; for M = 3 the root of a
quadratic; for M ≥ 4 the root of an increasing function of one variable.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def shifted_power(
    omega: Float[Array, "..."], kappa: Float[Array, "..."], depth: int
) -> Float[Array, "..."]:
    """R = κω + ψ_M(ω)."""
    return kappa * omega + power_variable(omega, depth)


def power_variable(omega: Float[Array, "..."], depth: int) -> Float[Array, "..."]:
    """ψ_M(ω): log ω for M = 2, ω^{2−M}/(2−M) for M ≥ 3; ψ' = ω^{1−M}."""
    return jnp.log(omega) if depth == 2 else omega ** (2 - depth) / (2 - depth)


def inverse_power_variable(psi: Float[Array, "..."], depth: int) -> Float[Array, "..."]:
    """ω from ψ_M(ω)."""
    if depth == 2:
        return jnp.exp(psi)
    return ((2 - depth) * psi) ** (1 / (2 - depth))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def inverse_shifted_power(
    R: Float[Array, "..."], kappa: Float[Array, "..."], depth: int
) -> Float[Array, "..."]:
    """The ω > 0 with κω + ψ_M(ω) = R, for κ ≥ 0."""
    positive = kappa > 0
    safe = jnp.where(positive, kappa, 1)
    at_zero = inverse_power_variable(R if depth == 2 else jnp.where(positive, -1, R), depth)
    if depth == 2:
        # κω is the Wright omega function of z. Below z = −40 it is ω = exp R to the last bit.
        z = R + jnp.log(safe)
        positive = positive & (z > -40)
        return jnp.where(positive, _wright_omega(jnp.maximum(z, -40)) / safe, at_zero)
    # With x = κ^{1/(M−1)} ω, the equation has one parameter: x − x^{2−M}/(M−2) = ρ.
    unit = safe ** (1 / (depth - 1))
    rho = R / (safe / unit)
    return jnp.where(positive, _increasing_root(rho, depth) / unit, at_zero)


@inverse_shifted_power.defjvp
def _inverse_shifted_power_jvp(depth, primals, tangents):
    """dω = ω^{M−1} (dR − ω dκ) / (1 + κω^{M−1}), finite at κ = 0."""
    R, kappa = primals
    dR, dkappa = tangents
    omega = inverse_shifted_power(R, kappa, depth)
    slope = omega ** (depth - 1)
    return omega, slope * (dR - omega * dkappa) / (1 + kappa * slope)


def _wright_omega(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """ω + log ω = z by two Fritsch–Shafer–Crowley iterations, fourth order each."""
    low = jnp.exp(jnp.minimum(z, -2))
    middle = jnp.exp(2 / 3 * (jnp.clip(z, -2, 1) - 1))
    log_z = jnp.log(jnp.maximum(z, 1))
    high = jnp.maximum(z, 1) - log_z + log_z / jnp.maximum(z, 1)
    omega = jnp.where(z < -2, low, jnp.where(z < 1, middle, high))
    for _ in range(2):
        residual = z - omega - jnp.log(omega)
        p = 1 + omega
        t = 2 * p * (p + 2 / 3 * residual)
        omega = omega * (1 + residual / p * (t - residual) / (t - 2 * residual))
    return omega


def _increasing_root(rho: Float[Array, "..."], depth: int) -> Float[Array, "..."]:
    """x > 0 with x − x^{−p}/p = ρ, p = M − 2: closed for p = 1, else Newton in log x.

    Both terms are convex in log x up to sign, so from a start on the side of its asymptote Newton
    converges from there; seven steps reach double precision for p ≤ 6 and every ρ.
    """
    p = depth - 2
    if p == 1:
        root = jnp.sqrt(rho**2 + 4)
        return jnp.where(rho > 0, (rho + root) / 2, 2 / (root - jnp.minimum(rho, 0)))
    up, down = jnp.maximum(rho, 1), jnp.minimum(rho, -1 / p)
    log_x = jnp.where(rho > 1, jnp.log(up), jnp.where(rho < -1 / p, -jnp.log(-p * down) / p, 0))
    for _ in range(7):
        x, tail = jnp.exp(log_x), jnp.exp(-p * log_x)
        log_x = log_x - (x - tail / p - rho) / (x + tail)
    return jnp.exp(log_x)
