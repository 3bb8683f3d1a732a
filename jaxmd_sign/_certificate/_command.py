"""`jaxmd-sign certify`: from words to a certificate, and back to a table, JSON, HTML and a file."""

from .._data import load_problem, stored_number
from .._files import check_file
from ._api import Certificate, certify, certify_random
from ._claims import CLAIMS
from ._report import write_html, write_worst


def certify_command(
    data: str | None,
    label: str | None,
    epsilon: float | None,
    alpha: float | None,
    *,
    random: int | None,
    seed: int | None,
    outside: bool,
    out: str | None,
    claim: str | None,
    html: str | None,
) -> tuple[Certificate, str]:
    """The certificate and its title; files are written on the way."""
    if (data is None) == (random is None):
        raise ValueError("give either --data F or --random N.")
    if data is None and not epsilon is alpha is label is None:
        raise ValueError("--random draws data, epsilon and alpha itself. Leave them out.")
    if random is None and (not out is claim is seed is None or outside):
        raise ValueError("--seed, --outside, --out and --claim belong to --random N.")
    if claim is not None and out is None:
        raise ValueError("--claim names what --out saves. Give both.")
    if claim is not None and claim not in (names := [claim.name for claim in CLAIMS]):
        raise ValueError(f"claim must be one of {', '.join(names)}, but is {claim!r}.")
    check_file("out", out, ".npz")
    check_file("html", html, ".html")
    if random is not None:
        certificate = certify_random(random, seed or 0, outside=outside)
        title = f"{random} random instances, seed {seed or 0}"
        title += ", outside Assumption 3.3" if outside else ""
    else:
        assert data is not None
        problem = load_problem(data, label)
        epsilon = stored_number(data, "epsilon") if epsilon is None else epsilon
        alpha = stored_number(data, "alpha") if alpha is None else alpha
        certificate = certify(problem, epsilon, alpha)
        title = f"{data}, ε = {epsilon:g}, α = {alpha:g}"
    if out is not None:
        write_worst(certificate, out, claim)
    if html is not None:
        write_html(certificate, title, html)
    return certificate, title


def complaint(certificate: Certificate) -> str | None:
    """How many solves failed, and the first with its remedy; None if none did."""
    if not certificate.failed:
        return None
    first, *others = certificate.failed
    return f"{first}" + (f" ({len(others)} more failed.)" if others else "")
