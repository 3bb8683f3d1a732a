"""A stabilised explicit Runge-Kutta method of order three, whose stages are of order two.

s stages are stable for steps that grow like s² where the Jacobian's spectrum is real and negative,
so that a stiff flow needs no linear algebra. On y' = λy a step multiplies by R(hλ), and R = p w as
in ROCK2 (Abdulle and Medovikov, Numer. Math. 90, 2001): p is orthogonal, of degree s − 2, for the
weight w²/√(1 − x²), and w the quadratic for which R has order three.

There, stages are of order one, and where the flow is stiff so is the error. In RKC2 (Sommeijer,
Shampine and Verwer, J. Comput. Appl. Math. 88, 1998) they are of order two. To have both, stage j
is Y_j = y + b_j M_j with the b_j that gives it order two, and the factors of R act on M_j,

    M_{j+1} = μ S_j + ν M_j + κ M_{j−1},   S_j = h f(y) + (h f(Y_j) − h f(y)) / b_j,

where S_j stands for h f'(y) M_j + h f(y). Were all stages of order two, order three would follow
from R's; the first cannot be, and the b of the last but one makes up for it.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from scipy.optimize import root

MOST_STAGES = 50
ERROR = 0.22  # of a step, by that of the parabola's integral of f: measured
_DAMPING = 4.0  # |R| falls to 0.43 (0.78 for s = 4), for a seventh of the interval
_START = np.array([0.926, 0.94])  # about the zero of w for four stages


class Coefficients(NamedTuple):
    """Of methods of s stages, s even and from 4: entry s of each array."""

    limits: np.ndarray  # the real interval of stability
    stages: np.ndarray  # (j, 5): what stage j + 1 takes of y, h f(y), stages j, j − 1, and h f of j


class _Polynomials(NamedTuple):
    a: np.ndarray  # p_{j+1} = (x − a_j) p_j − b_j p_{j−1}
    b: np.ndarray
    jets: np.ndarray  # (j, 4): Taylor's coefficients of p_j at x₀
    w: np.ndarray  # of w there, w(x₀) = 1
    R: np.ndarray  # and of R


def _x0(s: int) -> float:
    return 1 + _DAMPING / s**2


def _polynomials(s: int, zero: np.ndarray) -> _Polynomials:
    x0, size = _x0(s), s + 2
    x = np.cos((2 * np.arange(size) + 1) * np.pi / (2 * size))  # Gauss's nodes: exact sums
    weight = ((x - zero[0]) ** 2 + zero[1] ** 2) ** 2
    a, b, jets = np.zeros(s - 2), np.zeros(s - 2), np.zeros((s - 1, 4))
    jets[0, 0] = 1
    old, p, square = np.zeros(size), np.ones(size), np.inf
    for j in range(s - 2):
        b[j], square = weight @ p**2 / square, weight @ p**2
        a[j] = weight @ (x * p**2) / square
        old, p = p, (x - a[j]) * p - b[j] * old
        jets[j + 1] = (x0 - a[j]) * jets[j] - b[j] * jets[j - 1]
        jets[j + 1, 1:] += jets[j, :-1]
    w = np.array([(x0 - zero[0]) ** 2 + zero[1] ** 2, 2 * (x0 - zero[0]), 1])
    w = w / w[0]
    return _Polynomials(a, b, jets, w, np.convolve(jets[-1] / jets[-1, 0], w))


def _conditions(zero: np.ndarray, s: int) -> tuple[float, float]:
    R = _polynomials(s, zero).R
    return R[2] / R[1] ** 2 - 1 / 2, R[3] / R[1] ** 3 - 1 / 6


@cache
def coefficients() -> Coefficients:
    """Of all numbers of stages; the first call takes a quarter of a second."""
    limits, stages = np.zeros(MOST_STAGES + 1), np.zeros((MOST_STAGES + 1, MOST_STAGES, 5))
    zero = _START
    for s in range(4, MOST_STAGES + 1, 2):
        zero = root(_conditions, zero, s, tol=1e-13).x
        found = _polynomials(s, zero)
        limits[s], stages[s, :s] = (1 + _x0(s)) * found.R[1], _method(s, found)
        zero = 1 - (1 - zero[0]) * (s / (s + 2)) ** 2, zero[1] * (s / (s + 2)) ** 2
    return Coefficients(limits, stages)


def _method(s: int, found: _Polynomials) -> np.ndarray:
    """The rows of `stages`. m, n and r are the weights in M_j of the trees of order 1, 2 and 3."""
    scale, values, k = found.R[1], found.jets[:, 0], s - 2
    w1, w2 = found.w[1] / scale, found.w[2] / scale**2
    # The last two steps of the recurrence multiply by 1 + w₁ z, and by w.
    mu = np.array([*(values[:-1] / values[1:] / scale), w1, w2 / w1])
    nu = np.array([*((_x0(s) - found.a) * values[:-1] / values[1:]), 1, 1 - w2 / w1**2])
    kappa = 1 - nu
    m, n, r, b = np.zeros(s + 1), np.zeros(s + 1), np.zeros(s + 1), np.ones(s + 1)
    for j in range(s - 1):
        m[j + 1] = mu[j] + nu[j] * m[j] + kappa[j] * m[j - 1]
        n[j + 1] = mu[j] * m[j] + nu[j] * n[j] + kappa[j] * n[j - 1]
    b[2:s] = 2 * n[2:s] / m[2:s] ** 2
    b[1] = b[2]
    for j in range(s - 1):
        r[j + 1] = mu[j] * b[j] * m[j] ** 2 + nu[j] * r[j] + kappa[j] * r[j - 1]
    rest = nu[-1] * r[s - 1] + kappa[-1] * r[k]
    b[s - 1] = (1 / 3 - rest) / (mu[-1] * m[s - 1] ** 2)
    new, old = b[1:] * nu / b[:-1], b[1:] * kappa / np.roll(b[:-1], 1)
    old[:2] = 0  # M₀ = 0
    new[0] = 0
    slope = b[1:] * mu / b[:-1]
    return np.stack([1 - new - old, b[1:] * mu - slope, new, old, slope], axis=1)


def stages_for(stiffness: Float[Array, "..."]) -> Float[Array, "..."]:
    """About how many stages a step of h needs, of `stiffness` = h · spectral radius."""
    return jnp.sqrt(1 + stiffness * (MOST_STAGES**2 - 1) / coefficients().limits[-1])


def chebyshev_step(
    slope: Callable[[Float[Array, "..."]], Float[Array, "..."]],
    y: Float[Array, "..."],
    start: Float[Array, "..."],
    s: Int[Array, ""],
) -> Float[Array, "..."]:
    """Where a step of s stages leads from y: `slope` is h f, and `start` is h f(y)."""
    table = jnp.asarray(coefficients().stages, y.dtype)
    stages, chosen = table[s], jax.nn.one_hot(s, len(table), dtype=y.dtype)
    # By a product: every kernel that forms these two would look up each number once more.
    before, first = jnp.tensordot(chosen, table[:, :2], 1)

    def stage(numbers, new, old):
        of_y, of_start, of_new, of_old, of_slope = numbers
        return of_y * y + of_start * start + of_new * new + of_old * old + of_slope * slope(new)

    def two(i, state):  # two at a time make no copies
        new, old = state
        old = stage(stages[2 * i], new, old)
        return stage(stages[2 * i + 1], old, new), old

    new = y + (before[1] + before[4]) * start
    return lax.fori_loop(1, s // 2, two, (stage(first, new, y), new))[0]
