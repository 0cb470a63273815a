"""TFRecord of Examples and SequenceExamples: framed in Python, parsed by TensorFlow a batch at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from transforms.sources.changed_files import check_stamp, losing, stamp_of
from transforms.sources.tfrecord import example as tf_example
from transforms.sources.tfrecord import framing
from transforms.sources.tfrecord.ragged import Ragged
from transforms.sources.tfrecord.sequences import Found, with_lists
from transforms.storage import files
from transforms.storage import open_files as cursors

if TYPE_CHECKING:
    from transforms.sources.base import Column, Piece

BATCH_BYTES = 1 << 26  # a batch ends here, however few rows it has: encoded images are megabytes each

#: The other kind of number.
_OTHER = {pa.int64(): pa.float32(), pa.float32(): pa.int64()}
#: From so few records on, each is looked at rather than parsed with others in the hope that it fits.
_FEW = 64
_PARTS = 8

#: The kind of a feature in a record, and its values.
_Values: TypeAlias = tuple[str, Sequence[Any]]


class Parsed(NamedTuple):
    """Consecutive rows: those parsed, and (position, stage, reason) of those that are not."""

    rows: int
    columns: pa.RecordBatch
    positions: np.ndarray  # int64 [n]: of each parsed row among the rows, from 0
    rejected: list[tuple[int, str, str]]


@dataclass(frozen=True)
class _Feature:
    """A wanted feature: `size` values a record, None for any number; a scalar is 1 and not `listed`.

    One of `nested` values has lists of them: it is had from feature_lists alone, a list a step.
    """

    name: str
    value: pa.DataType
    size: int | None
    listed: bool
    nested: bool = False

    @property
    def kind(self) -> str:
        """The list of a tf.train.Feature that holds its values."""
        return next(kind for kind, value in tf_example.KINDS.items() if value == self.value)


def read(piece: Piece, columns: Sequence[Column], batch_size: int) -> Iterator[Parsed]:
    """The rows of a piece, at most `batch_size` a batch, in the columns' types.

    A missing feature, or one without values, is null; in a column of lists of any size one without values is
    an empty list. What is no feature of a record but a list of its feature_lists is that list. A column of
    whole numbers in which some record of a batch has floats, or the other way round, is a dense union of the
    two in that batch. A record that is damaged, is no Example, or has text for numbers, numbers for text or
    another number of values than its column's type says, is rejected; the others go on.

    Cost: ~1.5 µs a record for framing and checksums, and TensorFlow's parsing, ~0.15 µs a feature; twenty
    times as much for a record with the other kind of number and for some of those about it. A compressed file
    is entered from its beginning, unless this process has just read what precedes the piece.
    """
    features = [_feature(column) for column in columns]
    with _entered(piece) as cursor:
        left = piece.rows
        while left > 0 and (records := cursor.take(min(batch_size, left), BATCH_BYTES)).rows:
            left -= records.rows
            yield _parse(records, features)


def peek(piece: Piece, max_bytes: int) -> list[bytes]:
    """The payloads of a piece up to the one with which they reach `max_bytes`, but for damaged ones."""
    with _entered(piece) as cursor:
        return cursor.take(piece.rows, max_bytes).payloads


@contextlib.contextmanager
def _entered(piece: Piece) -> Iterator[_Cursor]:
    """A cursor at the piece's first row.

    Raises:
      InputLost: The file is not what it was, or changed while it was being read: then what seems damage, the
        end of a file that is being written anew for example, is none.
    """
    stamp = stamp_of(piece)
    key = (piece.path, stamp)
    cursor = _parking.fetch(key, piece.start) or _Cursor(piece)
    try:
        cursor.skip_to(piece.start)
        yield cursor
        if cursor.damaged:
            check_stamp(piece.path, piece.name, stamp)
    except BaseException:
        cursor.close()
        raise
    if cursor.source.compressed:
        _parking.park(key, cursor)
    else:
        cursor.close()


class _Cursor:
    """An open file and the next row in it."""

    def __init__(self, piece: Piece) -> None:
        self._name = piece.name
        with losing(self._name):
            self.source = framing.Source(files.open_input(piece.path))
        self.row = piece.start - piece.skip
        self.damaged = False
        self._frames = framing.frames(self.source, piece.offset)

    def reaches(self, row: int) -> bool:
        return self.row <= row

    def skip_to(self, row: int) -> None:
        with losing(self._name):
            while self.row < row and next(self._frames, None) is not None:
                self.row += 1

    def take(self, rows: int, max_bytes: int) -> framing.Records:
        with losing(self._name):
            records = framing.take(self.source, self._frames, rows, max_bytes)
        self.row += records.rows
        self.damaged |= records.rows == 0 or bool(records.damaged)
        return records

    def close(self) -> None:
        self.source.close()


_parking: cursors.Parking[_Cursor] = cursors.Parking(4)


def _parse(records: framing.Records, features: Sequence[_Feature]) -> Parsed:
    payloads = np.empty(len(records.payloads), object)
    payloads[:] = records.payloads
    positions = np.asarray(records.positions, np.int64)
    rejected = [(at, "read", reason) for at, reason in records.damaged]
    mixed: dict[int, list[_Values]] = {}
    try:
        columns = _parse_examples(payloads, features)
    except ValueError:
        mixed, wrong = _sift(payloads, features)
        rejected += [(int(positions[at]), "decode", reason) for at, reason in wrong.items()]
        right = np.array([at for at in range(len(payloads)) if at not in mixed and at not in wrong], np.int64)
        columns = _parse_examples(payloads[right], features)
        if mixed:
            order = np.argsort(np.r_[right, list(mixed)])
            per_feature = zip(features, columns, zip(*mixed.values(), strict=True), strict=True)
            columns = [_with_mixed(feature, column, found, order) for feature, column, found in per_feature]
        places = np.sort(np.r_[right, list(mixed)].astype(np.int64))
        positions, payloads = positions[places], payloads[places]
    found = [_found(feature, column) for feature, column in zip(features, columns, strict=True)]
    wrong = with_lists(payloads, found)
    keep = np.ones(len(positions), bool)
    for row, reason in wrong.items():
        rejected.append((int(positions[row]), "decode", reason))
        keep[row] = False
    arrays = []
    for feature, one in zip(features, found, strict=True):
        column = one.column
        if feature.size is not None:
            counts = column.counts
            for at in np.flatnonzero(keep & (counts != feature.size) & (counts != 0)):
                reason = f"feature {feature.name} has {counts[at]} values, {feature.size} expected"
                rejected.append((int(positions[at]), "decode", reason))
                keep[at] = False
        arrays.append(_array(feature, column, one))
    batch = pa.RecordBatch.from_arrays(arrays, names=[feature.name for feature in features])
    if not keep.all():
        batch, positions = batch.filter(pa.array(keep)), positions[keep]
    return Parsed(records.rows, batch, positions, sorted(rejected))


def _parse_examples(payloads: np.ndarray, features: Sequence[_Feature]) -> list[Ragged]:
    """The values of each feature over a batch of serialized Examples.

    Raises:
      ValueError: One of them is no Example, or has a feature of another kind.
    """
    import tensorflow as tf

    kinds = {pa.int64(): tf.int64, pa.float32(): tf.float32, pa.binary(): tf.string}
    try:
        # The op itself: tf.io.parse_example takes 1.5 times as long, for wrapping what is unwrapped here
        # again.
        parsed = tf.raw_ops.ParseExampleV2(
            serialized=tf.constant(payloads, tf.string, [len(payloads)]),
            names=[],
            sparse_keys=[],
            dense_keys=[],
            ragged_keys=[feature.name for feature in features],
            dense_defaults=[],
            num_sparse=0,
            sparse_types=[],
            dense_shapes=[],
            ragged_value_types=[kinds[feature.value] for feature in features],
            ragged_split_types=[tf.int32] * len(features),
        )
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(error.message) from error
    ragged = zip(parsed.ragged_values, parsed.ragged_row_splits, strict=True)
    return [Ragged(values.numpy(), splits.numpy()) for values, splits in ragged]


def _sift(
    payloads: np.ndarray, features: Sequence[_Feature]
) -> tuple[dict[int, list[_Values]], dict[int, str]]:
    """The values of Examples that have the other kind of number somewhere, and why others do not parse.

    Both by position. Found by parsing smaller and smaller parts, for TensorFlow takes a batch as a whole or
    not at all, and to look at a record from Python takes ten times as long as to have it parsed.
    """
    mixed: dict[int, list[_Values]] = {}
    wrong: dict[int, str] = {}
    wanted = [(feature.name, feature.kind) for feature in features]

    def search(places: list[int]) -> None:
        try:
            _parse_examples(payloads[places], features)
        except ValueError as error:
            rest = places if len(places) > _FEW else [at for at in places if not look(at)]
            if len(rest) < len(places):
                search(rest)
            elif len(rest) > 1:
                size = -(-len(rest) // _PARTS)
                for start in range(0, len(rest), size):
                    search(rest[start : start + size])
            else:
                line = next(iter(str(error).splitlines()), "")[:120]
                wrong[rest[0]] = f"payload cannot be parsed: {line}" if line else "payload cannot be parsed"

    def look(at: int) -> bool:
        """Whether it shows what is the matter."""
        example = tf_example.decode(payloads[at])
        if example is None:
            wrong[at] = "payload is not a tf.train.Example"
            return True
        others = False
        row = [tf_example.values_of(example, name) for name, _ in wanted]
        for (name, own), (kind, _) in zip(wanted, row, strict=True):
            if kind and kind != own:
                others = True
                if "bytes_list" in (kind, own):
                    is_kind, own_kind = tf_example.KINDS[kind], tf_example.KINDS[own]
                    wrong[at] = f"feature {name} is {is_kind}, {own_kind} expected"
                    return True
        if others:
            mixed[at] = row
        return others

    search(list(range(len(payloads))))
    return dict(sorted(mixed.items())), wrong


def _with_mixed(feature: _Feature, ragged: Ragged, found: Sequence[_Values], order: np.ndarray) -> Ragged:
    """The values with those of any kind of number after them, and then all rows in this order."""
    kind = feature.kind
    own = _ragged([values if its == kind else () for its, values in found], feature.value)
    whole = Ragged(
        np.concatenate([ragged.values, own.values]), np.r_[ragged.splits, own.splits[1:] + ragged.splits[-1]]
    ).take(order)
    if all(its in (kind, "") for its, _ in found):
        return whole
    other = _ragged([values if its != kind else () for its, values in found], _OTHER[feature.value])
    before = np.zeros(len(ragged.splits) - 1, np.int32)
    return whole._replace(others=Ragged(other.values, np.r_[before, other.splits]).take(order))


def _ragged(rows: Sequence[Sequence[Any]], kind: pa.DataType) -> Ragged:
    flat = [value for row in rows for value in row]
    values = np.array(flat, object if pt.is_binary(kind) else kind.to_pandas_dtype())
    return Ragged(values, np.cumsum([0, *map(len, rows)], dtype=np.int32))


def _found(feature: _Feature, column: Ragged) -> Found:
    return Found(feature.name, feature.value, column, feature.listed, feature.nested, feature.size is None)


def _array(feature: _Feature, ragged: Ragged, found: Found | None = None) -> pa.Array:
    """An Arrow array over a feature's values; null where it has none, or not as many as its size says.

    A list of any size that is there without a value is an empty one.
    """
    if found is not None and found.steps is not None:
        return found.array()
    if ragged.others is not None:
        return _union(feature, ragged, ragged.others)
    values, splits, lengths = ragged.values, ragged.splits, ragged.lengths
    if feature.size is None:
        missing = lengths == 0 if found is None else found.missing
        return pa.ListArray.from_arrays(
            pa.array(splits), pa.array(values, feature.value), mask=pa.array(missing)
        )
    fits = lengths == feature.size
    if not fits.all():
        values = values[np.repeat(fits, lengths)]
    flat = pa.array(values, feature.value)
    array = pa.FixedSizeListArray.from_arrays(flat, feature.size) if feature.listed else flat
    return array if fits.all() else array.take(pa.array(np.cumsum(fits) - 1, mask=~fits))


def _union(feature: _Feature, own: Ragged, others: Ragged) -> pa.UnionArray:
    """A dense union of the rows of the column's own kind, null where there are none, and the other rows."""
    is_other = others.lengths > 0
    other = replace(feature, value=_OTHER[feature.value])
    arrays = [
        _array(feature, own._replace(others=None)),
        _array(other, others.take(np.flatnonzero(is_other))),
    ]
    offsets = np.where(is_other, np.cumsum(is_other) - 1, np.arange(len(is_other)))
    return pa.UnionArray.from_dense(
        pa.array(is_other.astype(np.int8)), pa.array(offsets.astype(np.int32)), arrays, ["own", "other"]
    )


def _feature(column: Column) -> _Feature:
    kind, listed = column.type, pt.is_list(column.type) or pt.is_fixed_size_list(column.type)
    value = kind.value_type if listed else kind
    nested = pt.is_list(value) or pt.is_fixed_size_list(value)
    value = value.value_type if nested else value
    if value not in tf_example.KINDS.values():
        raise ValueError(
            f"column {column.name} is {kind}; TFRecord has int64, float32 and binary, and lists of them"
        )
    size = kind.list_size if pt.is_fixed_size_list(kind) else None if listed else 1
    return _Feature(column.name, value, size, listed, nested)
