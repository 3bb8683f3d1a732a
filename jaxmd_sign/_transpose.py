"""Derivatives in both modes, to any order, through solvers that only have forward mode."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, PyTree

Solve = Callable[..., tuple[PyTree, PyTree]]


def transposable(solve: Solve) -> Solve:
    """`solve(*arrays) -> (outputs, aux)` with a derivative that transposes.

    The tangent of the outputs is their small Jacobian, taken in forward mode beside the values in
    one solve, times the tangents of the arguments: linear, so `grad` and `vjp` work as `jvp`
    does. Only columns of perturbed arguments are computed: d/dε of a limit costs one extra
    tangent. The Jacobian is itself transposable, hence derivatives of any order. `aux` is not
    differentiated. `solve` must not close over tracers.
    """

    @jax.custom_jvp
    def wrapped(*args: Array) -> tuple[PyTree, PyTree]:
        return _tie(solve(*args), args)

    @partial(wrapped.defjvp, symbolic_zeros=True)
    def wrapped_jvp(primals: tuple[Array, ...], tangents: tuple[Any, ...]):
        moving = tuple(i for i, t in enumerate(tangents) if not isinstance(t, SymbolicZero))
        if not moving:
            raise ValueError(
                "A schedule or smoothing uses a number that is differentiated. Derivatives are "
                "in epsilon, alpha, X, y and ts only: take differences for that number."
            )
        (out, jacobians), aux = transposable(_with_jacobians(solve, moving))(*primals)
        contributions = [
            jax.tree.map(partial(_contract, tangent=tangents[i]), jacobian)
            for i, jacobian in zip(moving, jacobians, strict=True)
        ]
        tangent = jax.tree.map(lambda *terms: sum(terms), *contributions)
        return (out, aux), (tangent, jax.tree.map(_zero_tangent, aux))

    return wrapped


def _with_jacobians(solve: Solve, moving: tuple[int, ...]) -> Solve:
    """`solve` with the Jacobians of its outputs in the arguments `moving` beside them."""

    def solve_and_jacobians(*args: Array) -> tuple[PyTree, PyTree]:
        def at(*values: Array):
            full = list(args)
            for i, value in zip(moving, values, strict=True):
                full[i] = value
            out, aux = solve(*full)
            return out, (out, aux)

        argnums = tuple(range(len(moving)))
        jacobians, (out, aux) = jax.jacfwd(at, argnums, has_aux=True)(*(args[i] for i in moving))
        # One tree of Jacobians an argument, rather than a tuple at every output.
        per_argument = tuple(
            jax.tree.map(lambda _, j, i=i: j[i], out, jacobians) for i in range(len(moving))
        )
        return (out, per_argument), aux

    return solve_and_jacobians


def _tie(outputs: PyTree, args: tuple[Array, ...]) -> PyTree:
    """`outputs`, all of them batched wherever any argument is.

    JAX 0.10 mixes up the axes of a batched custom_jvp, under jit and differentiated twice, if one
    of its outputs is constant over the batch, as a second derivative easily is.
    """
    zero = jnp.sum(jnp.stack([0 * jnp.sum(arg) for arg in args]))

    def tie(leaf: Array) -> Array:
        nothing = zero if jnp.issubdtype(leaf.dtype, jnp.floating) else zero > 1
        return leaf + nothing.astype(leaf.dtype)

    return jax.tree.map(tie, outputs)


def _contract(jacobian: Array, tangent: Array) -> Array:
    return jnp.sum(jacobian * tangent, axis=tuple(range(-jnp.ndim(tangent), 0)))


def _zero_tangent(value: Array) -> Any:
    if jnp.issubdtype(value.dtype, jnp.floating):
        return jnp.zeros_like(value)
    return np.zeros(value.shape, jax.dtypes.float0)
