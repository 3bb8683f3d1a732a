"""Results as files, as Markdown, and as the tables of README and docs, which are made of them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import machine

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
TITLES = {
    "W1": "W1: limits, one block of two columns",
    "W2": "W2: limits, ten blocks",
    "W3": "W3: flows of ten blocks at 200 times",
    "W4 real": "W4: limits on a general X, diabetes data 30 × 64",
    "W4 Gaussian": "W4: limits on a general X, Gaussian 40 × 100",
    "one limit": "One limit on a general X, ε = 0.01",
    "W5": "W5: KKT error and its derivative in ε, one block",
    "W6": "W6: training, 10⁴ steps",
    "one ε": "`solve_limit` of five blocks, batched over ε",
    "many ε": "100 blocks, an ε for each coordinate",
    "tuning": "The best ε of five blocks",
    "optimisers": "`train` with other optimisers",
    "cases": "Sweeps over so many cases",
    "blocks": "Sweeps over so many blocks",
    "epsilon": "Sweeps at this ε",
    "columns": "Sweeps of one block of so many columns",
    "cores": "Sweeps on so many cores",
    "store": "A sweep in memory and in a store",
    "accuracy": "How wrong limits on a general X are",
    "bounds": "Tightness of the bounds of `certify`",
    "roofline": "Roofline of the hot loop",
}


def write(results: dict[str, Any]) -> Path:
    """Into a file named by date and device, the table beside it; the path of the former."""
    RESULTS.mkdir(exist_ok=True)
    name = f"{results['date']}-{machine.slug(results)}{'-quick' * results['quick']}.json"
    path = RESULTS / name
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    path.with_suffix(".md").write_text(markdown(results), "utf-8")
    return path


def newest() -> Path | None:
    """The newest file of a whole run."""
    files = [
        path
        for path in sorted(RESULTS.glob("*.json"))
        if "parts" in json.loads(path.read_text("utf-8"))
    ]
    return next((path for path in reversed(files) if not path.stem.endswith("-quick")), None)


def markdown(results: dict[str, Any]) -> str:
    """All results."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        f"{results['date']}, {results['device']}, {results['cores']} cores, Python "
        f"{results['python']}; {versions}.",
        "",
        "Medians (least–most); ratios are medians of those of single turns; errors the largest "
        "against SciPy; compile: what a first call takes longer.",
    ]
    for name, part in results["parts"].items():
        lines += ["", f"### {TITLES[name]}", ""]
        if "skipped" in part:
            lines.append(f"Left out: {part['skipped']}")
        else:
            lines += _OTHERS.get(name, _rows)(part)
    return "\n".join(lines) + "\n"


def _rows(part: dict[str, Any]) -> list[str]:
    rows = part["rows"]
    titles = [part["unit"], "CPU", "ratio", "error", "rtol", "cases", "compile s", "first call s"]
    keys = ["median", "cpu", "ratio", "error", "rtol", "cases", "compile_s", "warm_up_s"]
    used = [i for i, key in enumerate(keys) if any(key in row for row in rows.values())]
    lines = []
    if "needed" in part:
        lines += [f"Needed: {part['needed']:.0e}, at the loosest tolerance that gives it.", ""]
    lines += [
        "| | " + " | ".join(titles[i] for i in used) + " |",
        "|---" * (len(used) + 1) + "|",
        *(f"| {name} | " + " | ".join(_cell(row, keys[i]) for i in used) + " |"
          for name, row in rows.items() if "skipped" not in row),
    ]  # fmt: skip
    lines += [""] if any("skipped" in row for row in rows.values()) else []
    lines += [
        f"- {name}: left out ({row['skipped']})" for name, row in rows.items() if "skipped" in row
    ]
    notes = _notes(part)
    return lines + (["", *notes] if notes else [])


def _cell(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        return "–"
    if key in ("median", "ratio"):
        return spread(row if key == "median" else value)
    if key in ("error", "rtol"):
        lost = key == "error" and row.get("unfinished", 0)
        return f"{value:.1e}" + (f", {lost} of {row['checked']} unfinished" if lost else "")
    return f"{value}" if isinstance(value, int) else number(value)


def number(value: float) -> str:
    """Three digits, never a power of ten."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def spread(record: dict[str, float]) -> str:
    """A median with its least and most."""
    return f"{number(record['median'])} ({number(record['least'])}–{number(record['most'])})"


def _notes(part: dict[str, Any]) -> list[str]:
    words = {
        "steps": "{:.3g} steps", "rejected": "{:.3g} rejected", "occupancy": "occupancy {:.2f}",
        "solved_again": "{:.2%} solved again", "efficiency": "parallel efficiency {:.2f}",
    }  # fmt: skip
    notes = []
    for name, row in part["rows"].items():
        said = [text.format(row[key]) for key, text in words.items() if key in row]
        notes += [f"{name}: {', '.join(said)}."] if said else []
    if "most_limits" in part:
        notes.append(f"At most {part['most_limits']} limits a problem.")
    if "peak_mb" in part:
        notes.append(f"Peak memory: {part['peak_mb']:.0f} MB.")
    if "truth_apart" in part:
        notes.append(f"The truth is {part['truth_apart']:.0e} from `tests/reference.py`.")
    return ["  \n".join(notes)] if notes else []


def _roofline(part: dict[str, Any]) -> list[str]:
    counts, peaks = part["counts_a_step_and_lane"], part["peaks_billions_a_second"]
    lines = [f"{spread(part['ns_a_step_and_lane'])} ns a step and lane.", ""]
    lines += ["| | a step and lane | peak, 10⁹/s | of the peak |", "|---|---|---|---|"]
    for name, share in part["of_peak"].items():
        lines.append(f"| {name} | {counts[name]:.0f} | {spread(peaks[name])} | {share:.0%} |")
    lines += [
        "",
        "Divisions include roots; bytes are mostly of the nearest cache, the peak is memory's.",
    ]
    return lines


def _accuracy(part: dict[str, Any]) -> list[str]:
    lines = ["| data | ε | cases | rtol | worst error | all but one |", "|---|---|--:|---|---|---|"]
    for row in part["rows"]:
        cells = [row["data"], row["epsilon"], str(row["cases"]), f"{row['rtol']:.0e}"]
        cells += [f"{row['error']:.1e}", f"{row['all_but_one']:.1e}"]
        lines.append(f"| {' | '.join(cells)} |")
    return [
        *lines,
        "",
        f"`kkt_error_slope` on the diabetes data at rtol 1e-5 is within {part['slope_error']:.0e} "
        f"of differences of KKT errors at rtol 1e-8, for {part['slope_cases']} values of ε.",
    ]


def _bounds(part: dict[str, Any]) -> list[str]:
    lines = ["| percentile | 5 % | 50 % | 95 % |", "|---|---|---|---|"]
    for name, shares in part["percentiles"].items():
        lines.append(f"| {' | '.join([name, *(f'{share:.4f}' for share in shares)])} |")
    return [
        *lines,
        "",
        f"Of {part['pairs']} random pairs (seed {part['seed']} of the draw behind `certify "
        f"--random`), {part['violations']} violate a bound. "
        f"V₀ < U₀ in {100 * part['ordered']:.1f} %; ε̄ is all of the interval of Assumption 3.3 in "
        f"{100 * part['whole']:.1f} %, and "
        f"{part['least_share']:.2f} of it or more in 95 %.",
    ]


_OTHERS = {"roofline": _roofline, "accuracy": _accuracy, "bounds": _bounds}


def readme_table(results: dict[str, Any]) -> str:
    """Who needs how long for W1 to W6, the fastest of others and the usual ones."""
    parts = {
        name: part
        for name, part in results["parts"].items()
        if name[0] == "W" and "skipped" not in part
    }
    names = list(dict.fromkeys(name for part in parts.values() for name in part["rows"]))
    heads = [f"{name}, {part['unit'].split()[0]}" for name, part in parts.items()]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "--:|" * len(parts)]
    for name in names:
        cells = (part["rows"].get(name, {}).get("median") for part in parts.values())
        cells = ["–" if value is None else number(value) for value in cells]
        if any(cell != "–" for cell in cells):
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    errors = (f"{part['needed']:.0e} ({name})" for name, part in parts.items() if "needed" in part)
    said = (
        f"Medians, all cores, compilation apart; {_where(results)}. Each at its loosest tolerance",
        f"with a worst error of {', '.join(errors)}. Spread, errors, versions and all else are in",
        "`benchmarks/results/`.",
    )
    return "\n".join([*lines, "", *said])


def general_table(results: dict[str, Any]) -> str:
    """W4."""
    lines = ["| | | ms a case | times the sweep | worst error |", "|---|---|--:|--:|--:|"]
    for part in ("W4 real", "W4 Gaussian"):
        for name, row in results["parts"][part].get("rows", {}).items():
            if "skipped" not in row:
                cells = [number(row["median"]), number(row["ratio"]["median"])]
                cells = [TITLES[part].split(", ")[1], name, *cells, f"{row['error']:.0e}"]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\n256 values of ε in [1e-3, 1], α = 0.05; {_where(results)}."


def _where(results: dict[str, Any]) -> str:
    return f"{results['device']}, {results['cores']} cores, {results['date']}"


def _of_part(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda results: "\n".join(_OTHERS.get(name, _rows)(results["parts"][name]))


TABLES = {
    "W1 to W6": readme_table,
    "W4": general_table,
    "one limit": _of_part("one limit"),
    "accuracy": _of_part("accuracy"),
    "bounds": _of_part("bounds"),
}
DOCUMENTS = ("README.md", "docs/accuracy.md", "docs/general_x.md", "docs/bounds.md")
_MARKED = re.compile(r"(<!-- make benchmark: (.+?) -->\n)(.*?)(<!-- end -->)", re.S)


def made(document: str) -> str:
    """The text of a document with its tables made of the newest results."""
    path = newest()
    results = None if path is None else json.loads(path.read_text("utf-8"))

    def table(match: re.Match[str]) -> str:
        if results is None:
            table = "`make benchmark` has not been run yet."
        else:
            table = TABLES[match[2]](results)
        return f"{match[1]}{table}\n{match[4]}"

    found, count = _MARKED.subn(table, (ROOT / document).read_text("utf-8"))
    if not count:
        raise ValueError(f"{document} has no place for a table")
    return found


def update_documents() -> None:
    """Write the tables of README and docs anew."""
    for document in DOCUMENTS:
        (ROOT / document).write_text(made(document), "utf-8")
