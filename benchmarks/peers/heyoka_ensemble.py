"""Taylor's method by heyoka's own ensembles: a copy of the integrator for each, shared by threads.

A vector of an ensemble ends with the last of its lanes, and an event that stops one stops them all,
so limits are found one by one, each until its residual is small; flows at given times, by vectors.
"""

import numpy as np

from ..lanes import Lanes
from ._cores import num_cores
from .heyoka import MOST_STEPS, finished, settled, start, system, weights


def limits(lanes: Lanes, rtol: float) -> np.ndarray:
    """w and ω where the residual is small."""
    import heyoka as hy

    equations, q, small = system()
    events = [hy.t_event(q - small)]
    one = hy.taylor_adaptive(equations, np.zeros(4), pars=np.zeros(5), tol=rtol, t_events=events)
    pars, starts = np.column_stack([lanes.a, lanes.Y, lanes.epsilon, settled(lanes)]), start(lanes)

    def begin(integrator, lane):
        integrator.pars[:], integrator.state[:] = pars[lane], starts[:, lane]
        return integrator

    found = hy.ensemble_propagate_until(
        one, np.max(lanes.final_time()), len(lanes.Y), begin,
        max_workers=num_cores(), max_steps=MOST_STEPS,
    )  # fmt: skip
    states = np.stack([integrator.state for integrator, *_ in found])
    given_up = [outcome == hy.taylor_outcome.step_limit for _, outcome, *_ in found]
    states[given_up] = np.nan
    return finished(lanes, states)


def trajectories(lanes: Lanes, ts: np.ndarray, rtol: float) -> np.ndarray:
    """w and ω at the times ts, by the Taylor series of the steps."""
    import heyoka as hy

    order, width = lanes.order(), hy.recommended_simd_size()
    number = -(-len(order) // width)
    vectors = np.pad(order, (0, number * width - len(order)), mode="edge").reshape(number, width)
    equations, *_ = system()
    empty = np.zeros((4, width))
    one = hy.taylor_adaptive_batch(equations, empty, pars=empty, tol=rtol)
    pars, starts = np.stack([*lanes.a.T, lanes.Y, lanes.epsilon]), start(lanes)

    def begin(integrator, i):
        integrator.pars[:], integrator.state[:] = pars[:, vectors[i]], starts[:, vectors[i]]
        return integrator

    solved = hy.ensemble_propagate_grid_batch(
        one, ts, number, begin, max_workers=num_cores(), max_steps=MOST_STEPS * len(ts)
    )
    found = np.empty((len(order), len(ts), 4))
    for lane, (*_, states) in zip(vectors, solved, strict=True):
        found[lane] = np.moveaxis(states, -1, 0)
    return weights(lanes, found)
