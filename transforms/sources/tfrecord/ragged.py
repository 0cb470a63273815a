"""Values of rows, as many a row as there are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Ragged(NamedTuple):
    """Values of rows, and where each row's begin, `[n + 1]` int32; apart, those of the other kind."""

    values: np.ndarray
    splits: np.ndarray
    others: Ragged | None = None

    @property
    def lengths(self) -> np.ndarray:
        """Values of each row."""
        return np.diff(self.splits)

    @property
    def counts(self) -> np.ndarray:
        """The same of either kind; a row has one of them."""
        return self.lengths if self.others is None else self.lengths + self.others.lengths

    def take(self, rows: np.ndarray) -> Ragged:
        """Some of the rows, in this order."""
        lengths = self.lengths[rows]
        splits = np.r_[np.int32(0), np.cumsum(lengths, dtype=np.int32)]
        at = np.repeat(self.splits[rows] - splits[:-1], lengths) + np.arange(splits[-1])
        return Ragged(self.values[at], splits)

    def put(self, rows: np.ndarray, more: Ragged) -> Ragged:
        """The same with the values of some rows, which have none yet; none is of the other kind."""
        count = len(self.splits) - 1
        both = Ragged(
            np.concatenate([self.values, more.values]), np.r_[self.splits, more.splits[1:] + self.splits[-1]]
        )
        order = np.arange(count)
        order[rows] = count + np.arange(len(rows))
        return both.take(order)
