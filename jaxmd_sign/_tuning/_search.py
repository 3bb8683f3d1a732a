"""The best of one number: a coarse sweep over t = log ε, then the bracket that promises most.

Every round evaluates value and slope at three points. Of all points so far, two neighbours whose
slopes point at each other hold a minimum; the cubic through both says where and how deep. The next
three points are the ends of a much narrower bracket around it, and the middle of the old one, so
that a bracket at least halves and, as the cubic gets better, shrinks with the square of its width.
The batch of three is compiled once, for the sweep too.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

_WIDE = 3  # points in a round
NUM_SWEEP = 24
_ROUNDS = NUM_SWEEP // _WIDE + 16
_CUBIC = 1e-2  # narrower, the values say nothing that the slopes do not say better


class Sample(NamedTuple):
    """Points: t, value and slope there, and what else the caller wants to know of each."""

    t: Float[Array, " N"]
    value: Float[Array, " N"]
    slope: Float[Array, " N"]
    aux: PyTree


class Found(NamedTuple):
    """The point that is best, with value, slope and curvature there, and how the search ended."""

    t: Float[Array, ""]
    value: Float[Array, ""]
    slope: Float[Array, ""]
    curvature: Float[Array, ""]
    converged: Bool[Array, ""]
    samples: Sample
    num_samples: Int[Array, ""]


def search(
    evaluate: Callable[[Float[Array, " 3"]], Sample], low: Float[Array, ""], high: Float[Array, ""]
) -> Found:
    """The least value from `low` to `high`, by value and slope at three points at a time."""
    sweep = jnp.linspace(low, high, NUM_SWEEP).reshape(-1, _WIDE)
    near = jnp.asarray(
        jnp.finfo(low.dtype).eps ** 0.25, low.dtype
    )  # then the line through two slopes is exact enough

    def body(state):
        samples, num_rounds, _ = state
        bracket = _bracket(samples)
        sweeping = num_rounds < len(sweep)
        last = ~(bracket.width > near) | (num_rounds == _ROUNDS - 1)
        points = jnp.where(last, bracket.around(near, low, high), bracket.narrower())
        points = jnp.where(sweeping, sweep[jnp.minimum(num_rounds, len(sweep) - 1)], points)
        place = num_rounds * _WIDE
        samples = jax.tree.map(
            lambda old, new: lax.dynamic_update_slice_in_dim(old, new, place, 0),
            samples,
            evaluate(points),
        )
        return samples, num_rounds + 1, last & ~sweeping

    none = jax.tree.map(_nothing, jax.eval_shape(evaluate, sweep[0]))
    start = none, jnp.zeros((), int), jnp.array(False)
    samples, num_rounds, _ = lax.while_loop(lambda state: ~state[2], body, start)
    final = jax.tree.map(
        lambda part: lax.dynamic_slice_in_dim(part, (num_rounds - 1) * _WIDE, _WIDE), samples
    )
    t, value, slope, _ = final
    return Found(
        t=t[1],
        value=value[1],
        slope=slope[1],
        curvature=(slope[2] - slope[0]) / (t[2] - t[0]),
        converged=num_rounds < _ROUNDS,
        samples=samples,
        num_samples=_WIDE * num_rounds,
    )


def _nothing(like: jax.ShapeDtypeStruct) -> Array:
    """Room for all rounds; NaN where no point has been."""
    shape = (_ROUNDS * _WIDE, *like.shape[1:])
    floating = jnp.issubdtype(like.dtype, jnp.floating)
    return jnp.full(shape, jnp.nan if floating else 0, like.dtype)


class _Bracket(NamedTuple):
    """Two neighbours and the least value expected between them; an end of the interval twice."""

    low: Float[Array, ""]
    least: Float[Array, ""]
    high: Float[Array, ""]

    @property
    def width(self) -> Float[Array, ""]:
        return self.high - self.low

    def narrower(self) -> Float[Array, " 3"]:
        """The ends of a bracket as narrow as the guess is good, and the middle of this one."""
        margin = self.width * jnp.minimum(0.05, self.width / 2)
        middle = (self.low + self.high) / 2
        points = jnp.stack([self.least - margin, middle, self.least + margin])
        return jnp.clip(points, self.low, self.high)

    def around(
        self, near: Float[Array, ""], low: Float[Array, ""], high: Float[Array, ""]
    ) -> Float[Array, " 3"]:
        """The guess and a point on each side."""
        return jnp.clip(self.least + near * jnp.array([-1, 0, 1]), low, high)


def _bracket(samples: Sample) -> _Bracket:
    """Where the least value is expected; what is not finite does not count."""
    usable = jnp.isfinite(samples.value) & jnp.isfinite(samples.slope)
    order = jnp.argsort(jnp.where(usable, samples.t, jnp.inf))
    t, value, slope = (
        jnp.where(usable, part, jnp.nan)[order]
        for part in (samples.t, samples.value, samples.slope)
    )
    least, depth = _least_of_cubic(t, value, slope)
    between = (slope[:-1] < 0) & (slope[1:] >= 0)
    depth = jnp.where(between, depth, jnp.inf)
    best = jnp.argmin(depth)
    last = jnp.maximum(jnp.sum(usable) - 1, 0)
    end = jnp.where(value[last] < value[0], last, 0)
    inside = depth[best] < value[end]
    return _Bracket(
        low=jnp.where(inside, t[best], t[end]),
        least=jnp.where(inside, least[best], t[end]),
        high=jnp.where(inside, t[best + 1], t[end]),
    )


def _least_of_cubic(
    t: Float[Array, " N"], value: Float[Array, " N"], slope: Float[Array, " N"]
) -> tuple[Float[Array, " N-1"], Float[Array, " N-1"]]:
    """Between neighbours: where the cubic with these values and slopes is least, and its value."""
    width, rise = jnp.diff(t), jnp.diff(value)
    here, there = slope[:-1] * width, slope[1:] * width
    bend = here + there - 3 * rise
    root = jnp.sqrt(jnp.maximum(bend**2 - here * there, 0))
    part = 1 - (there + root - bend) / (there - here + 2 * root)
    # In a narrow bracket the rise drowns in noise, and the slopes are on a line.
    part = jnp.where(width > _CUBIC, part, here / (here - there))
    part = jnp.clip(part, 0, 1)
    depth = value[:-1] + part * (
        here + part * (3 * rise - 2 * here - there + part * (here + there - 2 * rise))
    )
    return t[:-1] + part * width, depth


def count_minima(found: Found, noise: Float[Array, ""]) -> Int[Array, ""]:
    """Minima between points of the sweep, of those whose slopes are more than noise."""
    slope = found.samples.slope[:NUM_SWEEP]
    return jnp.sum((slope[:-1] < -noise) & (slope[1:] > noise))
