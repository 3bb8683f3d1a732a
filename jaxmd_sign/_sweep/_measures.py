"""What a sweep says of its limits, in closed form: block problems, weights at both ends.

The same numbers as `kkt`, `bregman`, `bregman_gap` and `bregman_minimizer` give, in terms of the
weights alone: θ_∞ = s∘w, θ_ref = s∘α, and the minimiser's θ* = θ_ref + xν with one root of a
quadratic for ν in each block. Arrays are (k, n, B): columns, blocks, cases.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._tables import Cases, Tables, Which

NUMBERS = (
    "kkt_error",
    "kkt_relative_error",
    "bregman",
    "bregman_gap",
    "distance_to_minimizer",
    "feasibility",
    "kkt_error_slope",
)


class Measures(NamedTuple):
    """Of every case: `NUMBERS`, the last of them where slopes are given; and β_∞.

    `lost` is where the minimiser has no closed form, `finite` where the limit is one. One array
    for all numbers: each on its way to NumPy takes as long as ten cases.
    """

    numbers: Float[Array, "m B"]
    beta: Float[Array, "B d"]
    lost: Bool[Array, " B"]
    finite: Bool[Array, " B"]


def measures(
    cases: Cases,
    w: Float[Array, "k n B"],
    omega: Float[Array, "k n B"],
    slope: Float[Array, "k n B"] | None = None,
) -> Measures:
    """Every variable."""
    tables, which, _, alpha = cases
    at = tables.lanes_last(which)
    a = at.a
    moving = jnp.where(at.still, 0, at.weight) * (a > 0)  # the unit of weights that move
    start = alpha / at.weight
    shift = w - start
    beta = (w - omega) * (w + omega)
    a_square = _columns(a**2)

    def outside(vector):
        return (vector - a * (_columns(a * vector) / a_square)) * moving

    residual = (_columns(a * beta) - 1) * jnp.where(at.still, 0, at.label)
    stationarity = outside(shift)
    error = _norm(stationarity)
    size = _norm(shift * moving)
    divergence = _total((2 / 3 * (w**3 - start**3) - start * beta) * moving**3)
    feasibility = _norm(residual[None])

    lack = 1 - _columns(a * (start**2 - omega**2))
    b, g = _columns(a**2 * start), _columns(a**3)
    multiplier = lack / (b + jnp.sqrt(b**2 + g * jnp.maximum(lack, 0)))
    theta = start + a * multiplier
    gap = _total((w - theta) ** 2 * (2 * w + theta) / 3 * moving**3)
    distance = _norm((w - theta) * (w + theta) * moving**2)
    lost = jnp.any((lack < 0) & ~at.still, axis=0)

    relative = error / jnp.where(size > 0, size, 1)
    numbers = [error, relative, divergence, gap, distance, feasibility]
    if slope is not None:
        numbers.append(_total(stationarity * outside(slope)) / jnp.where(error > 0, error, 1))
    return Measures(
        jnp.stack(numbers),
        _by_feature(tables, which, at.signs * beta * moving**2),
        jnp.broadcast_to(lost, alpha.shape),
        jnp.isfinite(error) & jnp.isfinite(divergence) & jnp.isfinite(feasibility),
    )


def _columns(x: Float[Array, "k n B"]) -> Float[Array, "n B"]:
    """The sum over columns, written out, which XLA fuses with what comes before."""
    return sum((x[i] for i in range(1, x.shape[0])), x[0])


def _total(x: Float[Array, "k n B"]) -> Float[Array, " B"]:
    return jnp.sum(_columns(x), axis=0)


def _norm(x: Float[Array, "k n B"]) -> Float[Array, " B"]:
    return jnp.sqrt(_total(x**2))


def _by_feature(tables: Tables, which: Which, values: Float[Array, "k n B"]) -> Float[Array, "B d"]:
    flat = values.reshape(-1, values.shape[-1])
    if which is None:
        return flat.at[tables.slot].get(mode="fill", fill_value=0).T
    cases = jnp.arange(values.shape[-1])[:, None]
    return flat.at[tables.slot[which], cases].get(mode="fill", fill_value=0)
