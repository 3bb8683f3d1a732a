"""How far the hot loop is from what the machine can do.

Work and traffic are counted in XLA's program of the loop; the machine's peaks are those of small
Numba kernels on all cores, in the same run: fused multiply-adds in registers, a stream through
memory, and divisions, which a step is full of.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmd_sign._sweep import _fixed
from jaxmd_sign._sweep._tables import Cases, tables

from .contest import in_turns
from .peers._cores import num_cores, with_numba
from .workloads import example

_STEPS = 21


def roofline(quick: bool) -> dict[str, Any]:
    """Floating-point operations and bytes a step and lane, rates, and shares of the peaks."""
    lanes = 2**15 if quick else 2**18
    program, arguments = compiled(lanes)
    counts = work_of_a_step(program.as_text())
    xla = program.cost_analysis()["flops"] / _fixed._width(lanes)
    try:
        peaks = _peaks(3 if quick else 9)
    except ImportError as reason:
        return {"skipped": f"peaks are measured by Numba: {reason}"}

    def on_every_core():
        jobs = [pool.submit(program, *arguments) for _ in range(num_cores())]
        jax.block_until_ready([job.result() for job in jobs])

    with ThreadPoolExecutor(num_cores()) as pool:
        work = lanes * _STEPS * num_cores()
        nanoseconds = in_turns({"engine": on_every_core}, 3 if quick else 9, 1e9 / work)["engine"]
    rates = {name: counts[name] / nanoseconds["median"] for name in peaks}
    return {
        "counts_a_step_and_lane": counts,
        "xla_flops_a_lane_one_step_and_both_ends": xla,
        "flops_a_byte": counts["flops"] / counts["bytes"],
        "ns_a_step_and_lane": nanoseconds,
        "peaks_billions_a_second": peaks,
        "of_peak": {name: rates[name] / peaks[name]["median"] for name in peaks},
    }


def compiled(num_lanes: int, num_steps: int = _STEPS):
    """The engine's program for one block, and its arguments."""
    rng = np.random.default_rng(0)
    epsilon, alpha = 10 ** rng.uniform((-4, -2), (-1, -1), (num_lanes, 2)).T
    cases = Cases(tables(example()), None, jnp.asarray(epsilon), jnp.asarray(alpha))
    arguments = cases, np.arange(num_lanes), np.int32(num_steps)
    program = _fixed._compiled.lower(*arguments, "abs", False).compile()
    return program, arguments


def work_of_a_step(program: str) -> dict[str, float]:
    """Counts a lane of the innermost loop's body, as XLA counts.

    One flop an operation and entry; bytes are operands and results of each fusion, of which most
    stay in the nearest cache. XLA's own count has both ends in it, and a loop's body once.
    """
    texts = dict(re.findall(r"^%(\S+) \([^\n]*{\n(.*?)^}", program, re.M | re.S))
    bodies = re.findall(r" while\(.*?body=%([\w.-]+)", program)
    (body,) = (name for name in bodies if not _reaches(texts, name, " while("))
    counts, widest = _work(texts, body)
    return {name: 2 * count / widest for name, count in counts.items()}  # two columns a lane


def _reaches(texts: dict[str, str], name: str, words: str) -> bool:
    text = texts[name]
    return words in text or any(_reaches(texts, called, words) for called in _CALLED.findall(text))


def _work(texts: dict[str, str], name: str) -> tuple[dict[str, float], int]:
    """Of a computation and those that it calls, and the entries of its largest result."""
    operations = _OPERATION.findall(texts[name])
    shapes = {result: shape for result, shape, _, _ in operations}
    counts, widest = dict.fromkeys(("flops", "divisions", "exponentials", "bytes"), 0.0), 0
    for _, shape, kind, rest in operations:
        if kind == "call":
            inner, wide = _work(texts, _CALLED.search(rest)[1])
            counts = {what: count + inner[what] for what, count in counts.items()}
            widest = max(widest, wide)
        if kind not in ("fusion", "copy"):
            continue
        operands = re.findall(r"%([\w.-]+)", rest.split("), ")[0])
        counts["bytes"] += 8 * sum(map(_entries, [shape, *(shapes[one] for one in operands)]))
        widest = max(widest, _entries(shape))
        fused = re.search(r"calls=%([\w.-]+)", rest)
        for _, inner, what, _ in _OPERATION.findall(texts[fused[1]]) if fused else ():
            entries = _entries(inner)
            counts["flops"] += entries * (what in _ARITHMETIC)
            counts["divisions"] += entries * (what in ("divide", "sqrt"))
            counts["exponentials"] += entries * (what == "exponential")
    return counts, widest


_OPERATION = re.compile(r"^ +(?:ROOT )?%(\S+) = (\w+\[[\d,]*\]|\([^)]*\))\S* ([\w-]+)\((.*)$", re.M)
_CALLED = re.compile(r"to_apply=%([\w.-]+)")
_ARITHMETIC = {"add", "subtract", "multiply", "divide", "sqrt", "minimum", "maximum"}


def _entries(shape: str) -> int:
    """Of an array of float64; anything else is bookkeeping."""
    found = re.fullmatch(r"f64\[([\d,]*)\]", shape)
    return int(np.prod([int(n) for n in found[1].split(",") if n])) if found else 0


def _peaks(turns: int) -> dict[str, dict[str, float]]:
    """Billions a second of flops (fused multiply-adds), divisions and bytes, of all cores."""
    multiply, divide, stream = _kernels()
    rounds, size = 10_000_000, 2**25
    source, target = np.ones(size), np.ones(size)
    work = {
        "flops": (lambda: multiply(rounds), 2 * rounds * _BUSY),
        "divisions": (lambda: divide(rounds // 20), rounds // 20 * _BUSY),
        "bytes": (lambda: stream(source, target), 8 * 3 * size),
    }
    runs = {name: run for name, (run, _) in work.items()}
    times = in_turns(runs, turns, 1.0)
    return {
        name: {
            "median": 1e-9 * amount / times[name]["median"],
            "least": 1e-9 * amount / times[name]["most"],
            "most": 1e-9 * amount / times[name]["least"],
        }
        for name, (_, amount) in work.items()
    }


_CHAINS = 96  # numbers in registers at once: what hides the latency of an operation
_BUSY = _CHAINS * num_cores()


@cache
def _kernels():
    numba = with_numba()
    cores = num_cores()

    def chains(step):
        @numba.njit(parallel=True, fastmath=True, error_model="numpy")
        def run(rounds):
            out = np.zeros((cores, _CHAINS))
            for core in numba.prange(cores):
                x = np.full(_CHAINS, 1.0 + core)
                for _ in range(rounds):
                    for i in range(_CHAINS):
                        x[i] = step(x[i])
                out[core] = x
            return out

        return run

    @numba.njit(forceinline=True, fastmath=True)
    def multiply_add(x):
        return x * 0.999999 + 1e-7

    @numba.njit(forceinline=True, error_model="numpy")
    def divide(x):
        return 1.5 / x

    @numba.njit(parallel=True, fastmath=True)
    def stream(source, target):
        for i in numba.prange(len(source)):
            target[i] += 0.5 * source[i]

    return chains(multiply_add), chains(divide), stream
