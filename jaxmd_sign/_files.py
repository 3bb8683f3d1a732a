"""Files that people ask for: looked at before the work, and whole when they appear."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def as_path(name: str, value: Any, what: str) -> Path:
    """`value` as a path; `what` says of what."""
    if isinstance(value, str) and not value:
        raise ValueError(f"{name} must be {what}, but is empty.")
    try:
        return Path(value)
    except TypeError:
        raise ValueError(f"{name} must be {what}, but is a {type(value).__name__}.") from None


def check_file(name: str, path: str | None, *suffixes: str) -> None:
    """`ValueError` before the work rather than after it; None is no file."""
    if path is None:
        return
    if Path(path).suffix.lower() not in suffixes:
        raise ValueError(f"{name} must end in {', '.join(suffixes)}, but is {path}.")
    file = Path(path).absolute()
    if not file.parent.is_dir():
        raise ValueError(f"{name}: the folder of {path} does not exist. Make it first.")
    if file.is_dir():
        raise ValueError(f"{name}: {path} is a folder. Give the name of a file.")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise ValueError(f"{name}: cannot write {path} ({os.strerror(errno.EACCES)}).")


def fill_folder(out: str | Path, write: Callable[[Path], None]) -> list[Path]:
    """The files that `write` puts into a folder, which is made if need be: all, or none of them."""
    folder = as_path("out", out, "the name of a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft = tempfile.TemporaryDirectory(dir=folder, prefix=".draft-")
    except OSError as error:
        raise ValueError(
            f"out: cannot write to the folder {folder} ({error.strerror}). Choose another."
        ) from None
    with draft as name:
        write(Path(name))
        written = sorted(Path(name).iterdir())
        for path in written:
            if (folder / path.name).is_dir():
                raise ValueError(f"out: {folder / path.name} is a folder. Choose another.")
        for path in written:
            os.replace(path, folder / path.name)
    return [folder / path.name for path in written]
