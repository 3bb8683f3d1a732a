"""The inequalities of the source on random blocks inside Assumption 3.3, and scale invariances.

A block of 2 to 5 columns is padded to 5 with dead columns, so that one program serves them all.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, strategies as st

from jaxmd_sign import (
    RESULTS,
    Problem,
    SmoothedSign,
    check_assumptions,
    solve_limit,
    solve_trajectory,
)

WIDTH = 5
# The solver's tolerance is far below the inequalities' slack, in which it may show.
RTOL = 1e-11
SLACK = 1e-9


class Case(NamedTuple):
    x: np.ndarray
    y: float
    epsilon: float
    alpha: float

    @property
    def a(self):
        return np.abs(self.x)

    def problem(self):
        padded = np.append(self.x, np.zeros(WIDTH - self.x.size))
        return Problem.from_blocks(padded[None], np.array([self.y]))


def signed(low, high):
    return st.builds(
        lambda size, sign: sign * size, st.floats(low, high), st.sampled_from([-1.0, 1.0])
    )


@st.composite
def cases(draw, columns=None, smallest_share=1e-6):
    """Random blocks inside Assumption 3.3, up to its edge."""
    x = np.array([draw(signed(0.1, 3.0)) for _ in range(columns or draw(st.integers(2, WIDTH)))])
    y, a = draw(signed(0.2, 3.0)), np.abs(x)
    # A hair inside, so that rounding does not decide.
    alpha = np.sqrt(draw(st.floats(1e-3, 0.999)) * abs(y) / (18 * a.sum()))
    share = np.exp(draw(st.floats(np.log(smallest_share), np.log(0.999))))
    return Case(x, y, share * 0.5 * a.min() * abs(y) * alpha, alpha)


@jax.jit
def trajectory(problem, epsilon, alpha, ts):
    return solve_trajectory(problem, SmoothedSign(epsilon), alpha, ts=ts, rtol=RTOL)


@jax.jit
def limit(problem, epsilon, alpha):
    return solve_limit(problem, SmoothedSign(epsilon), alpha, rtol=RTOL)


class Path(NamedTuple):
    ts: np.ndarray
    w: np.ndarray
    omega: np.ndarray
    gradient_w: np.ndarray
    residual: np.ndarray
    T1: float
    T2: np.ndarray


def path_of(case, epsilon=None):
    """w, omega and |dF/dw| over 200 times that see every stage."""
    a, Y, k = case.a, abs(case.y), case.x.size
    end = 2 * np.sqrt(Y / a.min())
    ts = np.sort(
        np.append(np.geomspace(1e-3 * case.alpha, 4 * case.alpha, 60), np.linspace(0, end, 140))
    )
    epsilon = np.full(WIDTH, case.epsilon) if epsilon is None else epsilon
    flow = trajectory(case.problem(), epsilon, case.alpha, ts)
    assert flow.result == RESULTS.successful
    up = case.x * case.y > 0
    u, v, gradient_u, gradient_v = (
        np.asarray(leaf)[:, :k] for leaf in (flow.u, flow.v, flow.gradient_u, flow.gradient_v)
    )
    w, omega = np.where(up, u, v), np.where(up, v, u)
    gradient = np.abs(np.where(up, gradient_u, gradient_v))
    T1, T2 = float(flow.warmup_end[0]), np.asarray(flow.sign_end)[:k]
    return Path(ts, w, omega, gradient, np.asarray(flow.residual)[:, 0], T1, T2)


@given(cases())
def test_cases_are_inside_the_assumption(case):
    checked = check_assumptions(case.problem(), case.epsilon, case.alpha)
    assert checked.structure and checked.smallness


@given(cases())
def test_weights_stay_positive_ordered_and_monotone(case):
    """Prop 3.4, and u v <= alpha^2."""
    path = path_of(case)
    assert np.all(path.w > 0) and np.all(path.omega >= 0)
    assert np.min(path.w - path.omega) >= -1e-15  # both are alpha at the start, up to rounding
    assert np.all(np.diff(path.w, axis=0) >= -SLACK)
    assert np.all(np.diff(path.omega, axis=0) <= SLACK)
    assert np.all(path.w * path.omega <= case.alpha**2 * (1 + SLACK))


@given(cases())
def test_residual_keeps_its_sign_and_shrinks(case):
    """Lemma A.1."""
    path = path_of(case)
    assert np.all(np.sign(path.residual) == -np.sign(case.y))
    assert np.all(np.diff(np.abs(path.residual)) <= SLACK * abs(case.y))


@given(cases())
def test_warm_up_is_short_and_leaves_small_weights(case):
    """Prop 3.5."""
    path = path_of(case)
    assert 0 < path.T1 <= 2 * case.alpha
    bound = 2 * case.epsilon / (case.a * abs(case.y))
    after = path.ts >= path.T1
    assert after.sum() > 10
    assert np.all(path.omega[after] <= bound * (1 + SLACK))


@given(cases())
def test_gradients_cross_epsilon_once_and_weights_grow_at_unit_speed_before(case):
    """Prop 3.7."""
    path, epsilon = path_of(case), case.epsilon
    assert np.min(path.T2) > path.T1
    ts, near = path.ts[:, None], 1e-8 * (1 + path.T2)
    assert np.all(path.gradient_w[0] > epsilon)
    assert np.all(path.gradient_w[np.broadcast_to(ts, path.w.shape) < path.T2 - near] > epsilon)
    assert np.all(path.gradient_w[np.broadcast_to(ts, path.w.shape) > path.T2 + near] < epsilon)
    stage = (path.ts >= path.T1) & (path.ts <= np.min(path.T2 - near))
    velocity = path.gradient_w[stage] / (path.gradient_w[stage] + epsilon)
    assert np.all(velocity >= 0.5) and np.all(velocity < 1)
    # The same from the weights themselves: the mean velocity between two saved times.
    growth, span = np.diff(path.w[stage], axis=0), np.diff(path.ts[stage])[:, None]
    assert np.all(growth >= 0.5 * span - SLACK) and np.all(growth <= span + SLACK)


@given(cases())
def test_larger_entries_have_larger_weights(case):
    """Lemma A.2."""
    path = path_of(case)
    order = np.argsort(case.a, kind="stable")
    w = path.w[:, order]
    assert np.all(np.diff(w, axis=1) >= -SLACK)
    assert np.all(np.diff(case.a[order] * w, axis=1) >= -SLACK)


@given(cases(), st.lists(st.floats(0.2, 5.0), min_size=WIDTH, max_size=WIDTH))
def test_with_an_epsilon_per_coordinate_weights_follow_a_over_epsilon(case, factors):
    epsilon = case.epsilon * np.array(factors)
    path = path_of(case, epsilon)
    order = np.argsort(case.a / epsilon[: case.x.size], kind="stable")
    assert np.all(np.diff(path.w[:, order], axis=1) >= -SLACK)


@given(cases())
def test_limit_interpolates(case):
    """Lemma A.3; and every sign is that of its correlation with the label."""
    found = limit(case.problem(), case.epsilon, case.alpha)
    assert found.result == RESULTS.successful
    beta = np.asarray(found.beta)[: case.x.size]
    assert abs(case.x @ beta - case.y) <= 1e-12 * abs(case.y)
    assert np.all(np.sign(beta) == np.sign(case.x * case.y))
    np.testing.assert_array_equal(found.beta[case.x.size :], 0)


@jax.jit
def signed_error(x, y, epsilon, alpha):
    """E of two columns, |x_1| >= |x_2|, and its derivative in log epsilon."""

    def E(log_epsilon):
        problem = PAIR.with_data(x[None], y[None])
        end = solve_limit(problem, SmoothedSign(jnp.exp(log_epsilon)), alpha, rtol=RTOL)
        growth, a = jnp.abs(end.dual) - alpha, jnp.abs(x)
        return (a[0] * growth[1] - a[1] * growth[0]) / jnp.linalg.norm(a)

    return jax.jvp(E, (jnp.log(epsilon),), (jnp.ones(()),))


PAIR = Problem.from_blocks(np.ones((1, 2)), np.ones(1))


@given(cases(columns=2, smallest_share=1e-4))
def test_signed_error_is_positive_and_falls_as_epsilon_grows(case):
    """Cor 3.10-3.12 and more: E > 0 and dE/d epsilon < 0 all over Assumption 3.3."""
    x = case.x[np.argsort(-case.a)]
    if case.a.max() < 1.01 * case.a.min():
        x = x * np.array([1.01, 1.0])  # at equal entries E = 0
        case = case._replace(epsilon=0.98 * case.epsilon, alpha=0.98 * case.alpha)
    E, slope = signed_error(x, np.asarray(case.y), case.epsilon, case.alpha)
    assert E > 0
    assert slope < 0


def beta_of(x, y, epsilon, alpha):
    return np.asarray(limit(Case(x, y, epsilon, alpha).problem(), epsilon, alpha).beta)[: x.size]


def agree(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.max(np.abs(expected)))


@given(cases(), st.floats(1e-3, 1e3))
def test_scaling_X_and_y_scales_epsilon(case, scale):
    x, y, epsilon, alpha = case
    agree(beta_of(scale * x, scale * y, scale**2 * epsilon, alpha), beta_of(*case))


@given(cases(), st.floats(1e-2, 1e2))
def test_scaling_y_scales_the_weights(case, scale):
    x, y, epsilon, alpha = case
    scaled = beta_of(x, scale**2 * y, scale**3 * epsilon, scale * alpha)
    agree(scaled, scale**2 * beta_of(*case))


@given(cases(), st.data())
def test_permuted_and_flipped_columns(case, data):
    x, y, epsilon, alpha = case
    order = np.array(data.draw(st.permutations(range(x.size))))
    side = np.array([data.draw(st.sampled_from([-1.0, 1.0])) for _ in x])
    beta = beta_of(*case)
    agree(beta_of((side * x)[order], y, epsilon, alpha), (side * beta)[order])
    agree(beta_of(x, -y, epsilon, alpha), -beta)


def test_one_program_served_every_example():
    case = partial(Case, y=1.0, epsilon=np.float64(1e-3), alpha=np.float64(0.05))
    for x in (np.array([1.3, 0.7]), np.array([0.3, -0.2, 0.5, 1.0])):
        path_of(case(x))
        beta_of(*case(x))
    assert trajectory._cache_size() == 1
    assert limit._cache_size() == 1
