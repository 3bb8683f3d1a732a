"""Which potential explains an interpolating β: the function that users call."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._checks import Numbers, as_array, as_positive, is_traced
from .._dual import Dual, minimize_potential
from .._extremes import amax
from .._kkt import _project
from .._mirror import AbstractPotential, HyperbolicEntropy, mirror_map
from .._problem import Problem, check_problem, full_rank
from .._tuning._search import Sample, search
from ._l1 import l1_minimizer, l1_stationarity
from ._potentials import FAMILIES, NORMS, Family, FromFunction, PowerNorm

_CURVE = 60


class Row(NamedTuple):
    """A potential Φ beside β.

    - `potential`: its name; `parameter`: its p or α, NaN if it has none.
    - `distance`: ‖β − β*‖ / ‖β‖ from its minimiser on Xβ = y.
    - `kkt_error`: the part of ∇Φ(β) outside the row space of X, relative to ‖∇Φ(β)‖.
    - `gap`: Φ(β) − Φ(β*).
    - `minimizer`: β*, shape (d,).
    - `note`: what is to be known of it, e.g. that a fit ended at its bound.
    """

    potential: str
    parameter: float
    distance: float
    kkt_error: float
    gap: float
    minimizer: np.ndarray
    note: str


class Explanation(NamedTuple):
    """Potentials by how near their minimiser is, nearest first, and the curve over p.

    - `rows`: a tuple of `Row`.
    - `p`, `distance`: ‖β − β_p*‖ / ‖β‖ over p, shape (P,).
    """

    rows: tuple[Row, ...]
    p: np.ndarray
    distance: np.ndarray


def explain(
    problem: Problem,
    beta: Numbers,
    *,
    alpha: float | None = None,
    potentials: Mapping[str, Callable[[Array], Array] | AbstractPotential] | None = None,
) -> Explanation:
    r"""Which potential an interpolating β minimises: ℓ₁, ℓ_{3/2}, ℓ₂, ℓ_p, hyperbolic entropy.

    For each Φ, β* = argmin Φ(β) s.t. Xβ = y by its convex dual X∇Φ*(Xᵀν) = y (ℓ₁ by a linear
    program), and how far β is from it. p of ℓ_p and α of hyperbolic entropy (9) are fitted, by the
    distance: where d − n is 1, any family with a parameter may fit.

    **Arguments:**

    - `problem`: a `Problem` with X (n, d).
    - `beta`: any β with Xβ = y, shape (d,), e.g. `solve_limit(...).beta`.
    - `alpha`: hyperbolic entropy with this α as well, if it is given.
    - `potentials`: more of them by name: an even, convex φ(b) of one coordinate, twice
        differentiable for b ≠ 0, or an `AbstractPotential`.

    **Returns:** an `Explanation`, its rows nearest first.

    **Raises:** `ValueError` for bad arguments, or a β that does not interpolate.

    !!! example
        >>> limit = solve_limit(Problem([[1.3, 0.7]], [1.0]), GradientDescent(), 0.05)
        >>> best = explain(problem, limit.beta, alpha=0.05).rows[0]
        >>> best.potential, round(best.distance, 9)
        ('hyperbolic_entropy', 0.0)
    """
    check_problem(problem)
    beta = _usable_beta(problem, beta)
    rows = [_l1_row(problem, beta)]
    for name, potential, parameter in _fixed(problem, alpha, potentials or {}):
        rows.append(_row(problem, beta, potential, name, parameter))
    rows += [_fitted_row(problem, beta, family, name) for name, family in FAMILIES.items()]
    p = 1 + np.geomspace(*FAMILIES["lp"].bounds, _CURVE)
    curve = _half_squares(problem, beta, FAMILIES["lp"], jnp.log(p - 1).astype(beta.dtype))
    rows.sort(key=lambda row: row.distance if np.isfinite(row.distance) else np.inf)
    return Explanation(tuple(rows), p, np.sqrt(2 * np.asarray(curve)))


def _fixed(
    problem: Problem, alpha: float | None, own: Mapping[str, Any]
) -> list[tuple[str, AbstractPotential, float]]:
    """Name, potential and parameter of all that nothing is fitted in."""
    fixed: list[tuple[str, AbstractPotential, float]] = [
        (name, PowerNorm(jnp.asarray(p, problem.dtype)), np.nan) for name, p in NORMS.items()
    ]
    if alpha is not None:
        number = as_positive("alpha", alpha, problem.dtype)
        if number.ndim:
            raise ValueError(f"alpha must be one number, but has shape {number.shape}.")
        fixed.append(("hyperbolic_entropy", HyperbolicEntropy(number), float(number)))
    if not isinstance(own, Mapping):
        raise ValueError(f"potentials must be a dict of names and functions, but is {own!r}.")
    taken = {"l1", "hyperbolic_entropy", *NORMS, *(f"{name}_fitted" for name in FAMILIES)}
    for name, potential in own.items():
        if not isinstance(name, str):
            raise ValueError(f"potentials must have names that are strings, but one is {name!r}.")
        if name in taken:
            raise ValueError(f"potentials: {name!r} is the name of one of ours. Choose another.")
        whole = isinstance(potential, AbstractPotential)
        if not whole and not _of_one_coordinate(potential, problem.dtype):
            raise ValueError(
                f"potentials: {name!r} must be a function of one coordinate that gives one number."
            )
        fixed.append((name, potential if whole else FromFunction(potential), np.nan))
    return fixed


def _of_one_coordinate(phi: Any, dtype: Any) -> bool:
    try:
        value = jax.eval_shape(phi, jax.ShapeDtypeStruct((), dtype))
    except TypeError:  # no function, of more than one coordinate, or what it gives is no number
        return False
    return getattr(value, "shape", None) == ()


def _usable_beta(problem: Problem, beta: Numbers) -> Float[Array, " d"]:
    if is_traced(problem, beta):
        raise ValueError("beta must be concrete: call explain outside of jit, vmap and grad.")
    beta = jnp.asarray(as_array("beta", beta, 1), problem.dtype)
    if beta.shape[0] != problem.num_features:
        raise ValueError(
            f"beta must have {problem.num_features} entries, one per column of X, but has "
            f"{beta.shape[0]}."
        )
    left = float(jnp.linalg.norm(problem.predict(beta) - problem.y))
    if not left <= 1e-6 * float(jnp.linalg.norm(problem.y)):
        raise ValueError(
            f"beta must interpolate, Xβ = y, but ‖Xβ − y‖ is {left:.2g}. Train longer, or take the "
            "beta of solve_limit."
        )
    if not jnp.any(beta):
        raise ValueError("beta must not be 0, which minimises every potential: y is 0.")
    return beta


def _row(
    problem: Problem,
    beta: Float[Array, " d"],
    potential: AbstractPotential,
    name: str,
    parameter: float,
    note: str = "",
) -> Row:
    dual, distance, error, gap = _compare(problem, beta, potential)
    if not bool(dual.converged):
        note = "Newton's method on the dual did not converge"
        distance = gap = np.nan
    return Row(
        potential=name,
        parameter=parameter,
        distance=float(distance),
        kkt_error=float(error),
        gap=float(gap),
        minimizer=np.asarray(dual.beta),
        note=note,
    )


@jax.jit
def _compare(problem: Problem, beta: Float[Array, " d"], potential: AbstractPotential):
    dual = _minimizer(problem, potential)
    theta = mirror_map(potential, beta)
    stationarity, _ = _project(problem, theta)
    distance = jnp.linalg.norm(beta - dual.beta) / jnp.linalg.norm(beta)
    error = jnp.linalg.norm(stationarity) / jnp.linalg.norm(theta)
    return dual, distance, error, potential.divergence(theta, dual.theta)


def _minimizer(problem: Problem, potential: AbstractPotential) -> Dual:
    return minimize_potential(problem, potential, jnp.zeros(problem.num_features, problem.dtype))


@partial(jax.jit, static_argnames="family")
def _half_squares(
    problem: Problem, beta: Float[Array, " d"], family: Family, t: Float[Array, " m"]
) -> Float[Array, " m"]:
    return jax.vmap(lambda t: _half_square(problem, beta, family, t))(t)


def _half_square(
    problem: Problem, beta: Float[Array, " d"], family: Family, t: Float[Array, ""]
) -> Float[Array, ""]:
    """½ (‖β − β*‖ / ‖β‖)², smooth where β* is β; NaN where β* was not found."""
    dual = _minimizer(problem, family.potential(family.shift + jnp.exp(t)))
    square = jnp.sum((beta - dual.beta) ** 2) / jnp.sum(beta**2) / 2
    return jnp.where(dual.converged, square, jnp.nan)


@partial(jax.jit, static_argnames="family")
def _fit(
    problem: Problem, beta: Float[Array, " d"], family: Family
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """The parameter whose minimiser is nearest, and whether that is an end of its range."""

    def evaluate(t: Float[Array, " 3"]) -> Sample:
        def one(t):
            return jax.jvp(partial(_half_square, problem, beta, family), (t,), (jnp.ones_like(t),))

        value, slope = jax.vmap(one)(t)
        return Sample(t, value, slope, None)

    unit = family.unit * jnp.log(amax(jnp.abs(beta)))
    low, high = (jnp.log(jnp.asarray(bound, beta.dtype)) + unit for bound in family.bounds)
    t = search(evaluate, low, high).t
    return family.shift + jnp.exp(t), (t <= low) | (t >= high)


def _fitted_row(problem: Problem, beta: Float[Array, " d"], family: Family, name: str) -> Row:
    parameter, at_end = _fit(problem, beta, family)
    note = "fitted; at the end of its range" if at_end else "fitted"
    potential = family.potential(parameter)
    return _row(problem, beta, potential, f"{name}_fitted", float(parameter), note)


def _l1_row(problem: Problem, beta: Float[Array, " d"]) -> Row:
    X, y, given = (np.asarray(x) for x in (problem.X, problem.y, beta))
    rows = X if problem.is_block_diagonal else np.asarray(full_rank(problem)[0])
    minimizer, note = l1_minimizer(X, y)
    return Row(
        "l1",
        np.nan,
        float(np.linalg.norm(given - minimizer) / np.linalg.norm(given)),
        l1_stationarity(rows, given),
        float(np.sum(np.abs(given)) - np.sum(np.abs(minimizer))),
        minimizer,
        note,
    )
