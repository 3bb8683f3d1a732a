"""How peers use all cores: Numba's threads, processes for what holds the interpreter's lock."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from multiprocessing import get_context

import numpy as np

from ..lanes import Lanes


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
def _pool():
    return ProcessPoolExecutor(num_cores(), get_context("spawn"))


@cache
def _threads():
    return ThreadPoolExecutor(num_cores())


def in_processes(solve: Callable[..., np.ndarray], lanes: Lanes, *more) -> np.ndarray:
    """Every so-manyth lane to each process, since the stiff ones take longest."""
    return _shared(_pool(), solve, lanes, *more)


def in_threads(solve: Callable[..., np.ndarray], lanes: Lanes, *more) -> np.ndarray:
    """The same in threads, for what lets go of the interpreter."""
    return _shared(_threads(), solve, lanes, *more)


def _shared(pool, solve, lanes, *more):
    parts = [np.arange(i, len(lanes.Y), num_cores()) for i in range(num_cores())]
    jobs = [pool.submit(solve, lanes.take(part), *more) for part in parts]
    found = np.concatenate([job.result() for job in jobs])
    return found[np.argsort(np.concatenate(parts))]
