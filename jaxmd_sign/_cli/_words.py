"""What the commands share."""

import sys
from typing import Annotated, Literal

from tyro.conf import arg

DATA = "CSV file with a header, .npz file with X and y, blocks:K:SEED or blocks:KxD:SEED."

Data = Annotated[str, arg(help=DATA, metavar="F")]
Label = Annotated[
    str | None, arg(help="CSV column that holds y, the last if None.", metavar="NAME")
]
Alpha = Annotated[float, arg(help="Initial weights α > 0.", metavar="A")]
Depth = Annotated[int, arg(help="M of the model β = u^M − v^M, from 2 to 8.", metavar="M")]
Smoothing = Annotated[Literal["abs", "sqrt", "tanh", "clip"], arg(help="How the sign is smoothed.")]
Reference = Annotated[Literal["start", "warmup"], arg(help="Where D is measured from: 0⁺ or T₁.")]
MaxSteps = Annotated[
    int | None, arg(help="Most solver steps, the solver's own if None.", metavar="N")
]
Json = Annotated[bool, arg(help="Print one JSON object instead of tables.")]


def complain(message: str, status: int) -> int:
    """One line on stderr; the exit status."""
    print(f"jaxmd-sign: {' '.join(message.split())}", file=sys.stderr)
    return status
