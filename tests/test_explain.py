"""Explained β: the true potential is found, minimisers are SciPy's, bad input is refused."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import jaxmd_sign as jms
from jaxmd_sign._cli import main
from jaxmd_sign._explain._plot import draw_explanation
from jaxmd_sign._explain._potentials import FromFunction, PowerNorm
from jaxmd_sign._mirror import inverse_mirror_map, mirror_map

DATA = Path(__file__).parent / "data" / "diabetes30_quadratic.csv"
REAL = jms.load_problem(str(DATA))
SPARSE = jms.random_sparse_problem(jax.random.key(0), 12, 30, 3)


def named(explanation):
    return {row.potential: row for row in explanation.rows}


@pytest.fixture(scope="module")
def descent():
    """Gradient descent on real data, explained with its own α."""
    limit = jms.solve_limit(REAL, jms.GradientDescent(), 0.05)
    return jms.explain(REAL, limit.beta, alpha=0.05)


def test_gradient_descent_is_explained_by_hyperbolic_entropy(descent):
    best, second, third = descent.rows[:3]
    assert {best.potential, second.potential} == {
        "hyperbolic_entropy", "hyperbolic_entropy_fitted"
    }  # fmt: skip
    for row in (best, second):
        assert row.kkt_error <= 1e-8 and row.distance <= 1e-8
        assert row.parameter == pytest.approx(0.05, rel=0.01)
    assert third.distance > 1e-3


@pytest.mark.parametrize("alpha", [1e-3, 0.3])
def test_alpha_is_recovered(alpha):
    limit = jms.solve_limit(SPARSE, jms.GradientDescent(), alpha)
    best = jms.explain(SPARSE, limit.beta).rows[0]
    assert best.potential == "hyperbolic_entropy_fitted" and best.kkt_error <= 1e-8
    assert best.parameter == pytest.approx(alpha, rel=0.01)


@pytest.mark.parametrize("p", [1.2, 1.5, 2.6])
def test_a_minimiser_of_lp_is_found_again(p):
    def norm(beta):
        return np.sum(np.abs(beta) ** p) / p, np.sign(beta) * np.abs(beta) ** (p - 1)

    # By SciPy: over the null space, from the least squares solution.
    X, y = np.asarray(SPARSE.X), np.asarray(SPARSE.y)
    _, _, V = np.linalg.svd(X)
    null, start = V[len(y) :].T, np.linalg.pinv(X) @ y

    def inside(z):
        value, slope = norm(start + null @ z)
        return value, null.T @ slope

    options = {"maxiter": 10_000, "gtol": 1e-10, "ftol": 1e-16}
    found = minimize(inside, np.zeros(null.shape[1]), jac=True, method="L-BFGS-B", options=options)
    beta = start + null @ found.x
    row = named(jms.explain(SPARSE, beta))["lp_fitted"]
    assert row.parameter == pytest.approx(p, rel=1e-3)
    assert row.distance < 1e-4 and row.kkt_error < 1e-3


def test_least_l1_is_a_linear_program(descent):
    row = named(descent)["l1"]
    assert np.allclose(np.asarray(REAL.X) @ row.minimizer, REAL.y, atol=1e-8)
    others = [other.minimizer for other in descent.rows]
    assert all(np.abs(row.minimizer).sum() <= np.abs(other).sum() + 1e-8 for other in others)
    again = named(jms.explain(REAL, row.minimizer))["l1"]
    assert again.distance < 1e-8 and again.kkt_error < 1e-6 and abs(again.gap) < 1e-8


def test_sparse_truth_is_the_l1_minimiser_and_unique():
    row = named(jms.explain(SPARSE, jnp.linalg.pinv(SPARSE.X) @ SPARSE.y))["l1"]
    assert np.sum(np.abs(row.minimizer) > 1e-9) == 3 and row.note == ""


def test_several_l1_minimisers_are_said_to_be():
    problem = jms.Problem([[1.0, 1.0]], [1.0])
    row = named(jms.explain(problem, [0.5, 0.5]))["l1"]
    assert row.note == "one of several minimisers" and row.kkt_error < 1e-12


def test_dependent_columns_of_no_cost_are_not_always_a_way_out():
    # Two columns are the same; where their row has nothing to explain, neither is of use.
    X = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    for y, several in (([1.0, 0.0], False), ([1.0, 1.0], True)):
        problem = jms.Problem(X, y)
        row = named(jms.explain(problem, jnp.linalg.pinv(X) @ np.array(y)))["l1"]
        assert (row.note == "one of several minimisers") == several, y


def test_gap_of_hyperbolic_entropy_where_signs_differ():
    X = np.random.default_rng(0).normal(size=(3, 8))
    y, moves = X @ np.ones(8), np.eye(8) - np.linalg.pinv(X) @ X
    beta = np.linalg.pinv(X) @ y + moves @ np.array([3, -3, 2, -2, 1, -4, 2, 5])
    row = named(jms.explain(jms.Problem(X, y), beta, alpha=1e-5))["hyperbolic_entropy"]
    assert np.any(row.minimizer * beta < -1e-3)

    def entropy(beta, width=2e-10):
        return np.sum(beta * np.arcsinh(beta / width) - np.sqrt(beta**2 + width**2)) / 2

    assert row.gap == pytest.approx(entropy(beta) - entropy(row.minimizer), rel=1e-9)


def test_a_dead_column_is_no_exception():
    beta = [0.5, 0.5, 5.0]
    dead, tiny = (
        named(jms.explain(jms.Problem(X, y), beta))
        for X, y in (([[1.0, 1.0, 0.0]], [1.0]), ([[1.0, 1.0, 1e-200]], [1.0]))
    )
    assert dead["l2"].kkt_error == pytest.approx(5 / np.sqrt(25.5), rel=1e-12)
    for name in ("l2", "l3/2", "hyperbolic_entropy_fitted"):
        assert dead[name].kkt_error == pytest.approx(tiny[name].kkt_error, rel=1e-9), name


def test_columns_of_very_different_sizes():
    rng = np.random.default_rng(1)
    for _ in range(4):
        X = rng.normal(size=(5, 6)) * 10 ** rng.uniform(-3, 3, 6)
        beta = rng.normal(size=6)
        found = named(jms.explain(jms.Problem(X, X @ beta), beta, alpha=0.01))
        for name in ("l3/2", "l2", "hyperbolic_entropy"):
            assert np.isfinite(found[name].distance), name
        left = X @ (found["l2"].minimizer - beta)
        assert np.max(np.abs(left) / (np.abs(X) @ np.abs(beta))) < 1e-12


def test_gap_is_the_difference_of_the_potential(descent):
    limit = jms.solve_limit(REAL, jms.GradientDescent(), 0.05)
    for name, p in (("l3/2", 1.5), ("l2", 2.0)):
        row, potential = named(descent)[name], PowerNorm(jnp.asarray(p))
        gap = potential(limit.beta) - potential(jnp.asarray(row.minimizer))
        assert row.gap == pytest.approx(float(gap), rel=1e-9) and row.gap > 0


def test_a_potential_of_the_user():
    def quadratic(b):
        return b**2 / 2 + b**4

    potential, beta = FromFunction(quadratic), jnp.array([0.3, -2.0, 0.0, 1e-7])
    np.testing.assert_allclose(mirror_map(potential, beta), beta + 4 * beta**3, rtol=1e-14)
    back = inverse_mirror_map(potential, mirror_map(potential, beta))
    np.testing.assert_allclose(back, beta, rtol=1e-12)
    _, slope = jax.jvp(lambda theta: inverse_mirror_map(potential, theta), (beta,), (beta**0,))
    bend = 1 + 12 * inverse_mirror_map(potential, beta) ** 2
    np.testing.assert_allclose(slope, 1 / bend, rtol=1e-12)
    found = named(
        jms.explain(SPARSE, jnp.linalg.pinv(SPARSE.X) @ SPARSE.y, potentials={"mine": quadratic})
    )
    assert found["mine"].gap > 0 and found["l2"].distance < 1e-12
    again = named(jms.explain(SPARSE, found["mine"].minimizer, potentials={"mine": quadratic}))
    assert again["mine"].distance < 1e-10 and again["mine"].kkt_error < 1e-10


@pytest.mark.parametrize("p", [1.5, 3.0])
def test_a_potential_of_the_user_without_a_second_derivative_at_zero(p):
    beta = jnp.linalg.pinv(SPARSE.X) @ SPARSE.y
    found = named(jms.explain(SPARSE, beta, potentials={"mine": lambda b: jnp.abs(b) ** p / p}))
    ours = inverse_mirror_map(PowerNorm(jnp.asarray(p)), jnp.array([0.3]))
    mine = inverse_mirror_map(FromFunction(lambda b: jnp.abs(b) ** p / p), jnp.array([0.3]))
    np.testing.assert_allclose(mine, ours, rtol=1e-12)
    assert found["mine"].note == "" and np.isfinite(found["mine"].distance)
    if p == 1.5:
        assert found["mine"].distance == pytest.approx(found["l3/2"].distance, rel=1e-9)


def test_rows_that_repeat_others_change_nothing():
    X, y = np.asarray(SPARSE.X), np.asarray(SPARSE.y)
    twice = jms.Problem(np.vstack([X, X[:3]]), np.append(y, y[:3]))
    beta = jnp.linalg.pinv(X) @ y
    once, again = named(jms.explain(SPARSE, beta)), named(jms.explain(twice, beta))
    for name, row in once.items():
        assert again[name].kkt_error == pytest.approx(row.kkt_error, rel=1e-6, abs=1e-10), name
        assert again[name].distance == pytest.approx(row.distance, rel=1e-6, abs=1e-10), name


def test_float32():
    X, y = np.asarray(SPARSE.X, np.float32), np.asarray(SPARSE.y, np.float32)
    problem = jms.Problem(X, y)
    limit = jms.solve_limit(problem, jms.GradientDescent(), 0.1)
    best = jms.explain(problem, limit.beta, alpha=0.1).rows[0]
    assert "hyperbolic" in best.potential and best.distance < 1e-3


@pytest.mark.parametrize(
    ("beta", "words"),
    [
        ([1.0, 2.0], "beta must have 30 entries"),
        (np.zeros(30), "beta must interpolate"),
        (np.full(30, np.nan), "beta must be finite"),
    ],
)
def test_bad_input(beta, words):
    with pytest.raises(ValueError, match=words):
        jms.explain(SPARSE, beta)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"potentials": {"l2": jnp.cosh}}, "'l2' is the name of one of ours"),
        ({"potentials": {"mine": 3}}, "'mine' must be a function of one coordinate"),
        ({"potentials": {"mine": lambda b: jnp.stack([b, b])}}, "'mine' must be a function of one"),
        ({"potentials": [jnp.cosh]}, "potentials must be a dict"),
        ({"potentials": {3: jnp.cosh}}, "potentials must have names that are strings, .* is 3"),
        ({"alpha": [0.1, 0.2]}, "alpha must be one number"),
    ],
)
def test_bad_potentials(arguments, words, without_type_checks):
    beta = jnp.linalg.pinv(SPARSE.X) @ SPARSE.y
    with pytest.raises(ValueError, match=words):
        jms.explain(SPARSE, beta, **arguments)


def test_nothing_to_explain():
    with pytest.raises(ValueError, match="beta must not be 0"):
        jms.explain(jms.Problem([[1.0, 2.0]], [0.0]), [0.0, 0.0])


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    case = ["explain", "--data", "blocks:3x2:7", "--alpha", "0.05"]
    assert main([*case, "--gradient-descent", "--json", "--plot", "ex.png"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["rows"][0]["potential"].startswith("hyperbolic_entropy")
    assert (tmp_path / "ex.png").read_bytes()[:4] == b"\x89PNG"
    assert main([*case, "--epsilon", "0.5"]) == 0
    assert "KKT error" in capsys.readouterr().out
    for wrong, words in (
        ([], "give either"),
        (["--epsilon", "0.1", "--gradient-descent"], "give either"),
        (["--epsilon", "-1"], "epsilon must be positive"),
        (["--gradient-descent", "--plot", "ex.txt"], "plot must end in"),
    ):
        assert main([*case, *wrong]) == 2
        assert words in capsys.readouterr().err


def test_every_point_of_the_plot_is_inside():
    """ℓ₁ was above the top: the curve begins beside p = 1."""
    limit = jms.solve_limit(REAL, jms.SmoothedSign(0.1), 0.05, rtol=1e-5)
    axes = draw_explanation(jms.explain(REAL, limit.beta, alpha=0.05)).axes[0]
    low, high = axes.get_ylim()
    points = [line.get_ydata()[0] for line in axes.lines if len(line.get_xdata()) == 1]
    assert len(points) == 4 and low < min(points) < max(points) < high


@pytest.mark.slow
@pytest.mark.parametrize(("data", "epsilon"), [("blocks:3x2:7", 1e-3), (str(DATA), 0.1)])
def test_no_line_runs_through_a_name(data, epsilon):
    """The frame struck p = 3 through, a level ℓ₂."""
    problem = jms.load_problem(data)
    limit = jms.solve_limit(problem, jms.SmoothedSign(epsilon), 0.05, rtol=1e-5)
    figure = draw_explanation(jms.explain(problem, limit.beta, alpha=0.05))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert len(axes.texts) == 4
    for text in axes.texts:
        (left, low), (right, high) = text.get_window_extent().get_points()
        frame = axes.bbox
        assert frame.x0 < left and right < frame.x1 and frame.y0 < low and high < frame.y1
        for line in axes.lines:
            x, y = line.get_transform().transform(line.get_xydata()).T
            beside = np.interp([left, (left + right) / 2, right], x, y, left=np.nan, right=np.nan)
            assert not np.any((low < beside) & (beside < high)), (text, line)


def test_a_potential_has_its_colour_whatever_its_rank(descent):
    backwards = descent._replace(rows=descent.rows[::-1])
    looks = [
        {line.get_label(): (line.get_color(), line.get_linestyle()) for line in axes.lines}
        for axes in (draw_explanation(one).axes[0] for one in (descent, backwards))
    ]
    for name in ("hyperbolic entropy", "hyperbolic entropy, fitted"):
        assert looks[0][name] == looks[1][name]
    assert looks[0]["hyperbolic entropy"] != looks[0]["hyperbolic entropy, fitted"]
