"""The parts of a run, in groups that share a process, so that each thing compiles once."""

import os
import time
from collections.abc import Callable
from typing import Any

import jax

from . import accuracy, blocks, derivatives, general, optimizers, roofline, scaling, trajectories

Part = Callable[[bool], dict[str, Any]]

GROUPS: tuple[dict[str, Part], ...] = (
    {
        "W1": blocks.one_block,
        "W2": blocks.blocks,
        "W3": trajectories.trajectories,
        "W5": derivatives.slopes,
    },
    {"W4 real": general.real, "W4 Gaussian": general.gaussian, "one limit": general.one_limit},
    {
        "one ε": derivatives.one_epsilon,
        "many ε": derivatives.many_epsilons,
        "tuning": derivatives.tuning,
    },
    {"W6": optimizers.pairs_against_peers, "optimisers": optimizers.others},
    {
        "cases": scaling.cases,
        "blocks": scaling.blocks,
        "epsilon": scaling.epsilons,
        "columns": scaling.columns,
        "cores": scaling.cores,
        "store": scaling.store,
    },
    {"accuracy": accuracy.general_x, "bounds": accuracy.bounds},
    {"roofline": roofline.roofline},
)

# Not in a quick run: they take 5 minutes of a whole one.
WHOLE_ONLY = (
    "one limit", "one ε", "many ε", "tuning", "columns", "cores", "store", "accuracy", "bounds",
)  # fmt: skip


def own_group() -> None:
    """Lead a group of processes, that can be ended together."""
    if hasattr(os, "setsid"):
        os.setsid()


def run(name: str, quick: bool) -> dict[str, Any]:
    """What a part finds, the seconds it took, and the most memory its process had used by then."""
    jax.config.update("jax_enable_x64", True)
    begin = time.perf_counter()
    (part,) = (group[name] for group in GROUPS if name in group)
    found = part(quick)
    return {"peak_mb": scaling.peak_mb()} | found | {"seconds": time.perf_counter() - begin}
