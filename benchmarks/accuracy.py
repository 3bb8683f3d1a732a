"""How wrong limits on a general X are, and how tight the bounds of `certify`: errors, no times."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxmd_sign as jms
from jaxmd_sign._certificate._bounds import last_useful_epsilon
from jaxmd_sign._certificate._measured import measure
from jaxmd_sign._certificate._path import Effort
from jaxmd_sign._certificate._random_cases import draw_blocks

from .general import ALPHA, DATA
from .peers._cores import num_cores
from .truth import ref

_REAL = "diabetes 30 × 64"
_EPSILON = np.geomspace(1e-3, 1, 18)
_PAIRS = {"instances": 4000, "seed": 11}  # of which 939 blocks have two columns


class _Family(NamedTuple):
    """Problems with an α each, the ε they share, and the tolerances asked for."""

    name: str
    problems: list[jms.Problem]
    epsilon: np.ndarray
    alphas: np.ndarray
    rtols: tuple[float, ...]
    one_by_one: bool = False  # by `solve_limit` too, at its default tolerance


def general_x(quick: bool) -> dict[str, Any]:
    """The worst error of β_∞ against LSODA in log variables at 1e-12."""
    rows = []
    with ProcessPoolExecutor(num_cores(), get_context("spawn")) as pool:
        for family in _families(10 if quick else 200):
            right = _right(family, pool)
            ways = [(family.name, rtol, _swept) for rtol in family.rtols]
            if family.one_by_one:
                ways.append((f"{family.name}, `solve_limit`", 1e-8, _one_by_one))
            for name, rtol, found in ways:
                wrong = np.sort(_relative(found(family, rtol), right))
                about = {"data": name, "epsilon": _span(family.epsilon), "rtol": rtol}
                rows.append(
                    about | {"cases": wrong.size, "error": wrong[-1], "all_but_one": wrong[-2]}
                )
    count = 4 if quick else 16
    return {"rows": rows, "slope_cases": count, "slope_error": _slope_error(count)}


def _families(count: int) -> list[_Family]:
    real = [jms.load_problem(DATA)]
    gaussian = [jms.random_sparse_problem(jax.random.key(0), 40, 100, 5)]
    alpha = np.array([ALPHA])
    rng = np.random.default_rng(1)
    alphas = 10 ** rng.uniform(-3, np.log10(0.3), count)
    few = np.array([0.05, 0.05, 1e-3, 1e-4, 0.5])
    return [
        _Family(_REAL, real, _EPSILON, alpha, (1e-5, 1e-6)),
        _Family(_REAL, real, np.array([1e-5, 1e-4]), alpha, (1e-5,)),
        _Family("Gaussian 40 × 100", gaussian, _EPSILON, alpha, (1e-5,)),
        _Family("5 random 3 × 6", _random(5), np.geomspace(1e-5, 1, 6), few, (1e-6,)),
        _Family(
            f"{count} random 3 × 6",
            _random(count),
            np.geomspace(1e-4, 1, 5),
            alphas,
            (5e-5, 1e-5, 1e-6, 1e-7),
            one_by_one=True,
        ),
    ]


def _random(count: int) -> list[jms.Problem]:
    draws = (np.random.default_rng(seed) for seed in range(count))
    return [jms.Problem(rng.normal(size=(3, 6)), rng.normal(size=3)) for rng in draws]


def _right(family: _Family, pool: ProcessPoolExecutor) -> np.ndarray:
    cases = [
        (np.asarray(problem.X), np.asarray(problem.y), epsilon, alpha)
        for problem, alpha in zip(family.problems, family.alphas, strict=True)
        for epsilon in family.epsilon
    ]
    chunk = max(1, len(cases) // 32)
    return np.array(list(pool.map(partial(_reference, rtol=1e-12), cases, chunksize=chunk)))


def _reference(case: tuple[Any, ...], rtol: float) -> np.ndarray:
    return ref.general_limit(*case, rtol=rtol)


def _swept(family: _Family, rtol: float) -> np.ndarray:
    def one(problem, alpha):
        found = jms.sweep(problem, family.epsilon, alpha, rtol=rtol, variables=["beta"])
        return np.asarray(found.beta)[:, 0]

    return np.concatenate(list(map(one, family.problems, family.alphas)))


def _one_by_one(family: _Family, rtol: float) -> np.ndarray:
    return np.array(
        [
            jms.solve_limit(problem, jms.SmoothedSign(epsilon), alpha, rtol=rtol).beta
            for problem, alpha in zip(family.problems, family.alphas, strict=True)
            for epsilon in family.epsilon
        ]
    )


def _relative(found: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.max(np.abs(found - right), axis=1) / np.max(np.abs(right), axis=1)


def _span(epsilon: np.ndarray) -> str:
    return f"{epsilon[0]:g} {'and' if epsilon.size == 2 else 'to'} {epsilon[-1]:g}"


def _slope_error(count: int) -> float:
    """Of d(KKT error)/dε at rtol 1e-5, against differences of KKT errors at rtol 1e-8."""
    problem = jms.load_problem(DATA)
    epsilon, apart = np.geomspace(1e-3, 1, count), 1e-3

    def errors(factor):
        found = jms.sweep(problem, factor * epsilon, ALPHA, rtol=1e-8, variables=["kkt_error"])
        return np.asarray(found.kkt_error)[:, 0]

    difference = (errors(1 + apart) - errors(1 - apart)) / (2 * apart * epsilon)
    found = jms.sweep(problem, epsilon, ALPHA, rtol=1e-5, variables=["kkt_error_slope"])
    slope = np.asarray(found.kkt_error_slope)[:, 0]
    return float(np.max(np.abs(slope / difference - 1)))


def bounds(quick: bool) -> dict[str, Any]:
    """Percentiles of E and −E over their bounds, for random pairs within Assumption 3.3."""
    blocks = draw_blocks(_PAIRS["instances"] // (20 if quick else 1), _PAIRS["seed"], False)
    pair = np.count_nonzero(blocks.x, axis=1) == 2
    x, y, epsilon, alpha = blocks.at(pair)
    blocks = blocks._replace(x=x, y=y, epsilon=epsilon, alpha=alpha, starts=np.arange(len(y)))
    measured = measure(blocks, Effort())
    E = np.asarray(measured.signed_error)
    U, V, U0, V0, _ = np.moveaxis(np.asarray(measured.bounds), -1, 0)
    a2, a1 = np.sort(np.abs(x), axis=1)[:, -2:].T
    share = last_useful_epsilon(a1, a2, np.abs(y), alpha) / blocks.largest_epsilon
    ratios = {
        "E/U, a posteriori": E / U,
        "−V/E, a posteriori": -V / E,
        "E/U₀": E / U0,
        "−V₀/E": -V0 / E,
    }
    return {
        **_PAIRS,
        "pairs": len(y),
        "violations": int(np.sum((E <= 0) | (E > U) | (E > U0) | (-V > E) | (-V0 > E))),
        "ordered": float(np.mean(V0 < U0)),
        "whole": float(np.mean(share > 1 - 1e-9)),
        "least_share": float(np.percentile(share, 5)),
        "percentiles": {
            name: [float(part) for part in np.percentile(ratio, [5, 50, 95])]
            for name, ratio in ratios.items()
        },
    }
