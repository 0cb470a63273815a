"""The state of groups of entries, by feature, in arrays that grow and can be added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from transforms.aggregates.importance.moments import HIGHER, Moments
from transforms.aggregates.importance.quantiles import Coded, Grid, coarser, raised

#: (slicing, label of the slice, target); ("", "", t) is all rows of target t.
Key = tuple[str, str, int]
#: Number of the finest buckets of rows; coarser resolutions merge them.
_MOST_ROW_BUCKETS = 256
#: Largest count for which counts are uint32.
_MOST_COUNTED = 2**32 - 1
_BLOCK = 1 << 15


@dataclass(frozen=True)
class Resolution:
    """The resolution at which groups are kept.

    Args:
      grid: The buckets for quantiles, which are then within 2^-(bits + 1) of their value, and within
        2^-(octaves − 1) of the feature's largest |φ|.
      row_buckets: Number of buckets to which rows are dealt, for the intervals of ranks; a power of two.
    """

    grid: Grid
    row_buckets: int

    def bytes(self, groups: int, features: int, *, weighted: bool) -> int:
        """Memory of this number of groups and features."""
        each = self.grid.buckets * (8 if weighted else 4) + 8 * self.row_buckets + 8 * 8
        each += 8 * len(HIGHER) * weighted
        return groups * (features * each + 8 * self.row_buckets + 5 * 8)


#: Resolutions by the largest number of cells, groups times features, for which each is used. Each can be
#: folded from the one before it, so it does not matter when a state grew. Bits are given up before octaves,
#: because a coarse quantile is of more use than a small value counted as 0.
Resolutions = tuple[tuple[int, Resolution], ...]
WHOLE: Resolutions = (
    (1 << 11, Resolution(Grid(32, 6), 256)),
    (1 << 12, Resolution(Grid(32, 5), 256)),
    (1 << 14, Resolution(Grid(32, 4), 64)),
    (1 << 16, Resolution(Grid(32, 2), 32)),
    (1 << 62, Resolution(Grid(16, 1), 16)),
)
SLICES: Resolutions = (
    (1 << 10, Resolution(Grid(32, 5), 32)),
    (1 << 13, Resolution(Grid(32, 4), 32)),
    (1 << 14, Resolution(Grid(32, 3), 32)),
    (1 << 15, Resolution(Grid(32, 2), 32)),
    (1 << 17, Resolution(Grid(32, 1), 16)),
    (1 << 62, Resolution(Grid(16, 0), 8)),
)


def resolution(steps: Resolutions, cells: int) -> Resolution:
    """The resolution for a number of cells, groups times features."""
    return next(step for most, step in steps if cells <= most)


def state_bytes(features: int, targets: int, slices: int, *, weighted: bool) -> int:
    """The most memory that a state takes; space reserved for later groups is not touched before they come.

    Args:
      features: Number of features in the tables.
      targets: Number of targets that are explained.
      slices: Number of labels of all slicings together.
      weighted: Whether rows have weights.
    """
    total = 0
    for steps, groups in ((WHOLE, targets), (SLICES, targets * slices)):
        cells = groups * features
        # The state is largest at the end of some step, not necessarily of the last one.
        sizes = [(most // features, kept) for most, kept in steps if most < cells]
        sizes.append((groups, resolution(steps, cells)))
        total += max(kept.bytes(count, features, weighted=weighted) for count, kept in sizes)
    return total


class Groups:
    """Moments, buckets of values and buckets of rows of G groups.

    The arrays have space for more groups than there are; their first G entries are in use.

    Args:
      features: Number of features.
      steps: Resolutions by the number of cells.
    """

    def __init__(self, features: int, steps: Resolutions) -> None:
        self.features = features
        self.numbers: dict[Key, int] = {}
        self._steps = steps
        self.resolution = steps[0][1]
        self._room = Moments.empty(0, features, weighted=False)
        self._counts = np.zeros((0, features, self.resolution.grid.buckets), np.uint32)
        self._weights = np.zeros((0, self.resolution.row_buckets))
        self._sums = np.zeros((0, features, self.resolution.row_buckets))

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def moments(self) -> Moments:
        """Moments of the groups, in the order of their numbers."""
        return self._room.at(np.arange(len(self)))

    @property
    def counts(self) -> np.ndarray:
        """Weight by bucket of values, `[G, features, buckets]`."""
        return self._counts[: len(self)]

    @property
    def row_weights(self) -> np.ndarray:
        """Σw by bucket of rows, `[G, row buckets]`."""
        return self._weights[: len(self)]

    @property
    def row_sums(self) -> np.ndarray:
        """Σw|φ| by bucket of rows, `[G, features, row buckets]`."""
        return self._sums[: len(self)]

    def locate(self, keys: Sequence[Key]) -> np.ndarray:
        """The numbers of groups by their keys; new groups are added."""
        for key in keys:
            self.numbers.setdefault(key, len(self.numbers))
        self._coarsen(resolution(self._steps, len(self) * self.features))
        room = len(self._weights)
        if len(self) > room:
            more = max(len(self), 2 * room) - room
            self._room = self._room.extended(more)
            self._counts, self._weights, self._sums = (
                _extended(array, more) for array in (self._counts, self._weights, self._sums)
            )
        return np.array([self.numbers[key] for key in keys], np.int64)

    def raise_tops(self, octaves: np.ndarray) -> None:
        """Moves the buckets of features whose largest |φ| has grown, by octaves `[features]`."""
        for feature in np.flatnonzero(octaves) if len(self) else ():
            raised(self.counts[:, feature], int(octaves[feature]), self.resolution.grid)

    def weigh(self) -> None:
        """Prepares the counts for weights that are not whole numbers."""
        if self._counts.dtype != np.float64:
            self._counts = self._counts.astype(np.float64)

    def add_entries(
        self,
        at: np.ndarray,
        values: np.ndarray,
        coded: Coded,
        chosen: np.ndarray | None,
        rows: np.ndarray,
        weights: np.ndarray | None,
    ) -> None:
        """Counts entries by buckets.

        Args:
          at: The number of the group of each chosen entry, `[n]`.
          values: φ of all entries, `[features, N]`.
          coded: The buckets of these values.
          chosen: Positions of the entries to count, `[n]`; None: all.
          rows: The finest bucket of each chosen entry's row, `[n]`.
          weights: The weight of each chosen entry, above 0, `[n]`; None: 1.
        Cost: 3 to 4 ns per value.
        """
        # `counts` is [G, features, buckets] and `sums` is [G, features, row buckets], both flattened. An
        # entry of group g, feature f, bucket b and row bucket r adds its weight to counts[g, f, b] and its
        # weighted |φ| to sums[g, f, r]. `bucket_at` [n] and `row_at` [n] are the parts of the flat indices
        # that do not depend on f; `numbers` [features, N] is f · buckets + b.
        kept, features = self.resolution, self.features
        if weights is not None or self._room.rows.sum() > _MOST_COUNTED:
            self.weigh()
        counts, sums = self._counts.reshape(-1), self._sums.reshape(-1)
        numbers = coded.buckets(kept.grid)
        rows = rows // (_MOST_ROW_BUCKETS // kept.row_buckets)
        where = at * kept.row_buckets + rows
        np.add.at(self._weights.reshape(-1), where, np.ones(len(at)) if weights is None else weights)
        bucket_at = at * (features * kept.grid.buckets)
        row_at = at * (features * kept.row_buckets) + rows
        one = self._counts.dtype.type(1)
        # As many features at a time as fit in the cache; np.add.at is fast for a flat index and equal types.
        step = max(1, _BLOCK // len(at))
        for first in range(0, features, step):
            part = slice(first, first + step)
            index, sizes = numbers[part], np.abs(values[part])
            if chosen is not None:
                index, sizes = index.take(chosen, axis=1), sizes.take(chosen, axis=1)
            sizes = sizes.astype(np.float64)
            where = np.add(index, bucket_at, dtype=np.intp).reshape(-1)
            if weights is None:
                np.add.at(counts, where, one)
            else:
                sizes *= weights
                np.add.at(counts, where, np.broadcast_to(weights, index.shape).reshape(-1))
            firsts = kept.row_buckets * np.arange(first, first + len(sizes))
            np.add.at(sums, (firsts[:, None] + row_at).reshape(-1), sizes.reshape(-1))

    def count_rows(self, at: np.ndarray, rows: np.ndarray) -> None:
        """Counts rows of no weight in groups, given by distinct numbers."""
        self._room.rows[at] += rows

    def add_moments(self, at: np.ndarray, moments: Moments) -> None:
        """Adds moments to groups, given by distinct numbers."""
        self._room.add(at, moments)

    def add(self, other: Groups, octaves: np.ndarray) -> None:
        """Adds other groups, whose tops are `octaves` `[features]` below ours, without changing them."""
        if not len(other):
            return
        at = self.locate(list(other.numbers))
        counts, weights, sums = other.counts, other.row_weights, other.row_sums
        if counts.dtype == np.float64 or self._room.rows.sum() + other._room.rows.sum() > _MOST_COUNTED:
            self.weigh()
        if other.resolution != self.resolution:
            counts, weights, sums = _coarsened(counts, weights, sums, other.resolution, self.resolution)
        self.add_moments(at, other.moments)
        self._weights[at] += weights
        self._sums[at] += sums
        lower = np.flatnonzero(octaves)
        if not len(lower):
            self._counts[at] += counts.astype(self._counts.dtype, copy=False)
            return
        same = np.flatnonzero(octaves == 0)
        self._counts[at[:, None], same] += counts[:, same].astype(self._counts.dtype, copy=False)
        for feature in lower:
            moved = counts[:, feature].astype(self._counts.dtype)
            raised(moved, int(octaves[feature]), self.resolution.grid)
            self._counts[at, feature] += moved

    def _coarsen(self, wanted: Resolution) -> None:
        if wanted != self.resolution:
            arrays = (self._counts, self._weights, self._sums)
            self._counts, self._weights, self._sums = _coarsened(*arrays, self.resolution, wanted)
            self.resolution = wanted

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The arrays that `from_arrays` needs besides the keys."""
        held = {"counts": self.counts, "row_weights": self.row_weights, "row_sums": self.row_sums}
        return {**held, **self.moments.arrays()}

    @classmethod
    def from_arrays(
        cls, features: int, steps: Resolutions, keys: Sequence[Key], arrays: Mapping[str, np.ndarray]
    ) -> Groups:
        """Undoes `to_arrays`."""
        groups = cls(features, steps)
        groups.numbers = {key: number for number, key in enumerate(keys)}
        groups.resolution = resolution(steps, len(keys) * features)
        held = dict(arrays)
        groups._counts, groups._weights = held.pop("counts"), held.pop("row_weights")
        groups._sums = held.pop("row_sums")
        groups._room = Moments(**held)
        return groups


def _extended(array: np.ndarray, more: int) -> np.ndarray:
    extended = np.zeros((len(array) + more, *array.shape[1:]), array.dtype)
    extended[: len(array)] = array
    return extended


def _coarsened(
    counts: np.ndarray, weights: np.ndarray, sums: np.ndarray, old: Resolution, new: Resolution
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    folds = old.row_buckets // new.row_buckets
    weights = weights.reshape(len(weights), new.row_buckets, folds).sum(axis=-1)
    sums = sums.reshape(*sums.shape[:2], new.row_buckets, folds).sum(axis=-1)
    return coarser(counts, old.grid, new.grid), weights, sums
