"""Global feature importance as a state that merges: numpy and Arrow alone, no engine and no model."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

#: (slice column, slice value, target); ("", "", t) is all rows of target t.
Key = tuple[str, str, int]
_STATS = ("mean", "m2", "abs", "low", "high", "positive")
_NULL = "null"


@dataclass
class _Moments:
    """Per feature: count, mean, Σ(φ − mean)², Σ|φ|, min, max, count above 0; float64."""

    rows: int
    mean: np.ndarray
    m2: np.ndarray
    abs: np.ndarray
    low: np.ndarray
    high: np.ndarray
    positive: np.ndarray

    def merge(self, other: _Moments) -> None:
        # Chan, Golub, LeVeque 1979: no difference of large sums, whatever the sizes of the two.
        total = self.rows + other.rows
        shift = other.mean - self.mean
        self.mean = self.mean + shift * (other.rows / total)
        self.m2 = self.m2 + other.m2 + shift**2 * (self.rows * other.rows / total)
        self.abs = self.abs + other.abs
        self.low = np.minimum(self.low, other.low)
        self.high = np.maximum(self.high, other.high)
        self.positive = self.positive + other.positive
        self.rows = total


@dataclass
class ImportanceState:
    """Aggregates of attributions by (slice, target, feature).

    Merging is associative and commutative up to float64 rounding: any order and any sharding give the same answer.
    `update` and `merge` mutate the state that they are called on and nothing else.

    Args:
      features: Names, the order of every array.
      groups: Moments by slice and target.
    """

    features: tuple[str, ...]
    groups: dict[Key, _Moments] = field(default_factory=dict)

    def update(self, values: np.ndarray, targets: np.ndarray, slices: Mapping[str, pa.Array]) -> None:
        """Adds a batch.

        Args:
          values: φ, `[features, N]` float32, N = rows · targets of each, example by example.
          targets: Output index of each, `[N]`.
          slices: Slice values as strings, `[N]`, by column.
        """
        if values.shape[1] == 0:
            return
        wide = values.astype(np.float64)
        for column in ("", *slices):
            if column:
                encoded = slices[column].dictionary_encode(null_encoding="encode")
                names = [_NULL if v is None else v for v in encoded.dictionary.to_pylist()]
                codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
            else:
                names, codes = [""], np.zeros(len(targets), np.int64)
            # One number a (slice value, target), then runs of equal numbers are reduced at once.
            width = int(targets.max()) + 1
            keys = codes * width + targets
            order = np.argsort(keys, kind="stable")
            ordered = keys[order]
            starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
            whole = wide if len(starts) == 1 else wide[:, order]
            moments = _moments(whole, starts)
            for key, found in zip(ordered[starts], moments, strict=True):
                self._add((column, names[key // width], int(key % width)), found)

    def merge(self, other: ImportanceState) -> None:
        """Adds another state, which stays as it is."""
        if other.features != self.features:
            raise ValueError(f"states of different features: {self.features} and {other.features}")
        for key, moments in other.groups.items():
            self._add(key, _Moments(moments.rows, *(getattr(moments, name).copy() for name in _STATS)))

    def _add(self, key: Key, moments: _Moments) -> None:
        if key in self.groups:
            self.groups[key].merge(moments)
        else:
            self.groups[key] = moments

    def to_table(self, target_names: Sequence[str]) -> pa.Table:
        """One row a (slice, target, feature): all rows first, then by slice; most important feature first."""
        columns: dict[str, list[object]] = {name: [] for name in TABLE.names}
        for column, value, target in sorted(self.groups, key=lambda key: (key[0] != "", key)):
            moments = self.groups[column, value, target]
            mean_abs = moments.abs / moments.rows
            total = mean_abs.sum()
            order = np.argsort(-mean_abs, kind="stable")
            for rank, index in enumerate(order, start=1):
                found = {
                    "slice": f"{column}={value}" if column else "",
                    "target": target,
                    "target_name": target_names[target],
                    "feature": self.features[index],
                    "rows": moments.rows,
                    "mean_abs": mean_abs[index],
                    "mean": moments.mean[index],
                    "std": np.sqrt(max(moments.m2[index], 0.0) / moments.rows),
                    "min": moments.low[index],
                    "max": moments.high[index],
                    "positive": moments.positive[index] / moments.rows,
                    "share": mean_abs[index] / total if total > 0 else 0.0,
                    "rank": rank,
                }
                for name, item in found.items():
                    columns[name].append(item)
        return pa.table(columns, schema=TABLE)

    def to_bytes(self) -> bytes:
        """The state as a few KB that any version of Python reads back."""
        buffer = io.BytesIO()
        arrays = {name: np.array([getattr(m, name) for m in self.groups.values()]) for name in _STATS}
        header = {
            "features": self.features,
            "keys": list(self.groups),
            "rows": [moments.rows for moments in self.groups.values()],
        }
        np.savez_compressed(buffer, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> ImportanceState:
        """Undoes `to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            stats = [arrays[name] for name in _STATS]
        state = cls(tuple(header["features"]))
        for index, (column, value, target) in enumerate(header["keys"]):
            state.groups[column, value, target] = _Moments(header["rows"][index], *(stat[index] for stat in stats))
        return state


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


def _moments(values: np.ndarray, starts: np.ndarray) -> list[_Moments]:
    """Moments of runs of columns of `values` `[F, N]`, beginning at `starts`."""
    counts = np.diff(np.r_[starts, values.shape[1]])
    mean = np.add.reduceat(values, starts, axis=1) / counts
    deviation = values - (mean if len(starts) == 1 else np.repeat(mean, counts, axis=1))
    m2 = np.add.reduceat(deviation * deviation, starts, axis=1)
    absolute = np.add.reduceat(np.abs(values), starts, axis=1)
    low, high = np.minimum.reduceat(values, starts, axis=1), np.maximum.reduceat(values, starts, axis=1)
    positive = np.add.reduceat((values > 0).astype(np.float64), starts, axis=1)
    return [
        _Moments(int(count), mean[:, i], m2[:, i], absolute[:, i], low[:, i], high[:, i], positive[:, i])
        for i, count in enumerate(counts)
    ]
