"""How every case is solved, and by how many of the engine's steps if it is by those."""

import math
from dataclasses import dataclass, replace

from .._problem import Blocks, Problem
from .._smoothing import SMOOTHINGS

_FEWEST, _MOST = 18, 112  # steps of a first try; with fewer, the estimates say little
_LOOSEST = 2e-5  # over the number of columns


@dataclass(frozen=True)
class Settings:
    """How every case is solved: hashable, static for a compiled function."""

    variables: tuple[str, ...]
    rtol: float
    reference: str
    smoothing: str
    depth: int
    max_steps: int
    dtype: str

    def of_program(self) -> "Settings":
        """What a program depends on: it is told the tolerance, and serves all of them."""
        return replace(self, rtol=0.0)

    def wants(self, *names: str) -> bool:
        """Whether one of these variables is asked for."""
        return not set(names).isdisjoint(self.variables)


def first_steps(problems: Problem, settings: Settings) -> int | None:
    """How many steps to try first; None if the engine is not for these cases."""
    smooth = not SMOOTHINGS[settings.smoothing].has_corner  # else the estimate is no good
    fits = smooth and settings.depth == 2 and settings.reference == "start"
    if not (fits and isinstance(problems.data, Blocks)):
        return None
    # Measured: 21 steps for 1e-6 with two columns.
    num_columns = problems.data.x.shape[-1]
    steps = max(_FEWEST, 21 * (1e-6 / tolerance(settings, num_columns)) ** 0.2)
    steps *= max(1, num_columns / 2) ** 0.35
    steps = math.ceil(steps * 1.4 ** ((num_columns > 12) + overlooks(settings)))
    return steps if steps <= min(_MOST, settings.max_steps) else None


def overlooks(settings: Settings) -> bool:
    """Where φ bends within a step, estimates may miss it: two solves must agree."""
    return settings.smoothing != "abs"


def tolerance(settings: Settings, num_columns: int) -> float:
    """What an estimate must be below: with many columns, large ones say little."""
    return min(settings.rtol, _LOOSEST / num_columns)
