"""The command line in a process of its own, with the time and the memory that it took."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: Where `python -m pipeline` is found.
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Child:
    """How a process of its own went: seconds by the clock and of processors, and its peak memory in bytes."""

    seconds: float
    peak: int
    processor_seconds: float


def attribeam(arguments: Sequence[str]) -> Child:
    """Runs the command line in a process of its own.

    Raises:
      RuntimeError: It failed.
    """
    with open(os.devnull, "w") as nowhere:
        start = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", "pipeline", *arguments], cwd=ROOT, stdout=nowhere, stderr=subprocess.PIPE
        )
        assert child.stderr is not None
        with child.stderr:
            said = child.stderr.read().decode("utf-8", "replace")
        _, status, usage = os.wait4(child.pid, 0)
        elapsed = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise RuntimeError(f"attribeam {arguments[0]} ended with status {child.returncode}: {said.strip()}")
    return Child(elapsed, peak_bytes(usage), usage.ru_utime + usage.ru_stime)


def peak_bytes(usage: resource.struct_rusage) -> int:
    """Largest resident memory, which Linux counts in kilobytes and macOS in bytes."""
    return usage.ru_maxrss if sys.platform == "darwin" else 1024 * usage.ru_maxrss
