r"""The fixed-step engine: the limits of many blocks at once, each by the same few steps.

Lanes are blocks of any cases, in frozen units (Σa = Y = 1), the last axis of every array. All
take `num_steps` equal steps of Tsit5, so no lane waits for another and nothing need be sorted.
What makes a dozen steps enough are the variables:

- The clock is σ = √(Σ a w²), from α to 1. It is built from w, not from q, so that the corner of
  ω reaches w through q only. s ↦ σ is a logistic map, dense at both ends; along a step its
  exponential is one constant a lane.
- The shrinking weight is followed in z with M(z) = a p ω/ε, p = q_w + ε, q_w = 1 − σ². M is
  nearly linear while ω falls at full speed (M > 1) and nearly exponential after: one exponential,
  one root, no iteration. Any increasing M is exact, so long as its derivative is.
- At σ = 1 a residual q = Σ a ω², far below ε, is left: one midpoint step in q ends it.
"""

from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .._rules import AbstractRule

_TABLEAU = diffrax.Tsit5.tableau
_C = (0.0, *map(float, _TABLEAU.c))
_A = ((), *(tuple(map(float, row)) for row in _TABLEAU.a_lower))
_ERROR = tuple(map(float, _TABLEAU.b_error))


class Lanes(NamedTuple):
    """Blocks in frozen units, lanes last; padded columns have a = 0."""

    a: Float[Array, "k lanes"]
    rule: AbstractRule
    alpha: Float[Array, " lanes"]


class Ends(NamedTuple):
    """Weights at t = ∞, and an estimate of the relative error of β = w² − ω²."""

    w: Float[Array, "k lanes"]
    omega: Float[Array, "k lanes"]
    error: Float[Array, " lanes"]


def fixed_step_ends(lanes: Lanes, one: Float[Array, ""], num_steps: int) -> Ends:
    """The limit of every lane in `num_steps` steps. `one` is 1, unknown to the compiler."""
    a, rule, alpha = lanes
    clock = _Clock.of(lanes)
    epsilon = jnp.max(jnp.atleast_2d(rule.epsilon), axis=0)  # any scale of ε will do
    inverse_a = jnp.where(a > 0, 1 / jnp.where(a > 0, a, 1), 0)
    h = 1 / num_steps
    growth = [jnp.exp(clock.length * (h * c)) for c in _C]

    def keep(x):
        # A division is not repeated in everything that reads its result, as sums are; without
        # it, XLA's fusion on a CPU forms the stages several times over, and takes twice as long.
        return x / one

    def field(e, w, z):
        back = clock.reach / (1 + e)
        q_w = (back - clock.layer) * (2 + clock.layer - back)
        drive = clock.rate * (1 + clock.layer - back) * back * (clock.reach - back)
        inverse_p = 1 / (q_w + epsilon)
        M = _shrinking(z)
        omega = M * (epsilon * inverse_p) * inverse_a
        q = keep(q_w + _columns(a * omega**2))
        h_w = rule.unit_rate(a, q, w) * w
        speed = drive / _columns(a * w * h_w)
        log_M = -2 * drive * inverse_p - speed * rule.unit_rate(a, q, omega)
        return speed * h_w, keep(_log_slope(z, M) * log_M)

    def step(state, _):
        e, w, z, first, error_w, error_z = state
        ks = [first]
        for c, row in zip(growth[1:], _A[1:], strict=True):
            w_at, z_at = (
                keep(y + sum((h * b) * k[i] for b, k in zip(row, ks, strict=True)))
                for i, y in enumerate((w, z))
            )
            ks.append(field(e * c, w_at, z_at))
        error_w, error_z = (
            error + sum((h * b) * k[i] for b, k in zip(_ERROR, ks, strict=True))
            for i, error in enumerate((error_w, error_z))
        )
        return (e * growth[-1], w_at, z_at, ks[-1], error_w, error_z), None

    w = jnp.broadcast_to(alpha, a.shape)
    z = _variable(jnp.where(a > 0, a, 1) * (1 - alpha**2 + epsilon) * alpha / epsilon)
    start = (clock.start, w, z, field(clock.start, w, z), 0 * w, 0 * w)
    (_, w, z, _, error_w, error_z), _ = lax.scan(step, start, length=num_steps)
    M = _shrinking(z)
    # One midpoint step from q = Σ a ω² to 0.
    omega = M * inverse_a
    left = _columns(a * omega**2)
    slope_w, slope_omega = _clock_slopes(lanes, left, w, omega)
    middle = w - left / 2 * slope_w, omega * jnp.exp(-left / 2 * slope_omega)
    middle_w, middle_omega = _clock_slopes(lanes, left / 2, *middle)
    last = w * jnp.abs(left * (middle_w - slope_w)) + omega**2 * jnp.abs(
        left * (middle_omega - slope_omega)
    )
    w, omega = w - left * middle_w, omega * jnp.exp(-left * middle_omega)
    # One factor on w makes the end interpolate, and leaves of the errors of w but their shape.
    size = _columns(a * w**2)
    drift = jnp.abs(size - (1 + _columns(a * omega**2)))
    shape = w * error_w - w**2 * _columns(a * w * error_w) / size
    w = w * jnp.sqrt((1 + _columns(a * omega**2)) / size)
    dust = omega**2 * jnp.abs(error_z) / _log_slope(z, M)
    largest = jnp.max((w - omega) * (w + omega), axis=0)
    error = 4 * jnp.max(jnp.abs(shape) + dust + last, axis=0) + 0.1 * drift
    return Ends(w, omega, error / largest)


class _Clock(NamedTuple):
    """1 + layer − σ = reach/(1 + e), e = start·exp(length·s): σ = α at s = 0 and 1 at s = 1."""

    layer: Float[Array, " lanes"]
    reach: Float[Array, " lanes"]
    start: Float[Array, " lanes"]
    length: Float[Array, " lanes"]
    rate: Float[Array, " lanes"]

    @classmethod
    def of(cls, lanes: Lanes) -> "_Clock":
        layer = jax.vmap(lambda rule, a: rule.clock_layer(a, 1.0), in_axes=(0, 1))(
            lanes.rule, lanes.a
        )
        # Both layers, α at the start and ε/2a at the end, are the widths that need fewest steps.
        reach = 1 + layer
        start = lanes.alpha / (1 + layer - lanes.alpha)
        length = jnp.log(1 / (layer * start))
        return cls(layer, reach, start, length, length / reach)


def _columns(x: Float[Array, "k lanes"]) -> Float[Array, " lanes"]:
    """The sum over a block's columns, written out: a reduction would break XLA's fusion."""
    return sum(x[1:], x[0])  # pyright: ignore


def _clock_slopes(lanes, q, w, omega):
    """dw/dq and d log ω/dq."""
    h, k = lanes.rule.unit_rate(lanes.a, q, w), lanes.rule.unit_rate(lanes.a, q, omega)
    S = 2 * _columns(lanes.a * (w**2 * h + omega**2 * k))
    return -h * w / S, k / S


def _variable(M):
    """z = M + 2(M − 1)/(M + 1) for M > 1, and e^{z−1} = M(M + 1)/(3 − M) below: C² at M = 1."""
    low = jnp.minimum(M, 1)
    return jnp.where(M > 1, M + 2 * (M - 1) / (M + 1), 1 + jnp.log(low * (low + 1) / (3 - low)))


def _shrinking(z):
    """M(z): in both cases the root of M² + bM = c."""
    high, x = z > 1, jnp.exp(jnp.minimum(z, 1) - 1)
    b, c = jnp.where(high, 3 - z, 1 + x), jnp.where(high, z + 2, 3 * x)
    return (jnp.sqrt(b * b + 4 * c) - b) / 2


def _log_slope(z, M):
    """M/(dM/dz) = dz/d log M."""
    high = z > 1
    return jnp.where(high, M, 1) + 4 * M / ((M + 1) * jnp.where(high, M + 1, 3 - M))
