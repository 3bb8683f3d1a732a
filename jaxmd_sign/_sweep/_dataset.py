"""A sweep as an `xarray.Dataset`: one set of names and notes, in memory and in a store."""

from typing import Any

import numpy as np
import xarray as xr

from .. import __version__
from ._plan import Chunk, Plan
from ._variables import CODES, VARIABLES, flags

_COORDINATES = {"epsilon": "stability constant ε", "alpha": "initial weights α"}


class Memory:
    """Every variable of every case in arrays made beforehand: each chunk has its fixed place.

    `dataset` is all of them, labelled, a view: made at once, while other threads solve.
    """

    def __init__(self, plan: Plan):
        self.arrays = {
            name: np.full((plan.num_cases, *inner_shape(plan, name)), *fill_and_dtype(plan, name))
            for name in plan.settings.variables
        }
        labelled = {
            name: (dims(plan, name), array.reshape(*plan.shape, *array.shape[1:]), notes(name))
            for name, array in self.arrays.items()
        }
        self.dataset = xr.Dataset(labelled, coordinates(plan), attributes(plan))

    def __enter__(self) -> "Memory":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def put(self, chunk: Chunk, values: dict[str, np.ndarray]) -> None:
        """Keep the values of a chunk."""
        for name, value in values.items():
            self.arrays[name][chunk.start : chunk.stop] = value


def dims(plan: Plan, name: str) -> tuple[str, ...]:
    """The axes of a variable."""
    return (*plan.dims, "feature") if VARIABLES[name].per_feature else plan.dims


def inner_shape(plan: Plan, name: str) -> tuple[int, ...]:
    """The axes of a variable beside those of the grid."""
    return (plan.problem.num_features,) if VARIABLES[name].per_feature else ()


def fill_and_dtype(plan: Plan, name: str) -> tuple[float | int, np.dtype]:
    """What stands for a case that is not solved yet, and the dtype."""
    dtype = np.dtype(VARIABLES[name].dtype or plan.settings.dtype)
    if dtype.kind == "f":
        return np.nan, dtype
    return (CODES["to_do"].value if name == "result" else 0), dtype


def notes(name: str) -> dict[str, Any]:
    """The attributes of a variable."""
    return {"long_name": VARIABLES[name].text} | (flags() if name == "result" else {})


def coordinates(plan: Plan) -> dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, Any]]]:
    """ε and α: along their own axes, or both along `case`."""
    values = {"epsilon": plan.epsilon, "alpha": plan.alpha}
    return {
        name: ((name if plan.product else "case",), values[name], {"long_name": text})
        for name, text in _COORDINATES.items()
    }


def attributes(plan: Plan) -> dict[str, Any]:
    """How the numbers were made. `max_steps` decides which there are, not what they are."""
    settings = plan.settings
    return {
        "title": "Limits of smoothed sign descent",
        "source": f"jaxmd_sign {__version__}",
        "rtol": settings.rtol,
        "reference": settings.reference,
        "smoothing": settings.smoothing,
        "depth": settings.depth,
    }
