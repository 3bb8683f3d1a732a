"""The reference against itself, by independent routes, and against closed forms."""

from pathlib import Path

import numpy as np
import pytest
import reference as ref

EXAMPLE = ((1.3, 0.7), 1.0)


def random_block(seed, columns, smallest=0.1):
    rng = np.random.default_rng(seed)
    a = np.exp(rng.uniform(np.log(smallest), np.log(2), columns))
    return a * rng.choice([-1, 1], columns), rng.uniform(0.5, 2) * rng.choice([-1, 1])


def difference(p, q):
    """Largest difference of two block limits, relative to the largest weight."""
    pairs = zip(p[1:9], q[1:9], strict=True)
    return max(np.max(np.abs(left - right)) for left, right in pairs) / np.max(q.w)


@pytest.fixture(scope="module")
def diabetes():
    path = Path(__file__).parent / "data" / "diabetes30_quadratic.csv"
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    return table[:, :-1], table[:, -1]


def test_wright_omega_solves_its_equation():
    kappa, R = np.array([[0.0], [1e-300], [1e-8], [1.0], [1e8]]), np.array([-1e9, -700, -2, 3, 500])
    omega = ref._omega(R, kappa)
    live = omega > 0
    residual = kappa * omega + np.log(omega, where=live, out=np.full(omega.shape, -np.inf)) - R
    assert np.all(np.abs(residual[live]) < 1e-15 * np.abs(R * np.ones_like(kappa))[live] + 1e-15)
    assert np.all(omega[~live] == 0)


@pytest.mark.parametrize(
    ("epsilon", "error"),
    [(1e-4, 0.2666891), (1e-3, 0.2641826), (1e-2, 0.2439954), (1e-1, 0.1023833), (0.3, -0.0507208)],
)
def test_signed_error_of_the_worked_example(epsilon, error):
    limit = ref.block_limit(*EXAMPLE, epsilon, 0.05)
    assert limit.signed_error == pytest.approx(error, abs=6e-8)
    assert limit.kkt_error == pytest.approx(abs(limit.signed_error), abs=1e-14)


def test_kkt_error_vanishes_at_the_worked_epsilon():
    assert ref.block_limit(*EXAMPLE, 0.2095791, 0.05).kkt_error < 1e-7


@pytest.mark.parametrize("reference", ["start", "warmup"])
@pytest.mark.parametrize("seed", range(8))
def test_clock_and_time_reach_the_same_limit(seed, reference):
    rng = np.random.default_rng([seed, 1])
    x, y = random_block(seed, columns=rng.integers(1, 8))
    epsilon, alpha = 10 ** rng.uniform(-4, 1), 10 ** rng.uniform(-3, -0.6)
    clock = ref.block_limit(x, y, epsilon, alpha, reference)
    time = ref.block_limit_time(x, y, epsilon, alpha, reference)
    assert difference(time, clock) < 2e-10
    assert x @ clock.beta == pytest.approx(y, rel=1e-12)
    assert abs(x @ clock.stationarity) < 1e-13


@pytest.mark.parametrize(
    ("epsilon", "alpha"), [(1e-8, 1e-4), (1e-8, 0.3), (1e-4, 1e-4), (30.0, 0.3), (30.0, 1e-4)]
)
def test_extremes_do_not_depend_on_tolerance_or_variables(epsilon, alpha):
    x, y = random_block(7, columns=40, smallest=1e-2)
    x[0], x[1] = 1e-2, 2
    tight = ref.block_limit(x, y, epsilon, alpha, "warmup", rtol=3e-14)
    assert difference(ref.block_limit(x, y, epsilon, alpha, "warmup"), tight) < 2e-12
    assert x @ tight.beta == pytest.approx(y, rel=1e-11)
    trajectory = ref.block_trajectory(x, y, epsilon, alpha, [0.0, 1e11])
    late = np.maximum(trajectory.u, trajectory.v)
    np.testing.assert_allclose(late, [np.full(40, alpha), tight.w], rtol=1e-11)


def test_one_column_interpolates_and_equal_columns_stay_equal():
    assert ref.block_limit([-2.0], 1.0, 1e-2, 0.05).beta == pytest.approx(-0.5, rel=1e-13)
    assert ref.block_limit([-2.0], 1.0, 1e-2, 0.05).kkt_error < 1e-15
    equal = ref.block_limit([0.8, -0.8], 1.0, 1e-2, 0.05)
    assert equal.w[0] == pytest.approx(equal.w[1], rel=1e-13)
    assert abs(equal.signed_error) < 1e-13


def test_column_order_signs_and_dead_columns_change_nothing():
    limit = ref.block_limit((1.3, 0.7), 1.0, 1e-2, 0.05, "warmup")
    swapped = ref.block_limit((-0.7, 1.3), -1.0, 1e-2, 0.05, "warmup")
    assert swapped.signed_error == pytest.approx(limit.signed_error, rel=1e-12)
    np.testing.assert_allclose(swapped.beta, limit.beta[::-1] * (1, -1), rtol=1e-12)
    padded = ref.block_limit((1.3, 0.0, 0.7), 1.0, 1e-2, 0.05, "warmup")
    np.testing.assert_allclose(padded.w, [limit.w[0], 0.05, limit.w[1]], rtol=1e-12)
    assert padded.beta[1] == pytest.approx(0, abs=1e-16)


@pytest.mark.parametrize("epsilon", [1e-3, 0.1])
def test_trajectory_obeys_the_flow(epsilon):
    x, y = random_block(3, 3)

    def weights(time):
        return np.stack(ref.block_trajectory(x, y, epsilon, 0.05, [time])[:2])[:, 0]

    u, v = weights(0.3)
    velocity, _ = ref.derivative(weights, 0.3, step=0.01, levels=3)
    c = x * (x @ (u**2 - v**2) - y)
    expected = -c * u / (np.abs(c) * u + epsilon), c * v / (np.abs(c) * v + epsilon)
    np.testing.assert_allclose(velocity, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("epsilon", [1e-3, 0.03, 0.3])
def test_stage_ends_are_where_the_gradients_cross_epsilon(epsilon):
    x, y, alpha = np.array([1.3, -0.7, 0.4]), -0.9, 0.05
    stages = ref.block_trajectory(x, y, epsilon, alpha, [0.0])
    ends = np.array([stages.warm_up_end, *stages.sign_stage_ends])
    u, v, *_ = ref.block_trajectory(x, y, epsilon, alpha, ends)
    cq = np.abs(x) * np.abs((u**2 - v**2) @ x - y)[:, None]
    w, omega = np.where(x * y > 0, u, v), np.where(x * y > 0, v, u)
    late = stages.sign_stage_ends > 0
    np.testing.assert_allclose(np.diag((cq * w)[1:])[late], epsilon, rtol=1e-11)
    assert np.all(np.diag((cq * w)[1:])[~late] <= epsilon)
    if stages.warm_up_end > 0:
        assert np.max((cq * omega)[0]) == pytest.approx(epsilon, rel=1e-11)
        assert stages.warm_up_end <= 2 * alpha  # Prop 3.5
    else:
        assert np.max((cq * omega)[0]) <= epsilon
    at_T1 = ref.block_limit(x, y, epsilon, alpha, "warmup")
    np.testing.assert_allclose([w[0], omega[0]], [at_T1.w_ref, at_T1.omega_ref], rtol=1e-11)


def test_bregman_minimiser_satisfies_its_kkt_conditions():
    limit = ref.block_limit(*EXAMPLE, 1e-2, 0.05)
    x, y, w_ref = np.array([1.3, -0.7, 0.0]), -1.0, np.array([0.05, 0.1, 0.2])
    cases = [(*EXAMPLE, limit.w_ref, limit.omega**2), (x, y, w_ref, w_ref**2 / 2)]
    cases += [(x, y, np.array([1.5, 0.6, 0.2]), np.array([0.3, 0.2, 0.01]))]  # Y < C0: bracketed
    for x, y, w_ref, delta in cases:
        minimum = ref.bregman_minimizer_block(x, y, w_ref, delta)
        assert np.dot(x, minimum.beta) == pytest.approx(y, rel=1e-13)
        reference = np.sign(np.asarray(x) * y) * w_ref
        np.testing.assert_allclose(
            minimum.dual, reference + np.multiply(x, minimum.multiplier), rtol=1e-13
        )
        inverse = np.sign(minimum.dual) * np.maximum(minimum.dual**2 - delta, 0)
        np.testing.assert_allclose(minimum.beta, inverse, rtol=1e-13, atol=1e-16)


def test_derivative_is_accurate_for_smooth_functions():
    value, error = ref.derivative(lambda t: np.array([np.exp(t), np.sin(t)]), 0.7)
    exact = np.array([np.exp(0.7), np.cos(0.7)])
    assert np.all(np.abs(value - exact) < 1e-11)
    assert np.all(error < 1e-10)


@pytest.mark.parametrize(
    ("epsilon", "parameter"), [(1e-3, 0), (1e-1, 0), (1e-1, 1), (1e-1, 2), (1e-1, 3)]
)
def test_derivative_of_the_squared_kkt_error(epsilon, parameter):
    def squared(shift):
        log = np.log([epsilon, 0.05, 1.3, 0.7])
        log[parameter] += shift
        epsilon_, alpha, *x = np.exp(log)
        return ref.block_limit(x, 1.0, epsilon_, alpha).kkt_error ** 2

    value, error = ref.derivative(squared, 0.0)
    other, _ = ref.derivative(squared, 0.0, step=0.1, levels=4)
    assert error < 1e-8 * abs(value)
    assert value == pytest.approx(other, rel=1e-8)


def test_general_system_agrees_with_blocks():
    X = np.array([[1.3, 0.0, -0.7, 0.0, 0.0], [0.0, 0.4, 0.0, 0.0, 1.1]])
    y = np.array([1.0, -0.8])
    ts = np.array([0.02, 0.3, 0.9, 5.0])
    beta = ref.general_limit(X, y, 1e-2, 0.05)
    u, v = ref.general_trajectory(X, y, 1e-2, 0.05, ts)
    for row, columns in enumerate([[0, 2], [1, 4]]):
        block = X[row, columns], y[row], 1e-2, 0.05
        np.testing.assert_allclose(beta[columns], ref.block_limit(*block).beta, rtol=1e-11)
        path = ref.block_trajectory(*block, ts)
        np.testing.assert_allclose(u[:, columns], path.u, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(v[:, columns], path.v, rtol=1e-9, atol=1e-12)
    assert beta[3] == 0


def test_general_jacobian():
    rng = np.random.default_rng(0)
    X, y, logs = rng.normal(size=(3, 5)), rng.normal(size=3), rng.normal(size=10)
    _, velocity, jacobian = ref._general_system(X, y, 0.1)
    for column, unit in enumerate(np.eye(10)):
        slope, _ = ref.derivative(lambda t, unit=unit: velocity(0.0, logs + t * unit), 0.0, 1e-3)
        np.testing.assert_allclose(jacobian(0.0, logs)[:, column], slope, rtol=1e-7, atol=1e-9)


def test_general_limit_leaves_the_label_outside_the_range():
    X, y = np.array([[1.0, 0.4, -0.3], [2.0, 0.8, -0.6]]), np.array([1.0, 1.0])
    assert np.max(np.abs(X.T @ (X @ ref.general_limit(X, y, 1e-2, 0.05) - y))) < 1e-13


def test_general_limit_goes_on_from_a_saddle():
    """There gradients fall to 4e-12 ε, with Xᵀr at 0.17, until a tiny weight has grown."""
    rng = np.random.default_rng(96)
    X, y = rng.normal(size=(3, 6)), rng.normal(size=3)
    beta = ref.general_limit(X, y, 1e-4, 1.83e-3, rtol=1e-12)
    assert np.linalg.norm(X @ beta - y) < 1e-13
    other = ref.general_limit(X, y, 1e-4, 1.83e-3, rtol=1e-9, method="Radau")
    assert np.max(np.abs(beta - other)) < 1e-6


@pytest.mark.parametrize("epsilon", [1e-2, 1e-3])
def test_diabetes_limit_does_not_depend_on_tolerance(diabetes, epsilon):
    beta = ref.general_limit(*diabetes, epsilon, 0.05)
    looser = ref.general_limit(*diabetes, epsilon, 0.05, rtol=1e-11)
    assert np.max(np.abs(beta - looser)) < 3e-10 * np.max(np.abs(beta))
    assert np.linalg.norm(diabetes[0] @ beta - diabetes[1]) < 1e-13


def test_diabetes_trajectory_by_two_methods(diabetes):
    ts = [0.1, 1.0]
    implicit = ref.general_trajectory(*diabetes, 1e-2, 0.05, ts)
    explicit = ref.general_trajectory(*diabetes, 1e-2, 0.05, ts, rtol=2.3e-14, method="DOP853")
    assert np.max(np.abs(np.subtract(implicit, explicit))) < 3e-11


@pytest.mark.parametrize("alpha", [1e-3, 1e-2, 0.05, 1.0])
def test_gradient_descent_limit_satisfies_its_kkt_conditions(diabetes, alpha):
    X, y = diabetes
    beta = ref.gd_limit(X, y, alpha)
    dual = np.arcsinh(beta / (2 * alpha**2)) / 2
    residual = dual - X.T @ np.linalg.lstsq(X.T, dual)[0]
    assert np.linalg.norm(X @ beta - y) < 1e-13 * np.linalg.norm(y)
    assert np.linalg.norm(residual) < 1e-13 * np.linalg.norm(dual)


def test_gradient_flow_of_one_column_in_closed_form():
    alpha, y, ts = 0.05, 0.8, np.array([0.5, 2.0, 4.0])
    u, v = ref.gd_trajectory([[1.0]], [y], alpha, ts)
    root = np.sqrt(
        y**2 + 4 * alpha**4
    )  # u^2 solves the Riccati equation p' = 2(yp - p^2 + alpha^4)
    high, low = (y + root) / 2, (y - root) / 2
    decay = (alpha**2 - high) / (alpha**2 - low) * np.exp(-2 * root * ts)
    np.testing.assert_allclose(u[:, 0] ** 2, (high - low * decay) / (1 - decay), rtol=1e-11)
    np.testing.assert_allclose(u * v, alpha**2, rtol=1e-14)


def test_gradient_flow_reaches_its_limit():
    x, y, alpha = np.array([[1.3, 0.7]]), np.array([1.0]), 0.05
    beta = ref.gd_limit(x, y, alpha)
    u, v = ref.gd_trajectory(x, y, alpha, [1.0, 60.0])
    np.testing.assert_allclose((u**2 - v**2)[-1], beta, rtol=1e-11)
    smoothed = ref.block_limit(x[0], y[0], 1e4, alpha).beta
    assert 1e-7 < np.max(np.abs(smoothed - beta)) < 1e-5
