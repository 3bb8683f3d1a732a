"""Sweeps of a general X at loose tolerances: steps in single precision, and when."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from general_cases import errors, small

import jaxmd_sign as jms
from jaxmd_sign._batch import _at_start, batch_ends
from jaxmd_sign._batch_step import Flows, take_step
from jaxmd_sign._dense_limit import fits_single, in_units, settling, step_error
from jaxmd_sign._smoothing import Abs
from jaxmd_sign._sweep import _cases, _general

RTOL = 5e-5


@pytest.fixture
def precisions(monkeypatch):
    """Of every walk: whether its steps were in single precision. No case may go elsewhere."""
    seen, ends = [], _general._ends

    def spied(*args):
        seen.append(args[-1])
        return ends(*args)

    def refuse(*_):
        raise AssertionError("the adaptive solver was called")

    monkeypatch.setattr(_general, "_ends", spied)
    monkeypatch.setattr(_cases, "solve_adaptively", refuse)
    return seen


@pytest.mark.parametrize("seed", range(4))
def test_errors_stay_within_a_loose_tolerance(seed, precisions):
    X, y = small(seed)
    found = jms.sweep(jms.Problem(X, y), np.geomspace(1e-3, 1, 6), 0.05, rtol=RTOL)
    assert precisions and all(precisions)
    assert np.all(found.result == 0)
    assert np.all(errors(found, X, y, 0.05) <= RTOL)
    assert np.all(found.feasibility <= 1e-12)  # the finish is in double precision


@pytest.mark.parametrize("smoothing", ["sqrt", "tanh"])
def test_other_smoothings_are_as_good(smoothing, precisions):
    problem, epsilon = jms.Problem(*small(0)), np.geomspace(1e-3, 1, 6)
    found, right = (
        jms.sweep(problem, epsilon, 0.05, rtol=rtol, smoothing=smoothing, variables=["beta"]).beta
        for rtol in (RTOL, 1e-7)
    )
    assert set(precisions) == {True, False}
    assert np.max(np.abs(found - right)) <= RTOL * np.max(np.abs(right))


def test_what_steps_add_up_to_is_in_double_precision():
    """After a short step the weights and c agree to a small part of what it moved c by."""
    X, y = small(0)
    flows = flows_of(in_units(jnp.asarray(X), jnp.asarray(y)), jnp.geomspace(1e-3, 1, 5), 0.05)
    start, h = _at_start(flows, np.dtype("float32")), jnp.full(5, 1e-4, jnp.float32)
    end = take_step(flows, flows.rounded(), start, h, jnp.array(4), jnp.ones(5, jnp.float32))
    assert np.all(end.accepted == 1)
    moved = np.max(np.abs(end.c - start.c))
    assert 1e-6 < moved < 1e-3  # of c itself, single precision keeps 6e-8
    assert np.max(np.abs(end.c - flows.gradient(end.weights))) <= 1e-5 * moved


def test_a_weight_sinks_and_comes_back(precisions, monkeypatch):
    # Where c/ε is some 10⁴.
    monkeypatch.setattr(_general, "fits_single", lambda *_: True)
    rng = np.random.default_rng(11)
    for _ in range(1056):
        X, y, alpha = rng.normal(size=(3, 6)), rng.normal(size=3), 10 ** rng.uniform(-2, -0.5)
    found = jms.sweep(jms.Problem(X, y), [1e-4], alpha, rtol=RTOL)
    assert precisions == [True]
    assert np.all(errors(found, X, y, alpha) <= 0.1 * RTOL)


def test_single_precision_is_for_what_it_does_not_slow_down(precisions):
    problem, (X, y) = jms.Problem(*small(0)), small(0)
    left, singular, right = np.linalg.svd(X, full_matrices=False)
    ill_conditioned = jms.Problem(left * singular[0] / [1, 10, 100] @ right, y)

    def in_single(problem=problem, epsilon=(1e-2,), alpha=0.05, rtol=RTOL, **settings):
        precisions.clear()
        jms.sweep(problem, epsilon, alpha, rtol=rtol, **settings)
        return set(precisions)

    assert in_single() == {True}
    unit = float(in_units(jnp.asarray(X), jnp.asarray(y)).gradient)
    # Beside a small ε many stages pass on rounding, and logarithms of weights that sink see it.
    for rtol, too_small, enough in [(RTOL, 1.9e-5, 2.1e-5), (1.5e-5, 3.9e-5, 4.1e-5)]:
        assert in_single(epsilon=[1e-2, too_small * unit], rtol=rtol) == {False}
        assert in_single(epsilon=[1e-2, enough * unit], rtol=rtol) == {True}
    # Beside a large one the error of a step is next to rounding.
    assert in_single(epsilon=[1e-2, 3.5 * unit]) == {False}
    assert in_single(epsilon=[1e-2, 3.0 * unit]) == {True}
    assert in_single(alpha=30.0) == {False}  # α² takes the digits
    assert in_single(alpha=1e-40) == {False}  # no single number is as small
    assert in_single(rtol=1e-6) == {False}
    assert in_single(ill_conditioned) == {False}  # many stages, for long
    assert in_single(variables=["kkt_error_slope"]) == {False}


def test_steps_in_single_precision_stay_few():
    """Where it is used: the number of steps is that of double precision, but for a tenth."""
    for seed in range(4):
        X, y = small(seed)
        units = in_units(jnp.asarray(X), jnp.asarray(y))
        epsilon, start = np.geomspace(1e-5, 10, 13), np.array(0.05)
        alpha = 0.05 / float(units.weight)
        given = [np.array(e * units.gradient) for e in epsilon]
        epsilon = epsilon[[fits_single(RTOL, units, one, start) for one in given]]
        assert len(epsilon) >= 8
        counts = []
        for single in (True, False):
            flows = flows_of(units, jnp.asarray(epsilon), alpha)
            ends = walk(flows, single)
            assert np.all(ends.settled)
            counts.append(np.asarray(ends.num_steps))
        assert np.sum(counts[0]) <= 1.1 * np.sum(counts[1])


def flows_of(units, epsilon, alpha):
    X = units.X
    return Flows(X, X.T, units.inverse, units.y, epsilon, jnp.full_like(epsilon, alpha), Abs())


def walk(flows, single):
    local, tolerance = step_error(RTOL, flows, 0), settling(RTOL, flows)
    return jax.jit(batch_ends, static_argnums=(3, 4))(flows, local, tolerance, 20_000, single)


def test_no_product_of_a_step_is_in_double_precision():
    """Those that are look after the steps: at the start, once in eight of them, and at the end."""
    X, y = small(0)
    flows = flows_of(in_units(jnp.asarray(X), jnp.asarray(y)), jnp.geomspace(1e-3, 1, 5), 0.05)
    ones = jnp.ones(5)
    text = jax.jit(lambda: batch_ends(flows, ones, ones, 10, True)).lower().as_text()
    found = re.findall(r"dot_general.*-> tensor<\dx5x(f\d\d)>", text)
    # Xβ − y thrice, and Xᵀ of it twice; stages one, two and three, the end, and the power method's.
    assert found.count("f64") == 5
    assert found.count("f32") >= 6


def test_doubtful_cases_are_solved_again_in_double_precision(precisions, monkeypatch):
    monkeypatch.setattr(_general, "SAFETY", 1e9)  # all are doubtful
    with pytest.raises(AssertionError, match="adaptive"):
        jms.sweep(jms.Problem(*small(1)), [1e-2], 0.05, rtol=RTOL)
    assert precisions == [True, False]
