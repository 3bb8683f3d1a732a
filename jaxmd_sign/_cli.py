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


@dataclass
class Certify:
    """`jaxmd-sign certify`."""

    data: Annotated[str | None, arg(help=_DATA, metavar="F")] = None
    epsilon: Annotated[
        float | None, arg(help="Stability constant ε > 0, that of an .npz if None.", metavar="E")
    ] = None
    alpha: Annotated[
        float | None, arg(help="Initial weights α > 0, those of an .npz if None.", metavar="A")
    ] = None
    label: Annotated[
        str | None, arg(help="CSV column that holds y, the last if None.", metavar="NAME")
    ] = None
    random: Annotated[
        int | None, arg(help="Random instances instead of data, this many.", metavar="N")
    ] = None
    seed: Annotated[int, arg(help="Of the random instances.", metavar="S")] = 0
    outside: Annotated[bool, arg(help="Draw them outside Assumption 3.3.")] = False
    out: Annotated[
        str | None, arg(help="Save the worst random instance, to be fed back.", metavar="FILE.npz")
    ] = None
    claim: Annotated[
        str | None, arg(help="The claim whose worst instance is saved.", metavar="NAME")
    ] = None
    html: Annotated[
        str | None, arg(help="Also write a report with plots.", metavar="FILE.html")
    ] = None
    json: Annotated[bool, arg(help="Print one JSON object instead of a table.")] = False

    def run(self) -> int:
        """Judge every claim and print; 0 whether or not claims hold."""
        from rich.console import Console

        from ._certificate import certify, certify_random
        from ._certificate_report import print_certificate, write_html, write_worst
        from ._data import load_problem, stored_number
        from ._report import to_json

        if (self.data is None) == (self.random is None):
            raise ValueError("give either --data F or --random N.")
        if self.data is None and (self.epsilon is not None or self.alpha is not None):
            raise ValueError("--random draws epsilon and alpha itself. Leave them out.")
        if self.random is None and (self.out is not None or self.claim is not None):
            raise ValueError("--out and --claim belong to --random N.")
        if self.data is not None:
            problem, title = load_problem(self.data, self.label), self.data
            epsilon, alpha = (
                stored_number(self.data, name) if value is None else value
                for name, value in (("epsilon", self.epsilon), ("alpha", self.alpha))
            )
            certificate = certify(problem, epsilon, alpha)
            title = f"{title}, ε = {epsilon:g}, α = {alpha:g}"
        else:
            assert self.random is not None
            certificate = certify_random(self.random, self.seed, outside=self.outside)
            title = f"{self.random} random instances, seed {self.seed}"
        if self.out is not None:
            claim = write_worst(certificate, self.out, self.claim)
            _complain(f"{self.out}: the worst instance of {claim}", 0)
        if self.html is not None:
            write_html(certificate, title, self.html)
        if self.json:
            print(to_json({"data": self.data} | certificate.to_dict()))
        else:
            print_certificate(certificate, title, Console())
        return 0


_REPRODUCE = "The figures of the source as PNG and PDF, and summary.json with all their numbers."
_LIMIT = "The limit of smoothed sign descent, with its KKT error, minimiser gap and stage times."

_CERTIFY = (
    "Every claim of the source with its margin, on one case or on random instances. A false claim "
    "is shown, and the exit status is 0: outside the assumptions this is a microscope, not a judge."
)

Command = Annotated[
    Annotated[Reproduce, subcommand("reproduce", description=_REPRODUCE)]
    | Annotated[Limit, subcommand("limit", description=_LIMIT)]
    | Annotated[Certify, subcommand("certify", description=_CERTIFY)],
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
