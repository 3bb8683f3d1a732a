"""How every solve is run: Diffrax with one set of conventions, and what it reports."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, PyTree

from ._results import RESULTS
from ._transpose import transposable

FOREVER = 1e30  # a final time that no flow reaches: it settles before


def integrate(
    system: Any,
    solver: diffrax.AbstractSolver,
    t0: float,
    t1: float,
    y0: PyTree,
    rtol: float,
    max_steps: int,
    *,
    atol: float | None = None,
    **options: Any,
) -> diffrax.Solution:
    """Adaptive Diffrax solve of `system.field`, the tolerance held by every component."""
    defaults = {"saveat": diffrax.SaveAt(t1=True), "adjoint": diffrax.ForwardMode()}
    atol = rtol if atol is None else atol
    return diffrax.diffeqsolve(
        diffrax.ODETerm(_field),
        solver,
        t0,
        t1,
        None,
        y0,
        system,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, norm=optx.max_norm),
        max_steps=max_steps,
        throw=False,
        **(defaults | options),
    )


def _field(t, y, system):
    return system.field(t, y)


class Outcome(NamedTuple):
    """What a solve reports beside its values."""

    result: RESULTS
    num_steps: Array
    num_accepted_steps: Array
    num_rejected_steps: Array

    def stats(self) -> dict[str, Array]:
        return {name: getattr(self, name) for name in self._fields if name != "result"}


def outcome(solution: diffrax.Solution) -> Outcome:
    names = ("num_steps", "num_accepted_steps", "num_rejected_steps")
    result = RESULTS.promote(solution.result)
    stopped = result == RESULTS.event_occurred
    return Outcome(
        RESULTS.where(stopped, RESULTS.successful, result),
        *(jnp.asarray(solution.stats[name]) for name in names),
    )


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
