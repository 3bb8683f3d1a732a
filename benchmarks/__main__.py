"""Run the benchmarks: `python -m benchmarks [--quick] [part ...]`, or `make benchmark`.

Everything is run by default and goes into one file of results, with a table and plots beside it,
from which the tables of README and docs are made; parts named alone are only printed. Parts of a
group share a process, so that each thing compiles once.
"""

import argparse
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from . import machine, plots, report
from .parts import GROUPS, run
from .peers._cores import close


def main() -> None:
    """Run what was asked for."""
    names = [name for group in GROUPS for name in group]
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer cases, in under 3 minutes")
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(names))
    asked = parser.parse_args()
    unknown = set(asked.parts) - set(names)
    if unknown:
        parser.error(f"parts: no {', '.join(map(repr, unknown))}; there are {', '.join(names)}")
    # Matrices are small, and threads of BLAS would take the cores from those who are timed.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    begin, found = time.perf_counter(), {}
    for group in GROUPS:
        some = [name for name in group if not asked.parts or name in asked.parts]
        if some:
            found |= _in_process(some, asked.quick)
    results = {**machine.description(), "quick": asked.quick, "parts": found}
    results["seconds"] = time.perf_counter() - begin
    if asked.parts:
        print(report.markdown(results))
        return
    path = report.write(results)
    plots.draw(results, path.with_suffix(".png"))
    print(f"{path}, its table and plots; {results['seconds']:.0f} s")
    if not asked.quick:
        report.update_documents()


def _in_process(names: list[str], quick: bool) -> dict[str, Any]:
    """Parts in a process of their own: what one leaves behind or breaks harms no other group."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = {}
        for name in names:
            print(f"{name} ...", file=sys.stderr, end="", flush=True)
            found[name] = pool.submit(run, name, quick).result()
            print(f" {found[name]['seconds']:.0f} s", file=sys.stderr, flush=True)
        pool.submit(close).result()
        return found


if __name__ == "__main__":
    main()
