"""Bounds on the signed KKT error E of a block with two columns (Thm 3.9, Lemmas B.2, B.3).

a₁ ≥ a₂; w₁, w₂ are their dominating weights; E = cos φ·A₂ − sin φ·A₁ with (cos φ, sin φ) ∝ (a₁, a₂)
and A_i = w_i(∞) − w_i(T_ref). The a-priori bounds are ours; docs/bounds.md derives them.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Number = Float[Array, "..."]


class Growth(NamedTuple):
    """Growth of both weights from T_ref to τ, and from τ to ∞; `lag` = ∫_τ^∞ (1 − w₂/w₁) dw₁."""

    first_before: Number
    first_after: Number
    second_before: Number
    second_after: Number
    lag: Number


def signed_error(a1: Number, a2: Number, growth: Growth) -> Number:
    """E."""
    first = growth.first_before + growth.first_after
    second = growth.second_before + growth.second_after
    return (a1 * second - a2 * first) / jnp.hypot(a1, a2)


def upper(a1: Number, a2: Number, growth: Growth) -> Number:
    """U ≥ E, from what the flow did until τ and after it."""
    return (a1 - a2) / jnp.hypot(a1, a2) * (growth.second_before + growth.first_after / 2)


def lower(a1: Number, a2: Number, growth: Growth) -> Number:
    """V ≥ −E, from what the flow did until τ and after it."""
    head = a2 * (growth.first_before - growth.second_before + growth.lag)
    return (head - (a1 - a2) * growth.second_before) / jnp.hypot(a1, a2)


def upper_before(a1: Number, a2: Number, Y: Number, epsilon: Number, alpha: Number) -> Number:
    """U₀ = C − cε ≥ E, from the data alone: T_ref = 0⁺, Assumption 3.3."""
    reach = Y + (a1 + a2) * alpha**2
    share = (a1 - a2) / jnp.hypot(a1, a2)
    C = share * (jnp.sqrt(reach / (a1 + a2)) / 2 + jnp.sqrt(reach / a1) / 2 - alpha)
    return C - share / (4 * a2 * reach) * epsilon


def lower_before(a1: Number, a2: Number, Y: Number, epsilon: Number, alpha: Number) -> Number:
    """V₀ ≥ −E, from the data alone: T_ref = 0⁺, Assumption 3.3."""
    W = jnp.sqrt(Y / (a1 + a2))
    eta = 4 * epsilon / (a2 * Y * W)
    room = (1 - eta) * ((W / alpha) ** 2 - 1) / eta
    usable = (eta < 1) & (room > 1)
    ratio, kappa = a2 / a1, jnp.sqrt(jnp.where(usable, 1 - eta, 1))
    slip = (1 - ratio / 2) * epsilon / (a2 * Y) * jnp.log(jnp.where(usable, room, 1))
    W2 = jnp.maximum(alpha, kappa * W - slip) / kappa**ratio
    W2 = jnp.where(usable, W2, alpha)
    W1 = jnp.sqrt((Y + 4 * epsilon**2 / Y**2 * (1 / a1 + 1 / a2) - a2 * W2**2) / a1)
    return (a2 * (W1 - alpha) - a1 * (W2 - alpha)) / jnp.hypot(a1, a2)


def last_useful_epsilon(a1: Number, a2: Number, Y: Number, alpha: Number) -> Number:
    """ε̄: up to it V₀ < U₀, within Assumption 3.3 (Cor 3.10), by bisection in log ε."""
    top = jnp.log(a2 * Y * alpha / 2)

    def useful(log_epsilon):
        case = (a1, a2, Y, jnp.exp(log_epsilon), alpha)
        return lower_before(*case) < upper_before(*case)

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        good = useful(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    low, _ = lax.fori_loop(0, 60, halve, (top - 30.0, top))
    return jnp.exp(jnp.where(useful(top), top, low))
