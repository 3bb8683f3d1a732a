"""RKC2, the second-order Runge-Kutta-Chebyshev method, for the flow on a general X.

Of Sommeijer, Shampine and Verwer (J. Comput. Appl. Math. 88, 1998): s stages are stable for steps
that grow like s², so that the stiff end of the flow, whose Jacobian has a real spectrum, needs no
linear algebra. A whole batch takes its steps together, each member with its own length; arrays are
(2, d, B): u and v, columns, members.
"""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .._smoothing import AbstractSmoothing

Scalar = float | Float[Array, ""]

_MOST_STAGES = 200
_DAMPING = 2 / 13
_POWER_EVERY = 8  # steps between two looks at the spectral radius
_TINY = 0.3, 0.02  # a weight is tiny below this much of ε/|c|, and below this in its own unit


class Flows(NamedTuple):
    """A batch of flows on one X of full row rank, in units with ‖X‖ = 1 and max|X⁺y| = 1."""

    X: Float[Array, "n d"]
    y: Float[Array, " n"]
    epsilon: Float[Array, " B"]
    alpha: Float[Array, " B"]
    smoothing: AbstractSmoothing


class Ends(NamedTuple):
    """Logarithms of u and v where the flow is gradient flow slowed by ε, and how it got there."""

    logs: Float[Array, "2 d B"]
    error: Float[Array, "2 d B"]
    num_steps: Int[Array, " B"]
    settled: Bool[Array, " B"]


class _Walk(NamedTuple):
    """`weights` = `base` · exp(`power`): the power gathers what a tiny weight has lost and won."""

    weights: Array  # (2, d, B)
    base: Array
    power: Array
    c: Array  # (d, B), Xᵀ r
    trend: Array  # (d, B), slope of c over the last step
    last: Array  # (B,), its length
    h: Array  # (B,), the next step
    radius: Array  # (B,)
    vector: Array  # (n, B), of the power method
    error: Array  # (2, d, B), signed local errors, added up
    live: Array
    steps: Array
    rounds: Array


@cache
def coefficients() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """β(s), μ̃₁(s) and (μ, ν, μ̃, γ̃) of stage j of s, (s, j, 4); of fewer than 2 stages, nothing."""
    most = _MOST_STAGES
    limits, first, table = np.zeros(most + 1), np.zeros(most + 1), np.zeros((most + 1, most + 1, 4))
    for s in range(2, most + 1):
        w0 = 1 + _DAMPING / s**2
        T, dT, ddT = np.zeros(s + 1), np.zeros(s + 1), np.zeros(s + 1)
        T[:2], dT[1] = (1, w0), 1
        for j in range(2, s + 1):
            T[j] = 2 * w0 * T[j - 1] - T[j - 2]
            dT[j] = 2 * T[j - 1] + 2 * w0 * dT[j - 1] - dT[j - 2]
            ddT[j] = 4 * dT[j - 1] + 2 * w0 * ddT[j - 1] - ddT[j - 2]
        w1 = dT[s] / ddT[s]
        b = np.zeros(s + 1)
        b[2:] = ddT[2:] / dT[2:] ** 2
        b[:2] = b[2]
        limits[s], first[s] = (w0 + 1) / w1, b[1] * w1
        j = np.arange(2, s + 1)
        mu, nu = 2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2]
        slope = 2 * b[j] * w1 / b[j - 1]
        gamma = -(1 - b[j - 1] * T[j - 1]) * slope
        table[s, 2 : s + 1] = np.stack([mu, nu, slope, gamma], axis=1)
    return limits, first, table


def chebyshev_ends(flows: Flows, local: Scalar, tolerance: Scalar, max_steps: int) -> Ends:
    """Follow the flows until no gradient will be above `tolerance` ε any more.

    **Arguments:**

    - `flows`: the batch.
    - `local`: the error that a step may make in a weight, in its unit.
    - `tolerance`: how small gradients over ε are from there on.
    - `max_steps`: most steps of a member.

    **Returns:** the `Ends`. As a function of ε by `jax.jvp`, along the same steps.
    """
    X, y, epsilon, alpha, smoothing = flows
    n, d = X.shape
    dtype, B = X.dtype, epsilon.shape[0]
    limits, first, table = (jnp.asarray(x, dtype) for x in coefficients())
    side = jnp.asarray([-1, 1], dtype)[:, None, None]
    target, inverse = (X.T @ y)[:, None], 1 / epsilon
    gram = X.T @ X if 2 * n > 0.8 * d else None  # else two products are cheaper

    def gradient(weights):
        u, v = weights[0], weights[1]
        power = (u - v) * (u + v)
        return (X.T @ (X @ power) if gram is None else gram @ power) - target

    def secant(c, weights):
        return smoothing.secant(jnp.abs(c * inverse * weights))

    def velocity(c, weights):
        return side * (c * inverse) * weights * secant(c, weights)

    def slope(z):
        return jax.jvp(lambda z: z * smoothing.secant(z), (z,), (jnp.ones_like(z),))[1]

    def settled(walk):
        # With the weights that are to come, about 1: a small one may have a long way to grow.
        largest = jnp.maximum(1, jnp.max(walk.weights, axis=(0, 1)))
        return jnp.max(jnp.abs(walk.c), axis=0) * largest <= tolerance * epsilon

    def look(walk):
        """Spectral radius, and which members go on."""
        weights, c = walk.weights, walk.c
        z = jnp.abs(c * inverse * weights)
        steep = slope(z) * inverse
        couple = jnp.sum(2 * weights**2 * steep, axis=0)
        image = X @ (couple * (X.T @ walk.vector))
        size = jnp.sqrt(jnp.sum(image**2, axis=0))
        decay = jnp.max(jnp.where(side * c < 0, jnp.abs(c) * steep, 0), axis=(0, 1))
        vector = jnp.where(size > 0, image / jnp.where(size > 0, size, 1), 1 / np.sqrt(n))
        live = walk.live & ~settled(walk) & (walk.steps < max_steps)
        radius, vector = lax.stop_gradient((1.15 * size + decay, vector))
        return radius, vector, live

    def step(walk: _Walk) -> _Walk:
        weights, c = walk.weights, walk.c
        radius, vector, live = lax.cond(
            walk.rounds % _POWER_EVERY == 0,
            look,
            lambda walk: (walk.radius, walk.vector, walk.live),
            walk,
        )
        # An even number of stages, so that two at a time make no copies; what most members need:
        # the others take the longest step that it allows, rather than cost all of them more.
        h = jnp.minimum(walk.h, 0.9 * limits[-1] / jnp.maximum(radius, 1e-300))
        need = jnp.sqrt(1 + h * radius * (_MOST_STAGES**2 - 1) / limits[-1])
        need = jnp.sum(jnp.where(live, need, 0)) / jnp.sum(live)
        s = 2 * jnp.clip(jnp.ceil(need / 2), 1, _MOST_STAGES // 2).astype(int)
        h = jnp.minimum(h, limits[s] / jnp.maximum(radius, 1e-300))
        start = h * velocity(c, weights)
        rows = table[s]

        def stage(j, new, old):
            at = weights + new
            mu, nu, mut, gamma = rows[j]
            return mu * new + nu * old + (mut * h) * velocity(gradient(at), at) + gamma * start

        def two(i, state):
            new, old = state
            old = stage(2 * i + 1, new, old)
            return stage(2 * i + 2, old, new), old

        move = first[s] * start
        move, _ = lax.fori_loop(1, s // 2, two, (stage(2, move, jnp.zeros_like(start)), move))
        there = weights + move
        c1 = gradient(there)
        # Tiny weights by their logarithm: exact for constant c.
        trend = (c1 - c) / h
        # ∫c by the parabola through three points: an error here grows by 1/ε.
        mean = (c + c1) / 2 - h**2 / (6 * (h + walk.last)) * (trend - walk.trend)
        pace = jnp.abs(mean) * inverse
        z0, z1 = pace * weights, pace * jnp.maximum(there, 0)
        z = jnp.maximum((z0 + z1) / 2, 1e-100)
        bend = (z1 - z0) * (1 / smoothing.secant(z) - 1) / z
        share, most = _TINY
        tiny = (z1 < share) & (there < most)
        power = walk.power + side * (h * inverse * mean) - bend
        power = jnp.where(tiny, power, 0)
        base = jnp.where(tiny, walk.base, there)
        new = base * jnp.exp(power)
        by_difference = 0.4 * (start + h * velocity(c1, there)) - 0.8 * move
        local_error = lax.stop_gradient(jnp.where(tiny, new - there, by_difference))
        scale = local * (1 + jnp.maximum(weights, new))
        E = jnp.max(jnp.abs(local_error) / scale, axis=(0, 1))
        E = lax.stop_gradient(jnp.where(jnp.isfinite(E), E, 1e9))
        good = (E <= 1) & live
        factor = jnp.clip(0.9 * jnp.maximum(E, 1e-12) ** (-1 / 3), 0.15, 3)

        def keep(new, old):
            return jnp.where(good, new, old)

        return walk._replace(
            radius=radius, vector=vector, live=live,
            weights=keep(new, weights), base=keep(base, walk.base), power=keep(power, walk.power),
            c=keep(c1, c), trend=keep(trend, walk.trend), last=keep(h, walk.last),
            h=jnp.where(live, h * factor, walk.h),
            error=keep(walk.error + local_error, walk.error),
            steps=walk.steps + live, rounds=walk.rounds + 1,
        )  # fmt: skip

    start = jnp.broadcast_to(alpha, (2, d, B))
    zero = jnp.zeros((2, d, B), dtype)
    walk = _Walk(
        start, start, zero, jnp.broadcast_to(-target, (d, B)), jnp.zeros((d, B), dtype),
        jnp.full(B, jnp.inf, dtype), 0.1 * alpha,
        jnp.zeros(B, dtype), jnp.full((n, B), 1 / np.sqrt(n), dtype), zero,
        jnp.ones(B, bool), jnp.zeros(B, int), jnp.zeros((), int),
    )  # fmt: skip
    walk = lax.while_loop(lambda walk: jnp.any(walk.live), step, walk)
    logs = jnp.log(walk.base) + walk.power
    return Ends(logs, walk.error, walk.steps, settled(walk))
