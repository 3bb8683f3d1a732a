"""Derivatives of limits in ε, α, X and y, in both modes, against differences of the reference."""

from functools import cache

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref

import jaxmd_sign as jms

# Blocks of two and three columns, interleaved.
X = np.array([[1.3, 0, -0.7, 0, 0], [0, 0.4, 0, -0.8, 1.1]])
Y = np.array([1.0, -0.8])
PROBLEM = jms.Problem(X, Y)
CASES = [(1e-3, 0.05), (0.1, 0.05), (1.0, 0.2)]
BAD, STILL, EXACT = 3, 4, 5  # three more members of every batch


def outputs(X, y, log_epsilon, log_alpha, **options):
    """Squared KKT error, KKT error, and β (5)."""
    problem, rule = PROBLEM.with_data(X, y), jms.SmoothedSign(jnp.exp(log_epsilon))
    limit = jms.solve_limit(problem, rule, jnp.exp(log_alpha), **options)
    error = jms.kkt(problem, limit).error
    return jnp.concatenate([jnp.stack([error**2, error]), limit.beta])


def squared_error(X, y, log_epsilon, log_alpha, **options):
    return outputs(X, y, log_epsilon, log_alpha, **options)[0]


@cache
def batch():
    """The cases, one whose ε is NaN, one with a label 0, and one whose blocks have one column."""
    x, y = np.tile(X, (6, 1, 1)), np.tile(Y, (6, 1))
    log_epsilon, log_alpha = np.log([*CASES, (np.nan, 0.05), (0.1, 0.05), (0.1, 0.05)]).T
    y[STILL, 0] = 0
    x[EXACT, 0, 2] = x[EXACT, 1, 1] = x[EXACT, 1, 3] = 0
    return x, y, log_epsilon, log_alpha


MODES = {"forward": jax.jacfwd, "reverse": jax.jacrev}
each_mode = pytest.mark.parametrize("mode", MODES)
each_case = pytest.mark.parametrize("case", range(len(CASES)))


@cache
def solved(mode, reference):
    """`outputs` and their derivatives in X, y, log ε and log α, of all members in one batch."""

    def with_value(*args):
        value = outputs(*args, reference=reference)
        return value, value

    jacobian = MODES[mode](with_value, (0, 1, 2, 3), has_aux=True)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(jacobian))(*batch()))


def jacobians(mode, reference="start"):
    return solved(mode, reference)[0]


def values(mode="forward"):
    return solved(mode, "start")[1]


@cache
def block_outputs(x, y, epsilon, alpha, reference):
    limit = ref.block_limit(np.array(x), y, epsilon, alpha, reference)
    return limit.kkt_error**2, limit.beta


def reference_outputs(X, y, log_epsilon, log_alpha, reference):
    total, beta = 0.0, np.zeros(X.shape[1])
    for row, label in zip(X, y, strict=True):
        block = tuple(row[row != 0]), label, np.exp(log_epsilon), np.exp(log_alpha)
        square, beta[row != 0] = block_outputs(*block, reference)
        total += square
    return np.array([total, np.sqrt(total), *beta])


@cache
def truth(case, reference="start"):
    """Central differences of the reference, in X, y, log ε and log α.

    The reference is slow: every entry of X is tried in one case, two in the others (else NaN).
    """
    args = [X, Y, *np.log(CASES[case])]

    def differences(position, index=()):
        value = np.asarray(args[position], float)

        def at(entry):
            moved = value.copy()
            moved[index] = entry
            return reference_outputs(*args[:position], moved, *args[position + 1 :], reference)

        step = 0.02 * abs(value[index]) if position < 2 else 0.02
        slope, uncertainty = ref.derivative(at, value[index], step=step, levels=3)
        assert np.max(uncertainty) < 1e-6 * np.max(np.abs(slope))
        return slope

    in_X = np.where(X == 0, np.zeros((7, 1, 1)), np.nan)
    every = case == 1 and reference == "start"
    for index in zip(*np.nonzero(X), strict=True) if every else [(0, 2), (1, 1)]:
        in_X[(slice(None), *index)] = differences(0, index)
    in_y = np.stack([differences(1, (i,)) for i in range(2)], axis=-1)
    return in_X, in_y, differences(2), differences(3)


def assert_close(found, expected, tolerance=1e-5):
    """Each derivative of each output, relative to the largest one with respect to that argument."""
    for value, true in zip(found, expected, strict=True):
        value, true = value.reshape(7, -1), true.reshape(7, -1)
        # β of a block does not depend on the other one; its scale is that of all of β.
        scale = np.nanmax(np.abs(true), axis=1, keepdims=True)
        scale[2:] = np.max(scale[2:])
        assert np.nanmax(np.abs(value - true) / scale) <= tolerance


@each_case
@each_mode
def test_derivatives_are_those_of_the_reference(mode, case):
    assert_close([leaf[case] for leaf in jacobians(mode)], truth(case))


@each_mode
def test_derivatives_with_the_warm_up_as_reference(mode):
    case = 0
    warmup = ref.block_limit(X[0, [0, 2]], Y[0], *CASES[case], "warmup")
    assert np.all(warmup.w_ref > CASES[case][1])  # T1 > 0: it moves with every argument
    found = [leaf[case] for leaf in jacobians(mode, "warmup")]
    assert_close(found, truth(case, "warmup"))
    assert abs(found[2][0] / jacobians(mode)[2][case, 0] - 1) > 1e-3


def test_both_modes_agree_to_rounding():
    for reference in ("start", "warmup"):
        for forward, reverse in zip(
            jacobians("forward", reference), jacobians("reverse", reference), strict=True
        ):
            pair = (np.delete(leaf, BAD, axis=0) for leaf in (forward, reverse))
            np.testing.assert_allclose(*pair, rtol=1e-10, atol=1e-12)


@each_mode
def test_derivatives_off_the_pattern_of_x_are_zero(mode):
    in_X = jacobians(mode)[0][: len(CASES)]
    assert np.all(in_X[..., X == 0] == 0)
    assert np.all(np.any(in_X[..., X != 0] != 0, axis=1))


@each_mode
def test_a_bad_member_has_no_derivatives_and_spoils_no_others(mode):
    """The others are compared with the reference above, in this very batch."""
    assert np.all(np.isnan(values(mode)[BAD]))
    for leaf in (values(mode), *jacobians(mode)):
        assert np.all(np.isfinite(np.delete(leaf, BAD, axis=0)))


@each_mode
def test_a_block_with_label_zero_follows_its_label(mode):
    in_X, in_y, *others = (leaf[STILL] for leaf in jacobians(mode))
    np.testing.assert_allclose(in_y[2:, 0], X[0] / np.sum(X[0] ** 2), rtol=1e-12)
    columns = 2 + np.flatnonzero(X[0])
    for leaf in (in_X, *others):
        assert np.all(leaf[columns] == 0)
    other = 2 + np.flatnonzero(X[1])
    moved = [leaf[1][other] for leaf in jacobians(mode)]  # case 1 has the same ε and α
    for leaf, same in zip((in_X, in_y, *others), moved, strict=True):
        np.testing.assert_allclose(leaf[other], same, rtol=1e-9, atol=1e-12)


KERNELS = {  # rule, depth, and the integral of dt/ε
    "constant": (lambda: jms.SmoothedSign(0.2), 3, lambda t: t / 0.2),
    "schedule": (
        lambda: jms.SmoothedSign(lambda t: 0.2 * (1 + jnp.exp(-t))),
        2,
        lambda t: (np.log1p(np.exp(t)) - np.log(2)) / 0.2,
    ),
    "gradient descent": (jms.GradientDescent, 2, lambda t: t),
}


@each_mode
@pytest.mark.parametrize("kind", KERNELS)
def test_a_trajectory_with_label_zero_follows_its_label(kind, mode):
    """To first order β is X⁺y (1 − exp(−2M Σx² α^{2M−2} ∫dt/ε)): a kernel method."""
    rule, depth, clock = KERNELS[kind]
    ts, alpha, x = np.array([0.0, 0.1, 0.4, 3, 20]), 0.3, X[0][X[0] != 0]

    def flow(y):
        at = PROBLEM.with_data(X, jnp.stack([y, -0.8]))
        flow = jms.solve_trajectory(at, rule(), alpha, ts=ts, depth=depth)
        return jnp.concatenate([flow.beta[:, X[0] != 0], flow.residual[:, :1]], axis=1)

    gone = -np.expm1(-2 * depth * np.sum(x**2) * alpha ** (2 * depth - 2) * clock(ts))
    assert gone[1] > 0.01 and gone[-1] > 0.5
    expected = np.column_stack([np.outer(gone, x / np.sum(x**2)), gone - 1])
    np.testing.assert_allclose(MODES[mode](flow, 0)(0.0), expected, rtol=1e-10, atol=1e-14)


@each_mode
def test_the_error_has_derivative_zero_where_it_is_zero(mode):
    assert values(mode)[EXACT, 1] <= 1e-14
    for leaf in jacobians(mode):
        assert np.all(np.abs(leaf[EXACT, :2]) <= 1e-12)


# Alone, under jit: some arguments, and the reverse mode of the solver itself.


def test_derivatives_of_one_solve():
    args = [leaf[1] for leaf in batch()]
    in_X, in_y, in_epsilon, in_alpha = (leaf[0] for leaf in truth(1))

    @jax.jit
    def forward(epsilon):
        return jax.jvp(lambda e: squared_error(*args[:2], jnp.log(e), args[3]), (epsilon,), (1.0,))

    value, slope = forward(0.1)
    np.testing.assert_allclose(value, values()[1, 0], rtol=1e-9)
    np.testing.assert_allclose(slope, in_epsilon / 0.1, rtol=1e-5)
    reverse = jax.jit(jax.grad(squared_error, (0, 1, 2, 3)))(*args)
    for gradient, true in zip(reverse, (in_X, in_y, in_epsilon, in_alpha), strict=True):
        np.testing.assert_allclose(gradient, true, rtol=1e-5, atol=1e-5 * np.max(np.abs(true)))


def test_a_checkpointed_adjoint_gives_the_same_gradient():
    adjoint = diffrax.RecursiveCheckpointAdjoint()

    def through_the_solver(*args):
        return squared_error(*args, adjoint=adjoint, max_steps=256)

    args = [leaf[1] for leaf in batch()]
    gradients = jax.jit(jax.grad(through_the_solver, (0, 1, 2, 3)))(*args)
    for gradient, leaf in zip(gradients, jacobians("reverse"), strict=True):
        np.testing.assert_allclose(gradient, leaf[1, 0], rtol=1e-9, atol=1e-12)


@cache
def curvature(log_epsilon, log_alpha):
    """d²‖e‖²/d(log ε)² of the reference, from a polynomial through 13 of its values."""
    nodes = 0.3 * np.polynomial.chebyshev.chebpts1(13)
    values = [reference_outputs(X, Y, log_epsilon + t, log_alpha, "start")[0] for t in nodes]
    fit = np.polynomial.Chebyshev.fit(nodes, values, 12)
    slope, _ = ref.derivative(
        lambda t: reference_outputs(X, Y, t, log_alpha, "start")[0], log_epsilon, 0.02, 3
    )
    np.testing.assert_allclose(fit.deriv()(0.0), slope, rtol=1e-6)
    return fit.deriv(2)(0.0)


@pytest.mark.parametrize("outer", [jax.grad, jax.jacfwd], ids=["grad of grad", "jvp of grad"])
def test_second_derivatives_in_epsilon(outer):
    """In a batch over ε alone: whatever does not depend on it is the same for all members."""
    log_epsilon, log_alpha = np.log([1e-3, 0.1, 0.5]), np.log(0.05)
    second = outer(jax.grad(squared_error, 2), 2)
    batch = jax.jit(jax.vmap(second, (None, None, 0, None)))(X, Y, log_epsilon, log_alpha)
    expected = [curvature(value, log_alpha) for value in log_epsilon]
    np.testing.assert_allclose(batch, expected, rtol=1e-3)


# Gradient descent and general X.

GAUSSIAN = np.random.default_rng(8).normal(size=(3, 6))
LABELS = np.array([1.0, -0.8, 0.5])
DIRECTION = np.random.default_rng(9).normal(size=(3, 6))


@each_mode
@pytest.mark.parametrize("kind", ["blocks", "general"])
def test_derivatives_of_the_limit_of_gradient_descent(kind, mode):
    data, labels = (X, Y) if kind == "blocks" else (GAUSSIAN, LABELS)
    problem = jms.Problem(data, labels)

    @jax.jit
    def jacobian(y, log_alpha):
        def beta(y, log_alpha):
            at = problem.with_data(problem.X, y)
            return jms.solve_limit(at, jms.GradientDescent(), jnp.exp(log_alpha)).beta

        return MODES[mode](beta, (0, 1))(y, log_alpha)

    in_y, in_alpha = jacobian(labels, np.log(0.05))
    truth, _ = ref.derivative(lambda t: ref.gd_limit(data, labels, np.exp(t)), np.log(0.05))
    np.testing.assert_allclose(in_alpha, truth, rtol=1e-6, atol=1e-8)
    for i, unit in enumerate(np.eye(labels.size)):
        truth, _ = ref.derivative(
            lambda t, unit=unit: ref.gd_limit(data, labels + t * unit, 0.05), 0.0, step=0.1
        )
        np.testing.assert_allclose(in_y[:, i], truth, rtol=1e-6, atol=1e-8)


@cache
def general_truth():
    """β of a general X by `reference.general_limit`: differences in y, log ε, log α and X."""

    def beta(y, log_epsilon, log_alpha, moved=0.0):
        X = GAUSSIAN + moved * DIRECTION
        return ref.general_limit(X, y, np.exp(log_epsilon), np.exp(log_alpha))

    args = [LABELS, np.log(0.1), np.log(0.05)]
    in_y = [
        ref.derivative(lambda t, unit=unit: beta(LABELS + t * unit, *args[1:]), 0.0, 0.05, 4)[0]
        for unit in np.eye(3)
    ]
    in_epsilon, _ = ref.derivative(lambda t: beta(args[0], t, args[2]), args[1], 0.1, 4)
    in_alpha, _ = ref.derivative(lambda t: beta(*args[:2], t), args[2], 0.1, 4)
    in_X, _ = ref.derivative(lambda t: beta(*args, t), 0.0, 0.05, 4)
    return np.stack(in_y, axis=-1), in_epsilon, in_alpha, in_X


@cache
def general_jacobians(mode):
    """Derivatives of β (6) and of the squared KKT error."""
    problem = jms.Problem(GAUSSIAN, LABELS)

    @jax.jit
    def jacobian(*args):
        def functions(y, log_epsilon, log_alpha, moved):
            at = problem.with_data(problem.X + moved * DIRECTION, y)
            rule = jms.SmoothedSign(jnp.exp(log_epsilon))
            limit = jms.solve_limit(at, rule, jnp.exp(log_alpha))
            return jnp.append(limit.beta, jms.kkt(at, limit).error ** 2)

        return MODES[mode](functions, (0, 1, 2, 3))(*args)

    return jacobian(LABELS, np.log(0.1), np.log(0.05), 0.0)


@each_mode
def test_derivatives_of_a_general_matrix(mode):
    for found, true in zip(general_jacobians(mode), general_truth(), strict=True):
        assert np.max(np.abs(found[:6] - true)) <= 1e-5 * np.max(np.abs(true))


def test_both_modes_agree_for_a_general_matrix():
    for forward, reverse in zip(*map(general_jacobians, MODES), strict=True):
        np.testing.assert_allclose(forward, reverse, rtol=1e-9, atol=1e-12)
