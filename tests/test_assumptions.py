"""Assumptions 3.2, 3.3, 3.8 and their margins, against the formulas written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmd_sign import Problem, check_assumptions, random_block_problem

EXAMPLE = Problem(np.array([[1.3, 0.7]]), np.ones(1))


def test_worked_example():
    case = check_assumptions(EXAMPLE, 0.01, 0.05)
    assert case.structure and case.smallness and case.pairs
    assert case.structure_margin == 1 and case.pairs_margin == 0
    assert np.isclose(case.epsilon_margin, 1 - 0.01 / (0.7 * 0.05 / 2))
    assert np.isclose(case.alpha_margin, 1 - 0.05**2 * 18 * 2)
    assert case.smallness_margin == min(case.epsilon_margin, case.alpha_margin)


@pytest.mark.parametrize(
    ("epsilon", "alpha", "epsilon_sign", "alpha_sign"),
    [(0.02, 0.05, -1, 1), (0.01, 0.2, 1, -1), (1.0, 0.2, -1, -1)],
)
def test_margins_are_negative_where_smallness_fails(epsilon, alpha, epsilon_sign, alpha_sign):
    case = check_assumptions(EXAMPLE, epsilon, alpha)
    assert not case.smallness and case.structure
    assert np.sign(case.epsilon_margin) == epsilon_sign
    assert np.sign(case.alpha_margin) == alpha_sign


def test_every_block_counts():
    problem = random_block_problem(jax.random.key(2), 5, 3)
    a, Y = np.abs(problem.data.x), np.abs(problem.y)
    case = check_assumptions(problem, 1e-3, 0.02)
    assert np.isclose(case.epsilon_margin, np.min(1 - 1e-3 / (a.min(axis=1) * Y * 0.02 / 2)))
    assert np.isclose(case.alpha_margin, np.min(1 - 0.02**2 * 18 * a.sum(axis=1) / Y))
    assert np.isclose(case.structure_margin, Y.min() / Y.max())
    assert not case.pairs and case.pairs_margin == -0.5


def test_dead_and_padded_columns_do_not_count():
    X = np.array([[1.3, 0.0, 0.7, 0, 0, 0], [0, 0.4, 0, 0, -0.9, 0.6]])
    case = check_assumptions(Problem(X, np.array([1.0, -2.0])), 0.005, 0.05)
    assert np.isclose(case.epsilon_margin, 1 - 0.005 / 0.0175)
    assert not case.pairs and case.pairs_margin == -0.5
    x = np.array([[1.3, 0.0, 0.7], [0.4, -0.9, 0.0]])
    pairs = Problem.from_blocks(x, np.array([1.0, -2.0]))
    assert check_assumptions(pairs, 0.005, 0.05).pairs


def test_label_zero_breaks_structure_and_smallness():
    problem = Problem.from_blocks(np.array([[1.3, 0.7], [1.0, 1.0]]), np.array([1.0, 0.0]))
    case = check_assumptions(problem, 0.01, 0.05)
    assert not case.structure and case.structure_margin == 0
    assert not case.smallness and case.smallness_margin == -np.inf


def test_general_data_have_no_smallness():
    problem = Problem(np.array([[1.0, 2.0, 0.0], [0.0, 3.0, 4.0]]), np.ones(2))
    case = check_assumptions(problem, 0.01, 0.05)
    assert not case.structure and np.isclose(case.structure_margin, -1 / 3)
    assert not case.smallness and not case.pairs
    for margin in (case.smallness_margin, case.epsilon_margin, case.alpha_margin):
        assert np.isnan(margin)
    assert np.isnan(case.pairs_margin)


def test_per_coordinate_values_count_by_the_worst_of_the_block():
    case = check_assumptions(EXAMPLE, jnp.array([0.01, 0.002]), jnp.array([0.05, 0.04]))
    assert np.isclose(case.epsilon_margin, 1 - 0.01 / (0.7 * 0.04 / 2))
    assert np.isclose(case.alpha_margin, 1 - 0.05**2 * 36)


@pytest.mark.parametrize("general", [False, True])
def test_batches_over_epsilon_and_alpha(general):
    problem = Problem(np.array([[1.0, 2.0], [3.0, 4.0]]), np.ones(2)) if general else EXAMPLE
    epsilons, alphas = jnp.array([1e-3, 0.01, 0.1]), jnp.array([0.05, 0.2, 0.01])
    batch = jax.vmap(lambda e, a: check_assumptions(problem, e, a))(epsilons, alphas)
    for i, pair in enumerate(zip(epsilons, alphas, strict=True)):
        single = check_assumptions(problem, *pair)
        jax.tree.map(lambda b, s, i=i: np.testing.assert_array_equal(b[i], s), batch, single)


def test_float32():
    case = check_assumptions(
        random_block_problem(jax.random.key(0), 3, dtype=jnp.float32), 0.01, 0.1
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(case)} == {np.dtype(bool), np.dtype(np.float32)}


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, np.ones(3), np.ones((2, 2))], ids=str)
def test_bad_values_name_their_argument(bad):
    with pytest.raises(ValueError, match="epsilon"):
        check_assumptions(EXAMPLE, bad, 0.05)
    with pytest.raises(ValueError, match="alpha"):
        check_assumptions(EXAMPLE, 0.01, bad)


def test_traced_bad_values_are_nan():
    case = jax.jit(lambda e: check_assumptions(EXAMPLE, e, 0.05))(-1.0)
    assert not case.smallness and np.isnan(case.smallness_margin)
