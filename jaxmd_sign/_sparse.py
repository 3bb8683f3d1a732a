"""The classical experiment of implicit bias: sparse regression, from the kernel to the rich regime.

Gradient descent on β = u² − v² goes from the ℓ₂ interpolator (large α) to that of ℓ₁ (small α),
which finds a sparse truth. The same is asked of smoothed sign descent over ε.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._data import sparse_regression
from ._dual import minimize_potential
from ._explain._l1 import l1_minimizer
from ._explain._potentials import NORMS, PowerNorm
from ._limit import solve_limit
from ._linear import in_turn
from ._problem import Problem
from ._rules import GradientDescent
from ._sweep._api import sweep

_N, _D, _NONZERO, _SEEDS = 40, 100, 5, 5
_ALPHAS = (1e-3, 10.0, 33)  # of gradient descent
_EPSILONS, _SIGN_ALPHAS = (1e-3, 1e3, 25), (1e-3, 0.05, 0.5)
_RTOL = 1e-5


def sparse_numbers() -> dict[str, Any]:
    """Test error and ℓ₁ excess of gradient descent by α, of smoothed sign descent by ε, of norms.

    The test error is ‖β − β°‖²/‖β°‖², which new Gaussian rows show as their squared error; the ℓ₁
    excess is ‖β‖₁ over that of the ℓ₁ minimiser, less 1. Arrays have seeds first.
    """
    data = [
        sparse_regression(jax.random.key(seed), _N, _D, _NONZERO, np.float64)[:2]
        for seed in range(_SEEDS)
    ]
    truth = np.stack([truth for _, truth in data])
    problems = [Problem(X, X @ truth) for X, truth in data]
    X, y = (jnp.stack([getattr(one, name) for one in problems]) for name in ("X", "y"))
    least = np.stack([l1_minimizer(*map(np.asarray, one))[0] for one in zip(X, y, strict=True)])
    alphas, epsilons = np.geomspace(*_ALPHAS), np.geomspace(*_EPSILONS)
    signed = sweep(problems, epsilons, _SIGN_ALPHAS, rtol=_RTOL, variables=["beta"])
    found = _descent(X, y, jnp.asarray([*alphas, *_SIGN_ALPHAS]))
    descent, failed = (np.asarray(x) for x in found)
    norms = np.stack([_norm(X, y, jnp.asarray(p)) for p in NORMS.values()], axis=1)
    betas = {
        "gradient_descent": descent[:, : alphas.size],
        "gradient_descent_same_alpha": descent[:, alphas.size :],
        "smoothed_sign": signed.beta.values,
        "norm": norms,
        "l1": least,
    }
    numbers = {
        "num_examples": _N,
        "num_features": _D,
        "num_nonzero": _NONZERO,
        "seeds": _SEEDS,
        "alpha": alphas,
        "epsilon": epsilons,
        "alpha_smoothed_sign": np.array(_SIGN_ALPHAS),
        "norm_names": list(NORMS),
        "failed": int(np.sum(signed.result.values != 0)) + int(np.sum(failed)),
    }
    for name, beta in betas.items():
        target, size = (x.reshape(_SEEDS, *[1] * (beta.ndim - 2), _D) for x in (truth, least))
        distance = np.sum((beta - target) ** 2, axis=-1)
        numbers[f"test_error_{name}"] = distance / np.sum(target**2, axis=-1)
        excess = np.sum(np.abs(beta), axis=-1) / np.sum(np.abs(size), axis=-1) - 1
        numbers[f"l1_excess_{name}"] = excess
    return numbers


@jax.jit
def _descent(X, y, alphas):
    """β of gradient descent for every problem and α, and which failed."""

    def one(X, y, alpha):
        limit = solve_limit(Problem(X, y), GradientDescent(), alpha)
        return limit.beta, ~jnp.all(jnp.isfinite(limit.beta))

    return in_turn(lambda X, y: in_turn(lambda alpha: one(X, y, alpha), alphas), X, y)


@jax.jit
def _norm(X, y, p):
    """The interpolator of least ‖β‖_p of every problem."""

    def one(X, y):
        zeros = jnp.zeros(X.shape[1], X.dtype)
        return minimize_potential(Problem(X, y), PowerNorm(p), zeros).beta

    return in_turn(one, X, y)


def sparse_report(numbers: dict[str, Any]) -> str:
    """The numbers at the ends of each range, and what they say, in Markdown."""
    seeds, epsilons, alphas = numbers["seeds"], numbers["epsilon"], numbers["alpha"]
    lines = [
        "# Sparse regression: gradient descent over α, smoothed sign descent over ε",
        "",
        f"{numbers['num_examples']} Gaussian rows, {numbers['num_features']} columns, "
        f"{numbers['num_nonzero']} non-zeros, no noise; median of {seeds} seeds (least to most). "
        "Test error: ‖β − β°‖²/‖β°‖². ℓ₁ excess: ‖β‖₁ over its least value on Xβ = y, less 1.",
        "",
        "| limit of | at | test error | ℓ₁ excess |",
        "|:--|:--|--:|--:|",
    ]

    def row(name: str, at: str, key: str, index: Any) -> str:
        cells = (_spread(numbers[f"{what}_{key}"][index]) for what in ("test_error", "l1_excess"))
        return f"| {name} | {at} | " + " | ".join(cells) + " |"

    every = slice(None)
    for i in (0, -1):
        place = every, i
        lines.append(row("gradient descent", f"α = {alphas[i]:g}", "gradient_descent", place))
    for k, alpha in enumerate(numbers["alpha_smoothed_sign"]):
        for i in (0, -1):
            at = f"α = {alpha:g}, ε = {epsilons[i]:g}"
            lines.append(row("smoothed sign descent", at, "smoothed_sign", (every, i, k)))
        if alpha not in alphas[[0, -1]]:  # those have their rows
            key = "gradient_descent_same_alpha"
            lines.append(row("gradient descent", f"α = {alpha:g}", key, (every, k)))
    for k, name in enumerate(numbers["norm_names"]):
        lines.append(row(f"least {name} norm", "", "norm", (every, k)))
    lines += ["", *(f"- {sentence}" for sentence in _findings(numbers)), ""]
    return "\n".join(lines)


def _spread(values: np.ndarray) -> str:
    return f"{np.median(values):.3g} ({np.min(values):.3g}–{np.max(values):.3g})"


def _findings(numbers: dict[str, Any]) -> list[str]:
    """What the curves do, by the numbers; nothing assumed."""
    found, seeds, l2 = [], numbers["seeds"], numbers["norm_names"].index("l2")
    low, high = numbers["epsilon"][[0, -1]]
    descent = np.diff(numbers["l1_excess_gradient_descent"], axis=1)
    count = int(np.sum(np.all(descent > 0, axis=1)))
    found.append(f"Gradient descent: the ℓ₁ excess grows with α throughout on {count} of {seeds}.")
    for k, alpha in enumerate(numbers["alpha_smoothed_sign"]):
        error = numbers["test_error_smoothed_sign"][:, :, k]
        rise = max(0, np.max(np.diff(error, axis=1)))
        above = int(np.sum(error[:, 0] > numbers["test_error_norm"][:, l2]))
        ends = np.abs(error[:, -1] - numbers["test_error_gradient_descent_same_alpha"][:, k])
        found.append(
            f"Smoothed sign descent, α = {alpha:g}: as ε grows the test error never rises by more "
            f"than {rise:.1g} from one ε to the next; at ε = {low:g} it is above that of the least "
            f"ℓ₂ norm on {above} of {seeds}; at ε = {high:g} it is within {np.max(ends):.1g} of "
            "gradient descent's."
        )
    return found
