"""Problems to work on: seeded random ones, and files."""

import csv
import re
import zipfile
import zlib
from functools import partial
from numbers import Real
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

from ._checks import described, usable_dtype
from ._files import as_path
from ._problem import Problem

Key = PRNGKeyArray | UInt32[Array, "2"]

# blocks:K:SEED or blocks:KxD:SEED, in sizes that fit a computer
_BLOCKS = re.compile(r"blocks:([0-9]{1,7})(?:x([0-9]{1,4}))?:([0-9]{1,18})")


def random_block_problem(
    key: Key, num_blocks: int, block_size: int = 2, *, dtype: DTypeLike = np.float64
) -> Problem:
    r"""Random data satisfying Assumption 3.2 (and 3.8 for blocks of 2 columns).

    |x| is uniform in [0.3, 2] and |y| in [0.5, 2], with random signs.

    **Arguments:**

    - `key`: a `jax.random.key`.
    - `num_blocks`, `block_size`: n blocks of k columns each, so that X is (n, nk).
    - `dtype`: float64 or float32.

    **Returns:** a `Problem` in compact form; X is not formed.

    **Raises:** `ValueError` if a size is not a positive whole number, or for another dtype.

    !!! example
        >>> random_block_problem(jax.random.key(0), 1000, 3).num_features
        3000
    """
    dtype = _chosen(dtype)
    shape = (_positive("num_blocks", num_blocks), _positive("block_size", block_size))
    _check_key(key)
    return Problem.from_blocks(*_random_blocks(key, shape, dtype))


@partial(jax.jit, static_argnums=(1, 2))
def _random_blocks(key: Key, shape: tuple[int, int], dtype: np.dtype) -> tuple[Array, Array]:
    keys = jax.random.split(key, 4)
    x = jax.random.uniform(keys[0], shape, dtype, 0.3, 2.0)
    y = jax.random.uniform(keys[1], shape[:1], dtype, 0.5, 2.0)
    sign_x = jax.random.rademacher(keys[2], shape, dtype)
    sign_y = jax.random.rademacher(keys[3], shape[:1], dtype)
    return sign_x * x, sign_y * y


def random_sparse_problem(
    key: Key,
    num_examples: int,
    num_features: int,
    num_nonzero: int,
    noise: float = 0.0,
    *,
    dtype: DTypeLike = np.float64,
) -> Problem:
    r"""Gaussian data X/√n with labels y = Xβ + noise of a sparse truth β.

    β is ±1 at `num_nonzero` random places and 0 elsewhere.

    **Arguments:**

    - `key`: a `jax.random.key`.
    - `num_examples`, `num_features`: shape (n, d) of X.
    - `num_nonzero`: number of non-zero entries of β, at most d.
    - `noise`: standard deviation of the Gaussian noise in y.
    - `dtype`: float64 or float32.

    **Returns:** a `Problem` with general X.

    **Raises:** `ValueError` for bad sizes, noise or dtype, or if no β fits noisy labels (n > d).

    !!! example
        >>> random_sparse_problem(jax.random.key(0), 20, 50, 3).X.shape
        (20, 50)
    """
    dtype = _chosen(dtype)
    n, d = _positive("num_examples", num_examples), _positive("num_features", num_features)
    if _positive("num_nonzero", num_nonzero) > d:
        raise ValueError(f"num_nonzero must be at most num_features = {d}, but is {num_nonzero}.")
    if not isinstance(noise, Real) or not 0 <= noise < np.inf:
        raise ValueError(f"noise must be at least 0 and finite, but is {noise!r}.")
    _check_key(key)
    X, truth, noisy = sparse_regression(key, n, d, num_nonzero, dtype)
    return Problem(X, X @ truth + noise * noisy)


def sparse_regression(
    key: Key, num_examples: int, num_features: int, num_nonzero: int, dtype: DTypeLike
) -> tuple[Float[Array, "n d"], Float[Array, " d"], Float[Array, " n"]]:
    """X, the truth β and standard noise of `random_sparse_problem`."""
    n, d = num_examples, num_features
    keys = jax.random.split(key, 4)
    X = jax.random.normal(keys[0], (n, d), dtype) / np.sqrt(n).astype(dtype)
    places = jax.random.choice(keys[1], d, (num_nonzero,), replace=False)
    truth = jnp.zeros(d, dtype).at[places].set(jax.random.rademacher(keys[2], places.shape, dtype))
    return X, truth, jax.random.normal(keys[3], (n,), dtype)


def load_problem(path: str | Path, label: str | None = None) -> Problem:
    r"""A problem from a file, in float64.

    **Arguments:**

    - `path`: a `.csv` file whose first line names its columns, all of them numbers; a `.npz` file
        with arrays `X` and `y`; or `blocks:K:SEED`, `blocks:KxD:SEED` for
        `random_block_problem` with K blocks of D (else 2) columns.
    - `label`: name of the column of a `.csv` that holds y, by default the last.

    **Returns:** a `Problem`.

    **Raises:** `ValueError` with one line: what is wrong, where, and how to mend it.

    !!! example
        >>> load_problem("blocks:3x5:0").X.shape
        (3, 15)
    """
    usable_dtype(np.float64)
    path = as_path("path", path, "that of a file, or blocks:K:SEED")
    name, kind = str(path), path.suffix.lower()
    if label is not None and kind != ".csv":
        raise ValueError(
            f"label names a column of a .csv file, but the data is {name}. Leave it out."
        )
    if name.startswith("blocks:"):
        return _from_spec(name)
    if kind not in (".csv", ".npz"):
        raise ValueError(f"{name}: must be a .csv or .npz file, or blocks:K:SEED.")
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"{name}: {what}. Give the path of a {kind} file.")
    try:
        X, y = _read_csv(path, label) if kind == ".csv" else _read_npz(path)
        return Problem(X, y)
    except OSError as error:
        raise ValueError(f"{name}: cannot be read ({error.strerror or error}).") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _from_spec(spec: str) -> Problem:
    match = _BLOCKS.fullmatch(spec)
    if match is None:
        raise ValueError(
            f"{spec}: must be blocks:K:SEED or blocks:KxD:SEED with whole numbers, "
            "e.g. blocks:100:0 or blocks:100x3:0."
        )
    num_blocks, block_size, seed = match.groups(default="2")
    try:
        return random_block_problem(jax.random.key(int(seed)), int(num_blocks), int(block_size))
    except ValueError as error:
        raise ValueError(f"{spec}: {error}") from None


def _read_csv(path: Path, label: str | None) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except (UnicodeDecodeError, csv.Error):
        raise ValueError("is not text. Save it as comma-separated text in UTF-8.") from None
    if not lines:
        raise ValueError("is empty. Write column names, then one line of numbers per example.")
    (_, header), *rows = lines
    header = [name.strip() for name in header]
    column = _label_column(header, label)
    if not rows:
        raise ValueError("has a header only. Add one line of numbers per example.")
    table = np.array([_numbers(number, cells, header) for number, cells in rows])
    return np.delete(table, column, axis=1), table[:, column]


def _label_column(header: list[str], label: str | None) -> int:
    """Where the label is, after a look at the header."""
    if any("\0" in name for name in header):
        raise ValueError("is not text. Save it as comma-separated text in UTF-8.")
    if all(_is_number(name) for name in header):
        raise ValueError("line 1 holds numbers only. Write the names of the columns there.")
    if len(header) < 2:
        raise ValueError("has one column only. It needs commas between features and label.")
    if label is None:
        return len(header) - 1
    if header.count(label) != 1:
        there = f"{header.count(label)} columns" if label in header else "no column"
        names = ", ".join(header[:8]) + (", …" if len(header) > 8 else "")
        raise ValueError(f"label {label!r} names {there} of line 1. Choose one of: {names}.")
    return header.index(label)


def _numbers(number: int, cells: list[str], header: list[str]) -> list[float]:
    """One line of the table."""
    if len(cells) != len(header):
        raise ValueError(
            f"line {number} has {len(cells)} cells, but line 1 names {len(header)} columns. "
            "Make all lines the same length."
        )
    for name, cell in zip(header, cells, strict=True):
        if not (_is_number(cell) and np.isfinite(float(cell))):
            shown = repr(cell if len(cell) <= 20 else cell[:19] + "…")
            raise ValueError(
                f"line {number}, column {name!r} holds {shown}, which is not a finite number. "
                "Correct it, or remove the line."
            )
    return [float(cell) for cell in cells]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    remedy = "Save it by numpy.savez(path, X=X, y=y)."
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in ("X", "y") if name not in archive]
            if missing:
                raise KeyError(missing[0])
            arrays = archive["X"], archive["y"]
    except KeyError as error:
        raise ValueError(f"holds no array {error}. {remedy}") from None
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        raise ValueError(f"is not an archive of NumPy arrays. {remedy}") from None
    for name, array in zip(("X", "y"), arrays, strict=True):
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{name} holds {array.dtype}, not real numbers. {remedy}")
    X, y = arrays
    return X.astype(np.float64), y.astype(np.float64)


def stored_number(path: str | Path, name: str) -> float:
    """A number that an `.npz` file holds beside X and y, e.g. its ε."""
    remedy = f"Give --{name}, or an .npz file that holds it."
    if Path(path).suffix.lower() != ".npz":
        raise ValueError(f"{name} is missing. {remedy}")
    with np.load(path, allow_pickle=False) as archive:
        if name not in archive or archive[name].size != 1 or archive[name].dtype.kind not in "fiu":
            raise ValueError(f"{path}: holds no number {name}. {remedy}")
        return float(archive[name].reshape(()))


def _check_key(key: Key) -> None:
    if not isinstance(key, jax.Array | np.ndarray):
        raise ValueError(f"key must be a key such as jax.random.key(0), but is {described(key)}.")


def _chosen(dtype: DTypeLike) -> np.dtype:
    """float32 or float64, as it was asked for."""
    usable, wanted = usable_dtype(dtype), np.dtype(dtype)
    if wanted != usable:
        raise ValueError(f"dtype must be float32 or float64, but is {wanted}.")
    return usable


def _positive(name: str, value: int) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive whole number, but is {value!r}.")
    return int(value)
