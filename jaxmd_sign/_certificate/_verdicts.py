"""From measured blocks to verdicts: which claims apply to an instance, and their margins on it.

An instance is a problem with its ε and α: one block or several. A claim's margin on it is the
smallest over the blocks to which it applies.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .._report import sentence
from .._results import from_codes
from ._claims import BLOCK_CLAIMS, CLAIMS, MISSING, SOLVES, Claim
from ._measured import Blocks, Measured


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


class Verdict(NamedTuple):
    """One claim on every instance.

    - `applies`, `claimed`: whether its words make sense there, and whether the source claims it.
    - `margin`: NaN where a solve failed, with its `code`.
    - `lacking`: what it needs, where it applies to no instance.
    """

    claim: Claim
    applies: np.ndarray
    claimed: np.ndarray
    margin: np.ndarray
    code: np.ndarray
    lacking: str

    @property
    def evaluated(self) -> np.ndarray:
        return self.applies & ~np.isnan(self.margin)


def verdicts(blocks: Blocks, measured: Measured, slack: float) -> list[Verdict]:
    """Every claim on every instance."""
    facts = _facts(blocks, measured, slack)
    margins = {claim.name: measured.margins[:, i] for i, claim in enumerate(BLOCK_CLAIMS)}
    margins |= _together(blocks, measured, facts)
    return [_verdict(claim, margins[claim.name], facts, blocks, measured) for claim in CLAIMS]


def _facts(blocks: Blocks, measured: Measured, slack: float) -> dict[str, np.ndarray]:
    """What a claim may need or assume, for every block."""
    size = np.linalg.norm(measured.gradient, axis=1)
    return {
        "moving": measured.moving,
        "3.3": measured.small_epsilon & measured.small_alpha,
        "3.8": measured.num_columns == 2,
        "columns": measured.num_columns > 1,
        "error": ~(measured.error <= slack * size),
        "blocks": np.repeat(blocks.counts > 1, blocks.counts),
    }


def _verdict(
    claim: Claim,
    margins: np.ndarray,
    facts: dict[str, np.ndarray],
    blocks: Blocks,
    measured: Measured,
) -> Verdict:
    applies = np.all([facts[need] for need in ("moving", *claim.needs)], axis=0)
    assumed = np.all([facts[name] for name in ("moving", *claim.assumes)], axis=0)
    codes = np.where(applies, measured.codes[:, SOLVES.index(claim.solve)], 0)
    margin = np.where(codes != 0, np.nan, margins)
    missing = [need for need in claim.needs if not np.any(facts["moving"] & facts[need])]
    return Verdict(
        claim,
        np.logical_or.reduceat(applies, blocks.starts),
        np.logical_and.reduceat(np.where(applies, assumed, True), blocks.starts),
        np.minimum.reduceat(np.where(applies, margin, np.inf), blocks.starts),
        np.maximum.reduceat(codes, blocks.starts),
        MISSING[missing[0]] if missing else MISSING["3.2"],
    )


def _together(blocks: Blocks, measured: Measured, facts) -> dict[str, np.ndarray]:
    """Cor 3.11 and 3.12: what the blocks of an instance do together, for each of its blocks."""
    unit, live = blocks.weight_unit, facts["moving"]

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.where(live, values, 0), blocks.starts)

    error, slope = unit * measured.error, unit * measured.slope
    norm = np.sqrt(total(error**2))
    scale = np.sqrt(total((unit * np.linalg.norm(measured.gradient, axis=1)) ** 2))
    safe = np.where(scale > 0, scale, 1)
    apart = np.abs(_whole_error(blocks, (live * unit)[:, None] * measured.gradient) - norm) / safe
    bound = np.sqrt(total((unit * np.maximum(measured.bounds[:, 2], measured.bounds[:, 3])) ** 2))
    bounded = np.logical_and.reduceat(facts["3.3"] & facts["3.8"], blocks.starts)
    quadrature = np.where(bounded, np.minimum(-apart, (bound - norm) / safe), -apart)
    fall = -total(error * slope) / np.where(norm > 0, norm, 1) / safe
    found = {"Corollary 3.11": quadrature, "Corollary 3.12": fall}
    return {name: np.repeat(margin, blocks.counts) for name, margin in found.items()}


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


def as_row(verdict: Verdict, slack: float, detail: str) -> Row:
    """One row of a verdict over one or many instances; what was not evaluated is said, with why."""
    known = verdict.margin[verdict.evaluated]
    violations = int(np.sum(known < -slack))
    name, statement = verdict.claim.name, verdict.claim.statement
    if not np.any(verdict.applies):
        return Row(name, statement, None, np.nan, f"needs {verdict.lacking}", 0, 0)
    left_out = not_evaluated(verdict)
    if not known.size:
        return Row(name, statement, None, np.nan, left_out, 0, 0)
    detail = "; ".join(filter(None, (left_out, detail)))
    return Row(name, statement, not violations, float(known.min()), detail, known.size, violations)


def not_evaluated(verdict: Verdict) -> str:
    """How many instances were not evaluated, and why; empty if all were."""
    codes, counts = np.unique(
        verdict.code[verdict.applies & ~verdict.evaluated], return_counts=True
    )
    return "; ".join(
        f"{count} not evaluated: {reason(int(code))}"
        for code, count in zip(codes, counts, strict=True)
    )


def reason(code: int) -> str:
    """Why a number is missing, by the code of its solve."""
    if code == 0:
        return "the number is not finite"
    return sentence(from_codes(code))
