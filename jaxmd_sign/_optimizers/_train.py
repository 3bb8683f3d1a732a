"""Training in discrete time: one compiled loop for any optax optimiser, batched by vmap."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .._checks import (
    Numbers,
    all_positive,
    as_positive,
    matches_coordinates,
    usable_steps,
)
from .._inputs import check_depth
from .._limit import Limit, limit_of_weights
from .._powers import power_difference
from .._problem import Problem, check_problem, matmul_precision
from .._results import RESULTS, check, combine, mask_failed
from .._solve import Outcome
from ._model import Model, Weights, model_of

_NUM_RECORDS = 100
_TOO_LARGE = 1e6  # times the loss at the start


class History(eqx.Module):
    """A run at its records, from the start on; after a member stops, its rows repeat.

    - `steps`: steps taken, shape (R,).
    - `u`, `v`, `beta`: weights and β = u^M − v^M, (R, d).
    - `loss`: (7), (R,).
    """

    steps: Int[Array, " R"]
    u: Float[Array, "R d"]
    v: Float[Array, "R d"]
    beta: Float[Array, "R d"]
    loss: Float[Array, " R"]


class Training(eqx.Module):
    """A run of an optimiser, where it ended.

    - `u`, `v`, `beta`: weights and β = u^M − v^M, shape (d,).
    - `loss`: (7), ‖Xβ − y‖²/2M.
    - `limit`: the end as a `Limit`, θ = s∘w, δ = ω^M and the start as its reference, for `kkt`,
        `bregman` and `bregman_minimizer`.
    - `history`: a `History`; NaN from where a run diverged.
    - `result`: `RESULTS` member. Where it is `not_converged`, the numbers are those after the last
        step; where it is another failure, every one is NaN.
    - `num_steps`: steps taken before the run stopped.
    - `diverged_at`: after how many steps the loss left, −1 if never.
    """

    u: Float[Array, " d"]
    v: Float[Array, " d"]
    beta: Float[Array, " d"]
    loss: Float[Array, ""]
    limit: Limit
    history: History
    result: RESULTS
    num_steps: Int[Array, ""]
    diverged_at: Int[Array, ""]


def train(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    alpha: Numbers,
    num_steps: int,
    *,
    record_every: int | None = None,
    depth: int = 2,
    tol: float | None = None,
) -> Training:
    r"""Steps of an optax optimiser on the loss (7) from u(0) = v(0) = α.

    The parameters that the optimiser sees are `{"u": (d,), "v": (d,)}`. A run has converged when
    ‖Xβ − y‖ ≤ tol ‖y‖ after two steps in a row, so that it does not just pass. It has diverged when
    its loss is not finite or a million times that of the start.

    **Arguments:**

    - `problem`: a `Problem` with X (n, d).
    - `optimizer`: any `optax.GradientTransformation`. Batch over its hyper-parameters by
        `jax.vmap` over a function that makes the optimiser and trains; a member that stops waits
        for the others.
    - `alpha`: initial weights α > 0, a scalar or one number per coordinate (d,).
    - `num_steps`: most steps.
    - `record_every`: steps from one record in `history` to the next, and from one look at `tol` to
        the next; a hundredth of `num_steps` by default.
    - `depth`: M of the model β = u^M − v^M, from 2 to 8.
    - `tol`: stop at the first record at which the run has converged. By default all steps are
        taken, and the end is judged by 1e-6 (1e-4 in float32).

    **Returns:** a `Training`. A failed member of a vmapped batch has its own `result`.

    **Raises:** `ValueError` for bad concrete arguments.

    !!! example
        >>> problem = Problem([[1.3, 0.7]], [1.0])
        >>> run = train(problem, smoothed_sign(1e-3, epsilon=0.1), 0.05, 5000)
        >>> run.beta.round(3)
        Array([0.602, 0.31 ], dtype=float64)
    """
    check_problem(problem)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(
            "optimizer must be an optax.GradientTransformation such as smoothed_sign(1e-3, 0.1), "
            f"but is {optimizer!r}."
        )
    check_depth(depth)
    alpha = as_positive("alpha", alpha, problem.dtype)
    matches_coordinates("alpha", alpha, problem.num_features)
    num_steps = usable_steps(num_steps, "num_steps")
    every = -(-num_steps // _NUM_RECORDS)
    if record_every is not None:
        every = min(usable_steps(record_every, "record_every"), num_steps)
    stops = tol is not None
    if tol is None:
        tol = 1e-6 if jnp.finfo(problem.dtype).bits == 64 else 1e-4
    if not (isinstance(tol, (int, float)) and 0 < tol < 1):
        raise ValueError(f"tol must be a number between 0 and 1, but is {tol!r}.")
    model = model_of(problem, depth)
    return _train(problem, model, optimizer, alpha, num_steps, every, float(tol), stops)


class _State(NamedTuple):
    """A run between two steps; `loss_before` is that before the last step."""

    weights: Weights
    optimizer: optax.OptState
    residual: Float[Array, " n"]
    loss: Float[Array, ""]
    loss_before: Float[Array, ""]
    num_steps: Int[Array, ""]
    diverged_at: Int[Array, ""]
    stopped: Bool[Array, ""]


@eqx.filter_jit
def _train(problem, model, optimizer, alpha, num_steps, every, tol, stops) -> Training:
    ok = all_positive(alpha)
    with matmul_precision():
        start = jnp.broadcast_to(alpha, (problem.num_features,))
        state = _start(model, optimizer, start)
        small = tol**2 * model.loss(problem.y)

        def converged(state: _State) -> Bool[Array, ""]:
            return jnp.maximum(state.loss, state.loss_before) <= small

        step = _step(model, optimizer, _TOO_LARGE * model.loss(problem.y))

        def advance(state: _State, length: int) -> tuple[_State, tuple]:
            state = lax.cond(
                state.stopped,
                lambda state: state,
                lambda state: lax.scan(step, state, length=length)[0],
                state,
            )
            stopped = (state.diverged_at >= 0) | (converged(state) if stops else False)
            state = state._replace(stopped=stopped)
            return state, (state.weights["u"], state.weights["v"], state.loss)

        first = (state.weights["u"], state.weights["v"], state.loss)
        rounds, rest = divmod(num_steps, every)
        state, rows = lax.scan(lambda s, _: advance(s, every), state, length=rounds)
        rows = jax.tree.map(lambda row, rows: jnp.concatenate([row[None], rows]), first, rows)
        if rest:
            state, last = advance(state, rest)
            rows = jax.tree.map(lambda rows, row: jnp.concatenate([rows, row[None]]), rows, last)
        steps = jnp.asarray([every * i for i in range(rounds + 1)] + [num_steps] * (rest > 0))
        return _assemble(problem, model, start, state, (steps, *rows), converged(state), ok)


def _start(model: Model, optimizer, weights: Float[Array, " d"]) -> _State:
    params = {"u": weights, "v": weights}
    residual, none = model.residual(params), jnp.zeros((), jnp.int32)
    return _State(
        params,
        optimizer.init(params),
        residual,
        model.loss(residual),
        jnp.full_like(model.loss(residual), jnp.inf),
        none,
        none - 1,
        jnp.array(False),
    )


def _step(model: Model, optimizer, too_large: Float[Array, ""]) -> Callable:
    """One step of the optimiser; it carries the residual, which two kernels then share."""
    update = optax.with_extra_args_support(optimizer).update

    def value(weights: Weights) -> Float[Array, ""]:
        return model.loss(model.residual(weights))

    def step(state: _State, _: None) -> tuple[_State, None]:
        gradient = model.gradient(state.weights, state.residual)
        extra = {"value": state.loss, "grad": gradient, "value_fn": value}
        updates, inner = update(gradient, state.optimizer, state.weights, **extra)
        weights: Any = optax.apply_updates(state.weights, updates)
        residual = model.residual(weights)
        loss, num_steps = model.loss(residual), state.num_steps + 1
        left = (state.diverged_at < 0) & ~(loss <= too_large)
        diverged_at = jnp.where(left, num_steps, state.diverged_at)
        return _State(
            weights, inner, residual, loss, state.loss, num_steps, diverged_at, state.stopped
        ), None

    return step


def _assemble(problem, model, start, state: _State, rows, converged, ok) -> Training:
    result = combine(
        check(ok, RESULTS.bad_input),
        check(state.diverged_at < 0, RESULTS.diverged),
        check(converged, RESULTS.not_converged),
    )
    failed = RESULTS.where(result == RESULTS.not_converged, RESULTS.successful, result)
    u, v = state.weights["u"], state.weights["v"]
    report = Outcome.without_steps(result)
    limit = limit_of_weights(problem, start, (u, v), (start, start), model.depth, report)

    def numbers(at: Limit) -> tuple:
        return at.beta, at.dual, at.residual, at.potential

    limit = eqx.tree_at(numbers, limit, mask_failed(failed, numbers(limit)))
    limit = eqx.tree_at(lambda at: at.stats, limit, {"num_steps": state.num_steps})
    u, v, loss = mask_failed(failed, (u, v, state.loss))
    return Training(
        u=u,
        v=v,
        beta=limit.beta,
        loss=loss,
        limit=limit,
        history=_history(model, state, rows, ok),
        result=result,
        num_steps=state.num_steps,
        diverged_at=state.diverged_at,
    )


def _history(model: Model, state: _State, rows, ok) -> History:
    """The records, NaN from where the run diverged."""
    steps, u, v, loss = rows
    beta = power_difference(u, v, model.depth)
    gone = ((state.diverged_at >= 0) & (steps >= state.diverged_at)) | ~ok
    u, v, beta, loss = (
        jnp.where(gone.reshape(-1, *[1] * (row.ndim - 1)), jnp.nan, row)
        for row in (u, v, beta, loss)
    )
    return History(steps=steps, u=u, v=v, beta=beta, loss=loss)
