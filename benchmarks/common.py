"""What the benchmarks share: times in turns, the machine, and the files of results."""

import argparse
import json
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxmd_sign as jms
from jaxmd_sign._sweep._devices import num_cores

RESULTS = Path(__file__).parent / "results"


def timed(*functions: Callable[[], Any], repeats: int = 5) -> list[dict[str, float]]:
    """Seconds of each, in turns; the first call of each (compilation) apart."""
    first, seconds = [], [[] for _ in functions]
    for function in functions:
        first.append(_seconds(function))
    for _ in range(repeats):
        for function, taken in zip(functions, seconds, strict=True):
            taken.append(_seconds(function))
    return [
        {"first": one, "median": float(np.median(all_)), "least": min(all_), "most": max(all_)}
        for one, all_ in zip(first, seconds, strict=True)
    ]


def _seconds(function: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def spread(record: dict[str, float]) -> str:
    """A median with its least and most."""
    return f"{record['median']:.3g} ({record['least']:.3g}–{record['most']:.3g})"


def device() -> dict[str, Any]:
    """The machine and the versions."""
    import diffrax

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith("flags")), "")
        model = next((line for line in lines if line.startswith("model name")), ": " + cpu)
        widest = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
        cpu = f"{model.split(':')[1].strip()}, {widest}"
    kind = jax.devices()[0].device_kind
    versions = {"jax": jax.__version__, "diffrax": diffrax.__version__, "numpy": np.__version__}
    return {
        "device": cpu if kind == "cpu" else kind,
        "cores": num_cores(),
        "python": platform.python_version(),
        "versions": versions | {"jaxmd_sign": jms.__version__},
    }


def is_quick(text: str | None) -> bool:
    """Whether `--quick` was asked for, by the words of a script; sets JAX's 64-bit mode."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--quick", action="store_true", help="fewer cases")
    quick = parser.parse_args().quick
    jax.config.update("jax_enable_x64", True)
    return quick


def write(name: str, results: dict[str, Any], table: str, quick: bool) -> None:
    """Print the table and keep it and the results, with date, device and versions."""
    print(table)
    results = {"date": date.today().isoformat(), **device()} | results
    RESULTS.mkdir(exist_ok=True)
    kind = f"{jax.devices()[0].platform}-{results['cores']}-cores{'-quick' * quick}"
    path = RESULTS / f"{results['date']}-{name}-{kind}"
    text = json.dumps(results, indent=1, ensure_ascii=False)
    path.with_name(path.name + ".json").write_text(text + "\n", "utf-8")
    path.with_name(path.name + ".md").write_text(table, "utf-8")
