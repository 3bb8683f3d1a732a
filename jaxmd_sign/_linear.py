"""Linear systems whose batches do not hang on a CPU.

jaxlib 0.10 splits a batch of LAPACK calls among XLA's threads and waits for all parts in one of
them: as many such calls at once as there are threads wait for ever. One matrix is never split, so
on a CPU the members of a batch take turns. One number needs no LAPACK.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float


def is_cpu() -> bool:
    """Whether the local devices are CPUs, where the members of a batch take turns."""
    return jax.local_devices()[0].platform == "cpu"


def in_turn(function: Callable[..., Any], *members: Any) -> Any:
    """`function` of each member of a batch: on a CPU a loop."""
    if is_cpu():
        return lax.map(lambda one: function(*one), members)
    return jax.vmap(function)(*members)


def _apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of arrays whose batches by `vmap` take turns; not to differentiate."""
    alone = sequential_vmap(function)
    return wraps(function)(lambda *args: (alone if is_cpu() else function)(*args))


@_apart
def _cholesky(matrix):
    return jnp.linalg.cholesky(matrix)


@_apart
def _solve(matrix, right):
    return jnp.linalg.solve(matrix, right)


@_apart
def _cho_solve(factor, right):
    return cho_solve((factor, True), right)


@_apart
def thin_svd(matrix: Float[Array, "n d"]) -> tuple[Array, Array, Array]:
    """Left singular vectors, singular values and right singular vectors."""
    left, singular, right = jnp.linalg.svd(matrix, full_matrices=False)
    return left, singular, right


@_apart
def pseudo_inverse(matrix: Float[Array, "n d"]) -> Float[Array, "d n"]:
    """X⁺."""
    return jnp.linalg.pinv(matrix)


def factor_positive(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Cholesky's L of a positive semidefinite matrix, raised by rounding; not to differentiate."""
    size = 4 * matrix.shape[0] * jnp.finfo(matrix.dtype).eps
    raised = matrix + size * jnp.diag(jnp.diag(matrix))
    return jnp.sqrt(raised) if matrix.shape == (1, 1) else _cholesky(raised)


def solve_factored(factor: Float[Array, "n n"], right: Float[Array, " n"]) -> Float[Array, " n"]:
    """The solution, from L; not to differentiate."""
    return right / factor[0] ** 2 if right.shape == (1,) else _cho_solve(factor, right)


def solve_linear(
    linear: Callable[[Float[Array, " n"]], Float[Array, " n"]], right: Float[Array, " n"]
) -> Float[Array, " n"]:
    """x with linear(x) = right, for a linear function."""
    matrix = jax.jacobian(linear)(right)
    if right.shape == (1,):
        return right / matrix[0]

    def solve(_, right):
        return _solve(matrix, right)

    def transpose_solve(_, right):
        return _solve(matrix.T, right)

    return lax.custom_linear_solve(lambda x: matrix @ x, right, solve, transpose_solve)
