"""The model that optimisers train: residual, loss and gradient of its weights."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import is_traced
from .._powers import power_difference
from .._problem import Blocks, Problem, pull_back

_MOST_COLUMNS = 16

Weights = dict[str, Float[Array, " d"]]


class Model(eqx.Module):
    """Residual and gradient of any problem."""

    problem: Problem
    depth: int = eqx.field(static=True)

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


class _BlocksInOrder(Model):
    """Blocks that fill the columns of X one after another: no index is left in the loop."""

    def _predict(self, beta):
        x = self._x
        beta = beta.reshape(x.shape)
        return sum((x[:, i] * beta[:, i] for i in range(1, x.shape[1])), x[:, 0] * beta[:, 0])

    def _pull_back(self, residual):
        return (self._x * residual[:, None]).ravel()

    @property
    def _x(self) -> Float[Array, "n k"]:
        assert isinstance(self.problem.data, Blocks)
        return self.problem.data.x


def model_of(problem: Problem, depth: int) -> Model:
    """The model of a problem, without indices where that can be seen to do."""
    data = problem.data
    if not isinstance(data, Blocks) or is_traced(data.columns) or data.x.ndim != 2:
        return Model(problem, depth)
    columns = np.asarray(data.columns)
    in_order = np.array_equal(columns.ravel(), np.arange(data.num_features))
    few = columns.shape[1] <= _MOST_COLUMNS
    return (_BlocksInOrder if in_order and few else Model)(problem, depth)
