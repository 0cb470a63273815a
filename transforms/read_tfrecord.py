"""TFRecord of tf.train.Example: framed in Python, parsed by TensorFlow a batch at a time."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from transforms import cursors, files, framing
from transforms.errors import UserError

if TYPE_CHECKING:
    from transforms.read import Column
    from transforms.shards import InputFile, Piece

BATCH_BYTES = 1 << 26  # a batch ends here, however few rows it has: encoded images are megabytes each

_SAMPLE = 256
_KINDS = {"int64_list": pa.int64(), "float_list": pa.float32(), "bytes_list": pa.binary()}


class Parsed(NamedTuple):
    """Consecutive rows: those parsed, and (position, stage, reason) of those that are not."""

    rows: int
    columns: pa.RecordBatch
    positions: np.ndarray  # int64 [n]: of each parsed row among the rows, from 0
    rejected: list[tuple[int, str, str]]


@dataclass(frozen=True)
class _Feature:
    """A wanted feature: `size` values a record, None for any number; a scalar is 1 and not `listed`."""

    name: str
    value: pa.DataType
    size: int | None
    listed: bool


def describe(inputs: Sequence[InputFile]) -> dict[str, pa.DataType]:
    """`read.describe_columns` for TFRecord."""
    kinds: dict[str, str] = {}
    sizes: dict[str, set[int]] = {}
    seen = 0
    for file in inputs:
        with files.open_input(file.path) as opened:
            source = framing.Source(opened)
            records = framing.take(source, framing.frames(source), _SAMPLE, BATCH_BYTES)
        for example in filter(None, map(_decode, records.payloads)):
            seen += 1
            for name, feature in example.features.feature.items():
                kind = feature.WhichOneof("kind")
                count = len(getattr(feature, kind).value) if kind else 0
                if count:
                    kinds.setdefault(name, kind)
                    sizes.setdefault(name, set()).add(count)
        if seen >= _SAMPLE:
            break
    if not seen and any(file.rows for file in inputs):
        raise UserError(
            "no tf.train.Example can be read from its first records",
            where=inputs[0].name,
            remedy="check that the files are TFRecords of tf.train.Example, or set input.format",
        )
    return {name: _column_type(_KINDS[kinds[name]], sizes[name]) for name in sorted(kinds)}


def read(piece: Piece, columns: Sequence[Column], batch_size: int) -> Iterator[Parsed]:
    """The rows of a piece, at most `batch_size` a batch, in exactly the columns' types.

    A missing feature, or one without values, is null. A record that is damaged, is no Example, or has a
    feature of another kind or number of values than its column's type says, is rejected; the others go on.

    Cost: ~1.5 µs a record for framing and checksums, and TensorFlow's parsing, ~0.15 µs a feature. A
    compressed file is entered from its beginning, unless this process has just read what precedes the piece.
    """
    features = [_feature(column) for column in columns]
    key = (piece.path, files.stamp(piece.path))
    cursor = _parking.fetch(key, piece.start) or _Cursor(piece)
    try:
        cursor.skip_to(piece.start)
        left = piece.rows
        while left > 0 and (records := cursor.take(min(batch_size, left))).rows:
            left -= records.rows
            yield _parse(records, features)
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
        self.source = framing.Source(files.open_input(piece.path))
        self.row = piece.start - piece.skip
        self._frames = framing.frames(self.source, piece.offset)

    def reaches(self, row: int) -> bool:
        return self.row <= row

    def skip_to(self, row: int) -> None:
        while self.row < row and next(self._frames, None) is not None:
            self.row += 1

    def take(self, rows: int) -> framing.Records:
        records = framing.take(self.source, self._frames, rows, BATCH_BYTES)
        self.row += records.rows
        return records

    def close(self) -> None:
        self.source.close()


_parking: cursors.Parking[_Cursor] = cursors.Parking(4)


def _parse(records: framing.Records, features: Sequence[_Feature]) -> Parsed:
    payloads = np.empty(len(records.payloads), object)
    payloads[:] = records.payloads
    positions = np.asarray(records.positions, np.int64)
    rejected = [(at, "read", reason) for at, reason in records.damaged]
    try:
        ragged = _parse_examples(payloads, features)
    except ValueError:
        wrong = _unparsable(payloads, features)
        rejected += [(int(positions[at]), "decode", reason) for at, reason in wrong]
        keep = np.ones(len(payloads), bool)
        keep[[at for at, _ in wrong]] = False
        payloads, positions = payloads[keep], positions[keep]
        ragged = _parse_examples(payloads, features)
    keep = np.ones(len(payloads), bool)
    arrays = []
    for feature, (values, splits) in zip(features, ragged, strict=True):
        lengths = np.diff(splits)
        if feature.size is not None:
            for at in np.flatnonzero(keep & (lengths != feature.size) & (lengths != 0)):
                reason = f"feature {feature.name} has {lengths[at]} values, {feature.size} expected"
                rejected.append((int(positions[at]), "decode", reason))
                keep[at] = False
        arrays.append(_array(feature, values, splits, lengths))
    batch = pa.RecordBatch.from_arrays(arrays, names=[feature.name for feature in features])
    if not keep.all():
        batch, positions = batch.filter(pa.array(keep)), positions[keep]
    return Parsed(records.rows, batch, positions, sorted(rejected))


def _parse_examples(
    payloads: np.ndarray, features: Sequence[_Feature]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(values, row splits) of each feature over a batch of serialized Examples.

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
    return [(values.numpy(), splits.numpy()) for values, splits in ragged]


def _unparsable(payloads: np.ndarray, features: Sequence[_Feature]) -> list[tuple[int, str]]:
    """(position, reason) of each payload that does not parse, found by halving."""
    found: list[tuple[int, str]] = []

    def search(low: int, high: int) -> None:
        try:
            _parse_examples(payloads[low:high], features)
        except ValueError as error:
            if high - low == 1:
                found.append((low, _reason(payloads[low], features, str(error))))
                return
            middle = (low + high) // 2
            search(low, middle)
            search(middle, high)

    search(0, len(payloads))
    return found


def _reason(payload: bytes, features: Sequence[_Feature], message: str) -> str:
    example = _decode(payload)
    if example is None:
        return "payload is not a tf.train.Example"
    for feature in features:
        kind = example.features.feature[feature.name].WhichOneof("kind")
        if kind and _KINDS[kind] != feature.value:
            return f"feature {feature.name} is {_KINDS[kind]}, {feature.value} expected"
    return (
        f"payload cannot be parsed: {message.splitlines()[0][:120]}"
        if message
        else "payload cannot be parsed"
    )


def _array(feature: _Feature, values: np.ndarray, splits: np.ndarray, lengths: np.ndarray) -> pa.Array:
    """An Arrow array over a feature's values; null where it has none, or not as many as its size says."""
    if feature.size is None:
        return pa.ListArray.from_arrays(
            pa.array(splits), pa.array(values, feature.value), mask=pa.array(lengths == 0)
        )
    fits = lengths == feature.size
    if not fits.all():
        values = values[np.repeat(fits, lengths)]
    flat = pa.array(values, feature.value)
    array = pa.FixedSizeListArray.from_arrays(flat, feature.size) if feature.listed else flat
    return array if fits.all() else array.take(pa.array(np.cumsum(fits) - 1, mask=~fits))


def _feature(column: Column) -> _Feature:
    kind, listed = column.type, pt.is_list(column.type) or pt.is_fixed_size_list(column.type)
    value = kind.value_type if listed else kind
    if value not in _KINDS.values():
        raise ValueError(
            f"column {column.name} is {kind}; TFRecord has int64, float32 and binary, and lists of them"
        )
    size = kind.list_size if pt.is_fixed_size_list(kind) else None if listed else 1
    return _Feature(column.name, value, size, listed)


def _column_type(value: pa.DataType, sizes: set[int]) -> pa.DataType:
    if len(sizes) > 1:
        return pa.list_(value)
    size = next(iter(sizes))
    return value if size == 1 else pa.list_(value, size)


def _decode(payload: bytes) -> Any | None:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    example = _example_class()()
    try:
        example.ParseFromString(payload)
    except DecodeError:
        return None
    return example


@functools.cache
def _example_class() -> Any:
    """tf.train.Example, built here so that planning a job does not import TensorFlow.

    In a pool of its own: TensorFlow registers the same names in the default one, whichever comes first.
    """
    from google.protobuf import (  # type: ignore[import-untyped]
        descriptor_pb2,
        descriptor_pool,
        message_factory,
    )

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="attribeam/example.proto", package="tensorflow", syntax="proto3"
    )

    def message(parent: Any, name: str, *fields: tuple[str, int, int, str]) -> Any:
        made = parent.add(name=name)
        for label, number, kind, type_name in fields:
            repeated = label.endswith("*")
            made.field.add(
                name=label.rstrip("*"),
                number=number,
                type=kind,
                type_name=type_name or None,
                label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
            )
        return made

    lists = (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    )
    for name, kind in lists:
        message(file.message_type, name, ("value*", 1, kind, ""))
    members = [
        (name, number, field.TYPE_MESSAGE, f".tensorflow.{kind}")
        for number, (name, kind) in enumerate(
            (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")), start=1
        )
    ]
    feature = message(file.message_type, "Feature", *members)
    feature.oneof_decl.add(name="kind")
    for member in feature.field:
        member.oneof_index = 0
    entry_type = ".tensorflow.Features.FeatureEntry"
    features = message(file.message_type, "Features", ("feature*", 1, field.TYPE_MESSAGE, entry_type))
    entry = message(
        features.nested_type,
        "FeatureEntry",
        ("key", 1, field.TYPE_STRING, ""),
        ("value", 2, field.TYPE_MESSAGE, ".tensorflow.Feature"),
    )
    entry.options.map_entry = True
    message(file.message_type, "Example", ("features", 1, field.TYPE_MESSAGE, ".tensorflow.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))
