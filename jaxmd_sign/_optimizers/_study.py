"""The study: does what the flow promises hold for real optimisers, with steps of finite size?

Every optimiser runs on the worked example (§3.3.2) over ε, with fewer and fewer η at one ε, and on
random blocks of two columns inside Assumption 3.3; beside each, the limit of the flow.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._beyond import block_instances, largest_epsilon
from .._kkt import kkt
from .._limit import limit_of_weights, solve_limit
from .._problem import Problem
from .._results import RESULTS
from .._rules import GradientDescent, SmoothedSign
from .._solve import Outcome
from ._train import train
from ._transform import smoothed_sign


class Family(NamedTuple):
    """An optimiser of (η, ε), the step sizes at which it is run over ε, and what sets it apart."""

    name: str
    make: Callable[..., optax.GradientTransformation]
    learning_rates: tuple[float, ...] = (1e-3,)
    b2: float = 0.0
    in_root: bool = False


_DECAY = 0.9


def _adam(b1: float, b2: float) -> Family:
    return Family(
        f"Adam ({b1:g}, {b2:g})",
        lambda eta, epsilon: optax.adam(eta, b1, b2, eps=epsilon),
        b2=b2,
    )


def _rmsprop(inside: bool) -> Family:
    where = "in the root" if inside else "outside"
    return Family(
        f"RMSProp, ε {where}",
        lambda eta, epsilon: optax.rmsprop(eta, _DECAY, eps=epsilon, eps_in_sqrt=inside),
        in_root=inside,
    )


FAMILIES = (
    Family("smoothed sign", smoothed_sign, (1e-1, 1e-2, 1e-3)),
    _adam(0.0, 0.0),
    _adam(0.9, 0.0),
    _adam(0.0, 0.999),
    _adam(0.9, 0.999),
    _rmsprop(inside=False),
    _rmsprop(inside=True),
)

_X, _Y, _ALPHA = np.array([1.3, 0.7]), 1.0, 0.05
_EPSILONS = np.geomspace(1e-4, 10, 41)
_RATES, _RATE_EPSILON = np.geomspace(2e-2, 2e-5, 7), 0.1
_INSTANCES, _INSTANCE_RATE = 50, 1e-4
_NUM_STEPS, _RECORD_EVERY, _TOL = 300_000, 1_000, 1e-8
_NOISE = 1e-6  # changes of the error below it are due to the tolerance of the runs


class Cases(NamedTuple):
    """One run each: data, start, step size and ε."""

    x: np.ndarray
    y: np.ndarray
    alpha: np.ndarray
    eta: np.ndarray
    epsilon: np.ndarray


def study_numbers() -> dict[str, Any]:
    """KKT errors of every optimiser and of the flow, over ε, over η and over the instances."""
    instances = _instance_cases()
    over_epsilon = _example(np.ones_like(_EPSILONS), _EPSILONS)
    over_rates = _example(_RATES, np.full_like(_RATES, _RATE_EPSILON))
    flow = _flow(_joined(over_epsilon, over_rates, instances))
    sizes = [len(_EPSILONS), len(_RATES)]
    flow_error, at_rate, of_instances = np.split(flow["kkt_error"], np.cumsum(sizes))
    numbers = {
        "x": _X,
        "y": _Y,
        "alpha": _ALPHA,
        "epsilon": _EPSILONS,
        "epsilon_assumption_3_3": largest_epsilon(_X[None], _Y, _ALPHA, 2)[0],
        "num_steps": _NUM_STEPS,
        "tol": _TOL,
        "flow": {
            "kkt_error": flow_error,
            "epsilon_least": float(_EPSILONS[np.argmin(flow_error)]),
            "failed": flow["failed"],
        },
        "gradient_descent": {"kkt_error": _gradient_descent_error()},
        "rates": _RATES,
        "rate_epsilon": _RATE_EPSILON,
        "instances": _INSTANCES,
        "instance_learning_rate": _INSTANCE_RATE,
        "flow_falls": int(np.sum(_falls(of_instances))),
    }
    beta = flow["beta"][len(_EPSILONS)]
    numbers["families"] = [
        _family(family, over_rates, instances, flow_error, float(at_rate[0]), beta)
        for family in FAMILIES
    ]
    return numbers


def _example(eta: np.ndarray, epsilon: np.ndarray) -> Cases:
    """The worked example with these η and ε."""
    count = len(epsilon)
    return Cases(np.tile(_X, (count, 1)), np.full(count, _Y), np.full(count, _ALPHA), eta, epsilon)


def _instance_cases() -> Cases:
    x, y, fraction, alpha = block_instances(2, _INSTANCES)
    epsilon = fraction * largest_epsilon(x, y, alpha, 2)
    return Cases(x, y, alpha, np.full(len(y), _INSTANCE_RATE), epsilon)


def _joined(*cases: Cases) -> Cases:
    return Cases(*map(np.concatenate, zip(*cases, strict=True)))


def _problem(x: Any, y: Any) -> Problem:
    return Problem.from_blocks(_X[None], [_Y]).with_data(x[None], y[None])


@jax.jit
@jax.vmap
def _limits(case: Cases) -> Any:
    problem = _problem(case.x, case.y)
    limit = solve_limit(problem, SmoothedSign(case.epsilon), case.alpha)
    return kkt(problem, limit).error, limit.beta, limit.result != RESULTS.successful


def _flow(cases: Cases) -> dict[str, Any]:
    error, beta, failed = map(np.asarray, _limits(cases))
    return {"kkt_error": error, "beta": beta, "failed": int(np.sum(failed))}


def _gradient_descent_error() -> float:
    """The KKT error of GD's limit, w = αe^θ and ω = αe^{−θ}, as that of any other end."""
    problem = Problem(_X[None], [_Y])
    alpha, limit = jnp.full(2, _ALPHA), solve_limit(problem, GradientDescent(), _ALPHA)
    u, v = alpha * jnp.exp(limit.dual), alpha * jnp.exp(-limit.dual)
    report = Outcome.without_steps(limit.result)
    end = limit_of_weights(problem, alpha, (u, v), (alpha, alpha), 2, report)
    return float(kkt(problem, end).error)


@partial(jax.jit, static_argnums=0)
def _runs(make: Callable[..., optax.GradientTransformation], cases: Cases) -> Any:
    @jax.vmap
    def run(case: Cases):
        problem = _problem(case.x, case.y)
        settings = {"record_every": _RECORD_EVERY, "tol": _TOL}
        end = train(problem, make(case.eta, case.epsilon), case.alpha, _NUM_STEPS, **settings)
        ok = end.result == RESULTS.successful
        return kkt(problem, end.limit).error, end.beta, ok, end.diverged_at

    return run(cases)


def _family(
    family: Family,
    over_rates: Cases,
    instances: Cases,
    flow_error: np.ndarray,
    error_at_rate: float,
    beta_at_rate: np.ndarray,
) -> dict[str, Any]:
    """One optimiser: all its runs in one compiled call."""
    grids = [_example(np.full_like(_EPSILONS, eta), _EPSILONS) for eta in family.learning_rates]
    found = _runs(family.make, _joined(*grids, over_rates, instances))
    ends = np.cumsum([len(_EPSILONS)] * len(grids) + [len(_RATES)])
    parts = [np.split(np.asarray(value), ends) for value in found]
    *curves, at_rates, at_instances = zip(*parts, strict=True)
    error, beta, converged, _ = at_rates
    return {
        "name": family.name,
        "b2": family.b2,
        "in_root": family.in_root,
        "curves": [
            _curve(eta, curve, flow_error)
            for eta, curve in zip(family.learning_rates, curves, strict=True)
        ],
        "over_rates": {
            "kkt_error": error,
            "from_flow": np.abs(error - error_at_rate),
            "beta_from_flow": np.linalg.norm(beta - beta_at_rate, axis=1),
            "converged": converged,
            "order": _order(np.linalg.norm(beta - beta_at_rate, axis=1), converged),
        },
        "instances": _counted(at_instances[0], at_instances[2]),
    }


def _curve(eta: float, found: tuple[np.ndarray, ...], flow_error: np.ndarray) -> dict[str, Any]:
    """One curve over ε and what is seen in it, where the runs converged."""
    error, beta, converged, diverged_at = found
    known = np.flatnonzero(converged)
    inside = known[_EPSILONS[known] <= largest_epsilon(_X[None], _Y, _ALPHA, 2)[0]]
    least = known[np.argmin(error[known])] if known.size else None
    return {
        "learning_rate": eta,
        "kkt_error": error,
        "beta": beta,
        "converged": converged,
        "diverged_at": diverged_at,
        "num_converged": int(known.size),
        "converged_from": None if not known.size else float(_EPSILONS[known[0]]),
        "from_flow": None if not known.size else float(np.max(np.abs(error - flow_error)[known])),
        "epsilon_least": None if least is None else float(_EPSILONS[least]),
        "falls_inside": None if inside.size < 2 else bool(np.all(np.diff(error[inside]) < _NOISE)),
        "last": None if not known.size else float(error[known[-1]]),
    }


def _order(distance: np.ndarray, converged: np.ndarray) -> float | None:
    """The slope of log distance from the flow over log η, over the smallest decade."""
    used = converged & (_RATES / _RATES[-1] < 10.5) & (distance > 0)
    if np.sum(used) < 2:
        return None
    return float(np.polyfit(np.log(_RATES[used]), np.log(distance[used]), 1)[0])


def _falls(errors: np.ndarray) -> np.ndarray:
    """On which instances the error falls from each ε to the next."""
    return np.all(np.diff(errors.reshape(_INSTANCES, -1), axis=1) < -_NOISE, axis=1)


def _counted(errors: np.ndarray, converged: np.ndarray) -> dict[str, int]:
    """Over the instances: where all runs converged, and on how many of these the error falls."""
    whole = np.all(converged.reshape(_INSTANCES, -1), axis=1)
    return {"converged": int(np.sum(whole)), "falls": int(np.sum(whole & _falls(errors)))}
