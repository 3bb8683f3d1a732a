"""What the source states, in one place, and what its claims are measured by.

A wrong formula must make a claim fail.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._extremes import amin
from .._mirror import AbstractPotential, HyperbolicEntropy, PowerPotential
from .._powers import power_difference
from . import _bounds
from ._case import Solved
from ._path import Path, Point

Margin = Float[Array, ""]


def _dual_rate(c, theta, epsilon, depth):
    """(14): θ̇ = −c|θ|^{M−1}/(|c||θ|^{M−1} + ε)."""
    size = jnp.abs(theta) ** (depth - 1)
    return -c * size / (jnp.abs(c) * size + epsilon)


def _outside_row_space(x, vector):
    """(I − X⁺X) on one block."""
    return vector - x * (jnp.sum(x * vector) / jnp.sum(x**2))


def _warmup_end(path: Path) -> Float[Array, ""]:
    return path.warmup.t


class Formulas(NamedTuple):
    """Formulas of the source that claims are measured against."""

    dual_rate: Callable = _dual_rate
    potential: Callable[..., AbstractPotential] = PowerPotential
    entropy: Callable[[Array], AbstractPotential] = HyperbolicEntropy
    outside_row_space: Callable = _outside_row_space
    warmup_end: Callable[[Path], Array] = _warmup_end
    upper: Callable = _bounds.upper
    lower: Callable = _bounds.lower
    upper_before: Callable = _bounds.upper_before
    lower_before: Callable = _bounds.lower_before


SOURCE = Formulas()


def lowest(*margins: Array, where: Array | bool = True) -> Margin:
    """The smallest of all entries of `margins` where `where`; +inf of none; NaN stays."""
    parts = [amin(m, where=jnp.broadcast_to(where, m.shape), initial=jnp.inf) for m in margins]
    return amin(jnp.stack(parts))


def live_points(solved: Solved) -> Bool[Array, "N k"]:
    """The steps of the flow, at columns that are not padding."""
    return solved.path.saved[:, None] & (solved.a > 0)


def residual(solved: Solved, point: Point) -> Array:
    """Y − Σa(w^M − ω^M) from the weights, not the flow's own q, relative to its largest terms."""
    M, a = solved.depth, solved.a
    powers = power_difference(point.w, point.omega, M)
    return (solved.Y - jnp.sum(a * powers, axis=-1)) / (solved.Y + jnp.sum(a * solved.alpha**M))


def dual_size(solved: Solved) -> Array:
    """‖θ_∞‖, the scale of errors and bounds."""
    return jnp.linalg.norm(jnp.where(solved.a > 0, solved.limit.w, 0))
