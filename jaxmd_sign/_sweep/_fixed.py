"""Cases of block problems by the fixed-step engine: lanes out of cases, measures out of lanes.

A lane is one block of one case. Those whose estimated error is too large are solved once more with
twice the steps; cases that still have such a lane are left to the adaptive solver.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._block import as_blocks
from .._problem import Blocks, Problem
from .._rules import SmoothedSign
from ._devices import is_cpu, num_devices, over_devices
from ._engine import Ends, Lanes, fixed_step_ends
from ._measures import Tables, measures
from ._plan import Settings

_RUNGS = (14, 20, 28, 40, 56, 80, 112)
_SLOPE = 100  # the tolerance of a derivative in ε is so much larger than that of a value
_FEWEST_AGAIN = 1024
# Wide vectors are left unused otherwise: 1.6 times as fast on processors that have them.
_OPTIONS = {"xla_cpu_prefer_vector_width": 512}


class Cases(NamedTuple):
    """Tables of the problems, and of each case its row of them, ε and α."""

    tables: Tables
    which: Int[Array, " B"] | None
    epsilon: Float[Array, " B"]
    alpha: Float[Array, " B"]


def first_rung(problems: Problem, settings: Settings, alpha: np.ndarray) -> int | None:
    """Where to start on the ladder of step numbers; None if the engine is not for these cases."""
    fits = settings.depth == 2 and settings.reference == "start"
    if not (fits and isinstance(problems.data, Blocks)):
        return None
    # Measured: 20 steps for 1e-6 with two columns and α from 0.01 of the final weights on.
    steps = 20 * (1e-6 / settings.rtol) ** 0.2
    x = np.abs(np.asarray(problems.data.x))
    y = np.abs(np.asarray(problems.y))
    weight = np.sqrt(np.max(y / np.sum(x, axis=-1)))
    steps *= 1.4 ** ((x.shape[-1] > 2) + (alpha.min() < 0.01 * weight))
    steps *= 1.2 ** settings.wants("kkt_error_slope")
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
    """As `solve_cases`, with the numbers of the cases that are left to the adaptive solver."""
    cases = Cases(_tables(problems), which, jnp.asarray(epsilon), jnp.asarray(alpha))
    num_cases, num_blocks = len(epsilon), problems.y.shape[-1]
    num_lanes = num_cases * num_blocks
    ends, slope, error = _solve(cases, np.arange(num_lanes), settings, _RUNGS[rung])
    steps = np.full(num_cases, num_blocks * _RUNGS[rung])
    again = np.flatnonzero(~(np.asarray(error) <= settings.rtol))
    if again.size and rung + 2 < len(_RUNGS) and _RUNGS[rung + 2] <= settings.max_steps:
        size = max(_FEWEST_AGAIN, 1 << (again.size - 1).bit_length())
        lanes = np.pad(again, (0, size - again.size), mode="edge")
        *better, new_error = _solve(cases, lanes, settings, _RUNGS[rung + 2])
        ends, slope = jax.tree.map(
            lambda old, new: old.at[:, lanes].set(new), (ends, slope), tuple(better)
        )
        steps += _RUNGS[rung + 2] * np.bincount(again % num_cases, minlength=num_cases)
        again = again[~(np.asarray(new_error)[: again.size] <= settings.rtol)]
    found = _measure(cases, ends, slope, settings)
    values = {name: np.asarray(value) for name, value in found.items() if name != "lost"}
    left = np.asarray(found["lost"]).copy()
    left[again % num_cases] = True
    values["num_steps"] = steps.astype("int32")
    return {name: values[name] for name in settings.variables}, np.flatnonzero(left)


@jax.jit
def _tables(problems: Problem) -> Tables:
    one = jnp.ones((), problems.dtype)

    def of(problem: Problem) -> Tables:
        batch = as_blocks(problem, SmoothedSign(1.0), one, 2)
        return Tables.of(problem, batch)

    return of(problems) if problems.y.ndim == 1 else jax.vmap(of)(problems)


def _solve(
    cases: Cases, lanes: np.ndarray, settings: Settings, num_steps: int
) -> tuple[tuple[Array, Array], Array | None, Array]:
    """w and ω of these lanes (k, lanes), dw/dε if it is wanted, and the estimated error."""
    width = _width(cases.tables.a.shape[-1], len(lanes))
    unit = width * num_devices()
    padded = np.pad(lanes, (0, -len(lanes) % unit), mode="edge").reshape(-1, width)
    slope = settings.wants("kkt_error_slope")
    found = _compiled(cases, padded, np.ones((), cases.epsilon.dtype), settings.smoothing,
                      num_steps, slope, len(lanes))
    return found


def _width(num_columns: int, num_lanes: int) -> int:
    """Lanes solved together: on a CPU, what keeps a step in its first cache."""
    if not is_cpu():
        return -(-num_lanes // num_devices())
    return max(32, min(256, 512 // num_columns))


@partial(
    jax.jit,
    static_argnames=("smoothing", "num_steps", "slope", "num_lanes"),
    compiler_options=_OPTIONS,
)
def _compiled(cases, lanes, one, smoothing, num_steps, slope, num_lanes):
    def solve(shared, lanes):
        cases, one = shared
        return jax.lax.map(lambda some: chunk(cases, one, some), lanes)

    def chunk(cases, one, lanes):
        block, case = jnp.divmod(lanes, cases.epsilon.shape[0])
        units = cases.tables.row(block, None if cases.which is None else cases.which[case])
        epsilon, alpha = cases.epsilon[case], cases.alpha[case] / units.weight
        rule = SmoothedSign(1.0, smoothing)

        def ends(epsilon):
            return fixed_step_ends(
                Lanes(units.a.T, epsilon / units.gradient, alpha, rule), one, num_steps
            )

        if not slope:
            found = ends(epsilon)
            return (found.w, found.omega), None, found.error()
        found, tangent = jax.jvp(ends, (epsilon,), (jnp.ones_like(epsilon),))
        wrong = jnp.max(jnp.abs(tangent.w_error), axis=0) / jnp.max(jnp.abs(tangent.w), axis=0)
        error = jnp.maximum(found.error(), 2 * wrong / _SLOPE)
        return (found.w, found.omega), tangent.w, error

    ends, slope, error = over_devices(solve)((cases, one), lanes)

    def flat(x):
        return jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1)[..., :num_lanes]

    return jax.tree.map(flat, (ends, slope, error))


@partial(jax.jit, static_argnames="settings", compiler_options=_OPTIONS)
def _measure(cases, ends, slope, settings):
    num_cases = cases.epsilon.shape[0]
    (w, omega), slope = jax.tree.map(
        lambda x: x.reshape(x.shape[0], -1, num_cases), (ends, slope)
    )
    return measures(cases.tables, cases.which, cases.alpha, w, omega, slope, settings)
