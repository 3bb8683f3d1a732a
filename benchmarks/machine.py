"""The machine, and the versions of everything that is timed."""

import importlib.metadata
import platform
import re
from datetime import date
from pathlib import Path
from typing import Any

import jax

from .peers._cores import num_cores

_PACKAGES = (
    "jaxmd-sign", "jax", "jaxlib", "diffrax", "numpy", "scipy", "numba", "llvmlite", "numbalsoda",
    "heyoka", "scikit-sundae", "pydiffsol", "torch", "torchdiffeq",
)  # fmt: skip


def description() -> dict[str, Any]:
    """Date, device, cores, Python, versions."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": date.today().isoformat(),
        "device": _device(),
        "cores": num_cores(),
        "python": platform.python_version(),
        "versions": versions,
    }


def slug(description: dict[str, Any]) -> str:
    """For file names: the device and its cores."""
    words = re.sub(r"\([^)]*\)|@|processor|cpu", " ", description["device"].lower())
    return "-".join([*re.findall(r"[a-z0-9.]+", words), f"{description['cores']}-cores"])


def _device() -> str:
    kind = jax.devices()[0].device_kind
    if kind != "cpu":
        return kind
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    text = info.read_text()
    model = re.search(r"model name\s*: (.*)", text)
    widest = "AVX-512" if "avx512f" in text else "AVX2" if "avx2" in text else "no AVX2"
    return f"{' '.join(model[1].split()) if model else platform.machine()}, {widest}"
