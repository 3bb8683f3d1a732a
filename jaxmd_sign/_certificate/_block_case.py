"""One case of a block problem: its rows with the numbers behind them, in the problem's units."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from .._problem import Blocks as BlockData, Problem
from .._report import sentence
from .._results import RESULTS
from .._threads import as_here
from .._tuning._api import tune_epsilon
from ._case import Case
from ._claims import BLOCK_CLAIMS, MISSING
from ._measured import CHUNKS, WIDTH, Blocks, Measured, errors_and_slopes, measure, solve_blocks
from ._path import Effort
from ._verdicts import Row, as_row, reason, verdicts

_NUM_OTHERS = 24
_MOST_TUNED = 128


def certify_blocks(
    problem: Problem, epsilon: float, alpha: float, rtol: float
) -> tuple[list[Row], dict[str, Any], list[str]]:
    """Rows about blocks, the numbers for the plots, and what failed."""
    blocks = _as_blocks(problem, epsilon, alpha)
    effort = Effort(rtol=max(rtol / 10, 10 * float(np.finfo(float).eps)))
    others = _interval(blocks) * np.logspace(-3, 0, _NUM_OTHERS)
    with ThreadPoolExecutor(1) as pool:  # most of the time goes into compiling both
        searched = pool.submit(as_here(_least), problem, alpha)
        errors, slopes = errors_and_slopes(blocks, others, effort)
        measured = _with_interval(measure(blocks, effort), slopes)
    least = searched.result()
    rows = []
    for verdict in verdicts(blocks, measured, 10 * rtol):
        row = as_row(verdict, 10 * rtol, "")
        if row.holds is not None:
            outside = "" if verdict.claimed[0] else _outside(verdict.claim.assumes, measured)
            numbers = _numbers(row.claim, blocks, measured, least)
            row = replace(row, detail="; ".join(filter(None, (outside, row.detail, numbers))))
        rows.append(row)
    still = int(np.sum(blocks.y == 0))
    if still:
        note = f"{still} blocks with label 0 apart"
        rows = [replace(row, detail="; ".join(filter(None, (note, row.detail)))) for row in rows]
    evidence = {"others": others, "errors": errors[0], "case": _first(blocks, effort)}
    evidence["unit"] = blocks.gradient_unit[0]
    codes = measured.codes.max(axis=1)
    return rows, evidence, [f"block {i}: {reason(int(codes[i]))}" for i in np.flatnonzero(codes)]


def _as_blocks(problem: Problem, epsilon: float, alpha: float) -> Blocks:
    data = problem.data
    assert isinstance(data, BlockData)
    x, y = np.asarray(data.x), np.asarray(problem.y)
    x = np.pad(x, ((0, 0), (0, max(0, WIDTH - x.shape[1]))))
    n = len(y)
    return Blocks(x, y, np.full(n, epsilon), np.full(n, alpha), np.zeros(1, int))


def _interval(blocks: Blocks) -> float:
    """The largest ε of Assumption 3.3, common to all blocks that move."""
    return float(np.min(blocks.largest_epsilon[blocks.y != 0], initial=np.inf))


def _with_interval(measured: Measured, slopes: np.ndarray) -> Measured:
    """Cor 3.10 over three decades of Assumption 3.3, if α allows it, and at ε if that is inside."""
    i = [claim.name for claim in BLOCK_CLAIMS].index("Corollary 3.10")
    size = np.linalg.norm(measured.gradient, axis=1)
    over = np.min(-slopes, axis=1) / np.where(size > 0, size, 1)
    margins = np.array(measured.margins)
    here = np.where(measured.small_epsilon, margins[:, i], np.inf)
    margins[:, i] = np.where(measured.small_alpha, np.minimum(here, over), margins[:, i])
    return measured._replace(margins=margins)


def _first(blocks: Blocks, effort: Effort) -> Case:
    """The first block, solved, for its plot."""
    cases = solve_blocks(*blocks.at(np.resize(np.arange(1), CHUNKS[0])), effort)
    return jax.tree.map(lambda leaf: leaf[0], cases)


def _least(problem: Problem, alpha: float) -> str:
    """ε* of least ‖e‖, in words."""
    if problem.num_examples > _MOST_TUNED:
        return ""
    tuned = tune_epsilon(problem, alpha)
    if not np.isfinite(tuned.epsilon):
        return f"no ε* of least error: {sentence(tuned.result)}"
    where = "" if tuned.result == RESULTS.successful else f" ({sentence(tuned.result)})"
    return f"least error {float(tuned.objective):.3g} at ε* = {float(tuned.epsilon):.7g}{where}"


def _outside(assumes: tuple[str, ...], measured: Measured) -> str:
    """Which assumptions of a claim do not hold."""
    holds = {
        "3.3": np.all(measured.small_epsilon & measured.small_alpha),
        "3.8": np.all(measured.num_columns == 2),
    }
    missing = [MISSING[name] for name in assumes if not holds.get(name, True)]
    return f"outside {', '.join(missing)}" if missing else ""


def _numbers(claim: str, blocks: Blocks, measured: Measured, least: str) -> str:
    """The numbers behind a row, in the units of the problem; of several blocks the worst."""
    unit, moving = blocks.weight_unit, np.asarray(measured.moving)
    pair = moving & (measured.num_columns == 2)
    U, V, U0, V0 = (unit * bound for bound in measured.bounds.T[:4])
    E = unit * measured.signed_error
    error = np.where(moving, unit * measured.error, 0)
    total = float(np.linalg.norm(error))
    match claim:
        case "Proposition 3.5, T₁":
            T1 = unit * measured.warmup_end
            return f"T₁ = {np.max(T1[moving]):.6g}, 2α = {2 * blocks.alpha[0]:.6g}"
        case "Proposition 3.7, stage":
            return f"first T₂ = {np.min((unit * measured.sign_end)[moving]):.6g}"
        case "Theorem 3.9, routes":
            return f"‖e‖ = {total:.7g}"
        case "Theorem 3.9, U":
            return _tightest(E, U, pair, "E", "U")
        case "Theorem 3.9, V":
            return _tightest(-E, V, pair, "−E", "V")
        case "Theorem 3.9, U₀":
            return _tightest(E, U0, pair, "E", "U₀")
        case "Theorem 3.9, V₀":
            last = np.min((blocks.gradient_unit * measured.bounds[:, 4])[pair])
            return f"{_tightest(-E, V0, pair, '−E', 'V₀')}, V₀ < U₀ up to ε̄ = {last:.6g}"
        case "Corollary 3.10" | "Corollary 3.12":
            slope = float(np.sum(error * unit * measured.slope)) / max(total, 1e-300)
            return "; ".join(filter(None, (f"d‖e‖/d log ε = {slope:.4g} here", least)))
        case _:
            return ""


def _tightest(value: np.ndarray, bound: np.ndarray, pair: np.ndarray, name: str, of: str) -> str:
    i = int(np.argmin(np.where(pair, bound - value, np.inf)))
    return f"{name} = {value[i]:.7g}, {of} = {bound[i]:.7g}"
