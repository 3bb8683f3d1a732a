"""The ends of the stages (§3.3.1), to solver accuracy.

While a solve runs, its solver notes the step in which each gate closes (a gate is
log(|gradient|/ε)). Afterwards the gate itself is made the independent variable and integrated
from an end of that step to 0, which ends exactly at the crossing (Hénon's trick): no root finder,
no grid, and derivatives of the crossing come out right by themselves.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from ._extremes import amax, amin
from ._hermite import HermiteInterpolation, Jet, jet

# An accepted step is smooth at the tolerance; a few shorter ones cross it at the same accuracy.
_CROSSING_STEPS = 6


@runtime_checkable
class Gated(Protocol):
    """A vector field with gates, as a solver sees it.

    Where a gate of a w rises but once before it falls, the crossing is reached from the end of its
    step (`unimodal`): the top of the gate, where it is no variable, may lie in that step.
    """

    unimodal: ClassVar[bool]

    @property
    def has_corner(self) -> bool: ...

    def field(self, t: Float[Array, ""], y: PyTree, /) -> PyTree: ...

    def gates(self, t: Float[Array, ""], y: PyTree, /) -> Float[Array, "2 k"]: ...


class CornerController(diffrax.PIDController):
    """For a field with a corner where a gate is 0: a step over one is kept only if y hardly moves.

    The error that a solver sees there is of second order, but that of derivatives is of first. A
    step that is not kept is cut where the gate, were it straight, would be 0, but not below what
    moves t: a step of length 0 is the last that Diffrax takes.
    """

    factormin: float = 1e-6

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, y_error, error_order, state):
        start, end = args.gates(t0, y0), args.gates(t1, y1_candidate)
        over = (jnp.sign(start) != jnp.sign(end)) & jnp.isfinite(start) & jnp.isfinite(end)
        share = amin(jnp.where(over, start / jnp.where(over, start - end, 1), 1))
        length, rounding = t1 - t0, jnp.finfo(jnp.result_type(t0)).eps * jnp.abs(t1)
        least = jnp.maximum(self.factormin, 4 * rounding / length)
        cut = self.safety / jnp.clip(share, least, self.safety**2)

        def tolerance(y):
            return self.atol + self.rtol * jnp.abs(y)

        moved = jax.tree.map(lambda a, b: (b - a) / tolerance(b), y0, y1_candidate)
        far = jnp.any(over) & (self.norm(moved) > 1) & (length > 16 * rounding)
        y_error = jax.tree.map(
            lambda error, y: jnp.where(far, cut**error_order * tolerance(y), error),
            y_error,
            y1_candidate,
        )
        return super().adapt_step_size(t0, t1, y0, y1_candidate, args, y_error, error_order, state)


class Bracket(NamedTuple):
    """An end of the step in which a gate closed; `closed` is false if none has yet."""

    t: Float[Array, "..."]
    y: PyTree[Float[Array, "..."]]
    closed: Bool[Array, "..."]


class TrackedState(NamedTuple):
    solver: Any
    warmup: Bracket
    sign: Bracket
    jet: Jet | None


class TrackedSolver(diffrax.AbstractAdaptiveSolver):
    """A Diffrax solver that remembers where the gates of `args` (a `Gated`) closed.

    `warmup` keeps the first step after which no gate of an ω is open, `sign` the last step in
    which each gate of a w closed. Rejected steps leave no trace. `smooth`: between steps, follow
    derivatives of the flow rather than the solver's interpolant.
    """

    solver: diffrax.AbstractSolver
    smooth: bool = eqx.field(static=True)

    def __init__(
        self,
        solver: diffrax.AbstractSolver,
        adjoint: diffrax.AbstractAdjoint,
        smooth: bool = False,
    ):
        # What Diffrax does for a bare solver: forward mode needs plain loops inside a step.
        if isinstance(adjoint, diffrax.ForwardMode) and getattr(solver, "scan_kind", "") is None:
            solver = eqx.tree_at(lambda s: s.scan_kind, solver, "lax", is_leaf=lambda x: x is None)
        self.solver, self.smooth = solver, smooth

    @property
    def term_structure(self):
        return self.solver.term_structure

    @property
    def interpolation_cls(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return HermiteInterpolation if self.smooth else self.solver.interpolation_cls

    @property
    def term_compatible_contr_kwargs(self):
        return self.solver.term_compatible_contr_kwargs

    def order(self, terms):
        return self.solver.order(terms)

    def strong_order(self, terms):
        return self.solver.strong_order(terms)

    def error_order(self, terms):
        return self.solver.error_order(terms)

    def func(self, terms, t0, y0, args):
        return self.solver.func(terms, t0, y0, args)

    def init(self, terms, t0, t1, y0, args):
        each = args.gates(t0, y0).shape[1:]
        here = Bracket(jnp.asarray(t0), y0, jnp.array(False))
        sign = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, each + jnp.shape(leaf)), here)
        start = jet(args.field, here.t, y0) if self.smooth else None
        return TrackedState(self.solver.init(terms, t0, t1, y0, args), here, sign, start)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        y1, error, dense, inner, result = self.solver.step(
            terms, t0, t1, y0, args, solver_state.solver, made_jump
        )
        (omega0, w0), (omega1, w1) = args.gates(t0, y0), args.gates(t1, y1)
        here = Bracket(jnp.asarray(t0), y0, jnp.array(True))
        there = Bracket(jnp.asarray(t1), y1, jnp.array(True))
        open0, open1 = jnp.any(omega0 > 0), jnp.any(omega1 > 0)
        warmup = _where(open0 & ~open1 & ~solver_state.warmup.closed, here, solver_state.warmup)
        closes = (w0 > 0) & (w1 <= 0)
        reached = there if args.unimodal else here
        sign = jax.vmap(_where, in_axes=(0, None, 0))(closes, reached, solver_state.sign)
        end = None
        if self.smooth:
            end = jet(args.field, there.t, y1)
            dense = {"start": solver_state.jet, "end": end}
        return y1, error, dense, TrackedState(inner, warmup, sign, end), result


def _where(pred: Bool[Array, ""], new: Bracket, old: Bracket) -> Bracket:
    return jax.tree.map(lambda a, b: jnp.where(pred, a, b), new, old)


def warmup_crossing(
    system: Gated, bracket: Bracket
) -> tuple[Float[Array, ""], PyTree[Float[Array, "..."]]]:
    """Time and state at T₁: the last of the ω-gates that close in the bracketing step."""
    k = system.gates(bracket.t, bracket.y).shape[1]
    ts, ys = jax.vmap(lambda i: _crossing(system, i, bracket))(jnp.arange(k))
    last = jnp.argmax(ts)
    return ts[last], jax.tree.map(lambda leaf: leaf[last], ys)


def stage_ends(system: Gated, tracked: TrackedState) -> tuple[Float[Array, ""], Float[Array, " k"]]:
    """T₁, and T₂ of each coordinate; 0 for gates that were never open."""
    k = tracked.sign.t.shape[0]
    brackets = jax.tree.map(
        lambda one, each: jnp.concatenate([jnp.broadcast_to(one, each.shape), each]),
        tracked.warmup,
        tracked.sign,
    )
    ts, _ = jax.vmap(lambda i, at: _crossing(system, i, at))(jnp.arange(2 * k), brackets)
    return amax(ts[:k]), ts[k:]


def _crossing(
    system: Gated, index: Array, bracket: Bracket
) -> tuple[Float[Array, ""], PyTree[Float[Array, "..."]]]:
    """Time and state where one gate closes, from an end of the step in which it does."""
    start = (bracket.t, bracket.y)
    gates = system.gates(*start)
    height = gates.ravel()[index]
    from_end = system.unimodal & (index >= gates.shape[1])
    active = bracket.closed & jnp.where(from_end, height < 0, height > 0) & jnp.isfinite(height)
    clock = _GateClock(system, index, jnp.where(active, height, 0), active)
    return runge_kutta(clock.field, start, _CROSSING_STEPS)


def runge_kutta(
    field: Callable[[PyTree], PyTree], start: PyTree[Float[Array, "..."]], num_steps: int
) -> PyTree[Float[Array, "..."]]:
    """y(1) of dy/ds = field(y), in so many equal steps of `Dopri8`.

    A Diffrax solve of steps this few compiles for longer, and checks them in a host callback.
    """
    tableau = diffrax.Dopri8.tableau
    stages = len(tableau.b_sol)
    lower = np.zeros((stages, stages))
    for i, row in enumerate(tableau.a_lower, start=1):
        lower[i, :i] = row

    def step(y, _):
        def move(weights, slopes):
            weights = jnp.asarray(weights / num_steps)
            return jax.tree.map(
                lambda leaf, k: leaf + jnp.tensordot(weights.astype(leaf.dtype), k, 1), y, slopes
            )

        def stage(slopes, at):
            i, weights = at
            slope = field(move(weights, slopes))
            return jax.tree.map(lambda all, k: all.at[i].set(k), slopes, slope), None

        slopes = jax.tree.map(lambda leaf: jnp.zeros((stages, *leaf.shape), leaf.dtype), y)
        slopes, _ = lax.scan(stage, slopes, (np.arange(stages), lower))
        return move(tableau.b_sol, slopes), None

    return lax.scan(step, start, length=num_steps)[0]


class _GateClock(eqx.Module):
    """Time and state of a system as functions of the share of a gate's height that is gone."""

    system: Any
    index: Array
    height: Float[Array, ""]
    active: Bool[Array, ""]

    def gate(self, t: Float[Array, ""], y: PyTree) -> Float[Array, ""]:
        return self.system.gates(t, y).ravel()[self.index]

    def field(self, state: tuple[Float[Array, ""], PyTree]) -> tuple[Float[Array, ""], PyTree]:
        t, y = state
        rate = self.system.field(t, y)
        _, gate_rate = jax.jvp(self.gate, (t, y), (jnp.ones_like(t), rate))
        speed = jnp.where(self.active, -self.height / jnp.where(self.active, gate_rate, 1), 0)
        return speed, jax.tree.map(lambda r: speed * r, rate)
