"""The regression problem: data X, y and the structure of X, found once when it is concrete."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ._checks import Numbers, as_array, described

Values = Array | np.ndarray


class Blocks(eqx.Module):
    """X of Assumption 3.2 in compact form: the non-zero entries of each row, padded to k.

    `columns` says which column of X an entry belongs to (`num_features` for padding, which
    gathers 0 and scatters nowhere). Indices and mask are array leaves: a second problem of the
    same padded sizes runs the same compiled programs.
    """

    x: Float[Array, "n k"]
    columns: Int[Array, "n k"]
    mask: Bool[Array, "n k"]
    num_features: int = eqx.field(static=True)

    def gather(self, values: Float[Array, " d"], fill: float = 0.0) -> Float[Array, "n k"]:
        """Entries of a vector over the columns of X, block by block."""
        return values.at[self.columns].get(mode="fill", fill_value=fill)

    def scatter(self, values: Float[Array, "n k"], dead: Numbers) -> Float[Array, " d"]:
        """The vector over the columns of X; `dead` fills the columns that are zero in every row."""
        dead = jnp.broadcast_to(jnp.asarray(dead, values.dtype), (self.num_features,))
        return dead.at[self.columns].set(values, mode="drop")

    def dense(self) -> Float[Array, "n d"]:
        rows = jnp.arange(self.x.shape[0])[:, None]
        zeros = jnp.zeros((self.x.shape[0], self.num_features), self.x.dtype)
        return zeros.at[rows, self.columns].set(self.x, mode="drop")


class Dense(eqx.Module):
    """Any X. `basis` (n, r) spans the range of a rank-deficient X, None when its rank is n.

    The flow depends on X and y only through basisᵀX and basisᵀy, which have full row rank.
    """

    X: Float[Array, "n d"]
    basis: Float[Array, "n r"] | None = None


class Problem(eqx.Module):
    r"""Regression data for the model β = u∘u − v∘v with loss (7), ¼‖Xβ − y‖².

    For depth M the model is β = u^M − v^M and the loss ‖Xβ − y‖²/2M. The mean loss F/n
    with ε is the flow on F with nε.

    **Arguments:**

    - `X`: data, shape (n, d). Its structure is found here when X is concrete: under
        Assumption 3.2 (disjoint rows) the flow splits into one small system per row. A traced
        `X` is treated as general; `with_data` puts traced values into a known structure.
    - `y`: labels, shape (n,).

    A zero row with label 0 says nothing and is dropped, with a warning.

    **Raises:** `ValueError` if shapes do not match, if an entry is not finite, if float64 is
    asked for while JAX's 64-bit mode is off, or if no β satisfies Xβ = y.

    !!! example
        >>> problem = Problem([[1.3, 0.7]], [1.0])
        >>> problem.is_block_diagonal
        True
    """

    data: Blocks | Dense
    y: Float[Array, " n"]

    def __init__(self, X: Numbers | Blocks | Dense, y: Numbers):
        if isinstance(X, Blocks | Dense):
            self.data, self.y = X, y  # pyright: ignore[reportAttributeAccessIssue]
            return
        X, y = _matching(as_array("X", X, 2), as_array("y", y, 1))
        if isinstance(X, np.ndarray):
            kept = _kept_rows(X, y)
            X, y = X[kept], y[kept]
            blocks = _find_blocks(X)
            self.data = blocks if blocks is not None else _check_interpolator(X, y)
        else:
            self.data = Dense(X)
        self.y = jnp.asarray(y)

    @classmethod
    def from_blocks(cls, x: Numbers, y: Numbers) -> "Problem":
        """A block problem in compact form: row i of x holds the entries of block i.

        **Arguments:**

        - `x`: shape (n, k); block i takes the columns ik, …, ik + k − 1 of X (n, nk), which is
            not formed. A zero entry is a dead column.
        - `y`: labels, shape (n,).

        **Raises:** `ValueError` as `Problem` does.

        !!! example
            >>> Problem.from_blocks([[1.3, 0.7], [0.4, -0.9]], [1.0, -2.0]).X.shape
            (2, 4)
        """
        x, y = _matching(as_array("x", x, 2), as_array("y", y, 1))
        n, k = x.shape
        columns, mask = np.arange(n * k).reshape(n, k), np.ones((n, k), bool)
        if isinstance(x, np.ndarray):
            kept = _kept_rows(x, y)
            x, y, columns = x[kept], y[kept], columns[kept]
            mask = x != 0
        columns = jnp.asarray(np.where(mask, columns, n * k))
        blocks = Blocks(jnp.asarray(x), columns, jnp.asarray(mask), n * k)
        return cls(blocks, jnp.asarray(y))

    def with_data(self, X: Numbers, y: Numbers) -> "Problem":
        """The same structure with other values, traced or not.

        **Arguments:**

        - `X`: shape (n, d), or the compact (n, k) of `from_blocks`. Entries off the pattern of
            non-zeros are not read: derivatives with respect to them are 0.
        - `y`: labels, shape (n,).

        **Raises:** `ValueError` if the shapes differ from those of this problem.

        !!! example
            >>> problem = Problem([[1.3, 0.7]], [1.0])
            >>> problem.with_data([[1.0, 0.5]], [2.0]).y
            Array([2.], dtype=float64)
        """
        X, y = _matching(as_array("X", X, 2), as_array("y", y, 1))
        X, y = jnp.asarray(X, self.dtype), jnp.asarray(y, self.dtype)
        data = self.data
        shapes: set[tuple[int, ...]] = {(self.num_examples, self.num_features)}
        if isinstance(data, Blocks):
            shapes.add(data.x.shape)
        if X.shape not in shapes:
            expected = " or ".join(map(str, sorted(shapes)))
            raise ValueError(f"X must have shape {expected}, but has {X.shape}.")
        if isinstance(data, Dense):
            return Problem(Dense(X, data.basis), y)
        if X.shape != data.x.shape or data.num_features == data.x.shape[1]:
            rows = jnp.arange(X.shape[0])[:, None]
            X = X.at[rows, data.columns].get(mode="fill", fill_value=0.0)
        x = jnp.where(data.mask, X, 0)
        return Problem(Blocks(x, data.columns, data.mask, data.num_features), y)

    @property
    def X(self) -> Float[Array, "n d"]:
        """The data as a dense matrix (formed anew for a block problem)."""
        return self.data.dense() if isinstance(self.data, Blocks) else self.data.X

    @property
    def is_block_diagonal(self) -> bool:
        """Whether the non-zero columns of different rows are disjoint (Assumption 3.2)."""
        return isinstance(self.data, Blocks)

    @property
    def num_examples(self) -> int:
        return self.y.shape[-1]

    @property
    def num_features(self) -> int:
        return self.data.num_features if isinstance(self.data, Blocks) else self.data.X.shape[-1]

    @property
    def dtype(self) -> np.dtype:
        return self.y.dtype

    def predict(self, beta: Float[Array, " d"]) -> Float[Array, " n"]:
        """Xβ, without forming X for a block problem."""
        if isinstance(self.data, Blocks):
            return jnp.sum(self.data.x * self.data.gather(beta), axis=-1)
        return self.data.X @ beta


def check_problem(problem: Problem) -> None:
    """Refuse what is none."""
    if not isinstance(problem, Problem):
        raise ValueError(f"problem must be a Problem, but is {described(problem)}.")


def pull_back(problem: Problem, residual: Float[Array, " n"]) -> Float[Array, " d"]:
    """c = Xᵀr, without forming X for a block problem."""
    data = problem.data
    if isinstance(data, Blocks):
        return data.scatter(data.x * residual[:, None], 0)
    return residual @ data.X


def _matching(X: Values, y: Values) -> tuple[Values, Values]:
    """X and y of one length and one dtype."""
    if X.shape[0] != y.shape[0]:
        raise ValueError(
            f"X and y must have one row per example, but have {X.shape[0]} and {y.shape[0]}."
        )
    if 0 in X.shape:
        raise ValueError(f"X must have at least one row and one column, but has shape {X.shape}.")
    dtype = jnp.promote_types(X.dtype, y.dtype)
    return X.astype(dtype), y.astype(dtype)


def _kept_rows(X: np.ndarray, y: Values) -> slice | np.ndarray:
    """The rows of X that constrain β; a zero row with another label than 0 cannot be met."""
    empty = ~np.any(X != 0, axis=1)
    if not np.any(empty):
        return slice(None)
    if isinstance(y, np.ndarray):
        unmet = np.flatnonzero(empty & (y != 0))
        if unmet.size:
            row = int(unmet[0])
            raise ValueError(
                f"X has a zero row {row} whose label y[{row}] = {float(y[row])} is not zero: no "
                "beta fits it. Remove the row."
            )
    if np.all(empty):
        raise ValueError("X must have a non-zero row, but every row is zero.")
    rows = np.flatnonzero(empty).tolist()
    warnings.warn(f"X: dropped the zero rows {rows} with label 0; they say nothing.", stacklevel=4)
    return np.flatnonzero(~empty)


def _find_blocks(X: np.ndarray) -> Blocks | None:
    """The compact form of X if its rows are disjoint (Assumption 3.2), else None."""
    nonzero = X != 0
    if np.any(nonzero.sum(axis=0) > 1):
        return None
    d, sizes = X.shape[1], nonzero.sum(axis=1)
    mask = np.arange(sizes.max()) < sizes[:, None]
    columns, x = np.full(mask.shape, d), np.zeros(mask.shape, X.dtype)
    columns[mask] = np.nonzero(nonzero)[1]
    x[mask] = X[nonzero]
    return Blocks(jnp.asarray(x), jnp.asarray(columns), jnp.asarray(mask), d)


def _check_interpolator(X: np.ndarray, y: Values) -> Dense:
    """General X with a basis of its range where rank-deficient; refuse y outside the range."""
    left, singular, _ = np.linalg.svd(X, full_matrices=False)
    floor = singular[0] * max(X.shape) * np.finfo(X.dtype).eps
    rank = int(np.sum(singular > floor))
    if rank == X.shape[0]:
        return Dense(jnp.asarray(X))
    basis = left[:, :rank]
    if isinstance(y, np.ndarray):
        outside = np.linalg.norm(y - basis @ (basis.T @ y))
        if outside > np.sqrt(np.finfo(X.dtype).eps) * np.linalg.norm(y):
            raise ValueError(
                f"X, y have no interpolator: X ({X.shape[0]} rows, rank {rank}) cannot reach y "
                f"(distance {outside:.2g}). Remove conflicting rows, or add features."
            )
    return Dense(jnp.asarray(X), jnp.asarray(basis))


def full_rank(problem: Problem) -> tuple[Float[Array, "r d"], Float[Array, " r"]]:
    """Rows that span those of a general X, and their labels: the flow depends on nothing else."""
    X, y, basis = problem.X, problem.y, getattr(problem.data, "basis", None)
    return (X, y) if basis is None else (basis.T @ X, basis.T @ y)


def matmul_precision():
    """Full float32 products everywhere: TF32 would undo the tolerances on some GPUs."""
    return jax.default_matmul_precision("highest")
