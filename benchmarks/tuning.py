"""What derivatives of limits cost, and what it takes to tune ε. See `make benchmark`.

Times are medians with their spread, µs a limit (ms a problem where ε is tuned), compile time apart.
The error of a derivative is against differences of SciPy's limit, which shares no code with ours.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import is_quick, spread, timed, write
from workloads import blocks_of

import jaxmd_sign as jms

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import reference as ref

ALPHA = 0.05


def half_square(problem: jms.Problem, epsilon: jax.Array) -> jax.Array:
    """½‖e‖² of the limit."""
    limit = jms.solve_limit(problem, jms.SmoothedSign(epsilon), ALPHA)
    return jnp.sum(jms.kkt(problem, limit).stationarity ** 2) / 2


def scipy_half_square(problem: jms.Problem, epsilon: np.ndarray) -> float:
    """The same by SciPy, block by block; ε per coordinate must not vary within a block."""
    x, y = blocks_of(problem)
    parts = np.broadcast_to(epsilon, x.shape[0] * x.shape[1]).reshape(x.shape)[:, 0]
    ends = (ref.block_limit(*case, ALPHA) for case in zip(x, y, parts, strict=True))
    return sum(end.kkt_error**2 for end in ends) / 2


def compared(functions: dict[str, Any], count: int) -> dict[str, Any]:
    """µs a limit of each, in turns, and the ratio to the first."""
    compiled = {name: jax.jit(function) for name, function in functions.items()}
    records = timed(*(lambda f=f: jax.block_until_ready(f()) for f in compiled.values()), repeats=9)
    base = records[0]["median"]
    return {
        name: {key: 1e6 * record[key] / count for key in ("median", "least", "most")}
        | {"ratio": record["median"] / base, "first_call_s": record["first"]}
        for name, record in zip(functions, records, strict=True)
    }


def one_epsilon(count: int) -> dict[str, Any]:
    """Value, and value with d/dε, of five blocks at many ε at once."""
    problem = jms.random_block_problem(jax.random.key(0), 5)
    epsilons = jnp.geomspace(1e-4, 1, count)

    def value(epsilon):
        return half_square(problem, epsilon)

    def both(epsilon):
        return jax.jvp(value, (epsilon,), (jnp.ones_like(epsilon),))

    found = compared(
        {"value": lambda: jax.vmap(value)(epsilons), "with d/dε": lambda: jax.vmap(both)(epsilons)},
        count,
    )
    errors = []
    for epsilon in (1e-3, 1e-2, 0.1, 0.5):
        true, _ = ref.derivative(lambda e: scipy_half_square(problem, e), epsilon, epsilon / 4, 4)
        errors.append(abs(float(both(jnp.asarray(epsilon))[1]) / true - 1))
    return found | {"error": max(errors)}


def many_epsilons(num_blocks: int) -> dict[str, Any]:
    """Value, and gradient in an ε for each coordinate, in reverse mode."""
    problem = jms.random_block_problem(jax.random.key(1), num_blocks)
    start = jnp.full(problem.num_features, 0.1)

    def value(epsilon):
        return half_square(problem, epsilon)

    found = compared(
        {
            "value": lambda: value(start),
            f"with {start.size} derivatives": lambda: jax.value_and_grad(value)(start),
        },
        1,
    )
    columns = np.asarray(problem.data.columns)
    gradient = np.asarray(jax.grad(value)(start))[columns].sum(axis=1)
    errors = []
    for i in range(0, num_blocks, max(1, num_blocks // 4)):
        alone = jms.Problem.from_blocks(problem.data.x[i : i + 1], problem.y[i : i + 1])
        true, _ = ref.derivative(lambda e, one=alone: scipy_half_square(one, e), 0.1, 0.025, 4)
        errors.append(abs(gradient[i] / true - 1))
    return found | {"error": max(errors)}


def tuning(count: int) -> dict[str, Any]:
    """`tune_epsilon` of many problems of five blocks in one call, beside a grid of 400 ε."""
    keys = jax.random.split(jax.random.key(7), count)
    problems = [jms.random_block_problem(key, 5) for key in keys]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *problems)
    tune = jax.jit(jax.vmap(lambda problem: jms.tune_epsilon(problem, ALPHA)))
    grid = np.geomspace(1e-6, 1e3, 400)
    tuned, swept = timed(
        lambda: jax.block_until_ready(tune(stacked)),
        lambda: jms.sweep(problems, grid, ALPHA, variables=["kkt_error"], rtol=1e-9),
        repeats=3,
    )
    solves = np.asarray(tune(stacked).stats["num_solves"])
    return {
        "tune_ms": 1e3 * tuned["median"] / count,
        "grid_ms": 1e3 * swept["median"] / count,
        "most_solves": int(solves.max()),
        "first_call_s": tuned["first"],
    }


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["| | µs | times the value | error |", "|---|---|---|---|"]
    for title in ("one ε, µs a limit", "an ε for each coordinate, µs"):
        for name, row in results[title].items():
            if name != "error":
                error = "" if name == "value" else f"{results[title]['error']:.0e}"
                lines.append(f"| {title}: {name} | {spread(row)} | {row['ratio']:.2f} | {error} |")
    one = results["tuning"]
    lines += [
        "",
        f"`tune_epsilon`: {one['tune_ms']:.3g} ms a problem, at most {one['most_solves']} limits; "
        f"a sweep of 400 ε: {one['grid_ms']:.3g} ms.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run everything; write the results beside those of the sweeps."""
    quick = is_quick(__doc__)
    shrink = 4 if quick else 1
    results = {
        "one ε, µs a limit": one_epsilon(1_024 // shrink),
        "an ε for each coordinate, µs": many_epsilons(100),
        "tuning": tuning(200 // shrink),
    }
    write("tuning", results, table(results), quick)


if __name__ == "__main__":
    main()
