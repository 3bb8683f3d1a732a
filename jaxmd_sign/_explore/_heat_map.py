"""The KKT errors in a sweep's store as a map over ε × α, with the problem they belong to."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .._sweep._manifest import in_words, read_manifest
from .._sweep._store import _zarr
from .._sweep._variables import CODES

_MOST = 300  # values along an axis: more are finer than a screen


def heat_map(path: str) -> dict[str, Any]:
    """The map, as it is now; `ValueError` with one line if the store has none."""
    manifest = read_manifest(Path(path))
    identity = manifest["identity"]
    _check(path, identity)
    _zarr()
    try:
        with xr.open_zarr(path) as store:
            rows, columns = _thinned(store.alpha.values), _thinned(store.epsilon.values)
            chosen = store[["kkt_error", "result"]].isel(alpha=rows, epsilon=columns)
            chosen = chosen.transpose("alpha", "epsilon").load()
    except (OSError, KeyError) as error:
        raise ValueError(f"{path}: cannot be read ({error}). Run the sweep again.") from None
    codes = chosen.result.values
    return {
        "store": path,
        "epsilon": chosen.epsilon.values,
        "alpha": chosen.alpha.values,
        "kkt_error": np.where(codes == 0, chosen.kkt_error.values, np.nan),
        "result": codes,
        "codes": {code.value: [name, code.sentence] for name, code in CODES.items()},
        "cases": manifest["cases"],
        "failed": int(np.sum(codes > 0)),
        "to_do": int(np.sum(codes < 0)),
        "depth": identity["depth"],
        "smoothing": identity["smoothing"],
        "reference": identity["reference"],
        "rows": identity["problem"]["examples"],
        "problem": in_words("problem", identity["problem"]),
        "pairs": _pairs(manifest),
    }


def _check(path: str, identity: dict[str, Any]) -> None:
    """What a map needs of a store, by its books alone."""
    if not identity["product"]:
        raise ValueError(f"{path}: zips ε with α, and has no map. Give a store of a grid.")
    if identity["problem"]["problems"] > 1:
        raise ValueError(f"{path}: holds several problems. Give a store of one problem.")
    if "kkt_error" not in identity["variables"]:
        raise ValueError(f"{path}: has no kkt_error. Sweep with that variable.")


def _thinned(values: np.ndarray) -> np.ndarray:
    """Places of the values in rising order, evenly fewer where they are many."""
    order = np.argsort(values)
    if len(order) <= _MOST:
        return order
    return order[np.linspace(0, len(order) - 1, _MOST).round().astype(int)]


def _pairs(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of X with two non-zero numbers, each with its label, if rows share no column."""
    data = manifest.get("data")
    if data is None or not manifest["identity"]["problem"]["blocks"]:
        return []
    rows = [[number for number in row if number != 0] for row in data["X"]]
    return [
        {"row": i + 1, "x": row, "y": y}
        for i, (row, y) in enumerate(zip(rows, data["y"], strict=True))
        if len(row) == 2 and y != 0
    ]
