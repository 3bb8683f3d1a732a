"""The flow in time: weights, β, θ, residuals and gradients at chosen times, and the stages."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from ._adam import AdamFlow, as_adam, weights_of
from ._block import BlockFlow, as_blocks, near_zero
from ._checks import Numbers, Scalar, all_finite, as_times, usable_atol, usable_rtol, usable_steps
from ._dense import as_dense, implicit_solver
from ._extremes import amax, max_norm
from ._inputs import Rule, made_usable, prepare
from ._mirror import mirror_map
from ._powers import counted, power_difference
from ._problem import Blocks, Problem, matmul_precision, pull_back
from ._results import RESULTS, check, combine, mask_failed, worst
from ._solve import (
    FOREVER,
    Outcome,
    SavesAt,
    Solved,
    check_diffrax,
    differentiable,
    integrate,
)
from ._stages import Gated, TrackedSolver, stage_ends

_NUM_TIMES = 201


class Trajectory(eqx.Module):
    """A flow at the times `ts`.

    - `ts`: times, shape (T,). Times after `t_end` hold the limit.
    - `u`, `v`, `beta`, `dual`: weights, β = u^M − v^M and θ = sign(β)(|β| + δ)^{1/M} = s∘w for
        depth M (2 by default), (T, d); for gradient descent θ = ½ arcsinh(β/2α²). θ at t = 0 is
        its value at 0⁺.
    - `residual`: Xβ − y, shape (T, n).
    - `gradient_u`, `gradient_v`: gradients of the loss (7), ±Xᵀr∘w^{M−1}, shape (T, d).
    - `warmup_end`: T₁ of each coordinate's block, shape (d,); 0 if over at the start.
    - `sign_end`: T₂ of each coordinate, the last time |∂F/∂w| falls to ε, (d,); 0 if never above.
        Both are NaN for a rule without ε, and for Adam.
    - `t_end`: when residual and gradients were small.
    - `result`: `RESULTS` member; where it is not `successful`, every number here is NaN.
    - `stats`: numbers of solver steps, per block for a block problem.
    """

    ts: Float[Array, " T"]
    u: Float[Array, "T d"]
    v: Float[Array, "T d"]
    beta: Float[Array, "T d"]
    dual: Float[Array, "T d"]
    residual: Float[Array, "T n"]
    gradient_u: Float[Array, "T d"]
    gradient_v: Float[Array, "T d"]
    warmup_end: Float[Array, " d"]
    sign_end: Float[Array, " d"]
    t_end: Float[Array, ""]
    result: RESULTS
    stats: dict[str, Array]


def solve_trajectory(
    problem: Problem,
    rule: Rule,
    alpha: Numbers,
    *,
    depth: int = 2,
    ts: Numbers | None = None,
    solver: diffrax.AbstractAdaptiveSolver | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 65536,
    adjoint: diffrax.AbstractAdjoint | None = None,
    throw: bool = False,
) -> Trajectory:
    r"""The flow (12), (71)–(72) or that of Adam, from u(0) = v(0) = α, in time.

    It ends by itself when the residual is small. A block problem is solved block by block, each
    with its own steps, and is as accurate between them as at them. T₁ and T₂ are exact to the
    solver's accuracy, whatever `ts`, but for a gradient that is above ε within one step only, which
    is not seen, and for schedules of ε that open a gate again: then take them from `gradient_u`.

    **Arguments:**

    - `problem`: a `Problem` with X (n, d).
    - `rule`: `SmoothedSign(epsilon)`, whose ε may be a schedule, a function of t;
        `GradientDescent()`; or `AdamFlow(epsilon, tau1, tau2)`.
    - `alpha`: initial weights α > 0, a scalar or one number per coordinate (d,).
    - `depth`: M of the model β = u^M − v^M, from 2 to 8; 2 for gradient descent.
    - `ts`: increasing times at which to save, shape (T,); 201 times from 0 to `t_end` by default.
    - `solver`: a Diffrax solver; `Dopri8` for blocks and `Kvaerno3` for other X by default.
    - `rtol`: relative tolerance of a step, 1e-8 in float64 and 1e-5 in float32 by default.
    - `atol`: absolute tolerance of a step, of weights in units of √(Y/Σ|x|) and of logarithms of
        weights; by default `rtol`, for blocks times α in these units where that is below 1.
    - `max_steps`: most solver steps (per block).
    - `adjoint`: as in `solve_limit`.
    - `throw`: raise if the solve fails, rather than return NaN and a `result`.

    **Returns:** a `Trajectory`. A failed member of a vmapped batch is NaN with its own `result`.

    **Raises:** `ValueError` for bad concrete arguments. Traced ones give a `result`.

    !!! example
        >>> flow = solve_trajectory(Problem([[1.3, 0.7]], [1.0]), SmoothedSign(0.1), 0.05)
        >>> flow.beta[-1].round(4)
        Array([0.6021, 0.3104], dtype=float64)
    """
    rule, alpha = prepare(problem, rule, alpha, depth)
    check_diffrax("solver", solver, diffrax.AbstractAdaptiveSolver)
    check_diffrax("adjoint", adjoint, diffrax.AbstractAdjoint)
    # Arrays, since floats would be constants of the program, and others be compiled anew.
    relative = np.asarray(usable_rtol(rtol, problem.dtype), problem.dtype)
    absolute = None if atol is None else np.asarray(usable_atol(atol), problem.dtype)
    settings = _Settings(depth, solver, relative, absolute, usable_steps(max_steps), adjoint)
    if ts is not None:
        ts = as_times(ts).astype(problem.dtype)
    flow = _solve_trajectory(problem, rule, alpha, ts, settings)
    if throw:
        flow = flow.result.error_if(flow, flow.result != RESULTS.successful)
    return flow


class _Settings(NamedTuple):
    depth: int
    solver: diffrax.AbstractAdaptiveSolver | None
    rtol: Scalar
    atol: Scalar | None
    max_steps: int
    adjoint: diffrax.AbstractAdjoint | None


class _Saved(NamedTuple):
    """What a system shows at the times asked for, and when its stages end."""

    at: PyTree[Float[Array, "T ..."]]
    warmup_end: Float[Array, "..."]
    sign_end: Float[Array, "..."]
    t_end: Float[Array, "..."]


@eqx.filter_jit
def _solve_trajectory(problem, rule, alpha, ts, settings: _Settings) -> Trajectory:
    ok, problem, rule, alpha = made_usable(problem, rule, alpha)
    if ts is not None:
        ok &= all_finite(ts) & jnp.all(jnp.diff(ts, prepend=0) >= 0)
        ts = jnp.where(ok, ts, 0)
    depth, run = settings.depth, _run_dense
    if isinstance(rule, AdamFlow):
        run = _run_adam
    elif isinstance(problem.data, Blocks):
        run = _run_blocks
    with matmul_precision():
        if ts is None:
            end = _end_time(*lax.stop_gradient((problem, rule, alpha)), settings)
            ts = end * jnp.linspace(0, 1, _NUM_TIMES, dtype=problem.dtype)
        saved, report = run(problem, rule, alpha, ts, settings)
        u, v, signs, residual = saved.at
        beta, c = power_difference(u, v, depth), jax.vmap(partial(pull_back, problem))(residual)
        if isinstance(rule, AdamFlow) or rule.has_epsilon:
            dual = signs * jnp.maximum(*counted(u, v, depth))
        else:
            potential = rule.potential(alpha**2, alpha, depth)
            dual = jax.vmap(lambda beta: mirror_map(potential, beta))(beta)
    nowhere = 0 if rule.has_epsilon else jnp.nan
    result = combine(
        check(ok, RESULTS.bad_input),
        worst(report.result),
        check(all_finite(u, v), RESULTS.not_finite),
    )
    values = {
        "u": u,
        "v": v,
        "beta": beta,
        "dual": dual,
        "residual": residual,
        "gradient_u": c * u ** (depth - 1),
        "gradient_v": -c * v ** (depth - 1),
        "warmup_end": saved.warmup_end + nowhere,
        "sign_end": saved.sign_end + nowhere,
        "t_end": saved.t_end,
    }
    return Trajectory(ts=ts, result=result, stats=report.stats(), **mask_failed(result, values))


def _settle(system, settings: _Settings, solver, saveat, adjoint) -> Solved:
    """Integrate until residual and gradients are small."""
    rtol, atol = settings.rtol, settings.atol
    if atol is None and isinstance(system, BlockFlow):
        atol = system.atol(rtol)
    tolerance = 0.01 * rtol
    return integrate(
        system,
        solver,
        0.0,
        FOREVER,
        system.start(),
        rtol,
        settings.max_steps,
        atol=atol,
        saveat=saveat,
        adjoint=adjoint,
        event=diffrax.Event(lambda t, y, args, **_: args.settled(t, y, tolerance)),
    )


def _end_time(problem, rule, alpha, settings: _Settings) -> Float[Array, ""]:
    """When the slowest block settles, by a solve that saves nothing else."""
    saveat, adjoint = diffrax.SaveAt(t1=True), settings.adjoint
    if isinstance(rule, AdamFlow):
        systems, solver = as_adam(problem, rule, alpha, settings.depth), _solver(settings)
        ends = jax.vmap(lambda one: _settle(one, settings, solver, saveat, adjoint).ts[0])(systems)
        return amax(ends)
    if not isinstance(problem.data, Blocks):
        flow = as_dense(problem, rule, alpha, settings.depth)
        return _settle(flow, settings, _solver(settings), saveat, adjoint).ts[0]

    def one_block(block, unit):
        flow = BlockFlow(block, unit)
        return _settle(flow, settings, _block_solver(settings), saveat, adjoint).ts[0]

    batch = as_blocks(problem, rule, alpha, settings.depth)
    unit = rule.time_unit(batch.units.weight, batch.units.gradient)
    ends = jax.vmap(one_block)(batch.blocks, unit)
    return amax(jnp.where(batch.still[:, 0], 0, unit) * ends)


def _block_solver(settings: _Settings) -> diffrax.AbstractSolver:
    """An explicit one unless another is asked for: in log q a block is not stiff."""
    return diffrax.Dopri8() if settings.solver is None else _solver(settings)


def _solver(settings: _Settings) -> diffrax.AbstractSolver:
    if isinstance(settings.solver, diffrax.AbstractImplicitSolver):
        # What Diffrax does for a bare solver: the root finder takes the solver's tolerances.
        atol = settings.rtol if settings.atol is None else settings.atol
        return eqx.tree_at(
            lambda s: (s.root_finder.rtol, s.root_finder.atol, s.root_finder.norm),
            settings.solver,
            (settings.rtol, atol, max_norm),
        )
    return implicit_solver(settings.rtol) if settings.solver is None else settings.solver


def _run(
    system, ts, settings: _Settings, solver_of: Callable[[_Settings], diffrax.AbstractSolver]
) -> tuple[_Saved, Outcome]:
    """Integrate a system until it settles; save it at `ts`, and find where its gates close."""

    def solve(given, adjoint):
        system, ts, rtol, atol = given
        told = settings._replace(rtol=rtol, atol=atol)
        return _save(system, ts, told, solver_of(told), adjoint)

    return differentiable(solve, (system, ts, settings.rtol, settings.atol), settings.adjoint)


def _save(system, ts, settings: _Settings, solver, adjoint) -> tuple[_Saved, Outcome]:
    gated = isinstance(system, Gated)
    saveat = diffrax.SaveAt(subs=[diffrax.SubSaveAt(t1=True)] * 2, solver_state=gated)
    if gated:
        solver = TrackedSolver(solver, adjoint, smooth=isinstance(system, BlockFlow))
    solution = _settle(system, settings, solver, saveat, SavesAt(adjoint, ts))
    (_, t_end), (states, end) = solution.ts, solution.ys
    end_time = t_end[0]
    reached = ts <= t_end
    states = jax.tree.map(
        lambda leaf, last: jnp.where(reached.reshape(-1, *[1] * (last.ndim - 1)), leaf, last),
        states,
        end,
    )
    nowhere = jnp.full_like(end_time, jnp.nan)
    ends = stage_ends(system, solution.tracked) if gated else (nowhere, nowhere)
    return _Saved(jax.vmap(system.observe)(states), *ends, end_time), solution.report


def _run_blocks(problem, rule, alpha, ts, settings: _Settings) -> tuple[_Saved, Outcome]:
    """Every block in its own units, with its own steps; put together over the columns of X."""
    batch, data = as_blocks(problem, rule, alpha, settings.depth), problem.data
    unit = rule.time_unit(batch.units.weight, batch.units.gradient)

    def one_block(block, unit):
        return _run(BlockFlow(block, unit), ts / unit, settings, _block_solver)

    saved, report = jax.vmap(one_block)(batch.blocks, unit)
    # A block with label 0 and a column with sign 0 stay at α.
    w, omega, q = (jnp.moveaxis(leaf, 0, 1) for leaf in saved.at)
    w, omega = batch.units.weight[:, None] * w, batch.units.weight[:, None] * omega
    scatter = jax.vmap(data.scatter, in_axes=(0, None))
    start = data.gather(jnp.broadcast_to(alpha, (problem.num_features,)))
    half, left = near_zero(problem, rule, alpha, ts, settings.depth)
    u, v = (
        scatter(jnp.where(batch.signs == 0, start + side * half, jnp.where(up, w, omega)), alpha)
        for side, up in ((1, batch.signs > 0), (-1, batch.signs < 0))
    )
    live = jnp.where(batch.still[:, 0], 0, unit)
    ends = (
        live[:, None] * saved.sign_end,
        jnp.broadcast_to((live * saved.warmup_end)[:, None], data.mask.shape),
    )
    sign_end, warmup_end = (data.scatter(end, 0) for end in ends)
    residual = jnp.where(problem.y == 0, left, -jnp.sign(problem.y) * batch.units.label * q)
    at = (u, v, data.scatter(batch.signs, 0), residual)
    return _Saved(at, warmup_end, sign_end, amax(live * saved.t_end)), report


def _run_dense(problem, rule, alpha, ts, settings: _Settings) -> tuple[_Saved, Outcome]:
    flow = as_dense(problem, rule, alpha, settings.depth)
    saved, report = _run(flow, ts, settings, _solver)
    u, v, _ = saved.at
    # At 0⁺ a weight has the sign of its first step.
    signs = jnp.where(u == v, jnp.sign(flow.X.T @ flow.y), jnp.sign(u - v))
    residual = jax.vmap(problem.predict)(power_difference(u, v, flow.depth)) - problem.y
    warmup_end = jnp.broadcast_to(saved.warmup_end, (problem.num_features,))
    return saved._replace(at=(u, v, signs, residual), warmup_end=warmup_end), report


def _run_adam(problem, rule, alpha, ts, settings: _Settings) -> tuple[_Saved, Outcome]:
    """The blocks of a problem, or all of it, each with its own steps; there are no stages."""
    systems = as_adam(problem, rule, alpha, settings.depth)
    saved, report = jax.vmap(lambda one: _run(one, ts, settings, _solver))(systems)
    u, v = weights_of(problem, alpha, *saved.at[:2])
    apart = jnp.subtract(*counted(u, v, settings.depth))
    signs = jnp.where(apart == 0, jnp.sign(pull_back(problem, problem.y)), jnp.sign(apart))
    residual = jax.vmap(problem.predict)(power_difference(u, v, settings.depth)) - problem.y
    nowhere = jnp.full(problem.num_features, jnp.nan, problem.dtype)
    return _Saved((u, v, signs, residual), nowhere, nowhere, amax(saved.t_end)), report
