"""Chunks in, solved chunks out, in whatever order they are done; each has its own fixed place."""

import math
import os
from collections.abc import Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cache
from itertools import islice
from typing import Any

import jax
import numpy as np

from .._threads import as_here
from ._cases import solve_cases
from ._devices import num_threads
from ._manifest import mark
from ._plan import Chunk, Plan

Solved = tuple[Chunk, dict[str, np.ndarray] | None, dict[str, Any]]
"""A chunk, its values (None: they are in the store already) and its mark."""

_compiled: set[Any] = set()  # what this process has solved before, so that it need not compile


def solve_chunks(plan: Plan, todo: Iterable[int]) -> Generator[Solved, None, None]:
    """Solve these chunks, several at a time; stopping waits for those that have begun."""
    todo = iter(todo)
    for index in islice(todo, 0 if _key(plan) in _compiled else 1):
        # Alone: threads that meet a new program would each compile it.
        yield _solve(plan, index)
        _compiled.add(_key(plan))
    threads = num_threads(plan.problem)
    rest = list(todo)
    # To wake a thread takes as long as 75 cases. Where each has one chunk, this one has the last.
    here = rest.pop() if 0 < len(rest) <= threads else None
    todo = iter(rest)
    pool, solve = _pool(threads, os.getpid()), as_here(_solve)
    pending: set[Future[Solved]] = set()
    try:
        while True:
            ahead = islice(todo, threads + 1 - len(pending))
            pending |= {pool.submit(solve, plan, index) for index in ahead}
            if here is not None:
                yield _solve(plan, here)
                here = None
            if not pending:
                return
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        wait([future for future in pending if not future.cancel()])


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Kept, since starting threads takes as long as 500 cases; a forked process has its own."""
    del process
    return ThreadPoolExecutor(threads, "sweep")


def chunk_cases(
    plan: Plan, index: int
) -> tuple[Chunk, tuple[np.ndarray | None, np.ndarray, np.ndarray]]:
    """A chunk and its cases: as many as in any other, since another length would compile anew."""
    chunk = plan.chunk(index)
    flat = chunk.start + np.arange(math.prod(plan.tile))
    return chunk, plan.cases(np.minimum(flat, chunk.stop - 1))


def _solve(plan: Plan, index: int) -> Solved:
    chunk, cases = chunk_cases(plan, index)
    solved = solve_cases(plan.problem, plan.settings, *cases)
    values = {name: value[: chunk.stop - chunk.start] for name, value in solved.items()}
    return chunk, values, mark(chunk.start, values["result"])


def _key(plan: Plan) -> Any:
    leaves, structure = jax.tree.flatten(plan.problem)
    return plan.settings, structure, tuple(leaf.shape for leaf in leaves), plan.tile
