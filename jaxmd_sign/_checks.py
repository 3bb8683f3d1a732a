"""Argument checks: one clear line (argument, what is wrong, how to mend it) before any work.

Concrete bad values raise `ValueError`. Traced values cannot be looked at: they flow through to a
non-zero `result` and NaN (see `_results`), so that nothing on a batch path calls back to the host.
"""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Float

Numbers = ArrayLike | Sequence[Any]
Scalar = float | Float[Array | np.ndarray, ""]
"""What can be made an array: also nested lists."""


def is_traced(*values: Any) -> bool:
    """Whether any leaf of `values` is a tracer."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))


def described(value: Any) -> str:
    """What it is, in words; an array may have become a tracer on its way."""
    return "an array" if isinstance(value, jax.Array | np.ndarray) else f"a {type(value).__name__}"


def usable_dtype(dtype: DTypeLike) -> np.dtype:
    """float32 if that was asked for, else float64, which needs JAX's 64-bit mode."""
    try:
        wanted = np.dtype(dtype)
    except TypeError:  # no name of any
        raise ValueError(f"dtype must be float32 or float64, but is {dtype!r}.") from None
    if wanted == np.float32:
        return wanted
    if wanted.kind not in "fiub":
        raise ValueError(f"dtype must be float32 or float64, but is {wanted}.")
    if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(
            "dtype is float64, but JAX's 64-bit mode is off. Call "
            'jax.config.update("jax_enable_x64", True) first, or pass float32 arrays.'
        )
    return np.dtype(np.float64)


def as_array(name: str, value: Numbers, ndim: int) -> Float[Array | np.ndarray, "..."]:
    """`value` as a float array with `ndim` axes; a NumPy array, all finite, if it is concrete.

    Concrete values stay in NumPy while they are looked at: under `jit`, JAX would trace that.
    """
    array = jnp.asarray(value) if is_traced(value) else _as_numpy(name, value)
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, but has shape {array.shape}.")
    if isinstance(array, np.ndarray) and not np.all(np.isfinite(array)):
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name} must be finite, but entry {where} is {array[where]}.")
    return array.astype(usable_dtype(array.dtype))


def _as_numpy(name: str, value: Numbers) -> np.ndarray:
    """A concrete value as a NumPy array of float32 if it is that, else of float64."""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different length
        array = np.array(None)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be an array of numbers, all rows of one length, but is not.")
    return array if array.dtype == np.float32 else array.astype(np.float64)


def as_positive(name: str, value: Numbers, dtype: DTypeLike | None = None) -> Float[Array, "..."]:
    """`value`, a scalar or one number per coordinate, as a positive, finite float array."""
    if is_traced(value):
        array = jnp.asarray(value)
    else:
        try:
            array = np.asarray(value, dtype=float)
        except (TypeError, ValueError):
            raise ValueError(f"{name} must be a positive number, but is {value!r}.") from None
    if array.ndim > 1:
        raise ValueError(
            f"{name} must be a scalar or have one entry per coordinate, but has shape "
            f"{array.shape}. Batch it with jax.vmap."
        )
    if isinstance(array, np.ndarray) and not np.all((array > 0) & np.isfinite(array)):
        raise ValueError(f"{name} must be positive and finite, but is {value}.")
    return jnp.asarray(array, dtype=float if dtype is None else dtype)


def as_times(ts: Numbers) -> Float[Array, " T"]:
    """Increasing times from 0 on."""
    array = as_array("ts", ts, 1)
    if isinstance(array, np.ndarray) and not (
        array.size and array[0] >= 0 and np.all(np.diff(array) >= 0)
    ):
        raise ValueError("ts must be a non-empty, increasing array of times from 0 on.")
    return jnp.asarray(array)


def matches_coordinates(name: str, value: Float[Array, "..."], num_features: int) -> None:
    """Refuse a per-coordinate value whose length is not the number of coordinates."""
    if value.ndim == 1 and value.shape[0] != num_features:
        raise ValueError(
            f"{name} must be a scalar or have {num_features} entries, one per column of X, but "
            f"has {value.shape[0]}. Batch it with jax.vmap."
        )


def usable_rtol(rtol: float | None, dtype: DTypeLike) -> float:
    """The relative tolerance, 1e-8 in float64 and 1e-5 in float32 unless given."""
    finfo = jnp.finfo(dtype)
    if rtol is None:
        rtol = 1e-8 if finfo.bits == 64 else 1e-5
    number = _number(rtol)
    if not 10 * finfo.eps <= number < 1:
        raise ValueError(
            f"rtol must be a number from {10 * float(finfo.eps):.1e} (10 machine epsilons of "
            f"{finfo.dtype}) to 1, but is {rtol!r}."
        )
    return number


def usable_atol(atol: float) -> float:
    """The absolute tolerance."""
    number = _number(atol)
    if not 0 <= number < np.inf:
        raise ValueError(f"atol must be a number of at least 0, but is {atol!r}.")
    return number


def _number(value: Any) -> float:
    """A concrete number, also one of NumPy's or JAX's, as a float; NaN for anything else."""
    if isinstance(value, Real):
        return float(value)
    one = isinstance(value, np.ndarray | jax.Array) and value.ndim == 0 and not is_traced(value)
    return float(value) if one else np.nan


def usable_steps(steps: int, name: str = "max_steps") -> int:
    """A positive whole number of steps."""
    if not isinstance(steps, (int, np.integer)) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"{name} must be a positive whole number, but is {steps!r}.")
    if steps >= 2**31:
        raise ValueError(f"{name} must be below 2^31, but is {steps}.")
    return int(steps)


def all_finite(*arrays: Float[Array, "..."]) -> Bool[Array, ""]:
    """Whether every entry of every array is finite (traceable)."""
    return jnp.stack([jnp.all(jnp.isfinite(a)) for a in arrays]).all()


def all_positive(*arrays: Float[Array, "..."]) -> Bool[Array, ""]:
    """Whether every entry of every array is positive and finite (traceable)."""
    return jnp.stack([jnp.all((a > 0) & jnp.isfinite(a)) for a in arrays]).all()
