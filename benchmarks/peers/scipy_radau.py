"""SciPy's Radau."""

from functools import partial

from . import _scipy

limits = partial(_scipy.limits, "Radau")
trajectories = partial(_scipy.trajectories, "Radau")
