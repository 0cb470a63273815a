"""The importance of a shard or a run, as a mergeable state."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from transforms.aggregates.importance.groups import SLICES, WHOLE, Groups, Key, Resolutions
from transforms.aggregates.importance.moments import moments_of
from transforms.aggregates.importance.quantiles import OCTAVES, Coded, tops_of
from transforms.aggregates.importance.table import TABLE, WEIGHTED, table_of
from transforms.numerics.random import stream

_STEPS: dict[str, Resolutions] = {"whole": WHOLE, "slices": SLICES}
#: The stream of a row's random numbers that decides its bucket.
_STREAM = 0x1B007
_BITS_OF_BUCKETS = 8
_ZSTD = "zstd"


@dataclass
class ImportanceState:
    """Aggregates of attributions by (slice, target, feature), whose size does not depend on the rows.

    Merging is associative and commutative: any order and any sharding give the same counts, and the same sums
    up to float64 rounding. `update` and `merge` mutate only the state that they are called on.

    Args:
      features: Names of the features, in the order of every array.
    """

    features: tuple[str, ...]
    _tops: np.ndarray = field(init=False)
    _parts: dict[str, Groups] = field(init=False)

    def __post_init__(self) -> None:
        self._tops = np.full(len(self.features), OCTAVES, np.int32)
        self._parts = {name: Groups(len(self.features), steps) for name, steps in _STEPS.items()}

    @property
    def groups(self) -> tuple[Key, ...]:
        """The slicings, slices and targets that have rows."""
        return tuple(key for part in self._parts.values() for key in part.numbers)

    def update(
        self,
        values: np.ndarray,
        targets: np.ndarray,
        slices: Mapping[str, pa.Array],
        keys: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> None:
        """Adds a batch.

        Args:
          values: φ, `[features, N]` float32, finite; N = rows · targets of each, example by example.
          targets: Output index of each, `[N]`.
          slices: By slicing, the label of each entry's slice, strings `[N]`, plain or dictionary-encoded;
            null for none.
          keys: Key of each entry's row, from `row_keys`, `[N]` uint64.
          weights: Weight of each entry, `[N]`, at least 0; None: all are 1. A slice whose weights sum to 0
            has no mean: it is counted but not written.
        Raises:
          ValueError: Some entries of the state have weights and some do not.
        Cost: 6 to 8 ns per value for all rows and again for each slicing, whatever the number of slices; half
          as much again with weights, and more where slices have very few rows each.
        """
        if values.shape[1] == 0:
            return
        values = np.ascontiguousarray(values, np.float32)
        # Entries without weight are in no bucket, and must not affect the range of the buckets.
        weighty = slice(None) if weights is None or (weights > 0).all() else weights > 0
        self._raise(tops_of(values[:, weighty]))
        coded = Coded(values, self._tops)
        rows = (stream(keys, _STREAM) >> np.uint64(64 - _BITS_OF_BUCKETS)).astype(np.int64)
        batch = _Batch(values, coded, rows, None if weights is None else np.asarray(weights, np.float64))
        width = int(targets.max()) + 1
        _add(self._parts["whole"], batch, targets.astype(np.int64), "", [""], width)
        for slicing, labels in slices.items():
            codes, names = _numbered(labels)
            numbers = np.where(codes < 0, -1, codes * width + targets)
            _add(self._parts["slices"], batch, numbers, slicing, names, width)

    def merge(self, other: ImportanceState) -> None:
        """Adds another state, without changing it."""
        if other.features != self.features:
            raise ValueError(f"states of different features: {self.features} and {other.features}")
        self._raise(other._tops)
        for name, part in self._parts.items():
            part.add(other._parts[name], self._tops - other._tops)

    def _raise(self, tops: np.ndarray) -> None:
        grown = np.maximum(self._tops, tops)
        for part in self._parts.values():
            part.raise_tops(grown - self._tops)
        self._tops = grown

    @property
    def held_bytes(self) -> int:
        """Approximate memory of all groups."""
        return sum(
            part.resolution.bytes(len(part.numbers), len(self.features), weighted=False)
            for part in self._parts.values()
        )

    def to_table(self, target_names: Sequence[str], min_rows: int = 0, *, weighted: bool = False) -> pa.Table:
        """The importance in the schema `TABLE`.

        All rows come first, then slices by slicing and label, then targets, then features, the most important
        first. Numbers in labels are sorted by value: month=2 comes before month=10.

        Args:
          target_names: Name of each target.
          min_rows: Slices with fewer rows are left out, whatever their weight.
          weighted: Whether rows have weights; the schema is then `WEIGHTED`.
        """
        parts = (("whole", 0), ("slices", min_rows))
        schema = WEIGHTED if weighted else TABLE
        tables = [
            table_of(self.features, target_names, self._parts[name], self._tops, least, schema)
            for name, least in parts
        ]
        return pa.concat_tables(tables).combine_chunks()

    def to_bytes(self) -> bytes:
        """Encodes the state, compressed, for any version of Python; equal states give equal bytes."""
        header: dict[str, Any] = {"features": self.features, "tops": self._tops.tolist(), "parts": {}}
        data = []
        for name, part in self._parts.items():
            layouts = []
            for kind, array in part.to_arrays().items():
                stored = _narrow(array)
                layouts.append([kind, array.dtype.str, stored.dtype.str, array.shape])
                data.append(stored.tobytes())
            header["parts"][name] = {"keys": list(part.numbers), "arrays": layouts}
        head = json.dumps(header).encode()
        whole = b"".join([len(head).to_bytes(8, "little"), head, *data])
        return len(whole).to_bytes(8, "little") + bytes(pa.compress(whole, codec=_ZSTD, asbytes=True))

    @classmethod
    def from_bytes(cls, data: bytes) -> ImportanceState:
        """Undoes `to_bytes`."""
        size = int.from_bytes(data[:8], "little")
        whole = pa.decompress(data[8:], decompressed_size=size, codec=_ZSTD, asbytes=True)
        begin = 8 + int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8:begin])
        state = cls(tuple(header["features"]))
        state._tops = np.array(header["tops"], np.int32)
        for name, layout in header["parts"].items():
            arrays = {}
            for kind, dtype, stored, shape in layout["arrays"]:
                count = int(np.prod(shape, dtype=np.int64))
                array = np.frombuffer(whole, stored, count, begin)
                begin += array.nbytes
                arrays[kind] = array.reshape(shape).astype(dtype)
            keys = [(slicing, label, target) for slicing, label, target in layout["keys"]]
            state._parts[name] = Groups.from_arrays(len(state.features), _STEPS[name], keys, arrays)
        return state


@dataclass(frozen=True)
class _Batch:
    """The arrays of a batch that are the same for all slicings; `rows` are the finest buckets of rows."""

    values: np.ndarray
    coded: Coded
    rows: np.ndarray
    weights: np.ndarray | None


def _add(
    groups: Groups, batch: _Batch, numbers: np.ndarray, slicing: str, labels: Sequence[str], width: int
) -> None:
    """Adds a batch to groups, given as number = label · width + target, below 0 for none, `[N]`."""
    values, weights = batch.values, batch.weights
    chosen = None
    if slicing and (numbers < 0).any():
        chosen = np.flatnonzero(numbers >= 0)
        numbers = numbers[chosen]
        if not len(chosen):
            return
    counted = np.bincount(numbers)
    present = np.flatnonzero(counted)
    at = groups.locate([(slicing, labels[number // width], number % width) for number in present.tolist()])
    if weights is not None:
        # Rows of no weight are only counted.
        weights = weights if chosen is None else weights[chosen]
        weighty = weights > 0
        if not weighty.all():
            groups.count_rows(at, np.bincount(numbers[~weighty], minlength=len(counted))[present])
            some = np.flatnonzero(weighty)
            chosen = some if chosen is None else chosen[some]
            numbers, weights = numbers[some], weights[some]
            if not len(some):
                return
            counted = np.bincount(numbers, minlength=len(counted))
            at = at[counted[present] > 0]
            present = np.flatnonzero(counted)
    if len(present) > 1:
        # Sorted by group, so that additions are close together in memory; numpy radix-sorts uint16.
        order = np.argsort(numbers.astype(np.uint16) if len(counted) < 1 << 16 else numbers, kind="stable")
        chosen = order if chosen is None else chosen[order]
        weights = None if weights is None else weights[order]
    counted = counted[present]
    groups.add_moments(at, moments_of(values, chosen, counted, weights))
    rows = batch.rows if chosen is None else batch.rows[chosen]
    groups.add_entries(np.repeat(at, counted), values, batch.coded, chosen, rows, weights)


def _numbered(labels: pa.Array) -> tuple[np.ndarray, list[str]]:
    """The number of each entry's label, −1 for null, and the distinct labels by number."""
    encoded = labels if pa.types.is_dictionary(labels.type) else labels.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    names = encoded.dictionary.to_pylist()
    if len(set(names)) == len(names) and None not in names:
        return codes, names
    # A dictionary may hold a label twice, and null.
    once = encoded.dictionary.dictionary_encode()
    numbers = once.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.where(codes < 0, -1, numbers[codes]), once.dictionary.to_pylist()


def _narrow(array: np.ndarray) -> np.ndarray:
    """Counts in the smallest integer type that holds them; other arrays unchanged."""
    if array.dtype != np.uint32 or not array.size:
        return array
    return array.astype(np.min_scalar_type(int(array.max())))
