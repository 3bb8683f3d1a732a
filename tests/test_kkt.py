"""D, KKT residual and minimiser of a limit, by several routes; potentials and mirror maps."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from scipy.linalg import null_space
from scipy.optimize import minimize

import jaxmd_sign as jms
from jaxmd_sign._mirror import (
    AbstractPotential,
    HyperbolicEntropy,
    PowerPotential,
    inverse_mirror_map,
    mirror_map,
)

# Blocks of two, three and one columns, permuted; column 4 is dead.
BLOCKS = np.array(
    [[1.3, 0, 0, -0.7, 0, 0, 0], [0, 0.4, -0.8, 0, 0, 1.1, 0], [0, 0, 0, 0, 0, 0, -0.6]]
)
EQUAL = np.array(
    [[0.5, 0, 0, -0.5, 0, 0, 0], [0, 0.9, -0.9, 0, 0, 0.9, 0], [0, 0, 0, 0, 0, 0, 1.2]]
)
LABELS = np.array([1.0, -0.8, 0.5])
EPSILON = np.array([1e-4, 1e-2, 0.1, 0.3, 3.0, 0.02, 0.02])
ALPHA = np.array([0.05, 0.05, 0.05, 0.01, 0.1, 0.05, 0.05])
EQUAL_CASE, STILL_CASE = 5, 6

GAUSSIAN = np.random.default_rng(8).normal(size=(3, 6))
REPEATED = GAUSSIAN[[0, 1, 1, 2]]  # rank 3, consistent labels


def data_of(kind):
    """X, y of every case."""
    if kind == "blocks":
        X, y = np.tile(BLOCKS, (7, 1, 1)), np.tile(LABELS, (7, 1))
        X[EQUAL_CASE], y[STILL_CASE, 0] = EQUAL, 0
        return X, y
    X, rows = (GAUSSIAN, [0, 1, 2]) if kind == "general" else (REPEATED, [0, 1, 1, 2])
    return np.tile(X, (3, 1, 1)), np.tile(LABELS[rows], (3, 1))


class Solved(eqx.Module):
    X: jax.Array
    y: jax.Array
    epsilon: jax.Array
    alpha: jax.Array
    limit: jms.Limit
    kkt: jms.KKT
    minimizer: jax.Array
    gap: jax.Array
    at_limit: jax.Array
    at_minimizer: jax.Array
    gradient: jax.Array


@cache
def solved(kind, reference="start"):
    """Every case of one kind of X, in one compiled call."""
    X, y = data_of(kind)
    problem = jms.Problem(X[0], y[0])
    epsilon, alpha = (EPSILON, ALPHA) if kind == "blocks" else (EPSILON[1:4], ALPHA[1:4])

    @jax.jit
    @jax.vmap
    def solve(X, y, epsilon, alpha):
        at = problem.with_data(X, y)
        limit = jms.solve_limit(at, jms.SmoothedSign(epsilon), alpha, reference=reference)
        minimizer = jms.bregman_minimizer(at, limit)
        divergence, gradient = jax.value_and_grad(jms.bregman, argnums=1)(limit, limit.beta)
        return Solved(
            X, y, epsilon, alpha, limit, jms.kkt(at, limit), minimizer, jms.bregman_gap(at, limit),
            divergence, jms.bregman(limit, minimizer), gradient,
        )  # fmt: skip

    batch = jax.tree.map(np.asarray, solve(X, y, epsilon, alpha))
    return [jax.tree.map(lambda leaf, i=i: leaf[i], batch) for i in range(len(epsilon))]


KINDS = [
    ("blocks", "start"), ("blocks", "warmup"), ("general", "start"), ("repeated", "start")
]  # fmt: skip
each_kind = pytest.mark.parametrize(("kind", "reference"), KINDS)


@each_kind
def test_three_routes_to_the_kkt_residual_agree(kind, reference):
    for case in solved(kind, reference):
        change = case.limit.dual - case.limit.dual_reference
        multiplier = np.linalg.lstsq(case.X.T, change)[0]
        residual = change - case.X.T @ multiplier
        np.testing.assert_allclose(case.kkt.stationarity, residual, rtol=0, atol=1e-12)
        assert case.kkt.error == pytest.approx(np.linalg.norm(residual), abs=1e-12)
        if kind != "blocks":
            continue
        growth = np.abs(case.limit.dual) - np.abs(case.limit.dual_reference)
        first, second = np.abs(case.X[0, [0, 3]]) / np.linalg.norm(case.X[0])
        closed = first * growth[3] - second * growth[0]
        by_autodiff = np.linalg.norm(case.kkt.stationarity[[0, 3]])
        assert by_autodiff == pytest.approx(abs(closed), abs=1e-12)


@pytest.mark.parametrize("reference", ["start", "warmup"])
def test_kkt_error_is_that_of_the_reference(reference):
    for i, case in enumerate(solved("blocks", reference)):
        total = 0
        for row, label in zip(case.X, case.y, strict=True):
            if label != 0:
                block = row[row != 0], label, case.epsilon, case.alpha, reference
                truth = ref.block_limit(*block)
                values = case.kkt.stationarity[row != 0]
                np.testing.assert_allclose(values, truth.stationarity, rtol=0, atol=1e-9)
                total += truth.kkt_error**2
        assert case.kkt.error == pytest.approx(np.sqrt(total), abs=1e-9)
        assert i == EQUAL_CASE or case.kkt.error > 1e-3  # nothing above was about zeros


@each_kind
def test_the_multiplier_and_the_sizes_are_as_defined(kind, reference):
    for case in solved(kind, reference):
        gradient, X, kkt = case.gradient, case.X, case.kkt
        np.testing.assert_allclose(kkt.stationarity, gradient - X.T @ kkt.multiplier, atol=1e-12)
        np.testing.assert_allclose(X @ kkt.stationarity, 0, atol=1e-12)  # so it is the argmin
        expected = np.linalg.norm(kkt.stationarity) / np.linalg.norm(gradient)
        assert kkt.relative_error == pytest.approx(expected, rel=1e-9, abs=1e-15)
        feasibility = np.linalg.norm(X @ case.limit.beta - case.y)
        assert kkt.feasibility == pytest.approx(feasibility, abs=1e-14)


@each_kind
def test_d_and_its_gradient_are_those_of_theorem_3_9(kind, reference):
    for case in solved(kind, reference):
        limit = case.limit

        def potential(beta, delta):
            return 2 / 3 * np.sum((np.abs(beta) + delta) ** 1.5)

        ends = [
            (limit.beta, limit.potential.delta),
            (limit.beta_reference, limit.potential_reference.delta),
        ]
        inner = limit.dual_reference @ (limit.beta - limit.beta_reference)
        expected = potential(*ends[0]) - potential(*ends[1]) - inner
        assert case.at_limit == pytest.approx(expected, abs=1e-13)
        change = limit.dual - limit.dual_reference
        np.testing.assert_allclose(case.gradient, change, rtol=0, atol=1e-12)
        if kind == "blocks":  # at T_ref itself θ is ∇Φ, except at 0⁺, where β is in the kink
            live = np.any(case.X != 0, axis=0) & (limit.dual_reference != 0)
            reached = np.abs(limit.dual_reference) ** 2 - limit.potential_reference.delta
            values = np.abs(limit.beta_reference)[live]
            np.testing.assert_allclose(values, reached[live], atol=1e-13)


def minimizer_by_blocks(X, y, dual_reference, delta):
    beta = np.zeros(X.shape[1])
    for row, label in zip(X, y, strict=True):
        live = row != 0
        if label != 0:
            block = row[live], label, np.abs(dual_reference[live]), delta[live]
            beta[live] = ref.bregman_minimizer_block(*block).beta
    return beta


@pytest.mark.parametrize("reference", ["start", "warmup"])
def test_the_minimizer_of_blocks_is_that_of_the_reference(reference):
    for case in solved("blocks", reference):
        limit = case.limit
        start = limit.dual_reference, limit.potential.delta
        truth = minimizer_by_blocks(case.X, case.y, *start)
        np.testing.assert_allclose(case.minimizer, truth, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("alpha", [100.0, 1000.0, 10_000.0])
def test_the_minimizer_is_found_where_alpha_is_far_above_beta(alpha):
    """Rounding in θ, of size α, is then α² eps in β: more than any rounding in β itself."""
    x, y = np.array([1.3, 0.7]), 1.0
    problem = jms.Problem(x[None], [y])
    limit = jms.solve_limit(problem, jms.SmoothedSign(0.01), alpha)
    omega = np.sqrt(limit.potential.delta)
    # Σ x ((α + xν)² − ω²) = y, a quadratic in ν, without cancellation
    lack = y - np.sum(x * (alpha - omega) * (alpha + omega))
    a, b = np.sum(x**3), 2 * alpha * np.sum(x**2)
    theta = alpha + x * 2 * lack / (b + np.sqrt(b**2 + 4 * a * lack))
    truth, rounding = (theta - omega) * (theta + omega), 1e-15 * alpha**2
    minimizer = jms.bregman_minimizer(problem, limit)
    np.testing.assert_allclose(minimizer, truth, rtol=1e-12, atol=rounding)
    assert jms.bregman_gap(problem, limit) > 0


@pytest.mark.parametrize("epsilon", [1.0, 10.0, 30.0])
def test_the_minimizer_of_a_deep_model_is_found_from_tiny_weights(epsilon):
    """From ν = 0, where Φ* is as flat as α⁷, Newton's method does not find it: it was NaN."""
    x = np.array([1.3, 0.7])
    problem = jms.Problem(x[None], [1.0])
    limit = jms.solve_limit(problem, jms.SmoothedSign(epsilon), 1e-4, depth=8)
    minimizer = jms.bregman_minimizer(problem, limit)
    multiplier = ((minimizer + limit.potential.delta) ** (1 / 8) - limit.dual_reference) / x
    np.testing.assert_allclose(multiplier[0], multiplier[1], rtol=1e-12)
    np.testing.assert_allclose(problem.X @ minimizer, [1.0], rtol=1e-14)


@pytest.mark.parametrize("factor", [3.0, 10.0])
@pytest.mark.parametrize("delta", [0.0, 0.5])
def test_the_minimizer_copes_with_a_reference_beyond_the_label(factor, delta):
    """Y < C₀: ν < 0, and the kink holds coordinates at 0 (§4 calls for a bracket there)."""
    case = solved("blocks")[2]
    signs = np.sign(case.limit.dual_reference)
    spread = signs * factor * np.array([1, 0.3, 0.2, 0.4, 1, 0.8, 1.5])
    dual = np.sign(case.limit.beta) * np.sqrt(np.abs(case.limit.beta) + delta)
    limit = eqx.tree_at(
        lambda at: (at.dual_reference, at.potential.delta, at.dual),
        jax.tree.map(jnp.asarray, case.limit),
        (jnp.asarray(spread), jnp.full(7, delta), jnp.asarray(dual)),
    )
    problem = jms.Problem(case.X, case.y)
    for row, label in zip(case.X, case.y, strict=True):
        assert abs(label) < np.sum(np.abs(row) * (spread**2 - delta))  # Y < C₀
    minimizer = jms.bregman_minimizer(problem, limit)
    truth = minimizer_by_blocks(case.X, case.y, spread, np.full(7, delta))
    np.testing.assert_allclose(minimizer, truth, rtol=1e-10, atol=1e-12)
    if (delta, factor) == (0.5, 3.0):
        assert np.any(np.delete(truth, 4) == 0)  # the kink is at work
    gap = jms.bregman_gap(problem, limit)
    difference = jms.bregman(limit, limit.beta) - jms.bregman(limit, minimizer)
    assert gap == pytest.approx(float(difference), rel=1e-12) and gap > 0
    dense = eqx.tree_at(lambda at: at.data, problem, jms._problem.Dense(problem.X))
    np.testing.assert_allclose(jms.bregman_minimizer(dense, limit), truth, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["general", "repeated"])
def test_the_minimizer_of_a_general_matrix_is_that_of_scipy(kind):
    for case in solved(kind):
        free, delta = null_space(case.X), case.limit.potential.delta
        base = np.linalg.lstsq(case.X, case.y)[0]

        def objective(z, case=case, free=free, delta=delta, base=base):
            beta = base + free @ z
            size = np.abs(beta) + delta
            theta = np.sign(beta) * np.sqrt(size) - case.limit.dual_reference
            inner = case.limit.dual_reference @ beta
            return 2 / 3 * np.sum(size**1.5) - inner, free.T @ theta

        start = free.T @ (case.limit.beta - base)
        found = minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-10})
        beta = base + free @ found.x
        # BFGS stops where rounding of D hides what is left: about the root of it.
        np.testing.assert_allclose(case.minimizer, beta, atol=1e-7)


@each_kind
def test_the_minimizer_is_feasible_and_the_gap_is_its_lead(kind, reference):
    for i, case in enumerate(solved(kind, reference)):
        residual = case.X @ case.minimizer - case.y
        assert np.max(np.abs(residual)) <= 1e-12 * np.max(np.abs(case.y))
        assert case.gap >= 0
        assert case.gap == pytest.approx(case.at_limit - case.at_minimizer, abs=1e-13)
        w, star = np.abs(case.limit.dual), np.abs(case.minimizer) + case.limit.potential.delta
        same = np.sign(case.minimizer) == np.sign(case.limit.beta)
        assert np.all(same)
        star = np.where(case.minimizer == 0, 0, np.sqrt(star))
        closed = np.sum((w - star) ** 2 * (2 * w + star)) / 3
        assert case.gap == pytest.approx(closed, rel=1e-9, abs=1e-25)
        assert case.gap > 1e-8 or (kind == "blocks" and i == EQUAL_CASE)


@pytest.mark.parametrize("reference", ["start", "warmup"])
def test_one_column_and_equal_columns_land_on_the_minimizer(reference):
    case = solved("blocks", reference)[EQUAL_CASE]
    assert case.kkt.error <= 1e-13
    assert case.gap <= 1e-24  # a square of rounding
    np.testing.assert_allclose(case.minimizer, case.limit.beta, rtol=1e-12)
    for other in solved("blocks", reference):  # column 6 is a block of its own in every case
        assert abs(other.kkt.stationarity[6]) <= 1e-15


class Quadratic(AbstractPotential):
    """½‖β‖², a potential that the package does not know."""

    def __call__(self, beta):
        return jnp.sum(beta**2) / 2

    def conjugate(self, theta):
        return jnp.sum(theta**2) / 2

    def divergence(self, theta, theta0):
        return jnp.sum((theta - theta0) ** 2) / 2


@pytest.mark.parametrize("kind", ["blocks", "general", "repeated"])
def test_a_potential_is_all_that_a_new_rule_must_bring(kind):
    case = solved(kind)[0]
    limit = eqx.tree_at(
        lambda at: (at.potential, at.potential_reference, at.dual),
        jax.tree.map(jnp.asarray, case.limit),
        (Quadratic(), Quadratic(), jnp.asarray(case.limit.beta)),
    )
    problem, origin = jms.Problem(case.X, case.y), case.limit.dual_reference
    nearest = origin + np.linalg.pinv(case.X) @ (case.y - case.X @ origin)
    minimizer = jms.bregman_minimizer(problem, limit)
    np.testing.assert_allclose(minimizer, nearest, atol=1e-12)
    residual = (np.eye(case.X.shape[1]) - np.linalg.pinv(case.X) @ case.X) @ (limit.beta - origin)
    assert jms.kkt(problem, limit).error == pytest.approx(np.linalg.norm(residual), abs=1e-12)
    expected = np.sum((limit.beta - nearest) ** 2) / 2
    assert jms.bregman_gap(problem, limit) == pytest.approx(float(expected), abs=1e-12)


def test_the_minimizer_of_gradient_descent_is_its_limit():
    problem = jms.Problem(GAUSSIAN, LABELS)
    limit = jms.solve_limit(problem, jms.GradientDescent(), 0.05)
    assert jms.kkt(problem, limit).error <= 1e-9
    assert jms.bregman_gap(problem, limit) <= 1e-24
    np.testing.assert_allclose(jms.bregman_minimizer(problem, limit), limit.beta, rtol=1e-10)


def test_a_failed_limit_has_no_minimizer():
    case = jax.tree.map(jnp.asarray, solved("blocks")[0])
    problem = jms.Problem(case.X, case.y)
    failed = jms.RESULTS.where(jnp.array(False), case.limit.result, jms.RESULTS.not_finite)
    limit = eqx.tree_at(lambda at: at.result, case.limit, failed)
    assert np.all(np.isnan(jms.bregman_minimizer(problem, limit)))
    assert np.isnan(jms.bregman_gap(problem, limit))


# Potentials and mirror maps.

RNG = np.random.default_rng(12)
DELTA = np.concatenate([[0.0, 0.0, 0.3], RNG.uniform(0, 0.5, 20)])
BETA = np.concatenate([[1.2, -0.7, 0.1], RNG.normal(size=20)])
POTENTIALS = [PowerPotential(jnp.asarray(DELTA)), HyperbolicEntropy(jnp.asarray(0.1))]
each_potential = pytest.mark.parametrize("potential", POTENTIALS, ids=["power", "entropy"])


@each_potential
def test_mirror_map_and_inverse_map_undo_each_other(potential):
    theta = mirror_map(potential, jnp.asarray(BETA))
    np.testing.assert_allclose(inverse_mirror_map(potential, theta), BETA, rtol=1e-13)
    np.testing.assert_array_equal(np.sign(theta), np.sign(BETA))
    inside = mirror_map(potential, jnp.zeros(BETA.size))
    np.testing.assert_array_equal(inverse_mirror_map(potential, inside), 0)


def test_mirror_maps_are_those_of_the_source():
    power, entropy = (mirror_map(potential, jnp.asarray(BETA)) for potential in POTENTIALS)
    np.testing.assert_allclose(power, np.sign(BETA) * np.sqrt(np.abs(BETA) + DELTA), rtol=1e-14)
    np.testing.assert_allclose(entropy, np.arcsinh(BETA / (2 * 0.1**2)) / 2, rtol=1e-14)
    theta = RNG.normal(size=BETA.size)
    power, entropy = (inverse_mirror_map(potential, jnp.asarray(theta)) for potential in POTENTIALS)
    kink = np.sign(theta) * np.maximum(theta**2 - DELTA, 0)
    np.testing.assert_allclose(power, kink, rtol=1e-13, atol=1e-15)
    assert np.any(kink == 0)
    np.testing.assert_allclose(entropy, 2 * 0.1**2 * np.sinh(2 * theta), rtol=1e-13)


@each_potential
def test_conjugates_satisfy_fenchel_and_young(potential):
    beta = np.append(BETA[:-1], 0.0)  # one coordinate in the kink
    theta = mirror_map(potential, jnp.asarray(beta))
    both = potential(jnp.asarray(beta)) + potential.conjugate(theta)
    assert both == pytest.approx(float(np.sum(theta * beta)), rel=1e-13)
    for _ in range(20):
        other = RNG.normal(size=beta.size)
        both = potential(jnp.asarray(beta)) + potential.conjugate(jnp.asarray(other))
        assert both > other @ beta


@each_potential
def test_the_divergence_in_duals_is_that_of_definition_3_1(potential):
    theta, theta0 = RNG.normal(size=(2, BETA.size))  # signs differ, and some are in the kink
    beta, beta0 = (inverse_mirror_map(potential, jnp.asarray(t)) for t in (theta, theta0))
    expected = potential(beta) - potential(beta0) - np.sum(theta0 * (beta - beta0))
    divergence = potential.divergence(mirror_map(potential, beta), jnp.asarray(theta0))
    assert divergence == pytest.approx(float(expected), rel=1e-12)
    assert potential.divergence(jnp.asarray(theta), jnp.asarray(theta)) == 0


def test_the_divergence_of_near_points_does_not_cancel():
    theta = np.abs(RNG.normal(size=BETA.size)) + 1
    for potential, curvature in zip(
        POTENTIALS, (2 * theta, 4 * 0.1**2 * np.cosh(2 * theta)), strict=True
    ):
        near = potential.divergence(jnp.asarray(theta + 1e-9), jnp.asarray(theta))
        assert near == pytest.approx(1e-18 * np.sum(curvature) / 2, rel=1e-6)


def test_derivatives_are_finite_where_beta_and_delta_are_zero():
    zero = jnp.zeros(3)

    def value(beta, delta):
        return PowerPotential(delta)(beta)

    def at(theta, delta):
        return PowerPotential(delta).conjugate(theta)

    for function in (value, at):
        first = jax.grad(function, argnums=(0, 1))
        np.testing.assert_array_equal(first(zero, zero), 0)
        second = jax.jacfwd(first, argnums=(0, 1))(zero, zero)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(second))
    inside = jax.grad(value, argnums=(0, 1))(zero, jnp.full(3, 0.04))
    np.testing.assert_allclose(inside, [np.zeros(3), np.full(3, 0.2)], rtol=1e-14)  # √δ


@pytest.mark.parametrize("epsilon", [1e-6, 0.1, 10.0])
def test_dual_dynamics_of_smoothed_sign_descent(epsilon):
    """(14): along the flow, d/dt ∇Φ_δ(β) = −c|θ| / (|cθ| + ε)."""
    rng = np.random.default_rng(14)
    omega = 10 ** rng.uniform(-6, 0, 50)
    w = omega + 10 ** rng.uniform(-3, 0, 50)
    c = rng.normal(size=50)
    s = -np.sign(c)

    def rate(weight):
        return np.abs(c) * weight / (np.abs(c) * weight + epsilon)

    beta, delta = s * (w**2 - omega**2), omega**2
    moves = s * 2 * (w * rate(w) + omega * rate(omega)), -2 * omega * rate(omega)
    theta, speed = jax.jvp(
        lambda beta, delta: mirror_map(PowerPotential(delta), beta),
        (jnp.asarray(beta), jnp.asarray(delta)),
        (jnp.asarray(moves[0]), jnp.asarray(moves[1])),
    )
    np.testing.assert_allclose(theta, s * w, rtol=1e-13)
    expected = -c * np.abs(theta) / (np.abs(c * theta) + epsilon)
    np.testing.assert_allclose(speed, expected, rtol=1e-12)


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0])
def test_dual_dynamics_of_gradient_descent(alpha):
    """(10): along β̇ = −2c√(β² + 4α⁴) (8), d/dt ∇Φ_α(β) = −c."""
    rng = np.random.default_rng(10)
    beta, c = rng.normal(size=(2, 50))
    beta[0] = 0
    move = -2 * c * np.sqrt(beta**2 + 4 * alpha**4)
    entropy = HyperbolicEntropy(jnp.asarray(alpha))
    _, speed = jax.jvp(
        lambda beta: mirror_map(entropy, beta), (jnp.asarray(beta),), (jnp.asarray(move),)
    )
    np.testing.assert_allclose(speed, -c, rtol=1e-12)
