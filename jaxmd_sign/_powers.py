"""Powers of two weights, without cancellation."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def power_quotient(
    a: Float[Array, "..."], b: Float[Array, "..."], depth: int
) -> Float[Array, "..."]:
    """(a^M − b^M)/(a − b) = Σ_j a^{M−1−j} b^j."""
    return sum((a ** (depth - 1 - j) * b**j for j in range(1, depth)), a ** (depth - 1))


def power_difference(
    a: Float[Array, "..."], b: Float[Array, "..."], depth: int
) -> Float[Array, "..."]:
    """a^M − b^M."""
    return (a - b) * power_quotient(a, b, depth)


def counted(
    u: Float[Array, "..."], v: Float[Array, "..."], depth: int
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The weights by what counts, their powers: for an even M a weight has no sign."""
    return (u, v) if depth % 2 else (jnp.abs(u), jnp.abs(v))
