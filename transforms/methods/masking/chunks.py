"""Division of coalitions or permutations into blocks whose arrays stay within a memory bound."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

#: Bytes of the largest array of a block; a method holds a few such arrays at a time.
BLOCK_BYTES = 16 << 20


def blocks(count: int, bytes_each: int) -> Iterator[np.ndarray]:
    """Cuts 0 … count into runs of nearly equal length.

    Args:
      count: Number of items.
      bytes_each: Bytes of an item; a block has one item even if that exceeds the bound.
    Yields:
      Ordered indices of items that take at most `BLOCK_BYTES` together.
    """
    if count:
        at_once = max(1, BLOCK_BYTES // max(1, bytes_each))
        yield from np.array_split(np.arange(count), -(-count // at_once))
