"""Right-hand side and Jacobian of one lane, compiled, for solvers that call Python functions."""

from functools import cache

import numpy as np

from ._cores import with_numba


@cache
def field():
    """(t, state, a₁, a₂, Y, ε) to the velocity."""

    @with_numba().njit
    def velocity(t, y, a0, a1, Y, epsilon):
        q = Y - a0 * (y[0] * y[0] - y[2] * y[2]) - a1 * (y[1] * y[1] - y[3] * y[3])
        slope = np.empty(4)
        for i in range(4):
            g = (a0 if i % 2 == 0 else a1) * q * y[i]
            rate = g / (abs(g) + epsilon)
            slope[i] = rate if i < 2 else -rate
        return slope

    return velocity


@cache
def jacobian():
    """(t, state, a₁, a₂, Y, ε) to the derivatives of the velocity in the state."""

    @with_numba().njit
    def slopes(t, y, a0, a1, Y, epsilon):
        q = Y - a0 * (y[0] * y[0] - y[2] * y[2]) - a1 * (y[1] * y[1] - y[3] * y[3])
        found = np.empty((4, 4))
        for i in range(4):
            a, sign = (a0 if i % 2 == 0 else a1), (1.0 if i < 2 else -1.0)
            below = abs(a * q * y[i]) + epsilon
            rate = sign * epsilon * a / (below * below)
            for j in range(4):
                dq = -2 * (a0 if j % 2 == 0 else a1) * y[j] * (1.0 if j < 2 else -1.0)
                found[i, j] = rate * (dq * y[i] + (q if i == j else 0.0))
        return found

    return slopes
