"""Cases of block problems by the fixed-step engine: lanes out of cases, measures out of lanes.

Lanes whose estimated error is too large are solved once more with twice the steps; those that
still are go to the residual clock of `solve_limit`, without the other blocks of their cases.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._extremes import amax
from .._linear import is_cpu
from .._problem import Blocks, Problem
from .._smoothing import SMOOTHINGS
from .._threads import as_here
from ._adaptive import adaptive_ends
from ._devices import as_one_kernel, num_devices, over_devices, own_threads
from ._engine import Lanes, fixed_step_ends
from ._measures import NUMBERS, Measures, measures
from ._plan import ROWS
from ._settings import Settings, overlooks, tolerance
from ._tables import Cases, tables
from ._variables import CODES

_SLOPE = 100  # the tolerance of a derivative in ε is so much larger than that of a value
_FEWEST_AGAIN = 2048  # lanes, by their columns
_AGAIN = 12  # columns; of more, too few get better by more steps
_LANES = 64  # with fewer, XLA's loops are half as fast; with more, their arrays leave the cache
# Wide vectors are left unused otherwise: 1.6 times as fast on processors that have them.
_OPTIONS = {"xla_cpu_prefer_vector_width": 512}


def start_fixed(
    problems: Problem,
    settings: Settings,
    which: np.ndarray | None,
    epsilon: np.ndarray,
    alpha: np.ndarray,
    num_steps: int,
) -> Callable[[], tuple[dict[str, np.ndarray], np.ndarray]]:
    """As `start_cases`, with the numbers of the cases whose minimiser has no closed form."""
    given = which, epsilon, alpha
    num_cases, num_blocks = len(epsilon), problems.y.shape[-1]
    if num_cases * num_blocks <= 1.5 * ROWS and num_devices() == 1:
        found = _at_once(problems, given, settings, num_steps)
    else:
        cases = Cases(tables(problems), *given)
        ends, error = _in_parts(cases, num_cases * num_blocks, settings, num_steps)
        found = ends, error, _measure(cases, ends)
    return partial(_collect, problems, given, settings, num_steps, *found)


def _collect(
    problems: Problem,
    given: tuple[np.ndarray | None, np.ndarray, np.ndarray],
    settings: Settings,
    num_steps: int,
    ends: tuple[Array, ...],
    error: Array,
    measured: Measures,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the engine has found, better where it is not good enough."""
    assert isinstance(problems.data, Blocks)
    num_cases, num_blocks = len(given[1]), problems.y.shape[-1]
    codes, steps = np.zeros(num_cases, "int8"), np.full(num_cases, num_blocks * num_steps, "int32")
    allowed = tolerance(settings, problems.data.x.shape[-1])
    again = np.arange(error.size) if overlooks(settings) else _too_large(error, allowed)
    if again.size:
        cases = Cases(tables(problems), *given)
        ends = _solve_again(cases, ends, again, settings, num_steps, codes, steps)
        measured = _measure(cases, ends)
    # Numbers beyond the range of floats are a failure.
    codes[~np.asarray(measured.finite) & (codes == 0)] = CODES["not_finite"].value
    values = dict(zip(NUMBERS, np.asarray(measured.numbers), strict=False))
    values |= {"beta": np.asarray(measured.beta), "result": codes, "num_steps": steps}
    found = {name: values[name] for name in settings.variables}
    for name, value in found.items() if codes.any() else ():
        if value.dtype.kind == "f":
            found[name] = np.where(codes.reshape(-1, *[1] * (value.ndim - 1)) == 0, value, np.nan)
    return found, np.flatnonzero(np.asarray(measured.lost) & (codes == 0))


def _solve_again(
    cases: Cases,
    ends: tuple[Array, ...],
    again: np.ndarray,
    settings: Settings,
    num_steps: int,
    codes: np.ndarray,
    steps: np.ndarray,
) -> tuple[Array, ...]:
    """The ends with these lanes better, by more steps or another solver; codes and steps kept."""
    num_cases = len(codes)
    num_columns = cases.tables.a.shape[-1]
    allowed = tolerance(settings, num_columns)
    worth_it = num_columns <= _AGAIN or overlooks(settings)
    if worth_it and 2 * num_steps <= settings.max_steps:
        lanes = _padded(again, num_columns)
        better, error = _solve(cases, lanes, settings, 2 * num_steps)
        if overlooks(settings):
            error = jnp.maximum(error, _apart(tuple(x[:, lanes] for x in ends), better))
        ends = _put(ends, lanes, better)
        np.add.at(steps, again % num_cases, 2 * num_steps)
        again = again[_too_large(error[: again.size], allowed)]
    if again.size:
        best, taken, code = adaptive_ends(cases, again, settings, allowed)
        ends = _put(ends, again, best)
        np.add.at(steps, again % num_cases, taken)
        np.maximum.at(codes, again % num_cases, code)
    return ends


@jax.jit
def _apart(ends: tuple[Array, ...], better: tuple[Array, ...]) -> Array:
    """The error of the better ones by their distance from the others, if it falls like h²."""
    (w, omega, *_), (w_better, omega_better, *_) = ends, better
    beta = w_better**2 - omega_better**2
    change = amax(jnp.abs(w**2 - omega**2 - beta), axis=0) / 3
    return change / amax(jnp.abs(beta), axis=0)


def _too_large(error: Array, allowed: float) -> np.ndarray:
    return np.flatnonzero(~(np.asarray(error) <= allowed))


def _padded(lanes: np.ndarray, num_columns: int) -> np.ndarray:
    """To one of few sizes, since each is compiled."""
    fewest = _FEWEST_AGAIN // num_columns
    size = 1 << (max(fewest, lanes.size) - 1).bit_length()
    return np.pad(lanes, (0, size - lanes.size), mode="edge")


def _put(ends, lanes, better):
    return jax.tree.map(lambda old, new: old.at[:, lanes].set(new), ends, better)


def _at_once(problems: Problem, given, settings: Settings, num_steps: int):
    """All ends, their estimated errors and variables: one program, so one call."""
    return _first(problems, given, np.int32(num_steps), *_static(settings))


def _in_parts(cases: Cases, num_lanes: int, settings: Settings, num_steps: int):
    """All ends and their estimated errors: lanes are split over devices, or over threads.

    The latter for a case of more blocks than a chunk should have, which is a chunk of its own.
    """
    parts = own_threads()
    each = -(-num_lanes // parts)

    def solve(part):
        lanes = np.minimum(part * each + np.arange(each), num_lanes - 1)
        return jax.block_until_ready(_solve(cases, lanes, settings, num_steps))

    with ThreadPoolExecutor(parts, "lanes") as pool:
        found = list(pool.map(as_here(solve), range(parts)))
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=-1)[..., :num_lanes], *found)


def _solve(
    cases: Cases, lanes: np.ndarray, settings: Settings, num_steps: int
) -> tuple[tuple[Array, ...], Array]:
    """w and ω of these lanes (and dw/dε if it is wanted), (k, lanes), and the estimated error."""
    return _compiled(cases, lanes, np.int32(num_steps), *_static(settings))


def _static(settings: Settings) -> tuple[str, bool]:
    return settings.smoothing, settings.wants("kkt_error_slope")


def _width(num_lanes: int) -> int:
    """Lanes solved together: on a CPU, what keeps a step in its nearest cache."""
    return _LANES if is_cpu() else -(-num_lanes // num_devices())


@partial(jax.jit, static_argnums=(3, 4), compiler_options=_OPTIONS)
def _first(problems, given, num_steps, smoothing, slope):
    cases = Cases(tables(problems), *given)
    lanes = jnp.arange(cases.epsilon.size * problems.y.shape[-1])
    ends, error = _ends(cases, lanes, num_steps, smoothing, slope)
    return ends, error, _measures(cases, ends)


@partial(jax.jit, static_argnums=(3, 4), compiler_options=_OPTIONS)
def _compiled(cases, lanes, num_steps, smoothing, slope):
    return _ends(cases, lanes, num_steps, smoothing, slope)


@partial(jax.jit, compiler_options=_OPTIONS)
def _measure(cases, ends):
    return _measures(cases, ends)


def _ends(cases, lanes, num_steps, smoothing, slope):
    def solve(num_steps, given):
        return jax.lax.map(partial(chunk, num_steps), given)

    def chunk(num_steps, given):
        row, epsilon, alpha = given

        def ends(row, epsilon, alpha):
            some = Lanes(row.a.T, epsilon / row.gradient, alpha / row.weight, SMOOTHINGS[smoothing])
            return as_one_kernel(fixed_step_ends)(some, num_steps)

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
        wrong = amax(jnp.abs(wrong), axis=0) / amax(jnp.abs(tangent), axis=0)
        return (found.w, found.omega, tangent), jnp.maximum(found.error(), 2 * wrong / _SLOPE)

    def flat(x):
        return jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1)[..., : lanes.size]

    width = _width(lanes.size)
    padded = jnp.pad(lanes, (0, -lanes.size % (width * num_devices())), mode="edge")
    # Not in the loop: of long tables, XLA shares 64 rows out among threads, in each chunk anew.
    given = cases.lanes(padded)
    chunks = jax.tree.map(lambda x: x.reshape(-1, width, *x.shape[1:]), given)
    found = over_devices(solve)(num_steps, chunks)
    return jax.tree.map(flat, found)


def _measures(cases, ends) -> Measures:
    shape = -1, len(cases.epsilon)
    return measures(cases, *(x.reshape(x.shape[0], *shape) for x in ends))
