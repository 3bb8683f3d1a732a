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


_GRID = "LO:HI:N, N numbers of one ratio from LO to HI, or one number; each > 0."


@dataclass
class Sweep:
    """`jaxmd-sign sweep`."""

    data: Annotated[str, arg(help=_DATA, metavar="F")]
    epsilon: Annotated[str, arg(help=f"Stability constants ε: {_GRID}", metavar="LO:HI:N")]
    alpha: Annotated[str, arg(help=f"Initial weights α: {_GRID}", metavar="LO:HI:N")]
    out: Annotated[
        str,
        arg(help="Zarr store to write. The same command again goes on there.", metavar="S.zarr"),
    ]
    plot: Annotated[
        str | None, arg(help="Figure of KKT error and gap, .png, .pdf or .svg.", metavar="P.png")
    ] = None
    label: Annotated[
        str | None, arg(help="CSV column that holds y, the last if None.", metavar="NAME")
    ] = None
    rtol: Annotated[float, arg(help="Relative tolerance of β∞.", metavar="R")] = 1e-6
    reference: Annotated[
        Literal["start", "warmup"], arg(help="Where D is measured from: 0⁺ or T₁.")
    ] = "start"
    smoothing: Annotated[
        Literal["abs", "sqrt", "tanh", "clip"], arg(help="How the sign is smoothed.")
    ] = "abs"
    depth: Annotated[int, arg(help="M of the model β = u^M − v^M, from 2 to 8.", metavar="M")] = 2
    max_steps: Annotated[
        int | None, arg(help="Most solver steps per block, 65536 if None.", metavar="N")
    ] = None
    variables: Annotated[
        str | None, arg(help="Some variables only, with commas between.", metavar="A,B")
    ] = None
    scheduler: Annotated[
        str | None, arg(help="Solve on the dask cluster at this address.", metavar="ADDRESS")
    ] = None
    workers: Annotated[
        int | None, arg(help="Solve in so many processes of this machine.", metavar="N")
    ] = None

    def run(self) -> int:
        """Solve and write; the exit status."""
        from ._data import load_problem
        from ._sweep._cluster import ClusterError
        from ._sweep._command import sweep_command

        try:
            line, failed = sweep_command(
                load_problem(self.data, self.label),
                self.epsilon,
                self.alpha,
                self.out,
                variables=self.variables,
                figure=self.plot,
                scheduler=self.scheduler,
                workers=self.workers,
                rtol=self.rtol,
                reference=self.reference,
                smoothing=self.smoothing,
                depth=self.depth,
                max_steps=self.max_steps,
            )
        except ClusterError as error:
            return _complain(f"{self.out}: {error}", 1)
        except KeyboardInterrupt:
            return _complain("stopped; the same command goes on from here.", 130)
        print(line)
        return _complain(f"{self.out}: {failed}", 1) if failed else 0


@dataclass
class Status:
    """`jaxmd-sign status`."""

    store: Annotated[tyro.conf.Positional[str], arg(help="Store of a sweep.", metavar="STORE")]
    json: Annotated[bool, arg(help="Print one JSON object instead of lines.")] = False

    def run(self) -> int:
        """Read the books of the store and print; the exit status."""
        import json

        from ._sweep._status import lines, status

        found = status(self.store)
        print(json.dumps(found, ensure_ascii=False) if self.json else "\n".join(lines(found)))
        return 0


@dataclass
class Tune:
    """`jaxmd-sign tune`."""

    data: Annotated[str, arg(help=_DATA, metavar="F")]
    alpha: Annotated[float, arg(help="Initial weights α > 0.", metavar="A")]
    objective: Annotated[
        Literal["kkt_error", "bregman_gap", "distance_to_minimizer"],
        arg(help="What is to be least."),
    ] = "kkt_error"
    per: Annotated[
        Literal["problem", "block", "coordinate"], arg(help="What has an ε of its own.")
    ] = "problem"
    bounds: Annotated[
        str | None, arg(help="Least and largest ε; chosen from the data if None.", metavar="LO:HI")
    ] = None
    epsilon0: Annotated[
        float | None, arg(help="Start here rather than with a sweep.", metavar="E")
    ] = None
    plot: Annotated[
        str | None, arg(help="Figure of the search, .png, .pdf or .svg.", metavar="P.png")
    ] = None
    label: Annotated[
        str | None, arg(help="CSV column that holds y, the last if None.", metavar="NAME")
    ] = None
    rtol: Annotated[
        float | None, arg(help="Relative tolerance of each limit, chosen if None.", metavar="R")
    ] = None
    smoothing: Annotated[
        Literal["abs", "sqrt", "tanh", "clip"], arg(help="How the sign is smoothed.")
    ] = "abs"
    depth: Annotated[int, arg(help="M of the model β = u^M − v^M, from 2 to 8.", metavar="M")] = 2
    max_steps: Annotated[
        int | None, arg(help="Most solver steps, the solver's own if None.", metavar="N")
    ] = None
    json: Annotated[bool, arg(help="Print one JSON object instead of a table.")] = False

    def run(self) -> int:
        """Search and print; the exit status."""
        from rich.console import Console

        from ._data import load_problem
        from ._report import to_json
        from ._tuning._command import print_tuning, tune_command

        numbers, answered = tune_command(
            load_problem(self.data, self.label),
            self.alpha,
            self.objective,
            per=self.per,
            bounds=self.bounds,
            epsilon0=self.epsilon0,
            figure=self.plot,
            rtol=self.rtol,
            smoothing=self.smoothing,
            depth=self.depth,
            max_steps=self.max_steps,
        )
        if self.json:
            print(to_json({"data": self.data} | numbers))
        else:
            print_tuning(numbers, self.data, Console())
        return 0 if answered else _complain(f"{self.data}: {numbers['result']}", 1)


@dataclass
class Train:
    """`jaxmd-sign train`."""

    data: Annotated[str | None, arg(help=_DATA, metavar="F")] = None
    optimizer: Annotated[
        Literal["smoothed_sign", "sign", "sgd", "adam", "rmsprop", "adabelief", "lion", "adamw"],
        arg(help="Which optimiser of optax."),
    ] = "smoothed_sign"
    learning_rate: Annotated[float, arg(help="Step size η > 0.", metavar="H")] = 1e-3
    alpha: Annotated[float, arg(help="Initial weights α > 0.", metavar="A")] = 0.05
    steps: Annotated[int, arg(help="Most steps.", metavar="N")] = 10_000
    tol: Annotated[
        float | None,
        arg(help="Stop when ‖Xβ − y‖ ≤ T ‖y‖; take all steps if None.", metavar="T"),
    ] = None
    record_every: Annotated[
        int | None, arg(help="Steps from record to record, N/100 if None.", metavar="K")
    ] = None
    depth: Annotated[int, arg(help="M of the model β = u^M − v^M, from 2 to 8.", metavar="M")] = 2
    label: Annotated[
        str | None, arg(help="CSV column that holds y, the last if None.", metavar="NAME")
    ] = None
    epsilon: Annotated[
        float | None, arg(help="Stability constant; optax's own if None.", metavar="E")
    ] = None
    smoothing: Annotated[
        Literal["abs", "sqrt", "tanh", "clip"] | None, arg(help="Of smoothed_sign: abs if None.")
    ] = None
    b1: Annotated[float | None, arg(help="Decay of the first moment.", metavar="B")] = None
    b2: Annotated[float | None, arg(help="Decay of the second moment.", metavar="B")] = None
    eps_root: Annotated[float | None, arg(help="ε inside the root.", metavar="E")] = None
    decay: Annotated[float | None, arg(help="Of rmsprop's moment.", metavar="B")] = None
    eps_in_sqrt: Annotated[
        bool | None, arg(help="Of rmsprop: ε inside the root, optax's default.")
    ] = None
    bias_correction: Annotated[bool | None, arg(help="Of rmsprop; off if None.")] = None
    momentum: Annotated[float | None, arg(help="Of sgd and rmsprop.", metavar="B")] = None
    weight_decay: Annotated[float | None, arg(help="Of adamw and lion.", metavar="W")] = None
    json: Annotated[bool, arg(help="Print one JSON object instead of tables.")] = False
    study: Annotated[
        bool, arg(help="Compare optimisers with the flow over ε instead: figure, words, numbers.")
    ] = False
    out: Annotated[str | None, arg(help="Folder for the study.", metavar="DIR")] = None

    def run(self) -> int:
        """Train and print, or write the study; the exit status."""
        if self.study != (self.out is not None):
            raise ValueError("study: give --study and its folder --out DIR together.")
        if self.study and self.data is not None:
            raise ValueError("data: the study has its own problems; leave out --data or --study.")
        if self.study:
            return self._study()
        if self.data is None:
            raise ValueError("data: give --data F, or --study --out DIR.")
        from dataclasses import asdict

        from rich.console import Console

        from ._data import load_problem
        from ._optimizers._command import failures, print_training, train_report
        from ._report import to_json

        options = asdict(self)
        for name in ("data", "label", "json", "study", "out"):
            del options[name]
        problem, steps = load_problem(self.data, self.label), options.pop("steps")
        report = train_report(problem, num_steps=steps, **options)
        if self.json:
            print(to_json({"data": self.data} | report))
        else:
            print_training(report, self.data, Console())
        failed = [f"{self.data}: {failure}" for failure in failures(report)]
        return _complain("; ".join(failed), 1) if failed else 0

    def _study(self) -> int:
        from ._optimizers._command import study

        for path in study(str(self.out)):
            print(path)
            if path.suffix == ".md":
                print(f"\n{path.read_text('utf-8')}")
        return 0


@dataclass
class Explain:
    """`jaxmd-sign explain`."""

    data: Annotated[str, arg(help=_DATA, metavar="F")]
    alpha: Annotated[float, arg(help="Initial weights α > 0.", metavar="A")]
    epsilon: Annotated[
        float | None, arg(help="Stability constant ε > 0 of smoothed sign descent.", metavar="E")
    ] = None
    gradient_descent: Annotated[bool, arg(help="The limit of gradient descent instead.")] = False
    plot: Annotated[
        str | None, arg(help="Figure of the distances over p, .png, .pdf or .svg.", metavar="P.png")
    ] = None
    label: Annotated[
        str | None, arg(help="CSV column that holds y, the last if None.", metavar="NAME")
    ] = None
    json: Annotated[bool, arg(help="Print one JSON object instead of a table.")] = False

    def run(self) -> int:
        """Solve, compare and print; the exit status."""
        from rich.console import Console

        from ._data import load_problem
        from ._explain._command import explain_command, print_explanation
        from ._report import to_json

        numbers, found = explain_command(
            load_problem(self.data, self.label),
            self.epsilon,
            self.alpha,
            gradient_descent=self.gradient_descent,
            figure=self.plot,
        )
        if self.json:
            print(to_json({"data": self.data} | numbers))
        elif found:
            print_explanation(numbers, self.data, Console())
        return 0 if found else _complain(f"{self.data}: {numbers['result']}", 1)


_REPRODUCE = "The figures of the source as PNG and PDF, and summary.json with all their numbers."
_LIMIT = "The limit of smoothed sign descent, with its KKT error, minimiser gap and stage times."
_SWEEP = "Limits over a grid of ε and α, into a store that survives whatever stops it."
_TUNE = "The ε whose limit has the least KKT error, or is nearest to the exact minimiser."
_TRAIN = "A run of an optimiser of optax against the flow, or a study of many."
_EXPLAIN = "Which potential a limit minimises: ℓ₁, ℓ_{3/2}, ℓ₂, ℓ_p or hyperbolic entropy."
_STATUS = "What of a sweep is done, failed and to do."

Command = Annotated[
    Annotated[Reproduce, subcommand("reproduce", description=_REPRODUCE)]
    | Annotated[Limit, subcommand("limit", description=_LIMIT)]
    | Annotated[Sweep, subcommand("sweep", description=_SWEEP)]
    | Annotated[Tune, subcommand("tune", description=_TUNE)]
    | Annotated[Train, subcommand("train", description=_TRAIN)]
    | Annotated[Explain, subcommand("explain", description=_EXPLAIN)]
    | Annotated[Status, subcommand("status", description=_STATUS)],
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
    if not isinstance(command, Status):
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
