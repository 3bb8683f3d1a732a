"""SciPy's `solve_ivp`, what the source used, lanes over processes.

Right-hand side and Jacobian are compiled by Numba.
"""

import numpy as np
from scipy.integrate import solve_ivp

from ..lanes import Lanes
from ._compiled import field, jacobian
from ._cores import shared


def limits(method: str, lanes: Lanes, rtol: float) -> np.ndarray:
    """w and ω long after the sign stage."""
    field()  # compiled, or not to be had, before processes start
    return shared(_solve, lanes, len(lanes.Y), method, None, rtol)[:, -1]


def trajectories(method: str, lanes: Lanes, ts: np.ndarray, rtol: float) -> np.ndarray:
    """w and ω at the times ts."""
    field()
    return shared(_solve, lanes, len(lanes.Y), method, ts, rtol)


def _solve(lanes, method, ts, rtol):
    found = []
    for a, Y, epsilon, alpha, end in zip(*lanes, lanes.final_time(), strict=True):
        at = np.array([end]) if ts is None else ts
        solution = solve_ivp(
            field(), (0, at[-1]), np.full(4, alpha), method, t_eval=at, rtol=rtol,
            atol=rtol / 10, jac=jacobian(), args=(a[0], a[1], Y, epsilon),
        )  # fmt: skip
        found.append(solution.y.T if solution.success else np.full((len(at), 4), np.nan))
    return np.array(found)
