"""A step of a batch of flows on a general X: stages, tiny weights by their logarithms, the error.

Arrays are (2, d, B): u and v, columns, members. A tiny weight is followed by its logarithm, which
is exact for a constant gradient and remembers how small it was: it may come back.

A step may be taken in single precision, as a difference to where it starts. The weights and c, to
which steps add up, are in double; what only estimates errors is in single anyway.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ._chebyshev import ERROR, chebyshev_step
from ._extremes import amax
from ._smoothing import AbstractSmoothing

# Of steps: gradients that change sign are not foreseen, and a long step that meets one is in vain.
_CAUTION, _FASTER = 0.7, 2.0  # measured; with 1.5 stages stay few: up to ten times the work
_TINY = 0.3, 0.02  # a weight is tiny below this much of ε/|c|, and below this in its own unit
_SUNK, _FLOOR = 1e-30, -80.0  # below this only the logarithm goes on; the most a step takes off
SIDE = np.array([-1, 1], "float32")[:, None, None]


class Flows(NamedTuple):
    """A batch of flows on one X of full row rank, in units with ‖X‖ = 1 and max|X⁺y| = 1.

    `XT` is Xᵀ in memory: on a CPU, XLA's product with a transposed matrix takes three times that.
    `inverse` is X⁺.
    """

    X: Float[Array, "n d"]
    XT: Float[Array, "d n"]
    inverse: Float[Array, "d n"]
    y: Float[Array, " n"]
    epsilon: Float[Array, "*d B"]
    alpha: Float[Array, "*d B"]
    smoothing: AbstractSmoothing

    def gradient(self, weights: Float[Array, "2 d B"]) -> Float[Array, "d B"]:
        """c = Xᵀ(Xβ − y)."""
        return self.XT @ self.residual(weights)

    def residual(self, weights: Float[Array, "2 d B"]) -> Float[Array, "n B"]:
        """Xβ − y."""
        u, v = weights
        return self.X @ ((u - v) * (u + v)) - self.y[:, None]

    def change(
        self, weights: Float[Array, "2 d B"], moved: Float[Array, "2 d B"]
    ) -> Float[Array, "d B"]:
        """That of c with the weights. XᵀX is one product for two, no slower up to d = 3n."""
        u, v = moved * (2 * weights + moved)
        power, (n, d) = u - v, self.X.shape
        return (self.XT @ self.X) @ power if d <= 3 * n else self.XT @ (self.X @ power)

    def velocity(
        self, c: Float[Array, "d B"], weights: Float[Array, "2 d B"]
    ) -> Float[Array, "2 d B"]:
        """du/dt and dv/dt."""
        pace = c * (1 / self.epsilon)  # a division for each ε, not for each weight
        return pace * SIDE * weights * self.smoothing.secant(jnp.abs(pace * weights))

    def steepness(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """φ'(z)."""
        return jax.jvp(lambda z: z * self.smoothing.secant(z), (z,), (jnp.ones_like(z),))[1]

    def rounded(self) -> "Flows":
        """In single precision."""
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), self)


class Walk(NamedTuple):
    """Where a batch is. The weights are `weights` · exp(`deep`): 0, but for one that has sunk."""

    weights: Array  # (2, d, B)
    deep: Array
    velocity: Array
    bend: Array  # its slope over the last step
    c: Array  # (d, B), Xᵀ r
    trend: Array  # (d, B), its slope
    last: Array  # (B,), length of the last step
    h: Array  # (B,), the next step
    radius: Array  # (B,)
    vector: Array  # (n, B), of the power method
    error: Array  # (2, d, B), signed local errors, added up
    live: Array
    calm: Array  # (B,), steps until gradients were small, 0 while they are not
    steps: Array
    accepted: Array
    rounds: Array


def take_step(
    flows: Flows,
    near: Flows,
    walk: Walk,
    h: Float[Array, " B"],
    s: Int[Array, ""],
    local: Float[Array, " B"],
) -> Walk:
    """After a step of these lengths by s stages, for each member whose error is at most `local`.

    `near` are the flows in the precision of the step.
    """
    step = _stages(flows, near, walk, h, s)
    return _accept(walk, _attempt(flows, near, walk, h, step), h, local)


class _Step(NamedTuple):
    """A step by stages: weights before and after it, how far they moved, c after it."""

    before: Array
    after: Array
    moved: Array
    weights: Array  # after it, in double precision
    c: Array


def _stages(
    flows: Flows, near: Flows, walk: Walk, h: Float[Array, " B"], s: Int[Array, ""]
) -> _Step:
    """In single precision stages are differences to where the step starts, and keep its digits."""
    before = walk.weights.astype(h.dtype)
    if near is flows:
        origin, start, c = jnp.zeros_like(before), before, -(flows.XT @ flows.y)[:, None]
    else:
        origin, start, c = before, jnp.zeros_like(before), walk.c
    at_origin = c.astype(h.dtype)

    def slope(stage):
        return h * near.velocity(at_origin + near.change(origin, stage), origin + stage)

    end = chebyshev_step(slope, start, h * walk.velocity, s)
    c = c + near.change(origin, end).astype(c.dtype)
    weights = end if near is flows else walk.weights + end.astype(walk.weights.dtype)
    return _Step(before, origin + end, end - start, weights, c)


class _Attempt(NamedTuple):
    """Where a step leads, and its local error."""

    weights: Array
    deep: Array
    velocity: Array
    bend: Array
    c: Array
    trend: Array
    error: Array
    total: Array  # with the errors of all steps before
    largest: Array  # of a weight before and after


def _attempt(flows: Flows, near: Flows, walk: Walk, h: Float[Array, " B"], step: _Step) -> _Attempt:
    """The step with its tiny weights by their logarithm, which is exact for constant c."""
    fine, rough = walk.weights.dtype, h.dtype
    inverse_h, curve = 1 / h, h * (h / (6 * (h + walk.last)))  # h² may be too small a number

    def mean(old, new, slope, last_slope):
        """By the parabola through three points: an error of c here grows by 1/ε."""
        return (old + new) / 2 - curve * (slope - last_slope)

    c, last_c = step.c.astype(rough), walk.c.astype(rough)
    trend = (c - last_c) * inverse_h
    lead = (h / near.epsilon) * mean(last_c, c, trend, walk.trend)
    held, tiny, growth = _tiny(near, step, jnp.abs(lead) * inverse_h)
    fall = walk.deep + SIDE * lead - held
    # What would make a weight vanish is kept apart, in `deep`.
    taken = jnp.maximum(fall, jnp.where(step.before > _SUNK, _FLOOR, 0))
    deep = jnp.where(tiny, fall - taken, 0)
    shrunk = walk.weights * jnp.exp(taken).astype(fine)
    weights = jnp.where(tiny, shrunk, step.weights)
    new = weights.astype(rough)
    velocity = near.velocity(c, new)
    bend = (velocity - walk.velocity) * inverse_h
    far = h * mean(walk.velocity, velocity, bend, walk.bend.astype(rough))
    error = jnp.where(tiny, new - step.after, ERROR * (step.moved - far))
    total = walk.error * growth(new) + jnp.where(tiny, 0, error)
    largest = jnp.maximum(step.before, new)
    bend, total = bend.astype(jnp.float32), total.astype(jnp.float32)
    return _Attempt(weights, deep, velocity, bend, step.c, trend, error, total, largest)


def _tiny(
    near: Flows, step: _Step, pace: Float[Array, "d B"]
) -> tuple[Float[Array, "2 d B"], Bool[Array, "2 d B"], Callable[[Array], Array]]:
    """What holds the fall of weights back at |c|/ε = `pace`, and which are tiny.

    And how an error grows until a weight is `new`: for a constant c, as the velocity does.
    """
    z0, z1 = pace * step.before, pace * jnp.maximum(step.after, 0)
    drag = near.smoothing.drag
    held = (z1 - z0) * drag((z0 + z1) / 2)
    share, most = _TINY
    tiny = (z1 < share) & (step.after < most)
    before = jnp.maximum(step.before, 1e-37)  # in single precision it may be 0

    def growth(new):
        return new * (1 + z0 * drag(z0)) / (before * (1 + z1 * drag(z1)))

    return held, tiny, growth


def _accept(walk: Walk, found: _Attempt, h: Float[Array, " B"], local: Float[Array, " B"]) -> Walk:
    """Keep the step of each member whose error allows it; the length of its next."""
    scale = local * (1 + found.largest)
    E = amax(jnp.maximum(*jnp.abs(found.error) / scale), axis=0)
    E = lax.stop_gradient(jnp.where(jnp.isfinite(E), E, 1e9))
    good = (E <= 1) & walk.live
    factor = jnp.clip(_CAUTION * jnp.maximum(E, 1e-12) ** (-1 / 4), 0.15, _FASTER)

    def keep(new, old):
        return jnp.where(good, new, old)

    return walk._replace(
        weights=keep(found.weights, walk.weights),
        deep=keep(found.deep, walk.deep),
        velocity=keep(found.velocity, walk.velocity),
        bend=keep(found.bend, walk.bend),
        c=keep(found.c, walk.c),
        trend=keep(found.trend, walk.trend),
        last=keep(h, walk.last),
        h=jnp.where(walk.live, h * factor, walk.h),
        error=keep(found.total, walk.error),
        steps=walk.steps + walk.live,
        accepted=walk.accepted + good,
        rounds=walk.rounds + 1,
    )
