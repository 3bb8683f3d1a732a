"""Adam's own flow: smoothed sign descent whose gradients are averaged in time.

Its moments make it a rule with a memory: the clock of the residual and the potentials of the other
rules do not apply, and it is followed in time, in the weights themselves, which may cross 0.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._checks import Numbers, Scalar, as_positive, is_traced
from ._powers import power_difference
from ._problem import Blocks, Problem, full_rank

Pair = tuple[Float[Array, " d"], Float[Array, " d"]]


class AdamFlow(eqx.Module):
    r"""Adam in continuous time: ẇ = −m̂/(√p̂ + ε), ṁ = (g − m)/τ₁, ṗ = (g² − p)/τ₂, m = p = 0 first.

    With bias correction, m̂ = m/(1 − e^{−t/τ₁}) and p̂ likewise; without it, m̂ = m and p̂ = p. It is
    the limit of steps of size η → 0 with decay rates β_i = e^{−η/τ_i}, at time η a step. As
    τ₁, τ₂ → 0 it becomes `SmoothedSign(epsilon)`.

    For `solve_trajectory`, of any depth; stages have no meaning here, and their ends are NaN.

    **Arguments:**

    - `epsilon`: the stability constant ε > 0, a scalar or one number per coordinate (d,).
    - `tau1`, `tau2`: time constants ≥ 0 of the two averages; 0 for none, so that m = g or p = g².
    - `bias_correction`: as in Adam; without it the first steps are of size √τ₂/τ₁.

    **Raises:** `ValueError` for a bad ε or τ.

    !!! example
        >>> rule = AdamFlow(0.1, tau1=0.01, tau2=0.01)
        >>> flow = solve_trajectory(Problem([[1.3, 0.7]], [1.0]), rule, 0.05)
        >>> flow.beta[-1].round(2)
        Array([0.6 , 0.31], dtype=float64)
    """

    epsilon: Float[Array, "..."]
    tau1: Float[Array, "*batch"] | None
    tau2: Float[Array, "*batch"] | None
    bias_correction: bool = eqx.field(static=True)
    has_epsilon: ClassVar[bool] = True

    def __init__(
        self, epsilon: Numbers, tau1: Numbers, tau2: Numbers, bias_correction: bool = True
    ):
        self.epsilon = as_positive("epsilon", epsilon)
        self.tau1, self.tau2 = _time_constant("tau1", tau1), _time_constant("tau2", tau2)
        self.bias_correction = bias_correction

    @property
    def taus(self) -> tuple[Float[Array, ""] | None, Float[Array, ""] | None]:
        """τ₁ and τ₂."""
        return self.tau1, self.tau2

    def map_epsilon(self, change: Callable[[Array], Array]) -> "AdamFlow":
        """The same rule with its ε spread over blocks, or made harmless."""
        return eqx.tree_at(lambda rule: rule.epsilon, self, change(self.epsilon))


def _time_constant(name: str, value: Numbers) -> Float[Array, ""] | None:
    if not is_traced(value) and isinstance(value, (int, float)) and value == 0:
        return None
    tau = as_positive(name, value)
    if tau.ndim:
        raise ValueError(f"{name} must be one number, but has shape {tau.shape}.")
    return tau


class AdamState(NamedTuple):
    """Weights and the moments of their gradients; None for a moment without memory."""

    weights: Pair
    mean: Pair | None
    square: Pair | None


class AdamSystem(eqx.Module):
    """The flow on some rows of X."""

    X: Float[Array, "*batch n d"]
    y: Float[Array, "*batch n"]
    alpha: Float[Array, "..."]
    rule: AdamFlow
    depth: int = eqx.field(static=True)

    def start(self) -> AdamState:
        w = jnp.broadcast_to(self.alpha, self.X.shape[1:])
        zeros = jnp.zeros_like(w)
        mean, square = (None if tau is None else (zeros, zeros) for tau in self.rule.taus)
        return AdamState((w, w), mean, square)

    def residual(self, weights: Pair) -> Float[Array, " n"]:
        return self.X @ power_difference(*weights, self.depth) - self.y

    def gradients(self, weights: Pair) -> Pair:
        c, (u, v), power = self.X.T @ self.residual(weights), weights, self.depth - 1
        return c * u**power, -c * v**power

    def field(self, t: Float[Array, ""], state: AdamState) -> AdamState:
        g = self.gradients(state.weights)
        square = g[0] ** 2, g[1] ** 2
        mean_hat = self._corrected(t, state.mean, g, self.rule.tau1)
        square_hat = self._corrected(t, state.square, square, self.rule.tau2)
        u, v = (
            -m / (_root(p) + self.rule.epsilon) for m, p in zip(mean_hat, square_hat, strict=True)
        )
        return AdamState(
            (u, v),
            _relaxed(state.mean, g, self.rule.tau1),
            _relaxed(state.square, square, self.rule.tau2),
        )

    def _corrected(self, t, moment: Pair | None, now: Pair, tau) -> Pair:
        """m̂ or p̂; at t = 0, where the correction is 0/0, its limit."""
        if moment is None:
            return now
        if not self.rule.bias_correction:
            return moment
        weight = -jnp.expm1(-t / tau)
        begun = weight > 0
        weight = jnp.where(begun, weight, 1)
        u, v = (jnp.where(begun, m / weight, g) for m, g in zip(moment, now, strict=True))
        return u, v

    def settled(self, t: Float[Array, ""], state: AdamState, tolerance: Scalar) -> Bool[Array, ""]:
        """Whether the residual is small, and every gradient and its mean over ε."""
        norm = jnp.linalg.norm
        small = (norm(self.residual(state.weights)) <= tolerance * norm(self.y)) & (t > 0)
        for pair in (self.gradients(state.weights), state.mean or ()):
            for g in pair:
                small &= jnp.all(jnp.abs(g) <= jnp.sqrt(tolerance) * self.rule.epsilon)
        return small

    def observe(self, state: AdamState) -> tuple[Float[Array, " d"], ...]:
        """u, v and the residual."""
        return *state.weights, self.residual(state.weights)


def as_adam(problem: Problem, rule: AdamFlow, alpha: Float[Array, "..."], depth: int) -> AdamSystem:
    """The independent systems of a problem along a first axis: one for each block, or one."""
    data, dtype = problem.data, problem.dtype
    alpha = jnp.broadcast_to(alpha, (problem.num_features,))
    epsilon = jnp.broadcast_to(rule.epsilon, alpha.shape)
    if isinstance(data, Blocks):
        rows, labels = data.x[:, None], problem.y[:, None]
        alpha, epsilon = data.gather(alpha, fill=1.0), data.gather(epsilon, fill=1.0)
    else:
        rows, labels, alpha, epsilon = (
            leaf[None] for leaf in (*full_rank(problem), alpha, epsilon)
        )
    many = (None if tau is None else jnp.full(len(rows), tau, dtype) for tau in rule.taus)
    rule = eqx.tree_at(
        lambda r: (r.epsilon, r.tau1, r.tau2), rule, (epsilon, *many), is_leaf=_is_none
    )
    return AdamSystem(rows, labels, alpha, rule, depth)


def weights_of(
    problem: Problem, alpha: Float[Array, "..."], u: Float[Array, "n T k"], v: Float[Array, "n T k"]
) -> tuple[Float[Array, "T d"], Float[Array, "T d"]]:
    """The weights of these systems over the columns of X; dead columns stay at α."""
    data = problem.data
    if not isinstance(data, Blocks):
        return u[0], v[0]
    scatter = jax.vmap(data.scatter, in_axes=(1, None))
    return scatter(u, alpha), scatter(v, alpha)


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _relaxed(moment: Pair | None, now: Pair, tau: Any) -> Pair | None:
    if moment is None:
        return None
    u, v = ((g - m) / tau for m, g in zip(moment, now, strict=True))
    return u, v


def _root(p: Float[Array, " d"]) -> Float[Array, " d"]:
    """√p with derivative 0 at p = 0; a solver may step just below."""
    positive = p > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, p, 1)), 0)
