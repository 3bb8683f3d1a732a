"""The convex dual of min Φ(β) − ⟨θ₀, β⟩ s.t. Xβ = y: n unknowns, solved to rounding.

β = ∇Φ*(θ₀ + Xᵀν) with X∇Φ*(θ₀ + Xᵀν) = y, the optimality condition of the convex function
Φ*(θ₀ + Xᵀν) − ⟨ν, y⟩. Newton's method with a line search that never overshoots by much copes
with the exponentials of hyperbolic entropy, where plain Newton from 0 fails.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float

from ._extremes import amax
from ._linear import factor_positive, solve_factored, solve_linear
from ._mirror import AbstractPotential
from ._problem import Dense, Problem, full_rank

_MAX_ITERATIONS = 200
_MAX_HALVINGS = 60
_WELL = 0.05  # of the mismatch, left by a step with an old matrix


class Dual(NamedTuple):
    """Multiplier ν, the dual point θ₀ + Xᵀν, its β, and whether the constraints are met."""

    multiplier: Float[Array, " n"]
    theta: Float[Array, " d"]
    beta: Float[Array, " d"]
    converged: Bool[Array, ""]


def solve_dual(
    conjugate: Callable[[Float[Array, " d"]], Float[Array, ""]],
    X: Float[Array, "n d"],
    y: Float[Array, " n"],
    theta0: Float[Array, " d"],
    start: Float[Array, " n"],
    factor: Float[Array, "n n"] | None = None,
) -> Dual:
    """Solve X∇Φ*(θ₀ + Xᵀν) = y for X of full row rank, from a ν; differentiated implicitly.

    `factor`: `factor_of` X and dβ/dθ at that ν, where it is known.
    """
    inverse_map = jax.grad(conjugate)

    def mismatch(multiplier):
        return X @ inverse_map(theta0 + X.T @ multiplier) - y

    def factor_at(multiplier):
        theta = theta0 + X.T @ multiplier
        _, slopes = jax.jvp(inverse_map, (theta,), (jnp.ones_like(theta),))
        return factor_of(X, slopes)

    def scale(multiplier):
        # With what rounding does to θ: where δ is far above |β|, that is the most.
        theta = theta0 + X.T @ multiplier
        beta, moved = jax.jvp(inverse_map, (theta,), (theta,))
        return amax(jnp.abs(X) @ (jnp.abs(beta) + jnp.abs(moved)) + jnp.abs(y))

    def newton(function, start):
        return _newton(function, factor_at, scale, start, factor)

    multiplier = lax.custom_root(mismatch, lax.stop_gradient(start), newton, solve_linear)
    fixed = lax.stop_gradient(multiplier)
    left, eps = amax(jnp.abs(mismatch(fixed))), jnp.finfo(y.dtype).eps
    converged = left <= 1e4 * eps * scale(fixed)
    theta = theta0 + X.T @ multiplier
    return Dual(multiplier, theta, inverse_map(theta), converged)


def factor_of(X: Float[Array, "n d"], slopes: Float[Array, " d"]) -> Float[Array, "n n"]:
    """Cholesky's factor of what a multiplier does to Xβ, from dβ/dθ; not to differentiate."""
    # Coordinates inside a kink are flat; a floor keeps the matrix invertible.
    top = amax(slopes)
    slopes = jnp.maximum(slopes, 1e-10 * jnp.where(top > 0, top, 1))
    return factor_positive((X * slopes) @ X.T)


class _Point(NamedTuple):
    """A multiplier, its mismatch, and whether that is more than rounding."""

    multiplier: Array
    residual: Array
    large: Array


def _newton(function, factor_at, scale, start, first_factor):
    """Newton's method until the mismatch is rounding; a matrix serves as long as it does well.

    Whether to go on is decided once, in the body: a batched loop evaluates its condition twice,
    and two compilations of a comparison at rounding level can disagree for ever.
    """
    eps = jnp.finfo(start.dtype).eps

    def at(multiplier):
        residual = function(multiplier)
        return _Point(multiplier, residual, amax(jnp.abs(residual)) > 8 * eps * scale(multiplier))

    def step(point, iteration, factor):
        point = _line_search(at, point, -solve_factored(factor, point.residual))
        iteration = iteration + 1

        def once_more(state):
            point, iteration, _ = state
            new = at(point.multiplier - solve_factored(factor, point.residual))
            left, before = amax(jnp.abs(new.residual)), amax(jnp.abs(point.residual))
            # Once more after it is rounding: that costs little, and is a digit.
            again = (left <= _WELL * before) & point.large & (iteration < _MAX_ITERATIONS)
            point = jax.tree.map(lambda new, old: jnp.where(left < before, new, old), new, point)
            return point, iteration + 1, again

        state = point, iteration, point.large & (iteration < _MAX_ITERATIONS)
        point, iteration, _ = lax.while_loop(lambda state: state[-1], once_more, state)
        return point, iteration, point.large & (iteration < _MAX_ITERATIONS)

    def next_step(state):
        point, iteration, _ = state
        return step(point, iteration, factor_at(point.multiplier))

    # One step at least: from a start that is all but the end, it is the digit that is left.
    state = at(start), 0, jnp.array(True)
    if first_factor is not None:
        state = step(*state[:2], first_factor)
    return lax.while_loop(lambda state: state[-1], next_step, state)[0].multiplier


def _line_search(at, point, move):
    """Halve the step until the derivative on its line, at first < 0, is at most half as large."""
    slope = jnp.sum(point.residual * move)

    def tried(length, halvings):
        new = at(point.multiplier + length * move)
        rising = jnp.sum(new.residual * move)
        overshoots = ~(rising <= -slope / 2) & (halvings < _MAX_HALVINGS)
        return new, length, halvings, overshoots

    def halve(state):
        _, length, halvings, _ = state
        return tried(length / 2, halvings + 1)

    return lax.while_loop(lambda state: state[-1], halve, tried(jnp.ones_like(slope), 0))[0]


def minimize_potential(
    problem: Problem,
    potential: AbstractPotential,
    theta0: Float[Array, " d"],
    near: Float[Array, " d"] | None = None,
) -> Dual:
    """min Φ(β) − ⟨θ₀, β⟩ s.t. Xβ = y: one equation a block, n together for any other X.

    `near` is a θ that is not far from the minimiser's: Newton's method starts there.
    """
    data, ahead = problem.data, jnp.zeros_like(theta0) if near is None else near - theta0
    if isinstance(data, Dense):
        # In orthonormal rows, of the same span: columns of very different sizes cost no digits.
        X, y = full_rank(problem)
        Q, R = jnp.linalg.qr(X.T)
        label = solve_triangular(R.T, y, lower=True)
        dual = solve_dual(potential.conjugate, Q.T, label, theta0, Q.T @ ahead)
        multiplier = solve_triangular(R, dual.multiplier)
        if data.basis is not None:
            multiplier = data.basis @ multiplier
        return dual._replace(multiplier=multiplier)

    def one_block(x, y, potential, theta0, ahead):
        start = x[None] @ ahead / jnp.sum(x**2)
        return solve_dual(potential.conjugate, x[None], y[None], theta0, start)

    def in_blocks(leaf):
        return data.gather(leaf) if jnp.ndim(leaf) else leaf

    split = jax.tree.map(in_blocks, potential)
    axes = jax.tree.map(lambda leaf: 0 if jnp.ndim(leaf) else None, potential)
    over_blocks = jax.vmap(one_block, in_axes=(0, 0, axes, 0, 0))
    given = data.gather(theta0), data.gather(ahead)
    dual = over_blocks(data.x, problem.y, split, *given)
    return Dual(
        dual.multiplier[:, 0],
        data.scatter(dual.theta, theta0),
        data.scatter(dual.beta, 0),
        jnp.all(dual.converged),
    )
