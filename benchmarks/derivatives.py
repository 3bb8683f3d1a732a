"""W5: a limit and its derivative in ε; gradients in many ε; what it takes to tune one.

Truth is central differences of SciPy's limits, which share no code with ours. Peers have no
derivatives of their own here: theirs are central differences, three solves a case, but for Diffrax
and its forward mode.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxmd_sign as jms

from . import truth
from .contest import Effort, Solver, contest, in_turns
from .lanes import Lanes
from .peers import SOME, peer
from .truth import ref
from .workloads import blocks_of, example, workload

ALPHA = 0.05
NEEDED = 1e-4  # of the derivative, relative
_PEERS = ("Numba, residual clock", "heyoka", "numbalsoda", "Diffsol", "CVODE", "Diffrax, in time")


def kkt_error(lanes: Lanes, states: np.ndarray) -> np.ndarray:
    """|E| of blocks of two columns, from its closed form."""
    (a0, a1), (w0, w1) = lanes.a.T, states[:, :2].T
    change = a0 * (w1 - lanes.alpha) - a1 * (w0 - lanes.alpha)
    return np.abs(change) / np.hypot(a0, a1)


def differences(limits, lanes: Lanes, step: float) -> np.ndarray:
    """KKT error and its derivative in ε by central differences, (L, 2)."""
    count = len(lanes.Y)
    three = lanes.take(np.tile(np.arange(count), 3))
    scale = np.repeat([1, 1 + step, 1 - step], count)
    three = three._replace(epsilon=three.epsilon * scale)
    value, above, below = np.split(kkt_error(three, limits(three)), 3)
    return np.stack([value, (above - below) / (2 * step * lanes.epsilon)], axis=1)


def slopes(quick: bool) -> dict[str, Any]:
    """W1 with d/dε of the KKT error of every case."""
    effort = Effort(16_384, 64, 0.2, 3) if quick else Effort(131_072, 512, 0.6, 5)
    work = workload(example(), effort.cases)
    lanes = work.lanes()
    some = lanes.take(slice(effort.checked))
    halves = [differences(truth.limits, some, step)[:, 1] for step in (0.02, 0.01)]
    true = halves[1] + (halves[1] - halves[0]) / 3  # Richardson
    value = kkt_error(some, truth.limits(some))

    def ours(count, rtol):
        names = ["kkt_error", "kkt_error_slope"]
        found = jms.sweep(*work.some(count), product=False, rtol=rtol, variables=names)
        return np.stack([found[name].values for name in names], axis=1)

    def theirs(name, count, rtol):
        # The larger the error of a solve, the longer the step that drowns it.
        step = 1e-5 if name == "Numba, residual clock" else max(1e-4, rtol ** (1 / 3))
        limits = partial(peer(name).limits, rtol=rtol)
        return differences(limits, lanes.take(slice(count)), step)

    def forward(count, rtol):
        some = lanes.take(slice(count))

        end, slope = peer("Diffrax, in time").limits_and_slopes(some, rtol)
        (a0, a1), (w0, w1), (d0, d1) = some.a.T, end[:, :2].T, slope[:, :2].T
        sign = np.sign(a0 * (w1 - some.alpha) - a1 * (w0 - some.alpha))
        return np.stack(
            [kkt_error(some, end), sign * (a0 * d1 - a1 * d0) / np.hypot(a0, a1)], axis=1
        )

    def errors(found):
        count = min(len(found), len(true))
        wrong = np.abs(found[:count] / np.stack([value, true], axis=1)[:count] - 1)
        return np.maximum(100 * wrong[:, 0], wrong[:, 1])  # a value to a hundredth of that

    solvers = {"jaxmd_sign": Solver(ours)} | {
        name: Solver(forward if name == "Diffrax, in time" else partial(theirs, name))
        for name in _PEERS
        if not quick or name in SOME
    }
    return {
        "unit": "µs a case",
        "needed": NEEDED,
        "rows": contest(solvers, errors, NEEDED, effort),
    }


def half_square(problem: jms.Problem, epsilon: jax.Array) -> jax.Array:
    """½‖e‖² of the limit."""
    limit = jms.solve_limit(problem, jms.SmoothedSign(epsilon), ALPHA)
    return jnp.sum(jms.kkt(problem, limit).stationarity ** 2) / 2


def scipy_half_square(problem: jms.Problem, epsilon) -> float:
    """The same by SciPy, block by block; ε per coordinate must not vary within a block."""
    x, y = blocks_of(problem)
    parts = np.broadcast_to(epsilon, x.shape[0] * x.shape[1]).reshape(x.shape)[:, 0]
    ends = (ref.block_limit(*case, ALPHA) for case in zip(x, y, parts, strict=True))
    return sum(end.kkt_error**2 for end in ends) / 2


def _compared(functions: dict[str, Any], count: int, turns: int) -> dict[str, Any]:
    compiled = {name: jax.jit(function) for name, function in functions.items()}
    runs = {name: partial(lambda f: jax.block_until_ready(f()), f) for name, f in compiled.items()}
    return in_turns(runs, turns, 1e6 / count)


def one_epsilon(quick: bool) -> dict[str, Any]:
    """`solve_limit` of five blocks at many ε at once, and with d/dε."""
    count = 256 if quick else 1_024
    problem = jms.random_block_problem(jax.random.key(0), 5)
    epsilons = jnp.geomspace(1e-4, 1, count)

    def value(epsilon):
        return half_square(problem, epsilon)

    def both(epsilon):
        return jax.jvp(value, (epsilon,), (jnp.ones_like(epsilon),))

    rows = _compared(
        {"value": lambda: jax.vmap(value)(epsilons), "with d/dε": lambda: jax.vmap(both)(epsilons)},
        count,
        3 if quick else 9,
    )
    wrong = []
    for epsilon in (1e-2, 0.1) if quick else (1e-3, 1e-2, 0.1, 0.5):
        true, _ = ref.derivative(lambda e: scipy_half_square(problem, e), epsilon, epsilon / 4, 4)
        wrong.append(abs(float(both(jnp.asarray(epsilon))[1]) / true - 1))
    rows["with d/dε"]["error"] = max(wrong)
    return {"unit": "µs a limit of five blocks", "rows": rows}


def many_epsilons(quick: bool) -> dict[str, Any]:
    """The limit of 100 blocks, and its gradient in an ε for each coordinate, in reverse mode."""
    num_blocks = 100
    problem = jms.random_block_problem(jax.random.key(1), num_blocks)
    start = jnp.full(problem.num_features, 0.1)

    def value(epsilon):
        return half_square(problem, epsilon)

    gradients = f"with {start.size} derivatives"
    rows = _compared(
        {"value": lambda: value(start), gradients: lambda: jax.value_and_grad(value)(start)},
        1,
        3 if quick else 9,
    )
    columns = np.asarray(problem.data.columns)
    gradient = np.asarray(jax.grad(value)(start))[columns].sum(axis=1)
    wrong = []
    for i in range(0, num_blocks, num_blocks if quick else num_blocks // 4):
        alone = jms.Problem.from_blocks(problem.data.x[i : i + 1], problem.y[i : i + 1])
        true, _ = ref.derivative(lambda e, one=alone: scipy_half_square(one, e), 0.1, 0.025, 4)
        wrong.append(abs(gradient[i] / true - 1))
    rows[gradients]["error"] = max(wrong)
    return {"unit": "µs a limit of 100 blocks", "rows": rows}


def tuning(quick: bool) -> dict[str, Any]:
    """`tune_epsilon` of many problems of five blocks in one call, beside a grid of 400 ε."""
    count = 50 if quick else 200
    keys = jax.random.split(jax.random.key(7), count)
    problems = [jms.random_block_problem(key, 5) for key in keys]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *problems)
    tune = jax.jit(jax.vmap(lambda problem: jms.tune_epsilon(problem, ALPHA)))
    grid = np.geomspace(1e-6, 1e3, 400)
    rows = in_turns(
        {
            "tune_epsilon": lambda: jax.block_until_ready(tune(stacked)),
            "a sweep of 400 ε": lambda: jms.sweep(
                problems, grid, ALPHA, variables=["kkt_error"], rtol=1e-9
            ),
        },
        3,
        1e3 / count,
    )
    solves = np.asarray(tune(stacked).stats["num_solves"])
    rows["tune_epsilon"]["steps"] = float(solves.mean())
    return {"unit": "ms a problem", "rows": rows, "most_limits": int(solves.max())}
