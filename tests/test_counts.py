"""What the benchmarks' workloads take, in counts: times are noise on a shared machine.

Fixed steps are exact. Adaptive ones have a margin of one, or 2 % of thousands, since a last digit
may tip a step; operations of XLA's program one of 10 %, since another version may fuse otherwise.
"""

import re

import jax
import numpy as np
import optax
import pytest

import jaxmd_sign as jms
from benchmarks import roofline
from benchmarks.workloads import example, random_blocks, ten_blocks, workload
from jaxmd_sign._sweep import _engine, _fixed


def steps_of(work, **options):
    found = jms.sweep(*work, product=False, variables=["beta", "num_steps"], **options)
    assert not found.result.any()
    return found.num_steps.values


@pytest.mark.parametrize(("problem", "steps"), [(example(), 21), (ten_blocks(), 210)])
def test_every_case_of_a_sweep_takes_21_steps_a_block(problem, steps):
    assert np.all(steps_of(workload(problem, 1024)) == steps)


def test_steps_do_not_grow_as_epsilon_falls():
    epsilon, alpha = 10.0 ** -np.arange(1, 9), np.full(8, 0.05)
    assert np.all(steps_of((example(), epsilon, alpha)) == 21)


def test_steps_grow_slowly_with_the_columns():
    steps = steps_of(workload(random_blocks(1, 5), 256))
    assert np.mean(steps == 29) > 0.95  # the others are solved again


def test_a_limit_takes_so_many_steps():
    limit = jms.solve_limit(example(), jms.SmoothedSign(1e-3), 0.05)
    assert limit.stats["num_accepted_steps"].item() == pytest.approx(29, abs=1)
    assert limit.stats["num_rejected_steps"].item() == pytest.approx(8, abs=1)


def test_a_flow_takes_so_many_steps():
    flow = jms.solve_trajectory(example(), jms.SmoothedSign(1e-3), 0.05, ts=np.linspace(0, 2, 200))
    assert flow.stats["num_accepted_steps"].item() == pytest.approx(37, abs=1)
    assert flow.stats["num_rejected_steps"].item() == pytest.approx(22, abs=1)


def test_a_general_sweep_takes_so_many_steps():
    problem = jms.random_sparse_problem(jax.random.key(0), 6, 12, 2)
    # Each alone, and 32 together: that costs next to no steps.
    for num_cases, num_steps in ((8, 2328), (64, 17712)):
        found = jms.sweep(problem, np.geomspace(1e-3, 1, num_cases), 0.05, rtol=1e-5)
        assert found.num_steps.values.sum() == pytest.approx(num_steps, rel=0.02)
    limit = jms.solve_limit(problem, jms.SmoothedSign(1e-2), 0.05)
    assert limit.stats["num_accepted_steps"].item() == pytest.approx(5615, rel=0.02)
    assert limit.stats["num_rejected_steps"].item() == pytest.approx(33, abs=8)


def test_a_step_costs_so_much(monkeypatch):
    """Right-hand sides a step: six, since the first is the last of the step before."""
    calls, field = [], _engine._Field.__call__

    def counted(*args):
        calls.append(1)
        return field(*args)

    monkeypatch.setattr(_engine._Field, "__call__", counted)
    jax.clear_caches()  # else it is traced already
    program, _ = roofline.compiled(1280)
    assert len(calls) == 1 + 6  # at the start, and in the body of the loop, which is traced once
    text = program.as_text()
    work = roofline.work_of_a_step(text)
    assert work["flops"] == pytest.approx(1239, rel=0.1)
    assert work["divisions"] <= 44
    assert work["exponentials"] == 12  # one for each of two columns and six right-hand sides
    assert not re.search(r'custom_call_target="[^"]*callback', text)


def test_a_sweep_is_traced_once_and_calls_back_never(monkeypatch):
    traces, ends = [], _fixed.fixed_step_ends

    def counted(*args):
        traces.append(1)
        return ends(*args)

    monkeypatch.setattr(_fixed, "fixed_step_ends", counted)
    for seed in range(3):
        problem = jms.random_block_problem(jax.random.key(seed), 7, 2)
        steps_of(workload(problem, 96), rtol=1e-7)
    assert 1 <= len(traces) <= 2  # a second where lanes are solved again


def test_a_training_step_evaluates_one_gradient():
    calls = []

    def update(updates, state, params=None):
        calls.append(1)
        return jax.tree.map(lambda g: -1e-3 * g, updates), state

    optimizer = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    jms.train(example(), optimizer, 0.05, 1000)
    assert len(calls) <= 2  # traces, however many steps
