"""Commands about limits: figures of the source, one limit, and what explains it."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from ._words import Alpha, Data, Json, Label, MaxSteps, Reference, complain


@dataclass
class Reproduce:
    """`jaxmd-sign reproduce`."""

    out: Annotated[str, arg(help="Folder to write to; made if it does not exist.", metavar="DIR")]
    beyond: Annotated[
        bool, arg(help="Also compare depths 2, 3, 4 and all smoothings: beyond.png and beyond.md.")
    ] = False
    sparse: Annotated[
        bool, arg(help="Also sparse regression, GD over α and this over ε: sparse.png, sparse.md.")
    ] = False

    def run(self) -> int:
        """Draw the figures; the exit status."""
        from .._reproduce import SolveError, reproduce

        try:
            for path in reproduce(self.out, beyond=self.beyond, sparse=self.sparse):
                print(path)
                if path.suffix == ".md":
                    print(f"\n{path.read_text('utf-8')}")
        except SolveError as error:
            return complain(str(error), 1)
        return 0


@dataclass
class Limit:
    """`jaxmd-sign limit`."""

    data: Data
    epsilon: Annotated[float, arg(help="Stability constant ε > 0.", metavar="E")]
    alpha: Alpha
    label: Label = None
    reference: Reference = "start"
    max_steps: MaxSteps = None
    json: Json = False

    def run(self) -> int:
        """Solve and print; the exit status."""
        from rich.console import Console

        from .._data import load_problem
        from .._report import failures, limit_report, print_report, to_json

        problem = load_problem(self.data, self.label)
        report = limit_report(problem, self.epsilon, self.alpha, self.reference, self.max_steps)
        if self.json:
            print(to_json({"data": self.data} | report))
        else:
            print_report(report, self.data, Console())
        failed = [f"{self.data}: {failure}" for failure in failures(report)]
        return complain("; ".join(failed), 1) if failed else 0


@dataclass
class Explain:
    """`jaxmd-sign explain`."""

    data: Data
    alpha: Alpha
    epsilon: Annotated[
        float | None, arg(help="Stability constant ε > 0 of smoothed sign descent.", metavar="E")
    ] = None
    gradient_descent: Annotated[bool, arg(help="The limit of gradient descent instead.")] = False
    plot: Annotated[
        str | None, arg(help="Figure of the distances over p, .png, .pdf or .svg.", metavar="P.png")
    ] = None
    label: Label = None
    json: Json = False

    def run(self) -> int:
        """Solve, compare and print; the exit status."""
        from rich.console import Console

        from .._data import load_problem
        from .._explain._command import explain_command, print_explanation
        from .._report import to_json

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
        return 0 if found else complain(f"{self.data}: {numbers['result']}", 1)
