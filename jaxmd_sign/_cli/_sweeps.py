"""Commands about many limits: sweeps, their stores, and the best ε."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from tyro.conf import arg

from ._words import Alpha, Data, Depth, Json, Label, MaxSteps, Reference, Smoothing, complain

_GRID = "LO:HI:N, N numbers of one ratio from LO to HI, or one number; each > 0."


@dataclass
class Sweep:
    """`jaxmd-sign sweep`."""

    data: Data
    epsilon: Annotated[str, arg(help=f"Stability constants ε: {_GRID}", metavar="LO:HI:N")]
    alpha: Annotated[str, arg(help=f"Initial weights α: {_GRID}", metavar="LO:HI:N")]
    out: Annotated[
        str,
        arg(help="Zarr store to write. The same command again goes on there.", metavar="S.zarr"),
    ]
    plot: Annotated[
        str | None, arg(help="Figure of KKT error and gap, .png, .pdf or .svg.", metavar="P.png")
    ] = None
    label: Label = None
    rtol: Annotated[float, arg(help="Relative tolerance of β∞.", metavar="R")] = 1e-6
    reference: Reference = "start"
    smoothing: Smoothing = "abs"
    depth: Depth = 2
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
        from .._data import load_problem
        from .._sweep._cluster import ClusterError
        from .._sweep._command import sweep_command

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
            return complain(f"{self.out}: {error}", 1)
        except KeyboardInterrupt:
            return complain("stopped; the same command goes on from here.", 130)
        print(line)
        return complain(f"{self.out}: {failed}", 1) if failed else 0


@dataclass
class Status:
    """`jaxmd-sign status`."""

    store: Annotated[tyro.conf.Positional[str], arg(help="Store of a sweep.", metavar="STORE")]
    json: Annotated[bool, arg(help="Print one JSON object instead of lines.")] = False

    def run(self) -> int:
        """Read the books of the store and print; the exit status."""
        import json

        from .._sweep._status import lines, status

        found = status(self.store)
        print(json.dumps(found, ensure_ascii=False) if self.json else "\n".join(lines(found)))
        return 0


@dataclass
class Tune:
    """`jaxmd-sign tune`."""

    data: Data
    alpha: Alpha
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
    label: Label = None
    rtol: Annotated[
        float | None, arg(help="Relative tolerance of each limit, chosen if None.", metavar="R")
    ] = None
    smoothing: Smoothing = "abs"
    depth: Depth = 2
    max_steps: MaxSteps = None
    json: Json = False

    def run(self) -> int:
        """Search and print; the exit status."""
        from rich.console import Console

        from .._data import load_problem
        from .._report import to_json
        from .._tuning._command import print_tuning, tune_command

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
        return 0 if answered else complain(f"{self.data}: {numbers['result']}", 1)
