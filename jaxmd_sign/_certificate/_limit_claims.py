"""Claims about limits: their KKT error by three routes, its bounds and its slope.

Each is a margin on one solved block, as in `_flow_claims`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._extremes import amax, amin
from .._mirror import mirror_map
from .._powers import power_difference
from . import _bounds
from ._case import Case, Solved
from ._flow_claims import distance_to_limit
from ._formulas import Formulas, Margin, dual_size, lowest, residual
from ._path import transition


class Pair(NamedTuple):
    """The two columns of a block, the larger first, and how they grew, for T_ref = 0⁺ and T₁."""

    a1: Array
    a2: Array
    first: Array
    second: Array
    growths: tuple[_bounds.Growth, _bounds.Growth]


def as_pair(case: Case) -> Pair:
    """The two largest columns of a block."""
    solved, path = case.sign, case.sign.path
    first, second = jnp.argsort(-solved.a)[:2]

    def grown(reference: Array, after_warmup: bool) -> _bounds.Growth:
        tau, end = transition(path, second, after_warmup).w, solved.limit.w
        return _bounds.Growth(
            *(move[i] for i in (first, second) for move in (tau - reference, end - tau)),
            lag=case.lag[int(after_warmup)],
        )

    growths = grown(solved.start, False), grown(path.warmup.w, True)
    return Pair(solved.a[first], solved.a[second], first, second, growths)


def velocities_are_close(case: Case, _: Formulas) -> Margin:
    """Lemma B.1: ½ ≤ ẇ₂/ẇ₁ ≤ 1 until τ = T₂,₂; a₂w₂/(a₁w₁) ≤ ẇ₂/ẇ₁ ≤ (a₁ + a₂)/(2a₁) after."""
    solved, points = case.sign, case.sign.path.points
    t, w, q = points.t, points.w, points.q
    a1, a2, first, second = as_pair(case)[:4]
    g1, g2 = a1 * q * w[:, first], a2 * q * w[:, second]
    ratio = g2 / g1 * (g1 + solved.epsilon) / (g2 + solved.epsilon)
    floor, ceiling = a2 * w[:, second] / (a1 * w[:, first]), (a1 + a2) / (2 * a1)
    before = t < solved.path.sign.t[second]
    saved = solved.path.saved
    early = lowest(ratio - 0.5, where=saved & before)
    late = lowest(ratio - floor, ceiling - ratio, where=saved & ~before)
    return jnp.minimum(lowest(1 - ratio, where=saved), jnp.minimum(early, late))


def routes_agree(solved: Solved, formulas: Formulas) -> Margin:
    """Thm 3.9: e by autodiff of D at the limit is e from the weights where the flow ends."""
    references = [solved.start]
    if solved.depth == 2:
        references.append(solved.path.warmup.w)
    return -amax(jnp.stack([_route_error(solved, formulas, w) for w in references]))


def _route_error(solved: Solved, formulas: Formulas, reference: Float[Array, " k"]) -> Array:
    a, M, live = solved.a, solved.depth, solved.a > 0
    potential = formulas.potential(solved.limit.omega**M, M)
    beta = power_difference(solved.limit.w, solved.limit.omega, M)
    gradient = jax.grad(lambda beta: potential(beta) - jnp.sum(reference * beta))(beta)
    by_autodiff = formulas.outside_row_space(a, jnp.where(live, gradient, 0))
    # From the flow's own end, by the 2 × 2 minors of (a, change): e_i = Σ_j a_j m_ij / ‖a‖².
    change = jnp.where(live, solved.path.end.w - reference, 0)
    minors = a[None, :] * change[:, None] - a[:, None] * change[None, :]
    from_weights = minors @ a / (a @ a)
    apart = jnp.linalg.norm(by_autodiff - from_weights)
    return apart / dual_size(solved)


def closed_form_agrees(case: Case, formulas: Formulas) -> Margin:
    """Thm 3.9: |E| of two columns is ‖e‖ by autodiff, for T_ref = 0⁺ and T₁."""
    solved, pair, live = case.sign, as_pair(case), case.sign.a > 0
    potential = formulas.potential(solved.limit.omega**2, 2)
    beta = power_difference(solved.limit.w, solved.limit.omega, 2)
    dual = jnp.where(live, mirror_map(potential, beta), 0)

    def apart(reference, growth):
        e = formulas.outside_row_space(solved.a, jnp.where(live, dual - reference, 0))
        E = _bounds.signed_error(pair.a1, pair.a2, growth)
        return jnp.abs(jnp.linalg.norm(e) - jnp.abs(E)) / jnp.linalg.norm(dual)

    references = (solved.start, solved.path.warmup.w)
    both = [apart(*each) for each in zip(references, pair.growths, strict=True)]
    return -amax(jnp.stack(both))


def error_is_below_upper(case: Case, formulas: Formulas) -> Margin:
    """Thm 3.9: E ≤ U, a posteriori, for T_ref = 0⁺ and T₁."""
    return _against_bound(case, lambda pair, E, growth: formulas.upper(*pair[:2], growth) - E)


def error_is_above_lower(case: Case, formulas: Formulas) -> Margin:
    """Thm 3.9: −E ≤ V, a posteriori, for T_ref = 0⁺ and T₁."""
    return _against_bound(case, lambda pair, E, growth: formulas.lower(*pair[:2], growth) + E)


def _against_bound(case: Case, room: Callable) -> Margin:
    pair, scale = as_pair(case), dual_size(case.sign)
    rooms = [
        room(pair, _bounds.signed_error(pair.a1, pair.a2, growth), growth) / scale
        for growth in pair.growths
    ]
    return amin(jnp.stack(rooms))


def error_is_below_upper_before(case: Case, formulas: Formulas) -> Margin:
    """Thm 3.9: E ≤ U₀, a priori (ours), T_ref = 0⁺."""
    return _before(case, formulas.upper_before, 1)


def error_is_above_lower_before(case: Case, formulas: Formulas) -> Margin:
    """Thm 3.9: −E ≤ V₀, a priori (ours), T_ref = 0⁺."""
    return _before(case, formulas.lower_before, -1)


def _before(case: Case, bound: Callable, sign: int) -> Margin:
    pair, solved = as_pair(case), case.sign
    E = _bounds.signed_error(pair.a1, pair.a2, pair.growths[0])
    limit = bound(pair.a1, pair.a2, solved.Y, solved.epsilon, solved.alpha)
    return (limit - sign * E) / dual_size(solved)


def error_falls(case: Case, _: Formulas) -> Margin:
    """Cor 3.10: d‖e‖/dε < 0, by autodiff."""
    return -case.slope / dual_size(case.sign)


def descent_minimises_entropy(case: Case, formulas: Formulas) -> Margin:
    """(11): where gradient flow ends, ∇Φ_α(β) is in the row space of X, and Xβ = y."""
    solved, live = case.descent, case.descent.a > 0
    end = solved.path.end
    beta = power_difference(end.w, end.omega, 2)
    dual = jnp.where(live, mirror_map(formulas.entropy(solved.alpha), beta), 0)
    outside = formulas.outside_row_space(solved.a, dual)
    left = jnp.abs(residual(solved, end))
    return -jnp.maximum(jnp.linalg.norm(outside) / jnp.linalg.norm(dual), left)


def deep_limit_agrees(solved: Solved, formulas: Formulas) -> Margin:
    """Depth M: the flow in time ends at the limit, and both routes to e agree."""
    return jnp.minimum(routes_agree(solved, formulas), -distance_to_limit(solved))
