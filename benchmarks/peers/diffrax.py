"""Diffrax in the time domain under vmap: Kvaerno5, in chunks of lanes of like ε."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from ..lanes import Lanes

_CHUNK = 256


def limits(lanes: Lanes, rtol: float) -> np.ndarray:
    """w and ω long after the sign stage."""
    return _in_chunks(lanes, lanes.final_time()[:, None], rtol)[:, -1]


def trajectories(lanes: Lanes, ts: np.ndarray, rtol: float) -> np.ndarray:
    """w and ω at the times ts."""
    return _in_chunks(lanes, np.broadcast_to(ts, (len(lanes.Y), len(ts))), rtol)


def _in_chunks(lanes, times, rtol):
    order = lanes.order()
    order = np.pad(order, (0, -len(order) % min(_CHUNK, len(order))), mode="edge")
    parts = np.split(order, max(1, len(order) // _CHUNK))
    found = np.empty((len(lanes.Y), times.shape[1], 4))
    for part in parts:
        found[part] = _solve(lanes.take(part), times[part], rtol)
    return found


@jax.jit
def _solve(lanes, times, rtol):
    def field(t, state, lane):
        w, omega = state
        q = lane.Y - jnp.sum(lane.a * (w**2 - omega**2))
        g, h = lane.a * q * w, lane.a * q * omega
        return g / (jnp.abs(g) + lane.epsilon), -h / (jnp.abs(h) + lane.epsilon)

    def one(lane, ts):
        start = jnp.full(2, lane.alpha)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Kvaerno5(),
            0.0,
            ts[-1],
            None,
            (start, start),
            lane,
            saveat=diffrax.SaveAt(ts=ts),
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol / 10),
            max_steps=100_000,
            throw=False,
        )
        return jnp.concatenate(solution.ys, axis=-1)

    return jax.vmap(one)(lanes, times)
