"""The cases of one chunk: by an engine for many where one can, by the adaptive solver else."""

import numpy as np

from .._problem import Problem
from ._adaptive import solve_adaptively
from ._fixed import first_steps, solve_fixed
from ._general import is_general, solve_general
from ._plan import Settings


def solve_cases(
    problems: Problem,
    settings: Settings,
    which: np.ndarray | None,
    epsilon: np.ndarray,
    alpha: np.ndarray,
) -> dict[str, np.ndarray]:
    """Every wanted variable of B cases, each an array with leading axis B in the given order.

    **Arguments:**

    - `problems`: one problem (`which` is None), or several stacked along a first axis.
    - `settings`: how to solve, and which variables are wanted.
    - `which`: number of the problem of each case, (B,).
    - `epsilon`, `alpha`: (B,), in the problem's dtype. Any B: what compiles pads by itself.

    **Returns:** the variables by name. A failed case is NaN with its code in `result`.
    """
    num_steps = first_steps(problems, settings)
    if num_steps is not None:
        values, left = solve_fixed(problems, settings, which, epsilon, alpha, num_steps)
    elif is_general(problems, settings):
        values, left = solve_general(problems, settings, which, epsilon, alpha)
    else:
        return solve_adaptively(problems, settings, which, epsilon, alpha)
    if left.size:
        chosen = None if which is None else which[left]
        rest = solve_adaptively(problems, settings, chosen, epsilon[left], alpha[left])
        for name, value in rest.items():
            values[name] = values[name].copy() if not values[name].flags.writeable else values[name]
            values[name][left] = value
    return values
