"""The claims of the source, as functions of one solved block: each gives a margin.

A margin is relative and signed: positive where an inequality holds, minus the relative error of an
identity. NaN is a solve that failed. What a claim needs is named beside it; how it is judged is
the certificate's. `Formulas` are what the source states; a wrong one must make a claim fail.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from . import _bounds
from ._case import Case, Path, Point, Solved, transition
from ._mirror import AbstractPotential, HyperbolicEntropy, PowerPotential, mirror_map
from ._powers import power_difference

Margin = Float[Array, ""]


def _dual_rate(c, theta, epsilon, depth):
    """(14): θ̇ = −c|θ|^{M−1}/(|c||θ|^{M−1} + ε)."""
    size = jnp.abs(theta) ** (depth - 1)
    return -c * size / (jnp.abs(c) * size + epsilon)


def _outside_row_space(x, vector):
    """(I − X⁺X) on one block."""
    return vector - x * (jnp.sum(x * vector) / jnp.sum(x**2))


def _warmup_end(path: Path) -> Float[Array, ""]:
    return path.warmup.t


class Formulas(NamedTuple):
    """What the source states, in one place."""

    dual_rate: Callable = _dual_rate
    potential: Callable[..., AbstractPotential] = PowerPotential
    entropy: Callable[[Array], AbstractPotential] = HyperbolicEntropy
    outside_row_space: Callable = _outside_row_space
    warmup_end: Callable[[Path], Array] = _warmup_end
    upper: Callable = _bounds.upper
    lower: Callable = _bounds.lower
    upper_before: Callable = _bounds.upper_before
    lower_before: Callable = _bounds.lower_before


SOURCE = Formulas()


def lies_inside(case: Case) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether ε and α are small enough for Assumption 3.3 (our constants), but for rounding."""
    solved = case.sign
    a, Y, alpha, hair = solved.a, solved.Y, solved.alpha, 1 + 1e-12
    least = jnp.min(a, where=a > 0, initial=jnp.inf)
    small_epsilon = solved.epsilon <= least * Y * alpha / 2 * hair
    return small_epsilon, alpha**2 <= Y / (18 * jnp.sum(a)) * hair


def lowest(*margins: Array, where: Array | bool = True) -> Margin:
    """The smallest of all entries of `margins` where `where`; +inf of none; NaN stays."""
    parts = [jnp.min(m, where=jnp.broadcast_to(where, m.shape), initial=jnp.inf) for m in margins]
    return jnp.min(jnp.stack(parts))


def _live_points(solved: Solved) -> Bool[Array, "N k"]:
    return solved.path.saved[:, None] & (solved.a > 0)


def _residual(solved: Solved, point: Point) -> Array:
    """Y − Σa(w^M − ω^M) from the weights, not the flow's own q, relative to its largest terms."""
    M, a = solved.depth, solved.a
    powers = power_difference(point.w, point.omega, M)
    return (solved.Y - jnp.sum(a * powers, axis=-1)) / (solved.Y + jnp.sum(a * solved.alpha**M))


def _size(solved: Solved) -> Array:
    """‖θ_∞‖, the scale of errors and bounds."""
    return jnp.linalg.norm(jnp.where(solved.a > 0, solved.limit.w, 0))


def weights_stay_ordered(case: Case, _: Formulas) -> Margin:
    """Prop 3.4: u, v ≥ 0; w ≥ ω; w does not fall, ω does not rise; uv ≤ α²."""
    solved, points = case.sign, case.sign.path.points
    w, omega = points.w, points.omega
    live, alpha, top = _live_points(solved), solved.alpha, jnp.max(solved.limit.w)
    steps = lowest(jnp.diff(w, axis=0) / top, -jnp.diff(omega, axis=0) / alpha, where=live[1:])
    now = lowest((w - omega) / w, omega / alpha, 1 - w * omega / alpha**2, where=live)
    return jnp.minimum(steps, now)


def residual_shrinks(case: Case, _: Formulas) -> Margin:
    """Lemma A.1: r never changes sign and |r| does not grow."""
    solved = case.sign
    r = _residual(solved, solved.path.points)
    saved = solved.path.saved
    return jnp.minimum(lowest(r, where=saved), lowest(-jnp.diff(r), where=saved[1:]))


def warmup_is_short(case: Case, formulas: Formulas) -> Margin:
    """Prop 3.5: T₁ ≤ 2α."""
    return 1 - formulas.warmup_end(case.sign.path) / (2 * case.sign.alpha)


def weights_are_small_after_warmup(case: Case, formulas: Formulas) -> Margin:
    """Prop 3.5: ω_i ≤ 2ε/(a_iY) from T₁ on."""
    solved, path = case.sign, case.sign.path
    share = solved.a * solved.Y / (2 * solved.epsilon)
    after = _live_points(solved) & (path.points.t >= formulas.warmup_end(path))[:, None]
    at_end = lowest(1 - path.warmup.omega * share, where=solved.a > 0)
    return jnp.minimum(at_end, lowest(1 - path.points.omega * share, where=after))


def dual_is_mirrored(solved: Solved, formulas: Formulas) -> Margin:
    """Prop 3.6: ∇Φ_t(β(t)) = θ(t) = s∘w(t), for t > 0."""
    M = solved.depth

    def error(w, omega):
        potential = formulas.potential(omega**M, M)
        return jnp.abs(mirror_map(potential, power_difference(w, omega, M)) - w) / w

    points = solved.path.points
    where = _live_points(solved) & (points.w > points.omega)
    return -jnp.max(jax.vmap(error)(points.w, points.omega), where=where, initial=0)


def dual_follows_its_dynamics(solved: Solved, formulas: Formulas) -> Margin:
    """Prop 3.6: the jvp of ∇Φ_δ(β) along (β̇, δ̇) is the right side of (14), for t > 0."""
    error = jax.vmap(lambda point: _dual_error(solved, formulas, point))(solved.path.points)
    points = solved.path.points
    where = _live_points(solved) & (points.w > points.omega)
    return -jnp.max(error, where=where, initial=0)


def dual_follows_its_dynamics_at_warmup_end(solved: Solved, formulas: Formulas) -> Margin:
    """Prop 3.6 at T₁, where δ matters."""
    point = solved.path.warmup
    error = _dual_error(solved, formulas, point)
    return -jnp.max(error, where=(solved.a > 0) & (point.w > point.omega), initial=0)


def _dual_error(solved: Solved, formulas: Formulas, point: Point) -> Float[Array, " k"]:
    """Relative error of (14), with u = w, v = ω, c = −aq and θ = w."""
    M, epsilon, c = solved.depth, solved.epsilon, -solved.a * point.q

    def power_rate(weight, sign):
        """d(weight^M)/dt by (12)."""
        gradient = jnp.abs(c) * weight ** (M - 1)
        return sign * M * weight ** (M - 1) * gradient / (gradient + epsilon)

    beta = power_difference(point.w, point.omega, M)
    delta, delta_rate = point.omega**M, power_rate(point.omega, -1)
    beta_rate = power_rate(point.w, 1) - delta_rate
    _, rate = jax.jvp(
        lambda beta, delta: mirror_map(formulas.potential(delta, M), beta),
        (beta, delta),
        (beta_rate, delta_rate),
    )
    expected = formulas.dual_rate(c, point.w, epsilon, M)
    return jnp.abs(rate - expected) / jnp.where(expected == 0, 1, jnp.abs(expected))


def gradients_cross_once(case: Case, _: Formulas) -> Margin:
    """Prop 3.7: every |∂F/∂w_i| starts above ε and crosses it once, downwards, at T₂."""
    solved, points = case.sign, case.sign.path.points
    t, w, q = points.t, points.w, points.q
    over = solved.a * q[:, None] * w / solved.epsilon
    before = t[:, None] < solved.path.sign.t
    margin = jnp.where(before, 1 - 1 / over, 1 - over)
    start = lowest(1 - 1 / over[0], where=solved.a > 0)
    return jnp.minimum(start, lowest(margin, where=_live_points(solved)))


def weights_grow_at_unit_speed(case: Case, formulas: Formulas) -> Margin:
    """Prop 3.7: there is a sign-descent stage T₁ … min T₂, in which ½ ≤ ẇ < 1 (in the mean)."""
    solved, path = case.sign, case.sign.path
    T1, live = formulas.warmup_end(path), solved.a > 0
    end = jnp.min(path.sign.t, where=live, initial=jnp.inf)
    t, w = path.points.t, path.points.w
    inside = _live_points(solved) & ((t >= T1) & (t <= end))[:, None]
    span, growth = (t - path.warmup.t)[:, None], w - path.warmup.w
    scale = jnp.maximum(end, 1e-300)
    speeds = lowest((growth - span / 2) / scale, (span - growth) / scale, where=inside)
    lasts = jnp.where(end > 0, (end - T1) / scale, -1)  # −1: no stage at all
    return jnp.minimum(lasts, speeds)


def larger_entries_lead(case: Case, _: Formulas) -> Margin:
    """Lemma A.2: a_i ≥ a_j implies w_i ≥ w_j and a_iw_i ≥ a_jw_j."""
    solved, w = case.sign, case.sign.path.points.w
    a = solved.a
    k = a.shape[0]
    ordered = (a[:, None] >= a) & (a > 0) & ~jnp.eye(k, dtype=bool)
    where = solved.path.saved[:, None, None] & ordered
    lead = lambda g: (g[:, :, None] - g[:, None, :]) / jnp.max(g[-1])  # noqa: E731
    return lowest(lead(w), lead(a * w), where=where)


def flow_reaches_the_limit(case: Case, _: Formulas) -> Margin:
    """Lemma A.3: r → 0 and all weights converge: the flow in time ends at the clock's limit."""
    return -_distance_to_limit(case.sign)


def _distance_to_limit(solved: Solved) -> Array:
    end, limit, live = solved.path.end, solved.limit, solved.a > 0
    top = jnp.max(limit.w, where=live, initial=0)
    left = jnp.abs(_residual(solved, end))
    apart = jnp.stack([jnp.abs(end.w - limit.w), jnp.abs(end.omega - limit.omega)]) / top
    return jnp.maximum(left, jnp.max(apart, where=live, initial=0))


class Pair(NamedTuple):
    """The two columns of a block, the larger first, and how they grew, for T_ref = 0⁺ and T₁."""

    a1: Array
    a2: Array
    first: Array
    second: Array
    growths: tuple[_bounds.Growth, _bounds.Growth]


def as_pair(case: Case) -> Pair:
    solved, path = case.sign, case.sign.path
    first, second = jnp.argsort(-solved.a)[:2]
    zero = jnp.zeros_like(solved.Y)
    start = Point(zero, jnp.broadcast_to(solved.alpha, solved.a.shape), solved.a, solved.Y)

    def grown(reference: Point, after_warmup: bool) -> _bounds.Growth:
        tau, end = transition(path, second, after_warmup).w, solved.limit.w
        return _bounds.Growth(
            *(move[i] for i in (first, second) for move in (tau - reference.w, end - tau)),
            lag=case.lag[int(after_warmup)],
        )

    growths = grown(start, False), grown(path.warmup, True)
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
    references = [jnp.broadcast_to(solved.alpha, solved.a.shape)]
    if solved.depth == 2:
        references.append(solved.path.warmup.w)
    return -jnp.max(jnp.stack([_route_error(solved, formulas, w) for w in references]))


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
    return apart / _size(solved)


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

    start = jnp.broadcast_to(solved.alpha, solved.a.shape)
    references = (start, solved.path.warmup.w)
    both = [apart(*each) for each in zip(references, pair.growths, strict=True)]
    return -jnp.max(jnp.stack(both))


def error_is_below_upper(case: Case, formulas: Formulas) -> Margin:
    """Thm 3.9: E ≤ U, a posteriori, for T_ref = 0⁺ and T₁."""
    return _against_bound(case, lambda pair, E, growth: formulas.upper(*pair[:2], growth) - E)


def error_is_above_lower(case: Case, formulas: Formulas) -> Margin:
    """Thm 3.9: −E ≤ V, a posteriori, for T_ref = 0⁺ and T₁."""
    return _against_bound(case, lambda pair, E, growth: formulas.lower(*pair[:2], growth) + E)


def _against_bound(case: Case, room: Callable) -> Margin:
    pair, scale = as_pair(case), _size(case.sign)
    rooms = [
        room(pair, _bounds.signed_error(pair.a1, pair.a2, growth), growth) / scale
        for growth in pair.growths
    ]
    return jnp.min(jnp.stack(rooms))


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
    return (limit - sign * E) / _size(solved)


def error_falls(case: Case, _: Formulas) -> Margin:
    """Cor 3.10: d‖e‖/dε < 0, by autodiff."""
    return -case.slope / _size(case.sign)


def descent_follows_entropy(case: Case, formulas: Formulas) -> Margin:
    """(10): d∇Φ_α(β)/dt = −c along gradient flow (71)–(72), by autodiff."""
    solved, points = case.descent, case.descent.path.points
    potential = formulas.entropy(solved.alpha)

    def error(point: Point):
        c = -solved.a * point.q
        beta_rate = -2 * c * (point.w**2 + point.omega**2)
        beta = power_difference(point.w, point.omega, 2)
        _, rate = jax.jvp(lambda beta: mirror_map(potential, beta), (beta,), (beta_rate,))
        return jnp.abs(rate + c) / jnp.where(c == 0, 1, jnp.abs(c))

    return -jnp.max(jax.vmap(error)(points), where=_live_points(solved), initial=0)


def descent_minimises_entropy(case: Case, formulas: Formulas) -> Margin:
    """(11): where gradient flow ends, ∇Φ_α(β) is in the row space of X, and Xβ = y."""
    solved, live = case.descent, case.descent.a > 0
    end = solved.path.end
    beta = power_difference(end.w, end.omega, 2)
    dual = jnp.where(live, mirror_map(formulas.entropy(solved.alpha), beta), 0)
    outside = formulas.outside_row_space(solved.a, dual)
    left = jnp.abs(_residual(solved, end))
    return -jnp.maximum(jnp.linalg.norm(outside) / jnp.linalg.norm(dual), left)


def _of_sign(measure: Callable) -> Callable[[Case, Formulas], Margin]:
    """A claim about any depth, on the case's M = 2."""
    return lambda case, formulas: measure(case.sign, formulas)


def _of_deep(measure: Callable) -> Callable[[Case, Formulas], Margin]:
    """A claim about any depth, on the case's M > 2."""
    return lambda case, formulas: jnp.min(
        jnp.stack([measure(solved, formulas) for solved in case.deep])
    )


def deep_limit_agrees(solved: Solved, formulas: Formulas) -> Margin:
    """Depth M: the flow in time ends at the limit, and both routes to e agree."""
    return jnp.minimum(routes_agree(solved, formulas), -_distance_to_limit(solved))


class Claim(NamedTuple):
    """A claim of the source: name, words, what it assumes, and its margin on one block.

    `needs` is what the words make no sense without, `assumes` what the source asks for besides. A
    claim about several blocks has no margin on one.
    """

    name: str
    statement: str
    needs: tuple[str, ...]
    assumes: tuple[str, ...]
    measure: Callable[[Case, Formulas], Margin] | None


BLOCK_CLAIMS = (
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
    Claim("Lemma A.2", "a_i ≥ a_j: w_i ≥ w_j, a_iw_i ≥ a_jw_j", (), (), larger_entries_lead),
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
    Claim("Gradient flow, (10)", "d∇Φ_α(β)/dt = −c", (), (), descent_follows_entropy),
    Claim("Gradient flow, (11)", "exact KKT of Φ_α at its limit", (), (),
          descent_minimises_entropy),
    Claim("Depth M, potential", "∇Φ_t(β) = θ = s∘w, M = 3", (), (), _of_deep(dual_is_mirrored)),
    Claim("Depth M, dual", "jvp of ∇Φ_δ(β) is (14)", (), (), _of_deep(dual_follows_its_dynamics)),
    Claim("Depth M, KKT", "limit of the flow; e by autodiff = e from weights", (), (),
          _of_deep(deep_limit_agrees)),
)  # fmt: skip
