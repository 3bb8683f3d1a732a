"""W6: training in batches, 1,000 cases of 10⁴ steps, against a fused Numba loop, NumPy and PyTorch.

Smoothed sign descent for pairs (η, ε) on ten blocks of two columns. Errors are against the NumPy
loop, over the cases that have converged (where ε is far below η a run oscillates, and rounding
decides where it is).
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import jaxmd_sign as jms

from .contest import in_turns
from .peers._cores import num_cores, with_numba
from .workloads import blocks_of, ten_blocks

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
    problem, cores = ten_blocks(), num_cores()
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
    numba, width = with_numba(), 32

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


def pairs_against_peers(quick: bool) -> dict[str, Any]:
    """Each on its own share of the work, in turns."""
    cases, steps = 1_000, 2_000 if quick else 10_000
    competitors = {
        "jaxmd_sign": Competitor(ours, cases, steps),
        "Numba, fused": Competitor(numba_loop, cases, steps),
        "NumPy": Competitor(numpy_loop, cases, steps // 20),
        "PyTorch, one optimiser a case": Competitor(torch_loop, 2, steps // 20),
    }
    every, rows, runs, scale = pairs(cases), {}, {}, {}
    few = every.some(64)
    truth, (_, converged) = numpy_loop(steps)(few), ours(steps)(few)
    for name, (make, count, length) in competitors.items():
        try:
            beta = make(steps)(every.some(min(count, 64)))
        except ImportError as reason:
            rows[name] = {"skipped": str(reason)}
            continue
        beta = beta[0] if name == "jaxmd_sign" else beta
        wrong = np.max(np.abs(beta - truth[: len(beta)]), axis=1)[converged[: len(beta)]]
        rows[name] = {"cases": count, "steps": length, "error": float(np.max(wrong, initial=0))}
        runs[name] = partial(make(length), every.some(count))
        scale[name] = 1e9 / (count * length)
    for name, record in in_turns(runs, 2 if quick else 5, scale).items():
        rows[name] |= record
    return {"unit": "ns a step and case", "rows": rows}


def others(quick: bool) -> dict[str, Any]:
    """What a step of other optimisers costs in the same loop."""
    cases, steps = 1_000, 500 if quick else 2_500
    named = {
        "smoothed sign": jms.smoothed_sign,
        "sgd": lambda eta, epsilon: optax.sgd(eta),
        "adam": lambda eta, epsilon: optax.adam(eta, eps=epsilon),
        "rmsprop": lambda eta, epsilon: optax.rmsprop(eta, eps=epsilon),
        "lion": lambda eta, epsilon: optax.lion(eta),
    }
    every = pairs(cases)
    runs = {name: partial(ours(steps, make), every) for name, make in named.items()}
    return {"unit": "ns a step and case", "rows": in_turns(runs, 3, 1e9 / (cases * steps))}
