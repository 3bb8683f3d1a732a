"""What ε is tuned for: a smooth form to differentiate, its value for people, its size for noise.

A norm has a kink where it is 0, which is where the best ε of one block is; half its square does
not. Noise is judged in the objective itself, or in its root where that is the smooth thing.
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._kkt import bregman, bregman_gap, bregman_minimizer, kkt
from .._limit import Limit
from .._problem import Problem


class Objective(NamedTuple):
    """A smooth function of a limit, and what it is the smooth form of.

    - `smooth`: (problem, limit) to a scalar to minimise, and the scalar it is small beside.
    - `value`: from the smooth form to what is reported.
    - `level`: from the smooth form to a number whose error is that of the limit.
    """

    smooth: Callable[[Problem, Limit], tuple[Float[Array, ""], Float[Array, ""]]]
    value: Callable[[Float[Array, "..."]], Float[Array, "..."]]
    level: Callable[[Float[Array, "..."]], Float[Array, "..."]]


def _norm(square: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.sqrt(2 * jnp.maximum(square, 0))


def _same(value: Float[Array, "..."]) -> Float[Array, "..."]:
    return value


def _half_square(vector: Float[Array, " d"]) -> Float[Array, ""]:
    return jnp.sum(vector**2) / 2


def _kkt_error(problem: Problem, limit: Limit):
    move = limit.dual - limit.dual_reference
    return _half_square(kkt(problem, limit).stationarity), _half_square(move)


def _bregman_gap(problem: Problem, limit: Limit):
    return bregman_gap(problem, limit), bregman(limit, limit.beta)


def _distance(problem: Problem, limit: Limit):
    apart = limit.beta - bregman_minimizer(problem, limit)
    return _half_square(apart), _half_square(limit.beta)


OBJECTIVES = {
    "kkt_error": Objective(_kkt_error, _norm, _norm),
    "bregman_gap": Objective(_bregman_gap, _same, _norm),
    "distance_to_minimizer": Objective(_distance, _norm, _norm),
}


def as_objective(objective: str | Callable[[Problem, Limit], Array]) -> Objective:
    """One of ours by name, or a user's function (problem, limit) to a scalar."""
    if isinstance(objective, str) and objective in OBJECTIVES:
        return OBJECTIVES[objective]
    if not callable(objective) or not _takes_two(objective):
        names = ", ".join(map(repr, OBJECTIVES))
        raise ValueError(
            f"objective must be one of {names} or a function of problem and limit, but is "
            f"{objective!r}."
        )

    def smooth(problem: Problem, limit: Limit):
        value = objective(problem, limit)
        if not eqx.is_array_like(value):
            raise ValueError(f"objective must return a scalar, but gives {value!r}.")
        value = jnp.asarray(value)
        if value.shape != ():
            raise ValueError(f"objective must return a scalar, but its shape is {value.shape}.")
        return value, jnp.abs(value)

    return Objective(smooth, _same, _same)


def _takes_two(function: Callable) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # of a built-in, which does not say
        pass
    return True
