"""Runs of coalitions or permutations small enough that what is held of them stays in bounds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

#: Bytes of the largest array of a block; a method holds a few such arrays at a time.
BLOCK_BYTES = 16 << 20


def blocks(count: int, bytes_each: int) -> Iterator[np.ndarray]:
    """Cuts 0 … count into runs of nearly equal length.

    Args:
      count: Of what is cut.
      bytes_each: What one of them takes; one is taken even where it exceeds the bound.
    Yields:
      Ordered indices, of at most `BLOCK_BYTES` together.
    """
    if count:
        at_once = max(1, BLOCK_BYTES // max(1, bytes_each))
        yield from np.array_split(np.arange(count), -(-count // at_once))
