"""CVODE's BDF by scikit-sundae, lanes over processes.

Right-hand side and Jacobian are compiled by Numba.
"""

from functools import cache

import numpy as np

from ..lanes import Lanes
from ._compiled import field, jacobian
from ._cores import shared


def limits(lanes: Lanes, rtol: float) -> np.ndarray:
    """w and ω long after the sign stage."""
    _solver(rtol)
    return shared(_solve, lanes, len(lanes.Y), None, rtol)[:, -1]


def trajectories(lanes: Lanes, ts: np.ndarray, rtol: float) -> np.ndarray:
    """w and ω at the times ts."""
    _solver(rtol)
    return shared(_solve, lanes, len(lanes.Y), ts, rtol)


@cache
def _solver(rtol):
    """A solver, and the numbers of the lane it is at."""
    from sksundae.cvode import CVODE

    velocity, slopes, at = field(), jacobian(), [()]

    def rhs(t, y, yp):
        yp[:] = velocity(t, y, *at[0])

    def jac(t, y, yp, JJ):
        JJ[:] = slopes(t, y, *at[0])

    solver = CVODE(rhs, jacfn=jac, rtol=rtol, atol=rtol / 10, max_num_steps=100_000)
    return solver, at


def _solve(lanes, ts, rtol):
    solver, at = _solver(rtol)
    found = []
    for a, Y, epsilon, alpha, end in zip(*lanes, lanes.final_time(), strict=True):
        at[0] = (a[0], a[1], Y, epsilon)
        # Two times are a span, at whose own steps it would answer.
        times = np.array([0, end / 2, end]) if ts is None else ts
        solution = solver.solve(times, np.full(4, alpha))
        found.append(solution.y if solution.success else np.full((len(times), 4), np.nan))
    return np.array(found)
