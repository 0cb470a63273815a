"""Edges of bins that hold equally many values, and that people can read."""

from __future__ import annotations

import numpy as np

#: Of a bin's rows, how many may be in its neighbour for the sake of an edge that is easier to read.
_ROUNDING = 0.1


def equal_count_edges(values: np.ndarray, count: int) -> tuple[float, ...]:
    """Edges of `count` bins that hold about equally many values, as short as they can be written for that.

    Where many values are equal there are fewer bins: equal ones are never divided.

    Args:
      values: `[N]`, any of which may be NaN.
      count: How many bins.
    """
    ordered = np.sort(values[np.isfinite(values)].astype(np.float64))
    distinct, first = np.unique(ordered, return_index=True)
    if len(distinct) < 2:
        return ()
    edges: dict[int, float] = {}
    for number in range(1, count):
        # A bin begins with a value that occurs, and none is empty.
        at = 1 + int(np.abs(first[1:] - len(ordered) * number / count).argmin())
        edge = _short(float(distinct[at]), ordered, len(ordered) / count * _ROUNDING)
        below = int(np.searchsorted(ordered, edge))
        if 0 < below < len(ordered):
            edges.setdefault(below, edge)
    return tuple(sorted(edges.values()))


def _short(edge: float, ordered: np.ndarray, allowed: float) -> float:
    """The edge in as few digits as keep all but so many values in their bins."""
    below = np.searchsorted(ordered, edge)
    for digits in range(17):
        short = float(f"{edge:.{digits}e}")
        moved = np.searchsorted(ordered, short)
        if abs(int(moved) - int(below)) <= allowed and 0 < moved < len(ordered):
            return short
    return edge
