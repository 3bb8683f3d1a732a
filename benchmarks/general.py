"""Limits on a general X against compiled LSODA, the same error, in the same run.

Each at the loosest tolerance whose worst error against SciPy will do. LSODA is told when to stop
and is spared the finish; a sweep finds both, and computes every variable.
"""

import sys
import time
from functools import cache
from pathlib import Path

import jax
import numpy as np
from common import is_quick, spread, timed, write
from scipy.integrate import solve_ivp

import jaxmd_sign as jms
from jaxmd_sign._sweep._devices import num_cores

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import reference as ref

ALPHA, ERROR, SETTLED = 0.05, 1e-5, 1e-3
DATA = Path(__file__).parents[1] / "tests" / "data" / "diabetes30_quadratic.csv"


def problems():
    """Names, problems, and whether LSODA needs logarithms: on real data it forgets weights."""
    gaussian = jms.random_sparse_problem(jax.random.key(0), 40, 100, 5)
    return {
        "diabetes 30 × 64": (jms.load_problem(DATA), True),
        "Gaussian 40 × 100": (gaussian, False),
    }


@cache
def lsoda(d: int, in_logs: bool):
    """Compiled LSODA, its right-hand side compiled too, cases over all cores (prange)."""
    import numba
    from numba import carray, cfunc, njit, prange
    from numbalsoda import lsoda, lsoda_sig

    numba.set_num_threads(num_cores())
    size = 2 * d

    @cfunc(lsoda_sig)
    def field(t, state, slope, data):
        s, p, f = carray(state, (size,)), carray(data, (d * d + d + 1,)), carray(slope, (size,))
        c, w = np.empty(d), np.empty(size)
        for i in range(d):
            c[i] = -p[d * d + i]
        for i in range(size):
            w[i] = np.exp(s[i]) if in_logs else s[i]
        for j in range(d):  # by columns, which the compiler turns into wide vectors
            beta = (w[j] - w[d + j]) * (w[j] + w[d + j])
            for i in range(d):
                c[i] += p[j * d + i] * beta
        for i in range(d):
            up, down = abs(c[i]) * abs(w[i]) + p[-1], abs(c[i]) * abs(w[d + i]) + p[-1]
            f[i] = -c[i] / up if in_logs else -c[i] * w[i] / up
            f[d + i] = c[i] / down if in_logs else c[i] * w[d + i] / down

    address = field.address

    @njit(parallel=True)
    def solve(gram, target, epsilon, start, ends, rtol, atol):
        found = np.empty((len(epsilon), size))
        for case in prange(len(epsilon)):
            data = np.concatenate((gram.ravel(), target, epsilon[case : case + 1]))
            times = np.array([0.0, ends[case]])
            u, _ = lsoda(
                address, np.full(size, start), times, data, rtol=rtol, atol=atol, mxstep=1_000_000
            )
            found[case] = u[1]
        return found

    return solve


def end_time(X, y, epsilon):
    """When every gradient is below `SETTLED` ε, by SciPy."""
    correlations, velocity, jacobian = ref._general_system(X, y, epsilon)

    def above(time, logs):
        c, weights = correlations(logs)
        return np.max(np.abs(c) * weights) / epsilon - SETTLED

    above.terminal = True
    start = np.full(2 * X.shape[1], np.log(ALPHA))
    options = {"method": "LSODA", "jac": jacobian, "rtol": 1e-6, "atol": 1e-6}
    return solve_ivp(velocity, (0, 1e9), start, events=above, **options).t[-1]


def finished(X, y, logs):
    """β at the end of gradient flow slowed by ε from these log u, log v."""
    side = np.array([[-1.0], [1.0]])

    def weights(nu):
        return np.exp(logs + side * (X.T @ nu))

    def residual(nu):
        u, v = weights(nu)
        return X @ (u**2 - v**2) - y

    def slope(nu):
        return -2 * X * np.sum(weights(nu) ** 2, axis=0) @ X.T

    u, v = weights(ref._root(residual, slope, np.zeros(y.size)))
    return u**2 - v**2


def compare(problem, in_logs: bool, num_cases: int, checked: int, repeats: int) -> dict:
    """Both at their cheapest tolerance that will do, in turns."""
    X, y = np.asarray(problem.X), np.asarray(problem.y)
    epsilon = np.geomspace(1e-3, 1, num_cases)
    some = np.unique(np.linspace(0, num_cases - 1, checked).astype(int))
    truth = [ref.general_limit(X, y, epsilon[i], ALPHA, rtol=1e-12) for i in some]
    times = [end_time(X, y, epsilon[i]) for i in some]
    ends = np.exp(np.interp(np.log(epsilon), np.log(epsilon[some]), np.log(times)))

    def worst(betas):
        return max(
            np.max(np.abs(beta - t)) / np.max(np.abs(t))
            for beta, t in zip(betas, truth, strict=True)
        )

    def theirs(rtol):
        start = np.log(ALPHA) if in_logs else ALPHA
        atol = rtol if in_logs else rtol / 10
        solve = lsoda(X.shape[1], in_logs)
        return solve(X.T @ X, X.T @ y, epsilon, start, ends, rtol, atol)

    def their_beta(state):
        logs = state if in_logs else np.log(np.maximum(np.abs(state), 1e-300))
        return [finished(X, y, logs[i].reshape(2, -1)) for i in some]

    def ours(rtol):
        return jms.sweep(problem, epsilon, ALPHA, rtol=rtol)

    def cheapest(errors, rtols):
        for rtol in rtols:
            error = errors(rtol)
            if error <= ERROR:
                return {"rtol": float(rtol), "error": float(error)}
        raise RuntimeError("no tolerance is good enough")

    rows = {
        "jaxmd_sign": cheapest(
            lambda rtol: worst(ours(rtol).beta.values[some, 0]), [3e-5, 2e-5, 1.5e-5, 1e-5]
        ),
        "numbalsoda": cheapest(
            lambda rtol: worst(their_beta(theirs(rtol))), 10 ** np.arange(-4, -10, -0.25)
        ),
    }
    functions = [
        lambda: ours(rows["jaxmd_sign"]["rtol"]),
        lambda: theirs(rows["numbalsoda"]["rtol"]),
    ]
    for row, function, record in zip(
        rows.values(), functions, timed(*functions, repeats=repeats), strict=True
    ):
        begin = time.process_time()
        function()
        row["cpu"] = 1e3 * (time.process_time() - begin) / num_cases
        row["first_call_s"] = record.pop("first")
        row |= {name: 1e3 * seconds / num_cases for name, seconds in record.items()}
    medians = [row["median"] for row in rows.values()]
    return rows | {"ratio": medians[1] / medians[0]}


def table(results: dict) -> str:
    """ms a case, with spread and error, in Markdown."""
    lines = ["| | solver | ms a case | CPU ms | error | rtol |", "|---|---|---|---|---|---|"]
    for name, rows in results.items():
        for solver in ("jaxmd_sign", "numbalsoda"):
            row = rows[solver]
            cells = f"{row['cpu']:.3g} | {row['error']:.1e} | {row['rtol']:.1e} |"
            lines.append(f"| {name} | {solver} | {spread(row)} | {cells}")
        lines.append(f"| | ratio | {rows['ratio']:.1f} | | | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run everything; write the results beside this file."""
    quick = is_quick(__doc__)
    results = {
        name: compare(problem, in_logs, 256, 9 if quick else 18, 2 if quick else 5)
        for name, (problem, in_logs) in problems().items()
    }
    write("general", {"general": results}, table(results), quick)


if __name__ == "__main__":
    main()
