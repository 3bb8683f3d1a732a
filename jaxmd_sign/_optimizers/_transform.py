"""Smoothed sign descent as an optax transformation."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from .._checks import Numbers, as_positive
from .._smoothing import AbstractSmoothing, as_smoothing

Schedule = Callable[[Int[Array, ""]], Numbers]


def smoothed_sign(
    learning_rate: Numbers | Schedule,
    epsilon: Numbers,
    smoothing: str | Callable | AbstractSmoothing = "abs",
) -> optax.GradientTransformation:
    r"""Smoothed sign descent for optax: w ← w − η φ(g/ε), by default w − η g/(|g| + ε).

    The discrete form of (12), which is `optax.adam(η, b1=0, b2=0, eps=ε)` without its memory, and
    with finite derivatives where g = 0. It chains, and batches over η and ε by `jax.vmap`. An ε
    that changes from step to step: `optax.inject_hyperparams(smoothed_sign)(η, epsilon=schedule)`.

    **Arguments:**

    - `learning_rate`: η > 0, or an optax schedule, a function of the number of steps taken.
    - `epsilon`: ε > 0, a number, or an array that broadcasts against every gradient.
    - `smoothing`: as for `SmoothedSign`; under `inject_hyperparams`, a function is a static
        argument (`static_args="smoothing"`).

    **Returns:** an `optax.GradientTransformation`. Another η or ε of the same kind is no new
        program to compile: both are array leaves of it.

    **Raises:** `ValueError` for a bad concrete η, ε or smoothing.

    !!! example
        >>> optimizer = smoothed_sign(0.1, epsilon=1.0)
        >>> optimizer.update(jnp.array([1.0, -3.0]), optimizer.init(jnp.zeros(2)))[0]
        Array([-0.05 ,  0.075], dtype=float64)
    """
    if callable(learning_rate):
        rate, init = learning_rate, _count
    else:
        rate, init = as_positive("learning_rate", learning_rate), _nothing
    return optax.GradientTransformation(
        init, _Update(rate, as_positive("epsilon", epsilon), as_smoothing(smoothing))
    )


def _count(params: PyTree) -> optax.ScaleByScheduleState:
    return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))


def _nothing(params: PyTree) -> optax.EmptyState:
    return optax.EmptyState()


class _Update(eqx.Module):
    """The update function, with η and ε as leaves: what optax keeps in closures."""

    learning_rate: Float[Array, "..."] | Callable
    epsilon: Float[Array, "..."]
    smoothing: AbstractSmoothing

    def __call__(self, updates, state, params=None):
        del params
        rate = self.learning_rate
        if isinstance(state, optax.ScaleByScheduleState):
            assert callable(rate)
            rate = rate(state.count)
            state = optax.ScaleByScheduleState(optax.safe_increment(state.count))

        def step(g: Array) -> Array:
            velocity = self.smoothing.velocity(g, self.epsilon.astype(g.dtype))
            return -jnp.asarray(rate, g.dtype) * velocity

        return jax.tree.map(step, updates), state

    # By identity, as functions are: `jax.jit(optimizer.update)` needs a hash, and arrays have none.
    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other
