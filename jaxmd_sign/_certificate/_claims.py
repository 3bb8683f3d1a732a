"""The claims of the source: the words of each, what it assumes, and how it is measured."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from .._extremes import amin
from ._case import Case
from ._flow_claims import (
    descent_follows_entropy,
    dual_follows_its_dynamics,
    dual_follows_its_dynamics_at_warmup_end,
    dual_is_mirrored,
    flow_reaches_the_limit,
    gradients_cross_once,
    larger_entries_lead,
    residual_shrinks,
    warmup_is_short,
    weights_are_small_after_warmup,
    weights_grow_at_unit_speed,
    weights_stay_ordered,
)
from ._formulas import Formulas, Margin
from ._limit_claims import (
    closed_form_agrees,
    deep_limit_agrees,
    descent_minimises_entropy,
    error_falls,
    error_is_above_lower,
    error_is_above_lower_before,
    error_is_below_upper,
    error_is_below_upper_before,
    routes_agree,
    velocities_are_close,
)


def _of_sign(measure: Callable) -> Callable[[Case, Formulas], Margin]:
    """A claim about any depth, on the case's M = 2."""
    return lambda case, formulas: measure(case.sign, formulas)


def _of_deep(measure: Callable) -> Callable[[Case, Formulas], Margin]:
    """A claim about any depth, on the case's M > 2."""
    return lambda case, formulas: amin(
        jnp.stack([measure(solved, formulas) for solved in case.deep])
    )


class Claim(NamedTuple):
    """A claim of the source: name, words, what it assumes, and its margin on one block.

    `needs` is what the words make no sense without, `assumes` what the source asks for besides. A
    claim about several blocks together has no margin on one: `measure` is None. `solve` is which of
    `SOLVES` it looks at.
    """

    name: str
    statement: str
    needs: tuple[str, ...]
    assumes: tuple[str, ...]
    measure: Callable[[Case, Formulas], Margin] | None
    solve: str = "sign"


CLAIMS = (
    Claim("Proposition 3.4", "u, v ≥ 0; w ≥ ω; w rises, ω falls; uv ≤ α²", (), (),
          weights_stay_ordered),
    Claim("Lemma A.1", "r keeps its sign, |r| falls", (), (), residual_shrinks),
    Claim("Proposition 3.5, T₁", "T₁ ≤ 2α", (), ("3.3",), warmup_is_short),
    Claim("Proposition 3.5, ω", "ω ≤ 2ε/(aY) from T₁ on", (), ("3.3",),
          weights_are_small_after_warmup),
    Claim("Proposition 3.6, θ", "∇Φ_t(β) = θ = s∘w", (), (), _of_sign(dual_is_mirrored)),
    Claim("Proposition 3.6, (14)", "jvp of ∇Φ_δ(β) is (14)", (), (),
          _of_sign(dual_follows_its_dynamics)),
    Claim("Proposition 3.6, T₁", "(14) at T₁, where δ matters", (), (),
          _of_sign(dual_follows_its_dynamics_at_warmup_end)),
    Claim("Proposition 3.7, T₂", "each |∂F/∂w| crosses ε once, downwards", (), ("3.3",),
          gradients_cross_once),
    Claim("Proposition 3.7, stage", "½ ≤ ẇ < 1 from T₁ to the first T₂", (), ("3.3",),
          weights_grow_at_unit_speed),
    Claim("Lemma A.2", "a_i ≥ a_j: w_i ≥ w_j, a_iw_i ≥ a_jw_j", ("columns",), (),
          larger_entries_lead),
    Claim("Lemma A.3", "r → 0, weights converge to the limit", (), (), flow_reaches_the_limit),
    Claim("Lemma B.1", "bounds on ẇ₂/ẇ₁ before and after T₂", ("3.8",), ("3.3",),
          velocities_are_close),
    Claim("Theorem 3.9, routes", "e by autodiff = e from weights", (), (), _of_sign(routes_agree)),
    Claim("Theorem 3.9, E", "|E| = ‖e‖", ("3.8",), (), closed_form_agrees),
    Claim("Theorem 3.9, U", "E ≤ U", ("3.8",), (), error_is_below_upper),
    Claim("Theorem 3.9, V", "−E ≤ V", ("3.8",), (), error_is_above_lower),
    Claim("Theorem 3.9, U₀", "E ≤ U₀, a priori", ("3.8", "3.3"), (), error_is_below_upper_before),
    Claim("Theorem 3.9, V₀", "−E ≤ V₀, a priori", ("3.8", "3.3"), (), error_is_above_lower_before),
    Claim("Corollary 3.10", "d‖e‖/dε < 0", ("error",), ("3.3",), error_falls),
    Claim("Corollary 3.11", "‖e‖² of X = Σ‖e_b‖² ≤ Σ max(U₀, V₀)²", ("blocks",), ("3.8",), None),
    Claim("Corollary 3.12", "d‖e‖/dε < 0, several blocks", ("blocks", "error"), ("3.3",), None),
    Claim("Gradient flow, (10)", "d∇Φ_α(β)/dt = −c", (), (), descent_follows_entropy, "descent"),
    Claim("Gradient flow, (11)", "exact KKT of Φ_α at its limit", (), (),
          descent_minimises_entropy, "descent"),
    Claim("Depth M, potential", "∇Φ_t(β) = θ = s∘w, M = 3", (), (),
          _of_deep(dual_is_mirrored), "deep"),
    Claim("Depth M, dual", "jvp of ∇Φ_δ(β) is (14)", (), (),
          _of_deep(dual_follows_its_dynamics), "deep"),
    Claim("Depth M, KKT", "limit of the flow; e by autodiff = e from weights", (), (),
          _of_deep(deep_limit_agrees), "deep"),
)  # fmt: skip

BLOCK_CLAIMS = tuple(claim for claim in CLAIMS if claim.measure is not None)

ASSUMPTIONS = {
    "3.2": "disjoint rows, labels ≠ 0",
    "3.3": "ε ≤ ½ min a_i Y α, α² ≤ Y/(18‖x‖₁)",
    "3.8": "two columns in every block",
}

SOLVES = ("sign", "deep", "descent")

MISSING = {
    "3.2": "Assumption 3.2",
    "3.3": "Assumption 3.3",
    "3.8": "Assumption 3.8",
    "error": "a KKT error (‖e‖ is 0)",
    "columns": "two columns in a block",
    "blocks": "two blocks or more",
}
"""What a claim needs or assumes, in words."""

ASSUMED = frozenset(MISSING[number] for number in ASSUMPTIONS)
"""The rows that are no claims."""
