"""Readable edges of bins that hold about equally many values."""

from __future__ import annotations

import numpy as np

#: The share of a bin's rows that may move to its neighbour to make an edge easier to read.
_ROUNDING = 0.1


def equal_count_edges(values: np.ndarray, count: int) -> tuple[float, ...]:
    """Edges of `count` bins that hold about equally many values, written with as few digits as possible.

    Equal values are never divided, so there are fewer bins where many values are equal.

    Args:
      values: `[N]`, possibly with NaN.
      count: Number of bins.
    """
    ordered = np.sort(values[np.isfinite(values)].astype(np.float64))
    distinct, first = np.unique(ordered, return_index=True)
    if len(distinct) < 2:
        return ()
    edges: dict[int, float] = {}
    for number in range(1, count):
        # The edge is a value that occurs, other than the smallest, so that no bin is empty.
        nearest = 1 + int(np.abs(first[1:] - len(ordered) * number / count).argmin())
        edge = _short(float(distinct[nearest]), ordered, len(ordered) / count * _ROUNDING)
        below = int(np.searchsorted(ordered, edge))
        if 0 < below < len(ordered):
            edges.setdefault(below, edge)
    return tuple(sorted(edges.values()))


def _short(edge: float, ordered: np.ndarray, allowed: float) -> float:
    """The edge rounded to the fewest digits that move at most `allowed` values to another bin."""
    below = np.searchsorted(ordered, edge)
    for digits in range(17):
        short = float(f"{edge:.{digits}e}")
        moved = np.searchsorted(ordered, short)
        if abs(int(moved) - int(below)) <= allowed and 0 < moved < len(ordered):
            return short
    return edge
