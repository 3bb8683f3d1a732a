"""Random instances for the certificate, drawn on a seed and judged in chunks on all cores."""

import os
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from ._case import Effort
from ._judge import (
    Blocks,
    Measured,
    Row,
    Verdict,
    as_row,
    measure_blocks,
    sentence,
    solve_blocks,
    verdicts as judge,
)

WIDTH = 6
_CHUNK = 256


def draw_blocks(num: int, seed: int, outside: bool) -> Blocks:
    """Instances within Assumption 3.3, ε and α over three decades; or outside it.

    Four of five have one block and one has two; blocks have 2 to 6 columns (from 1 outside), |x|
    uniform in [0.1, 3] and |y| in [0.2, 3], with random signs.
    """
    rng = np.random.default_rng(seed)
    counts = 1 + (rng.random(num) < 1 / 5)
    starts, n = np.cumsum(counts) - counts, int(np.sum(counts))
    sizes = rng.integers(1 if outside else 2, WIDTH + 1, n)
    x = rng.uniform(0.1, 3, (n, WIDTH)) * rng.choice([-1.0, 1.0], (n, WIDTH))
    x = np.where(np.arange(WIDTH) < sizes[:, None], x, 0)
    y = rng.uniform(0.2, 3, n) * rng.choice([-1.0, 1.0], n)
    a = np.abs(x)
    reach = np.abs(y) / (18 * a.sum(axis=1))
    largest = np.sqrt(np.minimum.reduceat(reach, starts))
    alpha = largest * 10 ** rng.uniform(-3, 2 if outside else 0, num)
    least = np.min(a, axis=1, where=a > 0, initial=np.inf) * np.abs(y) / 2
    bound = np.minimum.reduceat(least, starts) * alpha
    epsilon = bound * 10 ** rng.uniform(-4 if outside else -3, 4 if outside else 0, num)
    if outside:  # ε at least above its bound where α is not above its own
        epsilon = np.where((alpha <= largest) & (epsilon <= bound), bound**2 / epsilon, epsilon)
    return Blocks(x, y, np.repeat(epsilon, counts), np.repeat(alpha, counts), starts)


def measure(blocks: Blocks) -> Measured:
    """Solve and measure all blocks: sorted by cost, in chunks of one size, on all cores."""
    n = len(blocks.y)
    chunk = min(_CHUNK, n)
    order = np.argsort(blocks.epsilon / blocks.alpha, kind="stable")
    parts = np.split(np.resize(order, -(-n // chunk) * chunk), -(-n // chunk))
    parts.reverse()  # the costly ones last would leave cores idle

    def one(part):
        x, y, epsilon, alpha = (np.asarray(leaf[part]) for leaf in blocks[:4])
        cases = solve_blocks(x, y, epsilon, alpha, Effort())
        return jax.tree.map(np.asarray, measure_blocks(cases))

    first = one(parts[0])  # compile once
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        rest = list(pool.map(one, parts[1:]))
    place = np.empty(n, int)
    together = np.concatenate(parts)
    place[together] = np.arange(len(together))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[place], first, *rest)


def instance(blocks: Blocks, index: int) -> dict[str, np.ndarray]:
    """X, y, ε and α of one instance, X dense and without padding."""
    start, count = int(blocks.starts[index]), int(blocks.counts[index])
    rows = [row[row != 0] for row in blocks.x[start : start + count]]
    X = np.zeros((count, sum(map(len, rows))))
    ends = np.cumsum([len(row) for row in rows])
    for i, (row, end) in enumerate(zip(rows, ends, strict=True)):
        X[i, end - len(row) : end] = row
    return {
        "X": X,
        "y": blocks.y[start : start + count],
        "epsilon": blocks.epsilon[start],
        "alpha": blocks.alpha[start],
    }


def summary(blocks: Blocks, measured: Measured, slack: float) -> tuple[list[Row], list[Verdict]]:
    """One row per claim over all instances."""
    found = judge(blocks, measured, slack)
    rows = []
    for verdict in found:
        why = sentence(np.where(np.isnan(measured.margins).any(axis=1), measured.result, 0))
        rows.append(as_row(verdict, slack, _spread(verdict, slack), why))
    return rows, found


def _spread(verdict: Verdict, slack: float) -> str:
    use = verdict.applies & ~np.isnan(verdict.margin)
    margin = verdict.margin[use]
    if not margin.size:
        return ""
    text = f"median margin {np.median(margin):.2g}"
    outside = use & ~verdict.claimed
    if outside.any():
        wrong = int(np.sum(verdict.margin[outside] < -slack))
        text += f"; {int(outside.sum())} outside its assumptions, {wrong} of them false"
    return text


def worst_instance(verdict: Verdict) -> int | None:
    """The instance with the smallest margin."""
    margin = np.where(verdict.applies & ~np.isnan(verdict.margin), verdict.margin, np.inf)
    return int(np.argmin(margin)) if np.isfinite(margin).any() else None
