"""Blocks solved and measured: every claim about a block, on many at once."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from .._extremes import amin
from .._mirror import mirror_map
from .._powers import power_difference
from .._results import combine
from .._sweep._devices import num_cores
from .._threads import as_here
from . import _bounds
from ._case import Case, Sloped, solve_case, solve_slope
from ._claims import BLOCK_CLAIMS, SOLVES
from ._formulas import SOURCE, Formulas
from ._limit_claims import as_pair
from ._path import Effort

WIDTH = 6  # columns that a block is padded to: few shapes, few programs
CHUNKS = (8, 256)
_MORE_STEPS = 32


class Blocks(NamedTuple):
    """Blocks of one or more instances: entries (n, k) padded by zeros, labels, ε and α (n,).

    `starts` is where each instance begins.
    """

    x: np.ndarray
    y: np.ndarray
    epsilon: np.ndarray
    alpha: np.ndarray
    starts: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """The number of blocks of each instance."""
        return np.diff(np.append(self.starts, len(self.y)))

    @property
    def weight_unit(self) -> np.ndarray:
        """The unit of weights, θ, ‖e‖ and of time."""
        return np.sqrt(np.where(self.y == 0, 1, np.abs(self.y)) / np.abs(self.x).sum(axis=1))

    @property
    def gradient_unit(self) -> np.ndarray:
        """The unit of gradients and ε."""
        label = np.where(self.y == 0, 1, np.abs(self.y))
        return np.abs(self.x).sum(axis=1) * label * self.weight_unit

    @property
    def largest_epsilon(self) -> np.ndarray:
        """Up to which Assumption 3.3 allows ε."""
        a = np.abs(self.x)
        least = np.min(a, axis=1, where=a > 0, initial=np.inf)
        return least * np.abs(self.y) / 2 * self.alpha

    @property
    def largest_alpha(self) -> np.ndarray:
        """Up to which Assumption 3.3 allows α."""
        return np.sqrt(np.abs(self.y) / (18 * np.abs(self.x).sum(axis=1)))

    def at(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """x, y, ε and α of some blocks."""
        return self.x[index], self.y[index], self.epsilon[index], self.alpha[index]


class Measured(NamedTuple):
    """What is kept of each block, in its units, as arrays over the blocks.

    - `margins`: those of `BLOCK_CLAIMS`.
    - `small_epsilon`, `small_alpha`, `num_columns`: where it stands with Assumptions 3.3 and 3.8.
    - `moving`: whether the label is not 0.
    - `codes`: how each of `SOLVES` ended; 0 is well.
    - `gradient`: ∇D(β_∞), T_ref = 0⁺; `error`, `slope`: ‖e‖ and d‖e‖/d log ε.
    - `warmup_end`, `sign_end`: T₁ and the first T₂.
    - `signed_error`, `bounds`: of two columns, E; and U, V, U₀, V₀, ε̄.
    """

    margins: Any
    small_epsilon: Any
    small_alpha: Any
    num_columns: Any
    moving: Any
    codes: Any
    gradient: Any
    error: Any
    slope: Any
    warmup_end: Any
    sign_end: Any
    signed_error: Any
    bounds: Any


def solve_blocks(x, y, epsilon, alpha, effort: Effort) -> Case:
    """All solves for blocks x (n, k) with labels, ε and α (n,)."""
    given = (x, y, epsilon, alpha)
    return _solve_cases(*given, _solve_slopes(*given, effort), effort)


@eqx.filter_jit
def _solve_slopes(x, y, epsilon, alpha, effort: Effort) -> Sloped:
    return jax.vmap(partial(solve_slope, effort=effort))(x, y, epsilon, alpha)


@eqx.filter_jit
def _solve_cases(x, y, epsilon, alpha, sloped: Sloped, effort: Effort) -> Case:
    return jax.vmap(partial(solve_case, effort=effort))(x, y, epsilon, alpha, sloped)


@eqx.filter_jit
def measure_blocks(cases: Case, formulas: Formulas = SOURCE) -> Measured:
    """Every block claim on every block."""
    return jax.vmap(lambda case: _measure(case, formulas))(cases)


def _measure(case: Case, formulas: Formulas) -> Measured:
    solved, pair, live = case.sign, as_pair(case), case.sign.a > 0
    known = (pair.a1, pair.a2, solved.Y, solved.epsilon, solved.alpha)
    growth = pair.growths[0]
    beta = power_difference(solved.limit.w, solved.limit.omega, 2)
    dual = mirror_map(formulas.potential(solved.limit.omega**2, 2), beta)
    deep = reduce(combine, (each.result for each in case.deep))
    results = {"sign": solved.result, "deep": deep, "descent": case.descent.result}
    margins = [claim.measure(case, formulas) for claim in BLOCK_CLAIMS if claim.measure]
    small_epsilon, small_alpha = _lies_inside(case)
    return Measured(
        margins=jnp.stack(margins),
        small_epsilon=small_epsilon,
        small_alpha=small_alpha,
        num_columns=jnp.sum(live),
        moving=case.moving,
        codes=jnp.stack([results[name]._value for name in SOLVES]),
        gradient=jnp.where(live, dual - solved.alpha, 0),
        error=case.error,
        slope=case.slope,
        warmup_end=solved.path.warmup.t,
        sign_end=amin(solved.path.sign.t, where=live, initial=jnp.inf),
        signed_error=_bounds.signed_error(pair.a1, pair.a2, growth),
        bounds=jnp.stack(
            [
                _bounds.upper(pair.a1, pair.a2, growth),
                _bounds.lower(pair.a1, pair.a2, growth),
                _bounds.upper_before(*known),
                _bounds.lower_before(*known),
                _bounds.last_useful_epsilon(pair.a1, pair.a2, solved.Y, solved.alpha),
            ]
        ),
    )


def _lies_inside(case: Case) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether ε and α are small enough for Assumption 3.3 (our constants), but for rounding."""
    solved = case.sign
    a, Y, alpha, hair = solved.a, solved.Y, solved.alpha, 1 + 1e-12
    least = amin(a, where=a > 0, initial=jnp.inf)
    small_epsilon = solved.epsilon <= least * Y * alpha / 2 * hair
    return small_epsilon, alpha**2 <= Y / (18 * jnp.sum(a)) * hair


def measure(blocks: Blocks, effort: Effort) -> Measured:
    """All blocks, solved and measured; those whose solves failed once more with more steps."""
    measured = _in_chunks(blocks, effort, CHUNKS)
    failed = np.flatnonzero(measured.codes.any(axis=1))
    if not failed.size:
        return measured
    some = Blocks(*blocks.at(failed), np.arange(failed.size))
    # Few at a time: every step of each is kept.
    again = _in_chunks(some, effort._replace(max_steps=_MORE_STEPS * effort.max_steps), CHUNKS[:1])

    def put(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        old = np.array(old)
        old[failed] = new
        return old

    return jax.tree.map(put, measured, again)


def _in_chunks(blocks: Blocks, effort: Effort, sizes: Sequence[int]) -> Measured:
    """Sorted by cost, in chunks of one size, on all cores."""
    order = np.argsort(blocks.epsilon / blocks.alpha, kind="stable")
    parts = chunks(order, sizes)[::-1]  # the costly ones last would leave cores idle

    def one(part: np.ndarray) -> Measured:
        return jax.tree.map(np.asarray, measure_blocks(solve_blocks(*blocks.at(part), effort)))

    first = one(parts[0])  # compile once
    with ThreadPoolExecutor(num_cores()) as pool:
        rest = list(pool.map(as_here(one), parts[1:]))
    place, together = np.empty(len(order), int), np.concatenate(parts)
    place[together] = np.arange(len(together))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[place], first, *rest)


def chunks(indices: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Indices in chunks of the first size that holds them all, or of the last; some come twice."""
    n = len(indices)
    size = next((size for size in sizes if n <= size), sizes[-1])
    return np.resize(indices, -(-n // size) * size).reshape(-1, size)


def errors_and_slopes(
    blocks: Blocks, epsilons: np.ndarray, effort: Effort
) -> tuple[np.ndarray, np.ndarray]:
    """‖e‖ and d‖e‖/d log ε of all blocks for each of the same ε: (n, G)."""
    n, G, found = len(blocks.y), len(epsilons), []
    for part in chunks(np.arange(n * G), CHUNKS):
        x, y, _, alpha = blocks.at(part // G)
        sloped = _solve_slopes(x, y, epsilons[part % G], alpha, effort)
        found.append((sloped.error, sloped.slope))
    errors, slopes = (np.concatenate(leaves)[: n * G] for leaves in zip(*found, strict=True))
    return errors.reshape(n, G), slopes.reshape(n, G)
