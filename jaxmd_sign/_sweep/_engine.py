r"""The fixed-step engine: the limits of many blocks at once, each by the same few steps.

Lanes are blocks of any cases, in frozen units (Σa = Y = 1), the last axis of every array. All
take `num_steps` equal steps of Tsit5, so no lane waits for another and nothing need be sorted.
What makes a dozen or two steps enough are the variables:

- The clock is σ = √(Σ a w²), from α to 1. It is built from w, not from q, so that the corner of
  ω reaches w through q only. s ↦ σ is a logistic map, dense at both ends; along a step its
  exponential is one constant a lane.
- The shrinking weight is followed in z with M(z) = a p ω/ε, p = q_w + ε, q_w = 1 − σ². M is
  nearly linear while ω falls at full speed (M > 1) and nearly exponential after: one exponential,
  one root, no iteration. Any increasing M is exact, so long as its derivative is.
- At σ = 1 a residual q = Σ a ω², far below ε, is left: one step in q ends it.
"""

from typing import NamedTuple

import diffrax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .._rules import AbstractRule

_TABLEAU = diffrax.Tsit5.tableau
_NODES = (0.0, *map(float, _TABLEAU.c))
_STAGES = tuple(tuple(map(float, row)) for row in _TABLEAU.a_lower)
_ERROR = tuple(map(float, _TABLEAU.b_error))
_TINY_ALPHA, _LARGEST_ALPHA = 0.005, 0.25  # in units of final weights; 3.3 allows 0.236


class Lanes(NamedTuple):
    """Blocks in frozen units, lanes last; padded columns have a = 0. `rule` has ε = 1."""

    a: Float[Array, "k lanes"]
    epsilon: Float[Array, " lanes"]
    alpha: Float[Array, " lanes"]
    rule: AbstractRule


class Ends(NamedTuple):
    """Weights at t = ∞, and estimates of what is wrong with them.

    `w_error` is signed, so that its derivative is the error of that of `w`; `rest` is the error
    of β that has other causes, infinite where α is too large for the engine.
    """

    w: Float[Array, "k lanes"]
    omega: Float[Array, "k lanes"]
    w_error: Float[Array, "k lanes"]
    rest: Float[Array, " lanes"]

    def error(self) -> Float[Array, " lanes"]:
        """An estimate of the error of β = w² − ω², relative to its largest entry."""
        largest = jnp.max((self.w - self.omega) * (self.w + self.omega), axis=0)
        # Signed errors of the steps cancel now and then: hence twice 2|w δw|, more in wide blocks.
        safety = 4 * max(1, len(self.w) / 10) ** 2
        return (safety * jnp.max(self.w * jnp.abs(self.w_error), axis=0) + self.rest) / largest


def fixed_step_ends(lanes: Lanes, one: Float[Array, ""], num_steps: int) -> Ends:
    """The limit of every lane in `num_steps` steps. `one` is 1, unknown to the compiler."""
    a, epsilon, alpha, _ = lanes
    h = 1 / num_steps
    field, clock = _Field.of(lanes, one), _Clock.of(lanes)
    growth = [jnp.exp(clock.length * (h * node)) for node in _NODES]

    def step(state, _):
        e, w, z, first, w_error, z_error = state
        slopes = [first]
        for grown, row in zip(growth[1:], _STAGES, strict=True):
            at = [_weighted(y, h, row, slopes, i) for i, y in enumerate((w, z))]
            # A division by `one` is done once, where a sum is formed anew by all that read it.
            # On a CPU, XLA's fusion repeats itself so much that this halves the time.
            slopes.append(field(clock, e * grown, at[0] / one, at[1] / one))
        w_error = _weighted(w_error, h, _ERROR, slopes, 0)
        z_error = _weighted(z_error, h, _ERROR, slopes, 1)
        return (e * growth[-1], *at, slopes[-1], w_error, z_error), None

    w = jnp.broadcast_to(alpha, a.shape)
    z = _variable(jnp.where(a > 0, a, 1) * (1 - alpha**2 + epsilon) * alpha / epsilon)
    start = (clock.start, w, z, field(clock, clock.start, w, z), 0 * w, 0 * w)
    (_, w, z, _, w_error, z_error), _ = lax.scan(step, start, length=num_steps)
    return _finish(field, w, z, w_error, z_error)


def _weighted(y, h, row, slopes, i):
    return y + sum((h * weight) * slope[i] for weight, slope in zip(row, slopes, strict=True))


class _Clock(NamedTuple):
    """reach − σ = reach/(1 + e), e = start·exp(length·s): σ = α at s = 0 and 1 at s = 1."""

    layer: Float[Array, " lanes"]
    reach: Float[Array, " lanes"]
    start: Float[Array, " lanes"]
    length: Float[Array, " lanes"]
    rate: Float[Array, " lanes"]

    @classmethod
    def of(cls, lanes: Lanes) -> "_Clock":
        # Layers of width α at the start and ε/2a at the end need the fewest steps (by trial).
        smallest = jnp.min(jnp.where(lanes.a > 0, lanes.a, jnp.inf), axis=0)
        layer = lanes.epsilon / (2 * smallest)
        reach, start = 1 + layer, lanes.alpha / (1 + layer - lanes.alpha)
        length = -jnp.log(layer * start)
        return cls(layer, reach, start, length, length / reach)


class _Field(NamedTuple):
    """dw/ds and dz/ds, in the rates of the rule: dw = dq w h/S, d log ω = −dq k/S."""

    lanes: Lanes
    scaled: Float[Array, "k lanes"]
    inverse: Float[Array, "k lanes"]
    one: Float[Array, ""]

    @classmethod
    def of(cls, lanes: Lanes, one: Float[Array, ""]) -> "_Field":
        inverse = jnp.where(lanes.a > 0, 1 / jnp.where(lanes.a > 0, lanes.a, 1), 0)
        return cls(lanes, lanes.a / lanes.epsilon, inverse, one)

    def rate(self, q, w):
        """h, |d log w/dt|/q."""
        return self.lanes.rule.unit_rate(self.scaled, q, w, 2)

    def __call__(self, clock: _Clock, e, w, z):
        a, epsilon = self.lanes.a, self.lanes.epsilon
        back = clock.reach / (1 + e)
        sigma = clock.reach - back
        q_w = (back - clock.layer) * (1 + sigma)
        drive = clock.rate * back * sigma**2  # σ dσ/ds
        inverse_p = 1 / (q_w + epsilon)
        M = _shrinking(z)
        omega = M * (epsilon * inverse_p) * self.inverse
        q = (q_w + _columns(a * omega**2)) / self.one
        growth = self.rate(q, w) * w
        speed = drive / _columns(a * w * growth)
        log_M = -2 * drive * inverse_p - speed * self.rate(q, omega)
        return speed * growth, _log_slope(z, M) * log_M / self.one

    def in_q(self, q, w, omega):
        """dw/dq and d log ω/dq."""
        h, k = self.rate(q, w), self.rate(q, omega)
        S = 2 * _columns(self.lanes.a * (w**2 * h + omega**2 * k))
        return -h * w / S, k / S


def _finish(field: _Field, w, z, w_error, z_error) -> Ends:
    """From σ = 1 to q = 0, and what the errors of the steps do there."""
    a, alpha = field.lanes.a, field.lanes.alpha
    M = _shrinking(z)
    w, omega, bend = _to_the_end(field, w, M * field.inverse)
    # One factor on w makes the end interpolate, and leaves of its errors but their direction.
    size, target = _columns(a * w**2), 1 + _columns(a * omega**2)
    w_error = w_error - w * _columns(a * w * w_error) / size
    dust = omega**2 * jnp.abs(z_error) / _log_slope(z, M)
    rest = 4 * jnp.max(dust, axis=0) + bend + 0.01 * jnp.abs(size - target)
    # The estimates fall behind where α is tiny, and where it is so large that weights still
    # shrink when σ nears 1.
    w_error = jnp.where(alpha < _TINY_ALPHA, 4, 1) * w_error
    rest = jnp.where(alpha < _LARGEST_ALPHA, rest, jnp.inf)
    return Ends(w * jnp.sqrt(target / size), omega, w_error, rest)


def _to_the_end(field: _Field, w, omega):
    """One step of the classical method from q = Σ a ω² to 0; its distance from the midpoint's."""
    left = _columns(field.lanes.a * omega**2)

    def moved(step, slopes):
        return w - step * slopes[0], omega * jnp.exp(-step * slopes[1])

    k1 = field.in_q(left, w, omega)
    k2 = field.in_q(left / 2, *moved(left / 2, k1))
    k3 = field.in_q(left / 2, *moved(left / 2, k2))
    k4 = field.in_q(jnp.zeros_like(left), *moved(left, k3))
    mean = [
        (one + 2 * two + 2 * three + four) / 6
        for one, two, three, four in zip(k1, k2, k3, k4, strict=True)
    ]
    apart = w * jnp.abs(mean[0] - k2[0]) + omega**2 * jnp.abs(mean[1] - k2[1])
    return *moved(left, mean), 2 * left * jnp.max(apart, axis=0)


def _columns(x: Float[Array, "k lanes"]) -> Float[Array, " lanes"]:
    """The sum over a block's columns, written out: a reduction would break XLA's fusion."""
    return sum((x[i] for i in range(1, x.shape[0])), x[0])


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
    """dz/d log M."""
    high = z > 1
    return jnp.where(high, M, 1) + 4 * M / ((M + 1) * jnp.where(high, M + 1, 3 - M))
