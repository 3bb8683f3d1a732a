"""Taylor's method by heyoka, vectors of lanes: an explicit method of high order.

It stops by an event at a small residual, from where one step in q ends it, since near the end the
bound of its stability limits the steps, and tolerances leave a residual that can hover for ever: a
lane with more than `MOST_STEPS` is given up. ω is followed by its logarithm, else its decay would
bound the steps from the start; by ε log ω, which stays near 1, since errors are measured against
the largest state. Lanes of like ε share a vector.
"""

from functools import cache
from threading import get_ident

import numpy as np

from ..lanes import Lanes
from ._cores import shared

MOST_STEPS = 500


def limits(lanes: Lanes, rtol: float) -> np.ndarray:
    """w and ω where the residual is small."""
    order = lanes.order()
    states = shared(_until_settled, lanes.take(order), len(lanes.Y), rtol, threads=True)[
        np.argsort(order)
    ]
    return finished(lanes, states)


def trajectories(lanes: Lanes, ts: np.ndarray, rtol: float) -> np.ndarray:
    """w and ω at the times ts, by the Taylor series of the steps."""
    order = lanes.order()
    return shared(_at_times, lanes.take(order), len(lanes.Y), ts, rtol, threads=True)[
        np.argsort(order)
    ]


def settled(lanes):
    """A residual q at which the error of one step in q, of order q²/ε, is 1e-8."""
    return 1e-4 * lanes.Y * np.sqrt(lanes.epsilon / lanes.gradient_unit())


def finished(lanes, states):
    """dw/dq = −h w/S at q = 0; by then ω no longer matters."""
    (w0, w1, *logs), (a0, a1) = states.T, lanes.a.T
    o0, o1 = np.exp(logs / lanes.epsilon)
    q = lanes.Y - a0 * (w0**2 - o0**2) - a1 * (w1**2 - o1**2)
    step = q / (2 * (a0**2 * w0**2 + a1**2 * w1**2))
    return np.stack([w0 * (1 + a0 * step), w1 * (1 + a1 * step), o0, o1], axis=1)


def system():
    """The flow of a block, its residual and the parameter behind those of the block: (a, Y, ε)."""
    import heyoka as hy

    w0, w1, log0, log1 = hy.make_vars("w0", "w1", "l0", "l1")
    a0, a1, Y, epsilon, more = (hy.par[i] for i in range(5))
    o0, o1 = hy.exp(log0 / epsilon), hy.exp(log1 / epsilon)
    q = Y - a0 * (w0 * w0 - o0 * o0) - a1 * (w1 * w1 - o1 * o1)

    def rate(a, w):
        """d log w/dt."""
        return a * q / (a * q * w + epsilon)

    equations = [
        (w0, w0 * rate(a0, w0)),
        (w1, w1 * rate(a1, w1)),
        (log0, -epsilon * rate(a0, o0)),
        (log1, -epsilon * rate(a1, o1)),
    ]
    return equations, q, more


@cache
def _integrator(rtol, stops, thread):
    import heyoka as hy

    equations, q, settled = system()
    width = hy.recommended_simd_size()
    events = [hy.t_event_batch(q - settled)] if stops else []
    pars = np.zeros((5 if stops else 4, width))
    return hy.taylor_adaptive_batch(
        equations, np.zeros((4, width)), pars=pars, tol=rtol, t_events=events
    )


def _until_settled(lanes, rtol):
    """The integration stops where any lane of the vector is done; the next lane takes its place."""
    integrator, found = _integrator(rtol, True, get_ident()), np.full((len(lanes.Y), 4), np.nan)
    ends, waiting = lanes.final_time(), iter(range(len(lanes.Y)))
    pars = np.column_stack([lanes.a, lanes.Y, lanes.epsilon, settled(lanes)])
    width = integrator.state.shape[1]
    at, end, time = np.full(width, -1), np.zeros(width), np.zeros(width)
    steps, free = np.zeros(width), range(width)
    while True:
        for place in free:
            at[place] = lane = next(waiting, -1)
            integrator.state[:, place] = start(lanes.take(lane))
            integrator.pars[:, place] = pars[lane]
            end[place] = ends[lane] if lane >= 0 else 0  # nothing left: it stays where it is
            time[place] = steps[place] = 0
            integrator.reset_cooldowns(place)
        if (at < 0).all():
            return found
        integrator.set_time(time)
        integrator.propagate_until(end, max_steps=MOST_STEPS)
        time, free = integrator.time.copy(), []
        for place, (outcome, _, _, taken) in enumerate(integrator.propagate_res):
            steps[place] += taken
            done = int(outcome) == -1 or time[place] >= end[place]
            if at[place] >= 0 and (done or steps[place] >= MOST_STEPS):
                if done:
                    found[at[place]] = integrator.state[:, place]
                free.append(place)


def _at_times(lanes, ts, rtol):
    integrator, found = _integrator(rtol, False, get_ident()), []
    width = integrator.state.shape[1]
    grid = np.repeat(ts[:, None], width, axis=1)
    for low in range(0, len(lanes.Y), width):
        some = lanes.take(np.minimum(np.arange(low, low + width), len(lanes.Y) - 1))
        integrator.set_time(0.0)
        integrator.state[:] = start(some)
        integrator.pars[:4] = [*some.a.T, some.Y, some.epsilon]
        *_, states = integrator.propagate_grid(grid, max_steps=MOST_STEPS * len(ts))
        found.append(np.moveaxis(states, -1, 0))
    return weights(lanes, np.concatenate(found)[: len(lanes.Y)])


def weights(lanes, states):
    """w and ω of states (L, T, 4)."""
    logs = states[..., 2:] / lanes.epsilon[:, None, None]
    states[..., 2:] = np.exp(np.minimum(logs, 0))  # ω < 1, but where the solve went wrong
    return states


def start(lanes):
    """The state at t = 0."""
    log = lanes.epsilon * np.log(lanes.alpha)
    return np.stack([lanes.alpha, lanes.alpha, log, log])
