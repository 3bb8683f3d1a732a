"""The public face: lazy, documented, and its examples run."""

import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import diffrax
import jax
import numpy as np
import pytest

import jaxmd_sign
from jaxmd_sign import (
    Problem,
    SmoothedSign,
    bregman_gap,
    bregman_minimizer,
    kkt,
    solve_limit,
    solve_trajectory,
)

ROOT = Path(jaxmd_sign.__file__).parents[1]
NAMES = jaxmd_sign.__all__
# What a solve returns is explained field by field; everything that is called has an example.
RETURNED = {
    "Assumptions", "Certificate", "Explanation", "History", "KKT", "Limit", "RESULTS", "Training",
    "Trajectory", "Tuning",
}  # fmt: skip


def run(code):
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_importing_loads_no_jax():
    heavy = (
        "{'jax', 'jaxlib', 'equinox', 'diffrax', 'optimistix', 'lineax', 'matplotlib', 'xarray'}"
    )
    assert run(f"import sys, jaxmd_sign; print({heavy} & set(sys.modules))").strip() == "set()"


def test_loading_every_name_changes_no_setting_of_jax():
    code = """
import jax
before = dict(jax.config.values)
import jaxmd_sign
for name in jaxmd_sign.__all__:
    getattr(jaxmd_sign, name)
after = dict(jax.config.values)
assert before == after, set(before.items()) ^ set(after.items())
assert not after["jax_enable_x64"]
"""
    run(code)


def test_names_load_when_used_and_are_listed():
    for name in NAMES:
        value = getattr(jaxmd_sign, name)
        assert value is getattr(jaxmd_sign, name)
        assert name in dir(jaxmd_sign)
    star = {}
    exec("from jaxmd_sign import *", star)
    assert set(NAMES) == star.keys() - {"__builtins__"}
    assert set(NAMES) == set(jaxmd_sign._HOME)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'solve_everything'"):
        _ = jaxmd_sign.solve_everything


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_documented(name):
    value = getattr(jaxmd_sign, name)
    summary = (value.__doc__ or "").strip().partition("\n")[0]
    assert len(summary) > 20 and summary.endswith((".", ":"))
    # Not the docstring of a base class.
    assert value.__doc__ not in {base.__doc__ for base in getattr(value, "__mro__", ())[1:]}
    if name not in RETURNED:
        assert ">>>" in value.__doc__
        assert "Arguments" in value.__doc__ or name == "GradientDescent"


def documented():
    """Everything with an example in its docstring: public names and what the modules define."""
    found = {}

    def add(name, value):
        if ">>>" in (getattr(value, "__doc__", None) or ""):
            found[name] = value
        if isinstance(value, type):
            for key in vars(value):
                if not key.startswith("_"):
                    member = getattr(value, key)
                    # a default of a field brings the docstring of its type
                    if callable(member) and ">>>" in (getattr(member, "__doc__", None) or ""):
                        found[f"{name}.{key}"] = member

    for name in NAMES:
        add(name, getattr(jaxmd_sign, name))
    for info in pkgutil.iter_modules(jaxmd_sign.__path__, "jaxmd_sign."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) == info.name and name not in NAMES:
                add(name, value)
    return found


EXAMPLES = documented()


def test_examples_are_found():
    assert set(NAMES) - RETURNED <= EXAMPLES.keys()
    assert {"Problem.from_blocks", "Problem.with_data"} <= EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_of_a_docstring_runs(name, capsys):
    value = EXAMPLES[name]
    names = vars(sys.modules[value.__module__]) | {key: getattr(jaxmd_sign, key) for key in NAMES}
    names["problem"] = jaxmd_sign.Problem([[1.3, 0.7]], [1.0])
    test = doctest.DocTestParser().get_doctest(value.__doc__, names, name, None, 0)
    assert test.examples
    runner = doctest.DocTestRunner(verbose=False)
    failed = runner.run(test).failed
    assert failed == 0, capsys.readouterr().out


def certificate(problem, rule, ts):
    limit = solve_limit(problem, rule, 0.05)
    return (
        kkt(problem, limit),
        bregman_gap(problem, limit),
        bregman_minimizer(problem, limit),
    )


def warmup(problem, rule, ts):
    return solve_limit(problem, rule, 0.05, reference="warmup")


def trajectory(problem, rule, ts):
    return solve_trajectory(problem, rule, 0.05, ts=ts)


PROBLEMS = {"blocks": [[1.3, 0.7, 0], [0, 0, 0.9]], "dense": [[1.3, 0.7, 0], [0.2, 0.4, 0.9]]}


@pytest.mark.parametrize("X", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize("call", [certificate, warmup, trajectory])
def test_a_batch_never_calls_back_to_the_host(call, X):
    """Neither in the program, nor in dead code that it may have lost."""
    problem = Problem(X, [1.0, 0.5])

    def member(epsilon, ts):
        return call(problem, SmoothedSign(epsilon), ts)

    epsilons, ts = np.array([0.1, 0.2]), np.array([[0.0, 1.0], [0.0, 2.0]])
    traced = jax.jit(jax.vmap(member)).trace(epsilons, ts)
    assert "callback" not in str(traced.jaxpr)
    assert "callback" not in traced.lower().as_text()


def test_results_name_a_remedy():
    results = jaxmd_sign.RESULTS
    own = set(results._name_to_item) - set(diffrax.RESULTS._name_to_item)
    assert {"bad_input", "not_finite", "dual_not_converged"} <= own
    remedies = ("Check ", "Scale ", "Take ", "Use ", "take ", "use ", "remove ", "increasing `max_")
    for name in sorted(own | {"max_steps_reached"}):
        sentence = results[getattr(results, name)]
        assert sentence.endswith("."), name
        assert any(remedy in sentence for remedy in remedies), sentence


def test_results_extend_those_of_diffrax():
    results = jaxmd_sign.RESULTS
    assert issubclass(results, diffrax.RESULTS)
    assert results.promote(diffrax.RESULTS.max_steps_reached) == results.max_steps_reached
    assert results[results.successful] == ""


PROBLEM = Problem(PROBLEMS["blocks"], [1.0, 0.5])
OTHER_KIND = {
    "problem": [
        lambda bad: solve_limit(bad, SmoothedSign(0.1), 0.05),
        lambda bad: solve_trajectory(bad, SmoothedSign(0.1), 0.05),
        lambda bad: kkt(bad, limit()),
        lambda bad: bregman_gap(bad, limit()),
        lambda bad: bregman_minimizer(bad, limit()),
        lambda bad: jaxmd_sign.certify(bad, 0.1, 0.05),
        lambda bad: jaxmd_sign.check_assumptions(bad, 0.1, 0.05),
        lambda bad: jaxmd_sign.explain(bad, limit().beta),
        lambda bad: jaxmd_sign.sweep(bad, 0.1, 0.05),
        lambda bad: jaxmd_sign.train(bad, jaxmd_sign.smoothed_sign(1e-3, 0.1), 0.05, 10),
        lambda bad: jaxmd_sign.tune_epsilon(bad, 0.05),
    ],
    "rule": [lambda bad: solve_limit(PROBLEM, bad, 0.05)],
    "limit": [
        lambda bad: kkt(PROBLEM, bad),
        lambda bad: bregman_gap(PROBLEM, bad),
        lambda bad: bregman_minimizer(PROBLEM, bad),
        lambda bad: jaxmd_sign.bregman(bad, np.zeros(3)),
    ],
    "beta": [
        lambda bad: jaxmd_sign.bregman(limit(), bad),
        lambda bad: jaxmd_sign.explain(PROBLEM, bad),
    ],
    "key": [
        lambda bad: jaxmd_sign.random_block_problem(bad, 3),
        lambda bad: jaxmd_sign.random_sparse_problem(bad, 3, 6, 2),
    ],
    "path": [jaxmd_sign.load_problem],
    "store": [lambda bad: jaxmd_sign.sweep(PROBLEM, 0.1, 0.05, store=bad)],
    "variables": [lambda bad: jaxmd_sign.sweep(PROBLEM, 0.1, 0.05, variables=bad)],
    "rtol": [lambda bad: solve_limit(PROBLEM, SmoothedSign(0.1), 0.05, rtol=bad)],
    "atol": [lambda bad: solve_trajectory(PROBLEM, SmoothedSign(0.1), 0.05, atol=bad)],
    "adjoint": [
        lambda bad: solve_limit(PROBLEM, SmoothedSign(0.1), 0.05, adjoint=bad),
        lambda bad: solve_trajectory(PROBLEM, SmoothedSign(0.1), 0.05, adjoint=bad),
    ],
    "solver": [lambda bad: solve_trajectory(PROBLEM, SmoothedSign(0.1), 0.05, solver=bad)],
    "client": [lambda bad: jaxmd_sign.sweep(PROBLEM, 0.1, 0.05, client=bad)],
    "noise": [lambda bad: jaxmd_sign.random_sparse_problem(jax.random.key(0), 3, 6, 2, bad)],
    "smoothing": [lambda bad: SmoothedSign(0.1, bad)],
    "objective": [
        lambda bad: jaxmd_sign.tune_epsilon(PROBLEM, 0.05, objective=bad),
        lambda bad: jaxmd_sign.tune_epsilon(PROBLEM, 0.05, objective=lambda limit: bad),
        lambda bad: jaxmd_sign.tune_epsilon(PROBLEM, 0.05, objective=lambda *given: [bad]),
    ],
    "potentials": [
        lambda bad: jaxmd_sign.explain(PROBLEM, limit().beta, potentials=bad),
        lambda bad: jaxmd_sign.explain(PROBLEM, limit().beta, potentials={"own": bad}),
        lambda bad: jaxmd_sign.explain(PROBLEM, limit().beta, potentials={"own": lambda b: [bad]}),
        lambda bad: jaxmd_sign.explain(PROBLEM, limit().beta, potentials={"own": lambda a, b: a}),
    ],
    "dtype": [lambda bad: jaxmd_sign.random_block_problem(jax.random.key(0), 3, dtype=bad)],
}


def limit():
    return solve_limit(PROBLEM, SmoothedSign(0.1), 0.05)


@pytest.mark.parametrize("name", OTHER_KIND)
def test_an_argument_of_another_kind_is_named(name, without_type_checks):
    for call in OTHER_KIND[name]:
        for bad in (3j, [{}]):
            with pytest.raises(ValueError, match=rf"{name}:? .*(must|has) ") as caught:
                call(bad)
            assert "\n" not in str(caught.value)


def test_an_array_is_called_an_array(without_type_checks):
    """In a compiled function it is something else by then."""
    with pytest.raises(ValueError, match=r"problem must be a Problem, but is an array\."):
        kkt(np.ones(3), limit())
    with pytest.raises(ValueError, match=r"limit must be what .* returns, but is an array\."):
        kkt(PROBLEM, np.ones(3))


def test_a_limit_of_another_problem_is_refused():
    other = jaxmd_sign.random_block_problem(jax.random.key(0), 4)
    batch = jax.vmap(lambda y: solve_limit(Problem(PROBLEM.data, y), SmoothedSign(0.1), 0.05))
    for wrong in (limit(), batch(np.ones((3, 2)))):
        with pytest.raises(ValueError, match="limit must be one of this problem, with beta of"):
            kkt(other, wrong)


@pytest.mark.parametrize(
    "number", [np.float32, np.asarray, jax.numpy.asarray], ids=["float32", "numpy", "jax"]
)
def test_a_tolerance_is_any_number(number, without_type_checks):
    rule, rtol = SmoothedSign(0.1), 2.0**-20
    found = solve_limit(PROBLEM, rule, 0.05, rtol=number(rtol))
    assert np.array_equal(found.beta, solve_limit(PROBLEM, rule, 0.05, rtol=rtol).beta)
