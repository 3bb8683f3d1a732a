"""Every depth and smoothing, ε and α per coordinate, ε in time: against SciPy, as the base case."""

import re
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref
import reference_family as family
from scipy.integrate import solve_ivp

import jaxmd_sign as jms
from jaxmd_sign import _smoothing
from jaxmd_sign._mirror import PowerPotential, inverse_mirror_map, mirror_map
from jaxmd_sign._problem import Dense

SMOOTHINGS = ("abs", "sqrt", "tanh", "clip")
# Each depth and smoothing is a program to compile, for seconds. ψ_M knows only the depth and φ only
# the smoothing, so every one of both and not every pair; test_omega.py has all depths.
CASES = [
    *(("abs", depth) for depth in (2, 3, 8)),
    *(("sqrt", depth) for depth in (5, 7)),
    *(("tanh", depth) for depth in (2, 4)),
    *(("clip", depth) for depth in (3, 6)),
]
ROWS = [((1.3, -0.7), 1.0), ((0.4, 1.1, 0.8), -0.8)]
X = np.array([[1.3, 0, -0.7, 0, 0], [0, 0.4, 0, 1.1, 0.8]])
Y = np.array([1.0, -0.8])
COLUMNS = [np.array([0, 2]), np.array([1, 3, 4])]
PROBLEM = jms.Problem(X, Y)
EPSILONS = np.array([1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0])
ALPHAS = np.array([0.05, 0.3, 0.05, 0.3, 0.05, 0.3])
TOLERANCE = 1e-7
each_case = pytest.mark.parametrize(("smoothing", "depth"), CASES)
each_smoothing = pytest.mark.parametrize("smoothing", SMOOTHINGS)


@cache
def program(smoothing, depth):
    """One compiled program for six ε and α (6, 5) at once, one a coordinate or repeated."""

    @jax.jit
    @jax.vmap
    def solve(epsilon, alpha):
        return jms.solve_limit(PROBLEM, jms.SmoothedSign(epsilon, smoothing), alpha, depth=depth)

    return solve


def solve(smoothing, depth, epsilon, alpha):
    spread = (np.broadcast_to(np.reshape(value, (6, -1)), (6, 5)) for value in (epsilon, alpha))
    return program(smoothing, depth)(*spread)


@cache
def solved(smoothing, depth):
    return solve(smoothing, depth, EPSILONS, ALPHAS)


def truth(smoothing, depth, epsilon, alpha, x=X, y=Y, limit=family.family_limit):
    """β, s∘w, ω and the KKT error of both blocks by SciPy; ε and α a number or one a column."""
    epsilon, alpha = (np.broadcast_to(value, 5) for value in (epsilon, alpha))
    beta, dual, omega, square = np.zeros(5), np.zeros(5), np.zeros(5), 0.0
    for row, label, at in zip(x, y, COLUMNS, strict=True):
        end = limit(row[at], label, epsilon[at], alpha[at], smoothing, depth)
        beta[at], omega[at] = end.beta, end.omega
        dual[at] = np.sign(row[at] * label) * end.w
        square += end.kkt_error**2
    return beta, dual, omega, np.sqrt(square)


def relative(found, expected):
    return np.max(np.abs(np.asarray(found) - expected)) / np.max(np.abs(expected))


@each_case
def test_limits_are_those_of_scipy(smoothing, depth):
    limit = solved(smoothing, depth)
    assert np.all(limit.result == jms.RESULTS.successful)
    for i in range(6):
        beta, dual, omega, _ = truth(smoothing, depth, EPSILONS[i], ALPHAS[i])
        for at in COLUMNS:
            assert relative(limit.beta[i, at], beta[at]) <= TOLERANCE
            assert relative(limit.dual[i, at], dual[at]) <= TOLERANCE
            assert np.max(np.abs(limit.potential.delta[i, at] - omega[at] ** depth)) <= TOLERANCE
    assert np.max(np.abs(limit.residual)) <= 1e-10
    np.testing.assert_allclose(limit.beta @ X.T, np.tile(Y, (6, 1)), rtol=1e-10)


@pytest.mark.parametrize("depth", [2, 3, 8])
def test_limits_of_abs_are_right_down_to_epsilon_1e_8(depth):
    epsilon = np.array([1e-8, 1e-7, 1e-6, 1e-5, 3e-5, 30.0])
    limit = solve("abs", depth, epsilon, ALPHAS)
    assert np.all(limit.result == jms.RESULTS.successful)
    for i in range(6):
        beta, dual, _, _ = truth("abs", depth, epsilon[i], ALPHAS[i])
        for at in COLUMNS:
            assert relative(limit.beta[i, at], beta[at]) <= 1e-7
            assert relative(limit.dual[i, at], dual[at]) <= 1e-7


# The time domain, ours and that of SciPy, as a second and a third route.

TS = np.array([0.0, 0.3, 1e9])


@cache
def flow_of(smoothing, depth):
    """Three of the cases in time."""

    @jax.jit
    @jax.vmap
    def run(epsilon, alpha):
        rule = jms.SmoothedSign(epsilon, smoothing)
        return jms.solve_trajectory(PROBLEM, rule, alpha, depth=depth, ts=TS)

    return run(EPSILONS[2:5], ALPHAS[2:5])


@pytest.mark.slow
def test_the_end_of_a_trajectory_is_the_limit():
    smoothing, depth = "abs", 3
    flow, limit = flow_of(smoothing, depth), solved(smoothing, depth)
    assert np.all(flow.result == jms.RESULTS.successful)
    for i in range(3):
        assert relative(flow.beta[i, -1], limit.beta[i + 2]) <= TOLERANCE
        assert relative(flow.dual[i, -1], limit.dual[i + 2]) <= TOLERANCE
        dual = np.abs(flow.dual[i])
        other = np.minimum(flow.u[i], flow.v[i])
        np.testing.assert_allclose(np.abs(flow.beta[i]), dual**depth - other**depth, atol=1e-14)
        c = flow.residual[i] @ X
        np.testing.assert_allclose(flow.gradient_u[i], c * flow.u[i] ** (depth - 1), rtol=1e-12)
        np.testing.assert_allclose(flow.gradient_v[i], -c * flow.v[i] ** (depth - 1), rtol=1e-12)


@pytest.mark.parametrize(("smoothing", "depth"), [("tanh", 2), ("abs", 3), ("sqrt", 5)])
def test_limits_are_those_of_scipy_in_time(smoothing, depth):
    for i in (2, 3):
        case = EPSILONS[i], ALPHAS[i]
        beta, dual, *_ = truth(smoothing, depth, *case, limit=family.family_limit_time)
        assert relative(solved(smoothing, depth).beta[i], beta) <= 1e-6
        assert relative(solved(smoothing, depth).dual[i], dual) <= 1e-6


# (14), potentials, KKT error and minimiser.


@pytest.mark.parametrize("depth", [2, 3, 4])
@each_smoothing
def test_dual_dynamics(smoothing, depth):
    """(14) for depth M: along the flow, d/dt ∇Φ_δ(β) = −sign(c) φ(|c||θ|^{M−1}/ε)."""
    rng = np.random.default_rng(14)
    omega = 10 ** rng.uniform(-2, 0, 50)
    w = omega + 10 ** rng.uniform(-1, 0, 50)
    c, s = rng.normal(size=(2, 50))
    s = -np.sign(c)
    for epsilon in (1e-2, 0.3, 10.0):

        def rate(weight, epsilon=epsilon):
            return family.PHI[smoothing](np.abs(c) * weight ** (depth - 1) / epsilon)

        rule = jms.SmoothedSign(epsilon, smoothing)
        for weight in (w, omega):  # log_rate is −d log w/dt
            log_rate = np.sign(c) * rate(weight) / weight
            np.testing.assert_allclose(rule.log_rate(c, weight, depth), log_rate, rtol=1e-13)
        beta, delta = s * (w**depth - omega**depth), omega**depth
        up, down = (depth * v ** (depth - 1) * rate(v) for v in (w, omega))
        theta, speed = jax.jvp(
            lambda beta, delta: mirror_map(PowerPotential(delta, depth), beta),
            (jnp.asarray(beta), jnp.asarray(delta)),
            (jnp.asarray(s * (up + down)), jnp.asarray(-down)),
        )
        np.testing.assert_allclose(theta, s * w, rtol=1e-12)
        g = np.abs(c) * np.abs(theta) ** (depth - 1)
        np.testing.assert_allclose(speed, s * family.PHI[smoothing](g / epsilon), rtol=1e-12)
        if smoothing == "abs":
            closed = -c * np.abs(theta) ** (depth - 1) / (g + epsilon)
            np.testing.assert_allclose(speed, closed, rtol=1e-12)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_potentials_satisfy_fenchel_and_young(depth):
    rng = np.random.default_rng(12)
    delta = np.concatenate([[0.0, 0.0, 0.3], rng.uniform(0, 0.5, 20)])
    beta = np.concatenate([[1.2, -0.7, 0.0], rng.normal(size=20)])
    potential = PowerPotential(jnp.asarray(delta), depth)
    theta = mirror_map(potential, jnp.asarray(beta))
    expected = np.sign(beta) * (np.abs(beta) + delta) ** (1 / depth)
    np.testing.assert_allclose(theta, expected, rtol=1e-13)
    np.testing.assert_allclose(inverse_mirror_map(potential, theta), beta, rtol=1e-12)
    both = potential(jnp.asarray(beta)) + potential.conjugate(theta)
    assert both == pytest.approx(float(np.sum(theta * beta)), rel=1e-13)
    for _ in range(20):
        theta0 = rng.normal(size=beta.size)
        both = potential(jnp.asarray(beta)) + potential.conjugate(jnp.asarray(theta0))
        assert both > theta0 @ beta
        beta0 = np.asarray(inverse_mirror_map(potential, jnp.asarray(theta0)))
        kink = np.sign(theta0) * np.maximum(np.abs(theta0) ** depth - delta, 0)
        np.testing.assert_allclose(beta0, kink, rtol=1e-12, atol=1e-15)
        expected = (
            potential(jnp.asarray(beta))
            - potential(jnp.asarray(beta0))
            - np.sum(theta0 * (beta - beta0))
        )
        divergence = potential.divergence(theta, jnp.asarray(theta0))
        assert divergence == pytest.approx(float(expected), rel=1e-12)


@jax.jit
@jax.vmap
def conditions(limit):
    """One program a depth, for every smoothing."""
    minimizer = jms.bregman_minimizer(PROBLEM, limit)
    divergences = [jms.bregman(limit, beta) for beta in (limit.beta, minimizer)]
    report = jms.kkt(PROBLEM, limit)
    return report, minimizer, jms.bregman_gap(PROBLEM, limit), divergences


EXPLAINED = [("abs", 3), ("clip", 3), ("tanh", 4)]


@pytest.mark.parametrize(("smoothing", "depth"), EXPLAINED)
def test_three_routes_to_the_kkt_error(smoothing, depth):
    limit = solved(smoothing, depth)
    report, *_ = conditions(limit)
    growth = np.asarray(limit.dual - limit.dual_reference)
    projector = np.eye(5) - np.linalg.pinv(X) @ X
    np.testing.assert_allclose(report.stationarity, growth @ projector, atol=1e-9)
    two = np.abs(growth[:, COLUMNS[0]])
    signed = (1.3 * two[:, 1] - 0.7 * two[:, 0]) / np.hypot(1.3, 0.7)
    of_two = np.linalg.norm(report.stationarity[:, COLUMNS[0]], axis=-1)
    np.testing.assert_allclose(of_two, np.abs(signed), atol=1e-9)
    for i in range(6):
        *_, error = truth(smoothing, depth, EPSILONS[i], ALPHAS[i])
        assert report.error[i] == pytest.approx(error, abs=TOLERANCE)
    assert np.all(report.error > 1e-4)  # nothing above was about zeros


@pytest.mark.parametrize(("smoothing", "depth"), EXPLAINED)
def test_the_minimizer_is_feasible_and_the_gap_is_its_lead(smoothing, depth):
    limit = solved(smoothing, depth)
    _, minimizer, gap, (at_limit, at_minimizer) = conditions(limit)
    np.testing.assert_allclose(minimizer @ X.T, np.tile(Y, (6, 1)), rtol=1e-12)
    assert np.all(gap >= 0) and np.all(gap > 1e-9)
    np.testing.assert_allclose(gap, at_limit - at_minimizer, rtol=0, atol=1e-13)
    # Its gradient lies in the row space of X: that is what (15) asks for.
    delta, size = np.asarray(limit.potential.delta), np.abs(minimizer)
    theta = np.sign(minimizer) * (size + delta) ** (1 / depth) - limit.dual_reference
    inside = theta @ np.linalg.pinv(X) @ X
    outside = np.where(size > 0, theta - inside, 0)
    if np.all(size > 0):
        np.testing.assert_allclose(outside, 0, atol=1e-12)


@pytest.mark.parametrize("smoothing", ["abs", "tanh"])
def test_gradient_descent_is_the_limit_of_large_epsilon(smoothing):
    """For depth 2: weights then move like φ'(0) g/ε, and time has no say in where they end."""
    epsilon = np.array([1e2, 1e3, 1e4, 1e4, 1e6, 1e6])
    limit = solve(smoothing, 2, epsilon, ALPHAS)
    for alpha, members in ((0.05, [0, 2, 4]), (0.3, [1, 3, 5])):
        descent = jms.solve_limit(PROBLEM, jms.GradientDescent(), alpha).beta
        errors = [relative(limit.beta[i], descent) for i in members]
        assert errors[1] <= 1e-4 and errors[2] <= 1e-6
        assert smoothing != "abs" or 50 < errors[1] / errors[2] < 200  # first order in 1/ε


# Derivatives.

WEIGHTS = np.array([0.7, -0.4, 1.1, 0.3, -0.8])
DIRECTION = np.array([0.3, 0, -0.5, 0, 0]), np.array([0, 0.4, 0, 0.2, -0.6])


def scalar(smoothing, depth, X, log_epsilon, log_alpha):
    problem, rule = PROBLEM.with_data(X, Y), jms.SmoothedSign(jnp.exp(log_epsilon), smoothing)
    limit = jms.solve_limit(problem, rule, jnp.exp(log_alpha), depth=depth)
    error, gap = jms.kkt(problem, limit).error, jms.bregman_gap(problem, limit)
    return error**2 + limit.beta @ WEIGHTS + gap


def expected_scalar(smoothing, depth, x, log_epsilon, log_alpha):
    alpha = np.exp(log_alpha)
    beta, dual, omega, error = truth(smoothing, depth, np.exp(log_epsilon), alpha, x)
    blocks = zip(x, Y, COLUMNS, strict=True)
    gap = sum(family.gap(row[at], y, dual[at], omega[at], alpha, depth) for row, y, at in blocks)
    return error**2 + beta @ WEIGHTS + gap


@pytest.mark.slow
def test_derivatives_are_those_of_scipy():
    """In ε, α and X, by `jvp` and by `grad` from one solve."""
    args = X, np.log(0.05), np.log(0.1)
    directions = np.stack(DIRECTION), 0.7, -0.4
    function = partial(scalar, "abs", 3)

    @jax.jit
    def derivatives(args, directions):
        _, push = jax.linearize(function, *args)
        return jax.linear_transpose(push, *args)(1.0), push(*directions)

    (in_X, in_epsilon, in_alpha), forward = derivatives(args, directions)

    def along(t, *moves):
        return expected_scalar("abs", 3, *(a + t * b for a, b in zip(args, moves, strict=True)))

    for moves, derivative in [
        ((0 * X, 1.0, 0.0), in_epsilon),
        ((0 * X, 0.0, 1.0), in_alpha),
        (directions, forward),
    ]:
        expected, uncertainty = ref.derivative(lambda t, m=moves: along(t, *m), 0.0, 0.02, 3)
        assert uncertainty < 1e-6 * abs(expected)
        np.testing.assert_allclose(derivative, expected, rtol=1e-5)
    total = np.sum(in_X * directions[0]) + 0.7 * in_epsilon - 0.4 * in_alpha
    np.testing.assert_allclose(forward, total, rtol=1e-10)


@pytest.mark.slow
def test_derivatives_in_epsilon_are_those_of_scipy():
    """`jvp` and `grad` from one solve."""
    smoothing, depth, at = "tanh", 4, np.log(0.05)

    @jax.jit
    def derivatives(at):
        _, push = jax.linearize(lambda at: scalar(smoothing, depth, X, at, np.log(0.1)), at)
        return push(1.0), *jax.linear_transpose(push, at)(1.0)

    def along(log_epsilon):
        return expected_scalar(smoothing, depth, X, log_epsilon, np.log(0.1))

    expected, uncertainty = ref.derivative(along, at, 0.05, 3)
    assert uncertainty < 1e-6 * abs(expected)
    np.testing.assert_allclose(derivatives(at), expected, rtol=1e-5)


@pytest.mark.parametrize("depth", [2, 3])
def test_derivatives_across_the_corner_of_clip(depth):
    """Steps end at the corner: one over it would be of lower order in them than in β."""
    at = np.log(
        [0.01, 0.1, 0.3]
    )  # β has a kink in ε itself at 0.06, where a gradient just gets to ε

    def beta(log_epsilon):
        rule = jms.SmoothedSign(jnp.exp(log_epsilon), "clip")
        return jms.solve_limit(PROBLEM, rule, 0.1, depth=depth).beta

    found = jax.jit(jax.vmap(lambda x: jax.jvp(beta, (x,), (jnp.ones_like(x),))[1]))(at)
    for log_epsilon, tangent in zip(at, found, strict=True):
        expected, uncertainty = ref.derivative(
            lambda x: truth("clip", depth, np.exp(x), 0.1)[0], log_epsilon, 0.02, 3
        )
        assert np.max(uncertainty) < 1e-6
        assert relative(tangent, expected) <= 1e-5


# ε and α per coordinate.

RNG = np.random.default_rng(5)
MANY = 10 ** RNG.uniform(-3, 0.5, (6, 5)), 10 ** RNG.uniform(-1.5, -0.5, (6, 5))


@pytest.mark.parametrize(("smoothing", "depth"), [("abs", 2), ("abs", 3), ("tanh", 4)])
def test_epsilon_and_alpha_per_coordinate(smoothing, depth):
    limit = solve(smoothing, depth, *MANY)
    assert np.all(limit.result == jms.RESULTS.successful)
    for i in range(6):
        beta, dual, *_ = truth(smoothing, depth, MANY[0][i], MANY[1][i])
        for at in COLUMNS:
            assert relative(limit.beta[i, at], beta[at]) <= 1e-7
            assert relative(limit.dual[i, at], dual[at]) <= 1e-7


def test_a_column_that_hardly_moves_keeps_its_sign():
    """β = w^8 − ω^8 of the first column is 1e-27, and its rounding error a hundred times that."""
    x, y = np.array([-0.41622755, -2.80484561, 1.00243616, 2.18535134]), 0.48260237
    epsilon = np.array([4.76436235, 2.43404244e-04, 2.91168617e-04, 2.61326476e-05])
    alpha = np.array([0.01238646, 0.17996814, 0.12739583, 0.00625098])
    problem = jms.Problem(x[None], [y])
    limit = jms.solve_limit(problem, jms.SmoothedSign(epsilon, "tanh"), alpha, depth=8)
    expected = family.family_limit(x, y, epsilon, alpha, "tanh", 8)
    np.testing.assert_array_equal(np.sign(limit.beta), np.sign(x))
    np.testing.assert_allclose(jms.kkt(problem, limit).error, expected.kkt_error, rtol=1e-7)


def test_a_corner_that_rounding_hides_does_not_stop_the_clock():
    """The corner of `clip` may lie so near a step's end that the rest of the way does not move t.

    Of these 24 clocks 8 stood still.
    """
    x, y, epsilons = np.array([0.1, 2.6, -0.35, 0.5]), -2.5, 10 ** (-3.5 - 0.05 * np.arange(24))
    problem = jms.Problem(x[None], [y])
    limits = jax.vmap(
        lambda epsilon: jms.solve_limit(problem, jms.SmoothedSign(epsilon, "clip"), 0.06)
    )(epsilons)
    assert np.all(limits.result == jms.RESULTS.successful)
    for i in (0, 11, 23):
        expected = family.family_limit(x, y, epsilons[i], 0.06, "clip").beta
        assert relative(limits.beta[i], expected) < 2e-8


@pytest.mark.parametrize(("smoothing", "depth"), [("abs", 2), ("clip", 3), ("tanh", 4)])
def test_weights_are_ordered_by_data_over_epsilon(smoothing, depth):
    rng = np.random.default_rng(6)
    for _ in range(10):
        epsilon = 10 ** rng.uniform(-3, 1, (6, 5))
        w = np.abs(solve(smoothing, depth, epsilon, 0.1 * np.ones(6)).dual)
        for at in COLUMNS:
            ratio = np.abs(X).max(axis=0)[at] / epsilon[:, at]
            order = np.argsort(ratio, axis=-1)
            growth = np.diff(np.take_along_axis(w[:, at], order, -1), axis=-1)
            assert np.all(growth >= -1e-9)


@pytest.mark.slow
def test_gradient_in_200_epsilons():
    """100 blocks of two: reverse mode against differences of SciPy in the blocks that move."""
    rng = np.random.default_rng(7)
    problem = jms.random_block_problem(jax.random.key(3), 100)
    x, y = np.asarray(problem.data.x), np.asarray(problem.y)
    columns = np.asarray(problem.data.columns)
    log_epsilon, weights = rng.uniform(np.log(0.01), 0, 200), rng.normal(size=200)

    def function(log_epsilon):
        limit = jms.solve_limit(problem, jms.SmoothedSign(jnp.exp(log_epsilon)), 0.05)
        return limit.beta @ weights

    full = rng.normal(size=200)

    @jax.jit
    def derivatives(at):
        _, push = jax.linearize(function, at)
        return *jax.linear_transpose(push, at)(1.0), push(full)

    gradient, forward = derivatives(log_epsilon)
    assert gradient.shape == (200,) and np.all(np.isfinite(gradient)) and np.all(gradient != 0)
    np.testing.assert_allclose(gradient @ full, forward, rtol=1e-10)
    for _ in range(2):
        blocks = rng.choice(100, 3, replace=False)
        direction = np.zeros(200)
        direction[columns[blocks].ravel()] = rng.normal(size=6)

        def along(t, blocks=blocks, direction=direction):
            epsilon, total = np.exp(log_epsilon + t * direction), 0.0
            for k in blocks:
                at = columns[k]
                beta = family.family_limit(x[k], y[k], epsilon[at], 0.05).beta
                total += beta @ weights[at]
            return total

        expected, uncertainty = ref.derivative(along, 0.0, 0.02, 3)
        assert uncertainty < 1e-6 * abs(expected)
        np.testing.assert_allclose(gradient @ direction, expected, rtol=1e-5)


# General X.


@pytest.mark.slow
def test_blocks_by_the_general_path_agree_with_the_clock():
    general = jms.Problem(Dense(jnp.asarray(X)), jnp.asarray(Y))

    @jax.jit
    def run(epsilon, alpha):
        return jms.solve_limit(general, jms.SmoothedSign(epsilon), alpha, depth=3)

    epsilon = np.concatenate([np.tile(EPSILONS[2:4, None], (1, 5)), MANY[0][:4]])
    alpha = np.concatenate([np.tile(ALPHAS[2:4, None], (1, 5)), MANY[1][:4]])
    clock = solve("abs", 3, epsilon, alpha)
    for i in range(4):
        found = run(epsilon[i], alpha[i])
        assert found.result == jms.RESULTS.successful
        for name in ("beta", "dual", "dual_reference"):
            assert relative(getattr(found, name), getattr(clock, name)[i]) <= 1e-7
        np.testing.assert_allclose(found.potential.delta, clock.potential.delta[i], atol=1e-7)


# ε in time.


def in_time(X, y, schedule, alpha, ts, phi, depth):
    """β at `ts` by LSODA in log u, log v with ε(t)."""
    d = X.shape[1]

    def field(t, state):
        w = np.exp(state)
        c = X.T @ (X @ (w[:d] ** depth - w[d:] ** depth) - y)
        c = np.concatenate([c, -c])
        g = np.abs(c) * w ** (depth - 1) / schedule(t)
        return -np.sign(c) * phi(g) / w

    start = np.full(2 * d, np.log(alpha))
    # max_step: LSODA must see the schedule change.
    solution = solve_ivp(field, (0, ts[-1]), start, "LSODA", ts, rtol=1e-10, atol=1e-10, max_step=1)
    assert solution.success
    w = np.exp(solution.y.T)
    return w[:, :d] ** depth - w[:, d:] ** depth


DECAY = optax.exponential_decay(0.5, 1.0, 0.3)
GAUSSIAN = np.random.default_rng(8).normal(size=(2, 4))
SCHEDULED = {
    "optax on blocks": (X, Y, DECAY, lambda t: 0.5 * 0.3**t, "clip", 4),
    "lambda on any X": (
        GAUSSIAN,
        Y,
        lambda t: 0.05 + 0.2 * jnp.sin(3 * t) ** 2,
        lambda t: 0.05 + 0.2 * np.sin(3 * t) ** 2,
        "tanh",
        3,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SCHEDULED)
def test_epsilon_that_changes_with_time(case):
    data, labels, schedule, plain, smoothing, depth = SCHEDULED[case]
    problem, ts = jms.Problem(data, labels), np.linspace(0, 2, 9)
    rule = jms.SmoothedSign(schedule, smoothing)
    flow = jms.solve_trajectory(problem, rule, 0.1, depth=depth, ts=ts)
    assert flow.result == jms.RESULTS.successful
    beta = in_time(data, labels, plain, 0.1, ts, family.PHI[smoothing], depth)
    np.testing.assert_allclose(flow.beta, beta, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_constant_schedule_is_a_constant_epsilon():
    """Although ω is followed in another variable then, which has no ε in it."""
    plain = flow_of("abs", 3)
    rule = jms.SmoothedSign(optax.constant_schedule(EPSILONS[3]))
    flow = jms.solve_trajectory(PROBLEM, rule, ALPHAS[3], depth=3, ts=TS)
    for name in ("beta", "dual", "residual", "warmup_end", "sign_end"):
        np.testing.assert_allclose(getattr(flow, name), getattr(plain, name)[1], atol=1e-7)


@pytest.mark.slow
def test_the_sign_stage_ends_at_the_last_crossing():
    """Outside Assumption 3.3 a gradient may rise above ε and fall again, perhaps in one step."""
    epsilon, alpha, depth = EPSILONS[3], ALPHAS[3], 3
    ends = flow_of("abs", depth).sign_end[1]
    for row, y, at in zip(X, Y, COLUMNS, strict=True):
        crossings = family.crossings(row[at], y, epsilon, alpha, "abs", depth)
        assert {len(times) for times in crossings} <= {0, 1, 2}
        expected = [times[-1] if len(times) else 0 for times in crossings]
        np.testing.assert_allclose(ends[at], expected, atol=1e-6)


def test_a_limit_of_a_schedule_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^epsilon must be a number.*solve_trajectory"):
        jms.solve_limit(PROBLEM, jms.SmoothedSign(DECAY), 0.1)


def test_a_bad_schedule_is_named():
    with pytest.raises(ValueError, match="epsilon must be positive and finite, but is -1"):
        jms.SmoothedSign(lambda t: t - 1)
    with pytest.raises(ValueError, match="epsilon as a schedule must give one number"):
        jms.SmoothedSign(lambda t: np.full(5, 0.1))


# A smoothing of one's own.


@pytest.mark.parametrize(
    ("phi", "message"),
    [
        (lambda z: -z, r"φ'\(0\) is -1"),
        (lambda z: 0 * z, r"φ'\(0\) is 0"),
        (jnp.sin, "it falls between"),
        (lambda z: z + z**2, "φ\\(.*\\) is .* and φ"),
        (jnp.sqrt, r"φ'\(0\) is inf"),
        (lambda z, epsilon: z, "JAX cannot differentiate it: .*argument"),
        (lambda z: jnp.ones(2) * z, "JAX cannot differentiate it"),
        (lambda z: "z", "JAX cannot differentiate it"),
    ],
    ids=["falls", "flat", "sine", "not odd", "not finite", "two arguments", "two numbers", "text"],
)
def test_a_function_that_is_no_smoothing_is_refused(phi, message):
    with pytest.raises(ValueError, match="smoothing must be an odd, increasing .*" + message):
        jms.SmoothedSign(0.1, phi)


def test_a_smoothing_of_ones_own_is_made_inside_of_transformations():
    def limit(epsilon, phi):
        rule = jms.SmoothedSign(epsilon, phi)
        return jms.solve_limit(jms.Problem([[1.3, 0.7]], [1.0]), rule, 0.05).beta

    found = jax.jit(jax.vmap(lambda e: limit(e, jnp.arctan)))(jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(found[1], limit(0.2, jnp.arctan), rtol=1e-12)


@pytest.mark.slow
def test_the_worked_example_of_a_smoothing(capsys):
    text = (Path(__file__).parents[1] / "docs" / "adding_a_smoothing.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert code.count("\n") <= 30
    names = {"__name__": "example"}
    exec(code, names)
    assert len(capsys.readouterr().out.splitlines()) == 2
    phis = {
        "arctan": lambda z: 2 / np.pi * np.arctan(z),
        "rational": lambda z: z / (1 + np.abs(z) ** 3) ** (1 / 3),
    }
    mine = {"arctan": names["arctan"], "rational": names["Rational"](3.0)}
    for name, phi in phis.items():
        with pytest.MonkeyPatch.context() as patch:
            # The reference takes φ(z)/z → 1; ε in other units makes it so.
            slope = phi(1e-8) / 1e-8
            patch.setitem(family.PHI, name, lambda z, phi=phi, slope=slope: phi(z / slope))
            for epsilon, alpha in ((1e-2, 0.05), (0.3, 0.2)):
                rule = jms.SmoothedSign(epsilon, mine[name])
                limit = jms.solve_limit(names["problem"], rule, alpha, depth=3)
                end = family.family_limit([1.3, 0.7], 1.0, epsilon / slope, alpha, name, 3)
                assert relative(limit.beta, end.beta) <= 1e-7
                assert relative(limit.dual, end.w) <= 1e-7


# What is refused, dtypes, and what compiles once.


@pytest.mark.parametrize("smoothing", ["sqrt", "tanh"])
def test_the_variable_without_a_corner(smoothing):
    """Its inverse and derivatives; and that it falls as it is said to, for any w beside it."""
    phi = _smoothing.SMOOTHINGS[smoothing]
    kappas = np.append(0, np.geomspace(1e-14, 1e9, 60))
    omega, kappa = (
        jnp.asarray(x.ravel()) for x in np.meshgrid(np.geomspace(1e-12, 10, 40), kappas)
    )
    R = phi.encode(omega, kappa, 2)
    np.testing.assert_allclose(phi.decode(R, kappa, 2), omega, rtol=3e-14)

    def along(t, omega, kappa, S=0.7):
        """The variable on ω̇ = −φ(κω), κ̇ = −κS."""
        fall = kappa * omega * phi.secant(kappa * omega)
        return phi.encode(omega - t * fall, kappa * (1 - t * S), 2)

    fall = jax.vmap(jax.grad(along))(jnp.zeros_like(omega), omega, kappa)
    want = kappa * phi.rate(omega, kappa, 0.7, 2)
    np.testing.assert_allclose(fall, want, rtol=1e-9, atol=1e-12)

    def back(R, kappa):
        return phi.decode(R, kappa, 2)

    slopes = jax.vmap(jax.grad(back, (0, 1)))(R, kappa)
    for i, step in ((0, jnp.full_like(R, 1e-5)), (1, 1e-5 * kappa)):
        above, below = ((R + s, kappa) if i == 0 else (R, kappa + s) for s in (step, -step))
        change = back(*above) - back(*below)
        assert np.all(
            np.abs(2 * step * slopes[i] - change) <= 1e-6 * np.abs(change) + 1e-10 * omega
        )


@pytest.mark.parametrize(
    ("smoothing", "x", "y", "epsilon", "alpha"),
    [
        ("tanh", [8.934879442631212, 0.5173073053915169], 14.737501866931272, 0.19918442662351019,
         0.025169533924479882),
        ("sqrt", [7.58053139150253, 0.5516584645915678], 1.0178123925408107, 0.007384039373372729,
         0.00014893913518473873),
    ],
)  # fmt: skip
def test_limits_where_a_step_overlooked_a_bend(smoothing, x, y, epsilon, alpha):
    want = family.family_limit(np.array(x), y, epsilon, alpha, smoothing, 2).beta
    limit = jms.solve_limit(jms.Problem([x], [y]), jms.SmoothedSign(epsilon, smoothing), alpha)
    np.testing.assert_allclose(limit.beta, want, atol=1e-8 * np.max(np.abs(want)))


@each_smoothing
def test_drag_is_what_slows_a_weight_beside_gradient_flow(smoothing):
    z, phi = np.geomspace(1e-3, 1e3, 50), _smoothing.SMOOTHINGS[smoothing]
    slower = 1 + z * phi.drag(jnp.asarray(z))
    np.testing.assert_allclose(slower, 1 / phi.secant(jnp.asarray(z)), rtol=1e-12)
    np.testing.assert_allclose(slower, phi.slowing(jnp.asarray(z)), rtol=1e-12)
    assert np.isfinite(phi.drag(jnp.zeros(())))


def test_gradient_descent_is_for_depth_2():
    for solve in (jms.solve_limit, jms.solve_trajectory):
        with pytest.raises(ValueError, match="depth must be 2 for gradient descent"):
            solve(PROBLEM, jms.GradientDescent(), 0.1, depth=3)


@pytest.mark.parametrize("depth", [1, 9, -2, True])
def test_a_bad_depth_is_named(depth):
    for solve in (jms.solve_limit, jms.solve_trajectory):
        with pytest.raises(ValueError, match=r"^depth must be a whole number from 2 to 8, .*\.$"):
            solve(PROBLEM, jms.SmoothedSign(0.1), 0.1, depth=depth)


def test_a_bad_smoothing_is_named():
    with pytest.raises(ValueError, match=r"smoothing must be one of 'abs', 'sqrt', .*'much'"):
        jms.SmoothedSign(0.1, "much")


def test_single_precision_is_within_1e_4():
    problem = jms.Problem(X.astype(np.float32), Y.astype(np.float32))

    @jax.jit
    @jax.vmap
    def run(epsilon, alpha):
        return jms.solve_limit(problem, jms.SmoothedSign(epsilon), alpha, depth=3)

    limit = run(EPSILONS.astype(np.float32), ALPHAS.astype(np.float32))
    assert limit.beta.dtype == np.float32
    assert np.all(limit.result == jms.RESULTS.successful)
    np.testing.assert_allclose(limit.beta, solved("abs", 3).beta, atol=1e-4)


def test_one_compilation_while_epsilon_changes():
    run = program("tanh", 4)
    for epsilon in (1e-3, 0.1, 5.0):
        run(np.full((6, 5), epsilon), np.full((6, 5), 0.1))
    assert run._cache_size() == 1
