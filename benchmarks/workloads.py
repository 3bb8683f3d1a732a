"""What is solved: problems, cases, and how wrong an answer is."""

from typing import NamedTuple

import jax
import numpy as np

import jaxmd_sign as jms


class Workload(NamedTuple):
    """A block problem, and the ε and α of its cases, log-uniform."""

    name: str
    problem: jms.Problem
    epsilon: np.ndarray
    alpha: np.ndarray


def example() -> jms.Problem:
    """One block of two columns."""
    return jms.Problem([[1.3, 0.7]], [1.0])


def ten_blocks() -> jms.Problem:
    """Ten of them."""
    return jms.random_block_problem(jax.random.key(0), 10, 2)


def workload(name: str, num_cases: int) -> Workload:
    """W1 (one block) or W2 (ten), ε in [1e-4, 1e-1] and α in [1e-2, 1e-1]."""
    rng = np.random.default_rng(0)
    epsilon, alpha = 10 ** rng.uniform(-4, -1, num_cases), 10 ** rng.uniform(-2, -1, num_cases)
    return Workload(name, example() if name == "W1" else ten_blocks(), epsilon, alpha)


def blocks_of(problem: jms.Problem) -> tuple[np.ndarray, np.ndarray]:
    """Entries (n, k) and labels (n,) of a block problem, for those who split it by hand."""
    return np.asarray(problem.data.x), np.asarray(problem.y)


def worst_error(beta: np.ndarray, truth: np.ndarray) -> float:
    """The largest error of β in any case and block, relative to the block's largest entry."""
    wrong, size = np.max(np.abs(beta - truth), axis=-1), np.max(np.abs(truth), axis=-1)
    return float(np.max(wrong / size))
