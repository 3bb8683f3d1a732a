"""How far a store is, from its books alone: no JAX, no Zarr, while a sweep runs or after it."""

from pathlib import Path
from typing import Any

from ._manifest import read_manifest, read_marks, total


def status(store: str | Path) -> dict[str, Any]:
    """Cases done, failed by reason and to do, and how they are solved."""
    path = Path(store)
    manifest, solved = read_manifest(path), total(read_marks(path).values())
    failed = sum(solved["failed"].values())
    return {
        "store": str(store),
        "cases": manifest["cases"],
        "done": solved["cases"] - failed,
        "failed": solved["failed"],
        "to_do": manifest["cases"] - solved["cases"],
        "settings": manifest["identity"] | {"max_steps": manifest["max_steps"]},
        "chunks": manifest["chunks"],
        "devices": manifest["devices"],
        "versions": manifest["versions"],
    }


def lines(status: dict[str, Any]) -> list[str]:
    """The status in words."""
    settings = status["settings"]
    problem, epsilon, alpha = (settings[name] for name in ("problem", "epsilon", "alpha"))
    kind = "block-diagonal X" if problem["blocks"] else "general X"
    several = f"{problem['problems']:,} problems, each " if problem["problems"] > 1 else ""
    names = ("rtol", "reference", "smoothing", "depth", "max_steps", "dtype")
    return [
        f"{status['store']}: {status['cases']:,} cases",
        f"  done      {status['done']:,}",
        f"  failed    {failures(status['failed'])}",
        f"  to do     {status['to_do']:,}",
        f"  problem   {several}{kind} ({problem['examples']:,} × {problem['features']:,})",
        f"  epsilon   {_range(epsilon)}",
        f"  alpha     {_range(alpha)}{'' if settings['product'] else ', zipped with epsilon'}",
        f"  settings  {', '.join(f'{name} {settings[name]}' for name in names)}",
        f"  variables {', '.join(settings['variables'])}",
    ]


def failures(counts: dict[str, int]) -> str:
    """Number of failures, and by reason: `3 (max_steps_reached 3)`."""
    if not counts:
        return "0"
    reasons = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"{sum(counts.values()):,} ({reasons})"


def _range(values: dict[str, Any]) -> str:
    if values["values"] == 1:
        return f"{values['from']:g}"
    return f"{values['values']:,} values from {values['from']:g} to {values['to']:g}"
