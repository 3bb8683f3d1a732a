"""Sweeps of a general X: the tolerance, slopes, the clock, odd data, memory, failed members."""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import xarray as xr
from general_cases import errors, small
from scipy.integrate import solve_ivp

import jaxmd_sign as jms
from jaxmd_sign import _dense_limit
from jaxmd_sign._chebyshev import MOST_STAGES, coefficients
from jaxmd_sign._dense import as_dense
from jaxmd_sign._problem import Dense
from jaxmd_sign._sweep import _cases, _general
from jaxmd_sign._sweep._general import _on_threads
from jaxmd_sign._sweep._plan import make_plan
from jaxmd_sign._sweep._variables import CODES, DEFAULT_VARIABLES

DATA = Path(__file__).parent / "data" / "diabetes30_quadratic.csv"
ALPHA = 0.05
EPSILON = np.array([1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0])


@pytest.fixture(autouse=True)
def explicit_only(monkeypatch):
    """None of these cases may need the adaptive solver, which would hide what this one does."""

    def refuse(*_):
        raise AssertionError("the adaptive solver was called")

    monkeypatch.setattr(_cases, "solve_adaptively", refuse)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diabetes", "gaussian"])
def test_benchmarks_are_right(name, record_property):
    gaussian = jms.random_sparse_problem(jax.random.key(0), 40, 100, 5)
    problem = jms.load_problem(DATA) if name == "diabetes" else gaussian
    found = jms.sweep(problem, [1e-3, 1e-2, 0.1, 1.0], ALPHA, rtol=1e-5)
    assert tuple(found.data_vars) == DEFAULT_VARIABLES and np.all(found.result == 0)
    worst = np.max(errors(found, np.asarray(problem.X), np.asarray(problem.y), ALPHA))
    record_property("relative_error", float(worst))
    assert worst <= 1e-5
    assert np.all(found.feasibility <= 1e-12)


@pytest.mark.parametrize(
    ("seed", "alpha"),
    # In those of 0.01 errors grow with the weights, beside a large ε; the last passes a saddle.
    [
        *((0, ALPHA), (1, ALPHA), (2, 1e-3), (3, 1e-4), (4, 0.5), (141, 0.01), (173, 0.01)),
        (96, 1.83e-3),
    ],
)
def test_the_tolerance_is_the_error(seed, alpha):
    X, y = small(seed)
    found = jms.sweep(jms.Problem(X, y), EPSILON, alpha)
    assert np.all(found.result == 0)
    assert np.all(errors(found, X, y, alpha) <= 1e-6)


@pytest.mark.parametrize("rtol", [1e-6, 1e-7, 1e-8])
def test_the_tolerance_is_the_error_where_no_estimate_sees_it(rtol):
    """Gradients that change sign: with steps by the order alone, 2 to 4.4 times it."""
    X, y = small(73)
    found = jms.sweep(jms.Problem(X, y), [0.03, 0.1, 1.0], 0.0064, rtol=rtol, variables=["beta"])
    assert np.all(errors(found, X, y, 0.0064) <= rtol)


def test_weights_that_come_back():
    """Residuals change sign, β crosses 0, a weight falls below 1e-100 and ends above 0.1."""
    X, y = small(0)
    seen = {"residual": False, "beta": False, "weight": False}
    for seed in range(12):
        X, y = small(seed)
        u, v = ref.general_trajectory(X, y, 1e-3, ALPHA, np.geomspace(1e-3, 20, 60), rtol=1e-9)
        residual, beta = (u**2 - v**2) @ X.T - y, (u**2 - v**2)[5:]
        large = np.abs(residual) > 1e-4
        flips = np.any((residual * np.sign(residual[0]) < 0) & large)
        crosses = np.any((np.min(beta, 0) < -1e-3) & (np.max(beta, 0) > 1e-3))
        returns = np.any((np.minimum(u, v).min(0) < 1e-100) & (np.maximum(u, v)[-1] > 0.1))
        now = {"residual": flips, "beta": crosses, "weight": returns}
        if any(now[name] and not seen[name] for name in seen):
            found = jms.sweep(jms.Problem(X, y), [1e-4, 1e-3, 1e-2], ALPHA)
            assert np.all(found.result == 0)
            assert np.all(errors(found, X, y, ALPHA) <= 1e-6)
        seen = {name: seen[name] or now[name] for name in seen}
    assert all(seen.values()), seen


def test_slopes():
    """d kkt_error / dε at 32 values against differences of the SciPy implementation."""
    X, y = small(1)
    epsilon = np.geomspace(1e-3, 1, 32)
    wanted = ["kkt_error", "kkt_error_slope"]
    found = jms.sweep(jms.Problem(X, y), epsilon, ALPHA, rtol=1e-6, variables=wanted)
    projector = np.linalg.pinv(X) @ X

    def kkt_error(e):
        end = [40 + 400 * e]  # gradients are below 1e-9 ε there
        u, v = (w[0] for w in ref.general_trajectory(X, y, e, ALPHA, end, rtol=1e-12))
        theta = np.sign(u - v) * np.maximum(u, v) - np.sign(X.T @ y) * ALPHA
        return np.linalg.norm(theta - projector @ theta)

    truth = [(kkt_error(e * 1.001) - kkt_error(e * 0.999)) / (0.002 * e) for e in epsilon]
    values = [kkt_error(e) for e in epsilon]
    np.testing.assert_allclose(found.kkt_error[:, 0], values, rtol=1e-5)
    scale = np.maximum(np.abs(truth), 1e-2 * np.asarray(values) / epsilon)
    assert np.max(np.abs(found.kkt_error_slope[:, 0] - truth) / scale) <= 1e-3


@pytest.mark.parametrize("seed", [2, 5, 7, 9])
def test_steps_do_not_keep_gradients_above_a_tiny_epsilon(seed):
    """With steps chosen by the tolerance alone none of these ends within 20,000."""
    X, y = small(seed)
    found = jms.sweep(jms.Problem(X, y), [1e-6, 1e-5], ALPHA, rtol=5e-5)
    assert np.all(found.result == 0) and np.all(found.num_steps < 6_000)
    assert np.max(errors(found, X, y, ALPHA)) <= 5e-5


def test_a_slope_in_doubt_is_not_a_number():
    """At ε = 1e-6 steps of a value at rtol 1e-5 made a slope of 150 times its size."""
    problem, wanted = jms.load_problem(DATA), ["kkt_error", "kkt_error_slope"]
    epsilon, share = np.array([1e-6, 2e-6, 1e-5]), 0.02
    loose, tight = (
        jms.sweep(problem, epsilon, ALPHA, rtol=rtol, variables=wanted) for rtol in (1e-5, 1e-6)
    )
    around = [jms.sweep(problem, e * epsilon, ALPHA, rtol=1e-6) for e in (1 - share, 1 + share)]
    below, above = (sides.kkt_error.values[:, 0] for sides in around)
    truth = (above - below) / (2 * share * epsilon)
    for found in (loose, tight):
        slope = found.kkt_error_slope.values[:, 0]
        known = np.isfinite(slope)
        assert np.all(found.result == 0) and np.all(np.isfinite(found.kkt_error))
        assert np.count_nonzero(known) >= 2
        np.testing.assert_allclose(slope[known], truth[known], rtol=0.1)


def test_a_slope_of_nothing_is_not_in_doubt():
    """A square X has one interpolator, whatever ε is."""
    rng, epsilon = np.random.default_rng(0), np.geomspace(1e-3, 1e3, 7)
    problem = jms.Problem(rng.normal(size=(4, 4)), rng.normal(size=4))
    plain, found = (
        jms.sweep(problem, epsilon, ALPHA, variables=["kkt_error", "num_steps", *more])
        for more in ([], ["kkt_error_slope"])
    )
    assert np.all(found.result == 0)
    np.testing.assert_allclose(found.kkt_error_slope, 0, atol=1e-15)
    assert np.all(found.num_steps <= 1.1 * plain.num_steps)  # none is solved again


def test_blocks_agree_with_the_residual_clock():
    X = np.array([[1.3, 0.0, -0.7, 0.0], [0.0, 0.6, 0.0, -0.9]])
    y = np.array([1.0, -0.8])
    general = jms.Problem(Dense(jnp.asarray(X)), jnp.asarray(y))
    found = jms.sweep(general, [1e-3, 1e-2, 0.3], ALPHA, rtol=1e-7)

    @jax.jit
    def clock(epsilon):
        limit = jms.solve_limit(jms.Problem(X, y), jms.SmoothedSign(epsilon), ALPHA, rtol=1e-10)
        return limit.beta, jms.kkt(jms.Problem(X, y), limit).error

    for epsilon in found.epsilon.values:
        here = found.sel(epsilon=epsilon, alpha=ALPHA)
        beta, error = clock(epsilon)
        assert np.max(np.abs(here.beta.values - beta)) <= 1e-7 * np.max(np.abs(beta))
        assert abs(here.kkt_error - error) <= 1e-7


def test_rows_beyond_the_rank():
    X, y = small(5)
    X, y = np.vstack([X[:2], X[:1]]), np.append(y[:2], y[0])
    problem = jms.Problem(X, y)
    found = jms.sweep(problem, [1e-3, 0.1], ALPHA)
    assert np.all(found.result == 0) and np.all(found.feasibility < 1e-12)
    assert np.all(errors(found, X, y, ALPHA) <= 1e-6)
    once = jms.sweep(jms.Problem(X[:2], y[:2]), [1e-3, 0.1], ALPHA)
    assert np.all(np.abs(found.beta - once.beta).max("feature") > 1e-4)  # it weighs twice
    with pytest.raises(ValueError, match="no interpolator"):
        jms.Problem(X, np.append(y[:2], y[0] + 1))
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no interpolator"):
        jms.Problem(rng.normal(size=(5, 3)), rng.normal(size=5))
    fits = jms.Problem(X.T[:, :2], X.T[:, :2] @ [0.4, -0.7])  # n > d, but y is in the range
    found = jms.sweep(fits, 0.1, ALPHA)
    np.testing.assert_allclose(found.beta[0, 0], [0.4, -0.7], rtol=1e-6)


def test_labels_zero():
    found = jms.sweep(jms.Problem(small(0)[0], np.zeros(3)), [1e-3, 1.0], ALPHA)
    assert np.all(found.result == 0) and np.all(found.beta == 0)


def test_units():
    """X, y, ε and α in other units: the same limit in other units."""
    X, y = small(2)
    plain = jms.sweep(jms.Problem(X, y), [1e-3, 0.1], ALPHA)
    x, w = 40.0, 0.2  # β in units w², gradients in units x² w³
    scaled = jms.sweep(
        jms.Problem(x * X, x * w**2 * y), np.array([1e-3, 0.1]) * x**2 * w**3, ALPHA * w
    )
    np.testing.assert_allclose(scaled.beta, w**2 * plain.beta, atol=1e-8)


def test_several_problems_and_zipped_cases():
    problems = [jms.Problem(*small(seed)) for seed in (0, 1)]
    both = jms.sweep(problems, [1e-2, 0.3], [0.02, 0.1], product=False)
    for i, problem in enumerate(problems):
        alone = jms.sweep(problem, [1e-2, 0.3], [0.02, 0.1], product=False)
        xr.testing.assert_allclose(both.isel(problem=i), alone, rtol=1e-9)


@pytest.mark.parametrize("smoothing", ["sqrt", "tanh"])
def test_other_smoothings(smoothing):
    problem = jms.Problem(*small(1))
    found = jms.sweep(problem, [1e-2, 0.3], ALPHA, smoothing=smoothing, rtol=1e-5)
    for here in found.isel(alpha=0).transpose("epsilon", ...).groupby("epsilon"):
        epsilon, one = here
        limit = jms.solve_limit(problem, jms.SmoothedSign(epsilon, smoothing), ALPHA)
        gap = np.max(np.abs(one.beta.values.ravel() - limit.beta)) / np.max(np.abs(limit.beta))
        assert gap <= 1e-5


def settings(problem, epsilon, **more):
    usual = {"product": False, "variables": None, "rtol": 1e-5, "reference": "start"}
    usual |= {"smoothing": "abs", "depth": 2, "max_steps": 65536, "chunk_size": None}
    return make_plan(problem, epsilon, ALPHA, **usual | more).settings


def test_a_failed_member_hurts_no_other():
    problem, alpha = jms.Problem(*small(3)), np.full(2, ALPHA)
    epsilon = np.array([1.0, 1e-5])
    few = settings(problem, epsilon, max_steps=400)
    values, left = _general.solve_general(problem, few, None, epsilon, alpha)
    assert left.tolist() == [1]
    assert values["result"].tolist() == [0, CODES["max_steps_reached"].value]
    assert np.all(np.isnan(values["beta"][1])) and np.isnan(values["kkt_error"][1])
    alone = jms.sweep(problem, 1.0, ALPHA, rtol=1e-5)
    # Members of a chunk share the number of stages, hence not to the last bit.
    np.testing.assert_allclose(values["beta"][0], alone.beta[0, 0], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_wide_data_in_bounded_memory():
    rng = np.random.default_rng(0)
    X, truth = rng.normal(size=(200, 2000)) / np.sqrt(200), np.zeros(2000)
    truth[:10] = 1
    problem = jms.Problem(X, X @ truth)
    found = jms.sweep(problem, [0.03, 0.3], ALPHA, rtol=1e-4, variables=["beta", "feasibility"])
    assert np.all(found.result == 0) and np.all(found.feasibility < 1e-10)
    again = jms.sweep(problem, [0.03, 0.3], ALPHA, rtol=1e-5, variables=["beta", "feasibility"])
    assert np.max(np.abs(found.beta - again.beta)) <= 1e-4
    shared = X, np.ascontiguousarray(X.T), np.linalg.pinv(X), X @ truth, 1.0, 1.0, 1e-5, 0
    many = np.full((1, 32), 0.1)
    for single in (False, True):
        program = _general._ends.lower(shared, (many, many), "abs", 1000, False, single).compile()
        assert program.memory_analysis().temp_size_in_bytes < 100e6


def steps_of(s, f, y, h):
    """A step of the method by its table, in NumPy."""
    stages, start = coefficients().stages[s], h * f(y)
    old, new = y, y + stages[0, 1:].sum() * start
    for of_y, of_start, of_new, of_old, of_slope in stages[1:s]:
        slope = h * f(new)
        step = of_y * y + of_start * start + of_new * new + of_old * old + of_slope * slope
        old, new = new, step
    return new


@pytest.mark.parametrize("s", [4, 6, 10, MOST_STAGES])
def test_stages_are_stable(s):
    """|R| ≤ 1 on [−β, 0], and β grows like s²."""
    limit = coefficients().limits[s]
    z = -np.linspace(0, limit, 20_001)
    R = steps_of(s, lambda y: z * y, np.ones_like(z), 1.0)
    assert np.max(np.abs(R)) <= 1
    assert np.max(np.abs(R[z < -0.3 * limit])) < 0.78
    assert limit >= 0.32 * s**2


@pytest.mark.parametrize("s", [4, 6, 10, MOST_STAGES])
def test_order_three(s):
    """On a flow whose derivatives of every order matter, autonomous as all flows here."""

    def f(y):
        return np.array([y[1] * y[0], -y[0] * y[1] + np.sin(y[0]) * y[1], 1 / (1 + y[0] ** 2)])

    def after(n):
        y = np.array([0.3, 0.9, 0.1])
        for _ in range(n):
            y = steps_of(s, f, y, 1 / n)
        return y

    exact = solve_ivp(lambda t, y: f(y), (0, 1), [0.3, 0.9, 0.1], "DOP853", rtol=1e-13, atol=1e-15)
    errors = [np.max(np.abs(after(n) - exact.y[:, -1])) for n in (10, 20, 40)]
    assert np.all(np.abs(np.log2(np.divide(errors[:-1], errors[1:])) - 3) < 0.25)


@pytest.mark.parametrize("s", [4, 6, 10, MOST_STAGES])
def test_stages_are_of_order_two(s):
    """The weight of h² f'f in stage j is c²/2, but in the first and the last but one."""
    c, n = np.zeros(s + 1), np.zeros(s + 1)
    for j, (_, of_start, of_new, of_old, of_slope) in enumerate(coefficients().stages[s, :s]):
        c[j + 1] = of_start + of_slope + of_new * c[j] + of_old * c[j - 1]
        n[j + 1] = of_slope * c[j] + of_new * n[j] + of_old * n[j - 1]
    np.testing.assert_allclose(n[2 : s - 1], c[2 : s - 1] ** 2 / 2, rtol=1e-9)
    assert c[-1] == pytest.approx(1, rel=1e-9) and n[-1] == pytest.approx(1 / 2, rel=1e-9)
    assert np.all(np.diff(c) > 0)


def test_every_end_gets_the_walk_of_its_own_chunk():
    found = _on_threads(lambda chunk: 10 * chunk, lambda chunk, walk: (chunk, walk), np.arange(50))
    assert found == [(chunk, 10 * chunk) for chunk in range(50)]


def test_a_walk_that_raises_keeps_the_others_from_starting():
    begun = []

    def follow(chunk):
        begun.append(chunk)
        time.sleep(0.01)
        if chunk == 1:
            raise ValueError("of chunk 1")

    with pytest.raises(ValueError, match="of chunk 1"):
        _on_threads(follow, lambda chunk, walk: walk, np.arange(500))
    assert len(begun) < 500


def test_what_finishes_a_flow_begins_with_its_own_matrix():
    """Cholesky's factor that a sweep hands on is that of the first step of Newton's method."""
    problem = jms.random_sparse_problem(jax.random.key(0), 5, 12, 2)
    flow = as_dense(problem, jms.SmoothedSign(0.1), jnp.asarray(0.05), 2)
    logs = jax.random.normal(jax.random.key(1), (2, 12))
    u, v = jnp.exp(logs)
    factor = _dense_limit.end_factor(flow.X, jnp.exp(logs))

    def on_labels(multiplier):
        theta = flow.X.T @ multiplier
        return flow.X @ ((u * jnp.exp(theta)) ** 2 - (v * jnp.exp(-theta)) ** 2)

    matrix = jax.jacobian(on_labels)(jnp.zeros(5))
    np.testing.assert_allclose(factor @ factor.T, matrix, rtol=1e-11, atol=1e-11)
    expected = _dense_limit.finish(flow, u, v)
    for given in (factor, 3 * factor):  # with another, Newton's method only takes longer
        for one, other in zip(_dense_limit.finish(flow, u, v, given), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11)
