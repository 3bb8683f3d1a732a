"""Random instances for the certificate, drawn on a seed, and what many of them say together."""

import numpy as np

from ._claims import ASSUMPTIONS, MISSING
from ._measured import WIDTH, Blocks, Measured, measure
from ._path import Effort
from ._verdicts import Row, Verdict, as_row, reason, verdicts


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
    ones = np.ones(n)  # to be drawn: ε, and α of which its bound is a multiple
    blocks = Blocks(x, y, ones, ones, starts)
    largest = np.minimum.reduceat(blocks.largest_alpha, starts)
    alpha = largest * 10 ** rng.uniform(-3, 2 if outside else 0, num)
    bound = np.minimum.reduceat(blocks.largest_epsilon, starts) * alpha
    epsilon = bound * 10 ** rng.uniform(-4 if outside else -3, 4 if outside else 0, num)
    if outside:  # ε at least above its bound where α is not above its own
        epsilon = np.where((alpha <= largest) & (epsilon <= bound), bound**2 / epsilon, epsilon)
    return blocks._replace(epsilon=np.repeat(epsilon, counts), alpha=np.repeat(alpha, counts))


def certify_instances(
    blocks: Blocks, slack: float
) -> tuple[list[Row], dict[str, dict[str, np.ndarray]], list[str]]:
    """One row per claim over all instances, the worst instance of each, and what failed."""
    measured = measure(blocks, Effort())
    found = verdicts(blocks, measured, slack)
    rows = [as_row(verdict, slack, _spread(verdict, slack)) for verdict in found]
    worst = {}
    for verdict in found:
        index = _worst(verdict)
        if index is not None:
            worst[verdict.claim.name] = instance(blocks, index)
    return _assumptions(blocks) + rows, worst, _failed(blocks, measured)


def _assumptions(blocks: Blocks) -> list[Row]:
    """On how many instances each assumption holds; that one does not is no violation."""
    smallness = np.minimum(
        1 - blocks.epsilon / blocks.largest_epsilon, 1 - (blocks.alpha / blocks.largest_alpha) ** 2
    )
    num_columns = np.count_nonzero(blocks.x, axis=1)
    each = {"3.2": np.ones(len(blocks.y)), "3.3": smallness, "3.8": -np.abs(num_columns - 2) / 2}
    rows = []
    for number, margins in each.items():
        margin = np.minimum.reduceat(margins, blocks.starts)
        words, count = (MISSING[number], ASSUMPTIONS[number]), len(margin)
        holds = margin >= -1e-12  # but for rounding
        detail = f"holds on {int(holds.sum())}"
        rows.append(Row(*words, bool(holds.all()), float(margin.min()), detail, count, 0))
    return rows


def _spread(verdict: Verdict, slack: float) -> str:
    margin = verdict.margin[verdict.evaluated]
    if not margin.size:
        return ""
    text = f"median margin {np.median(margin):.2g}"
    outside = verdict.evaluated & ~verdict.claimed
    if outside.any():
        wrong = int(np.sum(verdict.margin[outside] < -slack))
        text += f"; {int(outside.sum())} outside its assumptions, {wrong} of them false"
    return text


def _worst(verdict: Verdict) -> int | None:
    """The instance with the smallest margin."""
    margin = np.where(verdict.evaluated, verdict.margin, np.inf)
    return int(np.argmin(margin)) if np.isfinite(margin).any() else None


def _failed(blocks: Blocks, measured: Measured) -> list[str]:
    """Every instance with a solve that failed, and why."""
    codes = np.maximum.reduceat(measured.codes.max(axis=1), blocks.starts)
    return [f"instance {index}: {reason(int(codes[index]))}" for index in np.flatnonzero(codes)]


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
