"""Diffrax in the time domain under vmap: Kvaerno5, in chunks of lanes of like ε."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from ..lanes import Lanes

_CHUNKS = 4, 16, 64, 256  # a program each


def limits(lanes: Lanes, rtol: float) -> np.ndarray:
    """w and ω long after the sign stage."""
    return _in_chunks(lanes, lanes.final_time()[:, None], rtol)[:, -1]


def trajectories(lanes: Lanes, ts: np.ndarray, rtol: float) -> np.ndarray:
    """w and ω at the times ts."""
    return _in_chunks(lanes, np.broadcast_to(ts, (len(lanes.Y), len(ts))), rtol)


def limits_and_slopes(lanes: Lanes, rtol: float) -> tuple[np.ndarray, np.ndarray]:
    """w and ω long after the sign stage, and their derivatives in ε by forward mode."""
    both = _in_chunks(lanes, lanes.final_time()[:, None], rtol, _solve_with_slope)
    return both[:, 0, :4], both[:, 0, 4:]


def _in_chunks(lanes, times, rtol, solve=None):
    solve = solve or _solve
    order = lanes.order()
    size = next((size for size in _CHUNKS if size >= len(order)), _CHUNKS[-1])
    order = np.pad(order, (0, -len(order) % size), mode="edge")
    parts = order.reshape(-1, size)
    found = np.empty((len(lanes.Y), times.shape[1], 4 if solve is _solve else 8))
    for part in parts:
        found[part] = solve(lanes.take(part), times[part], rtol)
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
            adjoint=diffrax.ForwardMode(),
            throw=False,
        )
        return jnp.concatenate(solution.ys, axis=-1)

    return jax.vmap(one)(lanes, times)


@jax.jit
def _solve_with_slope(lanes, times, rtol):
    def end(epsilon):
        return _solve(lanes._replace(epsilon=epsilon), times, rtol)

    return jnp.concatenate(jax.jvp(end, (lanes.epsilon,), (jnp.ones_like(lanes.epsilon),)), axis=-1)
