"""SciPy's LSODA."""

from functools import partial

from . import _scipy

limits = partial(_scipy.limits, "LSODA")
trajectories = partial(_scipy.trajectories, "LSODA")
