"""torchdiffeq's Dopri8, all lanes as one system with one step: an explicit method.

It hovers at the bound of its stability from the sign stage on. Every lane runs at its own speed, to
its own end at s = 1; more steps than `_MOST_STEPS` are given up.
"""

from functools import cache

import numpy as np

from ..lanes import Lanes
from ._cores import num_cores

_MOST_STEPS = 200


def limits(lanes: Lanes, rtol: float) -> np.ndarray:
    """w and ω long after the sign stage."""
    return _solve(lanes, lanes.final_time(), np.array([0.0, 1.0]), rtol)[:, -1]


def trajectories(lanes: Lanes, ts: np.ndarray, rtol: float) -> np.ndarray:
    """w and ω at the times ts."""
    return _solve(lanes, np.ones(len(lanes.Y)), ts, rtol)


@cache
def _torch():
    import torch
    from torchdiffeq import odeint

    torch.set_num_threads(num_cores())
    return torch, odeint


def _solve(lanes, speed, ts, rtol):
    torch, odeint = _torch()
    a, Y, epsilon, alpha, speed = (torch.from_numpy(np.array(x)) for x in (*lanes, speed))
    a = a.T

    def field(s, state):
        w, omega = state[:2], state[2:]
        q = Y - (a * (w**2 - omega**2)).sum(0)
        g, h = a * q * w, a * q * omega
        return speed * torch.cat([g / (g.abs() + epsilon), -h / (h.abs() + epsilon)])

    start = alpha.expand(4, -1).clone()
    options = {"max_num_steps": max(5, _MOST_STEPS // (len(ts) - 1))}  # between two times
    with torch.no_grad():
        try:
            found = odeint(
                field, start, torch.from_numpy(ts), rtol=rtol, atol=rtol / 10,
                method="dopri8", options=options,
            )  # fmt: skip
        except AssertionError:  # as it says that there were too many steps
            return np.full((len(Y), len(ts), 4), np.nan)
    return found.permute(2, 0, 1).numpy()
