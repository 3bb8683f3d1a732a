"""W3: 1,000 flows of ten blocks, each at 200 times from 0 to 2, against compiled solvers.

Times are those of a figure: the sign stages, and the limit of all but the slowest after them.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import jax
import numpy as np

import jaxmd_sign as jms
from jaxmd_sign._sweep._devices import num_cores

from . import truth
from .contest import Effort, Solver, contest
from .lanes import betas
from .peers import PEERS, SOME, peer
from .workloads import lane_betas, ten_blocks, workload

NEEDED = 1e-6
_BATCH = 16


def trajectories(quick: bool) -> dict[str, Any]:
    """β at all times."""
    effort = Effort(128, 4, 0.3, 3) if quick else Effort(1_000, 16, 1.5, 3)
    work, ts = workload(ten_blocks(), effort.cases), np.linspace(0, 2, 200)
    lanes, num_blocks = work.lanes(), work.problem.num_examples
    true = betas(truth.trajectories(lanes.take(slice(effort.checked * num_blocks)), ts))

    def ours(count, rtol):
        order = np.argsort(work.epsilon[:count])  # so that those of a batch take as many steps
        order = np.pad(order, (0, -count % _BATCH), mode="edge")
        parts = np.split(order, len(order) // _BATCH)
        found = np.empty((count, len(ts), work.problem.num_features))
        some = [(work.epsilon[part], work.alpha[part], rtol) for part in parts]
        with ThreadPoolExecutor(num_cores()) as pool:
            batch = partial(_batch(rtol), work.problem, ts)
            solved = pool.map(lambda one: np.asarray(batch(*one[:2])[0]), some)
            for part, beta in zip(parts, solved, strict=True):
                found[part] = beta
        return _by_lane(work.problem, found)

    def theirs(name, count, rtol):
        return betas(peer(name).trajectories(lanes.take(slice(count * num_blocks)), ts, rtol))

    def errors(beta):
        right = true[: len(beta)]
        wrong = np.max(np.abs(beta - right), axis=(1, 2)) / np.max(right, axis=(1, 2))
        return np.max(wrong.reshape(-1, num_blocks), axis=1)

    # Each tolerance of ours is a program of its own: three are tried.
    solvers = {"jaxmd_sign": Solver(ours, np.array([1e-6, 1e-7, 1e-8]))} | {
        name: Solver(partial(theirs, name))
        if name != "Numba, residual clock"
        else "limits only: its clock has no times"
        for name in (SOME if quick else PEERS)
    }
    rows = contest(solvers, errors, NEEDED, effort, unit=1e3)
    rows["jaxmd_sign"] |= _steps(work, ts, rows["jaxmd_sign"]["rtol"])
    return {"unit": "ms a trajectory", "needed": NEEDED, "rows": rows}


def _by_lane(problem, beta):
    """(cases, T, d) to (lanes, T, k)."""
    cases, times, _ = beta.shape
    flat = lane_betas(problem, beta.reshape(cases * times, -1))
    return np.moveaxis(flat.reshape(cases, times, problem.num_examples, -1), 1, 2).reshape(
        cases * problem.num_examples, times, -1
    )


@cache
def _batch(rtol):
    def one(problem, ts, epsilon, alpha):
        flow = jms.solve_trajectory(
            problem, jms.SmoothedSign(epsilon), alpha, ts=ts, rtol=float(rtol)
        )
        return flow.beta, flow.stats

    return jax.jit(jax.vmap(one, in_axes=(None, None, 0, 0)))


def _steps(work, ts, rtol):
    """Steps of the blocks, and the share of a batch's steps that its blocks still need."""
    order = np.argsort(work.epsilon)[:: max(1, len(work.epsilon) // (4 * _BATCH))][: 4 * _BATCH]
    stats = [
        _batch(rtol)(work.problem, ts, work.epsilon[part], work.alpha[part])[1]
        for part in np.split(order, len(order) // _BATCH)
    ]
    steps = np.stack([np.asarray(one["num_steps"]) for one in stats])
    rejected = np.stack([np.asarray(one["num_rejected_steps"]) for one in stats])
    most = steps.reshape(len(stats), -1).max(axis=1)
    return {
        "steps": float(steps.mean()) * work.problem.num_examples,
        "rejected": float(rejected.mean()) * work.problem.num_examples,
        "occupancy": float(np.mean(steps.reshape(len(stats), -1).mean(axis=1) / most)),
    }
