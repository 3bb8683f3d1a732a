"""One block of Assumption 3.2: its units, its rates and its flow in time.

A block with entries x and label y is the system, s = sign(xy), a = |x|, Y = |y|,
    ẇ = q h w,  ż = q r,  q̇ = -q S,  S = M Σ a (w^M h + ω^M k),
in the dominating weights w, the variable z of the non-dominating weights ω, and the residual
q = Y − Σ a (w^M − ω^M), for a model of depth M. The rates h, k, r are the rule's. Both the time
domain and the residual clock integrate these, and nothing else.
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from ._checks import Scalar
from ._extremes import amin
from ._powers import power_difference
from ._problem import Blocks, Problem
from ._rules import AbstractRule

_NODES = 16  # of Gauss's rule, between two times


class Units(NamedTuple):
    """Frozen units, in which a block has Σa = Y = 1.

    The flow does not depend on the units, so no derivative flows through them, and tolerances
    mean the same for data of every scale.
    """

    data: Float[Array, " n"]
    label: Float[Array, " n"]
    weight: Float[Array, " n"]
    gradient: Float[Array, " n"]


def block_units(x: Float[Array, "n k"], y: Float[Array, " n"], depth: int) -> Units:
    data = lax.stop_gradient(jnp.sum(jnp.abs(x), axis=-1))
    label = lax.stop_gradient(jnp.where(y == 0, 1, jnp.abs(y)))
    weight = (label / data) ** (1 / depth)
    return Units(data, label, weight, data * label * weight ** (depth - 1))


class Block(eqx.Module):
    """Data, start and rule of one block (k columns, padded ones have a = 0), in its units."""

    a: Float[Array, "*batch k"]
    target: Float[Array, "*batch"]
    alpha: Float[Array, "..."]
    rule: AbstractRule
    depth: int = eqx.field(static=True)

    def rates(
        self, q: Float[Array, ""], w: Float[Array, " k"], z: Float[Array, " k"]
    ) -> tuple[Float[Array, " k"], Float[Array, " k"], Float[Array, ""]]:
        """dw/dt / q, dz/dt / q and S."""
        M, omega = self.depth, self.decode(q, z)
        h = self.rule.unit_rate(self.a, q, w, M)
        k = self.rule.unit_rate(self.a, q, omega, M)
        S = M * jnp.sum(self.a * (w**M * h + omega**M * k))
        return h * w, self.rule.encoded_rate(self.a, q, omega, S, M), S

    def decode(self, q: Float[Array, ""], z: Float[Array, " k"]) -> Float[Array, " k"]:
        """ω."""
        return self.rule.decode(self.a, q, z, self.depth)

    def start(self) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """w and z at t = 0."""
        w = jnp.broadcast_to(self.alpha, self.a.shape)
        return w, self.rule.encode(self.a, self.target, w, self.depth)

    def gates(
        self, q: Float[Array, ""], w: Float[Array, " k"], z: Float[Array, " k"]
    ) -> Float[Array, "2 k"]:
        """log(|∂F/∂ω|/ε) and log(|∂F/∂w|/ε): their signs mark the stages."""
        weights = jnp.stack([self.decode(q, z), w])
        return self.rule.log_gate(self.a, q, weights, self.depth)


FlowState = tuple[Float[Array, " k"], Float[Array, " k"], Float[Array, ""]]


class BlockFlow(eqx.Module):
    """The flow of a block in time; the state is (w, z, log q).

    q = Y − Σ a (w^M − ω^M) once more, as a variable: its decay like exp(−St) is what makes the flow
    stiff like 1/ε. In log q it is a slope, and an explicit method takes long steps to the end.
    `unit` is that of time, for an ε that changes with it.
    """

    block: Block
    unit: Float[Array, "*batch"]
    unimodal: ClassVar[bool] = True

    @property
    def has_corner(self) -> bool:
        return self.block.rule.has_corner

    def at(self, t: Float[Array, ""]) -> Block:
        """The block with its ε of time t."""
        rule = self.block.rule.at(t * self.unit)
        return eqx.tree_at(lambda block: block.rule, self.block, rule)

    def start(self) -> FlowState:
        return *self.block.start(), jnp.log(self.block.target)

    def field(self, t: Float[Array, ""], state: FlowState) -> FlowState:
        w, z, log_q = state
        q = jnp.exp(log_q)
        w_rate, z_rate, S = self.at(t).rates(q, w, z)
        return q * w_rate, q * z_rate, -S

    def gates(self, t: Float[Array, ""], state: FlowState) -> Float[Array, "2 k"]:
        w, z, log_q = state
        return self.at(t).gates(jnp.exp(log_q), w, z)

    def atol(self, rtol: Scalar) -> Float[Array, ""]:
        """The absolute tolerance that suits this relative one.

        A weight as small as α at the start decides how large it is at the end: α is the scale of
        errors.
        """
        smallest = lax.stop_gradient(amin(self.block.alpha))
        rounding = 10 * jnp.finfo(smallest.dtype).eps
        return jnp.minimum(rtol, jnp.maximum(rtol * smallest, rounding))

    def settled(self, t: Float[Array, ""], state: FlowState, tolerance: Scalar) -> Bool[Array, ""]:
        """Whether the residual and every gradient over ε are small."""
        gates_w = self.gates(t, state)[1]
        small = state[2] <= jnp.log(tolerance * self.block.target)
        return small & jnp.all(gates_w <= jnp.log(tolerance) / 2)

    def observe(self, state: FlowState) -> FlowState:
        """w, ω and q."""
        w, z, log_q = state
        q = jnp.exp(log_q)
        omega = self.block.decode(q, z)
        # Between steps w is interpolated better than log q, whose differences are exact only
        # where q is small.
        target = self.block.target
        direct = target - jnp.sum(self.block.a * power_difference(w, omega, self.block.depth))
        return w, omega, jnp.where(q > 0.01 * target, direct, q)


class Batch(NamedTuple):
    """All blocks of a problem in their units, their signs, and which of them have label 0."""

    blocks: Block
    signs: Float[Array, "n k"]
    still: Bool[Array, "n 1"]
    units: Units


def as_blocks(
    problem: Problem, rule: AbstractRule, alpha: Float[Array, "..."], depth: int
) -> Batch:
    """The independent systems into which the flow of a block problem splits.

    A block whose label is 0 does not move; it is given the label 1 here and a zero sign, so that
    its derivatives stay finite, and its β = 0 is set by whoever puts the blocks together.
    """
    data, y = problem.data, problem.y
    assert isinstance(data, Blocks)
    x = data.x
    units = block_units(x, y, depth)
    a = jnp.sign(x) * x / units.data[:, None]
    target = jnp.where(y == 0, 1, jnp.abs(y)) / units.label
    alpha = _per_block(data, alpha, units.weight)
    rule = rule.map_epsilon(lambda epsilon: _per_block(data, epsilon, units.gradient))
    return Batch(
        Block(a, target, alpha, rule, depth),
        jnp.sign(x) * jnp.sign(y)[:, None],
        (y == 0)[:, None],
        units,
    )


class Kernel(NamedTuple):
    """Where β of a block goes whose label is next to 0, and how fast, before its units."""

    beta: Float[Array, "n k"]
    rate: Float[Array, " n"]


def kernel(problem: Problem, rule: AbstractRule, alpha: Float[Array, "..."], depth: int) -> Kernel:
    """Of all blocks, as if the weights stayed where they start: a kernel method with X."""
    data = problem.data
    assert isinstance(data, Blocks)

    def gather(value: Float[Array, "..."]) -> Float[Array, "..."]:
        return data.gather(value, fill=1.0) if value.ndim else value

    start = jnp.broadcast_to(gather(alpha), data.x.shape)
    one = jnp.ones_like(start)
    rate = rule.map_epsilon(gather).unit_rate(one, 0 * one, start, depth)
    follow = data.x * start**depth * rate
    norm = jnp.sum(data.x * follow, axis=-1)
    safe = jnp.where(norm > 0, norm, 1)  # α^{2M−2} may be too small a number
    return Kernel(follow * (problem.y / safe)[:, None], 2 * depth * norm)


def near_zero(
    problem: Problem,
    rule: AbstractRule,
    alpha: Float[Array, "..."],
    ts: Float[Array, " T"],
    depth: int,
) -> tuple[Float[Array, "T n k"], Float[Array, "T n"]]:
    """Of blocks with label 0, what it would do to u, and to −v, and to the residual.

    All are 0: what they are for is derivatives in the label.
    """
    nodes, weights = np.stack(np.polynomial.legendre.leggauss(_NODES)).astype(ts.dtype)
    steps = jnp.diff(ts, prepend=0)
    inner = (ts - steps)[:, None] + steps[:, None] * (nodes + 1) / 2
    pace = jax.vmap(jax.vmap(lambda t: jnp.mean(rule.slowness() / rule.at(t).slowness())))(inner)
    clock = jnp.cumsum(steps * (pace @ (weights / 2)))  # t, but for an ε that changes with it
    beta, rate = kernel(problem, rule, alpha, depth)
    gone = -jnp.expm1(-clock[:, None] * rate)
    data = problem.data
    assert isinstance(data, Blocks)
    start = data.gather(jnp.broadcast_to(alpha, (problem.num_features,)))
    still = problem.y == 0
    y, slope = jnp.where(still, problem.y, 0), 2 * depth * start ** (depth - 1)
    half = jnp.where(still[:, None], beta, 0) / jnp.where(slope > 0, slope, 1)
    return gone[..., None] * half, (gone - 1) * y


def _per_block(
    data: Blocks, value: Float[Array, "..."], unit: Float[Array, " n"]
) -> Float[Array, "n ..."]:
    """A scalar for every block (n,), or one number per coordinate in the blocks (n, k)."""
    if value.ndim == 0:
        return value / unit
    return data.gather(value, fill=1.0) / unit[:, None]
