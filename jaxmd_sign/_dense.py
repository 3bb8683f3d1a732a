"""The flow for any X, in the logarithms of the weights.

A weight can decay to 1e-323 and grow back when its gradient changes sign; a solver in (u, v)
forgets how small it was and ends up to 1e-2 off. In (log u, log v) nothing is lost.
"""

from typing import ClassVar, NamedTuple

import diffrax
import equinox as eqx
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float

from ._checks import Scalar
from ._dual import solve_dual
from ._problem import Problem, full_rank
from ._results import RESULTS, check, combine
from ._rules import AbstractRule
from ._solve import FOREVER, Outcome, integrate, tolerance_of_weights
from ._stages import TrackedSolver, warmup_crossing

LogWeights = tuple[Float[Array, " d"], Float[Array, " d"]]


class DenseFlow(eqx.Module):
    """Data of full row rank, start and rule; the state is (log u, log v)."""

    X: Float[Array, "n d"]
    y: Float[Array, " n"]
    alpha: Float[Array, "..."]
    rule: AbstractRule
    depth: int = eqx.field(static=True)
    unimodal: ClassVar[bool] = False

    @property
    def has_corner(self) -> bool:
        return self.rule.has_corner

    @property
    def size(self) -> Float[Array, ""]:
        """About that of β."""
        return jnp.linalg.norm(self.y) / jnp.linalg.norm(self.X)

    def start(self) -> LogWeights:
        log_alpha = jnp.broadcast_to(jnp.log(self.alpha), self.X.shape[1:])
        return log_alpha, log_alpha

    def residual(self, state: LogWeights) -> Float[Array, " n"]:
        log_u, log_v = state
        M = self.depth
        return self.X @ (jnp.exp(M * log_u) - jnp.exp(M * log_v)) - self.y

    def field(self, t: Float[Array, ""], state: LogWeights) -> LogWeights:
        c = self.X.T @ self.residual(state)
        rule, (log_u, log_v) = self.rule.at(t), state
        rates = (rule.log_rate(c, jnp.exp(log_w), self.depth) for log_w in (log_u, log_v))
        return -next(rates), next(rates)

    def gates(self, t: Float[Array, ""], state: LogWeights) -> Float[Array, "2 d"]:
        c = jnp.abs(self.X.T @ self.residual(state))
        weights = jnp.stack([jnp.minimum(*state), jnp.maximum(*state)])
        rule, one = self.rule.at(t), jnp.ones_like(t)
        return rule.log_gate(c, one, jnp.exp(weights), self.depth)

    def settled(self, t: Float[Array, ""], state: LogWeights, tolerance: Scalar) -> Bool[Array, ""]:
        """Whether the residual and every gradient over ε are small."""
        norm, gates_w = jnp.linalg.norm, self.gates(t, state)[1]
        small = norm(self.residual(state)) <= tolerance * norm(self.y)
        return small & jnp.all(gates_w <= jnp.log(tolerance) / 2)

    def latest_gates(self, t: Float[Array, ""], state: LogWeights) -> Float[Array, " d"]:
        """The gates, if every weight were the largest there is or will be, about."""
        to_come = self.size ** (1 / self.depth)
        largest = jnp.maximum(jnp.exp(jnp.max(jnp.stack(state))), to_come)
        c = jnp.abs(self.X.T @ self.residual(state))
        return self.rule.at(t).log_gate(c, jnp.ones_like(t), largest, self.depth)

    def observe(self, state: LogWeights):
        """u, v and the residual."""
        return jnp.exp(state[0]), jnp.exp(state[1]), self.residual(state)


def as_dense(
    problem: Problem, rule: AbstractRule, alpha: Float[Array, "..."], depth: int
) -> DenseFlow:
    """The flow on rows that span the range of X: it depends on nothing else."""
    return DenseFlow(*full_rank(problem), alpha, rule, depth)


def implicit_solver(rtol: Scalar) -> diffrax.AbstractSolver:
    """The default for general X: the end of the flow is stiff like 1/ε.

    Third order suits the kinks of |c| better than fifth: half the time on real data.
    """
    root_finder = diffrax.VeryChord(rtol, rtol, norm=optx.max_norm)  # pyright: ignore[reportArgumentType]
    return diffrax.Kvaerno3(root_finder=root_finder)


class DenseLimit(NamedTuple):
    """Weights at the end and at the reference time."""

    u: Float[Array, " d"]
    v: Float[Array, " d"]
    u_reference: Float[Array, " d"]
    v_reference: Float[Array, " d"]


def dense_limit(
    flow: DenseFlow, reference: str, rtol: Scalar, max_steps: int, adjoint: diffrax.AbstractAdjoint
) -> tuple[DenseLimit, Outcome]:
    """Integrate until every gradient is far below ε, then finish exactly.

    Once |g| ≤ ηε for good the flow is gradient flow slowed by ε, up to O(η): its end is the convex
    dual problem X(u(θ)^M − v(−θ)^M) = y, θ = Xᵀν, in which weights grow as under gradient flow,
    u e^θ for M = 2. What is left to go is O(η) as well, so the error is O(η²), and η = √rtol.
    """
    tracked = reference == "warmup"
    rtol = tolerance_of_weights(rtol / 3, flow.alpha, flow.size, flow.depth)
    solver = implicit_solver(rtol)
    low = 0.5 * jnp.log(rtol)
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
        event=diffrax.Event(lambda t, y, args, **_: jnp.all(args.latest_gates(t, y) <= low)),
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


def finish(
    flow: DenseFlow, u: Float[Array, " d"], v: Float[Array, " d"]
) -> tuple[Float[Array, " d"], Float[Array, " d"], Bool[Array, ""]]:
    """The end of the flow from where gradients are far below ε, and whether it was found."""
    slowness = flow.rule.slowness()
    speed = jnp.mean(slowness) / slowness

    def conjugate(theta):
        size = (
            _grown(u, speed * theta, flow.depth) ** 2 + _grown(v, -speed * theta, flow.depth) ** 2
        )
        return jnp.sum(size / speed) / 2

    dual = solve_dual(conjugate, flow.X, flow.y, jnp.zeros_like(u))
    theta = speed * dual.theta
    return _grown(u, theta, flow.depth), _grown(v, -theta, flow.depth), dual.converged


def _grown(w: Float[Array, " d"], theta: Float[Array, " d"], depth: int) -> Float[Array, " d"]:
    """A weight after dw/dθ = w^{M−1}; NaN beyond its blow-up, where line searches turn back."""
    if depth == 2:
        return w * jnp.exp(theta)
    p = depth - 2
    left = 1 - p * theta * w**p
    return w * jnp.where(left > 0, left, jnp.nan) ** (-1 / p)
