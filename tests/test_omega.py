"""The inverse of R = κω + ψ_M(ω) for every depth: an identity, its derivative, and no NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmd_sign._omega import inverse_shifted_power, shifted_power

each_depth = pytest.mark.parametrize("depth", range(2, 9))


def grid(depth):
    """ω over 25 decades (fewer where its power leaves the numbers) and κ over 40, with κ = 0."""
    reach = 12 if depth < 6 else 6
    omega = np.concatenate([np.geomspace(10.0**-reach, 1e3, 61), [1.0]])
    kappa = np.concatenate([[0.0], np.geomspace(1e-20, 1e20, 81), [1.0]])
    return (jnp.asarray(leaf.ravel()) for leaf in np.meshgrid(omega, kappa))


def conditioning(omega, kappa, depth):
    """Relative change of ω per relative change of R: where it is large, R does not hold ω."""
    R = np.asarray(shifted_power(omega, kappa, depth))
    slope = omega ** (depth - 1) / (1 + kappa * omega ** (depth - 1))
    # R is a sum: rounding of its larger part counts.
    parts = kappa * omega + np.abs(R - kappa * omega)
    return slope * np.maximum(parts, np.abs(R)) / omega


@each_depth
def test_it_is_the_inverse(depth):
    omega, kappa = grid(depth)
    found = inverse_shifted_power(shifted_power(omega, kappa, depth), kappa, depth)
    allowed = 1e-13 * np.maximum(1, conditioning(omega, kappa, depth))
    assert np.all(np.abs(found / omega - 1) <= allowed)
    assert np.median(np.abs(found / omega - 1)) <= 1e-15


@each_depth
def test_it_solves_its_equation_for_every_r(depth):
    R = np.concatenate([-np.geomspace(1e12, 1e-12, 97), [0], np.geomspace(1e-12, 1e12, 97)])
    R = R[R > -600] if depth == 2 else R
    R, kappa = (jnp.asarray(v.ravel()) for v in np.meshgrid(R, np.geomspace(1e-10, 1e10, 41)))
    omega = np.asarray(inverse_shifted_power(R, kappa, depth))
    assert np.all((omega > 0) & np.isfinite(omega))
    power = np.log(omega) if depth == 2 else omega ** (2 - depth) / (2 - depth)
    scale = np.abs(R) + kappa * omega + np.abs(power) + (1 + kappa * omega ** (depth - 1))
    assert np.all(np.abs(kappa * omega + power - R) <= 4e-14 * scale)


@each_depth
def test_without_kappa_it_is_the_plain_variable(depth):
    omega = np.geomspace(1e-6, 1e2, 33)
    psi = np.log(omega) if depth == 2 else omega ** (2 - depth) / (2 - depth)
    found = inverse_shifted_power(jnp.asarray(psi), jnp.zeros(33), depth)
    np.testing.assert_allclose(found, omega, rtol=1e-13)


@each_depth
def test_its_derivatives_are_those_of_the_equation(depth):
    """Both modes; κ = 0 among them; central differences where they are meaningful."""
    omega, kappa = grid(depth)
    keep = (omega > 1e-4) & (kappa < 1e6)
    omega, kappa = omega[keep], kappa[keep]
    R = shifted_power(omega, kappa, depth)

    def inverse(R, kappa):
        return inverse_shifted_power(R, kappa, depth)

    in_R, in_kappa = jax.vmap(jax.grad(inverse, (0, 1)))(R, kappa)
    slope = omega ** (depth - 1) / (1 + kappa * omega ** (depth - 1))
    scale = np.maximum(1, conditioning(omega, kappa, depth))
    assert np.all(np.abs(in_R / slope - 1) <= 1e-12 * depth * scale)
    assert np.all(np.abs(in_kappa / (-slope * omega) - 1) <= 1e-12 * depth * scale)
    _, forward = jax.jvp(inverse, (R, kappa), (jnp.ones_like(R), jnp.ones_like(R)))
    size = np.abs(in_R) + np.abs(in_kappa)  # the two may cancel
    assert np.all(np.abs(forward - (in_R + in_kappa)) <= 1e-14 * size)

    at_R, at_kappa = jnp.array(-2.5), jnp.array(0.7)
    for i, h in ((0, 1e-6), (1, 1e-6)):
        up, down = ([at_R, at_kappa] for _ in range(2))
        up[i], down[i] = up[i] + h, down[i] - h
        difference = (inverse(*up) - inverse(*down)) / (2 * h)
        derivative = jax.grad(inverse, i)(at_R, at_kappa)
        np.testing.assert_allclose(derivative, difference, rtol=1e-8)


@each_depth
def test_no_gradient_is_nan(depth):
    R = -np.concatenate([[0.1], np.geomspace(0.5, 1e3 if depth > 2 else 700, 20)])
    R, kappa = (jnp.asarray(v.ravel()) for v in np.meshgrid(R, [0.0, 1e-300, 1e-20, 1.0, 1e20]))

    def total(R, kappa):
        return jnp.sum(inverse_shifted_power(R, kappa, depth))

    first = jax.grad(total, (0, 1))
    second = jax.jacfwd(lambda R, kappa: jnp.stack(first(R, kappa)).sum(0), (0, 1))
    for leaf in (*first(R, kappa), *second(R, kappa)):
        assert np.all(np.isfinite(leaf))
