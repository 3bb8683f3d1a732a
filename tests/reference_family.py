"""The truth for every depth, smoothing, and ε and α per coordinate: SciPy only, one block.

Independent of the package: plain ψ_M(ω) (log ω, or ω^{2−M}/(2−M)) on the clock in log w, with the
velocity φ(g/ε) itself, and, as another route, the time domain.
"""

import itertools
from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

PHI = {
    "abs": lambda z: z / (1 + np.abs(z)),
    "sqrt": lambda z: z / np.sqrt(1 + z**2),
    "tanh": np.tanh,
    "clip": lambda z: np.clip(z, -1, 1),
}


class FamilyLimit(NamedTuple):
    beta: np.ndarray
    w: np.ndarray
    omega: np.ndarray
    kkt_error: float


def family_limit(x, y, epsilon, alpha, smoothing="abs", depth=2, rtol=1e-12) -> FamilyLimit:
    """Limit of one block by DOP853 in log w, ψ(ω) over the residual, on a grid of ever smaller q.

    Velocities are per unit of q, by the secant φ(z)/z, which tends to 1 as q → 0.
    """
    x = np.asarray(x, float)
    a, s, Y, M = np.abs(x), np.sign(x * y), abs(y), depth
    epsilon, alpha = (np.broadcast_to(np.asarray(v, float), a.shape) for v in (epsilon, alpha))
    phi, k = PHI[smoothing], len(a)

    def secant(q, w):
        """φ(z)/z at z = aqw^{M−1}/ε."""
        z = a * q * w ** (M - 1) / epsilon
        return np.where(z < 1e-9, 1, phi(np.maximum(z, 1e-9)) / np.maximum(z, 1e-9))

    def omega_of(psi):
        return np.exp(psi) if M == 2 else ((2 - M) * psi) ** (1 / (2 - M))

    def field(q, state):
        w, omega = np.exp(state[:k]), omega_of(state[k:])
        up, down = (a / epsilon * secant(q, v) for v in (w, omega))
        S = M * np.sum(a * (w ** (2 * M - 2) * up + omega ** (2 * M - 2) * down))
        return np.concatenate([-(w ** (M - 2)) * up / S, down / S])

    psi0 = np.log(alpha) if M == 2 else alpha ** (2 - M) / (2 - M)
    state = np.concatenate([np.log(alpha), psi0])
    scale = float(np.min(epsilon) / np.max(a))
    knots = [Y, *Y * np.geomspace(1 - 1e-6, 1e-3, 4), *np.geomspace(scale, scale * 1e-3, 3), 0.0]
    knots = sorted({float(q) for q in knots if q <= Y}, reverse=True)
    for q0, q1 in itertools.pairwise(knots):
        first = min(abs(q1 - q0), 1e-3 * Y * float(np.min(alpha)) ** M)
        solution = solve_ivp(
            field, (q0, q1), state, method="DOP853", rtol=rtol, atol=1e-14, first_step=first
        )
        assert solution.success, solution.message
        state = solution.y[:, -1]
    return _limit(a, s, x, np.exp(state[:k]), omega_of(state[k:]), alpha, M)


def family_limit_time(x, y, epsilon, alpha, smoothing="abs", depth=2, rtol=1e-11) -> FamilyLimit:
    """The same limit by LSODA in time, in (w, ω), for ε of at least 1e-3."""
    x = np.asarray(x, float)
    a, s, Y, M = np.abs(x), np.sign(x * y), abs(y), depth
    epsilon, alpha = (np.broadcast_to(np.asarray(v, float), a.shape) for v in (epsilon, alpha))
    phi, k = PHI[smoothing], len(a)

    def field(t, state):
        w, omega = state[:k], np.maximum(state[k:], 0)
        q = Y - a @ (w**M - omega**M)
        up, down = (phi(a * q * v ** (M - 1) / epsilon) for v in (w, omega))
        return np.concatenate([up, -down])

    start = np.concatenate([alpha, alpha])
    solution = solve_ivp(
        field, (0, 1e9), start, "LSODA", rtol=rtol, atol=1e-13, events=[_settled(a, Y, M)]
    )
    w, omega = solution.y[:k, -1], solution.y[k:, -1]
    return _limit(a, s, x, w, omega, alpha, M)


def crossings(x, y, epsilon, alpha, smoothing="abs", depth=2) -> list[np.ndarray]:
    """When |∂F/∂w_i| of one block crosses ε, up or down, by DOP853 in time and its events."""
    a, Y, M, phi = np.abs(x), abs(y), depth, PHI[smoothing]
    k = len(a)

    def gradients(state):
        w, omega = state[:k], state[k:]
        q = Y - a @ (w**M - omega**M)
        return np.tile(a, 2) * q * state ** (M - 1)

    events = [lambda t, state, i=i: gradients(state)[i] - epsilon for i in range(k)]
    signs, start = np.repeat([1, -1], k), np.full(2 * k, alpha)
    solution = solve_ivp(
        lambda t, state: signs * phi(gradients(state) / epsilon),
        (0, 3),
        start,
        "DOP853",
        events=events,
        rtol=1e-12,
        atol=1e-14,
        max_step=0.01,  # so that an event is seen that comes and goes
    )
    assert np.max(gradients(solution.y[:, -1])) < epsilon / 10
    return solution.t_events


def _settled(a, Y, M):
    k = len(a)

    def residual(t, state):
        return Y - a @ (state[:k] ** M - np.maximum(state[k:], 0) ** M) - 1e-10 * Y

    residual.terminal = True
    return residual


def _limit(a, s, x, w, omega, alpha, M) -> FamilyLimit:
    growth = s * (w - alpha)
    error = growth - x * (x @ growth) / (x @ x)
    return FamilyLimit(s * (w**M - omega**M), w, omega, float(np.linalg.norm(error)))


def gap(x, y, dual, omega, alpha, depth):
    """D(β_∞) − D(β*) of one block for T_ref = 0⁺, by definition, with β* from a bracketed ν."""
    a, M, delta, start = np.abs(x), depth, omega**depth, alpha * np.ones(len(x))

    def beta(nu):
        """s∘∇Φ*(θ_ref + Xᵀν)."""
        theta = start + a * nu
        return np.sign(theta) * np.maximum(np.abs(theta) ** M - delta, 0)

    def divergence(beta):
        return M / (M + 1) * np.sum((np.abs(beta) + delta) ** ((M + 1) / M)) - start @ beta

    low, high = -np.max(start / a), ((abs(y) + a @ delta) / np.sum(a ** (M + 1))) ** (1 / M)
    nu = brentq(lambda nu: a @ beta(nu) - abs(y), low, high, xtol=1e-15, rtol=1e-14)
    return divergence(np.abs(dual) ** M - delta) - divergence(beta(nu))
