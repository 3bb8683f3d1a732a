"""Commands about claims and optimisers: certificates, runs and studies."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from tyro.conf import arg

from ._words import DATA, Alpha, Depth, Json, Label, complain


@dataclass
class Certify:
    """`jaxmd-sign certify`."""

    data: Annotated[str | None, arg(help=DATA, metavar="F")] = None
    epsilon: Annotated[
        float | None, arg(help="Stability constant ε > 0, that of an .npz if None.", metavar="E")
    ] = None
    alpha: Annotated[
        float | None, arg(help="Initial weights α > 0, those of an .npz if None.", metavar="A")
    ] = None
    label: Label = None
    random: Annotated[
        int | None, arg(help="Random instances instead of data, this many.", metavar="N")
    ] = None
    seed: Annotated[int | None, arg(help="Of the random instances, 0 if None.", metavar="S")] = None
    outside: Annotated[bool, arg(help="Draw them outside Assumption 3.3.")] = False
    out: Annotated[
        str | None,
        arg(help="Save the random instance with the smallest margin, for --data.", metavar="O.npz"),
    ] = None
    claim: Annotated[
        str | None, arg(help="The claim whose worst instance is saved.", metavar="NAME")
    ] = None
    html: Annotated[str | None, arg(help="Also write a report with plots.", metavar="R.html")] = (
        None
    )
    json: Json = False

    def run(self) -> int:
        """Judge every claim and print; 0 whether or not claims hold."""
        from rich.console import Console

        from .._certificate._command import certify_command, complaint
        from .._certificate._report import print_certificate
        from .._report import to_json

        words = {name: value for name, value in vars(self).items() if name != "json"}
        certificate, title = certify_command(**words)
        if self.json:
            print(to_json({"data": self.data} | certificate.to_dict()))
        else:
            print_certificate(certificate, title, Console())
        failed = complaint(certificate)
        return complain(f"{title}: {failed}", 1) if failed else 0


@dataclass
class Train:
    """`jaxmd-sign train`."""

    data: Annotated[str | None, arg(help=DATA, metavar="F")] = None
    optimizer: Annotated[
        Literal["smoothed_sign", "sign", "sgd", "adam", "rmsprop", "adabelief", "lion", "adamw"],
        arg(help="Which optimiser of optax."),
    ] = "smoothed_sign"
    learning_rate: Annotated[float, arg(help="Step size η > 0.", metavar="H")] = 1e-3
    alpha: Alpha = 0.05
    steps: Annotated[int, arg(help="Most steps.", metavar="N")] = 10_000
    tol: Annotated[
        float | None,
        arg(help="Stop when ‖Xβ − y‖ ≤ T ‖y‖; take all steps if None.", metavar="T"),
    ] = None
    record_every: Annotated[
        int | None, arg(help="Steps from record to record, N/100 if None.", metavar="K")
    ] = None
    depth: Depth = 2
    label: Label = None
    epsilon: Annotated[
        float | None,
        arg(help="Stability constant; optax's own if None (smoothed_sign has none).", metavar="E"),
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
    json: Json = False
    study: Annotated[
        bool, arg(help="Compare optimisers with the flow over ε instead: figure, words, numbers.")
    ] = False
    out: Annotated[str | None, arg(help="Folder for the study.", metavar="DIR")] = None

    def run(self) -> int:
        """Train and print, or write the study; the exit status."""
        if self.study != (self.out is not None):
            raise ValueError("study: give --study and its folder --out DIR together.")
        if self.study:
            self._check_study()
            return self._study()
        if self.data is None:
            raise ValueError("data: give --data F, or --study --out DIR.")
        from dataclasses import asdict

        from rich.console import Console

        from .._checks import usable_steps
        from .._data import load_problem
        from .._optimizers._command import failures, print_training, train_report
        from .._report import to_json

        options = asdict(self)
        for name in ("data", "label", "json", "study", "out"):
            del options[name]
        steps = usable_steps(options.pop("steps"), "steps")
        report = train_report(load_problem(self.data, self.label), num_steps=steps, **options)
        if self.json:
            print(to_json({"data": self.data} | report))
        else:
            print_training(report, self.data, Console())
        failed = [f"{self.data}: {failure}" for failure in failures(report)]
        return complain("; ".join(failed), 1) if failed else 0

    def _check_study(self) -> None:
        for field in fields(self):
            if field.name not in ("study", "out") and getattr(self, field.name) != field.default:
                raise ValueError(f"{field.name}: the study has its own. Leave it or --study out.")

    def _study(self) -> int:
        from .._optimizers._command import study

        for path in study(str(self.out)):
            print(path)
            if path.suffix == ".md":
                print(f"\n{path.read_text('utf-8')}")
        return 0
