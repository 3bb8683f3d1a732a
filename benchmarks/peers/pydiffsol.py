"""Diffsol (Rust): BDF on a right-hand side compiled by LLVM, lanes over threads."""

from functools import cache
from threading import get_ident

import numpy as np

from ..lanes import Lanes
from ._cores import shared

_CODE = """
in_i { a0 = 1, a1 = 1, Y = 1, e = 1, start = 1 }
u_i { w0 = start, w1 = start, o0 = start, o1 = start }
q { Y - a0 * (w0 * w0 - o0 * o0) - a1 * (w1 * w1 - o1 * o1) }
F_i {
  a0 * q * w0 / (a0 * q * w0 + e),
  a1 * q * w1 / (a1 * q * w1 + e),
  -a0 * q * o0 / (a0 * q * o0 + e),
  -a1 * q * o1 / (a1 * q * o1 + e),
}
"""


def limits(lanes: Lanes, rtol: float) -> np.ndarray:
    """w and ω long after the sign stage."""
    return shared(_solve, lanes, len(lanes.Y), None, rtol, threads=True)[:, -1]


def trajectories(lanes: Lanes, ts: np.ndarray, rtol: float) -> np.ndarray:
    """w and ω at the times ts."""
    return shared(_solve, lanes, len(lanes.Y), ts, rtol, threads=True)


@cache
def _solver(thread):
    import pydiffsol as ds

    return ds.Ode(_CODE, ode_solver=ds.bdf, matrix_type=ds.nalgebra_dense)


def _solve(lanes, ts, rtol):
    ode, found = _solver(get_ident()), []
    ode.rtol, ode.atol = rtol, rtol / 10
    for a, Y, epsilon, alpha, end in zip(*lanes, lanes.final_time(), strict=True):
        times = np.array([end]) if ts is None else ts
        parameters = np.array([a[0], a[1], Y, epsilon, alpha])
        try:
            found.append(ode.solve_dense(parameters, times).ys.T)
        except RuntimeError:  # a failed solve, by which others are unharmed
            found.append(np.full((len(times), 4), np.nan))
    return np.array(found)
