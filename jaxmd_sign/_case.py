"""One block, solved for the certificate: its flow in time, its limit, and what bounds need of it.

Everything is in the block's units (Σa = Y = 1) and in the weights (w, ω), where the sign s of a
column no longer shows. The flow in time and the limit by the residual clock are two integrations
that share nothing but the velocity: where a claim can, it holds one against the other.
"""

from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._block import Block, BlockFlow, block_units
from ._clock import Clock, block_limit
from ._results import RESULTS, combine
from ._rules import AbstractRule, GradientDescent, SmoothedSign
from ._solve import FOREVER, integrate
from ._stages import Bracket, TrackedSolver, TrackedState

_CROSSING_STEPS = 3  # within one step of the solver


class Point(NamedTuple):
    """Time, weights and residual of a flow: at one moment, or at several along the first axis."""

    t: Float[Array, "..."]
    w: Float[Array, "... k"]
    omega: Float[Array, "... k"]
    q: Float[Array, "..."]


class Path(NamedTuple):
    """The flow of one block in time, at the steps of its solver.

    - `points`: N of them; those beyond the last step, where `saved` is false, hold the end.
    - `warmup`, `sign`: at T₁, and at T₂ of each column; t = 0 where there is no such time.
    - `end`: where residual and gradients are small.
    """

    points: Point
    saved: Bool[Array, " N"]
    warmup: Point
    sign: Point
    end: Point
    result: RESULTS


class Weights(NamedTuple):
    """Weights at t = ∞, by the residual clock."""

    w: Float[Array, " k"]
    omega: Float[Array, " k"]


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


class Effort(NamedTuple):
    """How to solve a case. `rtol` is a tenth of what is promised, since claims compare solves."""

    rtol: float = 1e-9
    max_steps: int = 256
    depths: tuple[int, ...] = (3,)


def solve_case(
    x: Float[Array, " k"],
    y: Float[Array, ""],
    epsilon: Float[Array, ""],
    alpha: Float[Array, ""],
    effort: Effort,
) -> Case:
    """All solves for one block; x may be padded with zeros."""

    def make(rule: AbstractRule, depth: int) -> Block:
        return as_block(x, y, alpha, rule, depth)

    rule = SmoothedSign(epsilon)
    block = make(rule, 2)
    path = follow(block, effort)
    limit, slope, result = _limit_and_slope(block, effort)
    error, error_slope = kkt_error(block, limit, slope)
    return Case(
        sign=_solved(block, path, limit, result),
        deep=tuple(_solve_deep(make(rule, depth), effort) for depth in effort.depths),
        descent=_solve_descent(make(GradientDescent(), 2), effort),
        lag=_lag(block, path, effort),
        error=error,
        slope=error_slope,
        moving=y != 0,
    )


def error_and_slope(
    x: Float[Array, " k"],
    y: Float[Array, ""],
    epsilon: Float[Array, ""],
    alpha: Float[Array, ""],
    effort: Effort,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """‖e‖ and d‖e‖/d log ε of one block, in its units."""
    block = as_block(x, y, alpha, SmoothedSign(epsilon), 2)
    return kkt_error(block, *_limit_and_slope(block, effort)[:2])


def as_block(x, y, alpha, rule: AbstractRule, depth: int) -> Block:
    """One block, in its units."""
    units = jax.tree.map(lambda leaf: leaf[0], block_units(x[None], y[None], depth))
    rule = rule.map_epsilon(lambda epsilon: epsilon / units.gradient)
    target = jnp.where(y == 0, 1, jnp.abs(y)) / units.label
    return Block(jnp.abs(x) / units.data, target, alpha / units.weight, rule, depth)


def _epsilon(block: Block) -> Float[Array, ""]:
    rule = block.rule
    return rule.epsilon if isinstance(rule, SmoothedSign) else jnp.full_like(block.target, jnp.inf)


def _solved(block: Block, path: Path, limit: Weights, result: RESULTS) -> Solved:
    return Solved(
        a=block.a,
        Y=block.target,
        alpha=block.alpha,
        epsilon=_epsilon(block),
        path=path,
        limit=limit,
        result=combine(path.result, result),
        depth=block.depth,
    )


def _solve_deep(block: Block, effort: Effort) -> Solved:
    """A deeper model, which amplifies the errors of small weights."""
    effort = effort._replace(rtol=effort.rtol / 10)
    return _solved(block, follow(block, effort), *_limit(block, effort))


def _solve_descent(block: Block, effort: Effort) -> Solved:
    """Gradient descent, whose limit is where its flow ends."""
    path = follow(block, effort._replace(rtol=effort.rtol / 10))
    return _solved(block, path, Weights(path.end.w, path.end.omega), path.result)


def follow(block: Block, effort: Effort) -> Path:
    """The flow in time until it settles, at the steps of its solver and at its crossings."""
    flow = BlockFlow(block, jnp.ones_like(block.target))
    adjoint = diffrax.ForwardMode()
    steps, end = diffrax.SubSaveAt(t0=True, steps=True), diffrax.SubSaveAt(t1=True)
    solution = integrate(
        flow,
        TrackedSolver(diffrax.Dopri8(), adjoint),
        0.0,
        FOREVER,
        flow.start(),
        effort.rtol,
        effort.max_steps,
        saveat=diffrax.SaveAt(subs=[steps, end], solver_state=True),
        adjoint=adjoint,
        event=diffrax.Event(lambda t, y, args, **_: args.settled(t, y, 0.01 * effort.rtol)),
    )
    (ts, (t_end,)), (states, last) = solution.ts, solution.ys
    saved = jnp.isfinite(ts)
    last = jax.tree.map(lambda leaf: leaf[0], last)
    states = jax.tree.map(
        lambda leaf, one: jnp.where(saved.reshape(-1, *[1] * one.ndim), leaf, one), states, last
    )
    look = lambda t, state: _point(block, t, state)  # noqa: E731
    warmup, sign = solution.tracked.warmup, solution.tracked.sign
    if isinstance(block.rule, SmoothedSign) and block.depth == 2:
        warmup, sign = _crossings(flow, solution.tracked)
    return Path(
        points=jax.vmap(look)(jnp.where(saved, ts, t_end), states),
        saved=saved,
        warmup=look(warmup.t, warmup.y),
        sign=jax.vmap(look)(sign.t, sign.y),
        end=look(t_end, last),
        result=solution.report.result,
    )


def _crossings(flow: BlockFlow, tracked: TrackedState) -> tuple[Bracket, Bracket]:
    """T₁, and T₂ of each column, with their states, by Hénon's trick (M = 2, `abs`).

    As `_stages` does for every rule, at a third of the cost: with κ = aq/ε, |∂F/∂ω| = ε where
    R + log κ = κω + log κω is 1, and its rate, as that of log κw, is in the field already.
    """
    block = flow.block
    k = block.a.shape[0]

    def heights(state):
        w, R, log_q = state
        log_kappa = jnp.log(jnp.where(block.a > 0, block.a, 1) / _epsilon(block)) + log_q
        return R + log_kappa - 1, jnp.log(w) + log_kappa

    def rates(rate, state):
        w_rate, R_rate, log_q_rate = rate
        return R_rate + log_q_rate, w_rate / state[0] + log_q_rate

    def cross(stage, i, bracket):
        height = heights(bracket.y)[stage][i]
        towards = height < 0 if stage else height > 0
        active = bracket.closed & towards & (block.a[i] > 0)
        height = jnp.where(active, height, 0)

        def field(_, moment, __):
            t, state = moment
            rate = flow.field(t, state)
            speed = jnp.where(active, -height / rates(rate, state)[stage][i], 0)
            return speed, jax.tree.map(lambda leaf: speed * leaf, rate)

        zero = jnp.zeros_like(height)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Dopri8(),
            zero,
            zero + 1,
            zero + 1 / _CROSSING_STEPS,
            (bracket.t, bracket.y),
            stepsize_controller=diffrax.ConstantStepSize(),
            adjoint=diffrax.ForwardMode(),
            max_steps=_CROSSING_STEPS + 1,
            throw=False,
        )
        t, state = jax.tree.map(lambda leaf: leaf[0], solution.ys)
        return bracket._replace(t=t, y=state)

    index = jnp.arange(k)
    warmups = jax.vmap(lambda i: cross(0, i, tracked.warmup))(index)
    latest = jnp.argmax(warmups.t)
    signs = jax.vmap(lambda i, bracket: cross(1, i, bracket))(index, tracked.sign)
    return jax.tree.map(lambda leaf: leaf[latest], warmups), signs


def _point(block: Block, t, state) -> Point:
    w, z, log_q = state
    q = jnp.exp(log_q)
    return Point(t, w, block.decode(q, z), q)


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


def _lag(block: Block, path: Path, effort: Effort) -> Float[Array, " 2"]:
    """∫_τ^∞ (1 − w₂/w₁) dw₁, w₁ that of the largest a and w₂ that of the next, from two τ."""
    clock, (first, second) = Clock(block), jnp.argsort(-block.a)[:2]

    def field(s, state, _):
        w, z, _ = state
        dw, dz = clock.field(s, (w, z))
        return dw, dz, (1 - w[second] / w[first]) * dw[first]

    def from_point(point: Point):
        sigma = jnp.sqrt(jnp.maximum(clock.m**2 - point.q / clock.A, 0))
        back = point.q / clock.A / (clock.m + sigma)
        s = jnp.clip(1 - jnp.log1p(back / clock.layer) / clock.length, 0, 1)
        z = block.rule.encode(block.a, point.q, point.omega, 2)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Dopri8(),
            s,
            jnp.ones_like(s),
            None,
            (point.w, z, jnp.zeros_like(s)),
            stepsize_controller=diffrax.PIDController(rtol=effort.rtol, atol=effort.rtol),
            adjoint=diffrax.ForwardMode(),
            max_steps=effort.max_steps,
            throw=False,
        )
        _, _, lag = jax.tree.map(lambda leaf: leaf[0], solution.ys)
        return lag

    taus = [transition(path, second, after) for after in (False, True)]
    return jax.vmap(from_point)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *taus))


def transition(path: Path, second: Array, after_warmup: bool) -> Point:
    """The state at τ = T₂ of column `second`, or at the later of that and T₁."""
    tau = jax.tree.map(lambda leaf: leaf[second], path.sign)
    if not after_warmup:
        return tau
    later = path.warmup.t > tau.t
    return jax.tree.map(lambda a, b: jnp.where(later, a, b), path.warmup, tau)
