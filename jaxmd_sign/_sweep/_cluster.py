"""A sweep on a `dask.distributed` cluster: a chunk is a task, and a task that dies is done again.

A worker that sees the store writes its chunk there itself; what another worker solved comes back to
the client, who writes it. Nothing but the store and the package need be on the workers.
"""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._problem import Problem
from ._cases import start_cases
from ._manifest import has_token, mark, new_token
from ._plan import Chunk, Plan
from ._run import Solved, chunk_cases
from ._settings import Settings
from ._store import write_chunk

_PATIENCE = 60.0  # seconds without any worker
_AGAIN = "Call again when that is mended: what is done stays in the store."
_one_compiles = threading.Lock()  # on a worker of several threads: XLA itself uses all cores


class ClusterError(RuntimeError):
    """The cluster failed, not the sweep."""


@contextmanager
def cluster(scheduler: str | None, workers: int | None) -> Iterator[Any]:
    """A client of the cluster at an address, or of worker processes of its own; else None."""
    if scheduler is None and workers is None:
        yield None
        return
    if scheduler is not None and workers is not None:
        raise ValueError("scheduler and workers: give one of them, not both.")
    distributed = _distributed()
    if scheduler is not None:
        try:
            client = distributed.Client(scheduler, timeout=10)
        except (OSError, ValueError) as error:
            raise ValueError(f"scheduler {scheduler} cannot be reached ({error}).") from None
        with client:
            yield client
        return
    assert workers is not None
    if workers < 1:
        raise ValueError(f"workers must be a positive whole number, but is {workers}.")
    own = distributed.LocalCluster(  # any free port: the usual one may be taken
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0"
    )
    with own, distributed.Client(own) as client:
        yield client


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise ValueError(
            "client, scheduler and workers need dask: pip install 'jaxmd-sign[dask]'."
        ) from None
    return distributed


def solve_on_cluster(
    plan: Plan, todo: Iterable[int], client: Any, store: Path | None
) -> Generator[Solved, None, None]:
    """As `solve_chunks`; the values are None where a worker has written them to the store."""
    distributed, todo = _distributed(), iter(todo)
    where = None if store is None else (str(store.resolve()), new_token(store), plan.tile)
    # A task rather than scattered data: it is done again where its worker dies.
    problem = client.submit(_same, jax.tree.map(np.asarray, plan.problem), pure=False)
    pending, seen = set(), time.monotonic()
    try:
        while True:
            threads = _num_threads(client)
            seen = time.monotonic() if threads else seen
            if time.monotonic() - seen > _PATIENCE:
                raise ClusterError(f"the cluster has had no worker for {_PATIENCE:.0f} s. {_AGAIN}")
            for index in islice(todo, max(0, 2 * threads - len(pending))):
                task = (problem, plan.settings, *chunk_cases(plan, index), where)
                pending.add(client.submit(_solve, *task, pure=False))
            if threads and not pending:
                return
            done = _finished(distributed, pending)
            pending -= done
            for future in done:
                yield _result(distributed, future)
    finally:
        client.cancel(list(pending))


def _num_threads(client: Any) -> int:
    try:
        return sum(client.nthreads().values())
    except OSError as error:
        raise ClusterError(f"the scheduler does not answer ({error}). {_AGAIN}") from None


def _finished(distributed: Any, pending: set[Any]) -> set[Any]:
    """What is done within a second."""
    if not pending:  # no worker yet
        time.sleep(0.1)
        return set()
    try:
        return set(distributed.wait(pending, timeout=1, return_when="FIRST_COMPLETED").done)
    except TimeoutError:
        return set()


def _result(distributed: Any, future: Any) -> Solved:
    try:
        return future.result()
    except distributed.KilledWorker:
        raise ClusterError(
            f"several workers died of one chunk, perhaps for want of memory. {_AGAIN}"
        ) from None
    except (asyncio.CancelledError, concurrent.futures.CancelledError):
        raise ClusterError(f"the scheduler is gone. {_AGAIN}") from None


def _same(problem: Problem) -> Problem:
    return problem


def _solve(
    problem: Problem,
    settings: Settings,
    chunk: Chunk,
    cases: tuple[np.ndarray | None, np.ndarray, np.ndarray],
    where: tuple[str, str, tuple[int, ...]] | None,
) -> Solved:
    """On a worker: solve a chunk, and write it if the store is in sight."""
    if settings.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    with _one_compiles:
        solved = start_cases(problem, settings, *cases)()
    values = {name: value[: chunk.stop - chunk.start] for name, value in solved.items()}
    if where is not None and has_token(Path(where[0]), where[1]):
        return chunk, None, write_chunk(Path(where[0]), where[2], chunk, values)
    return chunk, values, mark(chunk.start, values["result"])
