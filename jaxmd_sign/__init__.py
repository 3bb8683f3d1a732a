"""Simulate the implicit bias of smoothed sign descent, g/(|g| + ε), with JAX.

Names load on first use: importing the package imports no JAX and changes no global setting.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._kkt import KKT as KKT
    from ._kkt import bregman as bregman
    from ._kkt import bregman_gap as bregman_gap
    from ._kkt import bregman_minimizer as bregman_minimizer
    from ._kkt import kkt as kkt
    from ._limit import Limit as Limit
    from ._limit import solve_limit as solve_limit
    from ._problem import Problem as Problem
    from ._results import RESULTS as RESULTS
    from ._rules import GradientDescent as GradientDescent
    from ._rules import SmoothedSign as SmoothedSign

_HOME = {
    "KKT": "_kkt",
    "bregman": "_kkt",
    "bregman_gap": "_kkt",
    "bregman_minimizer": "_kkt",
    "kkt": "_kkt",
    "Limit": "_limit",
    "solve_limit": "_limit",
    "Problem": "_problem",
    "RESULTS": "_results",
    "GradientDescent": "_rules",
    "SmoothedSign": "_rules",
}

__version__ = "0.1.0"
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
