"""What every solve is given: problem, rule and α, checked and in one dtype."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._adam import AdamFlow
from ._checks import Numbers, all_finite, all_positive, as_positive, matches_coordinates
from ._problem import Problem, check_problem
from ._rules import AbstractRule

Rule = AbstractRule | AdamFlow


def prepare(
    problem: Problem, rule: Rule, alpha: Numbers, depth: int
) -> tuple[Rule, Float[Array, "..."]]:
    """Rule and α checked and in the problem's dtype."""
    check_problem(problem)
    if not isinstance(rule, AbstractRule | AdamFlow):
        raise ValueError(f"rule must be a rule such as SmoothedSign(0.1), but is {rule!r}.")
    check_depth(depth, rule.has_epsilon)
    alpha = as_positive("alpha", alpha, problem.dtype)
    matches_coordinates("alpha", alpha, problem.num_features)

    def cast(epsilon: Float[Array, "..."]) -> Float[Array, "..."]:
        matches_coordinates("epsilon", epsilon, problem.num_features)
        return epsilon.astype(problem.dtype)

    return rule.map_epsilon(cast), alpha


def check_depth(depth: int, has_epsilon: bool = True) -> None:
    whole = isinstance(depth, int) and not isinstance(depth, bool)
    if not whole or depth not in range(2, 9):
        raise ValueError(f"depth must be a whole number from 2 to 8, but is {depth!r}.")
    if depth > 2 and not has_epsilon:
        raise ValueError(
            f"depth must be 2 for gradient descent, whose deeper models have another potential, "
            f"but is {depth}. Use SmoothedSign."
        )


def made_usable(
    problem: Problem, rule: Rule, alpha: Float[Array, "..."]
) -> tuple[Bool[Array, ""], Problem, Rule, Float[Array, "..."]]:
    """Whether traced values are what concrete ones must be, and harmless ones where they are not.

    A bad member of a batch must not keep the others waiting in a loop that cannot end, nor send
    NaN into their derivatives.
    """
    data, *indices = jax.tree.leaves(problem.data)
    ok = all_positive(alpha, *jax.tree.leaves(rule)) & all_finite(problem.y, data)

    def harmless(value: Array) -> Array:
        return jnp.where(ok, value, 1)

    leaves = [harmless(data), *indices]
    safe = Problem(
        jax.tree.unflatten(jax.tree.structure(problem.data), leaves), harmless(problem.y)
    )
    return ok, safe, jax.tree.map(harmless, rule), harmless(alpha)
