"""The claims on a general X, outside Assumption 3.2: what still makes sense, by the public solves.

There the flow does not split into blocks, and θ_i = sign(β_i)√(|β_i| + δ_i) jumps where β_i crosses
0.
"""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from .._extremes import amax, amin
from .._flow import Trajectory, solve_trajectory
from .._kkt import kkt
from .._limit import Limit, solve_limit
from .._mirror import mirror_map
from .._powers import power_difference
from .._problem import Problem
from .._report import sentence
from .._results import RESULTS
from .._rules import GradientDescent, SmoothedSign
from ._claims import CLAIMS, MISSING, Claim
from ._formulas import SOURCE
from ._verdicts import Row, reason

_DEPTH = 3


def certify_general(
    problem: Problem, epsilon: float, alpha: float, rtol: float
) -> tuple[list[Row], dict[str, Any], list[str]]:
    """One row per claim, None where it speaks of blocks; no plots; and what failed."""
    rule = SmoothedSign(epsilon)
    pull = _largest_pull(problem, alpha)
    ts = _times(problem, alpha * (1 + epsilon / pull))
    long = _times(problem, alpha / pull)  # gradient flow knows no ε
    flow = solve_trajectory(problem, rule, alpha, ts=ts, rtol=rtol)
    deep = solve_trajectory(problem, rule, alpha, ts=ts, rtol=rtol, depth=_DEPTH)
    deep_limit = solve_limit(problem, rule, alpha, rtol=rtol, depth=_DEPTH)
    descent = solve_trajectory(problem, GradientDescent(), alpha, ts=long, rtol=rtol)
    error, slope, limit = _limit_and_slope(problem, epsilon, alpha, rtol)
    margins = {
        "Proposition 3.4": _weights(flow, alpha),
        "Lemma A.1": _residual(problem, flow),
        "Proposition 3.6, θ": _mirrored(flow, 2),
        "Proposition 3.6, (14)": _dynamics(problem, flow, epsilon, 2),
        "Lemma A.3": -_apart(flow.beta[-1], limit.beta),
        "Theorem 3.9, routes": _routes(problem, flow, limit),
        "Corollary 3.10": -slope / _safe_size(limit.dual),
        "Gradient flow, (10)": _descent_dynamics(problem, descent, alpha),
        "Gradient flow, (11)": _descent_kkt(problem, descent, alpha),
        "Depth M, potential": _mirrored(deep, _DEPTH),
        "Depth M, dual": _dynamics(problem, deep, epsilon, _DEPTH),
        "Depth M, KKT": _routes(problem, deep, deep_limit),
    }
    details = {
        "Proposition 3.4": "u, v ≥ 0 and uv ≤ α² only",
        "Lemma A.1": "‖Pr‖ falls, P onto the range of X",
        "Theorem 3.9, routes": f"‖e‖ = {float(error):.7g}",
        "Corollary 3.10": f"d‖e‖/d log ε = {float(slope):.4g} here",
    }
    solves = {
        "flow": flow,
        "limit": limit,
        "flow of depth 3": deep,
        "limit of depth 3": deep_limit,
        "gradient flow": descent,
    }
    failed = {
        name: sentence(solve.result)
        for name, solve in solves.items()
        if solve.result != RESULTS.successful
    }
    rows = [
        _row(claim, margins.get(claim.name), details.get(claim.name, ""), failed, 10 * rtol)
        for claim in CLAIMS
    ]
    return rows, {}, [f"{name}: {why}" for name, why in failed.items()]


_SOLVES = {
    "sign": ("flow", "limit"),
    "deep": ("flow of depth 3", "limit of depth 3"),
    "descent": ("gradient flow",),
}


def _row(claim: Claim, margin: Any, detail: str, failed: dict[str, str], slack: float) -> Row:
    """One claim by its margin, None if it says nothing of a general X."""
    name, statement = claim.name, claim.statement
    if margin is None:
        return Row(name, statement, None, np.nan, f"needs {MISSING['3.2']}", 0, 0)
    why = next((failed[solve] for solve in _SOLVES[claim.solve] if solve in failed), "")
    if why or np.isnan(margin):
        return Row(name, statement, None, np.nan, f"not evaluated: {why or reason(0)}", 0, 0)
    holds = bool(margin >= -slack)
    detail = "; ".join(filter(None, (f"outside {MISSING['3.2']}", detail)))
    return Row(name, statement, holds, float(margin), detail, 1, int(not holds))


def _largest_pull(problem: Problem, alpha: float) -> float:
    """The largest gradient of a weight at the start."""
    pull = float(amax(jnp.abs(problem.X.T @ problem.y))) * alpha
    return pull if pull > 0 else 1.0


def _times(problem: Problem, unit: float):
    return jnp.append(0.0, unit * jnp.geomspace(1e-2, 1e10, 300)).astype(problem.dtype)


def _safe_size(vector):
    """‖·‖, 1 for a zero vector."""
    size = jnp.linalg.norm(vector)
    return jnp.where(size > 0, size, 1)


def _apart(one, other):
    return jnp.linalg.norm(one - other) / _safe_size(other)


def _weights(flow: Trajectory, alpha):
    return amin(jnp.minimum(jnp.minimum(flow.u, flow.v) / alpha, 1 - flow.u * flow.v / alpha**2))


def _residual(problem: Problem, flow: Trajectory):
    basis = jnp.linalg.svd(problem.X, full_matrices=False)[0]
    rank = int(np.linalg.matrix_rank(np.asarray(problem.X)))
    sizes = jnp.linalg.norm(flow.residual @ basis[:, :rank], axis=1)
    return amin(-jnp.diff(sizes)) / sizes[0]


def _signs(flow: Trajectory):
    return jnp.sign(flow.u - flow.v)


def _away_from_zero(flow: Trajectory):
    """Where a coordinate has moved and is not about to cross 0."""
    top, low = jnp.maximum(flow.u, flow.v), jnp.minimum(flow.u, flow.v)
    return top - low > 1e-6 * top


def _mirrored(flow: Trajectory, depth: int):
    delta = jnp.minimum(flow.u, flow.v) ** depth
    dual = jax.vmap(lambda beta, d: mirror_map(SOURCE.potential(d, depth), beta))(flow.beta, delta)
    error = jnp.abs(dual - flow.dual) / jnp.maximum(flow.u, flow.v)
    return -amax(error, where=_away_from_zero(flow), initial=0)


def _dynamics(problem: Problem, flow: Trajectory, epsilon, depth: int):
    c = flow.residual @ problem.X

    def power_rate(weight, side, c):
        size = weight ** (depth - 1)
        return -side * depth * size * c * size / (jnp.abs(c) * size + epsilon)

    def error(u, v, theta, c):
        rates = power_rate(u, 1, c), power_rate(v, -1, c)
        delta, delta_rate = jnp.minimum(u, v) ** depth, jnp.where(u < v, *rates)
        _, rate = jax.jvp(
            lambda beta, delta: mirror_map(SOURCE.potential(delta, depth), beta),
            (power_difference(u, v, depth), delta),
            (rates[0] - rates[1], delta_rate),
        )
        expected = SOURCE.dual_rate(c, theta, epsilon, depth)
        return jnp.abs(rate - expected) / jnp.where(expected == 0, 1, jnp.abs(expected))

    errors = jax.vmap(error)(flow.u, flow.v, flow.dual, c)
    return -amax(errors, where=_away_from_zero(flow), initial=0)


def _outside(problem: Problem, vector):
    """What the rows of X do not span, by least squares on the whole of X."""
    X = np.asarray(problem.X)
    multiplier = np.linalg.lstsq(X.T, np.asarray(vector), rcond=None)[0]
    return jnp.asarray(np.asarray(vector) - X.T @ multiplier)


def _routes(problem: Problem, flow: Trajectory, limit: Limit):
    by_autodiff = kkt(problem, limit).stationarity
    top = jnp.maximum(flow.u[-1], flow.v[-1])
    from_weights = _outside(problem, _signs(flow)[-1] * top - limit.dual_reference)
    return -jnp.linalg.norm(by_autodiff - from_weights) / _safe_size(limit.dual)


def _limit_and_slope(problem: Problem, epsilon, alpha, rtol: float):
    """‖e‖, its derivative in log ε, and the limit, in one solve."""
    adjoint = diffrax.ForwardMode()  # of one direction only

    def error(log_factor):
        rule = SmoothedSign(epsilon * jnp.exp(log_factor))
        limit = solve_limit(problem, rule, alpha, rtol=rtol, adjoint=adjoint)
        return kkt(problem, limit).error, limit

    return jax.jvp(error, (jnp.zeros(()),), (jnp.ones(()),), has_aux=True)


def _descent_dynamics(problem: Problem, flow: Trajectory, alpha):
    potential, c = SOURCE.entropy(jnp.asarray(alpha)), flow.residual @ problem.X

    def error(u, v, c):
        beta, beta_rate = power_difference(u, v, 2), -2 * c * (u**2 + v**2)
        _, rate = jax.jvp(lambda beta: mirror_map(potential, beta), (beta,), (beta_rate,))
        return jnp.abs(rate + c)

    return -amax(amax(jax.vmap(error)(flow.u, flow.v, c), axis=1) / amax(jnp.abs(c), axis=1))


def _descent_kkt(problem: Problem, flow: Trajectory, alpha):
    dual = mirror_map(SOURCE.entropy(jnp.asarray(alpha)), flow.beta[-1])
    left = jnp.linalg.norm(flow.residual[-1]) / jnp.linalg.norm(problem.y)
    return -jnp.maximum(jnp.linalg.norm(_outside(problem, dual)) / _safe_size(dual), left)
