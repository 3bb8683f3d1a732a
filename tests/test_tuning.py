"""Tuned ε: against SciPy, against grids, and what it says where there is none."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import reference_family as family

import jaxmd_sign as jms
from jaxmd_sign._cli import main
from jaxmd_sign._tuning._search import Sample, search

X, Y, ALPHA = np.array([1.3, 0.7]), 1.0, 0.05
EXAMPLE = jms.Problem([X], [Y])


def stacked(problems):
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *problems)


def random_problems(seed, count, num_blocks):
    keys = jax.random.split(jax.random.key(seed), count)
    return [jms.random_block_problem(key, num_blocks) for key in keys]


def signed_error(x, y, epsilon, alpha):
    """E of §3.3.2 for two columns, by SciPy."""
    end = ref.block_limit(x, y, epsilon, alpha)
    move = np.abs(end.dual) - np.abs(end.dual_reference)
    a = np.abs(x)
    return (a[0] * move[1] - a[1] * move[0]) / np.linalg.norm(a)


@pytest.fixture(scope="module")
def example():
    return jms.tune_epsilon(EXAMPLE, ALPHA)


def test_the_worked_example_lands_on_the_minimiser(example):
    assert abs(float(example.epsilon) - 0.2095791) < 1e-6
    assert float(example.objective) <= 1e-9
    assert abs(signed_error(X, Y, float(example.epsilon), ALPHA)) <= 1e-9
    assert example.result == jms.RESULTS.successful
    assert not example.assumptions.smallness  # ε* lies beyond the interval of Assumption 3.3
    assert int(example.stats["num_solves"]) <= 80 and int(example.stats["num_minima"]) == 1


def test_gradient_and_curvature_are_those_of_half_the_square():
    tuned = jms.tune_epsilon(EXAMPLE, ALPHA, bounds=(1e-6, 0.05))
    assert tuned.result == jms.RESULTS.at_upper_bound

    def smooth(t):
        return signed_error(X, Y, np.exp(t), ALPHA) ** 2 / 2

    slope, _ = ref.derivative(smooth, np.log(0.05))
    assert float(tuned.gradient) == pytest.approx(slope, rel=1e-6)
    inside = jms.tune_epsilon(EXAMPLE, ALPHA)
    # At a root of E, (E²/2)'' = E'².
    bend, _ = ref.derivative(lambda t: signed_error(X, Y, np.exp(t), ALPHA), np.log(inside.epsilon))
    assert float(inside.curvature) == pytest.approx(bend**2, rel=1e-5)


@pytest.mark.parametrize("objective", ["bregman_gap", "distance_to_minimizer"])
def test_one_block_has_one_best_epsilon_whatever_the_objective(example, objective):
    tuned = jms.tune_epsilon(EXAMPLE, ALPHA, objective=objective)
    assert float(tuned.epsilon) == pytest.approx(float(example.epsilon), abs=1e-7)
    assert float(tuned.objective) < 1e-8


def test_random_pairs_reach_zero_error():
    problems = random_problems(3, 100, 1)
    tuned = jax.vmap(lambda problem: jms.tune_epsilon(problem, ALPHA))(stacked(problems))
    assert np.all(tuned.result._value == 0)
    for problem, epsilon in zip(problems, np.asarray(tuned.epsilon), strict=True):
        x, y = np.asarray(problem.data.x[0]), float(problem.y[0])
        assert abs(signed_error(x, y, epsilon, ALPHA)) <= 1e-8


@pytest.mark.slow
def test_five_blocks_beat_a_grid_of_400():
    problems = random_problems(7, 200, 5)
    tuned = jax.vmap(lambda problem: jms.tune_epsilon(problem, ALPHA))(stacked(problems))
    grid = np.geomspace(1e-6, 1e3, 400)
    found = jms.sweep(problems, grid, ALPHA, rtol=1e-9, variables=["kkt_error"])
    least = found.kkt_error.min("epsilon").values[:, 0]
    assert np.all(tuned.result._value == 0)
    assert np.all(np.asarray(tuned.objective) <= least * (1 + 1e-6))
    assert np.max(tuned.stats["num_solves"]) <= 400 / 5
    again = jms.kkt(
        problems[11], jms.solve_limit(problems[11], jms.SmoothedSign(tuned.epsilon[11]), ALPHA)
    )
    assert float(again.error) == pytest.approx(float(tuned.objective[11]), rel=1e-6)


def test_failed_members_leave_the_others_alone(example):
    alphas = jnp.array([ALPHA, jnp.nan, -1.0])
    tuned = jax.vmap(lambda alpha: jms.tune_epsilon(EXAMPLE, alpha))(alphas)
    assert float(tuned.epsilon[0]) == pytest.approx(float(example.epsilon), rel=1e-9)
    assert np.all(np.isnan(tuned.epsilon[1:])) and np.all(np.isnan(tuned.objective[1:]))
    assert [int(code) for code in tuned.result._value] == [
        0, *[jms.RESULTS.bad_input._value] * 2
    ]  # fmt: skip


def test_too_few_steps():
    none = jms.tune_epsilon(EXAMPLE, ALPHA, max_steps=5)
    assert "max_steps" in jms.RESULTS[none.result] and np.isnan(none.epsilon)
    some = jms.tune_epsilon(EXAMPLE, ALPHA, max_steps=55)  # small ε need more
    assert 0 < int(some.stats["num_failed"]) < 24
    assert float(some.epsilon) == pytest.approx(0.2095791, abs=1e-6)
    each = jms.tune_epsilon(EXAMPLE, ALPHA, max_steps=55, per="block")
    assert int(each.stats["num_failed"]) == int(some.stats["num_failed"])


@pytest.mark.parametrize(
    ("problem", "options", "code"),
    [
        (jms.Problem([[1.0, 1.0]], [1.0]), {}, "flat_objective"),
        (jms.Problem([[1.0, 0.0], [0.0, 0.4]], [1.0, 2.0]), {}, "flat_objective"),
        (EXAMPLE, {"bounds": (1e-6, 1e-2)}, "at_upper_bound"),
        (EXAMPLE, {"bounds": (1.0, 10.0)}, "at_lower_bound"),
        (EXAMPLE, {"bounds": (1.0, 10.0), "epsilon0": 2.0}, "at_lower_bound"),
        (jms.Problem([[1.0, 1.0]], [1.0]), {"epsilon0": 0.1}, "flat_objective"),
    ],
)
def test_where_there_is_no_minimum_it_says_so(problem, options, code):
    tuned = jms.tune_epsilon(problem, ALPHA, **options)
    assert tuned.result == getattr(jms.RESULTS, code)
    if code == "flat_objective":
        assert np.isnan(tuned.epsilon)
    else:
        bound = options["bounds"][code == "at_upper_bound"]
        # From `epsilon0` the box is reached to a thousandth of its width in log ε, else exactly.
        near = 1e-2 if "epsilon0" in options else 1e-12
        assert float(tuned.epsilon) == pytest.approx(bound, rel=near)


def falls(problem, limit):
    return -limit.beta[0]


def rises(problem, limit):
    return limit.beta[0]


def jumps(problem, limit):
    """A bowl whose bottom is less deep than what lies beyond a jump."""
    return jnp.where(limit.beta[0] > 0.64, 0, 0.01) + (limit.beta[0] - 0.6) ** 2


def waves(problem, limit):
    return jnp.cos(60 * limit.beta[0])


@pytest.mark.parametrize(
    ("objective", "code"),
    [
        (falls, "at_upper_bound"),
        (rises, "at_lower_bound"),
        (waves, "several_minima"),
        (jumps, "search_not_converged"),
    ],
)
def test_functions_of_the_user(objective, code):
    tuned = jms.tune_epsilon(EXAMPLE, ALPHA, objective=objective)
    assert tuned.result == getattr(jms.RESULTS, code)
    limit = jms.solve_limit(EXAMPLE, jms.SmoothedSign(tuned.epsilon), ALPHA)
    assert float(tuned.objective) == pytest.approx(float(objective(EXAMPLE, limit)), abs=1e-7)
    assert float(tuned.objective) <= np.nanmin(tuned.history["objective"]) + 1e-7
    if objective is waves:
        assert float(tuned.objective) == pytest.approx(-1, abs=1e-9)


def test_an_epsilon_for_each_block_is_that_of_the_block_alone():
    (problem,) = random_problems(5, 1, 3)
    common = jms.tune_epsilon(problem, ALPHA)
    tuned = jms.tune_epsilon(problem, ALPHA, per="block")
    assert float(common.objective) > 1e-3 and float(tuned.objective) < 1e-7
    assert tuned.result == jms.RESULTS.successful
    for i in range(3):
        alone = jms.Problem([np.asarray(problem.data.x[i])], [problem.y[i]])
        best = jms.tune_epsilon(alone, ALPHA)
        ours = tuned.epsilon[np.asarray(problem.data.columns[i])]
        np.testing.assert_allclose(ours, float(best.epsilon), rtol=1e-5)


def test_one_block_has_an_epsilon_for_each_of_its_coordinates(example):
    tuned = jms.tune_epsilon(EXAMPLE, ALPHA, per="block")
    assert tuned.epsilon.shape == (2,) and tuned.gradient.shape == (1,)
    np.testing.assert_allclose(tuned.epsilon, float(example.epsilon), rtol=1e-6)
    assert int(tuned.stats["num_solves"]) > int(example.stats["num_solves"])


def test_an_epsilon_for_each_coordinate():
    (problem,) = random_problems(5, 1, 3)
    start = jnp.full(problem.num_features, 0.1)
    tuned = jms.tune_epsilon(problem, ALPHA, per="coordinate", epsilon0=start)
    assert tuned.epsilon.shape == tuned.gradient.shape == (problem.num_features,)
    assert float(tuned.objective) < 1e-7 and tuned.result == jms.RESULTS.successful
    limit = jms.solve_limit(problem, jms.SmoothedSign(tuned.epsilon), ALPHA)
    assert float(jms.kkt(problem, limit).error) < 1e-7


def test_blocks_leave_a_bound_that_is_not_theirs():
    """Together they are best at the bound, but the second alone is best inside."""
    problem = jms.Problem([[1.3, 0.7, 0, 0], [0, 0, 0.5, 2]], [1.0, 0.03])
    tuned = jms.tune_epsilon(problem, 0.05, bounds=(1e-6, 0.02), per="block")
    assert tuned.result == jms.RESULTS.at_upper_bound
    np.testing.assert_allclose(tuned.epsilon, [0.02, 0.02, 0.00480512, 0.00480512], rtol=1e-5)
    want = ref.block_limit(np.array([1.3, 0.7]), 1.0, 0.02, 0.05).kkt_error
    assert float(tuned.objective) == pytest.approx(want, rel=1e-6)


def test_coordinates_go_to_a_bound_each():
    tuned = jms.tune_epsilon(EXAMPLE, ALPHA, bounds=(1e-3, 0.05), per="coordinate")
    np.testing.assert_allclose(tuned.epsilon, [1e-3, 0.05], rtol=1e-6)
    want = family.family_limit(X, Y, np.array([1e-3, 0.05]), 0.05, "abs", 2).kkt_error
    assert float(tuned.objective) == pytest.approx(want, rel=1e-6)
    assert tuned.gradient[0] > 0 > tuned.gradient[1]


@pytest.mark.parametrize("epsilon0", [1e-8, 1e-4, 300.0, 1e9])
def test_a_start_on_a_plateau_or_beyond_a_bound(epsilon0):
    tuned = jms.tune_epsilon(EXAMPLE, ALPHA, epsilon0=epsilon0)
    assert tuned.result == jms.RESULTS.successful and tuned.stats["num_solves"] < 40
    assert float(tuned.epsilon) == pytest.approx(0.2095791, rel=1e-5)


def test_a_negative_objective_is_no_least_one():
    def below(_, limit):
        return (limit.beta[0] - 0.6) ** 2 - 1

    for epsilon0 in (0.5, 0.01):
        tuned = jms.tune_epsilon(EXAMPLE, ALPHA, objective=below, epsilon0=epsilon0)
        assert tuned.result == jms.RESULTS.successful
        assert float(tuned.epsilon) == pytest.approx(0.0970360, rel=1e-3)


def test_a_start_that_ends_on_a_plateau_is_no_success():
    tuned = jms.tune_epsilon(EXAMPLE, ALPHA, epsilon0=1e-8, rtol=1e-6)
    assert abs(tuned.epsilon - 0.2095791) < 1e-3 or tuned.result != jms.RESULTS.successful


def test_the_edge_of_what_was_solved_is_no_minimum():
    rng = np.random.default_rng(5)
    problem = jms.Problem(rng.normal(size=(3, 6)), rng.normal(size=3))
    tuned = jms.tune_epsilon(problem, 0.05, bounds=(1e-4, 10), max_steps=400)
    assert 0 < tuned.stats["num_failed"] < tuned.stats["num_solves"]
    assert tuned.result == jms.RESULTS.max_steps_reached and np.isnan(tuned.epsilon)


@pytest.mark.parametrize(
    ("objective", "code"),
    [
        # Infinite somewhere, of 50 powers of ten, and nowhere a number.
        (
            lambda beta: jnp.where(beta[0] > 0.64, jnp.inf, (beta[0] - 0.6) ** 2),
            "search_not_converged",
        ),
        (lambda beta: jnp.exp(6000 * (beta[0] - 0.6) ** 2), "successful"),
        (lambda beta: beta[0] * jnp.nan, "not_finite"),
    ],
)
def test_objectives_of_wild_values(objective, code):
    tuned = jms.tune_epsilon(EXAMPLE, 0.05, objective=lambda _, limit: objective(limit.beta))
    assert tuned.result == getattr(jms.RESULTS, code)
    assert np.isnan(tuned.objective) == (code == "not_finite")
    if code == "successful":
        assert float(tuned.epsilon) == pytest.approx(0.0970360, rel=1e-5)


def test_float32():
    problem = jms.Problem(np.array([X], np.float32), np.array([Y], np.float32))
    tuned = jms.tune_epsilon(problem, ALPHA)
    assert tuned.epsilon.dtype == np.float32
    assert float(tuned.epsilon) == pytest.approx(0.2095791, rel=1e-4)
    assert float(tuned.objective) < 1e-4


def test_one_compilation_for_problems_of_one_shape():
    calls = []

    def counted(problem, limit):
        calls.append(1)
        return jms.kkt(problem, limit).stationarity @ jnp.ones(2)

    jms.tune_epsilon(EXAMPLE, ALPHA, objective=counted)
    before = len(calls)
    assert before
    jms.tune_epsilon(jms.Problem([[0.6, -1.1]], [0.8]), 0.02, objective=counted, bounds=(1e-3, 1))
    assert len(calls) == before


@pytest.mark.parametrize("shift", [0.0, 0.31, -0.77, 2.9])
def test_search_finds_the_deepest_of_smooth_minima(shift):
    def function(t):
        return jnp.cos(2 * (t - shift)) + 0.05 * (t - shift) ** 2 + 0.01 * t

    def evaluate(t):
        value, slope = jax.vmap(jax.value_and_grad(function))(t)
        return Sample(t, value, slope, None)

    found = jax.jit(lambda low, high: search(evaluate, low, high))(jnp.array(-8.0), jnp.array(9.0))
    fine = np.linspace(-8, 9, 200_001)
    assert float(found.value) <= np.min(function(fine)) + 1e-12
    assert abs(float(found.slope)) < 1e-7 and int(found.num_samples) <= 39


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bounds": (1.0, 0.1)}, "bounds must be two numbers, 0 < least < largest"),
        ({"bounds": (1.0, 2.0, 3.0)}, "bounds must be two numbers"),
        ({"bounds": ("a", "b")}, "bounds must be two numbers"),
        ({"bounds": (0.0, 1.0)}, "bounds must be two numbers"),
        ({"per": "row"}, "per must be one of 'problem', 'block'"),
        ({"objective": "kkt"}, "objective must be one of 'kkt_error'"),
        ({"objective": lambda problem, limit: limit.beta}, "objective must return a scalar"),
        ({"epsilon0": -1.0}, "epsilon0 must be positive"),
        ({"epsilon0": [0.1, 0.2]}, "epsilon0 differs between coordinates that share"),
        ({"epsilon0": [0.1, 0.2, 0.3]}, "epsilon0 must be a scalar or have 2 entries"),
        ({"rtol": 1e-20}, "rtol must be a number"),
        ({"smoothing": "relu"}, "smoothing must be one of"),
        ({"max_steps": 0}, "max_steps must be a positive"),
    ],
)
def test_bad_input(options, words):
    with pytest.raises(ValueError, match=words):
        jms.tune_epsilon(EXAMPLE, ALPHA, **options)


def test_per_block_needs_blocks():
    general = jms.Problem([[1.0, 2.0, 0.5], [0.3, 1.0, -1.0]], [1.0, 0.5])
    with pytest.raises(ValueError, match="needs a block-diagonal X"):
        jms.tune_epsilon(general, ALPHA, per="block")


@pytest.mark.slow
def test_the_examples_of_the_docs_run(monkeypatch, capsys):
    root = Path(__file__).parents[1]
    monkeypatch.chdir(root)
    _, *parts = (root / "docs" / "tuning.md").read_text("utf-8").split("```python\n")
    names = {}
    for part in parts:
        exec(part.partition("```")[0], names)
    assert "a minimum inside the bounds" in capsys.readouterr().out
    tuned = names["tuned"]
    assert tuned.result == jms.RESULTS.successful
    looked_at = np.asarray(tuned.history["objective"])
    assert float(tuned.objective) <= np.nanmin(looked_at) * (1 + 1e-6)
    assert 1e-3 < float(tuned.epsilon) < 10  # the bounds of the page


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "example.csv").write_text("a,b,y\n1.3,0.7,1\n")
    case = ["tune", "--data", "example.csv", "--alpha", "0.05"]
    assert main([*case, "--plot", "tuned.png", "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["epsilon"] == pytest.approx(0.2095791, abs=1e-6)
    assert numbers["result"] == "successful"
    assert len(numbers["history"]["epsilon"]) == numbers["stats"]["num_solves"]
    assert (tmp_path / "tuned.png").read_bytes()[:4] == b"\x89PNG"
    assert main([*case, "--bounds", "1:10"]) == 0
    assert "lower bound of epsilon" in " ".join(capsys.readouterr().out.split())
    for wrong, words in (
        (["--bounds", "1"], "bounds must be LO:HI"),
        (["--plot", "tuned.txt"], "plot must end in"),
        (["--per", "block", "--plot", "tuned.png"], "plot shows one epsilon"),
        (["--epsilon0", "-1"], "epsilon0 must be positive"),
    ):
        assert main([*case, *wrong]) == 2
        assert words in capsys.readouterr().err
    assert main([*case, "--max-steps", "3"]) == 1
    out, err = capsys.readouterr()
    assert "max_steps" in err and "nan" not in out


def test_command_line_where_no_epsilon_is_best(tmp_path, monkeypatch, capsys):
    """As other results with NaN it has status 1; what would be true at ε* is not said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    case = ["tune", "--data", "blocks:2x1:7", "--alpha", "0.05", "--plot", "flat.png"]
    assert main(case) == 1
    out, err = capsys.readouterr()
    assert err.startswith("jaxmd-sign: blocks:2x1:7: The objective does not depend on epsilon")
    assert err.count("\n") == 1  # and no warning of matplotlib
    last = {line.split()[0]: line.split()[-1] for line in out.splitlines() if line.strip()}
    assert last["ε*"] == last["kkt_error"] == last["curvature"] == last["Assumption"] == "–"
    assert "nan" not in out and "does not depend on epsilon" in out
