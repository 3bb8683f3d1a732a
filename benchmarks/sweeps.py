"""Sweeps against compiled solvers, and how their cost grows. See `make benchmark`.

Times are medians with their spread, µs a case, compile time apart; errors are of the same run.
Competitors take turns, so that a machine that drifts hurts all alike.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from common import spread, timed, write
from peers import PEERS
from workloads import Workload, blocks_of, example, workload, worst_error

import jaxmd_sign as jms

ERROR = 1e-6


def per_case(record: dict[str, float], num_cases: int) -> dict[str, float]:
    """In µs a case; the first call stays in seconds."""
    us = {name: 1e6 * record[name] / num_cases for name in ("median", "least", "most")}
    return us | {"first_call_s": record["first"]}


def against_peers(name: str, num_cases: int, few: int) -> dict[str, Any]:
    """A whole sweep, every variable, beside the peers at their cheapest tolerance that will do."""
    mine, theirs = workload(name, num_cases), workload(name, few)
    x, y = blocks_of(mine.problem)
    found, rows = {}, {}

    def ours():
        found["data"] = jms.sweep(*mine[1:], product=False)

    functions: dict[str, Callable[[], Any]] = {"jaxmd_sign": ours}
    for peer, solve in PEERS.items():
        some = theirs if peer == "numbalsoda" else workload(name, max(64, few // 64))
        try:
            rows[peer] = _cheapest(solve, x, y, some)
        except ImportError as error:
            rows[peer] = {"skipped": str(error)}
            continue
        rtol = rows[peer]["rtol"]
        rows[peer]["cases"] = len(some.epsilon)
        functions[peer] = lambda solve=solve, some=some, rtol=rtol: solve(
            x, y, some.epsilon, some.alpha, rtol
        )
    for peer, record in zip(functions, timed(*functions.values()), strict=True):
        cases = num_cases if peer == "jaxmd_sign" else rows[peer]["cases"]
        rows.setdefault(peer, {}).update(per_case(record, cases), cases=cases)
    some = workload(name, few)
    beta = np.asarray(jms.sweep(*some[1:], product=False).beta).reshape(few, *x.shape)
    rows["jaxmd_sign"]["error"] = worst_error(beta, _truth(some))
    rows["jaxmd_sign"]["steps"] = float(found["data"].num_steps.mean())
    rows["jaxmd_sign"]["failed"] = int((found["data"].result != 0).sum())
    return rows


def _truth(some: Workload) -> np.ndarray:
    """By LSODA at 1e-12 where it is installed, which shares nothing with us; else by ourselves."""
    x, y = blocks_of(some.problem)
    try:
        return PEERS["numbalsoda"](x, y, some.epsilon, some.alpha, 1e-12)
    except ImportError:
        exact = jms.sweep(*some[1:], product=False, rtol=1e-11)
        return np.asarray(exact.beta).reshape(len(some.epsilon), *x.shape)


def _cheapest(solve: Callable[..., np.ndarray], x, y, some: Workload) -> dict[str, float]:
    """The loosest tolerance, of four a decade, whose worst error will do."""
    truth = _truth(some)
    for rtol in 10 ** np.arange(-5.5, -11, -0.25):
        error = worst_error(solve(x, y, some.epsilon, some.alpha, rtol), truth)
        if error <= ERROR:
            return {"rtol": float(rtol), "error": error}
    raise RuntimeError("no tolerance is good enough")


def sweep_time(problem: jms.Problem, num_cases: int, low: float, high: float, **more) -> dict:
    """µs a case of a sweep over random cases with ε between two numbers."""
    rng = np.random.default_rng(1)
    epsilon = 10 ** rng.uniform(np.log10(low), np.log10(high), num_cases)
    alpha = 10 ** rng.uniform(-2, -1, num_cases)
    (record,) = timed(lambda: jms.sweep(problem, epsilon, alpha, product=False, **more), repeats=3)
    return per_case(record, num_cases)


def scaling(most_cases: int) -> dict[str, Any]:
    """How the cost of a case grows with the number of cases, blocks, columns, and with 1/ε."""
    rng = np.random.default_rng(2)

    def random_blocks(num_blocks: int, size: int) -> jms.Problem:
        x = rng.uniform(0.3, 2, (num_blocks, size))
        return jms.Problem.from_blocks(x, rng.uniform(0.5, 2, num_blocks))

    sizes = [10**power for power in range(3, 1 + round(np.log10(most_cases)))]
    return {
        "cases": {n: sweep_time(example(), n, 1e-4, 1e-1) for n in sizes},
        "epsilon": {e: sweep_time(example(), 50_000, e, e) for e in (1e-1, 1e-2, 1e-4, 1e-6, 1e-8)},
        "blocks": {
            n: sweep_time(random_blocks(n, 2), max(1, 100_000 // n), 1e-4, 1e-1)
            for n in (10, 1_000, 100_000)
        },
        "columns": {
            k: sweep_time(random_blocks(1, k), 16_384, 1e-4, 1e-1) for k in (1, 2, 3, 5, 10, 20, 40)
        },
    }


def derivatives(num_cases: int) -> dict[str, Any]:
    """Values alone, and with d/dε of all cases."""
    one = workload("W1", num_cases)[1:]
    both = ["kkt_error", "kkt_error_slope"]
    value, slope = timed(
        lambda: jms.sweep(*one, product=False, variables=both[:1]),
        lambda: jms.sweep(*one, product=False, variables=both),
    )
    ratio = slope["median"] / value["median"]
    return {"value": per_case(value, num_cases), "both": per_case(slope, num_cases), "ratio": ratio}


def store(num_cases: int) -> dict[str, Any]:
    """Into a store and in memory, in turns, and the peak memory of a process that does it once."""
    one = workload("W1", num_cases)[1:]
    with tempfile.TemporaryDirectory() as folder:
        paths = (Path(folder) / f"{i}.zarr" for i in range(99))
        into, memory = timed(
            lambda: jms.sweep(*one, product=False, store=next(paths)),
            lambda: jms.sweep(*one, product=False),
            repeats=3,
        )
    command = [sys.executable, __file__, "--peak", str(num_cases)]
    peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    overhead = 1e6 * (into["median"] - memory["median"]) / num_cases
    return {
        "store": per_case(into, num_cases),
        "memory": per_case(memory, num_cases),
        "overhead": overhead,
        "peak_mb": float(peak),
    }


def peak(num_cases: int) -> float:
    """MB of this process after one sweep into a store."""
    with tempfile.TemporaryDirectory() as folder:
        jms.sweep(*workload("W1", num_cases)[1:], product=False, store=Path(folder) / "s.zarr")
    # Not `getrusage`, whose peak a child inherits from its parent.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["| µs a case | W1 | error | W2 | error |", "|---|---|---|---|---|"]
    for name in results["W1"]:
        cells = []
        for one in (results["W1"][name], results["W2"][name]):
            cells += (
                [
                    spread(one),
                    f"{one['error']:.0e}",
                ]
                if "median" in one
                else ["skipped", "–"]
            )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for what, record in results["scaling"].items():
        lines += ["", f"| {what} | µs a case |", "|---|---|"]
        lines += [f"| {key} | {value['median']:.3g} |" for key, value in record.items()]
    slope, into = results["derivatives"], results["store"]
    lines += [
        "",
        f"Values and d/dε of all cases: {slope['ratio']:.2f} times the values alone.",
        f"Into a store: {into['overhead']:.2f} µs a case more, peak memory "
        f"{into['peak_mb']:.0f} MB.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run everything; write the results beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cases")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if asked.peak:
        print(peak(asked.peak))
        return
    shrink = 8 if asked.quick else 1
    results = {
        "W1": against_peers("W1", 262_144 // shrink, 16_384 // shrink),
        "W2": against_peers("W2", 32_768 // shrink, 4_096 // shrink),
        "scaling": scaling(100_000 if asked.quick else 1_000_000),
        "derivatives": derivatives(262_144 // shrink),
        "store": store(1_000_000 // shrink),
    }
    write("sweeps", results, table(results), asked.quick)


if __name__ == "__main__":
    main()
