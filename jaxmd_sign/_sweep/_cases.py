"""The cases of one chunk, solved: where a faster engine takes over from the adaptive solver."""

import numpy as np

from .._problem import Problem
from ._adaptive import solve_adaptively
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
    return solve_adaptively(problems, settings, which, epsilon, alpha)
