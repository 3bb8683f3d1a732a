"""Run the benchmarks: `python -m benchmarks [--quick] [part ...]`, or `make benchmark`.

Everything is run by default and goes into one file of results, with a table and plots beside it,
from which the tables of README and docs are made; parts named alone are only printed. Parts of a
group share a process, so that each thing compiles once.
"""

import argparse
import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from . import machine, plots, report
from .parts import GROUPS, WHOLE_ONLY, own_group, run
from .peers._cores import close

_LONGEST = {False: 240, True: 150}  # seconds of a part, of a quick run


def main() -> None:
    """Run what was asked for."""
    names = [name for group in GROUPS for name in group]
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer cases, peers and parts")
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(names))
    asked = parser.parse_args()
    unknown = set(asked.parts) - set(names)
    if unknown:
        parser.error(f"parts: no {', '.join(map(repr, unknown))}; there are {', '.join(names)}")
    # Matrices are small, and threads of BLAS would take the cores from those who are timed.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    begin, found = time.perf_counter(), {}
    wanted = asked.parts or [name for name in names if not (asked.quick and name in WHOLE_ONLY)]
    for group in GROUPS:
        some = [name for name in group if name in wanted]
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
    left_out = [name for name, part in found.items() if "skipped" in part]
    if left_out:
        print(f"README and docs are as they were: {', '.join(left_out)} left out.")
    elif not asked.quick:
        report.update_documents()


def _in_process(names: list[str], quick: bool) -> dict[str, Any]:
    """Parts in a process of their own: what one leaves behind or breaks harms no other group.

    A part that fails, or takes too long, is left out with its reason; the others stand.
    """
    found, longest = {}, _LONGEST[quick]
    while len(found) < len(names):
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawn, initializer=own_group) as pool:
            for name in names[len(found) :]:
                print(f"{name} ...", file=sys.stderr, end="", flush=True)
                try:
                    found[name] = pool.submit(run, name, quick).result(timeout=longest)
                except TimeoutError:
                    found[name] = {"skipped": f"more than {longest} s"}
                    _end(multiprocessing.active_children())
                except Exception as reason:  # of whatever library
                    found[name] = {"skipped": f"{type(reason).__name__}: {reason}".splitlines()[0]}
                said = found[name].get("skipped") or f"{found[name]['seconds']:.0f} s"
                print(f" {said}", file=sys.stderr, flush=True)
                if "skipped" in found[name]:
                    break  # what is left of the group starts afresh
            else:
                pool.submit(close).result()
    return found


def _end(children: list[Any]) -> None:
    """With the processes that they have started."""
    for child in children:
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()


if __name__ == "__main__":
    main()
