"""How peers use all cores: Numba's threads, processes for what holds the interpreter's lock."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from multiprocessing import get_context

import numpy as np


def num_cores() -> int:
    """Those of this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def with_numba():
    """Numba, all cores, and the widest vectors: LLVM would leave half of each unused."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features().flatten()
    os.environ.setdefault("NUMBA_CPU_FEATURES", features + ",-prefer-256-bit")
    import numba

    numba.set_num_threads(num_cores())
    return numba


@cache
def _processes():
    return ProcessPoolExecutor(num_cores(), get_context("spawn"))


def close() -> None:
    """End the processes: a process that is itself a child would wait for them for ever."""
    if _processes.cache_info().currsize:
        _processes().shutdown()


@cache
def _threads():
    return ThreadPoolExecutor(num_cores())


def shared(solve: Callable[..., np.ndarray], work, count: int, *more, threads: bool = False):
    """`solve(part, *more)` of all parts of the work, every so-manyth of it to each core.

    In processes, unless it lets go of the interpreter and can run in threads.
    """
    pool = _threads() if threads else _processes()
    parts = [np.arange(i, count, num_cores()) for i in range(num_cores())]
    jobs = [pool.submit(solve, work.take(part), *more) for part in parts if len(part)]
    found = np.concatenate([job.result() for job in jobs])
    return found[np.argsort(np.concatenate(parts))]
