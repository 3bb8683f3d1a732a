"""Claims about flows: what holds at every time, and when the stages end.

Each is a margin on one solved block, relative and signed: positive where an inequality holds, minus
the relative error of an identity. NaN is a solve that failed.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._extremes import amax, amin
from .._mirror import mirror_map
from .._powers import power_difference
from ._case import Case, Solved
from ._formulas import Formulas, Margin, live_points, lowest, residual
from ._path import Point


def weights_stay_ordered(case: Case, _: Formulas) -> Margin:
    """Prop 3.4: u, v ≥ 0; w ≥ ω; w does not fall, ω does not rise; uv ≤ α²."""
    solved, points = case.sign, case.sign.path.points
    w, omega = points.w, points.omega
    live, alpha, top = live_points(solved), solved.alpha, amax(solved.limit.w)
    steps = lowest(jnp.diff(w, axis=0) / top, -jnp.diff(omega, axis=0) / alpha, where=live[1:])
    now = lowest((w - omega) / w, omega / alpha, 1 - w * omega / alpha**2, where=live)
    return jnp.minimum(steps, now)


def residual_shrinks(case: Case, _: Formulas) -> Margin:
    """Lemma A.1: r never changes sign and |r| does not grow."""
    solved = case.sign
    r = residual(solved, solved.path.points)
    saved = solved.path.saved
    return jnp.minimum(lowest(r, where=saved), lowest(-jnp.diff(r), where=saved[1:]))


def warmup_is_short(case: Case, formulas: Formulas) -> Margin:
    """Prop 3.5: T₁ ≤ 2α."""
    return 1 - formulas.warmup_end(case.sign.path) / (2 * case.sign.alpha)


def weights_are_small_after_warmup(case: Case, formulas: Formulas) -> Margin:
    """Prop 3.5: ω_i ≤ 2ε/(a_iY) from T₁ on."""
    solved, path = case.sign, case.sign.path
    share = solved.a * solved.Y / (2 * solved.epsilon)
    after = live_points(solved) & (path.points.t >= formulas.warmup_end(path))[:, None]
    at_end = lowest(1 - path.warmup.omega * share, where=solved.a > 0)
    return jnp.minimum(at_end, lowest(1 - path.points.omega * share, where=after))


def dual_is_mirrored(solved: Solved, formulas: Formulas) -> Margin:
    """Prop 3.6: ∇Φ_t(β(t)) = θ(t) = s∘w(t), for t > 0."""
    M = solved.depth

    def error(w, omega):
        potential = formulas.potential(omega**M, M)
        return jnp.abs(mirror_map(potential, power_difference(w, omega, M)) - w) / w

    points = solved.path.points
    where = live_points(solved) & (points.w > points.omega)
    return -amax(jax.vmap(error)(points.w, points.omega), where=where, initial=0)


def dual_follows_its_dynamics(solved: Solved, formulas: Formulas) -> Margin:
    """Prop 3.6: the jvp of ∇Φ_δ(β) along (β̇, δ̇) is the right side of (14), for t > 0."""
    error = jax.vmap(lambda point: _dual_error(solved, formulas, point))(solved.path.points)
    points = solved.path.points
    where = live_points(solved) & (points.w > points.omega)
    return -amax(error, where=where, initial=0)


def dual_follows_its_dynamics_at_warmup_end(solved: Solved, formulas: Formulas) -> Margin:
    """Prop 3.6 at T₁, where δ matters."""
    point = solved.path.warmup
    error = _dual_error(solved, formulas, point)
    return -amax(error, where=(solved.a > 0) & (point.w > point.omega), initial=0)


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
    return jnp.minimum(start, lowest(margin, where=live_points(solved)))


def weights_grow_at_unit_speed(case: Case, formulas: Formulas) -> Margin:
    """Prop 3.7: there is a sign-descent stage T₁ … min T₂, in which ½ ≤ ẇ < 1 (in the mean)."""
    solved, path = case.sign, case.sign.path
    T1, live = formulas.warmup_end(path), solved.a > 0
    end = amin(path.sign.t, where=live, initial=jnp.inf)
    t, w = path.points.t, path.points.w
    inside = live_points(solved) & ((t >= T1) & (t <= end))[:, None]
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
    lead = lambda g: (g[:, :, None] - g[:, None, :]) / amax(g[-1])  # noqa: E731
    return lowest(lead(w), lead(a * w), where=where)


def flow_reaches_the_limit(case: Case, _: Formulas) -> Margin:
    """Lemma A.3: r → 0 and all weights converge: the flow in time ends at the clock's limit."""
    return -distance_to_limit(case.sign)


def distance_to_limit(solved: Solved) -> Array:
    end, limit, live = solved.path.end, solved.limit, solved.a > 0
    top = amax(limit.w, where=live, initial=0)
    left = jnp.abs(residual(solved, end))
    apart = jnp.stack([jnp.abs(end.w - limit.w), jnp.abs(end.omega - limit.omega)]) / top
    return jnp.maximum(left, amax(apart, where=live, initial=0))


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

    return -amax(jax.vmap(error)(points), where=live_points(solved), initial=0)
