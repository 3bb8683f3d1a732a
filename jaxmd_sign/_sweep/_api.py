"""Sweeps over ε, α and problems: the function that users call."""

import os
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import xarray as xr

from .._checks import Numbers
from .._files import as_path
from .._problem import Problem
from ._cluster import solve_on_cluster
from ._dataset import Memory
from ._manifest import total
from ._plan import Plan, make_plan
from ._progress import Progress
from ._run import solve_chunks
from ._store import Writer, load, marks_of_whole, open_store, to_do

MAX_STEPS = 65536


class Outcome(NamedTuple):
    """A sweep, and what there is to say of it: all its cases, and those solved now."""

    dataset: xr.Dataset
    plan: Plan
    total: dict[str, Any]
    solved: int
    seconds: float


def sweep(
    problem: Problem | Sequence[Problem],
    epsilon: Numbers,
    alpha: Numbers,
    *,
    product: bool = True,
    store: str | os.PathLike[str] | None = None,
    resume: bool = True,
    smoothing: str = "abs",
    depth: int = 2,
    reference: str = "start",
    rtol: float | None = 1e-6,
    variables: Sequence[str] | None = None,
    max_steps: int = MAX_STEPS,
    chunk_size: int | None = None,
    client: Any = None,
    progress: bool | None = None,
) -> xr.Dataset:
    r"""Limits of smoothed sign descent over ε × α: β_∞, its KKT error (15) and what D says of it.

    Solved in chunks, on all local devices and cores, in bounded memory where there is a store.
    Blocks take a few equal steps of the residual clock, about 21 for 1e-6, a general X those of a
    stabilised explicit method, and an estimate of the error of each; what is not good enough goes
    to an adaptive solver of Diffrax, as do `reference="warmup"`, `smoothing="clip"`, depths above
    2, and rtol below 3e-10, for a general X below 1e-8.

    **Arguments:**

    - `problem`: a `Problem`, or a sequence of them of one shape.
    - `epsilon`, `alpha`: numbers > 0, scalars or shape (m,).
    - `product`: every ε with every α; if False, the first with the first, and so on.
    - `store`: path of a Zarr store, written chunk by chunk. Killed at any moment, it is whole: the
        same call goes on where it stopped, and solves failed cases again. Needs the extra `store`.
    - `resume`: if False, refuse a store that exists.
    - `smoothing`, `depth`: of the rule and the model.
    - `reference`: where D is measured from, as in `solve_limit`.
    - `rtol`: relative tolerance of β_∞ in each block; the default is 1e-5 in float32, and None as
        in `solve_limit`. A looser one than 2e-5 over the columns of a block, or 5e-5 for a general
        X, is taken as that. `kkt_error_slope` is right to a hundred times that; on a general X it
        is NaN where its estimated error is larger, as for an ε of 1e-6 on real data.
    - `variables`: which variables to compute, by default all but `kkt_error_slope`, the derivative
        of `kkt_error` in ε. `result` always comes along.
    - `max_steps`: most solver steps per block. More of them may go on with a store of fewer.
    - `chunk_size`: most cases in a chunk, which is what a kill can cost each thread.
    - `client`: a `dask.distributed.Client` whose workers solve the chunks. Needs the extra `dask`.
    - `progress`: show a bar on stderr; by default if that is a terminal.

    **Returns:** an `xarray.Dataset` with dims `epsilon` and `alpha` (or `case`), `feature`, and
    `problem` first for a sequence of them. A failed case is NaN, its code in `result`, whose
    attributes have the table. From a store, values are read when used.

    **Raises:** `ValueError` for bad arguments, or a store of other settings (it says which).

    !!! example
        >>> found = sweep(Problem([[1.3, 0.7]], [1.0]), [0.01, 0.1, 1.0], [0.01, 0.05])
        >>> round(found.kkt_error.sel(epsilon=0.1, alpha=0.05).item(), 6)
        0.102383
    """
    return run_sweep(
        problem,
        epsilon,
        alpha,
        store=store,
        resume=resume,
        client=client,
        progress=progress,
        product=product,
        chunk_size=chunk_size,
        variables=variables,
        rtol=rtol,
        reference=reference,
        smoothing=smoothing,
        depth=depth,
        max_steps=max_steps,
    ).dataset


def run_sweep(
    problem: Problem | Sequence[Problem],
    epsilon: Numbers,
    alpha: Numbers,
    *,
    store: str | os.PathLike[str] | None = None,
    resume: bool = True,
    client: Any = None,
    progress: bool | None = None,
    **arguments: Any,
) -> Outcome:
    """As `sweep`, with a report."""
    plan = make_plan(problem, epsilon, alpha, **arguments)
    if client is not None and not hasattr(client, "submit"):
        raise ValueError(f"client must be a dask.distributed.Client, but is {client!r}.")
    if store is None:
        return _run(plan, None, {}, client, progress)
    path = as_path("store", store, "the path of a Zarr store")
    try:
        plan = open_store(path, plan, resume, arguments["chunk_size"] is not None)
        return _run(plan, path, marks_of_whole(path, plan), client, progress)
    except OSError as error:
        raise ValueError(
            f"store {path} cannot be written or read ({error.strerror or error}). Mend that and "
            "call again: what is done stays."
        ) from error


def _run(
    plan: Plan, path: Path | None, marks: dict[int, Any], client: Any, progress: bool | None
) -> Outcome:
    begin = time.perf_counter()
    todo = to_do(marks, plan)
    again = set(todo)
    done = total(mark for index, mark in marks.items() if index not in again)["cases"]
    if client is None:
        solve = partial(solve_chunks, plan, todo)
    else:
        solve = partial(solve_on_cluster, plan, todo, client, path)
    with (
        Progress(plan.num_cases, done, progress) as bar,
        closing(solve()) as chunks,
        # Made last: by then others solve.
        Memory(plan) if path is None else Writer(path, plan) as sink,
    ):
        for chunk, values, note in chunks:
            if values is not None:
                sink.put(chunk, values)
            marks[chunk.index] = note
            bar.advance(note["cases"], sum(note["failed"].values()))
    seconds = time.perf_counter() - begin
    dataset = sink.dataset if isinstance(sink, Memory) else load(sink.path, plan)
    return Outcome(dataset, plan, total(marks.values()), plan.num_cases - done, seconds)
