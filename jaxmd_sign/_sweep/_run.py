"""Chunks in, solved chunks out, in whatever order they are done; each has its own fixed place."""

import math
import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cache
from itertools import islice
from typing import Any

import jax
import numpy as np

from .._threads import as_here
from ._cases import start_cases
from ._devices import num_threads
from ._manifest import mark
from ._plan import Chunk, Plan

Solved = tuple[Chunk, dict[str, np.ndarray] | None, dict[str, Any]]
"""A chunk, its values (None: they are in the store already) and its mark."""

_compiled: set[Any] = set()  # what this process has solved before, so that it need not compile


def solve_chunks(plan: Plan, todo: Iterable[int]) -> Generator[Solved, None, None]:
    """Begin to solve these chunks, several at a time; stopping waits for those that have begun."""
    solved = _solved(plan, list(todo))
    next(solved)
    return solved


def _solved(plan: Plan, todo: list[int]) -> Generator[Any, None, None]:
    """The chunks, after a first `next` that begins."""
    threads, key = num_threads(plan.problem), _key(plan)
    known = key in _compiled
    # This thread has the first where threads that meet a new program would each compile it; and the
    # last where each thread has one: to wake a thread takes as long as 75 cases.
    here = todo[:1] if not known else todo[-1:] if len(todo) <= threads else []
    others = (index for index in todo if index not in here)
    pool, solve = _pool(threads, os.getpid()), as_here(_solve)
    pending: set[Future[Solved]] = set()

    def begin() -> None:
        ahead = islice(others, threads + 1 - len(pending))
        pending.update(pool.submit(solve, plan, index) for index in ahead)

    try:
        if known:
            begin()
        begun = [_start(plan, index) for index in here]
        yield None
        for collect in begun:
            yield collect()
            _compiled.add(key)
        while True:
            begin()
            if not pending:
                return
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            pending -= done
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


def _start(plan: Plan, index: int) -> Callable[[], Solved]:
    """Begin to solve a chunk; to call what it returns waits for it."""
    chunk, cases = chunk_cases(plan, index)
    collect = start_cases(plan.problem, plan.settings, *cases)

    def solved() -> Solved:
        values = {name: value[: chunk.stop - chunk.start] for name, value in collect().items()}
        return chunk, values, mark(chunk.start, values["result"])

    return solved


def _solve(plan: Plan, index: int) -> Solved:
    return _start(plan, index)()


def _key(plan: Plan) -> Any:
    leaves, structure = jax.tree.flatten(plan.problem)
    return plan.settings, structure, tuple(leaf.shape for leaf in leaves), plan.tile
