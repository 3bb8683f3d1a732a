"""Independent truth for the tests: NumPy and SciPy only, depth 2, smoothing g/(|g| + epsilon).

Numbers such as (12) or Thm 3.9 are those of Wang and Klabjan (arXiv 2410.14158).
Within a block: a = |x|, s = sign(x y), Y = |y|, q = |<x, beta> - y|; w is the dominating
weight of a column and omega the other, so that s beta = w^2 - omega^2.
"""

from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from scipy.special import wrightomega


class BlockLimit(NamedTuple):
    """End of the flow of one block, and its KKT residual for problem (15)."""

    beta: np.ndarray
    w: np.ndarray
    omega: np.ndarray
    w_ref: np.ndarray
    omega_ref: np.ndarray
    dual: np.ndarray  # theta = s w
    dual_reference: np.ndarray
    stationarity: np.ndarray  # e = (I - X^+ X)(theta_inf - theta_ref)
    kkt_error: float
    signed_error: float  # E with a_1 >= a_2; nan unless the block has two columns


class BlockTrajectory(NamedTuple):
    u: np.ndarray  # (times, columns)
    v: np.ndarray
    warm_up_end: float  # T1
    sign_stage_ends: np.ndarray  # T2 of each column


class BregmanMinimizer(NamedTuple):
    beta: np.ndarray
    dual: np.ndarray
    multiplier: float  # of theta_ref + x nu, in the signs of the caller


class Flow:
    """A solved initial value problem that can be re-entered at any time.

    Values between the nodes come from integrating on from the last node: SciPy's dense
    output is of lower order than the steps and only serves to bracket crossings.
    """

    def __init__(self, velocity, end, start, rtol, atol, stop=None, method="DOP853", jac=None):
        self.velocity = velocity
        self.options = {"method": method, "rtol": rtol, "atol": atol}
        if method != "DOP853":  # an explicit method would refuse the Jacobian
            self.options["jac"] = jac
        if stop is not None:
            stop.terminal = True
        solution = solve_ivp(
            velocity, (0.0, end), start, events=stop, dense_output=True, **self.options
        )
        if not solution.success or (stop is not None and solution.status != 1):
            raise RuntimeError(f"flow did not reach its end: {solution.message}")
        self.nodes, self.states, self.dense = solution.t, solution.y.T, solution.sol
        self.end = self.states[-1]

    def at(self, time):
        node = np.searchsorted(self.nodes, time, side="right") - 1
        span, state = (self.nodes[node], time), self.states[node]
        if span[0] == span[1]:
            return state
        options = {"first_step": span[1] - span[0], **self.options}
        return solve_ivp(self.velocity, span, state, **options).y[:, -1]

    def last_above_zero(self, excess):
        """Last time at which each entry of excess(time, state) is positive, else the first node."""
        steps = np.diff(self.nodes)[:, None] * np.arange(20) / 20
        grid = np.append((self.nodes[:-1, None] + steps).ravel(), self.nodes[-1])
        above = np.array([excess(time, self.dense(time)) > 0 for time in grid])

        def crossing(entry):
            if not above[:, entry].any():
                return self.nodes[0]
            last = np.flatnonzero(above[:, entry])[-1]

            def f(time):
                return excess(time, self.at(time))[entry]

            return brentq(f, grid[last], grid[last + 1], xtol=1e-300, rtol=1e-14)

        return [crossing(entry) for entry in range(above.shape[1])]


def _orient(x, y):
    x = np.asarray(x, float)
    return np.abs(x), np.sign(x * y), abs(float(y))


def _omega(R, kappa):
    """Solution of kappa omega + log omega = R."""
    with np.errstate(divide="ignore"):  # kappa = 0 gives product 0 and omega = exp R
        product = wrightomega(R + np.log(kappa))
    large = product > 1
    quotient = product / np.where(large, kappa, 1.0)
    return np.where(large, quotient, np.exp(np.where(large, 0.0, R - product)))


def _growth(a, epsilon, q, w, omega):
    """h, k and S of the residual clock: w' = q h w, (log omega)' = -q k, q' = -q S."""
    h, k = a / (a * q * w + epsilon), a / (a * q * omega + epsilon)
    return h, k, 2 * np.sum(a * (w**2 * h + omega**2 * k))


def _finish_block(x, y, w, omega, w_ref, omega_ref):
    x, (a, s, _) = np.asarray(x, float), _orient(x, y)
    dual, dual_reference = s * w, s * w_ref
    change = dual - dual_reference
    stationarity = change - x * (x @ change) / (x @ x)
    signed_error = np.nan
    if a.size == 2:
        first, second = np.argsort(-a, kind="stable")
        growth = w - w_ref
        signed_error = (a[first] * growth[second] - a[second] * growth[first]) / np.hypot(*a)
    kkt_error, beta = np.linalg.norm(stationarity), s * (w**2 - omega**2)
    weights = (w, omega, w_ref, omega_ref)
    return BlockLimit(beta, *weights, dual, dual_reference, stationarity, kkt_error, signed_error)


def _warm_up_end(flow, a, epsilon, weights):
    """Weights w and omega at T1: every a q omega has fallen to epsilon."""

    def excess(time, state):
        q, _, omega = weights(time, state)
        return np.max(a * q * omega, keepdims=True) / epsilon - 1

    (T1,) = flow.last_above_zero(excess)
    return weights(T1, flow.at(T1))[1:]


def block_limit(x, y, epsilon, alpha, reference="start", rtol=1e-13):
    """Limit of one block on the residual clock, to 2e-12 for epsilon from 1e-8 to 30.

    reference: "start" for T_ref = 0+, "warmup" for T_ref = T1.
    """
    a, _, Y = _orient(x, y)
    A = a.sum()
    m = np.sqrt(alpha**2 + Y / A)
    c2 = epsilon / (2 * A * a[a > 0].min() * m**2)
    L = np.log1p((m - alpha) / c2)

    def residual(clock):
        """The pair q, dq/ds; sigma = m - gap is near-linear in the weights."""
        gap = c2 * np.expm1(L * (1 - clock))
        return A * gap * (2 * m - gap), -2 * A * (m - gap) * c2 * L * np.exp(L * (1 - clock))

    def weights(clock, state):
        w, R = state.reshape(2, -1)
        q, _ = residual(clock)
        return q, w, _omega(R, a * q / epsilon)

    def velocity(clock, state):
        q, w, omega = weights(clock, state)
        h, _, S = _growth(a, epsilon, q, w, omega)
        return residual(clock)[1] * np.concatenate([-h * w / S, a / epsilon * (omega + 1 / S)])

    initial = np.full(a.size, float(alpha))
    start = np.concatenate([initial, a * Y / epsilon * alpha + np.log(initial)])
    flow = Flow(velocity, 1.0, start, rtol, np.repeat([rtol * alpha, rtol], a.size))
    w_ref = omega_ref = initial
    if reference == "warmup":
        w_ref, omega_ref = _warm_up_end(flow, a, epsilon, weights)
    elif reference != "start":
        raise ValueError(f"unknown reference {reference!r}")
    _, w, omega = weights(1.0, flow.end)
    return _finish_block(x, y, w, omega, w_ref, omega_ref)


def block_limit_time(x, y, epsilon, alpha, reference="start", rtol=1e-12):
    """The same limit by LSODA in time on log w, log omega, with q from the weights.

    Good to 1e-10 for epsilon >= 1e-4 and to 1e-9 down to 1e-8. It stops where every gradient is
    far below epsilon, since the rest is linear in q.
    """
    a, _, Y = _orient(x, y)

    def weights(time, state):
        w, omega = np.exp(state).reshape(2, -1)
        return Y - np.sum(a * (w**2 - omega**2)), w, omega

    def velocity(time, state):
        q, w, omega = weights(time, state)
        h, k, _ = _growth(a, epsilon, q, w, omega)
        return q * np.concatenate([h, -k])

    def unfinished(time, state):
        q, w, _ = weights(time, state)
        return max(q / Y, np.max(a * q * w) / epsilon) - 1e-7

    start = np.full(2 * a.size, np.log(alpha))
    flow = Flow(velocity, 1e12, start, rtol, rtol, stop=unfinished, method="LSODA")
    w_ref = omega_ref = np.full(a.size, float(alpha))
    if reference == "warmup":
        w_ref, omega_ref = _warm_up_end(flow, a, epsilon, weights)
    q, w, omega = weights(None, flow.end)
    h, k, S = _growth(a, epsilon, q, w, omega)
    w, omega = w * (1 + q * h / S), omega * (1 - q * k / S)
    return _finish_block(x, y, w, omega, w_ref, omega_ref)


def block_trajectory(x, y, epsilon, alpha, ts, rtol=1e-13):
    """u, v of one block at the times ts, with the stage ends T1 and T2.

    In time, on w, R and log q: the logarithm keeps q exact to the end and the system non-stiff.
    """
    a, s, Y = _orient(x, y)
    ts = np.asarray(ts, float)

    def weights(state):
        w, R, log_q = state[: a.size], state[a.size : -1], state[-1]
        q = np.exp(log_q)
        return q, w, _omega(R, a * q / epsilon)

    def velocity(time, state):
        q, w, omega = weights(state)
        h, _, S = _growth(a, epsilon, q, w, omega)
        return np.concatenate([q * h * w, -q * a / epsilon * (1 + omega * S), [-S]])

    # a w^2 <= Y + A alpha^2 bounds the gradients: below this q no T2 can follow.
    log_q_end = np.log(epsilon / np.sqrt(a.max() * (Y + a.sum() * alpha**2)))

    def unfinished(time, state):
        return max(ts.max(initial=0.0) - time, state[-1] - log_q_end + 1e-3)

    initial = np.full(a.size, float(alpha))
    start = np.concatenate([initial, a * Y / epsilon * alpha + np.log(initial), [np.log(Y)]])
    atol = np.concatenate([rtol * initial, np.full(a.size + 1, rtol)])
    flow = Flow(velocity, 1e12, start, rtol, atol, stop=unfinished)

    def excess(time, state):
        q, w, omega = weights(state)
        return np.append(a * q * w, np.max(a * q * omega)) / epsilon - 1

    w, omega = np.stack([weights(flow.at(time))[1:] for time in ts], axis=1)
    *T2, T1 = flow.last_above_zero(excess)
    positive = s >= 0
    return BlockTrajectory(
        np.where(positive, w, omega), np.where(positive, omega, w), T1, np.array(T2)
    )


def bregman_minimizer_block(x, y, w_ref, delta):
    """beta* of problem (15) for one block, given w at T_ref and delta = omega^2 at the end."""
    x = np.asarray(x, float)
    a, s, Y = _orient(x, y)
    C0, G, B = np.sum(a * (w_ref**2 - delta)), np.sum(a**3), np.sum(a**2 * w_ref)
    if Y >= C0:  # theta only grows, so the kink of the potential at beta = 0 is out of reach
        nu = (Y - C0) / (B + np.sqrt(B**2 + G * (Y - C0)))
    else:
        live = a > 0

        def excess(nu):
            return np.sum(a * _primal(w_ref + a * nu, delta)) - Y

        bracket = -np.max(w_ref[live] / a[live]), np.sqrt((Y + np.sum(a * delta)) / G)
        nu = brentq(excess, *bracket, xtol=1e-300, rtol=1e-14)
    theta = w_ref + a * nu
    return BregmanMinimizer(s * _primal(theta, delta), s * theta, float(np.sign(y) * nu))


def _primal(theta, delta):
    """Inverse mirror map."""
    return np.sign(theta) * np.maximum(theta**2 - delta, 0)


def _general_system(X, y, epsilon):
    """X^T r, velocity and Jacobian of (12) on (log u, log v); u and v themselves underflow."""
    side = np.array([[-1.0], [1.0]])  # log u falls and log v grows with c
    gram = X.T @ X

    def correlations(logs):
        # A step that is far too long, past where a weight wakes up, must be refused, not overflow.
        u, v = weights = np.exp(np.minimum(logs, 50)).reshape(2, -1)
        return X.T @ (X @ (u**2 - v**2) - y), weights

    def velocity(time, logs):
        c, weights = correlations(logs)
        return (side * c / (np.abs(c) * weights + epsilon)).ravel()

    def jacobian(time, logs):
        c, weights = correlations(logs)
        slope = 1 / (np.abs(c) * weights + epsilon) ** 2
        by_c = (epsilon * side * slope).reshape(-1, 1)
        c_by_logs = np.tile(gram, (2, 2)) * (-2 * side * weights**2).ravel()
        return by_c * c_by_logs - np.diag((side * c * np.abs(c) * weights * slope).ravel())

    return correlations, velocity, jacobian


def general_limit(X, y, epsilon, alpha, rtol=1e-13, method="LSODA"):
    """beta_inf for any X: the flow until every gradient stays below 1e-6 epsilon, then its end.

    There (12) is gradient flow slowed by epsilon: it moves log u by -X^T nu and log v by X^T nu.
    A weight that is tiny counts like the largest: beside a saddle it may be about to grow.
    """
    X, y = np.asarray(X, float), np.asarray(y, float)
    correlations, velocity, jacobian = _general_system(X, y, epsilon)

    def unfinished(time, logs):
        c, weights = correlations(logs)
        return np.max(np.abs(c)) * np.max(weights) / epsilon - 1e-6

    start = np.full(2 * X.shape[1], np.log(alpha))
    flow = Flow(velocity, 1e12, start, rtol, rtol, unfinished, method, jacobian)
    project = X @ np.linalg.pinv(X)  # the part of y outside the range of X stays

    def weights(nu):
        return np.exp(flow.end.reshape(2, -1) + np.array([[-1.0], [1.0]]) * (X.T @ nu))

    def residual(nu):
        u, v = weights(nu)
        return project @ (X @ (u**2 - v**2) - y)

    def slope(nu):
        return -2 * X * np.sum(weights(nu) ** 2, axis=0) @ X.T

    u, v = weights(_root(residual, slope, np.zeros(y.size)))
    return u**2 - v**2


def _root(residual, slope, nu):
    """Newton with a line search on the residual, until no step lowers it any more."""
    while True:
        r = residual(nu)
        step = np.linalg.lstsq(slope(nu), -r)[0]
        for fraction in 0.5 ** np.arange(30):
            with np.errstate(over="ignore", invalid="ignore"):  # a trial may be far too long
                trial = np.linalg.norm(residual(nu + fraction * step))
            if trial < (1 - 1e-4 * fraction) * np.linalg.norm(r):
                nu = nu + fraction * step
                break
        else:
            return nu


def general_trajectory(X, y, epsilon, alpha, ts, rtol=1e-13, method="LSODA"):
    """u, v of (12) for any X at the times ts: two arrays (times, columns)."""
    X, y = np.asarray(X, float), np.asarray(y, float)
    _, velocity, jacobian = _general_system(X, y, epsilon)
    start = np.full(2 * X.shape[1], np.log(alpha))
    flow = Flow(velocity, max(ts), start, rtol, rtol, method=method, jac=jacobian)
    u, v = np.split(np.exp([flow.at(time) for time in ts]), 2, axis=1)
    return u, v


def gd_trajectory(X, y, alpha, ts, rtol=1e-13, method="LSODA"):
    """u, v of gradient flow (71)-(72) for any X, from nu = the integral of r over time."""
    X, y = np.asarray(X, float), np.asarray(y, float)
    _, residual, slope = _gd_system(X, y, alpha)
    flow = Flow(
        lambda _, nu: residual(nu), max(ts), np.zeros(y.size), rtol, rtol,
        method=method, jac=lambda _, nu: slope(nu),
    )  # fmt: skip
    C = np.array([flow.at(time) for time in ts]) @ X
    return alpha * np.exp(-C), alpha * np.exp(C)


def _gd_system(X, y, alpha):
    """beta, residual and its slope as functions of nu; beta = -2 alpha^2 sinh(2 X^T nu)."""

    def beta(nu):
        return -2 * alpha**2 * np.sinh(2 * X.T @ nu)

    def residual(nu):
        return X @ beta(nu) - y

    def slope(nu):
        return -4 * alpha**2 * X * np.cosh(2 * X.T @ nu) @ X.T

    return beta, residual, slope


def gd_limit(X, y, alpha):
    """Limit (11) of gradient flow, for y in the range of X.

    Newton on X beta(nu) = y with continuation in alpha, because nu grows like log(1/alpha).
    """
    X, y = np.asarray(X, float), np.asarray(y, float)
    nu = np.zeros(y.size)
    for scale in np.geomspace(max(alpha, 1.0), alpha, 12):
        beta, residual, slope = _gd_system(X, y, scale)
        nu = _root(residual, slope, nu)
    return beta(nu)


def derivative(f, x, step=0.25, levels=6):
    """f'(x) and an error estimate by central differences with Richardson extrapolation.

    f may return an array. Each entry takes the place of the tableau whose neighbours agree best.
    """
    previous, best, error = [], np.nan, np.inf
    for level in range(levels):
        h = step / 2**level
        row = [(np.asarray(f(x + h)) - np.asarray(f(x - h))) / (2 * h)]
        for order, coarse in enumerate(previous, start=1):
            row.append(row[-1] + (row[-1] - coarse) / (4**order - 1))
            disagreement = np.maximum(np.abs(row[-1] - row[-2]), np.abs(row[-1] - coarse))
            best = np.where(disagreement < error, row[-1], best)
            error = np.minimum(disagreement, error)
        previous = row
    return best, error
