"""Cases of a general X by the stabilised explicit method: chunks, error estimates, what is left.

A chunk of neighbouring ε takes its steps together; one Python thread for each core works on chunks.
What calls LAPACK (the convex dual that finishes a flow, the measures) comes after, from one thread:
two threads in such a program have hung.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from .._dense import as_dense, finish
from .._limit import checked, limit_of_weights
from .._problem import Dense, Problem, full_rank, matmul_precision
from .._results import RESULTS, check, combine
from .._smoothing import SMOOTHINGS
from .._solve import Outcome
from ._adaptive import described
from ._batch import Flows, batch_ends
from ._devices import is_cpu, num_devices, over_devices, own_threads
from ._plan import Settings
from ._tables import rule_of
from ._variables import CODES

_FEW, _WIDTH, _WIDE = 4, 32, 1024  # members of a chunk: if there are few, on a CPU, elsewhere
_NUMBERS = 2**22  # entries of the matrices of a batch that is finished together
# Measured over thousands of random cases: errors of β up to `rtol`, and but for small ones seldom
# twice their estimates. Longer steps than those for 5e-5 can miss a kink.
_LOCAL, _LOOSEST, _TIGHTER, _RUNGS, _SAFETY = 1.4, 5e-5, 1 / 16, 2, 1.5
_KINKS = 2.5e-5
_GROWTH = 30.0  # of errors, by ε in the unit of gradients: measured too
_MOST_FEATURES = 512  # for whose Jacobians the adaptive solver has room
_OPTIONS = {"xla_cpu_prefer_vector_width": 512}
_met = set()  # programs that this process has compiled


def is_general(problems: Problem, settings: Settings) -> bool:
    """Whether these cases are for this method; any other kind is for the adaptive one."""
    smooth = not SMOOTHINGS[settings.smoothing].has_corner  # else the estimate is no good
    fits = smooth and settings.depth == 2 and settings.reference == "start"
    double = settings.dtype == "float64" and settings.rtol >= 1e-8
    return fits and double and isinstance(problems.data, Dense)


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
    taken = np.zeros(len(epsilon), "int32")
    for rung in range(_RUNGS):
        local = _local(settings.rtol) * _TIGHTER**rung
        again = []
        for one in np.unique(which[left]) if which is not None else (None,):
            some = left if which is None else left[which[left] == one]
            problem = problems if one is None else _one_of(problems, one)
            values, error, steps = _solve(problem, settings, epsilon[some], alpha[some], local)
            taken[some] += steps
            for name, value in values.items():
                if name not in found:
                    found[name] = np.zeros((len(epsilon), *value.shape[1:]), value.dtype)
                found[name][some] = value
            again.append(some[(values["result"] == 0) & ~(_SAFETY * error <= settings.rtol)])
        left = np.sort(np.concatenate(again))
        if not left.size:
            break
    found["num_steps"] = taken
    left = np.union1d(left, np.flatnonzero(found["result"]))  # smaller steps would not help those
    if problems.num_features > _MOST_FEATURES:
        # The adaptive solver's matrices would not fit: rather no number than a doubtful one.
        doubtful = left[found["result"][left] == 0]
        found["result"][doubtful] = CODES["solver_failed"].value
        for value in found.values():
            if value.dtype.kind == "f":
                value[doubtful] = np.nan
        left = left[:0]
    return {name: found[name] for name in settings.variables}, left


def _local(rtol: float) -> float:
    """The error that a step may make for this tolerance.

    Where it matters that gradients change sign, errors fall like h^2.3 only, and no estimate sees
    them: below `_KINKS` they are what decides.
    """
    rtol = min(rtol, _LOOSEST)
    return _LOCAL * rtol**1.4 * min(1, rtol / _KINKS) ** 0.43


def _one_of(problems: Problem, number: np.integer) -> Problem:
    return jax.tree.map(lambda leaf: leaf[number], problems)


def _solve(
    problem: Problem, settings: Settings, epsilon: np.ndarray, alpha: np.ndarray, local: float
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Variables of these cases of one problem, estimated relative errors of β, and steps."""
    order = np.lexsort((alpha, epsilon))  # the slowest first
    X, y, gradient, weight = _in_units(problem)
    XT = np.ascontiguousarray(X.T)
    width = _FEW if len(order) <= _FEW else _WIDTH if is_cpu() else _WIDE
    chunks = _padded(order, width * num_devices()).reshape(-1, num_devices(), width)
    static = settings.smoothing, settings.max_steps, settings.wants("kkt_error_slope")

    def solve(chunk: np.ndarray) -> tuple[np.ndarray, ...]:
        given = epsilon[chunk], alpha[chunk]
        shared = X, XT, y, gradient, weight, local, np.sqrt(settings.rtol / 10)
        return jax.tree.map(np.asarray, _ends(shared, given, *static))

    key = X.shape, width, static
    first = [solve(chunks[0])] if key not in _met else []
    _met.add(key)
    rest = chunks[len(first) :]
    threads = min(own_threads(), len(rest))
    if threads > 1:
        with ThreadPoolExecutor(threads, "general") as pool:
            parts = first + list(pool.map(solve, rest))
    else:
        parts = first + [solve(chunk) for chunk in rest]
    logs, tangent, error, steps, settled = (
        np.concatenate([part[i] for part in parts])[: len(order)] for i in range(5)
    )
    values, errors = {}, np.zeros(len(order))
    about = settings.of_program()
    n, d = X.shape
    batch = max(1, min(_FEW if len(order) <= _FEW else _WIDTH, _NUMBERS // (n * d)))
    for at in _padded(np.arange(len(order)), batch).reshape(-1, batch):
        case = order[at]
        state = logs[at], tangent[at], error[at], steps[at], settled[at]
        described, wrong = _finish(problem, state, epsilon[case], alpha[case], about)
        errors[case] = wrong
        for name, value in described.items():
            if name not in values:
                values[name] = np.zeros((len(order), *value.shape[1:]), value.dtype)
            values[name][case] = value
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return values, errors, steps[back]


def _padded(index: np.ndarray, multiple: int) -> np.ndarray:
    return np.pad(index, (0, -len(index) % multiple), mode="edge")


def _in_units(problem: Problem) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Rows that span X, and labels, with ‖X‖ = 1 and max|X⁺y| = 1; units of gradient and weight."""
    X, y = (np.asarray(x) for x in full_rank(problem))
    left, singular, right = np.linalg.svd(X, full_matrices=False)
    size = np.max(np.abs(right.T @ ((left.T @ y) / singular)))
    size = size if size > 0 else 1.0
    weight = np.sqrt(size)
    return X / singular[0], y / (singular[0] * size), singular[0] ** 2 * size * weight, weight


@partial(jax.jit, static_argnums=(2, 3, 4), compiler_options=_OPTIONS)
def _ends(shared, given, smoothing: str, max_steps: int, slope: bool):
    """log u, log v, their slopes in ε, errors, steps and whether settled: members first."""

    def solve(shared, given):
        X, XT, y, gradient, weight, local, tolerance = shared

        def chunk(given):
            epsilon, alpha = given

            def run(epsilon):
                units = epsilon / gradient, alpha / weight
                flows = Flows(X, XT, y, *units, SMOOTHINGS[smoothing])
                # Beside a large ε weights grow as under gradient flow, and errors with them.
                bound = local / (1 + _GROWTH * flows.epsilon)
                ends = batch_ends(flows, lax.stop_gradient(bound), tolerance, max_steps)
                return ends.logs + jnp.log(weight), ends

            if slope:
                unit = jnp.ones_like(epsilon)
                logs, tangent, ends = jax.jvp(run, (epsilon,), (unit,), has_aux=True)
            else:
                logs, ends = run(epsilon)
                tangent = jnp.zeros_like(logs)
            moved = logs, tangent, ends.error * weight
            moved = tuple(jnp.moveaxis(x, -1, 0) for x in moved)
            return *moved, ends.num_steps, ends.settled

        return jax.lax.map(chunk, given)

    with matmul_precision():
        found = over_devices(solve)(shared, given)
    return tuple(x.reshape(-1, *x.shape[2:]) for x in found)


@partial(jax.jit, static_argnames="settings")
def _finish(problem: Problem, state, epsilon, alpha, settings: Settings):
    """The limits of a batch, their variables, and the estimated errors of β."""

    def one(problem, state, epsilon, alpha):
        logs, tangent, error, steps, settled = state
        rule = rule_of(epsilon, settings.smoothing)
        flow = as_dense(problem, rule, alpha, settings.depth)

        def limit(logs):
            u, v, converged = finish(flow, *jnp.exp(logs))
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
            return values, _relative_error(flow.X, jnp.exp(logs), error)

    return jax.vmap(one, in_axes=(None, 0, 0, 0))(problem, state, epsilon, alpha)


def _relative_error(
    X: Float[Array, "n d"], weights: Float[Array, "2 d"], error: Float[Array, "2 d"]
) -> Float[Array, ""]:
    """The errors of all steps, added up, but for what the end of the flow puts right again."""
    (u, v), (du, dv) = weights, error
    wrong, curvature = 2 * (u * du - v * dv), 2 * (u**2 + v**2)
    multiplier = jnp.linalg.solve((X * curvature) @ X.T, X @ wrong)
    wrong = wrong - curvature * (X.T @ multiplier)
    size = jnp.max(jnp.abs((u - v) * (u + v)))
    return jnp.max(jnp.abs(wrong)) / jnp.where(size > 0, size, 1)
