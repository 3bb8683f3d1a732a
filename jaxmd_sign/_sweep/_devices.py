"""What computes: every local device through `shard_map`; on one CPU, a thread for each core."""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata
from jax.sharding import Mesh, PartitionSpec

from .._linear import is_cpu
from .._problem import Blocks, Problem


def over_devices(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(shared, parts)`, the first axis of `parts` split over all local devices.

    Inside a compiled function; that axis must be a multiple of `num_devices()`. Each device runs
    its own loops to their own end: there is no collective in the program.
    """
    devices = jax.local_devices()
    if len(devices) == 1:
        return function
    parts = PartitionSpec("parts")
    return jax.shard_map(
        function,
        mesh=Mesh(np.array(devices), ("parts",)),
        in_specs=(PartitionSpec(), parts),
        out_specs=parts,
        check_vma=False,  # else loops that start from constants are refused
    )


def as_one_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of arrays, on a CPU compiled to one kernel, where it would be one for each array.

    Inside a compiled function; within another one, a part whose results are formed once. Not for
    what multiplies matrices or sums along an axis: XLA may have kernels of its own for that, and
    refuses. On other things (jaxlib 0.10.2) it aborts, so compile every kind that there is.
    """
    if not is_cpu():
        return function
    marks = {"xla_cpu_small_call": "true", "inlineable": "false"}
    return lambda *args: set_xla_metadata(jax.jit(function)(*args), **marks)


def num_devices() -> int:
    """How many local devices there are."""
    return len(jax.local_devices())


def num_threads(problem: Problem) -> int:
    """Python threads that call the compiled function, which lets go of the interpreter.

    One where several devices share the work, and for a general X, whose cases have their own.
    """
    return own_threads() if isinstance(problem.data, Blocks) else 1


def own_threads() -> int:
    """As many threads as cores, where nothing else shares the work out."""
    return num_cores() if is_cpu() and num_devices() == 1 else 1


def num_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
