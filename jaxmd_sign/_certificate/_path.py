"""The flow of one block in time: its steps, the ends of its stages and where it settles.

Everything is in the block's units (Σa = Y = 1) and in the weights (w, ω), where the sign s of a
column no longer shows.
"""

from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._block import Block, BlockFlow, block_units
from .._results import RESULTS
from .._rules import AbstractRule, SmoothedSign
from .._solve import FOREVER, integrate
from .._stages import Bracket, TrackedSolver, TrackedState, runge_kutta

_CROSSING_STEPS = 3  # within one step of the solver


class Effort(NamedTuple):
    """How to solve a case. `rtol` is a tenth of what is promised, since claims compare solves."""

    rtol: float = 1e-9
    max_steps: int = 512
    depths: tuple[int, ...] = (3,)


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


def as_block(x, y, alpha, rule: AbstractRule, depth: int) -> Block:
    """One block, in its units."""
    units = jax.tree.map(lambda leaf: leaf[0], block_units(x[None], y[None], depth))
    rule = rule.map_epsilon(lambda epsilon: epsilon / units.gradient)
    target = jnp.where(y == 0, 1, jnp.abs(y)) / units.label
    return Block(jnp.abs(x) / units.data, target, alpha / units.weight, rule, depth)


def epsilon_of(block: Block) -> Float[Array, ""]:
    """ε in the block's units, ∞ for gradient descent."""
    rule = block.rule
    return rule.epsilon if isinstance(rule, SmoothedSign) else jnp.full_like(block.target, jnp.inf)


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
        atol=flow.atol(effort.rtol),
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
    look = lambda t, state: as_point(block, t, state)  # noqa: E731
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
        log_kappa = jnp.log(jnp.where(block.a > 0, block.a, 1) / epsilon_of(block)) + log_q
        return R + log_kappa - 1, jnp.log(w) + log_kappa

    def rates(rate, state):
        w_rate, R_rate, log_q_rate = rate
        return R_rate + log_q_rate, w_rate / state[0] + log_q_rate

    def cross(stage, i, bracket):
        height = heights(bracket.y)[stage][i]
        towards = height < 0 if stage else height > 0
        active = bracket.closed & towards & (block.a[i] > 0)
        height = jnp.where(active, height, 0)

        def field(moment):
            t, state = moment
            rate = flow.field(t, state)
            speed = jnp.where(active, -height / rates(rate, state)[stage][i], 0)
            return speed, jax.tree.map(lambda leaf: speed * leaf, rate)

        t, state = runge_kutta(field, (bracket.t, bracket.y), _CROSSING_STEPS)
        return bracket._replace(t=t, y=state)

    index = jnp.arange(k)
    warmups = jax.vmap(lambda i: cross(0, i, tracked.warmup))(index)
    latest = jnp.argmax(warmups.t)
    signs = jax.vmap(lambda i, bracket: cross(1, i, bracket))(index, tracked.sign)
    return jax.tree.map(lambda leaf: leaf[latest], warmups), signs


def as_point(block: Block, t, state) -> Point:
    """What a state of the flow says."""
    w, z, log_q = state
    q = jnp.exp(log_q)
    return Point(t, w, block.decode(q, z), q)


def transition(path: Path, second: Array, after_warmup: bool) -> Point:
    """The state at τ = T₂ of column `second`, or at the later of that and T₁."""
    tau = jax.tree.map(lambda leaf: leaf[second], path.sign)
    if not after_warmup:
        return tau
    later = path.warmup.t > tau.t
    return jax.tree.map(lambda a, b: jnp.where(later, a, b), path.warmup, tau)
