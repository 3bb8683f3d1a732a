"""The benchmarks' machinery: tables made of results, tolerances found, an independent truth."""

import json

import numpy as np
import pytest

import jaxmd_sign as jms
from benchmarks import contest, report, truth
from benchmarks.lanes import betas
from benchmarks.workloads import lane_betas, ten_blocks, workload


@pytest.mark.parametrize("document", report.DOCUMENTS)
def test_tables_are_those_of_the_newest_results(document):
    assert (report.ROOT / document).read_text("utf-8") == report.made(document)


@pytest.mark.parametrize("path", sorted(report.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_name_device_and_versions(path):
    results = json.loads(path.read_text("utf-8"))
    assert results["device"] and results["cores"] and results["python"]
    assert {"jax", "numpy"} <= set(results["versions"])
    assert path.name.startswith(results["date"])


def test_the_loosest_tolerance_that_will_do():
    def solve(count, rtol):
        return np.full(count, 3 * rtol)

    asked = contest.Effort(cases=8, checked=4, seconds=1e-3, turns=2)
    rows = contest.contest(
        {
            "good": contest.Solver(solve),
            # Lost where its steps are long, and where it must take many.
            "loose": contest.Solver(lambda n, rtol: solve(n, rtol if rtol < 1e-10 else np.nan)),
            "tight": contest.Solver(
                lambda n, rtol: solve(n, rtol / 1e5 if rtol > 1e-5 else np.nan)
            ),
            "bad": contest.Solver(lambda count, rtol: np.full(count, np.nan)),
            "absent": "not installed",
        },
        lambda found: found,
        1e-6,
        asked,
    )
    assert rows["good"]["rtol"] == pytest.approx(10**-6.5) and rows["good"]["error"] <= 1e-6
    assert rows["good"]["ratio"]["median"] == 1
    assert rows["loose"]["rtol"] < 1e-10 and rows["tight"]["rtol"] == 1e-3
    assert "unfinished" in rows["bad"]["skipped"]
    assert rows["absent"] == {"skipped": "not installed"}


def test_truth_is_that_of_the_reference_and_ours_agrees():
    work = workload(ten_blocks(), 2)
    lanes = work.lanes()
    states = truth.limits(lanes)
    assert truth.disagreement(lanes, states, few=2) < 1e-9
    found = np.asarray(jms.sweep(*work, product=False).beta)
    apart = lane_betas(work.problem, found) - betas(states)
    assert np.max(np.abs(apart)) < 1e-6 * np.max(betas(states))


def test_flows_of_the_truth_end_at_its_limits():
    lanes = workload(ten_blocks(), 1).lanes().take(slice(2))
    flows = truth.trajectories(lanes, np.array([0.0, 0.3, 60.0]))
    assert np.all(flows[:, 0] == lanes.alpha[:, None])
    np.testing.assert_allclose(flows[:, -1], truth.limits(lanes), atol=1e-8)
