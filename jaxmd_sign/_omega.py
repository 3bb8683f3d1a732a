"""The inverse of R = κω + log ω: a real Wright omega function, which JAX lacks."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def inverse_shifted_log(R: Float[Array, "..."], kappa: Float[Array, "..."]) -> Float[Array, "..."]:
    """The ω > 0 with κω + log ω = R, for κ ≥ 0.

    κω is the Wright omega function of z = R + log κ, and ω = exp R at κ = 0.
    """
    positive = kappa > 0
    safe_kappa = jnp.where(positive, kappa, 1)
    z = R + jnp.log(safe_kappa)
    # Below z = -40, κω < 1e-17 and ω = exp R to the last bit.
    return jnp.where(
        positive & (z > -40), _wright_omega(jnp.maximum(z, -40)) / safe_kappa, jnp.exp(R)
    )


@inverse_shifted_log.defjvp
def _inverse_shifted_log_jvp(primals, tangents):
    """dω = ω (dR − ω dκ) / (1 + κω), finite at κ = 0."""
    R, kappa = primals
    dR, dkappa = tangents
    omega = inverse_shifted_log(R, kappa)
    return omega, omega * (dR - omega * dkappa) / (1 + kappa * omega)


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
