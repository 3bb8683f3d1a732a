"""General X: LSODA and CVODE on all columns together, told when to stop, in (u, v) or logarithms.

On real data a weight can decay beyond what an absolute tolerance can tell from 0 and grow again:
there only logarithms are right.
"""

from functools import cache, partial
from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

from ._cores import shared, with_numba


class Flow(NamedTuple):
    """XᵀX, Xᵀy, cases' ε and final times, α, and whether to use logarithms."""

    gram: np.ndarray
    target: np.ndarray
    epsilon: np.ndarray
    ends: np.ndarray
    alpha: float
    in_logs: bool

    def take(self, which) -> "Flow":
        return self._replace(epsilon=self.epsilon[which], ends=self.ends[which])


def numbalsoda(flow: Flow, rtol: float) -> np.ndarray:
    """Log u and log v at the ends, cases over all cores (prange)."""
    solve = _numbalsoda(len(flow.target), flow.in_logs)
    start, atol = _start(flow, rtol)
    found = solve(flow.gram, flow.target, flow.epsilon, start, flow.ends, rtol, atol)
    return _logs(flow, found)


def scipy_lsoda(flow: Flow, rtol: float) -> np.ndarray:
    """`solve_ivp` with the compiled right-hand side, cases over processes."""
    velocity(len(flow.target), flow.in_logs)
    return _logs(flow, shared(_scipy, flow, len(flow.epsilon), rtol))


def cvode(flow: Flow, rtol: float) -> np.ndarray:
    """BDF of scikit-sundae with the compiled right-hand side, cases over processes."""
    import sksundae  # noqa: F401, or not to be had, before processes start

    velocity(len(flow.target), flow.in_logs)
    return _logs(flow, shared(_cvode, flow, len(flow.epsilon), rtol))


SOLVERS = {"numbalsoda": numbalsoda, "CVODE": cvode, "SciPy LSODA": scipy_lsoda}


def _start(flow, rtol):
    return (np.log(flow.alpha), rtol) if flow.in_logs else (flow.alpha, rtol / 10)


def _logs(flow, states):
    return states if flow.in_logs else np.log(np.maximum(np.abs(states), 1e-300))


@cache
def velocity(d: int, in_logs: bool):
    """(state, numbers, slope): fills the slope; the numbers are XᵀX, Xᵀy and ε."""

    @partial(with_numba().njit, fastmath=True)
    def fill(s, p, f):
        c, w = np.empty(d), np.empty(2 * d)
        for i in range(d):
            c[i] = -p[d * d + i]
        for i in range(2 * d):
            w[i] = np.exp(s[i]) if in_logs else s[i]
        for j in range(d):  # by columns, which the compiler turns into wide vectors
            beta = (w[j] - w[d + j]) * (w[j] + w[d + j])
            for i in range(d):
                c[i] += p[j * d + i] * beta
        for i in range(d):
            up, down = abs(c[i]) * abs(w[i]) + p[-1], abs(c[i]) * abs(w[d + i]) + p[-1]
            f[i] = -c[i] / up if in_logs else -c[i] * w[i] / up
            f[d + i] = c[i] / down if in_logs else c[i] * w[d + i] / down

    return fill


@cache
def _numbalsoda(d, in_logs):
    numba = with_numba()
    from numba import carray
    from numbalsoda import lsoda, lsoda_sig

    fill, size = velocity(d, in_logs), 2 * d

    @numba.cfunc(lsoda_sig)
    def field(t, state, slope, data):
        numbers = carray(data, (d * d + d + 1,))
        fill(carray(state, (size,)), numbers, carray(slope, (size,)))

    address = field.address

    @numba.njit(parallel=True)
    def solve(gram, target, epsilon, start, ends, rtol, atol):
        found = np.empty((len(epsilon), size))
        for case in numba.prange(len(epsilon)):
            data = np.concatenate((gram.ravel(), target, epsilon[case : case + 1]))
            times = np.array([0.0, ends[case]])
            states, ok = lsoda(
                address, np.full(size, start), times, data, rtol=rtol, atol=atol, mxstep=1_000_000
            )
            found[case] = states[1]
            if not ok:
                found[case] = np.nan
        return found

    return solve


def _cases(flow):
    fill = velocity(len(flow.target), flow.in_logs)
    for epsilon, end in zip(flow.epsilon, flow.ends, strict=True):
        yield fill, np.concatenate([flow.gram.ravel(), flow.target, [epsilon]]), end


def _scipy(flow, rtol):
    start, atol = _start(flow, rtol)
    found = []
    for fill, numbers, end in _cases(flow):

        def field(t, y, fill=fill, numbers=numbers):
            slope = np.empty_like(y)
            fill(y, numbers, slope)
            return slope

        y0 = np.full(2 * len(flow.target), start)
        solution = solve_ivp(field, (0, end), y0, "LSODA", t_eval=[end], rtol=rtol, atol=atol)
        found.append(solution.y[:, -1] if solution.success else np.full_like(y0, np.nan))
    return np.array(found)


def _cvode(flow, rtol):
    from sksundae.cvode import CVODE

    def rhs_of(fill, numbers):
        def rhs(t, y, yp):  # whose signature the solver inspects
            fill(y, numbers, yp)

        return rhs

    start, atol = _start(flow, rtol)
    found = []
    for fill, numbers, end in _cases(flow):
        solver = CVODE(rhs_of(fill, numbers), rtol=rtol, atol=atol, max_num_steps=1_000_000)
        y0 = np.full(2 * len(flow.target), start)
        solution = solver.solve(np.array([0, end / 2, end]), y0)
        found.append(solution.y[-1] if solution.success else np.full_like(y0, np.nan))
    return np.array(found)
