"""Compiled programs: one pair for each depth and smoothing, made once, never on a slider's move.

They are compiled ahead of time: such a program cannot be traced again, and runs for any numbers.
"""

import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np

from .._problem import Problem
from ._case import Case, error_curve, solve_case

_AHEAD = [(2, "abs"), (3, "abs"), (2, "sqrt"), (2, "tanh"), (2, "clip"), (4, "abs")]
_locks: defaultdict[tuple[int, str], threading.Lock] = defaultdict(threading.Lock)


class Programs(NamedTuple):
    """`case(problem, epsilon, alpha)` and `curve(problem, alpha)`."""

    case: Any
    curve: Any


def programs(depth: int, smoothing: str) -> Programs:
    """The programs, compiled by whoever asks first; others wait for them."""
    with _locks[depth, smoothing]:
        return _compile(depth, smoothing)


@cache
def _compile(depth: int, smoothing: str) -> Programs:
    problem, number = Problem.from_blocks([[1.0, 1.0]], [1.0]), np.float64(1)
    settings = {"depth": depth, "smoothing": smoothing}
    case = jax.jit(partial(solve_case, **settings)).lower(problem, number, number)
    curve = jax.jit(partial(error_curve, **settings)).lower(problem, number)
    with ThreadPoolExecutor() as pool:
        return Programs(*pool.map(lambda lowered: lowered.compile(), (case, curve)))


def compile_ahead() -> None:
    """Compile what is asked for most, in a thread of its own; the rest waits to be asked for."""

    def work() -> None:
        for key in _AHEAD:
            programs(*key)

    threading.Thread(target=work, name="compile-ahead", daemon=True).start()


def solved_case(problem: Problem, epsilon: float, alpha: float, depth: int, smoothing: str) -> Case:
    """`solve_case`, as NumPy arrays."""
    found = programs(depth, smoothing).case(problem, np.float64(epsilon), np.float64(alpha))
    return jax.device_get(found)


def solved_curve(problem: Problem, alpha: float, depth: int, smoothing: str) -> np.ndarray:
    """`error_curve`, as a NumPy array."""
    return jax.device_get(programs(depth, smoothing).curve(problem, np.float64(alpha)))
