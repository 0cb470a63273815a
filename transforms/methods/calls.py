"""Device calls: cutting a method's rows into them, and keeping several in flight."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import numpy as np

Part = TypeVar("Part")
Found = tuple[dict[str, np.ndarray], ...]

#: Calls that a batch is cut into at least, provided that each has enough rows.
_LEAST_CALLS = 4
_LEAST_ROWS = 1024


def device_calls(rows: int, rows_per_call: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Cuts rows into device calls of few static shapes.

    Full calls have `rows_per_call` rows; the rest is padded to a power of two by repeating its last row.

    Yields:
      The rows of the call and the row indices, padding included, to send.
    """
    for start in range(0, rows, rows_per_call):
        stop = min(start + rows_per_call, rows)
        size = stop - start
        padded = rows_per_call if size == rows_per_call else min(rows_per_call, 1 << (size - 1).bit_length())
        index = np.minimum(np.arange(start, start + padded), stop - 1)
        yield slice(start, stop), index


def rows_in_call(rows: int, rows_per_call: int) -> int:
    """The number of rows for each device call, at most `rows_per_call`."""
    return min(rows_per_call, max(-(-rows // _LEAST_CALLS), min(rows_per_call, _LEAST_ROWS)))


def run_calls(rows: int, rows_per_call: int, call: Callable[[np.ndarray], Found]) -> Found:
    """Runs a function on the rows of each device call, several calls at a time.

    The Python overhead of one call overlaps with the arithmetic of another. On two processors this saves a
    quarter to a half of the time, and changes no number.

    Args:
      rows: Number of rows, at least 1.
      rows_per_call: Most rows in a call.
      call: Takes row indices, padding included, and returns arrays with one entry per index.
    Returns:
      The results of the calls, without the padding, joined in the rows' order.
    """

    def cut_back(part: tuple[slice, np.ndarray]) -> Found:
        size = part[0].stop - part[0].start
        return tuple({k: v[:size] for k, v in found.items()} for found in call(part[1]))

    # The cut does not depend on the number of processors, so that every machine computes the same bits.
    parts = list(device_calls(rows, rows_in_call(rows, rows_per_call)))
    done = [cut_back(parts[0])] if len(parts) == 1 else list(_pool().map(cut_back, parts))
    return tuple(
        {name: _joined([part[i][name] for part in done]) for name in found} for i, found in enumerate(done[0])
    )


def in_flight(parts: Sequence[Part], call: Callable[[Part], None]) -> None:
    """Runs a function on each part, several at a time; the function stores its results itself."""
    if len(parts) == 1:
        call(parts[0])
        return
    for _ in _pool().map(call, parts):
        pass  # raises the error of a part


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


@cache
def _pool() -> ThreadPoolExecutor:
    # One thread more than processors: while one call is in Python, the others compute.
    return ThreadPoolExecutor(processors() + 1, thread_name_prefix="attribeam-device")


_share: list[int] = []


def share_processors(count: int) -> None:
    """Sets how many processors this process may use beside others; to be called before the first call."""
    _share[:] = [count]


def processors() -> int:
    """The number of processors that this process may use."""
    return _share[0] if _share else os.cpu_count() or 1
