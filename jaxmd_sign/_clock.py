"""The residual clock: the limit t → ∞ as the end point of a short, non-stiff integration.

The residual q of a block falls strictly from Y to 0, so q is the independent variable:
    dw/dq = −h w/S,  dz/dq = −r/S.
Its inner parametrisation is σ = (α^M + (Y − q)/A)^{1/M}, near-linear in the weights, graded
towards the end where q ~ ε. No horizon, no exponential tail, no stiffness, no event: β_∞ is the
end.
"""

from typing import ClassVar, NamedTuple

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from ._block import Block
from ._checks import Scalar
from ._powers import power_quotient
from ._solve import Outcome, integrate, tolerance_of_weights
from ._stages import TrackedSolver, warmup_crossing


class Clock(eqx.Module):
    """q as a function of s in [0, 1]: q(0) = Y, q(1) = 0 exactly."""

    block: Block
    A: Float[Array, ""]
    m: Float[Array, ""]
    layer: Float[Array, ""]
    length: Float[Array, ""]
    unimodal: ClassVar[bool] = False

    @property
    def has_corner(self) -> bool:
        return self.block.rule.has_corner

    def __init__(self, block: Block):
        self.block = block
        self.A = jnp.sum(block.a)
        M, alpha = block.depth, lax.stop_gradient(jnp.mean(block.alpha))
        self.m = (alpha**M + block.target / self.A) ** (1 / M)
        self.layer = lax.stop_gradient(block.rule.clock_layer(block.a, self.m, M))
        # m − α without cancellation.
        reach = block.target / (self.A * power_quotient(self.m, alpha, M))
        self.length = jnp.log1p(reach / self.layer)

    def residual(self, s: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """q and dq/ds. q = A (m^M − σ^M) by its factor m − σ, never Y − A (σ^M − α^M)."""
        back = self.layer * jnp.expm1(self.length * (1 - s))
        sigma = self.m - back
        slope = self.layer * self.length * jnp.exp(self.length * (1 - s))
        M = self.block.depth
        q = self.A * back * power_quotient(self.m, sigma, M)
        return q, -M * self.A * sigma ** (M - 1) * slope

    def field(self, s: Float[Array, ""], y: PyTree) -> PyTree:
        q, dq = self.residual(s)
        w_rate, z_rate, S = self.block.rates(q, *y)
        return -w_rate / S * dq, -z_rate / S * dq

    def gates(self, s: Float[Array, ""], y: PyTree) -> Float[Array, "2 k"]:
        return self.block.gates(self.residual(s)[0], *y)


class BlockLimit(NamedTuple):
    """Weights of one block at the end of the clock and at the reference time, in its units."""

    w: Float[Array, " k"]
    omega: Float[Array, " k"]
    w_reference: Float[Array, " k"]
    omega_reference: Float[Array, " k"]


def block_limit(
    block: Block, reference: str, rtol: Scalar, max_steps: int, adjoint: diffrax.AbstractAdjoint
) -> tuple[BlockLimit, Outcome]:
    """The limit of one block, and its state at the reference time (0⁺ or T₁)."""
    clock, start = Clock(block), block.start()
    size = block.target / jnp.sum(block.a)
    rtol = tolerance_of_weights(rtol / block.rule.margin, block.alpha, size, block.depth)
    tracked = reference == "warmup"
    solver = TrackedSolver(diffrax.Dopri8(), adjoint) if tracked else diffrax.Dopri8()
    saveat = diffrax.SaveAt(t1=True, solver_state=tracked)
    solution = integrate(
        clock, solver, 0.0, 1.0, start, rtol, max_steps, saveat=saveat, adjoint=adjoint
    )
    w, z = (leaf[0] for leaf in solution.ys)
    zero = jnp.zeros_like(block.target)
    M, omega = block.depth, block.decode(zero, z)
    # One factor on w makes the end interpolate to rounding; its derivatives are exact as well.
    excess = (block.target + jnp.sum(block.a * omega**M)) / jnp.sum(block.a * w**M)
    w = jnp.where(block.a > 0, w * excess ** (1 / M), w)
    w_ref, omega_ref = start[0], start[0]
    if tracked:
        s, (w_at, z_at) = warmup_crossing(clock, solution.tracked.warmup)
        omega_at = block.decode(clock.residual(s)[0], z_at)
        reached = solution.tracked.warmup.closed
        w_ref, omega_ref = jnp.where(reached, w_at, w_ref), jnp.where(reached, omega_at, omega_ref)
    return BlockLimit(w, omega, w_ref, omega_ref), solution.report
