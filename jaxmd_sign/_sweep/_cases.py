"""The cases of one chunk: by an engine for many where one can, by the adaptive solver else."""

from collections.abc import Callable
from functools import partial

import numpy as np

from .._problem import Problem
from ._adaptive import solve_adaptively
from ._fixed import start_fixed
from ._general import is_general, solve_general
from ._settings import Settings, first_steps

Values = dict[str, np.ndarray]


def start_cases(
    problems: Problem,
    settings: Settings,
    which: np.ndarray | None,
    epsilon: np.ndarray,
    alpha: np.ndarray,
) -> Callable[[], Values]:
    """Begin to solve B cases; to call what it returns waits for them.

    What JAX does by itself has begun when this returns, so that its caller has time for other
    things: the engine's program for blocks. All else is done in that call.

    **Arguments:**

    - `problems`: one problem (`which` is None), or several stacked along a first axis.
    - `settings`: how to solve, and which variables are wanted.
    - `which`: number of the problem of each case, (B,).
    - `epsilon`, `alpha`: (B,), in the problem's dtype. Any B: what compiles pads by itself.

    **Returns:** a function that gives the wanted variables by name, each an array with leading axis
    B in the given order. A failed case is NaN with its code in `result`.
    """
    given = problems, settings, which, epsilon, alpha
    num_steps = first_steps(problems, settings)
    if num_steps is not None:
        return partial(_with_others, given, start_fixed(*given, num_steps))
    if is_general(problems, settings):
        return partial(_with_others, given, partial(solve_general, *given))
    return partial(solve_adaptively, *given)


def _with_others(given, collect: Callable[[], tuple[Values, np.ndarray]]) -> Values:
    """What was found, the cases that are left by the adaptive solver."""
    values, left = collect()
    if left.size:
        problems, settings, which, epsilon, alpha = given
        chosen = None if which is None else which[left]
        rest = solve_adaptively(problems, settings, chosen, epsilon[left], alpha[left])
        for name, value in rest.items():
            values[name] = values[name].copy() if not values[name].flags.writeable else values[name]
            values[name][left] = value
    return values
