"""The command line. JAX is imported inside the commands, so that --help is quick.

Each command is a dataclass with the help in its annotations: from functions and docstrings, tyro
takes longer to find the help than JAX-free Python takes to start.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import tyro
from tyro.conf import arg, subcommand

from ._explore import Explore
from ._limits import Explain, Limit, Reproduce
from ._studies import Certify, Train
from ._sweeps import Status, Sweep, Tune
from ._words import complain

_REPRODUCE = "The figures of the source as PNG and PDF, and summary.json with all their numbers."
_LIMIT = "The limit of smoothed sign descent, with its KKT error, minimiser gap and stage times."
_SWEEP = "Limits over a grid of ε and α, into a store that survives whatever stops it."
_TUNE = "The ε whose limit has the least KKT error, or is nearest to the exact minimiser."
_TRAIN = "A run of an optimiser of optax against the flow, or a study of many."
_EXPLAIN = "Which potential a limit minimises: ℓ₁, ℓ_{3/2}, ℓ₂, ℓ_p or hyperbolic entropy."
_EXPLORE = "A page in your browser: move ε, α, depth, smoothing and the data, and see at once."
_STATUS = "What of a sweep is done, failed and to do."
_CERTIFY = (
    "Every claim of the source with its margin, on one case or on random instances. A false claim "
    "is shown, and the exit status is 0: outside the assumptions this is a microscope, not a judge."
)

Command = Annotated[
    Annotated[Reproduce, subcommand("reproduce", description=_REPRODUCE)]
    | Annotated[Limit, subcommand("limit", description=_LIMIT)]
    | Annotated[Sweep, subcommand("sweep", description=_SWEEP)]
    | Annotated[Tune, subcommand("tune", description=_TUNE)]
    | Annotated[Train, subcommand("train", description=_TRAIN)]
    | Annotated[Explain, subcommand("explain", description=_EXPLAIN)]
    | Annotated[Explore, subcommand("explore", description=_EXPLORE)]
    | Annotated[Status, subcommand("status", description=_STATUS)]
    | Annotated[Certify, subcommand("certify", description=_CERTIFY)],
    arg(help="Add --help for what they take", name=""),
]


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0 (done), 1 (a solve failed), 2 (bad input).

    Or the shell's own: 130 (stopped by Ctrl-C), 141 (a reader of the output has gone).
    """
    command = tyro.cli(
        Command,
        prog="jaxmd-sign",
        description="Smoothed sign descent: its flows, limits and implicit bias.",
        args=args,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if not isinstance(command, Status):
        import jax

        jax.config.update("jax_enable_x64", True)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: complain(str(message), 0)
        try:
            status = command.run()
            sys.stdout.flush()
            return status
        except ValueError as error:
            return complain(str(error), 2)
        except KeyboardInterrupt:
            return complain("stopped.", 130)
        except BrokenPipeError:  # the reader has gone, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
