"""Where the flow on a general X ends: followed until it is gradient flow, then finished exactly.

Followed by a stabilised explicit method, which estimates its error, or in Diffrax where that
method does not serve: models deeper than 2, a smoothing with a corner, T₁, float32, digits beyond
1e-8, another rule than smoothed sign descent, a Diffrax adjoint.
"""

from collections.abc import Callable
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ._batch import batch_ends
from ._batch_step import Flows
from ._checks import Scalar
from ._dense import DenseFlow, implicit_solver, weights_of
from ._dual import factor_of, solve_dual
from ._extremes import amax
from ._linear import pseudo_inverse, solve_factored, thin_svd
from ._results import RESULTS, check, combine
from ._rules import SmoothedSign
from ._solve import FOREVER, Outcome, integrate, tolerance_of_weights
from ._stages import TrackedSolver, warmup_crossing

SAFETY = 1.5  # of the estimates of errors
# Measured over thousands of random cases: errors of β up to `rtol`, and but for small ones seldom
# twice their estimates. Longer steps than those for 5e-5 can miss a kink.
_LOCAL, _LOOSEST, _TIGHTEST, _TIGHTER = 2.0, 5e-5, 1e-8, 1 / 16
_KINKS = 2.5e-5
_GROWTH = 30.0  # of errors, by ε in the unit of gradients: measured too
_HOVERING = 0.2  # of ε: none of 120 random flows hovered, at 0.5 one, with no bound 24
# Of single precision, measured: the least error of a step times ε, and by itself.
_SINGLE, _LEAST, _WORST_CONDITION = 1.2e-11, 2e-8, 30.0
_FINEST = 2e-5  # ε in its unit: rounding of c counts for 1/ε of it where a weight sinks
_SMALLEST = 1e-30  # of α in its unit: the first steps are shorter, and a float has to hold them
_RUNGS = 3
_NEAR = 0.1


class DenseLimit(NamedTuple):
    """Weights at the end and at the reference time."""

    u: Float[Array, " d"]
    v: Float[Array, " d"]
    u_reference: Float[Array, " d"]
    v_reference: Float[Array, " d"]


def is_stabilised(
    dtype: np.dtype, has_corner: bool, depth: int, reference: str, rtol: Scalar
) -> bool:
    """Whether the stabilised method serves. At a corner its estimates are no good."""
    fits = not has_corner and depth == 2 and reference == "start"
    return fits and dtype == np.float64 and bool(rtol >= _TIGHTEST)


class Units(NamedTuple):
    """Rows that span X, labels, X⁺, with ‖X‖ = 1 and max|X⁺y| = 1; units of gradient and weight.

    And the condition of X.
    """

    X: Float[Array, "n d"]
    y: Float[Array, " n"]
    inverse: Float[Array, "d n"]
    gradient: Float[Array, ""]
    weight: Float[Array, ""]
    condition: Float[Array, ""]


@jax.jit
def in_units(X: Float[Array, "n d"], y: Float[Array, " n"]) -> Units:
    """Data of full row rank in units that are frozen, as those of blocks are."""
    left, singular, right = thin_svd(lax.stop_gradient(X))
    inverse = (right.T / singular) @ left.T
    size = amax(jnp.abs(inverse @ lax.stop_gradient(y)))
    size, norm = jnp.where(size > 0, size, 1), singular[0]
    weight = jnp.sqrt(size)
    gradient, condition = norm**2 * size * weight, norm / singular[-1]
    return Units(X / norm, y / (norm * size), norm * inverse, gradient, weight, condition)


def step_error(rtol: Scalar, flows: Flows, rung: Int[Array, ""] | int) -> Float[Array, " B"]:
    """The error that a step may make for this tolerance.

    Less on a later rung, where the estimate of a whole flow was too large. Where it matters that
    gradients change sign, errors fall like h^2.3 only, and no estimate sees them: below `_KINKS`
    they are what decides. Beside a large ε weights grow as under gradient flow, and errors too.
    Beside a tiny one, errors of steps would keep gradients above it for ever.
    """
    rtol, epsilon = _of_weights(jnp.minimum(rtol, _LOOSEST), flows), _largest(flows.epsilon)
    local = _local(rtol, epsilon, jnp)
    local = jnp.minimum(local, _HOVERING * -_largest(-flows.epsilon))
    return jnp.maximum(local * _TIGHTER**rung, 8 * jnp.finfo(epsilon.dtype).eps)


def _local(rtol, epsilon, xp):
    """Of a step, in NumPy or JAX."""
    return _LOCAL * rtol**1.4 * xp.minimum(1, rtol / _KINKS) ** 0.32 / (1 + _GROWTH * epsilon)


def fits_single(rtol: float, units: Units, epsilon: np.ndarray, alpha: np.ndarray) -> bool:
    """Whether steps for this tolerance are as good in single precision, for these ε and α.

    Rounding grows with the number of stages, which 1/ε and the condition ask for. Once it is seen
    in the error of a step, steps become shorter.
    """
    epsilon, alpha = epsilon / units.gradient, alpha / units.weight
    least, most = np.min(epsilon), np.max(epsilon)
    rtol = min(rtol, _LOOSEST) / (1 + np.max(alpha) ** 2)
    stiff = _local(rtol, least, np) * least < _SINGLE or units.condition > _WORST_CONDITION
    held = _local(rtol, most, np) >= _LEAST and least >= _FINEST and np.min(alpha) >= _SMALLEST
    return bool(held and not stiff)


def settling(rtol: Scalar, flows: Flows) -> Float[Array, " B"]:
    """How small gradients over ε are where the flow is finished."""
    return jnp.sqrt(_of_weights(rtol, flows) / 10)


def _of_weights(rtol: Scalar, flows: Flows) -> Float[Array, " B"]:
    """What to ask of u and v: the larger α² is, the more digits their difference loses."""
    return jnp.asarray(rtol) / (1 + _largest(flows.alpha) ** 2)


def _largest(x: Float[Array, "*d B"]) -> Float[Array, " B"]:
    return lax.stop_gradient(amax(x.reshape(-1, x.shape[-1]), axis=0))


def stabilised_limit(
    flow: DenseFlow, rtol: Scalar, *, max_steps: int, adjoint: diffrax.AbstractAdjoint
) -> tuple[DenseLimit, Outcome]:
    """Follow the flow, again with shorter steps where its error seems too large, and finish it.

    Its derivatives are those of forward mode, whatever the adjoint.
    """
    assert isinstance(flow.rule, SmoothedSign)
    X, y, inverse, gradient, weight, _ = in_units(flow.X, flow.y)
    each = (jnp.reshape(x, (-1, 1)) for x in (flow.rule.epsilon, flow.alpha))
    epsilon, alpha = next(each) / gradient, next(each) / weight
    flows = Flows(X, X.T, inverse, y, epsilon, alpha, flow.rule.smoothing)

    def follow(state):
        rung, *_, tried, accepted = state
        local = step_error(rtol, flows, rung)
        ends = batch_ends(flows, local, settling(rtol, flows), max_steps)
        logs, error = ends.logs[..., 0], ends.error[..., 0]
        given = lax.stop_gradient((X, jnp.exp(logs), error))
        wrong = relative_error(*given, end_factor(*given[:2]))
        settled = ends.settled[0]
        again = settled & ~(SAFETY * wrong <= rtol) & (rung + 1 < _RUNGS)
        tried, accepted = tried + ends.num_steps[0], accepted + ends.num_accepted[0]
        return rung + 1, logs, settled, again, tried, accepted

    none, nothing = jnp.zeros((), int), jnp.zeros((2, X.shape[1]), X.dtype)
    start = none, nothing, jnp.array(False), jnp.array(True), none, none
    found = lax.while_loop(lambda state: state[3], follow, start)
    _, logs, settled, _, tried, accepted = found
    u, v, converged = finish(flow, *weights_of(logs + jnp.log(weight), 2))
    result = combine(
        check(settled, RESULTS.max_steps_reached),  # pyright: ignore[reportArgumentType]
        check(converged, RESULTS.dual_not_converged),
    )
    at_start = jnp.broadcast_to(flow.alpha, u.shape)
    report = Outcome(result, tried, accepted, tried - accepted)
    return DenseLimit(u, v, at_start, at_start), report


def end_factor(X: Float[Array, "n d"], weights: Float[Array, "2 d"]) -> Float[Array, "n n"]:
    """`factor_of` the dual at these u and v, of depth 2 and one ε; not to differentiate."""
    return factor_of(X, _slopes(weights))


def relative_error(
    X: Float[Array, "n d"],
    weights: Float[Array, "2 d"],
    error: Float[Array, "2 d"],
    factor: Float[Array, "n n"],
) -> Float[Array, ""]:
    """The errors of all steps, added up, but for what the end of the flow puts right again."""
    u, v = weights
    size = amax(jnp.abs((u - v) * (u + v)))
    return amax(jnp.abs(change_left(X, weights, error, factor))) / jnp.where(size > 0, size, 1)


def change_left(
    X: Float[Array, "n d"],
    weights: Float[Array, "2 d"],
    change: Float[Array, "2 d"],
    factor: Float[Array, "n n"],
) -> Float[Array, " d"]:
    """What the end of the flow leaves of the change of β that comes from one of u and v."""
    (u, v), (du, dv) = weights, change
    moved = 2 * (u * du - v * dv)
    return moved - _slopes(weights) * (X.T @ solve_factored(factor, X @ moved))


def _slopes(weights: Float[Array, "2 d"]) -> Float[Array, " d"]:
    """dβ/dθ."""
    u, v = weights
    return 2 * (u**2 + v**2)


def dense_limit(
    flow: DenseFlow,
    rtol: Scalar,
    *,
    reference: str,
    max_steps: int,
    adjoint: diffrax.AbstractAdjoint,
) -> tuple[DenseLimit, Outcome]:
    """The same in Diffrax: integrate until every gradient is far below ε, then finish exactly.

    Once |g| ≤ ηε for good the flow is gradient flow slowed by ε, up to O(η): its end is the convex
    dual problem X(u(θ)^M − v(−θ)^M) = y, θ = Xᵀν, in which weights grow as under gradient flow,
    u e^θ for M = 2. The error is η times what is left to go, itself O(η) unless ε is far above all
    gradients from the start: η is √rtol, and η times what is left at most rtol.
    """
    tracked = reference == "warmup"
    rtol = tolerance_of_weights(rtol / 3, flow.alpha, flow.size, flow.depth)
    solver = implicit_solver(rtol)
    low = 0.5 * jnp.log(rtol)
    how_far = left_to_go(flow)

    def gentle(t, y, args, **_):
        gate, left = amax(args.latest_gates(t, y)), how_far(args.residual(y))
        near = left <= _NEAR if flow.depth > 2 else True  # far away, the dual of these blows up
        return (gate <= low) & (gate + jnp.log(left) <= 2 * low) & near

    solution = integrate(
        flow,
        TrackedSolver(solver, adjoint) if tracked else solver,
        0.0,
        FOREVER,
        flow.start(),
        rtol,
        max_steps,
        saveat=diffrax.SaveAt(t1=True, solver_state=tracked),
        adjoint=adjoint,
        event=diffrax.Event(gentle),
    )
    u, v, _ = flow.observe(tuple(leaf[0] for leaf in solution.ys))

    u, v, converged = finish(flow, u, v)
    u_ref, v_ref, _ = flow.observe(flow.start())
    if tracked:
        bracket = solution.tracked.warmup
        _, at = warmup_crossing(flow, bracket)
        u_at, v_at, _ = flow.observe(at)
        u_ref, v_ref = (
            jnp.where(bracket.closed, u_at, u_ref),
            jnp.where(bracket.closed, v_at, v_ref),
        )
    report = solution.report
    finished = check(converged, RESULTS.dual_not_converged)
    report = report._replace(result=combine(report.result, finished))
    return DenseLimit(u, v, u_ref, v_ref), report


def left_to_go(flow: DenseFlow) -> Callable[[Float[Array, " n"]], Float[Array, ""]]:
    """How far β has to go, as a share of all its way, by the residual."""
    inverse = pseudo_inverse(lax.stop_gradient(flow.X))
    size = amax(jnp.abs(inverse @ lax.stop_gradient(flow.y)))
    size = jnp.where(size > 0, size, 1)
    return lambda residual: amax(jnp.abs(inverse @ lax.stop_gradient(residual))) / size


def finish(
    flow: DenseFlow,
    u: Float[Array, " d"],
    v: Float[Array, " d"],
    factor: Float[Array, "n n"] | None = None,
) -> tuple[Float[Array, " d"], Float[Array, " d"], Bool[Array, ""]]:
    """The end of the flow from where gradients are far below ε, and whether it was found.

    `factor`: `end_factor` of these weights, where it is known.
    """
    slowness = flow.rule.slowness()
    speed = jnp.mean(slowness) / slowness

    def conjugate(theta):
        size = (
            _grown(u, speed * theta, flow.depth) ** 2 + _grown(v, -speed * theta, flow.depth) ** 2
        )
        return jnp.sum(size / speed) / 2

    start = jnp.zeros_like(u), jnp.zeros_like(flow.y)
    dual = solve_dual(conjugate, flow.X, flow.y, *start, factor)
    theta = speed * dual.theta
    return _grown(u, theta, flow.depth), _grown(v, -theta, flow.depth), dual.converged


def _grown(w: Float[Array, " d"], theta: Float[Array, " d"], depth: int) -> Float[Array, " d"]:
    """A weight after dw/dθ = w^{M−1}; NaN beyond its blow-up, where line searches turn back."""
    if depth == 2:
        return w * jnp.exp(theta)
    p = depth - 2
    left = 1 - p * theta * w**p
    return w * jnp.where(left > 0, left, jnp.nan) ** (-1 / p)
