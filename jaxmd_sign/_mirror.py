"""Potentials and their mirror maps.

A potential brings two formulas, Φ and its conjugate Φ*; mirror map ∇Φ, inverse map ∇Φ* and
curvature follow by autodiff. A new rule brings its potential and gets KKT error, D and the
minimiser for free.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class AbstractPotential(eqx.Module):
    """A separable convex potential; its array leaves are scalars or have one entry a coordinate."""

    @abc.abstractmethod
    def __call__(self, beta: Float[Array, " d"]) -> Float[Array, ""]:
        """Φ(β)."""

    @abc.abstractmethod
    def conjugate(self, theta: Float[Array, " d"]) -> Float[Array, ""]:
        """Φ*(θ) = sup_β ⟨θ, β⟩ − Φ(β)."""

    @abc.abstractmethod
    def divergence(self, theta: Float[Array, " d"], theta0: Float[Array, " d"]) -> Float[Array, ""]:
        """D_Φ(β, β₀) of Def. 3.1 in terms of θ = ∇Φ(β), θ₀ = ∇Φ(β₀), without cancellation."""


def mirror_map(potential: AbstractPotential, beta: Float[Array, " d"]) -> Float[Array, " d"]:
    """θ = ∇Φ(β)."""
    return jax.grad(potential)(beta)


def inverse_mirror_map(
    potential: AbstractPotential, theta: Float[Array, " d"]
) -> Float[Array, " d"]:
    """β = ∇Φ*(θ)."""
    return jax.grad(potential.conjugate)(theta)


def _abs(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """|x| with derivative 0 at 0 (JAX says 1), the middle of the subdifferential."""
    return x * jnp.sign(x)


class PowerPotential(AbstractPotential):
    r"""The potential of smoothed sign descent (Prop. 3.6): Φ_δ(β) = ⅔ Σ (|β_i| + δ_i)^{3/2}.

    ∇Φ_δ(β) = sign(β)√(|β| + δ), with a kink at β = 0 whose subdifferential is [−√δ, √δ];
    ∇Φ*_δ(θ) = sign(θ) max(θ² − δ, 0). For depth M, Φ_δ(β) = M/(M+1) Σ (|β_i| + δ_i)^{(M+1)/M}.

    **Arguments:**

    - `delta`: powers of the non-dominating weights δ = ω^M, shape (d,).
    - `depth`: M.

    !!! example
        >>> import jax.numpy as jnp
        >>> potential = PowerPotential(jnp.array([0.0, 1.0]))
        >>> mirror_map(potential, jnp.array([4.0, -3.0]))
        Array([ 2., -2.], dtype=float64)
    """

    delta: Float[Array, " d"]
    depth: int = eqx.field(static=True, default=2)

    def __call__(self, beta):
        return self.depth / (self.depth + 1) * jnp.sum(self._height(_abs(beta) + self.delta))

    def _height(self, base: Float[Array, " d"]) -> Float[Array, " d"]:
        zero = base == 0  # the curvature is infinite at β = δ = 0; NaN stays NaN
        safe = jnp.where(zero, 1, base)
        return jnp.where(zero, 0, safe * safe ** (1 / self.depth))

    def conjugate(self, theta):
        M, size = self.depth, _abs(theta)
        outside = size ** (M + 1) / (M + 1) - self.delta * size
        floor = -M / (M + 1) * self._height(self.delta)
        return jnp.sum(jnp.where(size**M > self.delta, outside, floor))

    def divergence(self, theta, theta0):
        # ∫ M s^{M−1} (s − w₀) ds from w₀ to w, for θ, θ₀ of one sign and outside the kink;
        # other signs by the definition.
        M, w, w0 = self.depth, jnp.abs(theta), jnp.abs(theta0)
        same = (jnp.sign(theta) == jnp.sign(theta0)) & (w0**M >= self.delta)
        weights = sum((j + 1) * w**j * w0 ** (M - 1 - j) for j in range(M))
        near = (w - w0) ** 2 * weights / (M + 1)
        size, size0 = jnp.maximum(w**M, self.delta), jnp.maximum(w0**M, self.delta)
        beta = jnp.sign(theta) * (size - self.delta)
        beta0 = jnp.sign(theta0) * (size0 - self.delta)
        rise = M / (M + 1) * (self._height(size) - self._height(size0))
        return jnp.sum(jnp.where(same, near, rise - theta0 * (beta - beta0)))


class HyperbolicEntropy(AbstractPotential):
    r"""The potential of gradient descent (9): Φ_α(β) = ½ Σ [β arcsinh(β/2α²) − √(β² + 4α⁴)].

    ∇Φ_α(β) = ½ arcsinh(β/2α²), ∇Φ*_α(θ) = 2α² sinh 2θ.

    **Arguments:**

    - `alpha`: initial weights α, a scalar or one number per coordinate.

    !!! example
        >>> import jax.numpy as jnp
        >>> entropy = HyperbolicEntropy(jnp.array(0.1))
        >>> inverse_mirror_map(entropy, mirror_map(entropy, jnp.array([0.3])))
        Array([0.3], dtype=float64)
    """

    alpha: Float[Array, "..."]

    def __call__(self, beta):
        width = 2 * self.alpha**2
        return jnp.sum(beta * jnp.arcsinh(beta / width) - jnp.sqrt(beta**2 + width**2)) / 2

    def conjugate(self, theta):
        return jnp.sum(self.alpha**2 * jnp.cosh(2 * theta))

    def divergence(self, theta, theta0):
        # In h where it is small, and by the definition where that loses no digits.
        far = theta0 - theta
        near = jnp.abs(far) < 0.5
        h = jnp.where(near, far, 0)
        bend = 2 * jnp.sinh(h) ** 2 * jnp.cosh(2 * theta)
        small = bend + jnp.sinh(2 * theta) * (jnp.sinh(2 * h) - 2 * h)
        rise = jnp.cosh(2 * theta0) - jnp.cosh(2 * theta)
        large = rise - 2 * far * jnp.sinh(2 * theta)
        return jnp.sum(self.alpha**2 * jnp.where(near, small, large))
