"""Global feature importance as a state that merges: numpy and Arrow alone, no engine and no model."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

#: (slicing, label of the slice, target); ("", "", t) is all rows of target t.
Key = tuple[str, str, int]
#: Mean, Σ(φ − mean)², Σ|φ|, min, max and the count above 0.
_STATS = ("mean", "m2", "absolute", "low", "high", "positive")
_BLOCK = 1 << 14


@dataclass
class _Moments:
    """Statistics of G groups: rows and weight `[G]`, the others `[G, features]` float64."""

    rows: np.ndarray
    weight: np.ndarray
    mean: np.ndarray
    m2: np.ndarray
    absolute: np.ndarray
    low: np.ndarray
    high: np.ndarray
    positive: np.ndarray

    @classmethod
    def empty(cls, groups: int, features: int) -> _Moments:
        """Groups without rows, which add nothing to others."""
        zeros = np.zeros((4, groups, features))
        infinite = np.full((groups, features), np.inf)
        return cls(
            np.zeros(groups), np.zeros(groups), zeros[0], zeros[1], zeros[2], infinite, -infinite, zeros[3]
        )

    def extended(self, groups: int) -> _Moments:
        """The same with so many groups without rows after them."""
        more = _Moments.empty(groups, self.mean.shape[1])
        return _Moments(*(np.concatenate(pair) for pair in zip(self._arrays(), more._arrays(), strict=True)))

    def add(self, at: np.ndarray, other: _Moments) -> None:
        """Adds each group of the other, which has rows, to the group of ours at its number; none twice."""
        # Chan, Golub, LeVeque 1979: no difference of large sums, whatever the sizes of the two.
        total = self.weight[at] + other.weight
        share = (other.weight / np.where(total > 0, total, 1.0))[:, None]
        shift = other.mean - self.mean[at]
        self.mean[at] += shift * share
        self.m2[at] += other.m2 + shift**2 * (self.weight[at][:, None] * share)
        self.absolute[at] += other.absolute
        self.low[at] = np.minimum(self.low[at], other.low)
        self.high[at] = np.maximum(self.high[at], other.high)
        self.positive[at] += other.positive
        self.weight[at] = total
        self.rows[at] += other.rows

    def _arrays(self) -> tuple[np.ndarray, ...]:
        return (self.rows, self.weight, *(getattr(self, name) for name in _STATS))


@dataclass
class ImportanceState:
    """Aggregates of attributions by (slice, target, feature).

    Merging is associative and commutative up to float64 rounding: any order and any sharding give the same
    answer. `update` and `merge` mutate the state that they are called on and nothing else.

    Args:
      features: Names, the order of every array.
    """

    features: tuple[str, ...]
    _numbers: dict[Key, int] = field(default_factory=dict)
    _moments: _Moments = field(default_factory=lambda: _Moments.empty(0, 0))

    def __post_init__(self) -> None:
        if not self._numbers:
            self._moments = _Moments.empty(0, len(self.features))

    @property
    def groups(self) -> tuple[Key, ...]:
        """The slices and targets that have rows."""
        return tuple(self._numbers)

    def update(
        self,
        values: np.ndarray,
        targets: np.ndarray,
        slices: Mapping[str, pa.Array],
        keys: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        """Adds a batch.

        Args:
          values: φ, `[features, N]`, N = rows · targets of each, example by example.
          targets: Output index of each, `[N]`.
          slices: The label of each one's slice, `[N]`, by slicing; null: in none.
          keys: Of the rows, `[N]` uint64.
          weights: What each counts, `[N]` float64; None: all the same.
        """
        if values.shape[1] == 0:
            return
        width = int(targets.max()) + 1
        for column in ("", *slices):
            names: list[str] = [""]
            chosen, of, mine = values, targets, weights
            # One number a (slice value, target), then runs of equal numbers are reduced at once.
            numbers = targets
            if column:
                encoded = slices[column].dictionary_encode()
                names = encoded.dictionary.to_pylist()
                inside = encoded.is_valid().to_numpy(zero_copy_only=False)
                if not inside.any():
                    continue
                if not inside.all():
                    chosen, of = values[:, inside], targets[inside]
                    mine = None if weights is None else weights[inside]
                places = encoded.indices.drop_null().to_numpy(zero_copy_only=False)
                numbers = places.astype(np.int64) * width + of
            found, counts = np.unique(numbers, return_counts=True)
            order = np.argsort(numbers, kind="stable") if len(found) > 1 else None
            groups = [(column, names[number // width], number % width) for number in found.tolist()]
            self._add(groups, _moments(chosen, order, counts, mine))

    def merge(self, other: ImportanceState) -> None:
        """Adds another state, which stays as it is."""
        if other.features != self.features:
            raise ValueError(f"states of different features: {self.features} and {other.features}")
        if other._numbers:
            self._add(list(other._numbers), other._moments)

    def _add(self, keys: Sequence[Key], moments: _Moments) -> None:
        new = [key for key in keys if key not in self._numbers]
        for key in new:
            self._numbers[key] = len(self._numbers)
        if new:
            self._moments = self._moments.extended(len(new))
        self._moments.add(np.array([self._numbers[key] for key in keys]), moments)

    def to_table(self, target_names: Sequence[str], min_rows: int = 0) -> pa.Table:
        """One row a (slice, target, feature): all rows first, then by slice; most important feature first.

        Slices of fewer than `min_rows` rows are left out, and what has no weight.
        """
        moments, features = self._moments, len(self.features)
        keys = [
            key
            for key in sorted(self._numbers)
            if moments.weight[self._numbers[key]] > 0
            and (not key[0] or moments.rows[self._numbers[key]] >= min_rows)
        ]
        at = np.array([self._numbers[key] for key in keys], np.int64)
        rows = moments.weight[at][:, None]
        mean_abs = moments.absolute[at] / rows
        total = mean_abs.sum(axis=1, keepdims=True)
        # Of two that are equally important, the first is before the second.
        order = np.argsort(-mean_abs, axis=1, kind="stable")
        stats = {
            "mean_abs": mean_abs,
            "mean": moments.mean[at],
            "std": np.sqrt(moments.m2[at] / rows),
            "min": moments.low[at],
            "max": moments.high[at],
            "positive": moments.positive[at] / rows,
            "share": mean_abs / np.where(total > 0, total, 1.0),
        }
        targets = np.repeat(np.array([target for _, _, target in keys], np.int32), features)
        columns = {
            "slice": pa.array([key[1] for key in keys], pa.string()).take(
                pa.array(np.repeat(np.arange(len(keys)), features))
            ),
            "target": targets,
            "target_name": pa.array(list(target_names), pa.string()).take(pa.array(targets)),
            "feature": pa.array(list(self.features), pa.string()).take(pa.array(order.reshape(-1))),
            "rows": np.repeat(moments.rows[at].astype(np.int64), features),
            "rank": np.tile(np.arange(1, features + 1, dtype=np.int32), len(keys)),
        }
        for name, value in stats.items():
            columns[name] = np.take_along_axis(value, order, axis=1).reshape(-1)
        return pa.table([columns[name] for name in TABLE.names], schema=TABLE)

    def to_bytes(self) -> bytes:
        """The state as a few KB that any version of Python reads back."""
        buffer = io.BytesIO()
        header = json.dumps({"features": self.features, "keys": list(self._numbers)}).encode()
        stats = {name: getattr(self._moments, name) for name in ("rows", "weight", *_STATS)}
        np.savez_compressed(buffer, header=np.frombuffer(header, np.uint8), **stats)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> ImportanceState:
        """Undoes `to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            moments = _Moments(*(arrays[name] for name in ("rows", "weight", *_STATS)))
        keys = {(column, value, target): at for at, (column, value, target) in enumerate(header["keys"])}
        return cls(tuple(header["features"]), keys, moments)


#: Quantiles and intervals are not here: no column is written before it is real.
TABLE = pa.schema(
    [
        ("slice", pa.string()),
        ("target", pa.int32()),
        ("target_name", pa.string()),
        ("feature", pa.string()),
        ("rows", pa.int64()),
        ("mean_abs", pa.float64()),
        ("mean", pa.float64()),
        ("std", pa.float64()),
        ("min", pa.float64()),
        ("max", pa.float64()),
        ("positive", pa.float64()),
        ("share", pa.float64()),
        ("rank", pa.int32()),
    ]
)


def _moments(
    values: np.ndarray, order: np.ndarray | None, counts: np.ndarray, weights: np.ndarray | None
) -> _Moments:
    """Moments of runs of so many columns each of `values` `[F, N]`, taken in this order."""
    stats = np.empty((len(_STATS), len(values), len(counts)))
    starts = np.cumsum(counts) - counts
    each = np.ones(values.shape[1]) if weights is None else weights if order is None else weights[order]
    total = np.add.reduceat(each, starts)
    some = np.where(total > 0, total, 1.0)
    # A few features at a time: what is worked on stays in the cache, which makes it three times as fast.
    step = max(1, _BLOCK // values.shape[1])
    for first in range(0, len(values), step):
        block = values[first : first + step].astype(np.float64)
        if order is not None:
            block = np.take(block, order, axis=1)
        mean, m2, absolute, low, high, positive = stats[:, first : first + step]
        np.divide(np.add.reduceat(block * each, starts, axis=1), some, out=mean)
        np.minimum.reduceat(block, starts, axis=1, out=low)
        np.maximum.reduceat(block, starts, axis=1, out=high)
        np.add.reduceat((block > 0) * each, starts, axis=1, out=positive)
        np.add.reduceat(np.abs(block) * each, starts, axis=1, out=absolute)
        block -= np.repeat(mean, counts, axis=1) if len(counts) > 1 else mean
        np.add.reduceat(np.square(block, out=block) * each, starts, axis=1, out=m2)
    return _Moments(counts.astype(np.float64), total, *stats.swapaxes(1, 2))
