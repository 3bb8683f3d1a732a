"""How every solve is run: Diffrax with one set of conventions, and what it reports."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from ._checks import Scalar
from ._extremes import amax, max_norm
from ._results import RESULTS
from ._stages import CornerController, Gated
from ._transpose import transposable

FOREVER = 1e30  # a final time that no flow reaches: it settles before


class Outcome(NamedTuple):
    """What a solve reports beside its values."""

    result: RESULTS
    num_steps: Array
    num_accepted_steps: Array
    num_rejected_steps: Array

    @classmethod
    def without_steps(cls, result: RESULTS) -> "Outcome":
        """Of what took no solver."""
        none = jnp.zeros((), int)
        return cls(result, none, none, none)

    def stats(self) -> dict[str, Array]:
        return {name: getattr(self, name) for name in self._fields if name != "result"}


class Solved(NamedTuple):
    """Saved times and states, the final state of a `TrackedSolver`, and the report."""

    ts: Any
    ys: Any
    tracked: Any
    report: Outcome


def integrate(
    system: Any,
    solver: diffrax.AbstractSolver,
    t0: float,
    t1: float,
    y0: PyTree,
    rtol: Scalar,
    max_steps: int,
    *,
    atol: Scalar | None = None,
    saveat: diffrax.SaveAt | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    event: diffrax.Event | None = None,
) -> Solved:
    """Adaptive Diffrax solve of `system.field`, the tolerance held by every component."""
    atol = rtol if atol is None else atol
    dtype = jnp.result_type(*jax.tree.leaves(y0))
    cornered = isinstance(system, Gated) and system.has_corner
    controller = CornerController if cornered else diffrax.PIDController
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_field),
        solver,
        jnp.asarray(t0, dtype),
        jnp.asarray(t1, dtype),
        None,
        y0,
        system,
        stepsize_controller=controller(rtol=rtol, atol=atol, norm=max_norm),
        saveat=diffrax.SaveAt(t1=True) if saveat is None else saveat,
        adjoint=diffrax.ForwardMode() if adjoint is None else adjoint,
        event=event,
        max_steps=max_steps,
        throw=False,
    )
    result = RESULTS.promote(solution.result)
    result = RESULTS.where(result == RESULTS.event_occurred, RESULTS.successful, result)
    names = ("num_steps", "num_accepted_steps", "num_rejected_steps")
    report = Outcome(result, *(jnp.asarray(solution.stats[name]) for name in names))
    return Solved(solution.ts, solution.ys, solution.solver_state, report)


def tolerance_of_weights(
    rtol: Scalar, alpha: Float[Array, "..."], size: Float[Array, ""], depth: int
) -> Float[Array, ""]:
    """What to ask of u and v for this tolerance of β = u^M − v^M, which is about `size`.

    The larger α^M is beside it, the more digits the difference loses.
    """
    start, size = lax.stop_gradient((amax(alpha) ** depth, size))
    lost = 1 + 4 * start / jnp.where(size > 0, size, jnp.inf)
    return jnp.maximum(rtol / lost, 10 * jnp.finfo(size.dtype).eps)


def _field(t, y, system):
    return system.field(t, y)


class SavesAt(diffrax.AbstractAdjoint):
    """An adjoint whose solve saves its first `SubSaveAt(t1=True)` at `ts` instead.

    Given to `SaveAt`, Diffrax would check traced times by a host callback.
    """

    adjoint: diffrax.AbstractAdjoint
    ts: Float[Array, " T"]

    def loop(self, *, saveat, init_state, **kwargs):
        def room(leaf):
            return jnp.full((self.ts.size, *leaf.shape[1:]), jnp.inf, leaf.dtype)

        sub, saved = saveat.subs[0], init_state.save_state[0]
        sub = diffrax.SubSaveAt(ts=self.ts, fn=sub.fn)
        saved = eqx.tree_at(lambda s: (s.ts, s.ys), saved, jax.tree.map(room, (saved.ts, saved.ys)))
        saveat = eqx.tree_at(lambda at: at.subs[0], saveat, sub)
        init_state = eqx.tree_at(lambda at: at.save_state[0], init_state, saved)
        return self.adjoint.loop(saveat=saveat, init_state=init_state, **kwargs)


def check_diffrax(name: str, value: object, kind: type) -> None:
    """Refuse what is not of this kind of Diffrax's; None is."""
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{name} must be a diffrax.{kind.__name__}, but is {value!r}.")


def differentiable(
    solve: Callable[[PyTree, diffrax.AbstractAdjoint], tuple[PyTree, Outcome]],
    system: PyTree,
    adjoint: diffrax.AbstractAdjoint | None,
) -> tuple[PyTree, Outcome]:
    """Run `solve(system, adjoint)`, with derivatives in both modes unless an adjoint is given."""
    if adjoint is not None:
        return solve(system, adjoint)
    leaves, structure = jax.tree.flatten(system)
    run = transposable(
        lambda *leaves: solve(jax.tree.unflatten(structure, leaves), diffrax.ForwardMode())
    )
    return run(*leaves)
