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
_WELL = 0.2  # of the mismatch, left by a step with an old matrix


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
) -> Dual:
    """Solve X∇Φ*(θ₀ + Xᵀν) = y for X of full row rank; differentiated implicitly."""
    inverse_map = jax.grad(conjugate)

    def mismatch(multiplier):
        return X @ inverse_map(theta0 + X.T @ multiplier) - y

    def curvature(multiplier):
        theta = theta0 + X.T @ multiplier
        _, weights = jax.jvp(inverse_map, (theta,), (jnp.ones_like(theta),))
        # Coordinates inside a kink are flat; a floor keeps the matrix invertible.
        top = amax(weights)
        weights = jnp.maximum(weights, 1e-10 * jnp.where(top > 0, top, 1))
        return (X * weights) @ X.T

    def scale(multiplier):
        # With what rounding does to θ: where δ is far above |β|, that is the most.
        theta = theta0 + X.T @ multiplier
        beta, moved = jax.jvp(inverse_map, (theta,), (theta,))
        return amax(jnp.abs(X) @ (jnp.abs(beta) + jnp.abs(moved)) + jnp.abs(y))

    def newton(function, start):
        return _newton(function, curvature, scale, start)

    multiplier = lax.custom_root(mismatch, jnp.zeros_like(y), newton, solve_linear)
    fixed = lax.stop_gradient(multiplier)
    left, eps = amax(jnp.abs(mismatch(fixed))), jnp.finfo(y.dtype).eps
    converged = left <= 1e4 * eps * scale(fixed)
    theta = theta0 + X.T @ multiplier
    return Dual(multiplier, theta, inverse_map(theta), converged)


def _newton(function, curvature, scale, start):
    """Newton's method until the mismatch is rounding; a matrix serves as long as it does well.

    Whether to go on is decided once, in the body: a batched loop evaluates its condition twice,
    and two compilations of a comparison at rounding level can disagree for ever.
    """
    eps = jnp.finfo(start.dtype).eps

    def large(multiplier, residual):
        return amax(jnp.abs(residual)) > 8 * eps * scale(multiplier)

    def step(state):
        multiplier, residual, iteration, _ = state
        factor = factor_positive(curvature(multiplier))
        move = -solve_factored(factor, residual)
        length = _line_search(function, multiplier, move, jnp.sum(residual * move))
        multiplier = multiplier + length * move
        residual, iteration = function(multiplier), iteration + 1

        def once_more(state):
            multiplier, residual, iteration, _ = state
            there = multiplier - solve_factored(factor, residual)
            new = function(there)
            left, before = amax(jnp.abs(new)), amax(jnp.abs(residual))
            # Once more after it is rounding: that costs little, and is a digit.
            again = (left <= _WELL * before) & large(multiplier, residual)
            multiplier = jnp.where(left < before, there, multiplier)
            residual = jnp.where(left < before, new, residual)
            return multiplier, residual, iteration + 1, again & (iteration < _MAX_ITERATIONS)

        again = large(multiplier, residual) & (iteration < _MAX_ITERATIONS)
        state = multiplier, residual, iteration, again
        multiplier, residual, iteration, _ = lax.while_loop(lambda s: s[-1], once_more, state)
        again = large(multiplier, residual) & (iteration < _MAX_ITERATIONS)
        return multiplier, residual, iteration, again

    first = function(start)
    state = (start, first, 0, large(start, first))
    return lax.while_loop(lambda state: state[-1], step, state)[0]


def _line_search(function, point, move, slope):
    """Halve the step until the line's derivative, rising from `slope` < 0, is at most |slope|/2."""

    def overshoots(length, halvings):
        rising = jnp.sum(function(point + length * move) * move)
        return ~(rising <= -slope / 2) & (halvings < _MAX_HALVINGS)

    def halve(state):
        length, halvings = state[0] / 2, state[1] + 1
        return length, halvings, overshoots(length, halvings)

    one = jnp.ones_like(slope)
    length, *_ = lax.while_loop(lambda state: state[-1], halve, (one, 0, overshoots(one, 0)))
    return length


def minimize_potential(
    problem: Problem, potential: AbstractPotential, theta0: Float[Array, " d"]
) -> Dual:
    """min Φ(β) − ⟨θ₀, β⟩ s.t. Xβ = y: one equation a block, n together for any other X."""
    data = problem.data
    if isinstance(data, Dense):
        # In orthonormal rows, of the same span: columns of very different sizes cost no digits.
        X, y = full_rank(problem)
        Q, R = jnp.linalg.qr(X.T)
        dual = solve_dual(potential.conjugate, Q.T, solve_triangular(R.T, y, lower=True), theta0)
        multiplier = solve_triangular(R, dual.multiplier)
        if data.basis is not None:
            multiplier = data.basis @ multiplier
        return dual._replace(multiplier=multiplier)

    def one_block(x, y, potential, theta0):
        return solve_dual(potential.conjugate, x[None], y[None], theta0)

    def in_blocks(leaf):
        return data.gather(leaf) if jnp.ndim(leaf) else leaf

    split = jax.tree.map(in_blocks, potential)
    axes = jax.tree.map(lambda leaf: 0 if jnp.ndim(leaf) else None, potential)
    over_blocks = jax.vmap(one_block, in_axes=(0, 0, axes, 0))
    dual = over_blocks(data.x, problem.y, split, data.gather(theta0))
    return Dual(
        dual.multiplier[:, 0],
        data.scatter(dual.theta, theta0),
        data.scatter(dual.beta, 0),
        jnp.all(dual.converged),
    )
