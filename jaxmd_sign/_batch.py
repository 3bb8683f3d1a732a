"""The flow on a general X, a batch of members at once, by a stabilised explicit method.

The members take their steps together, each with its own length; arrays are (2, d, B): u and v,
columns, members. A tiny weight is followed by its logarithm, which is exact for a constant gradient
and remembers how small it was: it may come back.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ._chebyshev import ERROR, MOST_STAGES, chebyshev_step, coefficients, stages_for
from ._extremes import amax, amin
from ._smoothing import AbstractSmoothing

_FEWER = 0.85  # of the stages that members need, measured on real data
# Of steps: gradients that change sign are not foreseen, and a long step that meets one is in vain.
_CAUTION, _FASTER = 0.7, 2.0  # measured; with 1.5 stages stay few: up to ten times the work
_POWER_EVERY = 8  # steps between two looks at the spectral radius
_TINY = 0.3, 0.02  # a weight is tiny below this much of ε/|c|, and below this in its own unit
_END_ERROR = 0.1  # 0.02 to 0.1, measured
_PATIENCE = 4, 20_000  # steps, in all: so many times those until gradients are small, and more
_SUNK, _FLOOR = 1e-75, -150.0  # below this only the logarithm goes on; the most a step takes off
SIDE = np.array([-1.0, 1.0])[:, None, None]


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
        """c = Xᵀ(Xβ − y). XᵀX is one product for two, no slower up to d = 3n."""
        u, v = weights[0], weights[1]
        power, (n, d) = (u - v) * (u + v), self.X.shape
        product = (self.XT @ self.X) @ power if d <= 3 * n else self.XT @ (self.X @ power)
        return product - (self.XT @ self.y)[:, None]

    def velocity(
        self, c: Float[Array, "d B"], weights: Float[Array, "2 d B"]
    ) -> Float[Array, "2 d B"]:
        """du/dt and dv/dt."""
        pace = c * (1 / self.epsilon)  # a division for each ε, not for each weight
        return pace * SIDE * weights * self.smoothing.secant(jnp.abs(pace * weights))

    def slope(self, weights: Float[Array, "2 d B"]) -> Float[Array, "2 d B"]:
        """The right-hand side."""
        return self.velocity(self.gradient(weights), weights)

    def steepness(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """φ'(z)."""
        return jax.jvp(lambda z: z * self.smoothing.secant(z), (z,), (jnp.ones_like(z),))[1]


class Ends(NamedTuple):
    """Logarithms of u and v where the flow is gradient flow slowed by ε, and how it got there.

    `error` is that of the steps, `rest` what a finish from here adds to the relative one of β.
    """

    logs: Float[Array, "2 d B"]
    error: Float[Array, "2 d B"]
    rest: Float[Array, " B"]
    num_steps: Int[Array, " B"]
    num_accepted: Int[Array, " B"]
    settled: Bool[Array, " B"]


class _Walk(NamedTuple):
    """The weights are `weights` · exp(`deep`): 0, but for one that has sunk."""

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


def batch_ends(
    flows: Flows, local: Float[Array, " B"], tolerance: Float[Array, " B"], max_steps: int
) -> Ends:
    """Follow the flows until no gradient will be above `tolerance` ε any more.

    **Arguments:**

    - `flows`: the batch.
    - `local`: the error that a step of a member may make in a weight, in its unit.
    - `tolerance`: how small gradients over ε are from there on.
    - `max_steps`: most steps of a member.

    **Returns:** the `Ends`. As a function of ε by `jax.jvp`, along the same steps.
    """

    def step(walk: _Walk) -> _Walk:
        radius, vector, calm, live = lax.cond(
            walk.rounds % _POWER_EVERY == 0,
            lambda walk: _look(flows, walk, tolerance, max_steps),
            lambda walk: (walk.radius, walk.vector, walk.calm, walk.live),
            walk,
        )
        walk = walk._replace(radius=radius, vector=vector, calm=calm, live=live)
        h, s = _lengths(walk)
        there = chebyshev_step(lambda w: h * flows.slope(w), walk.weights, h * walk.velocity, s)
        return _accept(walk, _attempt(flows, walk, there, h), h, local)

    walk = lax.while_loop(lambda walk: jnp.any(walk.live), step, _at_start(flows))
    logs = jnp.log(walk.weights) + walk.deep
    _, settled = _done(flows, walk, tolerance)
    gate, left = _ahead(flows, walk)
    rest = _END_ERROR * gate * left
    return Ends(logs, walk.error, rest, walk.steps, walk.accepted, settled)


def _at_start(flows: Flows) -> _Walk:
    (n, d), B, dtype = flows.X.shape, flows.epsilon.shape[-1], flows.X.dtype
    start, zero = jnp.broadcast_to(flows.alpha, (2, d, B)), jnp.zeros((2, d, B), dtype)
    c = flows.gradient(start)
    return _Walk(
        weights=start,
        deep=zero,
        velocity=flows.velocity(c, start),
        bend=zero,
        c=c,
        trend=jnp.zeros((d, B), dtype),
        last=jnp.full(B, jnp.inf, dtype),
        h=0.1 * lax.stop_gradient(amin(start, axis=(0, 1))),
        radius=jnp.zeros(B, dtype),
        vector=jnp.full((n, B), 1 / np.sqrt(n), dtype),
        error=zero,
        live=jnp.ones(B, bool),
        calm=jnp.zeros(B, int),
        steps=jnp.zeros(B, int),
        accepted=jnp.zeros(B, int),
        rounds=jnp.zeros((), int),
    )


def _ahead(flows: Flows, walk: _Walk) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """Gradients over ε, and how far β has to go."""
    u, v = walk.weights
    # With the weights that are to come, about 1: a small one may have a long way to grow.
    largest = jnp.maximum(1, amax(jnp.maximum(u, v), axis=0))
    residual = flows.X @ ((u - v) * (u + v)) - flows.y[:, None]
    left = amax(jnp.abs(flows.inverse @ residual), axis=0)
    return amax(jnp.abs(walk.c) / flows.epsilon, axis=0) * largest, left


def _done(
    flows: Flows, walk: _Walk, tolerance: Float[Array, " B"]
) -> tuple[Int[Array, " B"], Bool[Array, " B"]]:
    """`calm`, and whether gradients are small for good and little of the way is left.

    What is left errs by `_END_ERROR` times gradients over ε times the way: here by a tenth of rtol,
    of which `tolerance`² is a tenth. With an X of a large condition the way is endless, and
    patience is not.
    """
    gate, left = _ahead(flows, walk)
    small = gate <= tolerance
    calm = jnp.where(small, jnp.where(walk.calm > 0, walk.calm, walk.steps + 1), 0)
    waited = walk.steps > _PATIENCE[0] * calm + _PATIENCE[1]
    return calm, small & ((gate * left <= 10 * tolerance**2) | waited)


def _look(
    flows: Flows, walk: _Walk, tolerance: Float[Array, " B"], max_steps: int
) -> tuple[Float[Array, " B"], Float[Array, "n B"], Int[Array, " B"], Bool[Array, " B"]]:
    """Spectral radius by a step of the power method, its vector, `calm`, which members go on."""
    weights, c, X = walk.weights, walk.c, flows.X
    steep = flows.steepness(jnp.abs(c / flows.epsilon * weights)) / flows.epsilon
    u, v = weights**2 * steep
    image = X @ (2 * (u + v) * (flows.XT @ walk.vector))
    size = jnp.sqrt(jnp.sum(image**2, axis=0))
    shrinking = jnp.where(SIDE * c < 0, steep, 0)
    decay = amax(jnp.maximum(*shrinking) * jnp.abs(c), axis=0)
    vector = jnp.where(size > 0, image / jnp.where(size > 0, size, 1), 1 / np.sqrt(X.shape[0]))
    calm, done = _done(flows, walk, tolerance)
    live = walk.live & ~done & (walk.steps < max_steps)
    return *lax.stop_gradient((1.15 * size + decay, vector)), calm, live


def _lengths(walk: _Walk) -> tuple[Float[Array, " B"], Int[Array, ""]]:
    """The length of every member's step, and the number of stages of all.

    A little less than members need on average: the others take the longest step that it allows,
    rather than cost all of them more.
    """
    limits = jnp.asarray(coefficients().limits, walk.h.dtype)
    radius = jnp.maximum(walk.radius, 1e-300)
    h = jnp.minimum(walk.h, 0.9 * limits[-1] / radius)
    need = jnp.sum(jnp.where(walk.live, stages_for(h * walk.radius), 0)) / jnp.sum(walk.live)
    s = 2 * jnp.clip(jnp.ceil(_FEWER * need / 2), 2, MOST_STAGES // 2).astype(int)
    return jnp.minimum(h, limits[s] / radius), s


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


def _attempt(
    flows: Flows, walk: _Walk, there: Float[Array, "2 d B"], h: Float[Array, " B"]
) -> _Attempt:
    """The step with its tiny weights by their logarithm, which is exact for constant c."""
    c, inverse_h = flows.gradient(there), 1 / h

    def integral(old, new, slope, last_slope):
        """By the parabola through three points: an error of c here grows by 1/ε."""
        return h * ((old + new) / 2 - h**2 / (6 * (h + walk.last)) * (slope - last_slope))

    trend = (c - walk.c) * inverse_h
    fall, tiny, growth = _fall(flows, walk, there, integral(walk.c, c, trend, walk.trend), h)
    # What would make a weight vanish is kept apart, in `deep`.
    taken = jnp.maximum(fall, jnp.where(walk.weights > _SUNK, _FLOOR, 0))
    new = jnp.where(tiny, walk.weights * jnp.exp(taken), there)
    deep = jnp.where(tiny, fall - taken, 0)
    velocity = flows.velocity(c, new)
    bend = (velocity - walk.velocity) * inverse_h
    doubt = ERROR * (there - walk.weights - integral(walk.velocity, velocity, bend, walk.bend))
    error = jnp.where(tiny, new - there, doubt)
    total = walk.error * growth(new) + jnp.where(tiny, 0, error)
    return _Attempt(new, deep, velocity, bend, c, trend, error, total)


def _fall(
    flows: Flows,
    walk: _Walk,
    there: Float[Array, "2 d B"],
    total: Float[Array, "d B"],
    h: Float[Array, " B"],
) -> tuple[Float[Array, "2 d B"], Bool[Array, "2 d B"], Callable[[Array], Array]]:
    """What the logarithms of weights lose or win as c adds up to `total`; which weights are tiny.

    And how an error grows until a weight is `new`: for a constant c, as the velocity does.
    """
    lead = total * (1 / flows.epsilon)
    pace = jnp.abs(lead) * (1 / h)
    z0, z1 = pace * walk.weights, pace * jnp.maximum(there, 0)
    drag = flows.smoothing.drag
    held = (z1 - z0) * drag((z0 + z1) / 2)
    share, most = _TINY
    tiny = (z1 < share) & (there < most)

    def growth(new):
        return new * (1 + z0 * drag(z0)) / (walk.weights * (1 + z1 * drag(z1)))

    return walk.deep + SIDE * lead - held, tiny, growth


def _accept(
    walk: _Walk, found: _Attempt, h: Float[Array, " B"], local: Float[Array, " B"]
) -> _Walk:
    """Keep the step of each member whose error allows it; the length of its next."""
    scale = local * (1 + jnp.maximum(walk.weights, found.weights))
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
