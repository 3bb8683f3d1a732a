"""Cases by the adaptive solver that users see: the reference of sweeps, and their fallback.

A batch runs until its slowest case ends, so cases of like cost are put together. Batches have few
sizes, whatever the number of cases, so that a program is compiled once for each.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._block import Block
from .._checks import Scalar, all_finite
from .._clock import block_limit
from .._kkt import bregman, kkt, minimize_divergence, safe_norm
from .._limit import Limit, limit_of
from .._linear import in_turn, is_cpu
from .._problem import Blocks, Dense, Problem
from .._results import RESULTS, check, combine
from .._solve import differentiable
from .._threads import as_here
from ._devices import num_devices, over_devices, own_threads
from ._settings import Settings
from ._tables import Cases, Row, Which, rule_of
from ._variables import CODES

_CPU_COLUMNS, _WIDER = 512, 32  # columns of blocks in a batch; so many times on other devices
_GENERAL = 1024  # cases of a general X in a batch, where they are not solved in turn
_SMALL = (4, 16, 128)
_FINE = 1e-11  # of a value, where its derivative in ε is wanted: that errs by up to rtol/ε


def _code_table() -> np.ndarray:
    """Our code for every value of `RESULTS`."""
    members = {name: item._value for name, item in RESULTS._name_to_item.items()}
    table = np.full(max(members.values()) + 1, CODES["solver_failed"].value)
    for name, value in members.items():
        if name in CODES:
            table[value] = CODES[name].value
    return table


def solve_adaptively(
    problems: Problem,
    settings: Settings,
    which: np.ndarray | None,
    epsilon: np.ndarray,
    alpha: np.ndarray,
) -> dict[str, np.ndarray]:
    """As `solve_cases`."""
    num_cases = len(epsilon)
    order = np.lexsort((alpha, epsilon))  # cost falls with ε, then with α
    size = _batch_size(problems, num_cases)
    order = np.pad(order, (0, -num_cases % size), mode="edge")

    def solve(index: np.ndarray) -> dict[str, np.ndarray]:
        chosen = None if which is None else which[index]
        given = chosen, epsilon[index], alpha[index]
        return jax.tree.map(np.asarray, _solve(problems, given, settings.rtol, about))

    about = settings.of_program()
    first, *rest = order.reshape(-1, size)
    parts = [solve(first)]  # compiled before there are threads
    if isinstance(problems.data, Dense):
        with ThreadPoolExecutor(own_threads(), "adaptive") as pool:
            parts += pool.map(as_here(solve), rest)
    else:
        parts += map(solve, rest)
    values = {}
    for name in parts[0]:
        found = np.concatenate([part[name] for part in parts])
        values[name] = np.empty((num_cases, *found.shape[1:]), found.dtype)
        values[name][order] = found
    return values


def adaptive_ends(
    cases: Cases, lanes: np.ndarray, settings: Settings, rtol: float
) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray]:
    """Lanes by the residual clock: w and ω (and dw/dε if it is wanted), steps and codes."""
    size = -(-_usual_size(cases.tables.a.shape[-1]) // num_devices()) * num_devices()
    order = np.argsort(np.asarray(cases.epsilon)[lanes % len(cases.epsilon)], kind="stable")
    padded = np.pad(lanes[order], (0, -len(lanes) % size), mode="edge").reshape(-1, size)
    # Not all of the settings: other variables would be another program.
    slope = settings.wants("kkt_error_slope")
    static = settings.smoothing, settings.max_steps, slope
    rtol = min(rtol, _FINE) if slope else rtol
    found = [jax.tree.map(np.asarray, _ends(cases, some, rtol, *static)) for some in padded]
    back = np.argsort(order)
    return jax.tree.map(lambda *parts: np.concatenate(parts, axis=-1)[..., back], *found)


@partial(jax.jit, static_argnums=(3, 4, 5))
def _ends(
    cases: Cases,
    lanes: Int[Array, " lanes"],
    rtol: Scalar,
    smoothing: str,
    max_steps: int,
    slope: bool,
):
    def solve(system: tuple[Block, Scalar], adjoint: diffrax.AbstractAdjoint):
        return block_limit(system[0], "start", system[1], max_steps, adjoint)

    def one(rtol: Scalar, row: Row, epsilon: Float[Array, ""], alpha: Float[Array, ""]):
        rule = rule_of(epsilon / row.gradient, smoothing)
        block = Block(row.a, jnp.ones_like(alpha), alpha / row.weight, rule, 2)
        ends, report = differentiable(solve, (block, rtol), None)
        finite = all_finite(ends.w, ends.omega)
        result = combine(report.result, check(finite, RESULTS.not_finite))
        code = jnp.asarray(_code_table())[result._value].astype("int8")
        return (ends.w, ends.omega), (report.num_steps, code)

    def lane(rtol, row, epsilon, alpha):
        if not slope:
            return one(rtol, row, epsilon, alpha)
        unit = jnp.ones_like(epsilon)
        ends, tangent, report = jax.jvp(
            lambda epsilon: one(rtol, row, epsilon, alpha), (epsilon,), (unit,), has_aux=True
        )
        return (*ends, tangent[0]), report

    def batch(shared, lanes):
        cases, rtol = shared
        return jax.vmap(lane, in_axes=(None, 0, 0, 0))(rtol, *cases.lanes(lanes))

    rtol = jnp.asarray(rtol, cases.epsilon.dtype)
    ends, (steps, code) = over_devices(batch)((cases, rtol), lanes)
    return jax.tree.map(jnp.transpose, ends), steps, code


def _usual_size(num_columns: int) -> int:
    """Of a batch of blocks: the wider it is, the longer it waits for its slowest."""
    return max(1, _wider() * _CPU_COLUMNS // num_columns)


def _wider() -> int:
    return 1 if is_cpu() else _WIDER


def _batch_size(problem: Problem, num_cases: int) -> int:
    """The largest size that pads little; a multiple of the number of devices."""
    if isinstance(problem.data, Blocks):
        usual = _usual_size(math.prod(problem.data.x.shape[-2:]))
    else:
        usual = 1 if is_cpu() else _GENERAL
    sizes = sorted({usual, *(small for small in _SMALL if small < usual)})
    little = [size for size in sizes if -(-num_cases // size) * size <= 1.25 * num_cases]
    return -(-max(little, default=sizes[0]) // num_devices()) * num_devices()


@partial(jax.jit, static_argnames="settings")
def _solve(
    problems: Problem, cases: tuple[Which, Array, Array], rtol: Scalar, settings: Settings
) -> dict[str, Array]:
    def one(shared, case):
        (problems, rtol), (which, epsilon, alpha) = shared, case
        problem = problems if which is None else jax.tree.map(lambda x: x[which], problems)
        return _case(problem, epsilon, alpha, rtol, settings)

    def batch(shared, cases):
        if isinstance(problems.data, Dense):
            return in_turn(partial(one, shared), cases)
        return jax.vmap(one, in_axes=(None, 0))(shared, cases)

    return over_devices(batch)((problems, rtol), cases)


def _case(
    problem: Problem,
    epsilon: Float[Array, ""],
    alpha: Float[Array, ""],
    rtol: Scalar,
    settings: Settings,
) -> dict[str, Array]:
    """Every wanted variable of one case; NaN if it failed."""

    def limit(epsilon):
        return _limit(problem, epsilon, alpha, rtol, settings)

    return described(problem, limit, epsilon, jnp.ones_like(epsilon), settings)


def described(
    problem: Problem,
    limit_at: Callable[[Array], Limit],
    at: Array,
    along: Array,
    settings: Settings,
) -> dict[str, Array]:
    """Every wanted variable of a limit, NaN if it failed; the slope is that along `along`."""

    def kkt_error(at):
        limit = limit_at(at)
        conditions = kkt(problem, limit)
        return conditions.error, (limit, conditions)

    values: dict[str, Array] = {}
    if settings.wants("kkt_error_slope"):
        _, values["kkt_error_slope"], found = jax.jvp(kkt_error, (at,), (along,), has_aux=True)
    else:
        _, found = kkt_error(at)
    limit, conditions = found
    values |= {
        "kkt_error": conditions.error,
        "kkt_relative_error": conditions.relative_error,
        "bregman": bregman(limit, limit.beta),
        "beta": limit.beta,
        "feasibility": conditions.feasibility,
    }
    code = jnp.asarray(_code_table())[limit.result._value]
    if settings.wants("bregman_gap", "distance_to_minimizer"):
        dual = minimize_divergence(problem, limit)
        values["bregman_gap"] = limit.potential.divergence(limit.dual, dual.theta)
        values["distance_to_minimizer"] = safe_norm(limit.beta - dual.beta)
        lost = (code == 0) & ~jnp.all(jnp.isfinite(dual.beta))
        code = jnp.where(lost, CODES["dual_not_converged"].value, code)
    values = {name: jnp.where(code == 0, value, jnp.nan) for name, value in values.items()}
    values["result"] = code.astype("int8")
    values["num_steps"] = jnp.sum(limit.stats["num_steps"]).astype("int32")
    return {name: values[name] for name in settings.variables}


def _limit(
    problem: Problem,
    epsilon: Float[Array, ""],
    alpha: Float[Array, ""],
    rtol: Scalar,
    settings: Settings,
) -> Limit:
    rule = rule_of(epsilon, settings.smoothing)
    about = settings.reference, settings.max_steps
    return limit_of(problem, rule, alpha, settings.depth, rtol, *about)
