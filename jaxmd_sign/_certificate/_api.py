"""Every claim of the source on one case, or on random instances: what holds, and by how much."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._assumptions import Assumptions, check_assumptions
from .._checks import Numbers, as_positive, is_traced, usable_rtol
from .._problem import Problem, check_problem
from ._block_case import certify_blocks
from ._claims import ASSUMPTIONS, MISSING
from ._general import certify_general
from ._random_cases import certify_instances, draw_blocks
from ._verdicts import Row


@dataclass(frozen=True)
class Certificate:
    """What `certify` found.

    - `claims`: one `Row` per claim: `claim`, `statement`, `holds`, `margin`, `detail`, `instances`,
        `violations`.
    - `slack`: a claim holds if its margin is at least −`slack`, 10 rtol.
    - `case`: what was certified, e.g. its ε and α.
    - `failed`: the solves that failed, and why.
    - `worst`: of random instances, for each claim the one with the smallest margin: X, y, ε, α.
    - `evidence`: numbers for the plots of a report.
    """

    claims: list[Row]
    slack: float
    case: dict[str, Any]
    failed: list[str] = field(default_factory=list)
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
    posteriori U, V and a priori U₀, V₀ (ours, `docs/bounds.md`); Cor 3.10–3.12, with the ε* of
    least error; (10), (11) of gradient flow; and depth M = 3. Outside the assumptions this is a
    microscope, not a judge: what still makes sense is evaluated, and may be false; the other rows
    say what is missing.

    **Arguments:**

    - `problem`: a `Problem` with X (n, d). One in float32 is certified in float64 all the same.
    - `epsilon`, `alpha`: stability constant ε > 0 and initial weights α > 0, scalars.
    - `rtol`: relative tolerance, 1e-8 by default; the slack for rounding is 10 rtol.

    **Returns:** a `Certificate`; its `claims` are rows with `claim`, `holds` (None where it does
    not apply), `margin` (relative and signed: positive where an inequality holds, minus the
    relative error of an identity) and `detail`.

    **Raises:** `ValueError` for bad arguments, traced ones, or if JAX's 64-bit mode is off.

    !!! example
        >>> certificate = certify(Problem([[1.3, 0.7]], [1.0]), 0.01, 0.05)
        >>> certificate["Theorem 3.9, U"].holds, len(certificate.violated)
        (True, 0)
    """
    check_problem(problem)
    if is_traced(problem, epsilon, alpha):
        raise ValueError("certify looks at numbers. Call it outside jit, vmap and grad.")
    _needs_float64()
    epsilon, alpha = _scalar("epsilon", epsilon), _scalar("alpha", alpha)
    rtol = usable_rtol(rtol, np.float64)
    problem = jax.tree.map(_in_float64, problem)
    rows = _assumptions(check_assumptions(problem, epsilon, alpha), problem)
    case = {
        "epsilon": epsilon,
        "alpha": alpha,
        "num_examples": problem.num_examples,
        "num_features": problem.num_features,
        "is_block_diagonal": problem.is_block_diagonal,
    }
    certify_rest = certify_blocks if problem.is_block_diagonal else certify_general
    more, evidence, failed = certify_rest(problem, epsilon, alpha, rtol)
    return Certificate(rows + more, 10 * rtol, case, failed, evidence=evidence)


def certify_random(num: int, seed: int, *, outside: bool = False) -> Certificate:
    """Every claim on random instances, inside Assumption 3.3 (our constants) or outside it.

    Four of five instances have one block and one has two, of 2 to 6 columns; ε and α go over three
    decades.

    **Arguments:**

    - `num`: number of instances.
    - `seed`: of the draw.
    - `outside`: draw outside Assumption 3.3.

    **Returns:** a `Certificate` with counts in its rows and the `worst` instance of each claim.

    **Raises:** `ValueError` for bad arguments, or if JAX's 64-bit mode is off.
    """
    for name, value, least in (("random", num, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, but is {value}.")
    _needs_float64()
    slack = 10 * usable_rtol(None, np.float64)
    rows, worst, failed = certify_instances(draw_blocks(num, seed, outside), slack)
    case = {"instances": num, "seed": seed, "outside": outside}
    return Certificate(rows, slack, case, failed, worst)


def _needs_float64() -> None:
    if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(
            "certify works in float64, but JAX's 64-bit mode is off. Call "
            'jax.config.update("jax_enable_x64", True) first.'
        )


def _in_float64(leaf: jax.Array) -> jax.Array:
    return leaf.astype(float) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _scalar(name: str, value: Numbers) -> float:
    number = as_positive(name, value, float)
    if number.ndim:
        raise ValueError(f"{name} must be a number, but has shape {number.shape}.")
    return float(number)


def _assumptions(found: Assumptions, problem: Problem) -> list[Row]:
    shared = "" if problem.is_block_diagonal else "rows share columns"
    shared = shared or ("" if np.any(problem.y != 0) else "every label is 0")
    speaks = "" if problem.is_block_diagonal else f"needs {MISSING['3.2']}"
    margins = f"ε: {float(found.epsilon_margin):.3g}, α: {float(found.alpha_margin):.3g}"
    names = (
        ("3.2", "structure", shared),
        ("3.3", "smallness", speaks or margins),
        ("3.8", "pairs", speaks),
    )
    rows = []
    for number, name, detail in names:
        holds, margin = bool(getattr(found, name)), float(getattr(found, f"{name}_margin"))
        known = not np.isnan(margin)
        state = holds if known else None
        words = MISSING[number], ASSUMPTIONS[number]
        rows.append(Row(*words, state, margin, detail, int(known), 0))
    return rows
