"""From arguments to a plan: which cases, in which order, in which chunks. All arithmetic, no list.

Cases lie in the order of the dataset: problems, then ε, then α (or the zipped cases). A chunk is a
tile of that grid whose cases follow each other without a gap, so that it is a slice of the flat
order and, in a store, one whole Zarr chunk of each variable.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import Numbers, is_traced, usable_rtol, usable_steps
from .._inputs import check_depth
from .._problem import Blocks, Problem
from .._smoothing import SMOOTHINGS
from ._devices import num_threads
from ._settings import Settings, first_steps
from ._variables import DEFAULT_VARIABLES, VARIABLES

MOST_LOST = 100_000  # cases that a kill may cost
ROWS = 65_536  # blocks in a chunk, about
_LEAST = 3000  # columns of blocks in a chunk of the engine: fewer are not worth a thread
_GENERAL_CASES = 512  # in a chunk, where each costs about a millisecond
_NUMBERS = 2**22  # entries of β in a chunk, at most
_RTOL = 1e-6


class Chunk(NamedTuple):
    """Number, place in the grid, and place in the flat order of the cases of a chunk."""

    index: int
    corner: tuple[int, ...]
    extent: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Plan:
    """The grid of a sweep and how it is cut."""

    problem: Problem
    num_problems: int | None
    epsilon: np.ndarray
    alpha: np.ndarray
    product: bool
    settings: Settings
    tile: tuple[int, ...]

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the axes of the grid."""
        cases = ("epsilon", "alpha") if self.product else ("case",)
        return cases if self.num_problems is None else ("problem", *cases)

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes of the grid."""
        return _shape(self.num_problems, self.epsilon, self.alpha, self.product)

    @property
    def num_cases(self) -> int:
        """How many cases there are."""
        return math.prod(self.shape)

    @property
    def num_chunks(self) -> int:
        """How many chunks there are."""
        return math.prod(self._counts)

    @property
    def _counts(self) -> tuple[int, ...]:
        return tuple(-(-size // tile) for size, tile in zip(self.shape, self.tile, strict=True))

    def chunk(self, index: int) -> Chunk:
        """The chunk of that number."""
        place = np.unravel_index(index, self._counts)
        corner = tuple(int(i) * t for i, t in zip(place, self.tile, strict=True))
        sides = zip(corner, self.tile, self.shape, strict=True)
        extent = tuple(min(tile, size - first) for first, tile, size in sides)
        start = int(np.ravel_multi_index(corner, self.shape))
        return Chunk(index, corner, extent, start, start + math.prod(extent))

    def cases(self, flat: np.ndarray) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
        """Number of the problem (None if there is one only), ε and α of places in that order."""
        which = None
        if self.num_problems is not None:
            which, flat = np.divmod(flat, self.num_cases // self.num_problems)
        i, j = np.divmod(flat, len(self.alpha)) if self.product else (flat, flat)
        return which, self.epsilon[i], self.alpha[j]


def make_plan(
    problem: Problem | Sequence[Problem],
    epsilon: Numbers,
    alpha: Numbers,
    *,
    product: bool,
    chunk_size: int | None,
    variables: Sequence[str] | None,
    rtol: float | None,
    **settings: Any,
) -> Plan:
    """Check every argument and cut the grid; `ValueError` names the argument."""
    stacked, num_problems = _stack(problem)
    dtype = stacked.dtype
    axes = _values("epsilon", epsilon, dtype), _values("alpha", alpha, dtype)
    epsilons, alphas = axes if product else _zipped(*axes)
    if rtol == _RTOL and dtype == np.float32:
        rtol = None  # the default of float64, which float32 cannot hold
    wanted = Settings(
        variables=_usable_variables(variables),
        rtol=usable_rtol(rtol, dtype),
        dtype=dtype.name,
        **_usable(**settings),
    )
    shape = _shape(num_problems, epsilons, alphas, product)
    most = default_chunk(stacked, wanted, math.prod(shape), num_threads(stacked))
    tile = cut(shape, most if chunk_size is None else _usable_chunk(chunk_size))
    return Plan(stacked, num_problems, epsilons, alphas, product, wanted, tile)


def default_chunk(problem: Problem, settings: Settings, num_cases: int, threads: int) -> int:
    """Cases in a chunk: work for a while, for every thread, and little of it to lose."""
    data = problem.data
    least = 1
    if isinstance(data, Blocks) and first_steps(problem, settings) is not None:
        least = _LEAST // math.prod(data.x.shape[-2:])
    usual = ROWS // problem.num_examples if isinstance(data, Blocks) else _GENERAL_CASES
    # Lost by a kill: a chunk for each thread, two that wait, one that is written, one between.
    most = MOST_LOST // (threads + 4)
    fair = max(least, -(-num_cases // threads))
    return max(1, min(usual, most, fair, _NUMBERS // problem.num_features))


def cut(shape: tuple[int, ...], most: int) -> tuple[int, ...]:
    """The tile: whole inner axes, equal parts of one axis, one entry of each axis outside it."""
    tile: list[int] = []
    for size in reversed(shape):
        parts = -(-size // most)
        tile.append(-(-size // parts))
        most = most // size if parts == 1 else 1
    return tuple(reversed(tile))


def _shape(
    num_problems: int | None, epsilon: np.ndarray, alpha: np.ndarray, product: bool
) -> tuple[int, ...]:
    cases = (len(epsilon), len(alpha)) if product else (len(epsilon),)
    return cases if num_problems is None else (num_problems, *cases)


def _stack(problem: Problem | Sequence[Problem]) -> tuple[Problem, int | None]:
    """One problem as it is; several as one whose arrays have a leading axis, and their number."""
    if is_traced(problem):
        raise ValueError("problem must be concrete: call sweep outside of jit, vmap and grad.")
    if isinstance(problem, Problem):
        return problem, None
    several = list(problem) if isinstance(problem, Sequence) else []
    if not several or not all(isinstance(one, Problem) for one in several):
        raise ValueError("problem must be a Problem, or a non-empty sequence of them.")
    first = _form(several[0])
    for i, other in enumerate(several):
        if _form(other) != first:
            raise ValueError(
                f"problem: entries 0 and {i} differ in shape, structure or dtype. Sweep over "
                "problems of one shape, or call sweep once for each."
            )
    stacked = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *several)
    return stacked, len(several)


def _form(problem: Problem) -> Any:
    leaves, structure = jax.tree.flatten(problem)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _values(name: str, value: Numbers, dtype: np.dtype) -> np.ndarray:
    """A scalar or one axis of positive, finite numbers as an array with one axis."""
    if is_traced(value):
        raise ValueError(f"{name} must be concrete: call sweep outside of jit, vmap and grad.")
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be positive numbers, but is {value!r}.") from None
    if array.ndim > 1 or array.size == 0:
        raise ValueError(
            f"{name} must be a number or have one non-empty axis, but has shape {array.shape}."
        )
    array = np.atleast_1d(array).astype(dtype)
    bad = np.flatnonzero(~((array > 0) & np.isfinite(array)))
    if bad.size:
        entry = f"entry {bad[0]} is" if array.size > 1 else "is"
        raise ValueError(f"{name} must be positive and finite, but {entry} {array[bad[0]]}.")
    return array


def _zipped(epsilon: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sizes = len(epsilon), len(alpha)
    if 1 not in sizes and sizes[0] != sizes[1]:
        raise ValueError(
            f"epsilon and alpha must have the same length with product=False, but have {sizes[0]} "
            f"and {sizes[1]} entries."
        )
    epsilon, alpha = np.broadcast_arrays(epsilon, alpha)
    return epsilon, alpha


def _usable(*, reference: str, smoothing: str, depth: int, max_steps: int) -> dict[str, Any]:
    if reference not in ("start", "warmup"):
        raise ValueError(f'reference must be "start" or "warmup", but is {reference!r}.')
    if not (isinstance(smoothing, str) and smoothing in SMOOTHINGS):
        names = ", ".join(map(repr, SMOOTHINGS))
        raise ValueError(f"smoothing must be one of {names}, but is {smoothing!r}.")
    check_depth(depth)
    steps = usable_steps(max_steps)
    return {"reference": reference, "smoothing": smoothing, "depth": depth, "max_steps": steps}


def _usable_chunk(chunk_size: int) -> int:
    whole = isinstance(chunk_size, (int, np.integer)) and not isinstance(chunk_size, bool)
    if not (whole and 1 <= chunk_size <= MOST_LOST):
        raise ValueError(
            f"chunk_size must be a whole number from 1 to {MOST_LOST}, but is {chunk_size!r}."
        )
    return int(chunk_size)


def _usable_variables(variables: Sequence[str] | None) -> tuple[str, ...]:
    """The variables asked for, in the order of the dataset; `result` is always among them."""
    if variables is None:
        return DEFAULT_VARIABLES
    if not isinstance(variables, Sequence):
        raise ValueError(f"variables must be names of variables, but is {variables!r}.")
    asked = [variables] if isinstance(variables, str) else list(variables)
    for name in asked:
        if not isinstance(name, str) or name not in VARIABLES:
            raise ValueError(f"variables has no {name!r}. Choose from: {', '.join(VARIABLES)}.")
    return tuple(name for name in VARIABLES if name in (*asked, "result"))
