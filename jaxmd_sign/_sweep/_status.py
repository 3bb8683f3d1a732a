"""How far a store is, from its books alone: no JAX, no Zarr, while a sweep runs or after it."""

from pathlib import Path
from typing import Any

from .._files import as_path
from ._manifest import in_words, read_manifest, read_marks, total


def status(store: str | Path) -> dict[str, Any]:
    """Cases done, failed by reason and to do, and how they are solved."""
    path = as_path("store", store, "the path of a store that sweep wrote")
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
    names = ("rtol", "reference", "smoothing", "depth", "max_steps", "dtype")
    words = {name: in_words(name, value) for name, value in settings.items()}
    return [
        f"{status['store']}: {status['cases']:,} cases",
        f"  done      {status['done']:,}",
        f"  failed    {failures(status['failed'])}",
        f"  to do     {status['to_do']:,}",
        f"  problem   {words['problem']}",
        f"  epsilon   {words['epsilon']}",
        f"  alpha     {words['alpha']}{'' if settings['product'] else ', zipped with epsilon'}",
        f"  settings  {', '.join(f'{name} {words[name]}' for name in names)}",
        f"  variables {words['variables']}",
    ]


def failures(counts: dict[str, int]) -> str:
    """Number of failures, and by reason: `3 (max_steps_reached 3)`."""
    if not counts:
        return "0"
    reasons = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"{sum(counts.values()):,} ({reasons})"
