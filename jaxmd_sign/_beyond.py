"""Beyond the source: does a larger ε still lower the KKT error for other depths and smoothings?

Each depth M and smoothing is measured against its own potential and its own minimiser. The range
of Assumption 3.3 for depth M is ours, as its constants for M = 2 are: ε ≤ ½ min a_i Y α^{M−1} and
α^M ≤ Y/(18‖x‖₁), so that every gradient is at least 2ε at the start.
"""

from typing import Any

import jax
import numpy as np

from ._kkt import bregman_gap, kkt
from ._limit import Limit, solve_limit
from ._problem import Problem
from ._results import RESULTS
from ._rules import SmoothedSign
from ._smoothing import SMOOTHINGS

DEPTHS = (2, 3, 4)
_X, _Y, _ALPHA = np.array([1.3, 0.7]), 1.0, 0.05
_EPSILONS = (1e-6, 1e2, 481)
_INSTANCES, _SEED, _FRACTIONS = 200, 33, np.geomspace(1e-2, 1, 6)
_RTOL = 1e-9
_NOISE = 1e-7  # changes of the error below it are rounding of the solver


def beyond_numbers() -> dict[str, Any]:
    """KKT error, signed error E and gap of the worked example by ε, and counts over instances."""
    epsilons = np.geomspace(*_EPSILONS)
    families = [_family(smoothing, depth, epsilons) for depth in DEPTHS for smoothing in SMOOTHINGS]
    rows = [family.pop("row") for family in families]
    curves = {key: np.stack([family[key] for family in families]) for key in families[0]}
    return {
        "x": _X,
        "y": _Y,
        "alpha": _ALPHA,
        "epsilon": epsilons,
        "depth": [row["depth"] for row in rows],
        "smoothing": [row["smoothing"] for row in rows],
        **curves,
        "failed": int(np.sum(curves["failed"])),
        "instances": _INSTANCES,
        "seed": _SEED,
        "rows": rows,
    }


_PROBLEM = (_X[None], np.array([_Y]))  # its shape and pattern; values are given to `with_data`


def _family(smoothing: str, depth: int, epsilons: np.ndarray) -> dict[str, Any]:
    """One depth and smoothing: one compiled call for the example and all instances."""
    problem = Problem.from_blocks(*_PROBLEM)

    def single(x, y, epsilon, alpha):
        at = problem.with_data(x[None], y[None])
        limit = solve_limit(at, SmoothedSign(epsilon, smoothing), alpha, depth=depth, rtol=_RTOL)
        return kkt(at, limit).error, limit

    x, y, fraction, alpha = block_instances(depth, _INSTANCES)
    count = epsilons.size
    cases = (
        np.concatenate([np.tile(_X, (count, 1)), x]),
        np.concatenate([np.full(count, _Y), y]),
        np.concatenate([epsilons, fraction * largest_epsilon(x, y, alpha, depth)]),
        np.concatenate([np.full(count, _ALPHA), alpha]),
    )
    found = jax.jit(jax.vmap(single))(*cases)
    error, limits = jax.tree.map(np.asarray, found)
    slope = np.gradient(error[:count], np.log(epsilons))
    growth = np.abs(limits.dual - limits.dual_reference)
    columns = cases[0].T
    signed = (columns[0] * growth[:, 1] - columns[1] * growth[:, 0]) / np.hypot(*columns)
    gap = np.asarray(_gaps(jax.tree.map(lambda leaf: leaf[:count], found[1])))
    result = limits.result._value
    return {
        "kkt_error": error[:count],
        "signed_error": signed[:count],
        "slope": slope,
        "bregman_gap": gap,
        "failed": np.count_nonzero(result != RESULTS.successful._value),
        "epsilon_assumption_3_3": largest_epsilon(_X[None], _Y, _ALPHA, depth)[0],
        "row": {"depth": depth, "smoothing": smoothing}
        | _seen(epsilons, error[:count], signed[:count], slope, gap)
        | _counted(error[count:], signed[count:]),
    }


@jax.jit
@jax.vmap
def _gaps(limit: Limit) -> Any:
    """Gaps of limits of the example: one program a depth, for every smoothing."""
    return bregman_gap(Problem.from_blocks(*_PROBLEM), limit)


def largest_epsilon(x: np.ndarray, y: Any, alpha: Any, depth: int) -> np.ndarray:
    """The end of the range of Assumption 3.3 for depth M."""
    return np.min(x, axis=-1) * y * alpha ** (depth - 1) / 2


def block_instances(depth: int, count: int) -> tuple[np.ndarray, ...]:
    """Random blocks of two columns, |x|₁ first, each for all fractions of its largest ε."""
    rng = np.random.default_rng(_SEED)
    x = -np.sort(-rng.uniform(0.3, 2, (count, 2)), axis=1)
    y = rng.uniform(0.5, 2, count)
    size = rng.uniform(np.log(0.05), 0, count)
    alpha = np.exp(size) * (y / (18 * np.sum(x, axis=-1))) ** (1 / depth)
    times = _FRACTIONS.size
    fraction = np.tile(_FRACTIONS, count)
    return np.repeat(x, times, axis=0), np.repeat(y, times), fraction, np.repeat(alpha, times)


def _seen(
    epsilons: np.ndarray,
    error: np.ndarray,
    signed: np.ndarray,
    slope: np.ndarray,
    gap: np.ndarray,
) -> dict[str, Any]:
    """What the example shows: where the error falls, where it is least, and its ends."""
    least = int(np.argmin(error))
    changes = np.flatnonzero((signed[:-1] > 0) & (signed[1:] <= 0))
    zero = None
    if changes.size:
        i = changes[0]
        part = signed[i] / (signed[i] - signed[i + 1])
        zero = float(np.exp((1 - part) * np.log(epsilons[i]) + part * np.log(epsilons[i + 1])))
    # The error is flat as ε → 0: it falls from where its slope leaves the rounding.
    start = int(np.argmax(np.abs(slope) > _NOISE))
    rises = np.flatnonzero(slope[start:] > _NOISE)
    end = start + int(rises[0]) if rises.size else len(epsilons)
    return {
        "error_small_epsilon": float(error[0]),
        "error_large_epsilon": float(error[-1]),
        "falls_from": float(epsilons[start]),
        "falls_to": float(epsilons[end - 1]) if end > start else None,
        "epsilon_least": zero if zero is not None else float(epsilons[least]),
        "error_least": 0.0 if zero is not None else float(error[least]),
        "epsilon_zero": zero,
        "largest_error": float(np.max(error)),
        "epsilon_largest": float(epsilons[int(np.argmax(error))]),
        "gap_small_epsilon": float(gap[0]),
        "gap_large_epsilon": float(gap[-1]),
    }


def _counted(error: np.ndarray, signed: np.ndarray) -> dict[str, Any]:
    """Over the instances: on how many the error falls, or rises, within Assumption 3.3."""
    steps = np.diff(error.reshape(_INSTANCES, -1), axis=1)
    signed = signed.reshape(_INSTANCES, -1)
    rises, falls = np.any(steps > _NOISE, axis=1), np.all(steps < -_NOISE, axis=1)
    return {
        "falls": int(np.sum(falls)),
        "rises_somewhere": int(np.sum(rises)),
        "too_flat_to_tell": int(np.sum(~falls & ~rises)),
        "positive": int(np.sum(np.all(signed > 0, axis=1))),
    }


def beyond_report(numbers: dict[str, Any]) -> str:
    """The table and what it says, in Markdown."""
    rows, total = numbers["rows"], numbers["instances"]
    lines = [
        "# Beyond the source: KKT error over ε for other depths and smoothings",
        "",
        f"x = ({numbers['x'][0]:g}, {numbers['x'][1]:g}), y = {numbers['y']:g}, "
        f"α = {numbers['alpha']:g}; each M and smoothing against its own potential. Counts: "
        f"{total} random blocks of two columns, the error at {_FRACTIONS.size} ε, a hundredth to "
        "all of the range of Assumption 3.3 (for M > 2 in our form); flat: nowhere a rise, "
        f"somewhere a change below {_NOISE:g}.",
        "",
        "| M | smoothing | ‖e‖, ε → 0 | falls up to ε | least ‖e‖ | at ε | ‖e‖, ε → ∞ "
        "| gap, ε → 0 | gap, ε → ∞ | falls | rises | flat | E > 0 |",
        "|" + "--:|" + ":--|" + "--:|" * 11,
    ]
    for row in rows:
        values = (
            row["error_small_epsilon"], row["falls_to"], row["error_least"], row["epsilon_least"],
            row["error_large_epsilon"], row["gap_small_epsilon"], row["gap_large_epsilon"],
        )  # fmt: skip
        cells = [f"{value:.4g}" if value is not None else "–" for value in values]
        counts = [
            row[name] for name in ("falls", "rises_somewhere", "too_flat_to_tell", "positive")
        ]
        cells = [str(row["depth"]), row["smoothing"], *cells, *map(str, counts)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(
        [*lines, "", *(f"- {_sentence(row, total)}" for row in rows), "", _verdict(rows, total), ""]
    )


def _sentence(row: dict[str, Any], total: int) -> str:
    """One depth and smoothing in words."""
    start = f"M = {row['depth']}, {row['smoothing']}: "
    if row["falls_to"] is None:
        start += "the error rises at once as ε grows"
    else:
        start += (
            f"the error falls from {row['error_small_epsilon']:.3g} up to ε = {row['falls_to']:.2g}"
        )
    if row["epsilon_zero"] is not None:
        start += f", is 0 at ε = {row['epsilon_zero']:.4g}"
    else:
        start += f", is least ({row['error_least']:.3g}) at ε = {row['epsilon_least']:.2g}"
    return (
        f"{start}, and tends to {row['error_large_epsilon']:.3g} as ε → ∞; within "
        f"Assumption 3.3 it falls throughout on {row['falls']} of {total} blocks, rises somewhere "
        f"on {row['rises_somewhere']}, and is flat to {_NOISE:g} on {row['too_flat_to_tell']}."
    )


def _verdict(rows: list[dict[str, Any]], total: int) -> str:
    """Whether 'a larger ε, a smaller error' holds: by the counts, nothing assumed."""

    def names(chosen: list[dict[str, Any]]) -> str:
        return ", ".join(f"M = {row['depth']} {row['smoothing']}" for row in chosen) or "none"

    holds = [row for row in rows if row["rises_somewhere"] == 0]
    fails = [row for row in rows if row["rises_somewhere"] > 0]
    return (
        f"Within Assumption 3.3, a larger ε never raised the error for: {names(holds)}. "
        f"It did on some block for: {names(fails)}."
    )
