"""Reading TFRecords of Examples and SequenceExamples: framed in Python, parsed in batches by TensorFlow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from transforms.sources.changed_files import as_input_lost, check_stamp, stamp_of
from transforms.sources.tfrecord import example as tf_example
from transforms.sources.tfrecord import framing
from transforms.sources.tfrecord.ragged import Ragged
from transforms.sources.tfrecord.sequences import Wanted, with_lists
from transforms.storage import files
from transforms.storage.open_files import IdleCursors

if TYPE_CHECKING:
    from transforms.sources.base import Column, Piece

BATCH_BYTES = 1 << 26  # a batch ends here, however few rows it has: encoded images are megabytes each

#: The other kind of number.
_OTHER = {pa.int64(): pa.float32(), pa.float32(): pa.int64()}
#: Among at most this many records, bad ones are found by decoding each in Python, not by further splitting.
_FEW = 64
_PARTS = 8

#: A feature of a record: its kind and its values.
_Values: TypeAlias = tuple[str, Sequence[Any]]


class Parsed(NamedTuple):
    """Consecutive rows: the parsed ones, and (position, stage, reason) of the rejected ones."""

    rows: int
    columns: pa.RecordBatch
    positions: np.ndarray  # int64 [n]: of each parsed row among the rows, from 0
    rejected: list[tuple[int, str, str]]


@dataclass(frozen=True)
class _Feature:
    """A feature to read.

    Args:
      name: The column's name.
      value: The type of a value.
      size: Values per record; None: any number.
      listed: False for a scalar, whose size is 1.
      nested: True for lists of lists, which only feature_lists can hold, one inner list per step.
    """

    name: str
    value: pa.DataType
    size: int | None
    listed: bool
    nested: bool = False

    @property
    def kind(self) -> str:
        """The field of tf.train.Feature that holds its values, such as int64_list."""
        return next(kind for kind, value in tf_example.KINDS.items() if value == self.value)


def read(piece: Piece, columns: Sequence[Column], batch_size: int) -> Iterator[Parsed]:
    """Reads the rows of a piece, at most `batch_size` at a time, in the columns' types.

    A feature that is missing or has no values is null; but in a column of lists of any size, a feature
    without values is an empty list. A name that is not among a record's features is searched for in its
    feature_lists. If a column holds whole numbers in some records of a batch and floats in others, it is
    a dense union of the two in that batch. A record is rejected if it is damaged, is not an Example, has
    text for numbers or numbers for text, or has a number of values that differs from the size in its
    column's type.

    Cost: ~1.5 µs per record for framing and checksums, plus TensorFlow's parsing, ~0.15 µs per feature;
    twenty times as much for a record with the other kind of number and for some of its neighbours. A
    compressed file is read from its beginning, unless this process has just read up to the piece.
    """
    features = [_feature(column) for column in columns]
    with _entered(piece) as cursor:
        left = piece.rows
        while left > 0 and (records := cursor.take(min(batch_size, left), BATCH_BYTES)).rows:
            left -= records.rows
            yield _parse(records, features)


def peek(piece: Piece, max_bytes: int) -> list[bytes]:
    """The undamaged payloads of a piece, up to the one with which they reach `max_bytes`."""
    with _entered(piece) as cursor:
        return cursor.take(piece.rows, max_bytes).payloads


@contextlib.contextmanager
def _entered(piece: Piece) -> Iterator[_Cursor]:
    """A cursor at the piece's first row.

    Raises:
      InputLost: The file has changed since it was planned, or changed while it was being read. Apparent
        damage is then not damage, but for example the end of a file that is being rewritten.
    """
    stamp = stamp_of(piece)
    key = (piece.path, stamp)
    cursor = _idle.fetch(key, piece.start) or _Cursor(piece)
    try:
        cursor.skip_to(piece.start)
        yield cursor
        if cursor.damaged:
            check_stamp(piece.path, piece.name, stamp)
    except BaseException:
        cursor.close()
        raise
    if cursor.source.compressed:
        _idle.keep(key, cursor)
    else:
        cursor.close()


class _Cursor:
    """An open file and the next row in it."""

    def __init__(self, piece: Piece) -> None:
        self._name = piece.name
        with as_input_lost(self._name):
            self.source = framing.Source(files.open_input(piece.path))
        self.row = piece.start - piece.skip
        self.damaged = False
        self._frames = framing.frames(self.source, piece.offset)

    def reaches(self, row: int) -> bool:
        return self.row <= row

    def skip_to(self, row: int) -> None:
        with as_input_lost(self._name):
            while self.row < row and next(self._frames, None) is not None:
                self.row += 1

    def take(self, rows: int, max_bytes: int) -> framing.Records:
        with as_input_lost(self._name):
            records = framing.take(self.source, self._frames, rows, max_bytes)
        self.row += records.rows
        self.damaged |= records.rows == 0 or bool(records.damaged)
        return records

    def close(self) -> None:
        self.source.close()


_idle: IdleCursors[_Cursor] = IdleCursors(4)


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
            columns = [_with_mixed(feature, column, values, order) for feature, column, values in per_feature]
        places = np.sort(np.r_[right, list(mixed)].astype(np.int64))
        positions, payloads = positions[places], payloads[places]
    wanted = [_wanted(feature, column) for feature, column in zip(features, columns, strict=True)]
    wrong = with_lists(payloads, wanted)
    keep = np.ones(len(positions), bool)
    for row, reason in wrong.items():
        rejected.append((int(positions[row]), "decode", reason))
        keep[row] = False
    arrays = []
    for feature, one in zip(features, wanted, strict=True):
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
      ValueError: One of them is not an Example, or has a feature of another kind.
    """
    import tensorflow as tf

    kinds = {pa.int64(): tf.int64, pa.float32(): tf.float32, pa.binary(): tf.string}
    try:
        # The raw op: tf.io.parse_example takes 1.5 times as long, for a wrapping that would be undone here.
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
    """The values of Examples that have the other kind of number somewhere; and why others do not parse.

    Both are keyed by position. They are found by parsing smaller and smaller parts, because TensorFlow parses
    a batch as a whole or not at all, and decoding a record in Python takes ten times as long.
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
        """True if decoding the record explains why it does not parse."""
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


def _with_mixed(feature: _Feature, ragged: Ragged, mixed: Sequence[_Values], order: np.ndarray) -> Ragged:
    """The parsed values followed by those of mixed records, of either kind of number, in this row order."""
    kind = feature.kind
    own = _ragged([values if its == kind else () for its, values in mixed], feature.value)
    whole = Ragged(
        np.concatenate([ragged.values, own.values]), np.r_[ragged.splits, own.splits[1:] + ragged.splits[-1]]
    ).take(order)
    if all(its in (kind, "") for its, _ in mixed):
        return whole
    other = _ragged([values if its != kind else () for its, values in mixed], _OTHER[feature.value])
    before = np.zeros(len(ragged.splits) - 1, np.int32)
    return whole._replace(others=Ragged(other.values, np.r_[before, other.splits]).take(order))


def _ragged(rows: Sequence[Sequence[Any]], kind: pa.DataType) -> Ragged:
    flat = [value for row in rows for value in row]
    values = np.array(flat, object if pt.is_binary(kind) else kind.to_pandas_dtype())
    return Ragged(values, np.cumsum([0, *map(len, rows)], dtype=np.int32))


def _wanted(feature: _Feature, column: Ragged) -> Wanted:
    return Wanted(feature.name, feature.value, column, feature.listed, feature.nested, feature.size is None)


def _array(feature: _Feature, ragged: Ragged, wanted: Wanted | None = None) -> pa.Array:
    """A feature's values as an Arrow array; null where it has none, or not as many as its size says.

    A list of any size that is present without values is empty.
    """
    if wanted is not None and wanted.steps is not None:
        return wanted.array()
    if ragged.others is not None:
        return _union(feature, ragged, ragged.others)
    values, splits, lengths = ragged.values, ragged.splits, ragged.lengths
    if feature.size is None:
        missing = lengths == 0 if wanted is None else wanted.missing
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
    """A dense union: rows of the column's own kind, null where missing, and rows of the other kind."""
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
