"""The flow for any X, in the logarithms of the weights.

A weight can decay to 1e-323 and grow back when its gradient changes sign; a solver in (u, v)
forgets how small it was and ends up to 1e-2 off. In (log u, log v) nothing is lost.
"""

from typing import ClassVar

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._checks import Scalar
from ._extremes import amax, max_norm
from ._problem import Problem, full_rank
from ._rules import AbstractRule

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

    def weights(self, state: LogWeights) -> Float[Array, "2 d"]:
        """u and v, finite even in a step so long that it will be refused.

        Of one that is not, the linear solver in the derivative of an implicit step would raise.
        """
        largest = 0.4 * jnp.log(jnp.finfo(self.X.dtype).max) / self.depth
        return jnp.exp(jnp.minimum(jnp.stack(state), largest))

    def residual(self, state: LogWeights) -> Float[Array, " n"]:
        u, v = self.weights(state) ** self.depth
        return self.X @ (u - v) - self.y

    def field(self, t: Float[Array, ""], state: LogWeights) -> LogWeights:
        c, rule = self.X.T @ self.residual(state), self.rule.at(t)
        u, v = (rule.log_rate(c, w, self.depth) for w in self.weights(state))
        return -u, v

    def gates(self, t: Float[Array, ""], state: LogWeights) -> Float[Array, "2 d"]:
        c = jnp.abs(self.X.T @ self.residual(state))
        weights = jnp.stack([jnp.minimum(*state), jnp.maximum(*state)])
        rule, one = self.rule.at(t), jnp.ones_like(t)
        return rule.log_gate(c, one, jnp.exp(weights), self.depth)

    def settled(self, t: Float[Array, ""], state: LogWeights, tolerance: Scalar) -> Bool[Array, ""]:
        """Whether the residual and every gradient over ε are small."""
        norm, gates_w = jnp.linalg.norm, self.gates(t, state)[1]
        # Where all labels are 0 it is small from the start, at which Diffrax would save nothing.
        small = (norm(self.residual(state)) <= tolerance * norm(self.y)) & (t > 0)
        return small & jnp.all(gates_w <= jnp.log(tolerance) / 2)

    def latest_gates(self, t: Float[Array, ""], state: LogWeights) -> Float[Array, " d"]:
        """The gates, if every weight were the largest there is or will be, about."""
        to_come = self.size ** (1 / self.depth)
        largest = jnp.maximum(jnp.exp(amax(jnp.stack(state))), to_come)
        c = jnp.abs(self.X.T @ self.residual(state))
        return self.rule.at(t).log_gate(c, jnp.ones_like(t), largest, self.depth)

    def observe(self, state: LogWeights):
        """u, v and the residual."""
        u, v = weights_of(jnp.stack(state), self.depth)
        return u, v, self.residual(state)


def weights_of(logs: Float[Array, "2 d"], depth: int) -> Float[Array, "2 d"]:
    """u and v, but never 0: where both are, ∇Φ has no slope, and would make every slope NaN."""
    smallest = jnp.log(jnp.finfo(logs.dtype).tiny) / (2 * depth)
    return jnp.exp(jnp.maximum(logs, smallest))


def as_dense(
    problem: Problem, rule: AbstractRule, alpha: Float[Array, "..."], depth: int
) -> DenseFlow:
    """The flow on rows that span the range of X: it depends on nothing else."""
    return DenseFlow(*full_rank(problem), alpha, rule, depth)


def implicit_solver(rtol: Scalar) -> diffrax.AbstractSolver:
    """The default for general X: the end of the flow is stiff like 1/ε.

    Third order suits the kinks of |c| better than fifth: half the time on real data.
    """
    root_finder = diffrax.VeryChord(rtol, rtol, norm=max_norm)  # pyright: ignore[reportArgumentType]
    return diffrax.Kvaerno3(root_finder=root_finder)
