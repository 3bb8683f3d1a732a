"""The blocks of the problems of a sweep, as tables from which lanes and measures are made.

A lane is one block of one case; lane l is block l // B of case l % B, for B cases.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._block import Batch, as_blocks
from .._problem import Blocks, Problem
from .._rules import SmoothedSign

Which = Int[Array | np.ndarray, " B"] | None
"""The number of the problem of each case; None if there is one problem."""


class Row(NamedTuple):
    """Lanes' blocks: entries with Σa = 1, and the units of weights and gradients."""

    a: Float[Array, "lanes k"]
    weight: Float[Array, " lanes"]
    gradient: Float[Array, " lanes"]


class Tables(NamedTuple):
    """The blocks of one problem, or of several along a first axis.

    `slot` is the place of each feature in (k, n), or k n for one that moves nowhere.
    """

    a: Float[Array, "*p n k"]
    signs: Float[Array, "*p n k"]
    label: Float[Array, "*p n"]
    weight: Float[Array, "*p n"]
    gradient: Float[Array, "*p n"]
    still: Bool[Array, "*p n"]
    slot: Int[Array, "*p d"]

    @classmethod
    def of(cls, problem: Problem, batch: Batch) -> "Tables":
        """The tables of one problem."""
        data, (n, k) = problem.data, batch.signs.shape
        assert isinstance(data, Blocks)
        place = jnp.arange(k)[None] * n + jnp.arange(n)[:, None]
        slot = jnp.full(problem.num_features, n * k)
        slot = slot.at[jnp.where(data.mask, data.columns, problem.num_features)].set(
            place, mode="drop"
        )
        units = batch.units
        return cls(
            batch.blocks.a, batch.signs, units.label, units.weight, units.gradient,
            batch.still[:, 0], slot,
        )  # fmt: skip

    def row(self, block: Int[Array, " lanes"], which: Int[Array, " lanes"] | None) -> Row:
        """These blocks of these problems."""
        at = (block,) if which is None else (which, block)
        return Row(self.a[at], self.weight[at], self.gradient[at])

    def lanes_last(self, which: Which) -> "Tables":
        """The tables of each case, cases last (of length 1 if there is one problem)."""
        if which is None:
            chosen = jax.tree.map(lambda x: x[None], self)
        else:
            chosen = jax.tree.map(lambda x: x[which], self)
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1).swapaxes(0, -2), chosen)


class Cases(NamedTuple):
    """Tables of the problems, and of each case its row of them, ε and α."""

    tables: Tables
    which: Which
    epsilon: Float[Array | np.ndarray, " B"]
    alpha: Float[Array | np.ndarray, " B"]

    def lanes(self, lanes: Int[Array, " lanes"]) -> tuple[Row, Array, Array]:
        """Blocks of these lanes, and the ε and α of their cases, not in units."""
        block, case = jnp.divmod(lanes, self.epsilon.shape[0])
        row = self.tables.row(block, None if self.which is None else self.which[case])
        return row, self.epsilon[case], self.alpha[case]


@jax.jit
def tables(problems: Problem) -> Tables:
    """The tables of one problem, or of several stacked along a first axis."""

    def of(problem: Problem) -> Tables:
        one = jnp.ones((), problem.dtype)
        return Tables.of(problem, as_blocks(problem, SmoothedSign(1.0), one, 2))

    return of(problems) if problems.y.ndim == 1 else jax.vmap(of)(problems)


def rule_of(epsilon: Float[Array, "..."], smoothing: str) -> SmoothedSign:
    """The rule with this ε in its own dtype."""
    return SmoothedSign(1.0, smoothing).map_epsilon(lambda _: epsilon)
