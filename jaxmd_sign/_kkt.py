"""How far a limit is from minimising its divergence: D, KKT residual and exact minimiser (15)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._checks import described
from ._dual import Dual, minimize_potential
from ._limit import Limit
from ._problem import Blocks, Problem, check_problem, full_rank, matmul_precision
from ._results import RESULTS


class KKT(eqx.Module):
    """KKT residual of a limit for min D(β) s.t. Xβ = y (15).

    - `error`: ‖e‖, the distance of ∇D(β_∞) from the row space of X.
    - `relative_error`: `error` / ‖∇D(β_∞)‖.
    - `stationarity`: e = ∇D(β_∞) − Xᵀν, shape (d,).
    - `multiplier`: ν = argmin ‖∇D(β_∞) − Xᵀν‖, shape (n,).
    - `feasibility`: ‖Xβ_∞ − y‖.
    """

    error: Float[Array, ""]
    relative_error: Float[Array, ""]
    stationarity: Float[Array, " d"]
    multiplier: Float[Array, " n"]
    feasibility: Float[Array, ""]


def bregman(limit: Limit, beta: Float[Array, " d"]) -> Float[Array, ""]:
    r"""D(β) = Φ_∞(β) − Φ_ref(β_ref) − ⟨θ_ref, β − β_ref⟩ of Theorem 3.9.

    **Arguments:**

    - `limit`: a `Limit`, which brings the potentials and the reference.
    - `beta`: any point, shape (d,).

    **Returns:** D(β), a scalar.

    **Raises:** `ValueError` if `limit` is no `Limit`, or β of another shape.

    !!! example
        >>> limit = solve_limit(Problem([[1.3, 0.7]], [1.0]), SmoothedSign(0.1), 0.05)
        >>> bregman(limit, limit.beta) >= bregman(limit, bregman_minimizer(problem, limit))
        Array(True, dtype=bool)
    """
    _check_limit(limit)
    if np.shape(beta) != limit.beta.shape:
        raise ValueError(
            f"beta must have shape {limit.beta.shape}, as that of the limit, but has shape "
            f"{np.shape(beta)}."
        )
    reference = limit.potential_reference(limit.beta_reference)
    beta = jnp.asarray(beta, limit.beta.dtype)
    move = beta - limit.beta_reference
    return limit.potential(beta) - reference - jnp.sum(limit.dual_reference * move)


@eqx.filter_jit
def kkt(problem: Problem, limit: Limit) -> KKT:
    r"""KKT residual of a limit for min D(β) s.t. Xβ = y (15), by autodiff of D.

    ∇D(β_∞) = θ_∞ − θ_ref must lie in the row space of X; e = (I − X⁺X)(θ_∞ − θ_ref) is what does
    not. The error has a kink where e = 0: its derivative there is 0, and ½‖e‖² is smooth.

    **Arguments:**

    - `problem`: the `Problem` of the limit, X (n, d). Batch with `jax.vmap`.
    - `limit`: a `Limit` of it.

    **Returns:** a `KKT`.

    **Raises:** `ValueError` if `problem` or `limit` is something else, or their sizes differ.

    !!! example
        >>> problem = Problem([[1.3, 0.7]], [1.0])
        >>> kkt(problem, solve_limit(problem, SmoothedSign(0.1), 0.05)).error.round(6)
        Array(0.102383, dtype=float64)
    """
    _check(problem, limit)
    with matmul_precision():
        gradient = jax.grad(lambda beta: bregman(limit, beta))(limit.beta)
        stationarity, multiplier = _project(problem, gradient)
        error, size = safe_norm(stationarity), safe_norm(gradient)
        relative = error / jnp.where(size > 0, size, 1)
        return KKT(error, relative, stationarity, multiplier, safe_norm(limit.residual))


def _project(
    problem: Problem, gradient: Float[Array, " d"]
) -> tuple[Float[Array, " d"], Float[Array, " n"]]:
    """The part of `gradient` outside the row space of X, and the multiplier of the part inside."""
    data = problem.data
    if isinstance(data, Blocks):
        blocks = data.gather(gradient)
        multiplier = jnp.sum(data.x * blocks, axis=-1) / jnp.sum(data.x**2, axis=-1)
        # What no row of X reaches, on a dead column, is all outside.
        return data.scatter(blocks - data.x * multiplier[:, None], gradient), multiplier
    # QR rather than the singular vectors, whose derivatives are NaN for tied singular values.
    X, _ = full_rank(problem)
    Q, R = jnp.linalg.qr(X.T)
    inside = Q.T @ gradient
    multiplier = jax.scipy.linalg.solve_triangular(R, inside)
    if data.basis is not None:
        multiplier = data.basis @ multiplier
    return gradient - Q @ inside, multiplier


def bregman_minimizer(problem: Problem, limit: Limit) -> Float[Array, " d"]:
    r"""The exact minimiser β* of D(β) s.t. Xβ = y (15), from X∇Φ*_∞(θ_ref + Xᵀν) = y.

    **Arguments:**

    - `problem`: the `Problem` of the limit, X (n, d). Batch with `jax.vmap`.
    - `limit`: a `Limit` of it.

    **Returns:** β*, shape (d,); NaN if Newton's method on the convex dual did not converge.

    **Raises:** `ValueError` as `kkt` does.

    !!! example
        >>> problem = Problem([[1.3, 0.7]], [1.0])
        >>> limit = solve_limit(problem, SmoothedSign(0.1), 0.05)
        >>> (problem.X @ bregman_minimizer(problem, limit)).round(12)
        Array([1.], dtype=float64)
    """
    _check(problem, limit)
    return minimize_divergence(problem, limit).beta


@eqx.filter_jit
def bregman_gap(problem: Problem, limit: Limit) -> Float[Array, ""]:
    r"""D(β_∞) − D(β*) ≥ 0, without cancellation: the divergence of β_∞ from the minimiser.

    On Xβ = y, ∇D is θ* − θ_ref up to the row space of X, so that the gap is D_Φ(β_∞, β*); for two
    weights outside the kink and M = 2, ⅓ (w_∞ − θ*)² (2w_∞ + θ*).

    **Arguments:** as `bregman_minimizer`.

    **Returns:** the gap, a scalar.

    **Raises:** `ValueError` as `kkt` does.

    !!! example
        >>> problem = Problem([[1.3, 0.7]], [1.0])
        >>> bregman_gap(problem, solve_limit(problem, SmoothedSign(0.1), 0.05)) > 0
        Array(True, dtype=bool)
    """
    _check(problem, limit)
    return limit.potential.divergence(limit.dual, minimize_divergence(problem, limit).theta)


@eqx.filter_jit
def minimize_divergence(problem: Problem, limit: Limit) -> Dual:
    """min D(β) s.t. Xβ = y, NaN if that or the limit failed. The limit's own dual is near."""
    with matmul_precision():
        dual = minimize_potential(problem, limit.potential, limit.dual_reference, limit.dual)
        ok = dual.converged & (limit.result == RESULTS.successful)
        return jax.tree.map(lambda leaf: jnp.where(ok, leaf, jnp.nan), dual._replace(converged=0.0))


def _check(problem: Problem, limit: Limit) -> None:
    check_problem(problem)
    _check_limit(limit)
    expected = (problem.num_features,)
    if limit.beta.shape != expected:
        raise ValueError(
            f"limit must be one of this problem, with beta of shape {expected}, but its beta has "
            f"shape {limit.beta.shape}. Take one member of a batch, or use jax.vmap."
        )


def _check_limit(limit: Limit) -> None:
    if not isinstance(limit, Limit):
        raise ValueError(f"limit must be what solve_limit returns, but is {described(limit)}.")


def safe_norm(vector: Float[Array, " m"]) -> Float[Array, ""]:
    """‖·‖ with derivative 0, not NaN, at 0."""
    square = jnp.sum(vector**2)
    zero = square == 0  # not `square > 0`: NaN must stay NaN
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))
