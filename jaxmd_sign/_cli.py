"""The command line. JAX is imported inside the commands, so that --help is quick.

Each command is a dataclass with the help in its annotations: from functions and docstrings, tyro
takes longer to find the help than JAX-free Python takes to start.
"""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from tyro.conf import arg, subcommand


@dataclass
class Reproduce:
    """`jaxmd-sign reproduce`."""

    out: Annotated[str, arg(help="Folder to write to; made if it does not exist.", metavar="DIR")]
    beyond: Annotated[
        bool, arg(help="Also compare depths 2, 3, 4 and all smoothings: beyond.png and beyond.md.")
    ] = False

    def run(self) -> int:
        """Draw the figures; the exit status."""
        from ._reproduce import SolveError, reproduce

        try:
            for path in reproduce(self.out, beyond=self.beyond):
                print(path)
                if path.suffix == ".md":
                    print(f"\n{path.read_text('utf-8')}")
        except SolveError as error:
            return _complain(str(error), 1)
        return 0


_DATA = "CSV file with a header, .npz file with X and y, blocks:K:SEED or blocks:KxD:SEED."


@dataclass
class Limit:
    """`jaxmd-sign limit`."""

    data: Annotated[str, arg(help=_DATA, metavar="F")]
    epsilon: Annotated[float, arg(help="Stability constant ε > 0.", metavar="E")]
    alpha: Annotated[float, arg(help="Initial weights α > 0.", metavar="A")]
    label: Annotated[
        str | None, arg(help="CSV column that holds y, the last if None.", metavar="NAME")
    ] = None
    reference: Annotated[
        Literal["start", "warmup"], arg(help="Where D is measured from: 0⁺ or T₁.")
    ] = "start"
    max_steps: Annotated[
        int | None, arg(help="Most solver steps, the solver's own if None.", metavar="N")
    ] = None
    json: Annotated[bool, arg(help="Print one JSON object instead of tables.")] = False

    def run(self) -> int:
        """Solve and print; the exit status."""
        from rich.console import Console

        from ._data import load_problem
        from ._report import failures, limit_report, print_report, to_json

        problem = load_problem(self.data, self.label)
        report = limit_report(problem, self.epsilon, self.alpha, self.reference, self.max_steps)
        if self.json:
            print(to_json({"data": self.data} | report))
        else:
            print_report(report, self.data, Console())
        failed = [f"{self.data}: {failure}" for failure in failures(report)]
        return _complain("; ".join(failed), 1) if failed else 0


_REPRODUCE = "The figures of the source as PNG and PDF, and summary.json with all their numbers."
_LIMIT = "The limit of smoothed sign descent, with its KKT error, minimiser gap and stage times."

Command = Annotated[
    Annotated[Reproduce, subcommand("reproduce", description=_REPRODUCE)]
    | Annotated[Limit, subcommand("limit", description=_LIMIT)],
    arg(help="Add --help for what they take", name=""),
]


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0 (done), 1 (a solve failed) or 2 (bad input)."""
    command = tyro.cli(
        Command,
        prog="jaxmd-sign",
        description="Smoothed sign descent: its flows, limits and implicit bias.",
        args=args,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    import jax

    jax.config.update("jax_enable_x64", True)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: _complain(str(message), 0)
        try:
            return command.run()
        except ValueError as error:
            return _complain(str(error), 2)


def _complain(message: str, status: int) -> int:
    print(f"jaxmd-sign: {' '.join(message.split())}", file=sys.stderr)
    return status
