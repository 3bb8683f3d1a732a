"""The fixed-step engine: its estimates against the adaptive solver, its slopes, its program."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_family import family_limit

import jaxmd_sign as jms
from jaxmd_sign._smoothing import SMOOTHINGS
from jaxmd_sign._sweep import _fixed, _settings
from jaxmd_sign._sweep._adaptive import solve_adaptively
from jaxmd_sign._sweep._cases import start_cases
from jaxmd_sign._sweep._engine import Lanes, fixed_step_ends
from jaxmd_sign._sweep._plan import make_plan
from jaxmd_sign._sweep._tables import Cases, tables
from jaxmd_sign._sweep._variables import CODES

EXAMPLE = jms.Problem([[1.3, 0.7]], [1.0])
plan = partial(
    make_plan,
    product=False,
    chunk_size=None,
    variables=None,
    rtol=1e-6,
    reference="start",
    smoothing="abs",
    depth=2,
    max_steps=65536,
)


def random_cases(num_columns, num_blocks, epsilons, alphas, num_cases=256):
    """A problem, and ε and α log-uniform between powers of ten."""
    rng = np.random.default_rng(5)
    x = rng.uniform(0.3, 2, (num_blocks, num_columns)) * rng.choice([-1, 1], (1, num_columns))
    y = rng.uniform(0.5, 2, num_blocks) * rng.choice([-1, 1], num_blocks)
    epsilon, alpha = (10 ** rng.uniform(*powers, num_cases) for powers in (epsilons, alphas))
    return jms.Problem.from_blocks(x, y), epsilon, alpha


def error_of_beta(problem, found, truth):
    """The largest error of a block relative to its largest entry, case by case."""
    shape = len(found), *problem.data.x.shape
    wrong = np.max(np.abs(found - truth).reshape(shape), axis=-1)
    return np.max(wrong / np.max(np.abs(truth).reshape(shape), axis=-1), axis=-1)


@pytest.mark.parametrize(
    ("num_columns", "num_blocks", "epsilons", "alphas", "settings"),
    [
        (2, 4, (-8, 1.5), (-4, -0.5), {}),  # also beyond what the engine is for
        (2, 4, (-6, 0), (-2, -1), {"rtol": 1e-8}),
        (2, 4, (-4, 1), (-2, -1), {"smoothing": "sqrt"}),
        (5, 2, (-8, 1.5), (-3, -1), {}),
        (40, 1, (-8, -1), (-2, -1), {}),
    ],
)
def test_every_case_is_as_good_as_promised(num_columns, num_blocks, epsilons, alphas, settings):
    problem, epsilon, alpha = random_cases(num_columns, num_blocks, epsilons, alphas)
    asked = plan(problem, epsilon, alpha, **{"variables": ["beta", "num_steps"]} | settings)
    assert _settings.first_steps(problem, asked.settings) is not None
    found = start_cases(problem, asked.settings, None, epsilon, alpha)()
    exact = replace(asked.settings, rtol=1e-11)
    truth = solve_adaptively(problem, exact, None, epsilon, alpha)
    assert not found["result"].any() and not truth["result"].any()
    error = error_of_beta(problem, found["beta"], truth["beta"])
    assert np.max(error) <= asked.settings.rtol


@pytest.mark.parametrize(
    ("num_columns", "smallest", "epsilons", "alphas"),
    [
        (2, 0.3, (-8, 1.5), (-4, -0.5)),
        (2, 0.03, (-6, 0), (-3, -1)),
        (5, 0.03, (-6, 0), (-3, -1)),
        (20, 0.3, (-4, -1), (-2, -1)),
    ],
)
def test_no_estimate_is_below_the_error(num_columns, smallest, epsilons, alphas):
    """Also where it is small by chance: of 20,000 lanes some are unlucky."""
    rng, num_lanes = np.random.default_rng(7), 20_000
    powers = np.log10(smallest), np.log10(2)
    a = 10 ** rng.uniform(*powers, (num_columns, num_lanes))
    epsilon, alpha = (10 ** rng.uniform(*powers, num_lanes) for powers in (epsilons, alphas))
    size = a.sum(axis=0)
    lanes = Lanes(jnp.asarray(a / size), epsilon / size**0.5, alpha * size**0.5, SMOOTHINGS["abs"])
    asked = plan(random_cases(num_columns, 1, (0, 0), (0, 0), 1)[0], 0.1, 0.1)
    steps = _settings.first_steps(asked.problem, asked.settings)
    ends = jax.jit(fixed_step_ends)
    found, truth = (ends(lanes, np.int32(n)) for n in (steps, 240))
    beta, right = (np.asarray(one.w**2 - one.omega**2) for one in (found, truth))
    error = np.max(np.abs(beta - right), axis=0) / np.max(right, axis=0)
    accepted = found.error() <= _settings.tolerance(asked.settings, num_columns)
    assert np.mean(accepted) > 0.3
    assert np.max(error[accepted]) <= 1e-6


def test_most_lanes_need_no_second_try():
    problem, epsilon, alpha = random_cases(2, 1, (-4, -1), (-2, -1), 2048)
    asked = plan(EXAMPLE, epsilon, alpha)
    found = start_cases(EXAMPLE, asked.settings, None, epsilon, alpha)()
    assert np.mean(found["num_steps"] == 21) > 0.999
    # Adversarial data: still few.
    found = start_cases(problem, asked.settings, None, epsilon, alpha)()
    assert np.mean(found["num_steps"]) < 40


def test_slopes_in_epsilon_are_right_to_a_hundred_times_the_tolerance():
    problem, epsilon, alpha = random_cases(2, 2, (-4, 0), (-2, -1), 64)
    asked = plan(problem, epsilon, alpha, variables=["kkt_error", "kkt_error_slope"])
    found = start_cases(problem, asked.settings, None, epsilon, alpha)()

    @jax.jit
    @jax.vmap
    def slope(epsilon, alpha):
        def error(epsilon):
            rule = jms.SmoothedSign(epsilon)
            return jms.kkt(problem, jms.solve_limit(problem, rule, alpha, rtol=1e-11)).error

        return jax.grad(error)(epsilon)

    truth = slope(epsilon, alpha)
    assert np.max(np.abs(found["kkt_error_slope"] / truth - 1)) <= 1e-4


@pytest.mark.parametrize(
    ("smoothing", "x", "y", "epsilon", "alpha", "rtol"),
    [
        ("sqrt", [1.335, -1.570, 0.306], 1.96175, 0.41041, 6.715e-5, 1e-6),
        ("sqrt", [3.0255, 0.19235], 1.61465, 4.712e-3, 1.672e-3, 1e-7),
        ("tanh", [0.0245, -1.577], 0.3244, 3.0e-6, 2.3e-5, 1e-7),
    ],
)
def test_bends_that_estimates_overlook(smoothing, x, y, epsilon, alpha, rtol):
    # They were off by 11 to 21 times the tolerance.
    want = family_limit(np.array(x), y, epsilon, alpha, smoothing, 2).beta
    found = jms.sweep(jms.Problem([x], [y]), [epsilon], [alpha], smoothing=smoothing, rtol=rtol)
    np.testing.assert_allclose(found.beta[0, 0], want, atol=rtol * np.max(np.abs(want)))


@pytest.mark.parametrize("smoothing", ["sqrt", "tanh"])
def test_most_lanes_of_other_smoothings_need_no_third_try(smoothing):
    epsilon, alpha = np.geomspace(1e-4, 1e-1, 500), np.geomspace(1e-2, 1e-1, 500)
    found = jms.sweep(EXAMPLE, epsilon, alpha, product=False, smoothing=smoothing)
    first = _settings.first_steps(
        EXAMPLE, plan(EXAMPLE, epsilon, alpha, smoothing=smoothing).settings
    )
    assert np.mean(found.num_steps == 3 * first) > 0.98


def test_slopes_of_lanes_that_fall_back():
    # SciPy: −6.07186 ± 3e-8; the clock at the tolerance of values gave −12.19.
    problem = jms.Problem([[-1.1297159617807548, -0.4218588261783162]], [0.4625261607620318])
    found = jms.sweep(problem, [1.2253161e-8], [0.58889401856], variables=["kkt_error_slope"])
    assert found.kkt_error_slope.item() == pytest.approx(-6.07186, rel=1e-4)


def test_numbers_out_of_range_are_a_failure():
    found = jms.sweep(jms.Problem([[1e150, 2e150]], [1e-150]), [0.1], [0.1])
    assert found.result.item() == CODES["not_finite"].value
    assert np.isnan(found.beta).all() and np.isnan(found.kkt_error).all()


def test_many_columns_at_a_loose_tolerance():
    problem, epsilon, alpha = random_cases(12, 1, (-7, 1), (-5, -0.4), 400)
    loose, tight = (
        np.asarray(jms.sweep(problem, epsilon, alpha, product=False, rtol=rtol).beta)
        for rtol in (1e-4, 1e-9)
    )
    # A looser one than 2e-5 over the columns is taken as that, by the adaptive solver as well.
    assert np.max(error_of_beta(problem, loose, tight)) < 2e-5


def test_many_blocks_of_one_problem():
    """10⁵ blocks: no X, and what each block of a few gives by itself."""
    problem, epsilon, alpha = random_cases(2, 100_000, (-3, -3), (-1.5, -1.5), 1)
    found = jms.sweep(problem, epsilon, alpha, variables=["beta", "kkt_error"])
    x, y = np.asarray(problem.data.x), np.asarray(problem.y)
    for some in (slice(3), slice(49_999, 50_002), slice(99_997, None)):  # where threads' parts meet
        few = jms.sweep(jms.Problem.from_blocks(x[some], y[some]), epsilon, alpha)
        beta = found.beta.values[0, 0].reshape(-1, 2)[some]
        np.testing.assert_allclose(beta, few.beta.values[0, 0].reshape(-1, 2), rtol=1e-12)
    assert found.result.item() == 0


def program(slope=False):
    cases = Cases(tables(EXAMPLE), None, jnp.full(512, 0.01), jnp.full(512, 0.05))
    arguments = cases, np.arange(512), np.int32(20)
    return _fixed._compiled.lower(*arguments, "abs", slope).compile()


def test_program_has_no_callback_and_no_more_work_than_it_needs():
    """What a step costs in the compiled program: a count, where a time would be noise."""
    compiled = program()
    text = compiled.as_text()
    assert not re.search(r'custom_call_target="[^"]*callback', text)
    assert "all-reduce" not in text and "all-gather" not in text
    # 2,460 a lane, one step and both ends; 7,600 where XLA forms the stages again and again.
    assert compiled.cost_analysis()["flops"] / 64 < 3000
    # On a CPU a chunk calls one kernel for all steps, of three parts a stage.
    marked = re.findall(r"to_apply=%([a-z_]+)\S* frontend_attributes=.*xla_cpu_small_call", text)
    parts = [name.strip("_") for name in marked]
    assert sorted(parts) == ["fixed_step_ends", *7 * ["shrinking"], *7 * ["slopes"], *6 * ["stage"]]


def test_the_loop_over_chunks_knows_no_tables():
    """A chunk that picked its own rows would pay for all: 1.4 times as much for 10⁵ blocks."""
    problem = jms.Problem.from_blocks(np.ones((777, 1)), np.ones(777))
    cases = Cases(tables(problem), None, jnp.ones(1), jnp.ones(1))
    solve = partial(_fixed._ends, smoothing="abs", slope=False)
    program = jax.make_jaxpr(solve)(cases, np.arange(777), np.int32(20))
    (loop,) = (one for one in program.eqns if one.primitive.name == "scan")
    body = loop.params["jaxpr"]
    body = getattr(body, "jaxpr", body)  # closed in jax 0.10, not in 0.11
    assert all(x.aval.size < 777 for x in body.invars)


def test_program_serves_other_values():
    before = _fixed._first._cache_size()
    for scale in (1.0, 2.0, 3.0):
        problem = EXAMPLE.with_data(scale * EXAMPLE.X, EXAMPLE.y)
        jms.sweep(problem, np.geomspace(1e-3, 0.1 * scale, 300), 0.05)
    assert _fixed._first._cache_size() - before <= 1
