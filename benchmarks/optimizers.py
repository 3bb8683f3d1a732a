"""Training in batches against a fused Numba loop, NumPy and PyTorch. See `make benchmark`.

Smoothed sign descent for pairs (η, ε) on ten blocks of two columns. Times are medians with their
spread, ns a step and case, compile time apart; errors are of the same run, over the cases that have
converged (where ε is far below η a run oscillates, and rounding decides where it is). PyTorch is
timed where it is installed; `.[bench]` leaves it out for its size.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from common import is_quick, spread, timed, write
from workloads import blocks_of, ten_blocks

import jaxmd_sign as jms

ALPHA = 0.05


class Pairs(NamedTuple):
    """Cases: a step size and an ε each."""

    eta: np.ndarray
    epsilon: np.ndarray

    def some(self, count: int) -> "Pairs":
        return Pairs(self.eta[:count], self.epsilon[:count])


def pairs(count: int) -> Pairs:
    """η in [1e-4, 1e-2] and ε in [1e-4, 1e-1], log-uniform."""
    rng = np.random.default_rng(0)
    return Pairs(10 ** rng.uniform(-4, -2, count), 10 ** rng.uniform(-4, -1, count))


def ours(num_steps: int, make=jms.smoothed_sign):
    """`train` under `lax.map`, in batches that fit the cache, from a thread for each core."""
    problem, cores = ten_blocks(), len(os.sched_getaffinity(0))
    pool = ThreadPoolExecutor(cores)

    def run(case):
        end = jms.train(problem, make(*case), ALPHA, num_steps)
        return end.beta, end.result == jms.RESULTS.successful

    @jax.jit
    def batch(cases):
        return jax.lax.map(run, cases, batch_size=250)

    def solve(cases: Pairs):
        parts = zip(*(np.array_split(values, cores) for values in cases), strict=True)
        found = pool.map(lambda part: jax.block_until_ready(batch(part)), parts)
        return tuple(map(np.concatenate, zip(*found, strict=True)))

    return solve


def numba_loop(num_steps: int):
    """Chunks of cases over all cores; within one, cases innermost, so that LLVM vectorises."""
    import numba

    numba.set_num_threads(len(os.sched_getaffinity(0)))
    width = 32

    @numba.njit(parallel=True, error_model="numpy")
    def run(x, y, etas, epsilons):
        n, k = x.shape
        beta = np.empty((n, k, len(etas)))
        for chunk in numba.prange(len(etas) // width):
            low = chunk * width
            eta, epsilon = etas[low : low + width].copy(), epsilons[low : low + width].copy()
            u, v = np.full((n, k, width), ALPHA), np.full((n, k, width), ALPHA)
            r = np.empty(width)
            for _ in range(num_steps):
                for i in range(n):
                    for w in range(width):
                        r[w] = -y[i]
                    for j in range(k):
                        for w in range(width):
                            r[w] += x[i, j] * (u[i, j, w] ** 2 - v[i, j, w] ** 2)
                    for j in range(k):
                        for w in range(width):
                            c = x[i, j] * r[w]
                            g, h = c * u[i, j, w], -c * v[i, j, w]
                            u[i, j, w] -= eta[w] * g / (abs(g) + epsilon[w])
                            v[i, j, w] -= eta[w] * h / (abs(h) + epsilon[w])
            for w in range(width):
                beta[:, :, low + w] = u[:, :, w] ** 2 - v[:, :, w] ** 2
        return beta

    x, y = blocks_of(ten_blocks())

    def solve(cases: Pairs):
        count = len(cases.eta)
        padded = (np.pad(values, (0, -count % width), mode="edge") for values in cases)
        return run(x, y, *padded)[..., :count].reshape(x.size, count).T

    return solve


def numpy_loop(num_steps: int):
    """Arrays of all cases, one operation after another."""
    x, y = blocks_of(ten_blocks())
    x, y = x[..., None], y[:, None]

    def solve(cases: Pairs):
        eta, epsilon = cases
        u = np.full((*x.shape[:2], len(eta)), ALPHA)
        v = u.copy()
        for _ in range(num_steps):
            r = np.sum(x * (u**2 - v**2), axis=1) - y
            c = x * r[:, None]
            g, h = c * u, -c * v
            u -= eta * g / (np.abs(g) + epsilon)
            v -= eta * h / (np.abs(h) + epsilon)
        return (u**2 - v**2).reshape(-1, len(eta)).T

    return solve


def torch_loop(num_steps: int):
    """`torch.optim.Adam(betas=(0, 0))` and autograd, one optimiser a case, one after another."""
    import torch

    torch.set_num_threads(1)  # faster for tensors this small
    x, y = (torch.tensor(value) for value in blocks_of(ten_blocks()))

    def solve(cases: Pairs):
        ends = []
        for eta, epsilon in zip(*cases, strict=True):
            u = torch.full(x.shape, ALPHA, dtype=x.dtype, requires_grad=True)
            v = torch.full(x.shape, ALPHA, dtype=x.dtype, requires_grad=True)
            optimizer = torch.optim.Adam([u, v], lr=eta, betas=(0.0, 0.0), eps=epsilon)
            for _ in range(num_steps):
                optimizer.zero_grad()
                loss = (((x * (u**2 - v**2)).sum(1) - y) ** 2).sum() / 4
                loss.backward()
                optimizer.step()
            ends.append((u**2 - v**2).detach().numpy().ravel())
        return np.array(ends)

    return solve


class Competitor(NamedTuple):
    """How to make it, and on how many cases and steps it is timed."""

    make: Any
    cases: int
    steps: int


def measure(cases: int, steps: int) -> dict[str, Any]:
    """Each on its own share of the work, in turns."""
    competitors = {
        "jaxmd_sign": Competitor(ours, cases, steps),
        "Numba, fused": Competitor(numba_loop, cases, steps),
        "NumPy": Competitor(numpy_loop, cases, steps // 10),
        "PyTorch, one optimiser a case": Competitor(torch_loop, 2, steps // 10),
    }
    every, rows, functions = pairs(cases), {}, {}
    for name, (make, count, length) in competitors.items():
        try:
            solve = make(length)
        except ImportError as error:
            rows[name] = {"skipped": str(error)}
            continue
        functions[name] = partial(solve, every.some(count))
        rows[name] = {"cases": count, "steps": length}
    for name, record in zip(functions, timed(*functions.values(), repeats=5), strict=True):
        work = 1e-9 * rows[name]["cases"] * rows[name]["steps"]
        rows[name] |= {key: record[key] / work for key in ("median", "least", "most")}
        rows[name]["first_call_s"] = record["first"]
    few = every.some(64)
    truth, (_, converged) = numpy_loop(steps)(few), ours(steps)(few)
    for name in functions:
        count = min(rows[name]["cases"], 64)
        beta = competitors[name].make(steps)(every.some(count))
        beta = beta[0] if name == "jaxmd_sign" else beta
        wrong = np.max(np.abs(beta - truth[:count]), axis=1)[converged[:count]]
        rows[name]["error"] = float(np.max(wrong, initial=0))
    base = rows["jaxmd_sign"]["median"]
    for name in functions:
        rows[name]["ratio"] = rows[name]["median"] / base
    return rows


def others(cases: int, steps: int) -> dict[str, Any]:
    """What a step of other optimisers costs in the same loop."""
    named = {
        "sgd": lambda eta, epsilon: optax.sgd(eta),
        "adam": lambda eta, epsilon: optax.adam(eta, eps=epsilon),
        "rmsprop": lambda eta, epsilon: optax.rmsprop(eta, eps=epsilon),
        "lion": lambda eta, epsilon: optax.lion(eta),
    }
    every = pairs(cases)
    functions = [partial(ours(steps, make), every) for make in named.values()]
    records = timed(*functions, repeats=3)
    return {
        name: record["median"] / (1e-9 * cases * steps)
        for name, record in zip(named, records, strict=True)
    }


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["| ns a step and case | time | times ours | error |", "|---|---|---|---|"]
    for name, row in results["pairs"].items():
        cells = ["skipped", "–", "–"]
        if "median" in row:
            cells = [spread(row), f"{row['ratio']:.3g}", f"{row['error']:.0e}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| `train` with | ns a step and case |", "|---|---|"]
    lines += [f"| {name} | {value:.3g} |" for name, value in results["others"].items()]
    first = results["pairs"]["jaxmd_sign"]["first_call_s"]
    lines += ["", f"The first call of `train`, with compilation, took {first:.1f} s."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run everything; write the results beside those of the sweeps."""
    quick = is_quick(__doc__)
    steps = 2_000 if quick else 10_000
    results = {"pairs": measure(1_000, steps), "others": others(1_000, steps // 4)}
    write("optimizers", results, table(results), quick)


if __name__ == "__main__":
    main()
