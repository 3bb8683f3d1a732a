"""A durable sweep: a Zarr store that is written chunk by chunk while the next chunk is solved.

Zarr makes the store with its metadata. Chunks then are its plainest files, the numbers as they lie
in memory, written without it: a sixth of the time. A chunk of the sweep is one whole Zarr chunk of
each variable, so that no two writers ever touch one file.
"""

import os
import platform
import queue
import shutil
import threading
import uuid
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr

from .. import __version__
from ._dataset import attributes, coordinates, dims, fill_and_dtype, inner_shape, notes
from ._devices import num_devices, num_threads
from ._manifest import (
    digest,
    fingerprint,
    mark,
    read_manifest,
    read_marks,
    refuse_other,
    write_atomically,
    write_manifest,
    write_mark,
)
from ._plan import Chunk, Plan
from ._variables import CODES

_WAITING = 2  # chunks between solver and writer
_MOST_KEPT = 10_000  # numbers of X


def open_store(path: Path, plan: Plan, resume: bool, own_chunks: bool) -> Plan:
    """Make the store, or go on with one of the same settings; the plan with the store's chunks."""
    zarr = _zarr()
    if not _is_there(path):
        _make(zarr, path, plan)
    elif not resume:
        raise ValueError(
            f"store {path} exists, and resume is False. Remove it, give another path, or leave "
            "out resume: what is done then is not solved again."
        )
    manifest = read_manifest(path)
    refuse_other(path, manifest["identity"], identity(plan))
    tile = tuple(manifest["chunks"]["tile"])
    if own_chunks and tile != plan.tile:
        raise ValueError(
            f"store {path} has chunks of {' × '.join(map(str, tile))} cases, not of chunk_size. "
            "Leave out chunk_size, or give another path."
        )
    before, now = manifest["max_steps"], plan.settings.max_steps
    if now < before:  # would lose what needed more
        raise ValueError(
            f"max_steps is {now}, but store {path} was written with {before}. Give that or more."
        )
    if now > before:
        write_manifest(path, manifest | {"max_steps": now})
    return replace(plan, tile=tile)


def load(path: Path, plan: Plan) -> xr.Dataset:
    """The dataset in a store, read when used."""
    return xr.open_zarr(path)[list(plan.settings.variables)]  # in this order


def marks_of_whole(path: Path, plan: Plan) -> dict[int, dict[str, Any]]:
    """The marks of the chunks all of whose files are there: who copies a store may lose some."""
    there = {name: set(os.listdir(path / name)) for name in plan.settings.variables}

    def whole(index: int) -> bool:
        corner = plan.chunk(index).corner
        return all(
            chunk_key(corner, plan.tile, len(inner_shape(plan, name))) in files
            for name, files in there.items()
        )

    return {index: mark for index, mark in read_marks(path).items() if whole(index)}


def to_do(marks: dict[int, dict[str, Any]], plan: Plan) -> list[int]:
    """Numbers of the chunks that are not done, or hold a case that failed."""
    done = {index for index, mark in marks.items() if not mark["failed"]}
    return [index for index in range(plan.num_chunks) if index not in done]


def identity(plan: Plan) -> dict[str, Any]:
    """All that decides the numbers in a store. More steps only make more cases succeed."""
    settings, problem = plan.settings, plan.problem
    leaves = [np.ascontiguousarray(leaf) for leaf in jax.tree.leaves(problem)]
    return {
        "problem": {
            "problems": plan.num_problems or 1,
            "examples": problem.num_examples,
            "features": problem.num_features,
            "blocks": problem.is_block_diagonal,
            "hash": digest(*(leaf.data for leaf in leaves)),
        },
        "epsilon": _summary(plan.epsilon),
        "alpha": _summary(plan.alpha),
        "product": plan.product,
        "variables": list(settings.variables),
        "rtol": settings.rtol,
        "reference": settings.reference,
        "smoothing": settings.smoothing,
        "depth": settings.depth,
        "dtype": settings.dtype,
    }


def _summary(values: np.ndarray) -> dict[str, Any]:
    values = np.ascontiguousarray(values)
    low, high = float(np.min(values)), float(np.max(values))
    return {"values": len(values), "from": low, "to": high, "hash": digest(values.data)}


def _manifest(plan: Plan) -> dict[str, Any]:
    packages = ("jax", "jaxlib", "diffrax", "equinox", "numpy", "xarray", "zarr")
    return {
        "format": 1,
        "hash": fingerprint(identity(plan)),
        "identity": identity(plan),
        "data": _small_data(plan),
        "max_steps": plan.settings.max_steps,
        "cases": plan.num_cases,
        "chunks": {"number": plan.num_chunks, "grid": list(plan.shape), "tile": list(plan.tile)},
        "devices": {
            "platform": jax.local_devices()[0].platform,
            "number": num_devices(),
            "threads": num_threads(plan.problem),
        },
        "versions": {
            "jaxmd_sign": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "codes": {name: code.value for name, code in CODES.items()},
    }


def _small_data(plan: Plan) -> dict[str, Any] | None:
    """X and y of one small problem, so that who reads the store knows what was solved."""
    problem = plan.problem
    size = problem.num_examples * problem.num_features
    if plan.num_problems is not None or size > _MOST_KEPT:
        return None
    return {"X": np.asarray(problem.X).tolist(), "y": np.asarray(problem.y).tolist()}


def _is_there(path: Path) -> bool:
    """Whether something is at `path`; an empty folder is nothing."""
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def _zarr() -> Any:
    try:
        import zarr
    except ImportError:
        zarr = None
    if zarr is None or int(zarr.__version__.partition(".")[0]) < 3:
        raise ValueError(
            "store needs zarr 3 or later: pip install 'jaxmd-sign[store]', or leave out store."
        )
    return zarr


def _make(zarr: Any, path: Path, plan: Plan) -> None:
    """Make the store beside its place, then move it there whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        _make_arrays(zarr, beside, plan)
        write_manifest(beside, _manifest(plan))
        beside.rename(path)
    except OSError:
        if not _is_there(path):  # else another process was quicker
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _make_arrays(zarr: Any, path: Path, plan: Plan) -> None:
    group = zarr.create_group(path, attributes=attributes(plan))
    # What is no axis must be named as a coordinate by each variable.
    named = {} if plan.product else {"coordinates": "epsilon alpha"}
    for name, (axes, values, texts) in coordinates(plan).items():
        array = group.create_array(
            name, data=values, chunks=values.shape, dimension_names=axes, attributes=texts
        )
    for name in plan.settings.variables:
        fill, dtype = fill_and_dtype(plan, name)
        inner = inner_shape(plan, name)
        array = group.create_array(
            name,
            shape=(*plan.shape, *inner),
            chunks=(*plan.tile, *inner),
            dtype=dtype,
            fill_value=fill,
            compressors=None,
            # c.0.1 rather than c/0/1: no folder to make for each chunk
            chunk_key_encoding={"name": "default", "separator": "."},
            dimension_names=dims(plan, name),
            attributes=notes(name) | named,
        )
        assert array.chunks == (*plan.tile, *inner)
    with warnings.catch_warnings():
        # Not in the specification yet. Readers who do not know it list the folder instead.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(group.store)


def chunk_key(corner: tuple[int, ...], tile: tuple[int, ...], inner: int) -> str:
    """The name of the file of a chunk, of an array with so many axes beside those of the cases."""
    sides = zip(corner, tile, strict=True)
    place, within = zip(*(divmod(first, side) for first, side in sides), strict=True)
    assert not any(within), f"the chunk at {corner} would be parts of Zarr chunks"
    return ".".join(map(str, ["c", *place, *[0] * inner]))


def write_chunk(
    path: Path, tile: tuple[int, ...], chunk: Chunk, values: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Write a chunk, then its mark, which is returned."""
    for name, value in values.items():
        block = value.reshape(*chunk.extent, *value.shape[1:])
        if chunk.extent != tile:  # at the far ends of the grid: the rest is not read
            missing = [(0, side - size) for side, size in zip(tile, chunk.extent, strict=True)]
            block = np.pad(block, [*missing, *[(0, 0)] * (value.ndim - 1)])
        key = chunk_key(chunk.corner, tile, value.ndim - 1)
        block = np.ascontiguousarray(block, value.dtype.newbyteorder("<"))
        write_atomically(path / name / key, block.data)
    note = mark(chunk.start, values["result"])
    write_mark(path, chunk.index, note)
    return note


class Writer:
    """The thread that writes chunks; leaving its context waits until all are written."""

    def __init__(self, path: Path, plan: Plan):
        self.path, self.tile = path, plan.tile
        self.chunks: queue.Queue[tuple[Chunk, dict[str, np.ndarray]] | None] = queue.Queue(_WAITING)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._write, name="sweep-writer")

    def __enter__(self) -> "Writer":
        self.thread.start()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.chunks.put(None)
        self.thread.join()
        if self.error is not None and kind is None:
            raise self.error

    def put(self, chunk: Chunk, values: dict[str, np.ndarray]) -> None:
        """Hand over a chunk; waits while two others wait."""
        if self.error is not None:
            raise self.error
        self.chunks.put((chunk, values))

    def _write(self) -> None:
        while (item := self.chunks.get()) is not None:
            if self.error is None:
                try:
                    write_chunk(self.path, self.tile, *item)
                except BaseException as error:  # raised by whoever waits
                    self.error = error
