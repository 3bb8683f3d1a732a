"""Figures and summary: true numbers, strict JSON, the same bytes each time, no global traces."""

import json
import subprocess
import sys

import jax
import matplotlib as mpl
import numpy as np
import pytest
import reference as ref
import reference_family as family

import jaxmd_sign as jms
from jaxmd_sign import _beyond, _reproduce, _sparse
from jaxmd_sign._beyond import beyond_numbers, beyond_report
from jaxmd_sign._data import sparse_regression
from jaxmd_sign._figures import draw, save
from jaxmd_sign._reproduce import SolveError, example_numbers, reproduce
from jaxmd_sign._sparse import sparse_numbers, sparse_report

FILES = [f"figure{i}.{kind}" for i in (1, 2, 3) for kind in ("pdf", "png")] + ["summary.json"]


def at(numbers, epsilon):
    return int(np.argmin(np.abs(numbers["epsilon"] - epsilon)))


@pytest.fixture(scope="module")
def example():
    return example_numbers()


@pytest.fixture(scope="module")
def written(example, tmp_path_factory):
    """What `reproduce` writes, with curves in place of trajectories, which take long to compile."""
    ts = np.linspace(0, 1, 5)
    lines = np.sin(np.arange(6) + ts[:, None])
    stages = {
        "x": np.linspace(-1, 1, 6),
        "epsilon": np.array([0.1, 0.2]),
        "ts": ts,
        "beta": np.stack([lines, 2 * lines]),
        "dual": np.stack([lines, 2 * lines]),
        "dual_level": 0.5,
        "warmup_end": np.array([0.1, 0.2]),
        "sign_end": np.full((2, 6), 0.5),
    }
    path = ts[:, None] * np.array([0.6, 0.3])
    level = at(example, 0.1)
    plane = {
        "x": example["x"],
        "y": example["y"],
        "epsilon": np.array([0.1]),
        "beta": path[None],
        "beta_limit": path[None, -1],
        "beta_gradient_descent": 0.9 * path,
        "beta_limit_gradient_descent": 0.9 * path[-1],
        "minimizer": example["minimizer"][level],
        "bregman_epsilon": 0.1,
        "bregman_delta": example["delta"][level],
        "bregman_dual_reference": example["dual_reference"][level],
        "bregman_constant": 0.0,
        "bregman_minimum": example["bregman_minimum"][level],
    }
    settings = dict(mpl.rcParams)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_reproduce, "example_numbers", lambda: example)
        patch.setattr(_reproduce, "stage_numbers", lambda: stages)
        patch.setattr(_reproduce, "plane_numbers", lambda _: plane)
        written = reproduce(tmp_path_factory.mktemp("out") / "new" / "folder")
    assert dict(mpl.rcParams) == settings
    return written


@pytest.mark.slow
def test_numbers_of_the_worked_example(example):
    for epsilon, error in ((1e-3, 0.2641826), (1e-1, 0.1023833), (0.3, 0.0507208)):
        i = at(example, epsilon)
        assert np.isclose(example["epsilon"][i], epsilon, rtol=1e-12)
        assert np.isclose(example["kkt_error"][i], error, atol=1e-7)
    assert np.isclose(example["epsilon_zero_kkt_error"], 0.2095791, atol=1e-7)
    assert np.isclose(example["epsilon_assumption_3_3"], 0.0175)
    zero = at(example, example["epsilon_zero_kkt_error"])
    assert example["kkt_error"][zero] < 1e-7
    assert np.all(example["bregman"] >= example["bregman_minimum"] - 1e-12)
    assert np.allclose(example["bregman"][-1], example["bregman_gradient_descent"][-1], atol=1e-4)


def test_files(written):
    assert [path.name for path in written] == FILES
    assert sorted(path.name for path in written[0].parent.iterdir()) == FILES
    summary = json.loads(written[-1].read_text(), parse_constant=pytest.fail)
    assert {"figure1", "figure2", "figure3", "versions"} == set(summary)
    assert np.isclose(summary["figure3"]["epsilon_zero_kkt_error"], 0.2095791, atol=1e-7)


def test_same_bytes_from_the_summary(written, tmp_path):
    summary = json.loads(written[-1].read_text())
    for name in ("figure1", "figure2", "figure3"):
        save(draw(name, summary[name]), tmp_path / name)
    for path in written[:-1]:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    pdf = written[0].read_bytes()
    assert b"CreationDate" not in pdf and b"/Type3" not in pdf


def test_pyplot_is_not_used():
    code = "import sys, jaxmd_sign._reproduce; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_failed_solve_names_its_figure(monkeypatch):
    monkeypatch.setattr(_reproduce, "_EXAMPLE_ALPHA", 1e-300)
    with pytest.raises(SolveError, match=r"^Figure 3 \(.*\): "):
        example_numbers()


# Beyond the source.

ONE = {"abs": _beyond.SMOOTHINGS["abs"]}


@pytest.fixture(scope="module")
def beyond():
    """Depths 2 and 3 with one smoothing, on ε whose KKT error the source's example knows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_beyond, "DEPTHS", (2, 3))
        patch.setattr(_beyond, "SMOOTHINGS", ONE)
        patch.setattr(_beyond, "_EPSILONS", (1e-4, 1e1, 51))
        return beyond_numbers()


@pytest.mark.slow
def test_numbers_beyond_the_source_are_those_of_the_worked_example(beyond):
    stated = {1e-4: 0.2666891, 1e-3: 0.2641826, 1e-2: 0.2439954, 0.1: 0.1023833}
    for epsilon, error in stated.items():
        assert np.isclose(beyond["signed_error"][0, at(beyond, epsilon)], error, atol=1e-7)
    row = beyond["rows"][0]
    assert np.isclose(row["epsilon_zero"], 0.2095791, rtol=1e-2)  # between two ε of the grid
    assert row["falls"] == row["positive"] == beyond["instances"] and row["rises_somewhere"] == 0
    assert beyond["failed"] == 0 and np.all(beyond["bregman_gap"] >= 0)
    for epsilon in (1e-3, 0.1):
        end = family.family_limit([1.3, 0.7], 1.0, epsilon, 0.05, "abs", 3)
        assert np.isclose(beyond["kkt_error"][1, at(beyond, epsilon)], end.kkt_error, atol=1e-7)


@pytest.mark.slow
def test_files_beyond_the_source(beyond, tmp_path):
    save(draw("beyond", beyond), tmp_path / "beyond")
    assert b"/Type3" not in (tmp_path / "beyond.pdf").read_bytes()
    report = beyond_report(beyond)
    table = [line for line in report.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(beyond["rows"])
    assert len({line.count("|") for line in table}) == 1
    assert report.count("\n- M = ") == len(beyond["rows"])


def test_a_report_says_what_the_numbers_say():
    """Words from made-up numbers: an error that rises is not reported to fall."""
    epsilons, flat = np.geomspace(1e-2, 1e2, 5), np.zeros(5)
    rising = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    for error, slope, word in ((rising, 1.0, "rises at once"), (rising[::-1], -1.0, "falls from")):
        seen = _beyond._seen(epsilons, error, error, np.full(5, slope), flat)
        several = np.tile(error, (_beyond._INSTANCES, 1))
        row = {"depth": 2, "smoothing": "abs"} | seen | _beyond._counted(several, several)
        assert word in _beyond._sentence(row, 200)
        assert row["falls"] == (200 if slope < 0 else 0)
        assert row["rises_somewhere"] == (0 if slope < 0 else 200)
        assert ("on some block for: none" in _beyond._verdict([row], 200)) == (slope < 0)


# Sparse regression.

SHAPE = {"_N": 8, "_D": 16, "_NONZERO": 2, "_SEEDS": 2}


@pytest.fixture(scope="module")
def sparse():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SHAPE.items():
            patch.setattr(_sparse, name, value)
        patch.setattr(_sparse, "_ALPHAS", (1e-3, 10.0, 5))
        patch.setattr(_sparse, "_EPSILONS", (1e-2, 1e3, 6))
        patch.setattr(_sparse, "_SIGN_ALPHAS", (0.05,))
        return sparse_numbers()


@pytest.mark.slow
def test_sparse_regression_against_scipy(sparse):
    """Limits by LSODA, GD's by their own equations, ℓ₂ in closed form, the truth by ℓ₁."""
    for seed in range(2):
        X, truth, _ = (
            np.asarray(x) for x in sparse_regression(jax.random.key(seed), 8, 16, 2, float)
        )
        y = X @ truth
        assert np.count_nonzero(truth) == 2
        drawn = jms.random_sparse_problem(jax.random.key(seed), 8, 16, 2)
        np.testing.assert_allclose(drawn.y, y, rtol=1e-13)

        def check(beta, name, *index, truth=truth, seed=seed, rtol=1e-4):
            error = np.sum((beta - truth) ** 2) / np.sum(truth**2)
            np.testing.assert_allclose(sparse[f"test_error_{name}"][seed, *index], error, rtol=rtol)

        for i, epsilon in enumerate(sparse["epsilon"][:3]):
            check(ref.general_limit(X, y, epsilon, 0.05), "smoothed_sign", i, 0)
        for i, alpha in enumerate(sparse["alpha"]):
            check(ref.gd_limit(X, y, alpha), "gradient_descent", i, rtol=1e-6)
        check(np.linalg.pinv(X) @ y, "norm", sparse["norm_names"].index("l2"), rtol=1e-9)
    for what in ("test_error", "l1_excess"):
        ends = sparse[f"{what}_smoothed_sign"][:, -1, 0], sparse[f"{what}_gradient_descent"][:, -1]
        same = sparse[f"{what}_gradient_descent_same_alpha"][:, 0]
        np.testing.assert_allclose(ends[0], same, rtol=1e-3)
        least = sparse[f"{what}_norm"][:, sparse["norm_names"].index("l2")]
        np.testing.assert_allclose(ends[1], least, rtol=1e-3)
    np.testing.assert_allclose(sparse["l1_excess_l1"], 0, atol=1e-12)
    assert np.all(sparse["l1_excess_gradient_descent"] >= 0) and sparse["failed"] == 0


@pytest.mark.slow
def test_files_of_sparse_regression(sparse, tmp_path):
    save(draw("sparse", sparse), tmp_path / "sparse")
    assert b"/Type3" not in (tmp_path / "sparse.pdf").read_bytes()
    report = sparse_report(sparse)
    assert report.count("| gradient descent | α = 0.05 |") == 1
    at_an_end = sparse_report(sparse | {"alpha_smoothed_sign": np.array([1e-3])})
    assert at_an_end.count("| gradient descent | α = 0.001 |") == 1
    table = [line for line in report.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert len(table) == 2 + 2 + 3 + 2  # head, GD's ends, one α, two norms
    backwards = {
        name: value[:, ::-1] if name.endswith("error_smoothed_sign") else value
        for name, value in sparse.items()
    }
    for numbers in (sparse, backwards):
        rise = np.max(np.diff(numbers["test_error_smoothed_sign"], axis=1))
        assert f"never rises by more than {max(0, rise):.1g} " in sparse_report(numbers)
