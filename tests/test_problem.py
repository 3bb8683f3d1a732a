"""Problem: the structure of X, its compact form, dtypes, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref

from jaxmd_sign import Problem, SmoothedSign, solve_limit

# Rows of 3, 1 and 2 columns, permuted, and two dead columns (2 and 7).
X = np.zeros((3, 8))
X[0, [6, 0, 3]] = 1.3, -0.7, 0.4
X[1, 5] = -0.8
X[2, [4, 1]] = 0.6, 1.1
Y = np.array([1.0, -2.0, 0.5])


@pytest.fixture
def x64_off():
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", True)


def test_finds_permuted_blocks_of_unequal_sizes():
    problem = Problem(X, Y)
    assert problem.is_block_diagonal
    assert (problem.num_examples, problem.num_features) == (3, 8)
    np.testing.assert_array_equal(problem.X, X)
    np.testing.assert_array_equal(problem.y, Y)
    blocks = problem.data
    assert blocks.x.shape == (3, 3)
    np.testing.assert_array_equal(np.sum(blocks.mask, axis=1), [3, 1, 2])
    np.testing.assert_array_equal(blocks.x[~blocks.mask], 0)
    np.testing.assert_array_equal(blocks.columns[~blocks.mask], 8)
    for row, (columns, mask) in enumerate(zip(blocks.columns, blocks.mask, strict=True)):
        assert set(np.asarray(columns[mask])) == set(np.flatnonzero(X[row]))


def test_gather_and_scatter_are_inverse_and_skip_dead_columns():
    blocks = Problem(X, Y).data
    values = jnp.arange(1.0, 9.0)
    back = blocks.scatter(blocks.gather(values), -1.0)
    np.testing.assert_array_equal(back, np.where(np.any(X != 0, axis=0), values, -1))


def test_predict_is_the_product_with_X():
    beta = np.random.default_rng(0).normal(size=8)
    for problem in (Problem(X, Y), Problem(np.vstack([X, X[0] + X[1]]), [*Y, -1.0])):
        np.testing.assert_allclose(problem.predict(jnp.asarray(beta)), problem.X @ beta, atol=1e-15)


@pytest.mark.parametrize("shared", [0, 5])
def test_a_shared_column_makes_X_general(shared):
    overlapping = X.copy()
    overlapping[2, shared] = 1e-300
    problem = Problem(overlapping, Y)
    assert not problem.is_block_diagonal
    np.testing.assert_array_equal(problem.X, overlapping)


def test_one_row_is_one_block():
    assert Problem(np.array([[1.3, 0.0, 0.7]]), np.ones(1)).data.x.shape == (1, 2)


def test_from_blocks_equals_the_dense_form():
    x = np.array([[1.3, 0.7], [0.0, -0.9], [0.5, 0.2]])
    problem = Problem.from_blocks(x, Y)
    dense = np.zeros((3, 6))
    dense[np.arange(3)[:, None], np.arange(6).reshape(3, 2)] = x
    assert problem.is_block_diagonal and problem.num_features == 6
    np.testing.assert_array_equal(problem.X, dense)
    np.testing.assert_array_equal(problem.data.mask, x != 0)  # a zero entry is a dead column
    limits = [solve_limit(p, SmoothedSign(0.01), 0.05) for p in (problem, Problem(dense, Y))]
    np.testing.assert_allclose(limits[0].beta, limits[1].beta, rtol=1e-9, atol=1e-14)
    assert limits[0].beta[2] == 0 and limits[0].potential.delta[2] == 0.05**2


def test_with_data_takes_both_forms():
    problem, other = Problem(X, Y), np.where(X != 0, X * 2 + 1, 0)
    dense = problem.with_data(other, 2 * Y)
    np.testing.assert_array_equal(dense.X, other)
    np.testing.assert_array_equal(dense.y, 2 * Y)
    compact = problem.with_data(dense.data.x, Y)
    np.testing.assert_array_equal(compact.X, other)
    # What lies off the pattern is not read, and padding stays empty.
    np.testing.assert_array_equal(problem.with_data(other + 3 * (X == 0), Y).X, other)
    full = problem.with_data(np.ones((3, 3)), Y)
    np.testing.assert_array_equal(full.data.x, problem.data.mask)


def test_with_data_of_a_single_row_whose_forms_coincide():
    problem = Problem.from_blocks(np.array([[1.3, 0.0, 0.7]]), np.ones(1))
    np.testing.assert_array_equal(
        problem.with_data(np.array([[2.0, 5.0, 3.0]]), np.ones(1)).X, [[2.0, 0.0, 3.0]]
    )


def test_with_data_keeps_a_general_structure():
    general = Problem(np.array([[1.0, 2.0, 0.5], [0.0, 3.0, 4.0]]), np.ones(2))
    values = np.arange(6.0).reshape(2, 3)
    problem = general.with_data(values, np.zeros(2))
    assert not problem.is_block_diagonal
    np.testing.assert_array_equal(problem.X, values)


def test_derivatives_off_the_pattern_are_zero():
    problem = Problem(X, Y)

    def value(values, y):
        traced = problem.with_data(values, y)
        assert traced.is_block_diagonal
        return jnp.sum(traced.X**2) + jnp.sum(traced.predict(jnp.arange(8.0)) * traced.y)

    slope, slope_y = jax.jit(jax.grad(value, argnums=(0, 1)))(X, Y)
    expected = np.where(X != 0, 2 * X + Y[:, None] * np.arange(8.0), 0)
    np.testing.assert_allclose(slope, expected, atol=1e-14)
    np.testing.assert_allclose(slope_y, X @ np.arange(8.0), atol=1e-14)


def test_traced_X_is_general_and_traced_y_is_not():
    kinds = []

    def look(values, y):
        kinds.append(Problem(values, y).is_block_diagonal)
        kinds.append(Problem(X, y).is_block_diagonal)
        kinds.append(Problem.from_blocks(values, y).is_block_diagonal)
        return Problem(values, y).y

    jax.jit(look)(X, Y)
    assert kinds == [False, True, True]


def test_a_problem_passes_through_transformations():
    problem = Problem(X, Y)
    np.testing.assert_array_equal(jax.jit(lambda p: p.X)(problem), X)
    again = jax.tree.unflatten(*reversed(jax.tree.flatten(problem)))
    np.testing.assert_array_equal(again.X, X)


def test_same_padded_sizes_share_one_structure():
    # Another pattern of the same padded sizes: only array leaves differ.
    other = Problem(np.roll(X, 1, axis=1)[[1, 0, 2]], Y)
    assert jax.tree.structure(other) == jax.tree.structure(Problem(X, Y))


def test_lists_and_whole_numbers_become_float64():
    for values, labels in [([[1.3, 0.7]], [1.0]), ([[1, 2]], [3]), ([[True, 2]], (1,))]:
        problem = Problem(values, labels)
        assert problem.dtype == problem.X.dtype == np.float64


def test_float32_stays_and_the_wider_of_two_dtypes_wins():
    single = X.astype(np.float32), Y.astype(np.float32)
    assert Problem(*single).dtype == Problem(*single).X.dtype == np.float32
    assert Problem(jnp.asarray(single[0]), jnp.asarray(single[1])).dtype == np.float32
    assert Problem(single[0], Y).dtype == Problem(single[0], Y).X.dtype == np.float64
    assert Problem.from_blocks(np.ones((1, 2), np.float32), np.ones(1, np.float32)).dtype == (
        np.float32
    )
    assert Problem(*single).with_data(X, Y).dtype == np.float32


@pytest.mark.usefixtures("x64_off")
def test_float64_without_x64_says_how_to_turn_it_on():
    for make in (Problem, Problem.from_blocks):
        with pytest.raises(ValueError, match=r'jax\.config\.update\("jax_enable_x64", True\)'):
            make(X, Y)
        assert make(X.astype(np.float32), Y.astype(np.float32)).dtype == np.float32
        with pytest.raises(ValueError, match="jax_enable_x64"):
            make(X.astype(np.float32), Y)


@pytest.mark.parametrize("make", [Problem, Problem.from_blocks])
def test_a_zero_row_with_label_zero_is_dropped_with_a_note(make):
    values = np.array([[1.3, 0.7], [0.0, 0.0]])
    with pytest.warns(UserWarning, match=r"dropped the zero rows \[1\] with label 0"):
        problem = make(values, np.array([1.0, 0.0]))
    assert problem.num_examples == 1
    assert problem.num_features == (2 if make is Problem else 4)
    np.testing.assert_array_equal(problem.X[:, :2], values[:1])


@pytest.mark.parametrize("make", [Problem, Problem.from_blocks])
@pytest.mark.parametrize(
    ("values", "labels", "message"),
    [
        (np.ones(3), np.ones(3), r"(X|x) must have 2 axes, but has shape \(3,\)"),
        (np.ones((2, 3)), np.ones((2, 1)), r"y must have 1 axes, but has shape \(2, 1\)"),
        (np.ones((2, 3)), np.array(1.0), r"y must have 1 axes"),
        (np.eye(2), np.ones(3), "X and y must have one row per example, but have 2 and 3"),
        (np.ones((0, 3)), np.ones(0), "X must have at least one row and one column"),
        (np.ones((3, 0)), np.ones(3), "X must have at least one row and one column"),
        (np.array([[1, np.nan]]), np.ones(1), r"(X|x) must be finite, but entry \(0, 1\) is nan"),
        (np.array([[1, np.inf]]), np.ones(1), r"(X|x) must be finite, but entry \(0, 1\) is inf"),
        (np.eye(2), np.array([1.0, -np.inf]), r"y must be finite, but entry \(1,\) is -inf"),
        (np.array([["a", "b"]]), np.ones(1), "(X|x) must be an array of numbers"),
        (np.array([[1, 2j]]), np.ones(1), "(X|x) must be an array of numbers"),
        (np.array([[1.0, 2], [0, 0]]), np.ones(2), r"zero row 1 whose label y\[1\] = 1.0"),
    ],
)
def test_bad_data_name_their_argument(make, values, labels, message):
    with pytest.raises(ValueError, match=message):
        make(values, labels)


def test_ragged_rows_and_text_name_their_argument():
    with pytest.raises(ValueError, match="X must be an array of numbers, all rows of one length"):
        Problem([[1.0, 2.0], [3.0]], [1.0, 2.0])
    with pytest.raises(ValueError, match="X must be an array of numbers"):
        Problem("file.csv", [1.0])


@pytest.mark.filterwarnings("ignore:X. dropped")
def test_only_zero_rows_are_no_problem():
    with pytest.raises(ValueError, match="X must have a non-zero row"):
        Problem(np.zeros((2, 3)), np.zeros(2))


def test_conflicting_rows_have_no_interpolator():
    rows = np.array([[1.0, 2.0], [2.0, 4.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"X \(3 rows, rank 2\) cannot reach y"):
        Problem(rows, np.ones(3))
    consistent = Problem(rows, rows @ np.array([0.3, -0.2]))
    assert consistent.num_examples == 3 and not consistent.is_block_diagonal


def test_with_data_refuses_other_shapes():
    problem = Problem(X, Y)
    with pytest.raises(ValueError, match=r"X must have shape \(3, 3\) or \(3, 8\), but has \(3, 4"):
        problem.with_data(np.ones((3, 4)), Y)
    with pytest.raises(ValueError, match="one row per example"):
        problem.with_data(X, np.ones(2))
    with pytest.raises(ValueError, match="y must be finite"):
        problem.with_data(X, Y * np.nan)


def test_a_hundred_thousand_blocks_never_form_X(record_property):
    """The dense X would take 160 GB. A large epsilon, since it needs the fewest steps."""
    rng = np.random.default_rng(5)
    n = 100_000
    x = rng.choice([-1, 1], (n, 2)) * rng.uniform(0.3, 2, (n, 2))
    y = rng.choice([-1, 1], n) * rng.uniform(0.5, 2, n)
    limit = solve_limit(Problem.from_blocks(x, y), SmoothedSign(0.3), 0.05)
    assert limit.beta.shape == (2 * n,) and limit.residual.shape == (n,)
    beta = np.asarray(limit.beta).reshape(n, 2)
    assert np.max(np.abs(np.sum(x * beta, axis=1) - y) / np.abs(y)) < 1e-10
    for row in rng.choice(n, 5, replace=False):
        truth = ref.block_limit(x[row], y[row], 0.3, 0.05).beta
        np.testing.assert_allclose(beta[row], truth, rtol=1e-7)
    record_property("max_steps", int(np.max(limit.stats["num_steps"])))
