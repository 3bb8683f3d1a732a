"""The progress bar on stderr: cases done, cases/s, time left, failures."""

import sys
import time
from typing import Any


class Progress:
    """A bar for people; silent where stderr is no terminal, unless it is asked for."""

    def __init__(self, num_cases: int, done: int, show: bool | None):
        self.failed, self.new, self.start = 0, 0, time.perf_counter()
        self.bar = _bar(show) if (sys.stderr.isatty() if show is None else show) else None
        if self.bar is not None:
            self.task = self.bar.add_task(
                "sweep", total=num_cases, completed=done, speed="", failures=""
            )

    def __enter__(self) -> "Progress":
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self, cases: int, failed: int) -> None:
        """Count a chunk that is solved."""
        self.new, self.failed = self.new + cases, self.failed + failed
        if self.bar is not None:
            speed = rate(self.new, time.perf_counter() - self.start)
            failures = f"[red]{self.failed:,} failed" if self.failed else ""
            self.bar.update(self.task, advance=cases, speed=speed, failures=failures)


def rate(cases: int, seconds: float) -> str:
    """Cases/s with three digits where there are fewer than a hundred."""
    per_second = cases / seconds
    return f"{per_second:{',.0f' if per_second >= 100 else '.3g'}} cases/s"


def _bar(show: bool | None) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} cases"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failures]}"),
        console=Console(stderr=True, force_terminal=True if show else None),
        redirect_stdout=False,
    )
