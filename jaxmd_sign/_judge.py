"""From solved blocks to rows: which claims apply to an instance, their margins, and why not.

An instance is a problem with its ε and α: one block or several. A claim's margin on it is the
smallest over the blocks to which it applies.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from . import _bounds
from ._case import Case, Effort, solve_case
from ._claims import BLOCK_CLAIMS, SOURCE, Claim, Formulas, as_pair, lies_inside
from ._mirror import mirror_map
from ._powers import power_difference
from ._results import RESULTS

MISSING = {
    "3.2": "Assumption 3.2",
    "3.3": "Assumption 3.3",
    "3.8": "Assumption 3.8",
    "error": "a KKT error (‖e‖ is 0)",
    "blocks": "two blocks or more",
}


@dataclass(frozen=True)
class Row:
    """One claim on one instance, or on many.

    - `claim`, `statement`: its number in the source, and its words.
    - `holds`: true, false, or None where it does not apply or could not be evaluated.
    - `margin`: relative and signed, the smallest found: positive where an inequality holds, minus
        the relative error of an identity; NaN if there is none.
    - `detail`: the numbers behind it, or the assumption that is missing.
    - `instances`, `violations`: on how many instances it was evaluated, and is false.
    """

    claim: str
    statement: str
    holds: bool | None
    margin: float
    detail: str
    instances: int
    violations: int


class Measured(NamedTuple):
    """What is kept of each block, in its units, as arrays over the blocks."""

    margins: Any
    small_epsilon: Any
    small_alpha: Any
    pair: Any
    moving: Any
    result: Any
    gradient: Any
    error: Any
    slope: Any
    warmup_end: Any
    sign_end: Any
    signed_error: Any
    bounds: Any


@eqx.filter_jit
def solve_blocks(x, y, epsilon, alpha, effort: Effort) -> Case:
    """All solves for blocks x (n, k) with labels, ε and α (n,)."""
    return jax.vmap(partial(solve_case, effort=effort))(x, y, epsilon, alpha)


@eqx.filter_jit
def measure_blocks(cases: Case, formulas: Formulas = SOURCE) -> Measured:
    """Every block claim on every block."""
    return jax.vmap(lambda case: _measure(case, formulas))(cases)


def _measure(case: Case, formulas: Formulas) -> Measured:
    solved, pair, live = case.sign, as_pair(case), case.sign.a > 0
    known = (pair.a1, pair.a2, solved.Y, solved.epsilon, solved.alpha)
    growth = pair.growths[0]
    beta = power_difference(solved.limit.w, solved.limit.omega, 2)
    dual = mirror_map(formulas.potential(solved.limit.omega**2, 2), beta)
    every = (solved, case.descent, *case.deep)
    codes = jnp.stack([each.result._value for each in every])
    return Measured(
        margins=jnp.stack(
            [claim.measure(case, formulas) for claim in BLOCK_CLAIMS if claim.measure]
        ),
        small_epsilon=lies_inside(case)[0],
        small_alpha=lies_inside(case)[1],
        pair=jnp.sum(live) == 2,
        moving=case.moving,
        result=codes[jnp.argmax(codes != 0)],
        gradient=jnp.where(live, dual - solved.alpha, 0),
        error=case.error,
        slope=case.slope,
        warmup_end=solved.path.warmup.t,
        sign_end=jnp.min(solved.path.sign.t, where=live, initial=jnp.inf),
        signed_error=_bounds.signed_error(pair.a1, pair.a2, growth),
        bounds=jnp.stack(
            [
                _bounds.upper(pair.a1, pair.a2, growth),
                _bounds.lower(pair.a1, pair.a2, growth),
                _bounds.upper_before(*known),
                _bounds.lower_before(*known),
                _bounds.last_useful_epsilon(pair.a1, pair.a2, solved.Y, solved.alpha),
            ]
        ),
    )


class Blocks(NamedTuple):
    """Blocks of one or more instances: entries (n, k) padded by zeros, labels, ε and α (n,).

    `starts` is where each instance begins.
    """

    x: np.ndarray
    y: np.ndarray
    epsilon: np.ndarray
    alpha: np.ndarray
    starts: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        return np.diff(np.append(self.starts, len(self.y)))

    def weight_unit(self) -> np.ndarray:
        return np.sqrt(np.where(self.y == 0, 1, np.abs(self.y)) / np.abs(self.x).sum(axis=1))


class Verdict(NamedTuple):
    """One claim on every instance: whether it applies, whether the source claims it, its margin."""

    claim: Claim
    applies: np.ndarray
    claimed: np.ndarray
    margin: np.ndarray
    lacking: str


def verdicts(blocks: Blocks, measured: Measured, slack: float) -> list[Verdict]:
    """Every claim about blocks, and those about several together, on every instance."""
    facts = _facts(blocks, measured, slack)
    found = [
        _verdict(claim, measured.margins[:, i], facts, blocks)
        for i, claim in enumerate(BLOCK_CLAIMS)
    ]
    place = next(i for i, v in enumerate(found) if v.claim.name == "Corollary 3.10") + 1
    return found[:place] + _together(blocks, measured, facts) + found[place:]


def _facts(blocks: Blocks, measured: Measured, slack: float) -> dict[str, np.ndarray]:
    size = np.linalg.norm(measured.gradient, axis=1)
    return {
        "moving": np.asarray(measured.moving),
        "solved": np.asarray(measured.result) == 0,
        "3.3": np.asarray(measured.small_epsilon & measured.small_alpha),
        "3.8": np.asarray(measured.pair),
        "error": ~(np.asarray(measured.error) <= slack * size),
        "blocks": np.repeat(blocks.counts > 1, blocks.counts),
    }


def _verdict(claim: Claim, margins, facts, blocks: Blocks) -> Verdict:
    applies = facts["moving"] & np.all([facts[need] for need in ("moving", *claim.needs)], axis=0)
    assumed = np.all([facts[name] for name in ("moving", *claim.assumes)], axis=0)
    margin = np.where(facts["solved"], margins, np.nan)
    missing = [need for need in claim.needs if not np.any(facts["moving"] & facts[need])]
    return Verdict(
        claim,
        np.logical_or.reduceat(applies, blocks.starts),
        np.logical_and.reduceat(~applies | assumed, blocks.starts),
        np.minimum.reduceat(np.where(applies, margin, np.inf), blocks.starts),
        MISSING[missing[0]] if missing else MISSING["3.2"],
    )


QUADRATURE = Claim(
    "Corollary 3.11", "‖e‖² of X = Σ‖e_b‖² ≤ Σ max(U₀, V₀)²", ("blocks",), ("3.8",), None
)
TOGETHER = Claim(
    "Corollary 3.12", "d‖e‖/dε < 0, several blocks", ("blocks", "error"), ("3.3",), None
)


def _together(blocks: Blocks, measured: Measured, facts) -> list[Verdict]:
    """Cor 3.11 and 3.12: what the blocks of an instance do together."""
    unit = blocks.weight_unit()
    error, slope = unit * measured.error, unit * measured.slope
    live = facts["moving"]
    total = np.sqrt(np.add.reduceat(np.where(live, error, 0) ** 2, blocks.starts))
    size = unit * np.linalg.norm(measured.gradient, axis=1)
    scale = np.sqrt(np.add.reduceat(np.where(live, size, 0) ** 2, blocks.starts))
    apart = np.abs(_whole_error(blocks, (live * unit)[:, None] * measured.gradient) - total) / scale
    bound = unit * np.maximum(measured.bounds[:, 2], measured.bounds[:, 3])
    room = np.sqrt(np.add.reduceat(np.where(live, bound, 0) ** 2, blocks.starts)) - total
    bounded = np.logical_and.reduceat(facts["3.3"] & facts["3.8"], blocks.starts)
    margin = np.where(bounded, np.minimum(-apart, room / scale), -apart)
    safe = np.where(total > 0, total, 1)
    fall = -np.add.reduceat(np.where(live, error * slope, 0), blocks.starts) / safe / scale
    each = zip((QUADRATURE, TOGETHER), (margin, fall), strict=True)
    return [_verdict(claim, np.repeat(m, blocks.counts), facts, blocks) for claim, m in each]


def _whole_error(blocks: Blocks, gradient: np.ndarray) -> np.ndarray:
    """‖(I − X⁺X)∇D‖ with X taken as one dense matrix, without a look at its structure."""
    found, k = np.zeros(len(blocks.starts)), blocks.x.shape[1]
    for count in np.unique(blocks.counts):
        which = np.flatnonzero(blocks.counts == count)
        index = blocks.starts[which][:, None] + np.arange(count)
        if count * count * k > 4e6:  # too large to be dense
            norms = _row_errors(blocks.x[index], gradient[index])
            found[which] = np.sqrt(np.sum(norms**2, axis=1))
            continue
        X = np.zeros((len(which), count, count, k))
        X[:, np.arange(count), np.arange(count)] = np.abs(blocks.x[index])
        X = X.reshape(len(which), count, count * k)
        Q, _ = np.linalg.qr(np.swapaxes(X, 1, 2))
        g = gradient[index].reshape(len(which), count * k, 1)
        found[which] = np.linalg.norm(g - Q @ (np.swapaxes(Q, 1, 2) @ g), axis=(1, 2))
    return found


def _row_errors(x: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    a = np.abs(x)
    multiplier = np.sum(a * gradient, axis=-1) / np.sum(a**2, axis=-1)
    return np.linalg.norm(gradient - a * multiplier[..., None], axis=-1)


def as_row(verdict: Verdict, slack: float, detail: str, failed: str) -> Row:
    """One row of a verdict over one or many instances."""
    margin = verdict.margin[verdict.applies]
    known = margin[~np.isnan(margin)]
    violations = int(np.sum(known < -slack))
    name, statement = verdict.claim.name, verdict.claim.statement
    if not margin.size:
        return Row(name, statement, None, np.nan, f"needs {verdict.lacking}", 0, 0)
    if not known.size:
        return Row(name, statement, None, np.nan, failed, 0, 0)
    if known.size < margin.size:
        detail = f"{margin.size - known.size} not evaluated: {failed}; {detail}"
    worst = float(np.min(known))
    return Row(name, statement, not violations, worst, detail, known.size, violations)


def sentence(codes: np.ndarray) -> str:
    """Why the first failed solve failed."""
    bad = np.flatnonzero(np.asarray(codes))
    if not bad.size:
        return "the number is not finite"
    code = int(np.asarray(codes)[bad[0]])
    names = {int(item._value): text for item, text in _messages()}
    return "the solve failed: " + " ".join(names.get(code, "").split())


def _messages():
    for name in RESULTS._name_to_item:
        item = getattr(RESULTS, name)
        yield item, RESULTS[item]
