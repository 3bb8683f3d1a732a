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

from functools import partial, reduce
from typing import NamedTuple

import diffrax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .._smoothing import AbstractSmoothing
from ._devices import as_one_kernel

_TABLEAU = diffrax.Tsit5.tableau
_NODES = (0.0, *map(float, _TABLEAU.c))
_STAGES = tuple(tuple(map(float, row)) for row in _TABLEAU.a_lower)
_ERROR = tuple(map(float, _TABLEAU.b_error))
_FARTHEST = 1.5  # columns, by their ratio, a step
_LARGEST_ALPHA = 0.25  # in units of final weights; 3.3 allows 0.236
_UNSIGNED = 0.1  # of the errors of all steps while weights grow, whatever their signs


class Lanes(NamedTuple):
    """Blocks in frozen units, lanes last; padded columns have a = 0."""

    a: Float[Array, "k lanes"]
    epsilon: Float[Array, " lanes"]
    alpha: Float[Array, " lanes"]
    smoothing: AbstractSmoothing


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
        largest = _largest(jnp.abs((self.w - self.omega) * (self.w + self.omega)))
        k = len(self.w)  # of two columns the errors are much alike
        safety = (4 if k == 2 else 9) * max(1, k / 10) ** 1.5
        return (safety * _largest(jnp.abs(self.w * self.w_error)) + self.rest) / largest


def fixed_step_ends(lanes: Lanes, num_steps: Int[Array, ""]) -> Ends:
    """The limit of every lane in `num_steps` steps."""
    a, epsilon, alpha, _ = lanes
    h = 1 / num_steps.astype(a.dtype)
    field, clock = _Field.of(lanes), _Clock.of(lanes)
    growth = [jnp.exp(clock.length * (h * node)) for node in _NODES]

    # While a gradient is below ε, an error grows as its weight does; above, it stays. As an error
    # of time, δw (1 + ε/aw), it stays throughout.
    slowed = epsilon * field.inverse

    def step(_, state):
        e, w, z, first, w_error, unsigned, z_error = state
        slopes = [first]
        for grown, row in zip(growth[1:], _STAGES, strict=True):
            at = as_one_kernel(partial(_stage, row))(w, z, h, slopes)
            slopes.append(field(clock, e * grown, *at))
        error = _weighted(0, h, _ERROR, slopes, 0)
        grows = error * (slowed / w)
        unsigned, error = unsigned + _largest(jnp.abs(grows)), error + grows
        z_error = _weighted(z_error, h, _ERROR, slopes, 1)
        return e * growth[-1], *at, slopes[-1], w_error + error, unsigned, z_error

    w = jnp.broadcast_to(alpha, a.shape)
    z = _variable(jnp.where(a > 0, a, 1) * (1 - alpha**2 + epsilon) * alpha / epsilon)
    start = (clock.start, w, z, field(clock, clock.start, w, z), 0 * w, 0 * alpha, 0 * w)
    _, w, z, _, w_error, unsigned, z_error = lax.fori_loop(0, num_steps, step, start)
    of_weight = w / (w + slowed)
    found = _finish(field, w, z, w_error * of_weight, unsigned * of_weight, z_error)
    return found._replace(rest=jnp.where(_in_reach(lanes, num_steps), found.rest, jnp.inf))


def _stage(row, w, z, h, slopes):
    return [_weighted(y, h, row, slopes, i) for i, y in enumerate((w, z))]


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
        smallest = reduce(jnp.minimum, jnp.where(lanes.a > 0, lanes.a, jnp.inf))
        layer = lanes.epsilon / (2 * smallest)
        reach, start = 1 + layer, lanes.alpha / (1 + layer - lanes.alpha)
        length = -jnp.log(layer * start)
        return cls(layer, reach, start, length, length / reach)


class _Field(NamedTuple):
    """dw/ds and dz/ds, in the rates of the rule: dw = dq w h/S, d log ω = −dq k/S."""

    lanes: Lanes
    scaled: Float[Array, "k lanes"]
    inverse: Float[Array, "k lanes"]

    @classmethod
    def of(cls, lanes: Lanes) -> "_Field":
        inverse = jnp.where(lanes.a > 0, 1 / jnp.where(lanes.a > 0, lanes.a, 1), 0)
        return cls(lanes, lanes.a / lanes.epsilon, inverse)

    def __call__(self, clock: _Clock, e, w, z):
        a, epsilon, scaled = self.lanes.a, self.lanes.epsilon, self.scaled
        back = clock.reach / (1 + e)
        sigma = clock.reach - back
        q_w = (back - clock.layer) * (1 + sigma)
        drive = clock.rate * back * sigma**2  # σ dσ/ds
        inverse_p = 1 / (q_w + epsilon)

        # Parts of their own: XLA's fusion forms sums anew for each of their readers.
        @as_one_kernel
        def shrinking(z, q_w, inverse_p):
            M = _shrinking(z)
            omega = M * (epsilon * inverse_p) * self.inverse
            return M, omega, q_w + _columns(a * omega**2)

        @as_one_kernel
        def slopes(drive, inverse_p, w, growth, decay, bend):
            speed = drive / _columns(a * w * growth)
            log_M = -2 * drive * inverse_p - speed * decay
            return speed * growth, bend * log_M

        M, omega, q = shrinking(z, q_w, inverse_p)
        fast, slow = (self.slowing(q, weight) for weight in (w, omega))
        over, under = _log_slope(M)
        slow_under = slow * under
        inverse = 1 / (fast * slow_under)  # one division for three
        growth, decay = scaled * w * slow_under * inverse, scaled * fast * under * inverse
        return slopes(drive, inverse_p, w, growth, decay, over * fast * slow * inverse)

    def slowing(self, q, w):
        """How many times slower a weight is than under gradient flow slowed by ε."""
        return self.lanes.smoothing.slowing(q * self.scaled * w)

    def in_q(self, q, w, omega):
        """dw/dq and d log ω/dq."""
        h, k = (self.scaled / self.slowing(q, weight) for weight in (w, omega))
        S = 2 * _columns(self.lanes.a * (w**2 * h + omega**2 * k))
        return -h * w / S, k / S


def _finish(field: _Field, w, z, w_error, unsigned, z_error) -> Ends:
    """From σ = 1 to q = 0, and what the errors of the steps do there."""
    a = field.lanes.a
    M = _shrinking(z)
    w, omega, bend = _to_the_end(field, w, M * field.inverse)
    # One factor on w makes the end interpolate, and leaves of its errors but their direction.
    size, target = _columns(a * w**2), 1 + _columns(a * omega**2)
    w_error = w_error - w * _columns(a * w * w_error) / size
    over, under = _log_slope(M)
    dust = omega**2 * jnp.abs(z_error) * under / over
    rest = 10 * _largest(dust) + 2.5 * bend + 0.01 * jnp.abs(size - target)
    # Signed errors cancel now and then.
    rest = rest + _UNSIGNED * _largest(jnp.abs(w * unsigned))
    return Ends(w * jnp.sqrt(target / size), omega, w_error, rest)


def _in_reach(lanes: Lanes, num_steps: Int[Array, ""]) -> Bool[Array, " lanes"]:
    """Where the estimates are to be believed.

    Few steps say little of columns far apart, nor of an α so large that weights still shrink when
    σ nears 1.
    """
    smallest = reduce(jnp.minimum, jnp.where(lanes.a > 0, lanes.a, jnp.inf))
    close = _largest(lanes.a) <= _FARTHEST * num_steps * smallest
    return close & (lanes.alpha < _LARGEST_ALPHA)


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
    return *moved(left, mean), 2 * left * _largest(apart)


def _columns(x: Float[Array, "k lanes"]) -> Float[Array, " lanes"]:
    """The sum over a block's columns, written out: a reduction would break XLA's fusion."""
    return sum((x[i] for i in range(1, x.shape[0])), x[0])


def _largest(x: Float[Array, "k lanes"]) -> Float[Array, " lanes"]:
    """The largest of a block's columns, or NaN, written out like their sum."""
    return reduce(jnp.maximum, x)


def _variable(M):
    """z = M + 2(M − 1)/(M + 1) for M > 1, and e^{z−1} = M(M + 1)/(3 − M) below: C² at M = 1."""
    low = jnp.minimum(M, 1)
    return jnp.where(M > 1, M + 2 * (M - 1) / (M + 1), 1 + jnp.log(low * (low + 1) / (3 - low)))


def _shrinking(z):
    """M(z): in both cases the root of M² + bM = c."""
    high, x = z > 1, jnp.exp(jnp.minimum(z, 1) - 1)
    b, c = jnp.where(high, 3 - z, 1 + x), jnp.where(high, z + 2, 3 * x)
    return (jnp.sqrt(b * b + 4 * c) - b) / 2


def _log_slope(M):
    """dz/d log M, above and below the line."""
    high = M > 1
    under = (M + 1) * jnp.where(high, M + 1, 3 - M)
    return jnp.where(high, M, 1) * under + 4 * M, under
