"""Choice of bin edges that put about equally many values in each bin, and have few digits."""

from __future__ import annotations

import numpy as np

#: The share of a bin's values that may move to the neighbouring bin to make an edge easier to read.
_ROUNDING = 0.1


def equal_count_edges(values: np.ndarray, count: int) -> tuple[float, ...]:
    """Increasing edges, with few digits, of `count` bins that hold about equally many values each.

    Equal values are always in the same bin, so that there may be fewer bins if many values are equal. Without
    two distinct values there are no edges.

    Args:
      values: Values to divide into bins, `[N]`; NaN and infinity are ignored.
      count: Number of bins.
    """
    ordered = np.sort(values[np.isfinite(values)].astype(np.float64))
    distinct, first = np.unique(ordered, return_index=True)
    if len(distinct) < 2:
        return ()
    edges: dict[int, float] = {}
    for number in range(1, count):
        # Before rounding, the edge is one of the values, but not the smallest, so that no bin is empty.
        nearest = 1 + int(np.abs(first[1:] - len(ordered) * number / count).argmin())
        edge = _short(float(distinct[nearest]), ordered, len(ordered) / count * _ROUNDING)
        below = int(np.searchsorted(ordered, edge))
        if 0 < below < len(ordered):
            edges.setdefault(below, edge)
    return tuple(sorted(edges.values()))


def _short(edge: float, ordered: np.ndarray, allowed: float) -> float:
    """The edge rounded to as few digits as possible, such that at most `allowed` values change their bin."""
    below = np.searchsorted(ordered, edge)
    for digits in range(17):
        short = float(f"{edge:.{digits}e}")
        moved = np.searchsorted(ordered, short)
        if abs(int(moved) - int(below)) <= allowed and 0 < moved < len(ordered):
            return short
    return edge
