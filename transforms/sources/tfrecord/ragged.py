"""Ragged arrays: rows with different numbers of values."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Ragged(NamedTuple):
    """The values of n rows, one after another.

    Args:
      values: The values of all rows.
      splits: Where each row's values begin and the last ones end, `[n + 1]` int32.
      others: Values of the other kind of number, for rows that have those instead; None: no row has.
    """

    values: np.ndarray
    splits: np.ndarray
    others: Ragged | None = None

    @property
    def lengths(self) -> np.ndarray:
        """The number of values in each row, without `others`."""
        return np.diff(self.splits)

    @property
    def counts(self) -> np.ndarray:
        """The number of values in each row, of either kind."""
        return self.lengths if self.others is None else self.lengths + self.others.lengths

    def take(self, rows: np.ndarray) -> Ragged:
        """The given rows, in this order."""
        lengths = self.lengths[rows]
        splits = np.r_[np.int32(0), np.cumsum(lengths, dtype=np.int32)]
        at = np.repeat(self.splits[rows] - splits[:-1], lengths) + np.arange(splits[-1])
        return Ragged(self.values[at], splits)

    def put(self, rows: np.ndarray, more: Ragged) -> Ragged:
        """A copy with values for some rows that have none yet; there must be no `others`."""
        count = len(self.splits) - 1
        both = Ragged(
            np.concatenate([self.values, more.values]), np.r_[self.splits, more.splits[1:] + self.splits[-1]]
        )
        order = np.arange(count)
        order[rows] = count + np.arange(len(rows))
        return both.take(order)
