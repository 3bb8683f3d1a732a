"""What is solved: problems, cases, and how wrong an answer is."""

from typing import NamedTuple

import jax
import numpy as np

import jaxmd_sign as jms

from .lanes import Lanes


class Workload(NamedTuple):
    """A block problem, and the ε and α of its cases, log-uniform."""

    problem: jms.Problem
    epsilon: np.ndarray
    alpha: np.ndarray

    def some(self, count: int) -> "Workload":
        """The first of them."""
        return self._replace(epsilon=self.epsilon[:count], alpha=self.alpha[:count])

    def lanes(self) -> Lanes:
        """Every block of every case as a problem of its own, the blocks of a case together."""
        x, y = blocks_of(self.problem)
        cases = len(self.epsilon)
        return Lanes(
            np.tile(np.abs(x), (cases, 1)),
            np.tile(np.abs(y), cases),
            np.repeat(self.epsilon, len(y)),
            np.repeat(self.alpha, len(y)),
        )


def example() -> jms.Problem:
    """One block of two columns."""
    return jms.Problem([[1.3, 0.7]], [1.0])


def ten_blocks() -> jms.Problem:
    """Ten of them."""
    return jms.random_block_problem(jax.random.key(0), 10, 2)


def workload(problem: jms.Problem, num_cases: int) -> Workload:
    """ε in [1e-4, 1e-1] and α in [1e-2, 1e-1]."""
    rng = np.random.default_rng(0)
    epsilon, alpha = rng.uniform((-4, -2), (-1, -1), (num_cases, 2)).T
    return Workload(problem, 10**epsilon, 10**alpha)


def random_blocks(num_blocks: int, size: int) -> jms.Problem:
    """Entries and labels uniform in [0.3, 2] and [0.5, 2]."""
    rng = np.random.default_rng(2)
    x = rng.uniform(0.3, 2, (num_blocks, size))
    return jms.Problem.from_blocks(x, rng.uniform(0.5, 2, num_blocks))


def blocks_of(problem: jms.Problem) -> tuple[np.ndarray, np.ndarray]:
    """Entries (n, k) and labels (n,) of a block problem, for those who split it by hand."""
    return np.asarray(problem.data.x), np.asarray(problem.y)


def lane_betas(problem: jms.Problem, beta: np.ndarray) -> np.ndarray:
    """β (cases, d) as |β| of every lane, (lanes, k); its signs are those of x y."""
    x, y = blocks_of(problem)
    columns = np.asarray(problem.data.columns)
    return (np.sign(x * y[:, None]) * beta[:, columns]).reshape(-1, x.shape[1])


def worst_error(beta: np.ndarray, truth: np.ndarray) -> float:
    """The largest error of β (..., k), relative to the largest entry of its block."""
    wrong, size = np.max(np.abs(beta - truth), axis=-1), np.max(np.abs(truth), axis=-1)
    return float(np.max(wrong / size))
