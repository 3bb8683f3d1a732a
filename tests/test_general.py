"""General X: real data, agreement with the clock, rank deficiency, weights that come back."""

from functools import partial
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref

from jaxmd_sign import RESULTS, Problem, SmoothedSign, kkt, load_problem, solve_limit, sweep
from jaxmd_sign._dense import as_dense
from jaxmd_sign._problem import Dense

DIABETES = Path(__file__).parent / "data" / "diabetes30_quadratic.csv"
ALPHA = 0.05


@jax.jit
def limit(problem, epsilon, alpha):
    return solve_limit(problem, SmoothedSign(epsilon), alpha)


def relative(found, expected):
    return np.max(np.abs(np.asarray(found) - expected)) / np.max(np.abs(expected))


def infeasibility(problem, beta):
    residual = np.asarray(problem.X) @ np.asarray(beta) - np.asarray(problem.y)
    return np.linalg.norm(residual) / np.linalg.norm(problem.y)


def square(seed, n=2, d=4):
    """One shape for every small problem here, hence one program."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=n)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [1e-2, 1e-3])
def test_real_data(epsilon, record_property):
    problem = load_problem(DIABETES)
    assert problem.X.shape == (30, 64) and not problem.is_block_diagonal
    found = limit(problem, epsilon, ALPHA)
    assert found.result == RESULTS.successful
    truth = ref.general_limit(problem.X, problem.y, epsilon, ALPHA)
    error, gap = relative(found.beta, truth), infeasibility(problem, found.beta)
    record_property("relative_error_infeasibility", (float(error), float(gap)))
    record_property("steps", int(found.stats["num_steps"]))
    assert error <= 1e-5
    assert gap <= 1e-6
    # theta, delta and beta belong together, and theta_ref is s alpha.
    np.testing.assert_allclose(
        np.sign(found.dual) * (found.dual**2 - found.potential.delta), found.beta, atol=1e-12
    )
    side = np.sign(problem.X.T @ problem.y)
    np.testing.assert_allclose(found.dual_reference, side * ALPHA, rtol=1e-14)


BLOCK_X = np.array([[1.3, 0.0, -0.7, 0.0], [0.0, 0.6, 0.0, -0.9]])
BLOCK_Y = np.array([1.0, -0.8])


@pytest.mark.parametrize(
    ("epsilon", "alpha"), [(0.3, 0.2), (1e-2, 0.05), (1e-4, 0.05), (1e-2, 1e-3)]
)
def test_blocks_by_the_general_path_agree_with_the_clock(epsilon, alpha):
    general = limit(Problem(Dense(jnp.asarray(BLOCK_X)), jnp.asarray(BLOCK_Y)), epsilon, alpha)
    clock = limit(Problem(BLOCK_X, BLOCK_Y), epsilon, alpha)
    assert general.result == clock.result == RESULTS.successful
    for name in ("beta", "dual", "dual_reference"):
        assert relative(getattr(general, name), getattr(clock, name)) < 1e-7, name
    np.testing.assert_allclose(general.potential.delta, clock.potential.delta, rtol=0, atol=1e-7)
    for row, columns in enumerate([[0, 2], [1, 3]]):
        truth = ref.block_limit(BLOCK_X[row, columns], BLOCK_Y[row], epsilon, alpha).beta
        np.testing.assert_allclose(general.beta[jnp.array(columns)], truth, rtol=0, atol=1e-7)


def test_traced_X_gives_the_same_limit():
    @jax.jit
    def traced(X, y):
        problem = Problem(X, y)
        assert not problem.is_block_diagonal
        return solve_limit(problem, SmoothedSign(1e-2), ALPHA).beta

    clock = limit(Problem(BLOCK_X, BLOCK_Y), 1e-2, ALPHA).beta
    assert relative(traced(BLOCK_X, BLOCK_Y), clock) < 1e-7


@pytest.mark.parametrize("epsilon", [1e-2, 0.3])
def test_consistent_rows_beyond_the_rank(epsilon):
    """A repeated row weighs twice in the loss; the limit is that of this X, not of fewer rows."""
    X, y = square(8)
    repeated, labels = np.vstack([X, X[:1]]), np.append(y, y[0])
    problem = Problem(repeated, labels)
    found = limit(problem, epsilon, ALPHA)
    assert found.result == RESULTS.successful
    truth = ref.general_limit(repeated, labels, epsilon, ALPHA)
    assert relative(found.beta, truth) < 1e-6
    assert infeasibility(problem, found.beta) < 1e-10
    fewer = ref.general_limit(X, y, epsilon, ALPHA)
    assert relative(fewer, truth) > 1e-4  # or this test would not tell them apart
    assert found.residual.shape == (3,)
    report = kkt(problem, found)
    change = np.asarray(found.dual - found.dual_reference)
    outside = change - np.linalg.pinv(repeated) @ (repeated @ change)
    np.testing.assert_allclose(report.stationarity, outside, atol=1e-12)
    np.testing.assert_allclose(change - repeated.T @ report.multiplier, outside, atol=1e-12)


def test_inconsistent_rows_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no interpolator"):
        Problem(rng.normal(size=(5, 3)), rng.normal(size=5))
    # As many rows as that, but with labels that a beta fits.
    X, beta = rng.normal(size=(5, 3)), np.array([0.5, -1.0, 0.2])
    found = solve_limit(Problem(X, X @ beta), SmoothedSign(0.1), ALPHA)
    assert found.result == RESULTS.successful
    assert relative(found.beta, beta) < 1e-7


def test_labels_zero():
    X, _ = square(8)
    found = limit(Problem(X, np.zeros(2)), 1e-2, ALPHA)
    assert found.result == RESULTS.successful
    np.testing.assert_array_equal(found.beta, np.zeros(4))


@pytest.mark.parametrize("epsilon", [1e-2, 2e-3])
def test_a_weight_that_decays_and_grows_back(epsilon):
    """It falls below 1e-11 (1e-50 at the smaller epsilon) and ends above 0.1."""
    X, y = square(3)
    ts = np.geomspace(1e-3, 20, 60)
    u, v = ref.general_trajectory(X, y, epsilon, ALPHA, ts, rtol=1e-10)
    lowest = np.minimum.accumulate(np.stack([u, v]), axis=1)
    assert np.any((lowest[:, -1] < 1e-11) & (np.stack([u, v])[:, -1] > 0.1))
    found = limit(Problem(X, y), epsilon, ALPHA)
    assert found.result == RESULTS.successful
    assert relative(found.beta, ref.general_limit(X, y, epsilon, ALPHA)) < 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_random_data(seed):
    X, y = square(seed)
    found = limit(Problem(X, y), 0.03, ALPHA)
    assert found.result == RESULTS.successful
    assert relative(found.beta, ref.general_limit(X, y, 0.03, ALPHA)) < 1e-6
    assert infeasibility(Problem(X, y), found.beta) < 1e-10


def test_gradients_below_epsilon_from_the_start():
    """Small weights at a large epsilon: far below it, but with a long way to grow."""
    X, y = square(0)
    found = limit(Problem(X, y), 10.0, 1e-4)
    assert found.result == RESULTS.successful
    assert relative(found.beta, ref.general_limit(X, y, 10.0, 1e-4)) < 1e-6


@pytest.mark.parametrize("adjoint", [None, diffrax.ForwardMode()], ids=["stabilised", "Diffrax"])
@pytest.mark.parametrize("rtol", [1e-6, 1e-8])
def test_gradients_far_below_epsilon(rtol, adjoint):
    """All of the path is left where they are √rtol ε: it was 10 to 65 times the tolerance off."""
    x, y = np.array([[1.3, 0.7]]), np.array([1.0])
    for epsilon in (3e3, 1e4, 1e7):
        given = SmoothedSign(epsilon), 0.05
        found = solve_limit(Problem(Dense(jnp.array(x)), y), *given, rtol=rtol, adjoint=adjoint)
        assert found.result == RESULTS.successful
        assert relative(found.beta, ref.block_limit(x[0], y[0], epsilon, 0.05).beta) < rtol


@pytest.mark.parametrize("seed", [14, 16])
def test_gradients_far_below_epsilon_where_columns_differ_in_size(seed):
    """It was 67 and 340 times the tolerance off."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(3, 6)) * 10.0 ** rng.uniform(-2, 2, 6), rng.normal(size=3)
    for factor in (300, 3000):
        epsilon = factor * 0.05 * np.max(np.abs(X.T @ y))
        found = solve_limit(Problem(X, y), SmoothedSign(epsilon), 0.05)
        assert relative(found.beta, ref.general_limit(X, y, epsilon, 0.05, rtol=1e-12)) < 1e-8


def conditioned(condition):
    rng = np.random.default_rng(3)
    left, _, right = np.linalg.svd(rng.normal(size=(4, 8)), full_matrices=False)
    X = left @ np.diag(np.geomspace(1, 1 / condition, 4)) @ right
    return X, X @ rng.normal(size=8)


@pytest.mark.parametrize("rtol", [1e-6, 1e-8])
def test_a_condition_of_100(rtol):
    """Gradients are small long before β is there: it was 10 and 39 times the tolerance off."""
    X, y = conditioned(100)
    found = solve_limit(Problem(X, y), SmoothedSign(1.0), 0.05, rtol=rtol)
    assert relative(found.beta, ref.general_limit(X, y, 1.0, 0.05, rtol=1e-12)) < rtol


def test_a_condition_of_10000_has_an_end():
    """Its slowest way takes more than 2²⁰ steps."""
    X, y = conditioned(10_000)
    found = limit(Problem(X, y), 0.01, 0.05)
    assert found.result == RESULTS.successful
    assert relative(found.beta, ref.general_limit(X, y, 0.01, 0.05, rtol=1e-12)) < 2e-7


def test_few_steps_are_a_failure_where_gradients_are_small_from_the_start():
    problem = Problem(Dense(jnp.array([[1.3, 0.7]])), np.ones(1))
    found = solve_limit(problem, SmoothedSign(1e5), 0.05, max_steps=100)
    assert found.result == RESULTS.max_steps_reached and np.all(np.isnan(found.beta))


def test_a_sweep_of_condition_1000():
    """It was 13 to 105 times the tolerance off."""
    X, y = conditioned(1000)
    epsilon = np.array([0.01, 1.0])
    found = sweep(Problem(X, y), epsilon, 0.05, rtol=1e-8).isel(alpha=0)
    for i, each in enumerate(epsilon):
        right = ref.general_limit(X, y, each, 0.05, rtol=1e-12)
        assert relative(found.beta[i].values, right) < 4e-8


def test_deep_gradients_far_below_epsilon():
    """A dual solved from the start blows up. SciPy on log u and log v, at 1e-12."""
    problem = Problem([[1.0, 2.0, -1.0], [0.5, -1.0, 2.5]], [1.0, 2.0])
    for epsilon in (1e5, 1e9):
        found = solve_limit(problem, SmoothedSign(epsilon), 0.05, depth=3)
        assert found.result == RESULTS.successful
        assert relative(found.beta, np.array([1.49613909, 0.00289568, 0.50193046])) < 1e-7


def test_a_saddle():
    """Gradients fall to 4e-12 ε, and log u to -17,287, before the last weight grows."""
    rng = np.random.default_rng(96)
    X, y = rng.normal(size=(3, 6)), rng.normal(size=3)
    found = solve_limit(Problem(X, y), SmoothedSign(1e-4), 1.83e-3, rtol=1e-6)
    assert found.result == RESULTS.successful
    assert relative(found.beta, ref.general_limit(X, y, 1e-4, 1.83e-3)) < 1e-6


def test_beta_is_a_difference_of_large_numbers():
    """α² is 5 to 50 times the entries of β; it was 58 times the tolerance off."""
    rng = np.random.default_rng(11)
    for epsilon in (2e-3, 0.14):
        X, y = rng.normal(size=(3, 6)), rng.normal(size=3)
        found = limit(Problem(X, y), epsilon, 2.5)
        assert found.result == RESULTS.successful
        assert relative(found.beta, ref.general_limit(X, y, epsilon, 2.5)) < 1e-8


@pytest.mark.parametrize("rtol", [1e-5, 1e-8])
def test_the_error_is_within_the_tolerance(rtol):
    rng = np.random.default_rng(6)
    for _ in range(12):
        X, y = rng.normal(size=(3, 6)), rng.normal(size=3)
        epsilon, alpha = 10 ** rng.uniform(-4, 1), 10 ** rng.uniform(-3, 0)
        found = solve_limit(Problem(X, y), SmoothedSign(epsilon), alpha, rtol=rtol)
        assert found.result == RESULTS.successful
        truth = ref.general_limit(X, y, epsilon, alpha, rtol=1e-12)
        assert relative(found.beta, truth) < rtol


def test_few_digits_of_large_weights():
    """Errors of steps kept gradients above a tiny ε for ever, in one of 120 random cases."""
    rng = np.random.default_rng(5)
    for _ in range(117):
        X, y = rng.normal(size=(3, 6)), rng.normal(size=3)
        epsilon, alpha = 10 ** rng.uniform(-4, 1), 10 ** rng.uniform(-3, 0.7)
    assert epsilon < 2e-4 and alpha > 4
    found = solve_limit(Problem(X, y), SmoothedSign(epsilon), alpha, rtol=1e-4, max_steps=65536)
    assert found.result == RESULTS.successful
    assert relative(found.beta, ref.general_limit(X, y, epsilon, alpha)) < 1e-4


def test_an_epsilon_and_an_alpha_for_each_coordinate():
    """As Diffrax has it, which is told so by an adjoint."""
    X, y = square(1)
    rng = np.random.default_rng(1)
    rule = SmoothedSign(10 ** rng.uniform(-2, 0, 4))
    alpha = 10 ** rng.uniform(-2, -0.5, 4)
    found = solve_limit(Problem(X, y), rule, alpha)
    diffrax_found = solve_limit(Problem(X, y), rule, alpha, adjoint=diffrax.ForwardMode())
    assert found.result == diffrax_found.result == RESULTS.successful
    for name in ("beta", "dual", "dual_reference"):
        assert relative(getattr(found, name), getattr(diffrax_found, name)) < 2e-8, name
    assert int(found.stats["num_steps"]) != int(diffrax_found.stats["num_steps"])


@pytest.mark.slow
def test_small_epsilon_of_real_data():
    """Weights of both signs fall below 1e-8000: where both were 0 the slope was NaN."""
    problem = load_problem(DIABETES)

    @jax.jit
    def error(epsilon):
        return kkt(problem, solve_limit(problem, SmoothedSign(epsilon), ALPHA)).error

    epsilon, apart = 6e-5, 1e-3
    slope = jax.grad(error)(epsilon)
    left, right = error(epsilon * (1 - apart)), error(epsilon * (1 + apart))
    assert float(slope) == pytest.approx(float(right - left) / (2 * apart * epsilon), rel=1e-3)
    found = sweep(problem, epsilon, ALPHA, rtol=1e-5, variables=["kkt_error_slope"])
    assert float(found.kkt_error_slope.item()) == pytest.approx(float(slope), rel=1e-2)


def beta_of(problem, epsilon):
    return solve_limit(problem, SmoothedSign(epsilon), ALPHA).beta


@jax.jit
def derivatives(problem, epsilon, direction):
    forward = jax.jvp(partial(beta_of, problem), (epsilon,), (jnp.ones_like(epsilon),))[1]
    return forward, jax.grad(lambda e: beta_of(problem, e) @ direction)(epsilon)


@pytest.mark.parametrize("epsilon", [0.03, 0.3])
def test_derivative_in_epsilon(epsilon):
    X, y = square(1)
    direction = np.random.default_rng(2).normal(size=4)
    forward, backward = derivatives(Problem(X, y), epsilon, direction)
    truth, error = ref.derivative(
        lambda log: ref.general_limit(X, y, epsilon * np.exp(log), ALPHA), 0.0, step=0.02, levels=3
    )
    assert np.max(error) < 1e-6 * np.max(np.abs(truth))
    assert relative(epsilon * forward, truth) < 1e-5
    np.testing.assert_allclose(backward, forward @ direction, rtol=1e-10)


@pytest.mark.parametrize("depth", [2, 8])
def test_a_step_that_is_far_too_long_is_finite_and_so_is_its_slope(depth):
    """Else the linear solver in the derivative of an implicit step raises, for a whole batch."""
    rng = np.random.default_rng(0)
    problem = Problem(rng.normal(size=(3, 6)), rng.normal(size=3))
    flow = as_dense(problem, SmoothedSign(1e-6), jnp.asarray(0.05), depth)
    far = jnp.full(6, 1e4), jnp.full(6, -1e4)
    slopes = jax.jacfwd(lambda state: flow.field(jnp.zeros(()), state))(far)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))
