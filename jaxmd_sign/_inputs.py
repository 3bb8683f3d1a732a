"""What every solve is given: problem, rule and α, checked and in one dtype."""

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from ._checks import all_finite, all_positive, as_positive, matches_coordinates
from ._problem import Problem
from ._rules import AbstractRule


def prepare(
    problem: Problem, rule: AbstractRule, alpha: ArrayLike
) -> tuple[AbstractRule, Float[Array, "..."]]:
    """Rule and α checked and in the problem's dtype."""
    if not isinstance(problem, Problem):
        raise ValueError(f"problem must be a Problem, but is a {type(problem).__name__}.")
    if not isinstance(rule, AbstractRule):
        raise ValueError(f"rule must be a rule such as SmoothedSign(0.1), but is {rule!r}.")
    alpha = as_positive("alpha", alpha, problem.dtype)
    matches_coordinates("alpha", alpha, problem.num_features)

    def cast(epsilon: Float[Array, "..."]) -> Float[Array, "..."]:
        matches_coordinates("epsilon", epsilon, problem.num_features)
        return epsilon.astype(problem.dtype)

    return rule.map_epsilon(cast), alpha


def usable_input(
    problem: Problem, rule: AbstractRule, alpha: Float[Array, "..."]
) -> Bool[Array, ""]:
    """Whether traced values are what concrete ones must be."""
    data, *_ = jax.tree.leaves(problem.data)
    return all_positive(alpha, *jax.tree.leaves(rule)) & all_finite(problem.y, data)
