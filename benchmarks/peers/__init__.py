"""Other ways to the same numbers, each as its best user would write it: a module for each.

A module has `limits(lanes, rtol)`, w and ω at t = ∞ in the order of the lanes, (L, 2k), and perhaps
`trajectories(lanes, ts, rtol)`, (L, T, 2k). What it cannot finish is NaN.
"""

import importlib
from types import ModuleType

PEERS = {
    "Numba, residual clock": "numba_clock",
    "heyoka": "heyoka",
    "heyoka, ensemble": "heyoka_ensemble",
    "numbalsoda": "numbalsoda",
    "Diffsol": "pydiffsol",
    "CVODE": "sundials",
    "SciPy LSODA": "scipy_lsoda",
    "SciPy Radau": "scipy_radau",
    "Diffrax, in time": "diffrax",
    "torchdiffeq": "torchdiffeq",
}


SOME = ("Numba, residual clock", "numbalsoda", "SciPy LSODA")  # for a quick run


def peer(name: str) -> ModuleType:
    """The module of that peer; what it needs is imported when it is first used."""
    return importlib.import_module(f".{PEERS[name]}", __name__)
