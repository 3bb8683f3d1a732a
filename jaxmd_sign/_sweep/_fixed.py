"""Cases of block problems by the fixed-step engine: lanes out of cases, measures out of lanes.

Lanes whose estimated error is too large are solved once more with twice the steps; those that
still are go to the residual clock of `solve_limit`, without the other blocks of their cases.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._problem import Blocks, Problem
from .._smoothing import SMOOTHINGS
from ._adaptive import adaptive_ends
from ._devices import is_cpu, num_devices, over_devices
from ._engine import Lanes, fixed_step_ends
from ._measures import measures
from ._plan import Settings
from ._tables import Cases, rule_of, tables

_RUNGS = (14, 20, 28, 40, 56, 80, 112)
_SLOPE = 100  # the tolerance of a derivative in ε is so much larger than that of a value
_FEWEST_AGAIN = 1024
# Wide vectors are left unused otherwise: 1.6 times as fast on processors that have them.
_OPTIONS = {"xla_cpu_prefer_vector_width": 512}


def first_rung(problems: Problem, settings: Settings) -> int | None:
    """Where to start on the ladder of step numbers; None if the engine is not for these cases."""
    smooth = not SMOOTHINGS[settings.smoothing].has_corner  # else the estimate is no good
    fits = smooth and settings.depth == 2 and settings.reference == "start"
    if not (fits and isinstance(problems.data, Blocks)):
        return None
    # Measured: 20 steps for 1e-6 with two columns.
    num_columns = problems.data.x.shape[-1]
    steps = 20 * (1e-6 / settings.rtol) ** 0.2 * max(1, num_columns / 2) ** 0.35
    steps *= 1.4 ** ((num_columns > 12) + (settings.smoothing != "abs"))
    rung = next((i for i, most in enumerate(_RUNGS) if most >= 0.95 * steps), None)
    return None if rung is None or _RUNGS[rung] > settings.max_steps else rung


def solve_fixed(
    problems: Problem,
    settings: Settings,
    which: np.ndarray | None,
    epsilon: np.ndarray,
    alpha: np.ndarray,
    rung: int,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """As `solve_cases`, with the numbers of the cases whose minimiser has no closed form."""
    cases = Cases(tables(problems), which, epsilon, alpha)
    num_cases, num_blocks = len(epsilon), problems.y.shape[-1]
    ends, error = _solve(cases, np.arange(num_cases * num_blocks), settings, _RUNGS[rung])
    steps = np.full(num_cases, num_blocks * _RUNGS[rung])
    codes = np.zeros(num_cases, "int8")
    again = _too_large(error, settings)
    if again.size and rung + 2 < len(_RUNGS) and _RUNGS[rung + 2] <= settings.max_steps:
        lanes = _padded(again)
        better, error = _solve(cases, lanes, settings, _RUNGS[rung + 2])
        ends = _put(ends, lanes, better)
        np.add.at(steps, again % num_cases, _RUNGS[rung + 2])
        again = again[_too_large(error[: again.size], settings)]
    if again.size:
        best, taken, code = adaptive_ends(cases, again, settings)
        ends = _put(ends, again, best)
        np.add.at(steps, again % num_cases, taken)
        np.maximum.at(codes, again % num_cases, code)
    found = {name: np.asarray(value) for name, value in _measure(cases, ends, settings).items()}
    found |= {"result": codes, "num_steps": steps.astype("int32")}
    for name, value in found.items():
        if codes.any() and value.dtype.kind == "f":
            found[name] = np.where(codes.reshape(-1, *[1] * (value.ndim - 1)) == 0, value, np.nan)
    lost = np.flatnonzero(found["lost"] & (codes == 0))
    return {name: found[name] for name in settings.variables}, lost


def _too_large(error: Array, settings: Settings) -> np.ndarray:
    return np.flatnonzero(~(np.asarray(error) <= settings.rtol))


def _padded(lanes: np.ndarray) -> np.ndarray:
    """To one of few sizes, since each is compiled."""
    size = max(_FEWEST_AGAIN, 1 << (lanes.size - 1).bit_length())
    return np.pad(lanes, (0, size - lanes.size), mode="edge")


def _put(ends, lanes, better):
    return jax.tree.map(lambda old, new: old.at[:, lanes].set(new), ends, better)


def _solve(
    cases: Cases, lanes: np.ndarray, settings: Settings, num_steps: int
) -> tuple[tuple[Array, ...], Array]:
    """w and ω of these lanes (and dw/dε if it is wanted), (k, lanes), and the estimated error."""
    width = _width(cases.tables.a.shape[-1], len(lanes))
    padded = np.pad(lanes, (0, -len(lanes) % (width * num_devices())), mode="edge")
    one = np.ones((), cases.epsilon.dtype)
    slope = settings.wants("kkt_error_slope")
    static = settings.smoothing, num_steps, slope, len(lanes)
    return _compiled(cases, padded.reshape(-1, width), one, *static)


def _width(num_columns: int, num_lanes: int) -> int:
    """Lanes solved together: on a CPU, what keeps a step in its nearest cache."""
    if not is_cpu():
        return -(-num_lanes // num_devices())
    return max(32, min(256, 512 // num_columns))


@partial(jax.jit, static_argnums=(3, 4, 5, 6), compiler_options=_OPTIONS)
def _compiled(cases, lanes, one, smoothing, num_steps, slope, num_lanes):
    def solve(shared, lanes):
        return jax.lax.map(partial(chunk, *shared), lanes)

    def chunk(cases, one, lanes):
        row, epsilon, alpha = cases.lanes(lanes)
        rule = rule_of(jnp.ones((), epsilon.dtype), smoothing)

        def ends(row, epsilon, alpha):
            some = Lanes(row.a.T, epsilon / row.gradient, alpha / row.weight, rule)
            return fixed_step_ends(some, one, num_steps)

        found = ends(row, epsilon, alpha)
        if not slope:
            return (found.w, found.omega), found.error()
        # By the same steps, the end is a smooth function of ε, rounding apart: a central difference
        # has ten digits. As a jvp, XLA's program took nine times as long as the values alone.
        apart = jnp.finfo(epsilon.dtype).eps ** (1 / 3) * epsilon
        twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), (row, alpha))
        sides = ends(twice[0], jnp.concatenate([epsilon + apart, epsilon - apart]), twice[1])
        tangent, wrong = (
            (one - other) / (2 * apart)
            for one, other in (jnp.split(x, 2, axis=-1) for x in (sides.w, sides.w_error))
        )
        wrong = jnp.max(jnp.abs(wrong), axis=0) / jnp.max(jnp.abs(tangent), axis=0)
        return (found.w, found.omega, tangent), jnp.maximum(found.error(), 2 * wrong / _SLOPE)

    def flat(x):
        return jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1)[..., :num_lanes]

    return jax.tree.map(flat, over_devices(solve)((cases, one), lanes))


@partial(jax.jit, static_argnames="settings", compiler_options=_OPTIONS)
def _measure(cases, ends, settings):
    shape = -1, len(cases.epsilon)
    return measures(cases, settings, *(x.reshape(x.shape[0], *shape) for x in ends))
