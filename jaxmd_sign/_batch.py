"""The flow on a general X, a batch of members at once, by a stabilised explicit method.

The members take their steps together, each with its own length.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ._batch_step import SIDE, Flows, Walk, take_step
from ._chebyshev import MOST_STAGES, coefficients, stages_for
from ._extremes import amax, amin

_FEWER = 0.85  # of the stages that members need, measured on real data
_POWER_EVERY = 8  # steps between two looks at the spectral radius
_END_ERROR = 0.1  # 0.02 to 0.1, measured
_PATIENCE = 4, 20_000  # steps, in all: so many times those until gradients are small, and more


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


def batch_ends(
    flows: Flows,
    local: Float[Array, " B"],
    tolerance: Float[Array, " B"],
    max_steps: int,
    single: bool = False,
) -> Ends:
    """Follow the flows until no gradient will be above `tolerance` ε any more.

    **Arguments:**

    - `flows`: the batch.
    - `local`: the error that a step of a member may make in a weight, in its unit.
    - `tolerance`: how small gradients over ε are from there on.
    - `max_steps`: most steps of a member.
    - `single`: steps in single precision.

    **Returns:** the `Ends`. As a function of ε by `jax.jvp`, along the same steps.
    """
    near = flows.rounded() if single else flows  # what a step is made of
    local = local.astype(near.X.dtype)

    def step(walk: Walk) -> Walk:
        walk = lax.cond(
            walk.rounds % _POWER_EVERY == 0,
            lambda walk: _look(flows, near, walk, tolerance, max_steps),
            lambda walk: walk,
            walk,
        )
        h, s = _lengths(walk)
        return take_step(flows, near, walk, h, s, local)

    walk = lax.while_loop(lambda walk: jnp.any(walk.live), step, _at_start(flows, near.X.dtype))
    logs = jnp.log(walk.weights) + walk.deep.astype(walk.weights.dtype)
    gate, left = _ahead(near, walk, flows.residual(walk.weights))
    _, settled = _done(walk, gate, left, tolerance)
    rest = (_END_ERROR * gate * left).astype(logs.dtype)
    error = walk.error.astype(logs.dtype)
    return Ends(logs, error, rest, walk.steps, walk.accepted, settled)


def _at_start(flows: Flows, dtype: np.dtype) -> Walk:
    (n, d), B = flows.X.shape, flows.epsilon.shape[-1]
    start = jnp.broadcast_to(flows.alpha, (2, d, B))
    c, nothing = flows.gradient(start), jnp.zeros((2, d, B), jnp.float32)
    return Walk(
        weights=start,
        deep=jnp.zeros((2, d, B), dtype),
        velocity=flows.velocity(c, start).astype(dtype),
        bend=nothing,
        c=c,
        trend=jnp.zeros((d, B), dtype),
        last=jnp.full(B, jnp.inf, dtype),
        h=0.1 * lax.stop_gradient(amin(start, axis=(0, 1))).astype(dtype),
        radius=jnp.zeros(B, dtype),
        vector=jnp.full((n, B), n**-0.5, dtype),
        error=nothing,
        live=jnp.ones(B, bool),
        calm=jnp.zeros(B, int),
        steps=jnp.zeros(B, int),
        accepted=jnp.zeros(B, int),
        rounds=jnp.zeros((), int),
    )


def _ahead(
    near: Flows, walk: Walk, residual: Float[Array, "n B"]
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """Gradients over ε, and how far β has to go."""
    dtype = near.X.dtype
    # With the weights that are to come, about 1: a small one may have a long way to grow.
    largest = jnp.maximum(1, amax(walk.weights, axis=(0, 1)).astype(dtype))
    left = amax(jnp.abs(near.inverse @ residual.astype(dtype)), axis=0)
    return amax(jnp.abs(walk.c.astype(dtype)) / near.epsilon, axis=0) * largest, left


def _done(
    walk: Walk, gate: Float[Array, " B"], left: Float[Array, " B"], tolerance: Float[Array, " B"]
) -> tuple[Int[Array, " B"], Bool[Array, " B"]]:
    """`calm`, and whether gradients are small for good and little of the way is left.

    What is left errs by `_END_ERROR` times gradients over ε times the way: here by a tenth of rtol,
    of which `tolerance`² is a tenth. With an X of a large condition the way is endless, and
    patience is not.
    """
    small = gate <= tolerance
    calm = jnp.where(small, jnp.where(walk.calm > 0, walk.calm, walk.steps + 1), 0)
    waited = walk.steps > _PATIENCE[0] * calm + _PATIENCE[1]
    return calm, small & ((gate * left <= 10 * tolerance**2) | waited)


def _look(
    flows: Flows, near: Flows, walk: Walk, tolerance: Float[Array, " B"], max_steps: int
) -> Walk:
    """Spectral radius by a step of the power method, `calm`, who goes on; c without rounding."""
    residual = flows.residual(walk.weights)
    X, epsilon = near.X, near.epsilon
    walk = walk._replace(c=flows.XT @ residual)
    c, weights = walk.c.astype(X.dtype), walk.weights.astype(X.dtype)
    steep = near.steepness(jnp.abs(c / epsilon * weights)) / epsilon
    u, v = weights**2 * steep
    image = X @ (2 * (u + v) * (near.XT @ walk.vector))
    size = jnp.sqrt(jnp.sum(image**2, axis=0))
    shrinking = jnp.where(SIDE * c < 0, steep, 0)
    decay = amax(jnp.maximum(*shrinking) * jnp.abs(c), axis=0)
    vector = jnp.where(size > 0, image / jnp.where(size > 0, size, 1), X.shape[0] ** -0.5)
    calm, done = _done(walk, *_ahead(near, walk, residual), tolerance)
    return walk._replace(
        radius=lax.stop_gradient(1.15 * size + decay),
        vector=lax.stop_gradient(vector),
        calm=calm,
        live=walk.live & ~done & (walk.steps < max_steps),
    )


def _lengths(walk: Walk) -> tuple[Float[Array, " B"], Int[Array, ""]]:
    """The length of every member's step, and the number of stages of all.

    A little less than members need on average: the others take the longest step that it allows,
    rather than cost all of them more.
    """
    limits = jnp.asarray(coefficients().limits, walk.h.dtype)
    radius = jnp.maximum(walk.radius, 1e-30)
    h = jnp.minimum(walk.h, 0.9 * limits[-1] / radius)
    need = jnp.where(walk.live, stages_for(h * walk.radius), 0)
    need = jnp.sum(need) / jnp.sum(walk.live).astype(h.dtype)
    s = 2 * jnp.clip(jnp.ceil(_FEWER * need / 2), 2, MOST_STAGES // 2).astype(int)
    return jnp.minimum(h, limits[s] / radius), s
