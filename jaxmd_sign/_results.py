"""What a solve reports: one enumeration, one sentence with the remedy for each member."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int, PyTree


class RESULTS(diffrax.RESULTS):  # pyright: ignore[reportGeneralTypeIssues]
    """Outcome of a solve; `RESULTS[result]` is a sentence that names the remedy."""

    successful = ""
    bad_input = (
        "The input was not usable: epsilon, alpha, X, y or ts was not finite, epsilon or alpha was "
        "not positive, or ts did not increase from 0 on. Check the values of this member."
    )
    not_finite = "The solution left the finite numbers. Scale the data nearer to 1, or use float64."
    dual_not_converged = (
        "Newton's method on the convex dual did not converge. X may be close to rank-deficient: "
        "remove rows that nearly repeat others, or use float64. Or alpha is far above what "
        "weights become: take a smaller one."
    )
    not_converged = (
        "The run took all its steps and has not converged: its residual is not small, or only just "
        "passed 0. Where it oscillates, at the scale of the learning rate, take a smaller or "
        "decaying learning rate or a larger epsilon; else more steps."
    )
    diverged = (
        "The run diverged: its loss became infinite or a million times that of the start, after "
        "`diverged_at` steps. Take a smaller learning rate."
    )
    flat_objective = (
        "The objective does not depend on epsilon beyond rounding, so that none is best. (A block "
        "of one column, or of equal entries, has no KKT error at any.) Use another objective."
    )
    at_lower_bound = (
        "The objective is least at the lower bound of epsilon: there is no minimum inside. Use a "
        "lower bound to look further; as epsilon falls to 0 the flow becomes sign descent."
    )
    at_upper_bound = (
        "The objective is least at the upper bound of epsilon: there is no minimum inside. Use a "
        "higher bound to look further; as epsilon grows the flow becomes gradient descent."
    )
    several_minima = (
        "The objective has several local minima in epsilon; this is the least of those that a "
        "sweep of 24 values saw. Use narrower bounds to look closer."
    )
    search_not_converged = (
        "The search for the best epsilon did not converge: the objective may have a kink or a jump "
        "there. Use narrower bounds, or epsilon0 near it."
    )


def from_codes(codes: Int[ArrayLike, "..."]) -> RESULTS:
    """The first failure of a batch of codes of outcomes (success if there is none)."""
    codes = jnp.ravel(jnp.asarray(codes))
    first = codes[jnp.argmax(codes != 0)]
    return eqx.tree_at(lambda result: result._value, RESULTS.successful, first)


def worst(result: RESULTS) -> RESULTS:
    """The first failure of a batch of outcomes (success if there is none)."""
    return from_codes(result._value)


def combine(*outcomes: RESULTS) -> RESULTS:
    """The first outcome that is a failure, else success."""
    first, *rest = outcomes
    for other in rest:
        first = RESULTS.where(first == RESULTS.successful, other, first)
    return first


def check(ok: Bool[Array, ""], otherwise: RESULTS) -> RESULTS:
    """`successful` where `ok`, else the given outcome."""
    return RESULTS.where(ok, RESULTS.successful, otherwise)


def mask_failed(result: RESULTS, values: PyTree) -> PyTree:
    """NaN in every float leaf of `values` where `result` is a failure.

    Both branches are finite wherever the solve is, so derivatives of good members stay clean.
    """
    ok = result == RESULTS.successful

    def mask(leaf: Array) -> Array:
        return jnp.where(ok, leaf, jnp.nan) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(mask, values)
