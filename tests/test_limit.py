"""The limit t → ∞: accuracy, structure, tolerances, failures, dtypes, and what compiles once."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from scipy.integrate import solve_ivp

import jaxmd_sign as jms

EXAMPLE = jms.Problem(np.array([[1.3, 0.7]]), np.array([1.0]))
ROOT = Path(jms.__file__).parents[1]
SIZES = (1, 2, 3, 5, 12, 40)
# Two rows, permuted columns, the last one dead.
X = np.array([[0.9, 0, -0.3, 0, 1.4, 0], [0, -1.2, 0, 0.5, 0, 0]])
Y = np.array([1.1, -0.7])


def sign_limit(X, y, epsilon, alpha, **options):
    return jms.solve_limit(
        jms.Problem(X, np.asarray(y)), jms.SmoothedSign(epsilon), alpha, **options
    )


@cache
def grid():
    """Blocks of every size in `SIZES` (padded to one width) for eight (ε, α), and their truth."""
    rng = np.random.default_rng(20)
    cases = [(e, a, 1.0, 1.0) for e in (1e-8, 30.0) for a in (1e-4, 0.3)]
    for units in [(1, 1)] * 2 + [(1e6, 1e-6), (1e-6, 1e6)]:
        cases.append((10 ** rng.uniform(-8, 1.5), 10 ** rng.uniform(-4, -0.5), *units))
    x, y = np.zeros((len(cases), len(SIZES), max(SIZES))), np.zeros((len(cases), len(SIZES)))
    epsilon, alpha, truth = [], [], []
    for i, (e, a, data, label) in enumerate(cases):
        weight = np.sqrt(label / data)
        epsilon.append(e * data * label * weight)
        alpha.append(a * weight)
        for j, size in enumerate(SIZES):
            entries = np.exp(rng.uniform(np.log(0.1), np.log(2), size))
            if size > 1 and i % 2:
                entries[:2] = 1e-2, 2
            x[i, j, :size] = data * entries * rng.choice([-1, 1], size)
            y[i, j] = label * rng.uniform(0.5, 2) * rng.choice([-1, 1])
            block = x[i, j, :size], y[i, j], epsilon[-1], alpha[-1]
            truth.append(ref.block_limit(*block, reference="warmup"))
    return x, y, np.array(epsilon), np.array(alpha), truth


@cache
def solve_grid(dtype=np.float64, **options):
    x, y, epsilon, alpha, _ = (np.asarray(v, dtype) for v in (*grid()[:4], 0))
    problem = jms.Problem.from_blocks(x[0], y[0])

    @jax.jit
    @jax.vmap
    def solve(x, y, epsilon, alpha):
        problem_ = problem.with_data(x, y)
        return jms.solve_limit(problem_, jms.SmoothedSign(epsilon), alpha, **options)

    # The mask of a problem is what was non-zero when it was made; the padding is the same here.
    return solve(x, y, epsilon, alpha)


def errors(values, truth):
    """Largest error of each block of the grid, relative to the largest entry of the truth."""
    values = np.asarray(values, float).reshape(-1, max(SIZES))
    pairs = [(row[: t.size], t) for row, t in zip(values, truth, strict=True)]
    return np.array([np.max(np.abs(v - t)) / np.max(np.abs(t)) for v, t in pairs])


def test_limits_are_right_for_every_size_epsilon_alpha_and_unit():
    x, y, _, _, truth = grid()
    limit = solve_grid()
    assert np.all(limit.result == jms.RESULTS.successful)
    assert errors(limit.beta, [t.beta for t in truth]).max() <= 1e-7
    assert errors(limit.dual, [t.dual for t in truth]).max() <= 1e-7
    beta = np.asarray(limit.beta).reshape(x.shape)
    assert np.max(np.abs(np.sum(x * beta, axis=-1) - y) / np.abs(y)) <= 1e-10
    assert np.max(np.abs(limit.residual) / np.abs(y)) <= 1e-10


def test_the_end_of_the_warm_up_is_right_also_where_there_is_none():
    *_, truth = grid()
    limit = solve_grid(reference="warmup")
    assert errors(limit.dual_reference, [t.dual_reference for t in truth]).max() <= 1e-7
    assert errors(limit.beta, [t.beta for t in truth]).max() <= 1e-7
    beta_ref = [np.sign(t.dual) * (t.w_ref**2 - t.omega_ref**2) for t in truth]
    values = np.asarray(limit.beta_reference).reshape(-1, max(SIZES))
    scale = [np.max(t.w_ref) ** 2 for t in truth]
    worst = [
        np.max(np.abs(v[: t.size] - t)) for v, t in zip(values, beta_ref, strict=True)
    ]  # where T1 = 0 it is 0, so it is measured in units of w²
    assert np.max(np.array(worst) / scale) <= 1e-7
    none = np.array([np.all(t.w_ref - t.omega_ref < 1e-12 * t.w_ref) for t in truth])
    assert 5 <= np.sum(none) <= len(none) - 5  # both kinds are in the grid
    start = solve_grid()
    ratios = np.asarray(limit.dual_reference / np.where(start.dual == 0, 1, start.dual_reference))
    ratios = ratios.reshape(-1, max(SIZES))[:, 0]
    np.testing.assert_allclose(ratios[none], 1, rtol=1e-15)
    assert np.all(ratios[~none] > 1 + 1e-12)


def test_the_error_follows_the_tolerance():
    """It is that of β, and costs no more than it must."""
    beta, rtols = [t.beta for t in grid()[-1]], (1e-5, 1e-8, 1e-11)
    loose, default, tight = (errors(solve_grid(rtol=rtol).beta, beta).max() for rtol in rtols)
    assert loose <= 1e-5 and default <= 1e-8 and tight <= 1e-11
    assert 100 * tight < default
    assert 100 * default < loose


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3, 0.1])
@pytest.mark.parametrize("alpha", [0.5, 3.0])
def test_beta_is_a_difference_of_large_numbers(epsilon, alpha):
    """α² is up to 180 times the entries of β, of which w² − ω² loses as many digits."""
    x, y = np.array([1.3, -0.7, 0.2]), 0.1
    truth = ref.block_limit(x, y, epsilon, alpha).beta
    problem = jms.Problem(x[None], [y])
    limit = jms.solve_limit(problem, jms.SmoothedSign(epsilon), alpha)
    assert np.max(np.abs(limit.beta - truth)) <= 1e-8 * np.max(np.abs(truth))
    swept = jms.sweep(problem, epsilon, alpha, rtol=1e-6).beta.values
    assert np.max(np.abs(swept - truth)) <= 1e-6 * np.max(np.abs(truth))


@pytest.mark.parametrize("x64", [True, False])
def test_single_precision_is_within_1e_4(x64):
    with jax.enable_x64(x64):
        limit = solve_grid.__wrapped__(np.float32)
        assert limit.beta.dtype == np.float32
        assert np.all(limit.result == jms.RESULTS.successful)
        # The promise is absolute; data in other units are measured in theirs.
        units = np.repeat([1] * 6 + [1e-12, 1e12], len(SIZES))
        sizes = np.array([np.max(np.abs(t.beta)) for t in grid()[-1]]) / units
        relative = errors(limit.beta, [t.beta for t in grid()[-1]])
        assert np.max(relative * sizes) <= 1e-4


def floats(tree):
    leaves = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    return {leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)}


@pytest.mark.parametrize(
    ("kind", "reference"), [("sign", "start"), ("sign", "warmup"), ("gradient", "start")]
)
@pytest.mark.parametrize("block", [True, False], ids=["blocks", "general"])
def test_single_precision_stays_single_precision_beside_double(kind, reference, block):
    data = X if block else np.random.default_rng(0).normal(size=(2, 6))

    def everything(problem, epsilon, alpha):
        rule = jms.SmoothedSign(epsilon) if kind == "sign" else jms.GradientDescent()
        limit = jms.solve_limit(problem, rule, alpha, reference=reference)
        minimizer = jms.bregman_minimizer(problem, limit)
        gap = jms.bregman_gap(problem, limit), jms.bregman(limit, limit.beta)
        return limit, jms.kkt(problem, limit), minimizer, gap

    problem = jms.Problem(data.astype(np.float32), Y.astype(np.float32))
    shapes = jax.eval_shape(everything, problem, jnp.float32(0.1), jnp.float32(0.05))
    assert floats(shapes) == {np.dtype(np.float32)}


def test_double_precision_says_how_to_turn_it_on():
    with jax.enable_x64(False):
        with pytest.raises(ValueError, match=r'jax\.config\.update\("jax_enable_x64", True\)'):
            jms.Problem(X, Y)
        with pytest.raises(ValueError, match="jax_enable_x64"):
            jms.Problem.from_blocks(X[:, :2], Y)


def member(batch, i):
    return jax.tree.map(lambda leaf: leaf[i], batch)


def signed_error(limit):
    """E of §4 for the columns (1.3, 0.7)."""
    first, second = np.abs(limit.dual - limit.dual_reference)
    return (1.3 * second - 0.7 * first) / np.hypot(1.3, 0.7)


def test_the_worked_example():
    stated = {1e-4: 0.2666891, 1e-3: 0.2641826, 1e-2: 0.2439954, 0.1: 0.1023833, 0.3: -0.0507208}
    for epsilon, error in stated.items():
        limit = jms.solve_limit(EXAMPLE, jms.SmoothedSign(epsilon), 0.05)
        assert signed_error(limit) == pytest.approx(error, abs=1e-6)
    limit = jms.solve_limit(EXAMPLE, jms.SmoothedSign(0.2095791), 0.05)
    assert signed_error(limit) == pytest.approx(0, abs=1e-6)


@jax.jit
@jax.vmap
def solve_example(epsilon, alpha):
    limit = jms.solve_limit(EXAMPLE, jms.SmoothedSign(epsilon), alpha)
    return limit, jms.kkt(EXAMPLE, limit)


# The good members are at 0, 2 and 8.
EPSILONS = np.array([0.1, -1.0, 1e-4, np.nan, 0.0, np.inf, 0.1, 0.1, 10.0])
ALPHAS = np.array([0.05, 0.05, 0.3, 0.05, 0.05, 0.05, -0.1, np.nan, 1e-3])


def test_a_batch_is_a_loop():
    limits, _ = solve_example(EPSILONS, ALPHAS)
    for i in (0, 2, 8):
        alone = jms.solve_limit(EXAMPLE, jms.SmoothedSign(EPSILONS[i]), ALPHAS[i])
        for name in ("beta", "dual", "dual_reference"):
            values = np.asarray(getattr(limits, name)[i]), getattr(alone, name)
            np.testing.assert_allclose(*values, rtol=1e-9, err_msg=name)


def test_a_bad_traced_value_is_a_result_and_spoils_nobody():
    limits, kkts = solve_example(EPSILONS, ALPHAS)
    bad = np.array([1, 3, 4, 5, 6, 7])
    good = np.array([0, 2, 8])
    assert np.all((limits.result == jms.RESULTS.bad_input)[bad])
    assert np.all((limits.result == jms.RESULTS.successful)[good])
    sentence = jms.RESULTS[member(limits, 1).result]
    assert "epsilon" in sentence and "alpha" in sentence
    values = (limits.beta, limits.dual, limits.residual, limits.potential.delta)
    for value in (*values, kkts.error, kkts.relative_error, kkts.stationarity, kkts.feasibility):
        assert np.all(np.isnan(value[bad]))
        assert np.all(np.isfinite(value[good]))


def test_a_bad_traced_label_is_a_result():
    labels = jnp.array([1.0, jnp.nan])

    @jax.jit
    @jax.vmap
    def solve(y):
        problem = EXAMPLE.with_data(EXAMPLE.X, y[None])
        return jms.solve_limit(problem, jms.SmoothedSign(0.1), 0.05)

    good, bad = (member(solve(labels), i) for i in (0, 1))
    assert good.result == jms.RESULTS.successful and np.all(np.isfinite(good.beta))
    assert bad.result == jms.RESULTS.bad_input and np.all(np.isnan(bad.beta))


def test_too_few_steps_are_a_result_with_a_remedy():
    # A label far below α² moves nothing much: three steps are enough for it.
    @jax.jit
    @jax.vmap
    def solve(y, epsilon):
        problem = EXAMPLE.with_data(EXAMPLE.X, y[None])
        return jms.solve_limit(problem, jms.SmoothedSign(epsilon), 0.3, max_steps=3)

    limits = solve(jnp.array([1e-8, 1.0, 1.0]), jnp.array([1.0, 1.0, 1e-3]))
    assert member(limits, 0).result == jms.RESULTS.successful
    truth = ref.block_limit([1.3, 0.7], 1e-8, 1.0, 0.3).beta
    np.testing.assert_allclose(limits.beta[0], truth, rtol=1e-7)
    for i in (1, 2):
        failed = member(limits, i)
        assert failed.result == jms.RESULTS.max_steps_reached
        assert "max_steps" in jms.RESULTS[failed.result]
        assert np.all(np.isnan(failed.beta)) and np.all(np.isnan(failed.dual))


def test_throw_raises_with_the_remedy():
    limit = jms.solve_limit(EXAMPLE, jms.SmoothedSign(0.1), 0.05, throw=True)
    assert limit.result == jms.RESULTS.successful
    with pytest.raises(eqx.EquinoxRuntimeError, match="max_steps"):
        jms.solve_limit(EXAMPLE, jms.SmoothedSign(0.1), 0.05, max_steps=3, throw=True)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, np.ones((1, 1))])
def test_a_concrete_bad_epsilon_or_alpha_is_named(value):
    with pytest.raises(ValueError, match="epsilon"):
        jms.solve_limit(EXAMPLE, jms.SmoothedSign(value), 0.05)
    with pytest.raises(ValueError, match="alpha"):
        jms.solve_limit(EXAMPLE, jms.SmoothedSign(0.1), value)


@pytest.mark.parametrize(
    "options",
    [
        {"rtol": 0.0},
        {"rtol": 1e-15},  # less than 10 machine epsilons
        {"rtol": 1.0},
        {"rtol": np.nan},
        {"max_steps": 0},
        {"max_steps": True},
        {"reference": "end"},
    ],
)
def test_a_bad_option_is_named(options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        jms.solve_limit(EXAMPLE, jms.SmoothedSign(0.1), 0.05, **options)


def test_a_value_of_another_type_is_named():
    """In a process of its own: here the shape checks of conftest would refuse it first."""
    code = """
import jax, jaxmd_sign as jms
jax.config.update("jax_enable_x64", True)
problem, rule = jms.Problem([[1.3, 0.7]], [1.0]), jms.SmoothedSign(0.1)
calls = {
    "epsilon": lambda: jms.SmoothedSign("much"),
    "smoothing": lambda: jms.SmoothedSign(0.1, 3),
    "depth": lambda: jms.solve_limit(problem, rule, 0.05, depth="2"),
    "depth must": lambda: jms.solve_limit(problem, rule, 0.05, depth=2.5),
    "depth must be": lambda: jms.solve_trajectory(problem, rule, 0.05, depth=3.0),
    "alpha": lambda: jms.solve_limit(problem, rule, "much"),
    "rtol": lambda: jms.solve_limit(problem, rule, 0.05, rtol="tight"),
    "max_steps": lambda: jms.solve_limit(problem, rule, 0.05, max_steps=2.5),
    "reference": lambda: jms.solve_limit(problem, rule, 0.05, reference=None),
    "problem": lambda: jms.solve_limit([[1.3, 0.7]], rule, 0.05),
    "rule": lambda: jms.solve_limit(problem, 0.1, 0.05),
}
for name, call in calls.items():
    try:
        call()
    except ValueError as error:
        assert str(error).startswith(name), (name, error)
    else:
        raise AssertionError(name)
"""
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_other_bad_arguments_are_named():
    rule = jms.SmoothedSign(0.1)
    with pytest.raises(ValueError, match="reference"):
        jms.solve_limit(EXAMPLE, jms.GradientDescent(), 0.05, reference="warmup")
    with pytest.raises(ValueError, match=r"alpha.*2 entries.*has 3"):
        jms.solve_limit(EXAMPLE, rule, np.full(3, 0.1))
    with pytest.raises(ValueError, match=r"epsilon.*2 entries.*has 3"):
        jms.solve_limit(EXAMPLE, jms.SmoothedSign(np.full(3, 0.1)), 0.05)
    single = jms.Problem(X.astype(np.float32), Y.astype(np.float32))
    with pytest.raises(ValueError, match="rtol"):
        jms.solve_limit(single, rule, 0.05, rtol=1e-7)


def test_columns_of_a_block_may_lie_anywhere_and_a_dead_one_stays():
    limit = sign_limit(X, Y, 0.03, 0.05)
    for row, label in zip(X, Y, strict=True):
        truth = ref.block_limit(row[row != 0], label, 0.03, 0.05)
        np.testing.assert_allclose(limit.beta[row != 0], truth.beta, rtol=1e-7)
        np.testing.assert_allclose(limit.dual[row != 0], truth.dual, rtol=1e-7)
        delta = limit.potential.delta[row != 0]
        np.testing.assert_allclose(delta, truth.omega**2, rtol=1e-6, atol=1e-12)
    dead = np.all(X == 0, axis=0)
    for value in (limit.beta, limit.dual, limit.dual_reference, limit.beta_reference):
        assert np.all(value[dead] == 0)
    np.testing.assert_array_equal(limit.potential.delta[dead], 0.05**2)
    order = np.array([5, 2, 3, 0, 1, 4])
    permuted = sign_limit(X[:, order], Y, 0.03, 0.05)
    np.testing.assert_allclose(permuted.beta, limit.beta[order], rtol=1e-9)


def test_signs_of_labels_and_columns_are_signs_of_beta():
    limit = sign_limit(X, Y, 0.03, 0.05)
    for flips in (np.array([-1, 1]), np.array([1, -1])):
        flipped = sign_limit(X, flips * Y, 0.03, 0.05)
        both = np.where(X[0] != 0, *flips)
        np.testing.assert_allclose(flipped.beta, both * limit.beta, rtol=1e-12)
        np.testing.assert_allclose(flipped.dual_reference, both * limit.dual_reference)
    signs = np.array([-1, 1, 1, -1, 1, 1])
    np.testing.assert_allclose(sign_limit(signs * X, Y, 0.03, 0.05).beta, signs * limit.beta)


def test_a_block_with_label_zero_stays():
    still = sign_limit(X, np.array([0.0, Y[1]]), 0.03, 0.05)
    assert still.result == jms.RESULTS.successful
    block, other = X[0] != 0, X[1] != 0
    for value in (still.beta, still.dual, still.dual_reference):
        assert np.all(value[block] == 0)
    np.testing.assert_allclose(still.potential.delta[block], 0.05**2, rtol=1e-15)
    assert still.residual[0] == 0
    np.testing.assert_allclose(still.beta[other], sign_limit(X, Y, 0.03, 0.05).beta[other])


def test_a_zero_row_with_label_zero_is_dropped():
    with pytest.warns(UserWarning, match=r"zero rows \[1\]"):
        problem = jms.Problem(np.insert(X, 1, 0, axis=0), np.insert(Y, 1, 0))
    limit = jms.solve_limit(problem, jms.SmoothedSign(0.03), 0.05)
    np.testing.assert_array_equal(limit.beta, sign_limit(X, Y, 0.03, 0.05).beta)


def test_compact_and_dense_forms_are_one_problem():
    x = np.array([[0.9, -0.3, 1.4], [-1.2, 0.5, 0]])
    compact = jms.Problem.from_blocks(x, Y)
    limit = jms.solve_limit(compact, jms.SmoothedSign(0.03), 0.05)
    np.testing.assert_array_equal(limit.beta, sign_limit(compact.X, Y, 0.03, 0.05).beta)
    for values in (2 * x, 2 * compact.X):
        moved = jms.solve_limit(compact.with_data(values, Y), jms.SmoothedSign(0.03), 0.05)
        fresh = jms.Problem.from_blocks(2 * x, Y)
        fresh = jms.solve_limit(fresh, jms.SmoothedSign(0.03), 0.05)
        np.testing.assert_array_equal(moved.beta, fresh.beta)
        assert np.max(np.abs(moved.beta - limit.beta)) > 0.1


def test_one_number_for_all_coordinates_is_that_number_for_each():
    scalar = sign_limit(X, Y, 0.03, 0.05)
    each = sign_limit(X, Y, np.full(6, 0.03), np.full(6, 0.05))
    np.testing.assert_allclose(each.beta, scalar.beta, rtol=1e-9)
    np.testing.assert_allclose(each.dual_reference, scalar.dual_reference)


def test_epsilon_and_alpha_of_blocks_are_those_of_separate_problems():
    rows = np.where(X[1] != 0, 1, 0)
    epsilon, alpha = np.array([0.3, 0.01]), np.array([0.02, 0.1])
    limit = sign_limit(X, Y, epsilon[rows], alpha[rows])
    for row in (0, 1):
        alone = sign_limit(X, Y, epsilon[row], alpha[row])
        columns = X[row] != 0
        np.testing.assert_allclose(limit.beta[columns], alone.beta[columns], rtol=1e-9)
        np.testing.assert_allclose(limit.dual[columns], alone.dual[columns], rtol=1e-9)


def test_epsilon_and_alpha_per_coordinate():
    epsilon = np.array([0.4, 0.2, 0.1, 0.6, 0.3, 0.2])
    alpha = np.array([0.1, 0.3, 0.2, 0.05, 0.15, 0.1])
    limit = sign_limit(X, Y, epsilon, alpha)

    def velocity(_, logs):
        u, v = np.exp(logs).reshape(2, -1)
        c = X.T @ (X @ (u**2 - v**2) - Y)
        return np.concatenate([-c / (abs(c) * u + epsilon), c / (abs(c) * v + epsilon)])

    start = np.tile(np.log(alpha), 2)
    flow = solve_ivp(velocity, (0, 200), start, method="LSODA", rtol=1e-11, atol=1e-11)
    u, v = np.exp(flow.y[:, -1]).reshape(2, -1)
    assert np.linalg.norm(X @ (u**2 - v**2) - Y) < 1e-9  # the truth has arrived
    np.testing.assert_allclose(limit.beta, u**2 - v**2, rtol=1e-7, atol=1e-9)
    theta = np.where(u > v, u, -v)
    np.testing.assert_allclose(limit.dual[:-1], theta[:-1], rtol=1e-7)
    np.testing.assert_allclose(np.abs(limit.dual_reference[:-1]), alpha[:-1])


@pytest.fixture(scope="module")
def general():
    rng = np.random.default_rng(5)
    X = rng.normal(size=(5, 12))
    return X, rng.normal(size=5)


@pytest.fixture(scope="module")
def diabetes():
    path = Path(__file__).parent / "data" / "diabetes30_quadratic.csv"
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    return table[:, :-1], table[:, -1]


@pytest.mark.parametrize("epsilon", [1e-4, 1e-2, 1.0])
def test_limits_of_a_general_matrix(general, epsilon):
    limit = sign_limit(*general, epsilon, 0.05)
    truth = ref.general_limit(*general, epsilon, 0.05)
    assert limit.result == jms.RESULTS.successful
    # The time domain of a general X is promised to 1e-5; it is held to 1e-6 here.
    assert np.max(np.abs(limit.beta - truth)) <= 1e-6 * np.max(np.abs(truth))
    assert np.linalg.norm(general[0] @ limit.beta - general[1]) <= 1e-10


@pytest.mark.parametrize("name", ["blocks", "general", "diabetes"])
def test_the_limit_of_gradient_descent_minimises_hyperbolic_entropy(name, request):
    data, y = (X, Y) if name == "blocks" else request.getfixturevalue(name)
    problem, alphas = jms.Problem(data, y), np.geomspace(1e-3, 1, 7)
    solve = jax.jit(jax.vmap(lambda a: jms.solve_limit(problem, jms.GradientDescent(), a)))
    limits = solve(alphas)
    assert np.all(limits.result == jms.RESULTS.successful)
    for alpha, beta, dual in zip(alphas, limits.beta, limits.dual, strict=True):
        theta = np.arcsinh(np.asarray(beta) / (2 * alpha**2)) / 2
        np.testing.assert_allclose(dual, theta, atol=1e-9)
        multiplier = np.linalg.lstsq(data.T, theta)[0]
        assert np.linalg.norm(theta - data.T @ multiplier) <= 1e-9
        assert np.linalg.norm(data @ beta - y) <= 1e-10 * np.linalg.norm(y)
        truth = ref.gd_limit(data, y, alpha)
        assert np.max(np.abs(beta - truth)) <= 1e-9 * np.max(np.abs(truth))


@pytest.mark.parametrize("name", ["blocks", "general"])
def test_a_large_epsilon_is_gradient_descent(name, request):
    data, y = (X, Y) if name == "blocks" else request.getfixturevalue(name)
    descent = jms.solve_limit(jms.Problem(data, y), jms.GradientDescent(), 0.05)
    near, far = (
        np.max(np.abs(sign_limit(data, y, epsilon, 0.05).beta - descent.beta))
        for epsilon in (1e4, 1.0)
    )
    assert near <= 1e-5 < far


def test_compiles_once_for_all_values_and_every_problem_of_the_same_sizes(monkeypatch):
    from jaxmd_sign import _limit

    traces = []

    def counted(*args, block_limit=_limit.block_limit):
        traces.append(1)
        return block_limit(*args)

    monkeypatch.setattr(_limit, "block_limit", counted)
    options = {"max_steps": 4321}  # no other test has compiled this
    first = sign_limit(X, Y, 0.03, 0.05, **options)
    assert traces
    once = len(traces)
    sign_limit(X, Y, 1e-3, 0.05, **options, rtol=1e-6)
    sign_limit(X, Y, 0.03, 0.2, **options)
    sign_limit(2 * X, -3 * Y, 1.0, 0.01, **options)
    other = np.array([[0, 0.8, 0, 0, -0.3, 0], [1.0, 0, 2.0, 0, 0, -0.4]])
    second = sign_limit(other, Y, 0.03, 0.05, **options)
    jms.solve_limit(
        jms.Problem.from_blocks(np.array([[1.0, 0.2, 0.4], [0.3, 0.0, 0.1]]), Y),
        jms.SmoothedSign(0.03), 0.05, **options,
    )  # fmt: skip
    assert len(traces) == once
    assert first.result == second.result == jms.RESULTS.successful
    truth = ref.block_limit([0.8, -0.3], Y[0], 0.03, 0.05).beta
    np.testing.assert_allclose(second.beta[np.array([1, 4])], truth, rtol=1e-6)
    sign_limit(X, Y, np.full(6, 0.03), 0.05, **options)  # another shape is another program
    assert len(traces) > once
