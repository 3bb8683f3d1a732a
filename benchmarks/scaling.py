"""How the cost of a case grows with cases, blocks, columns, 1/ε, cores; what a store costs."""

import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxmd_sign as jms

from .contest import in_turns
from .workloads import example, random_blocks, workload


def sweep_times(sizes: dict[Any, tuple[jms.Problem, int, float, float]], turns: int = 3) -> dict:
    """µs a case of sweeps, every variable, ε between two numbers; all of a curve in turns."""
    runs, scale = {}, {}
    for key, (problem, cases, low, high) in sizes.items():
        rng = np.random.default_rng(1)
        epsilon = 10 ** rng.uniform(np.log10(low), np.log10(high), cases)
        alpha = 10 ** rng.uniform(-2, -1, cases)
        runs[str(key)] = partial(jms.sweep, problem, epsilon, alpha, product=False)
        scale[str(key)] = 1e6 / cases
    return in_turns(runs, turns, scale)


def cases(quick: bool) -> dict[str, Any]:
    """One block; 1 … 10⁶ cases."""
    powers = (0, 3, 5) if quick else range(7)
    sizes = {10**power: (example(), 10**power, 1e-4, 1e-1) for power in powers}
    return {"unit": "µs a case", "rows": sweep_times(sizes)}


def blocks(quick: bool) -> dict[str, Any]:
    """Blocks of two columns; 1 … 10⁵ of them."""
    most = 20_000 if quick else 100_000
    numbers = (1, 100, 10_000) if quick else (1, 10, 100, 1_000, 10_000, 100_000)
    sizes = {n: (random_blocks(n, 2), max(1, most // n), 1e-4, 1e-1) for n in numbers}
    return {"unit": "µs a case", "rows": sweep_times(sizes)}


def epsilons(quick: bool) -> dict[str, Any]:
    """One block; ε = 0.1 … 10⁻⁸."""
    count = 8_192 if quick else 65_536
    sizes = {f"1e-{p}": (example(), count, 10.0**-p, 10.0**-p) for p in range(1, 9)}
    return {"unit": "µs a case", "rows": sweep_times(sizes)}


def columns(quick: bool) -> dict[str, Any]:
    """One block of 1 … 1,000 columns; above some 20 the adaptive solver takes over."""
    most = 8_192 if quick else 65_536
    sizes = (2, 5, 20) if quick else (1, 2, 3, 5, 10, 20, 40, 100, 200, 500, 1_000)
    some = {
        k: (random_blocks(1, k), int(np.clip(most // k**1.5, 32, most)), 1e-4, 1e-1) for k in sizes
    }
    return {"unit": "µs a case", "rows": sweep_times(some, 2)}


def cores(quick: bool) -> dict[str, Any]:
    """The same sweep on one core, two, … as many as there are, each in a process of its own."""
    if not hasattr(os, "sched_setaffinity"):
        return {"skipped": "the system cannot bind a process to cores"}
    free = sorted(os.sched_getaffinity(0))
    spawn = multiprocessing.get_context("spawn")
    count, found = 32_768 if quick else 262_144, {}
    for number in sorted({1, min(2, len(free)), len(free)}):
        bound = (0, free[:number])
        with ProcessPoolExecutor(1, spawn, os.sched_setaffinity, bound) as pool:
            found[str(number)] = pool.submit(_one_sweep, count).result()
    most = found["1"]["median"]
    for number, record in found.items():
        record["efficiency"] = most / record["median"] / int(number)
    return {"unit": "µs a case", "rows": found}


def _one_sweep(count):
    jax.config.update("jax_enable_x64", True)
    return sweep_times({"all": (example(), count, 1e-4, 1e-1)}, 5)["all"]


def store(quick: bool) -> dict[str, Any]:
    """A sweep in memory and into a store, and the peak memory of a process that does the latter."""
    count = 125_000 if quick else 1_000_000
    work = workload(example(), count)
    with tempfile.TemporaryDirectory() as folder:
        paths = (Path(folder) / f"{i}.zarr" for i in range(99))
        rows = in_turns(
            {
                "in memory": lambda: jms.sweep(*work, product=False),
                "into a store": lambda: jms.sweep(*work, product=False, store=next(paths)),
            },
            3,
            1e6 / count,
        )
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        peak = pool.submit(_peak, count).result()
    return {"unit": "µs a case", "rows": rows, "cases": count, "peak_mb": peak}


def _peak(count):
    """MB of a process after one sweep into a store."""
    jax.config.update("jax_enable_x64", True)
    with tempfile.TemporaryDirectory() as folder:
        jms.sweep(*workload(example(), count), product=False, store=Path(folder) / "s.zarr")
    return peak_mb()


def peak_mb() -> float:
    """The most memory that this process has used; not that of its children."""
    # Not `getrusage`, whose peak a child inherits from its parent.
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
