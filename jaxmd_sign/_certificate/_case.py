"""One block, solved for the certificate: its flow in time, its limit, and what bounds need of it.

The flow in time and the limit by the residual clock are two integrations that share nothing but
the velocity: where a claim can, it holds one against the other.
"""

from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._block import Block
from .._clock import Clock, block_limit
from .._results import RESULTS, combine, worst
from .._rules import AbstractRule, GradientDescent, SmoothedSign
from .._solve import integrate
from ._path import Effort, Path, Point, as_block, epsilon_of, follow, transition


class Weights(NamedTuple):
    """Weights at t = ∞, by the residual clock."""

    w: Float[Array, " k"]
    omega: Float[Array, " k"]


class Sloped(NamedTuple):
    """A limit with its KKT error ‖e‖ and d‖e‖/d log ε, T_ref = 0⁺."""

    limit: Weights
    error: Float[Array, ""]
    slope: Float[Array, ""]
    result: RESULTS


class Solved(eqx.Module):
    """One block under one rule: its path and its limit."""

    a: Float[Array, " k"]
    Y: Float[Array, ""]
    alpha: Float[Array, ""]
    epsilon: Float[Array, ""]
    path: Path
    limit: Weights
    result: RESULTS
    depth: int = eqx.field(static=True)

    @property
    def start(self) -> Float[Array, " k"]:
        """The weights at t = 0."""
        return jnp.broadcast_to(self.alpha, self.a.shape)


class Case(eqx.Module):
    """One block under every rule that a claim speaks of.

    - `sign`: smoothed sign descent, M = 2; `deep`: depths M > 2; `descent`: gradient descent.
    - `lag`: ∫_τ^∞ (1 − w₂/w₁) dw₁ from τ = max(T₂,₂, T_ref), for T_ref = 0⁺ and T₁.
    - `error`, `slope`: ‖e‖ and d‖e‖/d log ε, T_ref = 0⁺.
    - `moving`: whether the label is not 0.
    """

    sign: Solved
    deep: tuple[Solved, ...]
    descent: Solved
    lag: Float[Array, " 2"]
    error: Float[Array, ""]
    slope: Float[Array, ""]
    moving: Bool[Array, ""]


def solve_slope(
    x: Float[Array, " k"],
    y: Float[Array, ""],
    epsilon: Float[Array, ""],
    alpha: Float[Array, ""],
    effort: Effort,
) -> Sloped:
    """The limit of one block and how its KKT error changes with ε; x may be padded with zeros."""
    block = as_block(x, y, alpha, SmoothedSign(epsilon), 2)
    limit, slope, result = _limit_and_slope(block, effort)
    return Sloped(limit, *kkt_error(block, limit, slope), result)


def solve_case(
    x: Float[Array, " k"],
    y: Float[Array, ""],
    epsilon: Float[Array, ""],
    alpha: Float[Array, ""],
    sloped: Sloped,
    effort: Effort,
) -> Case:
    """All other solves for one block."""

    def make(rule: AbstractRule, depth: int) -> Block:
        return as_block(x, y, alpha, rule, depth)

    rule = SmoothedSign(epsilon)
    block = make(rule, 2)
    path = follow(block, effort)
    lag, lag_result = _lag(block, path, effort)
    return Case(
        sign=_solved(block, path, sloped.limit, combine(sloped.result, lag_result)),
        deep=tuple(_solve_deep(make(rule, depth), effort) for depth in effort.depths),
        descent=_solve_descent(make(GradientDescent(), 2), effort),
        lag=lag,
        error=sloped.error,
        slope=sloped.slope,
        moving=y != 0,
    )


def _solved(block: Block, path: Path, limit: Weights, result: RESULTS) -> Solved:
    return Solved(
        a=block.a,
        Y=block.target,
        alpha=block.alpha,
        epsilon=epsilon_of(block),
        path=path,
        limit=limit,
        result=combine(path.result, result),
        depth=block.depth,
    )


def _solve_deep(block: Block, effort: Effort) -> Solved:
    return _solved(block, follow(block, effort), *_limit(block, effort))


def _solve_descent(block: Block, effort: Effort) -> Solved:
    """Gradient descent, whose limit is where its flow ends."""
    path = follow(block, effort._replace(rtol=effort.rtol / 10))
    return _solved(block, path, Weights(path.end.w, path.end.omega), path.result)


def _limit(block: Block, effort: Effort) -> tuple[Weights, RESULTS]:
    adjoint = diffrax.ForwardMode()
    end, report = block_limit(block, "start", effort.rtol, effort.max_steps, adjoint)
    return Weights(end.w, end.omega), report.result


def _limit_and_slope(block: Block, effort: Effort) -> tuple[Weights, Weights, RESULTS]:
    """The limit and its derivative in log ε, in one solve."""

    def limit(log_factor):
        scaled = block.rule.map_epsilon(lambda epsilon: epsilon * jnp.exp(log_factor))
        return _limit(eqx.tree_at(lambda block: block.rule, block, scaled), effort)

    zero = jnp.zeros_like(block.target)
    return jax.jvp(limit, (zero,), (jnp.ones_like(zero),), has_aux=True)


def kkt_error(
    block: Block, limit: Weights, slope: Weights
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """‖e‖ and its derivative in log ε, T_ref = 0⁺."""
    a, live = block.a, block.a > 0
    change, moved = jnp.where(live, limit.w - block.alpha, 0), jnp.where(live, slope.w, 0)
    e, de = (v - a * jnp.sum(a * v) / jnp.sum(a**2) for v in (change, moved))
    error = jnp.linalg.norm(e)
    return error, jnp.sum(e * de) / jnp.where(error > 0, error, 1)


class _LagClock(eqx.Module):
    """The residual clock from s₀ on, over r in [0, 1], with ∫ (1 − w₂/w₁) dw₁ beside (w, z)."""

    clock: Clock
    s0: Float[Array, ""]
    columns: Int[Array, " 2"]

    def field(self, r, state):
        w, z, _ = state
        rest, (first, second) = 1 - self.s0, self.columns
        dw, dz = (rest * rate for rate in self.clock.field(self.s0 + rest * r, (w, z)))
        return dw, dz, (1 - w[second] / w[first]) * dw[first]


def _lag(block: Block, path: Path, effort: Effort) -> tuple[Float[Array, " 2"], RESULTS]:
    """∫_τ^∞ (1 − w₂/w₁) dw₁, w₁ that of the largest a and w₂ that of the next, from two τ."""
    clock, columns = Clock(block), jnp.argsort(-block.a)[:2]

    def from_point(point: Point):
        sigma = jnp.sqrt(jnp.maximum(clock.m**2 - point.q / clock.A, 0))
        back = point.q / clock.A / (clock.m + sigma)
        s0 = jnp.clip(1 - jnp.log1p(back / clock.layer) / clock.length, 0, 1)
        z = block.rule.encode(block.a, point.q, point.omega, 2)
        start = point.w, z, jnp.zeros_like(s0)
        system, solver = _LagClock(clock, s0, columns), diffrax.Dopri8()
        solution = integrate(system, solver, 0.0, 1.0, start, effort.rtol, effort.max_steps)
        _, _, lag = jax.tree.map(lambda leaf: leaf[0], solution.ys)
        return lag, solution.report.result

    taus = [transition(path, columns[1], after) for after in (False, True)]
    points = jax.tree.map(lambda *leaves: jnp.stack(leaves), *taus)
    lags, results = jax.vmap(from_point)(points)
    return lags, worst(results)
