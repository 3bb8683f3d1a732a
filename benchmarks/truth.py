"""What is right: SciPy on many lanes at once, itself checked against the reference of the tests.

The equations of `tests/reference.py` for arrays of lanes: DOP853 at 1e-10, exact Wright omega. No
code is shared with the package.
"""

import sys
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

from .lanes import Lanes

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import reference as ref

_RTOL, _TOGETHER = 1e-10, 512


def limits(lanes: Lanes) -> np.ndarray:
    """w and ω at t = ∞, (L, 2k)."""
    return _in_chunks(_limits, lanes)


def trajectories(lanes: Lanes, ts: np.ndarray) -> np.ndarray:
    """w and ω at the times ts, (L, T, 2k)."""
    return _in_chunks(_trajectories, lanes, ts)


def disagreement(lanes: Lanes, states: np.ndarray, few: int = 4) -> float:
    """The largest difference between these limits and those of the tests' reference, few lanes."""
    some = np.unique(np.linspace(0, len(states) - 1, few).astype(int))
    apart = []
    for lane in some:
        one = ref.block_limit(lanes.a[lane], lanes.Y[lane], lanes.epsilon[lane], lanes.alpha[lane])
        apart.append(np.max(np.abs(np.concatenate([one.w, one.omega]) - states[lane])))
    return float(max(apart))


def _in_chunks(solve, lanes, *more):
    order = lanes.order()
    parts = np.array_split(order, -(-len(order) // _TOGETHER))
    found = np.concatenate([solve(lanes.take(part), *more) for part in parts])
    return found[np.argsort(order)]


def _growth(a, epsilon, q, w, omega):
    h, k = a / (a * q * w + epsilon), a / (a * q * omega + epsilon)
    return h, k, 2 * np.sum(a * (w**2 * h + omega**2 * k), axis=1, keepdims=True)


def _as_columns(lanes):
    return lanes.a, lanes.Y[:, None], lanes.epsilon[:, None], lanes.alpha[:, None]


def _start(a, Y, epsilon, alpha):
    w = np.broadcast_to(alpha, a.shape)
    return w, a * Y / epsilon * alpha + np.log(w)


def _limits(lanes):
    a, Y, epsilon, alpha = _as_columns(lanes)
    A = a.sum(axis=1, keepdims=True)
    m = np.sqrt(alpha**2 + Y / A)
    layer = epsilon / (2 * A * a.min(axis=1, keepdims=True) * m**2)
    length = np.log1p((m - alpha) / layer)

    def weights(s, state):
        w, R = state.reshape(2, *a.shape)
        gap = layer * np.expm1(length * (1 - s))
        q = A * gap * (2 * m - gap)
        slope = -2 * A * (m - gap) * layer * length * np.exp(length * (1 - s))
        return q, slope, w, ref._omega(R, a * q / epsilon)

    def velocity(s, state):
        q, slope, w, omega = weights(s, state)
        h, _, S = _growth(a, epsilon, q, w, omega)
        return (slope * np.stack([-h * w / S, a / epsilon * (omega + 1 / S)])).ravel()

    start = np.stack(_start(a, Y, epsilon, alpha)).ravel()
    solution = solve_ivp(velocity, (0, 1), start, "DOP853", t_eval=[1], rtol=_RTOL, atol=_RTOL)
    _, _, w, omega = weights(1.0, solution.y[:, -1])
    return np.concatenate([w, omega], axis=1)


def _trajectories(lanes, ts):
    """On w, R and log q, which keeps q exact to the end and the system non-stiff."""
    a, Y, epsilon, alpha = _as_columns(lanes)
    count, k = a.shape

    def weights(state):
        w, R, log_q = np.split(state.reshape(2 * k + 1, count).T, [k, 2 * k], axis=1)
        q = np.exp(log_q)
        return q, w, ref._omega(R, a * q / epsilon)

    def velocity(t, state):
        q, w, omega = weights(state)
        h, _, S = _growth(a, epsilon, q, w, omega)
        rates = [q * h * w, -q * a / epsilon * (1 + omega * S), -S]
        return np.concatenate(rates, axis=1).T.ravel()

    start = np.concatenate([*_start(a, Y, epsilon, alpha), np.log(Y)], axis=1).T.ravel()
    solution = solve_ivp(velocity, (0, ts[-1]), start, "DOP853", t_eval=ts, rtol=_RTOL, atol=_RTOL)
    found = [np.concatenate(weights(state)[1:], axis=1) for state in solution.y.T]
    return np.stack(found, axis=1)
