"""A certificate on a terminal, as one HTML file, and its worst instance as a file to feed back."""

import html
import io
import re
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from . import _bounds
from ._certificate import Certificate
from ._judge import Row

_MARKS = {True: "yes", False: "NO", None: "–"}


def print_certificate(certificate: Certificate, title: str, console: Console) -> None:
    """One row per claim, in 80 columns."""
    console.print(f"[bold]Claims of the source[/bold] on {title}", highlight=False)
    many = "instances" in certificate.case
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("claim", min_width=23)
    table.add_column("holds", justify="right")
    table.add_column("margin", justify="right")
    if many:
        table.add_column("false / of", justify="right")
    table.add_column("detail")
    for row in certificate.claims:
        counts = [f"{row.violations} / {row.instances}"] if many else []
        style = "bold red" if row.holds is False else "dim" if row.holds is None else None
        cells = (f"{row.claim}\n  {row.statement}", _MARKS[row.holds], _number(row.margin))
        table.add_row(*cells, *counts, row.detail, style=style)
    table.caption = verdict(certificate)
    console.print(table)


def verdict(certificate: Certificate) -> str:
    """One sentence."""
    wrong = ", ".join(row.claim for row in certificate.violated)
    judged = sum(row.holds is not None for row in certificate.claims)
    said = f"False: {wrong}." if wrong else f"No violation in {judged} rows."
    return (
        f"{said} Margins are relative: positive where an inequality holds, minus the error of an "
        f"identity; slack {certificate.slack:.0e}."
    )


def _number(value: float) -> str:
    return f"{value:.2e}" if np.isfinite(value) else "–"


def write_worst(certificate: Certificate, path: str, claim: str | None) -> str:
    """Save the worst instance of a claim for `load_problem`; which claim it is.

    Without a claim, that of the worst violation, else of the smallest margin of an inequality (the
    margin of an identity is only rounding).
    """
    rows = [row for row in certificate.claims if row.claim in certificate.worst]
    names = [row.claim for row in rows]
    if claim is None:
        rows = [row for row in rows if row.violations or row.margin > 0] or rows
        claim = min(rows, key=lambda row: row.margin).claim
    if claim not in names:
        raise ValueError(f"claim must be one of {names}, but is {claim!r}.")
    if Path(path).suffix.lower() != ".npz":
        raise ValueError(f"out: must be a .npz file, but is {path}.")
    try:
        found = certificate.worst[claim]
        X, y, epsilon, alpha = (found[name] for name in ("X", "y", "epsilon", "alpha"))
        np.savez(path, X=X, y=y, epsilon=epsilon, alpha=alpha, claim=claim)
    except OSError as error:
        raise ValueError(f"out: cannot write {path} ({error.strerror}).") from None
    return claim


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .3em .6em; border-bottom: 1px solid #ccc; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
tr.no {{ background: #fbd9d9; }} tr.none {{ color: #777; }}
svg {{ max-width: 100%; height: auto; }}
</style></head><body>
<h1>Claims of the source on {title}</h1><p>{case}</p><p>{verdict}</p>
{plots}
<table><tr><th>claim</th><th></th><th>holds</th><th>margin</th><th>false / of</th>
<th>detail</th></tr>
{rows}</table></body></html>
"""


def write_html(certificate: Certificate, title: str, path: str) -> None:
    """The report with its plots, in one file that loads nothing."""
    plots = [_margins(certificate.claims, certificate.slack)]
    if certificate.evidence:
        plots += [_stages(certificate), _errors(certificate)]
    case = ", ".join(f"{key} = {value}" for key, value in certificate.case.items())
    page = _PAGE.format(
        title=html.escape(title),
        case=html.escape(case),
        verdict=html.escape(verdict(certificate)),
        plots="\n".join(f"<p>{_svg(plot)}</p>" for plot in plots),
        rows="\n".join(map(_html_row, certificate.claims)),
    )
    try:
        Path(path).write_text(page, "utf-8")
    except OSError as error:
        raise ValueError(f"html: cannot write {path} ({error.strerror}).") from None


def _html_row(row: Row) -> str:
    kind = {True: "yes", False: "no", None: "none"}[row.holds]
    cells = [row.claim, row.statement, _MARKS[row.holds]]
    numbers = [_number(row.margin), f"{row.violations} / {row.instances}"]
    return (
        f'<tr class="{kind}">'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        + "".join(f'<td class="number">{cell}</td>' for cell in numbers)
        + f"<td>{html.escape(row.detail)}</td></tr>"
    )


def _svg(figure: Figure) -> str:
    """Inline SVG without the metadata, which holds addresses."""
    file = io.StringIO()
    figure.savefig(file, format="svg", bbox_inches="tight")
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return text[text.index("<svg") :]


def _margins(rows: Sequence[Row], slack: float) -> Figure:
    shown = [row for row in rows if np.isfinite(row.margin)][::-1]
    figure = Figure(figsize=(8, 0.22 * len(shown) + 1))
    axes = figure.subplots()
    colors = ["tab:red" if row.holds is False else "tab:blue" for row in shown]
    axes.barh([row.claim for row in shown], [row.margin for row in shown], color=colors)
    axes.axvline(-slack, color="black", linewidth=0.8, linestyle=":", label="−slack")
    axes.set_xscale("symlog", linthresh=slack)
    axes.set_xlabel("smallest margin")
    axes.legend()
    return figure


def _stages(certificate: Certificate) -> Figure:
    """Weights of the first block against time, in its units, with the ends of the stages."""
    solved = certificate.evidence["case"].sign
    points, saved = solved.path.points, np.asarray(solved.path.saved)
    t, end = np.asarray(points.t)[saved], float(np.max(solved.path.sign.t))
    figure = Figure(figsize=(8, 3.5))
    axes = figure.subplots()
    for i in np.flatnonzero(np.asarray(solved.a) > 0):
        (line,) = axes.plot(t, np.asarray(points.w)[saved, i], ".-", label=f"|θ|, column {i + 1}")
        axes.plot(t, np.asarray(points.omega)[saved, i], ":", color=line.get_color())
        axes.axvline(float(solved.path.sign.t[i]), color=line.get_color(), linewidth=0.6)
    axes.axvline(float(solved.path.warmup.t), color="black", linewidth=0.6, linestyle="--")
    axes.set_xlim(0, 1.5 * end if end > 0 else float(t[-1]))
    axes.set_xlabel("t, units of the first block; T₁ dashed, T₂ solid")
    axes.set_ylabel("dominating and other (dotted) weight")
    axes.legend()
    return figure


def _errors(certificate: Certificate) -> Figure:
    """‖e‖ of the first block over the interval of Assumption 3.3, with U₀ and V₀."""
    case, others = certificate.evidence["case"], certificate.evidence["others"]
    solved = case.sign
    a, scale = np.sort(np.asarray(solved.a))[::-1], float(solved.epsilon)
    epsilons = np.asarray(others) / certificate.case["epsilon"] * scale
    figure = Figure(figsize=(8, 3.5))
    axes = figure.subplots()
    axes.semilogx(others, np.asarray(certificate.evidence["errors"]), ".-", label="‖e‖")
    if np.sum(a > 0) == 2:
        known = [jnp.asarray(v) for v in (a[0], a[1], solved.Y, epsilons, solved.alpha)]
        axes.semilogx(others, np.asarray(_bounds.upper_before(*known)), "--", label="U₀")
        axes.semilogx(others, np.asarray(_bounds.lower_before(*known)), ":", label="V₀")
    axes.set_xlabel("ε, three decades of Assumption 3.3")
    axes.set_ylabel("KKT error, units of the first block")
    axes.legend()
    return figure
