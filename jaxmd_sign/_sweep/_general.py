"""Cases of a general X by the stabilised explicit method: chunks, error estimates, what is left.

A chunk of neighbouring ε takes its steps together; one Python thread for each core works on chunks.
What calls LAPACK (the convex dual that finishes a flow, the measures) takes its members in turn.
"""

from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._batch import batch_ends
from .._batch_step import Flows
from .._dense import as_dense, weights_of
from .._dense_limit import (
    SAFETY,
    change_left,
    end_factor,
    finish,
    fits_single,
    in_units,
    is_stabilised,
    relative_error,
    settling,
    step_error,
)
from .._extremes import amax
from .._limit import checked, limit_of_weights
from .._linear import in_turn, is_cpu
from .._powers import power_difference
from .._problem import Dense, Problem, full_rank, matmul_precision
from .._results import RESULTS, check, combine
from .._smoothing import SMOOTHINGS
from .._solve import Outcome
from .._threads import as_here
from ._adaptive import described
from ._devices import num_devices, over_devices, own_threads
from ._settings import Settings
from ._tables import rule_of
from ._variables import CODES

_WIDTH, _WIDE = 32, 1024  # members of a chunk on a CPU, and elsewhere
_FEW = 32  # on a CPU, each a chunk of its own: then no core is without work
_NUMBERS = 2**26  # entries of the matrices of a chunk, at most, where members are not in turn
_RUNGS, _RUNGS_OF_SLOPES = 2, 3
_SLOPE = 100  # the tolerance of a slope is so much larger than that of a value
_STILL = 1e-8  # d log β / d log ε that is next to none: no digits are asked of it
_MOST_FEATURES = 512  # for whose Jacobians the adaptive solver has room
_OPTIONS = {"xla_cpu_prefer_vector_width": 512}
_met = set()  # programs that this process has compiled


def is_general(problems: Problem, settings: Settings) -> bool:
    """Whether these cases are for this method; any other kind is for the adaptive one."""
    corner, dtype = SMOOTHINGS[settings.smoothing].has_corner, np.dtype(settings.dtype)
    about = dtype, corner, settings.depth, settings.reference, settings.rtol
    return isinstance(problems.data, Dense) and is_stabilised(*about)


def solve_general(
    problems: Problem,
    settings: Settings,
    which: np.ndarray | None,
    epsilon: np.ndarray,
    alpha: np.ndarray,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """As `solve_cases`, with the numbers of the cases that this method does not vouch for."""
    found: dict[str, np.ndarray] = {}
    left = np.arange(len(epsilon))
    taken, off = np.zeros(len(epsilon), "int32"), np.zeros((2, len(epsilon)))
    ended = np.ones(len(epsilon), bool)
    allowed = settings.rtol * np.array([1 / SAFETY, _SLOPE])[:, None]
    for rung in range(_RUNGS_OF_SLOPES if settings.wants("kkt_error_slope") else _RUNGS):
        for one in np.unique(which[left]) if which is not None else (None,):
            some = left if which is None else left[which[left] == one]
            problem = problems if one is None else _one_of(problems, one)
            values, *wrong, steps = _solve(problem, settings, epsilon[some], alpha[some], rung)
            taken[some] += steps
            # What did not come to its end with shorter steps stays as it was with longer ones.
            new = (values["result"] == 0) | (rung == 0)
            off[:, some[new]] = np.stack(wrong)[:, new]
            for name, value in values.items():
                if name not in found:
                    found[name] = np.zeros((len(epsilon), *value.shape[1:]), value.dtype)
                found[name][some[new]] = value[new]
            ended[some] = values["result"] == 0
        good = off <= allowed
        left = np.flatnonzero(ended & ~np.all(good, axis=0))
        if not left.size:
            break
    if settings.wants("kkt_error_slope"):
        found["kkt_error_slope"][~good[1]] = np.nan  # its case may be right all the same
    left = np.flatnonzero((found["result"] != 0) | ~good[0])
    found["num_steps"] = taken
    if problems.num_features > _MOST_FEATURES:
        # The adaptive solver's matrices would not fit: rather no number than a doubtful one.
        doubtful = left[found["result"][left] == 0]
        found["result"][doubtful] = CODES["solver_failed"].value
        for value in found.values():
            if value.dtype.kind == "f":
                value[doubtful] = np.nan
        left = left[:0]
    return {name: found[name] for name in settings.variables}, left


def _one_of(problems: Problem, number: np.integer) -> Problem:
    return jax.tree.map(lambda leaf: leaf[number], problems)


def _solve(
    problem: Problem, settings: Settings, epsilon: np.ndarray, alpha: np.ndarray, rung: int
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Variables of these cases of one problem, estimated errors of β and of dβ/dε, and steps."""
    order = np.lexsort((alpha, epsilon))  # the slowest first
    units = jax.tree.map(np.asarray, in_units(*full_rank(problem)))
    X, y, inverse, gradient, weight, _ = units
    XT = np.ascontiguousarray(X.T)
    width = _width(X.size, len(order))
    chunks = _padded(order, width * num_devices()).reshape(-1, num_devices(), width)
    about = settings.of_program()
    slope = settings.wants("kkt_error_slope")
    # Estimated errors of slopes would be rounding.
    single = rung == 0 and not slope and fits_single(settings.rtol, units, epsilon, alpha)
    static = settings.smoothing, settings.max_steps, slope, single

    def follow(chunk: np.ndarray) -> tuple[np.ndarray, ...]:
        given = epsilon[chunk], alpha[chunk]
        shared = X, XT, inverse, y, gradient, weight, settings.rtol, rung
        return jax.tree.map(np.asarray, _ends(shared, given, *static))

    def end(chunk: np.ndarray, ends: tuple[np.ndarray, ...]) -> tuple[Any, ...]:
        each = epsilon[chunk].ravel(), alpha[chunk].ravel()
        return jax.tree.map(np.asarray, (*_finish(problem, ends, *each, about), ends[-2]))

    key = X.shape, width, about, single
    alone = chunks[: int(key not in _met)]  # threads that meet a new program would each compile it
    parts = [end(chunk, follow(chunk)) for chunk in alone]
    _met.add(key)
    parts += _on_threads(as_here(follow), as_here(end), chunks[len(alone) :])
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[back], *parts)


def _on_threads(follow: Callable, end: Callable, chunks: np.ndarray) -> list[Any]:
    """`end(chunk, follow(chunk))` of each: ends are short, and fill the gaps that walks leave."""
    with ThreadPoolExecutor(own_threads(), "general") as pool:
        walks = [pool.submit(follow, chunk) for chunk in chunks]
        ends = [
            pool.submit(lambda chunk, walk: end(chunk, walk.result()), chunk, walk)
            for chunk, walk in zip(chunks, walks, strict=True)
        ]
        try:
            done, _ = wait((*walks, *ends), return_when=FIRST_EXCEPTION)
            for one in done:
                one.result()
            return [one.result() for one in ends]
        finally:
            for one in (*walks, *ends):
                one.cancel()


def _width(size: int, num_cases: int) -> int:
    """Members of a chunk, of an X of this size."""
    if is_cpu():
        return 1 if num_cases <= _FEW else _WIDTH
    return max(1, min(_WIDE, _NUMBERS // size))


def _padded(index: np.ndarray, multiple: int) -> np.ndarray:
    return np.pad(index, (0, -len(index) % multiple), mode="edge")


@partial(jax.jit, static_argnums=(2, 3, 4, 5), compiler_options=_OPTIONS)
def _ends(shared, given, smoothing: str, max_steps: int, slope: bool, single: bool):
    """log u and log v, errors, slopes of both in ε, and the rest of the ends: members first."""

    def solve(shared, given):
        X, XT, inverse, y, gradient, weight, rtol, rung = shared

        def chunk(given):
            epsilon, alpha = given

            def run(epsilon):
                units = epsilon / gradient, alpha / weight
                flows = Flows(X, XT, inverse, y, *units, SMOOTHINGS[smoothing])
                local = step_error(rtol, flows, rung)
                ends = batch_ends(flows, local, settling(rtol, flows), max_steps, single)
                return (ends.logs + jnp.log(weight), ends.error * weight), ends

            if slope:
                unit = jnp.ones_like(epsilon)
                found, tangent, ends = jax.jvp(run, (epsilon,), (unit,), has_aux=True)
            else:
                found, ends = run(epsilon)
                tangent = jax.tree.map(jnp.zeros_like, found)
            moved = (jnp.moveaxis(x, -1, 0) for x in (*found, *tangent))
            return *moved, ends.rest, ends.num_steps, ends.settled

        return jax.lax.map(chunk, given)

    with matmul_precision():
        found = over_devices(solve)(shared, given)
    return tuple(x.reshape(-1, *x.shape[2:]) for x in found)


@partial(jax.jit, static_argnames="settings")
def _finish(problem: Problem, state, epsilon, alpha, settings: Settings):
    """The limits of a batch, their variables, and the estimated errors of β and of dβ/dε."""

    def one(state, epsilon, alpha):
        logs, error, tangent, error_tangent, rest, steps, settled = state
        rule = rule_of(epsilon, settings.smoothing)
        flow = as_dense(problem, rule, alpha, settings.depth)
        weights = jnp.exp(logs)
        with matmul_precision():
            factor = end_factor(flow.X, weights)

        def limit(logs):
            u, v, converged = finish(flow, *weights_of(logs, 2), factor=factor)
            start = jnp.broadcast_to(alpha, u.shape)
            result = combine(
                check(settled, RESULTS.max_steps_reached),  # pyright: ignore[reportArgumentType]
                check(converged, RESULTS.dual_not_converged),
            )
            none = jnp.zeros_like(steps)
            report = Outcome(result, steps, steps, none)
            ends, reference = (u, v), (start, start)
            return checked(limit_of_weights(problem, alpha, ends, reference, 2, report))

        with matmul_precision():
            values = described(problem, limit, logs, tangent, settings)
            wrong = relative_error(flow.X, weights, error, factor) + rest
            doubt = jnp.zeros(())
            if settings.wants("kkt_error_slope"):
                slopes = error_tangent, weights * tangent
                left, size = (
                    amax(jnp.abs(change_left(flow.X, weights, x, factor))) for x in slopes
                )
                beta = power_difference(weights[0], weights[1], 2)
                still = _STILL * amax(jnp.abs(beta)) / epsilon
                size = jnp.maximum(size, still)
                doubt = left / jnp.where(size > 0, size, 1)
            return values, wrong, doubt

    return in_turn(one, state, epsilon, alpha)
