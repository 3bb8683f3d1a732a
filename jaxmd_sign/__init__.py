"""Simulate the implicit bias of smoothed sign descent, g/(|g| + ε), with JAX.

Names load on first use: importing the package imports no JAX and changes no global setting.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._adam import AdamFlow as AdamFlow
    from ._assumptions import Assumptions as Assumptions, check_assumptions as check_assumptions
    from ._certificate._api import Certificate as Certificate, certify as certify
    from ._data import (
        load_problem as load_problem,
        random_block_problem as random_block_problem,
        random_sparse_problem as random_sparse_problem,
    )
    from ._explain._api import Explanation as Explanation, explain as explain
    from ._flow import Trajectory as Trajectory, solve_trajectory as solve_trajectory
    from ._kkt import (
        KKT as KKT,
        bregman as bregman,
        bregman_gap as bregman_gap,
        bregman_minimizer as bregman_minimizer,
        kkt as kkt,
    )
    from ._limit import Limit as Limit, solve_limit as solve_limit
    from ._optimizers._train import (
        History as History,
        Training as Training,
        train as train,
    )
    from ._optimizers._transform import smoothed_sign as smoothed_sign
    from ._problem import Problem as Problem
    from ._results import RESULTS as RESULTS
    from ._rules import GradientDescent as GradientDescent, SmoothedSign as SmoothedSign
    from ._sweep._api import sweep as sweep
    from ._tuning._api import tune_epsilon as tune_epsilon
    from ._tuning._tune import Tuning as Tuning

_HOME = {
    "AdamFlow": "_adam",
    "Assumptions": "_assumptions",
    "check_assumptions": "_assumptions",
    "Certificate": "_certificate._api",
    "certify": "_certificate._api",
    "load_problem": "_data",
    "random_block_problem": "_data",
    "random_sparse_problem": "_data",
    "Explanation": "_explain._api",
    "explain": "_explain._api",
    "Trajectory": "_flow",
    "solve_trajectory": "_flow",
    "KKT": "_kkt",
    "bregman": "_kkt",
    "bregman_gap": "_kkt",
    "bregman_minimizer": "_kkt",
    "kkt": "_kkt",
    "Limit": "_limit",
    "solve_limit": "_limit",
    "History": "_optimizers._train",
    "Training": "_optimizers._train",
    "train": "_optimizers._train",
    "smoothed_sign": "_optimizers._transform",
    "Problem": "_problem",
    "RESULTS": "_results",
    "GradientDescent": "_rules",
    "SmoothedSign": "_rules",
    "sweep": "_sweep._api",
    "tune_epsilon": "_tuning._api",
    "Tuning": "_tuning._tune",
}

__version__ = "0.1.0"
__all__ = [
    "KKT",
    "RESULTS",
    "AdamFlow",
    "Assumptions",
    "Certificate",
    "Explanation",
    "GradientDescent",
    "History",
    "Limit",
    "Problem",
    "SmoothedSign",
    "Training",
    "Trajectory",
    "Tuning",
    "bregman",
    "bregman_gap",
    "bregman_minimizer",
    "certify",
    "check_assumptions",
    "explain",
    "kkt",
    "load_problem",
    "random_block_problem",
    "random_sparse_problem",
    "smoothed_sign",
    "solve_limit",
    "solve_trajectory",
    "sweep",
    "train",
    "tune_epsilon",
]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
