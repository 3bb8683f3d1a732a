"""LSODA compiled, its right-hand side compiled too, lanes over all cores (prange)."""

from functools import cache

import numpy as np

from ..lanes import Lanes
from ._cores import with_numba


def limits(lanes: Lanes, rtol: float) -> np.ndarray:
    """w and ω long after the sign stage."""
    ends = np.stack([np.zeros(len(lanes.Y)), lanes.final_time()], axis=1)
    return _solver()(*lanes, ends, rtol, rtol / 10)[:, -1]


def trajectories(lanes: Lanes, ts: np.ndarray, rtol: float) -> np.ndarray:
    """w and ω at the times ts, which start at 0."""
    return _solver()(*lanes, np.broadcast_to(ts, (len(lanes.Y), len(ts))), rtol, rtol / 10)


@cache
def _solver():
    numba = with_numba()
    from numba import carray
    from numbalsoda import lsoda, lsoda_sig

    @numba.cfunc(lsoda_sig)
    def field(t, state, slope, data):
        y, p, d = carray(state, (4,)), carray(data, (4,)), carray(slope, (4,))
        q = p[2] - p[0] * (y[0] * y[0] - y[2] * y[2]) - p[1] * (y[1] * y[1] - y[3] * y[3])
        for i in range(4):
            g = p[i % 2] * q * y[i]
            rate = g / (abs(g) + p[3])
            d[i] = rate if i < 2 else -rate

    address = field.address

    @numba.njit(parallel=True)
    def solve(a, Y, epsilon, alpha, times, rtol, atol):
        found = np.empty((len(Y), times.shape[1], 4))
        for lane in numba.prange(len(Y)):
            data = np.array([a[lane, 0], a[lane, 1], Y[lane], epsilon[lane]])
            start = np.full(4, alpha[lane])
            states, ok = lsoda(
                address, start, times[lane].copy(), data, rtol=rtol, atol=atol, mxstep=100_000
            )
            found[lane] = states
            if not ok:
                found[lane] = np.nan
        return found

    return solve
