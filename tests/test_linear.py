"""Batches of matrices take turns on a CPU: LAPACK calls of jaxlib 0.10 on batches wait for ever."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmd_sign as jms
from jaxmd_sign._linear import factor_positive, is_cpu, solve_factored, solve_linear
from jaxmd_sign._sweep import _adaptive, _general

PROBLEM = jms.random_sparse_problem(jax.random.key(0), 6, 12, 2)
CALL = re.compile(r"= \(?\w+\[([\d,]*)\].* custom-call\(.*custom_call_target=\"(lapack_\w+)\"")


def lapack_calls(function, *args):
    """Of the compiled program: the name of each, and whether it is of a batch."""
    if not is_cpu():
        pytest.skip("LAPACK is called on CPUs")
    calls = CALL.findall(function.lower(*args).compile().as_text())
    return {(name, shape.count(",") > 1) for shape, name in calls}


def measures(problem, epsilon):
    limit = jms.solve_limit(problem, jms.SmoothedSign(epsilon), 0.05, rtol=1e-4)
    return jms.kkt(problem, limit).error + jnp.sum(jms.bregman_minimizer(problem, limit))


def slopes(problem):
    return jax.jvp(lambda epsilon: measures(problem, epsilon), (0.1,), (1.0,))


@pytest.mark.parametrize("derivative", [jax.jacfwd, jax.grad])
def test_a_batch_of_slopes_calls_lapack_for_one_matrix_at_a_time(derivative):
    batch = jax.jit(jax.vmap(derivative(lambda epsilon: measures(PROBLEM, epsilon))))
    calls = lapack_calls(batch, jnp.geomspace(0.01, 1, 5))
    assert ("lapack_dpotrf_ffi", False) in calls
    assert not any(of_batch for _, of_batch in calls)


def test_blocks_call_no_lapack():
    problem = jms.random_block_problem(jax.random.key(0), 3, 2)
    assert not lapack_calls(jax.jit(jax.jacfwd(lambda epsilon: measures(problem, epsilon))), 0.1)


def test_of_a_batch_of_problems_only_one_factorization_is_of_all():
    problems = jax.tree.map(lambda leaf: jnp.stack([leaf] * 5), PROBLEM)
    calls = lapack_calls(jax.jit(jax.vmap(slopes)), problems)
    # Q and then R: nothing that could be called beside them.
    together = {name for name, of_batch in calls if of_batch}
    assert together == {"lapack_dgeqrf_ffi", "lapack_dorgqr_ffi", "lapack_dtrsm_ffi"}


@pytest.mark.parametrize(("module", "options"), [(_general, {}), (_adaptive, {"depth": 3})])
def test_a_sweep_calls_lapack_for_one_matrix_at_a_time(module, options, monkeypatch):
    name = "_finish" if module is _general else "_solve"
    function, found = getattr(module, name), set()

    def look(*args):
        found.update(lapack_calls(function, *args))
        return function(*args)

    monkeypatch.setattr(module, name, look)
    jms.sweep(PROBLEM, np.geomspace(0.1, 1, 3), 0.05, rtol=1e-4, **options)
    assert found
    assert not any(of_batch for _, of_batch in found)


def test_solutions_and_their_derivatives_both_ways():
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=(2, 4, 4)), rng.normal(size=(2, 4))

    def solve(A, b):
        return solve_linear(lambda x: A @ x, b)

    exact = np.linalg.solve(A, b[..., None])[..., 0]
    np.testing.assert_allclose(jax.vmap(solve)(A, b), exact, rtol=1e-12)
    for jacobian in (jax.jacfwd, jax.jacrev):
        for size in (1, 4):
            some = A[:, :size, :size]
            found = jax.vmap(jacobian(solve, argnums=1))(some, b[:, :size])
            np.testing.assert_allclose(found, np.linalg.inv(some), rtol=1e-10)


def test_a_singular_matrix_is_raised_by_rounding():
    matrix = jnp.array([[9.0, 18.0], [18.0, 36.0]])
    x = solve_factored(factor_positive(matrix), matrix[:, 0])
    np.testing.assert_allclose(matrix @ x, matrix[:, 0], rtol=1e-10)
