"""The model that optimisers train: residual, loss and gradient of its weights."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._checks import is_traced
from .._powers import power_difference
from .._problem import Blocks, Problem, pull_back

_MOST_COLUMNS = 16

Weights = dict[str, Float[Array, " d"]]


class Model(eqx.Module):
    """Residual and gradient of any problem; weights in the order of its columns."""

    problem: Problem
    depth: int = eqx.field(static=True)

    def place(self, values: Float[Array, " d"]) -> Float[Array, " d"]:
        """Values of the columns, in the order of the weights."""
        return values

    def back(self, weights: Float[Array, " d"]) -> Float[Array, " d"]:
        """Values of the weights, in the order of the columns."""
        return weights

    def residual(self, weights: Weights) -> Float[Array, " n"]:
        """Xβ − y."""
        beta = power_difference(weights["u"], weights["v"], self.depth)
        return self._predict(beta) - self.problem.y

    def loss(self, residual: Float[Array, " n"]) -> Float[Array, ""]:
        return jnp.sum(residual**2) / (2 * self.depth)

    def gradient(self, weights: Weights, residual: Float[Array, " n"]) -> Weights:
        c, power = self._pull_back(residual), self.depth - 1
        return {"u": c * weights["u"] ** power, "v": -c * weights["v"] ** power}

    def _predict(self, beta):
        return self.problem.predict(beta)

    def _pull_back(self, residual):
        return pull_back(self.problem, residual)


class _CompleteBlocks(Model):
    """Blocks without padding or dead columns: weights column by column of the compact form.

    No index is left in the loop, and XLA makes two kernels of it. Optimisers do not care for order.
    """

    def place(self, values):
        return values[self._order]

    def back(self, weights):
        return jnp.zeros_like(weights).at[self._order].set(weights, unique_indices=True)

    def _predict(self, beta):
        x = self._x
        beta = beta.reshape(x.shape)
        return sum((x[i] * beta[i] for i in range(1, len(x))), x[0] * beta[0])

    def _pull_back(self, residual):
        return (self._x * residual).ravel()

    @property
    def _x(self) -> Float[Array, "k n"]:
        assert isinstance(self.problem.data, Blocks)
        return self.problem.data.x.T

    @property
    def _order(self) -> Int[Array, " d"]:
        assert isinstance(self.problem.data, Blocks)
        return self.problem.data.columns.T.ravel()


def model_of(problem: Problem, depth: int) -> Model:
    """The model of a problem, without indices where its blocks fill all columns of X."""
    return _complete_blocks(problem, depth) or Model(problem, depth)


def _complete_blocks(problem: Problem, depth: int) -> Model | None:
    """The model for blocks that fill all columns of X, where that can be seen."""
    data = problem.data
    if not isinstance(data, Blocks) or is_traced(data.columns) or data.x.ndim != 2:
        return None
    columns, d = np.asarray(data.columns), data.num_features
    complete = columns.size == d and np.all(columns < d) and columns.shape[1] <= _MOST_COLUMNS
    return _CompleteBlocks(problem, depth) if complete else None
