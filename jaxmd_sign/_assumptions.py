"""Where a case stands with the assumptions of the source: what holds, and by how much."""

import equinox as eqx
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from ._checks import as_positive, matches_coordinates
from ._extremes import amax, amin
from ._problem import Blocks, Problem, check_problem


class Assumptions(eqx.Module):
    """Which assumptions hold; a margin is relative to its bound and negative where one fails.

    - `structure` (3.2): X is block-diagonal and every label is non-zero. Margin: min |y| / max |y|;
        minus the share of columns that several rows use for a general X.
    - `smallness` (3.3): ε and α are small enough in every block. Margin: the smaller of
        `epsilon_margin` = min (1 − ε / (½ min_i a_i Y α)) and
        `alpha_margin` = min (1 − α² / (Y / 18‖x‖₁)); NaN for a general X.
    - `pairs` (3.8): every block has 2 columns. Margin: −max |columns − 2| / 2, 0 where it holds;
        NaN for a general X.
    """

    structure: Bool[Array, ""]
    structure_margin: Float[Array, ""]
    smallness: Bool[Array, ""]
    smallness_margin: Float[Array, ""]
    epsilon_margin: Float[Array, ""]
    alpha_margin: Float[Array, ""]
    pairs: Bool[Array, ""]
    pairs_margin: Float[Array, ""]


def check_assumptions(problem: Problem, epsilon: ArrayLike, alpha: ArrayLike) -> Assumptions:
    r"""Assumptions 3.2, 3.3 and 3.8 on one case, with margins.

    The constants of 3.3 could not be recovered from the source; ε ≤ ½ min_i a_i Y α and
    α² ≤ Y/(18‖x‖₁) for every block (a = |x|, Y = |y|) are ours. Dead columns do not count. Of an ε
    or α per coordinate the worst in its block counts.

    **Arguments:**

    - `problem`: a `Problem` with X (n, d).
    - `epsilon`: the stability constant ε > 0, a scalar or one number per coordinate (d,).
    - `alpha`: initial weights α > 0, a scalar or one number per coordinate (d,).

    **Returns:** an `Assumptions`. Batch ε and α with `jax.vmap`.

    **Raises:** `ValueError` for bad concrete arguments; traced ones give NaN.

    !!! example
        >>> case = check_assumptions(Problem([[1.3, 0.7]], [1.0]), 0.01, 0.05)
        >>> case.smallness, case.smallness_margin.round(4)
        (Array(True, dtype=bool), Array(0.4286, dtype=float64))
    """
    check_problem(problem)
    epsilon = as_positive("epsilon", epsilon, problem.dtype)
    alpha = as_positive("alpha", alpha, problem.dtype)
    matches_coordinates("epsilon", epsilon, problem.num_features)
    matches_coordinates("alpha", alpha, problem.num_features)
    if not isinstance(problem.data, Blocks):
        return _general(problem)
    live, Y = problem.data.x != 0, jnp.abs(problem.y)
    structure_margin = amin(Y) / amax(Y)
    epsilon_margin, alpha_margin = _smallness(problem.data, Y, epsilon, alpha, live)
    smallness_margin = jnp.minimum(epsilon_margin, alpha_margin)
    pairs_margin = -amax(jnp.abs(jnp.sum(live, axis=-1) - 2)) / 2
    return Assumptions(
        structure=structure_margin > 0,
        structure_margin=structure_margin,
        smallness=smallness_margin >= 0,
        smallness_margin=smallness_margin,
        epsilon_margin=epsilon_margin,
        alpha_margin=alpha_margin,
        pairs=pairs_margin == 0,
        pairs_margin=pairs_margin.astype(problem.dtype),
    )


def _smallness(
    data: Blocks,
    Y: Float[Array, " n"],
    epsilon: Float[Array, "..."],
    alpha: Float[Array, "..."],
    live: Bool[Array, "n k"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The margins of ε and α in 3.3, over the blocks; NaN where either is not positive."""

    def in_blocks(value):
        return data.gather(jnp.broadcast_to(value, (data.num_features,)))

    a, epsilon, alpha = jnp.abs(data.x), in_blocks(epsilon), in_blocks(alpha)
    least = amin(a, axis=-1, where=live, initial=jnp.inf)
    smallest = amin(alpha, axis=-1, where=live, initial=jnp.inf)
    largest = amax(alpha, axis=-1, where=live, initial=0)
    epsilon_bound = least * Y * smallest / 2
    alpha_bound = Y / (18 * jnp.sum(a, axis=-1))
    epsilon_margin = amin(1 - amax(epsilon, axis=-1, where=live, initial=0) / epsilon_bound)
    alpha_margin = amin(1 - largest**2 / alpha_bound)
    positive = jnp.all(jnp.where(live, (epsilon > 0) & (alpha > 0), True))
    return jnp.where(positive, epsilon_margin, jnp.nan), jnp.where(positive, alpha_margin, jnp.nan)


def _general(problem: Problem) -> Assumptions:
    """A general X fails 3.2 by the columns that its rows share; 3.3 and 3.8 say nothing of it."""
    shared = jnp.sum(problem.X != 0, axis=0) > 1
    no, none = jnp.array(False), jnp.asarray(jnp.nan, problem.dtype)
    return Assumptions(
        structure=no,
        structure_margin=-jnp.mean(shared, dtype=problem.dtype),
        smallness=no,
        smallness_margin=none,
        epsilon_margin=none,
        alpha_margin=none,
        pairs=no,
        pairs_margin=none,
    )
