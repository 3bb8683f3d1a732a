"""Maxima that keep NaN, whatever the size of the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmd_sign as jms
from jaxmd_sign._extremes import amax, amin, max_norm


@pytest.mark.parametrize("shape", [(3, 4), (180, 40), (1_000, 8)])
@pytest.mark.parametrize(("ours", "numpy"), [(amax, np.max), (amin, np.min)])
def test_nan_stays(shape, ours, numpy):
    x = np.random.default_rng(0).normal(size=shape)
    x[::3], x[1::3, 2] = np.nan, np.nan
    for axis in (None, 0, 1):
        found = jax.jit(lambda x, axis=axis: ours(x, axis))(x)
        np.testing.assert_array_equal(found, numpy(x, axis))
    each = jax.jit(jax.vmap(lambda row: ours(row, where=row > 0, initial=0.5)))(x)
    np.testing.assert_array_equal(each, numpy(x, 1, where=x > 0, initial=0.5))
    np.testing.assert_array_equal(
        jax.jit(jax.vmap(max_norm))(x), np.nan_to_num(np.max(np.abs(x), 1), nan=np.inf)
    )


def test_limits_of_gradient_descent_in_a_large_batch():
    # In each Newton's method overflows at times, and takes the step back.
    problem = jms.random_sparse_problem(jax.random.key(0), 12, 30, 5)
    alphas = jnp.geomspace(1e-3, 1, 1_000)

    def limit(alpha):
        found = jms.solve_limit(problem, jms.GradientDescent(), alpha)
        return found.beta, found.result

    beta, result = jax.vmap(limit)(alphas)
    assert not np.any(np.asarray(result._value))
    for i in (0, 37, 401):
        np.testing.assert_allclose(beta[i], limit(alphas[i])[0], rtol=1e-9, atol=1e-12)
