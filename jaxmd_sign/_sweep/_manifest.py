"""The books of a store: a manifest, and a mark for each chunk that is done. Plain JSON, no JAX.

They lie in `.sweep/` inside the store. Every file is written beside its place and then moved there,
so that a process killed at any moment leaves the old file or the new one.
"""

import hashlib
import json
import os
import threading
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ._variables import CODES, name_of

_BOOKS = ".sweep"


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that it is there in full or not at all."""
    beside = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        file = beside.open("wb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = beside.open("wb")
    with file:
        file.write(content)
    beside.replace(path)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(value, ensure_ascii=False, indent=1).encode())


def write_manifest(store: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a store."""
    _write_json(store / _BOOKS / "manifest.json", manifest)


def read_manifest(store: Path) -> dict[str, Any]:
    """The manifest of a store; `ValueError` where there is none."""
    try:
        return json.loads((store / _BOOKS / "manifest.json").read_text("utf-8"))
    except FileNotFoundError:
        what = "is not a store of sweep" if store.exists() else "does not exist"
        raise ValueError(
            f"{store}: {what}. Give the path of a store that sweep wrote, or, to write one, a new "
            "path."
        ) from None
    except NotADirectoryError:
        raise ValueError(f"{store}: is a file, not a store. Give another path.") from None


def mark(start: int, codes: Any) -> dict[str, Any]:
    """What is noted of a chunk whose first case is `start`, from its result codes (an array)."""
    (places,) = codes.nonzero()
    failed = [name_of(code) for code in codes[places].tolist()]
    return {
        "cases": len(codes),
        "failed": {name: failed.count(name) for name in CODES if name in failed},
        "first": [start + int(places[0]), failed[0]] if failed else None,
    }


def write_mark(store: Path, index: int, mark: dict[str, Any]) -> None:
    """Note that a chunk is done: after its data is written."""
    _write_json(store / _BOOKS / "done" / f"{index}.json", mark)


def read_marks(store: Path) -> dict[int, dict[str, Any]]:
    """The marks of all chunks that are done; one that cannot be read is none."""
    marks = {}
    for path in (store / _BOOKS / "done").glob("*.json"):
        with suppress(ValueError):
            marks[int(path.stem)] = json.loads(path.read_text("utf-8"))
    return marks


def total(marks: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The marks of several chunks as one."""
    cases, failed, firsts = 0, dict.fromkeys(CODES, 0), []
    for one in marks:
        cases += one["cases"]
        for name, count in one["failed"].items():
            failed[name] += count
        if one["first"] is not None:
            firsts.append(one["first"])
    counts = {name: count for name, count in failed.items() if count}
    return {"cases": cases, "failed": counts, "first": min(firsts, default=None)}


def new_token(store: Path) -> str:
    """Leave a word in a store, by which others know that they see the same one."""
    token = uuid.uuid4().hex
    write_atomically(store / _BOOKS / "token", token.encode())
    return token


def has_token(store: Path, token: str) -> bool:
    """Whether that word is in the store at this path."""
    try:
        return (store / _BOOKS / "token").read_text() == token
    except OSError:
        return False


def digest(*parts: bytes | memoryview) -> str:
    """A short fingerprint."""
    fingerprint = hashlib.sha256()
    for part in parts:
        fingerprint.update(part)
    return fingerprint.hexdigest()[:16]


def fingerprint(identity: dict[str, Any]) -> str:
    """The hash of what decides the numbers of a store."""
    return digest(json.dumps(identity, sort_keys=True).encode())


def refuse_other(store: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """`ValueError` naming what differs between the identity of a store and that of a sweep."""
    if fingerprint(old) == fingerprint(new):
        return
    changes = []
    for name in {**old, **new}:
        if old.get(name) != new.get(name):
            before, now = in_words(name, old.get(name)), in_words(name, new.get(name))
            changes.append(f"{name} was {before}, now is {'other' if now == before else now}")
    raise ValueError(
        f"store {store} was made with other settings: {'; '.join(changes)}. Go back to those, or "
        "give another path."
    )


def in_words(name: str, value: Any) -> str:
    """An entry of the identity for people to read."""
    if name == "problem":
        kind = "block-diagonal X" if value["blocks"] else "general X"
        several = f"{value['problems']:,} problems, each " if value["problems"] > 1 else ""
        return f"{several}{kind} ({value['examples']:,} × {value['features']:,})"
    if name in ("epsilon", "alpha"):
        if value["values"] == 1:
            return f"{value['from']:g}"
        return f"{value['values']:,} values from {value['from']:g} to {value['to']:g}"
    return ", ".join(value) if isinstance(value, list) else str(value)
