"""Solvers on the same cases: each at its cheapest tolerance that will do, then timed in turns.

Times are wall clock, of all cores, per case; what a first call takes longer (compilation) stands
apart. Solvers take turns, so that a machine that drifts hurts all alike, and ratios are formed
within a turn.
"""

import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

_DECADE = 4
_SHORTEST, _SHORT = 0.05, 0.5  # seconds
RTOLS = 10 ** np.arange(-3, -12.1, -1 / _DECADE)
Record = dict[str, Any]


class Effort(NamedTuple):
    """How much is done: cases timed at most, cases whose error is found, seconds a run, turns."""

    cases: int
    checked: int
    seconds: float
    turns: int


class Solver(NamedTuple):
    """`solve(count, rtol)` solves the first cases; failed ones are NaN. `rtols`: loosest first.

    `like`: a solver before it, of about the same errors, at whose tolerance its search begins.
    """

    solve: Callable[[int, float], Any]
    rtols: np.ndarray = RTOLS
    like: str | None = None


def contest(
    solvers: dict[str, Solver | str],
    errors: Callable[[Any], np.ndarray],
    needed: float,
    effort: Effort,
    unit: float = 1e6,
) -> dict[str, Record]:
    """A row for each solver (a string says why one is missing); the first is the measure of all.

    `errors` gives that of every case; all must be within `needed`, but for NaN, which is counted.
    """
    rows, runs = {}, {}
    for name, solver in solvers.items():
        if isinstance(solver, str):
            rows[name] = {"skipped": solver}
            continue
        if solver.like is not None:
            solver = solver._replace(rtols=solver.rtols[solver.rtols <= rows[solver.like]["rtol"]])
        try:
            row = _cheapest(solver, errors, needed, effort)
        except Exception as reason:  # whatever a peer's library raises is the reason to skip it
            if not rows:
                raise
            rows[name] = {"skipped": f"{type(reason).__name__}: {reason}".splitlines()[0]}
            continue
        rows[name], count, rtol = row, row["cases"], row["rtol"]
        runs[name] = lambda solve=solver.solve, count=count, rtol=rtol: solve(count, rtol)
    per_case = {name: unit / rows[name]["cases"] for name in runs}
    for name, record in in_turns(runs, effort.turns, per_case).items():
        rows[name] |= record
    return rows


def _cheapest(solver: Solver, errors, needed: float, effort: Effort) -> Record:
    """The loosest tolerance whose worst error will do, by bisection; and how many cases to time."""
    few = min(2, effort.checked)
    middle = solver.rtols[len(solver.rtols) // 2]
    first = _seconds(lambda: solver.solve(few, middle))
    again = _seconds(lambda: solver.solve(few, middle))
    checked = int(np.clip(few * effort.seconds / again, few, effort.checked))

    @cache
    def tried(i):
        """The worst error of those solved, and how many are not; infinite if they are many."""
        wrong = errors(solver.solve(checked, solver.rtols[i]))
        lost = np.isnan(wrong)
        return (np.inf if lost.mean() > 0.1 else float(np.nanmax(wrong))), int(lost.sum())

    last = len(solver.rtols) - 1
    usual = 0 if solver.like else int(np.sum(solver.rtols > needed / 10))
    low, high = -1, min(last, usual)
    around = (*range(high, -1, -_DECADE), *range(high, last + 1, _DECADE))
    # At the usual one it may finish nothing: too tight for its bound on steps, or too loose.
    high = next((i for i in around if tried(i)[0] < np.inf), high)
    while high < last and needed < tried(high)[0] < np.inf:  # from the usual to the costly
        low, high = high, min(last, high + _DECADE)
    if tried(high)[0] > needed:
        raise RuntimeError(
            f"at rtol {solver.rtols[high]:.0e} the error is {tried(high)[0]:.0e}, and "
            f"{tried(high)[1]} of {checked} cases are unfinished"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if tried(middle)[0] <= needed else (middle, high)
    rtol, (error, unfinished) = solver.rtols[high], tried(high)
    cases = checked
    while cases < effort.cases:
        solver.solve(cases, rtol)
        taken = _seconds(lambda cases=cases: solver.solve(cases, rtol))
        if taken > effort.seconds / 2:
            break
        cases = min(effort.cases, int(cases * min(16, effort.seconds / taken)))
    return {
        "rtol": float(rtol),
        "error": error,
        "checked": checked,
        "unfinished": unfinished,
        "cases": cases,
        "first_call_s": first,
        "compile_s": max(0.0, first - again),
    }


def in_turns(
    runs: dict[str, Callable[[], Any]], turns: int, scale: dict[str, float] | float = 1e6
) -> dict[str, Record]:
    """Median, least and most of each, of the CPU's time too, and ratios to the first, pair by pair.

    Each runs twice before: what it compiles for its size is no part of its time, and what takes
    less than `_SHORTEST` is repeated within a turn. Of what takes less than `_SHORT` the first run
    of a turn is not timed: right after another solver it took up to 1.3 times as long.
    """
    first = {name: _seconds(run) for name, run in runs.items()}
    usual = {name: _seconds(run) for name, run in runs.items()}
    times = {name: int(np.ceil(_SHORTEST / usual[name])) for name in runs}
    wall, cpu = {name: [] for name in runs}, {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            if usual[name] < _SHORT:
                run()
            begin = time.process_time()
            wall[name].append(_seconds(run, times[name]))
            cpu[name].append((time.process_time() - begin) / times[name])
    found = {}
    for name in runs:
        by = scale[name] if isinstance(scale, dict) else scale
        seconds = by * np.array(wall[name])
        base = next(iter(runs))
        base_by = scale[base] if isinstance(scale, dict) else scale
        found[name] = spread(seconds) | {
            "cpu": float(by * np.median(cpu[name])),
            "warm_up_s": first[name],
            "ratio": spread(seconds / (base_by * np.array(wall[base]))),
        }
    return found


def spread(values: np.ndarray) -> Record:
    """Median, least and most."""
    return {
        "median": float(np.median(values)),
        "least": float(np.min(values)),
        "most": float(np.max(values)),
    }


def _seconds(function: Callable[[], Any], times: int = 1) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        function()
    return (time.perf_counter() - begin) / times
