"""Prints the progress of a run on this machine: a bar on a terminal, otherwise plain lines."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from transforms.outputs.run_files import WORK

_TERMINAL_SECONDS = 0.25
_PLAIN_SECONDS = 5.0


class RunProgress:
    """Prints the progress of a run within a `with` block.

    Args:
      run: The run directory, which must be local.
      rows: Rows of the run.
      done: Rows that an earlier attempt finished.
    """

    def __init__(self, run: str, rows: int, done: int = 0) -> None:
        self._folder = Path(run) / WORK / "progress"
        self._rows, self._before = rows, done
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="attribeam-progress", daemon=True)
        self._start = time.monotonic()

    def __enter__(self) -> RunProgress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _count(self) -> int:
        return self._before + sum(_rows_in(path) for path in self._folder.glob("*"))

    def _watch(self) -> None:
        if sys.stderr.isatty():
            self._bar()
        else:
            self._lines()

    def _bar(self) -> None:
        columns = (
            TextColumn("explaining"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=self._rows, completed=self._before, speed="")
            while not self._stop.wait(_TERMINAL_SECONDS):
                done = self._count()
                bar.update(task, completed=done, speed=self._speed(done))

    def _lines(self) -> None:
        while not self._stop.wait(_PLAIN_SECONDS):
            done = self._count()
            share = done / self._rows if self._rows else 1.0
            print(
                f"{done:,} of {self._rows:,} rows ({share:.0%}){self._speed(done)}",
                file=sys.stderr,
                flush=True,
            )

    def _speed(self, done: int) -> str:
        rate = (done - self._before) / max(time.monotonic() - self._start, 1e-9)
        if rate <= 0:
            return ""
        left = (self._rows - done) / rate
        return f", {rate:,.0f} rows/s, {_clock(left)} left"


def _rows_in(path: Path) -> int:
    try:
        return sum(int(line) for line in path.read_text().split())
    except (FileNotFoundError, ValueError):
        return 0  # the file was deleted by the commit, or its last line is half written


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
