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
_FLOOR = -300  # of the exponent of a weight: far below rounding, and far above what is slow
SIDE = np.array([-1.0, 1.0])[:, None, None]


class Flows(NamedTuple):
    """A batch of flows on one X of full row rank, in units with ‖X‖ = 1 and max|X⁺y| = 1."""

    X: Float[Array, "n d"]
    y: Float[Array, " n"]
    epsilon: Float[Array, " B"]
    alpha: Float[Array, " B"]
    smoothing: AbstractSmoothing

    def gradient(self, weights: Float[Array, "2 d B"]) -> Float[Array, "d B"]:
        """c = Xᵀ(Xβ − y). XᵀX is one product for two, and measured to be faster up to d = 3n."""
        u, v = weights[0], weights[1]
        power, (n, d) = (u - v) * (u + v), self.X.shape
        product = (self.X.T @ self.X) @ power if d < 3 * n else self.X.T @ (self.X @ power)
        return product - (self.X.T @ self.y)[:, None]

    def velocity(
        self, c: Float[Array, "d B"], weights: Float[Array, "2 d B"]
    ) -> Float[Array, "2 d B"]:
        """du/dt and dv/dt."""
        pace = c / self.epsilon
        return pace * SIDE * weights * self.smoothing.secant(jnp.abs(pace * weights))

    def steepness(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """φ'(z)."""
        return jax.jvp(lambda z: z * self.smoothing.secant(z), (z,), (jnp.ones_like(z),))[1]


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

    def step(walk: _Walk) -> _Walk:
        radius, vector, live = lax.cond(
            walk.rounds % _POWER_EVERY == 0,
            lambda walk: _look(flows, walk, tolerance, max_steps),
            lambda walk: (walk.radius, walk.vector, walk.live),
            walk,
        )
        walk = walk._replace(radius=radius, vector=vector, live=live)
        h, s = _lengths(walk)
        start = h * flows.velocity(walk.c, walk.weights)
        move = _stages(flows, walk.weights, start, h, s)
        return _accept(walk, _attempt(flows, walk, start, move, h), h, local)

    walk = lax.while_loop(lambda walk: jnp.any(walk.live), step, _at_start(flows))
    logs = jnp.log(walk.base) + walk.power
    return Ends(logs, walk.error, walk.steps, _settled(flows, walk, tolerance))


def _at_start(flows: Flows) -> _Walk:
    (n, d), B, dtype = flows.X.shape, flows.epsilon.shape[0], flows.X.dtype
    start, zero = jnp.broadcast_to(flows.alpha, (2, d, B)), jnp.zeros((2, d, B), dtype)
    return _Walk(
        weights=start,
        base=start,
        power=zero,
        c=flows.gradient(start),
        trend=jnp.zeros((d, B), dtype),
        last=jnp.full(B, jnp.inf, dtype),
        h=0.1 * flows.alpha,
        radius=jnp.zeros(B, dtype),
        vector=jnp.full((n, B), 1 / np.sqrt(n), dtype),
        error=zero,
        live=jnp.ones(B, bool),
        steps=jnp.zeros(B, int),
        rounds=jnp.zeros((), int),
    )


def _settled(flows: Flows, walk: _Walk, tolerance: Scalar) -> Bool[Array, " B"]:
    # With the weights that are to come, about 1: a small one may have a long way to grow.
    largest = jnp.maximum(1, jnp.max(walk.weights, axis=(0, 1)))
    return jnp.max(jnp.abs(walk.c), axis=0) * largest <= tolerance * flows.epsilon


def _look(
    flows: Flows, walk: _Walk, tolerance: Scalar, max_steps: int
) -> tuple[Float[Array, " B"], Float[Array, "n B"], Bool[Array, " B"]]:
    """Spectral radius by a step of the power method, its vector, and which members go on."""
    weights, c, X = walk.weights, walk.c, flows.X
    steep = flows.steepness(jnp.abs(c / flows.epsilon * weights)) / flows.epsilon
    image = X @ (jnp.sum(2 * weights**2 * steep, axis=0) * (X.T @ walk.vector))
    size = jnp.sqrt(jnp.sum(image**2, axis=0))
    decay = jnp.max(jnp.where(SIDE * c < 0, jnp.abs(c) * steep, 0), axis=(0, 1))
    vector = jnp.where(size > 0, image / jnp.where(size > 0, size, 1), 1 / np.sqrt(X.shape[0]))
    live = walk.live & ~_settled(flows, walk, tolerance) & (walk.steps < max_steps)
    return *lax.stop_gradient((1.15 * size + decay, vector)), live


def _lengths(walk: _Walk) -> tuple[Float[Array, " B"], Int[Array, ""]]:
    """The length of every member's step, and the number of stages of all.

    An even number, so that two at a time make no copies; what most members need: the others take
    the longest step that it allows, rather than cost all of them more.
    """
    limits = jnp.asarray(coefficients()[0], walk.h.dtype)
    radius = jnp.maximum(walk.radius, 1e-300)
    h = jnp.minimum(walk.h, 0.9 * limits[-1] / radius)
    need = jnp.sqrt(1 + h * walk.radius * (_MOST_STAGES**2 - 1) / limits[-1])
    need = jnp.sum(jnp.where(walk.live, need, 0)) / jnp.sum(walk.live)
    s = 2 * jnp.clip(jnp.ceil(need / 2), 1, _MOST_STAGES // 2).astype(int)
    return jnp.minimum(h, limits[s] / radius), s


def _stages(
    flows: Flows,
    weights: Float[Array, "2 d B"],
    start: Float[Array, "2 d B"],
    h: Float[Array, " B"],
    s: Int[Array, ""],
) -> Float[Array, "2 d B"]:
    """How far s stages move the weights; `start` is h times their velocity."""
    _, first, table = (jnp.asarray(x, h.dtype) for x in coefficients())
    rows = table[s]

    def stage(j, new, old):
        at = weights + new
        mu, nu, mut, gamma = rows[j]
        slope = flows.velocity(flows.gradient(at), at)
        return mu * new + nu * old + (mut * h) * slope + gamma * start

    def two(i, state):
        new, old = state
        old = stage(2 * i + 1, new, old)
        return stage(2 * i + 2, old, new), old

    move = first[s] * start
    return lax.fori_loop(1, s // 2, two, (stage(2, move, jnp.zeros_like(start)), move))[0]


class _Attempt(NamedTuple):
    """Where a step leads, and its local error."""

    weights: Array
    base: Array
    power: Array
    c: Array
    trend: Array
    error: Array


def _attempt(
    flows: Flows,
    walk: _Walk,
    start: Float[Array, "2 d B"],
    move: Float[Array, "2 d B"],
    h: Float[Array, " B"],
) -> _Attempt:
    """The step with its tiny weights by their logarithm, which is exact for constant c."""
    weights, c = walk.weights, walk.c
    there = weights + move
    c1 = flows.gradient(there)
    trend = (c1 - c) / h
    # ∫c by the parabola through three points: an error here grows by 1/ε.
    mean = (c + c1) / 2 - h**2 / (6 * (h + walk.last)) * (trend - walk.trend)
    pace = jnp.abs(mean) / flows.epsilon
    z0, z1 = pace * weights, pace * jnp.maximum(there, 0)
    z = jnp.maximum((z0 + z1) / 2, 1e-100)
    bend = (z1 - z0) * (1 / flows.smoothing.secant(z) - 1) / z
    share, most = _TINY
    tiny = (z1 < share) & (there < most)
    power = jnp.where(tiny, walk.power + SIDE * (h / flows.epsilon * mean) - bend, 0)
    base = jnp.where(tiny, walk.base, there)
    new = base * jnp.exp(jnp.maximum(power, _FLOOR))
    by_difference = 0.4 * (start + h * flows.velocity(c1, there)) - 0.8 * move
    error = lax.stop_gradient(jnp.where(tiny, new - there, by_difference))
    return _Attempt(new, base, power, c1, trend, error)


def _accept(walk: _Walk, found: _Attempt, h: Float[Array, " B"], local: Scalar) -> _Walk:
    """Keep the step of each member whose error allows it; the length of its next."""
    scale = local * (1 + jnp.maximum(walk.weights, found.weights))
    E = jnp.max(jnp.maximum(*jnp.abs(found.error) / scale), axis=0)
    E = lax.stop_gradient(jnp.where(jnp.isfinite(E), E, 1e9))
    good = (E <= 1) & walk.live
    factor = jnp.clip(0.9 * jnp.maximum(E, 1e-12) ** (-1 / 3), 0.15, 3)

    def keep(new, old):
        return jnp.where(good, new, old)

    return walk._replace(
        weights=keep(found.weights, walk.weights),
        base=keep(found.base, walk.base),
        power=keep(found.power, walk.power),
        c=keep(found.c, walk.c),
        trend=keep(found.trend, walk.trend),
        last=keep(h, walk.last),
        h=jnp.where(walk.live, h * factor, walk.h),
        error=keep(walk.error + found.error, walk.error),
        steps=walk.steps + walk.live,
        rounds=walk.rounds + 1,
    )
