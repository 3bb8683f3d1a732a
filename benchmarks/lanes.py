"""Blocks as peers see them: each a small system of its own, in the weights that grow and shrink.

ẇ_i = g/(g + ε), g = a_i q w_i, and ω̇_i = −g/(g + ε), g = a_i q ω_i, with q = Y − Σa(w² − ω²):
gradients of one sign, so that no peer need differentiate |g|.
"""

from typing import NamedTuple

import numpy as np


class Lanes(NamedTuple):
    """|x| (L, k), |y| (L,), ε (L,) and α (L,)."""

    a: np.ndarray
    Y: np.ndarray
    epsilon: np.ndarray
    alpha: np.ndarray

    def take(self, which) -> "Lanes":
        """These lanes."""
        return Lanes(*(values[which] for values in self))

    def order(self) -> np.ndarray:
        """By how stiff they are: neighbours take about as many steps."""
        return np.argsort(self.epsilon / self.gradient_unit(), kind="stable")

    def gradient_unit(self) -> np.ndarray:
        """The gradient of a block with Σa = Y = 1."""
        return self.Y * np.sqrt(self.a.sum(axis=1) * self.Y)

    def final_time(self) -> np.ndarray:
        """The end of the sign stage at the latest (ẇ ≥ ½), and twenty time constants after it."""
        slowest = self.epsilon / (2 * self.a.min(axis=1) * self.Y)
        return 2 * np.sqrt(self.Y / self.a.sum(axis=1)) + 2 * self.alpha + 20 * slowest


def betas(states: np.ndarray) -> np.ndarray:
    """|β| = w² − ω² of states (..., 2k) that hold w, then ω."""
    w, omega = np.split(states, 2, axis=-1)
    return (w - omega) * (w + omega)
