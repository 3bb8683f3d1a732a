"""From what is typed to what is drawn: text is read as numbers, never as anything else."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import contourpy
import numpy as np

from .._checks import as_positive
from .._inputs import check_depth
from .._problem import Problem
from .._report import sentence
from .._results import RESULTS
from .._smoothing import as_smoothing
from ._case import EPSILONS, MAX_STEPS, Case
from ._programs import solved_case, solved_curve

_MOST_CHARACTERS = 32
_DONE = 1e-3  # of |y|: what is left of the residual where the picture of the flow ends
_LEVELS = np.arange(1, 10) / 4  # of the way from the least D to D(β*), as in Figure 2


class Asked(NamedTuple):
    """A block x₁β₁ + x₂β₂ = y, and how to solve it; `epsilon` is None for a curve over ε."""

    x: tuple[float, float]
    y: float
    epsilon: float | None
    alpha: float
    depth: int
    smoothing: str

    def problem(self) -> Problem:
        """The data, in the one shape the programs are compiled for."""
        return Problem.from_blocks([self.x], [self.y])


def read(query: Mapping[str, str], *, curve: bool = False) -> Asked:
    """The numbers of a request; `ValueError` with one line for what is missing or no good."""
    x = (_number(query, "x1"), _number(query, "x2"))
    y, depth = _number(query, "y"), _number(query, "depth")
    if x == (0, 0):
        raise ValueError("x1 and x2 are both 0, so that no β fits y. Change one of them.")
    if y == 0:
        raise ValueError("y is 0: then β stays at 0, and there is nothing to see. Change it.")
    if not depth.is_integer():
        raise ValueError(f"depth must be a whole number from 2 to 8, but is {depth:g}.")
    check_depth(int(depth))
    smoothing = query.get("smoothing", "")
    as_smoothing(smoothing)
    epsilon = None if curve else _positive(query, "epsilon")
    return Asked(x, y, epsilon, _positive(query, "alpha"), int(depth), smoothing)


def _number(query: Mapping[str, str], name: str) -> float:
    text = query.get(name, "").strip()
    try:
        value = float(text) if len(text) <= _MOST_CHARACTERS else np.nan
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        shown = repr(text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…")
        raise ValueError(f"{name} must be a finite number such as 0.1, but is {shown}.")
    return value


def _positive(query: Mapping[str, str], name: str) -> float:
    return float(as_positive(name, _number(query, name)))


def answer_case(asked: Asked) -> dict[str, Any]:
    """Everything about one case that a page draws; numbers of a failed one are NaN."""
    assert asked.epsilon is not None
    case = solved_case(asked.problem(), asked.epsilon, asked.alpha, asked.depth, asked.smoothing)
    flow = case.trajectory
    return {
        **asked._asdict(),
        "result": _outcome(case.limit.result),
        "kkt_error": case.conditions.error,
        "kkt_relative_error": case.conditions.relative_error,
        "bregman_gap": case.gap,
        "distance_to_minimizer": np.linalg.norm(case.limit.beta - case.minimizer),
        "beta": case.limit.beta,
        "minimizer": case.minimizer,
        "assumptions": vars(case.assumptions),
        "box": case.plane[:, [0, -1]],
        "levels": _levels(case),
        "trajectory": {
            "result": _outcome(flow.result),
            "ts": flow.ts,
            "beta": flow.beta.T,
            "dual": flow.dual.T,
            "residual": flow.residual[:, 0],
            "warmup_end": np.max(flow.warmup_end),
            "sign_end": flow.sign_end,
            "view_end": _view_end(case, asked.y),
        },
    }


def answer_curve(asked: Asked) -> dict[str, Any]:
    """KKT errors over ε, with a point between two of them where e changes sign."""
    signed = solved_curve(asked.problem(), asked.alpha, asked.depth, asked.smoothing)
    logs = np.log(EPSILONS)
    turns = np.flatnonzero(signed[:-1] * signed[1:] < 0)
    low, high = signed[turns], signed[turns + 1]
    zeros = logs[turns] + low / (low - high) * (logs[turns + 1] - logs[turns])
    return {
        "epsilon": np.insert(EPSILONS, turns + 1, np.exp(zeros)),
        "kkt_error": np.insert(np.abs(signed), turns + 1, 0),
    }


def _outcome(result: RESULTS) -> str:
    """`successful`, or what failed, with a remedy that a page's reader has."""
    said = sentence(result)
    if "max_steps" in said:
        said += f" This page takes {MAX_STEPS}; in Python, solve_limit takes more."
    return said


def _view_end(case: Case, y: float) -> float:
    """When little of the residual is left: all the rest is one long tail."""
    flow = case.trajectory
    left = np.abs(flow.residual[:, 0]) <= _DONE * abs(y)
    end = flow.ts[np.argmax(left)] if left.any() else flow.ts[-1]
    return max(float(end), 1.02 * float(np.max(flow.sign_end)))


def _levels(case: Case) -> list[dict[str, Any]]:
    """Level sets of D as polylines; that of D(β*), which touches Xβ = y, is the fourth."""
    if not (np.isfinite(case.divergence).all() and np.isfinite(case.minimum)):
        return []
    floor = np.min(case.divergence)
    horizontal, vertical = case.plane
    contours = contourpy.contour_generator(horizontal, vertical, case.divergence)
    levels = floor + _LEVELS * (case.minimum - floor)
    return [{"level": level, "lines": list(contours.lines(level))} for level in levels]
