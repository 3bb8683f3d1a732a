"""A certificate on a terminal, as one HTML file, and its worst instance as a file to feed back."""

import html
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from ._api import Certificate
from ._claims import ASSUMED
from ._plot import as_svg, draw_errors, draw_margins, draw_stages
from ._verdicts import Row

_MARKS = {True: "yes", False: "NO", None: "–"}


def print_certificate(certificate: Certificate, title: str, console: Console) -> None:
    """One row per claim, in 80 columns."""
    console.print(f"[bold]Claims of the source[/bold] on {title}", highlight=False)
    many = "instances" in certificate.case
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("claim", width=23)  # min_width is added on top of 80 columns
    table.add_column("holds", justify="right")
    table.add_column("margin", justify="right")
    if many:
        table.add_column("false / of", justify="right")
    table.add_column("detail")
    for row in certificate.claims:
        counts = [f"{row.violations} / {row.instances}"] if many else []
        style = "bold red" if row.violations else "dim" if row.holds is None else None
        cells = (f"{row.claim}\n  {row.statement}", _MARKS[row.holds], _number(row.margin))
        table.add_row(*cells, *counts, row.detail, style=style)
    table.caption = verdict(certificate)
    console.print(table)


def verdict(certificate: Certificate) -> str:
    """One sentence."""
    wrong = ", ".join(row.claim for row in certificate.violated)
    claims = [row for row in certificate.claims if row.claim not in ASSUMED]
    judged = sum(row.holds is not None for row in claims)
    said = f"False: {wrong}." if wrong else f"No violation of {judged} claims."
    return (
        f"{said} Margins are relative: positive where an inequality holds, minus the error of an "
        f"identity; slack {certificate.slack:.0e}."
    )


def _number(value: float) -> str:
    return f"{value + 0.0:.2e}" if np.isfinite(value) else "–"  # + 0: no −0


def write_worst(certificate: Certificate, path: str, claim: str | None) -> None:
    """Save the worst instance of a claim for `load_problem`, with ε, α and the claim.

    Without a claim, that of the worst violation, else of the smallest margin of an inequality (the
    margin of an identity is only rounding).
    """
    rows = [row for row in certificate.claims if row.claim in certificate.worst]
    names = [row.claim for row in rows]
    if claim is None:
        rows = [row for row in rows if row.violations or row.margin > 0] or rows
        claim = min(rows, key=lambda row: row.margin).claim
    if claim not in names:
        raise ValueError(f"claim must be one of {', '.join(names)}, but is {claim!r}.")
    try:
        found = certificate.worst[claim]
        X, y, epsilon, alpha = (found[name] for name in ("X", "y", "epsilon", "alpha"))
        np.savez(path, X=X, y=y, epsilon=epsilon, alpha=alpha, claim=claim)
    except OSError as error:
        raise ValueError(f"out: cannot write {path} ({error.strerror}).") from None


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
    plots = [draw_margins(certificate.claims, certificate.slack)]
    if certificate.evidence:
        plots += [draw_stages(certificate.evidence), draw_errors(certificate.evidence)]
    case = ", ".join(f"{key} = {value}" for key, value in certificate.case.items())
    page = _PAGE.format(
        title=html.escape(title),
        case=html.escape(case),
        verdict=html.escape(verdict(certificate)),
        plots="\n".join(f"<p>{as_svg(plot)}</p>" for plot in plots),
        rows="\n".join(map(_html_row, certificate.claims)),
    )
    try:
        Path(path).write_text(page, "utf-8")
    except OSError as error:
        raise ValueError(f"html: cannot write {path} ({error.strerror}).") from None


def _html_row(row: Row) -> str:
    kind = "no" if row.violations else "none" if row.holds is None else "yes"
    cells = [row.claim, row.statement, _MARKS[row.holds]]
    numbers = [_number(row.margin), f"{row.violations} / {row.instances}"]
    return (
        f'<tr class="{kind}">'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        + "".join(f'<td class="number">{cell}</td>' for cell in numbers)
        + f"<td>{html.escape(row.detail)}</td></tr>"
    )
