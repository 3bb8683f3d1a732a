"""Sweeps: every number against one solve at a time, order, failures, devices, memory, arguments."""

import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import xarray as xr
from hypothesis import given, strategies as st

import jaxmd_sign as jms
from jaxmd_sign._sweep import _adaptive, _dataset, _fixed, _plan, _run
from jaxmd_sign._sweep._plan import MOST_LOST, cut, make_plan
from jaxmd_sign._sweep._progress import Progress
from jaxmd_sign._sweep._variables import CODES, DEFAULT_VARIABLES, VARIABLES

ROOT = Path(jms.__file__).parents[1]
# Two rows, permuted columns, the last one dead.
X = np.array([[0.9, 0, -0.3, 0, 1.4, 0], [0, -1.2, 0, 0.5, 0, 0]])
Y = np.array([1.1, -0.7])
BLOCKS = jms.Problem(X, Y)
EXAMPLE = jms.Problem([[1.3, 0.7]], [1.0])
MOST_STEPS = 12
EPSILON, ALPHA = np.array([1e-4, 3e-2, 0.5, 4.0]), np.array([0.01, 0.2])


@jax.jit
def one_by_one(problem, epsilon, alpha):
    """Every variable of one case by the functions that users call."""
    limit = jms.solve_limit(problem, jms.SmoothedSign(epsilon), alpha, rtol=1e-10)
    conditions, minimizer = jms.kkt(problem, limit), jms.bregman_minimizer(problem, limit)
    return {
        "kkt_error": conditions.error,
        "kkt_relative_error": conditions.relative_error,
        "bregman": jms.bregman(limit, limit.beta),
        "bregman_gap": jms.bregman_gap(problem, limit),
        "distance_to_minimizer": jnp.linalg.norm(limit.beta - minimizer),
        "beta": limit.beta,
        "feasibility": conditions.feasibility,
        "result": 0,
    }


def assert_same(found, expected):
    assert tuple(found.data_vars) == DEFAULT_VARIABLES
    for name, value in expected.items():
        scale = np.max(np.abs(value)) if name != "feasibility" else 1e-8
        np.testing.assert_allclose(found[name].values, value, 0, 1e-6 * scale, err_msg=name)


@pytest.fixture(scope="module")
def grid():
    return jms.sweep(BLOCKS, EPSILON, ALPHA)


def test_grid_is_what_one_solve_at_a_time_gives(grid):
    assert dict(grid.sizes) == {"epsilon": 4, "alpha": 2, "feature": 6}
    for epsilon in EPSILON:
        for alpha in ALPHA:
            here = grid.sel(epsilon=epsilon, alpha=alpha)
            assert_same(here, one_by_one(BLOCKS, epsilon, alpha))


def test_grid_is_right(grid):
    """Against the reference, to the tolerance that is promised."""
    for epsilon in EPSILON:
        for alpha in ALPHA:
            beta = grid.beta.sel(epsilon=epsilon, alpha=alpha).values
            for row, y in zip(X, Y, strict=True):
                columns = np.flatnonzero(row)
                truth = ref.block_limit(row[columns], y, epsilon, alpha).beta
                error = np.max(np.abs(beta[columns] - truth)) / np.max(np.abs(truth))
                assert error <= 1e-6
            assert beta[5] == 0


def test_zipped_cases_are_the_diagonal_of_the_grid(grid):
    zipped = jms.sweep(BLOCKS, EPSILON[:2], ALPHA, product=False)
    assert zipped.kkt_error.dims == ("case",) and zipped.beta.dims == ("case", "feature")
    case = xr.DataArray([0, 1], dims="case")
    xr.testing.assert_allclose(zipped, grid.isel(epsilon=case, alpha=case), rtol=1e-12)


def test_zipped_with_one_number(grid):
    zipped = jms.sweep(BLOCKS, EPSILON, ALPHA[1], product=False)
    np.testing.assert_allclose(zipped.beta, grid.beta.isel(alpha=1), 1e-12)
    np.testing.assert_array_equal(zipped.alpha, np.full(4, ALPHA[1]))


def test_numbers_are_axes_of_length_one(grid):
    found = jms.sweep(BLOCKS, EPSILON[2], ALPHA[0])
    assert found.kkt_error.shape == (1, 1)
    np.testing.assert_allclose(found.beta[0, 0], grid.beta[2, 0], 1e-12)


@pytest.mark.parametrize("product", [True, False])
def test_several_problems_are_each_by_itself(product, grid):
    other = BLOCKS.with_data(X * 1.2, -2 * Y)
    turned = jms.Problem(X[:, ::-1], Y)  # other columns in the blocks
    alpha = ALPHA if product else 0.2
    several = jms.sweep([BLOCKS, other, turned], EPSILON, alpha, product=product, chunk_size=5)
    assert several.beta.dims[0] == "problem" and several.sizes["problem"] == 3
    for i, problem in enumerate((BLOCKS, other, turned)):
        alone = jms.sweep(problem, EPSILON, alpha, product=product)
        xr.testing.assert_allclose(several.isel(problem=i), alone, rtol=1e-12)


@pytest.mark.parametrize(("smoothing", "depth"), [("tanh", 2), ("abs", 3)])
def test_other_smoothings_and_depths(smoothing, depth):
    found = jms.sweep(EXAMPLE, [0.02, 0.4], 0.05, smoothing=smoothing, depth=depth)
    for epsilon in found.epsilon.values:
        limit = jms.solve_limit(
            EXAMPLE, jms.SmoothedSign(epsilon, smoothing), 0.05, depth=depth, rtol=1e-10
        )
        here = found.sel(epsilon=epsilon, alpha=0.05)
        np.testing.assert_allclose(here.beta, limit.beta, rtol=1e-6)
        error = jms.kkt(EXAMPLE, limit).error
        np.testing.assert_allclose(here.kkt_error, error, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="depth must be a whole number from 2 to 8"):
        jms.sweep(EXAMPLE, 0.1, 0.05, depth=1)
    with pytest.raises(ValueError, match="smoothing must be one of"):
        jms.sweep(EXAMPLE, 0.1, 0.05, smoothing="foo")


@pytest.mark.slow
def test_general_data():
    problem = jms.random_sparse_problem(jax.random.key(3), 2, 5, 2)
    found = jms.sweep(problem, [0.3, 1.0], 0.1, rtol=1e-8)
    for epsilon in found.epsilon.values:
        here = found.sel(epsilon=epsilon, alpha=0.1)
        assert_same(here, one_by_one(problem, epsilon, 0.1))


@pytest.mark.slow
def test_reference_at_the_end_of_the_warm_up():
    names = ["kkt_error"]
    found = jms.sweep(BLOCKS, EPSILON[:2], ALPHA[0], reference="warmup", variables=names)
    for epsilon in found.epsilon.values:
        pieces = [
            ref.block_limit(row[row != 0], y, epsilon, ALPHA[0], "warmup").kkt_error
            for row, y in zip(X, Y, strict=True)
        ]
        here = found.kkt_error.sel(epsilon=epsilon, alpha=ALPHA[0])
        assert np.isclose(here, np.linalg.norm(pieces), rtol=1e-5)


def test_order_and_threads_do_not_matter(monkeypatch, grid):
    expected = jms.sweep(BLOCKS, EPSILON[::-1], ALPHA, chunk_size=2)
    xr.testing.assert_allclose(expected.sortby("epsilon"), grid, rtol=1e-12)
    for threads in (1, 3):
        monkeypatch.setattr(_run, "num_threads", lambda problem, n=threads: n)
        xr.testing.assert_identical(jms.sweep(BLOCKS, EPSILON[::-1], ALPHA, chunk_size=2), expected)


def test_stopping_waits_for_what_has_begun(monkeypatch):
    begun, ended = [], []

    def slow(plan, index):
        begun.append(index)

        def solved():
            time.sleep(0.05)
            ended.append(index)
            return plan.chunk(index), {}, {}

        return solved

    monkeypatch.setattr(_run, "_start", slow)
    monkeypatch.setattr(_run, "num_threads", lambda problem: 2)
    chunks = _run.solve_chunks(plan_of(BLOCKS, EPSILON, ALPHA, chunk_size=1), range(8))
    next(chunks), next(chunks)
    chunks.close()
    assert sorted(begun) == sorted(ended) and len(begun) < 8
    time.sleep(0.1)
    assert len(begun) == len(ended)  # and none of the others begins afterwards


def test_what_had_nothing_to_do_has_compiled_nothing(monkeypatch):
    monkeypatch.setattr(_run, "_compiled", set())
    plan = plan_of(BLOCKS, EPSILON, ALPHA)
    assert list(_run.solve_chunks(plan, [])) == [] and not _run._compiled
    assert len(list(_run.solve_chunks(plan, [0]))) == 1 and _run._compiled


def test_the_dataset_is_made_while_cases_are_solved(monkeypatch):
    order, start, coordinates = [], _run.start_cases, _dataset.coordinates

    def started(*given):
        collect = start(*given)
        order.append("begun")
        return lambda: (order.append("asked for"), collect())[1]

    def labelled(*given):
        order.append("labelled")
        return coordinates(*given)

    monkeypatch.setattr(_run, "start_cases", started)
    monkeypatch.setattr(_dataset, "coordinates", labelled)
    jms.sweep(BLOCKS, EPSILON, ALPHA)
    assert order == ["begun", "labelled", "asked for"]


def test_failed_cases_are_nan_with_their_code_and_the_others_stand(grid):
    # So few that the fixed-step engine stays out, and the adaptive solver is done with some only.
    found = jms.sweep(BLOCKS, EPSILON, ALPHA, max_steps=MOST_STEPS)
    failed = found.result == CODES["max_steps_reached"].value
    assert 0 < failed.sum() < 8
    assert np.all(found.result.where(~failed, 0) == 0)
    floats = [name for name in found.data_vars if found[name].dtype == float]
    assert len(floats) == 7
    for name in floats:
        assert found[name].where(failed).isnull().all()
    kept = found[floats].where(~failed), grid[floats].where(~failed)
    xr.testing.assert_allclose(*kept, rtol=1e-6, atol=1e-7)


def test_codes_are_named_in_the_dataset(grid):
    notes = grid.result.attrs
    names = dict(zip(notes["flag_meanings"].split(), notes["flag_values"], strict=True))
    assert names == {name: code.value for name, code in CODES.items()}
    # These numbers are in the stores of users.
    assert list(names.values()) == [-1, 0, 1, 2, 3, 4, 5] and names["max_steps_reached"] == 1
    assert all(code.sentence.endswith(".") for name, code in CODES.items() if name != "successful")


def test_some_variables_only(grid):
    found = jms.sweep(BLOCKS, EPSILON, ALPHA, variables=["beta"])
    assert list(found.data_vars) == ["beta", "result"]
    xr.testing.assert_allclose(found, grid[["beta", "result"]], rtol=1e-12)


def test_slope_is_the_derivative_in_epsilon():
    epsilon, step = 0.08, 1e-3
    names = ["kkt_error_slope", "kkt_error"]
    three = [epsilon - step, epsilon, epsilon + step]
    found = jms.sweep(BLOCKS, three, 0.05, variables=names, rtol=1e-10).isel(alpha=0)
    left, _, right = found.kkt_error.values
    assert np.isclose(found.kkt_error_slope[1], (right - left) / (2 * step), rtol=1e-3)


def test_a_shape_is_compiled_once():
    programs = _fixed._first, _fixed._compiled, _adaptive._ends, _adaptive._solve
    jms.sweep(BLOCKS, EPSILON, ALPHA)  # not the fixture's: `room_for_programs` may have come since
    before = [program._cache_size() for program in programs]
    jms.sweep(BLOCKS, EPSILON * 2, ALPHA)
    jms.sweep(BLOCKS.with_data(2 * X, Y), EPSILON, ALPHA)
    jms.sweep(BLOCKS, EPSILON, ALPHA, variables=["beta"])
    assert [program._cache_size() for program in programs] == before


@pytest.mark.parametrize(
    ("num_cases", "size"), [(1, 4), (16, 16), (40, 16), (120, 128), (500, 256)]
)
def test_batches_have_few_sizes_and_pad_little(num_cases, size):
    assert _adaptive._batch_size(EXAMPLE, num_cases) == size
    assert _adaptive._batch_size(EXAMPLE, 10_000) == 256


def test_float32_has_its_own_tolerance():
    problem = jms.Problem(X.astype(np.float32), Y.astype(np.float32))
    found = jms.sweep(problem, EPSILON, ALPHA)
    assert found.beta.dtype == np.float32 and found.attrs["rtol"] == 1e-5
    truth = jms.sweep(BLOCKS, EPSILON, ALPHA)
    np.testing.assert_allclose(found.beta, truth.beta, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="rtol must be a number from"):
        jms.sweep(problem, EPSILON, ALPHA, rtol=1e-7)


@pytest.mark.slow
def test_two_devices_give_what_one_gives(grid):
    code = f"""
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_compilation_cache_dir", {str(ROOT / ".pytest_cache" / "jax")!r})
assert jax.local_device_count() == 2
import jaxmd_sign as jms
problem = jms.Problem({X.tolist()}, {Y.tolist()})
found = jms.sweep(problem, {EPSILON.tolist()}, {ALPHA.tolist()})
text = {{name: found[name].values.tolist() for name in found.data_vars}}
import json; print(json.dumps(text))
from jaxmd_sign._sweep._adaptive import _solve
from jaxmd_sign._sweep._plan import make_plan
settings = make_plan(problem, 1.0, 1.0, product=True, chunk_size=None, variables=None, rtol=1e-6,
    reference="start", smoothing="abs", depth=2, max_steps=65536).settings
cases = None, np.ones(16), np.ones(16)
program = _solve.lower(problem, cases, 1e-6, settings).compile().as_text()
assert "all-reduce" not in program and "all-gather" not in program
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | flags,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    # Other programs round otherwise, and the step control carries that on.
    for name, values in json.loads(process.stdout).items():
        np.testing.assert_allclose(values, grid[name], 1e-10, 1e-14, err_msg=name)


# Plans: arithmetic on the grid.


def plan_of(problem=EXAMPLE, epsilon=0.1, alpha=0.05, **changes):
    options = {"product": True, "chunk_size": None, "variables": None, "rtol": 1e-6}
    options |= {"reference": "start", "smoothing": "abs", "depth": 2, "max_steps": 65536}
    return make_plan(problem, epsilon, alpha, **(options | changes))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 40))
def test_a_tile_is_a_slice_of_the_flat_order(shape, most):
    tile = cut(tuple(shape), most)
    assert 1 <= np.prod(tile) <= most
    # Whole inner axes, part of one, single entries outside of it.
    inner = [size == side for size, side in zip(shape, tile, strict=True)]
    first_whole = max([i + 1 for i, whole in enumerate(inner) if not whole], default=0)
    assert all(side == 1 for side in tile[: max(first_whole - 1, 0)])


@pytest.mark.parametrize("chunk_size", [1, 7, 12, 50, 1000])
def test_chunks_hold_every_case_once(chunk_size):
    epsilon, alpha = np.geomspace(1e-3, 1, 9), np.geomspace(0.01, 0.1, 5)
    plan = plan_of([EXAMPLE] * 3, epsilon, alpha, chunk_size=chunk_size)
    flat = []
    for index in range(plan.num_chunks):
        chunk = plan.chunk(index)
        assert chunk.stop - chunk.start == np.prod(chunk.extent) <= chunk_size
        which, *pair = plan.cases(np.arange(chunk.start, chunk.stop))
        box = tuple(
            slice(first, first + size)
            for first, size in zip(chunk.corner, chunk.extent, strict=True)
        )
        wanted = np.meshgrid(np.arange(3), epsilon, alpha, indexing="ij")
        for got, values in zip((which, *pair), wanted, strict=True):
            np.testing.assert_array_equal(got, values[box].ravel())
        flat += range(chunk.start, chunk.stop)
    assert flat == list(range(plan.num_cases))


def test_a_kill_costs_few_cases_and_every_thread_has_work(monkeypatch):
    many = plan_of(epsilon=np.geomspace(1e-4, 1, 1000), alpha=np.geomspace(0.01, 1, 1000))
    threads = _plan.num_threads(EXAMPLE)
    assert 100 <= np.prod(many.tile) <= MOST_LOST / (threads + 4)
    monkeypatch.setattr(_plan, "num_threads", lambda problem: 4)
    assert plan_of(epsilon=np.geomspace(1e-4, 1, 1500 * 4)).num_chunks == 4
    few = np.geomspace(1e-4, 1, 64)
    # Of the engine's time, 64 cases take less than it takes to wake a thread.
    assert plan_of(epsilon=few).num_chunks == 1
    assert plan_of(epsilon=few, smoothing="clip").num_chunks == 4
    assert plan_of(epsilon=few, rtol=1e-12).num_chunks == 4
    wide = jms.Problem.from_blocks(np.ones((100_000, 1)), np.ones(100_000))
    assert np.prod(plan_of(wide, many.epsilon).tile) == 1


def test_ten_million_cases_need_little_memory_before_they_are_solved():
    axis = np.geomspace(1e-4, 1, 3163)
    tracemalloc.start()
    plan = plan_of(epsilon=axis, alpha=axis)
    plan.cases(np.arange(*plan.chunk(plan.num_chunks - 1)[-2:]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert plan.num_cases > 10_000_000 and peak < 20e6


# Arguments.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem": []}, "problem must be a Problem, or a non-empty sequence"),
        ({"problem": [EXAMPLE, BLOCKS]}, "entries 0 and 1 differ in shape"),
        ({"epsilon": 0.0}, "epsilon must be positive and finite, but is 0.0"),
        ({"epsilon": [0.1, -1.0]}, "epsilon must be positive and finite, but entry 1 is -1.0"),
        ({"epsilon": [np.nan, 1.0]}, "epsilon must be positive and finite, but entry 0 is nan"),
        ({"epsilon": []}, r"epsilon must be .* non-empty axis, but has shape \(0,\)"),
        ({"epsilon": [[0.1]]}, r"epsilon must be .* non-empty axis, but has shape \(1, 1\)"),
        ({"epsilon": "small"}, "epsilon must be positive numbers, but is 'small'"),
        ({"alpha": np.inf}, "alpha must be positive and finite, but is inf"),
        ({"alpha": []}, "alpha must be"),
        (
            {"epsilon": [1, 2, 3], "alpha": [1, 2], "product": False},
            "epsilon and alpha must have the same length with product=False, but have 3 and 2",
        ),
        ({"rtol": 1e-16}, "rtol must be a number from"),
        ({"rtol": 2.0}, "rtol must be a number from"),
        ({"reference": "end"}, 'reference must be "start" or "warmup"'),
        ({"smoothing": "none"}, "smoothing must be"),
        ({"depth": 1}, "depth must be"),
        ({"max_steps": 0}, "max_steps must be a positive whole number"),
        ({"chunk_size": 0}, "chunk_size must be a whole number from 1 to 100000"),
        ({"chunk_size": 10**6}, "chunk_size must be a whole number from 1 to 100000"),
        ({"variables": ["beta", "gamma"]}, f"no 'gamma'. Choose from: {', '.join(VARIABLES)}"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    given = {"problem": EXAMPLE, "epsilon": 0.1, "alpha": 0.05} | changes
    with pytest.raises(ValueError, match=message):
        jms.sweep(**given)


def test_traced_arguments_are_refused():
    with pytest.raises(ValueError, match="epsilon must be concrete"):
        jax.vmap(lambda epsilon: jms.sweep(EXAMPLE, epsilon, 0.1))(jnp.ones(2))


# Progress.


def test_progress_is_silent_off_a_terminal_and_counts_when_forced(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    jms.sweep(BLOCKS, EPSILON, ALPHA)
    assert capsys.readouterr() == ("", "")
    jms.sweep(BLOCKS, EPSILON, ALPHA, chunk_size=2, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "8 of 8 cases" in err and "cases/s" in err
    with Progress(1200, 200, True) as bar:
        bar.advance(500, 3)
    assert "700 of 1,200 cases" in (err := capsys.readouterr().err) and "3 failed" in err


def test_many_columns_are_tried_once_before_the_adaptive_solver():
    rng = np.random.default_rng(2)
    problem = jms.Problem.from_blocks(rng.uniform(0.3, 2, (1, 20)), [1.2])
    epsilon = np.geomspace(1e-4, 1e-1, 40)
    found = jms.sweep(problem, epsilon, 0.05).isel(alpha=0)
    tried, again = np.unique(found.num_steps)[[0, -1]]
    assert tried < again < 2 * tried
    for i in (0, 13, 26, 39):
        right = jms.solve_limit(problem, jms.SmoothedSign(epsilon[i]), 0.05).beta
        assert np.max(np.abs(found.beta[i] - right)) < 1e-6 * np.max(np.abs(right))


def test_a_plot_of_one_epsilon_is_over_alpha():
    from jaxmd_sign._sweep._plot import draw_sweep

    figure = draw_sweep(jms.sweep(BLOCKS, 0.1, np.geomspace(0.01, 0.1, 4)))
    for axes in figure.axes:
        assert axes.get_xlabel() == r"$\alpha$"
        assert axes.lines[0].get_xdata().size == 4 and axes.get_xlim() == (0.01, 0.1)
