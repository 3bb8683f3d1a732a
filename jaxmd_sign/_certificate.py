"""Every claim of the source on one case, or on random instances: what holds, and by how much."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import numpy as np

from ._assumptions import Assumptions, check_assumptions
from ._case import Effort, error_and_slope
from ._checks import Numbers, as_positive, usable_rtol
from ._claims import BLOCK_CLAIMS
from ._general import certify_general
from ._judge import (
    MISSING,
    Blocks,
    Measured,
    Row,
    as_row,
    measure_blocks,
    sentence,
    solve_blocks,
    verdicts,
)
from ._problem import Blocks as BlockData, Problem
from ._random_cases import draw_blocks, instance, measure, summary, worst_instance

_CHUNKS = (8, 128)  # few sizes, few programs
_NUM_OTHERS = 24
_WIDTH = 6


@dataclass(frozen=True)
class Certificate:
    """What `certify` found.

    - `claims`: one `Row` per claim: `claim`, `statement`, `holds`, `margin`, `detail`, `instances`,
        `violations`.
    - `slack`: a claim holds if its margin is at least −`slack`, 10 rtol.
    - `case`: what was certified, e.g. its ε and α.
    - `worst`: of random instances, for each claim the one with the smallest margin: X, y, ε, α.
    - `evidence`: numbers for the plots of a report.
    """

    claims: list[Row]
    slack: float
    case: dict[str, Any]
    worst: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, claim: str) -> Row:
        """The row of a claim, by its name."""
        for row in self.claims:
            if row.claim == claim:
                return row
        raise KeyError(f"{claim!r} is not one of {[row.claim for row in self.claims]}")

    @property
    def violated(self) -> list[Row]:
        """The rows that are false, assumptions apart."""
        return [row for row in self.claims if row.violations]

    def to_dict(self) -> dict[str, Any]:
        """The case, the slack and all rows, for JSON."""
        return {**self.case, "slack": self.slack, "claims": [vars(row) for row in self.claims]}


def certify(
    problem: Problem, epsilon: Numbers, alpha: Numbers, *, rtol: float | None = None
) -> Certificate:
    r"""Every claim of the source on one case, with its margin.

    Assumptions 3.2, 3.3, 3.8; Prop 3.4–3.7; Lemmas A.1–A.3, B.1; Thm 3.9 with its bounds, a
    posteriori U, V and a priori U₀, V₀ (ours, `docs/bounds.md`); Cor 3.10–3.12; (10), (11) of
    gradient flow; and depth M = 3. Outside the assumptions this is a microscope, not a judge:
    what still makes sense is evaluated, and may be false; the other rows say what is missing.

    **Arguments:**

    - `problem`: a `Problem` with X (n, d).
    - `epsilon`, `alpha`: stability constant ε > 0 and initial weights α > 0, scalars.
    - `rtol`: relative tolerance, 1e-8 by default; the slack for rounding is 10 rtol.

    **Returns:** a `Certificate`; its `claims` are rows with `claim`, `holds` (None where it does
    not apply), `margin` (relative and signed: positive where an inequality holds, minus the
    relative error of an identity) and `detail`.

    **Raises:** `ValueError` for bad arguments.

    !!! example
        >>> certificate = certify(Problem([[1.3, 0.7]], [1.0]), 0.01, 0.05)
        >>> certificate["Theorem 3.9, U"].holds, len(certificate.violated)
        (True, 0)
    """
    if not isinstance(problem, Problem):
        raise ValueError(f"problem must be a Problem, but is a {type(problem).__name__}.")
    epsilon, alpha = _scalar("epsilon", epsilon, problem), _scalar("alpha", alpha, problem)
    rtol = usable_rtol(rtol, problem.dtype)
    assumed = check_assumptions(problem, epsilon, alpha)
    rows = _assumptions(assumed, problem)
    case = {
        "epsilon": float(epsilon),
        "alpha": float(alpha),
        "num_examples": problem.num_examples,
        "num_features": problem.num_features,
        "is_block_diagonal": problem.is_block_diagonal,
    }
    if not isinstance(problem.data, BlockData):
        rows += certify_general(problem, epsilon, alpha, rtol)
        return Certificate(rows, 10 * rtol, case)
    more, evidence = _certify_blocks(problem, epsilon, alpha, rtol)
    return Certificate(rows + more, 10 * rtol, case, evidence=evidence)


def certify_random(num: int, seed: int, *, outside: bool = False) -> Certificate:
    """Every claim on random instances, inside Assumption 3.3 (our constants) or outside it.

    Four of five instances have one block and one has two, of 2 to 6 columns; ε and α go over three
    decades.

    **Arguments:**

    - `num`: number of instances.
    - `seed`: of the draw.
    - `outside`: draw outside Assumption 3.3.

    **Returns:** a `Certificate` with counts in its rows and the `worst` instance of each claim.

    **Raises:** `ValueError` for bad arguments.
    """
    for name, value, least in (("num", num, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, but is {value}.")
    slack = 10 * usable_rtol(None, np.float64)
    blocks = draw_blocks(num, seed, outside)
    rows, found = summary(blocks, measure(blocks), slack)
    worst = {}
    for verdict in found:
        index = worst_instance(verdict)
        if index is not None:
            worst[verdict.claim.name] = instance(blocks, index)
    case = {"instances": num, "seed": seed, "outside": outside}
    return Certificate(rows, slack, case, worst)


def _scalar(name: str, value: Numbers, problem: Problem) -> jax.Array:
    number = as_positive(name, value, problem.dtype)
    if number.ndim:
        raise ValueError(f"{name} must be a number, but has shape {number.shape}.")
    return number


def _assumptions(found: Assumptions, problem: Problem) -> list[Row]:
    shared = "" if problem.is_block_diagonal else "rows share columns"
    speaks = "" if problem.is_block_diagonal else f"needs {MISSING['3.2']}"
    words = (
        ("3.2", "structure", "disjoint rows, labels ≠ 0", shared),
        ("3.3", "smallness", "ε ≤ ½ min a_i Y α, α² ≤ Y/(18‖x‖₁)", speaks or _margins(found)),
        ("3.8", "pairs", "two columns in every block", speaks),
    )
    rows = []
    for number, name, statement, detail in words:
        holds, margin = bool(getattr(found, name)), float(getattr(found, f"{name}_margin"))
        known = not np.isnan(margin)
        row = Row(
            MISSING[number], statement, holds if known else None, margin, detail, int(known), 0
        )
        rows.append(row)
    return rows


def _margins(found: Assumptions) -> str:
    return f"ε: {float(found.epsilon_margin):.3g}, α: {float(found.alpha_margin):.3g}"


def _certify_blocks(problem: Problem, epsilon, alpha, rtol: float):
    """Rows about blocks, and the numbers for the plots."""
    data = problem.data
    assert isinstance(data, BlockData)
    x, y = np.asarray(data.x), np.asarray(problem.y)
    n = len(y)
    x = np.pad(x, ((0, 0), (0, max(0, _WIDTH - x.shape[1]))))
    blocks = Blocks(x, y, np.full(n, epsilon), np.full(n, alpha), np.zeros(1, int))
    effort, slack = Effort(rtol=max(rtol / 10, 10 * float(np.finfo(y.dtype).eps))), 10 * rtol
    measured, first = _in_chunks(blocks, effort)
    if np.any(measured.result):
        measured, first = _in_chunks(blocks, effort._replace(max_steps=8192))
    others = _interval(blocks) * np.logspace(-3, 0, _NUM_OTHERS, dtype=y.dtype)
    errors, slopes = _over_the_interval(blocks, others, effort)
    measured = _with_interval(measured, slopes)
    failed = sentence(measured.result)
    rows = []
    for verdict in verdicts(blocks, measured, slack):
        row = as_row(verdict, slack, "", failed)
        if row.holds is not None:
            lacking = "" if verdict.claimed[0] else _lacking(verdict.claim.assumes, measured)
            row = replace(
                row,
                detail="; ".join(filter(None, (lacking, _numbers(row, blocks, measured, problem)))),
            )
        rows.append(row)
    still = int(np.sum(y == 0))
    if still:
        rows = [
            replace(row, detail=f"{still} blocks with label 0 apart; {row.detail}") for row in rows
        ]
    return rows, {"others": others, "errors": errors[0], "case": first}


def _interval(blocks: Blocks) -> float:
    """The largest ε of Assumption 3.3, common to all blocks."""
    a = np.abs(blocks.x)
    least = np.min(a, axis=1, where=a > 0, initial=np.inf)
    return float(
        np.min(np.where(blocks.y == 0, np.inf, least * np.abs(blocks.y) / 2 * blocks.alpha))
    )


def _chunks(n: int) -> np.ndarray:
    """All indices, in chunks of one size; the last chunk begins again."""
    chunk = next((size for size in _CHUNKS if n <= size), _CHUNKS[-1])
    return np.resize(np.arange(n), -(-n // chunk) * chunk).reshape(-1, chunk)


def _in_chunks(blocks: Blocks, effort: Effort) -> tuple[Measured, Any]:
    """All blocks measured, and the case of the first."""
    found, first = [], None
    for part in _chunks(len(blocks.y)):
        x, y, epsilon, alpha = (np.asarray(leaf)[part] for leaf in blocks[:4])
        cases = solve_blocks(x, y, epsilon, alpha, effort)
        first = jax.tree.map(lambda leaf: leaf[0], cases) if first is None else first
        found.append(jax.tree.map(np.asarray, measure_blocks(cases)))
    n = len(blocks.y)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n], *found), first


@eqx.filter_jit
def _errors_and_slopes(x, y, epsilons, alpha, effort: Effort):
    """‖e‖ and d‖e‖/d log ε of blocks (n,) for each of the same ε: (n, G)."""
    one = partial(error_and_slope, effort=effort)
    over_epsilons = jax.vmap(one, in_axes=(None, None, 0, None))
    return jax.vmap(over_epsilons, in_axes=(0, 0, None, 0))(x, y, epsilons, alpha)


def _over_the_interval(blocks: Blocks, others: np.ndarray, effort: Effort):
    found = [
        _errors_and_slopes(blocks.x[part], blocks.y[part], others, blocks.alpha[part], effort)
        for part in _chunks(len(blocks.y))
    ]
    errors, slopes = (
        np.concatenate(leaves)[: len(blocks.y)] for leaves in zip(*found, strict=True)
    )
    return errors, slopes


def _with_interval(measured: Measured, slopes: np.ndarray) -> Measured:
    """Cor 3.10 over three decades of Assumption 3.3, if α allows it, and at ε if that is inside."""
    i = [claim.name for claim in BLOCK_CLAIMS].index("Corollary 3.10")
    size = np.linalg.norm(measured.gradient, axis=1)
    over = np.min(-slopes, axis=1) / np.where(size > 0, size, 1)
    margins = np.array(measured.margins)
    here = np.where(measured.small_epsilon, margins[:, i], np.inf)
    margins[:, i] = np.where(measured.small_alpha, np.minimum(here, over), margins[:, i])
    return measured._replace(margins=margins)


def _lacking(assumes: tuple[str, ...], measured: Measured) -> str:
    holds = {
        "3.3": np.all(measured.small_epsilon & measured.small_alpha),
        "3.8": np.all(measured.pair),
    }
    missing = [MISSING[name] for name in assumes if not holds.get(name, True)]
    return f"outside {', '.join(missing)}" if missing else ""


def _numbers(row: Row, blocks: Blocks, measured: Measured, problem: Problem) -> str:
    """The numbers behind a row, in the units of the problem; of several blocks the worst."""
    unit, moving = blocks.weight_unit(), np.asarray(measured.moving)
    pair = moving & np.asarray(measured.pair)
    U, V, U0, V0, last = unit * measured.bounds.T
    E = unit * measured.signed_error
    error = np.where(moving, unit * measured.error, 0)
    total = float(np.linalg.norm(error))
    match row.claim:
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
            last = last / unit * np.asarray(_gradient_unit(blocks))
            where = int(np.argmin(np.where(pair, last, np.inf)))
            return f"{_tightest(-E, V0, pair, '−E', 'V₀')}, V₀ < U₀ up to ε̄ = {last[where]:.6g}"
        case "Corollary 3.10" | "Corollary 3.12":
            slope = float(np.sum(error * unit * measured.slope)) / max(total, 1e-300)
            return f"d‖e‖/d log ε = {slope:.4g} here{_least(problem, blocks)}"
        case _:
            return ""


def _tightest(value: np.ndarray, bound: np.ndarray, pair: np.ndarray, name: str, of: str) -> str:
    i = int(np.argmin(np.where(pair, bound - value, np.inf)))
    return f"{name} = {value[i]:.7g}, {of} = {bound[i]:.7g}"


def _gradient_unit(blocks: Blocks) -> np.ndarray:
    size, label = np.abs(blocks.x).sum(axis=1), np.where(blocks.y == 0, 1, np.abs(blocks.y))
    return size * label * blocks.weight_unit()


def _least(problem: Problem, blocks: Blocks) -> str:
    """ε* of least ‖e‖ over nine decades, found by narrowing a grid."""
    if problem.num_examples > _CHUNKS[0]:
        return ""
    unit = np.where(blocks.y == 0, 0, blocks.weight_unit())
    grid = np.log(_interval(blocks)) + np.linspace(np.log(1e-3), np.log(1e6), _NUM_OTHERS)
    errors, best = grid, 0
    for _ in range(14):
        found, _slopes = _over_the_interval(blocks, np.exp(grid), Effort())
        errors = np.linalg.norm(unit[:, None] * found, axis=0)
        best = int(np.nanargmin(errors))
        if best in (0, len(grid) - 1):
            end = "above" if best else "below"
            return f"; least error at an ε* {end} {np.exp(grid[best]):.3g}"
        grid = np.linspace(grid[best - 1], grid[best + 1], len(grid))
    return f"; least error {errors[best]:.3g} at ε* = {np.exp(np.mean(grid)):.7g}"
